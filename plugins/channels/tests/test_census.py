"""The census finds what was planted: dead, constant, saturated and duplicate channels, and no others."""

import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_channels.units.census_probe import Census
from wsss_probe_channels.units.duplicates import correlation, duplicates, moments

from wsss_probe import Head, LayerInfo, Survey
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, Scene, make_scene, run_in_memory
from wsss_probe.testing.models import dead_channel, multi_logit, one_channel

probe = Census(layer="maps")


class TestCensus(ProbeSuite):
    """The census conforms to the contract at every layer."""

    probe = Census()


class TestCensusOfADeadChannel(ProbeSuite):
    """A network with a dead channel and in-place layers conforms as well."""

    probe = Census()

    def scene(self):
        """Make images for the network with a dead channel."""
        return make_scene(dead_channel())


# -- what is planted -----------------------------------------------------------------------------


def scene_of(maps, classes=("gland",)):
    """Make a scene whose network hands its input on as the layer ``maps``, so that maps are what we say."""
    number, channels, rows, columns = maps.shape
    parts = OrderedDict(maps=nn.Identity(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    info = LayerInfo("maps", "Identity", 0, 1, (channels, rows, columns), "maps")
    survey = Survey(
        layers={"maps": info},
        classes=tuple(f"class {i}" for i in range(channels)),
        targets=("predicted",),
        mask_classes=tuple(classes),
        head=Head(linear=False),
        input_shape=(channels, rows, columns),
        multilabel=True,
        seed=0,
        images=number,
    )
    labels = torch.zeros(number, channels, dtype=torch.bool)
    network = nn.Sequential(parts).eval()
    return Scene(network, survey, maps, labels, None, torch.ones(number, dtype=torch.bool))


def concluded(maps, using=probe, controls=0):
    """Survey maps and conclude with the host's checks."""
    run = run_in_memory([using], scene_of(maps), controls=controls)
    return run.concluded(using)


def noise(images, channels, size=(6, 9), seed=0):
    """Rectified noise, so that half of all cells are 0."""
    return torch.randn(images, channels, *size, generator=torch.Generator().manual_seed(seed)).relu()


def planted(images=12, channels=10):
    """Plant one channel of every kind into noise; 0, 3, 6 and 9 stay noise."""
    maps = noise(images, channels)
    maps[:, 1] = 0
    maps[:, 2] = -2.5
    maps[:, 4] = torch.where(maps[:, 9] > -1, 6.0, 0.0)  # all of every image at the clamp ...
    maps[:, 4, 0] = maps[:, 9, 0].clamp(max=5)  # ... but for one row
    maps[:, 5] = 3 * maps[:, 0] + 0.01 * noise(images, 1, seed=5)[:, 0]
    maps[:, 7] = -2 * maps[:, 3] + 100
    maps[:, 8] = maps[:, 5]
    return maps


def test_what_is_planted_is_found():
    """One channel of every kind is named, the duplicates with sign and lowest original, noise never."""
    summary = concluded(planted()).summary

    def where(name):
        return np.flatnonzero(summary[name].values).tolist()

    assert (where("dead"), where("constant"), where("saturated")) == ([1], [2], [4])
    assert summary["duplicate_of"].values.tolist() == [-1, -1, -1, -1, -1, 0, -1, 3, 0, -1]
    np.testing.assert_allclose(summary["duplicate_r"].values[[5, 7, 8]], [1, -1, 1], atol=1e-4)
    assert summary["maximum"].values[[1, 2, 4]].tolist() == [0, -2.5, 6]
    assert summary["sparsity"].values[1] == 1
    assert summary["sparsity"].values[0] == pytest.approx(0.5, abs=0.08)


def test_nothing_is_found_where_nothing_is():
    """Smooth noise has no dead, constant, saturated or duplicate channel and gives no finding."""
    conclusion = concluded(noise(10, 40) - 0.1)

    for name in ("dead", "constant", "saturated"):
        assert not conclusion.summary[name].values.any()
    assert (conclusion.summary["duplicate_of"].values == -1).all()
    assert conclusion.findings == ()


@pytest.mark.parametrize(("level", "found"), [(0.05, True), (0.5, False)])
def test_noise_hides_a_copy(level, found):
    """A copy with little noise is a duplicate; with r clearly below the limit it is not."""
    maps = noise(12, 4)
    maps[:, 2] = maps[:, 1] + level * torch.randn(
        maps[:, 1].shape, generator=torch.Generator().manual_seed(4)
    )

    assert (concluded(maps).summary["duplicate_of"].values[2] == 1) == found


def test_two_rare_channels_are_not_duplicates():
    """Channels that are 0 nearly everywhere, and speak in other places, are no duplicates of each other."""
    maps = torch.zeros(20, 3, 6, 6)
    maps[:, 0, 0, 0], maps[:, 1, 3, 3], maps[:, 2, 3, 3] = 1, 1, 2

    assert concluded(maps).summary["duplicate_of"].values.tolist() == [-1, -1, 1]


def test_clamps_are_told_from_peaks():
    """A sigmoid driven to 1 and a ReLU6 at 6 are saturated; half of the cells, and one peak, are not."""
    maps = torch.rand(8, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    maps[:, 0] = torch.sigmoid(100 * (maps[:, 0] - 0.2))
    maps[:, 1] = (20 * maps[:, 1]).clamp(max=6)
    maps[:, 2, :2] = 7  # exactly half of the cells
    maps[:, 3] = -(maps[:, 3] - 0.8).relu()
    maps[:2, 3] = 0  # a maximum of 0 is sparsity

    assert concluded(maps).summary["saturated"].values.tolist() == [True, True, False, False, False]


def test_saturation_is_judged_on_images_that_reach_the_maximum():
    """A channel that is silent on most images and clamped on the others is saturated."""
    maps = torch.rand(10, 1, 4, 4) * 0.5
    maps[:2] = 6
    maps[:2, :, 0] = 3

    summary = concluded(maps).summary

    assert summary["saturated"].item()
    assert summary["at_ceiling"].item() == pytest.approx(0.2)


def test_maps_of_one_cell_are_never_saturated():
    """Where a map has one cell, it is always at its maximum and says nothing."""
    assert not concluded(torch.rand(9, 3, 1, 1) + 1).summary["saturated"].values.any()


# -- a slow second implementation -------------------------------------------------------------------


def slow_census(maps, limit=0.99):
    """Take the census by loops, from the definitions."""
    images, channels = len(maps), len(maps[0])
    flat = [[[float(v) for row in maps[i][k] for v in row] for i in range(images)] for k in range(channels)]
    columns = {name: [] for name in ("dead", "constant", "saturated", "duplicate_of", "sparsity", "mean")}
    values = [[v for image in channel for v in image] for channel in flat]
    for k in range(channels):
        top = max(values[k])
        same = top == min(values[k])
        columns["dead"].append(same and top == 0)
        columns["constant"].append(same and top != 0)
        at_top = [sum(v == top for v in image) / len(image) for image in flat[k] if max(image) == top]
        columns["saturated"].append(not same and top != 0 and sum(at_top) / len(at_top) > 0.5)
        columns["sparsity"].append(sum(v == 0 for v in values[k]) / len(values[k]))
        columns["mean"].append(math.fsum(values[k]) / len(values[k]))
        of = -1
        for j in reversed(range(k)):
            if abs(slow_r(values[j], values[k])) > limit:
                of = j
        columns["duplicate_of"].append(of)
    return columns


def slow_r(first, second):
    """Pearson's r of two lists; 0 where one does not vary."""
    a, b = math.fsum(first) / len(first), math.fsum(second) / len(second)
    products = math.fsum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    scale = math.fsum((x - a) ** 2 for x in first) * math.fsum((y - b) ** 2 for y in second)
    return products / math.sqrt(scale) if scale > 0 else 0.0


def test_the_census_equals_loops():
    """All columns are those of a slow implementation from the definitions, on maps that are not square."""
    maps = planted(images=7)
    summary, slow = concluded(maps).summary, slow_census(maps.tolist())

    for name in ("dead", "constant", "saturated", "duplicate_of"):
        assert summary[name].values.tolist() == slow[name], name
    for name in ("sparsity", "mean"):
        np.testing.assert_allclose(summary[name].values, slow[name], rtol=1e-5, atol=1e-7)


# -- correlation -------------------------------------------------------------------------------------


def streamed(maps, size, **options):
    """Add up the moments of batches."""
    parts = [
        moments(maps[start : start + size], np.arange(start, min(start + size, len(maps))), **options)
        for start in range(0, len(maps), size)
    ]
    return sum(parts[1:], parts[0])


@pytest.mark.parametrize("exact_up_to", [1024, 0])
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
def test_a_large_mean_costs_no_correlation(offset, exact_up_to):
    """With a mean 1000 times the spread r of near-duplicates is right to 1e-3, exactly or by the sketch."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(30, 6, 7, 5, generator=generator, dtype=torch.float64)
    maps[:, 1] = maps[:, 0] + 0.1 * maps[:, 1]
    maps[:, 3] = -maps[:, 2] + 0.05 * maps[:, 3]
    maps[:, 5] = maps[:, 4] + maps.mean(dim=(2, 3))[:, 5, None, None]
    truth = np.corrcoef(maps.transpose(0, 1).flatten(1).numpy())

    r = correlation(streamed((maps + offset).float(), 4, exact_up_to=exact_up_to))

    for pair in ((0, 1), (2, 3)):
        assert r[pair] == pytest.approx(truth[pair], abs=1e-3)
    assert abs(r - truth).max() < (1e-3 if exact_up_to else 0.25)


def test_images_that_differ_in_level_alone_are_correlated():
    """What varies between images counts as much as what varies within."""
    level = torch.rand(12, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(12, 1, 4, 4)
    maps = torch.cat([level, 2 * level + 5], dim=1)

    assert correlation(moments(maps, np.arange(12)))[0, 1] == pytest.approx(1)
    assert correlation(moments(maps, np.arange(12), exact_up_to=0))[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("exact_up_to", [1024, 0])
def test_what_does_not_vary_has_no_correlation(exact_up_to):
    """Zeros, a constant, and a constant but for rounding have no r, and duplicate nothing."""
    maps = torch.stack([torch.zeros(5, 4, 4), torch.full((5, 4, 4), 1e4), torch.rand(5, 4, 4)], dim=1)
    maps[0, 1, 0, 0] = torch.nextafter(torch.tensor(1e4), torch.tensor(2e4))

    r = correlation(streamed(maps, 2, exact_up_to=exact_up_to))

    assert np.isnan(r[:2]).all()
    assert r[2, 2] == pytest.approx(1)
    assert duplicates(r, 0.99)[0].tolist() == [-1, -1, -1]


def test_the_sketch_finds_copies_and_nothing_else():
    """Among 60 channels the sketch names the planted copies, and 1 - r to a third of itself."""
    maps = noise(16, 60, (7, 7))
    maps[:, 40] = maps[:, 3] + 0.02 * noise(16, 1, (7, 7), 8)[:, 0]
    maps[:, 50] = -5 * maps[:, 7]
    exact, sketched = (correlation(streamed(maps, 5, exact_up_to=limit)) for limit in (1024, 0))

    of, r = duplicates(sketched, 0.99)

    assert {k: int(of[k]) for k in np.flatnonzero(of >= 0)} == {40: 3, 50: 7}
    assert r[50] == pytest.approx(-1)
    assert 1 - sketched[40, 3] == pytest.approx(1 - exact[40, 3], rel=0.33)


def test_wide_layers_are_sketched():
    """A layer of 1025 channels keeps a table that grows with its width, not with the square."""
    sums = moments(torch.rand(2, 1025, 2, 2), np.arange(2))

    assert "products" not in sums
    assert sums["sketch"].shape == (1025, 256)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 9))
def test_batches_do_not_matter(images, channels, rows, columns, seed):
    """Sums of batches of any size equal those of one batch, exactly and by the sketch."""
    maps = noise(images, channels, (rows, columns), seed)
    for limit in (1024, 0):
        whole, parts = (streamed(maps, size, exact_up_to=limit) for size in (images, 1))
        xr.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-5)


# -- bad input -----------------------------------------------------------------------------------------


def test_images_that_are_not_finite_count_nowhere():
    """An image with a NaN or an infinity in any map changes nothing; nor does an unreadable one."""
    maps = planted(8)
    broken = torch.cat([maps, noise(3, 10, seed=9)])
    broken[8, 4, 0, 0], broken[9, 3, 0, 0] = math.nan, math.inf
    scene = scene_of(broken).unreadable([10])

    summary = run_in_memory([probe], scene, controls=0).concluded(probe).summary

    assert summary.attrs["images"] == 8
    xr.testing.assert_allclose(summary, concluded(maps).summary)


def test_one_channel_and_one_image_are_enough():
    """A layer of one channel has no duplicate; a single image is an answer about one image."""
    for maps in (noise(4, 1), noise(1, 4)):
        summary = concluded(maps).summary
        assert not summary["dead"].values.any()
    assert concluded(noise(4, 1)).summary["duplicate_of"].values.tolist() == [-1]


def test_a_network_for_grey_images_is_counted():
    """A network with one input channel has a census at each of its layers."""
    maps = torch.rand(5, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    network = one_channel()
    info = LayerInfo("features", "Sequential", 0, 1, (4, 12, 10), "maps")
    survey = replace(scene_of(maps).survey, layers={"features": info}, classes=("a", "b"))
    scene = replace(
        scene_of(maps), network=network, survey=survey, labels=torch.zeros(5, 2, dtype=torch.bool)
    )
    own = Census(layer="features")

    summary = run_in_memory([own], scene, controls=0).concluded(own).summary

    with torch.no_grad():
        wanted = (network.features(maps) == 0).float().mean(dim=(0, 2, 3))
    np.testing.assert_allclose(summary["sparsity"].values, wanted.numpy(), rtol=1e-5)


def test_limits_without_a_meaning_are_refused():
    """A limit outside [0, 1] is refused when it is set."""
    with pytest.raises(UsageError, match="duplicate of the census is out of range"):
        Census(duplicate=99)
    with pytest.raises(UsageError, match="notice of the census"):
        Census(notice=-0.1)


# -- the contract ----------------------------------------------------------------------------------------


def test_every_layer_with_maps_is_counted_without_masks():
    """One copy per audited layer with maps, with a name and needs of its own, masks or not."""
    survey = make_scene(multi_logit(2)).without_masks().survey

    parts = list(Census(notice=0.5).split(survey))

    assert [part.name for part in parts] == [f"census@{name}" for name in survey.layers]
    assert all(part.needs(survey).layers == {part.layer} and not part.needs(survey).masks for part in parts)
    assert parts[0].options["notice"] == 0.5


def test_idle_channels_are_told_beside_the_controls():
    """Where more than a tenth is idle, the finding says how many of what, and what the controls have."""
    finding = concluded(planted(), controls=2).findings[0]
    alone = concluded(planted()).findings[0]

    assert finding.name == "idle-channels@maps"
    assert finding.verdict == "notice"
    assert "6 of 10 channels (60%)" in finding.statement
    assert "1 dead, 1 constant, 1 saturated, 3 duplicate" in finding.statement
    assert "60% to 60% in 2 controls that learned nothing" in finding.statement  # no weights to shuffle
    assert (finding.effect, finding.n) == (0.6, 12)
    assert "no control was run" in alone.statement
    assert concluded(planted(), Census(layer="maps", notice=0.6)).findings == ()


def test_dead_controls_do_not_count():
    """A control that is degenerate is left out of the comparison and named as such in the table."""
    run = run_in_memory([probe], scene_of(planted()), controls=2)
    run = replace(run, controls=[replace(control, dead=frozenset({"maps"})) for control in run.controls])

    conclusion = run.concluded(probe)
    (section,) = check_sections(probe.sections(conclusion.summary, run), probe.name)

    assert "no control is alive" in conclusion.findings[0].statement
    assert section.blocks[0].frame["note"].tolist() == ["", *["degenerate, counts for nothing"] * 2]


def test_the_section_counts_and_lists():
    """One row of counts per network, the idle channels with what they copy, and a histogram."""
    run = run_in_memory([probe], scene_of(planted()), controls=1)
    summary = run.concluded(probe).summary

    (section,) = check_sections(probe.sections(summary, run), probe.name)
    counts, listed, figure = section.blocks

    assert counts.frame.iloc[0][["dead", "constant", "saturated", "duplicate"]].tolist() == [1, 1, 1, 3]
    assert counts.frame["network"].tolist() == ["audited", "shuffled-0"]
    assert listed.frame["channel"].tolist() == [1, 2, 4, 5, 7, 8]
    assert listed.frame["of"].tolist() == ["", "", "", "0", "3", "0"]
    assert len(figure.data) == 10
    assert "means of the living controls (1)" in figure.caption
