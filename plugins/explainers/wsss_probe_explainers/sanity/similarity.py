"""How alike two relevance maps are: rank correlation, with sign and without, and SSIM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SIMILARITIES", "rank_correlation", "similarity", "structure"]

SIMILARITIES = ("signed", "absolute", "ssim")
"""Rank correlation of the maps, of their absolute values, and SSIM of the absolute values."""

_WINDOW = 7
"""Side of SSIM's window; the largest odd number that fits a smaller map."""


def similarity(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compare maps, image by image.

    Parameters
    ----------
    first, second : ndarray of float, (image, row, column)

    Returns
    -------
    ndarray of float64, (image, similarity)
        In the order of :data:`SIMILARITIES`; NaN where undefined.
    """
    absolute = np.abs(first), np.abs(second)
    return np.stack(
        [rank_correlation(first, second), rank_correlation(*absolute), structure(*absolute)], axis=-1
    )


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman's correlation over the cells of each map; ties share their mean rank.

    Parameters
    ----------
    first, second : ndarray of float, (image, row, column)

    Returns
    -------
    ndarray of float64, (image,)
        In [-1, 1]; NaN where a map is constant or has NaN.
    """
    ranks = [_ranks(values.reshape(len(values), -1)) for values in (first, second)]
    products = (ranks[0] * ranks[1]).sum(1)
    scale = np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return np.asarray(np.divide(products, scale, out=np.full(len(products), np.nan), where=scale > 0))


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks less their mean, NaN where a value is NaN."""
    if not values.size:
        return values.astype(np.float64)
    ranks = np.asarray(rankdata(values, axis=1, nan_policy="propagate"), dtype=np.float64)
    return np.asarray(ranks - ranks.mean(1, keepdims=True))


def structure(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Structural similarity (SSIM) of maps, each over its largest value.

    Wang, Bovik, Sheikh, Simoncelli (2004), doi:10.1109/TIP.2003.819861, by scikit-image, uniform windows
    of 7 x 7 cells. The map's scale does not count.

    Parameters
    ----------
    first, second : ndarray of float, (image, row, column)
        Not negative.

    Returns
    -------
    ndarray of float64, (image,)
        At most 1; NaN for a map of zeros, one with NaN, or one with less than three rows or columns.
    """
    found = np.full(len(first), np.nan)
    window = min(_WINDOW, *first.shape[1:]) - (min(_WINDOW, *first.shape[1:]) + 1) % 2
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        largest = one.max(), other.max()
        if window >= 3 and min(largest) > 0:  # false for NaN
            scaled = one / largest[0], other / largest[1]
            value = structural_similarity(*scaled, win_size=window, data_range=1.0)  # type: ignore[no-untyped-call]
            found[place] = value
    return found
