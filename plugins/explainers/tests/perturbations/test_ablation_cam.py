"""Ablation-CAM equals a slow reference, captum, and the closed form of a linear head.

The reference comes first: loops only, nothing of ours imported.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import LayerFeatureAblation
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_explainers.perturbations.ablation_cam import AblationMap, ablation_cam_map

from wsss_probe.contracts import Contrast
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing import ExplainerSuite
from wsss_probe.testing.models import branched
from wsss_probe.testing.scenes import make_scene
from wsss_probe.testing.synthetic import SceneOptions, nothing, planted

# -- reference --------------------------------------------------------------------------------


def slow_ablation_cam(planes, rest):
    """Desai & Ramaswamy 2020: ``rest`` gives the target's score from the planes of a layer."""
    whole = rest(planes)
    heat = [[0.0] * len(planes[0][0]) for _ in planes[0]]
    for k, plane in enumerate(planes):
        without = [[[0.0] * len(row) for row in other] if n == k else other for n, other in enumerate(planes)]
        weight = (whole - rest(without)) / abs(whole)
        for i, row in enumerate(plane):
            for j, value in enumerate(row):
                heat[i][j] += weight * value
    return [[max(value, 0.0) for value in row] for row in heat]


class Rest(nn.Module):
    """A convolution, then a head that is not linear: squares of two filters over the whole map."""

    def __init__(self, channels=4, classes=3, *, rectified=True, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU() if rectified else nn.Identity())
        self.mix = nn.Conv2d(channels, 2, 1)
        self.classifier = nn.Linear(2, classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.mix(self.features(images)).square().mean((2, 3)))


def rest_in_python(net, target):
    """Write what follows the layer with lists and loops."""
    mix, mix_bias = net.mix.weight[:, :, 0, 0].tolist(), net.mix.bias.tolist()
    weight, bias = net.classifier.weight[target].tolist(), net.classifier.bias.tolist()[target]

    def rest(planes):
        score = bias
        rows, columns = len(planes[0]), len(planes[0][0])
        for out, filters in enumerate(mix):
            total = 0.0
            for i in range(rows):
                for j in range(columns):
                    value = sum(w * plane[i][j] for w, plane in zip(filters, planes, strict=True))
                    total += (value + mix_bias[out]) ** 2
            score += weight[out] * total / (rows * columns)
        return score

    return rest


def maps_of(net, images, explainer, target="predicted", layer="features"):
    """Let the host explain some images."""
    layers = {info.name: info for info in describe_layers(net, images[:1])}
    return explain(net, images, [(explainer, layer)], Asked(layers, target=target))[explainer.name, layer]


def draw(seed, images=3, rows=4, columns=5):
    """Draw images."""
    return torch.randn(images, 3, rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(0, 2), st.integers(1, 9))
def test_it_equals_its_reference(seed, rectified, target, at_once):
    """Ablation-CAM follows its paper, with |Y| for Y, however many copies run at once."""
    net, images = Rest(rectified=rectified, seed=seed).eval(), draw(seed)
    rest = rest_in_python(net, target)

    maps = net.features(images).tolist()
    assume(all(abs(rest(planes)) > 0.05 for planes in maps))  # nearer to 0 rounding is blown up
    expected = [slow_ablation_cam(planes, rest) for planes in maps]

    found = maps_of(net, images, AblationMap(at_once=at_once), target)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-4)


def test_it_equals_captums_feature_ablation():
    """The falls of the logit are captum's LayerFeatureAblation with a channel as a feature."""
    net, images = Rest(channels=5, seed=3).eval(), draw(3)
    channels = torch.arange(5)[None, :, None, None].expand(1, 5, 4, 5)
    falls = LayerFeatureAblation(net, net.features).attribute(images, target=1, layer_mask=channels)
    maps, score = net.features(images), net(images)[:, 1].abs()

    expected = ((falls / score[:, None, None, None]) * maps).sum(1).relu().detach()

    torch.testing.assert_close(maps_of(net, images, ablation_cam_map, 1), expected, rtol=1e-4, atol=1e-5)


