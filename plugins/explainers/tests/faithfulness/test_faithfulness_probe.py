"""The probe Faithfulness: planted truth, nothing where nothing is, and the contract."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from wsss_probe_explainers.explainers import grad_cam_map
from wsss_probe_explainers.faithfulness.faithfulness_conclusion import verdicts
from wsss_probe_explainers.faithfulness.faithfulness_probe import Faithfulness
from wsss_probe_explainers.faithfulness.judged import (
    MEASURES,
    Answers,
    How,
    forwards,
    judge,
    probability,
)
from wsss_probe_explainers.paired import compare, sign_flip_p
from wsss_probe_explainers.sampling import BASELINES, evenly_spread, judged_maps

from wsss_probe import Contrast, DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe.testing import ProbeSuite
from wsss_probe.testing.runs import run_in_memory
from wsss_probe.testing.scenes import make_scene, weights_of

HOW = How(5, "blur", "probability", (0.2, 0.5), 10, 0, multilabel=False)
CARD = DefinitionCard("made", "made", "made")


class Corner(nn.Module):
    """Looks at the top left quarter only: the more red there, the surer of class 1."""

    def __init__(self, sharpness=12.0):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2))
        self.sharpness = sharpness

    def forward(self, images):
        """Give logits (image, class)."""
        red = images[:, 0] - images[:, 1]
        rows, columns = red.shape[1] // 2, red.shape[2] // 2
        own = (red[:, :rows, :columns].mean((1, 2)) - 0.07) * self.sharpness
        return torch.stack([-own, own], 1) + 0 * self.features(images).mean((1, 2, 3))[:, None]


@dataclass(frozen=True)
class Made(Explainer):
    """A map that a test makes out of images and rows of the manifest."""

    name: str
    make: object
    card: DefinitionCard = CARD
    gradients: bool = False

    def attribute(self, batch, layer, target):
        """Call what the test gave."""
        rows, columns = batch.activations[layer].shape[2:]
        return self.make(batch, rows, columns).float()


def corner(batch, rows, columns):
    """The truth: the quarter that the network looks at."""
    plane = torch.zeros(len(batch.indices), rows, columns)
    plane[:, : rows // 2, : columns // 2] = 1
    return plane


def scattered(batch, rows, columns):
    """Chance: numbers of another seed than the baseline's."""
    return torch.stack(
        [
            torch.rand(rows, columns, generator=torch.Generator().manual_seed(999 + int(i)))
            for i in batch.indices
        ]
    )


def looking_at_a_corner(images=16, seed=0, strength=1.0, sharpness=60.0):
    """Grey noise, a red corner that counts, and red distractors elsewhere; red is no brighter than grey."""
    generator = torch.Generator().manual_seed(seed)
    net = Corner(sharpness).eval()
    scene = make_scene(net, images=images, size=(32, 48), seed=seed)
    pixels = (torch.rand(images, 1, 32, 48, generator=generator) * 0.4 + 0.3).repeat(1, 3, 1, 1)
    red = torch.tensor([0.2, -0.1, -0.1])[:, None, None]
    pixels[:, :, 4:14, 6:20] += strength * red
    for index in range(images):
        row, column = (int(torch.randint(16, 24, (), generator=generator)) for _ in range(2))
        pixels[index, :, row : row + 8, column : column + 8] += red
    layers = {"features": scene.survey.layers["features"]}
    return replace(scene, images=pixels, survey=replace(scene.survey, layers=layers))


def answers_of(scene):
    """Answers about class 1."""
    return Answers(lambda images: scene.network(images).detach(), torch.tensor([0.0, 1.0]), multilabel=False)


def judged_scene(scene, *explainers, probe=None):
    """Run the probe over a scene with some explainers; its summary and findings."""
    scene = scene.with_explainers(explainers)
    (part,) = (probe or Faithfulness(blank="mean")).split(scene.survey)
    run = run_in_memory([part], scene, controls=0)
    return run.concluded(part), run, part


