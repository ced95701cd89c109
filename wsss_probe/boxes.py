"""Boxes around the connected parts of a map, and how well they meet the boxes of objects.

Choe et al. (2020), Evaluating weakly supervised object localization methods right, arXiv:2001.07437,
sections 4.1 and 4.3: MaxBoxAcc takes the box of the largest part, MaxBoxAccV2 the best of all parts over
three demands on the overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "V2_DEMANDS",
    "BoxOverlap",
    "Parts",
    "box_iou",
    "box_overlap",
    "connected_parts",
    "max_box_acc",
    "max_box_acc_v2",
    "numbered_parts",
]

Floats = NDArray[np.float64]

V2_DEMANDS = (0.3, 0.5, 0.7)
"""Overlaps that MaxBoxAccV2 demands, one after another."""

_EIGHT = np.ones((3, 3), dtype=np.intp)


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """Connected parts of a mask, the largest first; pixels that touch at a corner are connected.

    Parameters
    ----------
    labels : ndarray of int, (row, column)
        1 for the pixels of the first part, and so on; 0 in none.
    boxes : ndarray of int, (part, 4)
        First row, first column, last row, last column, all inclusive.
    areas : ndarray of int, (part,)
        In pixels, descending; of equal parts the one that begins higher comes first.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.areas)


@final
@dataclass(frozen=True, slots=True)
class BoxOverlap:
    """Best intersection over union with any object's box, at every threshold.

    Parameters
    ----------
    largest, every : ndarray of float64, (threshold,)
        Of the box of the largest part, and of the best of the boxes of all parts; 0 where nothing is above
        the threshold, NaN without an object.
    """

    largest: Floats
    every: Floats


def connected_parts(mask: ArrayLike) -> Parts:
    """Find the connected parts of a mask.

    Parameters
    ----------
    mask : array of bool, (row, column)

    Returns
    -------
    Parts

    Examples
    --------
    >>> connected_parts([[1, 0, 0], [0, 1, 0]]).boxes.tolist()
    [[0, 0, 1, 1]]
    """
    return _ordered(*_found(np.asarray(mask, dtype=bool)))


def numbered_parts(numbers: ArrayLike) -> Parts:
    """Describe objects that are told apart already, also where they touch.

    Parameters
    ----------
    numbers : array of int, (row, column)
        Above 0 the number of an object, the same for all of its pixels; 0 in none.

    Returns
    -------
    Parts

    Examples
    --------
    >>> numbered_parts([[7, 3, 3], [0, 0, 7]]).labels.tolist()
    [[1, 2, 2], [0, 0, 1]]
    """
    ids, found = np.unique(np.asarray(numbers), return_inverse=True)
    found = found.reshape(np.shape(numbers)) + int(not (ids == 0).any())  # 0 is no object
    return _ordered(found.astype(np.int32), *_extents(found, int(found.max(initial=0))))


def _ordered(found: NDArray[np.int32], boxes: NDArray[np.int64], areas: NDArray[np.int64]) -> Parts:
    """Number the parts by their area, the largest first."""
    order = np.argsort(-areas, kind="stable")
    rank = np.zeros(len(areas) + 1, dtype=np.int64)
    rank[1 + order] = 1 + np.arange(len(areas))
    return Parts(rank[found], boxes[order], areas[order])


def _found(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Label the parts from the top, and give their boxes and areas in that order."""
    # scikit-image's label gives the same parts and takes up to twenty times as long on smooth masks
    from scipy import ndimage

    found, count = ndimage.label(mask, _EIGHT)
    return found, *_extents(found, count)


def _extents(found: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes and areas of numbered parts."""
    from scipy import ndimage

    slices = ndimage.find_objects(found, count)
    ends = [(down.start, right.start, down.stop - 1, right.stop - 1) for down, right in slices]
    areas = np.bincount(found.ravel(), minlength=count + 1)[1:]
    return np.array(ends, dtype=np.int64).reshape(-1, 4), areas.astype(np.int64)


def box_iou(first: ArrayLike, second: ArrayLike) -> Floats:
    """Intersection over union of boxes, both ends inclusive: a box of one pixel has the area 1.

    Parameters
    ----------
    first, second : array of int, (box, 4)
        First row, first column, last row, last column.

    Returns
    -------
    ndarray of float64, (box of first, box of second)

    Examples
    --------
    >>> float(box_iou([(1, 2, 5, 6)], [(3, 1, 4, 5)])[0, 0]) == 8 / 27
    True
    """
    one = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    two = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]) + 1
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(-1) for boxes in (one, two)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))


def box_overlap(scores: ArrayLike, objects: ArrayLike, thresholds: ArrayLike) -> BoxOverlap:
    """Cut a map at thresholds, box its parts, and compare them with the boxes of objects.

    Parts are ``score > threshold``, as in the authors' code. Where that code differs, it is not followed: it
    rounds scores to 256 levels, measures a part by the polygon through its pixels' centres, counts holes as
    parts, lets boxes end one pixel late, and gives the box of the first pixel where there is no part.

    Parameters
    ----------
    scores : array of float, (row, column)
        In [0, 1].
    objects : array of int, (box, 4)
        As :class:`Parts` has them.
    thresholds : array of float, (threshold,)

    Returns
    -------
    BoxOverlap

    Raises
    ------
    ValueError
        If a score is NaN.
    """
    values, cuts = np.asarray(scores), np.asarray(thresholds, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is NaN; a map with undefined values has no boxes")
    wanted = np.asarray(objects).reshape(-1, 4)
    if not len(wanted):
        return BoxOverlap(np.full(len(cuts), np.nan), np.full(len(cuts), np.nan))
    largest, every = np.zeros(len(cuts)), np.zeros(len(cuts))
    for position, cut in enumerate(cuts):
        _, boxes, areas = _found(values > cut)
        if len(boxes):
            met = box_iou(boxes, wanted).max(1)
            largest[position], every[position] = met[areas.argmax()], met.max()
    return BoxOverlap(largest, every)


def max_box_acc(largest: ArrayLike, demand: float = 0.5) -> float:
    """Share of images whose box meets an object well enough, at the best common threshold.

    MaxBoxAcc = max over τ of the mean over images of [IoU ≥ 0.5]   (arXiv:2001.07437, eq. 3)

    The threshold is the best for these very images, so the number is optimistic by definition.

    Parameters
    ----------
    largest : array of float, (image, threshold)
        :attr:`BoxOverlap.largest`; images of NaN are left out.
    demand : float
        Least overlap.

    Returns
    -------
    float
        In [0, 1]; NaN without images.
    """
    met = np.asarray(largest, dtype=np.float64)
    met = met[~np.isnan(met).any(1)]
    return float((met >= demand).mean(0).max()) if met.size else float("nan")


def max_box_acc_v2(every: ArrayLike) -> float:
    """Mean of :func:`max_box_acc` over the demands 0.3, 0.5 and 0.7, each with its own best threshold.

    Parameters
    ----------
    every : array of float, (image, threshold)
        :attr:`BoxOverlap.every`; images of NaN are left out.

    Returns
    -------
    float
        In [0, 1]; NaN without images.
    """
    return float(np.mean([max_box_acc(every, demand) for demand in V2_DEMANDS]))
