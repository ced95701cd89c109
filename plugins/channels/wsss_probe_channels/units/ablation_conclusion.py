"""From the effects of taking channels away to a table and what may be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import Interval, group_bootstrap
from wsss_probe_channels.screening.selection import Best, Halves, choices_of, mean_defined, split_halves
from wsss_probe_channels.units.ablation import Effects, Labels, linear_effects
from wsss_probe_channels.units.ablation_verdict import accuracy_finding, channel_finding

if TYPE_CHECKING:
    from wsss_probe import Choice
    from wsss_probe.contracts import Control, Run

__all__ = ["conclude_linear", "conclude_resumed", "resumed_effects"]

_CHANNELS = 64
"""Channels whose intervals are computed at once."""

SHOWN_CLASSES = 10
"""Classes with a finding of their own: those that are predicted most often."""


def conclude_linear(name: str, layer: str, run: Run) -> Conclusion:
    """Conclude from pooled maps and head weights.

    Parameters
    ----------
    name, layer : str
    run : Run
        With rows ``label`` (image, class) of the probe ``name``.

    Returns
    -------
    Conclusion
        By (channel, class) ``logit_zero, logit_mean, size_zero, size_mean, relative``; by (channel)
        ``accuracy_zero, accuracy_mean``, changes of accuracy, with ``_low`` and ``_high``; by (class)
        ``top_channel``, chosen on one half of the images, ``top_effect, top_low, top_high`` on the other;
        by (control, class) ``control_effect``, by (control) ``control_changing`` and ``control_alive``;
        ``n``.
    """
    sets = run.rows(name)["label"].values
    labels = _labels(run, np.nan_to_num(sets) > 0)
    head = run.survey.head
    weight = np.zeros((0, 0)) if head.weight is None else head.weight
    effects = linear_effects(run.pooled(layer).values, weight, run.logits.values, labels)
    controls = [_control(control, layer, labels) for control in run.controls]
    return _conclude(layer, run, effects, [item for item in controls if item is not None], "linear head")


def conclude_resumed(name: str, layer: str, run: Run) -> Conclusion:
    """Conclude from rows of the chosen images; as :func:`conclude_linear`, without controls.

    Parameters
    ----------
    name, layer : str
    run : Run

    Returns
    -------
    Conclusion
    """
    rows = run.rows(name)
    used = np.flatnonzero(np.isfinite(rows["logit"].values).all(axis=1))
    chosen = rows.isel(image=used).load()
    labelled = np.zeros(rows.sizes["image"], dtype=bool)
    labelled[used] = chosen["labelled"].values > 0
    known = _labels(run, labelled[:, None]).known
    return _conclude(layer, run, resumed_effects(chosen, used, known[used]), [], "resumed")


def resumed_effects(rows: xr.Dataset, used: np.ndarray, known: np.ndarray) -> Effects:
    """Read effects out of the rows of the images that were run.

    Parameters
    ----------
    rows : Dataset
        Of :class:`wsss_probe_channels.units.ablation_probe.ResumedAblation`, the images that were run.
    used : ndarray of int, (image,)
        Their positions.
    known : ndarray of bool, (image,)
        Whether their labels are.

    Returns
    -------
    Effects
    """
    zero, mean = (rows[f"logit_{kind}"].values.astype(np.float64) for kind in ("zero", "mean"))
    before = rows["correct"].values[known] > 0
    flips = [
        (rows[f"correct_{kind}"].values[known] > 0).astype(np.int8) - before.astype(np.int8)[:, None]
        for kind in ("zero", "mean")
    ]
    return Effects(
        logit_zero=mean_defined(zero),
        logit_mean=mean_defined(mean),
        size_zero=mean_defined(np.abs(zero)),
        size_mean=mean_defined(np.abs(mean)),
        spread=_spread(rows["logit"].values),
        flips_zero=flips[0],
        flips_mean=flips[1],
        right=before,
        used=used,
        labelled=used[known],
        mean_size=lambda images: mean_defined(np.abs(mean[images])),
        sizes=lambda channel, position: np.abs(mean[:, channel, position]),
    )


def _spread(logits: np.ndarray) -> np.ndarray:
    spread: np.ndarray = (
        logits.astype(np.float64).std(axis=0) if len(logits) else np.full(logits.shape[1], np.nan)
    )
    return spread


def _labels(run: Run, sets: np.ndarray) -> Labels:
    """Labels and where they are known; of a single logit, a label that is not the class says it is absent."""
    known = np.asarray(sets.any(axis=1))
    if len(run.survey.classes) == 1 and known.any():
        known = run.images["label"].astype(str).to_numpy() != ""
    return Labels(sets, known, run.survey.multilabel)


@dataclass(frozen=True, slots=True)
class _Controlled:
    """Effects in one control."""

    name: str
    alive: bool
    effects: Effects


def _control(control: Control, layer: str, labels: Labels) -> _Controlled | None:
    """Do the same with a control's own head; None where it is not linear there."""
    head = control.survey.head
    if not head.linear or head.layer != layer or head.weight is None or head.bias is None:
        return None
    pooled = control.pooled(layer).values
    logits = pooled @ head.weight.T + head.bias
    effects = linear_effects(pooled, head.weight, logits, labels)
    return _Controlled(control.name, control.alive(layer), effects)


