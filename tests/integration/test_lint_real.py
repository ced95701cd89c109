"""The linter on networks that nobody here made: no false alarm, and wrong pixels found."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe.linter import Known, lint
from wsss_probe.zoo import ensure_torchvision


def named(network, images, **known):
    """Findings by name."""
    layers = describe_layers(network, images[:1])
    found = lint(network, images, layers, Known(choose_layers(layers).names, **known))
    return {finding.name: finding for finding in found}


def warned(found):
    """Names of the warnings."""
    return {name for name, finding in found.items() if finding.verdict == "warning"}


@pytest.mark.parametrize(
    ("name", "notices"),
    [
        ("resnet18", {"reused-modules"}),
        ("mobilenet_v2", set()),
        ("densenet121", {"functional-activations", "overwritten-layers"}),
        ("squeezenet1_1", set()),
        ("efficientnet_b0", set()),
    ],
)
@pytest.mark.slow
def test_untrained_networks_of_torchvision(name, notices):
    """Untrained, and nothing else: normalisations, where there are any, have seen no training."""
    ensure_torchvision()
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(models, name)(weights=None).eval()
    images = torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    found = named(network, images)

    assert warned(found) <= {"fresh-statistics"}
    assert notices <= set(found)


@pytest.fixture(scope="module")
def real(shared):
    """Loader of the real networks."""
    spec = importlib.util.spec_from_file_location("linted_models", shared / "weights" / "models.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["linted_models"] = module
    spec.loader.exec_module(module)
    return module


def pictures(folder, size, number=16):
    """Some pictures of a folder, uint8 (image, channel, row, column)."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg", ".tif", ".jpeg"})
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, number).astype(int))]
    arrays = [np.array(Image.open(path).convert("RGB").resize((size, size))) for path in chosen]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "folder", "size"),
    [
        ("pcam_gap", "data/pcam/images", 96),
        ("mobilenetv2", "data/imagenet_sample/images", 224),
        ("squeezenet10_dc", "data/imagenet_sample/images", 227),
        ("resnet20", "data/imagenet_sample/images", 32),
        ("resnet20", "data/kather/images", 32),
        ("resnet56", "data/imagenet_sample/images", 32),
        ("tinyvgg", "weights/tinyvgg_cnn_explainer/sample_images", 64),
        ("nuclei_fold1", "data/nuclei/images", 32),
        ("tubule_fold1", "data/glas/images", 32),
    ],
)
def test_no_false_alarm(real, shared, name, folder, size):
    """Published networks with their own preprocessing, one of them on images unlike its own."""
    network, prepare, _ = real.load(name)

    assert warned(named(network, prepare(pictures(shared / folder, size)))) == set()


@pytest.mark.real
@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "warning"), (1 / 255, "notice")])
def test_wrong_pixels_show_at_the_first_batchnorm(real, shared, scale, verdict):
    """Pixels that were never normalised: the running statistics of a trained network know better."""
    network, _, _ = real.load("resnet20")
    found = named(network, pictures(shared / "data/imagenet_sample/images", 32) * scale)

    assert found["first-normalisation"].verdict == verdict
