"""From rows and weights to a summary and findings: the whole conclusion of weight-classes at one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import benjamini_hochberg
from wsss_probe_channels.weights.contingency import (
    Crossing,
    Scores,
    chances,
    covering,
    crossed_rates,
    crossings,
    screened_classes,
)
from wsss_probe_channels.weights.hits import HitRate, Tally, exchanged, hit_rate
from wsss_probe_channels.weights.taxonomy import weight_classes
from wsss_probe_channels.weights.weight_classes_verdict import Reached, findings, unmatched

if TYPE_CHECKING:
    from wsss_probe.contracts import Control, Run
    from wsss_probe_channels.weights.weight_classes import WeightClasses

__all__ = ["conclude"]


@dataclass(frozen=True, slots=True)
class _Matched:
    """Classes that have weights and a region."""

    positions: tuple[int, ...]
    names: tuple[str, ...]
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Network:
    """What one network shows and says at the layer, for the matched classes only.

    ``weight_class`` is the class of the largest weight of each channel; ``tallies`` are one per class.
    """

    weight_class: np.ndarray
    tallies: tuple[Tally, ...]
    f1: np.ndarray
    coverage: np.ndarray
    area: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Channels with a point in any region's images."""
        return np.asarray(np.any([tally.point.any(axis=0) for tally in self.tallies], axis=0))

    def scores(self, groups: np.ndarray | None) -> Scores:
        """F1 above independence by group."""
        return Scores.of(self.f1, self.coverage, self.area, groups)


def conclude(probe: WeightClasses, run: Run) -> Conclusion:
    """Conclude over all images of one layer.

    Parameters
    ----------
    probe : WeightClasses
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        By (class), of those with a region: ``channels, points, images, hit_rate, area, excess, low, high,
        null_low, null_high, p, q``; ``covering, crossed, crossed_low, crossed_high, crossed_chance,
        crossed_null_low, crossed_null_high, crossed_p, crossed_q``, and ``best_covering, best_crossed,
        best_crossed_low, best_crossed_high``. By (screened, larger_weight) ``contingency`` in channels; by
        (channel) ``screened_class`` and ``weight_class`` as positions of classes, -1 for none; by (channel,
        class) ``score``. By (control, class) the same rates of every control. Empty where no class
        has a region.
    """
    table = run.summary(f"head-weights@{probe.layer}")
    matched = _matched(run, probe, table)
    if not matched.names:
        return Conclusion(xr.Dataset(attrs=dict(probe.options)), unmatched(run, probe.layer, table))
    network = _network(run, probe, table["weight_class"].values, matched)
    hits = _hits(probe, run, network, matched)
    scores = network.scores(run.groups)
    crossed = [
        crossings(scores, network.weight_class, matched.positions, best, probe.permutations, run.survey.seed)
        for best in (None, probe.best)
    ]
    summary = xr.merge(
        [
            _by_class(hits, crossed[0], crossed[1], matched),
            _by_channel(table, network, scores.means(), matched),
            _by_control(probe, run, table, matched),
        ]
    )
    summary.attrs = {**probe.options, "kind": table.attrs["kind"], "note": hits[0].excess.note}
    reached = [_reached(summary, j) for j in range(len(matched.names))]
    told = findings(run, summary, [hit.excess for hit in hits], reached, probe)
    return Conclusion(summary, tuple(told))


def _matched(run: Run, probe: WeightClasses, table: xr.Dataset) -> _Matched:
    """Classes with weights whose region both tables know."""
    known = set(run.rows(f"peaks@{probe.layer}")["class"].values)
    known &= set(run.rows(f"channel-f1@{probe.layer}")["class"].values)
    told = table.attrs["regions"]
    found = [
        (position, name, told[name])
        for position, name in enumerate(map(str, table["class"].values))
        if name in table.attrs["classes with weights"] and told.get(name) in known
    ]
    return _Matched(*zip(*found, strict=True)) if found else _Matched((), (), ())


def _network(
    run: Run | Control, probe: WeightClasses, weight_class: np.ndarray, matched: _Matched
) -> _Network:
    """Read the rows of one network."""
    regions = list(matched.regions)
    peaks = run.rows(f"peaks@{probe.layer}").sel({"class": regions})
    screen = run.rows(f"channel-f1@{probe.layer}")
    f1 = screen[["f1", "area"]].sel({"class": regions})
    inside, area = peaks["inside"].values, peaks["area"].values
    return _Network(
        weight_class,
        tuple(Tally.of(inside[..., j], area[:, j]) for j in range(len(regions))),
        f1["f1"].values,
        screen["coverage"].values,
        f1["area"].values,
    )


def _hits(probe: WeightClasses, run: Run, network: _Network, matched: _Matched) -> list[HitRate]:
    """Hit rate of every matched class, all against the same exchanges."""
    labels = exchanged(network.weight_class, network.points, probe.permutations, run.survey.seed)
    return [
        hit_rate(tally, network.weight_class == c, labels == c, run.groups, run.survey.seed)
        for tally, c in zip(network.tallies, matched.positions, strict=True)
    ]


# -- tables ------------------------------------------------------------------------------------


