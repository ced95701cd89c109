"""The further CAMs point at a planted object, lose it when it fades, and point nowhere by themselves."""

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.cams.contrast import FinerMap
from wsss_probe_explainers.cams.explainers import hi_res_map, program_maps, unnormalised_map, x_grad_map
from wsss_probe_explainers.cams.fusion import Fusion
from wsss_probe_explainers.cams.smoothing import SmoothMap
from wsss_probe_explainers.explainers import grad_cam_map, layer_cam_map

from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing.synthetic import SceneOptions, nothing, planted

FUSED = ("features.1", "features")
EXPLAINERS = [
    x_grad_map,
    hi_res_map,
    unnormalised_map,
    *program_maps,
    SmoothMap(samples=3),
    FinerMap(),
    Fusion("layercam", FUSED),
    Fusion("gradcam", FUSED, "max"),
]
every = pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: f"{e.name}{getattr(e, 'how', '')}")


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
                self.classifier.weight[1] = 0

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def network(*, trained):
    """Build the network, with the same random channels every time."""
    torch.manual_seed(0)
    return ColourNet(trained=trained).eval()


def maps_of(explainer, model, images, layer, target=0):
    """Explain a class of images."""
    layers = {info.name: info for info in describe_layers(model, images[:1])}
    found = explain(model, images, [(explainer, layer)], Asked(layers, target=target))
    return found[explainer.name, layer].numpy()


def pixels(scenes):
    """Network input, values in 0..1."""
    return torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255


