"""Ablation equals taking the channel away in the network, finds what is planted, and says what it cannot."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_channels.units import ablation, ablation_pass
from wsss_probe_channels.units.ablation import Labels, linear_effects, right
from wsss_probe_channels.units.ablation_probe import Ablation, ResumedAblation

from wsss_probe import Head, Needs, Survey
from wsss_probe.errors import UsageError
from wsss_probe.layers import describe_layers
from wsss_probe.schema import check_conclusion, check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import (
    PLANTED_CHANNEL,
    branched,
    dead_channel,
    flat_head,
    multi_logit,
    one_channel,
    planted_gap,
    single_logit,
)

# -- reference ---------------------------------------------------------------------------------


def with_channel_set(network, layer, images, channel, value):
    """Logits of a network in which one channel of a layer is replaced, by a hook."""

    def replaced(_module, _inputs, output):
        output = output.clone()
        output[:, channel] = value
        return output

    with network.get_submodule(layer).register_forward_hook(replaced), torch.no_grad():
        return network(images)


def slow_right(logits, labels, multilabel):
    """Whether one image is decided right: by signs, or by the first largest logit."""
    if multilabel or len(logits) == 1:
        return all((value > 0) == truth for value, truth in zip(logits, labels, strict=True))
    best = 0
    for position in range(1, len(logits)):
        if logits[position] > logits[best]:
            best = position
    return bool(labels[best])


def means_of(scene, layer):
    """Mean of every channel over images and positions."""
    needs = Needs(layers=frozenset({layer}))
    return scene.batch(needs).activations[layer].mean(dim=(0, 2, 3))


def census(scene, layer):
    """Summary of the census, as far as ablation reads it."""
    return {f"census@{layer}": xr.Dataset({"mean": ("channel", means_of(scene, layer).numpy())})}


def concluded(scene, probe, tables=None, controls=0, groups=None):
    """Survey a scene and conclude."""
    run = run_in_memory([probe], scene, controls=controls, summaries=tables or {})
    run = replace(run, groups=groups)
    return run.concluded(probe), run


# -- decisions ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_decisions_equal_the_reference(seed, classes, multilabel):
    """Labels are sets; ties go to the first class; a single logit is decided by its sign."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, size=(classes, 5, 3)).astype(float)
    labels = rng.random((5, classes)) < 0.5
    expected = [[slow_right(logits[:, n, k], labels[n], multilabel) for k in range(3)] for n in range(5)]

    np.testing.assert_array_equal(right(logits, labels, multilabel=multilabel), expected)


# -- a linear head -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_linear_head_equals_taking_the_channel_away(kind, classes):
    """Mean change, mean absolute change and every decision are those of the changed network."""
    scene = make_scene(multi_logit(classes), images=5)
    (probe,) = Ablation().split(scene.survey)
    layer, mean = probe.layer, means_of(scene, probe.layer)
    logits = scene.batch().logits
    labels = Labels(scene.labels.numpy(), np.ones(5, dtype=bool), False)
    run = run_in_memory([probe], scene, controls=0)
    found = linear_effects(run.pooled(layer).values, scene.survey.head.weight, logits.numpy(), labels)

    for channel in range(len(mean)):
        value = 0 if kind == "zero" else mean[channel]
        after = with_channel_set(scene.network, layer, scene.images, channel, value).view(5, -1)
        change = (after - logits).numpy()
        np.testing.assert_allclose(getattr(found, f"logit_{kind}")[channel], change.mean(0), atol=2e-6)
        np.testing.assert_allclose(getattr(found, f"size_{kind}")[channel], abs(change).mean(0), atol=2e-6)
        for image in range(5):
            before = slow_right(logits[image].tolist(), labels.sets[image], False)
            now = slow_right(after[image].tolist(), labels.sets[image], False)
            assert getattr(found, f"flips_{kind}")[image, channel] == now - before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_decisions_without_a_channel_equal_the_reference(seed, multilabel):
    """Every flip of every image and channel, in made-up data in which many decisions change."""
    rng = np.random.default_rng(seed)
    pooled, weight, labels = rng.random((6, 4)), rng.normal(size=(3, 4)), rng.random((6, 3)) < 0.5
    logits = pooled @ weight.T - 0.2
    found = linear_effects(pooled, weight, logits, Labels(labels, labels.any(1), multilabel))
    known = [n for n in range(6) if any(labels[n])]
    for kind, values in (("zero", [0.0] * 4), ("mean", [sum(pooled[:, k]) / 6 for k in range(4)])):
        for row, n in enumerate(known):
            before = slow_right(logits[n], labels[n], multilabel)
            for k in range(4):
                after = [logits[n, c] - weight[c, k] * (pooled[n, k] - values[k]) for c in range(3)]
                expected = slow_right(after, labels[n], multilabel) - before
                assert getattr(found, f"flips_{kind}")[row, k] == expected


