"""What a best channel loses on images that it was not chosen on.

The largest of many means is large partly by luck. Choosing on one half and scoring on the other
shows by how much: the drop is that luck, plus whatever else differs between the halves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.statistics import FEW_GROUPS, Interval, group_bootstrap
from wsss_probe_channels.screening.selection import mean_defined

if TYPE_CHECKING:
    from wsss_probe_channels.screening.selection import Halves

__all__ = ["drop_interval"]


def drop_interval(f1: np.ndarray, halves: Halves, groups: np.ndarray | None, seed: int) -> Interval:
    """Mean F1 where a channel was chosen minus mean F1 where it was scored, with its interval.

    Groups of both halves are resampled together. The difference of two means is resampled as one
    mean, of its influence values ``u_i = d + s_i (N / N_h) (F_i - mean_h)`` with h the half of
    image i, s = 1 where chosen and -1 where scored (the delta method), so that all networks and
    classes are done at once.

    It misleads as evidence of overfitting alone: splits that differ (another hospital, other
    grades) drop or rise as well. The interval holds for the channel that was chosen and does not
    repeat the choice.

    Parameters
    ----------
    f1 : ndarray, (image, ...)
        Of the chosen channels, NaN where undefined.
    halves : Halves
    groups : ndarray or None, (image,)
    seed : int

    Returns
    -------
    Interval
        In units of F1, of the trailing shape; NaN where a half has no defined F1. ``groups`` counts
        those of the smaller half.
    """
    sides = [_expand(side, f1) & np.isfinite(f1) for side in (halves.choose, halves.score)]
    chosen, scored = (mean_defined(np.where(side, f1, np.nan)) for side in sides)
    counts = [np.maximum(side.sum(axis=0), 1) for side in sides]
    number, difference = counts[0] + counts[1], chosen - scored
    influence = np.where(
        sides[0],
        difference + number / counts[0] * (f1 - chosen),
        np.where(sides[1], difference - number / counts[1] * (f1 - scored), np.nan),
    )
    interval = group_bootstrap(influence, groups, seed=seed)
    return _noted(interval, sides, groups)


def _expand(side: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """One half (image,) beside values (image, ...)."""
    return side.reshape(-1, *[1] * (f1.ndim - 1))


def _noted(interval: Interval, sides: list[np.ndarray], groups: np.ndarray | None) -> Interval:
    """Count the groups of the smaller half: the interval rests on both."""
    unit = np.arange(len(sides[0])) if groups is None else np.asarray(groups)
    used = [side.reshape(len(side), -1).any(axis=1) for side in sides]
    fewest = min(len(np.unique(unit[half])) for half in used)
    note = f"unreliable: fewer than {FEW_GROUPS} groups in a half" if fewest < FEW_GROUPS else ""
    return replace(interval, groups=fewest, note=note)
