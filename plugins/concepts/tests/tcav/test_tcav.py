"""Classification concept vectors: slow references, captum, planted truth, calibration, bad input.

The references come first: loops from the formula, nothing of ours imported.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kstest
from torch import nn
from torch.utils.data import DataLoader
from wsss_probe_concepts.regression import make_folds
from wsss_probe_concepts.relevance.evidence import Evidence
from wsss_probe_concepts.relevance.gradients import ConceptGradients
from wsss_probe_concepts.tcav.binary import binary_concepts
from wsss_probe_concepts.tcav.classifier import (
    AveragedClassifier,
    concept_vector,
    held_out_auc,
    held_out_scores,
)
from wsss_probe_concepts.tcav.joint import followed
from wsss_probe_concepts.tcav.layer import Settings, concept_table, unit_vector
from wsss_probe_concepts.tcav.probe import Tcav

from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

# -- references --------------------------------------------------------------------------------


def slow_scores(gradients, vector):
    """Share of positive derivatives, and their mean: sums over channels, image by image."""
    derivatives = []
    for gradient in gradients:
        derivatives.append(sum(g * v for g, v in zip(gradient, vector, strict=True)))
    return sum(d > 0 for d in derivatives) / len(derivatives), sum(derivatives) / len(derivatives)


def slow_cosine(gradients, vector):
    """Cosine of a vector with the mean gradient."""
    mean = [sum(own[k] for own in gradients) / len(gradients) for k in range(len(vector))]
    product = sum(m * v for m, v in zip(mean, vector, strict=True))
    return product / math.sqrt(sum(m * m for m in mean)) / math.sqrt(sum(v * v for v in vector))


def slow_auc(scores, present):
    """Share of pairs in order, ties half."""
    pairs = [
        (a > b) + (a == b) / 2
        for a, own in zip(scores, present, strict=True)
        for b, other in zip(scores, present, strict=True)
        if own and not other
    ]
    return sum(pairs) / len(pairs)


# -- what the tests build with -----------------------------------------------------------------


class Bent(nn.Module):
    """Features of patches; the logits bend with the first one, and know the others a little."""

    def __init__(self, channels=12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Conv2d(3, channels, 4, stride=4)
        self.hidden, self.out = nn.Linear(channels, 8), nn.Linear(8, 2)
        axes = torch.linalg.qr(torch.randn(48, 48, generator=generator))[0][:channels]
        hidden = 0.1 * torch.randn(8, channels, generator=generator)
        hidden[:, 0] += torch.linspace(0.5, 1.5, 8)
        with torch.no_grad():
            self.features.weight.copy_(6 * axes.reshape(channels, 3, 4, 4))
            self.features.bias.zero_()
            self.hidden.weight.copy_(hidden)
            self.hidden.bias.copy_(torch.linspace(-1, 1, 8))
            self.out.weight.copy_(torch.stack([torch.ones(8), -torch.ones(8)]))
            self.out.bias.copy_(torch.tensor([-4.0, 4.0]))

    def forward(self, images):
        """Logits."""
        return self.out(torch.nn.functional.softplus(self.hidden(self.features(images - 0.5).mean((2, 3)))))


def scene_of(images=120, seed=0, noise=0.3):
    """Patches of noise with concepts that are there or not, used by the network or only encoded."""
    network = Bent()
    scene = make_scene(network, images=images, size=(8, 8), seed=seed)
    pixels = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(seed + 100)) * 0.3 + 0.5
    with torch.no_grad():
        features = network.features(pixels - 0.5).mean((2, 3)).double().numpy()
        predicted = network(pixels).argmax(1)
    rng = np.random.default_rng(seed)
    labels = torch.zeros(images, 2, dtype=torch.bool)
    labels[torch.arange(images), predicted] = True

    def parted(values):
        return (values + noise * values.std() * rng.normal(size=images) > 0).astype(float)

    gaps = parted(features[:, 0])
    gaps[:8] = np.nan
    concepts = {
        "m/used": parted(features[:, 0]),
        "m/turned": parted(-features[:, 0]) * 3 - 1,
        "m/unused": parted(features[:, 7]),
        "m/chance": rng.integers(2, size=images).astype(float),
        "m/gaps": gaps,
        "m/rare": (np.arange(images) < 19).astype(float),
        "m/three": rng.integers(3, size=images).astype(float),
    }
    return dataclasses.replace(scene, images=pixels, labels=labels).with_concepts(concepts)


def concluded(scene, controls=2, groups=3, permutations=99, **changes):
    """Survey a scene and conclude; give the run, the last probe and its conclusion."""
    gradients = list(ConceptGradients().split(scene.survey))
    run = run_in_memory(gradients, scene, controls=controls)
    if groups:
        run = dataclasses.replace(run, groups=np.arange(len(scene.images)) // groups)
    run = dataclasses.replace(run, **changes)
    for probe in (*gradients, *Tcav(permutations=permutations).split(scene.survey)):
        conclusion = run.concluded(probe)
        run = dataclasses.replace(run, summaries={**run.summaries, probe.name: conclusion.summary})
    return run, probe, conclusion


@pytest.fixture(scope="module")
def planted():
    """One run over planted concepts."""
    return concluded(scene_of())


# -- agreement with the references and with captum -----------------------------------------------


def test_scores_equal_the_loops(planted):
    """Score, magnitude and cosine of every class and concept, from vectors and gradients in the tables."""
    run, _, conclusion = planted
    table = run.summaries["tcav@features"]
    rows = run.rows("concept-gradients@features")
    for row in range(2):
        own = np.flatnonzero(run.scene.labels[:, row].numpy())
        gradients = rows["gradient"].values[own, row].astype(float).tolist()
        for column, vector in enumerate(table["direction"].values.tolist()):
            share, mean = slow_scores(gradients, vector)
            assert table["tcav"].values[row, column] == pytest.approx(share)
            assert table["magnitude"].values[row, column] == pytest.approx(mean)
            assert table["alignment"].values[row, column] == pytest.approx(slow_cosine(gradients, vector))
    assert conclusion.summary["n"].isel(layer=0, concept=0).sum() == 120


def test_held_out_auc_equals_the_loops():
    """Every image is judged by planes that its group had no part in."""
    rng = np.random.default_rng(0)
    present = rng.random(60) < 0.4
    features, groups = rng.normal(size=(60, 4)) + 0.7 * present[:, None], np.arange(60) // 3
    folds = make_folds(60, groups, seed=2)

    scores = held_out_scores(features, present, folds, seed=2)
    auc, accuracy = held_out_auc(scores, present, groups, resamples=200, seed=0)

    wanted = np.zeros(60)
    for test in folds.test:
        training = [i for i in range(60) if i not in set(test.tolist())]
        assert not set(groups[training]) & set(groups[test])
        weight, bias = concept_vector(features[training], present[training], 2)
        for i in test:
            score = sum(weight[k] * features[i, k] for k in range(4)) + bias
            wanted[i] += score / math.sqrt(sum(w * w for w in weight)) / folds.repeats
    np.testing.assert_allclose(scores, wanted)
    assert float(auc.estimate) == pytest.approx(slow_auc(wanted.tolist(), present.tolist()))
    sides = [np.mean(wanted[present] > 0), np.mean(wanted[~present] <= 0)]
    assert accuracy == pytest.approx(np.mean(sides))
    assert float(auc.low) < float(auc.estimate) < float(auc.high)


def test_captum_gives_the_same_scores(tmp_path):
    """captum's own TCAV, trained with our classifier on maps, gives our sign count and magnitude."""
    from captum.concept import TCAV, Concept

    scene = scene_of(images=60)
    network, images = scene.network, scene.images
    present = np.arange(60) % 2 == 0
    features = network.features(images - 0.5).mean((2, 3)).detach().double().numpy()
    order = np.argsort(present, kind="stable")  # captum hands over one concept after the other
    vector = unit_vector(features[order], present[order], np.ones(60, bool), 0)

    sets = [
        Concept(number, name, DataLoader(images[torch.from_numpy(present == bool(number))], batch_size=16))
        for number, name in enumerate(("without", "with"))
    ]
    theirs = TCAV(network, ["features"], classifier=AveragedClassifier(4), save_path=str(tmp_path)).interpret(
        images[:20], [sets], target=1
    )["0-1"]["features"]

    maps = network.features(images[:20] - 0.5).detach().requires_grad_()
    logits = network.out(torch.nn.functional.softplus(network.hidden(maps.mean((2, 3)))))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), maps)
    share, mean = slow_scores(gradient.mean((2, 3)).double().tolist(), vector.tolist())
    assert float(theirs["sign_count"][1]) == pytest.approx(share)
    assert float(theirs["magnitude"][1]) == pytest.approx(mean, rel=1e-4)
    assert float(theirs["magnitude"][0]) == pytest.approx(-mean, rel=1e-4)