def test_blocks_change_nothing(monkeypatch):
    """One image at a time gives the decisions that all images at once give."""
    rng = np.random.default_rng(0)
    pooled, weight, labels = rng.random((9, 7)), rng.normal(size=(3, 7)), rng.random((9, 3)) < 0.4
    given_labels = Labels(labels, labels.any(1), False)
    whole = linear_effects(pooled, weight, pooled @ weight.T, given_labels)
    monkeypatch.setattr(ablation, "_CHUNK", 1)
    again = linear_effects(pooled, weight, pooled @ weight.T, given_labels)

    np.testing.assert_array_equal(whole.flips_zero, again.flips_zero)
    assert np.abs(whole.flips_zero).sum() > 0


def test_the_planted_channel_matters_most_and_dead_ones_exactly_nothing():
    """In a network whose logit is one channel, that channel has the only effect."""
    network = planted_gap()
    with torch.no_grad():
        network.classifier.bias[0] = 0.1  # the rectangle's share is .25
    scene = make_scene(network, images=8)
    (probe,) = Ablation().split(scene.survey)
    summary = concluded(scene, probe)[0].summary
    effect = summary["size_zero"].values[:, 1]

    assert int(effect.argmax()) == PLANTED_CHANNEL == int(summary["top_channel"].values[1])
    assert effect[1] == 0
    assert summary["accuracy_zero"].values[1] == 0
    assert summary["accuracy_zero"].values[PLANTED_CHANNEL] < 0
    assert set(summary["accuracy_zero"].values[[0, 1, 3, 4, 5]]) == {0.0}


# -- the rest of the network -------------------------------------------------------------------


def flat_scene(**options):
    """A scene of a head that flattens its maps."""
    return make_scene(flat_head(), size=(8, 8), **options)


def resumed(scene, layer, images=3):
    """The probe for one layer without a linear head."""
    (probe,) = Ablation(layers=layer, images=images).split(scene.survey)
    assert isinstance(probe, ResumedAblation)
    return probe


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize(
    ("network", "layer"), [(flat_head, "features"), (branched, "block.long"), (branched, "stem")]
)
def test_resuming_equals_taking_the_channel_away(kind, network, layer):
    """Every change of every chosen image, also where a shortcut goes around the layer."""
    scene = make_scene(network(), size=(8, 8))
    infos = {info.name: info for info in describe_layers(scene.network, scene.images[:1])}
    scene = replace(scene, survey=replace(scene.survey, layers={layer: infos[layer]}, head=Head(False)))
    probe, tables = resumed(scene, layer), census(scene, layer)
    rows = run_in_memory([probe], scene, controls=0, summaries=tables).rows(probe.name)
    mean, logits = means_of(scene, layer), scene.batch().logits

    assert np.isfinite(rows["logit_zero"].values).all((1, 2)).nonzero()[0].tolist() == list(probe.chosen)
    for channel in range(len(mean)):
        value = 0 if kind == "zero" else mean[channel]
        after = with_channel_set(scene.network, layer, scene.images, channel, value)
        for image in probe.chosen:
            found = rows[f"logit_{kind}"].values[image, channel]
            np.testing.assert_allclose(found, (after - logits)[image].numpy(), atol=1e-5)
            decided = slow_right(after[image].tolist(), scene.labels[image].tolist(), False)
            assert rows[f"correct_{kind}"].values[image, channel] == decided


