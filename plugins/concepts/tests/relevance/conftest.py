"""A network whose features are known one by one, and concepts that it uses, encodes, or has never seen."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_concepts.relevance.gradients import ConceptGradients
from wsss_probe_concepts.relevance.probe import ConceptRelevance
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe.testing import make_scene, run_in_memory


class Planted(nn.Module):
    """Independent features of patches of noise; logits bend with the first and hardly know the others."""

    def __init__(self, channels=12, linear=False, classes=2):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Conv2d(3, channels, 4, stride=4)
        axes = torch.linalg.qr(torch.randn(48, 48, generator=generator))[0][:channels]
        hidden = 0.03 * torch.randn(8, channels, generator=generator)
        hidden[:, 0] += torch.linspace(0.5, 1.5, 8)
        if channels > 48:
            axes = torch.randn(channels, 48, generator=generator) / 7
        self.hidden, self.out = nn.Linear(channels, 8), nn.Linear(8, classes)
        self.bend = nn.Identity() if linear else nn.Softplus()
        with torch.no_grad():
            self.features.weight.copy_(6 * axes.reshape(channels, 3, 4, 4))
            self.features.bias.zero_()
            self.hidden.weight.copy_(hidden)
            self.hidden.bias.copy_(torch.linspace(-1, 1, 8))
            self.out.weight.copy_(torch.linspace(1, -1, classes)[:, None].expand(-1, 8))
            self.out.bias.copy_(torch.linspace(-4, 4, classes) if classes == 2 else torch.zeros(classes))

    def forward(self, images):
        """Logits."""
        return self.out(self.bend(self.hidden(self.features(images - 0.5).mean((2, 3)))))


def planted_scene(images=120, seed=0, noise=0.3, network=None, labelled=True):
    """Patches of noise, and concepts with noise of their own; classes as the network predicts them."""
    network = Planted() if network is None else network
    scene = make_scene(network, images=images, size=(8, 8), seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    pixels = torch.randn(images, 3, 8, 8, generator=generator) * 0.3 + 0.5
    with torch.no_grad():
        logits = network(pixels)
        features = network.features(pixels - 0.5).mean((2, 3)).double().numpy()
    labels = torch.zeros(images, logits.shape[1], dtype=torch.bool)
    labels[torch.arange(images), logits.argmax(1)] = labelled
    rng = np.random.default_rng(seed)

    def noisy(values):
        return values + noise * values.std() * rng.normal(size=images)

    concepts = {
        "m/used": noisy(features[:, 0]),
        "m/turned": noisy(-features[:, 0]),
        "m/unused": noisy(features[:, 7]),
        "m/noise": rng.normal(size=images),
        "m/constant": np.ones(images),
    }
    scene = dataclasses.replace(scene, images=pixels, labels=labels)
    return scene.with_concepts(concepts)


def concluded(scene, controls=2, groups=5, permutations=99, **changes):
    """Survey a scene and conclude vectors, gradients and relevance; give the run and the last conclusion."""
    survey = scene.survey
    gradients = list(ConceptGradients().split(survey))
    run = run_in_memory(gradients, scene, controls=controls)
    if groups:
        run = dataclasses.replace(run, groups=np.arange(len(scene.images)) // groups)
    run = dataclasses.replace(run, **changes)
    relevance = ConceptRelevance(permutations=permutations, scored=min(permutations, 49)).split(survey)
    for probe in (*Rcv(permutations=0, models=("ridge",)).split(survey), *gradients, *relevance):
        conclusion = run.concluded(probe)
        run = dataclasses.replace(run, summaries={**run.summaries, probe.name: conclusion.summary})
    return run, probe, conclusion


class Made:
    """What the tests build runs with."""

    Planted = Planted
    scene, concluded = staticmethod(planted_scene), staticmethod(concluded)


@pytest.fixture(scope="session")
def made():
    """Builders of planted scenes and of conclusions over them."""
    return Made
