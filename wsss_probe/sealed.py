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

_TRAINING = ("train", "training")

_CHOOSING = ("validation", "valid", "val", "dev", "calibration", *_TRAINING)
"""Splits that may be chosen on, the best first; a network was not fitted to the first ones."""

_CONTENT = "content:"


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
        Digests of the names of their groups and, marked ``content:``, of the contents of their files.
        Without either, digests of the images' names.
    """

    name: str
    images: np.ndarray
    masks: int
    seal: frozenset[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def groups(self) -> int:
        """How many independent groups it holds; images where there are no groups."""
        named = [digest for digest in self.seal if not digest.startswith(_CONTENT)]
        return len(named) or len(self.images)


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
    return Split(name, positions, _masks(run, positions), _seal(run, positions))


def _masks(run: Run, positions: np.ndarray) -> int:
    """Count masks; images in memory bring theirs along without a path."""
    paths = run.images["mask"].to_numpy(dtype=object)
    in_memory = bool(run.survey.mask_classes) and not (paths != "").any()
    return len(positions) if in_memory else int((paths[positions] != "").sum())


def _seal(run: Run, positions: np.ndarray) -> frozenset[str]:
    """Digests by which these images are known again, in this run or in another one."""
    contents = () if run.contents is None else run.contents[positions]
    found = {_CONTENT + str(digest)[:16] for digest in contents if digest}
    if run.groups is not None:
        found |= {_digest(group) for group in run.groups[positions]}
    elif not found:
        found |= {_digest(name) for name in run.images["image"].to_numpy()[positions]}
    return frozenset(found)


def _digest(name: object) -> str:
    return hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).hexdigest()[:16]


# -- two parts that share nothing --------------------------------------------------------------


def halves(run: Run, usable: np.ndarray, chosen_on: str = "", seed: int = 0) -> tuple[Split, Split]:
    """Divide images into those to choose on and those to score on.

    No group is in both, and no image either that is in the manifest twice under two names.

    Parameters
    ----------
    run : Run
    usable : ndarray of bool, (image,)
        Images that count, such as those with a known mask.
    chosen_on : str
        Name of the manifest's split to choose on. Empty takes a validation or training split
        beside another one if there is one, else a random half of the groups. Beside a validation
        split, training images are not scored on where there are others.
    seed : int

    Returns
    -------
    (Split, Split)
        To choose on, and to score on. Either may be empty: the first one where all images are of one
        group, which cannot be divided; the second where every image shares a group with the first.

    Raises
    ------
    UsageError
        When ``chosen_on`` is no split of these images.
    """
    units = _units(run)
    names = run.images["split"].to_numpy(dtype=object)
    present = {str(name) for name in names[usable] if name}
    if chosen_on and chosen_on not in present:
        msg = "no usable image is in the split to choose on"
        raise UsageError(msg, found=chosen_on, wanted=", ".join(sorted(present)) or "no splits")
    named = chosen_on or _usual_split(present)
    if named:
        first, how = names == named, (f"split {named!r}", f"the splits beside {named!r}")
    else:
        unit = "images" if run.groups is None else "groups"
        first, how = _random_half(units, usable, seed), (f"a random half of the {unit}", "the other half")
    chosen = usable & first
    rest = usable & ~first & ~np.isin(units, np.unique(units[chosen]))
    if named and named.lower() not in _TRAINING:
        # a network knows the images it was trained on; they count only where there are no others
        fresh = rest & ~np.isin([str(name).lower() for name in names], _TRAINING)
        rest = fresh if fresh.any() else rest
    return split_of(run, chosen, how[0]), split_of(run, rest, how[1])


def _usual_split(present: set[str]) -> str:
    """Name the split to choose on where there is another one to score on; empty if there is none."""
    lowered = {name.lower(): name for name in sorted(present)}
    return next((lowered[name] for name in _CHOOSING if name in lowered and len(present) > 1), "")


def _units(run: Run) -> np.ndarray:
    """Name of what cannot be divided, (image,): its group, joined with others over equal images."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(run.images)
    keys = np.arange(count) if run.groups is None else np.asarray(run.groups, dtype=object)
    keys = keys.astype(str)
    _, own = np.unique(keys, return_inverse=True)
    # an image without a digest (it could not be read) equals no other
    digests = [f"position {i}" for i in range(count)] if run.contents is None else run.contents
    _, same = np.unique([str(d) or f"position {i}" for i, d in enumerate(digests)], return_inverse=True)
    edges = (np.ones(count), (own, own.max(initial=0) + 1 + same))
    nodes = int(edges[1][1].max(initial=0)) + 1
    _, component = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    _, first, back = np.unique(component[own], return_index=True, return_inverse=True)
    named: np.ndarray = keys[first][back]
    return named


def _random_half(units: np.ndarray, usable: np.ndarray, seed: int) -> np.ndarray:
    """Whether each image is in a random half of the units; nothing is where there is but one."""
    names = np.unique(units[usable])
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = names[order[: (len(names) + 1) // 2]] if len(names) > 1 else names[:0]
    return np.isin(units, chosen)


# -- a choice ----------------------------------------------------------------------------------


def choose(what: str, scores: Mapping[str | float, float], measure: str, split: Split) -> Choice:
    """Choose the candidate with the largest score and seal it against the images it was chosen on.

    Parameters
    ----------
    what : str
        What is chosen, ``"threshold at layer4"``.
    scores : mapping of candidate to float
        On ``split``; what is not finite takes no part, ties go to the first.
    measure : str
        What the scores are.
    split : Split

    Returns
    -------
    Choice

    Raises
    ------
    UsageError
        When no candidate has a score, or the split has no image.

    Examples
    --------
    >>> split = Split("half", np.arange(2), 2, frozenset({"a", "b"}))
    >>> choose("threshold", {0.3: 0.5, 0.4: 0.7}, "mean Dice", split).value
    0.4
    """
    defined = {value: score for value, score in scores.items() if np.isfinite(score)}
    if not defined or not len(split):
        found = f"no {measure} defined on {split.name}" if len(split) else f"no image in {split.name}"
        raise UsageError(f"no {what} can be chosen", found=found)
    value = max(defined, key=lambda one: defined[one])
    return Choice(
        what=what,
        value=_plain(value),
        measure=measure,
        score=float(defined[value]),
        candidates=len(scores),
        split=split.name,
        images=len(split),
        masks=split.masks,
        groups=split.groups,
        seal=split.seal,
    )


def _plain(value: str | float) -> str | float:
    """Turn a number of numpy into one that JSON can hold."""
    plain: str | float = value.item() if isinstance(value, np.generic) else value
    return plain


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
        If the split shares a group, or the content of an image, with the one that it was chosen on,
        be it in this run or in another one (see :func:`wsss_probe.ledger.read_choices`).
    """
    shared = choice.seal & split.seal
    if shared and not again:
        images = sum(digest.startswith(_CONTENT) for digest in shared)
        raise SealedError(
            f"{choice.what} was chosen on the images that it is to be scored on",
            found=f"{len(shared) - images} groups and {images} images in both",
            wanted="none",
            remedy="score it on another split, or ask for it with again=True: the report says so",
        )
    return score(choice.value, split.images), replace(choice, reopened=choice.reopened or bool(shared))