class Pooled(nn.Module):
    """GAP + linear without a bias."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(6, 3, bias=False)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def test_a_linear_head_has_a_closed_form():
    """On GAP + linear, w_k = w_ck mean(A_k) / |Y|, as the card says."""
    torch.manual_seed(0)
    net, images = Pooled().eval(), draw(1, rows=6, columns=7)
    maps, logits = net.features(images).detach(), net(images).detach()

    for target in range(3):
        weight = net.classifier.weight[target].detach() * maps.mean((2, 3)) / logits[:, target, None].abs()
        expected = (weight[:, :, None, None] * maps).sum(1).relu()
        torch.testing.assert_close(
            maps_of(net, images, ablation_cam_map, target), expected, rtol=1e-4, atol=1e-5
        )


def test_a_contrast_falls_by_the_difference():
    """The score of a contrast is the difference of its logits, before and after."""
    net, images = Rest(seed=8).eval(), draw(8)
    first, second = rest_in_python(net, 0), rest_in_python(net, 2)

    expected = [
        slow_ablation_cam(planes, lambda p: first(p) - 0.5 * second(p))
        for planes in net.features(images).tolist()
    ]

    found = maps_of(net, images, ablation_cam_map, Contrast(0, 2, 0.5))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-4)


# -- conformance -------------------------------------------------------------------------------


class TestAblationCAM(ExplainerSuite):
    """Ablation-CAM conforms to the contract."""

    explainer = ablation_cam_map


class TestTop(ExplainerSuite):
    """Ablation-CAM of some channels conforms to the contract."""

    explainer = AblationMap(top=2, at_once=4, name="ablationcam-top2")


class TestShortcut(ExplainerSuite):
    """Ablation-CAM conforms where a shortcut goes around the layer."""

    explainer = ablation_cam_map

    def scene(self):
        """Make a scene on a network with branches."""
        return make_scene(branched())


def counted(batch):
    """Count the copies that go through the rest of the network."""
    sizes = []

    def resume(layer, maps):
        sizes.append(len(maps))
        return batch.resume(layer, maps)

    return replace(batch, resume=resume), sizes


def test_only_channels_that_are_active_are_run():
    """A channel that is zero everywhere costs no pass; copies come in whole batches within the bound."""
    scene = make_scene(images=3)
    layer = scene.survey.head.layer
    batch = scene.batch()
    maps = batch.activations[layer].clone().abs() + 0.1
    maps[:, 2:] = 0
    maps[1, 1:] = 0
    batch, sizes = counted(replace(batch, activations={layer: maps}))

    AblationMap(at_once=5).attribute(batch, layer, "label")

    assert sizes == [3, 3, 3]  # as it is, then two turns of one copy of three images


def test_images_that_cannot_be_explained_give_nan():
    """An unreadable image, one without the target and one with a score of 0 have no map."""
    scene = make_scene(images=4).unreadable([0])
    layer = scene.survey.head.layer
    batch = scene.batch()
    weights = batch.targets["predicted"].clone()
    weights[1] = float("nan")
    weights[2] = 0

    found = ablation_cam_map.attribute(replace(batch, targets={"predicted": weights}), layer, "predicted")

    assert found.isnan().flatten(1).all(1).tolist() == [True, True, True, False]


def test_what_it_is_given_stays_as_it_is():
    """Activations are copied before a channel is set to zero."""
    scene = make_scene(images=2)
    layer = scene.survey.head.layer
    batch = scene.batch()
    before = batch.activations[layer].clone()

    ablation_cam_map.attribute(batch, layer, "label")

    torch.testing.assert_close(batch.activations[layer], before, rtol=0, atol=0)


def test_top_keeps_the_channels_with_the_largest_spread():
    """With top = 1 the map is the channel that varies most, or zero if it speaks against the class."""
    net, images = Rest(channels=6, seed=1).eval(), draw(4)
    maps = net.features(images).detach()
    widest = maps[torch.arange(3), maps.flatten(2).std(2, correction=0).argmax(1)]

    found = maps_of(net, images, AblationMap(top=1), 0)

    scale = found.flatten(1).amax(1) / widest.flatten(1).amax(1)
    torch.testing.assert_close(found, widest * scale[:, None, None], rtol=1e-4, atol=1e-5)
    assert float(found.max()) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_words(dtype):
    """One channel of hundreds moves a logit by less than half precision resolves."""
    scene = make_scene(images=2)
    layer = scene.survey.head.layer
    batch = scene.batch()
    batch = replace(batch, activations={layer: batch.activations[layer].to(dtype)})

    with pytest.raises(ModelError, match=rf"would be rounding; found: {dtype}; wanted: float32"):
        ablation_cam_map.attribute(batch, layer, "label")


@pytest.mark.parametrize("options", [{"top": -1}, {"at_once": 0}, {"at_once": 2.5}])
def test_options_that_cannot_be_meant_are_refused(options):
    """An option is checked before any pass."""
    with pytest.raises(UsageError, match="is no count"):
        AblationMap(**options)


def test_the_card_is_complete():
    """The card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = ablation_cam_map.card

    assert "doi:" in card.paper
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))
    assert ablation_cam_map.default is False


# -- planted truth -----------------------------------------------------------------------------


class Colours(nn.Module):
    """Channels for reddish and for dark pixels, and four random ones; class 0 is red, whatever is dark."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(6, 2)
        for parameter in self.parameters():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        kernel, bias = self.features[0].weight.data, self.features[0].bias.data
        kernel[0], bias[0] = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1) / 9, -50 / 255
        kernel[1], bias[1] = torch.full((3, 3, 3), -1 / 9), 2.4
        self.classifier.weight.data[0, :2] = torch.tensor([100.0, 0.0])

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def pointing(scenes):
    """Share of images whose largest relevance lies on the object, and the object's share of pixels."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    maps = maps_of(Colours().eval(), pixels, ablation_cam_map, 0).numpy()
    hits = []
    for plane, scene in zip(maps, scenes, strict=True):
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        hits.append(scene.mask[2 * row + 1, 2 * column + 1] > 0)
    return float(np.mean(hits)), float(np.mean([(scene.mask > 0).mean() for scene in scenes]))


def scenes_with(contrast):
    """Forty noisy scenes with red objects and grey distractors."""
    return planted(40, options=SceneOptions(classes=("red",), contrast=contrast, distractors=3))


def test_the_map_points_at_the_object():
    """Among noise and grey distractors, whose channel is stronger, the largest relevance is on the object."""
    hit, chance = pointing(scenes_with(contrast=1.0))

    assert hit >= 0.95
    assert chance < 0.2


def test_the_map_loses_an_object_that_fades():
    """At a twentieth of the dye the map no longer points at the object."""
    faded, chance = pointing(scenes_with(contrast=0.05))

    assert faded <= chance + 0.2


def test_nothing_is_located_where_nothing_is():
    """Where masks say nothing about pixels, the map is no better located than chance."""
    hit, chance = pointing(nothing(80, seed=1, options=SceneOptions(classes=("red",))))

    assert hit <= chance + 3 * (chance * (1 - chance) / 80) ** 0.5
