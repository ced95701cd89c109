"""What the masks are asked for: classes but white, what is left without them, and pixels counted by loops.

The references come first: names and pixels from the definition, nothing of ours imported.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.regions import MaskRegion, planes, region_counts, regions_of

# -- references --------------------------------------------------------------------------------


def slow_names(classes, complements):
    """Names of the regions: every class but white, and what is left without those that get complements."""
    things = [name for name in classes if name != "white"]
    if not things:
        return list(classes)
    names = list(things)
    if complements == "all" or (complements == "auto" and len(things) == 1):
        for thing in things:
            names += [f"not {thing}"] + ([f"tissue without {thing}"] if "white" in classes else [])
    return names


def slow_pixel(name, classes, value):
    """Whether a mask value is inside the region of a name, and whether it counts there."""
    known = value != -1
    here = classes[value] if value >= 0 else None
    if name in classes:
        return here == name, known
    how, _, thing = name.rpartition(" ")
    if how == "tissue without":
        known = known and here != "white"
    return known and here != thing, known


def slow_counts(predicted, mask, name, classes):
    """True positives, false positives and false negatives of one map with one region."""
    tp = fp = fn = 0
    for row, values in zip(predicted, mask, strict=True):
        for said, value in zip(row, values, strict=True):
            inside, known = slow_pixel(name, classes, value)
            tp += said and inside
            fp += said and known and not inside
            fn += inside and not said
    return tp, fp, fn


# -- names and positions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "complements", "names"),
    [
        (("gland",), "auto", ["gland", "not gland"]),
        (("gland",), "none", ["gland"]),
        (("gland",), "all", ["gland", "not gland"]),
        (("gland", "white"), "auto", ["gland", "not gland", "tissue without gland"]),
        (("white", "gland"), "auto", ["gland", "not gland", "tissue without gland"]),
        (("gland", "white"), "none", ["gland"]),
        (("gland", "white"), "all", ["gland", "not gland", "tissue without gland"]),
        (("gland", "fat"), "auto", ["gland", "fat"]),
        (("gland", "fat"), "all", ["gland", "fat", "not gland", "not fat"]),
        (("gland", "white", "fat"), "auto", ["gland", "fat"]),
        (("gland", "white", "fat"), "none", ["gland", "fat"]),
        (
            ("gland", "white", "fat"),
            "all",
            ["gland", "fat", "not gland", "tissue without gland", "not fat", "tissue without fat"],
        ),
        (("white",), "auto", ["white"]),
        (("white",), "none", ["white"]),
        (("white",), "all", ["white"]),
        ((), "auto", []),
        ((), "all", []),
    ],
)
def test_white_is_no_region_unless_it_is_all_there_is(classes, complements, names):
    """Each class but white, then what is left; a manifest of white alone keeps it, without a complement."""
    assert [region.name for region in regions_of(classes, complements)] == names
    assert slow_names(classes, complements) == names


def test_positions_are_those_of_the_masks():
    """A region is found by the value that its class has in the masks, not by its place in the list."""
    assert regions_of(("white", "gland")) == (
        MaskRegion("gland", 1),
        MaskRegion("not gland", 1, complement=True),
        MaskRegion("tissue without gland", 1, complement=True, white=0),
    )
    assert regions_of(("gland", "white", "fat"), "none") == (MaskRegion("gland", 0), MaskRegion("fat", 2))
    assert regions_of(("white",)) == (MaskRegion("white", 0),)


# -- pixels ------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["gland", "fat", "white"]), unique=True, min_size=1, max_size=3)


@settings(deadline=None, max_examples=40)
@given(NAMES, st.sampled_from(["auto", "none", "all"]), st.integers(0, 10_000))
def test_planes_and_counts_equal_the_loops(classes, complements, seed):
    """Where each region is, where pixels count, and how maps meet it, on masks that are not square."""
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.integers(-2, len(classes), (2, 3, 5)))
    predicted = torch.from_numpy(rng.random((2, 4, 3, 5)) < 0.5)
    regions = regions_of(classes, complements)
    names = slow_names(classes, complements)

    inside, known = planes(masks, regions)
    counts = region_counts(predicted, masks, regions)

    assert [region.name for region in regions] == names
    assert inside.shape == known.shape == (2, len(names), 3, 5)
    assert inside.dtype == known.dtype == torch.bool
    assert counts.tp.shape == counts.fp.shape == counts.fn.shape == (2, 4, len(names))
    for image, (at, name) in itertools.product(range(2), enumerate(names)):
        for row, column in itertools.product(range(3), range(5)):
            found = inside[image, at, row, column].item(), known[image, at, row, column].item()
            assert found == slow_pixel(name, classes, masks[image, row, column].item())
        for channel in range(4):
            wanted = slow_counts(predicted[image, channel].tolist(), masks[image].tolist(), name, classes)
            found = (counts.tp, counts.fp, counts.fn)
            assert tuple(part[image, channel, at].item() for part in found) == wanted


def test_masks_of_ignored_pixels_or_white_alone_hold_no_tissue():
    """Ignored pixels count for nothing, and white ones not for the tissue that is left."""
    masks = torch.tensor([[[-1, -1]], [[1, 1]], [[-2, -1]]])
    everything = torch.ones(3, 1, 1, 2, dtype=torch.bool)

    counts = region_counts(everything, masks, regions_of(("gland", "white")))

    assert counts.tp[:, 0].tolist() == [[0, 0, 0], [0, 2, 0], [0, 1, 1]]
    assert counts.fp[:, 0].tolist() == [[0, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert counts.fn[:, 0].tolist() == [[0, 0, 0]] * 3


def test_counts_are_exact_in_large_masks():
    """More pixels than float32 tells apart are counted in double precision."""
    side = 4097
    masks = torch.zeros(1, side, side, dtype=torch.int8)
    masks[0, 0, :2] = -1  # an odd number is left, which float32 does not have
    predicted = torch.ones(1, 1, side, side, dtype=torch.bool)

    counts = region_counts(predicted, masks, regions_of(("gland",), "none"))

    assert counts.tp.item() == side * side - 2
    assert (counts.fp.item(), counts.fn.item()) == (0, 0)
