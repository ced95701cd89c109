"""From rows to a summary and findings: the conclusion of channel-f1-fine beside the coarse screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import Interval, group_bootstrap
from wsss_probe_channels.screening.selection import (
    Best,
    Halves,
    best_channel,
    choices_of,
    mean_defined,
    split_halves,
)
from wsss_probe_channels.screening.table import all_ones_f1, top_channels
from wsss_probe_channels.screening.verdict import ControlScore, Evidence, best_channel_finding

if TYPE_CHECKING:
    from wsss_probe import Choice
    from wsss_probe.contracts import Control, Run
    from wsss_probe_channels.screening.fine import ChannelF1Fine

__all__ = ["conclude", "rank_agreement"]


def conclude(probe: ChannelF1Fine, run: Run) -> Conclusion:
    """Conclude over all images of one layer.

    Parameters
    ----------
    probe : ChannelF1Fine
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        By (channel, class), NaN for channels that were not screened: ``mean_f1`` over images where F1 is
        defined, its 95 % interval ``low`` and ``high``, and ``change``, mean_f1 minus that of the
        coarse screen. By (class): the best channel and its references as of channel-f1; ``agreement``,
        Spearman's correlation of the two screens over ``compared`` channels; ``mean_change`` and
        ``largest_change`` of those channels; ``coarse_channel`` and ``coarse_f1``, the first rank of the
        coarse screen. By (control, class): what each control's own best channel reaches.
    """
    coarse, seed = run.summary(probe.coarse), run.survey.seed
    rows = _Seen.of(run.rows(probe.name).load())
    known = np.isfinite(rows.area).any(axis=1)
    # those of channel-f1: the same rule and seed on the same images
    halves = split_halves(run, known, str(coarse.attrs["chosen_on"]), seed)
    controls = [_controlled(control, probe, halves) for control in run.controls]
    seen = _Network(rows, halves, controls, probe.layer)
    evidence = [_evidence(run, seen, position) for position in range(len(rows.classes))]
    table = _channel_table(rows, coarse, run)
    parts = [_best_table(evidence, rows), _comparison(table, coarse), _control_table(controls, rows)]
    summary = xr.merge([table, *parts], join="exact")
    summary.attrs = {**probe.options, "how": halves.how, "screened": len(rows.channels)}
    findings = tuple(_finding(item, coarse, probe.resolution) for item in evidence)
    return Conclusion(summary, findings, _choices(run, seen, [item.best for item in evidence]))


def _choices(run: Run, seen: _Network, best: Sequence[Best]) -> tuple[Choice, ...]:
    """What was chosen by its F1: of each class the best channel, and the best rule on the input alone."""
    made: list[Choice] = []
    for position, name in enumerate(seen.rows.classes):
        rule = seen.rows.chosen_rule(position, seen.halves)
        value = seen.rows.rule_names[rule.channel]
        made += choices_of(run, f"channel of {seen.layer} for {name}, fine", best[position], seen.halves)
        made += choices_of(
            run, f"rule on intensity for {name} beside {seen.layer}, fine", rule, seen.halves, value
        )
    return tuple(made)


# -- what was seen -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """Rows of one network without the places that no channel took."""

    f1: np.ndarray  # (image, place, class)
    channels: np.ndarray  # (place,)
    area: np.ndarray  # (image, class)
    rules: np.ndarray  # (image, rule, class)
    rule_names: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, rows: xr.Dataset) -> _Seen:
        taken = rows["place"].values >= 0
        return cls(
            rows["f1"].values[:, taken],
            rows["place"].values[taken],
            rows["area"].values,
            rows["intensity_f1"].values,
            tuple(str(name) for name in rows["rule"].values),
            tuple(str(name) for name in rows["class"].values),
        )

    def best(self, position: int, halves: Halves) -> Best:
        """Choose and score a channel for one class; its number is that of the layer, not of the place."""
        if not len(self.channels):
            return Best(-1, float("nan"), np.full(len(self.area), np.nan))
        best = best_channel(self.f1[..., position], self.area[:, position], halves)
        return best if best.channel < 0 else replace(best, channel=int(self.channels[best.channel]))

    def best_rule(self, position: int, halves: Halves) -> tuple[str, float]:
        """Name a rule on the input alone, and what it scores."""
        best = self.chosen_rule(position, halves)
        return ("", float("nan")) if best.channel < 0 else (self.rule_names[best.channel], best.score)

    def chosen_rule(self, position: int, halves: Halves) -> Best:
        """Choose a rule on the input alone as a channel is chosen, and score it on the same images."""
        return best_channel(self.rules[..., position], self.area[:, position], halves)


@dataclass(frozen=True, slots=True)
class _Controlled:
    """One control's own best channels, one per class, chosen and scored as the audited network's."""

    name: str
    alive: bool
    best: tuple[Best, ...]


def _controlled(control: Control, probe: ChannelF1Fine, halves: Halves) -> _Controlled:
    rows = _Seen.of(control.rows(probe.name))
    best = tuple(rows.best(position, halves) for position in range(len(rows.classes)))
    return _Controlled(control.name, control.alive(probe.layer), best)


@dataclass(frozen=True, slots=True)
class _Network:
    """What was seen at one layer, in the audited network and its controls."""

    rows: _Seen
    halves: Halves
    controls: Sequence[_Controlled]
    layer: str


# -- the best channel --------------------------------------------------------------------------


def _evidence(run: Run, seen: _Network, position: int) -> Evidence:
    """Gather what is known about the best channel for one class."""
    best = seen.rows.best(position, seen.halves)
    ones = np.where(np.isfinite(best.scored), all_ones_f1(seen.rows.area[:, position]), np.nan)
    return Evidence(
        layer=seen.layer,
        mask_class=seen.rows.classes[position],
        how=seen.halves.how,
        best=best,
        interval=_interval(best, run.groups, run.survey.seed),
        all_ones=float(mean_defined(ones)),
        controls=[ControlScore(c.name, c.alive, c.best[position].score) for c in seen.controls],
        not_testable=run.not_testable,
        intensity=seen.rows.best_rule(position, seen.halves),
    )


def _interval(best: Best, groups: np.ndarray | None, seed: int) -> Interval:
    """Resample the groups of the scoring images."""
    scored = np.isfinite(best.scored)
    if not scored.any():
        undefined = np.array(np.nan)
        return Interval(undefined, undefined, undefined, 0, 0)
    return group_bootstrap(best.scored[scored], None if groups is None else groups[scored], seed=seed)


def _finding(evidence: Evidence, coarse: xr.Dataset, resolution: str) -> Finding:
    """State the verdict by channel-f1's own rule, about the numbers on this grid."""
    finding = best_channel_finding(evidence)
    grid = {"mask": "the masks' grid", "layer": "the layer's grid"}.get(resolution, f"a grid of {resolution}")
    statement = f"On {grid}: {finding.statement}"
    if evidence.best.channel >= 0:
        place = {"channel": evidence.best.channel, "class": evidence.mask_class}
        rank, mean = (float(coarse[name].sel(place)) for name in ("rank", "mean_f1"))
        known = f"rank {rank:.0f}" if np.isfinite(rank) else "no rank"
        statement += (
            f" In the coarse screen this channel has {known}, with mean F1 {mean:.3f} over all images."
        )
    return replace(finding, name=f"fine-{finding.name}", statement=statement)


