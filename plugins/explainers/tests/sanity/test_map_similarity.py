"""Similarity of maps against loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_explainers.sanity.similarity import rank_correlation, similarity, structure


def slow_ranks(values):
    """Rank of each value, 1 for the smallest, the mean rank for equal ones."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def slow_rank_correlation(first, second):
    """Pearson's correlation of ranks, by loops."""
    a, b = slow_ranks(first), slow_ranks(second)
    middle = (len(a) + 1) / 2
    products = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    squares = [sum((x - middle) ** 2 for x in ranks) for ranks in (a, b)]
    return products / math.sqrt(squares[0] * squares[1]) if min(squares) > 0 else math.nan


def slow_structure(first, second, window):
    """Mean over all whole windows of the SSIM index, with unbiased variances, by loops."""
    rows, columns = len(first), len(first[0])
    largest = [max(max(row) for row in plane) for plane in (first, second)]
    found = []
    for top in range(rows - window + 1):
        for left in range(columns - window + 1):
            cells = [
                [plane[top + r][left + c] / most for r in range(window) for c in range(window)]
                for plane, most in zip((first, second), largest, strict=True)
            ]
            count = window * window
            x, y = (sum(own) / count for own in cells)
            vx, vy = (
                sum((v - m) ** 2 for v in own) / (count - 1) for own, m in zip(cells, (x, y), strict=True)
            )
            both = sum((a - x) * (b - y) for a, b in zip(*cells, strict=True)) / (count - 1)
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * x * y + c1) * (2 * both + c2) / ((x * x + y * y + c1) * (vx + vy + c2)))
    return sum(found) / len(found)


@given(pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=9))
def test_rank_correlation_equals_loops(pairs):
    """Ties share their rank; a constant map has no correlation."""
    first, second = (np.array([[own]], dtype=float) for own in zip(*pairs, strict=True))

    found = float(rank_correlation(first, second)[0])

    wanted = slow_rank_correlation(first[0, 0].tolist(), second[0, 0].tolist())
    assert (math.isnan(found) and math.isnan(wanted)) or found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("side", "window"), [(9, 7), (6, 5), (4, 3)])
def test_structure_equals_loops(side, window):
    """SSIM over whole windows; the largest odd window that fits."""
    random = np.random.default_rng(0)
    first, second = random.random((2, 1, side, side + 1))

    wanted = slow_structure(first[0].tolist(), second[0].tolist(), window)

    assert float(structure(first, second)[0]) == pytest.approx(wanted, abs=1e-9)


def test_a_map_with_itself_is_one_whatever_its_scale():
    """Scale does not count for ranks or structure; the sign counts for the first only."""
    maps = np.random.default_rng(0).normal(size=(3, 8, 8))

    np.testing.assert_allclose(similarity(maps, 5 * maps), 1)
    np.testing.assert_allclose(similarity(maps, -maps), [[-1, 1, 1]] * 3)


def test_maps_that_have_nothing_to_do_with_each_other_are_not_alike():
    """Independent maps have rank correlations around 0."""
    first, second = np.random.default_rng(1).normal(size=(2, 50, 8, 8))

    found = similarity(first, second)

    assert np.abs(found[:, :2].mean(0)).max() < 0.05


def test_what_is_undefined_is_nan():
    """A constant map has no ranks, zeros and tiny maps no structure, NaN is NaN."""
    maps = np.random.default_rng(2).random((1, 8, 8))
    broken = maps.copy()
    broken[0, 3, 3] = np.nan

    constant, zeros = np.full_like(maps, 2.0), np.zeros_like(maps)

    assert np.isnan(similarity(maps, constant)).tolist() == [[True, True, False]]
    assert np.isnan(similarity(maps, zeros)).all()
    assert np.isnan(similarity(broken, maps)).all()
    assert np.isnan(structure(maps[:, :2], maps[:, :2])).all()
