"""Morphology: every shape by loops, planted ellipses among specks, and what cannot be measured."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label, regionprops_table
from wsss_probe_concepts.measures.morphology import SHAPES, Morphology

from wsss_probe import View
from wsss_probe.errors import UsageError

AXES = {
    "major axis": "axis_major_length",
    "minor axis": "axis_minor_length",
    "eccentricity": "eccentricity",
}


def cells_by_loops(numbers, number):
    """Rows and columns of the pixels of an object."""
    return [(r, c) for r, row in enumerate(numbers) for c, own in enumerate(row) if own == number]


def axes_by_loops(cells):
    """Axis lengths and eccentricity of the ellipse of the same moments; pixels are points."""
    n = len(cells)
    mr, mc = sum(r for r, _ in cells) / n, sum(c for _, c in cells) / n
    rr = sum((r - mr) ** 2 for r, _ in cells) / n
    cc = sum((c - mc) ** 2 for _, c in cells) / n
    rc = sum((r - mr) * (c - mc) for r, c in cells) / n
    middle, half = (rr + cc) / 2, sqrt(((rr - cc) / 2) ** 2 + rc**2)
    long, short = middle + half, middle - half
    return 4 * sqrt(long), 4 * sqrt(short), sqrt(1 - short / long)


def pieces_by_loops(cells, diagonal):
    """Count connected pieces of a set of pixels by flooding."""
    left, pieces = set(cells), 0
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0) and (diagonal or 0 in (a, b))]
    while left:
        pieces, queue = pieces + 1, [left.pop()]
        while queue:
            r, c = queue.pop()
            for near in ((r + a, c + b) for a, b in steps):
                if near in left:
                    left.remove(near)
                    queue.append(near)
    return pieces


def euler_by_loops(cells):
    """Pieces (8-connected) less holes (4-connected background that does not reach the frame)."""
    rows, columns = [r for r, _ in cells], [c for _, c in cells]
    outside = {
        (r, c) for r in range(min(rows) - 1, max(rows) + 2) for c in range(min(columns) - 1, max(columns) + 2)
    } - set(cells)
    return pieces_by_loops(cells, True) - (pieces_by_loops(outside, False) - 1)


def perimeter_by_loops(cells):
    """Outline through border pixels: 1 along an edge, root 2 across a corner, their mean else."""
    own = set(cells)
    beside, corners = ((0, 1), (1, 0), (0, -1), (-1, 0)), ((1, 1), (1, -1), (-1, 1), (-1, -1))
    border = {(r, c) for r, c in own if any((r + a, c + b) not in own for a, b in beside)}
    length = 0.0
    for r, c in border:
        kind = 1 + 2 * sum((r + a, c + b) in border for a, b in beside)
        kind += 10 * sum((r + a, c + b) in border for a, b in corners)
        weights = dict.fromkeys((5, 7, 15, 17, 25, 27), 1.0)
        weights |= dict.fromkeys((21, 33), sqrt(2)) | dict.fromkeys((13, 23), (1 + sqrt(2)) / 2)
        length += weights.get(kind, 0.0)
    return length


def solidity_by_loops(cells):
    """Area over the number of pixels whose centre lies in the hull of all midpoints of pixel edges."""
    points = sorted({(r + a, c + b) for r, c in cells for a, b in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))})

    def chain(ordered):
        hull = []
        for point in ordered:
            while len(hull) > 1 and turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        return hull[:-1]

    def turn(o, a, b):
        return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])

    hull = chain(points) + chain(points[::-1])
    sides = list(zip(hull, hull[1:] + hull[:1], strict=True))
    rows, columns = [r for r, _ in cells], [c for _, c in cells]
    inside = sum(
        all(turn(a, b, (r, c)) >= -1e-9 for a, b in sides)
        for r in range(min(rows), max(rows) + 1)
        for c in range(min(columns), max(columns) + 1)
    )
    return len(cells) / inside


def shapes_by_loops(cells):
    """All seven shapes of one object."""
    major, minor, eccentricity = axes_by_loops(cells)
    return {
        "area": len(cells),
        "perimeter": perimeter_by_loops(cells),
        "major axis": major,
        "minor axis": minor,
        "eccentricity": eccentricity,
        "euler number": euler_by_loops(cells),
        "solidity": solidity_by_loops(cells),
    }


def viewed(objects, mask=None):
    """Show objects on pixels that say nothing."""
    return View(np.zeros((*np.shape(objects), 3), dtype=np.uint8), mask, ("nucleus",), objects)


def ellipse(size, centre, long, short, angle):
    """Pixels of an ellipse."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    y, x = rows - centre[0], columns - centre[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def blob(seed, number=5, size=(24, 26)):
    """Draw an object with bays, holes and loose pieces."""
    noise = np.random.default_rng(seed).normal(size=(size[0] + 4, size[1] + 4))
    smooth = sum(noise[r : r + size[0], c : c + size[1]] for r in range(3) for c in range(3))
    return np.where((smooth > 0.5) & ellipse(size, (12, 13), 11, 9, 0.4), number, 0)


