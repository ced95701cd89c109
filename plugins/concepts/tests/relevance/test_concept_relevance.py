"""Relevance of concepts: intervals against loops, planted truth, calibration, controls, bad input."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import false_discovery_control, kstest
from torch import nn
from wsss_probe_concepts.regression import make_folds, permuted_concepts, regress
from wsss_probe_concepts.relevance.bounds import relevance_bounds, share_bounds
from wsss_probe_concepts.relevance.evidence import Evidence
from wsss_probe_concepts.relevance.fits import directions_of, permuted_directions
from wsss_probe_concepts.relevance.gradients import ConceptGradients, gradient_targets
from wsss_probe_concepts.relevance.joint import relevant
from wsss_probe_concepts.relevance.layer import Nulls, Regressed, layer_table
from wsss_probe_concepts.relevance.probe import ConceptRelevance
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe import Contrast
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

TABLES = {
    f"{probe}@{name}": xr.Dataset() for probe in ("rcv", "concept-relevance") for name in ("first", "second")
}


class Small(nn.Module):
    """Two layers and any number of classes."""

    def __init__(self, classes=6):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.out = nn.Linear(4, classes)

    def forward(self, images):
        """Logits."""
        return self.out(self.second(self.first(images).relu()).relu().mean((2, 3)))


# -- references --------------------------------------------------------------------------------


def slow_br(images, s, sse, ssb, group_of, drawn):
    """Br over drawn groups: R² from their sums of squares, mean and population deviation of their images."""
    own = [i for group in drawn for i in images if group_of[i] == group]
    values = [s[i] for i in own]
    if not values:
        return math.nan
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    r2 = 1 - sum(sse[group] for group in drawn) / sum(ssb[group] for group in drawn)
    return max(r2, 0) * mean / deviation if deviation > 1e-9 else math.nan


def test_the_interval_of_br_resamples_both_factors():
    """Percentiles over resampled groups of R² and of mean over deviation together, for the class's images."""
    rng = np.random.default_rng(0)
    group_of = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    s, member = rng.normal(0.5, 1, size=(12, 1, 1)), rng.random((12, 1)) < 0.7
    sse, ssb = rng.random((6, 1)), 1 + rng.random((6, 1))
    draws = np.random.default_rng(7).integers(6, size=(40, 6))
    images = np.flatnonzero(member[:, 0])

    found = relevance_bounds(s, member, (sse, ssb), group_of, size=np.ones(1), resamples=40, seed=7)

    wanted = [slow_br(images, s[:, 0, 0], sse[:, 0], ssb[:, 0], group_of, drawn) for drawn in draws]
    kept = [value for value in wanted if not math.isnan(value)]
    assert [found.low.item(), found.high.item()] == pytest.approx(np.quantile(kept, (0.025, 0.975)))
    assert found.groups.tolist() == [len(set(group_of[images]))]


def test_intervals_go_in_blocks_and_need_two_groups(monkeypatch):
    """Blocks of concepts change nothing, and one group says nothing of how far a score would move."""
    rng = np.random.default_rng(1)
    s, member = rng.normal(size=(20, 2, 3)), np.ones((20, 2), bool)
    errors = (rng.random((4, 3)), np.ones((4, 3)))
    groups = np.repeat(np.arange(4), 5)
    how = {"size": np.ones(2), "resamples": 30, "seed": 0}
    whole = relevance_bounds(s, member, errors, groups, **how)
    monkeypatch.setattr("wsss_probe_concepts.relevance.bounds._BLOCK", 1)

    parts = relevance_bounds(s, member, errors, groups, **how)
    one = relevance_bounds(s, member, tuple(e[:1] for e in errors), np.zeros(20), **how)
    shares = share_bounds(s, member, np.zeros(20), resamples=30, seed=0)

    np.testing.assert_allclose(parts.low, whole.low)
    assert np.isnan(one.low).all()
    assert np.isnan(shares.high).all()


