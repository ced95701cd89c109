"""Each formula equals a slow reference written from its paper, and the closed forms of a linear head.

The reference comes first: loops only, float64, nothing of ours imported.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_explainers.formulas import (
    cam,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    plus_plus_weights,
)

# -- reference --------------------------------------------------------------------------------


def _positions(planes):
    return [(i, j) for i in range(len(planes[0])) for j in range(len(planes[0][0]))]


def slow_cam(planes, weights):
    """Zhou et al. 2016, eq. 2: M(x, y) = sum_k w_k f_k(x, y)."""
    rows, columns = len(planes[0]), len(planes[0][0])
    heat = [[0.0] * columns for _ in range(rows)]
    for k in range(len(planes)):
        for i, j in _positions(planes):
            heat[i][j] += weights[k] * planes[k][i][j]
    return heat


def positive(heat):
    """Keep what speaks for the class."""
    return [[max(value, 0.0) for value in row] for row in heat]


def slow_grad_cam(planes, gradients):
    """Selvaraju et al. 2017, eq. 1 and 2."""
    where = _positions(planes)
    weights = [sum(gradients[k][i][j] for i, j in where) / len(where) for k in range(len(planes))]
    return positive(slow_cam(planes, weights))


def plus_plus_coefficient(score, second, third, total):
    """Chattopadhay et al. 2018, eq. 19, from the derivatives of Y' = exp(Y)."""
    denominator = 2 * second * math.exp(score) + total * third * math.exp(score)
    return second * math.exp(score) / denominator if denominator != 0 else second * math.exp(score)


def slow_weights(planes, gradients, score, *, normalise):
    """w_k = sum_ij alpha_k(i, j) relu(dY'/dA_k(i, j)), coefficients normalised as the authors do."""
    weights = []
    for plane, gradient in zip(planes, gradients, strict=True):
        total = sum(value for row in plane for value in row)
        alphas, rises = [], []
        for i, j in _positions(planes):
            g = gradient[i][j]
            alphas.append(plus_plus_coefficient(score, g**2, g**3, total))
            rises.append(max(math.exp(score) * g, 0.0))
        scale = 1.0
        if normalise:
            scale = sum(a for a, r in zip(alphas, rises, strict=True) if r > 0)
        scale = scale if scale != 0 else 1.0
        weights.append(sum(a / scale * r for a, r in zip(alphas, rises, strict=True)))
    return weights


def slow_grad_cam_plus_plus(planes, gradients, score, *, normalise=True):
    """Chattopadhay et al. 2018, eq. 10, with its factor exp(Y)."""
    return positive(slow_cam(planes, slow_weights(planes, gradients, score, normalise=normalise)))


def slow_layer_cam(planes, gradients):
    """Jiang et al. 2021: every position by its own positive gradient."""
    rows, columns = len(planes[0]), len(planes[0][0])
    heat = [[0.0] * columns for _ in range(rows)]
    for k in range(len(planes)):
        for i, j in _positions(planes):
            heat[i][j] += max(gradients[k][i][j], 0.0) * planes[k][i][j]
    return positive(heat)


# -- agreement ---------------------------------------------------------------------------------


def pair(seed, images=2, channels=3, rows=4, columns=5, *, signed=False):
    """Draw activations (after a ReLU unless signed) and gradients, with some exact zeros."""
    rng = np.random.default_rng(seed)
    shape = (images, channels, rows, columns)
    activation, gradient = rng.normal(size=shape), rng.normal(size=shape)
    gradient[rng.random(shape) < 0.2] = 0
    activation = activation if signed else np.maximum(activation, 0)
    return torch.tensor(activation, dtype=torch.float32), torch.tensor(gradient, dtype=torch.float32)


shapes = st.tuples(
    st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)
)
few = settings(max_examples=25, deadline=None)


def by_image(function, *tensors):
    """Apply a reference image by image."""
    return torch.tensor(
        np.array([function(*(t.tolist() for t in each)) for each in zip(*tensors, strict=True)])
    )


@few
@given(shapes)
def test_cam_equals_its_reference(shape):
    """CAM is the weighted sum of the maps, sign kept."""
    activation, gradient = pair(*shape, signed=True)
    weight = gradient[:, :, 0, 0]

    expected = by_image(slow_cam, activation, weight)

    torch.testing.assert_close(cam(activation, weight).double(), expected, rtol=1e-5, atol=1e-5)


@few
@given(shapes, st.booleans())
def test_grad_cam_equals_its_reference(shape, signed):
    """Grad-CAM follows equations 1 and 2 of its paper, also for signed activations."""
    activation, gradient = pair(*shape, signed=signed)

    expected = by_image(slow_grad_cam, activation, gradient)

    torch.testing.assert_close(grad_cam(activation, gradient).double(), expected, rtol=1e-5, atol=1e-5)


