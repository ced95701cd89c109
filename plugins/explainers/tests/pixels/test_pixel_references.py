"""Slow references from the papers' formulas: loops over pixels, convolutions and windows, nothing of ours."""

import math

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

ROWS, COLUMNS = 5, 6
HALF = (3, 3)


class TwoLayers(nn.Module):
    """Convolution, ReLU, convolution with stride 2, ReLU, mean, linear: small enough for loops."""

    def __init__(self):
        super().__init__()
        self.one, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.two, self.last = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.head(self.last(self.two(self.relu(self.one(images)))).mean((2, 3)))


@pytest.fixture
def network():
    """Give a network in double precision, some of whose units are off."""
    torch.manual_seed(4)
    return TwoLayers().double().eval()


@pytest.fixture
def images():
    """Give two images, higher than they are wide."""
    return torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def found(explainer, network, images, target=1):
    """Maps by our explainer, (image, row, column)."""
    return explain(network, images, [(explainer, INPUT)], Asked({}, target=target))[
        explainer.name, INPUT
    ].numpy()


# -- the network in loops ----------------------------------------------------------------------


def weights(network):
    """Read the weights as arrays."""
    return {name: value.detach().numpy() for name, value in network.named_parameters()}


def convolved(x, kernel, bias, stride):
    """Convolve with a border of one zero, by loops."""
    outputs, inputs, side, _ = kernel.shape
    rows, columns = (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1
    out = np.zeros((outputs, rows, columns))
    for k in range(outputs):
        for i in range(rows):
            for j in range(columns):
                total = bias[k]
                for c in range(inputs):
                    for u in range(side):
                        for v in range(side):
                            r, s = i * stride + u - 1, j * stride + v - 1
                            if 0 <= r < x.shape[1] and 0 <= s < x.shape[2]:
                                total += kernel[k, c, u, v] * x[c, r, s]
                out[k, i, j] = total
    return out


def passed_back(slope, kernel, stride, shape):
    """Pass a slope back through a convolution, by loops."""
    back = np.zeros(shape)
    for k in range(slope.shape[0]):
        for i in range(slope.shape[1]):
            for j in range(slope.shape[2]):
                for c in range(shape[0]):
                    for u in range(3):
                        for v in range(3):
                            r, s = i * stride + u - 1, j * stride + v - 1
                            if 0 <= r < shape[1] and 0 <= s < shape[2]:
                                back[c, r, s] += slope[k, i, j] * kernel[k, c, u, v]
    return back


def forward(w, x):
    """Values before each ReLU, and the logits."""
    first = convolved(x, w["one.weight"], w["one.bias"], 1)
    second = convolved(np.maximum(first, 0), w["two.weight"], w["two.bias"], 2)
    logits = w["head.weight"] @ np.maximum(second, 0).mean((1, 2)) + w["head.bias"]
    return first, second, logits


def backward(w, x, target, rule):
    """Slope of a logit at the pixels; ``rule(slope, value, layer)`` passes it through a ReLU."""
    first, second, _ = forward(w, x)
    places = second.shape[1] * second.shape[2]
    slope = np.repeat(w["head.weight"][target] / places, places).reshape(second.shape)
    slope = passed_back(rule(slope, second, 1), w["two.weight"], 2, first.shape)
    return passed_back(rule(slope, first, 0), w["one.weight"], 1, x.shape)


def plain(slope, value, _layer):
    """Pass where the unit is on."""
    return slope * (value > 0)


def guided(slope, value, _layer):
    """Pass what is positive where the unit is on."""
    return np.maximum(slope, 0) * (value > 0)


# -- one reference for each method -------------------------------------------------------------


def test_saliency(network, images):
    """Saliency is the largest slope over colours, without its sign."""
    w = weights(network)
    for image, ours in zip(images.numpy(), found(SaliencyMap(), network, images), strict=True):
        slope = backward(w, image, 1, plain)
        for i in range(ROWS):
            for j in range(COLUMNS):
                assert ours[i, j] == pytest.approx(
                    max(abs(slope[c, i, j]) for c in range(3)), rel=1e-5, abs=1e-9
                )


def test_input_x_gradient(network, images):
    """Input x gradient is the sum over colours of pixel times slope."""
    w = weights(network)
    for image, ours in zip(images.numpy(), found(InputXGradientMap(), network, images), strict=True):
        slope = backward(w, image, 1, plain)
        for i in range(ROWS):
            for j in range(COLUMNS):
                wanted = sum(image[c, i, j] * slope[c, i, j] for c in range(3))
                assert ours[i, j] == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("replacement", ["zero", "mean-of-image"])
def test_integrated_gradients(network, images, replacement):
    """Integrated gradients are the slopes along the way, averaged, times what was changed."""
    w, steps = weights(network), 150
    explainer = IntegratedGradientsMap(steps=200, replacement=replacement)
    for image, ours in zip(images.numpy(), found(explainer, network, images), strict=True):
        start = np.zeros_like(image)
        if replacement == "mean-of-image":
            for c in range(3):
                start[c] = sum(image[c].ravel()) / image[c].size
        total = np.zeros_like(image)
        for step in range(steps):
            at = start + (step + 0.5) / steps * (image - start)
            total += backward(w, at, 1, plain) / steps
        wanted = ((image - start) * total).sum(0)
        np.testing.assert_allclose(ours, wanted, atol=0.01 * np.abs(wanted).max())


def test_smoothgrad(network, images):
    """SmoothGrad is the saliency of the mean slope over noisy copies, here against other noise."""
    w, draw = weights(network), np.random.default_rng(0)
    (ours,) = found(SmoothGradMap(samples=2000, noise=0.2), network, images[:1])
    image = images[0].numpy()
    spread = 0.2 * (image.max() - image.min())
    total = np.zeros_like(image)
    for _ in range(250):
        total += backward(w, image + draw.normal(0, spread, image.shape), 1, plain) / 250
    wanted = np.abs(total).max(0)

    np.testing.assert_allclose(ours, wanted, atol=0.15 * wanted.max())
    assert not np.allclose(ours, np.abs(backward(w, image, 1, plain)).max(0), atol=0.15 * wanted.max())


def enlarged(heat, shape):
    """Enlarge bilinearly; cells are areas, and the border repeats."""
    out = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            r = max((i + 0.5) * heat.shape[0] / shape[0] - 0.5, 0)
            s = max((j + 0.5) * heat.shape[1] / shape[1] - 0.5, 0)
            r0, s0 = math.floor(r), math.floor(s)
            r1, s1 = min(r0 + 1, heat.shape[0] - 1), min(s0 + 1, heat.shape[1] - 1)
            a, b = r - r0, s - s0
            top = (1 - b) * heat[r0, s0] + b * heat[r0, s1]
            bottom = (1 - b) * heat[r1, s0] + b * heat[r1, s1]
            out[i, j] = (1 - a) * top + a * bottom
    return out


@pytest.mark.parametrize("target", [0, 1])
def test_guided_grad_cam(network, images, target):
    """Guided Grad-CAM is Grad-CAM of the last maps, enlarged, times guided backpropagation."""
    w = weights(network)
    ours = found(GuidedGradCAMMap(), network, images, target)
    for image, mine in zip(images.numpy(), ours, strict=True):
        _, second, _ = forward(w, image)
        heat = np.zeros(HALF)
        for k in range(5):
            # the mean slope of a logit at a map that is averaged
            heat += w["head.weight"][target, k] / (HALF[0] * HALF[1]) * np.maximum(second[k], 0)
        paths = backward(w, image, target, guided).sum(0)
        wanted = enlarged(np.maximum(heat, 0), (ROWS, COLUMNS)) * paths
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-8)
    assert np.abs(ours).max() > 0