# -- the summary -------------------------------------------------------------------------------


def _conclude(
    layer: str, run: Run, effects: Effects, controls: Sequence[_Controlled], form: str
) -> Conclusion:
    halves = _halves(effects, run)
    accuracy = {kind: _accuracy(getattr(effects, f"flips_{kind}"), effects, run) for kind in ("zero", "mean")}
    summary = xr.merge(
        [
            _channel_table(effects, accuracy, run),
            _top_table(effects, halves, run),
            _control_table(controls, halves, run),
        ]
    )
    summary = summary.assign(n=len(effects.used))
    summary.attrs = {
        "form": form,
        "how": halves.how,
        "labelled": len(effects.labelled),
        "accuracy": float(effects.right.mean()) if len(effects.right) else None,
    }
    shown = _shown(summary, run)
    findings = [channel_finding(summary, layer, run, position) for position in shown]
    tops, names = _tops(effects, halves), summary["class"].values
    choices = _choices({str(names[position]): tops[position] for position in shown}, halves, run, layer)
    return Conclusion(summary, (*findings, accuracy_finding(summary, layer, run)), choices)


def _choices(tops: Mapping[str, _Top], halves: Halves, run: Run, layer: str) -> tuple[Choice, ...]:
    """What was chosen by its effect, without any mask."""
    made: list[Choice] = []
    for name, top in tops.items():
        values = np.array([np.nan]) if top.values is None else top.values
        best = Best(top.channel, top.chosen, values, top.candidates, "effect on the logit in its deviations")
        found = choices_of(run, f"channel of {layer} whose absence changes {name} most", best, halves)
        made += [replace(choice, masks=0) for choice in found]
    return tuple(made)


def _shown(summary: xr.Dataset, run: Run) -> list[int]:
    """Classes that get a finding: all, or those predicted most often."""
    classes = summary.sizes["class"]
    if classes <= SHOWN_CLASSES:
        return list(range(classes))
    logits = run.logits.values
    predicted = logits[np.isfinite(logits).all(axis=1)].argmax(axis=1)
    often = np.argsort(-np.bincount(predicted, minlength=classes), kind="stable")
    return sorted(int(position) for position in often[:SHOWN_CLASSES])


def _halves(effects: Effects, run: Run) -> Halves:
    known = np.zeros(len(run.images), dtype=bool)
    known[effects.used] = True
    return split_halves(run, known, "", run.survey.seed)


def _classes(effects: Effects, run: Run) -> np.ndarray:
    """Names of the logits; of the one that is kept where there are too many."""
    names = run.survey.classes if len(effects.spread) == len(run.survey.classes) else ("predicted class",)
    return np.array(names, dtype=object)


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """Change of accuracy by channel, with its interval."""

    change: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _accuracy(flips: np.ndarray, effects: Effects, run: Run) -> _Accuracy:
    """Average flips; a channel without any has a change of 0 for certain on these images."""
    channels = flips.shape[1]
    nothing = np.zeros(channels) if len(flips) else np.full(channels, np.nan)
    change, low, high = nothing.copy(), nothing.copy(), nothing.copy()
    groups = None if run.groups is None else run.groups[effects.labelled]
    moved = np.flatnonzero((flips != 0).any(axis=0))
    for start in range(0, len(moved), _CHANNELS):
        part = moved[start : start + _CHANNELS]
        found = group_bootstrap(flips[:, part].astype(np.float64), groups, seed=run.survey.seed)
        change[part], low[part], high[part] = found.estimate, found.low, found.high
    return _Accuracy(change, low, high)


