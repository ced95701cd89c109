"""Figures of concepts over depth: curves per network, a heatmap over all concepts, and stability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from wsss_probe import Figure
from wsss_probe.report.figures import CONTROL_COLOR, PALETTE
from wsss_probe_concepts.vectors.encoded import Cell, audited, encoded
from wsss_probe_concepts.vectors.panels import grid_layout, in_panel
from wsss_probe_concepts.vectors.probe import PRIMARY

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["depth_curves", "heatmap", "stability_plot"]

Trace = dict[str, Any]

_DEFINITION: Final = (
    "Held-out R² = 1 - SSE/SSB: squared errors of ridge regression on images left out (whole groups "
    "together), over those of the training part's mean; both summed over all repeats. In-sample R²: "
    "ordinary least squares on the images that it was fitted to, as in Graziani et al. (2019); for pure "
    "noise it is p/(n - 1), with p linearly independent channels."
)
_LOWEST: Final = -0.5
_LEGEND_ROW: Final = 4
_LONGEST: Final = 18
_MOST_ROWS: Final = 45
# Light with a dark edge: seen on dark and on light cells
_DOT: Final = {"symbol": "circle", "color": "#f4f2ee", "line": {"width": 1.4, "color": "#4a5059"}}
_CROSS: Final = {"symbol": "x-thin", "color": CONTROL_COLOR, "line": {"width": 1.6, "color": CONTROL_COLOR}}
_BAND: Final = "rgba(135, 141, 150, 0.28)"


def depth_curves(table: xr.Dataset, cells: Sequence[Cell], numbers: pd.DataFrame) -> Figure:
    """Draw R² over depth for some concepts, one panel each, one curve per network.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.depth_table`.
    cells : sequence of Cell
        Concepts to draw.
    numbers : DataFrame
        All numbers, offered for download.

    Returns
    -------
    Figure
    """
    concepts = [cell.concept for cell in cells]
    traces = [
        in_panel(trace, panel)
        for panel, concept in enumerate(concepts)
        for trace in _curves(table.isel(concept=concept))
    ]
    titles = [str(table["concept"].values[concept]) for concept in concepts]
    layout = grid_layout(titles, _depth_axis(table), _r2_axis(table, concepts)) | _legend_above(table)
    note = f"; {table.attrs['note']}" if table.attrs["note"] else ""
    caption = (
        f"Held-out R² of {len(concepts)} concepts (learned ones first, then the strongest; of those that go "
        f"together one) over layers in the order of execution, {table.attrs['images']} images in "
        f"{table.attrs['groups']} groups; bars: 95 % over groups{note}. Grey band: from lowest to highest "
        "of the living controls, networks that learned nothing. Dashed: in-sample R² of ordinary least "
        "squares, which supports nothing; dotted: what it reaches on pure noise. Values below "
        f"−{-_LOWEST:g} are cut off; no point: not estimable."
    )
    return Figure({"data": traces, "layout": layout}, caption, _DEFINITION, numbers)


def _legend_above(table: xr.Dataset) -> Trace:
    """Put the legend over the panels, where slanted names of layers do not run into it."""
    networks = int((table["kind"].values != "control").sum())
    rows = -(-(2 + 2 * networks) // _LEGEND_ROW)
    legend = {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 0}
    return {"showlegend": True, "legend": legend, "margin": {"t": 40 + 26 * rows, "b": 90}}


def _curves(one: xr.Dataset) -> Iterator[Trace]:
    """Traces of one concept: the controls' band, noise, then each network held out and in sample."""
    kinds = one["kind"].values
    yield from _control_band(one)
    noise = np.minimum(one["noise_r2"].values, 1.0)
    yield _line(one, "noise alone, in-sample", noise, CONTROL_COLOR, "dot")
    for place, at in enumerate(np.flatnonzero(kinds != "control")):
        network = one.isel(network=int(at))
        name, color = str(network["network"].values), PALETTE[place % len(PALETTE)]
        held = network.sel(model=PRIMARY)
        ends = [held[f"r2_{end}"].values for end in ("held", "low", "high")]
        yield _line(one, name, ends[0], color, "solid") | {"error_y": _whiskers(color, *ends)}
        if "ols" in one["model"].values:
            train = network["r2_train"].sel(model="ols").values
            yield _line(one, f"{name}, in-sample", train, color, "dash")


def _control_band(one: xr.Dataset) -> Iterator[Trace]:
    """Fill from the lowest to the highest living control at each layer."""
    places = np.flatnonzero(one["kind"].values == "control")
    part = one.isel(network=places)
    held = part["r2_held"].sel(model=PRIMARY).transpose("layer", "network").values
    known = np.where(part["alive"].transpose("layer", "network").values.astype(bool), held, np.nan)
    low, high = (np.asarray(end.reduce(known, axis=1, initial=np.nan)) for end in (np.fmin, np.fmax))
    if not np.isfinite(low).any():
        return
    living = int(np.isfinite(known).any(axis=0).sum())
    name = f"controls ({living})"
    thin = {"mode": "lines", "line": {"color": CONTROL_COLOR, "width": 0.8}}
    yield _line(one, name, low, CONTROL_COLOR, "solid") | thin | {"showlegend": False}
    yield _line(one, name, high, CONTROL_COLOR, "solid") | thin | {"fill": "tonexty", "fillcolor": _BAND}


def _line(one: xr.Dataset, name: str, values: np.ndarray, color: str, dash: str) -> Trace:
    dashed = dash != "solid"
    layers = [str(layer) for layer in one["layer"].values]
    return {
        "type": "scatter",
        "mode": "lines" if dashed else "lines+markers",
        "name": name,
        "x": list(range(len(layers))),
        "y": np.asarray(values, dtype=float).tolist(),
        "customdata": [[name, layer] for layer in layers],
        "line": {"color": color, "dash": dash, "width": 1.5 if dashed else 2},
        "marker": {"size": 6, "color": color},
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}: %{y:.3f}<extra></extra>",
    }


def _whiskers(color: str, held: np.ndarray, low: np.ndarray, high: np.ndarray) -> Trace:
    above, below = (high - held).tolist(), (held - low).tolist()
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "width": 3,
        "thickness": 1.5,
        "color": color,
    }


def _depth_axis(table: xr.Dataset) -> Trace:
    names = [_short(str(layer)) for layer in table["layer"].values]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "tickangle": 35,
        "range": [-0.4, len(names) - 0.6],
        "zeroline": False,
    }


def _short(name: str) -> str:
    """The end of a layer's name, where layers differ."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _r2_axis(table: xr.Dataset, concepts: Sequence[int]) -> Trace:
    drawn = table["r2_low"].sel(model=PRIMARY).isel(concept=list(concepts)).values
    lowest = float(np.fmin.reduce(drawn, axis=None, initial=0.0))
    return {"range": [max(_LOWEST, min(-0.05, lowest - 0.05)), 1.05], "title": {"text": "R²"}}


# -- all concepts -------------------------------------------------------------------------------


def heatmap(table: xr.Dataset) -> Figure:
    """Colour the held-out R² of every concept at every layer, with what is not significant or not estimable.

    Parameters
    ----------
    table : Dataset

    Returns
    -------
    Figure
    """
    held = audited(table, "r2_held").T
    best = np.fmax.reduce(held, axis=1, initial=-np.inf)
    order = np.argsort(-best, kind="stable")[:_MOST_ROWS]
    found = encoded(table).T[order]
    shown = held[order]
    layers, concepts = ([str(name) for name in table[dim].values] for dim in ("layer", "concept"))
    rows = [concepts[at] for at in order]
    q = table["q_value"].transpose("concept", "layer").values[order]
    traces = [
        _cells(shown, q, (layers, rows)),
        *_marks(
            np.isfinite(shown) & ~found,
            _DOT,
            "not significant, or interval reaches 0",
            (layers, rows),
        ),
        *_not_estimable(table, order, (layers, rows)),
    ]
    few = f"the {len(order)} strongest of {len(concepts)}" if len(order) < len(concepts) else f"{len(order)}"
    caption = (
        f"Held-out R² (ridge) of {few} concepts at {len(layers)} layers of the audited network, "
        f"{table.attrs['images']} images in {table.attrs['groups']} groups; 0 and below have one colour. "
        f"Dot: q of {table.attrs['permutations']} permutations (Benjamini and Hochberg over all cells) is "
        "0.05 or more, or the interval reaches 0. Cross: not estimable. Control: networks that learned "
        "nothing, in the table."
    )
    data = pd.DataFrame(
        {
            "concept": np.repeat(rows, len(layers)),
            "layer": np.tile(layers, len(rows)),
            "held-out R²": shown.ravel(),
            "q": q.ravel(),
        }
    )
    return Figure({"data": traces, "layout": _heat_layout(layers, rows)}, caption, _DEFINITION, data)


Axes = tuple[Sequence[str], Sequence[str]]


def _cells(held: np.ndarray, q: np.ndarray, axes: Axes) -> Trace:
    layers, rows = axes
    told = [
        [
            [row, layer, _number(one), _number(test)]
            for layer, one, test in zip(layers, values, tests, strict=True)
        ]
        for row, values, tests in zip(rows, held, q, strict=True)
    ]
    return {
        "type": "heatmap",
        "x": list(range(len(layers))),
        "y": list(range(len(rows))),
        "z": np.clip(held, 0, 1).tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "held-out R²"}, "thickness": 14},
        "customdata": told,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<br>held-out R² %{customdata[2]}, q "
        "%{customdata[3]}<extra></extra>",
    }


def _number(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "undefined"


def _not_estimable(table: xr.Dataset, order: np.ndarray, axes: Axes) -> Iterator[Trace]:
    reasons = table["reason"].transpose("concept", "layer").values[order]
    lacking = ~np.isfinite(audited(table, "r2_held").T[order])
    texts = [str(reason) or "undefined" for reason in reasons[lacking]]
    yield from _marks(lacking, _CROSS, "not estimable", axes, texts)


def _marks(
    cells: np.ndarray, marker: Trace, name: str, axes: Axes, texts: Sequence[str] | None = None
) -> Iterator[Trace]:
    """Mark some cells (row, layer); nothing where there are none."""
    rows, layers = np.nonzero(cells)
    if not len(rows):
        return
    said = [name] * len(rows) if texts is None else list(texts)
    yield {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": layers.tolist(),
        "y": rows.tolist(),
        "customdata": [
            [axes[1][row], axes[0][layer], text]
            for row, layer, text in zip(rows.tolist(), layers.tolist(), said, strict=True)
        ],
        "marker": {"size": 8} | marker,
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    }


def _heat_layout(layers: Sequence[str], rows: Sequence[str]) -> Trace:
    ticks = {"tickmode": "array", "showgrid": False, "zeroline": False}
    return {
        "height": 150 + 24 * len(rows),
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        "margin": {"l": 8, "b": 90},
        "xaxis": ticks
        | {"tickvals": list(range(len(layers))), "ticktext": [_short(x) for x in layers], "tickangle": 35},
        "yaxis": ticks
        | {
            "tickvals": list(range(len(rows))),
            "ticktext": list(rows),
            "range": [len(rows) - 0.5, -0.5],
            "automargin": True,
        },
    }


# -- stability ----------------------------------------------------------------------------------


def stability_plot(table: xr.Dataset, cells: Sequence[Cell]) -> Figure:
    """Draw angles between fold directions and cosines of bootstrapped directions, one row per concept.

    Parameters
    ----------
    table : Dataset
    cells : sequence of Cell

    Returns
    -------
    Figure
    """
    angle = table["angle_mean"].sel(model=PRIMARY).transpose("layer", "concept").values
    widest = table["angle_max"].sel(model=PRIMARY).transpose("layer", "concept").values
    low, median = (table[f"cosine_{end}"].transpose("layer", "concept").values for end in ("low", "median"))
    at = tuple(np.array([(cell.layer, cell.concept) for cell in cells]).T)
    rows = [f"{table['concept'].values[c.concept]} at {table['layer'].values[c.layer]}" for c in cells]
    data = pd.DataFrame(
        {
            "concept and layer": rows,
            "mean angle [rad]": angle[at],
            "largest angle [rad]": widest[at],
            "median cosine": median[at],
            "cosine 10 %": low[at],
        }
    )
    limit = float(table.attrs["unstable"])
    caption = (
        "Is the direction the same on other images? Left: mean (point) and largest angle between ridge "
        f"directions of the {table.attrs['folds']} × {table.attrs['repeats']} training parts, which share "
        f"most of their images; dotted: {limit:g} rad. Right: cosine of the direction with those of "
        "resampled groups, median and 10 % quantile. Control: directions at random are about 1.57 rad "
        "apart and have a cosine of about 0."
    )
    definition = "Angle: arc cosine of the inner product of two unit directions in raw feature units."
    return Figure(_two_panels(data, limit), caption, definition, data)


def _two_panels(data: pd.DataFrame, limit: float) -> Trace:
    names = [str(name) for name in data["concept and layer"]]
    places = list(range(len(names)))
    angles = _points(data["mean angle [rad]"], data["largest angle [rad]"], names, PALETTE[0])
    cosines = _points(data["median cosine"], data["cosine 10 %"], names, PALETTE[1])
    rows = {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": names,
        "range": [len(names) - 0.4, -0.6],
        "automargin": True,
        "zeroline": False,
    }
    line = {
        "x0": limit,
        "x1": limit,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"dash": "dot", "width": 1.5},
    }
    layout = {
        "height": 130 + 34 * len(names),
        "showlegend": False,
        "xaxis": {"domain": [0, 0.47], "title": {"text": "angle between folds [rad]"}, "range": [0, 1.62]},
        "xaxis2": {
            "domain": [0.53, 1],
            "title": {"text": "cosine, groups resampled"},
            "range": [-0.05, 1.05],
        },
        "yaxis": rows,
        "shapes": [{"type": "line", **line, "xref": "x"}],
    }
    return {
        "data": [angles | {"xaxis": "x", "yaxis": "y"}, cosines | {"xaxis": "x2", "yaxis": "y"}],
        "layout": layout,
    }


def _points(points: pd.Series, ends: pd.Series, names: Sequence[str], color: str) -> Trace:
    """Points with a whisker to one end."""
    reach = (ends - points).to_numpy(dtype=float)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": points.tolist(),
        "y": list(range(len(names))),
        "customdata": [[name, end] for name, end in zip(names, ends.tolist(), strict=True)],
        "marker": {"size": 9, "color": color},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": np.maximum(reach, 0).tolist(),
            "arrayminus": np.maximum(-reach, 0).tolist(),
            "color": color,
        },
        "hovertemplate": "%{customdata[0]}<br>%{x:.2f}, to %{customdata[1]:.2f}<extra></extra>",
    }
