"""Intervals of TCAV scores and of bidirectional relevance over independent groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.statistics import group_bootstrap, resampled_sums
from wsss_probe_concepts.relevance.sensitivity import ROUNDING, bidirectional_relevance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Bounds", "relevance_bounds", "share_bounds"]

Floats = NDArray[np.float64]

_BLOCK = 1 << 25
"""Numbers of the resamples of one block of concepts: bounds memory."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """A 95 % interval of every class and concept.

    Parameters
    ----------
    low, high : ndarray of float64, (class, concept)
        NaN with fewer than two groups of the class.
    groups : ndarray of int, (class,)
        Independent groups with an image of the class.
    """

    low: Floats
    high: Floats
    groups: NDArray[np.intp]


def share_bounds(
    sensitivity: Floats, member: NDArray[np.bool_], groups: ArrayLike | None, *, resamples: int, seed: int
) -> Bounds:
    """Interval of the share of a class's images with a positive sensitivity, by resampled groups.

    Parameters
    ----------
    sensitivity : ndarray of float64, (image, class, concept)
    member : ndarray of bool, (image, class)
    groups : array, (image,), optional
    resamples, seed : int

    Returns
    -------
    Bounds
        Directions are taken as they are: this is how far the score would move with other images.
    """
    counted = member[..., None] & np.isfinite(sensitivity)
    positive = np.where(counted, sensitivity > 0, np.nan)
    interval = group_bootstrap(positive, groups, resamples=resamples, seed=seed)
    return Bounds(interval.low, interval.high, _supporting(member, groups))


def relevance_bounds(
    sensitivity: Floats,
    member: NDArray[np.bool_],
    errors: tuple[Floats, Floats],
    groups: ArrayLike | None,
    *,
    size: Floats,
    resamples: int,
    seed: int,
) -> Bounds:
    """Interval of bidirectional relevance: R² and mean over spread are taken anew in every resample.

    Parameters
    ----------
    sensitivity : ndarray of float64, (image, class, concept)
    member : ndarray of bool, (image, class)
    errors : (ndarray, ndarray), (group, concept)
        Sums over the images of each group, in sorted order, of squared held-out errors and of the squared
        errors of the training mean, whose ratio gives R².
    groups : array, (image,), optional
    size : ndarray of float64, (class,)
        Root mean square of the gradient, beside which a spread may be mere rounding.
    resamples, seed : int

    Returns
    -------
    Bounds
        NaN too where mean over spread is undefined in every resample.
    """
    classes, concepts = sensitivity.shape[1:]
    number = _position(groups, len(sensitivity))
    low, high = np.full((2, classes, concepts), np.nan)
    supporting = _supporting(member, groups)
    width = max(1, _BLOCK // max(1, resamples * (3 * classes + 2)))
    for start in range(0, concepts, width):
        part = slice(start, start + width)
        table = _moments(sensitivity[..., part], member, number)
        sums = resampled_sums(
            np.concatenate([table, *(side[:, None, part] for side in errors)], axis=1),
            resamples=resamples,
            seed=seed,
        )
        replicates = _replicates(sums, _centre(sensitivity[..., part], member), size)
        low[:, part], high[:, part] = _quantiles(replicates)
    low[supporting < 2], high[supporting < 2] = np.nan, np.nan
    return Bounds(low, high, supporting)


# -- parts ------------------------------------------------------------------------------------


def _position(groups: ArrayLike | None, images: int) -> NDArray[np.intp]:
    """Number of each image's group, in sorted order of the groups."""
    if groups is None:
        return np.arange(images)
    found: NDArray[np.intp] = np.unique(np.asarray(groups), return_inverse=True)[1]
    return found


def _supporting(member: NDArray[np.bool_], groups: ArrayLike | None) -> NDArray[np.intp]:
    """Count the groups with an image of each class."""
    number = _position(groups, len(member))
    return np.array([len(np.unique(number[own])) for own in member.T], dtype=np.intp)


def _centre(sensitivity: Floats, member: NDArray[np.bool_]) -> Floats:
    """Mean sensitivity of each class, (class, concept): squares about it lose no digits."""
    total = np.where(member[..., None], sensitivity, 0.0).sum(axis=0)
    number = np.maximum(member.sum(axis=0), 1)[:, None]
    return np.asarray(total / number)


def _moments(sensitivity: Floats, member: NDArray[np.bool_], number: NDArray[np.intp]) -> Floats:
    """Sums by group of ones, of deviations from the class's mean and of their squares.

    Of shape (group, 3 classes, concept), one kind after the other.
    """
    deviation = np.where(member[..., None], sensitivity - _centre(sensitivity, member), 0.0)
    ones = np.broadcast_to(member[..., None], deviation.shape).astype(np.float64)
    both = np.concatenate([ones, deviation, deviation**2], axis=1)
    table = np.zeros((int(number.max(initial=-1)) + 1, *both.shape[1:]))
    np.add.at(table, number, both)
    return table


def _replicates(sums: Floats, centre: Floats, size: Floats) -> Floats:
    """Bidirectional relevance of every resample, (resample, class, concept)."""
    classes = len(centre)
    n, first, second = (sums[:, kind * classes : (kind + 1) * classes] for kind in range(3))
    wrong, plain = sums[:, -2], sums[:, -1]
    shift, squares = _ratio(first, n), _ratio(second, n)
    spread = np.sqrt(np.maximum(squares - shift**2, 0.0))
    ratio = np.full(spread.shape, np.nan)
    told = spread > ROUNDING * size[:, None]  # NaN is not above anything
    np.divide(centre + shift, spread, out=ratio, where=told)
    r2 = 1 - _ratio(wrong, plain)
    return bidirectional_relevance(r2[:, None], ratio)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _quantiles(replicates: Floats) -> tuple[Floats, Floats]:
    """2.5th and 97.5th percentile of what is defined, (class, concept) each."""
    low, high = np.full((2, *replicates.shape[1:]), np.nan)
    for place in np.ndindex(*replicates.shape[1:]):
        column = replicates[(slice(None), *place)]
        defined = column[np.isfinite(column)]
        if len(defined):
            low[place], high[place] = np.quantile(defined, (0.025, 0.975))
    return low, high