# -- one image, by loops -----------------------------------------------------------------------


def slow_curve(image, blank, plane, ties, net, steps, *, insert):
    """Probability of class 1 with more and more pixels shown or hidden, one at a time; loops only."""
    rows, columns = len(plane), len(plane[0])
    places = [(position // columns, position % columns) for position in ties]
    places.sort(key=lambda place: -plane[place[0]][place[1]])  # stable: ties as drawn
    now, then = (blank.clone(), image) if insert else (image.clone(), blank)
    heights, done = [], 0
    for step in range(steps + 1):
        while done < int(step / steps * rows * columns + 0.5):
            row, column = places[done]
            now[:, row, column] = then[:, row, column]
            done += 1
        with torch.no_grad():
            logits = net(now[None])[0].double().tolist()
        exponents = [np.exp(value - max(logits)) for value in logits]
        heights.append(exponents[1] / sum(exponents))
    return heights


def test_curves_and_their_areas_equal_loops():
    """Insertion and deletion of one image, pixel by pixel."""
    from wsss_probe_explainers.faithfulness.perturbed import blank_image, tie_order

    scene = looking_at_a_corner(1)
    image, plane = scene.images[0], torch.rand(32, 48).round(decimals=1)
    answers = answers_of(scene)

    found = judge(image, [plane], answers, HOW, 3)

    blank, ties = blank_image(image), tie_order((32, 48), 0, 3).tolist()
    for insert, curve, measure in ((True, found.inserted, "insertion"), (False, found.deleted, "deletion")):
        wanted = slow_curve(image, blank, plane.tolist(), ties, scene.network, 5, insert=insert)
        np.testing.assert_allclose(curve[0], wanted, atol=1e-6)
        total = sum((a + b) / 2 / 5 for a, b in pairwise(wanted))
        assert found.measures[0, MEASURES.index(measure)] == pytest.approx(total, abs=1e-6)
    assert found.full == pytest.approx(wanted[0], abs=1e-6)
    assert found.blank == pytest.approx(wanted[-1], abs=1e-6)


def test_the_image_seen_through_a_map_is_mixed_by_its_own_range():
    """Average drop compares the whole image with image and blank mixed by the map between 0 and 1."""
    from wsss_probe_explainers.faithfulness.perturbed import blank_image

    scene = looking_at_a_corner(1)
    image, plane = scene.images[0], torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    answers = answers_of(scene)

    found = judge(image, [plane], answers, HOW, 0).measures[0]

    share = (plane - plane.min()) / (plane.max() - plane.min())
    mixed = share * image + (1 - share) * blank_image(image)
    with torch.no_grad():
        whole, seen = scene.network(torch.stack([image, mixed])).double().softmax(1)[:, 1].tolist()
    assert found[MEASURES.index("drop")] == pytest.approx(max(0, whole - seen) / whole, abs=1e-5)
    assert found[MEASURES.index("increase")] == float(seen > whole)


def test_a_probability_is_that_of_the_target():
    """Softmax of a class, sigmoid of one among many that may be true together, sigmoid of a contrast."""
    values = [1.0, 2.0, 0.5]
    logits = torch.tensor([values])
    sigmoid = 1 / (1 + np.exp(-1))
    one, contrast = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-1.0, 1.0, 0.0])

    assert float(probability(logits, one, multilabel=False)) == pytest.approx(
        np.exp(2) / np.exp(values).sum()
    )
    assert float(probability(logits, one, multilabel=True)) == pytest.approx(1 / (1 + np.exp(-2)))
    assert float(probability(logits, contrast, multilabel=False)) == pytest.approx(sigmoid)
    assert float(probability(logits[:, :1], one[1:2], multilabel=False)) == pytest.approx(
        1 / (1 + np.exp(-1))
    )