@few
@given(shapes, st.booleans(), st.floats(-3, 3))
def test_grad_cam_plus_plus_equals_its_reference_up_to_the_score(shape, normalise, score):
    """Grad-CAM++ is the paper's map without its factor exp(Y), in both variants."""
    activation, gradient = pair(*shape)
    variant = "authors" if normalise else "unnormalised"

    expected = by_image(
        lambda a, g: slow_grad_cam_plus_plus(a, g, score, normalise=normalise), activation, gradient
    ) / math.exp(score)

    found = grad_cam_plus_plus(activation, gradient, variant).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@few
@given(shapes, st.booleans())
def test_layer_cam_equals_its_reference(shape, signed):
    """Layer-CAM weights each position by its own positive gradient."""
    activation, gradient = pair(*shape, signed=signed)

    expected = by_image(slow_layer_cam, activation, gradient)

    torch.testing.assert_close(layer_cam(activation, gradient).double(), expected, rtol=1e-5, atol=1e-5)


# -- closed forms on GAP + linear --------------------------------------------------------------


@pytest.fixture(params=[0, 1, 2])
def linear_head(request):
    """Activations, the gradient of a GAP + linear head, and the head's weight."""
    rng = torch.Generator().manual_seed(request.param)
    activation = torch.rand(4, 6, 3, 5, generator=rng)
    weight = torch.randn(4, 6, generator=rng)
    gradient = (weight / 15)[:, :, None, None].expand_as(activation)
    return activation, gradient, weight


def test_grad_cam_of_a_linear_head_is_the_positive_part_of_cam(linear_head):
    """On GAP + linear, Grad-CAM is relu(CAM) / (h w)."""
    activation, gradient, weight = linear_head

    torch.testing.assert_close(grad_cam(activation, gradient), cam(activation, weight).relu() / 15)


def test_plus_plus_weights_of_a_linear_head_are_its_positive_weights(linear_head):
    """On GAP + linear, the authors' weights are relu(w) / (h w)."""
    activation, gradient, weight = linear_head

    torch.testing.assert_close(plus_plus_weights(activation, gradient), weight.relu() / 15)


def test_unnormalised_weights_of_a_linear_head_have_a_closed_form(linear_head):
    """On GAP + linear, eq. 19 gives h w relu(g) / (2 + S g), with each coefficient in (0, 1/2]."""
    activation, gradient, _ = linear_head
    rise, total = gradient[:, :, 0, 0].double(), activation.double().sum((-2, -1))

    found = plus_plus_weights(activation, gradient, "unnormalised").double()

    torch.testing.assert_close(found, 15 * rise.relu() / (2 + total * rise), rtol=1e-5, atol=1e-7)
    coefficient = (found / (15 * rise))[rise > 0]
    assert bool(((coefficient > 0) & (coefficient <= 0.5)).all())


def test_the_coefficients_of_a_channel_sum_to_one():
    """A gradient of one positive constant leaves that constant as weight; no rise leaves 0."""
    activation = torch.rand(1, 3, 4, 4)
    gradient = torch.randn(1, 3, 4, 4)
    gradient[0, 0] = torch.where(gradient[0, 0] > 0, 0.3, -0.1)
    gradient[0, 1] = -gradient[0, 1].abs()
    gradient[0, 2] = 0

    found = plus_plus_weights(activation, gradient)

    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0, 0.0]]))


def test_plus_plus_equals_grad_cam_where_all_weights_are_positive(linear_head):
    """With positive weights only, the authors' Grad-CAM++ is Grad-CAM."""
    activation, gradient, _ = linear_head

    found = grad_cam_plus_plus(activation, gradient.abs())

    torch.testing.assert_close(found, grad_cam(activation, gradient.abs()))


def test_small_gradients_keep_their_weights():
    """Weights relative to each other do not depend on the scale of the logit (no epsilon)."""
    activation = torch.rand(1, 5, 4, 4)
    weight = torch.linspace(0.1, 1, 5)[None, :, None, None].expand_as(activation)

    found = torch.stack([plus_plus_weights(activation, weight * scale) for scale in (1, 1e-6)])

    torch.testing.assert_close(found[0] / found[0].max(), found[1] / found[1].max())


