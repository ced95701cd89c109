"""Head weights are the network's own where the head is linear, and say that they are not where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from wsss_probe_channels.weights.head_weights import HeadWeights
from wsss_probe_channels.weights.taxonomy import SIGNS, sign_counts

from wsss_probe import Head
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_sections
from wsss_probe.testing import ProbeSuite, make_scene, models, run_in_memory


class TestHeadWeights(ProbeSuite):
    """Weights of a proved linear head conform to the contract."""

    probe = HeadWeights()


class TestEffectiveWeights(ProbeSuite):
    """Effective weights of layers before the pooled one conform to the contract."""

    probe = HeadWeights(layers="features.0,features.2")


class TestSingleLogit(ProbeSuite):
    """A network with one logit and one channel conforms too."""

    probe = HeadWeights()

    def scene(self):
        """A network for one logit."""
        return make_scene(models.with_weights(models.multi_logit(1)))


def unproved(scene, classes=None):
    """The same scene with a head that nobody proved."""
    survey = replace(scene.survey, head=Head(False, reason="not looked for"))
    return replace(scene, survey=replace(survey, classes=classes) if classes else survey)


def concluded(scene, probe, controls=1):
    """Conclude the only part of a probe on a scene, with the host's checks; also its run."""
    (part,) = probe.split(scene.survey)
    run = run_in_memory([part], scene, controls=controls)
    conclusion = check_conclusion(part.conclude(run), part.name)
    check_sections(part.sections(conclusion.summary, run), part.name)
    return conclusion, run


# -- values ------------------------------------------------------------------------------------


def test_a_proved_head_gives_its_own_weights():
    """The table holds the linear layer's weights, no gradient is asked for, and nothing is uncertain."""
    scene = make_scene()
    (part,) = HeadWeights().split(scene.survey)

    conclusion, _ = concluded(scene, HeadWeights())

    assert not part.needs(scene.survey).gradients
    np.testing.assert_array_equal(
        conclusion.summary["weight"].values, scene.network.classifier.weight.detach()
    )
    assert (conclusion.summary["spread"].values == 0).all()
    assert conclusion.summary.attrs["kind"] == "head"
    assert part.name == "head-weights@features"


def test_effective_weights_equal_the_weights_of_a_linear_head():
    """On GAP and a linear layer the mean summed gradient is the weight to 1e-5, the same in every image."""
    scene = unproved(make_scene())

    conclusion, _ = concluded(scene, HeadWeights())

    summary = conclusion.summary
    assert summary.attrs["kind"] == "effective"
    np.testing.assert_allclose(
        summary["weight"].values, scene.network.classifier.weight.detach(), rtol=0, atol=1e-5
    )
    assert summary["spread"].values.max() < 1e-6
    assert summary.attrs["relative_spread"] < 1e-6


def slow_gradient(network, layer, image, c):
    """Gradient of one logit of one image at a layer."""
    kept = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out) or out)
    with hook:
        logit = network(image[None].requires_grad_())[0, c]
    return torch.autograd.grad(logit, kept[0])[0][0]


def slow_effective(scene, layer, c):
    """Mean and spread between images of the summed gradient, by one backward pass per image."""
    sums = []
    for image in scene.images:
        gradient = slow_gradient(scene.network, layer, image, c)
        sums.append([sum(float(v) for row in maps for v in row) for maps in gradient.tolist()])
    mean = [sum(column) / len(column) for column in zip(*sums, strict=True)]
    spread = [
        (sum((v - m) ** 2 for v in column) / len(column)) ** 0.5
        for m, column in zip(mean, zip(*sums, strict=True), strict=True)
    ]
    return mean, spread


