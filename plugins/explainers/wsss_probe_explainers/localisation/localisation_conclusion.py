"""From rows to a summary, choices and findings: the whole conclusion of localisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.boxes import max_box_acc, max_box_acc_v2
from wsss_probe.contracts import INPUT
from wsss_probe.passport import evidence_layer
from wsss_probe.statistics import Interval, group_bootstrap, nanmean
from wsss_probe_explainers.localisation.comparison import (
    Compared,
    against_baselines,
    against_controls,
    between,
    compare,
)
from wsss_probe_explainers.localisation.judged import grids_of, pair_name
from wsss_probe_explainers.localisation.localisation_verdict import Ranking, findings
from wsss_probe_explainers.localisation.network import (
    MEASURES,
    Floats,
    NetworkScores,
    counted_images,
    network_scores,
)
from wsss_probe_explainers.localisation.pooled_pixels import coarse_pxap, pooled_pixels
from wsss_probe_explainers.localisation.reached import HOW_MANY, by_number, second_order, several
from wsss_probe_explainers.localisation.thresholds import Held, Parting, held_out, parted

if TYPE_CHECKING:
    from wsss_probe.contracts import Control, Run
    from wsss_probe_explainers.localisation.localisation_probe import Localisation

__all__ = ["conclude"]

Variables = dict[str, tuple[Any, ...]]


@final
@dataclass(frozen=True, slots=True)
class _Network:
    """One network's maps, and their Dice at thresholds chosen for them."""

    scores: NetworkScores
    held: Held

    def measure(self, name: str) -> Floats:
        """Scores of single images, (image, explainer); Dice and IoU only where thresholds are scored."""
        if name == "iou":
            return np.asarray(self.held.dice / (2 - self.held.dice))
        return self.held.dice if name == "dice" else self.scores.measures[name]


SHOWN = (*MEASURES, "dice", "iou")


def conclude(probe: Localisation, run: Run) -> Conclusion:
    """Rank the maps; choose thresholds on one half and score them on the other; compare with controls.

    Parameters
    ----------
    probe : Localisation
    run : Run

    Returns
    -------
    Conclusion
    """
    rows = run.rows(probe.name).compute()
    names = [str(name) for name in rows["explainer"].values]
    counted = counted_images(rows)
    parting = parted(probe, run, counted)
    steps = np.asarray(rows["threshold"].values, dtype=np.float64)

    def network(table: xr.Dataset) -> _Network:
        scores = network_scores(table, names, counted)
        return _Network(scores, held_out(scores, parting, steps))

    audited = network(rows)
    controls = {control.name: network(_alive(control, probe, run)) for control in run.controls}
    intervals = {name: group_bootstrap(audited.measure(name), run.groups) for name in SHOWN}
    compared, rivals = _comparisons(audited, controls, run, names)
    explained = set(grids_of(run.survey))
    ranking = Ranking(
        names=tuple(name for name in names if name in explained),
        intervals=intervals,
        compared=tuple(compared),
        positions={name: position for position, name in enumerate(names)},
        controls={name: nanmean(other.measure(MEASURES[0])) for name, other in controls.items()},
        share=float(nanmean(np.where(counted, rows["area"].values, np.nan).astype(np.float64))),
        truth=probe.region.short,
    )
    reached = several(rows, audited.scores, {name: one.scores for name, one in controls.items()}, run)
    summary = xr.Dataset(
        {
            **_scores(audited, intervals),
            **_pixels(run, probe, audited),
            **_boxes(rows, counted, names),
            **by_number(rows, audited.scores, run.groups),
            **_controls(controls),
            **_pairs(compared, "comparison"),
            **_pairs(rivals, "rivalry"),
            **_kinds(names, explained, rows, counted),
        },
        coords=_coordinates(names, steps, controls, compared, rivals),
        attrs=_attrs(probe, run, rows, counted, parting),
    )
    return Conclusion(
        summary,
        (*findings(ranking, run, len(run.controls)), *second_order(reached, run)),
        audited.held.choices,
        _map_scores(audited, names, explained),
    )


def _alive(control: Control, probe: Localisation, run: Run) -> xr.Dataset:
    """Rows of a control; NaN for maps on layers that do not respond to images."""
    table = control.rows(probe.name).compute()
    layers = {pair_name(pair): pair[1] for pair in run.survey.relevance}
    asked = {layer: control.alive(_tapped(layer, run)) for layer in set(layers.values())}
    alive = np.array([asked.get(layers.get(str(name), ""), True) for name in table["explainer"].values])
    kept = xr.DataArray(alive, dims="explainer", coords={"explainer": table["explainer"]})
    return table.where(kept)


def _tapped(layer: str, run: Run) -> str:
    """Layer that says whether a control lives: for a map on the input, the one that evidence rests on."""
    return evidence_layer(run.survey) if layer == INPUT else layer


def _comparisons(
    audited: _Network, controls: Mapping[str, _Network], run: Run, names: Sequence[str]
) -> tuple[list[Compared], list[Compared]]:
    """Compare explainers with baselines and controls, one family, and with one another, another."""
    first = MEASURES[0]
    own = audited.measure(first)
    grids = grids_of(run.survey)
    others = {name: other.measure(first) for name, other in controls.items()}
    columns = [
        *against_baselines(own, names, grids),
        *against_controls(own, others, names, list(grids)),
    ]
    compared = compare(columns, run.groups, run.survey.seed)
    return compared, compare(between(own, names, list(grids)), run.groups, run.survey.seed)


# -- the summary -------------------------------------------------------------------------------


