"""Rank correlation across channels between what a head says of a channel and how well it outlines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm, rankdata

from wsss_probe.statistics import permutation_p

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "PREDICTORS",
    "Measured",
    "detectable",
    "kendall",
    "percentiles",
    "permutation_ps",
    "predictors",
    "resampled",
    "spearman",
]

Floats = NDArray[np.float64]

PREDICTORS = ("weight", "|weight|", "weight less others", "weight × mean activation")
"""What may predict a channel's F1 with the class: w_c, |w_c|, w_c less the mean of the other classes'
weights, and w_c times the mean of the channel's map over cells and images, its share of the logit."""

_BLOCK = 1 << 22
"""Numbers of one block of resamples or permutations: bounds memory."""


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """What is known about the channels of one layer for one class.

    Parameters
    ----------
    f1 : ndarray of float, (image, channel)
        Channel-F1 with the class; NaN where undefined, and everywhere for channels that are left out.
    pooled : ndarray of float, (image, channel)
        Mean over cells.
    weight : ndarray of float, (class, channel)
    position : int
        The class, in ``weight``.
    """

    f1: Floats
    pooled: Floats
    weight: Floats
    position: int

    def means(self, times: Floats | None = None, member: ArrayLike | None = None) -> tuple[Floats, Floats]:
        """Mean F1 and mean activation of every channel, with images counted once or by group.

        Parameters
        ----------
        times : ndarray of float, (resample, group), optional
            How often each group is drawn.
        member : ndarray of int, (image,), optional
            Group of each image.

        Returns
        -------
        f1, activation : ndarray of float64, (channel,) or (resample, channel)
            NaN where no drawn image has a value.
        """
        return _mean(self.f1, times, member), _mean(self.pooled, times, member)

    def correlations(self, f1: Floats, activation: Floats, measure: Callable[..., Any]) -> Floats:
        """Correlate every predictor with mean F1.

        Parameters
        ----------
        f1, activation : ndarray of float, (..., channel)
        measure : callable
            :func:`spearman` or :func:`kendall`.

        Returns
        -------
        ndarray of float64, (..., predictor)
        """
        said = predictors(self.weight, self.position, activation)
        return np.stack([np.asarray(measure(one, f1)) for one in said], axis=-1)


# -- predictors and correlations ---------------------------------------------------------------


def predictors(weight: Floats, position: int, activation: Floats) -> tuple[Floats, ...]:
    """Predictors of one class, in the order of :data:`PREDICTORS`.

    Parameters
    ----------
    weight : ndarray, (class, channel)
    position : int
    activation : ndarray, (..., channel)
        Mean of each channel's map.

    Returns
    -------
    tuple of ndarray, (channel,) or (..., channel)
        The difference is to the classes whose weights are known (not NaN); NaN where there are none.

    Examples
    --------
    >>> own = predictors(np.array([[1.0, -2.0], [0.5, 1.0]]), 0, np.array([3.0, 4.0]))
    >>> [values.tolist() for values in own]
    [[1.0, -2.0], [1.0, 2.0], [0.5, -3.0], [3.0, -8.0]]
    """
    own = weight[position]
    others = np.delete(weight, position, axis=0)
    return own, np.abs(own), own - _mean(others, None, None), own * activation


def spearman(x: ArrayLike, y: ArrayLike) -> Floats:
    """Spearman's rank correlation over the last dimension; equals share their mean rank.

    Parameters
    ----------
    x, y : array of float, (..., channel)
        Broadcast against each other; a channel counts where both are finite.

    Returns
    -------
    ndarray of float64, (...)
        NaN with fewer than three channels or where one side is constant.

    Examples
    --------
    >>> float(spearman([1.0, 2.0, 3.0, np.nan], [3.0, 2.0, 1.0, 9.0]))
    -1.0
    """
    first, second = _centred_ranks(x, y)
    return _ratio((first * second).sum(-1), np.sqrt((first**2).sum(-1) * (second**2).sum(-1)))


def kendall(x: ArrayLike, y: ArrayLike) -> Floats:
    """Kendall's tau-b over the last dimension, pair by pair of rows: slow beside :func:`spearman`.

    Parameters
    ----------
    x, y : array of float, (..., channel)
        Broadcast against each other; a channel counts where both are finite.

    Returns
    -------
    ndarray of float64, (...)
        NaN with fewer than three channels or where one side is constant.
    """
    first, second = (np.asarray(side, dtype=np.float64) for side in np.broadcast_arrays(x, y))
    rows = (side.reshape(math.prod(side.shape[:-1]), side.shape[-1]) for side in (first, second))
    taus = [_tau(*pair) for pair in zip(*rows, strict=True)]
    return np.array(taus, dtype=np.float64).reshape(first.shape[:-1])


def _tau(x: Floats, y: Floats) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3:
        return float("nan")
    return float(kendalltau(x[both], y[both], method="asymptotic").statistic)


