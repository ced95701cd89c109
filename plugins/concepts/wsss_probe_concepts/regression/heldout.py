"""Held-out R² of each concept, with its interval over groups, and split by split as the paper draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.statistics import FEW_GROUPS, Interval, resampled_sums

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.regression import Regression

__all__ = ["HeldOut", "held_out_r2", "held_out_share", "split_r2", "squared_errors"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out R² of one model at one layer.

    Parameters
    ----------
    r2 : Interval
        Estimate, low and high of each concept, (concept,); NaN where not estimable.
    split_r2 : ndarray of float64, (split, concept)
        As :func:`split_r2`.
    n, groups : ndarray of int, (concept,)
        Images and independent groups behind each figure.
    """

    r2: Interval
    split_r2: Floats
    n: NDArray[np.int64]
    groups: NDArray[np.int64]


def squared_errors(regression: Regression) -> tuple[Floats, Floats]:
    """Squared held-out errors of each image, added up over repeats.

    Parameters
    ----------
    regression : Regression

    Returns
    -------
    sse, ssb : ndarray of float64, (image, concept)
        Of the fit, and of the mean of the training part. ``1 - sse.sum(0) / ssb.sum(0)``, over images where
        both are defined, is the held-out R². NaN where the concept or its fit is undefined.
    """
    if not len(regression.residual):
        undefined = np.full(regression.residual.shape[1:], np.nan)
        return undefined, undefined.copy()
    sse = (regression.residual**2).sum(0)
    return sse, np.where(np.isnan(sse), np.nan, (regression.baseline**2).sum(0))


def split_r2(regression: Regression) -> Floats:
    """Held-out R² of each split against the mean of its training part.

    Parameters
    ----------
    regression : Regression

    Returns
    -------
    ndarray of float64, (split, concept)
        NaN where no held-out image has the concept, or all are at the mean of the training part. The
        paper's error bars are the standard deviation over splits by √10, here of held-out R²; splits share
        images, so they are too short.
    """
    found = np.full((len(regression.test), regression.residual.shape[2]), np.nan)
    count = len(regression.test) // max(len(regression.residual), 1)
    for split, images in enumerate(regression.test):
        repeat = split // count
        residual, baseline = regression.residual[repeat, images], regression.baseline[repeat, images]
        defined = ~np.isnan(residual)
        found[split] = held_out_share(
            (np.where(defined, residual, 0.0) ** 2).sum(0), (np.where(defined, baseline, 0.0) ** 2).sum(0)
        )
    return found


def held_out_share(errors: Floats, spread: Floats) -> Floats:
    """1 − errors / spread, the held-out R² of sums of squares.

    Parameters
    ----------
    errors, spread : ndarray of float64, same shape
        As :func:`squared_errors`, added up.

    Returns
    -------
    ndarray of float64, same shape
        NaN where there is no spread.
    """
    share = np.full(spread.shape, np.nan)
    np.divide(errors, spread, out=share, where=spread > 0)
    return 1 - share


def held_out_r2(
    regression: Regression, groups: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> HeldOut:
    """Held-out R² with its 95 % interval.

    R² = 1 − Σ (prediction − value)² / Σ (mean of the training part − value)²

    over all held-out images of all repeats. 0 is what the mean of the training part reaches, 1 is perfect;
    below 0 the fit is worse than the mean.

    The interval resamples whole groups of squared errors (:func:`wsss_probe.statistics.group_bootstrap`);
    the fits are held fixed, so it does not hold the variation of the training part, and it is too narrow
    with few groups.

    Parameters
    ----------
    regression : Regression
    groups : array, (image,), optional
        Group of each image, as the folds were made with.
    resamples : int
    seed : int

    Returns
    -------
    HeldOut
    """
    sse, ssb = squared_errors(regression)
    defined = np.asarray(~np.isnan(sse))
    stacked = np.stack([np.where(defined, sse, 0.0), np.where(defined, ssb, 0.0)], axis=1)
    sums = resampled_sums(stacked, groups, resamples=resamples, seed=seed)
    drawn = held_out_share(sums[:, 0], sums[:, 1])
    supporting = _supporting(defined, groups)
    low, high = (_quantile(drawn, share, supporting) for share in (0.025, 0.975))
    estimate = held_out_share(*stacked.sum(0))
    interval = Interval(estimate, low, high, int(defined.any(1).sum()), *_note(defined, groups))
    return HeldOut(interval, split_r2(regression), defined.sum(0), supporting)


def _supporting(defined: NDArray[np.bool_], groups: ArrayLike | None) -> NDArray[np.int64]:
    """Groups with a defined image, (concept,)."""
    if groups is None:
        return np.asarray(defined.sum(0), dtype=np.int64)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.array([len(np.unique(member[column])) for column in defined.T], dtype=np.int64)


def _quantile(drawn: Floats, share: float, supporting: NDArray[np.int64]) -> Floats:
    """Quantile over resamples of each concept, NaN where fewer than two groups have it."""
    values = np.full(drawn.shape[1], np.nan)
    for concept in np.flatnonzero(supporting >= 2):
        known = drawn[~np.isnan(drawn[:, concept]), concept]
        values[concept] = np.quantile(known, share) if len(known) else np.nan
    return values


def _note(defined: NDArray[np.bool_], groups: ArrayLike | None) -> tuple[int, str]:
    """Independent groups behind any figure, and what must be said beside it."""
    count = int(_supporting(np.asarray(defined.any(axis=1, keepdims=True)), groups)[0])
    notes = ["images treated as independent"] if groups is None else []
    notes += [f"unreliable: fewer than {FEW_GROUPS} groups"] if count < FEW_GROUPS else []
    return count, "; ".join(notes)
