"""Splits that keep groups together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.errors import ManifestError, UsageError
from wsss_probe.names import natural_order

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest

__all__ = ["split_by_group"]


def split_by_group(manifest: Manifest, fractions: Mapping[str, float], seed: int = 0) -> Manifest:
    """Assign whole groups to splits, each label as near to its share as whole groups allow.

    A group counts for the label that most of its rows have. Images without a group stand for
    themselves, tiles of one image stand together.

    Parameters
    ----------
    manifest : Manifest
    fractions : mapping of str to float
        Split name to share of the rows; the shares add up to 1.
    seed : int
        Decides which groups go where.

    Returns
    -------
    Manifest
        The same rows with a new column ``split``.

    Raises
    ------
    UsageError
        Shares that cannot be meant.
    ManifestError
        Fewer groups than splits.

    Examples
    --------
    ``split_by_group(manifest, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=1)``
    """
    shares = [float(share) for share in fractions.values()]
    # Written so that NaN fails too
    positive = all(share > 0 for share in shares)
    if not (shares and positive and abs(sum(shares) - 1) <= 1e-6 and all(fractions)):
        raise UsageError("shares of splits", found=str(dict(fractions)), wanted="positive and adding up to 1")
    groups = manifest.groups
    names = manifest.frame["image"].to_numpy() if groups is None else groups
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    if len(members) < len(shares):
        raise ManifestError(
            "fewer groups than splits", found=f"{len(members)} groups", wanted=f"{len(shares)}"
        )
    splits = np.empty(len(manifest), dtype=object)
    for name, split in _assigned(_strata(manifest, members), members, fractions, seed).items():
        splits[members[name]] = split
    return replace(manifest, frame=manifest.frame.assign(split=splits))


def _strata(manifest: Manifest, members: Mapping[str, list[int]]) -> dict[str, list[str]]:
    """Sort groups by the label that most of their rows have."""
    labels = manifest.frame["label"].to_numpy()
    strata: dict[str, list[str]] = {}
    for name in sorted(members, key=natural_order):
        counts = Counter(labels[members[name]])
        label = min(counts, key=lambda one: (-counts[one], one))
        strata.setdefault(label, []).append(name)
    return dict(sorted(strata.items()))


def _assigned(
    strata: Mapping[str, list[str]],
    members: Mapping[str, list[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """Give each group to the split that lacks most rows; what is left over goes to the next label."""
    random = np.random.default_rng(seed)
    lacking = dict.fromkeys(fractions, 0.0)
    assigned: dict[str, str] = {}
    for groups in strata.values():
        rows = sum(len(members[name]) for name in groups)
        for split, share in fractions.items():
            lacking[split] += share * rows
        order = [groups[position] for position in random.permutation(len(groups))]
        # Large groups first, so that small ones can even out; sorting keeps the random order of equals
        for name in sorted(order, key=lambda one: -len(members[one])):
            split = max(lacking, key=lambda one: lacking[one])
            assigned[name] = split
            lacking[split] -= len(members[name])
    return assigned
