"""A channel follows its region when its mask moves with the image; what keys on a place does not."""

import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from torch import nn
from wsss_probe_channels import ChannelF1
from wsss_probe_channels.units.invariance import chosen_images, follow, mask_iou
from wsss_probe_channels.units.invariance_probe import Invariance
from wsss_probe_channels.units.invariance_verdict import Evidence, Moved, invariance_finding
from wsss_probe_channels.units.motions import NAMES, axis, motions

from wsss_probe import Head, LayerInfo, Survey
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, Scene, make_scene, run_in_memory
from wsss_probe.testing.models import dead_channel

probe = Invariance(layer="maps")


class TestInvariance(ProbeSuite):
    """Invariance conforms to the contract at the last layer, with half of the images moved."""

    probe = Invariance(images=3)


class TestInvarianceOfTwoLayers(ProbeSuite):
    """Two layers of a network with a dead channel conform as well, on square images."""

    probe = Invariance(layers="features.0,features.5")

    def scene(self):
        """Make square images."""
        return make_scene(dead_channel(), size=(16, 16))


# -- networks whose answer is known ------------------------------------------------------


def conv(kernels, **options):
    """Make a convolution of one input channel from kernels (channel, row, column)."""
    weight = torch.as_tensor(kernels, dtype=torch.float32)[:, None]
    padding = tuple(side // 2 for side in weight.shape[2:])
    made = nn.Conv2d(1, len(weight), weight.shape[2:], padding=padding, bias=False, **options)
    made.load_state_dict({"weight": weight})
    return made.eval()


SYMMETRIC = [[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], [[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]
SKEWED = [[[0.0, 1, 5], [0, 2, 0], [-3, 0, 0]], [[1.0, 0, 0], [0, 0, 2], [0, -4, 0]]]


class Ramp(nn.Module):
    """Hand the image on plus a ramp along the columns: what keys on a place."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, images):
        """Add the ramp."""
        return images + self.strength * torch.linspace(0, 1, images.shape[3])


class Chaos(nn.Module):
    """Maps that have nothing to do with those of the moved image."""

    def forward(self, images):
        """Scramble all that came before each pixel."""
        return (1e4 * images.flatten(1).double().cumsum(1)).sin().view_as(images).float()


def pictures(number=6, size=(16, 24), inputs=1, seed=0):
    """Smooth noise, (image, channel, row, column)."""
    raw = torch.rand(number, inputs, *size, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(raw, 3, 1, 1)


def followed(network, images, reach=1):
    """Move images through a network in every way the probe does."""
    with torch.no_grad():
        maps = network(images)
        among = motions(tuple(images.shape[2:]), tuple(maps.shape[2:]), reach)
        return follow(images, maps, network, among)


def mean_iou(seen):
    """Mean IoU by the name of the motion, over images and channels."""
    return dict(zip(NAMES, seen.iou.double().mean(dim=(0, 1)).tolist(), strict=True))


# -- exactness -------------------------------------------------------------------------------


def test_a_circular_network_follows_every_shift():
    """With circular padding and stride 1 whatever filter gives IoU exactly 1 under shifts."""
    net = nn.Sequential(conv(SKEWED, padding_mode="circular"), nn.ReLU())

    iou = mean_iou(followed(net, pictures()))

    assert iou["shift"] == 1
    assert iou["mirror left-right"] < 0.9
    assert iou["rotate 180"] < 0.9
    assert math.isnan(iou["half-cell shift"])  # a pixel has no half
    assert math.isnan(iou["rotate 90"])  # not square


def test_symmetric_filters_follow_mirrors_and_turns():
    """Filters that are their own mirror images give IoU 1 under all motions, the quarter turn too."""
    net = nn.Sequential(conv(SYMMETRIC, padding_mode="circular"), nn.ReLU())

    iou = mean_iou(followed(net, pictures(size=(16, 16))))

    assert {name: value for name, value in iou.items() if not math.isnan(value)} == {
        name: 1.0 for name in NAMES if name != "half-cell shift"
    }


def test_filters_that_know_one_direction_are_told():
    """A filter of vertical edges follows a mirror that leaves it as it is and not the one that turns it."""
    net = conv([[[1.0, 0, -1]] * 3], padding_mode="circular")

    iou = mean_iou(followed(net, pictures(size=(16, 16))))

    assert iou["mirror up-down"] == 1
    assert iou["mirror left-right"] < 0.3
    assert iou["rotate 90"] < 0.7


@pytest.mark.parametrize("stride", [(2, 1), (1, 2), (2, 4), (3, 2)])
def test_strides_of_both_sides_are_right(stride):
    """Shifts by whole cells are exact for strides that differ along rows and columns."""
    net = conv(SKEWED, stride=stride, padding_mode="circular")

    assert mean_iou(followed(net, pictures(size=(24, 32))))["shift"] == 1


@pytest.mark.parametrize(
    ("reach", "rows", "columns"),
    [
        (1, (0, 28), (0, 42)),  # a cell that sees itself: only the shift is lost, 4 rows and 6 columns
        (6, (3, 25), (2, 40)),  # 2.5 pixels: three rows, two columns
        (None, (3, 25), (3, 39)),  # 22 x 36 of 32 x 48 cells; one more would leave less than half
    ],
)
def test_the_border_is_cut_as_far_as_it_is_seen(reach, rows, columns):
    """Cells whose receptive field crosses the border are not compared, while half of the map is left."""
    cells = torch.arange(32.0 * 48).view(1, 1, 32, 48)

    kept, back = motions((32, 96), (32, 48), reach)[0].back(cells, cells)

    assert torch.equal(kept[0, 0], cells[0, 0, slice(*rows), slice(*columns)])
    assert torch.equal(back[0, 0], cells[0, 0, rows[0] + 4 : rows[1] + 4, columns[0] + 6 : columns[1] + 6])


# -- planted truth and nothing -------------------------------------------------------------------


def test_what_keys_on_a_place_fails():
    """The stronger a ramp across the image, the less a channel follows shift and mirror."""
    shift, mirror = (
        [mean_iou(followed(Ramp(strength), pictures()))[name] for strength in (0, 0.1, 0.5, 3)]
        for name in ("shift", "mirror left-right")
    )

    assert shift[0] == mirror[0] == 1
    assert shift == sorted(shift, reverse=True)
    assert shift[3] < 0.85
    assert mirror[3] < 0.1


def test_unrelated_maps_have_the_iou_of_independent_masks():
    """Where a map says nothing about that of the moved image, IoU is what coverage alone gives."""
    seen = followed(Chaos(), pictures(40, (16, 16)))

    assert seen.expected[..., 0].mean().item() == pytest.approx(1 / 3, abs=0.03)
    for position in (0, 2, 3, 4, 5):
        difference = seen.iou[..., position] - seen.expected[..., position]
        assert abs(difference.mean().item()) < 0.02


# -- a slow second implementation -------------------------------------------------------------------


def slow_threshold(values):
    """Otsu's threshold of a map (row, column), None for a constant one."""
    flat = [v for row in values for v in row]
    return None if min(flat) == max(flat) else threshold_otsu(np.array(values, dtype=np.float32))


def slow_iou(first, second, thresholds):
    """IoU of two maps' masks, NaN without a threshold or a cell in either."""
    if None in thresholds:
        return math.nan
    pairs = [pair for rows in zip(first, second, strict=True) for pair in zip(*rows, strict=True)]
    inside = [(a > thresholds[0], b > thresholds[1]) for a, b in pairs]
    union = sum(a or b for a, b in inside)
    return sum(a and b for a, b in inside) / union if union else math.nan


def slow_shift(network, image, pixels, offset):
    """IoU under a shift of ``pixels`` (down, right), which is ``offset`` (row, column) cells."""
    rows, columns = len(image), len(image[0])
    moved = [
        [image[(i - pixels[0]) % rows][(j - pixels[1]) % columns] for j in range(columns)]
        for i in range(rows)
    ]
    maps, other = (network(torch.tensor(one)[None, None])[0, 0].tolist() for one in (image, moved))
    high, wide = (math.ceil(side) for side in offset)

    def at(i, j):
        """Value of the moved map between cells, by the four around."""
        row, column = i + offset[0], j + offset[1]
        i0, j0 = int(row), int(column)
        u, v = row - i0, column - j0
        total = 0.0
        for di, weight in ((0, 1 - u), (1, u)):
            for dj, other_weight in ((0, 1 - v), (1, v)):
                if weight * other_weight:
                    total += weight * other_weight * other[i0 + di][j0 + dj]
        return total

    cells = [(i, range(len(maps[0]) - wide)) for i in range(len(maps) - high)]
    return slow_iou(
        [[maps[i][j] for j in across] for i, across in cells],
        [[at(i, j) for j in across] for i, across in cells],
        (slow_threshold(maps), slow_threshold(other)),
    )


@pytest.mark.parametrize(
    ("stride", "pixels", "offset", "half", "half_offset"),
    [
        ((2, 2), (2, 2), (1, 1), (1, 1), (0.5, 0.5)),  # 8 x 12 cells: an eighth is one
        ((1, 2), (2, 2), (2, 1), (0, 1), (0, 0.5)),  # 16 x 12 cells; a row has no half
        ((4, 1), (4, 3), (1, 3), (2, 0), (0.5, 0)),  # 4 x 24 cells
        ((1, 3), (2, 3), (2, 1), (0, 1), (0, 1 / 3)),  # half of three pixels is one, a third of a cell
    ],
)
def test_shifts_equal_loops(stride, pixels, offset, half, half_offset):
    """Both shifts are those of loops over cells, on maps that are not square and strides that differ."""
    net = conv(SKEWED[:1], stride=stride)
    images = pictures(3)
    seen = followed(net, images, reach=1)

    with torch.no_grad():
        for index, image in enumerate(images[:, 0].tolist()):
            whole = slow_shift(net, image, pixels, offset)
            part = slow_shift(net, image, half, half_offset)
            assert seen.iou[index, 0, 0].item() == pytest.approx(whole, abs=0.02)
            assert seen.iou[index, 0, 1].item() == pytest.approx(part, abs=0.02)


def test_mirrors_and_turns_equal_loops():
    """Mirrors and turns are those of loops over the cells of the whole map."""
    net, images = conv(SKEWED[:1], stride=2), pictures(2, (12, 12))
    turns = {
        "mirror left-right": lambda i, j, n: (i, n - 1 - j),
        "mirror up-down": lambda i, j, n: (n - 1 - i, j),
        "rotate 180": lambda i, j, n: (n - 1 - i, n - 1 - j),
        "rotate 90": lambda i, j, n: (j, n - 1 - i),
    }
    seen = followed(net, images)

    with torch.no_grad():
        for index, image in enumerate(images[:, 0].tolist()):
            for name, source in turns.items():
                moved = [
                    [image[source(i, j, 12)[0]][source(i, j, 12)[1]] for j in range(12)] for i in range(12)
                ]
                maps, other = (net(torch.tensor(one)[None, None])[0, 0].tolist() for one in (image, moved))
                back = [[0.0] * 6 for _ in range(6)]
                for i in range(6):
                    for j in range(6):
                        row, column = source(i, j, 6)
                        back[row][column] = other[i][j]
                found = seen.iou[index, 0, NAMES.index(name)].item()
                wanted = slow_iou(maps, back, (slow_threshold(maps), slow_threshold(other)))
                assert found == pytest.approx(wanted), name


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_iou_equals_loops(rows, columns, seed):
    """IoU and the IoU of independent masks are the formulas, NaN where both masks are empty."""
    first, second = torch.rand(2, 1, 3, rows, columns, generator=torch.Generator().manual_seed(seed)) > 0.5
    first[0, 0] = False

    iou, expected = mask_iou(first, second)

    for k in range(3):
        a, b = first[0, k].float().tolist(), second[0, k].float().tolist()
        wanted = slow_iou(a, b, (0.5, 0.5))
        assert iou[0, k].item() == pytest.approx(wanted, nan_ok=True)
        p, q = (sum(map(sum, one)) / (rows * columns) for one in (a, b))
        if p or q:
            assert expected[0, k].item() == pytest.approx(p * q / (p + q - p * q))


# -- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "cells", "step", "per_step"),
    [(224, 7, 32, 1), (96, 32, 3, 1), (65, 33, 2, 1), (227, 13, 16, 1), (28, 24, 1, 1), (8, 16, 1, 2)],
)
def test_the_stride_comes_from_the_sizes(pixels, cells, step, per_step):
    """Sizes that divide give their ratio, others the nearest power of two, finer maps the reverse."""
    assert axis(pixels, cells) == axis(pixels, cells).__class__(cells, step, per_step)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8, 32]), st.sampled_from([None, 1, 9, 500])
)
def test_at_least_half_of_the_map_is_compared(rows, columns, stride, reach):
    """Whatever the sizes and the receptive field, every motion compares half of the cells or more."""
    maps = torch.zeros(1, 1, rows, columns)
    for motion in motions((rows * stride, columns * stride), (rows, columns), reach):
        if motion is not None:
            kept, moved = motion.back(maps, maps)
            assert kept.shape == moved.shape
            assert kept.numel() * 2 >= maps.numel()


