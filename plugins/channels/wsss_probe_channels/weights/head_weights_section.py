"""What a reader sees of head weights: their signs beside the controls', and every channel's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import scatter
from wsss_probe.report.markdown import literal
from wsss_probe_channels.weights.taxonomy import SIGNS, pair_signs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sections"]

_WORDS = {
    "++": "both positive",
    "--": "both negative",
    "+-": "own positive, others negative",
    "-+": "own negative, others positive",
    "zero": "one is exactly 0",
    "undefined": "not finite",
}

_EXACT = (
    "weight w of logit = w @ GAP(maps) + bias, proved on real images (Feng, Hafiane, Laurent, eq. 1 and "
    "section 2.5)"
)

_EFFECTIVE = (
    "effective weight: mean over images of the sum over positions of d logit / d map; equal to the head's "
    "weight "
    "where the head is linear in the pooled maps (Feng, Hafiane, Laurent, section 2.5, for the signs)"
)


def sections(layer: str, summary: xr.Dataset) -> Iterable[Section]:
    """Build the report's section for one layer.

    Parameters
    ----------
    layer : str
    summary : Dataset
        Of head-weights.

    Yields
    ------
    Section
    """
    title = "Effective weights" if summary.attrs["kind"] == "effective" else "Weights of the head"
    yield Section("channels", f"{title} at {layer}", (_text(summary), _signs(summary), _figure(summary)))


def _shown(summary: xr.Dataset) -> list[int]:
    """Positions of the classes that have weights."""
    return [
        i for i, name in enumerate(summary["class"].values) if name in summary.attrs["classes with weights"]
    ]


def _text(summary: xr.Dataset) -> Text:
    """Say which weights these are, and how far they may be trusted."""
    told, shown = summary.attrs, _shown(summary)
    parts = [f"Masks: {literal(told['correspondence'])}."]
    if told["kind"] == "effective":
        share = told["relative_spread"]
        size = "undefined" if share is None else f"{share:.2g} times the size of its mean in the median"
        parts.append(
            f"These are **effective weights**: {told['head']}. Between the {told['n']} images a gradient "
            "sum has a "
            f"standard deviation of {size}; for a linear head it would be 0. "
            f"{len(shown)} of {summary.sizes['class']} classes were asked for."
        )
    parts.append(
        "After a softmax only differences between the weights of a channel act; signs are settled by "
        "chance of training."
    )
    return Text(" ".join(parts))


def _signs(summary: xr.Dataset) -> Table:
    """Count channels by the signs of their weights, one row per class and bucket."""
    names, channels = summary["class"].values, summary.sizes["channel"]
    # of two classes the second row is the first in a mirror
    shown = _shown(summary)[: 1 if len(names) == 2 else None]
    rows = []
    for c in shown:
        for i, sign in enumerate(SIGNS):
            count = int(summary["sign_counts"].values[c, i])
            if count or sign not in {"zero", "undefined"}:
                row = {"class": names[c], "signs": sign, "meaning": _WORDS[sign], "channels": count}
                rows.append({**row, "share": count / channels, "controls": _reached(summary, c, i)})
    others = f"of {names[1]}" if len(names) == 2 else "the mean of the other classes' weights"
    others = "its own negative, as a single logit has no other" if len(names) == 1 else others
    caption = (
        f"Channels by sign of their weight for the class, then of the other weight: {others}. n = "
        f"{channels} channels; "
        "each class's rows add up to it. controls: smallest to largest count in networks that learned "
        "nothing."
    )
    return Table(pd.DataFrame(rows), caption)


def _reached(summary: xr.Dataset, c: int, sign: int) -> str:
    """Range of the living controls' counts."""
    if "control_sign_counts" not in summary:
        return "none"
    alive = summary["control_alive"].values.astype(bool)
    counts = summary["control_sign_counts"].values[alive, c, sign]
    return f"{counts.min()} to {counts.max()} ({len(counts)})" if len(counts) else "none alive"


def _figure(summary: xr.Dataset) -> Figure:
    """Draw every channel by its weights, coloured by bucket or by the class of the largest weight."""
    names, shown = [str(name) for name in summary["class"].values], _shown(summary)
    weight = summary["weight"].values[shown]
    if len(names) == 2 and len(shown) == 2:
        axes = (f"weight for {names[0]}", f"weight for {names[1]}")
        across, up, groups = weight[0], weight[1], pair_signs(weight[0], weight[1])
        seen = "coloured by signs; left of and above the line the larger weight is for " + names[1]
    else:
        axes, across, up = _one_against_others(weight)
        position = summary["weight_class"].values
        groups = np.array([names[p] if p >= 0 else "none" for p in position], dtype=object)
        seen = "coloured by the class of the largest weight"
    labels = [f"channel {k}" for k in summary["channel"].values]
    figure = scatter(across, up, axes=axes, labels=labels, groups=list(groups))
    data = pd.DataFrame({"channel": summary["channel"].values, "signs": summary["sign"].values})
    for c, own in zip(shown, weight, strict=True):
        data[f"weight {names[c]}"] = own
    kind = summary.attrs["kind"]
    caption = (
        f"Every channel's {kind} weights (as Fig. 4 of the paper), {seen}. n = {len(data)} channels; "
        "the table counts the same for controls."
    )
    return Figure(
        _with_diagonal(figure, across, up), caption, _EFFECTIVE if kind == "effective" else _EXACT, data
    )


def _one_against_others(weight: np.ndarray) -> tuple[tuple[str, str], np.ndarray, np.ndarray]:
    """Largest weight against the mean of the others; of a single logit, channel against weight."""
    if len(weight) < 2:
        return ("channel", "weight"), np.arange(weight.shape[1]), weight[0]
    largest = weight.max(axis=0)
    rest = (weight.sum(axis=0) - largest) / (len(weight) - 1)
    return ("mean of the other weights", "largest weight"), rest, largest


def _with_diagonal(figure: dict[str, Any], across: np.ndarray, up: np.ndarray) -> dict[str, Any]:
    """Add the line on which both weights are equal, and the zero lines of both axes."""
    ends = np.concatenate([across, up])
    ends = ends[np.isfinite(ends)]
    if not len(ends) or figure["layout"]["xaxis"]["title"]["text"] == "channel":
        return figure
    low, high = float(ends.min()), float(ends.max())
    place = {"x0": low, "y0": low, "x1": high, "y1": high, "layer": "below"}
    line = {"type": "line", **place, "line": {"dash": "dot", "width": 1, "color": "#878d96"}}
    layout = figure["layout"]
    axes = {name: {**layout[name], "zeroline": True} for name in ("xaxis", "yaxis")}
    return {**figure, "layout": {**layout, **axes, "shapes": [line]}}
