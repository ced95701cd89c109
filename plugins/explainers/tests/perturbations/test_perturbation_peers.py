"""Our maps beside pytorch-grad-cam's, where the definitions agree."""

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.decompositions.components import first_component_centred, kernel_component
from wsss_probe_explainers.perturbations.ablation_cam import ablation_cam_map
from wsss_probe_explainers.perturbations.score_cam import ScoreMap

from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.zoo import ensure_torchvision

pytestmark = pytest.mark.peers

ensure_torchvision()  # before anybody else imports torchvision
peer = pytest.importorskip("pytorch_grad_cam")
projections = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")


class Small(nn.Module):
    """Two convolutions, GAP and two linear layers; the logit of class 1 is positive."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU())
        self.features = nn.Sequential(nn.Conv2d(6, 12, 3, padding=1, stride=2), nn.ReLU())
        self.hidden, self.classifier = nn.Linear(12, 8), nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.hidden.weight.data[:4].abs_()
        self.classifier.weight.data[1].abs_()

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.hidden(self.features(self.stem(images)).mean((2, 3))).relu())


@pytest.fixture
def network():
    """Make the network and some images."""
    return Small().eval(), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def ours(net, images, explainer):
    """Make maps of class 1, at the input's size, from 0 to 1."""
    layers = {info.name: info for info in describe_layers(net, images[:1])}
    maps = explain(net, images, [(explainer, "features")], Asked(layers, target=1))[
        explainer.name, "features"
    ]
    grown = nn.functional.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear")[:, 0]
    grown = grown - grown.amin((1, 2), keepdim=True)
    return (grown / grown.amax((1, 2), keepdim=True)).numpy()


def theirs(net, images, name):
    """Make pytorch-grad-cam's maps of class 1."""
    target = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(1)
    return getattr(peer, name)(net, [net.features])(images, [target] * len(images))


def test_projections_agree_up_to_the_sign():
    """Centred Eigen-CAM and KPCA-CAM are the peer's projections, whose sign is left to the linear algebra."""
    values = torch.randn(4, 10, 5, 6, generator=torch.Generator().manual_seed(2)).relu()
    pairs = [
        (first_component_centred(values), projections.get_2d_projection(values.numpy())),
        (kernel_component(values), projections.get_2d_projection_kernel(values.numpy())),
    ]

    for found, wanted in pairs:
        turn = np.sign((found.numpy() * wanted).sum((1, 2), keepdims=True))
        np.testing.assert_allclose(found.numpy(), turn * wanted, rtol=1e-3, atol=1e-4)


def test_ablation_cam_agrees_where_the_logit_is_positive(network):
    """Ablation-CAM with a positive logit is the peer's, which divides by the logit itself."""
    net, images = network
    assert bool((net(images)[:, 1] > 0).all())

    np.testing.assert_allclose(
        ours(net, images, ablation_cam_map), theirs(net, images, "AblationCAM"), atol=1e-3
    )


def test_score_cam_of_logits_is_close(network):
    """With logits for probabilities Score-CAM differs from the peer's by how corners are aligned only."""
    net, images = network
    found, wanted = ours(net, images, ScoreMap(score="logit")), theirs(net, images, "ScoreCAM")

    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, wanted, strict=True)) > 0.99