def _by_class(
    hits: Sequence[HitRate], crossed: Sequence[Crossing], best: Sequence[Crossing], matched: _Matched
) -> xr.Dataset:
    """Write what is known about every matched class."""
    columns = {
        "region": np.array(matched.regions, dtype=object),
        "position": list(matched.positions),
        "channels": [h.channels for h in hits],
        "points": [h.points for h in hits],
        "images": [h.images for h in hits],
        "groups": [h.excess.groups for h in hits],
        "hit_rate": [h.hit for h in hits],
        "area": [h.area for h in hits],
        "excess": [float(h.excess.estimate) for h in hits],
        "low": [float(h.excess.low) for h in hits],
        "high": [float(h.excess.high) for h in hits],
        "null_low": [h.null[0] for h in hits],
        "null_high": [h.null[1] for h in hits],
        "p": [h.p for h in hits],
        "q": benjamini_hochberg([h.p for h in hits]),
        **_crossing_columns("crossed", crossed),
        **_crossing_columns("best_crossed", best),
    }
    return xr.Dataset(
        {name: ("class", np.asarray(values)) for name, values in columns.items()},
        coords={"class": np.array(matched.names, dtype=object)},
    )


def _crossing_columns(name: str, found: Sequence[Crossing]) -> dict[str, np.ndarray]:
    p = np.array([c.p for c in found])
    return {
        name: np.array([c.rate for c in found]),
        f"{name}_channels": np.array([c.channels for c in found]),
        f"{name}_chance": np.array([c.chance for c in found]),
        f"{name}_low": np.array([c.interval[0] for c in found]),
        f"{name}_high": np.array([c.interval[1] for c in found]),
        f"{name}_null_low": np.array([c.null[0] for c in found]),
        f"{name}_null_high": np.array([c.null[1] for c in found]),
        f"{name}_p": p,
        f"{name}_q": benjamini_hochberg(p),
    }


def _by_channel(table: xr.Dataset, network: _Network, score: np.ndarray, matched: _Matched) -> xr.Dataset:
    """Write every channel's screened class, and the contingency with its weight class."""
    screened = screened_classes(score)
    shown = [str(name) for name in table["class"].values if name in table.attrs["classes with weights"]]
    columns = [list(table["class"].values).index(name) for name in shown] + [-1]
    counts = [
        [int(((screened == j) & (network.weight_class == c)).sum()) for c in columns]
        for j in [*range(len(matched.names)), -1]
    ]
    position = np.append(matched.positions, -1)[screened]
    return xr.Dataset(
        {
            "contingency": (("screened", "larger_weight"), np.array(counts)),
            "screened_class": ("channel", position),
            "weight_class": ("channel", network.weight_class),
            "score": (("channel", "class"), score),
        },
        coords={
            "screened": np.array([*matched.names, "(no class)"], dtype=object),
            "larger_weight": np.array([*shown, "(no class)"], dtype=object),
            "class": np.array(matched.names, dtype=object),
            "channel": np.arange(len(score)),
        },
    )


# -- controls ----------------------------------------------------------------------------------


def _by_control(probe: WeightClasses, run: Run, table: xr.Dataset, matched: _Matched) -> xr.Dataset:
    """Score every control by its own weights and maps; empty where none has weights of this kind."""
    found = {}
    for control in run.controls:
        weight_class = _control_weight_class(probe, control, table)
        if weight_class is not None:
            found[control.name] = _scored(_network(control, probe, weight_class, matched), probe, matched)
    if not found:
        return xr.Dataset()
    alive = {control.name: control.alive(probe.layer) for control in run.controls}
    columns = {
        f"control_{column}": (("control", "class"), np.stack([one[column] for one in found.values()]))
        for column in next(iter(found.values()))
    }
    return xr.Dataset(
        {**columns, "control_alive": ("control", np.array([alive[name] for name in found]))},
        coords={
            "control": np.array(list(found), dtype=object),
            "class": np.array(matched.names, dtype=object),
        },
    )


def _control_weight_class(probe: WeightClasses, control: Control, table: xr.Dataset) -> np.ndarray | None:
    """Class of the largest of a control's own weights, None where it has none of the same kind."""
    from wsss_probe_channels.weights.head_weights import control_weight

    name = f"head-weights@{probe.layer}"
    weight = control_weight(name, probe.layer, table.attrs["kind"], control)
    if weight is None:
        return None
    told = table.attrs["classes with weights"]
    known = [i for i, c in enumerate(table["class"].values) if c in told]
    position = weight_classes(weight)
    return np.where(position < 0, -1, np.array(known)[position])


def _scored(network: _Network, probe: WeightClasses, matched: _Matched) -> dict[str, np.ndarray]:
    """Rates of one control, by class."""
    hit, area = [], []
    for tally, c in zip(network.tallies, matched.positions, strict=True):
        points, hits, expected = tally.by_channel()[network.weight_class == c].sum(axis=0)
        hit.append(hits / points if points else np.nan)
        area.append(expected / points if points else np.nan)
    score = network.scores(np.zeros(len(network.f1), dtype=np.int64)).means()
    found = {
        name: crossed_rates(
            covering(score, network.weight_class, best), network.weight_class, matched.positions
        )
        for name, best in (("crossed", None), ("best_crossed", probe.best))
    }
    chance = chances(covering(score, network.weight_class), network.weight_class, matched.positions)
    return {"hit_rate": np.array(hit), "area": np.array(area), "crossed_chance": chance, **found}


def _reached(summary: xr.Dataset, j: int) -> Reached:
    """What the living controls reach for one class."""
    if "control" not in summary.dims:
        return Reached(np.empty(0), np.empty(0), 0)
    alive = summary["control_alive"].values.astype(bool)
    excess = (summary["control_hit_rate"] - summary["control_area"]).values[alive, j]
    below = (summary["control_crossed"] - summary["control_crossed_chance"]).values[alive, j]
    return Reached(excess[np.isfinite(excess)], below[np.isfinite(below)], int((~alive).sum()))
