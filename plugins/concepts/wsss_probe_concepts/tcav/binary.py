"""Which measured concepts are there or not: two values, each on enough images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["FEWEST", "Binary", "binary_concepts"]

FEWEST = 20
"""Images with each value below which no vector is fitted."""


@final
@dataclass(frozen=True, slots=True)
class Binary:
    """A concept with two values.

    Parameters
    ----------
    position : int
        Among all concepts.
    low, high : float
        The values; the vector leads to images with the higher one.
    known : ndarray of bool, (image,)
        Images with a value.
    present : ndarray of bool, (image,)
        Images with the higher value.
    """

    position: int
    low: float
    high: float
    known: NDArray[np.bool_]
    present: NDArray[np.bool_]

    @property
    def counts(self) -> tuple[int, int]:
        """Images with the lower and with the higher value."""
        present = int(self.present.sum())
        return int(self.known.sum()) - present, present


def binary_concepts(values: ArrayLike) -> tuple[Binary, ...]:
    """Find the concepts with exactly two values, each on at least 20 images.

    Parameters
    ----------
    values : array of float, (image, concept)
        NaN is undefined.

    Returns
    -------
    tuple of Binary

    Examples
    --------
    >>> column = [[0.0]] * 20 + [[1.0]] * 25 + [[float("nan")]]
    >>> [found] = binary_concepts(column)
    >>> found.low, found.high, found.counts
    (0.0, 1.0, (20, 25))
    """
    columns = np.asarray(values, np.float64).T
    found = (_binary(position, column) for position, column in enumerate(columns))
    return tuple(one for one in found if one is not None and min(one.counts) >= FEWEST)


def _binary(position: int, column: NDArray[np.float64]) -> Binary | None:
    known: NDArray[np.bool_] = np.asarray(np.isfinite(column))
    levels = np.unique(column[known])
    if len(levels) != 2:
        return None
    present = known & (column == levels[1])
    return Binary(position, float(levels[0]), float(levels[1]), known, np.asarray(present))
