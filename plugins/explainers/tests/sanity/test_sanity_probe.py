"""The probe Sanity: maps that need no network are caught, those of a trained one pass."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.baselines import centre_blob, edge_map
from wsss_probe_explainers.explainers import grad_cam_map, layer_cam_map
from wsss_probe_explainers.sanity.sanity_probe import Sanity

from wsss_probe import Contrast, DefinitionCard, Explainer
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.testing import ProbeSuite
from wsss_probe.testing.runs import run_in_memory
from wsss_probe.testing.scenes import make_scene

CARD = DefinitionCard("made", "made", "made")


@dataclass(frozen=True)
class Made(Explainer):
    """A map that a test makes."""

    name: str
    make: object
    card: DefinitionCard = CARD
    gradients: bool = False

    def attribute(self, batch, layer, target):
        """Call what the test gave."""
        return self.make(batch, layer, target).float()


def edges(batch, layer, target):
    """Edges of the input: nothing of the network."""
    return edge_map(batch.images, batch.activations[layer].shape[2:])


def principal(batch, layer, target):
    """First principal component of the activations: nothing of the class."""
    maps = batch.activations[layer]
    flat = maps.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    left, _, _ = torch.linalg.svd(centred, full_matrices=False)
    plane = torch.einsum("nc,ncp->np", left[:, :, 0], centred).abs()
    return plane.view(len(maps), *maps.shape[2:])


def refuses(batch, layer, target):
    """Fail, as an explainer may on a changed network."""
    raise ModelError("does not suit")


class Tiny(nn.Module):
    """Two convolutions with BatchNorm and a linear head: red objects against blue ones."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(8, 2)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def coloured(images, seed):
    """Noise, a red or blue object that says the class, and bright and dark distractors that do not."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(images, 3, 32, 32, generator=generator) * 0.3 + 0.35
    classes = torch.arange(images) % 2
    for index in range(images):
        places = torch.randint(2, 22, (3, 2), generator=generator).tolist()
        changes = [torch.tensor([0.4, -0.2, -0.2]) * (1 if classes[index] else -1), 0.4, -0.4]
        for (row, column), change in zip(reversed(places), reversed(changes), strict=True):
            change = change[:, None, None] if isinstance(change, torch.Tensor) else change
            pixels[index, :, row : row + 8, column : column + 8] += change
    return pixels, classes


@pytest.fixture(scope="module")
def trained():
    """Train the tiny network on two hundred images; a scene of 24 others."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = Tiny()
        pixels, classes = coloured(200, 1)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(pixels), classes).backward()
            optimiser.step()
    net = net.eval().requires_grad_(False)
    others, wanted = coloured(24, 2)
    scene = make_scene(net, images=24, size=(32, 32))
    labels = nn.functional.one_hot(wanted, 2).bool()
    assert float((net(others).argmax(1) == wanted).float().mean()) > 0.9
    layers = {"features": scene.survey.layers["features"]}
    return replace(scene, images=others, labels=labels, survey=replace(scene.survey, layers=layers))


def concluded(scene, *explainers, probe=None):
    """Conclude over a scene with some explainers."""
    scene = scene.with_explainers(explainers)
    (part,) = (probe or Sanity(groups=4)).split(scene.survey)
    run = run_in_memory([part], scene, controls=0)
    return run.concluded(part), run, part


def named(conclusion, name):
    """The finding of a name."""
    return next(finding for finding in conclusion.findings if finding.name == name)


def test_edges_are_caught_and_grad_cam_of_a_trained_network_passes(trained):
    """A map of edges stays as it was when all is forgotten; Grad-CAM does not."""
    conclusion, _, _ = concluded(trained, grad_cam_map, Made("edges", edges))
    summary = conclusion.summary

    assert summary["verdict"].sel(explainer="edges, features") == "hardly depends"
    assert summary["verdict"].sel(explainer="gradcam, features") != "hardly depends"
    warning = named(conclusion, "weights/edges@features")
    assert warning.verdict == "warning"
    assert warning.statement.startswith("The map of edges at features hardly depends on the weights")
    np.testing.assert_allclose(
        summary["mean"].sel(explainer="edges, features", similarity="absolute"), 1, atol=1e-6
    )
    assert float(summary["kept"].sel(explainer="edges, features")) == pytest.approx(1)
    assert float(summary["kept"].sel(explainer="gradcam, features")) < 0.5


def test_a_map_drawn_from_the_weights_depends_on_them_wholly(trained):
    """Noise that follows from the weights is unlike itself once they are drawn again, and ok."""

    def hashed(batch, layer, target):
        seed = int(batch.activations[layer].double().sum() * 1e4) % 2**31
        shape = batch.activations[layer].shape
        return torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(seed))

    conclusion, _, _ = concluded(trained, Made("hashed", hashed))

    assert conclusion.summary["verdict"].sel(explainer="hashed, features") == "depends"
    assert named(conclusion, "weights-depends").verdict == "ok"


def test_dependence_fades_by_degrees(trained):
    """The more of the edges is mixed into a map of noise, the more of it is kept."""

    def mixed(share):
        def make(batch, layer, target):
            own = edges(batch, layer, target)
            seed = int(batch.activations[layer].double().sum() * 1e4) % 2**31
            noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(seed))
            return share * own / own.std() + (1 - share) * noise / noise.std()

        return make

    shares = (0.0, 0.4, 0.8, 1.0)
    conclusion, _, _ = concluded(trained, *(Made(f"mixed{s}", mixed(s)) for s in shares))

    kept = [float(conclusion.summary["kept"].sel(explainer=f"mixed{s}, features")) for s in shares]
    verdict = [str(conclusion.summary["verdict"].sel(explainer=f"mixed{s}, features").values) for s in shares]
    assert kept == sorted(kept)
    assert verdict == ["depends", "depends in part", "hardly depends", "hardly depends"]


