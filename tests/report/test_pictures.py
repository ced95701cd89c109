"""Pictures, maps and outlines become data URIs that show what was given."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plotly import colors as plotly_colors

from wsss_probe.contracts import Picture
from wsss_probe.report.colors import css_gradient, paint
from wsss_probe.report.pictures import (
    LONGEST_MAP,
    LONGEST_SIDE,
    Album,
    coarse,
    contour,
    encode_picture,
    shrink,
)


def decoded(uri: str) -> np.ndarray:
    """The pixels behind a data URI."""
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(image.convert("RGBA") if image.mode == "P" else image)


def slow_border(mask: np.ndarray, depth: int) -> np.ndarray:
    """Cells of the mask whose distance to a cell outside it is at most ``depth`` steps, by loops."""
    rows, columns = mask.shape
    border = np.zeros_like(mask)
    for r in range(rows):
        for c in range(columns):
            for dr in range(-depth, depth + 1):
                for dc in range(-(depth - abs(dr)), depth - abs(dr) + 1):
                    inside = 0 <= r + dr < rows and 0 <= c + dc < columns
                    if mask[r, c] and not (inside and mask[r + dr, c + dc]):
                        border[r, c] = True
    return border


def test_photographs_are_kept_to_the_last_bit() -> None:
    """A picture within the limit comes back from the page exactly, at its own size."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8)
    album = Album()
    album.add(pixels)
    np.testing.assert_array_equal(decoded(album.uris[0]), pixels)


def test_large_photographs_are_made_smaller_keeping_their_shape() -> None:
    """Only above the longest side is a picture resized, with its proportions."""
    album = Album()
    album.add(np.zeros((LONGEST_SIDE * 2, LONGEST_SIDE, 3), np.uint8))
    assert decoded(album.uris[0]).shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)


def test_equal_pictures_stand_once() -> None:
    """The same pixels are stored once however often they are shown; other shapes are others."""
    album, pixels = Album(), np.zeros((4, 6, 3), np.uint8)
    assert [album.add(pixels), album.add(pixels.copy()), album.add(pixels.reshape(6, 4, 3))] == [0, 0, 1]
    assert len(album.uris) == 2


def test_cividis_is_plotlys() -> None:
    """The ends and stops of the sequential scale are the published cividis."""
    stops = plotly_colors.sequential.Cividis
    painted = paint(np.linspace(0, 1, len(stops))[None], "sequential")[0, :, :3]
    assert ["#" + bytes(rgb.tolist()).hex() for rgb in painted] == stops


def test_signed_maps_are_symmetric_around_zero() -> None:
    """Zero is transparent, equal magnitudes are equally opaque, red is positive, blue negative."""
    minus, zero, plus = paint(np.array([[-0.5, 0.0, 0.5]]), "diverging")[0]
    assert zero[3] == 0
    assert minus[3] == plus[3] > 0
    assert plus[0] > plus[2]
    assert minus[2] > minus[0]


def test_undefined_cells_are_transparent() -> None:
    """A NaN shows the picture below, in both scales."""
    for scale in ("sequential", "diverging"):
        assert paint(np.array([[np.nan, 1.0]]), scale)[0, :, 3].tolist() == [0, 255]
        assert css_gradient(scale).startswith("linear-gradient(to right, rgb(")


def test_maps_keep_their_grid_and_name_their_range() -> None:
    """A map is drawn on its own grid, scaled by its own largest value, rows on rows."""
    overlay = np.zeros((3, 5))
    overlay[0, 4] = 0.02
    album = Album()
    picture = encode_picture(Picture(np.zeros((8, 8, 3), np.uint8), "m", overlay), "row", album)
    drawn = decoded(album.uris[picture.overlay])
    assert drawn.shape == (3, 5, 4)
    assert drawn[0, 4, :3].tolist() == [0xFE, 0xE8, 0x38]
    assert (picture.scale, picture.extent) == ("sequential", "0 to 0.0200")


@pytest.mark.parametrize(
    ("overlay", "scale", "extent"),
    [
        (np.array([[-2.0, 1.0]]), "diverging", "±2.00"),
        (np.array([[np.nan, 3.0]]), "sequential", "0 to 3.00"),
        (np.array([[np.inf, 3.0]]), "sequential", "0 to 3.00"),
        (np.zeros((2, 2)), "sequential", "0 everywhere"),
        (np.full((2, 2), np.nan), "", "map undefined"),
    ],
)
def test_ranges_of_maps(overlay: np.ndarray, scale: str, extent: str) -> None:
    """Signed, partly undefined, all-zero and wholly undefined maps are told apart."""
    picture = encode_picture(Picture(None, "m", overlay), "", Album())
    assert (picture.scale, picture.extent) == (scale, extent)
    assert (picture.overlay is None) == (scale == "")


def test_unreadable_images_say_so() -> None:
    """Without pixels there is no picture, and its description says why."""
    picture = encode_picture(Picture(None, "original"), "a.png", Album())
    assert picture.base is None
    assert picture.alt == "a.png, original, the image could not be read"


def test_contour_equals_the_slow_border() -> None:
    """The dark rim and the light line lie where loops over the enlarged mask put them."""
    mask = np.random.default_rng(0).random((180, 40)) < 0.02
    mask = ~mask
    mask[60:70] = False
    drawn = contour(mask)
    np.testing.assert_array_equal(drawn[..., 3] > 0, slow_border(mask, 4))
    np.testing.assert_array_equal(drawn[..., 0] == 255, light_line(mask))


def light_line(mask: np.ndarray) -> np.ndarray:
    """Cells more than one and up to three steps inside the mask."""
    return slow_border(mask, 3) & ~slow_border(mask, 1)


