"""Evidence that is planted is found; evidence that fades, or that is not there, is not."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.explainers import class_activation_map, grad_cam_map, plus_plus_map
from wsss_probe_explainers.localisation.localisation_probe import Localisation

from wsss_probe.testing import make_scene, run_in_memory
from wsss_probe.testing.synthetic import SceneOptions, planted

OK = "localisation/cam, features"


class RedNet(nn.Module):
    """Eight channels, of which the first sees red; GAP; class ``red`` is always predicted."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(8, 2)
        with torch.no_grad():
            self.features[0].weight[0] = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1) / 9
            self.features[0].bias[0] = -50 / 255
            self.classifier.weight[0] = torch.tensor([1.0] + [0.01] * 7)
            self.classifier.bias[:] = torch.tensor([20.0, 0.0])

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


@cache
def surveyed(contrast, *, shuffled=False, images=48, controls=2):
    """Survey noisy scenes with red objects and grey distractors; two scenes share a group."""
    options = SceneOptions(classes=("red",), contrast=contrast, distractors=3, group_size=2)
    scenes = planted(images, options=options)
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(np.stack([scene.mask for scene in scenes])).long() - 1
    masks[masks < 0] = -2
    if shuffled:
        masks = masks[torch.randperm(images, generator=torch.Generator().manual_seed(0))]
    scene = make_scene(RedNet().eval(), images=images, size=(64, 64))
    survey = replace(scene.survey, classes=("red", "other"), mask_classes=("red",))
    layers = {name: survey.layers[name] for name in ("features",)}
    scene = replace(scene, images=pixels, masks=masks, survey=replace(survey, layers=layers))
    scene = scene.with_explainers([class_activation_map, grad_cam_map, plus_plus_map])
    (part,) = Localisation().split(scene.survey)
    run = run_in_memory([part], scene, controls=controls)
    return part, replace(run, groups=np.array([one.group for one in scenes], dtype=object))


def concluded(contrast, **how):
    """Conclude over such a survey."""
    part, run = surveyed(contrast, **how)
    return run.concluded(part)


def verdict_of(conclusion, name=OK):
    """The finding of one explainer."""
    return next(finding for finding in conclusion.findings if finding.name == name)


def test_planted_evidence_is_above_everything():
    """Among noise and distractors the maps beat all baselines and the same maps on controls."""
    found = concluded(1.0)
    finding = verdict_of(found)

    assert finding.verdict == "ok", finding.statement
    assert "above all 5 maps that know nothing" in finding.statement
    assert "the mask of the explained class" in finding.statement
    assert finding.groups == 24
    at = found.summary.sel(explainer="cam, features")
    assert float(at["pointing"]) > 0.9
    assert float(at["dice"]) > 0.6
    assert float(at["pxap"]) > 0.7 > float(at["prevalence"]) + 0.4


def test_evidence_that_fades_is_not_above_the_baselines():
    """At a twentieth of the dye the maps are no better than what knows nothing."""
    finding = verdict_of(concluded(0.05))

    assert finding.verdict == "notice"
    assert "not above" in finding.statement


def test_nothing_is_located_by_masks_of_other_images():
    """With masks exchanged between images no map is above the centre blob, and none gets a verdict."""
    found = concluded(1.0, shuffled=True)

    assert all(finding.verdict == "notice" for finding in found.findings)
    means = found.summary["average_precision"]
    assert (
        float(means.sel(explainer="cam, features"))
        < float(means.sel(explainer="centre blob, 32 x 32")) + 0.05
    )


@pytest.mark.parametrize("groups", [2, 9])
def test_fewer_than_ten_groups_carry_no_verdict(groups):
    """The same numbers over few groups are a notice."""
    part, run = surveyed(1.0, images=18)
    few = replace(run, groups=np.array([str(number % groups) for number in range(18)], dtype=object))

    finding = verdict_of(few.concluded(part))

    assert finding.verdict == "notice"
    assert "fewer than 10 groups" in finding.statement


def test_without_a_living_control_there_is_no_verdict():
    """No control, or dead ones: a notice that says so."""
    none = verdict_of(concluded(1.0, controls=0, images=24))
    part, run = surveyed(1.0, images=24)
    dead = [replace(control, dead=frozenset({"features"})) for control in run.controls]
    degenerate = verdict_of(replace(run, controls=dead).concluded(part))
    half = verdict_of(replace(run, controls=[dead[0], run.controls[1]]).concluded(part))

    assert (none.verdict, degenerate.verdict) == ("notice", "notice")
    assert "no control was run" in none.statement
    assert "control degenerate" in degenerate.statement
    assert "on all 1 control" in half.statement
    assert "1 degenerate and left out" in half.statement


def test_a_classifier_that_cannot_be_tested_carries_no_verdict():
    """The reason stands in the statement."""
    part, run = surveyed(1.0, images=24)

    finding = verdict_of(replace(run, not_testable="AUC 0.5").concluded(part))

    assert finding.verdict == "notice"
    assert "not testable here: AUC 0.5" in finding.statement


def test_the_statement_on_several_objects_has_its_numbers():
    """Images with two objects or more are counted, and the difference stands with interval and controls."""
    part, run = surveyed(1.0)
    rows = run.rows("localisation")

    finding = verdict_of(run.concluded(part), "several-objects@features")

    many = (rows["objects"].values >= 2) & (rows["own"].values == 1)
    assert finding.n == many.sum()
    names = ["gradcampp, features", "gradcam, features"]
    second, first = (rows["recall"].sel(explainer=name).values[many].mean() for name in names)
    assert finding.effect == pytest.approx(second - first, abs=1e-6)
    assert "the same difference on 2 controls" in finding.statement
