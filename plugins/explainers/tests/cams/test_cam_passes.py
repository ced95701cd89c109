"""Maps that need passes of their own or several layers: noise, contrasts, fusion; each against loops."""

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers.cams.contrast import FinerMap
from wsss_probe_explainers.cams.explainers import hi_res_map, unnormalised_map, x_grad_map
from wsss_probe_explainers.cams.fusion import Fusion, fuse
from wsss_probe_explainers.cams.smoothing import SmoothMap, noise_for
from wsss_probe_explainers.explainers import grad_cam_map, layer_cam_map
from wsss_probe_explainers.formulas import grad_cam

from wsss_probe.contracts import Contrast
from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing.layouts import laid_out
from wsss_probe.testing.models import multi_logit, reused, single_logit


class Curved(nn.Module):
    """A network whose gradients depend on the input: maps, ReLU of their differences, flatten, linear."""

    def __init__(self, classes=5):
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 4 * 6, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, images):
        """Give logits (image, class)."""
        return self.head(self.late(self.early(images)))


@pytest.fixture
def network():
    """Build the curved network with the same weights every time."""
    torch.manual_seed(3)
    return Curved().eval()


@pytest.fixture
def images():
    """Three images, wider than high."""
    return torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(4))


def maps(explainer, network, images, layer, target="predicted"):
    """Explain images as an audit does."""
    layers = {info.name: info for info in describe_layers(network, images[:1])}
    return explain(network, images, [(explainer, layer)], Asked(layers, target=target))[explainer.name, layer]


def slow_gradient(network, image, score, layer="late"):
    """Activation and gradient of any score of one image's logits, by a hook of this test's own."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out))
    value = score(network(image[None].clone().requires_grad_())[0])
    handle.remove()
    (slope,) = torch.autograd.grad(value, kept[0])
    return kept[0][0].detach().double().numpy(), slope[0].double().numpy()


# -- Smooth Grad-CAM++ -------------------------------------------------------------------------


def slow_smooth(network, image, noises, chosen):
    """Omeiza et al. 2019, with loops: derivatives of each noisy image, averaged, then eq. 19."""
    activation, _ = slow_gradient(network, image, lambda logits: logits[chosen])
    slopes = [slow_gradient(network, image + noise, lambda logits: logits[chosen])[1] for noise in noises]
    heat = np.zeros(activation.shape[1:])
    for k, plane in enumerate(activation):
        weight = 0.0
        for i in range(plane.shape[0]):
            for j in range(plane.shape[1]):
                first, second, third = (sum(s[k, i, j] ** p for s in slopes) / len(slopes) for p in (1, 2, 3))
                if second > 0:
                    weight += second / (2 * second + plane.sum() * third) * max(first, 0)
        heat += weight * plane
    return np.maximum(heat, 0)


@pytest.mark.parametrize("target", ["predicted", 1])
def test_smooth_plus_plus_equals_its_reference_on_a_network(network, images, target):
    """Forward and backward per noisy copy, class fixed by the image itself, activation without noise."""
    with torch.no_grad():
        network.head[3].weight.mul_(30)  # steep enough for S D3 / D2 to matter beside 2
    chosen = network(images).argmax(1).tolist() if target == "predicted" else [target] * 3
    noises = list(noise_for(images, np.arange(3), 4, (7, 0.8)))

    found = maps(SmoothMap(4, 0.8, 7), network, images, "late", target)

    for index, image in enumerate(images):
        own = [noise[index] for noise in noises]
        expected = slow_smooth(network, image, own, chosen[index])
        assert expected.max() > 0
        np.testing.assert_allclose(found[index].numpy(), expected, rtol=2e-3, atol=1e-4 * expected.max())


def test_smooth_plus_plus_without_noise_is_plus_plus_as_printed(network, images):
    """Noise of 0 leaves eq. 19, however many samples."""
    found = maps(SmoothMap(3, 0.0), network, images, "late")

    torch.testing.assert_close(found, maps(unnormalised_map, network, images, "late"), rtol=1e-4, atol=1e-7)


def test_smooth_plus_plus_on_a_linear_head_does_not_feel_noise(images):
    """On GAP + linear no noise changes a gradient: the map is that without noise."""
    network = multi_logit(3)

    found = maps(SmoothMap(2, 0.5), network, images, "features")

    torch.testing.assert_close(found, maps(unnormalised_map, network, images, "features"))


@pytest.mark.parametrize("kind", ["NHWC", "tokens"])
def test_smooth_plus_plus_takes_any_layout(kind):
    """A layer of tokens, or with channels last, gives the map of the same layer with channels first."""
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(4))

    found = maps(SmoothMap(2), laid_out(kind), images, "block")

    assert float(found.max()) > 0
    torch.testing.assert_close(found, maps(SmoothMap(2), laid_out("NCHW"), images, "block"))


def test_smooth_plus_plus_cuts_the_map_at_zero(network, images):
    """Where activations are negative, before a ReLU, the weighted sum is cut at 0."""
    found = maps(SmoothMap(2), network, images, "late.0")

    assert float(found.min()) == 0
    assert float(found.max()) > 0


def test_noise_belongs_to_the_image(images):
    """An image's noise depends on seed and position alone, scales with its range, and differs by copy."""
    first, second = noise_for(images, np.array([5, 6, 7]), 2, (0, 0.1))
    alone = next(noise_for(images[1:2], np.array([6]), 2, (0, 0.1)))
    wide = next(noise_for(images * 10 + 3, np.array([5, 6, 7]), 1, (0, 0.1)))
    other = next(noise_for(images, np.array([5, 6, 7]), 1, (1, 0.1)))

    torch.testing.assert_close(first[1:2], alone)
    torch.testing.assert_close(wide, first * 10)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[0], first[1], atol=0.1)
    assert not torch.allclose(first, other)
    spread = first.std().item() / float(images.max() - images.min())
    assert spread == pytest.approx(0.1, rel=0.1)