def _channel_table(effects: Effects, accuracy: dict[str, _Accuracy], run: Run) -> xr.Dataset:
    both = ("channel", "class")
    table = {
        name: (both, getattr(effects, name))
        for name in ("logit_zero", "logit_mean", "size_zero", "size_mean")
    }
    table["relative"] = (both, _relative(effects.size_mean, effects.spread))
    columns = {
        f"accuracy_{kind}{end}": ("channel", values)
        for kind, found in accuracy.items()
        for end, values in (("", found.change), ("_low", found.low), ("_high", found.high))
    }
    return xr.Dataset(
        {**table, **columns},
        coords={"channel": np.arange(len(effects.size_mean)), "class": _classes(effects, run)},
    )


def _relative(size: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Sizes in standard deviations of the logit; NaN where it does not vary."""
    spread = np.broadcast_to(spread, size.shape)
    relative: np.ndarray = np.divide(size, spread, out=np.full(size.shape, np.nan), where=spread > 0)
    return relative


# -- the channel that matters most ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Top:
    """The channel with the largest effect on a class where it was chosen, and its effect elsewhere."""

    channel: int = -1
    values: np.ndarray | None = None  # (image,) on the scoring half, in standard deviations
    chosen: float = float("nan")  # mean effect where it was chosen
    candidates: int = 1

    @property
    def effect(self) -> float:
        return float("nan") if self.values is None else float(self.values.mean())


def _tops(effects: Effects, halves: Halves) -> list[_Top]:
    """The top channel of every class."""
    choose, score = halves.choose[effects.used], halves.score[effects.used]
    if not (choose.any() and score.any()):
        return [_Top()] * len(effects.spread)
    size = _relative(effects.mean_size(choose), effects.spread)
    return [_top(effects, size[:, position], position, score) for position in range(size.shape[1])]


def _top(effects: Effects, size: np.ndarray, position: int, score: np.ndarray) -> _Top:
    if not np.isfinite(size).any():
        return _Top()
    channel = int(np.nanargmax(size))
    values = effects.sizes(channel, position)[score] / effects.spread[position]
    return _Top(channel, values, float(size[channel]), int(np.isfinite(size).sum()))


def _top_table(effects: Effects, halves: Halves, run: Run) -> xr.Dataset:
    """Write the top channel of every class with the interval of its effect."""
    tops = _tops(effects, halves)
    at = effects.used[halves.score[effects.used]]
    groups = None if run.groups is None else run.groups[at]
    few = len(tops) <= SHOWN_CLASSES
    found = [_interval(top if few else _Top(), groups, run.survey.seed) for top in tops]
    columns = {
        "top_channel": np.array([top.channel for top in tops]),
        "top_effect": np.array([top.effect for top in tops]),
        "top_low": np.array([float(interval.low) for interval in found]),
        "top_high": np.array([float(interval.high) for interval in found]),
        "top_groups": np.array([interval.groups for interval in found]),
        "top_note": np.array([interval.note for interval in found], dtype=object),
        "top_n": np.array([0 if top.values is None else len(at) for top in tops]),
    }
    return xr.Dataset(
        {key: ("class", values) for key, values in columns.items()}, coords={"class": _classes(effects, run)}
    )


def _interval(top: _Top, groups: np.ndarray | None, seed: int) -> Interval:
    if top.values is None:
        undefined = np.array(np.nan)
        return Interval(undefined, undefined, undefined, 0, 0)
    return group_bootstrap(top.values, groups, resamples=1000, seed=seed)


def _control_table(controls: Sequence[_Controlled], halves: Halves, run: Run) -> xr.Dataset:
    """What the largest effects are in controls; empty without any."""
    if not controls:
        return xr.Dataset()
    effect = [[top.effect for top in _tops(control.effects, halves)] for control in controls]
    changing = [changing_channels(_accuracy(c.effects.flips_zero, c.effects, run)) for c in controls]
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([control.alive for control in controls])),
            "control_effect": (("control", "class"), np.array(effect)),
            "control_changing": ("control", np.array(changing)),
        },
        coords={
            "control": np.array([control.name for control in controls], dtype=object),
            "class": _classes(controls[0].effects, run),
        },
    )


def changing_channels(accuracy: _Accuracy) -> int:
    """Count the channels whose change of accuracy has an interval that excludes 0."""
    return int(((accuracy.low > 0) | (accuracy.high < 0)).sum())