def _coordinates(
    names: Sequence[str],
    steps: Floats,
    controls: Mapping[str, _Network],
    compared: Sequence[Compared],
    rivals: Sequence[Compared],
) -> dict[str, np.ndarray]:
    texts = {
        "explainer": list(names),
        "objects": list(HOW_MANY),
        "control": list(controls),
        "comparison": [f"{one.map} - {one.other}" for one in compared],
        "rivalry": [f"{one.map} - {one.other}" for one in rivals],
    }
    return {"threshold": steps, **{name: np.array(text, dtype=object) for name, text in texts.items()}}


def _scores(network: _Network, intervals: Mapping[str, Interval]) -> Variables:
    """Means with intervals, and thresholds."""
    table: Variables = {}
    for name, interval in intervals.items():
        table[name] = ("explainer", interval.estimate)
        table[f"{name}_low"], table[f"{name}_high"] = (
            ("explainer", interval.low),
            ("explainer", interval.high),
        )
        table[f"{name}_n"] = ("explainer", np.isfinite(network.measure(name)).sum(0))
    table["chosen_threshold"] = ("explainer", network.held.threshold)
    table["chosen_dice"] = ("explainer", network.held.chosen)
    table["dice_curve"] = (("explainer", "threshold"), nanmean(network.scores.dice))
    return table


def _pixels(run: Run, probe: Localisation, network: _Network) -> Variables:
    """PxAP and the curve of precision and recall."""
    found = pooled_pixels(run.partial(probe.name), network.scores, run.groups, run.survey.seed)
    curve = ("explainer", "threshold")
    return {
        "pxap": ("explainer", found.pxap),
        "pxap_low": ("explainer", found.low),
        "pxap_high": ("explainer", found.high),
        "auprc": ("explainer", found.auprc),
        "prevalence": ("explainer", found.prevalence),
        "precision_at": (curve, found.precision),
        "recall_at": (curve, found.recall),
    }


def _boxes(rows: xr.Dataset, counted: np.ndarray, names: Sequence[str]) -> Variables:
    """MaxBoxAcc and MaxBoxAccV2 over the images that count and have boxes."""
    largest, every = rows["box_largest"].values[counted], rows["box_every"].values[counted]
    return {
        "max_box_acc": ("explainer", [max_box_acc(largest[:, at]) for at in range(len(names))]),
        "max_box_acc_v2": ("explainer", [max_box_acc_v2(every[:, at]) for at in range(len(names))]),
        "boxes_n": ("explainer", np.isfinite(largest).all(2).sum(0)),
    }


def _controls(controls: Mapping[str, _Network]) -> Variables:
    """Means of each control's maps; thresholds are chosen for each control as for the audited network."""
    if not controls:
        return {}
    both = ("control", "explainer")
    table: Variables = {
        f"control_{name}": (both, np.array([nanmean(one.measure(name)) for one in controls.values()]))
        for name in SHOWN
    }
    table["control_pxap"] = (both, np.array([coarse_pxap(one.scores) for one in controls.values()]))
    return table


def _pairs(found: Sequence[Compared], dimension: str) -> Variables:
    """Write comparisons as columns."""
    numbers = ("mean", "low", "high", "p", "q", "n", "groups")
    table: Variables = {
        f"{dimension}_{name}": (dimension, np.array([getattr(one, name) for one in found], dtype=np.float64))
        for name in numbers
    }
    for name in ("map", "other", "kind"):
        texts = np.array([getattr(one, name) for one in found], dtype=object)
        table[f"{dimension}_{name}"] = (dimension, texts)
    return table


def _kinds(names: Sequence[str], explained: set[str], rows: xr.Dataset, counted: np.ndarray) -> Variables:
    """Which names are explainers, and how many of their maps are constant or undefined."""
    kept = rows.isel(image=np.flatnonzero(counted))
    return {
        "explains": ("explainer", np.array([name in explained for name in names])),
        "constant": ("explainer", np.nansum(kept["constant"].values, axis=0)),
        "undefined": ("explainer", np.nansum(kept["undefined"].values, axis=0)),
    }


def _attrs(
    probe: Localisation, run: Run, rows: xr.Dataset, counted: np.ndarray, parting: Parting
) -> dict[str, Any]:
    """What a reader must know besides numbers."""
    objects, own = rows["objects"].values, rows["own"].values
    units = np.arange(len(counted)) if run.groups is None else np.asarray(run.groups)
    return {
        "truth": probe.region.words,
        "region": probe.region.short,
        "share": float(nanmean(rows["area"].values[counted].astype(np.float64))) if counted.any() else 0.0,
        "target": str(probe.target),
        "tolerance": probe.tolerance,
        "images": int(counted.sum()),
        "groups": len(np.unique(units[counted])),
        "independent": run.groups is None,
        "empty": int(((objects == 0) | ((objects > 0) & (own != 1))).sum()),
        "parting": parting.words,
    }


def _map_scores(audited: _Network, names: Sequence[str], explained: set[str]) -> dict[str, xr.DataArray]:
    """Scores of single maps for the gallery."""
    kept = [position for position, name in enumerate(names) if name in explained]
    coords = {"explainer": np.array([names[position] for position in kept], dtype=object)}
    tables = {
        "Dice": audited.held.everywhere,
        "average precision": audited.measure(MEASURES[0]),
        "pointing": audited.measure("pointing"),
    }
    return {
        name: xr.DataArray(values[:, kept], dims=("image", "explainer"), coords=coords)
        for name, values in tables.items()
    }