def test_the_classifier_asks_to_be_trained_first():
    """Weights before training are a plain error, not something made up."""
    with pytest.raises(RuntimeError, match="train_and_eval was not called"):
        AveragedClassifier().weights()


def test_the_vector_is_in_raw_units_and_leads_to_the_concept():
    """Scaling a channel scales its coefficient the other way, and constants get none."""
    rng = np.random.default_rng(0)
    present = rng.random(80) < 0.5
    features = rng.normal(size=(80, 3)) + np.array([1.0, 0.0, 0.0]) * present[:, None]
    features[:, 2] = 7.0

    plain, bias = concept_vector(features, present)
    scaled, _ = concept_vector(features * [10.0, 0.1, 1.0], present)

    assert plain[0] > abs(plain[1])
    assert plain[2] == 0
    np.testing.assert_allclose(scaled * [10.0, 0.1, 1.0], plain, rtol=1e-6)
    assert np.mean((features @ plain + bias > 0) == present) > 0.6
    np.testing.assert_array_equal(concept_vector(features, present)[0], plain)  # the seed is fixed
    assert np.isnan(concept_vector(features, np.ones(80, bool))[0]).all()


# -- planted truth -----------------------------------------------------------------------------


def test_a_used_concept_is_found_with_its_sign(planted):
    """What a logit follows is relevant for both classes, with its sign, and its opposite with the other."""
    table = planted[2].summary.isel(layer=0)

    for name, sign in (("m/used", 1), ("m/turned", -1), ("m/gaps", 1)):
        cells = table.sel(concept=name)
        assert float(cells["auc_low"]) >= 0.7
        assert cells["relevant"].values.all()
        assert np.sign(cells["magnitude"].values).tolist() == [sign, -sign]
    assert [finding.verdict for finding in planted[2].findings] == ["ok", "ok"]
    assert planted[2].findings[0].name == "tcav/class 0"
    low, high = planted[2].findings[0].interval
    assert low <= planted[2].findings[0].effect <= high