def pointing(explainer, model, scenes):
    """Share of images whose largest relevance lies on the object, and the object's share of pixels."""
    layer = FUSED[0] if isinstance(explainer, Fusion) else "features"
    hits = []
    for plane, scene in zip(maps_of(explainer, model, pixels(scenes), layer), scenes, strict=True):
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        side = scene.mask.shape[0] // plane.shape[0]
        hits.append(scene.mask[side * row + side // 2, side * column + side // 2] > 0)
    return float(np.mean(hits)), float(np.mean([(scene.mask > 0).mean() for scene in scenes]))


def scenes_with(contrast):
    """Forty noisy scenes with red objects and grey distractors."""
    return planted(40, options=SceneOptions(classes=("red",), contrast=contrast, distractors=3))


@every
def test_a_further_map_points_at_the_object(explainer):
    """Among noise and grey distractors the largest relevance lies on the coloured object."""
    hit, chance = pointing(explainer, network(trained=True), scenes_with(contrast=1.0))

    assert hit >= 0.95
    assert chance < 0.2


@every
def test_a_further_map_loses_an_object_that_fades(explainer):
    """At a twentieth of the dye the map no longer points at the object."""
    faded, chance = pointing(explainer, network(trained=True), scenes_with(contrast=0.05))

    assert faded <= chance + 0.2


@every
@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
def test_a_further_map_locates_nothing_where_nothing_is(explainer, trained):
    """Where masks say nothing about pixels, no network's map is better located than chance."""
    scenes = nothing(80, seed=1, options=SceneOptions(classes=("red",)))

    hit, chance = pointing(explainer, network(trained=trained), scenes)

    assert hit <= chance + 3 * (chance * (1 - chance) / 80) ** 0.5


# -- what a contrast is for --------------------------------------------------------------------


class Kin(nn.Module):
    """Three kinds with the same red body; the first has a blue mark, the third a green one."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(3, 3)
        with torch.no_grad():
            self.features[0].weight.zero_()
            for channel in range(3):
                self.features[0].weight[channel, :, 0, 0] = -0.5
                self.features[0].weight[channel, channel, 0, 0] = 1.0
            self.features[0].bias.zero_()
            self.classifier.weight.copy_(torch.tensor([[2.0, 0, 1], [2, 0, 0], [2, 1, 0]]))
            self.classifier.bias.zero_()

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def kin(contrast, count=24):
    """Grey noisy pictures with a red body and a blue mark of this contrast, and where the mark is."""
    rng = np.random.default_rng(5)
    images = rng.normal(0.5, 0.05, (count, 3, 32, 32))
    marks = np.zeros((count, 32, 32), dtype=bool)
    for image, mark in zip(images, marks, strict=True):
        row, column = rng.integers(2, 10, 2)
        image[0, row : row + 10, column : column + 10] += 0.5
        row, column = rng.integers(18, 26, 2)
        mark[row : row + 4, column : column + 4] = True
        image[2] += contrast * 0.5 * mark
    return torch.tensor(images, dtype=torch.float32), marks[:, 1::2, 1::2]


def share_on_mark(explainer, contrast):
    """Relevance on the mark per cell, over relevance per cell elsewhere on the picture."""
    images, marks = kin(contrast)
    heat = maps_of(explainer, Kin().eval(), images, "features")
    return float(heat[marks].mean() / heat[~marks].mean())


def test_finer_cam_finds_what_sets_a_class_apart():
    """Grad-CAM lights body and mark, Finer-CAM mostly the mark; a mark that fades is lost by both."""
    images, marks = kin(1.0)
    peaks = {}
    for explainer in (grad_cam_map, FinerMap(), FinerMap(weight=1.0)):
        heat = maps_of(explainer, Kin().eval(), images, "features")
        top = heat.reshape(len(heat), -1).argmax(1)
        peaks[explainer.name, getattr(explainer, "weight", 0)] = np.mean(
            marks.reshape(len(marks), -1)[np.arange(len(marks)), top]
        )

    assert peaks["gradcam", 0] == 0
    assert peaks["finercam", 0.6] > 0.6
    assert peaks["finercam", 1.0] == 1
    assert share_on_mark(FinerMap(), 1.0) > 2 * share_on_mark(grad_cam_map, 1.0)
    assert share_on_mark(FinerMap(), 0.0) < 1.5


# -- what a fusion is for ----------------------------------------------------------------------


class Twofold(nn.Module):
    """A fine layer that sees edges of everything, a coarse layer that sees the object, blurred."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
        self.coarse = nn.AvgPool2d(8)
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.fine[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1))
            self.fine[0].bias.zero_()
            self.head.weight.copy_(torch.tensor([[1.0], [0.0]]))

    def forward(self, images):
        """Give logits (image, class)."""
        return self.head(self.coarse(self.fine(images)).mean((2, 3)))


def on_object(explainer, layer, noise):
    """Share of pictures whose largest relevance lies on a planted object, under pixel noise."""
    rng = np.random.default_rng(9)
    images = rng.normal(0.5, noise, (40, 3, 64, 64))
    places = rng.integers(0, 44, (40, 2))
    for image, (row, column) in zip(images, places, strict=True):
        image[0, row : row + 20, column : column + 20] += 0.25
    heat = maps_of(explainer, Twofold().eval(), torch.tensor(images, dtype=torch.float32), layer)
    hits = []
    for plane, (row, column) in zip(heat, places, strict=True):
        top = np.array(np.unravel_index(plane.argmax(), plane.shape)) * (64 // plane.shape[0])
        hits.append(
            bool((np.array([row, column]) <= top + 4).all() and (top < (row + 20, column + 20)).all())
        )
    return float(np.mean(hits))


def test_fusion_keeps_the_fine_grid_and_the_coarse_layers_evidence():
    """Noise hides the object from the fine layer; fused with the coarse one it is found, to a point."""
    fused = Fusion("gradcam", ("fine", "coarse"))

    alone = on_object(grad_cam_map, "fine", 0.3)
    assert alone < 0.6
    assert on_object(fused, "fine", 0.3) > alone + 0.3
    assert on_object(fused, "fine", 20.0) < 0.4


def test_fusion_of_layers_is_no_better_than_chance_where_nothing_is():
    """Random pictures of the trained network: the fused map's peak lies on a fixed square by chance."""
    images = torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    heat = maps_of(Fusion("layercam", ("fine", "coarse")), Twofold().eval(), images, "fine")

    top = heat.reshape(60, -1).argmax(1)
    inside = (top // 64 < 32) & (top % 64 < 32)

    assert abs(inside.mean() - 0.25) < 3 * (0.25 * 0.75 / 60) ** 0.5


def test_gradients_of_layer_cam_and_hi_res_cam_agree_on_positive_evidence():
    """With positive evidence only, HiRes-CAM is Layer-CAM."""
    model = network(trained=True)
    with torch.no_grad():
        model.classifier.weight.abs_()
    images = pixels(scenes_with(1.0)[:4])

    np.testing.assert_allclose(
        maps_of(hi_res_map, model, images, "features"),
        maps_of(layer_cam_map, model, images, "features"),
        rtol=1e-5,
    )
