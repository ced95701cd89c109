"""Scores of one map with one region: against loops by the book, with ties, and at the edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_explainers.localisation.scores import (
    MOST_BOXES,
    mass_inside,
    objects_reached,
    pointing,
    score,
)
from wsss_probe_explainers.localisation.truth import image_truth


def pointing_by_the_book(plane, mask):
    """Share of the largest known values that are in class 0; loops only."""
    known = [
        (v, m)
        for row, line in zip(plane, mask, strict=True)
        for v, m in zip(row, line, strict=True)
        if m != -1
    ]
    largest = max(value for value, _ in known)
    hits = [m == 0 for value, m in known if value == largest]
    return sum(hits) / len(hits)


def mass_by_the_book(plane, mask):
    """Positive relevance in class 0 over all positive relevance; loops only."""
    inside = total = 0.0
    for row, line in zip(plane, mask, strict=True):
        for value, m in zip(row, line, strict=True):
            if m != -1 and value > 0:
                total += value
                inside += value if m == 0 else 0
    return inside / total if total else math.nan


def reached_by_the_book(plane, mask):
    """Sort the known values, take as many as class 0 has pixels, flood objects; loops only."""
    cells = {(r, c) for r, line in enumerate(mask) for c, m in enumerate(line) if m == 0}
    known = sorted(
        (plane[r][c] for r, line in enumerate(mask) for c, m in enumerate(line) if m != -1), reverse=True
    )
    threshold = known[min(len(cells), len(known) - 1)]
    reached = objects = 0
    while cells:
        front, own = [cells.pop()], []
        while front:
            row, column = front.pop()
            own.append(plane[row][column])
            near = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & cells
            cells -= near
            front += near
        objects += 1
        reached += sum(own) / len(own) > threshold
    return reached / objects


def drawn(seed, levels=5):
    """A map with ties and a mask with ignored pixels and several objects."""
    generator = np.random.default_rng(seed)
    plane = generator.integers(-2, levels, (6, 8)).astype(np.float32)
    mask = generator.choice([0, -2, -2, -2, -1], (6, 8))
    mask[2, 3], mask[5, 0] = 0, -2
    return plane, mask


def truth_of_mask(mask, tolerance=0.0):
    """Region of class 0."""
    tensor = torch.tensor(mask)
    return image_truth(tensor == 0, tensor, tolerance)


@given(st.integers(0, 5000))
@settings(max_examples=120, deadline=None)
def test_scores_equal_the_loops(seed):
    """Pointing, mass and objects reached are what the loops say, with ties and ignored pixels."""
    plane, mask = drawn(seed)
    truth = truth_of_mask(mask)

    assert pointing(plane, truth) == pytest.approx(pointing_by_the_book(plane, mask))
    assert objects_reached(plane, truth) == pytest.approx(reached_by_the_book(plane.tolist(), mask.tolist()))
    wanted = mass_by_the_book(plane, mask)
    assert mass_inside(plane, truth) == pytest.approx(wanted, nan_ok=True)


def test_a_constant_map_gets_what_chance_gives():
    """Pointing, mass and precision are the region's share; no object is reached."""
    _, mask = drawn(0)
    truth = truth_of_mask(mask)

    found = score(np.full((6, 8), 3, dtype=np.float32), truth)

    assert found.constant
    assert found.pointing == pytest.approx(truth.area)
    assert found.inside == pytest.approx(truth.area)
    assert found.average_precision == pytest.approx(truth.area)
    assert found.recall == 0


def test_ignored_pixels_have_no_effect():
    """The largest value on an ignored pixel is not the maximum."""
    plane, mask = drawn(1)
    truth, other = truth_of_mask(mask), plane.copy()
    other[mask == -1] = 0.5

    assert pointing(other, truth) == pointing(plane, truth)
    assert mass_inside(other, truth) == mass_inside(plane, truth)
    assert objects_reached(other, truth) == objects_reached(plane, truth)


def test_tolerance_is_a_distance():
    """A maximum two pixels beside the region is a hit from tolerance 2, and only diagonally from 3."""
    mask = np.full((9, 9), -2)
    mask[4, 4] = 0
    plane, slant = np.zeros((2, 9, 9), dtype=np.float32)
    plane[4, 6], slant[6, 6] = 1, 1

    assert [pointing(plane, truth_of_mask(mask, t)) for t in (0, 1.9, 2)] == [0, 0, 1]
    assert [pointing(slant, truth_of_mask(mask, t)) for t in (2, 3)] == [0, 1]


def test_marking_everything_reaches_no_more_than_its_share():
    """A map that is high at one of two objects reaches one; one that is high at both reaches both."""
    mask = np.full((8, 20), -2)
    mask[2:5, 2:5], mask[2:5, 14:17] = 0, 0
    truth = truth_of_mask(mask)
    one, both = np.random.default_rng(0).random((2, 8, 20)).astype(np.float32)
    one[2:5, 2:5] += 5
    both[mask == 0] += 5
    wide = np.tile(np.linspace(0, 1, 20, dtype=np.float32), (8, 1))

    assert objects_reached(one, truth) == 0.5
    assert objects_reached(both, truth) == 1
    assert objects_reached(wide, truth) == 0


def test_without_positive_relevance_mass_is_undefined():
    """A map that is nowhere positive has no mass; it still has a maximum."""
    _, mask = drawn(2)
    truth = truth_of_mask(mask)
    plane = -1 - np.arange(48, dtype=np.float32).reshape(6, 8)

    assert math.isnan(mass_inside(plane, truth))
    assert pointing(plane, truth) in {0, 1}


def test_images_of_many_objects_have_no_boxes():
    """Up to three objects have boxes, more have none."""
    mask = np.full((4, 20), -2)
    for number in range(MOST_BOXES):
        mask[1, 4 * number] = 0
    plane = (mask == 0).astype(np.float32)

    few = score(plane, truth_of_mask(mask)).boxes
    mask[1, 4 * MOST_BOXES] = 0
    many = score(plane, truth_of_mask(mask)).boxes

    assert few.every.tolist() == [1.0] * 9
    assert np.isnan(many.every).all()


def test_annotated_objects_that_touch_are_told_apart():
    """Numbers from the mask make two objects of one connected region; without them it is one."""
    mask = torch.zeros(4, 4, dtype=torch.int64)
    numbers = torch.tensor([[3, 3, 8, 8]] * 4)

    assert len(image_truth(mask == 0, mask, 0).objects) == 1
    assert len(image_truth(mask == 0, mask, 0, numbers).objects) == 2
