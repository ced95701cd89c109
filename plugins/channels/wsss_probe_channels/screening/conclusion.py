"""From rows to a summary and findings: the whole conclusion of channel-F1 at one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import Interval, group_bootstrap
from wsss_probe_channels.screening.drop import drop_interval
from wsss_probe_channels.screening.sample_size import Draws, agreement_table, draw_images
from wsss_probe_channels.screening.selection import (
    Best,
    Halves,
    best_channel,
    choices_of,
    eligible,
    mean_defined,
    split_halves,
)
from wsss_probe_channels.screening.table import (
    all_ones_f1,
    channel_table,
    strong_images,
    with_groups,
    with_intervals,
)
from wsss_probe_channels.screening.verdict import ControlScore, Evidence, best_channel_finding

if TYPE_CHECKING:
    from wsss_probe import Choice
    from wsss_probe.contracts import Control, Run
    from wsss_probe_channels.screening.probe import ChannelF1

__all__ = ["conclude"]


def conclude(probe: ChannelF1, run: Run) -> Conclusion:
    """Conclude over all images of one layer.

    Parameters
    ----------
    probe : ChannelF1
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        The table of :func:`wsss_probe_channels.screening.table.channel_table` with groups and intervals; by
        (class) the best channel, its mean F1 where chosen and where scored, the drop between them,
        intervals, n, groups, and the all-ones mask on the same images; by (control, class) the same of
        every control; by (sampled, class) what samples of images would have shown, see
        :func:`wsss_probe_channels.screening.sample_size.agreement_table`.
    """
    rows = run.rows(probe.name).load()
    f1, area, seed = rows["f1"].values, rows["area"].values, run.survey.seed
    known = np.isfinite(area).any(axis=1)  # where all is white there is no tissue
    halves = split_halves(run, known, probe.chosen_on, seed)
    table = with_groups(channel_table(rows, run.partial(probe.name), probe.strong), f1, run.groups)
    table = with_intervals(table, rows, run.groups, seed)
    draws = draw_images(run.groups, known, seed)
    controls = [_controlled(control, probe, halves, draws) for control in run.controls]
    seen = _Seen(rows, halves, _best_channels(f1, area, halves), controls, probe.layer)
    drop = _drops(seen, run.groups, seed)
    evidence = [_evidence(run, seen, drop, position) for position in range(f1.shape[2])]
    samples = agreement_table(f1, area, draws)
    parts = [_best_table(evidence, table), _drop_table(drop), samples, _control_table(controls, table)]
    summary = xr.merge([table, *parts], join="exact")
    summary.attrs = {**probe.options, "how": halves.how}
    findings = tuple(best_channel_finding(item) for item in evidence)
    return Conclusion(summary, findings, _choices(run, seen))


def _choices(run: Run, seen: _Seen) -> tuple[Choice, ...]:
    """What was chosen by its F1: of each class the best channel, and the best rule on the input alone."""
    made: list[Choice] = []
    for position, name in enumerate(map(str, seen.rows["class"].values)):
        rule = _chosen_rule(seen, position)
        value = str(seen.rows["rule"].values[rule.channel])
        made += choices_of(run, f"channel of {seen.layer} for {name}", seen.best[position], seen.halves)
        made += choices_of(run, f"rule on intensity for {name} beside {seen.layer}", rule, seen.halves, value)
    return tuple(made)


@dataclass(frozen=True, slots=True)
class _Controlled:
    """One control's own best channels, one per class, chosen and scored as the audited network's."""

    name: str
    alive: bool
    best: tuple[Best, ...]
    own: np.ndarray  # (image, class): F1 of its best channels
    top: np.ndarray  # (class,): largest mean F1 on all images, as the chart of the audited network shows it
    strong: np.ndarray  # (class,): largest count of strong images
    samples: xr.Dataset


def _controlled(control: Control, probe: ChannelF1, halves: Halves, draws: Draws) -> _Controlled:
    rows = control.rows(probe.name)
    f1, area = rows["f1"].values, rows["area"].values
    best = _best_channels(f1, area, halves)
    means = np.where(eligible(f1, area > 0), mean_defined(f1), -1).max(axis=0)
    return _Controlled(
        control.name,
        control.alive(probe.layer),
        best,
        _own_f1(f1, best),
        np.where(means < 0, np.nan, means),
        strong_images(f1, probe.strong).max(axis=0),
        agreement_table(f1, area, draws),
    )


def _best_channels(f1: np.ndarray, area: np.ndarray, halves: Halves) -> tuple[Best, ...]:
    return tuple(best_channel(f1[..., c], area[:, c], halves) for c in range(area.shape[1]))


def _own_f1(f1: np.ndarray, best: Sequence[Best]) -> np.ndarray:
    """F1 (image, class) of the best channel of each class; NaN where there is none."""
    undefined = np.full(len(f1), np.nan)
    columns = [f1[:, b.channel, c] if b.channel >= 0 else undefined for c, b in enumerate(best)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen at one layer, in the audited network and its controls."""

    rows: xr.Dataset
    halves: Halves
    best: tuple[Best, ...]
    controls: Sequence[_Controlled]
    layer: str


