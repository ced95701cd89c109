"""Which images train, which choose the epoch, which are held out; never one group on two sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.errors import ManifestError

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.labels import Labels

__all__ = ["TRAIN", "VALIDATION", "Split", "image_groups", "split_rows"]

TRAIN, VALIDATION = "train", "val"

_SYNONYMS = {"training": TRAIN, "valid": VALIDATION, "validation": VALIDATION}

_TRIES = 400

Rows = NDArray[np.intp]


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a manifest by purpose.

    Parameters
    ----------
    rows : mapping of str to ndarray of int, (image,)
        ``train``, ``val`` and every other split of the manifest that has labels.
    notes : tuple of str
        What a reader of the metrics should know.
    """

    rows: Mapping[str, Rows]
    notes: tuple[str, ...]

    def where(self, readable: NDArray[np.bool_], labels: Labels) -> Split:
        """Leave out images that cannot be read.

        Parameters
        ----------
        readable : ndarray of bool, (image,)
        labels : Labels

        Returns
        -------
        Split

        Raises
        ------
        ManifestError
            If training then lacks a class, or no validation image is left.
        """
        rows = {name: places[readable[places]] for name, places in self.rows.items()}
        _check_training(labels, rows[TRAIN])
        if not len(rows[VALIDATION]):
            raise ManifestError("no image for validation can be read", wanted="readable rows with split val")
        return replace(self, rows=rows)


def image_groups(manifest: Manifest) -> NDArray[np.object_]:
    """Name the unit of independence of each row: its group, else its image (never its tile).

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    ndarray of str, (image,)
    """
    groups = manifest.groups
    return manifest.frame["image"].to_numpy() if groups is None else groups


def split_rows(manifest: Manifest, labels: Labels, *, share: float, seed: int) -> Split:
    """Sort the labelled rows of a manifest by purpose.

    Rows named ``train`` train, ``val`` rows choose the epoch, every other split is held out. A
    manifest without any split trains on all rows; without ``val`` rows, ``share`` of the training
    images is set aside, by whole groups (more, up to a half, where few groups leave a class on
    one side only).

    Parameters
    ----------
    manifest : Manifest
    labels : Labels
    share : float
    seed : int

    Returns
    -------
    Split

    Raises
    ------
    ManifestError
        If there is no training image, a class is missing in training, or the groups cannot be
        divided.
    """
    named = manifest.frame["split"].replace(_SYNONYMS).to_numpy(dtype=object)
    if not (named != "").any():
        named = np.full(len(named), TRAIN, dtype=object)
    missing = int(((named != "") & ~labels.labelled).sum())
    named = np.where(labels.labelled, named, "")
    _check_training(labels, np.flatnonzero(named == TRAIN))
    if not (named == VALIDATION).any():
        train = np.flatnonzero(named == TRAIN)
        groups = image_groups(manifest)[train]
        named[train[_set_aside(groups, labels.sets[train], share, seed)]] = VALIDATION
        _check_training(labels, np.flatnonzero(named == TRAIN))
    others = sorted(set(named.tolist()) - {TRAIN, VALIDATION, ""})
    rows = {name: np.flatnonzero(named == name) for name in (TRAIN, VALIDATION, *others)}
    unlabelled = [f"{missing} images without a label were left out"] if missing else []
    return Split(rows, (*unlabelled, *_shared(image_groups(manifest), rows)))


def _set_aside(
    groups: NDArray[np.object_], sets: NDArray[np.bool_], share: float, seed: int
) -> NDArray[np.bool_]:
    """Choose whole groups for validation: of many random choices the one nearest to the share in every class.

    The host's greedy split fills one side after the other; it may leave a class on one side only.
    """
    names, member = np.unique(groups.astype(str), return_inverse=True)
    counts = np.zeros((len(names), sets.shape[1]))
    np.add.at(counts, member, sets)
    generator = np.random.default_rng(seed)
    # Around the share, and wider: few or unequal groups may need more of them.
    chances = generator.uniform(share / 2, (1 + share) / 2, size=(_TRIES, 1))
    chosen = generator.random((_TRIES, len(names)), dtype=np.float32) < chances
    inside = (chosen @ counts) / counts.sum(axis=0)
    possible = ((inside > 0) & (inside < 1)).all(axis=1)
    if not possible.any():
        raise _indivisible(f"{len(names)} groups" if len(names) > 1 else "one group")
    distance = np.where(possible, np.abs(inside - share).sum(axis=1), np.inf)
    return np.asarray(chosen[distance.argmin()][member])


def _indivisible(found: str) -> ManifestError:
    return ManifestError(
        "the training images cannot be split by group with every class on both sides",
        found=found,
        wanted="two or more groups of each class",
        remedy="set the column split to train and val, or change --validation",
    )


def _check_training(labels: Labels, rows: Rows) -> None:
    """Refuse a training set that is empty or lacks a class (or, with sigmoids, a class's absence)."""
    train = labels.sets[rows]
    if not len(train):
        raise ManifestError("no labelled image to train on", wanted=f"rows with a label and split {TRAIN}")
    for index, name in enumerate(labels.classes):
        if not train[:, index].any():
            raise ManifestError(
                f"class {name!r} is missing in training",
                found=f"0 of {len(train)} training images",
                remedy="change the column split, or leave the class out",
            )
        if labels.multilabel and train[:, index].all():
            raise ManifestError(
                f"class {name!r} is on every training image",
                wanted="images without it",
                remedy="change the column split, or leave the class out",
            )


def _shared(groups: NDArray[np.object_], rows: Mapping[str, Rows]) -> list[str]:
    """Say where the manifest itself puts one group on two sides."""
    trained = set(groups[rows[TRAIN]].tolist())
    shared = {name: len(trained & set(groups[rows[name]].tolist())) for name in rows if name != TRAIN}
    return [
        f"groups both in {TRAIN} and in {name}: {count}; {name} is not independent of training"
        for name, count in shared.items()
        if count
    ]