def _best_table(evidence: Sequence[Evidence], rows: _Seen) -> xr.Dataset:
    """Write the best channel of each class, with its references, as a table by class."""
    present = (rows.area > 0).sum(axis=0)
    ones = np.where(present > 0, mean_defined(all_ones_f1(rows.area)), np.nan)
    columns = {
        "present": present,
        "all_ones_f1": ones,
        "best_channel": [item.best.channel for item in evidence],
        "best_chosen_f1": [item.best.chosen for item in evidence],
        "best_f1": [item.best.score for item in evidence],
        "best_low": [float(item.interval.low) for item in evidence],
        "best_high": [float(item.interval.high) for item in evidence],
        "best_n": [int(np.isfinite(item.best.scored).sum()) for item in evidence],
        "best_groups": [item.interval.groups for item in evidence],
        "best_note": np.array([item.interval.note for item in evidence], dtype=object),
        "best_all_ones_f1": [item.all_ones for item in evidence],
        "best_intensity_f1": [item.intensity[1] for item in evidence],
        "best_intensity_rule": np.array([item.intensity[0] for item in evidence], dtype=object),
    }
    return xr.Dataset(
        {name: ("class", np.asarray(values)) for name, values in columns.items()}, coords=_by_class(rows)
    )


def _control_table(controls: Sequence[_Controlled], rows: _Seen) -> xr.Dataset:
    """Write what each control reaches as a table by control and class; empty without controls."""
    if not controls:
        return xr.Dataset()
    both = ("control", "class")
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([c.alive for c in controls])),
            "control_channel": (both, np.array([[best.channel for best in c.best] for c in controls])),
            "control_f1": (both, np.array([[best.score for best in c.best] for c in controls])),
        },
        coords={"control": np.array([c.name for c in controls], dtype=object), **_by_class(rows)},
    )