@pytest.mark.parametrize("layer", ["block.long", "block"])
def test_few_copies_at_once_change_nothing(layer, monkeypatch):
    """The smallest memory gives the logits of the largest."""
    scene = make_scene(branched(), size=(8, 8))
    batch, picked = scene.batch(), torch.tensor([1, 4])
    value = torch.full((8,), 0.1)
    first = ablation_pass.ablated_logits(batch, layer, picked, value)
    monkeypatch.setattr(ablation_pass, "_CHUNK", 1)
    second = ablation_pass.ablated_logits(batch, layer, picked, value)

    for whole, few in zip(first, second, strict=True):
        torch.testing.assert_close(whole, few)


def test_copies_stay_within_their_memory(monkeypatch):
    """No call gets more bytes of copies than allowed, or one batch."""
    scene, sizes = flat_scene(), []
    batch = scene.batch()
    maps = batch.activations["features"]
    kept = replace(
        batch, resume=lambda name, copies: (sizes.append(copies.nbytes), batch.resume(name, copies))[1]
    )
    monkeypatch.setattr(ablation_pass, "_CHUNK", 2 * maps.nbytes)
    ablation_pass.ablated_logits(kept, "features", torch.arange(6), torch.full((4,), 9.0))

    assert max(sizes) == 2 * maps.nbytes
    assert len(sizes) > 3


def test_maps_that_have_the_value_already_are_not_run():
    """Where nothing changes, only the maps as they are go through the network, in two orders."""
    scene, calls = flat_scene(), []
    batch = scene.batch()
    same = {"features": torch.full_like(batch.activations["features"], 0.5)}
    kept = replace(
        batch,
        activations=same,
        resume=lambda name, maps: (calls.append(len(maps)), batch.resume(name, maps))[1],
    )
    before, after = ablation_pass.ablated_logits(kept, "features", torch.arange(6), torch.full((4,), 0.5))

    assert calls == [6, 6]
    assert torch.equal(after, before[:, None].expand_as(after))


def test_dead_channels_have_exactly_no_effect():
    """A map that has the value already is not run, so rounding cannot make an effect."""
    scene = make_scene(dead_channel())
    layer = scene.survey.head.layer
    scene = replace(scene, survey=replace(scene.survey, head=Head(False)))
    probe, tables = resumed(scene, layer), census(scene, layer)
    conclusion, _ = concluded(scene, probe, tables)

    for name in ("size_zero", "size_mean"):
        assert (conclusion.summary[name].values[3] == 0).all()
        assert (conclusion.summary[name].values[0] != 0).all()
    assert conclusion.summary["accuracy_zero"].values[3] == 0


def test_both_forms_agree_at_a_linear_head():
    """Running the rest of the network gives what pooled maps and weights give."""
    scene = make_scene(multi_logit(3), images=6)
    (exact,) = Ablation().split(scene.survey)
    hidden = replace(scene, survey=replace(scene.survey, head=Head(False)))
    probe = resumed(hidden, exact.layer, images=6)
    first = concluded(scene, exact)[0].summary
    second = concluded(hidden, probe, census(scene, exact.layer))[0].summary

    for name in ("logit_zero", "size_zero", "size_mean", "relative", "accuracy_zero", "accuracy_mean"):
        np.testing.assert_allclose(first[name].values, second[name].values, atol=1e-4)


