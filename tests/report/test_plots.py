"""Figures become JSON that is finite, harmless and bounded."""

from __future__ import annotations

import base64
import json
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from wsss_probe.contracts import Figure
from wsss_probe.report.plots import POINTS, encode_figure, neutral


def encoded(figure: dict) -> dict:
    """The JSON of a figure."""
    return encode_figure(Figure(figure, "")).figure


def test_every_kind_of_value_becomes_json() -> None:
    """Arrays, series, dates, decimals, bytes and sets of numbers that JSON has not are written out."""
    trace = {
        "type": "scatter",
        "x": np.array([1.0, np.nan, np.inf]),
        "y": pd.Series([np.float32(0.5), None, Decimal("0.25")], dtype=object),
        "text": [date(2026, 1, 2), b"\xff<", np.datetime64("2026-01-02")],
        "visible": np.bool_(True),
        "meta": object,
    }
    drawn = encoded({"data": [trace]})["data"][0]
    json.dumps(drawn, allow_nan=False)
    assert drawn["x"] == [1.0, None, None]
    assert drawn["y"] == [0.5, None, 0.25]
    assert drawn["text"] == ["2026-01-02", "\\xff‹", "2026-01-02"]
    assert drawn["visible"] is True


@pytest.mark.parametrize("packed", [False, True])
def test_plotlys_own_figures_are_read(packed: bool) -> None:
    """Figures made with plotly, with arrays or with packed arrays, keep their numbers."""
    figure = go.Figure(go.Heatmap(z=np.arange(6.0).reshape(2, 3)))
    plain = json.loads(figure.to_json()) if packed else figure.to_plotly_json()
    assert encoded(plain)["data"][0]["z"] == [[0, 1, 2], [3, 4, 5]]


def test_packed_undefined_numbers_become_null() -> None:
    """NaN hidden in plotly's packed form is found."""
    data = base64.b64encode(np.array([1.0, np.nan]).tobytes()).decode()
    drawn = encoded({"data": [{"type": "scatter", "y": {"dtype": "f8", "bdata": data}}]})
    assert drawn["data"][0]["y"] == [1.0, None]


def test_labels_lose_their_tags_and_templates_keep_line_breaks() -> None:
    """A tag in a label is shown; in a hover template only breaks, bold and extra still work."""
    trace = {
        "type": "bar",
        "name": "<b>x</b> &lt;i",
        "hovertemplate": "%{x}<br><a href='x'>y</a><extra></extra>",
    }
    drawn = encoded({"data": [trace]})["data"][0]
    assert drawn["name"] == "‹b>x‹/b> ＆lt;i"
    assert drawn["hovertemplate"] == "%{x}<br>‹a href='x'>y‹/a><extra></extra>"
    assert neutral("H&E, p < 0.05") == "H&E, p ‹ 0.05"


def test_colours_of_the_page_are_not_the_plugins() -> None:
    """Templates, papers, widths and pictures from elsewhere are dropped, heights kept in bounds."""
    layout = {
        "template": {"layout": {}},
        "paper_bgcolor": "red",
        "width": 5000,
        "height": 99999,
        "images": [{"source": "https://example.org/x.png"}],
        "geo": {},
    }
    drawn = encoded({"data": [], "layout": layout})["layout"]
    assert drawn["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert drawn["height"] == 1600
    assert not {"template", "width", "images", "geo"} & set(drawn)


@pytest.mark.parametrize("kind", ["choropleth", "scattergeo", "scattermapbox", "densitymap", "choroplethmap"])
def test_traces_that_would_ask_a_server_are_left_out(kind: str) -> None:
    """Maps of the world fetch their borders; the report says that they are missing."""
    figure = encode_figure(Figure({"data": [{"type": kind}, {"type": "heatmap", "z": [[1]]}]}, ""))
    assert [trace["type"] for trace in figure.figure["data"]] == ["heatmap"]
    assert figure.notes == (f"Left out, since it would need the internet: {kind}.",)


def test_many_points_are_thinned_together() -> None:
    """Ten million points become twenty thousand, ends kept, colours and texts still on their points."""
    n = 10_000_000
    x = np.arange(n)
    trace = {"type": "scattergl", "x": x, "y": x * 2, "marker": {"color": x, "size": 3}}
    figure = encode_figure(Figure({"data": [trace]}, ""))
    drawn = figure.figure["data"][0]
    assert len(drawn["x"]) == POINTS
    assert (drawn["x"][0], drawn["x"][-1]) == (0, n - 1)
    assert [2 * v for v in drawn["x"]] == drawn["y"]
    assert drawn["marker"]["color"] == drawn["x"]
    assert figure.notes == (f"Drawn with {POINTS} of {n} points, evenly spaced.",)


def test_few_points_are_left_alone() -> None:
    """At the limit nothing is thinned and nothing noted."""
    figure = encode_figure(Figure({"data": [{"type": "scatter", "y": list(range(POINTS))}]}, ""))
    assert len(figure.figure["data"][0]["y"]) == POINTS
    assert figure.notes == ()


def test_large_grids_lose_rows_and_columns_with_their_ticks() -> None:
    """A heatmap keeps every k-th row and column, and the axes follow."""
    z = np.arange(400 * 600).reshape(400, 600)
    trace = {"type": "heatmap", "z": z, "x": np.arange(600), "y": [f"r{i}" for i in range(400)]}
    figure = encode_figure(Figure({"data": [trace]}, ""))
    drawn = figure.figure["data"][0]
    assert drawn["z"][1][2] == z[4, 8]
    assert (drawn["x"][2], drawn["y"][1]) == (8, "r4")
    assert figure.notes == ("Drawn with every 4th row and column of 400 × 600.",)
