"""Precision: images are given to a network in its own floating-point type, and taken back in float32.

Half precision (float16, bfloat16) is widened as soon as it leaves the network, since sums of products
of it mean little; float64 stays what it is. The type of the first floating-point parameter decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wsss_probe.outputs import map_tensors

__all__ = ["HALF", "as_input", "floating_dtype", "precision_name", "speaking_float32", "widened"]

HALF = (torch.float16, torch.bfloat16)
"""Types that are widened to float32."""


def floating_dtype(module: nn.Module) -> torch.dtype | None:
    """Type of the first floating-point parameter, or None if there is none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def precision_name(module: nn.Module) -> str:
    """Name the type of a network: ``bfloat16``, and others that it has where it is mixed."""
    types = [str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()]
    first, *others = dict.fromkeys(types) if types else ("no floating-point parameter",)
    return f"{first} (that of the first parameter; others have {', '.join(others)})" if others else first


def as_input(images: Tensor, module: nn.Module) -> Tensor:
    """Images in the type of a network; the very same tensor where they have it."""
    dtype = floating_dtype(module)
    return images if dtype is None or not images.is_floating_point() else images.to(dtype)


def widened(tensor: Tensor) -> Tensor:
    """Float32 of half precision; the very same tensor otherwise."""
    return tensor.float() if tensor.dtype in HALF else tensor


@contextmanager
def speaking_float32(module: nn.Module) -> Iterator[None]:
    """Let a network in another precision take float32 for a while, and return no half precision.

    Parameters
    ----------
    module : nn.Module
        Hooks cast its first argument and what it returns; they are gone afterwards.
    """
    if floating_dtype(module) in {None, torch.float32}:
        yield
        return
    with module.register_forward_pre_hook(_cast_input), module.register_forward_hook(_cast_output):
        yield


def _cast_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(as_input(value, module) if isinstance(value, Tensor) else value for value in inputs)


def _cast_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return map_tensors(output, widened)
