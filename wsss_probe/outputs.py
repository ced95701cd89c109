"""What a module returned: its one tensor, or the logits in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from wsss_probe.errors import ModelError

__all__ = ["as_logits", "map_tensors", "named_tensors", "only_tensor", "with_tensor"]


def named_tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in tuples, lists and mappings, each with its place (``[0]``, ``['out']``)."""
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from named_tensors(value, f"{name}[{key!r}]")
    elif isinstance(output, (tuple, list)):
        for position, value in enumerate(output):
            yield from named_tensors(value, f"{name}[{position}]")


def only_tensor(output: Any, name: str) -> Tensor:
    """Return the one tensor that a layer put out.

    Raises
    ------
    ModelError
        If there is none, or more than one; the message names the parts.
    """
    parts = list(named_tensors(output))
    if len(parts) == 1:
        return parts[0][1]
    raise ModelError(
        f"layer {name!r} does not put out one tensor",
        found=_described(parts) or type(output).__name__,
        wanted="a tensor, or a container with one",
        remedy="name a layer inside it",
    )


def map_tensors(output: Any, change: Callable[[Tensor], Any]) -> Any:
    """Copy a structure of tuples, lists and mappings with every tensor changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        for key, value in output.items():
            changed[key] = map_tensors(value, change)
        return changed
    if isinstance(output, (tuple, list)):
        values = [map_tensors(value, change) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return output


def with_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return what a layer put out with one tensor replaced."""
    return output if new is old else map_tensors(output, lambda tensor: new if tensor is old else tensor)


def as_logits(output: Any, images: int) -> Tensor:
    """Find the logits in what a network returned.

    Parameters
    ----------
    output : Tensor or container of tensors
        A tensor (image, class), or (image,) for a single logit, or a tuple, list or mapping that
        holds exactly one such tensor.
    images : int
        Size of the batch.

    Returns
    -------
    Tensor, (image, class)

    Raises
    ------
    ModelError
        If no tensor has that shape, or more than one.
    """
    parts = list(named_tensors(output))
    fitting = [tensor for _, tensor in parts if _looks_like_logits(tensor, images)]
    if len(fitting) != 1:
        raise ModelError(
            "the network's output cannot be read as logits",
            found=_described(parts) or type(output).__name__,
            wanted=f"one tensor (image, class), here ({images}, class)",
            remedy="wrap the network so that it returns its logits",
        )
    return fitting[0].unsqueeze(1) if fitting[0].ndim == 1 else fitting[0]


def _looks_like_logits(tensor: Tensor, images: int) -> bool:
    return tensor.ndim in {1, 2} and tensor.shape[0] == images and tensor.is_floating_point()


def _described(parts: list[tuple[str, Tensor]]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}".strip() for name, tensor in parts)
