"""Overlap of predicted masks with true ones: counts, F1, IoU, and masks on a layer's grid.

Mask values, here and everywhere: a position in the mask classes, :data:`IGNORED` or :data:`BACKGROUND`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Counts",
    "coverage",
    "f1",
    "iou",
    "majority_mask",
    "overlap_counts",
    "pooled",
]

IGNORED = -1
"""Ignored or unknown: the pixel counts nowhere."""

BACKGROUND = -2
"""In no class: the pixel counts, and a prediction there is wrong for every class."""

_EXACT_IN_FLOAT32 = 1 << 24


@final
@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels counted by truth and prediction; whole numbers, so any order of adding gives the same.

    Parameters
    ----------
    tp, fp, fn : Tensor of int64, (image, channel, class) or without ``image`` once pooled
        True positives, false positives, false negatives, in pixels that are not ignored.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor


def overlap_counts(predicted: Tensor, masks: Tensor | None, classes: int) -> Counts:
    """Count for every map how it meets every class.

    Parameters
    ----------
    predicted : Tensor of bool, (image, channel, row, column)
    masks : Tensor of int or None, (image, row, column)
        On the grid of ``predicted``. None means that nothing is known: all counts are 0.
    classes : int
        Number of mask classes.

    Returns
    -------
    Counts
        Each (image, channel, class).

    Raises
    ------
    ValueError
        If the grids or the numbers of images differ.

    Examples
    --------
    >>> counts = overlap_counts(torch.tensor([[[[True, True, False]]]]), torch.tensor([[[0, -2, -1]]]), 1)
    >>> counts.tp.item(), counts.fp.item(), counts.fn.item()
    (1, 1, 0)
    """
    images, _, rows, columns = predicted.shape
    if masks is None:
        masks = torch.full((images, rows, columns), IGNORED, device=predicted.device)
    if masks.shape != (images, rows, columns):
        raise ValueError(
            f"masks have the shape {tuple(masks.shape)}, wanted (image, row, column) as predicted: "
            f"{(images, rows, columns)}"
        )
    # One product of 0/1 matrices counts all maps against all classes; sums of ones are exact below 2^24
    dtype = torch.float32 if rows * columns < _EXACT_IN_FLOAT32 else torch.float64
    truth = _planes(masks.flatten(1), classes).to(dtype)  # (image, pixel, class + known)
    hits = torch.bmm(predicted.flatten(2).to(dtype), truth).long()
    tp, area = hits[..., :-1], hits[..., -1:]
    return Counts(tp=tp, fp=area - tp, fn=truth[..., :-1].sum(1).long()[:, None] - tp)


def _planes(masks: Tensor, classes: int) -> Tensor:
    """Membership in each class, and last whether the pixel is known at all, along a new last dimension."""
    index = torch.arange(classes, device=masks.device)
    return torch.cat([masks[..., None] == index, (masks != IGNORED)[..., None]], dim=-1)


def f1(counts: Counts) -> Tensor:
    """F1, which for masks is the Dice coefficient: ``2 tp / (2 tp + fp + fn)``.

    0 where something is predicted and the class is absent, or the reverse; NaN where both are empty, since
    there was nothing to find and nothing was claimed. Chance is not 0: independent masks of coverage p and
    q have an expected F1 of about ``2pq / (p + q)``.

    Parameters
    ----------
    counts : Counts

    Returns
    -------
    Tensor of float64, same shape as ``counts.tp``
        Float64, so that 3/5 is not above 0.6.
    """
    return (2 * counts.tp).double() / (2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Counts) -> Tensor:
    """Intersection over union, ``tp / (tp + fp + fn)``; 0 and NaN as in :func:`f1`.

    Parameters
    ----------
    counts : Counts

    Returns
    -------
    Tensor of float64, same shape as ``counts.tp``
    """
    return counts.tp.double() / (counts.tp + counts.fp + counts.fn)


def pooled(counts: Counts) -> Counts:
    """Sum over images first, so that F1 of the result weighs pixels instead of images.

    The mean of per-image F1 is another number: it weighs each image alike and leaves out those where both
    masks are empty.

    Parameters
    ----------
    counts : Counts
        Each (image, channel, class).

    Returns
    -------
    Counts
        Each (channel, class).
    """
    return Counts(tp=counts.tp.sum(0), fp=counts.fp.sum(0), fn=counts.fn.sum(0))


def majority_mask(masks: Tensor, size: tuple[int, int], classes: int) -> Tensor:
    """Masks on a coarser grid: each cell takes the value that covers most of it.

    Where the sizes do not divide, cells end at whole pixels and neighbours share a pixel row or column
    (``torch.nn.AdaptiveAvgPool2d``). On a finer grid a pixel is repeated. Thin structures vanish: a class
    that fills less than half of every cell it touches may leave no trace.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    size : (int, int)
        Rows and columns of the result.
    classes : int
        Number of mask classes.

    Returns
    -------
    Tensor of int64, (image, row, column)
        The value with the largest area among pixels that are not ignored. Ties go to the lower class, and
        to a class rather than to the background. :data:`IGNORED` where more than half the cell is ignored.
    """
    values = [*range(classes), BACKGROUND]
    # Within a cell all areas are whole numbers over one divisor: equal areas are equal floats
    areas = torch.stack([_area(masks == value, size) for value in values])
    winner = torch.tensor(values, device=masks.device)[areas.argmax(0)]
    return torch.where(_area(masks == IGNORED, size) > 0.5, IGNORED, winner)


def _area(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each cell that a plane (image, row, column) covers."""
    return adaptive_avg_pool2d(plane.float(), size)


def coverage(masks: Tensor, classes: int) -> Tensor:
    """Share of each image's known pixels that each class covers.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    classes : int
        Number of mask classes.

    Returns
    -------
    Tensor of float64, (image, class)
        In [0, 1]; NaN for an image without known pixels.

    Examples
    --------
    >>> coverage(torch.tensor([[[0, 0, -2, -1]]]), 1)
    tensor([[0.6667]], dtype=torch.float64)
    """
    planes = _planes(masks.flatten(1), classes).sum(1)
    return planes[:, :-1].double() / planes[:, -1:]