# -- directions, and those of permuted concepts ---------------------------------------------------


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
def test_directions_are_those_of_the_regression(model):
    """One factorisation gives what fitting gives, for permuted concepts and for missing values too."""
    rng = np.random.default_rng(0)
    features, concepts = rng.normal(size=(60, 5)), rng.normal(size=(60, 3))
    concepts[:7, 1], concepts[:, 2] = np.nan, 4.0
    groups = np.arange(60) // 3
    folds = make_folds(60, groups)

    found = directions_of(features, concepts, model)
    permuted = np.full((6, 3, 5), np.nan)
    for block in permuted_directions(features, concepts, groups, model, number=6, seed=3):
        permuted[block.first : block.first + len(block.directions), block.concepts] = block.directions

    np.testing.assert_allclose(
        found, regress(features, concepts, folds, (model,))[model].direction, atol=1e-9
    )
    exchanged = permuted_concepts(concepts, groups, 6, 3)
    for number in range(6):
        wanted = regress(features, exchanged[number], folds, (model,))[model].direction
        np.testing.assert_allclose(permuted[number], wanted, atol=1e-9)


def test_permuted_directions_go_in_blocks(monkeypatch):
    """Blocks of permutations bound memory and change no direction."""
    rng = np.random.default_rng(0)
    features, concepts = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    (whole,) = permuted_directions(features, concepts, number=7, seed=0)
    monkeypatch.setattr("wsss_probe_concepts.relevance.fits._BLOCK", 2 * 34 * 3)

    blocks = list(permuted_directions(features, concepts, number=7, seed=0))

    assert [block.first for block in blocks] == [0, 3, 6]
    np.testing.assert_allclose(np.concatenate([b.directions for b in blocks]), whole.directions, atol=1e-12)


# -- planted truth -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(made):
    """One run over planted concepts, concluded."""
    return made.concluded(made.scene())


def test_a_used_concept_is_found_with_its_sign(planted):
    """What the logit follows is relevant, and its opposite with the other sign, for both classes."""
    _, _, conclusion = planted
    table = conclusion.summary.isel(layer=0).set_coords("relevant")

    for name, sign in (("m/used", 1), ("m/turned", -1)):
        cells = table.sel(concept=name)
        assert cells["relevant"].values.all()
        assert np.sign(cells["br"].values).tolist() == [sign, -sign]
        assert np.sign(cells["sensitivity"].values).tolist() == [sign, -sign]
        assert cells["tcav"].values.tolist() == [max(sign, 0), max(-sign, 0)]
    assert [finding.verdict for finding in conclusion.findings] == ["ok", "ok"]
    first = conclusion.findings[0]
    assert first.name == "concept-relevance/class 0"
    assert "rests on m/used at features" in first.statement
    assert first.interval[0] < first.effect < first.interval[1]
    assert "shuffled-0, shuffled-1" in first.control


def test_an_encoded_concept_that_is_not_used_is_not_found(planted):
    """It is encoded as well, and its Br is as large, but its direction is nobody's gradient."""
    table = planted[2].summary.isel(layer=0)
    unused, used = (table.sel(concept=name) for name in ("m/unused", "m/used"))

    assert float(unused["r2_held"]) > 0.8
    assert (np.abs(unused["br"].values) > 0.5 * np.abs(used["br"].values)).all()  # the trap
    assert (unused["p_br"].values < 0.05).all()  # against permuted concepts: it is encoded
    assert (unused["q_br"].values > 0.05).all()  # random directions with its R² have as large a Br
    assert (unused["q"].values > 0.2).all()
    assert not unused["relevant"].values.any()


def test_noise_and_constants_are_not_found(planted):
    """A concept that is nowhere has no relevance, and a constant one a reason."""
    table = planted[2].summary.isel(layer=0)

    assert not table["relevant"].sel(concept=["m/noise", "m/constant"]).values.any()
    assert np.abs(table["br"].sel(concept="m/noise").values).max() < 0.3
    assert set(table["reason"].sel(concept="m/constant").values) == {"constant"}
    assert np.isnan(table["br"].sel(concept="m/constant").values).all()


