"""What features know of a concept beyond the other concepts, and how far concepts say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.missing import as_matrix, finite_rows, unfit
from wsss_probe_concepts.regression.split import splits_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.folds import Folds
    from wsss_probe_concepts.regression.smoothing import Model
    from wsss_probe_concepts.regression.split import Split

__all__ = ["collinearity", "partial_r2"]

Floats = NDArray[np.float64]

_COMMON = 0.9
"""Share of a concept's images on which another must be defined to be held fixed."""

_DETERMINED = 1e-10
"""Share of a concept's variance left by the others, below which they determine it up to rounding."""


@dataclass(frozen=True, slots=True)
class _Family:
    """Concepts that are held fixed for each other, and the images on which all of them are defined."""

    images: NDArray[np.bool_]
    members: NDArray[np.intp]
    targets: NDArray[np.intp]


def _families(values: Floats) -> Iterator[_Family]:
    """Each concept, in one family only, with those that are defined where it is."""
    defined = np.asarray(~np.isnan(values))
    varied = np.array([_varies(column) for column in values.T], dtype=bool)
    alike: dict[tuple[int, ...], list[int]] = {}
    for concept in np.flatnonzero(varied):
        shared = defined[defined[:, concept]].mean(0)
        members = np.flatnonzero(varied & (shared >= _COMMON))
        alike.setdefault(tuple(members.tolist()), []).append(int(concept))
    for common, targets in alike.items():
        members = np.array(common)
        yield _Family(np.asarray(defined[:, members].all(1)), members, np.array(targets))


def _varies(column: Floats) -> bool:
    known = column[~np.isnan(column)]
    return len(known) > 1 and bool(np.ptp(known) > 1e-12 * np.abs(known).max())


def _standard(values: Floats) -> Floats:
    """Centred columns of unit spread; 0 for columns that are constant on these images."""
    centred = values - values.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    varied = spread > 1e-12 * np.abs(values).max(0)
    standard: Floats = np.zeros_like(centred)
    np.divide(centred, spread, out=standard, where=varied)
    return standard


def partial_r2(features: ArrayLike, concepts: ArrayLike, folds: Folds, model: Model = "ridge") -> Floats:
    """Held-out share of what the other concepts leave unexplained that the features explain.

    1 − Σ (error with the other concepts and the features)² / Σ (error with the other concepts alone)²

    over held-out images. The other concepts enter linearly and unpenalised, the features through the model:
    for gains G = diag(g), S = U G Uᵀ and A = 1 − S the coefficients of the others O are
    β = (Oᵀ A O)⁻¹ Oᵀ A c and the features' part is S (c − O β) (Speckman 1988,
    doi:10.1111/j.2517-6161.1988.tb01738.x, with partial residuals; for OLS the theorem of Frisch, Waugh and
    Lovell). Penalty or number of components is chosen by GCV of the whole.

    Another concept is held fixed where it is defined on nine tenths of a concept's images and varies; images
    without all of them are left out. With many collinear concepts little is left to explain and the figure
    is noise: see :func:`collinearity`. It controls for what was measured, not for anything else.

    Parameters
    ----------
    features : array, (image, channel)
    concepts : array, (image, concept)
    folds : Folds
    model : {"ols", "ridge", "pca"}

    Returns
    -------
    ndarray of float64, (concept,)
        At most 1. NaN where the concept is not estimable, or determined by the others.
    """
    array, values = as_matrix(features, "features"), as_matrix(concepts, "concepts")
    values = np.where(np.isfinite(values) & finite_rows(array), values, np.nan)
    found = np.full(values.shape[1], np.nan)
    for family in _families(values):
        able = unfit(values[:, family.targets], family.images, folds) == ""
        if not able.any():
            continue
        standard = np.zeros((len(values), len(family.members)))
        standard[family.images] = _standard(values[np.ix_(family.images, family.members)])
        splits = splits_of(array, family.images, folds, model)
        seen = [_Moments.of(split, standard) for split in splits]
        for target in family.targets[able]:
            place = int(np.searchsorted(family.members, target))
            errors = np.array([_errors(split, one, place) for split, one in zip(splits, seen, strict=True)])
            found[target] = _left(errors)
    return found