def test_deeplift(network, images):
    """DeepLIFT passes back, at each ReLU, the ratio of changes from the reference."""
    w = weights(network)
    reference = forward(w, np.zeros((3, ROWS, COLUMNS)))
    for image, ours in zip(images.numpy(), found(DeepLiftMap(), network, images), strict=True):

        def rescale(slope, value, layer):
            was, out = reference[layer], np.zeros_like(slope)
            for place in np.ndindex(*slope.shape):
                change = value[place] - was[place]
                ratio = (
                    (max(value[place], 0) - max(was[place], 0)) / change
                    if change
                    else float(value[place] > 0)
                )
                out[place] = slope[place] * ratio
            return out

        wanted = (image * backward(w, image, 1, rescale)).sum(0)
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-8)


def test_occlusion(network, images):
    """Occlusion is the mean fall of the logit over the windows that hide a pixel."""
    w, window, stride = weights(network), 2, 1
    for image, ours in zip(images.numpy(), found(OcclusionMap(window, stride), network, images), strict=True):
        total, count = np.zeros((ROWS, COLUMNS)), np.zeros((ROWS, COLUMNS))
        for i in range(0, ROWS - window + 1, stride):
            for j in range(0, COLUMNS - window + 1, stride):
                hidden = image.copy()
                hidden[:, i : i + window, j : j + window] = 0
                fall = forward(w, image)[2][1] - forward(w, hidden)[2][1]
                for u in range(i, i + window):
                    for v in range(j, j + window):
                        total[u, v] += fall
                        count[u, v] += 1
        np.testing.assert_allclose(ours, total / count, rtol=1e-4, atol=1e-7)


def test_feature_ablation(network, images):
    """Feature ablation is the fall of the logit without the patch that a pixel lies in."""
    w = weights(network)
    explainer = FeatureAblationMap("patches", number=6, replacement="mean-of-image")
    for image, ours in zip(images.numpy(), found(explainer, network, images), strict=True):
        mean = [image[c].sum() / image[c].size for c in range(3)]
        # six patches of an image of 5 x 6 are two rows of three
        for down in range(2):
            for across in range(3):
                rows = [i for i in range(ROWS) if i * 2 // ROWS == down]
                columns = [j for j in range(COLUMNS) if j * 3 // COLUMNS == across]
                without = image.copy()
                for c in range(3):
                    for i in rows:
                        for j in columns:
                            without[c, i, j] = mean[c]
                fall = forward(w, image)[2][1] - forward(w, without)[2][1]
                np.testing.assert_allclose(ours[np.ix_(rows, columns)], fall, rtol=1e-4, atol=1e-7)