def test_maps_that_are_the_same_are_judged_once():
    """Three times a map is that map for every measure, and the network is not asked again."""
    scene, asked = looking_at_a_corner(1), []

    def forward(images):
        asked.append(len(images))
        return scene.network(images).detach()

    answers = replace(answers_of(scene), forward=forward)
    plane = torch.rand(8, 12)

    found = judge(scene.images[0], [plane, 3 * plane, -plane], answers, HOW, 0)

    np.testing.assert_array_equal(found.measures[0], found.measures[1])
    assert not np.allclose(found.measures[0], found.measures[2])
    assert sum(asked) == forwards(HOW, 2)


def test_a_map_with_nan_is_undefined_and_a_constant_one_has_no_drop():
    """NaN gives NaN everywhere; a constant map has an order by lot but nothing to look through."""
    scene = looking_at_a_corner(1)
    answers = answers_of(scene)
    broken = torch.rand(4, 6)
    broken[1, 2] = torch.nan

    found = judge(scene.images[0], [broken, torch.zeros(4, 6)], answers, HOW, 0)

    assert np.isnan(found.measures[0]).all()
    lost = dict(zip(MEASURES, np.isnan(found.measures[1]), strict=True))
    assert lost == dict.fromkeys(MEASURES, False) | {"drop": True, "increase": True, "sparseness": True}
    assert found.measures[1, MEASURES.index("infidelity")] == 1


# -- planted truth -----------------------------------------------------------------------------


def test_the_truth_is_better_than_every_baseline():
    """The quarter that the network looks at beats all maps that know nothing, in every measure."""
    conclusion, _, _ = judged_scene(looking_at_a_corner(), Made("truth", corner), Made("chance", scattered))
    summary = conclusion.summary

    mean = summary["mean"].sel(explainer="truth, features")
    chance = summary["mean"].sel(explainer="chance, features")
    assert summary["verdict"].sel(explainer="truth, features") == "better"
    assert mean.sel(measure="insertion") > chance.sel(measure="insertion") + 0.1
    assert mean.sel(measure="deletion") < chance.sel(measure="deletion") - 0.1
    assert mean.sel(measure="road") > 0.1 > abs(float(chance.sel(measure="road"))) + 0.02
    assert mean.sel(measure="drop") < 0.05 < chance.sel(measure="drop")
    assert mean.sel(measure="infidelity") < chance.sel(measure="infidelity") - 0.2
    (better,) = [finding for finding in conclusion.findings if finding.name == "faithfulness-better"]
    assert better.verdict == "ok"
    assert better.effect == 1
    assert "truth, features +" in better.statement


def test_chance_is_not_better_than_chance():
    """A random map of another seed is about as good as the random baseline, and never called better."""
    conclusion, _, _ = judged_scene(looking_at_a_corner(), Made("chance", scattered))
    summary = conclusion.summary.sel(explainer="chance, features")

    assert summary["verdict"] != "better"
    at = BASELINES.index("random map")
    assert summary["difference_low"][at] < 0 < summary["difference_high"][at]
    assert not [finding for finding in conclusion.findings if finding.verdict == "ok"]


def test_the_opposite_of_the_truth_is_worse():
    """A map that calls everything else relevant is worse than knowing nothing, with a warning."""
    conclusion, _, _ = judged_scene(looking_at_a_corner(), Made("opposite", lambda *a: -corner(*a)))

    assert conclusion.summary["verdict"].sel(explainer="opposite, features") == "worse"
    (worse,) = conclusion.findings
    assert (worse.name, worse.verdict) == ("faithfulness-worse", "warning")


def test_a_network_that_answers_the_same_to_everything_allows_no_verdict():
    """Where hiding everything changes nothing, no map is better and none is ok."""
    conclusion, _, _ = judged_scene(looking_at_a_corner(sharpness=0.0), Made("truth", corner))

    assert conclusion.summary["verdict"].sel(explainer="truth, features") == "undecided"
    assert all(finding.verdict == "notice" for finding in conclusion.findings)
    assert np.isnan(conclusion.summary["mean"].sel(measure="infidelity")).all()
    assert float(conclusion.summary["mean"].sel(measure="increase", explainer="truth, features")) == 0


