"""Screened class against weight class: whether what covers a class carries its larger weight.

The paper's discussion: among the two weights of a feature map related to class 1, the one that belongs
to class 0 is sometimes larger. Here "sometimes" becomes a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from wsss_probe.statistics import permutation_p
from wsss_probe_channels.screening.selection import eligible
from wsss_probe_channels.weights.hits import central, exchanged, informative

__all__ = ["Crossing", "Scores", "chances", "covering", "crossed_rates", "crossings", "screened_classes"]

RESAMPLES = 1000

_BLOCK = 1 << 24
"""Scores of a block of resamples: 128 MiB."""


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """F1 above what independence gives, added up by group.

    Parameters
    ----------
    total, number : ndarray, (group, channel, class)
        Sum over the images of a group on which it is defined, and the number of these.
    """

    total: np.ndarray
    number: np.ndarray

    @classmethod
    def of(
        cls, f1: np.ndarray, coverage: np.ndarray, area: np.ndarray, groups: np.ndarray | None = None
    ) -> Scores:
        """Compare every F1 with that of an independent mask of the same size.

        Parameters
        ----------
        f1 : ndarray, (image, channel, class)
            NaN where undefined.
        coverage : ndarray, (image, channel)
            Share of the image that the channel's mask covers, p.
        area : ndarray, (image, class)
            Share that the region covers, q. Images with 0 or 1 tell nothing and are left out.
        groups : ndarray or None, (image,)

        Returns
        -------
        Scores
            Of ``F1 - 2pq / (p + q)``; a channel has none for a class where its F1 is defined on less
            than half of the images that the region covers in part.
        """
        images, channels, classes = f1.shape
        unit = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
        shape = (int(unit.max(initial=-1)) + 1, channels, classes)
        total, number = np.zeros(shape), np.zeros(shape)
        for c in range(classes):
            told = informative(area[:, c])
            p, q = coverage[told].astype(np.float64), area[told, c, None].astype(np.float64)
            above = f1[told, :, c] - 2 * p * q / (p + q)
            above[:, ~eligible(f1[:, :, c], told)] = np.nan
            _add(total[:, :, c], unit[told], np.nan_to_num(above))
            _add(number[:, :, c], unit[told], np.isfinite(above).astype(np.float64))
        return cls(total, number)

    def means(self, times: np.ndarray | None = None) -> np.ndarray:
        """Mean over images with every group counted so many times.

        Parameters
        ----------
        times : ndarray, (resample, group), optional
            Once each, if not given.

        Returns
        -------
        ndarray, (channel, class) or (resample, channel, class)
        """
        weights = np.ones(len(self.total)) if times is None else times
        total, number = (np.tensordot(weights, part, axes=1) for part in (self.total, self.number))
        means: np.ndarray = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
        return means


def _add(sums: np.ndarray, unit: np.ndarray, values: np.ndarray) -> None:
    """Add values (image, channel) to the sums of their groups."""
    order = np.argsort(unit, kind="stable")
    units, starts = np.unique(unit[order], return_index=True)
    if len(units):
        sums[units] += np.add.reduceat(values[order], starts, axis=0)


def screened_classes(score: np.ndarray) -> np.ndarray:
    """Position of the class that each channel covers best.

    Parameters
    ----------
    score : ndarray, (..., class)
        F1 above independence; NaN where undefined.

    Returns
    -------
    ndarray of int, (...)
        -1 where no score is above 0 or the largest is shared.

    Examples
    --------
    >>> screened_classes(np.array([[0.1, 0.3], [-0.1, -0.2], [0.2, 0.2], [np.nan, 0.1]])).tolist()
    [1, -1, -1, 1]
    """
    known = np.where(np.isfinite(score), score, -np.inf)
    largest = known.max(axis=-1, initial=-np.inf)
    clear = (largest > 0) & ((known == largest[..., None]).sum(axis=-1) == 1)
    return np.asarray(np.where(clear, known.argmax(axis=-1), -1))


def covering(score: np.ndarray, weight_class: np.ndarray, best: int | None = None) -> np.ndarray:
    """Mark the channels that cover each class and have a largest weight.

    Parameters
    ----------
    score : ndarray, (..., channel, class)
        For the matched classes.
    weight_class : ndarray of int, (channel,)
        Class of the largest weight; channels with -1 are left out.
    best : int, optional
        Only so many channels per class, those with the largest scores.

    Returns
    -------
    ndarray of bool, (..., class, channel)
    """
    screened = np.where(weight_class >= 0, screened_classes(score), -1)
    marked = screened[..., None, :] == np.arange(score.shape[-1])[:, None]
    if best is None:
        return np.asarray(marked)
    return np.asarray(marked & _largest(np.where(marked, np.swapaxes(score, -1, -2), -np.inf), best))


def crossed_rates(marked: np.ndarray, weight_class: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Share of the channels that cover a class whose larger weight is for another.

    Parameters
    ----------
    marked : ndarray of bool, (..., class, channel)
        From :func:`covering`.
    weight_class : ndarray of int, (..., channel)
    classes : sequence of int
        Which class of the network each matched class is.

    Returns
    -------
    ndarray, (..., class)
        NaN where no channel covers the class.
    """
    other = weight_class[..., None, :] != np.asarray(classes)[:, None]
    crossed, count = (marked & other).sum(axis=-1), np.asarray(marked.sum(axis=-1))
    crossed, count = np.broadcast_arrays(crossed, count)
    rates: np.ndarray = np.divide(crossed, count, out=np.full(count.shape, np.nan), where=count > 0)
    return rates