def test_more_samples_leave_less_chance_in_the_map(network, images):
    """Maps of two seeds come closer with more samples."""

    def apart(samples):
        one, two = (maps(SmoothMap(samples, 0.3, seed), network, images, "late") for seed in (0, 1))
        return float((one - two).abs().mean())

    assert apart(64) < 0.5 * apart(1)


def test_smooth_plus_plus_explains_a_reused_module(images):
    """A call of a module that runs twice is tapped by its number."""
    network = reused()

    found = [maps(SmoothMap(2, 0.0), network, images, f"relu#{call}") for call in (0, 1)]

    for call in (0, 1):
        expected = maps(unnormalised_map, network, images, f"relu#{call}")
        torch.testing.assert_close(found[call], expected, rtol=1e-4, atol=1e-8)


# -- Finer-CAM ---------------------------------------------------------------------------------


def slow_finer(network, image, weight, references, chosen):
    """Zhang et al. 2025: gradient of y_c - weight * mean of the next logits, then Grad-CAM's formula."""

    def score(logits):
        values = logits.tolist()
        others = sorted((k for k in range(len(values)) if k != chosen), key=lambda k: -values[k])
        nearest = others[:references]
        return logits[chosen] - weight * sum(logits[k] for k in nearest) / len(nearest)

    activation, slope = slow_gradient(network, image, score)
    heat = np.zeros(activation.shape[1:])
    for plane, own in zip(activation, slope, strict=True):
        heat += own.mean() * plane
    return np.maximum(heat, 0)


@pytest.mark.parametrize("options", [(0.6, 3), (1.0, 1), (0.3, 9)])
@pytest.mark.parametrize("target", ["predicted", 2])
def test_finer_cam_equals_its_reference(network, images, options, target):
    """The contrast is with the largest other logits of each image; fewer where there are fewer."""
    chosen = network(images).argmax(1).tolist() if target == "predicted" else [target] * 3

    found = maps(FinerMap(*options), network, images, "late", target)

    expected = [slow_finer(network, image, *options, own) for image, own in zip(images, chosen, strict=True)]
    assert np.max(expected) > 0
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-3, atol=1e-6)


def test_finer_cam_without_weight_is_grad_cam(network, images):
    """A weight of 0 subtracts nothing."""
    found = maps(FinerMap(weight=0), network, images, "late")

    torch.testing.assert_close(found, maps(grad_cam_map, network, images, "late"))


def test_finer_cam_explains_a_given_contrast_as_it_is(network, images):
    """Somebody who asks for a contrast gets Grad-CAM of that one."""
    asked = Contrast("predicted", 3)

    assert FinerMap().explains(asked) == asked
    assert FinerMap().explains(2) == Contrast(2, "next", 0.6, 3)
    found = maps(FinerMap(), network, images, "late", asked)
    torch.testing.assert_close(found, maps(grad_cam_map, network, images, "late", asked))


def test_finer_cam_of_a_network_with_one_class_is_undefined(images):
    """One logit has no other to compare with: NaN, not zero."""
    network = single_logit()
    layer = next(info.name for info in describe_layers(network, images[:1]) if info.layout == "maps")

    assert bool(maps(FinerMap(), network, images, layer).isnan().all())
    assert bool(maps(grad_cam_map, network, images, layer).isfinite().all())


# -- products on a network ---------------------------------------------------------------------


