"""Heads are proved on images, never assumed."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers
from wsss_probe.taps import run_pass
from wsss_probe.testing import models
from wsss_probe.zoo import ensure_torchvision

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def images():
    """Four small images with structure."""
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def head_of(module, images):
    """Find a head among all layers."""
    return find_head(module, images, describe_layers(module, images[:1]))


def slow_logits(maps, weight, bias):
    """The head's equation, by loops."""
    logits = np.zeros((len(maps), len(weight)))
    for image in range(len(maps)):
        for one in range(len(weight)):
            total = float(bias[one])
            for channel in range(maps.shape[1]):
                cells = [float(v) for row in maps[image, channel] for v in row]
                total += float(weight[one, channel]) * sum(cells) / len(cells)
            logits[image, one] = total
    return logits


class Convolved(nn.Module):
    """Ends in a 1x1 convolution and pooling, with or without a ReLU between."""

    def __init__(self, *, rectified, bias=True):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(6, 3, 1, bias=bias)
        self.rectified = rectified

    def forward(self, images):
        """Return pooled class maps."""
        maps = self.last(self.features(images))
        return (torch.relu(maps) if self.rectified else maps).mean((2, 3))


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (models.planted_gap, "features"),
        (models.inplace, "features"),
        (models.dead_channel, "features"),
        (models.reused, "relu#1"),
        (models.branched, "block"),
        (models.tuple_output, "boxed"),
        (models.multi_logit, "features"),
        (models.single_logit, "features"),
    ],
)
def test_pooled_linear_heads_are_found(build, layer, images):
    """Module or functional pooling, one or several logits: the deepest pooled maps and the weights."""
    module = build()

    head = head_of(module, images)

    assert (head.linear, head.layer, head.reason) == (True, layer, "")
    assert head.error <= 1e-5
    found = next(info for info in describe_layers(module, images[:1]) if info.name == layer)
    captured = run_pass(module, images, [found])
    expected = slow_logits(captured.activations[layer].numpy(), head.weight, head.bias)
    np.testing.assert_allclose(
        captured.logits.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_before_pooling_is_linear(bias, images):
    """A 1x1 convolution and pooling is a linear head on the convolution's input."""
    module = models.with_weights(Convolved(rectified=False, bias=bias))

    head = head_of(module, images)

    assert (head.linear, head.layer) == (True, "features")
    assert head.weight.shape == (3, 6)
    assert bool(head.bias.any()) is bias


def test_a_rectified_convolution_is_not_linear(images):
    """With a ReLU between convolution and pooling the head is not linear, and the reason names the gap."""
    head = head_of(models.with_weights(Convolved(rectified=True)), images)

    assert (head.linear, head.layer, head.weight) == (False, "", None)
    assert "weight @ GAP + bias of 'last' is not the logits for any maps; nearest 'features'" in head.reason
    assert head.error > 1e-5


def test_a_flattened_head_is_not_linear(images):
    """A linear layer on flattened maps has no maps of its width."""
    head = head_of(models.flat_head(), images)

    assert not head.linear
    assert head.reason == "'classifier' reads 64 values; no maps have as many channels"


def test_several_linear_layers_are_not_linear(images):
    """A VGG's head is refused, although its last layer reads as many values as there are channels."""
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 2))

    head = head_of(models.with_weights(nn.Sequential(features, linear)), images)

    assert not head.linear
    assert "nearest" in head.reason


class Pooled(nn.Module):
    """A linear head with a choice of what happens between maps and logits."""

    def __init__(self, between, channels=4, classes=2):
        super().__init__()
        self.features, self.fc = nn.Conv2d(3, channels, 3), nn.Linear(channels, classes)
        self.between = between

    def forward(self, images):
        """Return logits."""
        return self.fc(self.between(self.features(images)))


@pytest.mark.parametrize(
    "between",
    [
        lambda maps: maps.amax((2, 3)),
        lambda maps: F.normalize(maps.mean((2, 3))),
        lambda maps: maps[:, :, 1:].mean((2, 3)),
        lambda maps: maps.mean((2, 3)) * (1 + 1e-4),
    ],
    ids=["maximum", "normalised", "cropped", "scaled by 1.0001"],
)
def test_what_only_looks_like_average_pooling_is_not_linear(between, images):
    """Maximum pooling, a normalisation, a cropped mean or a factor of 1.0001 fail the proof."""
    assert not head_of(models.with_weights(Pooled(between)), images).linear