def test_many_classes_keep_the_predicted_one():
    """With twelve logits the change is that of each image's predicted class, and the name says so."""
    scene = make_scene(multi_logit(12))
    layer = scene.survey.head.layer
    scene = replace(scene, survey=replace(scene.survey, head=Head(False)))
    probe = resumed(scene, layer)
    conclusion, run = concluded(scene, probe, census(scene, layer))
    rows, logits = run.rows(probe.name), scene.batch().logits
    image, channel = probe.chosen[0], int(conclusion.summary["top_channel"].values[0])
    after = with_channel_set(scene.network, layer, scene.images, channel, 0)[image]
    best = int(logits[image].argmax())

    assert conclusion.summary["class"].values.tolist() == ["predicted class"]
    assert rows["logit_zero"].values[image, channel, 0] == pytest.approx(
        float(after[best] - logits[image, best]), abs=1e-5
    )


# -- conclusions over made-up data ----------------------------------------------------------------


def made_run(pooled, weight, labels, *, controls=(), groups=None, not_testable="", multilabel=False):
    """A run of a linear head without a network."""
    classes = tuple(f"class {number}" for number in range(len(weight)))

    def one(pooled, weight, name=""):
        head = Head(True, "conv", weight, np.zeros(len(weight)))
        return SimpleNamespace(
            name=name,
            survey=Survey({}, classes, (), (), head, (3, 8, 8), multilabel, 0, len(pooled)),
            pooled=lambda _layer: xr.DataArray(pooled, dims=("image", "channel")),
            alive=lambda _layer: "dead" not in name,
        )

    audited = one(pooled, weight)
    names = [f"{index}.png" for index in range(len(pooled))]
    audited.images = pd.DataFrame({"image": names, "mask": names, "split": "", "label": "a"})
    audited.contents = None
    audited.rows = lambda _name: xr.Dataset({"label": (("image", "class"), labels.astype(np.float32))})
    audited.logits = xr.DataArray(pooled @ weight.T, dims=("image", "class"))
    audited.groups, audited.not_testable = groups, not_testable
    audited.controls = [one(*control, name=f"c{i}") for i, control in enumerate(controls)]
    audited.summary_names = frozenset()
    return audited


def planted(seed, images=60, channels=30, noise=0.3):
    """Pooled features in which channel 4 carries the class, with a head that uses it and others a little."""
    rng = np.random.default_rng(seed)
    truth = rng.random(images) < 0.5
    pooled = rng.random((images, channels))
    pooled[:, 4] = truth + noise * rng.normal(size=images)
    weight = 0.1 * rng.normal(size=(2, channels))
    weight[:, 4] = [-1, 1]
    return pooled, weight, np.stack([~truth, truth], axis=1)


def unlearned(seed, images=60, channels=30):
    """Pooled features and weights of a network that learned nothing."""
    rng = np.random.default_rng(1000 + seed)
    return rng.random((images, channels)), rng.normal(size=(2, channels))


def finding_of(run):
    """The findings about both classes and about accuracy."""
    conclusion = check_conclusion(Ablation(layer="conv").conclude(run), "ablation")
    return conclusion.findings, conclusion.summary


def test_a_planted_channel_clears_its_controls_and_noise_hides_it():
    """The channel that carries the class is above four controls; where it only carries noise it is not."""
    controls = [unlearned(seed) for seed in range(4)]
    pooled, weight, labels = planted(0)
    findings, summary = finding_of(made_run(pooled, weight, labels, controls=controls))
    weak = 0.15 * np.sign(weight)
    hidden, _ = finding_of(made_run(pooled * 0 + unlearned(9)[0], weak, labels, controls=controls))

    assert [finding.verdict for finding in findings] == ["ok", "ok", "notice"]
    assert summary["top_channel"].values.tolist() == [4, 4]
    assert "hide each other" in findings[0].statement
    assert [finding.verdict for finding in hidden] == ["notice"] * 3


