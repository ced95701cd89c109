"""Choosing the best channel on some images and scoring it on others.

The best of many channels looks good by luck on the images that it was chosen on; only the other
images say how good it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIN_DEFINED", "Best", "Halves", "best_channel", "eligible", "mean_defined", "split_halves"]

MIN_DEFINED = 0.5
"""A channel takes part in a choice only where its F1 is defined on this share of the images with the class:
the mean of a nearly dead channel rests on the few images that it happens to answer."""


@final
@dataclass(frozen=True, slots=True)
class Halves:
    """Which images a channel is chosen on, and which ones it is scored on.

    Parameters
    ----------
    choose, score : ndarray of bool, (image,)
        Disjoint.
    how : str
        In words, for the report.
    """

    choose: np.ndarray
    score: np.ndarray
    how: str


@final
@dataclass(frozen=True, slots=True)
class Best:
    """The channel with the largest mean F1 on the choosing half.

    Parameters
    ----------
    channel : int
        -1 when no channel can be chosen or scored.
    chosen : float
        Its mean F1 where it was chosen: optimistic.
    scored : ndarray, (image,)
        Its F1 on the scoring half, NaN elsewhere.
    """

    channel: int
    chosen: float
    scored: np.ndarray

    @property
    def score(self) -> float:
        """Mean F1 on the scoring half."""
        return float(mean_defined(self.scored))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over images (the first axis) of what is not NaN; NaN where nothing is.

    >>> mean_defined(np.array([[1.0, np.nan], [0.0, np.nan]])).tolist()
    [0.5, nan]
    """
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0, dtype=np.float64)
    mean: np.ndarray = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return mean


def eligible(f1: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Whether each channel's F1 is defined on enough of the images that hold the class.

    Images without the class do not count: a channel that is silent there, and so has no F1, is right.

    Parameters
    ----------
    f1 : ndarray, (image, channel) or (image, channel, class)
    present : ndarray of bool, (image,) or (image, class)
        Images that hold the class.

    Returns
    -------
    ndarray of bool, (channel,) or (channel, class)
    """
    counted = np.expand_dims(present, 1)
    defined = (np.isfinite(f1) & counted).sum(axis=0)
    enough: np.ndarray = (defined > 0) & (defined >= MIN_DEFINED * counted.sum(axis=0))
    return enough


def split_halves(
    images: pd.DataFrame, groups: np.ndarray | None, known: np.ndarray, chosen_on: str, seed: int
) -> Halves:
    """Divide the images with a known mask into a choosing and a scoring half.

    Parameters
    ----------
    images : DataFrame
        The manifest; its column ``split`` decides where it can.
    groups : ndarray or None, (image,)
        Unit of independence.
    known : ndarray of bool, (image,)
        Images with a known mask.
    chosen_on : str
        Name of the split to choose on; empty takes ``train`` where there is one besides another
        split, else a random half of the groups.
    seed : int

    Returns
    -------
    Halves

    Raises
    ------
    UsageError
        When there is no image with a mask in the split ``chosen_on``.
    """
    split = images["split"].to_numpy(dtype=object) if "split" in images else np.full(len(known), "", object)
    if chosen_on and not (known & (split == chosen_on)).any():
        found = ", ".join(sorted({str(name) for name in split if name})) or "no splits"
        msg = f"channel-f1 cannot choose on split {chosen_on!r}: no image with a mask is in it"
        raise UsageError(msg, found=found, remedy="name another split in chosen_on")
    name = chosen_on or "train"
    choose, score = known & (split == name), known & (split != name)
    if choose.any() and (score.any() or chosen_on):
        return Halves(choose, score, f"chosen on split {name!r} and scored on the others")
    return _random_halves(groups, known, seed)


def _random_halves(groups: np.ndarray | None, known: np.ndarray, seed: int) -> Halves:
    """Half of the groups; half of the images where there are no groups, or only one."""
    unit = np.arange(len(known)) if groups is None else np.asarray(groups, dtype=object)
    names, position = np.unique(unit[known].astype(str), return_inverse=True)
    how = (
        "chosen on a random half of the "
        + ("images" if groups is None else "groups")
        + " and scored on the rest"
    )
    if groups is not None and len(names) == 1:
        position = np.arange(int(known.sum()))
        how = (
            "chosen on a random half of the images of the only group and scored on the rest (not independent)"
        )
    number = int(position.max(initial=-1)) + 1
    order = np.random.default_rng(seed).permutation(number)
    choose = np.zeros(len(known), dtype=bool)
    choose[np.flatnonzero(known)] = np.isin(position, order[: (number + 1) // 2])
    return Halves(choose, known & ~choose, how)


def best_channel(f1: np.ndarray, area: np.ndarray, halves: Halves) -> Best:
    """Choose the channel with the largest mean F1 on one half, and keep its F1 on the other.

    Parameters
    ----------
    f1 : ndarray, (image, channel)
        Of one class; NaN where undefined.
    area : ndarray, (image,)
        The class's share of the known pixels. A class that is absent from either half cannot be
        estimated.
    halves : Halves

    Returns
    -------
    Best
        The first of equals.
    """
    nothing = Best(-1, float("nan"), np.full(len(f1), np.nan, dtype=np.float64))
    present = area > 0
    if not ((present & halves.choose).any() and (present & halves.score).any()):
        return nothing
    mean = mean_defined(f1[halves.choose])
    mean[~eligible(f1, present & halves.choose)] = np.nan
    if not np.isfinite(mean).any():
        return nothing
    channel = int(np.nanargmax(mean))
    scored = np.where(halves.score, f1[:, channel].astype(np.float64), np.nan)
    if not np.isfinite(scored).any():
        return nothing
    return Best(channel, float(mean[channel]), scored)