class TestShapes:
    @pytest.mark.parametrize("seed", range(6))
    def test_equal_loops_for_one_object(self, seed):
        """A ragged object with holes and loose pieces has the shapes that loops say."""
        objects = blob(seed)
        wanted = shapes_by_loops(cells_by_loops(objects.tolist(), 5))

        found = Morphology().measure(viewed(objects))

        assert found["count"] == 1
        for name in SHAPES:
            assert found[f"{name}, mean"] == pytest.approx(wanted[name], rel=1e-9), name

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 10_000), st.integers(1, 60))
    def test_equal_scikit_image(self, seed, smallest):
        """Axes and eccentricity of many ragged pieces, lines and points are those of ``regionprops``."""
        objects = label(blob(seed, size=(40, 40)), connectivity=1)
        table = regionprops_table(objects, properties=("area", *AXES.values()))
        kept = table["area"] >= smallest

        found = Morphology(smallest=smallest).measure(viewed(objects))

        assert found["count"] == kept.sum()
        if kept.any():
            for name, source in AXES.items():
                assert found[f"{name}, mean"] == pytest.approx(table[source][kept].mean(), rel=1e-6, abs=1e-6)

    def test_objects_that_touch_are_two(self):
        """Shapes are of each number by itself; means, count and spread are over objects."""
        objects = np.zeros((24, 30), dtype=int)
        objects[4:10, 3:12], objects[4:14, 12:18], objects[16:22, 2:26] = 8, 3, 200
        each = [shapes_by_loops(cells_by_loops(objects.tolist(), n)) for n in (3, 8, 200)]
        areas = [60, 54, 144]

        found = Morphology().measure(viewed(objects))

        assert found["count"] == 3
        assert found["area, spread"] == pytest.approx(np.std(areas, ddof=1))
        for name in SHAPES:
            assert found[f"{name}, mean"] == pytest.approx(np.mean([own[name] for own in each]), rel=1e-9)

    def test_a_ring_has_euler_number_zero(self):
        """One piece less one hole; a corner joins."""
        ring = np.zeros((9, 9), dtype=int)
        ring[1:8, 1:8], ring[3:6, 3:6] = 1, 0
        corner = np.zeros((12, 12), dtype=int)
        corner[1:6, 1:6] = corner[6:11, 6:11] = 1

        assert Morphology().measure(viewed(ring))["euler number, mean"] == 0
        assert Morphology().measure(viewed(corner))["euler number, mean"] == 1

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 10_000), st.sampled_from([np.flipud, np.fliplr, np.rot90, np.transpose]))
    def test_reflection_and_rotation_change_nothing(self, seed, change):
        """No shape knows which way is up."""
        objects = blob(seed)
        measure = Morphology(smallest=1)
        found, turned = (
            measure.measure(viewed(own)) for own in (objects, np.ascontiguousarray(change(objects)))
        )

        numbers = [name for name, value in found.items() if not isinstance(value, str)]
        assert {n: turned[n] for n in numbers} == pytest.approx(
            {n: found[n] for n in numbers}, rel=1e-6, abs=1e-6
        )

    def test_colour_changes_nothing(self):
        """Floating pixels and noise are as good as any: only masks are read."""
        objects = blob(1)
        noise = np.random.default_rng(0).normal(size=(24, 26, 3)).astype(np.float32)

        found = Morphology().measure(View(noise, None, (), objects))

        assert found == Morphology().measure(viewed(objects))