def test_a_truth_that_drowns_in_noise_stops_to_win():
    """Plain in the map the quarter beats every baseline, a twentieth of the noise it does not."""
    plain = Made("plain", lambda *a: corner(*a) + scattered(*a))
    faint = Made("faint", lambda *a: 0.05 * corner(*a) + scattered(*a))

    conclusion, _, _ = judged_scene(looking_at_a_corner(), plain, faint)

    found = conclusion.summary["verdict"]
    assert found.sel(explainer="plain, features") == "better"
    assert found.sel(explainer="faint, features") != "better"


def test_nine_groups_and_an_untestable_classifier_are_never_ok():
    """What beats every baseline is a notice with few groups or a classifier that has learned nothing."""
    _, run, part = judged_scene(looking_at_a_corner(), Made("truth", corner))
    few = replace(run, groups=np.arange(16) % 9)
    hopeless = replace(run, not_testable="AUC 0.5")

    for changed, words in ((few, "no verdict on 9 groups"), (hopeless, "not testable here: AUC 0.5")):
        found = [f for f in changed.concluded(part).findings if f.name == "faithfulness-better"]
        assert [finding.verdict for finding in found] == ["notice"]
        assert words in found[0].statement


# -- the probe ---------------------------------------------------------------------------------


class TestFaithfulness(ProbeSuite):
    """Faithfulness conforms to the contract."""

    probe = Faithfulness(images=4, steps=3)

    def scene(self):
        """Make the usual scene, with maps."""
        return make_scene().with_explainers([grad_cam_map])


class TestWithLogits(TestFaithfulness):
    """With logits as the score and the mean as the blank image it conforms as well."""

    probe = Faithfulness(images=4, steps=2, blank="mean", score="logit", road=())


def test_a_contrast_is_judged_by_its_own_score():
    """For a contrast the curves end at the sigmoid of the difference of logits."""
    scene = looking_at_a_corner(4)
    target = Contrast(1, 0)
    scene = replace(scene, survey=replace(scene.survey, targets=(target,)))
    _, run, part = judged_scene(scene, Made("truth", corner))

    with torch.no_grad():
        logits = scene.network(scene.images)
    wanted = torch.sigmoid((logits * weights_of(logits, scene.labels, target)).sum(1))
    np.testing.assert_allclose(run.rows(part.name)["full"], wanted, rtol=1e-5)


def test_only_the_chosen_images_are_judged_and_scores_reach_the_gallery():
    """Other rows are NaN; insertion and deletion of each judged map go to the gallery, baselines not."""
    conclusion, run, part = judged_scene(
        looking_at_a_corner(), Made("truth", corner), probe=Faithfulness(images=5)
    )

    rows = run.rows(part.name)
    chosen = np.flatnonzero(np.isfinite(rows["full"].values))
    assert tuple(chosen) == evenly_spread(16, 5) == part.chosen
    assert set(conclusion.map_scores) == {"insertion", "deletion"}
    for scores in conclusion.map_scores.values():
        assert scores.dims == ("image", "explainer")
        assert list(scores["explainer"].values) == ["truth, features"]
    assert np.isfinite(conclusion.map_scores["deletion"].values[chosen]).all()