# -- beside the coarse screen ------------------------------------------------------------------


def _by_class(rows: _Seen) -> dict[str, np.ndarray]:
    return {"class": np.array(rows.classes, dtype=object)}


def _channel_table(rows: _Seen, coarse: xr.Dataset, run: Run) -> xr.Dataset:
    """Mean F1 of every channel and class with its interval, and what it adds to the coarse mean."""
    shape = (coarse.sizes["channel"], len(rows.classes))
    columns = {name: np.full(shape, np.nan) for name in ("mean_f1", "low", "high")}
    if len(rows.channels):
        # The interval is that of a channel named beforehand: it does not pay for the choice
        interval = group_bootstrap(rows.f1, run.groups, seed=run.survey.seed)
        absent = ~(rows.area > 0).any(axis=0)
        for name, values in zip(columns, (interval.estimate, interval.low, interval.high), strict=True):
            columns[name][rows.channels] = np.where(absent, np.nan, values)
    change = columns["mean_f1"] - coarse["mean_f1"].sel({"class": list(rows.classes)}).values
    both = ("channel", "class")
    return xr.Dataset(
        {name: (both, values) for name, values in (columns | {"change": change}).items()},
        coords={"channel": np.arange(shape[0]), **_by_class(rows)},
    )


def _comparison(table: xr.Dataset, coarse: xr.Dataset) -> xr.Dataset:
    """Say for each class how far the two screens agree over the channels that both have scored."""
    columns: dict[str, list[float]] = {
        name: []
        for name in ("agreement", "compared", "mean_change", "largest_change", "coarse_channel", "coarse_f1")
    }
    classes = [str(name) for name in coarse["class"].values]
    for position, name in enumerate(table["class"].values):
        means = coarse["mean_f1"].values[:, classes.index(name)]
        fine, change = table["mean_f1"].values[:, position], table["change"].values[:, position]
        both = np.isfinite(change)
        first = top_channels(coarse, classes.index(name), 1)
        columns["agreement"].append(rank_agreement(fine[both], means[both]))
        columns["compared"].append(int(both.sum()))
        columns["mean_change"].append(float(change[both].mean()) if both.any() else np.nan)
        columns["largest_change"].append(float(np.abs(change[both]).max(initial=0)) if both.any() else np.nan)
        columns["coarse_channel"].append(int(first[0]) if len(first) else -1)
        columns["coarse_f1"].append(float(means[first[0]]) if len(first) else np.nan)
    return xr.Dataset(
        {name: ("class", np.asarray(values)) for name, values in columns.items()},
        coords={"class": table["class"].values},
    )


def rank_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, Pearson's of the ranks with ties at their mean rank.

    Parameters
    ----------
    first, second : ndarray of float, (channel,)
        All defined.

    Returns
    -------
    float
        In [-1, 1]; NaN for fewer than three channels, or where one side is constant.

    Examples
    --------
    >>> rank_agreement(np.array([0.1, 0.2, 0.9]), np.array([0.5, 0.6, 0.7]))
    1.0
    """
    ranks = [rankdata(values) for values in (first, second)]
    if len(first) < 3 or any(np.ptp(side) == 0 for side in ranks):
        return float("nan")
    x, y = (side - side.mean() for side in ranks)
    return float((x @ y) / np.sqrt((x @ x) * (y @ y)))