def test_a_constant_channel_does_not_matter_most():
    """Zeroing a constant moves every logit alike and far; what differs between images is what counts."""
    pooled, weight, labels = planted(0)
    pooled[:, 7], weight[:, 7] = 5.0, 1.0
    summary = finding_of(made_run(pooled, weight, labels))[1]

    assert summary["size_zero"].values[:, 1].argmax() == 7
    assert summary["top_channel"].values.tolist() == [4, 4]
    assert summary["size_mean"].values[7].max() == 0


def test_nothing_is_found_where_nothing_is():
    """A network that learned nothing is above four like it in at most 4 of 30 draws."""
    cleared = 0
    for seed in range(30):
        pooled, weight = unlearned(100 + seed)
        labels = np.eye(2, dtype=bool)[np.random.default_rng(seed).integers(0, 2, 60)]
        controls = [unlearned(200 + 10 * seed + i) for i in range(4)]
        cleared += finding_of(made_run(pooled, weight, labels, controls=controls))[0][0].verdict == "ok"

    assert cleared <= 4


def test_two_copies_of_a_channel_hide_each_other():
    """What the text warns of: accuracy falls without the one channel, not without one of two copies."""
    pooled, weight, labels = planted(1, noise=0.05)
    weight = np.where(np.arange(30) == 4, weight, 0)
    shifted = pooled - 0.5
    alone = finding_of(made_run(shifted, weight, labels))[1]
    twins = shifted.copy()
    twins[:, 5] = shifted[:, 4]
    both = weight.copy()
    both[:, 5] = weight[:, 4]
    paired = finding_of(made_run(twins, both, labels))[1]

    assert alone["accuracy_zero"].values[4] < -0.3
    assert paired["accuracy_zero"].values[4] == 0


def test_what_is_not_testable_is_never_ok():
    """The reason is in every statement."""
    pooled, weight, labels = planted(0)
    findings, _ = finding_of(
        made_run(pooled, weight, labels, controls=[unlearned(1)], not_testable="AUC too low")
    )

    assert {finding.verdict for finding in findings} == {"notice"}
    assert all("not testable here: AUC too low" in finding.statement for finding in findings)


def test_dead_controls_and_none_allow_no_verdict():
    """A control that does not respond counts for nothing."""
    pooled, weight, labels = planted(0)
    run = made_run(pooled, weight, labels, controls=[unlearned(1)])
    run.controls[0].alive = lambda _layer: False
    none = made_run(pooled, weight, labels)

    for own in (run, none):
        assert "no living control, so no verdict" in finding_of(own)[0][0].statement


def test_few_groups_mark_the_interval():
    """Tiles of four patients are four observations."""
    pooled, weight, labels = planted(0)
    findings, _ = finding_of(made_run(pooled, weight, labels, groups=np.repeat(list("abcd"), 15)))

    assert "unreliable: fewer than 10 groups" in findings[0].statement


def test_without_labels_accuracy_is_not_known():
    """Logits change all the same."""
    pooled, weight, labels = planted(0)
    findings, summary = finding_of(made_run(pooled, weight, labels & False))

    assert np.isnan(summary["accuracy_zero"].values).all()
    assert "no image that counts has a label" in findings[-1].statement
    assert np.isfinite(summary["logit_zero"].values).all()