def chances(marked: np.ndarray, weight_class: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Share of all channels that cover any class whose larger weight is not for the class.

    Parameters
    ----------
    marked : ndarray of bool, (class, channel)
        From :func:`covering`, all channels.
    weight_class : ndarray of int, (channel,)
    classes : sequence of int

    Returns
    -------
    ndarray, (class,)
        What exchanging weights between these channels gives in the mean.
    """
    anyone = np.broadcast_to(marked.any(axis=0), marked.shape)
    return crossed_rates(anyone, weight_class, classes)


def _largest(values: np.ndarray, number: int) -> np.ndarray:
    """Mark the largest values along the last axis; the first of equals."""
    order = np.argsort(-values, axis=-1, kind="stable")[..., :number]
    marked = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(marked, order, True, axis=-1)
    return marked


@final
@dataclass(frozen=True, slots=True)
class Crossing:
    """How often channels that cover one class carry the larger weight for another.

    Parameters
    ----------
    channels : int
        Channels that cover the class and have a largest weight.
    rate : float
    chance : float
        The rate among all channels that cover any class: what weights that say nothing would reach.
    interval : (float, float)
        95 % over groups, each resample screened anew; NaN with fewer than two groups.
    null : (float, float)
        95 % of the rates when weight classes are exchanged between the screened channels.
    p : float
        Share of exchanges with a rate as low, the observation included: small where weights know
        what the channel covers.
    """

    channels: int
    rate: float
    chance: float
    interval: tuple[float, float]
    null: tuple[float, float]
    p: float


def crossings(
    scores: Scores,
    weight_class: np.ndarray,
    classes: Sequence[int],
    best: int | None,
    permutations: int,
    seed: int,
) -> list[Crossing]:
    """Rate of crossed channels for every matched class.

    Parameters
    ----------
    scores : Scores
    weight_class : ndarray of int, (channel,)
    classes : sequence of int
        Class of the network for each class of ``scores``.
    best : int or None
        Only so many channels per class.
    permutations, seed : int

    Returns
    -------
    list of Crossing
        One per class.
    """
    score = scores.means()
    marked = covering(score, weight_class, best)
    rate = crossed_rates(marked, weight_class, classes)
    everyone = covering(score, weight_class)
    taking = np.asarray(everyone.any(axis=0))
    null = crossed_rates(marked, exchanged(weight_class, taking, permutations, seed), classes)
    drawn = _resampled(scores, weight_class, classes, best, seed)
    chance = chances(everyone, weight_class, classes)
    p = permutation_p(-rate, -null)
    return [
        Crossing(
            channels=int(marked[j].sum()),
            rate=float(rate[j]),
            chance=float(chance[j]),
            interval=central(drawn[:, j]),
            null=central(null[:, j]),
            p=float(p[j]),
        )
        for j in range(len(classes))
    ]


def _resampled(
    scores: Scores, weight_class: np.ndarray, classes: Sequence[int], best: int | None, seed: int
) -> np.ndarray:
    """Rates with groups drawn with replacement and channels screened anew, (resample, class)."""
    groups = len(scores.total)
    if groups < 2:
        return np.full((1, len(classes)), np.nan)
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // max(1, scores.total[0].size))
    parts = []
    for start in range(0, RESAMPLES, size):
        number = min(size, RESAMPLES - start)
        times = generator.multinomial(groups, np.full(groups, 1 / groups), size=number).astype(np.float64)
        marked = covering(scores.means(times), weight_class, best)
        parts.append(crossed_rates(marked, weight_class, classes))
    return np.concatenate(parts)
