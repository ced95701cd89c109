"""Drawing couples of entries with the same value, and for each a third entry with another value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

__all__ = ["Couples", "agree", "draw_couples"]

_DRAWS = 64
"""Draws for each third entry."""


@final
@dataclass(frozen=True, slots=True)
class Couples:
    """Couples of entries of one row each, and a third entry of that row.

    Parameters
    ----------
    row : ndarray of int, (couple,)
    entry : ndarray of int, (couple, 3)
        First, second, and the third one, whose value does not agree with the first's; -1 where none was
        found.
    total : int
        Couples that agree, drawn or not.
    """

    row: np.ndarray
    entry: np.ndarray
    total: int


def agree(one: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether two positive values differ by at most a share of the larger; NaN agrees with nothing.

    Parameters
    ----------
    one, other : ndarray of float
    tolerance : float

    Returns
    -------
    ndarray of bool
    """
    same: np.ndarray = np.abs(one - other) <= tolerance * np.maximum(one, other)
    return same


def draw_couples(values: np.ndarray, tolerance: float, at_most: int, seed: int) -> Couples:
    """Draw couples that agree, each as likely as any other, and a third entry for each.

    Rows are sorted and compared at a distance of one place, two places, and so on; each couple found gets a
    random key, and the smallest keys stay. So memory follows the table and not the number of couples.

    Parameters
    ----------
    values : ndarray, (row, entry)
        Only positive, finite values take part.
    tolerance : float
        See :func:`agree`.
    at_most : int
    seed : int

    Returns
    -------
    Couples

    Examples
    --------
    >>> couples = draw_couples(np.array([[0.5, 0.1, 0.5, 0.3]]), 1e-3, 10, seed=0)
    >>> sorted(couples.entry[0, :2].tolist()), couples.total
    ([0, 2], 1)
    """
    generator = np.random.default_rng(seed)
    usable = np.where(np.isfinite(values) & (values > 0), values, np.nan).astype(np.float64)
    order = np.argsort(usable, axis=1)  # NaN last
    ordered = np.take_along_axis(usable, order, axis=1)
    row, low, lag, total = _draw(ordered, tolerance, at_most, generator)
    ends = np.stack([order[row, low], order[row, low + lag]], axis=1)
    ends = generator.permuted(ends, axis=1)  # the first is as often the larger one
    third = _third(usable, row, ends[:, 0], tolerance, generator)
    return Couples(row, np.column_stack([ends, third]), total)


def _draw(
    ordered: np.ndarray, tolerance: float, at_most: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Row, place and distance in places of random couples that agree; number of all."""
    kept = np.empty((3, 0), dtype=np.intp)
    keys = np.empty(0)
    total = 0
    for lag in range(1, ordered.shape[1]):
        row, low = np.nonzero(agree(ordered[:, :-lag], ordered[:, lag:], tolerance))
        if not len(row):
            break  # further apart in order is further apart in value
        total += len(row)
        drawn = generator.random(len(row))
        small = drawn < (keys.max() if len(keys) == at_most else np.inf)
        found = np.stack([row[small], low[small], np.full(int(small.sum()), lag)])
        keys = np.concatenate([keys, drawn[small]])
        best = np.argsort(keys, kind="stable")[:at_most]
        kept, keys = np.concatenate([kept, found], axis=1)[:, best], keys[best]
    return kept[0], kept[1], kept[2], total


def _third(
    usable: np.ndarray, row: np.ndarray, first: np.ndarray, tolerance: float, generator: np.random.Generator
) -> np.ndarray:
    """Another entry of the same row for each, whose value is known and does not agree; -1 if none came."""
    drawn = generator.integers(max(1, usable.shape[1]), size=(len(row), _DRAWS))
    other = usable[row[:, None], drawn]
    good = ~np.isnan(other) & ~agree(usable[row, first][:, None], other, tolerance)
    place = good.argmax(axis=1)
    found: np.ndarray = np.where(good.any(axis=1), drawn[np.arange(len(row)), place], -1)
    return found
