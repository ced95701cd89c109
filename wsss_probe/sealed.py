"""Choices that are sealed against the images they were made on.

Whoever picks the best of many thresholds, layers, explainers or channels by their score, and then
quotes that score, quotes luck as well. So a choice is made on one part of the images, remembers
which, and refuses to be scored there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, final

import numpy as np

from wsss_probe.contracts import Choice
from wsss_probe.errors import SealedError, UsageError

if TYPE_CHECKING:
    from wsss_probe.contracts import Run

__all__ = ["Split", "choose", "halves", "scored", "split_of"]

T = TypeVar("T")

_CHOOSING = ("validation", "valid", "val", "dev", "calibration", "train", "training")
"""Splits that may be chosen on, the best first; a network was not fitted to the first ones."""


@final
@dataclass(frozen=True, slots=True)
class Split:
    """Some images of a run.

    Parameters
    ----------
    name : str
        In words, for the report.
    images : ndarray of int
        Positions in the manifest, ascending.
    masks : int
        How many of them have a known mask.
    seal : frozenset of str
        Digests of their groups, or of the images where there are no groups.
    """

    name: str
    images: np.ndarray
    masks: int
    seal: frozenset[str]

    def __len__(self) -> int:
        return len(self.images)


def split_of(run: Run, where: np.ndarray, name: str) -> Split:
    """Describe some images of a run.

    Parameters
    ----------
    run : Run
    where : ndarray of bool, (image,)
    name : str

    Returns
    -------
    Split
    """
    positions = np.flatnonzero(where)
    units = run.images["image"].to_numpy() if run.groups is None else run.groups
    seal = frozenset(hashlib.sha256(str(unit).encode()).hexdigest()[:16] for unit in units[positions])
    masks = int((run.images["mask"].to_numpy()[positions] != "").sum())
    return Split(name, positions, masks, seal)


def halves(run: Run, usable: np.ndarray, chosen_on: str = "", seed: int = 0) -> tuple[Split, Split]:
    """Divide images into those to choose on and those to score on; no group is in both.

    Parameters
    ----------
    run : Run
    usable : ndarray of bool, (image,)
        Images that count, such as those with a known mask.
    chosen_on : str
        Name of the manifest's split to choose on. Empty takes a validation or training split
        beside another one if there is one, else a random half of the groups.
    seed : int

    Returns
    -------
    (Split, Split)
        To choose on, and to score on; either may be empty.

    Raises
    ------
    UsageError
        When ``chosen_on`` is no split of these images.
    """
    names = run.images["split"].to_numpy(dtype=object)
    present = {str(name) for name in names[usable] if name}
    if chosen_on and chosen_on not in present:
        msg = "no usable image is in the split to choose on"
        raise UsageError(msg, found=chosen_on, wanted=", ".join(sorted(present)) or "no splits")
    named = chosen_on or next((name for name in _CHOOSING if name in present and len(present) > 1), "")
    if named:
        first, how = names == named, (f"split {named!r}", f"the splits beside {named!r}")
    else:
        first, how = _random_half(run, usable, seed), ("a random half", "the other half")
    apart = _apart(run, usable & first, usable & ~first)
    return split_of(run, usable & first, how[0]), split_of(run, apart, how[1])


def _random_half(run: Run, usable: np.ndarray, seed: int) -> np.ndarray:
    units = np.arange(len(usable)) if run.groups is None else np.asarray(run.groups)
    names = np.unique(units[usable])
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(units, chosen)


def _apart(run: Run, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Leave out of the second part what shares a group with the first."""
    if run.groups is None:
        return second
    groups = np.asarray(run.groups)
    kept: np.ndarray = second & ~np.isin(groups, np.unique(groups[first]))
    return kept


def choose(what: str, scores: Mapping[str | float, float], measure: str, split: Split) -> Choice:
    """Choose the candidate with the largest score and seal it against the images it was chosen on.

    Parameters
    ----------
    what : str
        What is chosen, ``"threshold at layer4"``.
    scores : mapping of candidate to float
        On ``split``; NaN takes no part, ties go to the first.
    measure : str
        What the scores are.
    split : Split

    Returns
    -------
    Choice

    Raises
    ------
    UsageError
        When no candidate has a score.

    Examples
    --------
    >>> split = Split("half", np.arange(2), 2, frozenset({"a", "b"}))
    >>> choose("threshold", {0.3: 0.5, 0.4: 0.7}, "mean Dice", split).value
    0.4
    """
    defined = {value: score for value, score in scores.items() if not np.isnan(score)}
    if not defined:
        raise UsageError(f"no {what} can be chosen", found=f"no {measure} defined on {split.name}")
    value = max(defined, key=lambda one: defined[one])
    number = len(split)
    return Choice(
        what=what,
        value=value,
        measure=measure,
        score=float(defined[value]),
        candidates=len(scores),
        split=split.name,
        images=number,
        masks=split.masks,
        groups=len(split.seal),
        seal=split.seal,
    )


def scored(
    choice: Choice, split: Split, score: Callable[[str | float, np.ndarray], T], *, again: bool = False
) -> tuple[T, Choice]:
    """Score a choice on images that it has not seen.

    Parameters
    ----------
    choice : Choice
    split : Split
    score : callable
        ``score(value, positions)``.
    again : bool
        Score also on images of groups that it was chosen on; the choice is then marked as reopened.

    Returns
    -------
    (Any, Choice)
        What ``score`` returned, and the choice, reopened if it was.

    Raises
    ------
    SealedError
        If the split shares a group, or an image, with the one that it was chosen on.
    """
    shared = len(choice.seal & split.seal)
    if shared and not again:
        raise SealedError(
            f"{choice.what} was chosen on the images that it is to be scored on",
            found=f"{shared} of {len(split.seal)} groups in both",
            wanted="none",
            remedy="score it on another split, or ask for it with again=True: the report says so",
        )
    return score(choice.value, split.images), replace(choice, reopened=choice.reopened or bool(shared))
