"""What the rows of the screen say about every channel and region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from wsss_probe.statistics import group_bootstrap
from wsss_probe_channels.screening.selection import eligible, mean_defined

if TYPE_CHECKING:
    from wsss_probe.statistics import Interval

__all__ = [
    "all_ones_f1",
    "channel_table",
    "random_channels",
    "strong_images",
    "top_channels",
    "with_groups",
    "with_intervals",
]

INTERVALS = 30
"""Channels of the best ranks, per class, that get an interval."""

RANDOM = 4
"""Channels drawn at random, per class, that stand beside the best."""


def all_ones_f1(area: np.ndarray) -> np.ndarray:
    """F1 of a mask of ones, ``2a / (1 + a)`` with a the class's share of the known pixels.

    What any method reaches without looking; its mean over images is the trivial baseline.

    >>> all_ones_f1(np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.0, 0.667, 1.0]
    """
    f1: np.ndarray = 2 * area / (1 + area)
    return f1


def strong_images(f1: np.ndarray, strong: float) -> np.ndarray:
    """Count the images (first axis) whose F1 is above ``strong``: the paper's cumulative score.

    Compared in float32, as rows are stored: 0.6 itself is not above 0.6.
    """
    counted: np.ndarray = (f1 > np.float32(strong)).sum(axis=0)
    return counted


def channel_table(rows: xr.Dataset, partial: xr.Dataset, strong: float) -> xr.Dataset:
    """Summarise every channel for every class over all images.

    Parameters
    ----------
    rows : Dataset
        ``f1`` (image, channel, class), ``area`` (image, class), ``degenerate`` (image, channel).
    partial : Dataset
        ``tp, fp, fn`` (channel, class), sums over images.
    strong : float
        A per-image F1 strictly above it counts as strong.

    Returns
    -------
    Dataset
        By (channel, class): ``mean_f1`` over images where F1 is defined, ``pooled_f1`` from pixel
        sums (a degenerate map counts as empty), ``strong`` and ``defined`` in images, ``rank`` from 1
        (NaN where the channel is defined on less than half of the images, or the class is absent).
        By (channel): ``degenerate`` in images. By (class): ``all_ones_f1``, ``present`` in images.
    """
    f1, area = rows["f1"].values, rows["area"].values
    present = (area > 0).sum(axis=0)
    mean = np.where(present > 0, mean_defined(f1), np.nan)
    tp, fp, fn = (partial[name].values for name in ("tp", "fp", "fn"))
    total = 2 * tp + fp + fn
    pooled = np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=(total > 0) & (present > 0))
    degenerate = np.nansum(rows["degenerate"].values, axis=0)
    both = ("channel", "class")
    return xr.Dataset(
        {
            "mean_f1": (both, mean),
            "pooled_f1": (both, pooled),
            "strong": (both, strong_images(f1, strong)),
            "defined": (both, np.isfinite(f1).sum(axis=0)),
            "rank": (both, _ranks(np.where(eligible(f1, area > 0), mean, np.nan))),
            "degenerate": ("channel", degenerate.astype(np.int64)),
            "all_ones_f1": ("class", np.where(present > 0, mean_defined(all_ones_f1(area)), np.nan)),
            "present": ("class", present),
        },
        coords={"channel": np.arange(f1.shape[1]), "class": rows["class"].values},
    )


def _ranks(mean: np.ndarray) -> np.ndarray:
    """Rank from 1 for the largest, per class; equals share the better rank."""
    ranks = np.full(mean.shape, np.nan)
    for column in range(mean.shape[1]):
        valid = np.isfinite(mean[:, column])
        ranks[valid, column] = rankdata(-mean[valid, column], method="min")
    return ranks


def top_channels(table: xr.Dataset, position: int, number: int) -> np.ndarray:
    """Channels of the best ranks for the class at ``position``, best first."""
    rank = table["rank"].values[:, position]
    order = np.argsort(rank, kind="stable")  # NaN last
    best: np.ndarray = order[: min(number, int(np.isfinite(rank).sum()))]
    return best


def random_channels(table: xr.Dataset, position: int, seed: int) -> np.ndarray:
    """Draw channels that have a rank for the class at ``position`` but are not among the best.

    Parameters
    ----------
    table : Dataset
        From :func:`channel_table`.
    position : int
    seed : int

    Returns
    -------
    ndarray of int
        Four, or fewer where fewer are left, in the order drawn.
    """
    order = np.random.default_rng(seed).permutation(table.sizes["channel"])
    live = np.isfinite(table["rank"].values[order, position])
    drawn: np.ndarray = order[live & ~np.isin(order, top_channels(table, position, RANDOM))][:RANDOM]
    return drawn


def with_groups(table: xr.Dataset, f1: np.ndarray, groups: np.ndarray | None) -> xr.Dataset:
    """Add ``groups`` (channel, class): independent groups with an image where F1 is defined.

    An interval of a mean over fewer than ten is too narrow.

    Parameters
    ----------
    table : Dataset
    f1 : ndarray, (image, channel, class)
    groups : ndarray or None, (image,)
        None takes each image as its own group.

    Returns
    -------
    Dataset
    """
    defined = np.isfinite(f1)
    if groups is None:
        return table.assign(groups=(("channel", "class"), defined.sum(axis=0)))
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(member.max(initial=-1) + 1))
    counted = np.logical_or.reduceat(defined[order], starts, axis=0).sum(axis=0)
    return table.assign(groups=(("channel", "class"), counted))


def with_intervals(table: xr.Dataset, rows: xr.Dataset, groups: np.ndarray | None, seed: int) -> xr.Dataset:
    """Add ``low`` and ``high``, the 95 % interval of the mean F1 of the best and of the random channels.

    Groups are resampled. The channels were found on the same images: the interval is that of a
    channel named beforehand and does not pay for the choice.

    Parameters
    ----------
    table : Dataset
        From :func:`channel_table`.
    rows : Dataset
    groups : ndarray or None, (image,)
    seed : int

    Returns
    -------
    Dataset
        With ``drawn`` (channel, class) as well, whether the channel is one of the random ones.
    """
    shape = table["mean_f1"].shape
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    drawn = np.zeros(shape, dtype=bool)
    for position in range(shape[1]):
        random = random_channels(table, position, seed)
        drawn[random, position] = True
        channels = np.union1d(top_channels(table, position, INTERVALS), random)
        if len(channels):
            values = rows["f1"].values[:, channels, position]
            interval: Interval = group_bootstrap(values, groups, seed=seed)
            low[channels, position], high[channels, position] = interval.low, interval.high
    both = ("channel", "class")
    return table.assign(low=(both, low), high=(both, high), drawn=(both, drawn))
