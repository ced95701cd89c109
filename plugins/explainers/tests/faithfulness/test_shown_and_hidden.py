"""Insertion and deletion against loops: which pixels are shown, and the area under the answers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_explainers.faithfulness.measures import area
from wsss_probe_explainers.faithfulness.perturbed import (
    blank_image,
    hidden,
    on_grid,
    ranked,
    shown,
    tie_order,
)

from wsss_probe.errors import UsageError


def slow_order(plane, ties):
    """Flat positions from most to least relevant, by insertion; equal ones in the order of ``ties``."""
    values = [value for row in plane for value in row]
    order = []
    for position in ties:
        place = 0
        while place < len(order) and values[order[place]] >= values[position]:
            place += 1
        order.insert(place, position)
    return order


def slow_images(image, blank, order, share):
    """The image with only its most relevant pixels shown, and the one with them hidden; loops only."""
    channels, rows, columns = len(image), len(image[0]), len(image[0][0])
    count = math.floor(share * rows * columns + 0.5)
    top = set(order[:count])
    both = []
    for first, second in ((image, blank), (blank, image)):
        both.append(
            [
                [
                    [first[c][r][k] if r * columns + k in top else second[c][r][k] for k in range(columns)]
                    for r in range(rows)
                ]
                for c in range(channels)
            ]
        )
    return both


@given(seed=st.integers(0, 99), levels=st.integers(1, 5), share=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
def test_pixels_are_shown_and_hidden_as_by_loops(seed, levels, share):
    """With ties or without, the most relevant pixels are shown in one image and hidden in the other."""
    generator = torch.Generator().manual_seed(seed)
    image, blank = torch.rand(2, 2, 3, 4, generator=generator)
    plane = torch.randint(levels, (3, 4), generator=generator).float()
    ties = tie_order((3, 4), seed, 7)

    order = ranked(plane[None], ties)[0]

    assert order.tolist() == slow_order(plane.tolist(), ties.tolist())
    visible, gone = slow_images(image.tolist(), blank.tolist(), order.tolist(), share)
    torch.testing.assert_close(shown(image, blank, order, (share,))[0], torch.tensor(visible))
    torch.testing.assert_close(hidden(image, blank, order, (share,))[0], torch.tensor(gone))


def test_the_order_of_equal_values_is_drawn_by_image_and_not_by_place():
    """A constant map shows pixels in an order of its image's own, not from the top left."""
    plane = torch.ones(1, 8, 8)

    first, second = (ranked(plane, tie_order((8, 8), 0, index))[0] for index in (0, 1))

    assert sorted(first.tolist()) == list(range(64))
    assert first.tolist() != second.tolist()
    assert abs(np.corrcoef(first, np.arange(64))[0, 1]) < 0.5


def test_ends_are_the_whole_image_and_the_blank_one():
    """Nothing shown is the blank image, everything shown is the image, and the reverse for hiding."""
    image, blank = torch.rand(2, 3, 4, 5)
    order = ranked(torch.rand(1, 4, 5), tie_order((4, 5), 0, 0))[0]

    assert torch.equal(shown(image, blank, order, (0.0, 1.0)), torch.stack([blank, image]))
    assert torch.equal(hidden(image, blank, order, (0.0, 1.0)), torch.stack([image, blank]))


@given(curve=st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_the_area_is_the_mean_of_trapezia(curve):
    """Equal steps from 0 to 1, each the mean of its ends."""
    wanted = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)

    assert float(area(np.array([curve]))[0]) == pytest.approx(wanted, abs=1e-9)


def test_blank_images():
    """A blurred image has the same mean and no detail; the mean is one colour; zero is zero."""
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))

    blurred, flat, zero = (blank_image(image, kind) for kind in ("blur", "mean", "zero"))

    assert blurred.shape == flat.shape == zero.shape == image.shape
    assert float(blurred.std()) < 0.3 * float(image.std())
    torch.testing.assert_close(flat, image.mean((1, 2))[:, None, None].expand_as(image))
    assert zero.abs().max() == 0
    constant = torch.full((3, 40, 60), 0.7)
    torch.testing.assert_close(blank_image(constant, "blur"), constant)
    with pytest.raises(UsageError, match="unknown blank image; found: black; wanted: blur, mean or zero"):
        blank_image(image, "black")


def test_blurring_is_a_gaussian_mean():
    """Each pixel is the Gaussian mean of its surroundings, the border repeated, rows as columns."""
    image = torch.rand(1, 24, 40, generator=torch.Generator().manual_seed(1))
    sigma = 24 / 10
    reach = math.ceil(3 * sigma)

    found = blank_image(image, "blur")

    for row, column in ((0, 0), (11, 20), (23, 39), (5, 38)):
        total = weight = 0.0
        for down in range(-reach, reach + 1):
            for across in range(-reach, reach + 1):
                own = math.exp(-(down**2 + across**2) / (2 * sigma**2))
                r, c = min(max(row + down, 0), 23), min(max(column + across, 0), 39)
                total, weight = total + own * float(image[0, r, c]), weight + own
        assert float(found[0, row, column]) == pytest.approx(total / weight, rel=1e-4)


def test_maps_are_brought_to_the_input_by_their_cells_centres():
    """Bilinear between centres of cells; a map on the input's grid stays as it is."""
    plane = torch.tensor([[0.0, 1.0]])

    found = on_grid(plane, (1, 4))

    torch.testing.assert_close(found, torch.tensor([[0.0, 0.25, 0.75, 1.0]]))
    same = torch.rand(5, 6)
    assert torch.equal(on_grid(same, (5, 6)), same)