def test_the_price_is_what_is_paid():
    """The number of network inputs that is stated is the number that is run."""
    scene = looking_at_a_corner(2).with_explainers([Made("truth", corner), Made("chance", scattered)])
    (part,) = Faithfulness(images=2).split(scene.survey)
    asked = []
    batch = scene.batch(part.needs(scene.survey))

    def forward(images):
        asked.append(len(images))
        return batch.forward(images)

    part.observe(replace(batch, forward=forward))

    assert sum(asked) == 2 * part.price
    assert len(part.judged) == 2 + len(BASELINES) == len(judged_maps(scene.survey))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": 0}, "faithfulness needs more images; found: 0; wanted: 1 or more"),
        ({"steps": 1}, "faithfulness needs more steps; found: 1; wanted: 2 or more"),
        ({"blank": "black"}, "unknown blank of faithfulness; found: black; wanted: blur or mean or zero"),
        ({"score": "loss"}, "unknown score of faithfulness; found: loss; wanted: probability or logit"),
        ({"road": (0.2, 1.0)}, r"shares for ROAD are none; found: \[0.2, 1.0\]; wanted: between 0 and 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words):
    """One line says what was found and what is wanted."""
    with pytest.raises(UsageError, match=words):
        Faithfulness(**options)


def test_without_maps_there_is_nothing_to_judge():
    """A survey without explainers gets no copy of the probe."""
    assert Faithfulness().split(make_scene().survey) == ()


# -- pairs -------------------------------------------------------------------------------------


def slow_p(differences, groups):
    """Share of all exchanges of signs, group by group, that reach the observed sum; loops only."""
    sums = {}
    for value, group in zip(differences, groups, strict=True):
        if value == value:
            sums[group] = sums.get(group, 0.0) + value
    values, reached = list(sums.values()), 0
    for number in range(2 ** len(values)):
        total = 0.0
        for place, value in enumerate(values):
            total += -value if (number // 2**place) % 2 else value
        reached += abs(total) >= abs(sum(values)) - 1e-9
    return reached / 2 ** len(values)


@pytest.mark.parametrize("seed", range(5))
def test_exchanging_signs_equals_loops(seed):
    """Whole groups change their sign together, NaN is left out, both sides count."""
    random = np.random.default_rng(seed)
    values, groups = random.normal(0.3, 1, 14), random.integers(0, 7, 14)
    values[3] = np.nan

    assert sign_flip_p(values, groups) == pytest.approx(slow_p(values.tolist(), groups.tolist()))


def test_many_groups_are_drawn_and_agree_with_a_known_case():
    """Twenty equal signs are as unlikely as the draws can say; a symmetric difference is not unlikely."""
    assert sign_flip_p(np.ones(20), np.arange(20)) == pytest.approx(1 / 4096, abs=1e-3)
    assert sign_flip_p(np.tile([1.0, -1.0], 10), np.arange(20)) == 1
    assert np.isnan(sign_flip_p(np.full(3, np.nan), np.arange(3)))


def test_comparisons_are_adjusted_as_one_family():
    """One strong difference among nine of noise has a q above its p."""
    random = np.random.default_rng(0)
    values = random.normal(size=(12, 10))
    values[:, 0] += 5

    found = compare(values, None)

    assert found.p[0] == pytest.approx(2 / 4096)
    assert found.q[0] == pytest.approx(20 / 4096)
    assert found.low[0] > 0
    assert (found.groups == 12).all()


def test_better_needs_every_baseline_and_worse_only_one():
    """Verdicts by interval and q together."""
    low = np.array([[0.1] * 5, [0.1] * 4 + [-0.1], [-0.3] * 5, [0.1] * 5, [np.nan] * 5, [np.nan] * 5])
    q = np.full((6, 5), 0.01)
    q[3] = 0.2
    summary = xr.Dataset(
        {
            "difference": (("explainer", "against"), low + 0.1),
            "difference_low": (("explainer", "against"), low),
            "difference_high": (("explainer", "against"), low + 0.2),
            "q": (("explainer", "against"), q),
            "baseline": ("explainer", np.array([False] * 5 + [True])),
        }
    )

    found = list(verdicts(summary))

    assert found == ["better", "undecided", "worse", "undecided", "undefined", "baseline"]
