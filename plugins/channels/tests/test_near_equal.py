"""Near-equal pairs are all found, compared as the formula says, and judged beside random pairs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from torch import nn
from wsss_probe_channels.pairs.near_equal import (
    agreement,
    choose_pairs,
    known_classes,
    near_equal_pairs,
    random_pairs,
)
from wsss_probe_channels.pairs.near_equal_conclusion import exchange_p
from wsss_probe_channels.pairs.near_equal_probe import NearEqual, head_weights

from wsss_probe import Head
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.statistics import nanmean
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import dead_channel, flat_head, one_channel

# -- slow references ---------------------------------------------------------------------------


def all_pairs(weights, tolerance):
    """List (difference, first, second) of all pairs within a tolerance, closest first."""
    found = []
    for first in range(len(weights)):
        for second in range(first + 1, len(weights)):
            difference = abs(float(weights[first]) - float(weights[second]))
            if difference <= tolerance:
                found.append((difference, first, second))
    return sorted(found)


def slow_agreement(one, other):
    """F1, F1 under independence, empty, correlation of two maps, cell by cell."""
    flat_one, flat_other = [float(v) for v in one.ravel()], [float(v) for v in other.ravel()]
    if any(math.isnan(v) for v in (*flat_one, *flat_other)):
        return [math.nan] * 4
    if len(set(flat_one)) == 1 or len(set(flat_other)) == 1:
        return [math.nan, math.nan, 1.0, math.nan]
    at_one, at_other = threshold_otsu(one), threshold_otsu(other)
    both = size_one = size_other = 0
    for a, b in zip(flat_one, flat_other, strict=True):
        size_one += a > at_one
        size_other += b > at_other
        both += (a > at_one) and (b > at_other)
    n = len(flat_one)
    p, q = size_one / n, size_other / n
    mean_one, mean_other = sum(flat_one) / n, sum(flat_other) / n
    cross = sum((a - mean_one) * (b - mean_other) for a, b in zip(flat_one, flat_other, strict=True))
    spread = math.sqrt(sum((a - mean_one) ** 2 for a in flat_one))
    spread *= math.sqrt(sum((b - mean_other) ** 2 for b in flat_other))
    return [2 * both / (size_one + size_other), 2 * p * q / (p + q), 0.0, cross / spread]


# -- pairs -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-12, 12), max_size=14),
    st.sampled_from([0.0, 0.1, 0.30000000000000004, 0.7]),
    st.integers(1, 8),
)
def test_pairs_are_those_of_all_comparisons(numbers, tolerance, at_most):
    """No pair within the tolerance is missed, none is beyond it, and the closest are kept."""
    weights = np.array(numbers, dtype=float) * 0.1
    wanted = all_pairs(weights, tolerance)

    found = near_equal_pairs(weights, tolerance, at_most)

    assert found.within == len(wanted)
    reference = wanted or all_pairs(weights, math.inf)
    kept = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert found.difference.tolist() == [pair[0] for pair in reference[:at_most]]
    assert len(set(kept)) == len(kept) == min(at_most, len(reference))
    assert all(a < b for a, b in kept)
    distances = [abs(float(weights[a]) - float(weights[b])) for a, b in kept]
    assert distances == found.difference.tolist()


def test_planted_duplicates_are_found():
    """Pairs planted among a thousand other weights are found, and nothing else."""
    weights = np.random.default_rng(0).permutation(1000) * 1e-3
    weights[[10, 700]] = 5.00001, 5.000015
    weights[[20, 30]] = -7.0

    pairs = near_equal_pairs(weights)

    assert pairs.within == 2
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(20, 30), (10, 700)]


def test_equal_weights_everywhere_are_counted_without_a_table_of_pairs():
    """Two million equal pairs give their number and pairs of different channels."""
    pairs = near_equal_pairs(np.full(2048, 0.25))

    assert pairs.within == 2048 * 2047 // 2
    assert pairs.first.tolist() == list(range(12))
    assert pairs.second.tolist() == list(range(1, 13))


def test_the_tolerance_itself_is_near_and_unknown_weights_are_not():
    """A difference of exactly the tolerance counts; NaN and infinity are in no pair."""
    weights = np.array([0.0, 0.5, math.nan, math.inf, 0.0, -math.inf])

    pairs = near_equal_pairs(weights, tolerance=0.5)

    assert pairs.within == 3
    assert {0, 1, 4} == {*pairs.first.tolist(), *pairs.second.tolist()}


@pytest.mark.parametrize("weights", [[], [0.1], [math.nan, 0.1]])
def test_one_channel_has_no_pair(weights):
    """Less than two known weights make no pair of either kind."""
    pairs = near_equal_pairs(np.array(weights))

    assert (pairs.within, len(pairs.first)) == (0, 0)
    assert random_pairs(np.array(weights), 3, 0.0, seed=0).shape == (0, 2)


def test_a_table_of_weights_is_refused():
    """Weights of several classes at once are an error in one line."""
    with pytest.raises(ValueError, match=r"dimension \(channel,\), got the shape \(2, 3\)"):
        near_equal_pairs(np.zeros((2, 3)))


def test_random_pairs_differ_in_weight_and_from_each_other():
    """No random pair is near-equal, none occurs twice, and another seed draws others."""
    weights = np.repeat(np.arange(8) * 0.1, 2)

    drawn = random_pairs(weights, 30, 1e-5, seed=1)

    assert len({tuple(pair) for pair in drawn.tolist()}) == 30
    assert (np.abs(weights[drawn[:, 0]] - weights[drawn[:, 1]]) > 1e-5).all()
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert drawn.tolist() == random_pairs(weights, 30, 1e-5, seed=1).tolist()
    assert drawn.tolist() != random_pairs(weights, 30, 1e-5, seed=2).tolist()


def test_both_kinds_have_as_many_pairs_and_the_first_four_classes_get_them():
    """Random pairs are as many as near-equal ones and further apart than the furthest of these."""
    weights = np.random.default_rng(3).normal(size=(6, 40))
    weights[1] = math.nan

    choice = choose_pairs(weights[known_classes(weights)], 1e-9, 5, seed=0)

    assert known_classes(weights).tolist() == [0, 2, 3, 4]
    assert known_classes(weights[:3]).tolist() == [0, 1, 2]
    assert choice.channels.shape == (4, 2, 5, 2)
    assert choice.within.tolist() == [0] * 4
    for row, (near, random) in zip(weights[[0, 2, 3, 4]], choice.channels, strict=True):
        closest, drawn = (np.abs(row[pairs[:, 0]] - row[pairs[:, 1]]) for pairs in (near, random))
        assert closest.max() < drawn.min()


# -- maps --------------------------------------------------------------------------------------


def test_agreement_follows_the_formulas():
    """F1, independence, emptiness and correlation equal loops over cells, on maps that are not square."""
    maps = torch.randn(3, 5, 6, 9, generator=torch.Generator().manual_seed(0)).relu()
    maps[0, 1] = 0
    maps[1, 2] = 3.7
    maps[2, 3, 1, 1] = math.nan
    pairs = np.array(list(itertools.combinations(range(5), 2)))

    seen = agreement(maps, pairs[:, 0], pairs[:, 1])

    parts = [part.numpy() for part in (seen.f1, seen.expected, seen.empty, seen.correlation)]
    found = np.stack(parts, axis=-1)
    wanted = [[slow_agreement(*one[pair].numpy()) for pair in pairs] for one in maps]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_independent_maps_reach_what_independence_predicts():
    """The mean F1 of unrelated noise is 2pq / (p + q), which is not 0; its correlation is 0."""
    maps = torch.rand(60, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    maps[:, 0] = maps[:, 0] ** 3

    seen = agreement(maps, np.array([0]), np.array([1]))

    assert seen.expected.mean() > 0.3
    assert abs(float((seen.f1 - seen.expected).mean())) < 0.01
    assert abs(float(seen.correlation.mean())) < 0.01


def test_a_map_agrees_with_itself_and_pieces_of_a_batch_with_the_whole(monkeypatch):
    """F1 and correlation of a map with itself are 1; comparing image by image changes nothing."""
    maps = torch.rand(7, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    ends = np.array([0, 1, 2]), np.array([0, 2, 1])
    whole = agreement(maps, *ends)
    monkeypatch.setattr("wsss_probe_channels.pairs.near_equal._CELLS", 1)

    assert whole.f1[:, 0].tolist() == [1.0] * 7
    np.testing.assert_allclose(whole.correlation[:, 0], 1)
    assert torch.equal(agreement(maps, *ends).correlation, whole.correlation)


def test_half_precision_is_compared_in_single():
    """Half-precision maps give the numbers of the same values in single precision."""
    maps = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    ends = np.array([0]), np.array([1])

    assert torch.equal(agreement(maps, *ends).f1, agreement(maps.float(), *ends).f1)


# -- planted truth -----------------------------------------------------------------------------


class Pooled(nn.Module):
    """A network that averages its input's channels and weighs the means."""

    def __init__(self, weights):
        super().__init__()
        self.features = nn.Identity()
        self.classifier = nn.Linear(weights.shape[1], weights.shape[0])
        with torch.no_grad():
            self.classifier.weight.copy_(torch.as_tensor(weights))
            self.classifier.bias.zero_()

    def forward(self, maps):
        """Return logits (image, class)."""
        return self.classifier(self.features(maps).mean((2, 3)))