def test_coefficients_follow_from_finite_differences_of_the_exponential_score():
    """Numerical 1st to 3rd derivatives of exp(Y) match e^Y g^n and give eq. 19's weights."""
    generator = torch.Generator().manual_seed(3)
    activation = torch.rand(1, 2, 2, 3, generator=generator, dtype=torch.float64)
    gradient = torch.randn(1, 2, 2, 3, generator=generator, dtype=torch.float64)
    offset = 0.7

    def score(shift, index):
        moved = activation.flatten().clone()
        moved[index] += shift
        return math.exp(float((moved * gradient.flatten()).sum()) + offset)

    height, step = score(0, 0), 1e-2
    weights = torch.zeros(2, dtype=torch.float64)
    for index in range(12):
        value = [score(n * step, index) for n in (-2, -1, 0, 1, 2)]
        first = (value[0] - 8 * value[1] + 8 * value[3] - value[4]) / (12 * step)
        second = (-value[0] + 16 * value[1] - 30 * value[2] + 16 * value[3] - value[4]) / (12 * step**2)
        third = (-value[0] + 2 * value[1] - 2 * value[3] + value[4]) / (2 * step**3)
        rise = float(gradient.flatten()[index])
        for power, found in enumerate((first, second, third), 1):
            assert found == pytest.approx(height * rise**power, rel=1e-2, abs=2e-3)
        total = float(activation[0, index // 6].sum())
        weights[index // 6] += second / (2 * second + total * third) * max(first, 0)

    found = plus_plus_weights(activation, gradient, "unnormalised")[0].double()
    torch.testing.assert_close(weights / height, found, rtol=2e-2, atol=1e-3)


# -- invariants and degenerate input -----------------------------------------------------------

FORMULAS = {
    "cam": lambda a, g: cam(a, g.float().mean((-2, -1))),
    "gradcam": grad_cam,
    "gradcampp": grad_cam_plus_plus,
    "unnormalised": lambda a, g: grad_cam_plus_plus(a, g, "unnormalised"),
    "layercam": layer_cam,
}
every = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


@every
def test_rows_stay_rows(formula):
    """A map has the layer's own grid: rows first, then columns, one map per image."""
    activation = torch.zeros(2, 1, 3, 7)
    activation[0, 0, 2, 1] = 5
    activation[1, 0, 0, 6] = 5

    found = formula(activation, torch.ones(2, 1, 3, 7))

    assert found.shape == (2, 3, 7)
    assert found.dtype == torch.float32
    assert divmod(int(found[0].argmax()), 7) == (2, 1)
    assert divmod(int(found[1].argmax()), 7) == (0, 6)


@every
def test_an_image_does_not_depend_on_its_batch(formula):
    """Two images together give what each gives alone."""
    activation, gradient = pair(5)

    alone = torch.cat([formula(activation[i : i + 1], gradient[i : i + 1]) for i in range(2)])

    torch.testing.assert_close(formula(activation, gradient), alone)


@every
@pytest.mark.parametrize("scales", [(0, 0), (0, 1), (1, 0)], ids=["both", "activation", "gradient"])
def test_zeros_give_a_map_of_zeros(formula, scales):
    """Zero activations, zero gradients or both give zeros, never NaN."""
    activation, gradient = pair(6)

    found = formula(activation * scales[0], gradient * scales[1])

    torch.testing.assert_close(found, torch.zeros_like(found))


@every
def test_constant_maps_give_constant_maps(formula):
    """Constant activations and gradients give one value, never NaN."""
    found = formula(torch.full((1, 2, 3, 3), 0.5), torch.full((1, 2, 3, 3), 0.25))

    assert bool(found.isfinite().all())
    assert float(found.max() - found.min()) == pytest.approx(0, abs=1e-6)


@every
def test_nan_stays_in_its_image(formula):
    """An unreadable image gives NaN in its own map only, wherever the NaN stands."""
    activation, gradient = pair(7)
    activation[0] = float("nan")
    gradient[0] = float("nan")

    found = formula(activation, gradient)

    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


@every
def test_half_precision_and_channels_last_give_the_same_map(formula):
    """The memory layout changes nothing and float16 input is computed in float32."""
    activation, gradient = pair(8)
    activation, gradient = activation.half(), gradient.half()

    plain = formula(activation.float(), gradient.float())
    found = formula(
        activation.contiguous(memory_format=torch.channels_last),
        gradient.contiguous(memory_format=torch.channels_last),
    )

    torch.testing.assert_close(found, plain)


def test_the_pole_of_eq_19_gives_no_infinity():
    """Signed activations with 2 + S g = 0 exactly count their coefficient as 1."""
    activation = torch.full((1, 1, 2, 2), -1.0)
    gradient = torch.full((1, 1, 2, 2), 0.5)

    assert plus_plus_weights(activation, gradient, "unnormalised").tolist() == [[2.0]]
    assert plus_plus_weights(activation, gradient).tolist() == [[0.5]]


def test_grad_cam_drops_negative_evidence():
    """A channel that speaks against the class leaves zeros; CAM keeps its sign."""
    activation = torch.ones(1, 1, 2, 2)

    assert grad_cam(activation, -activation).max() == 0
    assert layer_cam(activation, -activation).max() == 0
    assert cam(activation, -torch.ones(1, 1)).max() == -1