def test_hi_res_cam_of_an_early_layer_adds_up_to_the_logit_without_biases(network, images):
    """Linear layers and ReLUs without biases: at every layer the cells add up to the logit."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    logits = network(images).max(1).values

    for layer in ("early", "late"):
        torch.testing.assert_close(maps(hi_res_map, network, images, layer).sum((1, 2)), logits.detach())


def test_product_maps_equal_captums_layer_gradient_times_activation(network, images):
    """captum's LayerGradientXActivation is HiRes-CAM summed over channels, XGrad-CAM's shares over places."""
    from captum.attr import LayerGradientXActivation

    chosen = network(images).argmax(1)
    products = LayerGradientXActivation(network, network.late).attribute(images, target=chosen).detach()
    activation = network.late(network.early(images)).detach()

    torch.testing.assert_close(
        maps(hi_res_map, network, images, "late"), products.sum(1), rtol=1e-4, atol=1e-7
    )
    mass = activation.sum((2, 3))
    weights = products.sum((2, 3)) / mass.where(mass != 0, 1)
    expected = (weights[:, :, None, None] * activation).sum(1).relu()
    torch.testing.assert_close(maps(x_grad_map, network, images, "late"), expected, rtol=1e-4, atol=1e-7)


# -- fusion ------------------------------------------------------------------------------------


def slow_bilinear(heat, rows, columns):
    """Bilinear interpolation with align_corners=False, cell by cell."""
    high, wide = heat.shape
    found = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            y = min(max((i + 0.5) * high / rows - 0.5, 0), high - 1)
            x = min(max((j + 0.5) * wide / columns - 0.5, 0), wide - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, high - 1), min(left + 1, wide - 1)
            down, along = y - top, x - left
            upper = heat[top, left] * (1 - along) + heat[top, right] * along
            lower = heat[below, left] * (1 - along) + heat[below, right] * along
            found[i, j] = upper * (1 - down) + lower * down
    return found


def slow_fuse(heats, grid, how, weights):
    """Divide each map by its largest absolute value, resize it, combine place by place."""
    parts = []
    for heat in heats:
        peak = np.abs(heat).max()
        parts.append(slow_bilinear(heat / (peak if peak > 0 else 1), *grid))
    found = np.zeros(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            values = [part[i, j] for part in parts]
            if how == "max":
                found[i, j] = max(values)
            else:
                found[i, j] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return found


@pytest.mark.parametrize("how", ["mean", "max", "weighted"])
@pytest.mark.parametrize("seed", range(4))
def test_fusion_equals_its_reference(how, seed):
    """Signed maps of three grids, one of them zero, combined in each way."""
    rng = np.random.default_rng(seed)
    heats = [rng.normal(size=(2, *grid)) * scale for grid, scale in (((6, 9), 1), ((3, 4), 1e3), ((2, 3), 1))]
    heats[2][1] = 0
    weights = {"mean": [1.0] * 3, "max": None, "weighted": [1.0, 0.0, 2.5]}[how]

    found = fuse([torch.from_numpy(heat) for heat in heats], (6, 9), weights)

    for image in range(2):
        expected = slow_fuse([heat[image] for heat in heats], (6, 9), how, weights)
        np.testing.assert_allclose(found[image].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_fusion_of_an_audit_is_the_fusion_of_its_parts(network, images):
    """At the finest layer's grid, from one pass over the network."""
    parts = [maps(layer_cam_map, network, images, layer) for layer in ("early", "late")]

    found = maps(Fusion("layercam", ["early", "late"], "weighted", [1, 2]), network, images, "early")

    assert found.shape == (3, 8, 12)
    torch.testing.assert_close(found, fuse(parts, (8, 12), [1, 2]))


def test_one_part_alone_is_itself_on_its_own_scale(network, images):
    """A fusion of one map is that map divided by its largest value; zeros stay zeros, NaN stays NaN."""
    part = maps(grad_cam_map, network, images, "late")

    found = maps(Fusion("gradcam", "late"), network, images, "late")

    torch.testing.assert_close(found, part / part.amax((1, 2), keepdim=True))
    mixed = torch.stack([torch.zeros(2, 2), torch.full((2, 2), torch.nan), torch.ones(2, 2)])
    for weights in ([1.0], None):
        zeros, lost, ones = fuse([mixed], (2, 2), weights)
        assert float(zeros.abs().max()) == 0
        assert bool(lost.isnan().all())
        assert float(ones.min()) == 1


def test_a_batch_may_hold_half_precision(images):
    """Finer-CAM's and Grad-CAM's formula is one and takes half precision."""
    activation = torch.rand(1, 2, 3, 3).half()

    assert grad_cam(activation, activation).dtype == torch.float32
    assert fuse([activation[:, 0]], (3, 3), None).dtype == torch.float32
