"""What held-out R² is worth: the same fits to concepts whose groups were exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsss_probe.errors import UsageError
from wsss_probe_concepts.regression.heldout import held_out_share
from wsss_probe_concepts.regression.missing import as_matrix, finite_rows, patterns, unfit
from wsss_probe_concepts.regression.split import splits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.folds import Folds
    from wsss_probe_concepts.regression.smoothing import Model
    from wsss_probe_concepts.regression.split import Split

__all__ = ["null_r2", "permuted_concepts", "permuted_positions"]

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

_BLOCK = 1 << 22
"""Numbers in a block of permuted concepts: bounds memory, changes no result."""


def permuted_positions(
    images: NDArray[np.bool_], groups: ArrayLike | None, number: int, seed: int
) -> Positions:
    """Where each image takes its concepts from, when whole groups are exchanged.

    Every group takes the values of another one, in their order: the first image those of the other's first.
    A group that is larger begins again at the start, one that is smaller leaves the rest out; groups of
    equal size are exchanged exactly. Similar values within a group so stay together, which the permutation
    of single images does not achieve and therefore rejects too often.

    Parameters
    ----------
    images : ndarray of bool, (image,)
        Images that take part; others keep their place.
    groups : array, (image,), optional
        Without it each image is its own group.
    number : int
        Permutations.
    seed : int
        The order of groups depends on it alone, so that concepts with other missing images share it.

    Returns
    -------
    ndarray of int, (permutation, image)
    """
    labels = np.arange(len(images)) if groups is None else np.asarray(groups)
    if labels.shape != images.shape:
        raise UsageError("groups do not fit", found=f"shape {labels.shape}", wanted=f"{images.shape}")
    names, member = np.unique(labels, return_inverse=True)
    keys = np.random.default_rng(seed).random((number, len(names)))
    chosen_images = np.flatnonzero(images)
    order = chosen_images[np.argsort(member[chosen_images], kind="stable")]
    present, starts, sizes = np.unique(member[order], return_index=True, return_counts=True)
    own = np.repeat(np.arange(len(present)), sizes)  # group of each position of `order`
    within = np.arange(len(order)) - starts[own]
    source = np.argsort(keys[:, present], axis=1, kind="stable")[:, own]
    positions = np.tile(np.arange(len(images)), (number, 1))
    positions[:, order] = order[starts[source] + within % sizes[source]]
    return positions


def permuted_concepts(concepts: ArrayLike, groups: ArrayLike | None, number: int, seed: int = 0) -> Floats:
    """Concepts whose groups were exchanged; all concepts of an image go together.

    Parameters
    ----------
    concepts : array, (image, concept)
        NaN stays where it is: values are exchanged among the images that have the concept.
    groups : array, (image,), optional
    number : int
    seed : int

    Returns
    -------
    ndarray of float64, (permutation, image, concept)

    Examples
    --------
    >>> exchanged = permuted_concepts([[1.0], [2.0], [3.0], [4.0]], ["a", "a", "b", "b"], 20)
    >>> sorted({tuple(one.ravel().tolist()) for one in exchanged})
    [(1.0, 2.0, 3.0, 4.0), (3.0, 4.0, 1.0, 2.0)]
    """
    values = as_matrix(concepts, "concepts")
    exchanged = np.full((number, *values.shape), np.nan)
    for pattern in patterns(np.asarray(~np.isnan(values))):
        positions = permuted_positions(pattern.images, groups, number, seed)
        exchanged[:, :, pattern.concepts] = values[:, pattern.concepts][positions]
    return exchanged


def null_r2(
    features: ArrayLike,
    concepts: ArrayLike,
    folds: Folds,
    model: Model = "ridge",
    number: int = 999,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> Floats:
    """Held-out R² of permuted concepts: what the same estimator reaches where features say nothing.

    Folds, factorisations and grids are those of :func:`~wsss_probe_concepts.regression.regress.regress`;
    penalty or number of components is chosen anew for each permuted concept in each training part.

    Parameters
    ----------
    features : array, (image, channel)
    concepts : array, (image, concept)
    folds : Folds
    model : {"ols", "ridge", "pca"}
    number : int
        Permutations; p is never below 1/(number + 1).
    seed : int
    groups : array, (image,), optional
        Exchanged as wholes; those that the folds were made with.

    Returns
    -------
    ndarray of float64, (permutation, concept)
        NaN where the concept is not estimable.
    """
    values, array = as_matrix(concepts, "concepts"), as_matrix(features, "features")
    values = np.where(np.isfinite(values) & finite_rows(array), values, np.nan)
    null = np.full((number, values.shape[1]), np.nan)
    for pattern in patterns(np.asarray(~np.isnan(values))):
        able = unfit(values[:, pattern.concepts], pattern.images, folds) == ""
        splits = splits_of(array, pattern.images, folds, model) if able.any() else []
        if splits:
            kept = pattern.concepts[able]
            positions = permuted_positions(pattern.images, groups, number, seed)
            null[:, kept] = _held_out(values[:, kept], positions, splits)
    return null


def _held_out(concepts: Floats, positions: Positions, splits: Sequence[Split]) -> Floats:
    """Held-out R² of every permutation, (permutation, concept), in blocks of permutations."""
    number, (images, count) = len(positions), concepts.shape
    # in units of its own spread a concept's squares neither vanish nor overflow
    scale = np.nanmax(np.abs(concepts - np.nanmean(concepts, axis=0)), axis=0)
    standard = (concepts - np.nanmean(concepts, axis=0)) / scale
    found = np.empty((number, count))
    block = max(1, _BLOCK // (images * count))
    for start in range(0, number, block):
        taken = standard[positions[start : start + block].T].reshape(images, -1)
        sums = np.array([split.errors(taken) for split in splits]).sum(0)
        found[start : start + block] = held_out_share(sums[0], sums[1]).reshape(-1, count)
    return found
