"""Features on their principal axes: one factorisation that serves every concept and every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.factor import Factor, factor_of

__all__ = ["Projected", "Spectrum", "projected", "scored"]

Floats = NDArray[np.float64]

_CONSTANT = 1e-12
"""Spread over the largest size, up to which a column counts as constant: rounding, not a signal."""

_RANK = 1e-10
"""Singular values below this share of the largest count as 0: copies of channels up to rounding."""


@final
@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular value decomposition of centred features, each in units of its own standard deviation.

    Standardised, a fit does not depend on the units of a channel, also where channels are copies of each
    other and the minimum-norm solution is taken. Constant channels have no part in it.

    Parameters
    ----------
    n : int
        Images.
    mean : ndarray of float64, (channel,)
    scale : ndarray of float64, (channel,)
        Population standard deviation; 0 where constant.
    axes : ndarray of float64, (channel, component)
        Right singular vectors, in standardised units; 0 for constant channels.
    size : ndarray of float64, (component,)
        Singular values above 0, descending; as many as the rank.
    """

    n: int
    mean: Floats
    scale: Floats
    axes: Floats
    size: Floats

    @property
    def rank(self) -> int:
        """Linearly independent channels, in these images."""
        return len(self.size)

    @property
    def raw_axes(self) -> Floats:
        """Axes by which centred raw features are multiplied, (channel, component)."""
        scale = np.where(self.scale > 0, self.scale, 1.0)
        return self.axes / scale[:, None]


@final
@dataclass(frozen=True, slots=True)
class Projected:
    """Concepts as the same factorisation sees them.

    Parameters
    ----------
    mean : ndarray of float64, (concept,)
    along : ndarray of float64, (component, concept)
        Left singular vectors times concepts: all that any fit needs of them.
    total : ndarray of float64, (concept,)
        Σ (value − mean)².
    """

    mean: Floats
    along: Floats
    total: Floats

    @property
    def beside(self) -> Floats:
        """Sum of squares that no linear fit reaches, (concept,)."""
        return np.asarray(np.maximum(self.total - (self.along**2).sum(0), 0.0))


def projected(factor: Factor, channels: int) -> tuple[Spectrum, Projected]:
    """Decompose the features of a factor, and project its concepts.

    Parameters
    ----------
    factor : Factor
        Of ``[features, concepts]``.
    channels : int
        How many of its columns are features.

    Returns
    -------
    Spectrum, Projected
        A concept that is constant up to rounding has ``total`` 0.
    """
    features, concepts = factor.root[:, :channels], factor.root[:, channels:]
    spectrum, left = _decomposed(Factor(factor.n, factor.mean[:channels], features))
    spread = _spread(concepts, factor.mean[channels:], factor.n)
    varied = np.where(spread > 0, concepts, 0.0)
    return spectrum, Projected(factor.mean[channels:], left.T @ varied, (varied**2).sum(0))


def scored(features: Floats) -> tuple[Spectrum, Floats]:
    """Decompose features that are in memory, with the scores of their images.

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
        Finite.

    Returns
    -------
    spectrum : Spectrum
    scores : ndarray of float64, (image, component)
        Left singular vectors: orthonormal columns, each of mean 0.
    """
    factor = factor_of(features)
    spectrum, left = _decomposed(factor)
    if len(left) != len(features):  # the factor has merged images
        left = (features - spectrum.mean) @ spectrum.raw_axes / spectrum.size
    return spectrum, left


def _decomposed(factor: Factor) -> tuple[Spectrum, Floats]:
    """Decompose a factor of features; its left vectors (row of the root, component) as well."""
    scale = _spread(factor.root, factor.mean, factor.n)
    kept = scale > 0
    left, size, right = _svd(factor.root[:, kept] / scale[kept])
    above = size > _RANK * size.max(initial=0.0)
    axes = np.zeros((len(scale), int(above.sum())))
    axes[kept] = right[above].T
    return Spectrum(factor.n, factor.mean, scale, axes, size[above]), left[:, above]


def _svd(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Singular value decomposition; a wide matrix is first reduced to a square, which takes less time."""
    if matrix.shape[1] <= matrix.shape[0]:
        left, size, right = np.linalg.svd(matrix, full_matrices=False)
        return left, size, right
    basis, triangle = np.linalg.qr(matrix.T)
    left, size, right = np.linalg.svd(triangle.T)
    return left, size, right @ basis.T


def _spread(root: Floats, mean: Floats, n: int) -> Floats:
    """Population standard deviation of each column, 0 where it is nothing but rounding."""
    spread = np.sqrt((root**2).sum(0) / max(n, 1))
    return np.where(spread > _CONSTANT * np.abs(mean), spread, 0.0)
