"""Networks that forget, group of layers by group: from the output down, or one group alone.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim (2018), Sanity Checks for Saliency Maps, arXiv:1810.03292.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Stage", "forget", "groups_from_top", "parametrised", "stages"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One network that has forgotten some of its layers.

    Parameters
    ----------
    order : {"cascading", "independent"}
    depth : int
        How many groups from the top are forgotten, or which one alone; from 1.
    modules : tuple of str
        What is forgotten.
    """

    order: str
    depth: int
    modules: tuple[str, ...]


def parametrised(network: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Names of the modules that hold parameters themselves, in the order in which they run.

    Parameters
    ----------
    network : nn.Module
        Yours: hooks are put on it and taken off.
    images : Tensor, (image, channel, row, column)

    Returns
    -------
    tuple of str
        Each once, at its first call; modules that do not run are left out.
    """
    ran: dict[str, None] = {}
    holding = [(name, part) for name, part in network.named_modules() if list(part.parameters(recurse=False))]
    handles = [
        part.register_forward_hook(lambda _part, _inputs, _output, name=name: ran.setdefault(name))
        for name, part in holding
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(ran)


def groups_from_top(modules: Sequence[str], most: int = 8) -> tuple[tuple[str, ...], ...]:
    """Part modules into groups, the last that ran first and alone, the others evenly.

    Parameters
    ----------
    modules : sequence of str
        In the order in which they run.
    most : int
        Groups, at least 1.

    Returns
    -------
    tuple of tuple of str

    Examples
    --------
    >>> groups_from_top(["a", "b", "c", "d", "e"], 3)
    (('e',), ('d', 'c'), ('b', 'a'))
    """
    top = list(reversed(modules))
    if most < 2 or len(top) < 2:
        return (tuple(top),) if top else ()
    rest = np.array_split(np.arange(1, len(top)), min(most - 1, len(top) - 1))
    return ((top[0],), *(tuple(top[at] for at in part) for part in rest))


def stages(groups: Sequence[Sequence[str]]) -> tuple[Stage, ...]:
    """List what is forgotten: cascading from the top, then each group alone.

    The first group alone is the first step of the cascade and is not listed twice.
    """
    cascade = [
        Stage("cascading", depth, tuple(name for group in groups[:depth] for name in group))
        for depth in range(1, len(groups) + 1)
    ]
    alone = [Stage("independent", depth, tuple(group)) for depth, group in enumerate(groups, 1)]
    return (*cascade, *alone[1:])


def forget(network: nn.Module, modules: Sequence[str], images: Sequence[Tensor], seed: int) -> None:
    """Draw the parameters of some modules again, in place.

    By each module's own ``reset_parameters``, else by permuting the values within each of its tensors.
    So that the network goes on responding to its input, however deep it is, what a drawn convolution or
    linear layer puts out keeps its mean level and its spread within channels (set in the order of
    execution, after Mishkin, Matas 2016, arXiv:1511.06422), and BatchNorm among the drawn learns its
    statistics anew.

    Parameters
    ----------
    network : nn.Module
        Yours; in eval mode afterwards.
    modules : sequence of str
    images : sequence of Tensor, (image, channel, row, column)
        Batches; spreads are taken from the first.
    seed : int
    """
    parts = dict(network.named_modules())
    chosen = [parts[name] for name in modules]
    spreads = _spreads(network, chosen, images[0])
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for part in chosen:
            _draw_again(part)
    norms = [part for part in chosen if isinstance(part, _NORMS) and part.track_running_stats]
    with _learning(network, norms), torch.no_grad():
        with _keeping(spreads):
            network(images[0])
        for batch in images[1:] if norms else ():
            network(batch)


def _draw_again(part: nn.Module) -> None:
    reset = getattr(part, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in part.parameters(recurse=False):
        order = torch.randperm(parameter.numel()).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _spreads(network: nn.Module, chosen: Sequence[nn.Module], images: Tensor) -> dict[nn.Module, _Spread]:
    """Level and spread of what each weighted module puts out at its first call."""
    found: dict[nn.Module, _Spread] = {}

    def note(part: nn.Module, _inputs: object, output: Tensor) -> None:
        means, spread = _moments(output)
        found.setdefault(part, _Spread(float(means.mean()), spread))

    weighted = [p for p in chosen if not isinstance(p, _NORMS) and getattr(p, "weight", None) is not None]
    handles = [part.register_forward_hook(note) for part in weighted]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True, slots=True)
class _Spread:
    """Mean of an output, and its standard deviation within channels."""

    level: float
    spread: float


def _moments(output: Tensor) -> tuple[Tensor, float]:
    """Mean of each channel, and the standard deviation within channels, over images and positions."""
    channels = output.float().movedim(1 if output.ndim == 4 else -1, 0).flatten(1)
    return channels.mean(1), float(channels.var(1, unbiased=False).mean().sqrt())


@contextmanager
def _keeping(spreads: dict[nn.Module, _Spread]) -> Iterator[None]:
    """Scale weighted modules, at their first call, to the level and spread that are wanted.

    The spread within channels: differences between channels alone say nothing of the image, and in a
    deep network without normalisation they would soon be all that is left.
    """
    wanted = dict(spreads)

    def scale(part: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        goal = wanted.pop(part, None)
        means, own = _moments(output)
        if goal is None or not (np.isfinite([goal.spread, own]).all() and min(goal.spread, own) > 0):
            return output
        factor = goal.spread / own
        for parameter in part.parameters(recurse=False):
            parameter.mul_(factor)
        bias = getattr(part, "bias", None)
        if not isinstance(bias, Tensor) or bias.shape != means.shape:
            return output * factor
        shift = (goal.level - means * factor).to(bias)
        bias.add_(shift)
        return output * factor + (shift[:, None, None] if output.ndim == 4 else shift)

    handles = [part.register_forward_hook(scale) for part in spreads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _learning(network: nn.Module, norms: Sequence[nn.Module]) -> Iterator[None]:
    """Let some normalisation layers learn plain averages of what passes; all else is in eval mode."""
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
