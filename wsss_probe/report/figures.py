"""Figures for plugins: plain plotly dictionaries with one look.

Each function returns ``{"data": [...], "layout": {...}}`` for :class:`wsss_probe.contracts.Figure`;
plotly itself is not imported. Colours of text, grid and background are left to the report, which
follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_probe.report.colors import PALETTE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "CONTROL_COLOR",
    "PALETTE",
    "ControlRange",
    "bars_with_controls",
    "histogram",
    "interval_plot",
    "scatter",
]

CONTROL_COLOR = "#878d96"
"""Everything that is a control is grey, in every figure."""

_CONTROL_FILL = "rgba(135, 141, 150, 0.20)"
# Light with a dark edge: seen on a bar as well as on a light or dark page.
_CONTROL_FACE, _CONTROL_EDGE = "#f4f2ee", "#4a5059"
_SYMBOLS = ("diamond", "circle", "square", "triangle-up", "cross")
_ROW, _FRAME = 28, 96
_LONGEST_TICK = 44
_MANY_POINTS = 3_000

Plot = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ControlRange:
    """The range that a control reached, drawn as a grey band.

    Parameters
    ----------
    low, high : float
        In the units of the axis.
    name : str
        What the control is, e.g. ``"random weights, 5 seeds"``.
    """

    low: float
    high: float
    name: str = "control"


def interval_plot(
    labels: Sequence[str],
    estimates: ArrayLike,
    intervals: Sequence[tuple[float, float] | None],
    *,
    axis: str,
    control: ControlRange | None = None,
) -> Plot:
    """Points with intervals, one row each, over the range of a control.

    Parameters
    ----------
    labels : sequence of str
        Names of the rows, first on top; equal names stay apart.
    estimates : array_like, (row,)
    intervals : sequence of (float, float) or None
        95 % interval of each row; None where there is none.
    axis : str
        What is measured, with its unit.
    control : ControlRange, optional

    Returns
    -------
    dict

    Examples
    --------
    >>> plot = interval_plot(["layer3", "layer4"], [0.4, 0.7], [(0.3, 0.5), None], axis="F1")
    >>> plot["data"][0]["x"]
    [0.4, 0.7]
    """
    points = np.asarray(estimates, dtype=float)
    ends = np.array([(np.nan, np.nan) if pair is None else pair for pair in intervals], float).reshape(-1, 2)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": points.tolist(),
        "y": list(range(len(points))),
        "customdata": [[name, *pair] for name, pair in zip(labels, ends.tolist(), strict=True)],
        "error_x": _whiskers(points, ends) | {"thickness": 2, "width": 0},
        "marker": {"size": 10, "color": PALETTE[0]},
        "hovertemplate": "%{customdata[0]}<br>%{x:.3g} "
        "[%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>",
    }
    return {"data": [trace], "layout": _rows_layout(labels, axis) | _band(control)}


def bars_with_controls(
    labels: Sequence[str],
    values: ArrayLike,
    controls: Mapping[str, ArrayLike],
    *,
    axis: str,
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Plot:
    """Horizontal bars, each with what its controls reached on the same row.

    Parameters
    ----------
    labels : sequence of str
    values : array_like, (row,)
        The audited network's numbers.
    controls : mapping of str to array_like, (row,)
        Each control's numbers for the same rows.
    axis : str
    intervals : sequence of (float, float), optional

    Returns
    -------
    dict
    """
    heights = np.asarray(values, dtype=float)
    bars: Plot = {
        "type": "bar",
        "orientation": "h",
        "name": "audited",
        "x": heights.tolist(),
        "y": list(range(len(heights))),
        "width": 0.62,
        "marker": {"color": PALETTE[0]},
        "customdata": list(labels),
        "hovertemplate": "%{customdata}<br>%{x:.3g}<extra></extra>",
    }
    if intervals is not None:
        ends = np.asarray(intervals, dtype=float).reshape(-1, 2)
        bars["error_x"] = _whiskers(heights, ends) | {"width": 3}
    points = [_control_points(i, name, labels, reached) for i, (name, reached) in enumerate(controls.items())]
    layout = _rows_layout(labels, axis) | {"showlegend": bool(controls)}
    return {"data": [bars, *points], "layout": layout}


def _whiskers(points: np.ndarray, ends: np.ndarray) -> Plot:
    above, below = (ends[:, 1] - points).tolist(), (points - ends[:, 0]).tolist()
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _control_points(position: int, name: str, labels: Sequence[str], reached: ArrayLike) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": np.asarray(reached, dtype=float).tolist(),
        "y": list(range(len(labels))),
        "marker": {
            "symbol": _SYMBOLS[position % len(_SYMBOLS)],
            "size": 9,
            "color": _CONTROL_FACE,
            "line": {"width": 1.6, "color": _CONTROL_EDGE},
        },
        "customdata": [[label, name] for label in labels],
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}: %{x:.3g}<extra></extra>",
    }


def histogram(
    samples: Mapping[str, ArrayLike],
    *,
    axis: str,
    marks: Mapping[str, float] | None = None,
    bins: int = 40,
) -> Plot:
    """Distributions on common bins, as shares, so that samples of unequal size compare.

    Parameters
    ----------
    samples : mapping of str to array_like
        The audited sample first, controls after it; undefined values are left out.
    axis : str
    marks : mapping of str to float, optional
        Named values drawn as vertical lines.
    bins : int

    Returns
    -------
    dict
    """
    finite = {name: _finite(values) for name, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values()) or [np.empty(0)]), bins)
    data = [_bars(name, values, edges, _color(i)) for i, (name, values) in enumerate(finite.items())]
    layout: Plot = {
        "height": 340,
        "barmode": "overlay",
        "bargap": 0.04,
        "showlegend": len(finite) > 1,
        "xaxis": {"title": {"text": axis}},
        "yaxis": {"title": {"text": "share of values"}, "tickformat": ".0%", "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout | _marks(marks or {})}


def _finite(values: ArrayLike) -> np.ndarray:
    array: np.ndarray = np.asarray(values, dtype=float).ravel()
    return np.asarray(array[np.isfinite(array)])


def _color(position: int) -> str:
    return CONTROL_COLOR if position == 1 else PALETTE[position % len(PALETTE)]


def _bars(name: str, values: np.ndarray, edges: np.ndarray, color: str) -> Plot:
    counts, _ = np.histogram(values, edges)
    return {
        "type": "bar",
        "name": f"{name} (n = {len(values)})",
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": (counts / max(1, len(values))).tolist(),
        "width": np.diff(edges).tolist(),
        "customdata": counts.tolist(),
        "marker": {"color": color, "opacity": 0.62},
        "hovertemplate": "%{x:.3g}: %{customdata} values, %{y:.1%}<extra></extra>",
    }


def _marks(marks: Mapping[str, float]) -> Plot:
    upright = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "width": 1.5}}
    lines = [upright | {"x0": x, "x1": x} for x in marks.values()]
    names = [
        {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": name, "showarrow": False}
        for name, x in marks.items()
    ]
    return {"shapes": lines, "annotations": names}


def scatter(
    x: ArrayLike,
    y: ArrayLike,
    *,
    axes: tuple[str, str],
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> Plot:
    """Points in two measures, coloured and shaped by group.

    Parameters
    ----------
    x, y : array_like, (point,)
    axes : (str, str)
        What ``x`` and ``y`` measure, with units.
    labels : sequence of str, optional
        Shown when a point is pointed at.
    groups : sequence of str, optional

    Returns
    -------
    dict
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    names = [""] * len(across) if labels is None else list(labels)
    member = np.asarray([""] * len(across) if groups is None else list(groups), dtype=object)
    kinds = sorted(set(member.tolist()))
    members = [np.flatnonzero(member == kind) for kind in kinds]
    data = [_cloud(i, kind, (across, up), names, members[i]) for i, kind in enumerate(kinds)]
    layout = {
        "height": 420,
        "hovermode": "closest",
        "showlegend": len(kinds) > 1,
        "xaxis": {"title": {"text": axes[0]}},
        "yaxis": {"title": {"text": axes[1]}},
    }
    return {"data": data, "layout": layout}