def test_a_large_bias_proves_nothing(images):
    """When the bias is nearly all of the logits, maps that explain nothing do not pass."""
    module = models.with_weights(Pooled(lambda maps: maps.amax((2, 3))))
    with torch.no_grad():
        module.fc.weight.mul_(1e-7)
        module.fc.bias.fill_(1)
    assert not head_of(module, images).linear

    with torch.no_grad():
        module.fc.bias.zero_()
        module.fc.weight.zero_()
    assert head_of(module, images).reason == "the logits of the given images are zero or not finite"


def test_logits_behind_the_last_linear_layer_are_compared(images):
    """A softmax after the linear layer is part of the output, so the head is not linear."""
    module = nn.Sequential(models.inplace(), nn.Softmax(dim=1)).eval()

    head = head_of(module, images)

    assert not head.linear
    assert "nearest '0.features'" in head.reason


def test_a_network_without_such_a_layer(images):
    """Without a linear layer or 1x1 convolution of the right width the reason says so."""
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert head_of(module, images).reason == "no linear layer or 1x1 convolution puts out 3 values"


def test_one_layer_is_enough_when_it_is_named(images):
    """Given only the layer in question, the weights are still found in the network."""
    module = models.branched()
    block, stem = (
        next(info for info in describe_layers(module, images[:1]) if info.name == name)
        for name in ("block", "stem")
    )

    assert find_head(module, images, [block]).linear
    assert not find_head(module, images, [stem]).linear


def test_looking_for_a_head_changes_nothing(images):
    """A network in train mode is left as it is."""
    module = models.inplace().train()
    before = fingerprint(module)

    assert head_of(module, images).linear

    assert before.differences(fingerprint(module)) == ()


@pytest.mark.parametrize(
    ("name", "linear", "layer"),
    [
        ("resnet18", True, "layer4"),
        ("resnet50", True, "layer4"),
        ("vgg11", False, ""),
        ("convnext_tiny", False, ""),
    ],
)
def test_heads_of_torchvision_networks(name, linear, layer):
    """ResNets have a linear head; ConvNeXt, with a normalisation after pooling, has none."""
    ensure_torchvision()
    import torchvision.models

    torch.manual_seed(0)
    module = getattr(torchvision.models, name)()

    head = head_of(module, torch.randn(3, 3, 64, 96))

    assert (head.linear, head.layer) == (linear, layer), head.reason


# -- networks and images that nobody here made -------------------------------------------------


def shared(name):
    """Load a real network with its preprocessing and eight real images."""
    if not SHARED.is_dir():
        if os.environ.get("WSSS_PROBE_REQUIRE_REAL") == "1":
            pytest.fail(f"{SHARED.name} is absent and WSSS_PROBE_REQUIRE_REAL=1")
        pytest.skip("no folder with real data beside the repository")
    spec = importlib.util.spec_from_file_location("shared_models", SHARED / "weights" / "models.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    module, preprocess, info = loader.load(name)
    folder = SHARED / "data" / ("pcam" if name.startswith("pcam") else "imagenet_sample") / "images"
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg", ".JPEG", ".jpeg"})[
        :8
    ]
    size = (info["size"], info["size"])
    pixels = [np.asarray(Image.open(path).convert("RGB").resize(size)) for path in paths]
    return module, preprocess(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous())


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(
            ("pcam_gap", "features"),
            ("mobilenetv2", "features"),
            ("resnet20", "layer3"),
            ("resnet56", "layer3"),
        ),
        *(("squeezenet10_dc", ""), ("tinyvgg", ""), ("tubule_fold1", "")),
    ],
)
def test_heads_of_real_networks(name, layer):
    """Trained networks with a GAP and linear head are proved so on real images, the others are not."""
    module, batch = shared(name)

    head = head_of(module, batch)

    assert (head.linear, head.layer) == (bool(layer), layer), head.reason
    assert len(batch) == 8
