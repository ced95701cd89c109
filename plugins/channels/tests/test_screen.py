"""Otsu, F1 and the order of operations equal slow references written in loops.

The reference comes first: nothing of ours imported.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.regions import regions_of
from wsss_probe_channels.screening import screen as module
from wsss_probe_channels.screening.screen import Resolution, screen

from wsss_probe.errors import UsageError

ONE, TWO = regions_of(("gland",), "none"), regions_of(("gland", "fat"))

# -- reference --------------------------------------------------------------------------------


def slow_otsu(plane):
    """Otsu 1979 over 256 bins between the extremes: the first bin centre of largest variance."""
    values = [float(value) for row in plane for value in row]
    low, high = min(values), max(values)
    if low == high:
        return None
    width = (high - low) / 256
    bins = [min(int((value - low) / width), 255) for value in values]
    centres = [low + (index + 0.5) * width for index in range(256)]
    best, threshold = -1.0, None
    for split in range(255):
        below = [centres[b] for b in bins if b <= split]
        above = [centres[b] for b in bins if b > split]
        if not below or not above:
            continue
        gap = sum(below) / len(below) - sum(above) / len(above)
        variance = len(below) * len(above) * gap**2
        if variance > best * (1 + 1e-12):
            best, threshold = variance, centres[split]
    return threshold


def slow_counts(plane, mask, wanted):
    """True positives, false positives and false negatives of one map for one class."""
    threshold = slow_otsu(plane)
    tp = fp = fn = 0
    for row, truths in zip(plane, mask, strict=True):
        for value, truth in zip(row, truths, strict=True):
            if truth == -1:
                continue
            predicted = threshold is not None and float(value) > threshold
            tp += predicted and truth == wanted
            fp += predicted and truth != wanted
            fn += (not predicted) and truth == wanted
    return tp, fp, fn


def slow_bilinear(plane, rows, columns):
    """Resize with cell centres at half pixels (align_corners=False), border values repeated."""
    height, width = len(plane), len(plane[0])

    def place(index, wanted, size):
        at = min(max((index + 0.5) * size / wanted - 0.5, 0), size - 1)
        return int(at), min(int(at) + 1, size - 1), at - int(at)

    out = []
    for i in range(rows):
        top, bottom, down = place(i, rows, height)
        line = []
        for j in range(columns):
            left, right, along = place(j, columns, width)
            upper = plane[top][left] * (1 - along) + plane[top][right] * along
            lower = plane[bottom][left] * (1 - along) + plane[bottom][right] * along
            line.append(upper * (1 - down) + lower * down)
        out.append(line)
    return out


def slow_majority(mask, rows, columns):
    """Most frequent value among known pixels of each cell, lower class first, background last."""
    height, width = len(mask) // rows, len(mask[0]) // columns
    out = []
    for i in range(rows):
        line = []
        for j in range(columns):
            cell = [mask[i * height + a][j * width + b] for a in range(height) for b in range(width)]
            known = [value for value in cell if value != -1]
            order = sorted(set(known), key=lambda value: (-known.count(value), value == -2, value))
            line.append(order[0] if 2 * len(known) >= len(cell) else -1)
        out.append(line)
    return out


# -- agreement ---------------------------------------------------------------------------------


def example(seed, images=2, channels=3, grid=(4, 5), scale=3):
    """Draw rectified maps, and masks of two classes, background and ignored on a finer grid."""
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(size=(images, channels, *grid)), 0).astype(np.float32)
    values = rng.choice([0, 1, -2, -1], p=[0.4, 0.25, 0.25, 0.1], size=(images, *grid))
    masks = np.kron(values, np.ones((1, scale, scale), dtype=int))
    noisy = rng.random(masks.shape) < 0.2
    masks[noisy] = rng.choice([0, 1, -2], size=int(noisy.sum()))
    # float64, so that no pixel falls on the other side of a threshold by rounding
    return torch.from_numpy(maps).double(), torch.from_numpy(masks)


def counted(found):
    """Stack tp, fp, fn of the screen: (3, image, channel, class)."""
    return np.stack([getattr(found.counts, name).numpy() for name in ("tp", "fp", "fn")])


def expected_counts(maps, masks, classes=2):
    """Count with the reference."""
    counts = np.zeros((3, *maps.shape[:2], classes), dtype=int)
    for n, planes in enumerate(maps.tolist()):
        for k, plane in enumerate(planes):
            for c in range(classes):
                counts[:, n, k, c] = slow_counts(plane, masks[n], c)
    return counts


def resized(maps, rows, columns):
    """Resize every map with the reference."""
    planes = [[slow_bilinear(plane, rows, columns) for plane in planes] for planes in maps.tolist()]
    return torch.tensor(planes, dtype=torch.float64)


def slow_region(truth, wanted, white):
    """Whether a mask value counts, and whether it is in what is left without class ``wanted``."""
    known = truth != -1 and truth != white
    return known, known and truth != wanted


few = settings(max_examples=15, deadline=None)


@few
@given(st.integers(0, 10_000))
def test_layer_resolution_brings_the_mask_down(seed):
    """``layer``: majority of the mask, then Otsu and counts on the layer's own grid."""
    maps, masks = example(seed)
    small = [slow_majority(mask, 4, 5) for mask in masks.tolist()]

    found = screen(maps, masks, TWO, Resolution("layer"))

    np.testing.assert_array_equal(found.masks.numpy(), np.array(small))
    np.testing.assert_array_equal(counted(found), expected_counts(maps, small))