def _cloud(
    position: int, name: str, points: tuple[np.ndarray, np.ndarray], labels: list[str], members: np.ndarray
) -> Plot:
    symbols = ("circle", "square", "diamond", "cross", "triangle-up", "x")
    return {
        "type": "scattergl" if len(members) > _MANY_POINTS else "scatter",
        "mode": "markers",
        "name": name,
        "x": points[0][members].tolist(),
        "y": points[1][members].tolist(),
        "customdata": [labels[i] for i in members],
        "marker": {
            "size": 8,
            "opacity": 0.75,
            "color": PALETTE[position % len(PALETTE)],
            "symbol": symbols[position % len(symbols)],
        },
        "hovertemplate": "%{customdata}<br>(%{x:.3g}, %{y:.3g})<extra></extra>",
    }


def _rows_layout(labels: Sequence[str], axis: str) -> Plot:
    """Rows are numbered and named by tick texts: plotly would read names as dates or numbers."""
    ticks = [name if len(name) <= _LONGEST_TICK else f"{name[: _LONGEST_TICK - 1]}…" for name in labels]
    return {
        "height": _FRAME + _ROW * max(1, len(labels)),
        "showlegend": False,
        "xaxis": {"title": {"text": axis}},
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": ticks,
            "range": [len(labels) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
        },
    }


def _band(control: ControlRange | None) -> Plot:
    if control is None:
        return {}
    ends = {"x0": control.low, "x1": control.high, "y0": 0, "y1": 1, "yref": "paper"}
    rect = {"type": "rect", **ends, "fillcolor": _CONTROL_FILL, "line": {"width": 0}, "layer": "below"}
    name = {
        "x": (control.low + control.high) / 2,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "text": control.name,
        "showarrow": False,
        "font": {"size": 12, "color": CONTROL_COLOR},
    }
    return {"shapes": [rect], "annotations": [name]}
