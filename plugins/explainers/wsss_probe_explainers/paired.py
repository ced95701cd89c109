"""Is a map better than another? Differences image by image, over independent groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.statistics import benjamini_hochberg, group_bootstrap

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Comparison", "compare", "sign_flip_p"]

_EXACT = 12
"""Up to so many groups all exchanges of signs are tried; 4096."""

_FLIPS = 1 << _EXACT


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of many pairs of maps, over the same images.

    Parameters
    ----------
    difference, low, high : ndarray of float64, (pair,)
        Mean over images with its 95 % interval over groups.
    p, q : ndarray of float64, (pair,)
        Two-sided, and adjusted over all pairs for the false discovery rate.
    n, groups : ndarray of int, (pair,)
    """

    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    n: NDArray[np.int64]
    groups: NDArray[np.int64]


def compare(values: ArrayLike, groups: ArrayLike | None, seed: int = 0) -> Comparison:
    """Judge differences that were taken image by image.

    Parameters
    ----------
    values : array of float, (image, pair)
        First less second; NaN where either is undefined.
    groups : array, (image,), optional
        Without it images are treated as independent.
    seed : int

    Returns
    -------
    Comparison
    """
    array = np.asarray(values, dtype=np.float64)
    names = np.arange(len(array)) if groups is None else np.asarray(groups)
    found = [group_bootstrap(column, groups, seed=seed) for column in array.T]
    p = np.array([sign_flip_p(column, names, seed) for column in array.T])
    means, low, high = (
        np.array([float(getattr(item, key)) for item in found]) for key in ("estimate", "low", "high")
    )
    n, count = (np.array([getattr(item, key) for item in found], dtype=np.int64) for key in ("n", "groups"))
    return Comparison(means, low, high, p, benjamini_hochberg(p), n, count)


def sign_flip_p(differences: NDArray[np.float64], groups: ArrayLike, seed: int = 0) -> float:
    """Two-sided p of a mean difference, by exchanging the two maps in whole groups.

    If neither map is better, each group's sum is as likely to have the other sign. All exchanges are
    tried for up to twelve groups, else 4095 are drawn, and the one that was observed counts among them.

    Parameters
    ----------
    differences : ndarray of float, (image,)
        NaN is left out.
    groups : array, (image,)
    seed : int

    Returns
    -------
    float
        NaN without a difference that is defined.
    """
    defined = ~np.isnan(differences)
    if not defined.any():
        return float("nan")
    _, place = np.unique(np.asarray(groups)[defined], return_inverse=True)
    sums = np.bincount(place, weights=differences[defined])
    count = len(sums)
    if count <= _EXACT:
        signs = 1 - 2 * ((np.arange(1 << count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (_FLIPS - 1, count))
        signs = np.concatenate([np.ones((1, count), dtype=np.int64), 1 - 2 * drawn])
    reached = np.abs(signs @ sums)
    observed = abs(float(sums.sum()))
    return float((reached >= observed - 1e-12 * np.abs(sums).sum()).mean())