def test_an_encoded_concept_that_is_not_used_and_chance_are_not_found(planted):
    """One has a good vector that no gradient follows, the other no vector to speak of."""
    table = planted[2].summary.isel(layer=0)
    unused, chance = (table.sel(concept=f"m/{name}") for name in ("unused", "chance"))

    assert float(unused["auc_low"]) >= 0.7
    assert not unused["relevant"].values.any()
    assert float(chance["auc_low"]) < 0.7
    assert not chance["relevant"].values.any()


def test_only_concepts_with_two_values_take_part(planted):
    """Three values, or fewer than twenty images with one, are left to regression."""
    assert set(planted[2].summary["concept"].values) == {
        "m/used",
        "m/turned",
        "m/unused",
        "m/chance",
        "m/gaps",
    }


def test_too_much_noise_hides_a_used_concept():
    """Where the vector no longer parts images, nothing is concluded of it."""
    _, _, conclusion = concluded(scene_of(noise=30.0))

    assert not conclusion.summary["relevant"].values.any()
    assert all("not testable here" in finding.statement for finding in conclusion.findings)


def test_the_section_shows_scores_beside_their_nulls(planted):
    """One figure a class with null and controls, concepts without a vector named so, and one table."""
    run, probe, conclusion = planted

    (section,) = check_sections(probe.sections(conclusion.summary, run), probe.name)

    *figures, table = section.blocks
    assert len(figures) == 2
    names = [trace.get("name") for trace in figures[0].figure["data"]]
    assert names == ["audited", "shuffled-0", "shuffled-1", "exchanged labels, 95 %"]
    assert "m/chance (not testable)" in figures[0].figure["layout"]["yaxis"]["ticktext"]
    assert len(table.frame) == 2 * 5


# -- what a verdict needs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"alignment_low": -0.9, "alignment_high": -0.5}, True),
        ({"q": 0.05}, False),
        ({"auc_low": 0.69}, False),
        ({"auc_low": 0.7}, True),
        ({"alignment_low": -0.1}, False),
        ({"groups": 9}, False),
        ({"control": -0.5}, False),
        ({"alive": False}, False),
        ({"kind": "network"}, False),
    ],
    ids=lambda value: str(value),
)
def test_each_condition_of_a_verdict_counts(changes, wanted):
    """A cell that has everything is followed, on either side of 0, and loses it with any one condition."""
    names = {"q": 0.01, "alignment_low": 0.5, "alignment_high": 0.9, "alignment": 0.7, "groups": 10}
    numbers = names | {"auc_low": 0.8, "control": 0.4, "alive": True, "kind": "control"} | changes
    cell = ("layer", "class", "concept")
    table = xr.Dataset({name: (cell, np.full((1, 1, 1), numbers[name])) for name in names})
    table["auc_low"] = (("layer", "concept"), [[numbers["auc_low"]]])
    table["network_alignment"] = (("layer", "network", "class", "concept"), [[[[numbers["control"]]]]])
    table["network_alive"] = (("layer", "network"), [[numbers["alive"]]])
    table["network_kind"] = (("layer", "network"), [[numbers["kind"]]])

    assert followed(table).item() is wanted