def test_too_much_noise_hides_a_used_concept(made):
    """Where the concept can no longer be read from the features, nothing is said of its use."""
    _, _, conclusion = made.concluded(made.scene(noise=30.0))

    assert not conclusion.summary["relevant"].values.any()
    assert {finding.verdict for finding in conclusion.findings} == {"notice"}
    assert all("lacking: " in finding.statement for finding in conclusion.findings)


def test_q_is_over_concepts_classes_and_layers(planted):
    """The family is every cell with a p, and p the larger of both nulls'."""
    table = planted[2].summary
    p = table["p"].values
    known = np.isfinite(p)

    np.testing.assert_allclose(table["q"].values[known], false_discovery_control(p[known]))
    np.testing.assert_array_equal(p, np.maximum(table["p_permuted"].values, table["p_random"].values))
    assert np.isnan(table["q"].values[~known]).all()


def test_the_section_shows_scores_beside_their_nulls(planted):
    """Two figures a class, each with a trace of its null and the controls, and one table of everything."""
    run, probe, conclusion = planted

    (section,) = check_sections(probe.sections(conclusion.summary, run), probe.name)

    figures, table = section.blocks[1:-1], section.blocks[-1]
    assert section.question == "concepts"
    assert len(figures) == 4
    names = [[trace.get("name") for trace in figure.figure["data"]] for figure in figures]
    beside = ["audited", "shuffled-0", "shuffled-1"]
    assert names == [[*beside, "random directions, 95 %"], [*beside, "permuted concepts, 95 %"]] * 2
    ticks = figures[0].figure["layout"]["yaxis"]["ticktext"]
    assert ticks[0].startswith(("m/used, q = 0.0", "m/turned, q = 0.0", "m/unused, q = "))
    assert len(table.frame) == 2 * 5
    shares = table.frame["share of largest"].abs().groupby(table.frame["class"]).max()
    assert shares.tolist() == [1.0, 1.0]


# -- nothing where nothing is --------------------------------------------------------------------


def noise_p(seed, groups=None):
    """Give p of noise concepts for gradients that know nothing of them, with features alike within groups."""
    rng = np.random.default_rng(seed)
    member = np.arange(48) if groups is None else np.arange(48) // groups
    features = rng.normal(size=(48, 6))[member] + 0.3 * rng.normal(size=(48, 6))
    concept = rng.normal(size=48)[member] + 0.3 * rng.normal(size=48)
    gradient = rng.normal(size=(1, 1, 6)) + 0.3 * rng.normal(size=(48, 1, 6))
    seen = Evidence(features, gradient, np.ones((48, 1), bool), member)
    zeros = np.zeros((len(np.unique(member)), 1))
    regressed = Regressed(
        concept[:, None], directions_of(features, concept[:, None]), np.zeros(1), (zeros, zeros)
    )
    table = layer_table(seen, regressed, Nulls("ridge", make_folds(48, member), 99, 1, 2, seed))
    return [table[name].item() for name in ("p_permuted", "p")]


@pytest.mark.parametrize("groups", [None, 3], ids=["independent", "grouped"])
def test_p_is_calibrated_on_noise(groups):
    """Of 100 fixed seeds at most 11 give p up to .05, p is uniform, and the larger p rejects no more."""
    permuted, both = np.array([noise_p(seed, groups) for seed in range(100)]).T

    assert 1 <= (permuted <= 0.05).sum() <= 11
    assert kstest(permuted, "uniform").pvalue > 0.01
    assert (both <= 0.05).sum() <= (permuted <= 0.05).sum()


# -- what a verdict needs -------------------------------------------------------------------------


