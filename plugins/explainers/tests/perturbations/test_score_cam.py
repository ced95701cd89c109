"""Score-CAM equals a slow reference, follows its variants, and costs no pass that it need not.

The reference comes first: loops only, nothing of ours imported.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_explainers.perturbations.score_cam import (
    ScoreMap,
    channel_masks,
    score_cam_authors_map,
    score_cam_map,
    score_cam_top_map,
)

from wsss_probe.contracts import Contrast
from wsss_probe.errors import UsageError
from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing import ExplainerSuite
from wsss_probe.testing.scenes import make_scene
from wsss_probe.testing.synthetic import SceneOptions, nothing, planted

# -- reference --------------------------------------------------------------------------------


def slow_mask(plane, rows, columns):
    """Bilinear with half-pixel centres, then from 0 to 1."""
    height, width = len(plane), len(plane[0])

    def at(i, of, to):
        place = min(max((i + 0.5) * of / to - 0.5, 0.0), of - 1.0)
        low = int(place)
        return low, min(low + 1, of - 1), place - low

    grown = []
    for i in range(rows):
        top, bottom, down = at(i, height, rows)
        line = []
        for j in range(columns):
            left, right, along = at(j, width, columns)
            upper = plane[top][left] * (1 - along) + plane[top][right] * along
            lower = plane[bottom][left] * (1 - along) + plane[bottom][right] * along
            line.append(upper * (1 - down) + lower * down)
        grown.append(line)
    low, high = min(map(min, grown)), max(map(max, grown))
    return [[(value - low) / (high - low) for value in line] for line in grown]


def softmax(values):
    """Powers of e that add up to 1."""
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def slow_score_cam(planes, image, network, target, *, weighting="softmax"):
    """Wang et al. 2020, algorithm 1; ``network`` gives the logits of an image as a list."""
    rows, columns = len(image[0]), len(image[0][0])
    shown = [k for k, plane in enumerate(planes) if max(map(max, plane)) > min(map(min, plane))]
    black = softmax(network([[[0.0] * columns for _ in range(rows)] for _ in image]))[target]
    scores = []
    for k in shown:
        mask = slow_mask(planes[k], rows, columns)
        seen = [
            [[image[c][i][j] * mask[i][j] for j in range(columns)] for i in range(rows)] for c in range(3)
        ]
        scores.append(softmax(network(seen))[target])
    weights = {
        "softmax": softmax([score - black for score in scores]) if scores else [],
        "increase": [score - black for score in scores],
        "authors": scores,
    }[weighting]
    heat = [[0.0] * len(planes[0][0]) for _ in planes[0]]
    for weight, k in zip(weights, shown, strict=True):
        for i, row in enumerate(planes[k]):
            for j, value in enumerate(row):
                heat[i][j] += weight * value
    return [[max(value, 0.0) for value in row] for row in heat]


# -- a network in both worlds ------------------------------------------------------------------


class Small(nn.Module):
    """Three channels to some by a 1 x 1 convolution, pairs of pixels averaged, then two linear layers."""

    def __init__(self, channels=4, classes=3, *, rectified=True, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        rectifier = nn.ReLU() if rectified else nn.Identity()
        self.features = nn.Sequential(nn.Conv2d(3, channels, 1), rectifier, nn.AvgPool2d(2))
        self.hidden, self.classifier = nn.Linear(channels, 5), nn.Linear(5, classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.hidden(self.features(images).mean((2, 3))).relu())


def in_python(net):
    """Write the same network with lists and loops: features of an image, logits of features."""
    kernel, bias = net.features[0].weight[:, :, 0, 0].tolist(), net.features[0].bias.tolist()
    rectified = isinstance(net.features[1], nn.ReLU)
    layers = [(part.weight.tolist(), part.bias.tolist()) for part in (net.hidden, net.classifier)]

    def at(image, k, i, j):
        value = sum(w * plane[i][j] for w, plane in zip(kernel[k], image, strict=True)) + bias[k]
        return max(value, 0.0) if rectified else value

    def pool(image, k, i, j):
        return sum(at(image, k, 2 * i + a, 2 * j + b) for a in (0, 1) for b in (0, 1)) / 4

    def features(image):
        rows, columns = len(image[0]) // 2, len(image[0][0]) // 2
        return [
            [[pool(image, k, i, j) for j in range(columns)] for i in range(rows)] for k in range(len(bias))
        ]

    def linear(values, weight, offset):
        return [
            sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight, offset, strict=True)
        ]

    def head(planes):
        values = [sum(map(sum, plane)) / (len(plane) * len(plane[0])) for plane in planes]
        return linear([max(value, 0.0) for value in linear(values, *layers[0])], *layers[1])

    return features, head


def maps_of(net, images, explainer, target="predicted", layer="features"):
    """Let the host explain some images."""
    layers = {info.name: info for info in describe_layers(net, images[:1])}
    return explain(net, images, [(explainer, layer)], Asked(layers, target=target))[explainer.name, layer]


def draw(seed, images=2, rows=6, columns=8):
    """Draw images."""
    return torch.randn(images, 3, rows, columns, generator=torch.Generator().manual_seed(seed))


few = settings(max_examples=12, deadline=None)


@few
@given(
    st.integers(0, 10_000),
    st.sampled_from(["softmax", "increase", "authors"]),
    st.booleans(),
    st.integers(0, 2),
    st.integers(1, 9),
)
def test_it_equals_its_reference(seed, weighting, rectified, target, at_once):
    """Score-CAM follows algorithm 1, also where activations are signed and however many run at once."""
    net, images = Small(rectified=rectified, seed=seed).eval(), draw(seed)
    features, head = in_python(net)

    expected = [
        slow_score_cam(features(i), i, lambda x: head(features(x)), target, weighting=weighting)
        for i in images.tolist()
    ]

    found = maps_of(net, images, ScoreMap(weighting, at_once=at_once), target)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_masks_are_bilinear_between_0_and_1():
    """A mask is the map at the input's size with half-pixel centres, from 0 to 1."""
    planes = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))

    found = channel_masks(planes, (7, 10))

    torch.testing.assert_close(found[:, 0], torch.tensor([slow_mask(p.tolist(), 7, 10) for p in planes]))
    assert found.shape == (3, 1, 7, 10)
    assert channel_masks(torch.full((1, 2, 2), 3.0), (4, 4)).unique().tolist() == [0.0]


