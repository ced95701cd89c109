"""First components equal a slow reference written from the papers, with their sign fixed by the stated rule.

The reference comes first: loops only, float64, nothing of ours imported.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import NMF, PCA, KernelPCA, TruncatedSVD
from wsss_probe_explainers.decompositions.components import (
    first_component,
    first_component_centred,
    kernel_component,
)

# -- reference --------------------------------------------------------------------------------


def _positions(planes):
    return [(i, j) for i in range(len(planes[0])) for j in range(len(planes[0][0]))]


def as_rows(planes, *, centred):
    """One row per position, one column per channel; with each channel's mean taken off if asked."""
    rows = [[plane[i][j] for plane in planes] for i, j in _positions(planes)]
    if centred:
        means = [sum(row[k] for row in rows) / len(rows) for k in range(len(planes))]
        rows = [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]
    return rows


def products(rows):
    """Inner products of all rows with each other."""
    return [[sum(a * b for a, b in zip(one, two, strict=True)) for two in rows] for one in rows]


def jacobi(matrix):
    """Eigenvalues and eigenvectors of a symmetric matrix by Jacobi's rotations (1846)."""
    n = len(matrix)
    a = [list(row) for row in matrix]
    v = [[float(i == j) for j in range(n)] for i in range(n)]
    for _ in range(60):
        if sum(a[p][q] ** 2 for p in range(n) for q in range(n) if p != q) < 1e-26 * sum(
            a[p][p] ** 2 for p in range(n)
        ):
            break
        for p in range(n):
            for q in range(p + 1, n):
                if a[p][q] == 0:
                    continue
                theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
                t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta**2 + 1))
                c = 1 / math.sqrt(t**2 + 1)
                s = t * c
                for r in range(n):
                    a[r][p], a[r][q] = c * a[r][p] - s * a[r][q], s * a[r][p] + c * a[r][q]
                for r in range(n):
                    a[p][r], a[q][r] = c * a[p][r] - s * a[q][r], s * a[p][r] + c * a[q][r]
                for r in range(n):
                    v[r][p], v[r][q] = c * v[r][p] - s * v[r][q], s * v[r][p] + c * v[r][q]
    values = [a[i][i] for i in range(n)]
    order = sorted(range(n), key=lambda i: -values[i])
    return [values[i] for i in order], [[v[r][i] for r in range(n)] for i in order]


def agreeing(heat, rows):
    """Turn the map so that it agrees with the sum over channels."""
    total = sum(value * sum(row) for value, row in zip(heat, rows, strict=True))
    return heat if total >= 0 else [-value for value in heat]


def unflattened(heat, planes):
    """Give a map its rows and columns back."""
    columns = len(planes[0][0])
    return [heat[i * columns : (i + 1) * columns] for i in range(len(planes[0]))]


def slow_eigen_cam(planes, *, centred=False):
    """Muhammad & Yeasin 2020: O = U S V^T, map = O v_1, which is s_1 u_1."""
    rows = as_rows(planes, centred=centred)
    values, vectors = jacobi(products(rows))
    heat = [math.sqrt(max(values[0], 0)) * entry for entry in vectors[0]]
    return unflattened(agreeing(heat, rows), planes)


def slow_kernel_map(planes, *, kernel, gamma):
    """Kernel PCA of Schölkopf et al. 1998 on centred rows: first eigenvector times root of its value."""
    rows = as_rows(planes, centred=True)

    def value(one, two):
        if kernel == "sigmoid":
            return math.tanh(gamma * sum(a * b for a, b in zip(one, two, strict=True)) + 1)
        return math.exp(-gamma * sum((a - b) ** 2 for a, b in zip(one, two, strict=True)))

    k = [[value(one, two) for two in rows] for one in rows]
    n = len(k)
    means, whole = [sum(row) / n for row in k], sum(map(sum, k)) / n**2
    centred = [[k[i][j] - means[i] - means[j] + whole for j in range(n)] for i in range(n)]
    values, vectors = jacobi(centred)
    heat = [math.sqrt(max(values[0], 0)) * entry for entry in vectors[0]]
    return unflattened(agreeing(heat, rows), planes)


def gap(planes, *, centred):
    """How far the second singular value is below the first, as a share of the first."""
    values = np.linalg.svd(np.array(as_rows(planes, centred=centred)), compute_uv=False)
    return 1 - (values[1] / values[0] if len(values) > 1 and values[0] > 0 else 0)


# -- agreement ---------------------------------------------------------------------------------


def draw(seed, images=2, channels=3, rows=3, columns=4, *, signed=True):
    """Draw values, with exact zeros as after a ReLU unless signed."""
    values = np.random.default_rng(seed).normal(size=(images, channels, rows, columns))
    return torch.tensor(values if signed else np.maximum(values, 0), dtype=torch.float32)