class TestWhichObjects:
    def test_no_object_counts_zero(self):
        """The count is 0, and the rest has a reason."""
        found = Morphology().measure(viewed(np.zeros((9, 9), dtype=int)))

        assert found["count"] == 0
        assert {value for name, value in found.items() if name != "count"} == {"no object"}

    def test_one_object_has_no_spread(self):
        """A standard deviation needs two."""
        assert Morphology().measure(viewed(blob(0)))["area, spread"] == "one object has no spread"

    def test_specks_are_not_counted(self):
        """An object of as many pixels as asked for counts, one of a pixel less does not."""
        objects = np.zeros((20, 20), dtype=int)
        objects[2:6, 2:7], objects[10, 1:20] = 1, 2  # 20 and 19 pixels

        found = Morphology().measure(viewed(objects))

        assert (found["count"], found["area, mean"]) == (1, 20)
        none = Morphology(smallest=21).measure(viewed(objects))
        assert none["count"] == 0
        assert none["area, mean"] == "no object of at least 21 pixels; 2 smaller left out"

    def test_objects_at_the_border(self):
        """By default they count; an option leaves out what touches any of the four edges."""
        objects = np.zeros((30, 30), dtype=int)
        objects[:6, 10:16], objects[24:, 10:16], objects[10:16, :6], objects[10:16, 24:] = 1, 2, 3, 4
        inner = objects.copy()
        inner[12:18, 12:18] = 5

        assert Morphology().measure(viewed(inner))["count"] == 5
        assert Morphology(keep_cut=False).measure(viewed(inner))["count"] == 1
        none = Morphology(keep_cut=False).measure(viewed(objects))
        assert (none["count"], none["area, mean"]) == (0, "no object; objects at the border left out")

    def test_pieces_of_a_mask_only_if_asked(self):
        """A mask of classes has no objects, unless its connected pieces are to be taken for some."""
        mask = np.full((20, 30), -2)
        mask[2:8, 2:8], mask[8:14, 8:14], mask[2:8, 20:26], mask[16:, :] = 0, 0, 1, -1
        view = View(np.zeros((20, 30, 3), dtype=np.uint8), mask, ("a", "b"))

        assert Morphology().concepts(("a", "b"), False) == []
        assert set(Morphology().measure(view).values()) == {"the image has no annotated objects"}
        pieces = Morphology(components=True)
        assert len(pieces.concepts(("a", "b"), False)) == 9
        assert pieces.measure(view)["count"] == 2  # a corner joins
        empty = pieces.measure(View(view.pixels, np.full((20, 30), -2), ("a", "b")))
        assert (empty["count"], empty["area, mean"]) == (0, "no object")
        assert pieces.measure(View(view.pixels))["count"] == "the image has no mask"

    def test_annotated_objects_come_before_pieces(self):
        """Where masks number objects, two that touch stay two."""
        objects = np.zeros((20, 20), dtype=int)
        objects[2:8, 2:8], objects[2:8, 8:14] = 1, 2
        view = viewed(objects, np.where(objects > 0, 0, -2))

        assert Morphology(components=True).measure(view)["count"] == 2

    @pytest.mark.parametrize(
        "options", [{"smallest": 0}, {"smallest": 2.5}, {"keep_cut": 1}, {"components": "yes"}]
    )
    def test_refuses_options_that_cannot_be_meant(self, options):
        """Each says what was found and what is wanted."""
        with pytest.raises(UsageError, match="morphology"):
            Morphology(**options)


def tissue(seed, long, short, specks=15, grid=4, cell=36):
    """Draw ellipses of known axes in any direction, ragged at the edge, among specks of a few pixels."""
    generator = np.random.default_rng(seed)
    objects = np.zeros((grid * cell, grid * cell), dtype=int)
    for n in range(grid * grid):
        centre = (np.array(divmod(n, grid)) + 0.5) * cell + generator.uniform(-2, 2, size=2)
        inside = ellipse(objects.shape, centre, long, short, generator.uniform(0, np.pi))
        edge = inside & ~ellipse(objects.shape, centre, long - 1, short - 1, 0)
        objects[inside & ~(edge & (generator.random(objects.shape) < 0.05))] = n + 1
    for n in range(specks):
        r, c = generator.integers(0, grid * cell - 2, size=2)
        if not objects[r : r + 2, c : c + 2].any():
            objects[r : r + 2, c : c + 2] = 1000 + n
    return viewed(objects)


class TestPlanted:
    @pytest.mark.parametrize(("long", "short"), [(9, 9), (12, 8), (15, 5)])
    def test_finds_the_planted_axes(self, long, short):
        """Axes, area and eccentricity are those of the ellipses, whatever their direction and the specks."""
        found = Morphology().measure(tissue(0, long, short))

        assert found["count"] == 16
        assert found["major axis, mean"] == pytest.approx(2 * long, rel=0.05)
        assert found["minor axis, mean"] == pytest.approx(2 * short, rel=0.08)
        assert found["area, mean"] == pytest.approx(np.pi * long * short, rel=0.08)
        assert found["eccentricity, mean"] == pytest.approx(sqrt(1 - (short / long) ** 2), abs=0.25)

    def test_tells_round_from_long(self):
        """Long nuclei have a larger eccentricity than round ones of equal area, in every image."""
        round_, long = (
            [Morphology().measure(tissue(n, *axes))["eccentricity, mean"] for n in range(6)]
            for axes in ((8, 8), (9, 7.1))
        )

        assert max(round_) < min(long)

    def test_fails_where_objects_are_as_small_as_pixels(self):
        """Of the same two shapes, two pixels across, the raster decides, and some change places."""
        measure = Morphology(smallest=4)
        round_, long = (
            np.array([measure.measure(tissue(n, *axes, specks=0))["eccentricity, mean"] for n in range(12)])
            for axes in ((1.2, 1.2), (1.35, 1.07))
        )

        assert np.mean(round_[:, None] < long[None]) < 0.9

    def test_finds_nothing_where_nothing_is(self):
        """Discs of one size have no eccentricity to speak of and next to no spread."""
        objects = np.zeros((80, 80), dtype=int)
        for n, centre in enumerate(((20, 20), (20, 60), (60, 20), (60, 60)), 1):
            objects[ellipse(objects.shape, centre, 12, 12, 0)] = n

        found = Morphology().measure(viewed(objects))

        assert found["eccentricity, mean"] < 1e-6
        assert found["area, spread"] == 0
        assert found["euler number, mean"] == 1
