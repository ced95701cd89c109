"""The probe Sensitivity: captum's definition, planted stable and unstable maps, and the contract."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_explainers.baselines import centre_blob, intensity
from wsss_probe_explainers.explained_again import Sample
from wsss_probe_explainers.explainers import grad_cam_map
from wsss_probe_explainers.faithfulness.sensitivity_probe import Sensitivity, change, perturbed

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe.testing import ProbeSuite
from wsss_probe.testing.runs import run_in_memory
from wsss_probe.testing.scenes import make_scene


@dataclass(frozen=True)
class Made(Explainer):
    """A map that a test makes of the images."""

    name: str
    make: object
    card: DefinitionCard = DefinitionCard("made", "made", "made")  # noqa: RUF009  # frozen
    gradients: bool = False

    def attribute(self, batch, layer, target):
        """Call what the test gave."""
        return self.make(batch.images, tuple(batch.activations[layer].shape[2:])).float()


def unstable(images, grid):
    """Numbers that follow from the last digits of the image."""
    seeds = [torch.Generator().manual_seed(int(image.double().sum() * 1e6) % 2**31) for image in images]
    return torch.stack([torch.randn(grid, generator=seed) for seed in seeds])


def amplified(factor):
    """Make the intensity with its deviation from the first decimal blown up."""

    def make(images, grid):
        plane = intensity(images, grid)
        return plane.round(decimals=1) + factor * (plane - plane.round(decimals=1))

    return make


def concluded(*explainers, probe=None, images=12):
    """Conclude over the usual scene with some explainers."""
    scene = make_scene(images=images).with_explainers(explainers)
    (part,) = (probe or Sensitivity()).split(scene.survey)
    run = run_in_memory([part], scene, controls=0)
    return run.concluded(part), run, part


def slow_change(first, second):
    """Euclidean norm of the difference over that of the first, by loops."""
    moved = size = 0.0
    for one, other in zip(first, second, strict=True):
        moved += (other - one) ** 2
        size += one**2
    return math.sqrt(moved) / math.sqrt(size) if size else math.nan


@given(pairs=st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6))
def test_the_change_equals_loops(pairs):
    """Norm of the difference over the norm of the first map; undefined for zeros."""
    pairs = [(round(a, 2), round(b, 2)) for a, b in pairs]
    first, second = (np.array([[own]]) for own in zip(*pairs, strict=True))

    found, wanted = float(change(first, second)[0]), slow_change(*zip(*pairs, strict=True))

    assert (math.isnan(found) and math.isnan(wanted)) or found == pytest.approx(wanted, abs=1e-9)


def test_it_is_captums_on_the_same_noise():
    """The largest change over draws equals ``sensitivity_max`` where captum is given the same noise."""
    conclusion, run, part = concluded(grad_cam_map, probe=Sensitivity(images=1, draws=4), images=1)
    images = run.inputs([0])
    sample = Sample(np.array([0]), images, torch.tensor([int(run.logits.values[0].argmax())]))
    noisy = torch.cat([perturbed(sample, part.radius, run.survey.seed, draw) for draw in range(4)])

    for place, pair in enumerate(run.survey.relevance):

        def explained(given_images, pair=pair):
            target = sample.target.expand(len(given_images[0]))
            return (run.explain(given_images[0], [pair], target)[pair],)

        theirs = sensitivity_max(explained, images, perturb_func=lambda _: (noisy,), n_perturb_samples=4)
        if float(explained((images,))[0].abs().max()) > 0:
            found = float(conclusion.summary["mean"].values[place])
            assert found == pytest.approx(float(theirs), rel=1e-4)


def test_noise_is_uniform_within_the_radius_and_depends_on_the_image():
    """In standard deviations of each image; the same for the same image and draw."""
    images = torch.stack([torch.randn(3, 16, 16), 10 * torch.randn(3, 16, 16)])
    sample = Sample(np.array([3, 8]), images, "predicted")

    found = (perturbed(sample, 0.05, 0, 0) - images) / images.flatten(1).std(1)[:, None, None, None]

    assert float(found.abs().max()) <= 0.0501
    assert float(found.std()) == pytest.approx(0.05 / 3**0.5, rel=0.05)
    alone = Sample(np.array([8]), images[1:], "predicted")
    torch.testing.assert_close(perturbed(alone, 0.05, 0, 0), perturbed(sample, 0.05, 0, 0)[1:])
    assert not torch.equal(perturbed(alone, 0.05, 0, 1), perturbed(alone, 0.05, 0, 0))


def test_stable_and_unstable_maps_are_told_apart():
    """A blob does not move, intensity hardly, numbers from the last digits by more than their size."""
    blob = Made("blob", lambda images, grid: centre_blob(grid).expand(len(images), -1, -1))

    conclusion, run, _ = concluded(blob, Made("intensity", intensity), Made("unstable", unstable))

    layer = next(iter(run.survey.layers))
    mean = conclusion.summary["mean"]
    assert float(mean.sel(explainer=f"blob, {layer}")) == 0
    assert 0 < float(mean.sel(explainer=f"intensity, {layer}")) < 0.05
    assert float(mean.sel(explainer=f"unstable, {layer}")) > 1
    (finding,) = conclusion.findings
    assert finding.verdict == "notice"
    assert "unstable" in finding.statement
    assert "intensity" not in finding.statement


def test_sensitivity_rises_by_degrees():
    """The more the small digits of the image are blown up, the more sensitive the map is."""
    factors = (1, 10, 100)
    conclusion, run, _ = concluded(*(Made(f"by{f}", amplified(f)) for f in factors))

    layer = next(iter(run.survey.layers))
    found = [float(conclusion.summary["mean"].sel(explainer=f"by{f}, {layer}")) for f in factors]
    assert found == sorted(found)
    assert found[0] < 0.1 < found[2]


def test_a_map_of_zeros_is_undefined_and_counted():
    """There is no relative change of nothing."""
    zeros = Made("zeros", lambda images, grid: torch.zeros(len(images), *grid))

    conclusion, _, _ = concluded(zeros)

    assert np.isnan(conclusion.summary["mean"]).all()
    assert (conclusion.summary["defined"] == 0).all()


class TestSensitivity(ProbeSuite):
    """Sensitivity conforms to the contract."""

    probe = Sensitivity(images=4, draws=2)

    def scene(self):
        """Make the usual scene, with maps."""
        return make_scene().with_explainers([grad_cam_map])


def test_an_explainer_that_fails_leaves_the_others():
    """What cannot be explained again is undefined, the others are measured."""

    def refuse(images, grid):
        raise RuntimeError("does not suit")

    scene = make_scene().with_explainers([grad_cam_map])
    (part,) = Sensitivity(images=3, draws=1).split(scene.survey)
    run = run_in_memory([part], scene, controls=0)

    broken = run.scene.with_explainers([grad_cam_map, Made("broken", refuse)])
    found = replace(run, scene=broken).concluded(part).summary["defined"]

    lost = [str(name).startswith("broken") for name in found["explainer"].values]
    assert (found.values[lost] == 0).all()
    assert (found.values[~np.array(lost)] > 0).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": 0}, "sensitivity needs images; found: 0; wanted: 1 or more"),
        ({"draws": 0}, "sensitivity needs draws; found: 0; wanted: 1 or more"),
        ({"radius": 0.0}, "sensitivity needs a radius; found: 0.0; wanted: more than 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words):
    """One line says what was found and what is wanted."""
    with pytest.raises(UsageError, match=words):
        Sensitivity(**options)