shapes = st.tuples(
    st.integers(0, 10_000), st.integers(1, 2), st.integers(1, 6), st.integers(1, 3), st.integers(2, 4)
)
few = settings(max_examples=20, deadline=None)


def by_image(function, values):
    """Apply a reference image by image."""
    return torch.tensor(np.array([function(planes.tolist()) for planes in values]))


@few
@given(shapes, st.booleans())
def test_the_first_component_equals_its_reference(shape, signed):
    """Eigen-CAM is the first singular direction of positions and channels, not centred, sign as stated."""
    values = draw(*shape, signed=signed)
    assume(all(gap(planes.tolist(), centred=False) > 0.02 for planes in values))

    expected = by_image(slow_eigen_cam, values)

    torch.testing.assert_close(first_component(values).double(), expected, rtol=1e-4, atol=1e-4)


@few
@given(shapes)
def test_the_centred_component_equals_its_reference(shape):
    """The centred variant takes each channel's own mean off before it looks for the direction."""
    values = draw(*shape)
    assume(all(gap(planes.tolist(), centred=True) > 0.02 for planes in values))

    expected = by_image(lambda planes: slow_eigen_cam(planes, centred=True), values)

    torch.testing.assert_close(first_component_centred(values).double(), expected, rtol=1e-4, atol=1e-4)


@few
@given(shapes, st.sampled_from(["sigmoid", "rbf"]), st.floats(0.05, 1))
def test_the_kernel_component_equals_its_reference(shape, kernel, gamma):
    """KPCA-CAM is the first component of the centred kernel matrix over positions."""
    values = draw(*shape)
    expected = by_image(lambda p: slow_kernel_map(p, kernel=kernel, gamma=gamma), values)
    found = kernel_component(values, kernel, gamma).double()

    clear = ~found.isnan().flatten(1).any(1)  # a tie has no first component
    assume(bool(clear.any()))
    torch.testing.assert_close(found[clear], expected[clear], rtol=1e-3, atol=1e-3)


# -- agreement with scikit-learn ---------------------------------------------------------------


def up_to_sign(found, wanted):
    """Compare maps whose sign the other program leaves open."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64).view_as(found)
    turn = torch.sign((found.double() * wanted).sum((-2, -1), keepdim=True))
    torch.testing.assert_close(found.double(), turn * wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 40, 5, 6), (1, 8, 9, 11), (1, 260, 17, 17)], ids=str)
def test_it_equals_scikit_learn_up_to_the_sign(shape):
    """PCA, truncated SVD and kernel PCA of scikit-learn give the same maps, whichever Gram is smaller."""
    values = draw(3, *shape, signed=False)
    rows = values[0].flatten(1).T.double().numpy()

    up_to_sign(first_component_centred(values), PCA(1).fit_transform(rows))
    up_to_sign(first_component(values), TruncatedSVD(1, algorithm="arpack").fit_transform(rows))
    centred = rows - rows.mean(0)
    for kernel in ("sigmoid", "rbf"):
        up_to_sign(kernel_component(values, kernel), KernelPCA(1, kernel=kernel).fit_transform(centred))


def test_a_factorisation_into_one_part_is_the_first_component():
    """Deep feature factorisation with one factor gives Eigen-CAM's map where activations are not negative."""
    values = draw(5, 1, 6, 4, 5, signed=False)
    rows = values[0].flatten(1).T.double().numpy()
    model = NMF(1, init="nndsvd", tol=1e-8, max_iter=5000, random_state=0)

    weights = model.fit_transform(rows)[:, 0] * np.linalg.norm(model.components_)

    found = first_component(values)[0].flatten().double().numpy()
    np.testing.assert_allclose(found, weights, rtol=1e-3, atol=1e-3)


# -- the sign ----------------------------------------------------------------------------------


@few
@given(shapes)
def test_positive_activations_give_a_positive_map(shape):
    """After a ReLU no value of the map is negative, whatever sign the linear algebra returns."""
    assume(shape[0] >= 0)
    found = first_component(draw(*shape, signed=False))

    assert bool((found.nan_to_num() >= -1e-5).all())


@pytest.mark.parametrize("formula", [first_component, first_component_centred, kernel_component])
def test_the_sign_agrees_with_the_sum_over_channels(formula):
    """Every map lies on the side of the channels' sum, and turns with it."""
    for seed in range(20):
        values = draw(seed, 1, 5, 4, 4)
        found = formula(values)
        total = values.sum(1)

        assert float((found * (total - total.mean())).sum()) >= -1e-4 or formula is first_component
        assert float((found * total).sum()) >= -1e-4
    values = draw(1, 1, 5, 4, 4)
    torch.testing.assert_close(first_component(-values), -first_component(values))