def test_a_map_that_is_the_same_for_every_image_cannot_be_tested(trained):
    """A centre blob is alike for all images already: that is said, and it is no pass."""

    def blob(batch, layer, target):
        return centre_blob(batch.activations[layer].shape[2:]).expand(len(batch.indices), -1, -1)

    conclusion, _, _ = concluded(trained, Made("blob", blob))

    assert conclusion.summary["verdict"].sel(explainer="blob, features") == "undefined"
    assert not conclusion.summary["alive"].values.any()
    assert named(conclusion, "weights-undefined").verdict == "notice"


def test_maps_that_ignore_the_class_are_named(trained):
    """A principal component of the activations is the same for another class; Grad-CAM's map is not."""
    conclusion, _, _ = concluded(trained, grad_cam_map, Made("principal", principal))

    same = conclusion.summary["logit"].sel(similarity="signed")
    assert float(same.sel(explainer="principal, features")) == pytest.approx(1)
    assert float(same.sel(explainer="gradcam, features")) < 0.9
    finding = named(conclusion, "class-does-not-matter")
    assert finding.verdict == "warning"
    assert "principal, features 1.00" in finding.statement
    assert "gradcam" not in finding.statement


def test_chance_is_between_images_and_identity_is_one(trained):
    """Chance is the similarity of maps of different images, by loops."""
    from wsss_probe_explainers.sanity.similarity import similarity

    conclusion, run, part = concluded(trained, Made("edges", edges), probe=Sanity(images=4, groups=1))

    maps = edge_map(run.inputs(part.chosen), (16, 16)).numpy()
    total = []
    for first in range(4):
        for shift in (1, 2, 3):
            second = (first - shift) % 4
            total.append(similarity(maps[first : first + 1], maps[second : second + 1])[0])
    found = conclusion.summary["chance"].sel(explainer="edges, features")
    np.testing.assert_allclose(found, np.mean(total, axis=0), atol=1e-9)


def test_an_explainer_that_fails_does_not_spoil_the_others(trained):
    """What cannot be explained again is undefined; the others are judged."""
    scene = trained.with_explainers([Made("edges", edges)])
    (part,) = Sanity(groups=2).split(scene.survey)
    run = run_in_memory([part], scene, controls=0)
    broken = run.scene.with_explainers([Made("edges", edges), Made("broken", refuses)])

    conclusion = replace(run, scene=broken).concluded(part)

    found = conclusion.summary["verdict"]
    assert found.sel(explainer="edges, features") == "hardly depends"
    assert found.sel(explainer="broken, features") == "undefined"


def test_the_class_of_the_trained_network_is_kept(trained):
    """Whatever a network that has forgotten predicts, the class that was explained first is asked for."""
    asked = []

    def note(batch, layer, target):
        asked.append(batch.targets[target].argmax(1))
        return edges(batch, layer, target)

    _, run, part = concluded(trained, Made("note", note), probe=Sanity(images=4, groups=2, draws=1))

    wanted = torch.from_numpy(run.logits.values[list(part.chosen)].argmax(1))
    assert torch.equal(asked[0], wanted) or len(asked[0]) != 4
    last = [item for item in asked if len(item) == 4]
    assert sum(torch.equal(item, wanted) for item in last) == len(last) - 1  # the random logit
    assert any(torch.equal(item, 1 - wanted) for item in last)


def test_nine_groups_and_an_untestable_classifier_are_never_ok(trained):
    """With few groups, or a classifier that has learned nothing, what passes is a notice."""
    _, run, part = concluded(trained, grad_cam_map, layer_cam_map, probe=Sanity(groups=2))

    for changed in (replace(run, groups=np.arange(24) % 9), replace(run, not_testable="AUC 0.5")):
        assert not [f for f in changed.concluded(part).findings if f.verdict == "ok"]


class TestSanity(ProbeSuite):
    """Sanity conforms to the contract."""

    probe = Sanity(images=4, groups=2, draws=1)

    def scene(self):
        """Make the usual scene, with maps."""
        return make_scene().with_explainers([grad_cam_map])


def test_a_contrast_stays_one(trained):
    """A contrast is explained as such; there is no random logit for it."""
    scene = replace(trained, survey=replace(trained.survey, targets=(Contrast(1, 0),)))

    conclusion, run, part = concluded(scene, grad_cam_map, probe=Sanity(images=4, groups=1, draws=1))

    assert np.isnan(run.rows(part.name)["explained"]).all()
    assert np.isnan(conclusion.summary["logit"]).all()
    assert np.isfinite(conclusion.summary["mean"]).any()


@pytest.mark.parametrize("name", ["images", "groups", "draws"])
def test_options_that_cannot_be_meant_are_refused(name):
    """One line says what was found and what is wanted."""
    with pytest.raises(UsageError, match=f"sanity needs {name}; found: 0; wanted: 1 or more"):
        Sanity(**{name: 0})


def test_without_maps_there_is_nothing_to_judge():
    """A survey without explainers gets no copy of the probe."""
    assert Sanity().split(make_scene().survey) == ()
