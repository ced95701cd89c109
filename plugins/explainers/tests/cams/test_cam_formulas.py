"""XGrad-CAM, HiRes-CAM, Smooth Grad-CAM++ and five programs' Grad-CAM++ equal slow references.

The references come first: loops only, float64, nothing of ours imported.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_explainers.cams.implementations import PROGRAMS, program_plus_plus, program_weights
from wsss_probe_explainers.cams.products import hi_res_cam, x_grad_cam
from wsss_probe_explainers.cams.smoothing import smooth_weights
from wsss_probe_explainers.formulas import cam, grad_cam, grad_cam_plus_plus, layer_cam, plus_plus_weights

# -- references --------------------------------------------------------------------------------


def positions(plane):
    """List all (row, column)."""
    return [(i, j) for i in range(len(plane)) for j in range(len(plane[0]))]


def total(plane):
    """Sum a plane's cells."""
    return sum(plane[i][j] for i, j in positions(plane))


def slow_x_weight(plane, slope):
    """Fu et al. 2020: w = sum_ij A(i, j) / (sum A) * dY/dA(i, j)."""
    mass = total(plane)
    weight = 0.0
    for i, j in positions(plane):
        weight += plane[i][j] * slope[i][j]
    return weight / mass if mass != 0 else 0.0


def slow_hi_res(planes, slopes):
    """Draelos and Carin 2020: M(i, j) = sum_k dY/dA_k(i, j) * A_k(i, j)."""
    heat = [[0.0] * len(planes[0][0]) for _ in planes[0]]
    for plane, slope in zip(planes, slopes, strict=True):
        for i, j in positions(plane):
            heat[i][j] += slope[i][j] * plane[i][j]
    return heat


def slow_sum(planes, weights):
    """relu(sum_k w_k A_k)."""
    heat = [[0.0] * len(planes[0][0]) for _ in planes[0]]
    for plane, weight in zip(planes, weights, strict=True):
        for i, j in positions(plane):
            heat[i][j] += weight * plane[i][j]
    return [[max(value, 0.0) for value in row] for row in heat]


def slow_pytorch_grad_cam(plane, slope):
    """g^2 / (2 g^2 + sum(A) g^3 + 1e-6) where g is not 0, times relu(g), summed."""
    weight = 0.0
    for i, j in positions(plane):
        g = slope[i][j]
        if g != 0:
            weight += g**2 / (2 * g**2 + total(plane) * g**3 + 1e-6) * max(g, 0.0)
    return weight


def slow_torchcam(plane, slope):
    """The division acts on a copy and is lost: g^2 relu(g), summed."""
    return sum(slope[i][j] ** 2 * max(slope[i][j], 0.0) for i, j in positions(plane))


def slow_monai(plane, slope):
    """The sum is over A g^3, with both indices running; 0 becomes 1, then 1e-7 is added."""
    mixed = sum(plane[i][j] * slope[i][j] ** 3 for i, j in positions(plane))
    weight = 0.0
    for i, j in positions(plane):
        g = slope[i][j]
        denominator = 2 * g**2 + mixed
        denominator = 1.0 if denominator == 0 else denominator
        weight += g**2 / (denominator + 1e-7) * max(g, 0.0)
    return weight


def slow_xplique(plane, slope):
    """The mean of A stands for its sum; a denominator of 0 becomes 1e-4; the weight is a mean."""
    where = positions(plane)
    mean = total(plane) / len(where)
    weight = 0.0
    for i, j in where:
        g = slope[i][j]
        denominator = 2 * g**2 + g**3 * mean
        denominator = 1e-4 if denominator == 0 else denominator
        weight += g**2 / denominator * max(g, 0.0)
    return weight / len(where)


SLOW = {
    "pytorch-grad-cam": slow_pytorch_grad_cam,
    "torchcam": slow_torchcam,
    "monai": slow_monai,
    "xplique": slow_xplique,
}


def slow_smooth_weight(plane, slopes):
    """Omeiza et al. 2019: derivatives of all noisy inputs averaged before they meet."""
    weight = 0.0
    for i, j in positions(plane):
        first, second, third = (sum(s[i][j] ** p for s in slopes) / len(slopes) for p in (1, 2, 3))
        denominator = 2 * second + total(plane) * third
        if denominator != 0:
            weight += second / denominator * max(first, 0.0)
        else:
            weight += 0.0 if second == 0 else second * max(first, 0.0)
    return weight


# -- agreement ---------------------------------------------------------------------------------

few = settings(max_examples=25, deadline=None)
shapes = st.tuples(
    st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)
)