@dataclass(frozen=True, slots=True)
class _Moments:
    """Concepts on either side of a split, with the products that every target needs.

    ``training`` and ``test`` (image, concept) are less the mean of the training part, ``along`` (component,
    concept) are scores times concepts; ``first`` and ``second`` (setting, concept, concept) are Cᵀ A C and
    Cᵀ A² C: what lies beside the axes whole, and along them by 1 − g and its square.
    """

    training: Floats
    test: Floats
    along: Floats
    first: Floats
    second: Floats

    @classmethod
    def of(cls, split: Split, concepts: Floats) -> _Moments:
        mean = concepts[split.training].mean(0)
        training = concepts[split.training] - mean
        along, products = split.scores.T @ training, training.T @ training
        taken = 2 * split.gains - split.gains**2  # 1 − (1 − g)²
        first, second = (
            products - np.stack([along.T @ (one[:, None] * along) for one in shares])
            for shares in (split.gains, taken)
        )
        return cls(training, concepts[split.test] - mean, along, first, second)


def _left(errors: Floats) -> float:
    """Partial R² of the errors (split, [with features, without, of the mean])."""
    if not len(errors) or np.isnan(errors).any():
        return np.nan
    full, reduced, spread = errors.sum(0)
    return float(1 - full / reduced) if reduced > _DETERMINED * spread else np.nan


def _errors(split: Split, seen: _Moments, target: int) -> tuple[float, float, float]:
    """Σ of squared held-out errors with the features, with the other concepts alone, and with the mean."""
    others = np.delete(np.arange(seen.training.shape[1]), target)
    own = seen.training[:, target]
    if split.fewest + len(others) + 1 >= len(own):
        return np.nan, np.nan, np.nan
    fixed, truth = seen.test[:, others], seen.test[:, target]
    training = seen.training[:, others]
    reduced = truth - fixed @ (_pinv(training.T @ training) @ (training.T @ own))
    setting, beta = _partial_fit(split, seen, target, others)
    along = seen.along[:, target] - seen.along[:, others] @ beta
    full = truth - fixed @ beta - split.held_out @ (split.gains[setting] * along)
    return float(full @ full), float(reduced @ reduced), float(truth @ truth)


def _partial_fit(split: Split, seen: _Moments, target: int, others: NDArray[np.intp]) -> tuple[int, Floats]:
    """Setting with the least GCV, and the coefficients of the other concepts in it."""
    among = np.ix_(np.arange(len(seen.first)), others, others)
    inverse = _pinv(seen.first[among])
    beta = np.einsum("skl,sl->sk", inverse, seen.first[:, others, target])
    contrast = np.zeros(seen.first.shape[:2])  # own concept less β times the others
    contrast[:, others], contrast[:, target] = -beta, 1.0
    rss = np.einsum("sk,skl,sl->s", contrast, seen.second, contrast)
    freedom = 1 + split.gains.sum(1) + np.einsum("skl,slk->s", inverse, seen.second[among])
    left = 1 - freedom / len(seen.training)
    score = np.full(len(rss), np.inf)
    np.divide(rss, left**2, out=score, where=left > 1e-12)
    setting = int(np.argmin(score))
    return setting, beta[setting]


def _pinv(matrices: Floats) -> Floats:
    """Pseudo-inverse of symmetric matrices; also of empty ones."""
    if not matrices.size:
        return matrices
    return np.asarray(np.linalg.pinv(matrices, rcond=_DETERMINED, hermitian=True), dtype=np.float64)


def collinearity(concepts: ArrayLike) -> Floats:
    """Variance inflation factor of each concept: 1 / (1 − R²) of its regression on the others.

    Above 10 (Marquardt 1970, doi:10.1080/00401706.1970.10488699) concepts hardly differ from combinations
    of the others, and so do their vectors.

    Parameters
    ----------
    concepts : array, (image, concept)
        NaN is undefined; which others are taken is as in :func:`partial_r2`.

    Returns
    -------
    ndarray of float64, (concept,)
        At least 1; infinite where the others determine it; NaN where it is constant or undefined, or has no
        more images than there are concepts.

    Examples
    --------
    >>> collinearity([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).tolist()
    [1.0, 1.0]
    """
    values = as_matrix(concepts, "concepts")
    values = np.where(np.isfinite(values), values, np.nan)
    found = np.full(values.shape[1], np.nan)
    for family in _families(values):
        standard = _standard(values[np.ix_(family.images, family.members)])
        for target in family.targets:
            place = int(np.searchsorted(family.members, target))
            own, others = standard[:, place], np.delete(standard, place, axis=1)
            if len(own) > len(family.members) and own.any():
                residual = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
                share = (residual @ residual) / (own @ own)
                found[target] = 1 / share if share > _DETERMINED else np.inf
    return found
