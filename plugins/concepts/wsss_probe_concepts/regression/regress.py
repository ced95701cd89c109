"""Fits of regression concept vectors: every concept at once, on all images and on each training part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsss_probe.errors import UsageError
from wsss_probe_concepts.regression.factor import Factor, factor_of, merged
from wsss_probe_concepts.regression.fit import Fit, fit, unit
from wsss_probe_concepts.regression.missing import Pattern, as_matrix, finite_rows, patterns, unfit
from wsss_probe_concepts.regression.regression import Draft, Regression, finished
from wsss_probe_concepts.regression.regression import drafts as start_drafts
from wsss_probe_concepts.regression.smoothing import MODELS, PENALTIES, component_numbers, inestimable
from wsss_probe_concepts.regression.spectrum import projected

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.folds import Folds
    from wsss_probe_concepts.regression.smoothing import Model

__all__ = ["Chunks", "regress", "regress_chunks"]

Floats = NDArray[np.float64]

Chunks = Callable[[], Iterable[Floats]]
"""Gives the features of all images, in their order, some rows at a time; called more than once."""


def regress(
    features: ArrayLike, concepts: ArrayLike, folds: Folds, models: Sequence[Model] = MODELS
) -> dict[Model, Regression]:
    """Fit every concept to averaged features, on all images and on each training part.

    One singular value decomposition a training part serves all concepts and models. Images with a feature
    that is not finite are left out; a concept leaves out those where it is not.

    Parameters
    ----------
    features : array, (image, channel)
        Spatial means or maxima of one layer's maps.
    concepts : array, (image, concept)
        NaN is undefined.
    folds : Folds
    models : sequence of {"ols", "ridge", "pca"}

    Returns
    -------
    dict of str to Regression

    Raises
    ------
    UsageError
        If shapes do not fit each other or the folds.

    Notes
    -----
    RCV: Graziani, Andrearczyk, Müller 2018, doi:10.1007/978-3-030-02628-8_14, section 2.2. In-sample R² grows
    with the number of channels and reaches 1 at n = p + 1 whatever they hold; only held-out R² says what a
    layer encodes.
    """
    array = as_matrix(features, "features")
    return regress_chunks(lambda: [array], concepts, folds, models)


def regress_chunks(
    chunks: Chunks, concepts: ArrayLike, folds: Folds, models: Sequence[Model] = MODELS
) -> dict[Model, Regression]:
    """Fit as :func:`regress` does, to features that come some rows at a time.

    Beside one chunk and what is returned it holds O((channels + concepts)²) numbers a fold: memory does not
    grow with the images.

    Parameters
    ----------
    chunks : callable
        ``chunks()`` iterates over features, (some images, channel), in the order of images; called once,
        and twice more a repeat and pattern of missing values.
    concepts : array, (image, concept)
    folds : Folds
    models : sequence of {"ols", "ridge", "pca"}

    Returns
    -------
    dict of str to Regression

    Raises
    ------
    UsageError
        If shapes do not fit each other or the folds.
    """
    values = as_matrix(concepts, "concepts")
    finite, channels = _finite(chunks, len(values))
    if folds.repeats and folds.images != len(values):
        raise UsageError(
            "the folds do not fit", found=f"{folds.images} images", wanted=f"{len(values)} images"
        )
    values = np.where(np.isfinite(values) & finite[:, None], values, np.nan)
    drafts = start_drafts(values, folds, channels, models)
    for pattern in patterns(~np.isnan(values)):
        reasons = unfit(values[:, pattern.concepts], pattern.images, folds)
        for draft in drafts.values():
            draft.reason[pattern.concepts] = reasons
        able = Pattern(pattern.images, pattern.concepts[reasons == ""])
        if len(able.concepts):
            _fill(drafts, chunks, values, folds, able)
    return {model: finished(model, draft, folds) for model, draft in drafts.items()}


def _finite(chunks: Chunks, images: int) -> tuple[NDArray[np.bool_], int]:
    """Images whose features are all finite, (image,), and the number of channels."""
    finite, channels = [np.empty((0, 1), dtype=bool)], 0
    for rows in chunks():
        finite.append(finite_rows(rows))
        channels = rows.shape[1]
    found = np.concatenate(finite)[:, 0]
    if len(found) != images:
        raise UsageError(
            "features and concepts do not fit",
            found=f"{len(found)} rows of features",
            wanted=f"one for each of {images} images",
        )
    return found, channels


# -- one pattern of missing values ---------------------------------------------------------------


def _fill(
    drafts: Mapping[Model, Draft], chunks: Chunks, values: Floats, folds: Folds, pattern: Pattern
) -> None:
    """Fit and predict the concepts of one pattern, repeat by repeat."""
    own = values[:, pattern.concepts]
    for repeat in range(folds.repeats):
        test = folds.of_repeat(repeat)
        placed = np.full(len(values), -1)
        for split, positions in test.items():
            placed[positions] = split
        placed[~pattern.images] = -1
        factors = _factors(chunks, own, placed, list(test))
        if repeat == 0:
            _fill_full(drafts, merged(list(factors.values())), pattern.concepts)
        training = {}
        for split in test:
            others = merged([factor for other, factor in factors.items() if other != split])
            training[split] = _fits(drafts, others, pattern.concepts, "in a training part")
        del factors  # predicting needs their memory
        _fill_residuals(drafts, chunks, own, placed, training, (repeat, pattern.concepts))


def _rows(chunks: Chunks) -> Iterator[tuple[slice, Floats]]:
    """Chunks with the positions of their images."""
    start = 0
    for rows in chunks():
        yield slice(start, start + len(rows)), np.asarray(rows, dtype=np.float64)
        start += len(rows)


def _factors(
    chunks: Chunks, concepts: Floats, placed: NDArray[np.intp], splits: Sequence[int]
) -> dict[int, Factor]:
    """Factor of features and concepts of each split's held-out images."""
    factors: dict[int, Factor] = {}
    for place, rows in _rows(chunks):
        for split in splits:
            chosen = placed[place] == split
            part = factor_of(np.concatenate([rows[chosen], concepts[place][chosen]], axis=1))
            factors[split] = merged([factors[split], part]) if split in factors else part
    return factors


