"""A network in evaluation: put there for a while, given back as it was; and the names of its parts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe.precision import speaking_float32

if TYPE_CHECKING:
    from wsss_probe.contracts import LayerInfo

__all__ = ["call_number", "evaluating", "find_module", "lent", "one_of", "split_call"]


# -- a network as it is found ------------------------------------------------------------------


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put a network into evaluation for a while and give it back as it was.

    Inside, every submodule is in eval mode and no parameter requires a gradient. Afterwards, also
    after an exception, the flags of each submodule and parameter, the values of the buffers and
    the random states (torch, numpy, python) are those from before; ``grad`` of parameters is not
    touched.

    Parameters
    ----------
    module : nn.Module

    Yields
    ------
    nn.Module
        The same module.
    """
    with _random_state_kept(), _flags_kept(module), _buffers_kept(module):
        yield module


@contextmanager
def lent(module: nn.Module) -> Iterator[nn.Module]:
    """Lend a network to somebody who hooks or rewires it, and take everything off again.

    As :func:`evaluating`, with gradients enabled; besides, afterwards every attribute of every
    submodule (hooks, replaced children, a changed ``inplace``) and every parameter's ``grad`` are
    those from before. A network in half precision takes and returns float32 meanwhile.

    Parameters
    ----------
    module : nn.Module

    Yields
    ------
    nn.Module
        The same module.

    Raises
    ------
    ModelError
        If the values of a parameter were written into: they cannot be given back.
    """
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        before = [(name, p, _state(p), p.grad) for name, p in module.named_parameters()]
        try:
            with _attributes_kept(module), speaking_float32(module):
                yield module
        finally:
            for _, parameter, _, gradient in before:
                parameter.grad = gradient
        if written := [name for name, parameter, state, _ in before if _state(parameter) != state]:
            raise ModelError(
                "a network that was lent has been written into",
                found=", ".join(written[:3]),
                wanted="none",
                remedy="change a copy",
            )


def _state(parameter: Tensor) -> tuple[int, int]:
    """What changes when somebody writes into a tensor, or puts another in its place."""
    return parameter._version, parameter.data_ptr()


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    kept = []
    for part in module.modules():
        own = dict(vars(part))
        kept.append((part, own, {name: dict(v) for name, v in own.items() if isinstance(v, dict)}))
    try:
        yield
    finally:
        for part, own, tables in kept:
            vars(part).clear()
            vars(part).update(own)
            for name, entries in tables.items():
                own[name].clear()
                own[name].update(entries)


@contextmanager
def _flags_kept(module: nn.Module) -> Iterator[None]:
    # the flags are set one by one: a user's own train() or eval() may do more, such as merging weights
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for part, _ in modes:
            part.training = False
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for part, name, buffer, value in kept:
            part._buffers[name] = buffer
            # equal bytes count as equal, NaN too, so that an untouched buffer is never written
            if not torch.equal(_bytes(buffer), _bytes(value)):
                with torch.no_grad():
                    buffer.copy_(value)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    numbers, ours = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(ours)


# -- names of layers ---------------------------------------------------------------------------


def split_call(name: str) -> tuple[str, int | None]:
    """Split a layer name into module name and call number.

    Examples
    --------
    >>> split_call("layer1.0.relu#1"), split_call("conv1")
    (('layer1.0.relu', 1), ('conv1', None))
    """
    stem, mark, number = name.rpartition("#")
    return (stem, int(number)) if mark and number.isdigit() else (name, None)


def find_module(module: nn.Module, name: str) -> nn.Module:
    """Return the submodule that a layer name means.

    Raises
    ------
    ModelError
        If there is none; the message names the nearest.
    """
    stem, _ = split_call(name)
    try:
        found = module.get_submodule(stem) if stem else None
    except AttributeError:
        found = None
    if found is None:
        known = [other for other, _ in module.named_modules() if other]
        raise ModelError(
            f"layer {name!r} not found",
            wanted=one_of(get_close_matches(stem, known)),
            remedy="run 'wsss-probe layers'",
        )
    return found


def call_number(layer: LayerInfo) -> int:
    """Return which call of its module a layer is; a bare name means the last."""
    _, call = split_call(layer.name)
    return max(layer.calls - 1, 0) if call is None else call


def one_of(names: Sequence[str]) -> str | None:
    """Word a list of names for the ``wanted`` part of an error; None for an empty list."""
    return "one of " + ", ".join(names) if names else None
