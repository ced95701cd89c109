"""The figures offered to plugins show the numbers given, in order, beside their controls."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from wsss_probe.contracts import Figure
from wsss_probe.report import figures
from wsss_probe.report.plots import encode_figure

DATES = ["2026-01-01", "1e5", "same", "same"]


def plots() -> dict[str, dict]:
    """One figure of each kind."""
    values, ends = [0.1, 0.2, 0.3, np.nan], [(0.05, 0.2), (0.1, 0.5), None, None]
    return {
        "interval": figures.interval_plot(
            DATES, values, ends, axis="F1", control=figures.ControlRange(0, 0.2)
        ),
        "bars": figures.bars_with_controls(DATES, values, {"reinit": [0, 0, 0, 0]}, axis="F1"),
        "histogram": figures.histogram(
            {"audited": [1, 2, np.nan], "control": [2]}, axis="F1", marks={"m": 1.5}
        ),
        "scatter": figures.scatter([1, 2], [3, 4], axes=("x", "y"), labels=["a", "b"], groups=["p", "q"]),
    }


@pytest.mark.parametrize("kind", ["interval", "bars", "histogram", "scatter"])
def test_plotly_accepts_every_figure(kind: str) -> None:
    """Each figure passes plotly's own validation before and after encoding."""
    plot = plots()[kind]
    go.Figure(plot)
    go.Figure(encode_figure(Figure(plot, "")).figure)


def test_intervals_are_distances_from_the_estimate() -> None:
    """Upper and lower arms are taken from the estimate, missing ones are not drawn."""
    arms = plots()["interval"]["data"][0]["error_x"]
    np.testing.assert_allclose(arms["array"], [0.1, 0.3, np.nan, np.nan])
    np.testing.assert_allclose(arms["arrayminus"], [0.05, 0.1, np.nan, np.nan])


def test_the_control_is_a_band_with_its_name() -> None:
    """The band spans the range of the control and names it."""
    layout = plots()["interval"]["layout"]
    assert (layout["shapes"][0]["x0"], layout["shapes"][0]["x1"]) == (0, 0.2)
    assert layout["annotations"][0]["text"] == "control"


@pytest.mark.parametrize("kind", ["interval", "bars"])
def test_rows_are_numbered_so_that_names_stay_names(kind: str) -> None:
    """Names that look like dates, numbers or each other each keep a row, first on top."""
    axis = plots()[kind]["layout"]["yaxis"]
    assert axis["ticktext"] == DATES
    assert axis["tickvals"] == [0, 1, 2, 3]
    assert axis["range"][0] > axis["range"][1]


def test_bars_show_every_control_on_the_same_rows() -> None:
    """Controls are points on the rows of their bars, each with its name."""
    data = plots()["bars"]["data"]
    assert [trace["name"] for trace in data] == ["audited", "reinit"]
    assert data[0]["y"] == data[1]["y"]


def test_histogram_shares_add_up_on_common_bins() -> None:
    """Each sample's shares sum to one over bins that all samples share; undefined values are out."""
    audited, control = plots()["histogram"]["data"]
    assert audited["x"] == control["x"]
    assert sum(audited["y"]) == pytest.approx(1)
    assert sum(control["y"]) == pytest.approx(1)
    assert [trace["name"] for trace in (audited, control)] == ["audited (n = 2)", "control (n = 1)"]


@pytest.mark.parametrize("samples", [{}, {"audited": []}, {"audited": [np.nan]}])
def test_histogram_of_nothing_is_empty(samples: dict) -> None:
    """Without a defined value there are no bars with a height."""
    assert not any(any(trace["y"]) for trace in figures.histogram(samples, axis="F1")["data"])


def test_scatter_keeps_points_with_their_labels_and_groups() -> None:
    """Each group is a trace of its own with its own symbol and its members' labels."""
    first, second = plots()["scatter"]["data"]
    assert (first["x"], first["y"], first["customdata"]) == ([1], [3], ["a"])
    assert (second["x"], second["y"], second["customdata"]) == ([2], [4], ["b"])
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