def one_cell(**changes):
    """Table of one layer, class and concept that is relevant, but for what is changed."""
    cell, names = ("layer", "class", "concept"), {"q": 0.01, "br_low": 0.5, "br_high": 1.5}
    numbers = (
        {"r2_low": 0.1, "groups": 10, "control": -0.4, "alive": True, "kind": "control"} | names | changes
    )
    table = {name: (cell, np.full((1, 1, 1), numbers[name])) for name in names}
    return xr.Dataset(
        {
            **table,
            "br": (cell, np.ones((1, 1, 1))),
            "r2_low": (("layer", "concept"), [[numbers["r2_low"]]]),
            "groups": (("layer", "class"), [[numbers["groups"]]]),
            "network_br": (("layer", "network", "class", "concept"), [[[[numbers["control"]]]]]),
            "network_alive": (("layer", "network"), [[numbers["alive"]]]),
            "network_kind": (("layer", "network"), [[numbers["kind"]]]),
        }
    )


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"br_low": -1.5, "br_high": -0.5}, True),
        ({"q": 0.05}, False),
        ({"q": np.nan}, False),
        ({"r2_low": 0.0}, False),
        ({"br_low": -0.1}, False),
        ({"br_low": np.nan, "br_high": np.nan}, False),
        ({"groups": 9}, False),
        ({"control": 0.5}, False),
        ({"control": -0.6}, False),
        ({"control": np.nan}, False),
        ({"alive": False}, False),
        ({"kind": "network"}, False),
    ],
    ids=lambda value: str(value),
)
def test_each_condition_of_a_verdict_counts(changes, wanted):
    """A cell that has everything is relevant, on either side of 0, and loses it with any one condition."""
    assert relevant(one_cell(**changes)).item() is wanted


# -- where a score cannot be -----------------------------------------------------------------------


def test_a_linear_class_has_no_br_and_the_reason_is_said(made):
    """Every image has the same sensitivity: TCAV is 0 or 1, Br undefined, the finding a plain notice."""
    run, probe, conclusion = made.concluded(made.scene(network=made.Planted(linear=True)))
    used = conclusion.summary.isel(layer=0).sel(concept="m/used")

    assert np.isnan(used["br"].values).all()
    assert used["tcav"].values.tolist() == [1.0, 0.0]
    assert (used["q"].values < 0.05).all()
    assert all("the same sensitivity" in text for text in used["reason"].values)
    assert {finding.verdict for finding in conclusion.findings} == {"notice"}
    assert all("linear function of these features" in finding.statement for finding in conclusion.findings)
    (section,) = check_sections(probe.sections(conclusion.summary, run), probe.name)
    assert "undefined" in section.blocks[0].markdown


def test_more_channels_than_images_are_scored_by_ridge(made):
    """Ridge has a direction at any number of channels, so a used concept is found there too."""
    _, _, conclusion = made.concluded(made.scene(images=80, network=made.Planted(channels=100)), groups=4)
    used = conclusion.summary.isel(layer=0).sel(concept="m/used")

    assert conclusion.summary.attrs["images"] == 80
    assert np.isfinite(used["br"].values).all()
    assert np.sign(used["sensitivity"].values).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"controls": 0}, "no living control network"),
        ({"groups": 30}, "fewer than 10 groups"),
        ({"not_testable": "AUC is 0.5"}, "not testable here: AUC is 0.5"),
        ({"groups": 0}, "images treated as independent"),
    ],
    ids=["no control", "four groups", "not testable", "no groups"],
)
def test_what_is_lacking_is_said(made, changes, words):
    """Without a control, ten groups or a testable classifier there is no verdict; without groups a note."""
    conclusion = made.concluded(made.scene(), **changes)[2]

    assert all(words in finding.statement for finding in conclusion.findings)
    assert {finding.verdict for finding in conclusion.findings} == {
        "ok" if changes == {"groups": 0} else "notice"
    }


def test_a_dead_control_counts_for_nothing(made):
    """With dead controls only there is nothing to compare with."""
    scene = made.scene()
    controls = run_in_memory(ConceptGradients().split(scene.survey), scene, controls=2).controls
    dead = [dataclasses.replace(control, dead=frozenset({"features"})) for control in controls]

    conclusion = made.concluded(scene)[2]
    lost = relevance_with_controls(made, scene, dead)

    assert conclusion.summary["relevant"].values.any()
    assert not lost.summary["relevant"].values.any()
    assert all("no living control network" in finding.statement for finding in lost.findings)