def _centred_ranks(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Ranks among the channels where both are finite, less their mean; 0 elsewhere."""
    first, second = (np.asarray(side, dtype=np.float64) for side in np.broadcast_arrays(x, y))
    both = np.isfinite(first) & np.isfinite(second)
    both &= both.sum(-1, keepdims=True) >= 3
    middle = (both.sum(-1, keepdims=True) + 1) / 2  # mean of the ranks 1 to n, equals or not
    # infinity ranks last, so it moves no other rank
    ranks = (rankdata(np.where(both, side, np.inf), axis=-1) - middle for side in (first, second))
    one, other = (np.where(both, rank, 0.0) for rank in ranks)
    return one, other


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


# -- how far it would move, and whether it is chance ---------------------------------------------


def _mean(values: Floats, times: Floats | None, member: ArrayLike | None) -> Floats:
    """Mean over images of what is defined, each group counted ``times``."""
    defined = np.isfinite(values)
    filled = np.where(defined, values, 0.0)
    if times is None or member is None:
        return _ratio(filled.sum(0, dtype=np.float64), defined.sum(0))
    groups = times.shape[1]
    sums, counts = (_by_group(part, np.asarray(member), groups) for part in (filled, defined))
    return _ratio(times @ sums, times @ counts)


def _by_group(values: NDArray[Any], member: NDArray[np.intp], groups: int) -> Floats:
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(groups))
    return np.add.reduceat(values[order].astype(np.float64), starts, axis=0)


def resampled(
    measured: Measured, member: np.ndarray, measure: Callable[..., Any], *, resamples: int, seed: int
) -> Floats:
    """Correlate again after drawing groups of images with replacement.

    Mean F1 and mean activation are taken anew and ranked anew in every draw; weights and the set of
    channels stay. So this is how far the correlation of these channels would move with other images.

    Parameters
    ----------
    measured : Measured
    member : ndarray of int, (image,)
        Group of each image, from 0 without gaps.
    measure : callable
        :func:`spearman` or :func:`kendall`.
    resamples : int
    seed : int

    Returns
    -------
    ndarray of float64, (resample, predictor)
    """
    groups = int(member.max(initial=-1)) + 1
    parts = (
        measured.correlations(*measured.means(times, member), measure)
        for times in _draws(groups, measured.f1.shape[1], resamples, seed)
    )
    return np.concatenate([np.empty((0, len(PREDICTORS))), *parts])


def _draws(groups: int, channels: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks (resample, group) of how often each group is drawn; none without groups."""
    generator = np.random.default_rng(seed)
    width = max(1, _BLOCK // max(1, groups, channels))
    for start in range(0, resamples if groups else 0, width):
        rows = min(width, resamples - start)
        drawn = generator.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def percentiles(replicates: Floats, groups: int) -> tuple[Floats, Floats]:
    """2.5th and 97.5th percentile of what is defined.

    Parameters
    ----------
    replicates : ndarray of float64, (resample, predictor)
    groups : int

    Returns
    -------
    low, high : ndarray of float64, (predictor,)
        NaN with fewer than two groups, or where no replicate is defined.
    """
    low, high = np.full((2, replicates.shape[1]), np.nan)
    for position, column in enumerate(replicates.T if groups > 1 else ()):
        defined = column[np.isfinite(column)]
        if len(defined):
            low[position], high[position] = np.quantile(defined, (0.025, 0.975))
    return low, high


def permutation_ps(said: Sequence[Floats], f1: Floats, *, permutations: int, seed: int) -> Floats:
    """Share of orders of the channels in which a Spearman correlation is as far from 0.

    ``p = (1 + #{|rho_r| >= |rho|}) / (R + 1)``, two-sided. The same R orders serve all predictors. Channels
    are taken as exchangeable; copies of one another are not, and make p too small.

    Parameters
    ----------
    said : sequence of ndarray, (channel,)
        Predictors.
    f1 : ndarray, (channel,)
    permutations : int
    seed : int

    Returns
    -------
    ndarray of float64, (predictor,)
    """
    return np.array([_permutation_p(one, f1, permutations, seed) for one in said])


def _permutation_p(x: Floats, y: Floats, permutations: int, seed: int) -> float:
    first, second = _centred_ranks(x, y)
    kept = np.isfinite(x) & np.isfinite(y)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    if not scale > 0:
        return float("nan")
    generator = np.random.default_rng(seed)
    width = max(1, _BLOCK // max(1, len(first)))
    null = [
        generator.permuted(np.tile(second[kept], (min(width, permutations - start), 1)), axis=1) @ first[kept]
        for start in range(0, permutations, width)
    ]
    return float(permutation_p(abs((first * second).sum()) / scale, np.abs(np.concatenate(null)) / scale))


def detectable(channels: int, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest Spearman correlation that so many channels show with this power, two-sided.

    ``tanh((z(1 - level/2) + z(power)) sqrt(1.06 / (n - 3)))``: Fisher's transformation with the variance of
    Fieller, Hartley and Pearson (1957), doi:10.1093/biomet/44.3-4.470, good for 10 and more channels.

    Parameters
    ----------
    channels : int
    power, level : float

    Returns
    -------
    float
        NaN with fewer than four channels.

    Examples
    --------
    >>> round(detectable(512), 3)
    0.127
    """
    if channels < 4:
        return float("nan")
    distance = norm.ppf(1 - level / 2) + norm.ppf(power)
    return float(np.tanh(distance * np.sqrt(1.06 / (channels - 3))))
