"""The maps point at a planted object, stop doing so when it fades, and point nowhere by themselves."""

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers import CAM, GradCAM, GradCAMPlusPlus, LayerCAM

from wsss_probe.testing.synthetic import SceneOptions, nothing, planted

METHODS = [CAM, GradCAM, GradCAMPlusPlus, LayerCAM]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


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


def network(seed=0, *, trained):
    """Build the network, with the same random channels every time."""
    torch.manual_seed(seed)
    return ColourNet(trained=trained).eval()


def pointing(method, model, scenes):
    """Share of images whose largest relevance lies on the object, and the object's share of pixels."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    maps = method(model, "features").attribute(pixels, 0).values
    hits = []
    for plane, scene in zip(maps, scenes, strict=True):
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        hits.append(scene.mask[2 * row + 1, 2 * column + 1] > 0)  # the centre of the cell, not its corner
    return float(np.mean(hits)), float(np.mean([(scene.mask > 0).mean() for scene in scenes]))


def scenes_with(contrast):
    """Forty noisy scenes with red objects and grey distractors."""
    return planted(40, options=SceneOptions(classes=("red",), contrast=contrast, distractors=3))


@every
def test_the_map_points_at_the_object(method):
    """Among noise and grey distractors the largest relevance lies on the coloured object."""
    hit, chance = pointing(method, network(trained=True), scenes_with(contrast=1.0))

    assert hit >= 0.95
    assert chance < 0.2


@every
def test_the_map_loses_an_object_that_fades(method):
    """At a twentieth of the dye the map no longer points at the object."""
    faded, chance = pointing(method, network(trained=True), scenes_with(contrast=0.05))

    assert faded <= chance + 0.2


@every
@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
def test_nothing_is_located_where_nothing_is(method, trained):
    """Where masks say nothing about pixels, no network's map is better located than chance."""
    scenes = nothing(80, seed=1, options=SceneOptions(classes=("red",)))

    hit, chance = pointing(method, network(trained=trained), scenes)

    assert hit <= chance + 3 * (chance * (1 - chance) / 80) ** 0.5
