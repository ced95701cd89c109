"""Sensitivity, TCAV score and Br: slow references, finite differences, captum, identities, bad input.

The references come first: loops from the formula, nothing of ours imported.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_concepts.relevance.membership import class_images
from wsss_probe_concepts.relevance.nulls import null_range, random_directions, two_sided_p
from wsss_probe_concepts.relevance.sensitivity import bidirectional_relevance, score, sensitivities

# -- references --------------------------------------------------------------------------------


def slow_sensitivity(gradient, direction):
    """Sum over channels of gradient times direction, image by image."""
    return [sum(g * v for g, v in zip(own, direction, strict=True)) for own in gradient]


def slow_tcav(values):
    """Share of values above 0; a 0 is not above 0."""
    count = 0
    for value in values:
        if value > 0:
            count += 1
    return count / len(values) if values else math.nan


def slow_ratio(values):
    """Mean over the root of the mean squared deviation: the population's standard deviation."""
    if not values:
        return math.nan
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return mean / math.sqrt(variance) if variance > 0 else math.nan


def slow_relevance(r2, values):
    """Clamped R² times mean over standard deviation."""
    return (r2 if r2 > 0 else 0.0) * slow_ratio(values)


def slow_p(observed, null):
    """Double the smaller one-sided share, the observation counted in."""
    above = (1 + sum(value >= observed for value in null)) / (1 + len(null))
    below = (1 + sum(value <= observed for value in null)) / (1 + len(null))
    return min(1.0, 2 * min(above, below))


# -- agreement with the references -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_the_loops(seed):
    """Every class counts its own images, every concept its own direction, NaN images nowhere."""
    rng = np.random.default_rng(seed)
    gradient, vectors = rng.normal(size=(11, 3, 4)), rng.normal(size=(5, 4))
    member = rng.random((11, 3)) < 0.6
    gradient[2], vectors[3] = np.nan, np.nan
    r2 = rng.uniform(-1, 1, size=5)

    found = score(gradient, vectors, member)
    relevance = bidirectional_relevance(r2, found.ratio)

    assert found.tcav.shape == (3, 5)
    for c in range(3):
        for k in (0, 1, 2, 4):
            own = [i for i in range(11) if member[i, c] and i != 2]
            values = slow_sensitivity([gradient[i, c] for i in own], vectors[k])
            assert found.tcav[c, k] == pytest.approx(slow_tcav(values))
            assert found.mean[c, k] == pytest.approx(sum(values) / len(values))
            assert found.ratio[c, k] == pytest.approx(slow_ratio(values))
            assert relevance[c, k] == pytest.approx(slow_relevance(r2[k], values))
            assert found.n[c, k] == len(own)
        assert np.isnan([found.tcav[c, 3], found.mean[c, 3], relevance[c, 3]]).all()
        assert found.n[c, 3] == 0


def test_a_sensitivity_of_zero_is_not_positive():
    """Two positives, one zero and one negative are a half."""
    gradient = np.array([1.0, 2.0, 0.0, -1.0])[:, None, None]

    assert score(gradient, [[1.0]], np.ones((4, 1), bool)).tcav.item() == 0.5


@settings(deadline=None, max_examples=50)
@given(
    observed=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    null=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12),
)
def test_p_of_a_share_equals_the_loops(observed, null):
    """Two-sided about a middle of its own, also where the null has two ends and nothing between."""
    assert float(two_sided_p(observed, null, symmetric=False)) == pytest.approx(slow_p(observed, null))


def test_p_about_zero_compares_absolute_values():
    """A direction and its opposite are the same evidence."""
    null = np.array([-3.0, 1.0, 2.0, np.nan])

    assert float(two_sided_p(-2.5, null, symmetric=True)) == pytest.approx((1 + 1) / (1 + 3))
    assert float(two_sided_p(2.5, null, symmetric=True)) == pytest.approx((1 + 1) / (1 + 3))


def test_a_range_leaves_out_what_is_undefined():
    """Percentiles of what is defined, NaN where nothing is."""
    null = np.column_stack([np.arange(101.0), np.full(101, np.nan)])

    low, high = null_range(null)

    assert (low[0], high[0]) == (2.5, 97.5)
    assert np.isnan([low[1], high[1]]).all()