def relevance_with_controls(made, scene, controls):
    """Conclude with controls of one's own."""
    run, *_ = made.concluded(scene, controls=0)
    run = dataclasses.replace(run, controls=controls)
    probes = ConceptRelevance(permutations=99, scored=9).split(scene.survey)
    for probe in (*Rcv(permutations=0, models=("ridge",)).split(scene.survey), *probes):
        conclusion = run.concluded(probe)
        run = dataclasses.replace(run, summaries={**run.summaries, probe.name: conclusion.summary})
    return conclusion


def test_a_control_that_is_as_relevant_takes_the_verdict(made):
    """A control that is the audited network itself leaves nothing shown."""
    scene = made.scene()
    twin = run_in_memory(ConceptGradients().split(scene.survey), scene.with_networks({"twin": scene.network}))

    conclusion = relevance_with_controls(made, scene, twin.networks)

    assert not conclusion.summary["relevant"].values.any()
    assert all("beyond that of every living control" in finding.statement for finding in conclusion.findings)


def test_further_networks_are_scored_and_are_no_controls(made):
    """A further network has its scores in the table, and takes no verdict."""
    scene = made.scene().with_networks({"twin": made.Planted()})
    conclusion = made.concluded(scene)[2]
    table = conclusion.summary.isel(layer=0)

    kinds = dict(zip(table["network"].values, table["network_kind"].values.ravel(), strict=False))
    assert kinds == {"shuffled-0": "control", "shuffled-1": "control", "twin": "network"}
    np.testing.assert_allclose(table["network_br"].sel(network="twin"), table["br"], rtol=1e-5)
    assert [finding.verdict for finding in conclusion.findings] == ["ok", "ok"]


def test_without_labels_predictions_say_whose_images(made):
    """The same classes, here, by prediction, and the section says so."""
    run, probe, conclusion = made.concluded(made.scene(labelled=False))

    (section,) = check_sections(probe.sections(conclusion.summary, run), probe.name)

    assert conclusion.summary.attrs["by"] == "prediction"
    assert "predicted as it" in section.blocks[0].markdown
    assert [finding.verdict for finding in conclusion.findings] == ["ok", "ok"]


def test_a_class_without_an_image_is_not_estimable(made):
    """A finding says so, and the other class is concluded all the same."""
    scene = made.scene()
    labels = torch.zeros_like(scene.labels)
    labels[:, 0] = True

    first, second = made.concluded(dataclasses.replace(scene, labels=labels))[2].findings

    assert first.verdict == "ok"
    assert second.statement.endswith("not estimable: no image of this class.")


def test_concepts_with_missing_values_and_unreadable_images_are_scored(made):
    """Images without a value are left out of the fit, unreadable ones of everything."""
    scene = made.scene()
    gaps = scene.concepts["m/used"] + 0.1 * scene.concepts["m/noise"]
    gaps[::4] = np.nan
    scene = scene.with_concepts({**scene.concepts, "m/gaps": gaps}).unreadable([3, 50])

    table = made.concluded(scene)[2].summary.isel(layer=0)

    assert table.attrs["images"] == 118
    assert table["relevant"].sel(concept="m/gaps").values.all()
    assert int(table["n"].sum()) == 118


def test_without_concepts_or_gradients_there_is_one_notice(made):
    """No concept measured, or a layer without a gradient: no table, no section, one reason."""
    scene = made.scene()
    run, probe, nothing = made.concluded(scene.with_concepts({}))
    full, *_ = made.concluded(scene)
    blind = dataclasses.replace(full, observed={})
    layer, joint = ConceptRelevance().split(scene.survey)
    summary = blind.concluded(layer).summary
    unread = dataclasses.replace(blind, summaries={layer.name: summary}).concluded(joint)

    assert list(probe.sections(nothing.summary, run)) == []
    assert nothing.findings[0].statement.endswith("not estimable: no concept was measured.")
    assert unread.findings[0].statement.endswith("not estimable: no logit has a gradient at this layer.")


def test_a_single_group_gives_reasons(made):
    """Nothing can be held out of one group, so nothing is estimable."""
    conclusion = made.concluded(made.scene(), groups=1000)[2]

    assert not conclusion.summary["relevant"].values.any()
    assert all(finding.verdict == "notice" for finding in conclusion.findings)