# -- conformance -------------------------------------------------------------------------------


class TestScoreCAM(ExplainerSuite):
    """Score-CAM conforms to the contract."""

    explainer = score_cam_map


class TestAuthors(ExplainerSuite):
    """Score-CAM as in the authors' code conforms to the contract."""

    explainer = score_cam_authors_map


class TestTop(ExplainerSuite):
    """Score-CAM of some channels conforms to the contract."""

    explainer = ScoreMap(top=2, at_once=5)


def counted(batch):
    """Count the images that go through the network."""
    sizes = []

    def forward(images):
        sizes.append(len(images))
        return batch.forward(images)

    return replace(batch, forward=forward), sizes


def test_only_channels_that_vary_are_shown():
    """Constant maps cost no pass and weigh 0; the memory is bounded by the passes at once."""
    scene = make_scene(images=3)
    layer = scene.survey.head.layer
    batch = scene.batch()
    maps = batch.activations[layer].clone()
    maps[:, 1:] = 0.7
    maps[1] = 0
    batch, sizes = counted(replace(batch, activations={layer: maps}))

    found = ScoreMap(at_once=2).attribute(batch, layer, "predicted")

    assert sizes == [1, 2]  # the black image, then channel 0 of images 0 and 2
    torch.testing.assert_close(found[[0, 2]], maps[[0, 2], 0].relu())
    assert float(found[1].abs().max()) == 0


def test_images_that_cannot_be_explained_cost_nothing():
    """An unreadable image and one without the target give NaN and run no pass."""
    scene = make_scene(images=4).unreadable([0])
    layer = scene.survey.head.layer
    batch = scene.batch()
    weights = batch.targets["predicted"].clone()
    weights[1] = float("nan")
    batch, sizes = counted(replace(batch, targets={"predicted": weights}))

    found = score_cam_map.attribute(batch, layer, "predicted")

    varying = batch.activations[layer].flatten(2).std(2)[2:] > 0
    assert sum(sizes) == 1 + int(varying.sum())
    assert found.isnan().flatten(1).all(1).tolist() == [True, True, False, False]


def test_top_keeps_the_channels_with_the_largest_spread():
    """With top = 1 the map is the channel that varies most, which need not be the largest."""
    net, images = Small(channels=6).eval(), draw(3)
    maps = net.features(images)
    widest = maps.flatten(2).std(2, correction=0).argmax(1)
    largest = maps.flatten(2).amax(2).argmax(1)

    found = maps_of(net, images, ScoreMap(top=1))

    torch.testing.assert_close(found, maps[torch.arange(2), widest].detach())
    torch.testing.assert_close(maps_of(net, images, ScoreMap(top=6)), maps_of(net, images, score_cam_map))
    assert widest.shape == largest.shape


def test_weights_of_the_paper_hardly_differ():
    """The card's warning holds: the softmax of probabilities leaves weights within a factor e."""
    net, images = Small(channels=8, seed=5).eval(), draw(5, images=6)
    net.classifier.weight.data *= 50

    found = maps_of(net, images, score_cam_map)

    maps = net.features(images).detach()
    assert bool((found <= maps.mean(1) * math.e + 1e-5).all())
    assert bool((found >= maps.mean(1) / math.e - 1e-5).all())


