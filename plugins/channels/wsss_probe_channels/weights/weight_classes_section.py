"""What a reader sees of weight classes: hit rates, contingency, points over images, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Gallery, Picture, Section, Table
from wsss_probe.report.figures import ControlRange, interval_plot
from wsss_probe_channels.regions import regions_of
from wsss_probe_channels.screening.selection import mean_defined
from wsss_probe_channels.weights.hits import informative
from wsss_probe_channels.weights.point_plot import point_plot

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run
    from wsss_probe_channels.weights.weight_classes import WeightClasses

__all__ = ["sections"]

DEFINITION = (
    "A channel belongs to the class with its largest weight. Hit rate: share of the maxima of the class's "
    "live maps "
    "(cell centres) inside the class's mask region, over images that the region covers in part; area: the "
    "region's "
    "share of the image over the same points. Feng, Hafiane, Laurent, Weakly Supervised Segmentation of "
    "Histopathology Images: An Insight in Feature Maps Ability for Learning Models Interpretation, section "
    "2.5."
)

SHOWN_IMAGES, SHOWN_CLASSES = 3, 4

# Bright, since stains are dark; told apart by their place in a panel of their own, not by colour alone
_INKS = ("#ffd000", "#00c2ff", "#7dff5a", "#ff6ec7")


def sections(probe: WeightClasses, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer; none where no class has a region.

    Parameters
    ----------
    probe : WeightClasses
    summary : Dataset
    run : Run

    Yields
    ------
    Section
    """
    if "class" not in summary.dims:
        return
    blocks: list[Block] = [
        _hits(summary),
        _contingency(summary),
        _crossed(summary),
        *_points(probe, summary, run),
    ]
    yield Section("channels", f"What the weights of {probe.layer} say about its channels", tuple(blocks))
    yield Section("chance", f"Weight classes of {probe.layer} beside their controls", (_controls(summary),))


# -- numbers -----------------------------------------------------------------------------------


def _hits(summary: xr.Dataset) -> Figure:
    """Hit rate less area of every class, over what the controls reach."""
    columns = [
        "region",
        "channels",
        "points",
        "images",
        "groups",
        "hit_rate",
        "area",
        "excess",
        "low",
        "high",
    ]
    columns += ["null_low", "null_high", "p", "q"]
    data = pd.DataFrame({"class": summary["class"].values, **{c: summary[c].values for c in columns}})
    labels = [f"{name} in {region}" for name, region in zip(data["class"], data["region"], strict=True)]
    control = _control_range(summary)
    figure = interval_plot(
        labels,
        data["excess"],
        list(zip(data["low"], data["high"], strict=True)),
        axis="hit rate less area of the region",
        control=control,
    )
    reach = "no living control" if control is None else f"grey: {control.name}"
    rates = ", ".join(
        f"{row['class']} {100 * row.hit_rate:.1f} % where the area is {100 * row.area:.1f} %"
        for _, row in data.iterrows()
        if np.isfinite(row.hit_rate)
    )
    note = summary.attrs["note"] or "n below"
    caption = (
        f"Where the maxima lie: {rates or 'no class has points'}. Bars: 95 % interval over groups, {note}; "
        f"null: classes exchanged between channels {summary.attrs['permutations']} times; q: over the "
        f"classes; {reach}."
    )
    return Figure(figure, caption, DEFINITION, data)


def _control_range(summary: xr.Dataset) -> ControlRange | None:
    """Range over living controls and classes of their own hit rate less area."""
    if "control" not in summary.dims:
        return None
    alive = summary["control_alive"].values.astype(bool)
    reached = (summary["control_hit_rate"] - summary["control_area"]).values[alive]
    reached = reached[np.isfinite(reached)]
    name = f"{int(alive.sum())} controls, all classes"
    return ControlRange(float(reached.min()), float(reached.max()), name) if len(reached) else None


def _contingency(summary: xr.Dataset) -> Table:
    """Count channels by what they cover and what their weights say."""
    counts = summary["contingency"].values
    frame = pd.DataFrame({"covers": [str(name) for name in summary["screened"].values]})
    for k, name in enumerate(summary["larger_weight"].values):
        frame[f"largest weight {name}"] = counts[:, k]
    caption = (
        f"Channels (n = {int(counts.sum())}) by the class that they cover, the one with the largest mean "
        "of F1 less 2pq / (p + q), and by the class of their largest weight; (no class): no score above 0, "
        "or a tie. Rates, intervals and exchanges: next table; controls: see under chance."
    )
    return Table(frame, caption)