def test_random_directions_are_units_of_every_kind():
    """Unit norm, no preferred axis, the same for the same seed."""
    drawn = random_directions(3, 4000, 1)

    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    assert np.abs(drawn.mean(0)).max() < 0.05
    np.testing.assert_allclose((drawn**2).mean(0), 1 / 3, atol=0.02)
    np.testing.assert_array_equal(drawn, random_directions(3, 4000, 1))


# -- what the formula must do, whatever the numbers ---------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_relevance_is_odd_scale_free_and_bounded(seed, scale):
    """Br turns with the direction, does not know the logit's unit, and is at most R² mean over spread."""
    rng = np.random.default_rng(seed)
    gradient, vector = rng.normal(0.3, 1, size=(9, 2, 4)), rng.normal(size=(1, 4))
    member = np.ones((9, 2), bool)
    r2 = rng.uniform(-0.5, 1, size=1)

    plain, turned, scaled = (
        score(g, v, member) for g, v in ((gradient, vector), (gradient, -vector), (scale * gradient, vector))
    )
    br = bidirectional_relevance(r2, plain.ratio)

    np.testing.assert_allclose(bidirectional_relevance(r2, turned.ratio), -br)
    np.testing.assert_allclose(bidirectional_relevance(r2, scaled.ratio), br)
    np.testing.assert_allclose(turned.tcav, 1 - plain.tcav)  # no zeros here
    np.testing.assert_allclose(scaled.tcav, plain.tcav)
    assert ((plain.tcav >= 0) & (plain.tcav <= 1)).all()
    assert (np.abs(br) <= np.maximum(r2, 0) * np.abs(plain.mean) / plain.spread + 1e-12).all()


def test_a_negative_r2_is_clamped():
    """A concept that is not encoded has no relevance, rather than one of the other sign."""
    assert bidirectional_relevance([-0.4], [[2.0], [-2.0]]).tolist() == [[0.0], [-0.0]]


@pytest.mark.parametrize("level", [0.0, 1e-7], ids=["equal", "float32 rounding"])
def test_a_constant_sensitivity_has_no_ratio(level):
    """A spread of 0, or of mere rounding, gives NaN, not a Br of ten million."""
    rng = np.random.default_rng(0)
    gradient = np.full((30, 1, 4), 0.5) + level * rng.normal(size=(30, 1, 4))
    orthogonal = np.array([[1.0, -1.0, 0.0, 0.0]]) / math.sqrt(2)  # its sensitivity is nothing but rounding

    found = score(gradient, np.concatenate([np.eye(4)[:1], orthogonal]), np.ones((30, 1), bool))

    assert np.isnan(found.ratio).all()
    assert found.mean[0, 0] == pytest.approx(0.5, abs=1e-6)
    assert found.tcav[0, 0] == 1


def test_thousands_of_directions_go_in_blocks(monkeypatch):
    """Blocks bound memory and change no number."""
    rng = np.random.default_rng(0)
    gradient, vectors, member = rng.normal(size=(7, 1, 3)), rng.normal(size=(50, 3)), np.ones((7, 1), bool)
    whole = score(gradient, vectors, member)
    monkeypatch.setattr("wsss_probe_concepts.relevance.sensitivity._BLOCK", 7 * 8)

    np.testing.assert_allclose(score(gradient, vectors, member).ratio, whole.ratio)


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_give_nan_and_no_warning(images):
    """A class without an image has no score, one with a single image no spread."""
    found = score(np.ones((images, 1, 3)), np.eye(3), np.ones((images, 1), bool))

    assert np.isnan(found.ratio).all()
    assert np.isnan(found.tcav).all() == (images == 0)


# -- against the network ------------------------------------------------------------------------


class Head(nn.Module):
    """A layer, then a head: linear on the mean, or with a bend before it."""

    def __init__(self, bend):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 4, 3)
        self.bend, self.classifier = bend, nn.Linear(4, 2)

    def head(self, maps):
        """Logits from maps."""
        return self.classifier(self.bend(maps).mean((2, 3)))

    def forward(self, images):
        """Logits."""
        return self.head(self.features(images))


