"""Points stand where they should, and many at one place make a larger disc."""

import numpy as np
import pytest
from wsss_probe_channels.weights.point_plot import point_plot


def test_a_point_is_drawn_at_its_place():
    """The colour appears around the point and nowhere else; the given picture is not changed."""
    pixels = np.full((448, 448, 3), 128, dtype=np.uint8)

    drawn = point_plot(pixels, np.array([100.5]), np.array([300.5]), "#ffd000")

    assert drawn.shape == pixels.shape
    assert (pixels == 128).all()
    assert drawn[100, 300].tolist() == [255, 208, 0]
    changed = np.argwhere((drawn != 128).any(axis=2))
    assert np.abs(changed - [100, 300]).max() <= 11


def test_small_pictures_are_enlarged():
    """A picture of 32 pixels is drawn fourteen times as large, and the point moves with it."""
    drawn = point_plot(np.zeros((32, 16, 3), dtype=np.uint8), np.array([10.5]), np.array([4.5]), "#ff0000")

    assert drawn.shape == (448, 224, 3)
    rows, columns = np.nonzero((drawn == [255, 0, 0]).all(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((146.5, 62.5))


def test_many_points_make_a_larger_disc():
    """Four points at one place cover four times the area of one, and NaN is no point."""
    pixels = np.zeros((448, 448, 3), dtype=np.uint8)

    def area(number):
        places = np.array([200.0] * number + [np.nan])
        return int((point_plot(pixels, places, places, "#ff0000") == [255, 0, 0]).all(axis=2).sum())

    assert area(0) == 0
    assert area(4) == pytest.approx(4 * area(1), rel=0.25)


@pytest.mark.parametrize("place", [0.0, 447.9])
def test_points_at_the_border_stay_in_the_picture(place):
    """A disc at the edge is cut off."""
    drawn = point_plot(np.zeros((448, 448, 3), dtype=np.uint8), np.array([place]), np.array([place]))

    assert drawn.any()
