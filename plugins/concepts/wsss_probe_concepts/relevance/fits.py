"""Directions of concepts and of permuted concepts, from one factorisation of a layer's features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.factor import factor_of
from wsss_probe_concepts.regression.fit import fit, unit
from wsss_probe_concepts.regression.missing import FEWEST, patterns
from wsss_probe_concepts.regression.permuted import permuted_positions
from wsss_probe_concepts.regression.spectrum import Projected, Spectrum, projected

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression import Model

__all__ = ["Permuted", "directions_of", "permuted_directions"]

Floats = NDArray[np.float64]

_BLOCK = 1 << 23
"""Numbers of permuted concepts and of their directions that are held at once: bounds memory."""


@final
@dataclass(frozen=True, slots=True)
class Permuted:
    """Directions of some permutations of some concepts.

    Parameters
    ----------
    first : int
        Number of the first permutation.
    concepts : ndarray of int, (concept of the block,)
        Positions of the concepts.
    directions : ndarray of float64, (permutation, concept of the block, channel)
        Unit vectors; NaN where nothing can be fitted.
    """

    first: int
    concepts: NDArray[np.intp]
    directions: Floats


def directions_of(features: ArrayLike, concepts: ArrayLike, model: Model = "ridge") -> Floats:
    """Unit direction of each concept's fit to all images.

    Parameters
    ----------
    features : array of float, (image, channel)
    concepts : array of float, (image, concept)
        NaN is undefined.
    model : {"ols", "ridge", "pca"}

    Returns
    -------
    ndarray of float64, (concept, channel)
        As :func:`wsss_probe_concepts.regression.regress` gives them; NaN where a concept is constant, has
        fewer than ten images, or every channel is constant.
    """
    rows, values = np.asarray(features, np.float64), np.asarray(concepts, np.float64)
    found = np.full((values.shape[1], rows.shape[1]), np.nan)
    for basis in _bases(rows, values):
        found[basis.concepts] = basis.directions(values[basis.images][:, basis.concepts], model)
    return found


def permuted_directions(
    features: ArrayLike,
    concepts: ArrayLike,
    groups: ArrayLike | None = None,
    model: Model = "ridge",
    *,
    number: int,
    seed: int,
) -> Iterator[Permuted]:
    """Refit permuted concepts, as :func:`directions_of` fits them, some permutations at a time.

    Whole groups are exchanged, among the images on which a concept is defined, in the order of
    :func:`wsss_probe_concepts.regression.null_r2` for the same seed.

    Parameters
    ----------
    features : array of float, (image, channel)
    concepts : array of float, (image, concept)
    groups : array, (image,), optional
    model : {"ols", "ridge", "pca"}
    number, seed : int

    Yields
    ------
    Permuted
    """
    rows, values = np.asarray(features, np.float64), np.asarray(concepts, np.float64)
    for basis in _bases(rows, values):
        positions = permuted_positions(basis.images, groups, number, seed)[:, basis.images]
        images, own = positions.shape[1], len(basis.concepts)
        width = max(1, _BLOCK // max(1, own * (images + rows.shape[1])))
        for start in range(0, number, width):
            taken = values[:, basis.concepts][positions[start : start + width]]
            columns = taken.transpose(1, 0, 2).reshape(images, -1)
            directions = basis.directions(columns, model).reshape(len(taken), own, rows.shape[1])
            yield Permuted(start, basis.concepts, directions)


# -- parts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Basis:
    """Left singular vectors of the features on the images that some concepts are defined on."""

    images: NDArray[np.bool_]
    concepts: NDArray[np.intp]
    spectrum: Spectrum
    left: Floats

    def directions(self, values: Floats, model: Model) -> Floats:
        """Unit directions of fits to these images, (column, channel); NaN where a column is constant."""
        centred = values - values.mean(axis=0)
        total = (centred**2).sum(axis=0)
        if not self.spectrum.rank or (model == "ols" and self.spectrum.n <= self.spectrum.rank + 1):
            return np.full((values.shape[1], len(self.spectrum.mean)), np.nan)
        seen = Projected(values.mean(axis=0), self.left.T @ centred, total)
        found = unit(fit(model, self.spectrum, seen).coefficient)[0]
        found[_constant(values)] = np.nan
        return found


def _bases(features: Floats, concepts: Floats) -> Iterator[_Basis]:
    """Factorise the features once for all concepts that are defined on the same images."""
    usable: NDArray[np.bool_] = np.asarray(np.isfinite(features).all(axis=1))
    for pattern in patterns(np.isfinite(concepts) & usable[:, None]):
        if pattern.images.sum() >= FEWEST:
            own = features[pattern.images]
            spectrum, _ = projected(factor_of(own), own.shape[1])
            left = (own - spectrum.mean) @ spectrum.raw_axes / spectrum.size
            yield _Basis(pattern.images, pattern.concepts, spectrum, left)


def _constant(values: NDArray[Any]) -> NDArray[np.bool_]:
    low, high = values.min(axis=0), values.max(axis=0)
    return np.asarray(high - low <= 1e-12 * np.maximum(np.abs(low), np.abs(high)))
