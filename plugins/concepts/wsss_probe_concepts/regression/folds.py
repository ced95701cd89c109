"""Which images are held out of which fit: repeated K-fold, whole groups together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Folds", "make_folds"]

Positions = NDArray[np.intp]


@final
@dataclass(frozen=True, slots=True)
class Folds:
    """Images that are held out, split by split.

    Parameters
    ----------
    test : tuple of ndarray of int
        Positions of the held-out images of each split, ascending. The splits of one repeat follow each
        other and hold out every image once.
    repeats : int
        0 where nothing can be held out.
    reason : str
        Why nothing can be held out; empty if it can.
    """

    test: tuple[Positions, ...]
    repeats: int
    reason: str = ""

    @property
    def images(self) -> int:
        """Images that the splits speak of."""
        return sum(len(one) for one in self.test) // self.repeats if self.repeats else 0

    def of_repeat(self, repeat: int) -> dict[int, Positions]:
        """Held-out positions of the splits of one repeat, by the number of the split."""
        count = len(self.test) // self.repeats
        return {number: self.test[number] for number in range(repeat * count, (repeat + 1) * count)}


def make_folds(
    n: int, groups: ArrayLike | None = None, folds: int = 5, repeats: int = 2, seed: int = 0
) -> Folds:
    """Divide images at random, so that no group has images on both sides of a split.

    Groups are taken in random order, the largest first, and each goes to the fold that has the fewest
    images so far: sizes of folds differ by no more than the largest group. Fewer groups than folds give as
    many folds as there are groups.

    Parameters
    ----------
    n : int
        Images.
    groups : array, (image,), optional
        Group of each image. Without it each image is its own group.
    folds, repeats : int
        ``folds * repeats`` splits; every repeat divides anew.
    seed : int

    Returns
    -------
    Folds
        Without splits, and with a reason, where there are fewer than two groups.

    Raises
    ------
    UsageError
        If fewer than two folds or no repeat is asked for, or ``groups`` has another length than ``n``.

    Examples
    --------
    >>> folds = make_folds(4, ["a", "a", "b", "b"], repeats=1)
    >>> sorted(held_out.tolist() for held_out in folds.test)
    [[0, 1], [2, 3]]
    >>> make_folds(3, ["a", "a", "a"]).reason
    'one group: nothing can be held out'
    """
    if folds < 2 or repeats < 1:
        raise UsageError(
            "images cannot be divided", found=f"{folds} folds, {repeats} repeats", wanted="at least 2 and 1"
        )
    member, sizes = _membership(n, groups)
    if len(sizes) < 2:
        return Folds((), 0, "one group: nothing can be held out" if n else "no images")
    generator = np.random.default_rng(seed)
    test: list[Positions] = []
    for _ in range(repeats):
        placed = _placed(sizes, min(folds, len(sizes)), generator)[member]
        test += [np.flatnonzero(placed == fold) for fold in range(min(folds, len(sizes)))]
    return Folds(tuple(test), repeats)


def _membership(n: int, groups: ArrayLike | None) -> tuple[Positions, NDArray[np.int64]]:
    """Number of each image's group, (image,), and the size of each group."""
    if groups is None:
        return np.arange(n), np.ones(n, dtype=np.int64)
    array: NDArray[Any] = np.asarray(groups)
    if array.shape != (n,):
        raise UsageError("groups do not fit", found=f"shape {array.shape}", wanted=f"one per image: ({n},)")
    names, member = np.unique(array, return_inverse=True)
    return member, np.bincount(member, minlength=len(names))


def _placed(sizes: NDArray[np.int64], folds: int, generator: np.random.Generator) -> Positions:
    """Fold of each group."""
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    placed, filled = np.zeros(len(sizes), dtype=np.intp), np.zeros(folds, dtype=np.int64)
    for group in order:
        placed[group] = np.argmin(filled)
        filled[placed[group]] += sizes[group]
    return placed