def test_contour_of_a_coarse_mask_stays_thin() -> None:
    """A mask of 7 × 7 cells is enlarged by a whole factor, so that its line is no cell wide."""
    mask = np.zeros((7, 7), bool)
    mask[2, 5] = True
    drawn = contour(mask)
    assert drawn.shape == (336, 336, 4)
    rows, columns = np.nonzero(drawn[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (96, 143, 240, 287)
    assert drawn[120, 264, 3] == 0


@pytest.mark.parametrize(("value", "drawn"), [(False, False), (True, True)])
def test_contour_of_nothing_and_of_everything(value: bool, drawn: bool) -> None:
    """An empty mask has no outline, a full one is framed."""
    assert contour(np.full((9, 5), value)).any() == drawn


def test_shrinking_makes_photographs_smaller_and_leaves_maps() -> None:
    """Photographs lose size and detail, maps over them nothing."""
    album = Album()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    photograph, drawn = album.add(noise[..., :3].copy()), album.add(noise)
    small = shrink(album.uris[photograph], 32, 50)
    assert len(small) < len(album.uris[photograph])
    assert decoded(small).shape == (32, 32, 3)
    assert shrink(album.uris[drawn], 32, 50) == album.uris[drawn]


def test_fine_maps_are_averaged_over_areas() -> None:
    """A map as fine as the input is drawn as means over the cells below each coarse one."""
    values = np.random.default_rng(0).normal(size=(222, 336))
    drawn = coarse(values)
    cells = [[values[3 * r : 3 * r + 3, 3 * c : 3 * c + 3] for c in range(112)] for r in range(74)]
    wanted = [[cell.mean() for cell in row] for row in cells]
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)


@given(st.integers(1, 300), st.integers(113, 300))
def test_fine_maps_keep_their_proportions_and_their_range(rows: int, columns: int) -> None:
    """Whatever the sides, the longer becomes 112, and a ramp stays a ramp within its values."""
    ramp = np.tile(np.arange(columns, dtype=float), (rows, 1))
    drawn = coarse(ramp)
    assert max(drawn.shape) == LONGEST_MAP
    assert abs(drawn.shape[0] - max(1, rows * LONGEST_MAP / max(rows, columns))) <= 0.5
    assert drawn.min() >= 0
    assert drawn.max() <= columns - 1
    assert (np.diff(drawn, axis=1) > 0).all()
    assert (drawn == drawn[0]).all()


@given(st.integers(1, LONGEST_MAP), st.integers(1, LONGEST_MAP))
def test_maps_within_the_limit_stay_as_they_are(rows: int, columns: int) -> None:
    """Up to 112 cells a side nothing is averaged; infinite becomes undefined."""
    values = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    np.testing.assert_array_equal(coarse(values), values)
    values[-1, -1] = np.inf
    assert np.isnan(coarse(values)[-1, -1])


def test_an_undefined_cell_makes_its_area_undefined() -> None:
    """A NaN does not spread beyond the coarse cell that it lies in."""
    values = np.zeros((224, 224))
    values[3, 5] = np.nan
    assert np.argwhere(np.isnan(coarse(values))).tolist() == [[1, 2]]


def test_a_fine_map_says_that_it_is_drawn_coarser() -> None:
    """The picture knows it, the range is that of the means."""
    overlay = np.zeros((224, 224))
    overlay[0, 0] = 8
    picture = encode_picture(Picture(None, "m", overlay), "", Album())
    assert picture.coarsened
    assert picture.extent == "0 to 2.00"
    assert not encode_picture(Picture(None, "m", overlay[:112, :112]), "", Album()).coarsened


@pytest.mark.parametrize(
    ("common", "scale", "extent", "red"),
    [((0, 4), "sequential", "0 to 4.00", [0, 125]), ((-4, 2), "diverging", "±4.00", [247, 229])],
)
def test_the_common_scale_is_that_of_the_maps_it_is_compared_with(
    common: tuple[float, float], scale: str, extent: str, red: list[int]
) -> None:
    """On the common scale half the largest value is half as strong, and signed if any map is."""
    album = Album()
    picture = encode_picture(Picture(None, "m", np.array([[0.0, 2.0]]), common=common), "", album)
    assert (picture.extent, picture.common_scale, picture.common_extent) == ("0 to 2.00", scale, extent)
    painted = decoded(album.uris[picture.common])[0, :, 0]
    np.testing.assert_allclose(painted, red, atol=4)


def test_notes_are_read_aloud() -> None:
    """The scores of a map stand in its alternative text as well."""
    picture = encode_picture(Picture(None, "m", np.ones((2, 2)), note="Dice 0.61"), "row", Album())
    assert picture.note == "Dice 0.61"
    assert picture.alt.startswith("row, m, with a map over it, 0 to 1.00, Dice 0.61")


@pytest.mark.parametrize("colours", [1, 200, 256, 257, 5000])
def test_pictures_with_opacity_are_kept_to_the_last_bit(colours: int) -> None:
    """Whether a table of colours is enough or not, what is drawn is what was given."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (colours, 4), dtype=np.uint8)
    pixels = table[rng.integers(0, colours, (40, 60))]
    album = Album()
    album.add(pixels)
    np.testing.assert_array_equal(decoded(album.uris[0]), pixels)


def test_the_finest_map_of_noise_is_small() -> None:
    """A map on the input that does not compress takes a byte a cell and a third, on both of its scales."""
    album = Album()
    noise = np.random.default_rng(0).normal(size=(224, 224))
    encode_picture(Picture(None, "m", noise, common=(-5.0, 5.0)), "", album)
    assert max(map(len, album.uris)) < 1.45 * LONGEST_MAP**2