def test_several_labels_are_decided_by_their_signs():
    """With sigmoids an image is right only if every sign is."""
    pooled, weight, labels = planted(0)
    several = finding_of(made_run(pooled - 0.5, weight, labels | True, multilabel=True))[1]
    expected = np.mean([slow_right(row, [True, True], True) for row in ((pooled - 0.5) @ weight.T).tolist()])

    assert several.attrs["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["dead", "one channel", "one image", "nan", "same logits"])
def test_bad_input_concludes_and_shows(kind):
    """All-dead layers, C = 1, one image, NaN and constant logits give no error, and sections."""
    pooled, weight, labels = planted(0)
    pooled = pooled * 0 if kind == "dead" else pooled
    if kind == "one channel":
        pooled, weight = pooled[:, :1], weight[:, :1]
    if kind == "one image":
        pooled, labels = pooled[:1], labels[:1]
    if kind == "nan":
        pooled[3] = np.nan
    weight = weight * 0 if kind == "same logits" else weight
    run = made_run(pooled, weight, labels, controls=[(pooled, weight)])
    findings, summary = finding_of(run)
    check_sections(Ablation(layer="conv").sections(summary, run), "ablation")

    assert int(summary["n"]) == {"one image": 1, "nan": 59}.get(kind, 60)
    if kind in {"dead", "one image", "same logits"}:
        assert "not estimable" in findings[0].statement
    if kind == "dead":
        assert not summary["size_zero"].values.any()


def test_the_relation_to_channel_f1_is_shown_where_both_are_known():
    """Spearman's correlation over channels, with how many there are."""
    pooled, weight, labels = planted(0)
    run = made_run(pooled, weight, labels)
    summary = finding_of(run)[1]
    f1 = np.abs(summary["relative"].values[:, :1]) ** 2
    f1[7] = np.nan
    quality = xr.Dataset({"mean_f1": (("channel", "class"), f1)}, coords={"class": ["gland"]})
    run.summary_names, run.summary = frozenset({"channel-f1@conv"}), lambda _name: quality
    (section,) = check_sections(Ablation(layer="conv").sections(summary, run), "ablation")

    relation = section.blocks[-1].frame
    assert relation["rho"].iloc[0] == pytest.approx(1)
    assert relation["n"].iloc[0] == 29


# -- the contract ------------------------------------------------------------------------------


def test_layers_get_the_form_that_suits_them():
    """The layer of a proved linear head needs no other pass; others read the census and no controls."""
    scene = make_scene()
    linear, other = Ablation(layers=f"{scene.survey.head.layer},features.0", images=4).split(scene.survey)

    assert isinstance(linear, Ablation)
    assert linear.needs(scene.survey).controls
    assert not linear.needs(scene.survey).tables
    assert isinstance(other, ResumedAblation)
    assert other.name == "ablation@features.0"
    assert other.needs(scene.survey).tables == {"census@features.0"}
    assert not other.needs(scene.survey).controls
    assert len(set(other.chosen)) == 4


def test_without_maps_there_is_nothing_to_ablate():
    """A network of vectors has no copy."""
    assert list(Ablation().split(replace(make_scene().survey, layers={}))) == []


def test_no_images_are_refused():
    """The message says what is wanted."""
    with pytest.raises(UsageError, match="ablation needs images; found: 0"):
        Ablation(images=0)


class TestLinear(ProbeSuite):
    """Ablation under a linear head conforms to the contract."""

    probe = Ablation()


class TestLinearSingleLogit(ProbeSuite):
    """Ablation of a network with one logit conforms."""

    probe = Ablation()

    def scene(self):
        """Make a scene of one logit."""
        return make_scene(_as_column(single_logit()))


class TestResumed(ProbeSuite):
    """Ablation by running the rest of the network conforms."""

    probe = Ablation(images=4)
    tables = census(flat_scene(), "features")

    def scene(self):
        """Make a scene whose head flattens its maps."""
        return flat_scene()


def _as_column(network):
    """Give the single logit a dimension of its own, as the host does."""
    return nn.Sequential(network, nn.Unflatten(0, (-1, 1)))


def test_one_channel_inputs_are_ablated():
    """A network for grey images is a network like any other."""
    scene = make_scene()
    grey = replace(scene, images=scene.images[:, :1]).with_network(one_channel())
    infos = {i.name: i for i in describe_layers(grey.network, grey.images[:1]) if i.layout == "maps"}
    grey = replace(grey, survey=replace(grey.survey, layers={"features": infos["features"]}))
    (probe,) = Ablation().split(grey.survey)

    assert np.isfinite(concluded(grey, probe, census(grey, "features"))[0].summary["size_zero"].values).all()