# -- gradients ---------------------------------------------------------------------------------


def small_scene(images=12):
    """Images with two concepts, for a network of two layers and two classes."""
    scene = make_scene(Small(2), images=images, size=(8, 8))
    red, noise = scene.images[:, 0].mean((1, 2)).numpy(), np.random.default_rng(0).normal(size=images)
    return scene.with_concepts({"colour/red": red, "colour/noise": noise})


class TestConceptGradients(ProbeSuite):
    """The contract of a streaming probe."""

    probe = ConceptGradients()

    def scene(self):
        """A small one."""
        return small_scene()


class TestConceptRelevance(ProbeSuite):
    """The contract of what reads tables, on two layers."""

    probe = ConceptRelevance(permutations=9, scored=9)
    tables = TABLES

    def scene(self):
        """A small one."""
        return small_scene()

    def run(self, scene, controls=1):
        """Survey gradients and conclude vectors too, which the host does beforehand."""
        gradients = list(ConceptGradients().split(scene.survey))
        run = run_in_memory(gradients, scene, controls=controls)
        for probe in (*Rcv(permutations=0, models=("ridge",)).split(scene.survey), *self.parts(scene)):
            summary = run.concluded(probe).summary
            run = dataclasses.replace(run, summaries={**run.summaries, probe.name: summary})
        return run


def test_gradients_are_means_over_positions_with_their_sign():
    """Rows equal autograd, position by position, for every class."""
    scene = small_scene()
    (name, *_) = scene.survey.layers
    probe = next(p for p in ConceptGradients().split(scene.survey) if p.layer == name)
    run = run_in_memory([probe], scene, controls=0)
    found = run.rows(probe.name)

    maps = {}
    scene.network.get_submodule(name).register_forward_hook(lambda _m, _i, out: maps.update(out=out))
    for position, label in enumerate(scene.survey.classes):
        images = scene.images.clone().requires_grad_()
        logits = scene.network(images)
        (gradient,) = torch.autograd.grad(logits[:, position].sum(), maps["out"])
        wanted = np.zeros(gradient.shape[:2])
        for row in range(gradient.shape[2]):
            for column in range(gradient.shape[3]):
                wanted += gradient[:, :, row, column].numpy() / (gradient.shape[2] * gradient.shape[3])
        np.testing.assert_allclose(found["gradient"].sel({"class": label}), wanted, rtol=1e-5, atol=1e-8)
    assert (found["gradient"].values < 0).any()
    np.testing.assert_array_equal(found["label"], scene.labels.numpy())


def test_many_classes_give_the_first_target_only(made):
    """More than four classes: the survey's first target, one backward pass, every image counts."""
    scene = make_scene(Small(), images=40, size=(8, 8))
    names = [name for name, _ in gradient_targets(scene.survey)]
    contrast = dataclasses.replace(scene.survey, targets=(Contrast(of=1),))
    fixed = dataclasses.replace(scene.survey, targets=(3,))

    assert names == ["predicted"]
    assert [name for name, _ in gradient_targets(contrast)] == ["1 minus 1 x next 1"]
    assert gradient_targets(fixed) == (("class 3", 3),)
    assert len(gradient_targets(scene.survey, 6)) == 6
    concepts = {"m/noise": np.random.default_rng(0).normal(size=40)}
    summary = made.concluded(scene.with_concepts(concepts), groups=2)[2].summary
    assert summary["class"].values.tolist() == ["predicted"]
    assert set(summary["n"].values.ravel()) == {40}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConceptGradients(most_classes=-1),
        lambda: ConceptGradients(most_classes=True),
        lambda: ConceptRelevance(permutations=0),
        lambda: ConceptRelevance(scored="many"),
        lambda: ConceptRelevance(model="lasso"),
    ],
)
def test_settings_without_a_meaning_are_refused(make):
    """One line that names what was found and what is wanted."""
    with pytest.raises(UsageError, match=r"found: .*wanted: "):
        make()
