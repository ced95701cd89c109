"""What a reader sees of invariance: how IoU is distributed, every channel, and the controls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import CONTROL_COLOR, PALETTE
from wsss_probe_channels.screening.selection import mean_defined
from wsss_probe_channels.units.invariance_conclusion import QUANTILES, quantiles

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = (
    "B = A(x) > Otsu(A(x)); C: the map of the moved image, moved back, thresholded alike; IoU = |B and C| / "
    "|B or C|, mean over images where it is defined (a constant map has none). Independent masks of "
    "coverages p and q have pq / (p + q - pq). The claim: Feng, Hafiane, Laurent, Weakly Supervised "
    "Segmentation of Histopathology Images: An Insight in Feature Maps Ability for Learning Models "
    "Interpretation, section 2.7."
)

LAYOUT = {
    "height": 380,
    "boxmode": "overlay",
    "showlegend": True,
    "yaxis": {"title": {"text": "mean IoU of a channel"}, "range": [0, 1.02]},
}


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    summary : Dataset
        As invariance concludes.
    run : Run

    Yields
    ------
    Section
    """
    layer, moved = summary.attrs["layer"], summary.attrs["moved"]
    if not moved:
        yield Section("channels", f"Moved images at {layer}", (Text("No moved image has maps with a mask."),))
        return
    blocks = (_distribution(summary, len(run.images)), _all_channels(summary))
    yield Section("channels", f"Do channels of {layer} follow when the image moves?", blocks)
    yield Section("chance", f"Moved images at {layer} beside the controls", (_networks(summary),))


# -- figure ------------------------------------------------------------------------------------


def _distribution(summary: xr.Dataset, images: int) -> Figure:
    """Draw the distribution over channels for every motion that the layer allows."""
    mean = summary["iou"].values
    shown = np.flatnonzero(np.isfinite(mean).any(axis=0))
    names = [str(name) for name in summary["transform"].values[shown]]
    networks = [("audited", quantiles(mean)[shown]), *_control_quantiles(summary, shown)]
    places = [_places(row, len(networks), len(names)) for row in range(len(networks))]
    traces = [
        _boxes(name, spread, x, PALETTE[0] if name == "audited" else CONTROL_COLOR)
        | {"width": 0.6 / len(networks)}
        for (name, spread), x in zip(networks, places, strict=True)
    ]
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}
    chance = dict(zip(names, summary["layer_expected"].values[shown], strict=True))
    caption = (
        "IoU of each live channel's Otsu mask before and after the image is moved; "
        f"{summary.attrs['moved']} of {images} images. Box: quartiles over channels, whiskers 5 to 95 %; "
        "grey: controls; points: the best channels by channel-F1. Independent masks: "
        f"{', '.join(f'{name} {value:.2f}' for name, value in chance.items())}."
    )
    data = pd.DataFrame(quantiles(mean)[shown], columns=[f"quantile {q:g}" for q in QUANTILES])
    data.insert(0, "transform", names)
    figure = {"data": [*traces, *_best(summary, shown, places[0])], "layout": {**LAYOUT, "xaxis": ticks}}
    return Figure(figure, caption, DEFINITION, data)


def _control_quantiles(summary: xr.Dataset, shown: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Name and quantiles (transform, quantile) of every living control."""
    rows = range(summary.sizes.get("control", 0))
    return [
        (str(summary["control"].values[row]), summary["control_quantiles"].values[row][shown])
        for row in rows
        if summary["control_alive"].values[row]
    ]


def _places(row: int, networks: int, transforms: int) -> np.ndarray:
    """Where one network's boxes stand, side by side with the others' at every motion."""
    return np.arange(transforms) + 0.8 * ((row + 0.5) / networks - 0.5)


def _boxes(name: str, spread: np.ndarray, x: np.ndarray, color: str) -> dict[str, Any]:
    """Draw one network's boxes from quantiles (transform, quantile)."""
    keys = ("lowerfence", "q1", "median", "q3", "upperfence")
    values = {key: column.tolist() for key, column in zip(keys, spread.T, strict=True)}
    return {"type": "box", "name": name, "x": x.tolist(), **values, "marker": {"color": color}}


def _best(summary: xr.Dataset, shown: np.ndarray, x: np.ndarray) -> list[dict[str, Any]]:
    """Mark the best channels; nothing if they are not known."""
    channels = np.flatnonzero(summary["best"].values)
    values = summary["iou"].values[channels][:, shown]
    if not len(channels):
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "best channels",
            "x": np.tile(x, len(channels)).tolist(),
            "y": values.ravel().tolist(),
            "customdata": np.repeat(channels, len(x)).tolist(),
            "marker": {"symbol": "diamond", "size": 9, "color": PALETTE[1]},
            "hovertemplate": "channel %{customdata}<br>%{y:.3g}<extra></extra>",
        }
    ]


# -- tables ------------------------------------------------------------------------------------


def _all_channels(summary: xr.Dataset) -> Table:
    """Write every live channel, best by channel-F1 first, then the most stable."""
    stability, best = summary["stability"].values, summary["best"].values
    order = np.lexsort((-stability, ~best))
    order = order[np.isfinite(stability[order])]
    names = [str(name) for name in summary["transform"].values]
    columns = {name: summary["iou"].values[order, row] for row, name in enumerate(names)}
    frame = pd.DataFrame(
        {
            "channel": order,
            "best by channel-F1": np.where(best[order], "yes", ""),
            "mean": stability[order],
            **{name: values for name, values in columns.items() if np.isfinite(values).any()},
            "shift low": summary["low"].values[order, 0],
            "shift high": summary["high"].values[order, 0],
            "independent": mean_defined(summary["expected"].values[order].T),
            "degenerate": summary["degenerate"].values[order].max(axis=1, initial=0),
        }
    )
    caption = (
        f"IoU with itself of every live channel, n = {summary.attrs['moved']} moved images. mean: over "
        "motions; shift low and high: 95 % interval over groups under shifts, for the best and the most "
        "stable; independent: IoU of masks of the same coverage; degenerate: images without an IoU."
    )
    return Table(frame, caption)


def _networks(summary: xr.Dataset) -> Table:
    """Write the layer's mean and the best channels of each network."""
    mean, best = summary["iou"].values, summary["best"].values
    rows = [_row(summary, "audited", "all live", summary["layer_iou"].values)]
    if best.any():
        rows.append(_row(summary, "audited", "best by channel-F1", mean_defined(mean[best])))
    for row in range(summary.sizes.get("control", 0)):
        control = summary.isel(control=row)
        name, note = str(control["control"].values), ""
        if not bool(control["control_alive"]):
            note = "degenerate, counts for nothing"
        rows.append(_row(summary, name, "all live", control["control_iou"].values, note))
        if best.any():
            rows.append(_row(summary, name, "best by channel-F1", control["control_best"].values, note))
    rows.append(_row(summary, "independent masks", "all live", summary["layer_expected"].values))
    caption = (
        f"Mean IoU under each motion, n = {summary.attrs['moved']} moved images; controls learned nothing "
        "and take their own best channels. A convolution follows a shift whatever its weights: only what "
        "exceeds the controls was learned."
    )
    return Table(pd.DataFrame(rows).dropna(axis="columns", how="all"), caption)


def _row(
    summary: xr.Dataset, network: str, channels: str, values: np.ndarray, note: str = ""
) -> dict[str, Any]:
    names = map(str, summary["transform"].values)
    return {"network": network, "channels": channels, **dict(zip(names, values, strict=True)), "note": note}
