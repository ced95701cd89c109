"""Which grey levels stand beside which: the cells of a co-occurrence matrix that are not empty.

A matrix of 256 x 256 levels has 65,536 cells, of which an image of 224 x 224 pixels fills some thousands
and a nucleus some hundreds. Everything that is computed from it runs over full cells only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

__all__ = ["PairCounts", "count_pairs"]

_BITS = 8
_LOW = 255


@final
@dataclass(frozen=True, slots=True)
class PairCounts:
    """How often two grey levels stand at an offset from each other.

    Parameters
    ----------
    first, second : ndarray of int, (cell,)
        Grey levels, from 0.
    count : ndarray of int, (cell,)
        Above 0.
    levels : int
        Largest grey level of the region, and one.
    """

    first: np.ndarray
    second: np.ndarray
    count: np.ndarray
    levels: int

    @property
    def share(self) -> np.ndarray:
        """Share of all pairs, (cell,): the matrix P, which sums to 1."""
        share: np.ndarray = self.count / self.count.sum()
        return share


def count_pairs(
    grey: np.ndarray,
    offset: tuple[int, int],
    numbers: np.ndarray | None = None,
    symmetric: bool = True,
) -> list[PairCounts]:
    """Count pairs of pixels at an offset, of which both lie in the same region.

    Parameters
    ----------
    grey : ndarray of uint8, (row, column)
    offset : (int, int)
        Rows down and columns right from the first pixel of a pair to the second.
    numbers : ndarray of int, (row, column), optional
        Region of each pixel, from 1 without gaps; pixels with 0 are in no pair. Without it all
        pixels are in one region.
    symmetric : bool
        Whether each pair is counted in both orders.

    Returns
    -------
    list of PairCounts
        One per region, in the order of their numbers; without cells where a region has no pair.

    Examples
    --------
    >>> pairs = count_pairs(np.array([[0, 1, 1]], dtype=np.uint8), (0, 1))[0]
    >>> sorted(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.count.tolist()))
    [(0, 1, 1), (1, 0, 1), (1, 1, 2)]
    """
    here, there = _shifted(grey.shape[:2], offset)
    first, second = grey[here], grey[there]
    if symmetric:  # both orders of a pair are one code until the end
        first, second = np.minimum(first, second), np.maximum(first, second)
    codes = (first.astype(np.uint16) << _BITS | second).ravel()
    if numbers is None:
        table = np.bincount(codes, minlength=1)
        cells = np.flatnonzero(table > 0)
        return [_taken_apart(cells, table[cells], symmetric, int(grey.max(initial=0)) + 1)]
    region, other = numbers[here].ravel(), numbers[there].ravel()
    inside = (region > 0) & (region == other)
    cells, count = np.unique(region[inside] << 2 * _BITS | codes[inside], return_counts=True)
    borders = np.searchsorted(cells, np.arange(1, int(numbers.max(initial=0)) + 2) << 2 * _BITS)
    return [_taken_apart(cells[begin:end], count[begin:end], symmetric) for begin, end in pairwise(borders)]


def _taken_apart(
    codes: np.ndarray, count: np.ndarray, symmetric: bool, levels: int | None = None
) -> PairCounts:
    """Turn codes into cells; by default the largest level is that of the cells, whatever lies outside."""
    first, second = codes >> _BITS & _LOW, codes & _LOW
    if symmetric:
        differ = first != second
        count = np.concatenate([np.where(differ, count, 2 * count), count[differ]])
        first, second = np.concatenate([first, second[differ]]), np.concatenate([second, first[differ]])
    own = int(max(first.max(initial=0), second.max(initial=0))) + 1
    return PairCounts(first, second, count, own if levels is None else levels)


def _shifted(
    size: tuple[int, int], offset: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the first and of the second pixels; empty where the image is smaller than the offset."""
    firsts, seconds = [], []
    for length, step in zip(size, offset, strict=True):
        firsts.append(slice(max(0, -step), max(0, length - max(0, step))))
        seconds.append(slice(max(0, step), max(0, length + min(0, step))))
    return (firsts[0], firsts[1]), (seconds[0], seconds[1])
