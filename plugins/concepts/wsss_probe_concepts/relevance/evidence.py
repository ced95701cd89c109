"""What one network says at one layer: features, gradients, and whose images they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.statistics import resampled_sums

__all__ = ["Evidence"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What one network says at one layer.

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
        Means over positions.
    gradient : ndarray of float64, (image, class, channel)
        NaN for images that could not be read.
    member : ndarray of bool, (image, class)
    groups : ndarray or None, (image,)
    """

    features: Floats
    gradient: Floats
    member: NDArray[np.bool_]
    groups: NDArray[Any] | None

    @property
    def own(self) -> NDArray[np.bool_]:
        """Images of each class with a gradient, (image, class)."""
        return np.asarray(self.member & np.isfinite(self.gradient).all(axis=2))

    @property
    def size(self) -> Floats:
        """Root mean square of the gradient over the images of each class, (class,); NaN without one."""
        squares = np.where(self.own, (self.gradient**2).sum(axis=2), 0.0)
        return np.sqrt(_ratio(squares.sum(axis=0), self.own.sum(axis=0)))

    @property
    def mean_gradient(self) -> Floats:
        """Mean gradient over the images of each class, (class, channel); NaN without an image."""
        sums = np.where(self.own[..., None], self.gradient, 0.0).sum(axis=0)
        return _ratio(sums, self.own.sum(axis=0)[:, None])

    @property
    def group_numbers(self) -> NDArray[np.intp]:
        """Independent groups with an image of each class, (class,)."""
        names = np.arange(len(self.own)) if self.groups is None else self.groups
        return np.array([len(np.unique(names[column])) for column in self.own.T], dtype=np.intp)

    def alignment(self, direction: Floats) -> Floats:
        """Cosine of each direction with the mean gradient of each class.

        Parameters
        ----------
        direction : ndarray of float64, (concept, channel)
            Unit vectors.

        Returns
        -------
        ndarray of float64, (class, concept)
            In [-1, 1]: unlike the sensitivity it has no unit, so networks compare. NaN where the gradient
            is 0.
        """
        return _cosine(self.mean_gradient, direction)

    def alignment_bounds(self, direction: Floats, *, resamples: int, seed: int) -> tuple[Floats, Floats]:
        """95 % interval of :meth:`alignment` over groups, with directions as they are.

        Parameters
        ----------
        direction : ndarray of float64, (concept, channel)
        resamples, seed : int

        Returns
        -------
        low, high : ndarray of float64, (class, concept)
            NaN with fewer than two groups of the class.
        """
        ends = np.full((2, self.gradient.shape[1], len(direction)), np.nan)
        for row, number in enumerate(self.group_numbers):
            own = self.own[:, row]
            if number < 2:
                continue
            groups = None if self.groups is None else self.groups[own]
            sums = resampled_sums(self.gradient[own, row], groups, resamples=resamples, seed=seed)
            cosines = _cosine(sums, direction)
            known = np.isfinite(cosines).all(axis=0)
            ends[:, row, known] = np.quantile(cosines[:, known], (0.025, 0.975), axis=0)
        return ends[0], ends[1]


def _cosine(vectors: Floats, direction: Floats) -> Floats:
    return _ratio(vectors @ direction.T, np.linalg.norm(vectors, axis=-1, keepdims=True))


def _ratio(numerator: Floats, denominator: Any) -> Floats:
    """Quotient that is NaN, without a warning, where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=np.broadcast_to(denominator, quotient.shape) > 0)
    return quotient
