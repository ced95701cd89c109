"""Haralick's thirteen features of one co-occurrence matrix, as mahotas defines them."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wsss_probe_concepts.measures.pixel_pairs import PairCounts

__all__ = ["DIFFERENCE_VARIANCES", "FEATURES", "haralick_features"]

FEATURES: MappingProxyType[str, str] = MappingProxyType(
    {
        "angular second moment": "sum of P squared: 1 for one grey level, small for many",
        "contrast": "mean squared difference of neighbouring grey levels",
        "correlation": "correlation of neighbouring grey levels",
        "sum of squares": "variance of the grey levels that are in pairs",
        "inverse difference moment": "mean of 1 / (1 + squared difference of neighbours)",
        "sum average": "mean sum of neighbouring grey levels",
        "sum variance": "variance of the sum of neighbouring grey levels",
        "sum entropy": "entropy of the sum of neighbouring grey levels",
        "entropy": "entropy of pairs of grey levels",
        "difference variance": "variance belonging to the difference of neighbouring grey levels",
        "difference entropy": "entropy of the difference of neighbouring grey levels",
        "information correlation 1": "less mutual information of neighbours over the entropy of one",
        "information correlation 2": "sqrt(1 - exp(-2 mutual information of neighbours))",
    }
)
"""The features and what each says in a line."""


def _of_probabilities(difference: np.ndarray) -> float:
    """Variance of the values of p_(x-y), which mahotas and its forerunners take."""
    return float(difference.var())


def _of_differences(difference: np.ndarray) -> float:
    """Variance of |x - y| itself."""
    steps = np.arange(len(difference))
    return float(difference @ steps**2 - (difference @ steps) ** 2)


DIFFERENCE_VARIANCES: MappingProxyType[str, Callable[[np.ndarray], float]] = MappingProxyType(
    {"probabilities": _of_probabilities, "differences": _of_differences}
)
"""Two readings of "variance of p_(x-y)"; the paper allows both."""


def haralick_features(
    pairs: PairCounts, difference_variance: Callable[[np.ndarray], float] = _of_probabilities
) -> np.ndarray:
    r"""Compute the features from the full cells of a symmetric matrix.

    Haralick, Shanmugam, Dinstein (1973), appendix I, with the choices of mahotas: grey levels count
    from 0, entropies are in bits, the sum variance is about the sum average (the paper's f8 there is
    a misprint), and the difference variance is, unless told otherwise, that of the *values* of
    :math:`p_{x-y}`, which depends on the number of levels.

    Parameters
    ----------
    pairs : PairCounts
        At least one pair; each counted in both orders.
    difference_variance : callable
        One of :data:`DIFFERENCE_VARIANCES`.

    Returns
    -------
    ndarray of float64, (13,)
        In the order of :data:`FEATURES`. Correlation and both information measures are NaN where
        there is one grey level only; mahotas gives 1, 0 and 0.
    """
    i, j, count, levels = pairs.first, pairs.second, pairs.count, pairs.levels
    pixels = count.sum()
    one = np.bincount(i, count, levels) / pixels
    total = np.bincount(i + j, count, 2 * levels - 1) / pixels
    step = np.bincount(abs(i - j), count, levels) / pixels
    level, both = np.arange(levels), np.arange(2 * levels - 1)
    contrast, sum_average = step @ level**2, total @ both
    sum_variance = total @ (both - sum_average) ** 2
    # P is symmetric, so the mean of x - y is 0: both moments follow from those of sum and difference.
    variance, covariance = (sum_variance + contrast) / 4, (sum_variance - contrast) / 4
    alone, together = _bits(one), _bits_of_counts(count)
    mutual = 2 * alone - together
    varied = np.count_nonzero(one) > 1
    return np.array(
        [
            float(count @ count) / float(pixels) ** 2,
            contrast,
            covariance / variance if varied else np.nan,
            variance,
            step @ (1 / (1 + level**2)),
            sum_average,
            sum_variance,
            _bits(total),
            together,
            difference_variance(step),
            _bits(step),
            -mutual / alone if varied else np.nan,
            np.sqrt(max(0.0, 1 - np.exp(-2 * mutual))) if varied else np.nan,
        ]
    )


def _bits(share: np.ndarray) -> float:
    """Entropy in bits."""
    known = share[share > 0]
    return float(0.0 - known @ np.log2(known))


def _bits_of_counts(count: np.ndarray) -> float:
    """Entropy in bits of counts, of which many are equal and small: one logarithm for each size."""
    often, pixels = np.bincount(count), count.sum()
    size = np.flatnonzero(often)
    return float(np.log2(pixels) - (often[size] * size) @ np.log2(size) / pixels)