def test_effective_weights_follow_their_definition():
    """At a layer before a ReLU gradients differ between images: mean and spread are those of loops."""
    scene = make_scene(models.branched(), images=4)

    conclusion, _ = concluded(scene, HeadWeights(layers="stem"))

    for c in range(3):
        mean, spread = slow_effective(scene, "stem", c)
        np.testing.assert_allclose(conclusion.summary["weight"].values[c], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(conclusion.summary["spread"].values[c], spread, rtol=1e-3, atol=1e-6)
    assert conclusion.summary["spread"].values.max() > 1e-3


def test_unreadable_images_count_nowhere():
    """The gradient of an image that could not be decoded is in no mean."""
    scene = make_scene(models.branched(), images=5)
    probe = HeadWeights(layers="stem")

    broken, _ = concluded(scene.unreadable([4]), probe)
    without, _ = concluded(scene.first(4), probe)

    np.testing.assert_allclose(broken.summary["weight"].values, without.summary["weight"].values, rtol=1e-6)
    assert broken.summary.attrs["n"] == 4


# -- which classes ------------------------------------------------------------------------------


def test_few_classes_are_all_asked_for():
    """Up to the limit every class gets a backward pass."""
    survey = make_scene(models.branched()).survey

    (part,) = HeadWeights(layers="stem").split(survey)

    assert part.asked == (0, 1, 2)
    assert part.needs(survey).gradients == {("stem", 0), ("stem", 1), ("stem", 2)}


def test_of_many_classes_those_with_a_region_are_asked_for_first():
    """With a limit of two, the class with a mask and the first other one; the rest stay undefined."""
    scene = unproved(make_scene(models.multi_logit(5)), ("a", "b", "c", "Rectangle", "e"))
    probe = HeadWeights(classes=2)

    conclusion, _ = concluded(scene, probe)

    summary = conclusion.summary
    assert summary.attrs["classes with weights"] == ["a", "Rectangle"]
    assert np.isnan(summary["weight"].values[[1, 2, 4]]).all()
    assert set(summary["weight_class"].values.tolist()) <= {-1, 0, 3}
    full = make_scene(models.multi_logit(5)).network.classifier.weight.detach().numpy()
    expected = np.where(full[0] > full[3], 0, 3)
    assert summary["weight_class"].values.tolist() == expected.tolist()


def test_regions_are_recorded():
    """The table says which mask region each class is looked for in, by name, option and complement."""
    named = replace(make_scene().survey, classes=("empty", "rectangle"))
    scene = replace(make_scene(), survey=named)

    by_name, _ = concluded(scene, HeadWeights())
    by_option, _ = concluded(make_scene(), HeadWeights(match={"class 0": "rectangle"}))

    assert by_name.summary.attrs["regions"] == {"empty": "not rectangle", "rectangle": "rectangle"}
    assert by_option.summary.attrs["regions"] == {"class 0": "rectangle", "class 1": "not rectangle"}


# -- signs --------------------------------------------------------------------------------------


def test_signs_are_counted_here_and_in_controls():
    """Counts add up to the channels, for the network and for each control's own weights."""
    conclusion, run = concluded(make_scene(), HeadWeights(), controls=3)

    summary = conclusion.summary
    assert summary["sign_counts"].sum("sign_bucket").values.tolist() == [8, 8]
    assert summary["control_sign_counts"].sum("sign_bucket").values.tolist() == [[8, 8]] * 3
    for row, control in enumerate(run.controls):
        own = sign_counts(control.survey.head.weight)
        np.testing.assert_array_equal(summary["control_sign_counts"].values[row], own)
    assert summary["sign_bucket"].values.tolist() == list(SIGNS)


def test_controls_of_effective_weights_have_effective_weights():
    """Where the audited head is not linear, controls are averaged in the same way."""
    conclusion, _ = concluded(make_scene(models.branched()), HeadWeights(layers="stem"), controls=2)

    assert conclusion.summary["control_sign_counts"].sum("sign_bucket").values.tolist() == [[4] * 3] * 2


def test_a_control_without_a_linear_head_is_left_out():
    """A control whose own head was not proved has no weights of this kind."""
    scene = make_scene()
    (part,) = HeadWeights().split(scene.survey)
    run = run_in_memory([part], scene, controls=2)
    first, second = run.controls
    lost = replace(first, run=replace(first.run, scene=unproved(first.run.scene)))

    conclusion = check_conclusion(part.conclude(replace(run, controls=(lost, second))), part.name)

    assert conclusion.summary["control"].values.tolist() == ["shuffled-1"]


# -- what is said -------------------------------------------------------------------------------


def test_nothing_matched_names_the_option():
    """Classes and masks without a common name end in one notice that says what to write."""
    conclusion, _ = concluded(make_scene(), HeadWeights())

    (finding,) = conclusion.findings
    assert (finding.name, finding.verdict) == ("weight-regions@features", "notice")
    assert "[probes.head-weights.match]" in finding.statement


def test_effective_weights_are_named_as_such():
    """A notice says what the numbers are, why, and how they vary between images."""
    conclusion, run = concluded(unproved(make_scene()), HeadWeights(match={"class 1": "rectangle"}))

    (finding,) = conclusion.findings
    assert finding.name == "effective-weight@features"
    assert "no linear head was proved there (not looked for)" in finding.statement
    assert finding.n == 6
    (section,) = HeadWeights(layer="features").sections(conclusion.summary, run)
    assert section.title == "Effective weights at features"
    assert "**effective weights**" in section.blocks[0].markdown


def test_without_masks_weights_are_read_all_the_same():
    """No masks: no region and no complaint about names."""
    conclusion, _ = concluded(make_scene().without_masks(), HeadWeights())

    assert conclusion.findings == ()
    assert set(conclusion.summary.attrs["regions"].values()) == {""}


@pytest.mark.parametrize(
    ("network", "channels"),
    [(models.multi_logit(1), 8), (models.multi_logit(4), 8), (models.planted_gap(), 6)],
)
def test_every_number_of_classes_is_shown(network, channels):
    """One, four and two classes, exact zeros among the weights: the table counts every channel."""
    scene = make_scene(network)
    conclusion, run = concluded(scene, HeadWeights())

    (section,) = HeadWeights(layer="features").sections(conclusion.summary, run)
    frame, figure = section.blocks[1].frame, section.blocks[2]
    assert (frame.groupby("class")["channels"].sum() == channels).all()
    drawn = sum(len(trace["x"]) for trace in figure.figure["data"])
    assert drawn == channels == len(figure.data)


def test_weights_that_are_not_finite_are_counted_as_such():
    """A NaN in the head spoils its channel only; the channel has no class."""
    scene = make_scene()
    weight = scene.survey.head.weight.copy()
    weight[1, 3] = np.nan
    head = replace(scene.survey.head, weight=weight)
    conclusion, _ = concluded(replace(scene, survey=replace(scene.survey, head=head)), HeadWeights())

    assert conclusion.summary["weight_class"].values[3] == -1
    assert conclusion.summary["sign"].values[3] == "undefined"
    assert (conclusion.summary["weight_class"].values[:3] >= 0).all()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"classes": 0}, "found: 0; wanted: a whole number from 1"),
        ({"classes": True}, "found: True"),
        ({"match": "gland"}, "found: 'gland'"),
        ({"match": {"a": 3}}, "wanted: <class> = <mask region>"),
    ],
)
def test_options_without_a_meaning_are_refused(options, wrong):
    """One line says what was found and what is wanted."""
    with pytest.raises(UsageError, match=wrong):
        HeadWeights(**options)


def test_a_layer_that_is_not_audited_is_refused():
    """The message names the layer and those that there are."""
    with pytest.raises(UsageError, match="found: conv9"):
        HeadWeights(layers="conv9").split(make_scene().survey)