@dataclass(frozen=True, slots=True)
class _Fits:
    """What one factor gave: the mean of each concept, the rank, and the fit of each model that can be."""

    mean: Floats
    rank: int
    fits: Mapping[Model, Fit]


def _fits(drafts: Mapping[Model, Draft], factor: Factor, concepts: NDArray[np.intp], where: str) -> _Fits:
    """Fit every model that can be; say where one cannot."""
    spectrum, seen = projected(factor, len(factor.mean) - len(concepts))
    fits: dict[Model, Fit] = {}
    for model, draft in drafts.items():
        # A model that failed for one training part fails for all concepts of the pattern
        reason = draft.reason[concepts[0]] or inestimable(model, spectrum, where)
        draft.reason[concepts] = reason
        if not reason:
            fits[model] = fit(model, spectrum, seen)
    return _Fits(seen.mean, spectrum.rank, fits)


def _fill_full(drafts: Mapping[Model, Draft], factor: Factor, concepts: NDArray[np.intp]) -> None:
    """What is said of the fit to all images."""
    found = _fits(drafts, factor, concepts, "of all images")
    for draft in drafts.values():
        draft.arrays["rank"][concepts] = found.rank
    for model, one in found.fits.items():
        direction, length = unit(one.coefficient)
        unexplained = one.rss / one.total
        said = {
            "direction": direction,
            "length": length,
            "intercept": one.mean - one.centre @ one.coefficient,
            "r2_train": 1 - unexplained,
            "r2_adjusted": 1 - unexplained * (factor.n - 1) / (factor.n - 1 - one.freedom),
            "freedom": one.freedom,
        }
        if model == "ridge":
            said["penalty"] = PENALTIES[one.setting]
        if model == "pca":
            said["components"] = component_numbers(factor.n, found.rank)[one.setting].astype(np.float64)
        for name, value in said.items():
            drafts[model].arrays[name][concepts] = value


def _fill_residuals(
    drafts: Mapping[Model, Draft],
    chunks: Chunks,
    values: Floats,
    placed: NDArray[np.intp],
    training: Mapping[int, _Fits],
    where: tuple[int, NDArray[np.intp]],
) -> None:
    """Predict the held-out images of one repeat, and keep the direction of each split."""
    repeat, concepts = where
    for split, found in training.items():
        for model, one in found.fits.items():
            drafts[model].arrays["fold_direction"][split, concepts] = unit(one.coefficient)[0]
    baseline = next(iter(drafts.values())).arrays["baseline"]
    for place, rows in _rows(chunks):
        for split, found in training.items():
            local = np.flatnonzero(placed[place] == split)
            images = place.start + local
            into = np.ix_(np.array([repeat]), images, concepts)
            baseline[into] = found.mean - values[images]
            for model, one in found.fits.items():
                drafts[model].arrays["residual"][into] = one.predict(rows[local]) - values[images]
