"""Maps on the input find a planted object, lose it when it fades, and find nothing where nothing is."""

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.pixels import (
    DeepLiftMap,
    FeatureAblationMap,
    GuidedGradCAMMap,
    InputXGradientMap,
    IntegratedGradientsMap,
    OcclusionMap,
    SaliencyMap,
    SmoothGradMap,
)

from wsss_probe.contracts import INPUT
from wsss_probe.explaining import Asked, explain
from wsss_probe.testing.synthetic import SceneOptions, nothing, planted

METHODS = [
    SaliencyMap(),
    InputXGradientMap(),
    IntegratedGradientsMap(steps=16),
    SmoothGradMap(samples=8, noise=0.05),
    GuidedGradCAMMap(),
    DeepLiftMap(),
    OcclusionMap(window=8, stride=4),
    FeatureAblationMap("patches", number=64),
]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
IMAGES = 24


class ColourNet(nn.Module):
    """GAP over eight channels: the first sees reddish pixels, the others are random; linear head."""

    def __init__(self, *, trained):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(8, 2)
        if trained:
            with torch.no_grad():
                self.features[0].weight[0] = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1) / 9
                self.features[0].bias[0] = -50 / 255
                self.classifier.weight[0] = torch.tensor([1.0] + [0.01] * 7)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def network(*, trained):
    """Build the network, with the same random channels every time."""
    torch.manual_seed(0)
    return ColourNet(trained=trained).eval()


def located(method, model, scenes):
    """Share of the absolute relevance that lies on the object, by image, and the object's share of pixels."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    maps = explain(model, pixels, [(method, INPUT)], Asked({}, target=0))[method.name, INPUT].abs().numpy()
    masks = np.stack([scene.mask > 0 for scene in scenes])
    shares = (maps * masks).sum((1, 2)) / maps.sum((1, 2))
    return shares, masks.mean((1, 2))


def scenes_with(contrast):
    """Noisy scenes with red objects and grey distractors."""
    return planted(IMAGES, options=SceneOptions(classes=("red",), contrast=contrast, distractors=3))


@every
def test_relevance_lies_on_the_object(method):
    """Among noise and grey distractors at least three times the object's share of pixels lies on it."""
    shares, area = located(method, network(trained=True), scenes_with(contrast=1.0))

    assert np.median(shares / area) > 3


@every
def test_relevance_loses_an_object_that_fades(method):
    """At a twentieth of the dye the relevance is no longer on the object."""
    shares, area = located(method, network(trained=True), scenes_with(contrast=0.05))

    assert np.median(shares / area) < 1.5


@every
def test_nothing_is_located_where_nothing_is(method):
    """Where masks say nothing about pixels, relevance is not drawn to them."""
    scenes = nothing(60, seed=1, options=SceneOptions(classes=("red",)))

    shares, area = located(method, network(trained=True), scenes)

    excess = shares - area
    assert excess.mean() < 3 * excess.std() / len(excess) ** 0.5 + 0.01
