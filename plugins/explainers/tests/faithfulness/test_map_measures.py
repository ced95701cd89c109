"""Average drop, infidelity and sparseness against loops and against captum."""

import math

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import infidelity_perturb_func_decorator
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_explainers.faithfulness.measures import average_drop, gini, infidelity, squares

VALUES = st.floats(-10, 10).map(lambda value: round(value, 3))


def slow_gini(values):
    """Mean absolute difference of all pairs over twice the mean."""
    values = [abs(value) for value in values]
    total = 0.0
    for first in values:
        for second in values:
            total += abs(first - second)
    return total / (2 * len(values) * sum(values)) if sum(values) else math.nan


def slow_infidelity(sums, changes):
    """The error left after the best single factor, found by a fine search, over the error of a factor 0."""
    whole = sum(change**2 for change in changes)
    best = whole
    bound = 2 * max(abs(change) for change in changes) / max(max(abs(own) for own in sums), 1e-12)
    low, high = -bound * 50, bound * 50
    for _ in range(200):  # ternary search: the error is convex in the factor
        a, b = low + (high - low) / 3, high - (high - low) / 3
        errors = [sum((f * s - c) ** 2 for s, c in zip(sums, changes, strict=True)) for f in (a, b)]
        low, high = (low, b) if errors[0] < errors[1] else (a, high)
        best = min(best, *errors)
    return best / whole


@given(values=st.lists(VALUES, min_size=1, max_size=12))
def test_sparseness_equals_loops(values):
    """Gini's index is half the relative mean absolute difference of absolute values."""
    found, wanted = gini(np.array([values])), slow_gini(values)

    assert (math.isnan(found) and math.isnan(wanted)) or found == pytest.approx(wanted, abs=1e-9)


def test_sparseness_at_its_ends():
    """A constant map is not sparse, one cell alone is as sparse as can be, zeros are undefined."""
    assert gini(np.full((3, 4), -2.0)) == pytest.approx(0)
    assert gini(np.eye(4)[:1]) == pytest.approx(3 / 4)
    assert math.isnan(gini(np.zeros((2, 2))))
    assert math.isnan(gini(np.array([[1.0, math.nan]])))


@given(pairs=st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=6))
def test_infidelity_equals_the_best_factor_by_search(pairs):
    """What no single factor explains, over what there is to explain."""
    sums, changes = zip(*pairs, strict=True)
    if max(abs(change) for change in changes) < 0.1 or max(abs(own) for own in sums) < 0.1:
        return

    found = float(infidelity(np.array([sums]), np.array(changes))[0])

    assert found == pytest.approx(slow_infidelity(sums, changes), abs=1e-3)


def test_infidelity_is_captums_normalised_one():
    """Times the mean squared change it is captum's normalised infidelity, on the same squares."""
    generator = torch.Generator().manual_seed(0)
    image, weight = torch.rand(1, 3, 8, 8, generator=generator), torch.randn(3, 8, 8, generator=generator)
    plane = torch.randn(8, 8, generator=generator)
    hide = torch.from_numpy(squares((8, 8), 10, 0, 0))

    def answer(images):
        return torch.tanh((images * weight).sum((1, 2, 3)) / 4)

    @infidelity_perturb_func_decorator(multiply_by_inputs=True)
    def hides(images, _baselines):
        return torch.where(hide[: len(images), None], 0.0, images)

    theirs = captum_infidelity(
        answer,
        hides,
        image,
        (plane / 3).expand(1, 3, 8, 8),
        baselines=torch.zeros_like(image),
        n_perturb_samples=10,
        normalize=True,
    )

    changes = (answer(image) - answer(torch.where(hide[:, None], 0.0, image))).numpy().astype(float)
    sums = (hide * plane).sum((1, 2)).numpy()[None]
    ours = infidelity(sums, changes)[0]
    assert ours * (changes**2).mean() == pytest.approx(float(theirs[0]), rel=1e-4)
    assert 0.05 < ours < 1


def test_infidelity_at_its_ends():
    """The exact map of a linear answer explains all; zeros explain nothing; no change is undefined."""
    changes = np.array([1.0, -2.0, 0.5])

    found = infidelity(np.stack([changes * 3, np.zeros(3), [np.nan, 1, 1]]), changes)

    np.testing.assert_allclose(found, [0, 1, np.nan])
    assert np.isnan(infidelity(np.ones((1, 3)), np.zeros(3))).all()


def test_average_drop_is_relative_and_never_negative():
    """Half of the probability lost is 0.5, a gain is 0, and nothing can be lost of 0."""
    np.testing.assert_allclose(average_drop(0.8, np.array([0.4, 0.9, 0.8])), [0.5, 0, 0])
    assert np.isnan(average_drop(0.0, np.array([0.1]))).all()


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), index=st.integers(0, 9))
def test_squares_are_squares_inside_the_image(rows, columns, index):
    """Each is a full square with a side from an eighth to a half of the shorter one."""
    for plane in squares((rows, columns), 5, 0, index):
        at = np.argwhere(plane)
        sides = at.max(0) - at.min(0) + 1
        assert plane.sum() == sides[0] * sides[1]
        assert sides[0] == sides[1]
        assert max(1, min(rows, columns) // 8) <= sides[0] <= max(1, min(rows, columns) // 2)
