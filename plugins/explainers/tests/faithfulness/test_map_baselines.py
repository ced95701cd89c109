"""Baseline maps against loops, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_explainers.baselines import centre_blob, edge_map, intensity, random_map


def slow_edges(image):
    """Sobel strength of one image (channel, row, column), loops only, borders repeated."""
    channels, rows, columns = len(image), len(image[0]), len(image[0][0])
    strength = [[0.0] * columns for _ in range(rows)]
    weights = (1, 2, 1)
    for row in range(rows):
        for column in range(columns):
            total = 0.0
            for channel in range(channels):
                across = down = 0.0
                for step in (-1, 0, 1):
                    weight = weights[step + 1] / 8
                    side = min(max(row + step, 0), rows - 1)
                    right, left = min(column + 1, columns - 1), max(column - 1, 0)
                    across += weight * (image[channel][side][right] - image[channel][side][left])
                    side = min(max(column + step, 0), columns - 1)
                    below, above = min(row + 1, rows - 1), max(row - 1, 0)
                    down += weight * (image[channel][below][side] - image[channel][above][side])
                total += across**2 + down**2
            strength[row][column] = math.sqrt(total)
    return strength


def test_edges_equal_loops():
    """Sobel's gradient over all channels, with repeated borders."""
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))

    found = edge_map(images, (5, 7))

    wanted = torch.tensor([slow_edges(image) for image in images.tolist()])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_edges_are_where_the_step_is():
    """A vertical step has its edge along its columns only, and a constant image none at all."""
    images = torch.zeros(2, 1, 8, 12)
    images[0, :, :, 6:] = 1

    found = edge_map(images, (8, 12))

    assert found[0].nonzero()[:, 1].unique().tolist() == [5, 6]
    assert found[1].abs().max() == 0


def test_grids_average_their_pixels():
    """On a coarser grid each cell is the mean over its pixels; rows stay rows."""
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))

    for made in (edge_map, intensity):
        fine = made(images, (8, 12))
        blocks = fine.reshape(2, 4, 2, 3, 4).mean((2, 4))
        torch.testing.assert_close(made(images, (4, 3)), blocks)
    torch.testing.assert_close(intensity(images, (8, 12)), images.sum(1) / 3)


@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_the_blob_is_in_the_middle(rows, columns):
    """It is symmetric, falls from the middle outwards, and equals its formula at every cell."""
    found = centre_blob((rows, columns))

    assert found.shape == (rows, columns)
    torch.testing.assert_close(found, found.flip(0).flip(1))
    for row in range(rows):
        for column in range(columns):
            y, x = (2 * row + 1) / rows - 1, (2 * column + 1) / columns - 1
            assert float(found[row, column]) == pytest.approx(math.exp(-2 * (y * y + x * x)), rel=1e-5)


@given(indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=5), seed=st.integers(-3, 2**40))
def test_a_random_map_depends_on_the_row_of_the_manifest_only(indices, seed):
    """Together or one by one, an image gets the same draw."""
    together = random_map(indices, (3, 4), seed)

    alone = torch.cat([random_map([index], (3, 4), seed) for index in indices])
    assert torch.equal(together, alone)
    assert together.dtype == torch.float32
    assert bool(((together >= 0) & (together < 1)).all())


def test_random_maps_differ_by_image_grid_and_seed():
    """Nothing is shared between images, seeds or grids, and values fill the unit interval evenly."""
    maps = random_map(range(50), (8, 8), 0)

    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], random_map([0], (8, 8), 1)[0])
    assert float(maps.mean()) == pytest.approx(0.5, abs=0.02)
    correlation = np.corrcoef(maps[:, :4, :4].flatten(), random_map(range(50), (4, 4), 0).flatten())
    assert abs(correlation[0, 1]) < 0.1


def test_no_image_gives_no_map():
    """An empty batch has no maps, on the same grid."""
    assert random_map([], (3, 4), 0).shape == (0, 3, 4)
