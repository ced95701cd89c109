"""Differences of held-out R² between networks that were fitted on the same images and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

from wsss_probe.statistics import resampled_sums, sign_flip_p

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["Paired", "flipped_p", "over_splits", "paired_differences"]

_FLIPS: Final = 4999
_ENTRIES: Final = 1 << 24
"""Signs that are drawn at a time, groups by flips: with very many groups fewer flips are enough."""


@final
@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of R² between pairs of networks.

    Parameters
    ----------
    difference, low, high : ndarray of float64, (pair, concept)
        First less second, with its 95 % interval over groups. NaN without a defined group or with a constant
        concept; the interval also with fewer than two groups.
    """

    difference: Floats
    low: Floats
    high: Floats


def paired_differences(
    first: ArrayLike, second: ArrayLike, baseline: ArrayLike, seed: int = 0, resamples: int = 2000
) -> Paired:
    """Compare networks by their squared errors on the same held-out images.

    R²_first - R²_second = (SSE_second - SSE_first) / SSB, sums over groups, where SSB is the squared error of
    the training mean, which is the same for both. Images that are hard for every network cancel, so the
    interval of the difference is narrower than those of the two R² suggest. Whole groups are drawn.

    Parameters
    ----------
    first, second : array of float, (group, pair, concept)
        Squared errors of held-out predictions, summed over the images (and repeats) of each group; NaN
        where a group has no value, or the concept is not estimable in that network.
    baseline : array of float, (group, concept)
        The same sums for the training mean.
    seed : int
    resamples : int

    Returns
    -------
    Paired
    """
    gained, below = _gains(first, second, baseline)
    both = np.nan_to_num(np.stack([gained, below], axis=1))
    sums = both.sum(axis=0)
    replicates = resampled_sums(both, resamples=resamples, seed=seed)
    low, high = _percentiles(_ratio(replicates[:, 0], replicates[:, 1]))
    lost = np.isfinite(gained).sum(axis=0) < 2  # one group, however often drawn, gives one number
    low[lost] = high[lost] = np.nan
    return Paired(_ratio(sums[0], sums[1]), low, high)


def flipped_p(first: ArrayLike, second: ArrayLike, baseline: ArrayLike, seed: int = 0) -> Floats:
    """Two-sided p of no difference, by exchanging the two networks in whole groups.

    Parameters
    ----------
    first, second : array of float, (group, pair, concept)
        As in :func:`paired_differences`.
    baseline : array of float, (group, concept)
    seed : int

    Returns
    -------
    ndarray of float64, (pair, concept)
        Not corrected; NaN with fewer than two groups or a constant concept.
    """
    gained, below = _gains(first, second, baseline)
    flips = max(999, min(_FLIPS, _ENTRIES // max(1, len(gained))))
    p = sign_flip_p(gained, permutations=flips, seed=seed)
    return np.where(np.nan_to_num(below).sum(axis=0) > 0, p, np.nan)


def _gains(first: ArrayLike, second: ArrayLike, baseline: ArrayLike) -> tuple[Floats, Floats]:
    """What the first saves of the second's error, and the mean's error; NaN where one is undefined."""
    gained = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    below = np.broadcast_to(np.asarray(baseline, dtype=np.float64)[:, None, :], gained.shape)
    defined = np.isfinite(gained) & np.isfinite(below)
    return np.where(defined, gained, np.nan), np.where(defined, below, np.nan)


def over_splits(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Mean and standard error over splits of the difference of R², as the paper draws its curves.

    Splits share most of their images, so this error is too small; it is no interval.

    Parameters
    ----------
    first, second : array of float, (split, ...)
        R² of each split.

    Returns
    -------
    (ndarray of float64, ndarray of float64), (...)
        NaN where a split is undefined.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    count = len(differences)
    mean = differences.sum(axis=0) / (count or np.nan)
    spread = np.sqrt(((differences - mean) ** 2).sum(axis=0) / (count - 1 if count > 1 else np.nan))
    return mean, np.asarray(spread / np.sqrt(count))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient that is NaN where the denominator is not positive."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _percentiles(replicates: Floats) -> tuple[Floats, Floats]:
    """Ends of the 95 % interval; resamples that are undefined are left out."""
    ends = np.full((2, *replicates.shape[1:]), np.nan)
    known = np.isfinite(replicates)
    if not len(replicates):
        return ends[0], ends[1]
    whole = known.all(axis=0)
    ends[:, whole] = np.quantile(replicates[:, whole], (0.025, 0.975), axis=0)
    some = known.any(axis=0) & ~whole
    if some.any():
        ends[:, some] = np.nanquantile(replicates[:, some], (0.025, 0.975), axis=0)
    return ends[0], ends[1]
