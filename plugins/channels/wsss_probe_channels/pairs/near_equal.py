"""Pairs of channels with near-equal weights, random pairs beside them, and how alike two maps are.

Feng et al., section 2.6: if a weight said what its map shows, channels with the same weight would have
alike maps. How their 12 pairs were picked is not said; here all pairs are counted and the closest kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.overlap import Counts, f1
from wsss_probe.threshold import binarize, otsu

__all__ = [
    "KINDS",
    "MOST_CLASSES",
    "Agreement",
    "Choice",
    "Pairs",
    "agreement",
    "choose_pairs",
    "known_classes",
    "near_equal_pairs",
    "random_pairs",
]

KINDS = ("near-equal", "random")
"""The two kinds of pairs, in the order of the dimension ``kind``."""

MOST_CLASSES = 4
"""Classes that get pairs. A thousand classes would be a thousand tables."""

_CELLS = 1 << 21
"""Map cells that are compared at once: 16 MiB in float64, for each of a few copies."""

_DRAWS = 64
"""Draws per random pair that is wanted; what is near-equal or drawn twice falls out."""


@final
@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of channels, the closest weights first.

    Parameters
    ----------
    first, second : ndarray of int, (pair,)
        Channels; ``first < second``.
    difference : ndarray of float64, (pair,)
        Absolute difference of the two weights.
    within : int
        Number of all pairs within the tolerance, kept or not; 0 means that the kept ones are merely the
        closest.
    """

    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    within: int


def near_equal_pairs(weights: np.ndarray, tolerance: float = 1e-5, at_most: int = 12) -> Pairs:
    """Find all pairs of channels whose weights agree, or the closest ones if none do.

    Sorted weights are compared at a distance of one place, two places, and so on, until no pair is
    within the tolerance: time and memory follow the number of channels and of such distances, and never
    is there a table of all pairs.

    Parameters
    ----------
    weights : ndarray, (channel,)
        Weights of one class; a channel whose weight is not finite is in no pair.
    tolerance : float
        Largest absolute difference.
    at_most : int
        Pairs kept. Of equally close ones those stay that are neighbours in the order of weight, then
        of channel, so that equal weights do not give pairs with one and the same channel.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        If there is more than one dimension.

    Examples
    --------
    >>> pairs = near_equal_pairs(np.array([0.5, 0.1, 0.500001, 0.3]))
    >>> pairs.first.tolist(), pairs.second.tolist(), pairs.within
    ([0], [2], 1)
    >>> near_equal_pairs(np.array([0.5, 0.1, 0.3]), at_most=1).within
    0
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"weights must have the dimension (channel,), got the shape {values.shape}")
    channels = np.flatnonzero(np.isfinite(values))
    order = channels[np.argsort(values[channels], kind="stable")]
    ordered = values[order]
    low, lag, difference, within = _scan(ordered, tolerance, at_most, len(ordered))
    if not within:
        # of the k closest pairs none is more than k places apart: nearer ones lie between
        low, lag, difference, _ = _scan(ordered, np.inf, at_most, at_most + 1)
    ends = np.sort(np.stack([order[low], order[low + lag]]), axis=0)
    return Pairs(ends[0], ends[1], difference, within)


def _scan(
    ordered: np.ndarray, tolerance: float, at_most: int, furthest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Closest pairs of sorted values as places, distances in places and differences; number of all."""
    low, lags, differences = np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    within = 0
    for lag in range(1, min(len(ordered), furthest)):
        gaps = ordered[lag:] - ordered[:-lag]
        near = gaps <= tolerance
        found = int(np.count_nonzero(near))
        if not found:
            break  # further apart in order is further apart in value
        within += found
        if len(differences) == at_most:
            near &= gaps < differences[-1]
        places = np.flatnonzero(near)
        if len(places):
            differences = np.concatenate([differences, gaps[places]])
            best = np.argsort(differences, kind="stable")[:at_most]
            differences = differences[best]
            low = np.concatenate([low, places])[best]
            lags = np.concatenate([lags, np.full(len(places), lag)])[best]
    return low, lags, differences, within


def random_pairs(weights: np.ndarray, number: int, margin: float, seed: int) -> np.ndarray:
    """Draw different pairs of channels whose weights do not agree.

    Parameters
    ----------
    weights : ndarray, (channel,)
    number : int
    margin : float
        The weights of a pair differ by more.
    seed : int

    Returns
    -------
    ndarray of int, (pair, 2)
        The smaller channel first, in the order drawn; fewer where there are not as many.
    """
    values = np.asarray(weights, dtype=np.float64)
    channels = np.flatnonzero(np.isfinite(values))
    if len(channels) < 2 or not number:
        return np.empty((0, 2), dtype=np.intp)
    drawn = np.random.default_rng(seed).choice(channels, size=(_DRAWS * number, 2))
    drawn = np.sort(drawn, axis=1)
    drawn = drawn[np.abs(values[drawn[:, 0]] - values[drawn[:, 1]]) > margin]
    _, first = np.unique(drawn, axis=0, return_index=True)
    pairs: np.ndarray = drawn[np.sort(first)[:number]]
    return pairs


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """The pairs of one network.

    Parameters
    ----------
    channels : ndarray of int, (class, kind, pair, end)
        -1 where a class has fewer pairs.
    within : ndarray of int, (class,)
        All pairs within the tolerance.
    """

    channels: np.ndarray
    within: np.ndarray