def test_channels_that_cancel_leave_the_largest_value_positive():
    """Where the channels' sum says nothing about the sign, the largest value becomes positive."""
    plane = torch.tensor([[0.5, -3.0, 1.0]])
    values = torch.stack([plane, -plane])[None]

    found = first_component(values)

    torch.testing.assert_close(found, -plane[None] * 2**0.5)


def test_the_sign_is_the_same_however_often_it_is_asked():
    """Channels in another order give the same map: the rule leaves nothing to the linear algebra."""
    values = draw(11, 3, 7, 5, 5)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))

    for formula in (first_component, first_component_centred, kernel_component):
        torch.testing.assert_close(formula(values[:, order]), formula(values), rtol=1e-4, atol=1e-4)


# -- degenerate input --------------------------------------------------------------------------

FORMULAS = {
    "first": first_component,
    "centred": first_component_centred,
    "sigmoid": kernel_component,
    "rbf": lambda values: kernel_component(values, "rbf"),
}
every = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


@every
def test_zeros_give_a_map_of_zeros(formula):
    """Where nothing is active the map is zero, not NaN."""
    found = formula(torch.zeros(2, 3, 4, 5))

    torch.testing.assert_close(found, torch.zeros(2, 4, 5))


@every
@pytest.mark.parametrize("channels", [2, 30], ids=["few", "many"])
def test_constant_maps_say_nothing_about_places(formula, channels):
    """Constant maps give a constant map, which is 0 where means are taken off."""
    level = torch.rand(channels, generator=torch.Generator().manual_seed(channels))

    found = formula(level[None, :, None, None].expand(1, channels, 3, 3))

    expected = float(level.norm()) if formula is first_component else 0.0
    torch.testing.assert_close(found, torch.full((1, 3, 3), expected), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["centred", "sigmoid", "rbf"])
@pytest.mark.parametrize("channels", [2, 30], ids=["few", "many"])
def test_rounding_is_no_variation(name, channels):
    """Differences below the rounding of float32 give zeros, not the first component of noise."""
    noise = torch.randn(1, channels, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    found = FORMULAS[name](1 / 3 + 1e-11 * noise)

    torch.testing.assert_close(found, torch.zeros(1, 3, 4), rtol=0, atol=0)


@every
def test_nan_stays_in_its_image(formula):
    """An unreadable image gives NaN in its own map only."""
    values = draw(7)
    values[0, 1, 1, 2] = float("nan")

    found = formula(values)

    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


@every
def test_an_image_does_not_depend_on_its_batch(formula):
    """Images together give what each gives alone."""
    values = draw(8, 3)

    alone = torch.cat([formula(one[None]) for one in values])

    torch.testing.assert_close(formula(values), alone, rtol=1e-6, atol=1e-6)


@every
def test_rows_stay_rows(formula):
    """A map has the layer's own grid: rows first, then columns."""
    values = 0.01 * draw(2, 2, 4, 3, 7, signed=False)
    values[0, :2, 2, 1] = 5
    values[1, 2:, 0, 6] = 5

    found = formula(values)

    assert found.shape == (2, 3, 7)
    assert found.dtype == torch.float32
    assert divmod(int(found[0].argmax()), 7) == (2, 1)
    assert divmod(int(found[1].argmax()), 7) == (0, 6)


@every
def test_half_precision_and_channels_last_give_the_same_map(formula):
    """The memory layout changes nothing and float16 input is computed in full precision."""
    values = draw(9).half()

    found = formula(values.contiguous(memory_format=torch.channels_last))

    torch.testing.assert_close(found, formula(values.float()))


@pytest.mark.parametrize("formula", [first_component, first_component_centred])
def test_tiny_values_keep_their_direction(formula):
    """Scaling the input by c > 0 scales the map by c, also where squares would vanish."""
    values = draw(10)

    torch.testing.assert_close(formula(values * 1e-18) * 1e18, formula(values), rtol=1e-4, atol=1e-4)


def test_two_directions_that_tie_have_no_first():
    """Two objects that explain exactly alike give NaN: any mixture of them is as good an answer."""
    values = torch.zeros(2, 2, 3, 3)
    values[:, 0, 0, 0] = 2
    values[:, 1, 2, 2] = 2
    values[1, 1, 2, 2] = 2.01

    found = first_component(values)

    assert bool(found[0].isnan().all())
    assert divmod(int(found[1].argmax()), 3) == (2, 2)
