"""What a linear fit needs of its images: their number, means, and one root of their centred cross products.

The root R of [X, C] has RᵀR = Σ (row − mean)(row − mean)ᵀ. It is made by QR, never by products, so that
ill-conditioned features keep their digits, and roots of disjoint images merge (TSQR: Demmel, Grigori,
Hoemmen, Langou 2012, doi:10.1137/080731992): a fit needs O((p + K)²) numbers, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factor", "factor_of", "merged"]

Floats = NDArray[np.float64]

_SPARE = 2
"""A root is compressed once it has this many rows a column; a QR for every chunk would cost more."""


@final
@dataclass(frozen=True, slots=True)
class Factor:
    """Number, mean and root of the centred rows of a matrix.

    Parameters
    ----------
    n : int
        Rows, that is images.
    mean : ndarray of float64, (column,)
    root : ndarray of float64, (row, column)
        ``root.T @ root`` are the centred cross products; at most ``2 * column`` rows.
    """

    n: int
    mean: Floats
    root: Floats


def factor_of(rows: Floats) -> Factor:
    """Factor of the rows of one chunk.

    Parameters
    ----------
    rows : ndarray of float64, (image, column)
        Finite.

    Returns
    -------
    Factor
    """
    mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
    return Factor(len(rows), mean, _compressed(rows - mean))


def merged(factors: Sequence[Factor]) -> Factor:
    """Factor of all images of several factors.

    The cross products about the common mean are those of each part, and n_i (mean_i − mean)(mean_i − mean)ᵀ
    (Chan, Golub, LeVeque 1983, doi:10.2307/2683386): one more row a part.

    Parameters
    ----------
    factors : sequence of Factor
        Of disjoint images, with equal columns; at least one.

    Returns
    -------
    Factor
    """
    filled = [factor for factor in factors if factor.n] or [factors[0]]
    if len(filled) == 1:
        return filled[0]
    counts = np.array([factor.n for factor in filled], dtype=np.float64)
    means = np.stack([factor.mean for factor in filled])
    mean = means[0] + counts @ (means - means[0]) / counts.sum()
    between = np.sqrt(counts)[:, None] * (means - mean)
    root = np.concatenate([*(factor.root for factor in filled), between])
    return Factor(sum(factor.n for factor in filled), mean, _compressed(root))


def _compressed(root: Floats) -> Floats:
    """The same cross products in no more rows than columns, if there are many more."""
    if len(root) <= _SPARE * root.shape[1]:
        return root
    return np.asarray(np.linalg.qr(root, mode="r"))