def known_classes(weights: np.ndarray) -> np.ndarray:
    """Positions of the classes that get pairs: the first :data:`MOST_CLASSES` with known weights.

    Parameters
    ----------
    weights : ndarray, (class, channel)
        A class whose weights are all NaN was not asked for.

    Returns
    -------
    ndarray of int, (class,)
        In order; filled up with classes without weights where less have any.
    """
    unknown = ~np.isfinite(weights).any(axis=1)
    positions: np.ndarray = np.sort(np.argsort(unknown, kind="stable")[:MOST_CLASSES])
    return positions


def choose_pairs(weights: np.ndarray, tolerance: float, pairs: int, seed: int) -> Choice:
    """Choose near-equal pairs for each class, and as many random pairs that are not near-equal.

    Parameters
    ----------
    weights : ndarray, (class, channel)
    tolerance : float
    pairs : int
        Most pairs of each kind.
    seed : int

    Returns
    -------
    Choice
    """
    chosen = np.full((len(weights), len(KINDS), pairs, 2), -1, dtype=np.intp)
    within = np.zeros(len(chosen), dtype=np.int64)
    for position, row in enumerate(weights):
        near = near_equal_pairs(row, tolerance, pairs)
        number = len(near.first)
        within[position] = near.within
        chosen[position, 0, :number] = np.stack([near.first, near.second], axis=1)
        margin = max(tolerance, float(near.difference.max(initial=0)))
        drawn = random_pairs(row, number, margin, seed + position)
        chosen[position, 1, : len(drawn)] = drawn
    return Choice(chosen, within)


# -- how alike two maps are --------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the two maps of each pair are.

    Parameters
    ----------
    f1 : Tensor of float64, (image, pair)
        Between the Otsu masks of the two maps; NaN where a map is degenerate.
    expected : Tensor of float64, (image, pair)
        F1 of independent masks of the same coverages p and q, ``2pq / (p + q)``; NaN as above.
    empty : Tensor of float64, (image, pair)
        1 where at least one map is constant, so that its mask is empty, else 0; NaN where a map has
        values that are not finite.
    correlation : Tensor of float64, (image, pair)
        Pearson's, of the two raw maps over positions; NaN where a map is degenerate.
    """

    f1: Tensor
    expected: Tensor
    empty: Tensor
    correlation: Tensor


def agreement(maps: Tensor, first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compare pairs of maps of each image.

    Parameters
    ----------
    maps : Tensor of float, (image, channel, row, column)
    first, second : ndarray of int, (pair,)
        Channels.

    Returns
    -------
    Agreement
        Misleads: maps of rectified networks share borders and empty corners, so that even unrelated
        channels are not independent; compare with other pairs of the same network.
    """
    ends = [torch.as_tensor(np.ascontiguousarray(end), device=maps.device) for end in (first, second)]
    parts = [_agreement(part[:, ends[0]], part[:, ends[1]]) for part in _some_images(maps, len(first))]
    names = ("f1", "expected", "empty", "correlation")
    return Agreement(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _some_images(maps: Tensor, pairs: int) -> Iterator[Tensor]:
    """Cut a batch so that the maps of all pairs fit the cache rather than the memory."""
    cells = max(1, pairs * maps.shape[-2] * maps.shape[-1])
    yield from torch.split(maps, max(1, _CELLS // cells))


def _agreement(one: Tensor, other: Tensor) -> Agreement:
    """Compare maps (image, pair, row, column) one to one."""
    maps = [part if part.itemsize >= 4 else part.float() for part in (one, other)]
    thresholds = [otsu(part) for part in maps]
    masks = [binarize(part, at).flatten(2) for part, at in zip(maps, thresholds, strict=True)]
    degenerate = thresholds[0].isnan() | thresholds[1].isnan()
    finite = torch.isfinite(maps[0]).flatten(2).all(2) & torch.isfinite(maps[1]).flatten(2).all(2)
    hits = (masks[0] & masks[1]).sum(2)
    areas = [mask.sum(2) for mask in masks]
    counts = Counts(hits, areas[1] - hits, areas[0] - hits)
    share = [area.double() / masks[0].shape[2] for area in areas]
    return Agreement(
        f1=f1(counts).masked_fill(degenerate, torch.nan),
        expected=(2 * share[0] * share[1] / (share[0] + share[1])).masked_fill(degenerate, torch.nan),
        empty=degenerate.double().masked_fill(~finite, torch.nan),
        correlation=_pearson(*(part.flatten(2).double() for part in maps)).masked_fill(degenerate, torch.nan),
    )


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """Correlation over the last dimension."""
    one, other = one - one.mean(2, keepdim=True), other - other.mean(2, keepdim=True)
    scale = one.norm(dim=2) * other.norm(dim=2)
    r: Tensor = ((one * other).sum(2) / scale).clamp(-1, 1)
    return r