def _crossed(summary: xr.Dataset) -> Table:
    """Rate of channels that cover a class and carry a larger weight for another, of all and of the best."""
    frames = []
    for name, which in (("crossed", "all"), ("best_crossed", f"best {summary.attrs['best']}")):
        columns = {
            "channels": "_channels",
            "crossed": "",
            "low": "_low",
            "high": "_high",
            "chance": "_chance",
        }
        columns |= {"null low": "_null_low", "null high": "_null_high", "p": "_p", "q": "_q"}
        values = {header: summary[f"{name}{end}"].values for header, end in columns.items()}
        frames.append(pd.DataFrame({"class": summary["class"].values, "of": which, **values}))
    caption = (
        "crossed: share of the channels that cover the class with a larger weight for another; low, high: "
        "95 % over "
        f"groups, screened anew (n = {int(summary['images'].values.max())} images); chance: the share "
        "among all "
        "channels that cover any class; null: 95 % of rates with weights exchanged between these channels; "
        "p: so few "
        "by exchange, q: over the classes. Controls: see under chance."
    )
    table = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    return Table(table, caption)


def _controls(summary: xr.Dataset) -> Table:
    """Write the rates of every network, each by its own weights and maps."""
    columns = {"hit rate": "hit_rate", "area": "area", "crossed": "crossed", "chance": "crossed_chance"}
    columns[f"best {summary.attrs['best']}"] = "best_crossed"
    names = summary["class"].values
    own = {header: summary[column].values for header, column in columns.items()}
    frames = [pd.DataFrame({"class": names, "network": "audited", **own, "note": ""})]
    if "control" in summary.dims:
        alive = summary["control_alive"].values.astype(bool)
        for row, control in enumerate(summary["control"].values):
            own = {header: summary[f"control_{column}"].values[row] for header, column in columns.items()}
            note = "" if alive[row] else "degenerate, counts for nothing"
            frames.append(pd.DataFrame({"class": names, "network": str(control), **own, "note": note}))
    caption = (
        "Hit rate beside the region's area, and the share of channels that cover a class but carry a "
        "larger weight "
        "for another beside its chance, for the audited network and for networks that learned nothing, "
        "each by its "
        f"own maps and its own {summary.attrs['kind']} weights. n: {int(summary['images'].values.max())} "
        "images."
    )
    table = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    return Table(table, caption)


# -- pictures ----------------------------------------------------------------------------------


def _points(probe: WeightClasses, summary: xr.Dataset, run: Run) -> list[Gallery]:
    """Draw the maxima over three typical images, one panel per class; empty where no image can be shown."""
    rows = run.rows(f"peaks@{probe.layer}")
    position, weight_class = summary["position"].values[:SHOWN_CLASSES], summary["weight_class"].values
    regions, names = list(summary["region"].values[:SHOWN_CLASSES]), summary["class"].values
    chosen = rows.sel({"class": regions})
    members = [weight_class == c for c in position]
    scores = _image_scores(chosen["inside"].values, chosen["area"].values, members)
    row, column = rows["row"].values, rows["column"].values
    strips = []
    for index in _typical(scores):
        pixels = run.picture(index)
        if pixels is None:
            continue
        outlines = _outlines(run, index, regions)
        pictures = [Picture(pixels, f"image and {regions[0]}", outline=outlines[0])]
        for j, member in enumerate(members):
            drawn = point_plot(pixels, row[index, member], column[index, member], _INKS[j % len(_INKS)])
            label = f"{names[j]}: {int(np.isfinite(row[index, member]).sum())} maxima"
            pictures.append(Picture(drawn, label, outline=outlines[j]))
        strips.append((str(run.images["name"].iloc[index]), tuple(pictures)))
    return [Gallery(tuple(strips), _points_caption(summary, len(strips)))] if strips else []


def _points_caption(summary: xr.Dataset, number: int) -> str:
    left_out = summary.sizes["class"] - SHOWN_CLASSES
    more = f" {left_out} further classes are not drawn." if left_out > 0 else ""
    return (
        "Maxima of all live maps, one panel per class of the larger weight (as Fig. 5 of the paper), on "
        f"{number} images at "
        "the lower quartile, median and upper quartile of hit rate less area. A disc is a cell's centre, "
        "its area the "
        "number of channels there (up to 9); outline: the class's mask region. Numbers over all images and "
        f"controls: see the figure above.{more}"
    )


def _image_scores(inside: np.ndarray, area: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Hit rate less area of each image, mean over the classes; NaN where no region covers it in part."""
    scores = [
        np.where(informative(area[:, j]), mean_defined(inside[:, member, j].T) - area[:, j], np.nan)
        for j, member in enumerate(members)
    ]
    return mean_defined(np.stack(scores))


def _typical(scores: np.ndarray) -> list[int]:
    """Positions of images at the quartiles of a score."""
    order = np.argsort(scores, kind="stable")[: int(np.isfinite(scores).sum())]
    steps = np.linspace(0, 1, SHOWN_IMAGES + 2)[1:-1]
    places = (
        np.unique(np.round(steps * (len(order) - 1)).astype(int)) if len(order) else np.empty(0, dtype=int)
    )
    return [int(order[place]) for place in places]


def _outlines(run: Run, index: int, regions: Sequence[str]) -> list[np.ndarray | None]:
    """The mask region of each panel."""
    import torch

    mask = run.mask(index)
    if mask is None:
        return [None] * len(regions)
    known = {region.name: region for region in regions_of(run.survey.mask_classes, "all")}
    return [known[name].inside(torch.from_numpy(np.asarray(mask))).numpy() for name in regions]