# -- nothing where nothing is --------------------------------------------------------------------


def chance_p(seed, groups):
    """Give p of a label that features know nothing of, both alike within groups."""
    rng = np.random.default_rng(seed)
    member = np.arange(60) // groups
    features = rng.normal(size=(60, 5))[member] + 0.3 * rng.normal(size=(60, 5))
    gradient = rng.normal(size=(1, 1, 5)) + 0.3 * rng.normal(size=(60, 1, 5))
    seen = Evidence(features, gradient, np.ones((60, 1), bool), member)
    labels = (rng.permutation(60 // groups) % 2)[member].astype(float)
    (concept,) = binary_concepts(labels[:, None])
    return concept_table(seen, concept, Settings(39, 2, seed))["p_permuted"].item()


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 3], ids=["independent", "grouped"])
def test_p_is_calibrated_on_chance(groups):
    """Of 100 fixed seeds at most 11 give p up to .05, and p is uniform."""
    p = np.array([chance_p(seed, groups) for seed in range(100)])

    assert 1 <= (p <= 0.05).sum() <= 11
    assert kstest(p, "uniform").pvalue > 0.01


def test_groups_stay_whole_in_folds_and_nulls():
    """Features that know the patient alone part no others, and two patients have no other order."""
    rng = np.random.default_rng(0)
    patient = np.arange(80) // 4
    features = rng.normal(size=(20, 40))[patient] + 0.01 * rng.normal(size=(80, 40))
    labels = (rng.permutation(20) % 2)[patient].astype(float)
    gradient, member = rng.normal(size=(80, 1, 40)), np.ones((80, 1), bool)
    (concept,) = binary_concepts(labels[:, None])
    settings = Settings(19, 50, 0)

    many = concept_table(Evidence(features, gradient, member, patient), concept, settings)
    two = concept_table(Evidence(features, gradient, member, labels), concept, settings)

    assert float(many["auc_low"]) < 0.7  # divided by images it would be 1
    assert two["p_permuted"].item() == 1


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"controls": 0}, "no living control network"),
        ({"groups": 20}, "fewer than 10 groups"),
        ({"not_testable": "AUC is 0.5"}, "not testable here: AUC is 0.5"),
        ({"groups": 1000}, "fewer than 10 groups"),
    ],
    ids=["no control", "six groups", "not testable", "one group"],
)
def test_what_is_lacking_is_said(changes, words):
    """Without a control, ten groups or a testable classifier there is no verdict."""
    conclusion = concluded(scene_of(), permutations=19, **changes)[2]

    assert all(words in finding.statement for finding in conclusion.findings)
    assert {finding.verdict for finding in conclusion.findings} == {"notice"}


def test_without_two_valued_concepts_nothing_is_said():
    """No table, no finding, no section."""
    scene = scene_of()
    run, probe, conclusion = concluded(scene.with_concepts({"m/three": scene.concepts["m/three"]}))

    assert conclusion.findings == ()
    assert not conclusion.summary.data_vars
    assert list(probe.sections(conclusion.summary, run)) == []


def test_a_layer_without_a_gradient_is_left_out():
    """Without rows of gradients there is no table, and no exception."""
    run, *_ = concluded(scene_of(), permutations=9)
    (layer, _) = Tcav().split(run.survey)

    assert not dataclasses.replace(run, observed={}).concluded(layer).summary.data_vars


@pytest.mark.parametrize("number", [0, True, "many"])
def test_settings_without_a_meaning_are_refused(number):
    """One line that names what was found and what is wanted."""
    with pytest.raises(UsageError, match=r"permutations of tcav are too few; found: .*wanted: "):
        Tcav(permutations=number)


class TestTcavContract(ProbeSuite):
    """The contract of what reads tables."""

    probe = Tcav(permutations=9)
    tables = {"tcav@features": xr.Dataset()}  # noqa: RUF012  # read only

    def scene(self):
        """Enough images for two values."""
        return scene_of(images=44)

    def run(self, scene, controls=1):
        """Survey gradients too, which the host does beforehand."""
        run = run_in_memory(ConceptGradients().split(scene.survey), scene, controls=controls)
        for probe in self.parts(scene):
            summary = run.concluded(probe).summary
            run = dataclasses.replace(run, summaries={**run.summaries, probe.name: summary})
        return run