def pair(seed, images=2, channels=3, rows=4, columns=5, *, signed=False):
    """Draw activations (after a ReLU unless signed) and gradients, with some exact zeros."""
    rng = np.random.default_rng(seed)
    shape = (images, channels, rows, columns)
    activation, gradient = rng.normal(size=shape), rng.normal(size=shape)
    gradient[rng.random(shape) < 0.2] = 0
    activation = activation if signed else np.maximum(activation, 0)
    return torch.tensor(activation, dtype=torch.float32), torch.tensor(gradient, dtype=torch.float32)


def slow_weights(function, activation, gradient):
    """Apply a reference channel by channel."""
    return torch.tensor(
        [
            [function(a, g) for a, g in zip(planes, slopes, strict=True)]
            for planes, slopes in zip(activation.tolist(), gradient.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


def slow_maps(activation, weights):
    """relu(sum_k w_k A_k), image by image."""
    pairs = zip(activation.tolist(), weights.tolist(), strict=True)
    return torch.tensor([slow_sum(planes, own) for planes, own in pairs], dtype=torch.float64)


@few
@given(shapes)
def test_x_grad_cam_equals_its_reference(shape):
    """XGrad-CAM weighs a channel by its activation-weighted mean gradient."""
    activation, gradient = pair(*shape)

    expected = slow_maps(activation, slow_weights(slow_x_weight, activation, gradient))

    torch.testing.assert_close(x_grad_cam(activation, gradient).double(), expected, rtol=1e-4, atol=1e-5)


@few
@given(shapes, st.booleans())
def test_hi_res_cam_equals_its_reference(shape, signed):
    """HiRes-CAM is gradient times activation, summed over channels, sign kept."""
    activation, gradient = pair(*shape, signed=signed)

    expected = torch.tensor(
        [slow_hi_res(a, g) for a, g in zip(activation.tolist(), gradient.tolist(), strict=True)],
        dtype=torch.float64,
    )

    torch.testing.assert_close(hi_res_cam(activation, gradient).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("program", PROGRAMS)
@few
@given(shapes, st.sampled_from([1.0, 1e-2, 1e-3]))
def test_each_programs_weights_equal_their_reference(program, shape, scale):
    """The weights are those of the program's source, epsilons and mixed indices included."""
    activation, gradient = pair(*shape)
    gradient = gradient * scale

    found = program_weights(activation, gradient, program).double()

    expected = slow_weights(SLOW[program], activation, gradient)
    # MONAI's denominator passes through 0: what stands near its pole is not known to float32
    known = expected.abs() < 20 * float(gradient.abs().sum())
    torch.testing.assert_close(found[known], expected[known], rtol=2e-3, atol=1e-6 * scale)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_programs_map_is_what_its_weights_leave_over_zero(program):
    """Weighted maps are added up and cut at 0, also where activations are negative."""
    activation, gradient = pair(21, signed=True)

    found = program_plus_plus(activation, gradient, program)

    expected = slow_maps(activation, program_weights(activation, gradient, program))
    assert bool((expected == 0).any())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@few
@given(shapes, st.integers(1, 4))
def test_smooth_weights_equal_their_reference(shape, samples):
    """Smooth Grad-CAM++ averages g, g^2 and g^3 over the noisy inputs, then applies eq. 19."""
    activation, _ = pair(*shape)
    slopes = torch.stack([pair(shape[0] + 1 + n, *shape[1:])[1].abs() for n in range(samples)])

    found = smooth_weights(activation, *((slopes**p).mean(0) for p in (1, 2, 3))).double()

    pairs = zip(activation, slopes.transpose(0, 1).transpose(1, 2), strict=True)
    expected = [
        [slow_smooth_weight(plane, own) for plane, own in zip(planes.tolist(), every.tolist(), strict=True)]
        for planes, every in pairs
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


# -- closed forms on GAP + linear --------------------------------------------------------------


@pytest.fixture(params=[0, 1, 2])
def linear_head(request):
    """Activations, the gradient of a GAP + linear head, and the head's weight."""
    rng = torch.Generator().manual_seed(request.param)
    activation = torch.rand(4, 6, 3, 5, generator=rng)
    weight = torch.randn(4, 6, generator=rng)
    return activation, (weight / 15)[:, :, None, None].expand_as(activation), weight


def test_on_a_linear_head_hi_res_cam_is_cam_and_the_others_are_its_positive_part(linear_head):
    """On GAP + linear: HiRes-CAM = CAM / (h w); XGrad-CAM = Grad-CAM = its positive part."""
    activation, gradient, weight = linear_head
    evidence = cam(activation, weight) / 15

    torch.testing.assert_close(hi_res_cam(activation, gradient), evidence)
    torch.testing.assert_close(x_grad_cam(activation, gradient), evidence.relu())
    torch.testing.assert_close(grad_cam(activation, gradient), evidence.relu())


def test_on_a_linear_head_the_authors_plus_plus_is_layer_cam(linear_head):
    """On GAP + linear both keep positive weights only, divided by (h w)."""
    activation, gradient, weight = linear_head

    torch.testing.assert_close(
        grad_cam_plus_plus(activation, gradient), cam(activation, weight.relu()).relu() / 15
    )
    torch.testing.assert_close(layer_cam(activation, gradient), grad_cam_plus_plus(activation, gradient))


def test_on_a_linear_head_each_program_has_a_closed_form_of_its_own(linear_head):
    """With one gradient g per channel: h w r / (2 + S r), h w r^3, and xplique's mean of both."""
    activation, gradient, _ = linear_head
    rise = gradient[:, :, 0, 0].double().relu()
    mass = activation.double().sum((-2, -1))

    closed = {
        "pytorch-grad-cam": 15 * rise**3 / (2 * rise**2 + mass * rise**3 + 1e-6),
        "torchcam": 15 * rise**3,
        "monai": 15 * rise**3 / (2 * rise**2 + mass * rise**3 + 1e-7),
        "xplique": (rise / (2 + mass / 15 * rise)),
    }

    for program, expected in closed.items():
        found = program_weights(activation, gradient, program).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_smoothing_equal_gradients_is_unnormalised_plus_plus():
    """Where noise changes no gradient, Smooth Grad-CAM++ is eq. 19 as printed."""
    activation, gradient = pair(11)

    found = smooth_weights(activation, gradient, gradient**2, gradient**3)

    torch.testing.assert_close(found, plus_plus_weights(activation, gradient, "unnormalised"))


# -- what only the product maps have -----------------------------------------------------------


def test_hi_res_cam_adds_up_to_what_the_layer_contributes():
    """For Y = sum g A + b the map's cells add up to Y - b, whatever differs in sign by place."""
    activation, gradient = pair(12, signed=True)
    logit = (activation * gradient).sum((1, 2, 3)) + 0.5

    torch.testing.assert_close(hi_res_cam(activation, gradient).sum((1, 2)) + 0.5, logit)


def test_x_grad_cam_conserves_what_grad_cam_does_not():
    """Without negative evidence XGrad-CAM's cells add up to sum g A; Grad-CAM's do not."""
    activation, gradient = pair(13)
    gradient = gradient.abs()
    mass = (activation * gradient).sum((1, 2, 3))

    torch.testing.assert_close(x_grad_cam(activation, gradient).sum((1, 2)), mass)
    assert not torch.allclose(grad_cam(activation, gradient).sum((1, 2)), mass, rtol=0.01)


def test_x_grad_cam_of_a_channel_without_mass_is_zero():
    """A channel whose activations add up to exactly 0 has weight 0, not infinity."""
    activation = torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]], [[0.0, 2.0]]]])
    gradient = torch.tensor([[[[5.0, 1.0]], [[9.0, 9.0]], [[3.0, 4.0]]]])

    assert x_grad_cam(activation, gradient).tolist() == [[[0.0, 8.0]]]


