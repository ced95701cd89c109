"""The cumulative score is drawn for every channel and class, with what living controls reach."""

import numpy as np
import pytest
import xarray as xr
from wsss_probe_channels.screening.curve import control_range, score_curve


def summary(channels=5, classes=2, alive=(True, True, False)):
    """Counts that grow with the channel; the third control is dead and far above."""
    counts = np.arange(channels)[:, None] * np.arange(1, classes + 1)
    reached = np.array([[1.0] * classes, [3.0] * classes, [99.0] * classes])[: len(alive)]
    table = xr.Dataset(
        {"strong": (("channel", "class"), counts), "present": ("class", np.full(classes, 9))},
        coords={"channel": np.arange(channels)},
        attrs={"strong": 0.6},
    )
    if not alive:
        return table
    both = ("control", "class")
    return table.assign(control_top_strong=(both, reached), control_alive=("control", list(alive)))


def test_every_class_has_its_curve_and_band():
    """One panel per class in order: the counts over position, and the range of the living controls."""
    figure = score_curve(summary(), "conv", ["gland", "not gland"])

    assert [trace["y"] for trace in figure.figure["data"]] == [[0, 1, 2, 3, 4], [0, 2, 4, 6, 8]]
    assert [trace["yaxis"] for trace in figure.figure["data"]] == ["y1", "y2"]
    bands = figure.figure["layout"]["shapes"]
    assert [(band["yref"], band["y0"], band["y1"]) for band in bands] == [("y1", 1, 3), ("y2", 1, 3)]
    assert figure.data.columns.tolist() == ["channel", "gland", "not gland"]
    assert "2 living controls" in figure.caption


@pytest.mark.parametrize("alive", [(), (False, False, False)])
def test_without_a_living_control_no_band_is_drawn(alive):
    """No control, or only dead ones: no band, and the caption says so."""
    figure = score_curve(summary(alive=alive), "conv", ["gland", "fat"])

    assert figure.figure["layout"]["shapes"] == []
    assert "no living control" in figure.caption
    assert control_range(summary(alive=alive), "control_top_strong", 0) is None


def test_many_classes_are_kept_in_the_numbers():
    """Ten panels are drawn; the numbers hold all twelve classes."""
    names = [f"class {n}" for n in range(12)]
    figure = score_curve(summary(classes=12), "conv", names)

    assert len(figure.figure["data"]) == 10
    assert figure.data.shape == (5, 13)


def test_one_channel_is_a_point():
    """A line of one point would not be seen."""
    assert score_curve(summary(channels=1), "conv", ["a", "b"]).figure["data"][0]["mode"] == "markers"
