"""Boxes of maps: against loops by the book, the authors' own examples, and at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from skimage.measure import label, regionprops

from wsss_probe.boxes import (
    box_iou,
    box_overlap,
    connected_parts,
    max_box_acc,
    max_box_acc_v2,
    numbered_parts,
)


def iou_by_the_book(one, two):
    """Count the cells of both boxes; loops only."""
    cells = [
        {(row, column) for row in range(box[0], box[2] + 1) for column in range(box[1], box[3] + 1)}
        for box in (one, two)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def parts_by_the_book(mask):
    """Flood every part from its first pixel; loops only. Boxes and areas, largest part first."""
    left = {(row, column) for row, line in enumerate(mask) for column, on in enumerate(line) if on}
    parts = []
    while left:
        front, part = [min(left)], set()
        while front:
            row, column = front.pop()
            if (row, column) in left:
                left.remove((row, column))
                part.add((row, column))
                front += [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        rows, columns = zip(*part, strict=True)
        parts.append(((min(rows), min(columns), max(rows), max(columns)), len(part)))
    return sorted(parts, key=lambda part: -part[1])


def test_the_authors_example_of_an_overlap():
    """Boxes (1, 2, 5, 6) and (3, 1, 4, 5) share 8 of 27 pixels, both ends inclusive."""
    assert box_iou([(1, 2, 5, 6)], [(3, 1, 4, 5)]).item() == pytest.approx(8 / 27)
    assert box_iou([(1, 1, 3, 3), (4, 4, 5, 5)], [(1, 1, 3, 3), (4, 4, 5, 5)]).tolist() == [[1, 0], [0, 1]]


@given(st.lists(st.tuples(*[st.integers(0, 8)] * 4), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_overlap_equals_counting_cells(ends):
    """Any two boxes share as many cells as a count says, in either order."""
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in ends]

    found = box_iou(boxes, boxes)

    wanted = [[iou_by_the_book(one, two) for two in boxes] for one in boxes]
    assert np.allclose(found, wanted)


@given(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=9)))
@settings(max_examples=100, deadline=None)
def test_parts_equal_the_flood_and_scikit_image(mask):
    """Parts, their boxes and areas are those of a flood fill, and of scikit-image's labels."""
    found, wanted = connected_parts(mask), parts_by_the_book(mask.tolist())

    assert found.areas.tolist() == [area for _, area in wanted]
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(box for box, _ in wanted)
    for number, area in enumerate(found.areas, start=1):
        assert (found.labels == number).sum() == area
    regions = regionprops(label(mask, connectivity=2))
    assert sorted(found.areas.tolist()) == sorted(int(region.area) for region in regions)


UNIMODAL = [
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.4, 0.4, 0.4, 0.6],
    [0.0, 0.4, 1.0, 0.8, 0.6],
    [0.0, 0.4, 0.4, 0.4, 0.6],
]
"""The authors' example of a map with one peak."""


def test_the_authors_example_of_a_peak():
    """At thresholds 0, .2, ... .8 the boxes are the authors', which end one pixel late."""
    # theirs: columns and rows; 1,1,4,3 twice, 2,1,4,3, 2,2,4,3, 2,2,3,3, cut off at the border
    theirs = [(1, 1, 3, 4), (1, 1, 3, 4), (1, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 3)]
    late = []
    for threshold in np.arange(0, 1, 0.2):
        top, left, bottom, right = connected_parts(np.array(UNIMODAL) > threshold).boxes[0].tolist()
        late.append((top, left, min(bottom + 1, 3), min(right + 1, 4)))

    assert late == theirs


def test_thresholds_are_strict_and_the_largest_part_counts():
    """A score equal to the threshold is out; the largest part may meet worse than a small one."""
    scores = np.zeros((6, 10))
    scores[0:2, 0:2] = 0.5
    scores[3:6, 4:10] = 0.8
    objects = [(0, 0, 1, 1)]

    found = box_overlap(scores, objects, [0.0, 0.4, 0.5, 0.8])

    assert found.largest.tolist() == [0, 0, 0, 0]
    assert found.every.tolist() == [1, 1, 0, 0]


def test_an_overlap_by_the_book():
    """Noise cut at several thresholds meets objects as the loops say."""
    scores = np.random.default_rng(0).random((9, 11))
    objects = [(1, 2, 4, 6), (6, 6, 8, 10)]
    found = box_overlap(scores, objects, [0.2, 0.5, 0.9])

    for position, threshold in enumerate((0.2, 0.5, 0.9)):
        parts = parts_by_the_book((scores > threshold).tolist())
        met = [max(iou_by_the_book(box, one) for one in objects) for box, _ in parts]
        assert found.every[position] == pytest.approx(max(met))
        largest = [meets for meets, (_, area) in zip(met, parts, strict=True) if area == parts[0][1]]
        assert any(found.largest[position] == pytest.approx(one) for one in largest)


def test_accuracy_takes_the_best_common_threshold():
    """One threshold for all images; at least the demand, not above it."""
    largest = [[0.5, 0.1], [0.4, 0.9], [0.49, 0.6], [math.nan, math.nan]]

    assert max_box_acc(largest) == pytest.approx(2 / 3)
    assert max_box_acc(largest, 0.4) == 1
    # .3 and .7 have best thresholds of their own
    assert max_box_acc_v2(largest) == pytest.approx((1 + 2 / 3 + 1 / 3) / 3)


def test_without_objects_or_images_nothing_is_defined():
    """Without objects or images the result is NaN, without parts 0, and a map with NaN is refused."""
    assert np.isnan(box_overlap(np.ones((2, 2)), [], [0.5]).every).all()
    assert math.isnan(max_box_acc(np.full((2, 3), np.nan)))
    assert math.isnan(max_box_acc_v2(np.empty((0, 3))))
    assert box_overlap(np.zeros((2, 2)), [(0, 0, 0, 0)], [0.0]).largest.tolist() == [0]
    with pytest.raises(ValueError, match="NaN"):
        box_overlap(np.full((2, 2), np.nan), [(0, 0, 0, 0)], [0.5])


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
def test_numbered_parts_equal_the_loop(seed, rows, columns):
    """Objects with numbers of their own keep them apart where they touch, the largest first."""
    numbers = np.random.default_rng(seed).integers(0, 4, (rows, columns)) * 7
    found = numbered_parts(numbers)
    cells = {}
    for row in range(rows):
        for column in range(columns):
            if numbers[row, column]:
                cells.setdefault(int(numbers[row, column]), []).append((row, column))

    assert len(found) == len(cells)
    assert found.areas.tolist() == sorted((len(own) for own in cells.values()), reverse=True)
    for own in cells.values():
        (label,) = {int(found.labels[cell]) for cell in own}
        high, low = zip(*own, strict=True)
        assert found.areas[label - 1] == len(own)
        assert found.boxes[label - 1].tolist() == [min(high), min(low), max(high), max(low)]
    assert (found.labels == 0).sum() == (numbers == 0).sum()
