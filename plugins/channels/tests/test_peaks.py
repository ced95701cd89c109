"""Maxima lie at cell centres, dead maps have none, and each point is inside its region or not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.weights.peaks import Peaks, located

from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_observation
from wsss_probe.testing import ProbeSuite

probe = Peaks(layer="conv")


class TestPeaks(ProbeSuite):
    """Peaks at the last layer conforms to the contract."""

    probe = Peaks()


def slow_peak(grid, size):
    """Centre of the first largest cell in input pixels, and how many cells share it; None if dead."""
    values = [float(v) for row in grid for v in row]
    if any(not abs(v) < float("inf") for v in values) or max(values) <= 0 or max(values) == min(values):
        return None
    cell = values.index(max(values))
    row, column = divmod(cell, len(grid[0]))
    centre = (row + 0.5) * size[0] / len(grid), (column + 0.5) * size[1] / len(grid[0])
    return (*centre, values.count(max(values)))


def observed(made, maps, masks, classes=("gland",), readable=None, using=probe):
    """Let the probe see one batch, with the host's checks."""
    return check_observation(using.observe(made.batch(maps, masks, classes, readable)), len(maps), using.name)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 7))
def test_maxima_follow_the_definition(seed, height, width):
    """Rows, columns, dead and tied maps are those that loops find, on grids that are not square."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-1, 4, (2, 3, height, width), generator=generator).float()
    size = (31, 50)

    found = located(maps)
    row, column = found.centres(size)

    for n in range(2):
        for k in range(3):
            wanted = slow_peak(maps[n, k].tolist(), size)
            assert bool(found.dead[n, k]) is (wanted is None)
            assert bool(found.tied[n, k]) is (wanted is not None and wanted[2] > 1)
            if wanted is None:
                assert row[n, k].isnan()
                assert column[n, k].isnan()
            else:
                assert (float(row[n, k]), float(column[n, k])) == pytest.approx(wanted[:2])
                pixel = int(wanted[0]) * size[1] + int(wanted[1])
                assert int(found.pixels(size)[n, k]) == pixel


def test_a_cell_of_28_maps_to_its_centre_at_448():
    """Row 3 of 28 is 56 in 448 pixels, not 48: the corner would move every point by half a cell."""
    maps = torch.zeros(1, 1, 28, 28)
    maps[0, 0, 3, 20] = 1

    row, column = located(maps).centres((448, 448))

    assert (row.item(), column.item()) == (56.0, 328.0)


def test_dead_maps_have_no_point(made):
    """Zero, constant, negative, NaN and infinite maps have no point and are counted as dead."""
    masks = torch.zeros(2, 32, 32, dtype=torch.int64)
    maps = torch.rand(2, 7, 8, 8)
    maps[:, 1], maps[:, 2], maps[:, 3] = 0, 5, -maps[:, 3] - 0.1
    maps[:, 4, 0, 0], maps[:, 5, 7, 7], maps[:, 6, 1, 1] = torch.nan, torch.inf, -torch.inf

    seen = observed(made, maps, masks)

    assert seen.partial["dead"].values.tolist() == [0, 2, 2, 2, 2, 2, 2]
    assert seen.partial["live"].values.tolist() == [2, 0, 0, 0, 0, 0, 0]
    for name in ("row", "column"):
        assert np.isnan(seen.rows[name].values[:, 1:]).all()
    assert np.isnan(seen.rows["inside"].values[:, 1:]).all()
    assert seen.rows["inside"].values[:, 0].tolist() == [[1, 0]] * 2


def test_inside_reads_the_pixel_under_the_centre(made):
    """A point on the class, beside it, on white and on an ignored pixel: each region says what it must."""
    masks = torch.full((4, 32, 48), -2)
    masks[0], masks[2], masks[3] = 0, 1, -1
    masks[1, :, :24] = 0
    maps = torch.zeros(4, 1, 4, 4)
    maps[:, 0, 1, 2] = 1  # the pixel in row 12, column 30

    seen = observed(made, maps, masks, ("gland", "white"))

    names = ["gland", "not gland", "tissue without gland"]
    assert seen.rows["class"].values.tolist() == names
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert seen.rows["row"].values.ravel().tolist() == [12] * 4
    assert seen.rows["column"].values.ravel().tolist() == [30] * 4
    assert seen.rows["inside"].values[:, 0].tolist() == [
        [1, 0, 0],
        [0, 1, 1],
        [0, 1, nan],
        [nan, nan, nan],
    ]
    assert seen.rows["area"].values.tolist() == [
        [1, 0, 0],
        [0.5, 0.5, 0.5],
        [0, 1, nan],
        [nan, nan, nan],
    ]


def test_the_first_of_equal_maxima_counts(made):
    """Two cells of the largest value: the point is the first in reading order, and the tie is counted."""
    maps = torch.zeros(3, 1, 4, 4)
    maps[:, 0, 1, 2] = maps[:2, 0, 3, 0] = 1

    seen = observed(made, maps, torch.zeros(3, 32, 32, dtype=torch.int64))

    assert seen.partial["tied"].item() == 2
    assert seen.rows["row"].values.ravel().tolist() == [12, 12, 12]


def test_unreadable_images_count_nowhere(made):
    """An image that could not be decoded adds to no count."""
    maps, masks = torch.rand(3, 2, 8, 8), torch.zeros(3, 32, 32, dtype=torch.int64)

    seen = observed(made, maps, masks, readable=torch.tensor([True, False, True]))

    assert seen.partial["live"].values.tolist() == [2, 2]


def test_a_planted_channel_lies_inside_and_noise_lies_as_the_area_says(made):
    """The share inside is near 1 for a channel that is the mask, and near the area for noise."""
    masks = made.blobs(60)
    maps = made.plant(made.noise(60, 12), masks, channel=4, level=0.1)

    class OneRun:
        rows = staticmethod(lambda _name: seen.rows)
        partial = staticmethod(lambda _name: seen.partial)

    seen = observed(made, maps, masks)
    summary = check_conclusion(probe.conclude(OneRun()), probe.name).summary

    share = summary["inside_share"].sel({"class": "gland"}).values
    area = float(summary["mean_area"].sel({"class": "gland"}))
    assert share[4] > 0.95
    others = np.delete(share, 4)
    assert others.max() < 0.5
    assert abs(others.mean() - area) < 0.05


def test_masks_are_needed():
    """Without masks the probe stays whole, so that the host can say what is missing."""
    survey = TestPeaks().scene().without_masks().survey

    assert [part.name for part in Peaks().split(survey)] == ["peaks"]
    assert Peaks().needs(survey).masks


def test_an_unknown_word_for_complements_is_refused():
    """The message says which words there are."""
    with pytest.raises(UsageError, match="found: some; wanted: auto, none, all"):
        Peaks(complements="some")
