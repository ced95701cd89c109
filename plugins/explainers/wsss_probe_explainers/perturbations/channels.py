"""Which channels of a layer are worth a pass of the network, and how many passes run at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Target

__all__ = ["explainable", "foremost", "full", "require_counts", "spread"]


def full(values: Tensor) -> Tensor:
    """Compute half precision in float32."""
    return values if values.itemsize >= 4 else values.float()


def explainable(batch: Batch, target: Target) -> Tensor:
    """Mark the images that have pixels and the target, (image,); passes of others would be wasted.

    Parameters
    ----------
    batch : Batch
    target : Target

    Returns
    -------
    Tensor of bool, (image,)
    """
    return batch.readable & batch.targets[target].isfinite().all(1)


def spread(maps: Tensor) -> Tensor:
    """Standard deviation of each map over its positions: 0 exactly for a constant map.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)

    Returns
    -------
    Tensor, (image, channel)
    """
    planes = full(maps).flatten(2)
    constant = planes.amax(2) == planes.amin(2)
    return planes.std(2, correction=0).masked_fill(constant, 0)


def foremost(maps: Tensor, eligible: Tensor, top: int | None) -> Tensor:
    """Keep the eligible channels of each image, or those with the largest spread of them.

    What a channel adds to the shape of a weighted sum is its weight times its spread, so without
    the weights the spread is the best guess at what matters.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)
    eligible : Tensor of bool, (image, channel)
    top : int or None
        How many; None means all.

    Returns
    -------
    Tensor of bool, (image, channel)
        Of equal spreads the earlier channel is kept.
    """
    if top is None or top >= maps.shape[1]:
        return eligible
    ranked = spread(maps).masked_fill(~eligible, -1).sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(eligible).scatter(1, ranked[:, :top], value=True)
    return kept & eligible


def require_counts(method: str, top: int | None, at_once: int) -> None:
    """Refuse numbers of channels or passes that cannot be meant.

    Raises
    ------
    UsageError
    """
    for name, number in (("top", top), ("at_once", at_once)):
        meant = isinstance(number, int) and not isinstance(number, bool) and number > 0
        if not meant and not (name == "top" and number is None):
            msg = f"{method}: {name} is no count"
            raise UsageError(msg, found=repr(number), wanted="1 or more")