def test_averaged_gradients_mislead_where_the_sign_depends_on_the_place():
    """Y = A(left) - A(right): Grad-CAM sees nothing, HiRes-CAM sees both signs, at their places."""
    activation = torch.ones(1, 1, 1, 2)
    gradient = torch.tensor([[[[1.0, -1.0]]]])

    assert grad_cam(activation, gradient).tolist() == [[[0.0, 0.0]]]
    assert hi_res_cam(activation, gradient).tolist() == [[[1.0, -1.0]]]


# -- scale -------------------------------------------------------------------------------------

MAPS = {
    "gradcam": grad_cam,
    "gradcampp": grad_cam_plus_plus,
    "layercam": layer_cam,
    "xgradcam": x_grad_cam,
    "hirescam": hi_res_cam,
}


@pytest.mark.parametrize("formula", MAPS.values(), ids=MAPS)
def test_scaling_logit_or_activation_changes_no_relative_value(formula):
    """A logit or a layer counted in other units gives the same map after division by its maximum."""
    activation, gradient = pair(14)
    gradient = gradient + 0.5  # so that no map is zero
    relative = lambda heat: heat / heat.abs().amax((1, 2), keepdim=True)  # noqa: E731
    plain = relative(formula(activation, gradient))

    if formula is not grad_cam_plus_plus:  # its coefficients 1 / (2 + S g) know the logit's unit
        torch.testing.assert_close(relative(formula(activation, gradient * 1e-4)), plain)
    # counted in other units the activation is a times as large and its gradient 1 / a
    torch.testing.assert_close(relative(formula(activation * 64, gradient / 64)), plain)