def layer_gradient(network, images, target):
    """Maps, and the gradient of a logit at them, (image, channel, row, column)."""
    maps = network.features(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.head(maps)[:, target].sum(), maps)
    return maps.detach(), gradient


def test_a_linear_head_gives_weight_times_direction():
    """With a linear head on means every image has S = w · v / (h w), and no spread."""
    network = Head(nn.Identity()).double()
    _, gradient = layer_gradient(network, torch.rand(5, 3, 8, 9, dtype=torch.float64), 1)
    vector = np.array([0.5, -0.5, 0.5, 0.5])

    found = sensitivities(gradient.mean((2, 3))[:, None].numpy(), vector[None])

    wanted = network.classifier.weight[1].detach().numpy() @ vector / (6 * 7)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("bend", [nn.Identity(), nn.Tanh(), nn.Softplus()], ids=["none", "tanh", "softplus"])
def test_sensitivity_is_the_finite_difference(bend):
    """Adding ε v at every position moves the logit by h w S ε."""
    network = Head(bend).double()
    maps, gradient = layer_gradient(network, torch.rand(5, 3, 8, 9, dtype=torch.float64), 0)
    vector = np.array([0.1, -0.7, 0.5, 0.5])
    step = 1e-5 * torch.from_numpy(vector)[:, None, None]

    with torch.no_grad():
        moved = (network.head(maps + step) - network.head(maps - step))[:, 0] / 2e-5
    found = sensitivities(gradient.mean((2, 3))[:, None].numpy(), vector[None])[:, 0, 0]

    np.testing.assert_allclose(6 * 7 * found, moved, rtol=1e-7)


def test_sensitivity_equals_captum():
    """The mean over positions of captum's layer gradient, dotted with the direction."""
    from captum.attr import LayerGradientXActivation

    network = Head(nn.Tanh()).double()
    images = torch.rand(5, 3, 8, 9, dtype=torch.float64)
    _, gradient = layer_gradient(network, images, 1)
    vectors = np.random.default_rng(0).normal(size=(3, 4))

    theirs = LayerGradientXActivation(network, network.features, multiply_by_inputs=False)
    wanted = theirs.attribute(images, target=1).detach().mean((2, 3)).numpy() @ vectors.T
    found = sensitivities(gradient.mean((2, 3))[:, None].numpy(), vectors)[:, 0]

    np.testing.assert_allclose(found, wanted, rtol=1e-10)


# -- whose images -------------------------------------------------------------------------------


def test_labels_say_whose_images_where_there_are_any():
    """A labelled image speaks for its labels, whatever is predicted; one without a label for nobody."""
    label = [[1, 0], [0, 0], [1, 1], [np.nan, np.nan]]
    logits = np.array([[0.0, 5.0]] * 3 + [[np.nan, np.nan]])

    member, by = class_images(label, logits, (0, 1))

    assert by == "label"
    assert member.tolist() == [[True, False], [False, False], [True, True], [False, False]]


@pytest.mark.parametrize(
    ("logits", "multilabel", "wanted"),
    [
        ([[1.0, 2.0], [2.0, 1.0], [np.nan, np.nan]], False, [[False, True], [True, False], [False, False]]),
        ([[1.0, 2.0], [-2.0, 1.0], [-1.0, -1.0]], True, [[True, True], [False, True], [False, False]]),
        ([[0.5], [-0.5], [0.0]], False, [[True], [False], [False]]),
    ],
    ids=["largest", "multilabel", "one output"],
)
def test_predictions_say_it_without_labels(logits, multilabel, wanted):
    """The largest logit, every logit above 0, or the only one above 0."""
    classes = len(logits[0])

    member, by = class_images(np.zeros((3, classes)), logits, range(classes), multilabel=multilabel)

    assert (member.tolist(), by) == (wanted, "prediction")


def test_a_target_of_each_image_counts_every_image():
    """Where each image has its own target, all readable ones count."""
    member, _ = class_images(np.zeros((2, 9)), [[1.0] * 9, [np.nan] * 9], (None,))

    assert member.tolist() == [[True], [False]]