def scene_of(maps, weights, classes=None):
    """A scene whose layer ``features`` has these maps and whose head has these weights."""
    weights = np.atleast_2d(np.asarray(weights, dtype=np.float32))
    net = Pooled(weights).eval()
    base = replace(make_scene(images=len(maps)), images=maps, masks=None)
    scene = base.with_network(net)
    names = tuple(classes or (f"class {c}" for c in range(len(weights))))
    layers = {"features": replace(next(iter(scene.survey.layers.values())), name="features")}
    layers = {"features": replace(layers["features"], shape=tuple(maps.shape[1:]))}
    survey = replace(scene.survey, layers=layers, classes=names, mask_classes=(), images=len(maps))
    labels = torch.zeros(len(maps), len(weights), dtype=torch.bool)
    return replace(scene, survey=survey, labels=labels)


def concluded(scene, controls=3, groups=None, **settings_):
    """Survey, conclude and make sections as the host does."""
    (probe,) = NearEqual(**settings_).split(scene.survey)
    run = replace(run_in_memory([probe], scene, controls=controls), groups=groups)
    conclusion = run.concluded(probe)
    return run, conclusion.summary, conclusion.findings


def twins(level, images=16, pairs=8, others=12, seed=0):
    """Maps and weights: pairs of near-equal weight that show one blob each, noise, and distractors.

    Distractors are alike among themselves but differ in weight.
    """
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.zeros(images, pairs + 1, 12, 12)
    corners = torch.randint(0, 8, (images, pairs + 1, 2), generator=generator)
    for image, blob in itertools.product(range(images), range(pairs + 1)):
        row, column = corners[image, blob].tolist()
        blobs[image, blob, row : row + 4, column : column + 4] = 1
    own = blobs[:, :pairs].repeat_interleave(2, dim=1)
    shared = blobs[:, pairs:].expand(-1, others // 2, -1, -1)
    nothing = torch.zeros(images, others - others // 2, 12, 12)
    maps = torch.cat([own, shared, nothing], dim=1)
    maps = (maps + level * torch.randn(maps.shape, generator=generator)).relu()
    weights = np.random.default_rng(seed).permutation(2 * pairs + others) * 0.02 - 0.3
    weights[1 : 2 * pairs : 2] = weights[0 : 2 * pairs : 2] + 3e-6
    return maps, weights


def test_planted_twins_are_found():
    """Channels of near-equal weight that show the same are more alike than random pairs and controls."""
    _, summary, (finding,) = concluded(scene_of(*twins(0.2)), pairs=8)

    assert finding.verdict == "ok"
    assert finding.name == "near-equal/class 0@features"
    assert summary["within"].item() == 8
    assert summary["mean_f1"].values[0, 0].min() > 0.6
    assert summary["mean_f1"].values[0, 1].mean() < 0.5
    assert "more alike than random ones" in finding.statement
    assert "in 3 living controls" in finding.statement


def test_noise_hides_the_twins():
    """The difference shrinks with noise, and at ten times the signal there is no verdict."""
    effects = []
    for level in (0.2, 1.0, 10.0):
        _, _, (finding,) = concluded(scene_of(*twins(level)), pairs=8)
        effects.append(finding.effect)

    assert effects[0] > 0.3 > effects[1] > 0.02
    assert abs(effects[2]) < 0.02
    assert finding.verdict == "notice"
    assert "do not tell of alike maps here" in finding.statement


def test_nothing_is_said_against_an_untestable_classifier_and_without_controls():
    """Planted twins are no ``ok`` without a control or with a classifier that learned nothing."""
    scene = scene_of(*twins(0.2))
    (probe,) = NearEqual(pairs=8).split(scene.survey)
    run = run_in_memory([probe], scene, controls=3)
    (untested,) = replace(run, not_testable="AUC too low").concluded(probe).findings
    _, _, (alone,) = concluded(scene, controls=0, pairs=8)

    assert untested.verdict == alone.verdict == "notice"
    assert "not testable here: AUC too low" in untested.statement
    assert "no living control, no verdict" in alone.statement


def test_a_control_that_does_as_well_takes_the_verdict_away():
    """Where the controls' near-equal pairs are as alike, nothing was learned; dead controls do not count."""
    scene = scene_of(*twins(0.2))
    (probe,) = NearEqual(pairs=8).split(scene.survey)
    run = run_in_memory([probe], scene, controls=1)
    (control,) = run.controls
    same = replace(control, run=replace(run, controls=()))
    dead = replace(same, dead=frozenset({"features"}))

    (beaten,) = replace(run, controls=(control, same)).concluded(probe).findings
    (fine,) = replace(run, controls=(control, dead)).concluded(probe).findings

    assert (beaten.verdict, fine.verdict) == ("notice", "ok")
    assert "in 1 living control" in fine.statement


def test_p_is_calibrated_where_weights_say_nothing():
    """Of 100 networks whose weights are unrelated to their maps, at most 11 have p of .05 or less."""
    rejected = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(4, 4, 6, 6, generator=generator).repeat(1, 10, 1, 1)
        maps = (shared + torch.randn(4, 40, 6, 6, generator=generator)).relu()
        weights = np.random.default_rng(seed).normal(size=(1, 40))
        pairs = choose_pairs(weights, 1e-5, 10, seed).channels.reshape(-1, 2)
        means = nanmean(agreement(maps, pairs[:, 0], pairs[:, 1]).f1.numpy()).reshape(2, -1)
        rejected += exchange_p(*means, seed=seed) <= 0.05

    assert rejected <= 11


def test_a_difference_of_a_few_pairs_is_not_generalised():
    """An interval without 0 over images says nothing where two pairs differ as much among themselves."""
    maps, weights = twins(0.2)
    maps[:, 2] = torch.rand(maps[:, 2].shape, generator=torch.Generator().manual_seed(3))

    _, _, (finding,) = concluded(scene_of(maps, weights), pairs=2)

    assert finding.interval[0] > 0
    assert finding.verdict == "notice"
    assert "no more than pairs do among themselves" in finding.statement


def test_p_needs_two_pairs_and_counts_both_sides():
    """One pair of a kind gives no p; a difference of either sign is one."""
    low, high = np.array([0.1, 0.2, 0.1, 0.2, math.nan]), np.array([0.8, 0.9, 0.8, 0.9, 0.85])

    assert math.isnan(exchange_p(low[:1], high))
    assert exchange_p(low, high) < 0.05
    assert exchange_p(high, low) < 0.05
    assert exchange_p(high, high) > 0.9


# -- the summary -------------------------------------------------------------------------------


def test_the_papers_convention_is_a_column_of_its_own():
    """An empty mask has no F1 and is counted; with the paper's convention it is 0 in the mean."""
    maps, weights = twins(0.1, images=12)
    maps[:9, 0] = 0  # channel 0 is one of a pair
    _, summary, _ = concluded(scene_of(maps, weights), pairs=8)

    (pair,) = np.flatnonzero(summary["first"].values[0, 0] == 0)
    one = summary.isel({"class": 0, "kind": 0, "pair": pair})
    assert one["empty"].item() == pytest.approx(0.75)
    assert one["defined"].item() == 3
    assert one["mean_f1"].item() > 0.6
    assert one["mean_f1_empty_is_0"].item() == pytest.approx(one["mean_f1"].item() / 4)
    assert one["weight_difference"].item() == pytest.approx(3e-6, rel=0.2)
    assert one["weight"].item() == pytest.approx(weights[:2].mean(), abs=1e-6)


def test_means_follow_the_rows():
    """Means over pairs, then images, and what is left over independence, from the rows by loops."""
    run, summary, _ = concluded(scene_of(*twins(1.0)), pairs=3)
    rows = run.rows("near-equal@features")

    per_image = []
    for f1, expected in zip(rows["f1"].values[:, 0], rows["expected"].values[:, 0], strict=True):
        near, random = (sum(map(float, f1[kind])) / 3 for kind in (0, 1))
        above = [
            sum(float(a) - float(b) for a, b in zip(f1[k], expected[k], strict=True)) / 3 for k in (0, 1)
        ]
        per_image.append([near, random, near - random, *above, above[0] - above[1]])
    wanted = [sum(column) / len(column) for column in zip(*per_image, strict=True)]

    np.testing.assert_allclose(summary["value"].values[0], wanted, atol=1e-6)
    assert (summary["value_low"].values <= summary["value"].values).all()
    assert (summary["value"].values <= summary["value_high"].values).all()
    assert summary["n"].item() == 16


def test_few_groups_are_marked():
    """Fewer than ten groups make the interval unreliable, in the finding as well."""
    groups = np.array(["a", "b", "c", "d"] * 4, dtype=object)
    _, summary, (finding,) = concluded(scene_of(*twins(0.2)), groups=groups, pairs=8)

    assert summary["note"].item() == "unreliable: fewer than 10 groups"
    assert finding.groups == 4
    assert "unreliable: fewer than 10 groups" in finding.statement


def test_a_head_that_is_not_linear_takes_effective_weights():
    """Without a linear head the table of effective weights is asked for, used and named."""
    maps, _ = twins(0.5, images=6)
    scene = scene_of(maps, np.ones((2, 28)))
    scene = replace(scene, survey=replace(scene.survey, head=Head(linear=False, reason="two layers")))
    (probe,) = NearEqual(pairs=2, tolerance=2e-6).split(scene.survey)
    values = np.random.default_rng(0).normal(size=(2, 28))
    values[:, 2] = values[0, 0] + 1e-6, values[1, 1] + 1e-6
    weights = xr.Dataset({"weight": (("class", "channel"), values)})
    name = f"head-weights@{probe.layer}"

    run = run_in_memory([probe], scene, summaries={name: weights})
    conclusion = run.concluded(probe)

    assert probe.needs(scene.survey).tables == {name}
    assert conclusion.summary["first"].values[:, 0, 0].tolist() == [0, 1]
    assert conclusion.summary["second"].values[:, 0, 0].tolist() == [2, 2]
    assert conclusion.summary.attrs["weights"] == "effective"
    assert "effective weights" in conclusion.findings[0].statement


def test_a_linear_head_needs_no_table():
    """Where the head is proved linear the probe streams with the survey."""
    scene = make_scene()
    (probe,) = NearEqual().split(scene.survey)

    assert probe.layer == scene.survey.head.layer
    assert probe.needs(scene.survey).tables == frozenset()
    assert head_weights(Head(linear=True, layer="other", weight=np.ones((1, 2))), probe.layer) is None


# -- bad input ---------------------------------------------------------------------------------


def test_a_single_channel_is_a_notice():
    """With one channel there is no pair, and the report says so."""
    maps = torch.rand(6, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    run, summary, (finding,) = concluded(scene_of(maps, [[0.3]]))
    (probe,) = NearEqual().split(run.survey)
    (section,) = check_sections(probe.sections(summary, run), probe.name)

    assert finding.verdict == "notice"
    assert "no two channels" in finding.statement
    assert "No two channels" in section.blocks[0].markdown


def test_a_dead_layer_is_not_estimable():
    """Where all maps are constant no F1 exists, and every comparison is counted as empty."""
    maps = torch.ones(6, 5, 4, 4) * torch.arange(1.0, 7).view(6, 1, 1, 1)
    _, summary, (finding,) = concluded(scene_of(maps, [np.arange(5) * 0.1]), pairs=2)

    assert finding.verdict == "notice"
    assert "not estimable" in finding.statement
    assert "not constant" in finding.statement
    assert summary["empty"].values[0].tolist() == [[1.0, 1.0]] * 2


def test_equal_weights_everywhere_leave_no_random_pair():
    """Where all weights are equal all pairs are within, and nothing is there to compare them with."""
    maps = torch.rand(6, 20, 4, 4, generator=torch.Generator().manual_seed(0))
    _, summary, (finding,) = concluded(scene_of(maps, [np.full(20, 0.25)]))

    assert summary["within"].item() == 190
    assert "no random pair differs in weight" in finding.statement


def test_nan_in_one_image_spoils_no_other():
    """NaN in a map gives NaN for that image and pair only."""
    maps, weights = twins(0.5, images=6)
    scene = scene_of(maps, weights)
    (probe,) = NearEqual(pairs=8).split(scene.survey)
    batch = scene.batch(probe.needs(scene.survey))
    batch.activations["features"][2, 0, 0, 0] = math.nan

    rows = probe.observe(batch).rows
    whole = probe.observe(scene.batch(probe.needs(scene.survey))).rows

    chosen = choose_pairs(scene.survey.head.weight, 1e-5, 8, 0).channels
    (near,) = np.flatnonzero(chosen[0, 0, :, 0] == 0)
    for name in ("f1", "expected", "empty", "correlation"):
        assert np.isnan(rows[name].values[2, 0, 0, near])
        np.testing.assert_array_equal(np.delete(rows[name], 2, 0), np.delete(whole[name], 2, 0))


def test_of_five_independent_classes_four_get_pairs():
    """Classes decided one by one have findings of their own, corrected for their number."""
    maps, _ = twins(0.5, images=6)
    weights = np.random.default_rng(0).normal(size=(5, maps.shape[1]))
    scene = scene_of(maps, weights)
    scene = replace(scene, survey=replace(scene.survey, multilabel=True))
    _, summary, findings = concluded(scene, controls=1)

    assert len(findings) == 4
    assert len({finding.name for finding in findings}) == 4
    assert summary["class"].values.tolist() == [f"class {c}" for c in range(4)]
    assert (summary["q"].values >= summary["p"].values).all()


def test_grey_images_are_images():
    """A network for images of one channel has pairs like any other."""
    base = make_scene()
    grey = replace(base, images=base.images[:, :1], masks=None).with_network(one_channel())
    layers = {"features": replace(base.survey.layers["features"], shape=(4, 16, 24))}
    survey = replace(grey.survey, layers=layers, input_shape=(1, 16, 24), mask_classes=())

    run, summary, _ = concluded(replace(grey, survey=survey), controls=1, pairs=2)
    (probe,) = NearEqual(pairs=2).split(run.survey)

    assert np.isfinite(summary["empty"].values).all()
    assert check_sections(probe.sections(summary, run), probe.name)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"tolerance": -1.0}, "tolerance is no difference of weights; found: -1.0"),
        ({"tolerance": math.nan}, "tolerance is no difference of weights; found: nan"),
        ({"pairs": 0}, "near-equal needs a number of pairs; found: 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings_, message):
    """A wrong setting is one line that says what was found."""
    with pytest.raises(UsageError, match=message):
        NearEqual(**settings_)


# -- conformance -------------------------------------------------------------------------------


class TestNearEqual(ProbeSuite):
    """The probe conforms to the contract with a linear head."""

    probe = NearEqual(tolerance=0.05, pairs=3)


class TestNearEqualWithEffectiveWeights(ProbeSuite):
    """The probe conforms to the contract in a second pass."""

    probe = NearEqual(layers="features.2", pairs=3)
    tables = {  # noqa: RUF012
        "head-weights@features.2": xr.Dataset({"weight": (("class", "channel"), [[0.1, 0.5, 0.100001, 0.9]])})
    }

    def scene(self):
        """A network whose head flattens its maps."""
        return make_scene(flat_head(), size=(8, 8))


class TestNearEqualOfDeadChannels(ProbeSuite):
    """A dead channel and three classes change nothing of the contract."""

    probe = NearEqual(tolerance=1.0)

    def scene(self):
        """A network with a dead channel."""
        return make_scene(dead_channel())
