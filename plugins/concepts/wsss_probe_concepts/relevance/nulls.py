"""What scores of concepts are worth: permuted concepts and random directions, scored in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsss_probe.statistics import permutation_p

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["null_range", "random_directions", "two_sided_p"]

Floats = NDArray[np.float64]


def random_directions(channels: int, number: int, seed: int) -> Floats:
    """Unit vectors without a preferred direction.

    Parameters
    ----------
    channels, number, seed : int

    Returns
    -------
    ndarray of float64, (direction, channel)
    """
    drawn = np.random.default_rng(seed).normal(size=(number, channels))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def two_sided_p(observed: ArrayLike, null: ArrayLike, *, symmetric: bool) -> Floats:
    """Share of a null that lies as far out as what was observed, on either side.

    Parameters
    ----------
    observed : array of float, (...)
    null : array of float, (permutation, ...)
        NaN is left out.
    symmetric : bool
        Whether the null lies about 0 by construction (a mean sensitivity, of which a direction and its
        opposite are equally likely): then absolute values are compared. Otherwise, for a share of images
        whose null has a middle of its own, the smaller of the two one-sided p is doubled.

    Returns
    -------
    ndarray of float64, (...)
        In [1 / (R + 1), 1]; NaN where the observation or the whole null is.

    Examples
    --------
    >>> float(two_sided_p(1.0, [0.0, 1.0, 1.0], symmetric=False))
    1.0
    """
    truth, others = np.asarray(observed, np.float64), np.asarray(null, np.float64)
    if symmetric:
        return permutation_p(np.abs(truth), np.abs(others))
    above, below = permutation_p(truth, others), permutation_p(-truth, -others)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(above, below)))


def null_range(null: Floats) -> tuple[Floats, Floats]:
    """2.5th and 97.5th percentile of a null, NaN left out.

    Parameters
    ----------
    null : ndarray of float64, (permutation, ...)

    Returns
    -------
    low, high : ndarray of float64, (...)
        NaN where nothing is defined.
    """
    flat = null.reshape(len(null), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    for position, column in enumerate(flat.T):
        defined = column[np.isfinite(column)]
        if len(defined):
            ends[:, position] = np.quantile(defined, (0.025, 0.975))
    low, high = ends.reshape(2, *null.shape[1:])
    return low, high
