"""Choosing the best channel on some images and scoring it on others.

The best of many channels looks good by luck on the images that it was chosen on; only the other
images say how good it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.errors import UsageError
from wsss_probe.sealed import choose, halves, scored, split_of

if TYPE_CHECKING:
    from wsss_probe import Choice
    from wsss_probe.contracts import Run

__all__ = [
    "MIN_DEFINED",
    "Best",
    "Halves",
    "best_channel",
    "choices_of",
    "eligible",
    "mean_defined",
    "split_halves",
]

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
    on : str
        Which ones are chosen on, in words.
    independent : bool
        Whether no group is on both sides.
    """

    choose: np.ndarray
    score: np.ndarray
    how: str
    on: str = "some images"
    independent: bool = True


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
    candidates : int
        Channels that took part in the choice.
    measure : str
        What they were compared by.
    """

    channel: int
    chosen: float
    scored: np.ndarray
    candidates: int = 1
    measure: str = "mean F1"

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


def split_halves(run: Run, known: np.ndarray, chosen_on: str, seed: int) -> Halves:
    """Divide the images with a known mask into a choosing and a scoring half.

    Parameters
    ----------
    run : Run
    known : ndarray of bool, (image,)
        Images with a known mask.
    chosen_on : str
        Name of the split to choose on; empty takes ``train`` where there is one besides another
        split, else what :func:`wsss_probe.sealed.halves` takes: a validation split, or a random half of
        the groups.
    seed : int

    Returns
    -------
    Halves
        No group and no file is in both, except where all images are of one group: its images are halved.

    Raises
    ------
    UsageError
        When there is no image with a mask in the split ``chosen_on``.
    """
    split = run.images["split"].to_numpy(dtype=object)
    present = {str(name) for name in split[known] if name}
    if chosen_on and chosen_on not in present:
        found = ", ".join(sorted({str(name) for name in split if name})) or "no splits"
        msg = f"channel-f1 cannot choose on split {chosen_on!r}: no image with a mask is in it"
        raise UsageError(msg, found=found, remedy="name another split in chosen_on")
    train = "train" if {"train"} < present else ""
    first, second = halves(run, known, chosen_on or train, seed)
    if not len(first) and len(second) > 1:
        return _halves_of_one_group(known, seed)
    chosen, rest = (np.isin(np.arange(len(known)), part.images) for part in (first, second))
    return Halves(chosen, rest, f"chosen on {first.name} and scored on the others", first.name)


def _halves_of_one_group(known: np.ndarray, seed: int) -> Halves:
    """Halve the images of the only group."""
    positions = np.flatnonzero(known)
    order = np.random.default_rng(seed).permutation(len(positions))
    choose = np.zeros(len(known), dtype=bool)
    choose[positions[order[: (len(positions) + 1) // 2]]] = True
    on = "a random half of the images of the only group"
    how = f"chosen on {on} and scored on the rest (not independent)"
    return Halves(choose, known & ~choose, how, on, independent=False)


def choices_of(
    run: Run, what: str, best: Best, halves: Halves, value: str | int | None = None
) -> tuple[Choice, ...]:
    """Hand a best channel, chosen and scored, to the ledger of choices.

    Parameters
    ----------
    run : Run
    what : str
        ``"channel of layer4 for gland"``.
    best : Best
    halves : Halves
        On which it was chosen and scored.
    value : str or int, optional
        By default the channel.

    Returns
    -------
    tuple of Choice
        Sealed against the choosing half; empty where nothing could be chosen.
    """
    if best.channel < 0:
        return ()
    chosen = best.channel if value is None else value
    made = choose(what, {chosen: best.chosen}, best.measure, split_of(run, halves.choose, halves.on))
    rest = split_of(run, halves.score, "the others")
    _, made = scored(made, rest, lambda _value, _images: best.score, again=not halves.independent)
    return (replace(made, candidates=best.candidates),)


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
    kept = np.where(halves.score, f1[:, channel].astype(np.float64), np.nan)
    if not np.isfinite(kept).any():
        return nothing
    return Best(channel, float(mean[channel]), kept, int(np.isfinite(mean).sum()))
