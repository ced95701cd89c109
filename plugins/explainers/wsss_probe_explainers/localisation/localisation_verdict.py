"""What may be said about the maps of one audit beside baselines and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe import Finding
from wsss_probe.contracts import INPUT
from wsss_probe.passport import evidence_layer
from wsss_probe.statistics import FEW_GROUPS, Interval
from wsss_probe_explainers.localisation.network import MEASURES

if TYPE_CHECKING:
    from wsss_probe.contracts import Run
    from wsss_probe_explainers.localisation.comparison import Compared
    from wsss_probe_explainers.localisation.network import Floats

__all__ = ["MOST", "Ranking", "Standing", "findings", "standing"]

MOST = 6
"""Findings for single explainers; the others share one."""


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """How all maps rank.

    Parameters
    ----------
    names : tuple of str
        Explainers, without baselines.
    intervals : mapping of str to Interval
        By measure: means of every kind of map, (explainer,).
    compared : tuple of Compared
        Explainers against baselines and controls.
    positions : mapping of str to int
        Of all names in the arrays.
    controls : mapping of str to ndarray, (explainer,)
        Mean of the first measure on each control; NaN where it is dead.
    share : float
        Mean share of the region in the known pixels.
    truth : str
        What maps are compared with.
    """

    names: tuple[str, ...]
    intervals: Mapping[str, Interval]
    compared: tuple[Compared, ...]
    positions: Mapping[str, int]
    controls: Mapping[str, Floats]
    share: float
    truth: str


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """One explainer beside everything that it is compared with.

    Parameters
    ----------
    name : str
    mean, low, high : float
        Mean average precision of an image, and its 95 % interval.
    n, groups : int
    baselines, controls : tuple of Compared
        Living controls only.
    reach : float
        Largest mean of a living control; NaN without one.
    """

    name: str
    mean: float
    low: float
    high: float
    n: int
    groups: int
    baselines: tuple[Compared, ...]
    controls: tuple[Compared, ...]
    reach: float

    @property
    def clears(self) -> bool:
        """Whether it is above all baselines and all living controls, of which there is one at least."""
        beside = (*self.baselines, *self.controls)
        # without a living control there is no reach: NaN, which nothing is above
        return all(one.above for one in beside) and self.low > self.reach

    @property
    def not_above(self) -> list[str]:
        """Baselines that it is not above, without their grids."""
        return [one.other.split(",")[0] for one in self.baselines if not one.above]


def standing(ranking: Ranking, name: str) -> Standing:
    """Collect what is known about one explainer."""
    at = ranking.positions[name]
    interval = ranking.intervals[MEASURES[0]]
    own = [one for one in ranking.compared if one.map == name]
    controls = tuple(one for one in own if one.kind == "control" and one.n)
    n = max((one.n for one in own if one.kind == "baseline"), default=0)
    groups = max((one.groups for one in own if one.kind == "baseline"), default=0)
    reached = [float(scores[at]) for scores in ranking.controls.values() if np.isfinite(scores[at])]
    baselines = tuple(one for one in own if one.kind == "baseline")
    return Standing(
        name=name,
        mean=float(interval.estimate[at]),
        low=float(interval.low[at]),
        high=float(interval.high[at]),
        n=n,
        groups=groups,
        baselines=baselines,
        controls=controls,
        reach=max(reached, default=float("nan")),
    )


def findings(ranking: Ranking, run: Run, controls: int) -> tuple[Finding, ...]:
    """Say of each explainer at the layer that evidence rests on how it stands, and of the others together.

    ``ok`` needs all of: at least ten groups; a living control; the whole interval of the mean average
    precision above the largest mean of a living control; paired differences above 0 (interval, and q below
    0.05) from every baseline and every living control; a classifier that can be tested.

    Parameters
    ----------
    ranking : Ranking
    run : Run
    controls : int
        How many were run.

    Returns
    -------
    tuple of Finding
    """
    all_standing = [standing(ranking, name) for name in ranking.names]
    seen = [one for one in all_standing if one.n]
    if not seen:
        statement = (
            f"No map could be compared with {ranking.truth}: no image has both a map and such a region "
            "in its mask."
        )
        return (Finding("localisation", "notice", statement, n=0, unit="average precision"),)
    layers = (evidence_layer(run.survey), INPUT)
    first = [one for one in seen if one.name.rsplit(", ", 1)[-1] in layers][:MOST] or seen[:MOST]
    rest = [one for one in seen if one not in first]
    made = [_finding(one, ranking, run, controls) for one in first]
    return (*made, *([_together(rest, run)] if rest else []))


def _may(one: Standing, run: Run) -> bool:
    return one.clears and one.groups >= FEW_GROUPS and not run.not_testable


def _finding(one: Standing, ranking: Ranking, run: Run, controls: int) -> Finding:
    """State how one explainer stands."""
    parts = [
        f"{one.name}: mean average precision {one.mean:.3f} [{one.low:.3f}, {one.high:.3f}] with "
        f"{ranking.truth}, chance {ranking.share:.3f} (n = {one.n} images, {one.groups} groups)",
        _beside_baselines(one),
        _beside_controls(one, controls),
        *_limits(one, run),
    ]
    names = [*dict.fromkeys(c.other for c in one.controls), *(b.other for b in one.baselines)]
    return Finding(
        f"localisation/{one.name}",
        "ok" if _may(one, run) else "notice",
        "; ".join(parts) + ".",
        effect=one.mean,
        interval=(one.low, one.high) if np.isfinite(one.low) else None,
        n=one.n,
        groups=one.groups,
        unit="average precision",
        control=", ".join(names),
    )


def _limits(one: Standing, run: Run) -> list[str]:
    """Whatever forbids a verdict, or weakens an interval."""
    few = f"fewer than {FEW_GROUPS} groups, no verdict"
    limits = [few] if one.groups < FEW_GROUPS else []
    limits += ["images treated as independent"] if run.groups is None else []
    return limits + ([f"not testable here: {run.not_testable}"] if run.not_testable else [])


def _beside_baselines(one: Standing) -> str:
    """Which maps that know nothing it is above."""
    if not one.not_above:
        return f"above all {len(one.baselines)} maps that know nothing of the network (paired by image)"
    worst = min(one.baselines, key=lambda other: other.mean)
    return (
        f"not above {', '.join(one.not_above)} (paired by image; against {worst.other}: {worst.mean:+.3f} "
        f"[{worst.low:+.3f}, {worst.high:+.3f}])"
    )


def _beside_controls(one: Standing, controls: int) -> str:
    """Whether it is above the same explainer on networks that learned nothing."""
    if not one.controls:
        return "control degenerate, no verdict" if controls else "no control was run, no verdict"
    number = f"{len(one.controls)} control{'s' if len(one.controls) > 1 else ''}"
    left = f", {controls - len(one.controls)} degenerate and left out" if controls > len(one.controls) else ""
    limit = f"with {number} no p below {1 / (len(one.controls) + 1):.2g}"
    if all(other.above for other in one.controls) and one.low > one.reach:
        return f"above the same map on all {number} (the highest {one.reach:.3f}{left}); {limit}"
    return f"not clearly above the same map on all {number} (the highest {one.reach:.3f}{left}); {limit}"


def _together(rest: Sequence[Standing], run: Run) -> Finding:
    """Fold explainers at other layers into one statement."""
    clear = [one.name for one in rest if _may(one, run)]
    words = f": {'; '.join(clear)}" if clear else ""
    statement = (
        f"Of {len(rest)} further maps, {len(clear)} have a mean average precision above every map that knows "
        f"nothing and above the same map on all living controls{words}; the table has them all."
    )
    return Finding(
        "localisation/further-maps",
        "notice",
        statement,
        effect=float(len(clear)),
        n=max(one.n for one in rest),
        groups=max(one.groups for one in rest),
        unit="maps",
        control="baseline maps and controls",
    )