def test_maps_too_small_are_not_shifted():
    """A side of less than four cells is not shifted; where neither side is long enough nothing is."""
    assert motions((96, 96), (3, 3), 5)[:2] == (None, None)
    narrow = motions((96, 256), (3, 8), 5)[0]

    images = torch.arange(96.0 * 256).view(1, 1, 96, 256)

    assert torch.equal(narrow.move(images), images.roll(32, 3))


def test_maps_finer_than_the_input_are_shifted_by_whole_pixels():
    """Where a cell is half a pixel, the shift is one that both grids can make."""
    net = nn.Sequential(nn.Upsample(scale_factor=2), conv(SKEWED, padding_mode="circular"))

    iou = mean_iou(followed(net, pictures(size=(8, 12))))

    assert iou["shift"] == 1
    assert math.isnan(iou["half-cell shift"])


# -- the probe ----------------------------------------------------------------------------------------


def scene_of(network, images, masks=None):
    """Make a scene whose network is the layer ``maps`` and pools it."""
    parts = OrderedDict(maps=network, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    whole = nn.Sequential(parts).eval()
    with torch.no_grad():
        shape = tuple(network(images[:1]).shape[1:])
    survey = Survey(
        layers={"maps": LayerInfo("maps", "Sequential", 0, 1, shape, "maps", receptive_field=3)},
        classes=tuple(f"class {i}" for i in range(shape[0])),
        targets=("predicted",),
        mask_classes=() if masks is None else ("thing",),
        head=Head(linear=False),
        input_shape=tuple(images.shape[1:]),
        multilabel=True,
        seed=0,
        images=len(images),
    )
    labels = torch.zeros(len(images), shape[0], dtype=torch.bool)
    return Scene(whole, survey, images, labels, masks, torch.ones(len(images), dtype=torch.bool))


def surveyed(scene, controls=0, **options):
    """Split the probe for a scene and run it."""
    (own,) = Invariance(**options).split(scene.survey)
    return own, run_in_memory([own], scene, controls=controls)


def test_only_the_chosen_images_are_moved():
    """Rows of other images are NaN, the choice follows the seed, and a batch without any makes no pass."""
    scene = scene_of(conv(SYMMETRIC), pictures(10))
    own, run = surveyed(scene, images=4)
    chosen = chosen_images(10, 4, 0)
    others = [i for i in range(10) if i not in chosen]

    rows = run.rows(own.name)["iou"].values
    batch = replace(scene.batch(own.needs(scene.survey), others), activations_of=None)
    idle = own.observe(batch)

    assert np.isfinite(rows[chosen, :, 0]).all()
    assert np.isnan(rows[others]).all()
    assert np.isnan(idle.rows["iou"].values).all()
    assert not any(idle.partial[name].values.any() for name in idle.partial)
    assert sorted(chosen) == sorted(np.random.default_rng(0).permutation(10)[:4])
    assert run.concluded(own).summary.attrs["moved"] == 4


def test_a_split_probe_knows_its_layer_and_images():
    """The copy for a layer has its name, receptive field, number of images and seed."""
    survey = replace(make_scene().survey, seed=5)
    last = list(survey.layers)[-1]

    (own,) = Invariance(images=9).split(survey)

    assert own.name == f"invariance@{last}"
    assert (own.total, own.seed) == (6, 5)
    assert own.receptive_field == survey.layers[last].receptive_field
    assert own.options["images"] == 9
    assert own.needs(survey).layers == {last}
    assert own.split(survey) == (own,)
    assert [part.layer for part in Invariance(layers="all").split(survey)] == list(survey.layers)


def test_dead_and_broken_maps_have_no_iou_and_are_counted():
    """A constant map is degenerate wherever the layer allows the motion; NaN maps are as well."""

    class Broken(nn.Module):
        """Channel 0 is the image, 1 is dead, 2 is NaN on bright images."""

        def forward(self, images):
            """Stack the three."""
            bright = images.mean(dim=(2, 3), keepdim=True) > 0.5
            return torch.cat([images, 0 * images, torch.where(bright, torch.nan, images)], dim=1)

    images = pictures(6)
    images[:2] += 0.5
    scene = scene_of(Broken(), images)
    own, run = surveyed(scene)
    summary = run.concluded(own).summary

    assert summary["degenerate"].values[:, 0].tolist() == [0, 6, 2]
    assert summary["degenerate"].values[:, 5].tolist() == [0, 0, 0]  # no quarter turn, so no failure of one
    assert np.isnan(summary["iou"].values[1]).all()
    assert summary["layer_iou"].values[2] == 1
    assert np.isnan(summary["stability"].values[1])


@pytest.mark.parametrize("dead", ["before", "after"])
def test_a_map_that_dies_when_it_is_moved_has_no_iou(dead):
    """One constant map of the two is enough to have no IoU, rather than one of 0."""
    images = pictures(2)
    maps, again = (images, torch.zeros_like) if dead == "after" else (0 * images, lambda moved: moved)

    seen = follow(images, maps, again, motions((16, 24), (16, 24), 1))

    assert seen.iou.isnan().all()


def test_an_all_dead_layer_is_said_to_be():
    """A layer without a live map gives a statement and a section, and no numbers."""
    own, run = surveyed(scene_of(conv([[[0.0]]]), pictures()), controls=1)

    conclusion = run.concluded(own)
    (section,) = check_sections(own.sections(conclusion.summary, run), own.name)

    assert "not estimable" in conclusion.findings[0].statement
    assert conclusion.findings[0].verdict == "notice"
    assert section.blocks[0].markdown == "No moved image has maps with a mask."


def test_a_number_of_images_without_a_meaning_is_refused():
    """No image at all is refused when it is set."""
    with pytest.raises(UsageError, match="invariance needs images"):
        Invariance(images=0)


# -- the conclusion -------------------------------------------------------------------------------------


def test_the_summary_follows_its_definitions():
    """Means over images, channels and motions, degenerate counts and independent masks are as defined."""
    scene = scene_of(conv(SKEWED), pictures(8) - 0.5)
    own, run = surveyed(scene, controls=2)
    summary, rows = run.concluded(own).summary, run.rows(own.name)["iou"].values
    seen = followed(scene.network.maps, scene.images, reach=3)

    for k in range(2):
        for t in (0, 2, 3, 4):
            values = [v for v in rows[:, k, t].tolist() if not math.isnan(v)]
            assert summary["iou"].values[k, t] == pytest.approx(sum(values) / len(values))
            chance = [v for v in seen.expected[:, k, t].tolist() if not math.isnan(v)]
            assert summary["expected"].values[k, t] == pytest.approx(sum(chance) / len(chance))
            assert summary["degenerate"].values[k, t] == 8 - len(values)
        defined = [v for v in summary["iou"].values[k].tolist() if not math.isnan(v)]
        assert summary["stability"].values[k] == pytest.approx(sum(defined) / len(defined))
    assert summary["layer_iou"].values[3] == pytest.approx(summary["iou"].values[:, 3].mean())
    low, high = (summary[name].values[:, 3] for name in ("low", "high"))
    assert (low <= summary["iou"].values[:, 3]).all()
    assert (summary["iou"].values[:, 3] <= high).all()
    theirs = run.controls[1].rows(own.name)["iou"].values
    assert summary["control_iou"].values[1, 3] == pytest.approx(theirs[:, :, 3].mean())
    median = np.median(theirs[:, :, 3].mean(axis=0))
    assert summary["control_quantiles"].sel(quantile=0.5).values[1, 3] == pytest.approx(median)


def test_the_best_channels_by_f1_are_named():
    """With channel-F1 in the run the finding is about its best channels, in the controls about their own."""
    images = torch.zeros(12, 1, 16, 24)
    masks = torch.full((12, 16, 24), -2)
    for index in range(12):
        row, column = index % 7, (5 * index) % 15
        masks[index, row : row + 6, column : column + 7] = 0
    images[:, 0] = (masks == 0).float()
    images += 0.05 * pictures(12)
    kernels = torch.zeros(16, 3, 3)
    kernels[:, 1, 1] = 1
    kernels[1:] += torch.randn(15, 3, 3, generator=torch.Generator().manual_seed(2))
    scene = scene_of(conv(kernels), images, masks)
    f1 = ChannelF1(layer="maps")
    first = run_in_memory([f1, probe], scene, controls=2)
    run = replace(first, summaries={f1.name: first.concluded(f1).summary})
    alone = first.concluded(probe)

    conclusion = run.concluded(probe)
    shown = check_sections(probe.sections(conclusion.summary, run), probe.name)

    means = run.rows(f1.name)["f1"].mean("image").values
    wanted = {k for c in range(means.shape[1]) for k in sorted(range(16), key=lambda k: -means[k, c])[:3]}
    assert set(np.flatnonzero(conclusion.summary["best"].values)) == wanted
    assert "best channels by channel-F1 (0, " in conclusion.findings[0].statement
    assert "to the mean of all live channels" in conclusion.findings[0].statement
    assert not alone.summary["best"].values.any()
    assert "all live channels have mean IoU" in alone.findings[0].statement
    networks = shown[1].blocks[0].frame
    assert networks["network"].tolist() == [
        *["audited"] * 2, *["shuffled-0"] * 2, *["shuffled-1"] * 2, "independent masks",
    ]  # fmt: skip
    figure, table = shown[0].blocks
    assert [trace["type"] for trace in figure.figure["data"]] == ["box", "box", "box", "scatter"]
    assert table.frame["best by channel-F1"].iloc[0] == "yes"
    audited, points = figure.figure["data"][0], figure.figure["data"][-1]
    assert set(points["x"]) == set(audited["x"])  # over the boxes that they belong to


def moved(value, images=20, channels=4, best=(0,), boost=0.0, **more):
    """IoU near a value, the best channels better by ``boost``."""
    noise = np.random.default_rng(1).normal(0, 0.01, (images, channels, len(NAMES)))
    iou = value + noise
    iou[:, list(best)] += boost
    return Moved(iou, np.array(best, dtype=np.intp), **more)


def found(own, controls, **more):
    """State the finding."""
    return invariance_finding(Evidence("conv", own, controls, 0.2, **more))


def test_only_what_clears_layer_and_controls_is_ok():
    """The best channels must be above the layer's mean and above every living control's best."""
    own = moved(0.6, boost=0.2)
    low, level, dead = (
        moved(0.5, boost=0.1, name="c-0"),
        moved(0.6, boost=0.2, name="c-1"),
        moved(0.9, name="c-2", alive=False),
    )

    assert found(own, [low]).verdict == "ok"
    assert found(own, [low, dead]).verdict == "ok"
    assert found(own, [low, level]).verdict == "notice"
    assert found(moved(0.8), [low]).verdict == "notice"  # no better than its layer
    assert found(own, []).verdict == "notice"
    assert found(own, [dead]).verdict == "notice"
    assert "no control is alive" in found(own, [dead]).statement
    assert "no control was run" in found(own, []).statement


def test_without_best_channels_the_layer_is_compared_with_controls():
    """Where channel-F1 is not known, all live channels are held against those of the controls."""
    own = moved(0.8, best=())

    assert found(own, [moved(0.5, best=(), name="c-0")]).verdict == "ok"
    assert found(own, [moved(0.8, best=(), name="c-0")]).verdict == "notice"


def test_a_classifier_that_cannot_be_tested_takes_the_verdict():
    """Where no conclusion may rest on the classifier, its reason is given and nothing is ok."""
    finding = found(moved(0.6, boost=0.2), [moved(0.3, name="c-0")], not_testable="AUC 0.5")

    assert finding.verdict == "notice"
    assert "not testable here: AUC 0.5" in finding.statement


def test_few_groups_make_the_interval_unreliable():
    """Images of four patients are four observations, and the statement says what that means."""
    finding = found(moved(0.6, boost=0.2), [], groups=np.repeat(["a", "b", "c", "d"], 5))

    assert finding.groups == 4
    assert "unreliable" in finding.statement


def test_groups_are_those_of_the_moved_images():
    """Where some images are moved, the interval resamples their groups and no others."""
    own, run = surveyed(scene_of(conv(SYMMETRIC), pictures(10)), images=4)
    groups = np.array([f"patient {i // 2}" for i in range(10)])

    finding = replace(run, groups=groups).concluded(own).findings[0]

    assert finding.groups == len(set(groups[chosen_images(10, 4, 0)]))
    assert finding.n == 4


def test_the_statement_names_numbers_that_can_be_checked():
    """Mean IoU, the gap to the layer, the controls' range and shifts alone stand in the statement."""
    own, control = moved(0.6, boost=0.2), moved(0.5, boost=0.1, name="c-0")

    statement = found(own, [control]).statement

    best, layer = own.iou[:, [0]].mean(), own.iou.mean()
    assert f"mean IoU {best:.3f} [" in statement
    assert f"{best - layer:+.3f} [" in statement
    assert f"1 control that learned nothing: {control.iou[:, 0].mean():.3f} to" in statement
    assert f"(shifts alone: {own.iou[:, 0, 0].mean():.3f}, controls" in statement
    assert "independent masks of the same coverage have 0.200" in statement
