"""Sensitivity of class logits along concept vectors: TCAV score and bidirectional relevance.

Pure functions of gradients, unit directions and class membership; nothing here knows of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["ROUNDING", "Scores", "bidirectional_relevance", "score", "sensitivities"]

Floats = NDArray[np.float64]

ROUNDING = 1e-6
"""Spread of a sensitivity, over the size of the gradient, up to which it counts as no spread at all:
gradients are stored in float32, so a constant one varies by about 1e-7 of its size."""

_BLOCK = 1 << 24
"""Sensitivities that are held at once: bounds memory where there are thousands of directions."""


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of directions over the images of each class.

    Parameters
    ----------
    tcav : ndarray of float64, (class, concept)
        Share of images with a positive sensitivity, in [0, 1].
    mean, spread : ndarray of float64, (class, concept)
        Mean and population standard deviation of the sensitivity, in logits per unit of activation.
    ratio : ndarray of float64, (class, concept)
        ``mean / spread``; NaN where the spread is 0 but for rounding.
    n : ndarray of int, (class, concept)
        Images of the class with a sensitivity.
    """

    tcav: Floats
    mean: Floats
    spread: Floats
    ratio: Floats
    n: NDArray[np.intp]


def sensitivities(gradient: ArrayLike, directions: ArrayLike) -> Floats:
    """Derivative of each image's logits along each direction.

    ``S = g · v`` with the gradient averaged over positions (Graziani, Andrearczyk, Müller 2018,
    arXiv:1904.04520, on logits). The derivative of the logit under adding ``ε v`` at every position is
    ``h w S``.

    Parameters
    ----------
    gradient : array of float, (image, class, channel)
    directions : array of float, (concept, channel)
        Unit vectors in raw feature units; NaN where there is none.

    Returns
    -------
    ndarray of float64, (image, class, concept)
        NaN where the gradient or the direction is.

    Examples
    --------
    >>> sensitivities([[[2.0, -1.0]]], [[1.0, 0.0], [0.0, 1.0]]).tolist()
    [[[2.0, -1.0]]]
    """
    return np.asarray(np.asarray(gradient, np.float64) @ np.asarray(directions, np.float64).T)


def score(gradient: ArrayLike, directions: ArrayLike, member: ArrayLike) -> Scores:
    """Score directions over the images of each class.

    Parameters
    ----------
    gradient : array of float, (image, class, channel)
        NaN for images that could not be read.
    directions : array of float, (concept, channel)
    member : array of bool, (image, class)
        Whether an image is one of the class's.

    Returns
    -------
    Scores
        NaN where a class has no image, or a concept no direction. A sensitivity of exactly 0 is not
        positive.
    """
    slopes, vectors = np.asarray(gradient, np.float64), np.asarray(directions, np.float64)
    belongs = np.asarray(member, bool) & np.isfinite(slopes).all(axis=2)
    parts = [_class_scores(slopes[belongs[:, c], c], vectors) for c in range(slopes.shape[1])]
    tcav, mean, spread, ratio, number = (np.stack(values) for values in zip(*parts, strict=True))
    return Scores(tcav, mean, spread, ratio, number.astype(np.intp))


def _class_scores(gradient: Floats, directions: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """TCAV score, mean, spread, ratio and number of one class's images, each (concept,)."""
    images, vectors = len(gradient), len(directions)
    found = np.full((4, vectors), np.nan)
    defined = np.isfinite(directions).all(axis=1)
    size = np.sqrt((gradient**2).sum(axis=1).mean()) if images else 0.0
    width = max(1, _BLOCK // max(1, images))
    for start in range(0, vectors if images else 0, width):
        part = slice(start, start + width)
        found[:, part] = _moments(gradient @ directions[part].T, ROUNDING * size)
    found[:, ~defined] = np.nan
    return found[0], found[1], found[2], found[3], np.where(defined, images, 0).astype(float)


def _moments(sensitivity: Floats, rounding: float) -> Floats:
    """TCAV score, mean, spread and ratio over images, (4, concept)."""
    mean, spread = sensitivity.mean(axis=0), sensitivity.std(axis=0)
    ratio = np.full(mean.shape, np.nan)
    np.divide(mean, spread, out=ratio, where=spread > rounding)
    return np.stack([(sensitivity > 0).mean(axis=0), mean, spread, ratio])


def bidirectional_relevance(r2: ArrayLike, ratio: ArrayLike) -> Floats:
    """Bidirectional relevance Br of concepts for classes.

    ``Br = max(R², 0) · mean(S) / std(S)`` (Graziani, Andrearczyk, Müller 2018, arXiv:1904.04520) with the
    held-out R²; clamped, since a negative one would turn the sign of Br.

    Parameters
    ----------
    r2 : array of float, (..., concept)
        Held-out R² of the concept's regression.
    ratio : array of float, (..., concept)
        ``mean(S) / std(S)`` over the class's images.

    Returns
    -------
    ndarray of float64, (..., concept)
        Unbounded, of the sign of the mean sensitivity; NaN where either is.

    Examples
    --------
    >>> bidirectional_relevance([0.5, -0.2], [-2.0, 3.0]).tolist()
    [-1.0, 0.0]
    """
    return np.asarray(np.maximum(np.asarray(r2, np.float64), 0.0) * np.asarray(ratio, np.float64))