def test_the_added_epsilon_knows_the_scale_of_the_logit():
    """Dividing the logits of a linear head by 1000 leaves relative weights; an epsilon takes over there."""
    activation = torch.rand(1, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    gradient = torch.linspace(0.02, 0.1, 5)[None, :, None, None].expand_as(activation)
    ratio = lambda weights: float(weights[0, 0] / weights[0, 4])  # noqa: E731

    printed = {d: ratio(plus_plus_weights(activation, gradient / d, "unnormalised")) for d in (1, 1000)}
    assert printed[1000] == pytest.approx(0.2, rel=1e-3)
    for divisor, expected in {1: printed[1], 1000: 0.2**3}.items():
        assert ratio(plus_plus_weights(activation, gradient / divisor)) == pytest.approx(0.2, rel=1e-5)
        found = ratio(program_weights(activation, gradient / divisor, "pytorch-grad-cam"))
        assert found == pytest.approx(expected, rel=0.05)
        found = ratio(program_weights(activation, gradient / divisor, "torchcam"))
        assert found == pytest.approx(0.2**3, rel=1e-3)


def test_mixed_indices_let_a_negative_gradient_flip_a_weight():
    """MONAI's sum over A g^3 can be negative where A is not; the paper's denominator cannot, there."""
    activation = torch.tensor([[[[1.0, 3.0]]]])
    gradient = torch.tensor([[[[0.5, -2.0]]]])

    # 0.5^3 / (2 * 0.25 + 1 * 0.125 - 3 * 8 + 1e-7)
    mixed = program_weights(activation, gradient, "monai").item()
    assert mixed == pytest.approx(0.125 / (0.5 + 0.125 - 24), rel=1e-5)
    assert plus_plus_weights(activation, gradient, "unnormalised").item() == pytest.approx(
        0.5 / (2 + 4 * 0.5)
    )


def test_programs_rank_the_same_two_channels_in_opposite_ways():
    """A steep narrow channel against a flat wide one: normalised, the steep one wins; else the wide one."""
    activation = torch.ones(1, 2, 1, 10)
    gradient = torch.zeros(1, 2, 1, 10)
    gradient[0, 0, 0, 0], gradient[0, 1] = 0.03, 0.01  # one cell against ten

    wins = {name: bool((w := program_weights(activation, gradient, name)[0])[0] > w[1]) for name in PROGRAMS}
    authors, printed = (
        plus_plus_weights(activation, gradient)[0],
        plus_plus_weights(activation, gradient, "unnormalised")[0],
    )

    assert authors[0] > authors[1]
    assert printed[0] < printed[1]
    assert wins == {"pytorch-grad-cam": False, "torchcam": True, "monai": False, "xplique": False}


# -- degenerate input --------------------------------------------------------------------------

FORMULAS = {
    "xgradcam": x_grad_cam,
    "hirescam": hi_res_cam,
    "smooth": lambda a, g: cam(a, smooth_weights(a, g, g.float() ** 2, g.float() ** 3)).relu(),
    **{name: lambda a, g, name=name: program_plus_plus(a, g, name) for name in PROGRAMS},
}
every = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


@every
def test_rows_stay_rows_in_every_cam(formula):
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
@pytest.mark.parametrize("scales", [(0, 0), (0, 1), (1, 0)], ids=["both", "activation", "gradient"])
def test_zeros_give_zeros_in_every_cam(formula, scales):
    """Zero activations, zero gradients or both give zeros, never NaN."""
    activation, gradient = pair(6)

    found = formula(activation * scales[0], gradient * scales[1])

    torch.testing.assert_close(found, torch.zeros_like(found))


@every
def test_nan_stays_in_its_image_in_every_cam(formula):
    """An unreadable image gives NaN in its own map only."""
    activation, gradient = pair(7)
    activation[0] = float("nan")
    gradient[0] = float("nan")

    found = formula(activation, gradient)

    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


@every
def test_half_precision_and_layout_change_nothing_in_every_cam(formula):
    """The memory layout changes nothing and half precision is computed in float32."""
    activation, gradient = (values.half() for values in pair(8))

    plain = formula(activation.float(), gradient.float())
    found = formula(
        activation.contiguous(memory_format=torch.channels_last),
        gradient.contiguous(memory_format=torch.channels_last),
    )

    torch.testing.assert_close(found, plain)


@every
def test_negative_evidence_stays_negative_or_silent(formula):
    """A channel that speaks against the class shows as negative in HiRes-CAM and not at all elsewhere."""
    activation = torch.ones(1, 1, 2, 2)

    found = formula(activation, -activation)

    assert float(found.max()) == (-1 if formula is hi_res_cam else 0)