@few
@given(st.integers(0, 10_000))
def test_mask_resolution_resizes_the_map_before_otsu(seed):
    """``mask``: the map goes up bilinearly first, and is thresholded there."""
    maps, masks = example(seed)
    large = resized(maps, 12, 15)

    found = screen(maps, masks, TWO, Resolution("mask"))

    np.testing.assert_array_equal(counted(found), expected_counts(large, masks.tolist()))


@few
@given(st.integers(0, 10_000))
def test_a_fixed_grid_resizes_both(seed):
    """``6x5``: map bilinearly to six rows and five columns, mask by majority to the same."""
    maps, masks = example(seed)
    large = resized(maps, 6, 5)
    small = [slow_majority(mask, 6, 5) for mask in masks.tolist()]

    found = screen(maps, masks, TWO, Resolution("6x5"))

    np.testing.assert_array_equal(found.masks.numpy(), np.array(small))
    np.testing.assert_array_equal(counted(found), expected_counts(large, small))


@few
@given(st.integers(0, 10_000))
def test_complements_are_counted_pixel_by_pixel(seed):
    """What is left without gland, with white in it or ignored, meets the maps as counted by loops."""
    maps, masks = example(seed)
    regions = regions_of(("gland", "white"))
    small = [slow_majority(mask, 4, 5) for mask in masks.tolist()]
    expected = np.zeros((3, *maps.shape[:2], 3), dtype=int)
    expected[..., :1] = expected_counts(maps, small, classes=1)
    for n, planes in enumerate(maps.tolist()):
        for k, plane in enumerate(planes):
            threshold = slow_otsu(plane)
            for c, white in enumerate((None, 1), start=1):
                for values, truths in zip(plane, small[n], strict=True):
                    for value, truth in zip(values, truths, strict=True):
                        known, inside = slow_region(truth, 0, white)
                        predicted = threshold is not None and value > threshold
                        expected[0, n, k, c] += known and predicted and inside
                        expected[1, n, k, c] += known and predicted and not inside
                        expected[2, n, k, c] += known and inside and not predicted

    found = screen(maps, masks, regions, Resolution("layer"))

    assert [region.name for region in regions] == ["gland", "not gland", "tissue without gland"]
    np.testing.assert_array_equal(found.masks.numpy(), np.array(small))  # white takes its cells
    np.testing.assert_array_equal(counted(found), expected)


def test_a_class_that_is_no_region_still_takes_its_cells():
    """Asked for one region only, the majority is the same as with all of them."""
    maps, masks = example(4)
    every = regions_of(("gland", "fat"), "all")

    alone = screen(maps, masks, every[2:3], Resolution("layer"))

    np.testing.assert_array_equal(
        counted(alone), counted(screen(maps, masks, every, Resolution("layer")))[..., 2:3]
    )


def test_the_orders_differ():
    """Thresholding before or after resizing are different numbers: the name decides."""
    maps, masks = example(1)

    layer, mask = (screen(maps, masks, TWO, Resolution(name)) for name in ("layer", "mask"))

    assert not torch.allclose(layer.threshold, mask.threshold)
    assert Resolution("layer").order != Resolution("mask").order != Resolution("28x28").order


def test_the_threshold_is_strict_and_covers_what_is_above():
    """A map of two values is split between them; coverage is the share of the upper one."""
    maps = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])

    found = screen(maps, torch.zeros(1, 2, 2, dtype=torch.int64), ONE, Resolution("layer"))

    assert 0 < float(found.threshold) < 1
    assert float(found.coverage) == 0.75


def test_maps_that_have_no_threshold_are_counted_as_missing_all():
    """Constant and non-finite maps have a NaN threshold, an empty mask and only false negatives."""
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 1] = 7
    maps[0, 2, 0, 0] = float("inf")
    mask = torch.tensor([[[0, 0], [-2, -2]]])

    found = screen(maps, mask, ONE, Resolution("layer"))

    assert bool(found.threshold.isnan().all())
    assert counted(found)[:, 0, :, 0].T.tolist() == [[0, 0, 2]] * 3


@pytest.mark.parametrize("resolution", ["layer", "mask", "6x5"])
def test_chunks_change_nothing(resolution, monkeypatch):
    """Few channels at once give what all channels at once give."""
    maps, masks = example(2, channels=7)
    whole = screen(maps, masks, TWO, Resolution(resolution))
    monkeypatch.setattr(module, "_CHUNK", 200)

    found = screen(maps, masks, TWO, Resolution(resolution))

    np.testing.assert_array_equal(counted(found), counted(whole))
    torch.testing.assert_close(found.threshold, whole.threshold, rtol=0, atol=0)


def test_half_precision_and_channels_last_are_taken():
    """The memory layout changes nothing and float16 maps are screened in float32."""
    maps, masks = example(3)
    half = maps.half().contiguous(memory_format=torch.channels_last)

    found = screen(half, masks, TWO, Resolution("mask"))

    np.testing.assert_array_equal(
        counted(found), counted(screen(maps.half().float(), masks, TWO, Resolution("mask")))
    )


@pytest.mark.parametrize("name", ["", "image", "28", "28x", "0x5", "-1x4", "28x28x3", "28.5x28"])
def test_a_resolution_without_a_grid_is_refused(name):
    """Names that say no grid are refused with the ones that do."""
    with pytest.raises(UsageError, match=r"unknown resolution of channel-f1.*wanted: layer, mask or NxN"):
        Resolution(name)
