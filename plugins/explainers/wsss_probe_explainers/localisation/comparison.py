"""Maps compared in pairs, image by image: with baselines, with controls, with one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.statistics import benjamini_hochberg, group_bootstrap, sign_flip_p
from wsss_probe_explainers.localisation.judged import BASELINES, baseline_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe_explainers.localisation.judged import Grid
    from wsss_probe_explainers.localisation.network import Floats

__all__ = ["ALPHA", "Column", "Compared", "against_baselines", "against_controls", "between", "compare"]

ALPHA = 0.05
"""False discovery rate of a family of comparisons."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """Two kinds of maps that are compared.

    Parameters
    ----------
    map, other : str
    kind : {"baseline", "control", "map"}
        What the other one is.
    difference : ndarray, (image,)
        Score of the map minus score of the other.
    """

    map: str
    other: str
    kind: str
    difference: Floats


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """The mean of a paired difference.

    Parameters
    ----------
    map, other, kind : str
        As in :class:`Column`.
    mean, low, high : float
        With its 95 % interval over groups.
    p, q : float
        Two-sided, by flipped signs of groups; q over the family.
    n, groups : int
        Images and groups with both scores.
    """

    map: str
    other: str
    kind: str
    mean: float
    low: float
    high: float
    p: float
    q: float
    n: int
    groups: int

    @property
    def above(self) -> bool:
        """Whether the map is better than the other, beyond chance."""
        return self.low > 0 and self.q < ALPHA


def against_baselines(scores: Floats, names: Sequence[str], grids: dict[str, Grid]) -> list[Column]:
    """Pair every explainer with the baselines on its own grid."""
    at = {name: scores[:, position] for position, name in enumerate(names)}
    return [
        Column(name, baseline_name(baseline, grid), "baseline", at[name] - at[baseline_name(baseline, grid)])
        for name, grid in grids.items()
        for baseline in BASELINES
    ]


def against_controls(
    scores: Floats, controls: dict[str, Floats], names: Sequence[str], explainers: Sequence[str]
) -> list[Column]:
    """Pair every explainer with itself on each control network."""
    return [
        Column(name, control, "control", scores[:, position] - others[:, position])
        for position, name in enumerate(names)
        if name in explainers
        for control, others in controls.items()
    ]


def between(scores: Floats, names: Sequence[str], explainers: Sequence[str]) -> list[Column]:
    """Pair all explainers with one another."""
    places = [(position, name) for position, name in enumerate(names) if name in explainers]
    return [
        Column(one, other, "map", scores[:, i] - scores[:, j])
        for (i, one), (j, other) in combinations(places, 2)
    ]


def compare(columns: Sequence[Column], groups: NDArray[np.object_] | None, seed: int = 0) -> list[Compared]:
    """Compare one family of pairs.

    Parameters
    ----------
    columns : sequence of Column
    groups : ndarray or None, (image,)
    seed : int

    Returns
    -------
    list of Compared
        In the same order; q by Benjamini and Hochberg over all of them.
    """
    if not columns:
        return []
    differences = np.stack([column.difference for column in columns], axis=1)
    interval = group_bootstrap(differences, groups, seed=seed)
    p = sign_flip_p(differences, groups, seed=seed)
    q = benjamini_hochberg(p)
    found = []
    for at, column in enumerate(columns):
        defined = np.isfinite(column.difference)
        held = int(defined.sum()) if groups is None else len(set(np.asarray(groups)[defined].tolist()))
        mean, low, high = (float(part[at]) for part in (interval.estimate, interval.low, interval.high))
        names = column.map, column.other, column.kind
        n = int(defined.sum())
        found.append(Compared(*names, mean, low, high, p=float(p[at]), q=float(q[at]), n=n, groups=held))
    return found
