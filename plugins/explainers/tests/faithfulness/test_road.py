"""ROAD's imputation against the equations of its paper, solved by loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_explainers.faithfulness.imputation import imputed, road_grid, without


def slow_imputed(image, removed, sweeps=700):
    """Removed pixels as weighted means of their neighbours, by Gauss-Seidel, one channel (row, column)."""
    rows, columns = len(image), len(image[0])
    found = [[0.0 if removed[r][c] else image[r][c] for c in range(columns)] for r in range(rows)]
    for _ in range(sweeps):
        for row in range(rows):
            for column in range(columns):
                if not removed[row][column]:
                    continue
                total = weight = 0.0
                for down in (-1, 0, 1):
                    for across in (-1, 0, 1):
                        inside = 0 <= row + down < rows and 0 <= column + across < columns
                        if (down, across) == (0, 0) or not inside:
                            continue
                        own = 1 / 12 if down and across else 1 / 6
                        total += own * found[row + down][column + across]
                        weight += own
                found[row][column] = total / weight
    return found


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 50), share=st.floats(0.1, 0.9))
def test_imputation_solves_the_equations(seed, share):
    """Every removed pixel is the weighted mean of those neighbours that exist; kept ones stay."""
    random = np.random.default_rng(seed)
    image = random.random((2, 4, 5))
    removed = random.random((4, 5)) < share
    removed[2, 3] = False

    found = imputed(image, removed)

    for channel in range(2):
        wanted = slow_imputed(image[channel].tolist(), removed.tolist())
        np.testing.assert_allclose(found[channel], wanted, atol=1e-6)


def test_direct_neighbours_weigh_twice_the_diagonal_ones():
    """One removed pixel is 1/6 of each direct and 1/12 of each diagonal neighbour."""
    image = np.arange(9.0).reshape(1, 3, 3) ** 2
    removed = np.zeros((3, 3), bool)
    removed[1, 1] = True

    found = imputed(image, removed)[0, 1, 1]

    assert found == pytest.approx((1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12)


def test_nothing_removed_or_everything():
    """Without removed pixels the image stays; with nothing left each channel becomes its mean."""
    image = np.random.default_rng(0).random((3, 4, 4))

    np.testing.assert_array_equal(imputed(image, np.zeros((4, 4), bool)), image)
    wanted = np.broadcast_to(image.mean((1, 2))[:, None, None], image.shape)
    np.testing.assert_allclose(imputed(image, np.ones((4, 4), bool)), wanted)


def test_small_inputs_are_imputed_pixel_by_pixel_and_large_ones_in_blocks():
    """Up to 56 pixels a side each pixel is removed by itself; beyond, equal blocks."""
    assert road_grid((56, 40)) == (56, 40)
    assert road_grid((57, 40)) == (29, 20)
    assert road_grid((224, 224)) == (56, 56)
    assert road_grid((448, 300)) == (56, 38)


@pytest.mark.parametrize("side", [8, 112])
def test_kept_pixels_stay_and_removed_ones_say_nothing_of_what_was_there(side):
    """What was at a removed place does not enter the image; what is kept is exactly as it was."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, side, side, generator=generator)
    cells = road_grid((side, side))
    removed = torch.zeros(cells, dtype=torch.bool)
    removed[2:5, 3:6] = True
    pixels = removed.repeat_interleave(side // cells[0], 0).repeat_interleave(side // cells[1], 1)
    other = torch.where(pixels, torch.rand(image.shape, generator=generator), image)

    found, again = (without(item, removed, seed=0, index=3) for item in (image, other))

    assert torch.equal(found[:, ~pixels], image[:, ~pixels])
    # the noise is a share of the image's own spread, which differs a little
    torch.testing.assert_close(found, again, rtol=0, atol=2e-3)
    assert float((found - image)[:, pixels].abs().mean()) > 0.1


def test_noise_depends_on_the_image_only():
    """The same image gets the same noise; it is one percent of the image's spread."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    removed = torch.zeros(8, 8, dtype=torch.bool)
    removed[2:6, 2:6] = True

    first, again, other = (without(image, removed, seed=0, index=index) for index in (1, 1, 2))

    assert torch.equal(first, again)
    difference = (first - other)[:, removed]
    assert float(difference.std()) == pytest.approx(0.01 * float(image.std()) * 2**0.5, rel=0.5)