def test_a_single_logit_is_read_by_the_sigmoid():
    """A network with one logit has probabilities too; its softmax would be 1 whatever it sees."""
    net, images = Small(classes=1, seed=2).eval(), draw(2)

    found = maps_of(net, images, ScoreMap("increase"), 0)

    torch.testing.assert_close(found, maps_of(net, images, ScoreMap("increase", "sigmoid"), 0))
    assert float(found.max()) > 0


def test_logits_and_contrasts_are_scores_too():
    """Logits of a contrast are the difference of its classes' logits, with either softmax on top."""
    net, images = Small(seed=4).eval(), draw(4)
    logits = ScoreMap("increase", "logit")
    maps = net.features(images).detach()

    def increase(of):
        """Increase of a class's logit over black, through each mask."""
        values = []
        for image, planes in zip(images, maps, strict=True):
            masked = image[None] * channel_masks(planes, (6, 8))
            values.append((net(masked) - net(torch.zeros_like(image)[None]))[:, of])
        shown = maps.flatten(2).amax(2) > maps.flatten(2).amin(2)
        return torch.stack(values).detach() * shown

    expected = (((increase(0) - increase(2))[:, :, None, None] * maps).sum(1)).relu()

    found = maps_of(net, images, logits, Contrast(0, 2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"weighting": "max"}, "unknown weighting of Score-CAM; found: max"),
        ({"score": "tanh"}, "unknown score of Score-CAM; found: tanh"),
        ({"top": 0}, "Score-CAM: top is no count; found: 0"),
        ({"at_once": None}, "Score-CAM: at_once is no count; found: None"),
        ({"top": True}, "Score-CAM: top is no count; found: True"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, line):
    """An option is checked before any pass."""
    with pytest.raises(UsageError, match=line):
        ScoreMap(**options)


@pytest.mark.parametrize("explainer", [score_cam_map, score_cam_authors_map, score_cam_top_map])
def test_cards_are_complete(explainer):
    """Every card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = explainer.card

    assert "doi:" in card.paper
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))
    assert explainer.default is False


# -- planted truth -----------------------------------------------------------------------------


class Colours(nn.Module):
    """GAP over a channel for reddish pixels and five random ones of some strength; class 0 is red."""

    def __init__(self, others):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(6, 2)
        for parameter in self.parameters():
            parameter.data = others * torch.randn(parameter.shape, generator=generator)
        kernel, bias = self.features[0].weight.data, self.features[0].bias.data
        kernel[0], bias[0] = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1) / 9, -50 / 255
        self.classifier.weight.data[0, 0] = 100

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.features(images).mean((2, 3)))


def pointing(explainer, scenes, others=0.005):
    """Share of images whose largest relevance lies on the object, and the object's share of pixels."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    maps = maps_of(Colours(others).eval(), pixels, explainer, 0).numpy()
    hits = []
    for plane, scene in zip(maps, scenes, strict=True):
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        hits.append(scene.mask[2 * row + 1, 2 * column + 1] > 0)
    return float(np.mean(hits)), float(np.mean([(scene.mask > 0).mean() for scene in scenes]))


def scenes_with(contrast):
    """Forty noisy scenes with red objects and grey distractors."""
    return planted(40, options=SceneOptions(classes=("red",), contrast=contrast, distractors=3))


VARIANTS = [score_cam_map, score_cam_authors_map, ScoreMap("increase")]
every = pytest.mark.parametrize("explainer", VARIANTS, ids=lambda e: e.weighting)


@every
def test_the_map_points_at_the_object(explainer):
    """Among noise and grey distractors the largest relevance lies on the coloured object."""
    hit, chance = pointing(explainer, scenes_with(contrast=1.0))

    assert hit >= 0.95
    assert chance < 0.2


@every
def test_the_map_loses_an_object_that_fades(explainer):
    """At a twentieth of the dye the map no longer points at the object."""
    faded, chance = pointing(explainer, scenes_with(contrast=0.05))

    assert faded <= chance + 0.2


@every
def test_nothing_is_located_where_nothing_is(explainer):
    """Where masks say nothing about pixels, the map is no better located than chance."""
    hit, chance = pointing(explainer, nothing(80, seed=1, options=SceneOptions(classes=("red",))))

    assert hit <= chance + 3 * (chance * (1 - chance) / 80) ** 0.5


def test_strong_channels_that_say_nothing_drown_the_object():
    """The card's warning holds: the paper's weights lose the object that the plain increase still finds."""
    scenes = scenes_with(contrast=1.0)

    drowned, chance = pointing(score_cam_map, scenes, others=0.05)
    found, _ = pointing(ScoreMap("increase"), scenes, others=0.05)

    assert drowned <= chance
    assert found >= 0.95
