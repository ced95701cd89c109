"""How well the Otsu mask of a channel follows when its input is moved.

The mask of the map as it was is compared with that of the moved image's map, moved back. Both thresholds are
those of whole maps, as everywhere else: over the cells that are compared alone, Otsu would go along with a
channel that keys on a place, and a plain ramp would seem to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from wsss_probe.threshold import binarize, otsu

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from wsss_probe_channels.units.motions import Motion

__all__ = ["Followed", "chosen_images", "follow", "mask_iou"]


@final
@dataclass(frozen=True, slots=True)
class Followed:
    """How the masks of some images follow every motion.

    Parameters
    ----------
    iou : Tensor, (image, channel, transform)
        NaN where a map is constant or not finite, where no cell that is compared is in a mask, or where
        the layer does not allow the motion.
    expected : Tensor, (image, channel, transform)
        IoU of independent masks with the same coverages.
    tried : tuple of bool, (transform,)
        Whether the layer allows the motion.
    """

    iou: Tensor
    expected: Tensor
    tried: tuple[bool, ...]


def chosen_images(total: int, number: int, seed: int) -> np.ndarray:
    """Choose images beforehand.

    Parameters
    ----------
    total : int
        Images of the manifest.
    number : int
        Wanted; all if there are fewer.
    seed : int

    Returns
    -------
    ndarray of int
        Positions in the manifest, rising.
    """
    return np.sort(np.random.default_rng(seed).permutation(total)[:number])


def follow(
    images: Tensor, maps: Tensor, again: Callable[[Tensor], Tensor], among: Sequence[Motion | None]
) -> Followed:
    """Move images in every way and compare the masks of their maps.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
    maps : Tensor, (image, channel, row, column)
        Of these images.
    again : callable
        ``again(images) -> maps`` for moved images.
    among : sequence of Motion or None

    Returns
    -------
    Followed
    """
    masks = _Thresholded.of(maps)
    undefined = torch.full(maps.shape[:2], torch.nan, device=maps.device)
    pairs = [
        (undefined, undefined) if motion is None else _compare(masks, again(motion.move(images)), motion)
        for motion in among
    ]
    iou, expected = (torch.stack(values, dim=2) for values in zip(*pairs, strict=True))
    return Followed(iou, expected, tuple(motion is not None for motion in among))


@dataclass(frozen=True, slots=True)
class _Thresholded:
    """Maps with Otsu's threshold of each whole map."""

    maps: Tensor
    thresholds: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> _Thresholded:
        full = (maps if maps.itemsize >= 4 else maps.float()).contiguous()
        return cls(full, otsu(full))


def _compare(before: _Thresholded, moved: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    """Threshold the moved maps, move them back, and compare the cells that are left."""
    after = _Thresholded.of(moved)
    first, second = motion.back(before.maps, after.maps)
    iou, expected = mask_iou(binarize(first, before.thresholds), binarize(second, after.thresholds))
    undefined = before.thresholds.isnan() | after.thresholds.isnan()
    return iou.masked_fill(undefined, torch.nan), expected.masked_fill(undefined, torch.nan)


def mask_iou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of two stacks of masks, and what independent masks would have.

    ``IoU = |A and B| / |A or B|``; with coverages p and q, independent masks have about
    ``pq / (p + q - pq)``.

    Parameters
    ----------
    first, second : Tensor of bool, (image, channel, row, column)

    Returns
    -------
    iou, expected : Tensor of float32, (image, channel)
        NaN where both masks are empty.

    Examples
    --------
    >>> first, second = torch.tensor([[[[[1, 1, 0]]]], [[[[1, 0, 0]]]]]).bool()
    >>> iou, expected = mask_iou(first, second)
    >>> iou.item(), round(expected.item(), 3)
    (0.5, 0.286)
    """
    cells = first.shape[2] * first.shape[3]
    ones, others, both = (mask.flatten(2).sum(2).float() for mask in (first, second, first & second))
    chance = ones * others / cells
    return both / (ones + others - both), chance / (ones + others - chance)
