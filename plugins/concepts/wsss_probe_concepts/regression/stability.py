"""How far a direction moves with the images it was fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.factor import factor_of
from wsss_probe_concepts.regression.fit import fit, unit
from wsss_probe_concepts.regression.missing import FEWEST, Pattern, as_matrix, finite_rows, patterns
from wsss_probe_concepts.regression.smoothing import inestimable
from wsss_probe_concepts.regression.spectrum import projected

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.regression import Regression
    from wsss_probe_concepts.regression.smoothing import Model

__all__ = ["Stability", "bootstrap_directions", "stability"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Stability:
    """Angles between the directions of different splits, in radians, [0, π].

    Parameters
    ----------
    mean, largest : ndarray of float64, (concept,)
        Over pairs of splits; NaN where fewer than two splits have a direction.
    """

    mean: Floats
    largest: Floats


def stability(regression: Regression) -> Stability:
    """Angles between the RCVs of different training parts.

    Two training parts of 5 folds share three quarters of their images, so angles are smaller than between
    independent samples; two random directions of p channels are π/2 apart. Angles are taken in raw feature
    units: channels with large values weigh more.

    Parameters
    ----------
    regression : Regression

    Returns
    -------
    Stability
    """
    directions = regression.fold_direction
    concepts = directions.shape[1]
    mean, largest = np.full(concepts, np.nan), np.full(concepts, np.nan)
    for concept in range(concepts):
        own = directions[:, concept]
        own = own[~np.isnan(own).any(1)]
        if len(own) >= 2:
            upper = np.triu_indices(len(own), 1)
            angles = np.arccos(np.clip((own @ own.T)[upper], -1.0, 1.0))
            mean[concept], largest[concept] = angles.mean(), angles.max()
    return Stability(mean, largest)


def bootstrap_directions(
    features: ArrayLike,
    concepts: ArrayLike,
    model: Model = "ridge",
    groups: ArrayLike | None = None,
    number: int = 100,
    seed: int = 0,
) -> Floats:
    """Cosine of the direction in resampled groups with that of all images.

    Whole groups are drawn with replacement, as many as there are. One singular value decomposition a
    replicate; drawn twice, an image counts twice in the choice of the penalty as well.

    Parameters
    ----------
    features : array, (image, channel)
    concepts : array, (image, concept)
    model : {"ols", "ridge", "pca"}
    groups : array, (image,), optional
        Group of each image. Without it each image is its own group.
    number : int
        Replicates.
    seed : int

    Returns
    -------
    ndarray of float64, (replicate, concept)
        NaN where one of the two fits is not estimable, and with fewer than two groups.
    """
    array, values = as_matrix(features, "features"), as_matrix(concepts, "concepts")
    values = np.where(np.isfinite(values) & finite_rows(array), values, np.nan)
    cosines = np.full((number, values.shape[1]), np.nan)
    for pattern in patterns(~np.isnan(values)):
        images = np.flatnonzero(pattern.images)
        labels = images if groups is None else np.asarray(groups)[images]
        names, member = np.unique(labels, return_inverse=True)
        if len(images) < FEWEST or len(names) < 2:
            continue
        drawn = np.random.default_rng(seed).integers(len(names), size=(number, len(names)))
        full = _directions(array, values, images, pattern, model)
        for replicate, chosen in enumerate(drawn):
            times = np.bincount(chosen, minlength=len(names))[member]
            found = _directions(array, values, np.repeat(images, times), pattern, model)
            cosines[replicate, pattern.concepts] = (found * full).sum(1)
    return cosines


def _directions(
    features: Floats, concepts: Floats, images: NDArray[np.intp], pattern: Pattern, model: Model
) -> Floats:
    """Directions of the fit to some images, (concept of the pattern, channel); NaN if not estimable."""
    joined = np.concatenate([features[images], concepts[np.ix_(images, pattern.concepts)]], axis=1)
    spectrum, seen = projected(factor_of(joined), features.shape[1])
    if inestimable(model, spectrum):
        return np.full((len(pattern.concepts), features.shape[1]), np.nan)
    return unit(fit(model, spectrum, seen).coefficient)[0]
