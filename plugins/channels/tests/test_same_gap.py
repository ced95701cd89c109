"""Couples with the same pooled value are drawn fairly, compared, and judged beside different ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_channels.pairs.same_gap import SameGap
from wsss_probe_channels.pairs.same_gap_couples import draw_couples

from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import dead_channel

# -- slow references ---------------------------------------------------------------------------


def all_couples(values, tolerance):
    """Row and entries of all couples that agree, by loops."""
    found = set()
    for row, entries in enumerate(values):
        for one in range(len(entries)):
            for other in range(one + 1, len(entries)):
                a, b = float(entries[one]), float(entries[other])
                if min(a, b) > 0 and abs(a - b) <= tolerance * max(a, b):
                    found.add((row, one, other))
    return found


def drawn_couples(couples):
    """The couples drawn, the smaller entry first."""
    pairs = zip(couples.row.tolist(), couples.entry.tolist(), strict=True)
    return [(row, min(entry[:2]), max(entry[:2])) for row, entry in pairs]


# -- drawing -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(-1, 8), min_size=5, max_size=5), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.15, 0.3]),
    st.integers(1, 30),
)
def test_couples_are_drawn_from_all_that_agree(rows, tolerance, at_most):
    """Every couple drawn agrees, none twice, all are counted, and the third entry does not agree."""
    values = np.array(rows, dtype=float)
    wanted = all_couples(values, tolerance)

    couples = draw_couples(values, tolerance, at_most, seed=0)
    found = drawn_couples(couples)

    assert couples.total == len(wanted)
    assert set(found) <= wanted
    assert len(found) == len(set(found)) == min(at_most, len(wanted))
    for row, (first, _, third) in zip(couples.row, couples.entry, strict=True):
        one, known = values[row][first], [value for value in values[row] if value > 0]
        others = [other for other in known if abs(one - other) > tolerance * max(one, other)]
        assert (third >= 0) == bool(others)
        assert third < 0 or values[row][third] in others


def test_each_couple_is_as_likely():
    """Over many seeds three couples in two rows are drawn about equally often, either end first."""
    values = np.array([[1.0, 2.0, 1.0, 1.0], [5.0, 6.0, 7.0, 8.0]])
    counts, larger_first = {}, 0
    for seed in range(300):
        couples = draw_couples(values, 1e-3, 1, seed)
        (couple,) = drawn_couples(couples)
        counts[couple] = counts.get(couple, 0) + 1
        larger_first += couples.entry[0, 0] > couples.entry[0, 1]

    assert set(counts) == {(0, 0, 2), (0, 0, 3), (0, 2, 3)}
    assert min(counts.values()) > 70
    assert 110 < larger_first < 190


def test_equal_values_everywhere_are_counted_and_few_are_kept():
    """Where all values are equal their couples are counted, few are kept, and there is no third."""
    couples = draw_couples(np.full((3, 500), 0.5), 1e-3, 20, seed=0)

    assert couples.total == 3 * 500 * 499 // 2
    assert couples.entry.shape == (20, 3)
    assert (couples.entry[:, 2] == -1).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (4, 1)])
def test_empty_tables_have_no_couples(shape):
    """No image, no channel, or one entry a row give nothing."""
    couples = draw_couples(np.ones(shape), 1e-3, 5, seed=0)

    assert (couples.total, len(couples.row), couples.entry.shape) == (0, 0, (0, 3))


# -- planted truth -----------------------------------------------------------------------------


class Pooled(nn.Module):
    """A network whose layer ``features`` is its input."""

    def __init__(self, channels):
        super().__init__()
        self.features = nn.Identity()
        self.classifier = nn.Linear(channels, 2)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.arange(2.0 * channels).view(2, channels) / 10)
            self.classifier.bias.zero_()

    def forward(self, maps):
        """Return logits (image, class)."""
        return self.classifier(self.features(maps).mean((2, 3)))


def scene_of(maps):
    """A scene whose layer ``features`` has these maps."""
    base = replace(make_scene(images=len(maps)), images=maps, masks=None)
    info = replace(next(iter(base.survey.layers.values())), name="features", shape=tuple(maps.shape[1:]))
    scene = base.with_network(Pooled(maps.shape[1]).eval())
    return replace(
        scene, survey=replace(scene.survey, layers={"features": info}, mask_classes=(), images=len(maps))
    )


def concluded(maps, groups=None, **settings_):
    """Conclude over maps as the host does."""
    scene = scene_of(maps)
    (probe,) = SameGap(**settings_).split(scene.survey)
    run = replace(run_in_memory([], scene, controls=0), groups=groups)
    conclusion = run.concluded(probe)
    (finding,) = conclusion.findings
    return run, conclusion.summary, finding


def shapes(level, images=12, seed=0):
    """Maps whose pooled value says which of several shapes they show, exactly, plus noise of mean 0.

    Channels 0 to 11: shape c % 4, mean 0.1 * (c % 4 + 1).
    """
    generator = torch.Generator().manual_seed(seed)
    maps = torch.zeros(images, 12, 8, 8)
    for channel in range(12):
        kind = channel % 4
        maps[:, channel, 4 * (kind // 2) : 4 * (kind // 2) + 4, 4 * (kind % 2) : 4 * (kind % 2) + 4] = 1
    maps += level * torch.rand(maps.shape, generator=generator)
    means = 0.1 * (torch.arange(12) % 4 + 1.0).view(1, 12, 1, 1)
    return maps * (means / maps.mean((2, 3), keepdim=True))


def test_a_pooled_value_that_tells_the_shape_is_seen():
    """Where the pooled value fixes the shape, couples that agree are alike and others are not."""
    _, summary, finding = concluded(shapes(0.3))

    assert summary["total"].values[0] == 12 * 4 * 3
    assert summary["same"].values[0, 1] > 0.95
    assert summary["different"].values[0, 1] < 0.05
    assert summary["low"].values[0, 1] > 0.8
    assert "two channels (100 couples)" in finding.statement
    assert "more alike than maps whose values differ" in finding.statement
    assert finding.verdict == "notice"
    assert finding.effect > 0.9


def test_noise_hides_the_shapes():
    """The difference falls with noise; at 60 times the signal it is about nothing."""
    effects = [concluded(shapes(level))[2].effect for level in (0.3, 2.0, 60.0)]

    assert effects[0] > effects[1] > 0.1
    assert abs(effects[2]) < 0.1


def test_pooled_values_that_say_nothing_are_no_news():
    """Of 20 layers of noise with drawn pooled values at most four seem more alike than different ones."""
    found = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(14, 10, 6, 6, generator=generator)
        maps = (
            maps
            / maps.mean((2, 3), keepdim=True)
            * (1 + torch.randint(0, 3, (14, 10, 1, 1), generator=generator))
        )
        _, summary, _ = concluded(maps)
        found += bool(summary["low"].values[0, 1] > 0)

    assert found <= 4  # the interval is two-sided at 95 %, and a little narrow with 14 images


def test_numbers_of_a_couple_are_those_of_its_maps():
    """Pooled value, maximum, correlation and ratio of maxima are those of the maps named."""
    maps = shapes(1.0)
    maps *= (1 + torch.arange(12.0) % 2).view(12, 1, 1, 1)  # so that images differ as well
    _, summary, _ = concluded(maps)
    values = maps.numpy().astype(float)

    for kind in (0, 1):
        for couple in range(5):
            one = summary.isel({"kind": kind, "couple": couple})
            places = list(zip(one["image_position"].values, one["channel_position"].values, strict=True))
            named = [values[place] for place in places]
            ends = [place[1 - kind] for place in places]
            tops = [float(m.max()) for m in named]
            assert places[0][kind] == places[1][kind] == places[2][kind]
            assert len(set(ends)) == 3
            assert one["maximum"].values == pytest.approx(tops)
            assert one["pooled"].values == pytest.approx([float(m.mean()) for m in named])
            for position, other in enumerate(named[1:]):
                wanted = np.corrcoef(named[0].ravel(), other.ravel())[0, 1]
                assert one["value"].values[0, position] == pytest.approx(wanted)
                ratio = min(tops[0], tops[1 + position]) / max(tops[0], tops[1 + position])
                assert one["value"].values[2, position] == pytest.approx(ratio)


def test_means_are_over_couples_with_both_comparisons():
    """Same, different and their difference are of the same couples."""
    _, summary, _ = concluded(shapes(1.0), couples=30)

    values = summary["value"].values[0, :, 1]
    kept = [pair for pair in values.tolist() if not any(map(math.isnan, pair))]
    same, different = (sum(pair[i] for pair in kept) / len(kept) for i in (0, 1))

    assert summary["same"].values[0, 1] == pytest.approx(same)
    assert summary["different"].values[0, 1] == pytest.approx(different)
    assert summary["difference"].values[0, 1] == pytest.approx(same - different)
    assert summary["couples"].values[0] == len(kept) == 30


def test_few_groups_and_few_images_are_told():
    """Only so many images are looked at, groups are resampled, and too few are marked."""
    groups = np.array(["a", "b", "c"] * 4, dtype=object)
    _, summary, finding = concluded(shapes(0.5), groups=groups, images=9)

    assert summary.attrs["shown"] == finding.n == 9
    assert len(set(summary["image_position"].values[0].ravel().tolist()) - {-1}) <= 9
    assert summary["groups"].values[0] == 3
    assert "unreliable: fewer than 10 groups" in finding.statement
    assert "independent" not in finding.statement


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, -1.0, 2.0], ids=["dead", "negative", "all alike"])
def test_a_layer_of_constants_says_nothing(fill):
    """Dead, negative and equal maps leave nothing to compare, and the report says so."""
    run, summary, finding = concluded(torch.full((5, 4, 6, 3), fill))
    (probe,) = SameGap().split(run.survey)
    (section,) = check_sections(probe.sections(summary, run), probe.name)

    assert finding.verdict == "notice"
    assert "nothing can be said" in finding.statement
    assert "No two maps that vary" in section.blocks[0].markdown


def test_a_single_channel_has_couples_of_images_only():
    """With one channel the only couples are two images."""
    maps = shapes(0.5)[:, :1]
    maps = torch.cat([maps, 2 * maps + 0.01 * torch.arange(12.0).view(12, 1, 1, 1)])
    _, summary, finding = concluded(maps)

    assert summary["total"].values.tolist() == [0, 66]
    assert "two images" in finding.statement
    assert "two channels" not in finding.statement


def test_images_with_nan_are_not_looked_at():
    """An image with NaN in its pooled values is not chosen."""
    maps = shapes(0.5)
    maps[3, 0, 0, 0] = math.nan
    scene = scene_of(torch.nan_to_num(maps)).unreadable([3])
    (probe,) = SameGap().split(scene.survey)

    summary = run_in_memory([], scene, controls=0).concluded(probe).summary

    assert 3 not in summary["image_position"].values
    assert summary.attrs["shown"] == 11


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"tolerance": 1.0}, "tolerance is no relative difference; found: 1.0"),
        ({"tolerance": math.nan}, "tolerance is no relative difference; found: nan"),
        ({"images": 0}, "same-gap needs a number of images; found: 0"),
        ({"couples": 0}, "same-gap needs a number of couples; found: 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings_, message):
    """A wrong setting is one line that says what was found."""
    with pytest.raises(UsageError, match=message):
        SameGap(**settings_)


# -- conformance -------------------------------------------------------------------------------


def test_sections_show_couples_and_their_distribution():
    """Four columns of two maps with G and Max, a table, and a histogram for each kind."""
    scene = make_scene(images=12)
    (probe,) = SameGap(tolerance=0.15).split(scene.survey)
    run = run_in_memory([], scene, controls=0)
    summary = run.concluded(probe).summary

    maps, chance = check_sections(probe.sections(summary, run), probe.name)

    (gallery,) = maps.blocks
    assert [len(pictures) for _, pictures in gallery.rows] == [4, 4]
    assert all("G " in p.label and "Max " in p.label for _, pictures in gallery.rows for p in pictures)
    assert len(chance.blocks) == 3
    assert chance.blocks[0].frame["couples"].max() == 12


class TestSameGap(ProbeSuite):
    """The probe conforms to the contract."""

    probe = SameGap(tolerance=0.1)


class TestSameGapOfDeadChannels(ProbeSuite):
    """A dead channel and negative maps change nothing of the contract."""

    probe = SameGap(layers="all", tolerance=0.05, couples=10)

    def scene(self):
        """A network with a dead channel."""
        return make_scene(dead_channel())