def _drops(seen: _Seen, groups: np.ndarray | None, seed: int) -> Interval:
    """Chosen minus scored mean F1 (network, class) of the audited network, first, and its controls."""
    own = [_own_f1(seen.rows["f1"].values, seen.best), *(control.own for control in seen.controls)]
    return drop_interval(np.stack(own, axis=1), seen.halves, groups, seed)


def _evidence(run: Run, seen: _Seen, drop: Interval, position: int) -> Evidence:
    """Gather what is known about the best channel for one class."""
    area = seen.rows["area"].values[:, position]
    best = seen.best[position]
    baseline = np.where(np.isfinite(best.scored), all_ones_f1(area), np.nan)
    return Evidence(
        layer=seen.layer,
        mask_class=str(seen.rows["class"].values[position]),
        how=seen.halves.how,
        best=best,
        interval=_interval(best, run.groups, run.survey.seed),
        all_ones=float(mean_defined(baseline)),
        controls=[
            ControlScore(c.name, c.alive, c.best[position].score, float(drop.estimate[1 + row, position]))
            for row, c in enumerate(seen.controls)
        ],
        not_testable=run.not_testable,
        intensity=_best_rule(seen, position),
        drop=(
            float(drop.estimate[0, position]),
            float(drop.low[0, position]),
            float(drop.high[0, position]),
        ),
    )


def _best_rule(seen: _Seen, position: int) -> tuple[str, float]:
    """Name a rule on the input alone, and what it scores."""
    best = _chosen_rule(seen, position)
    return (
        ("", float("nan")) if best.channel < 0 else (str(seen.rows["rule"].values[best.channel]), best.score)
    )


def _chosen_rule(seen: _Seen, position: int) -> Best:
    """Choose a rule on the input alone as a channel is chosen, and score it on the same images."""
    scores = seen.rows["intensity_f1"].values[..., position]
    return best_channel(scores, seen.rows["area"].values[:, position], seen.halves)


def _interval(best: Best, groups: np.ndarray | None, seed: int) -> Interval:
    """Resample the groups of the scoring images."""
    scored = np.isfinite(best.scored)
    if not scored.any():
        undefined = np.array(np.nan)
        return Interval(undefined, undefined, undefined, 0, 0)
    return group_bootstrap(best.scored[scored], None if groups is None else groups[scored], seed=seed)


def _best_table(evidence: Sequence[Evidence], table: xr.Dataset) -> xr.Dataset:
    """Write the best channel of each class as a table by class."""
    columns = {
        "best_channel": [item.best.channel for item in evidence],
        "best_chosen_f1": [item.best.chosen for item in evidence],
        "best_f1": [item.best.score for item in evidence],
        "best_low": [float(item.interval.low) for item in evidence],
        "best_high": [float(item.interval.high) for item in evidence],
        "best_groups": [item.interval.groups for item in evidence],
        "best_note": np.array([item.interval.note for item in evidence], dtype=object),
        "best_n": [int(np.isfinite(item.best.scored).sum()) for item in evidence],
        "best_all_ones_f1": [item.all_ones for item in evidence],
        "best_intensity_f1": [item.intensity[1] for item in evidence],
        "best_intensity_rule": np.array([item.intensity[0] for item in evidence], dtype=object),
    }
    return xr.Dataset(
        {name: ("class", np.asarray(values)) for name, values in columns.items()},
        coords={"class": table["class"]},
    )


def _drop_table(drop: Interval) -> xr.Dataset:
    """Write the drop of the audited network by class, and of its controls by control and class."""
    parts = {"": drop.estimate, "_low": drop.low, "_high": drop.high}
    own = {f"best_drop{end}": ("class", part[0]) for end, part in parts.items()}
    both = ("control", "class")
    others = {f"control_drop{end}": (both, part[1:]) for end, part in parts.items() if len(part) > 1}
    return xr.Dataset({**own, **others})


def _control_table(controls: Sequence[_Controlled], table: xr.Dataset) -> xr.Dataset:
    """Write what each control reaches as a table by control and class; empty without controls."""
    if not controls:
        return xr.Dataset()
    both = ("control", "class")
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([c.alive for c in controls])),
            "control_channel": (both, np.array([[best.channel for best in c.best] for c in controls])),
            "control_f1": (both, np.array([[best.score for best in c.best] for c in controls])),
            "control_top_f1": (both, np.array([c.top for c in controls])),
            "control_top_strong": (both, np.array([c.strong for c in controls])),
            **_sampled_by_controls(controls),
        },
        coords={"control": np.array([c.name for c in controls], dtype=object), "class": table["class"]},
    )


def _sampled_by_controls(controls: Sequence[_Controlled]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Rank agreement (control, sampled, class) of the same samples; nothing without samples."""
    name = "sample_agreement"
    found = [control.samples[name].values for control in controls if name in control.samples]
    return {f"control_{name}": (("control", "sampled", "class"), np.array(found))} if found else {}
