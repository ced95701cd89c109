"""Rank correlation and overlap of maps: by loops, by scipy, on grids, at the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from wsss_probe_explainers.agreement.alike import alike, centred_ranks, common_grid, on_grid, top_cells


def slow_ranks(values):
    """Rank of each value: how many are below it, and half of the others that equal it."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def slow_correlation(first, second):
    """Pearson's correlation of ranks."""
    one, other = slow_ranks(first), slow_ranks(second)
    means = sum(one) / len(one), sum(other) / len(other)
    cross = sum((a - means[0]) * (b - means[1]) for a, b in zip(one, other, strict=True))
    spread = sum((a - means[0]) ** 2 for a in one) * sum((b - means[1]) ** 2 for b in other)
    return cross / math.sqrt(spread) if spread else math.nan


def slow_top(values):
    """Positions in the fifth of the area with the highest values; equal values all or none."""
    allowed = max(1, len(values) // 5)
    marked = set()
    for level in sorted(set(values), reverse=True):
        tied = {at for at, value in enumerate(values) if value == level}
        if len(marked | tied) > allowed:
            break
        marked |= tied
    return marked or {at for at, value in enumerate(values) if value == max(values)}


def slow_overlap(first, second):
    """Cells that both mark over cells that either marks."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    one, other = slow_top(first), slow_top(second)
    return len(one & other) / len(one | other)


def slow_coarse(image, rows, columns):
    """Mean of the fine cells that each coarse cell touches."""
    height, width = len(image), len(image[0])
    coarse = []
    for r in range(rows):
        for c in range(columns):
            touched = [
                image[y][x]
                for y in range(r * height // rows, -(-(r + 1) * height // rows))
                for x in range(c * width // columns, -(-(c + 1) * width // columns))
            ]
            coarse.append(sum(touched) / len(touched))
    return coarse


def rectified(*shape, seed=0):
    """Maps with many zeros, as a ReLU leaves them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul(4).round().relu()


@pytest.mark.parametrize("sizes", [[(5, 6), (5, 6)], [(4, 9), (8, 6), (3, 3)], [(30, 40), (7, 7)]])
def test_equals_the_loops(sizes):
    """Every entry is what loops over the cells of the coarser grid give, tied values included."""
    first = [rectified(3, *size, seed=at) for at, size in enumerate(sizes)]
    second = [rectified(3, *size, seed=at + 9) for at, size in enumerate(sizes)]
    correlation, overlap = alike(first, second)
    for image in range(3):
        for one in range(len(sizes)):
            for other in range(len(sizes)):
                grid = common_grid(sizes[one], sizes[other])
                a = slow_coarse(first[one][image].tolist(), *grid)
                b = slow_coarse(second[other][image].tolist(), *grid)
                # sums in another order: ties of means must not depend on the last bit
                a, b = ([round(value, 9) for value in each] for each in (a, b))
                assert correlation[image, one, other].item() == pytest.approx(
                    slow_correlation(a, b), abs=1e-2
                )
                assert overlap[image, one, other].item() == pytest.approx(slow_overlap(a, b), abs=0.2)


def test_equals_the_loops_exactly_where_nothing_is_averaged():
    """On one grid no sum can blur a tie: equal to the last digits."""
    first, second = [rectified(20, 6, 5, seed=1)], [rectified(20, 6, 5, seed=2)]
    correlation, overlap = (found[:, 0, 0].tolist() for found in alike(first, second))
    pairs = [(a.flatten().tolist(), b.flatten().tolist()) for a, b in zip(first[0], second[0], strict=True)]
    assert correlation == pytest.approx([slow_correlation(a, b) for a, b in pairs], abs=1e-12)
    assert overlap == pytest.approx([slow_overlap(a, b) for a, b in pairs], abs=1e-12)


def test_equals_scipy():
    """Spearman's correlation as scipy has it."""
    first, second = rectified(1, 9, 11, seed=3), rectified(1, 9, 11, seed=4)
    found = alike([first], [second])[0].item()
    assert found == pytest.approx(spearmanr(first.flatten(), second.flatten()).statistic, abs=1e-12)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_averaging_equals_the_loops(rows, columns, fewer, narrower):
    """Any grid that is not finer; a constant stays what it is."""
    grid = min(rows, fewer), min(columns, narrower)
    maps = torch.rand((1, rows, columns), generator=torch.Generator().manual_seed(0))
    found = on_grid(maps, grid).flatten().tolist()
    assert found == pytest.approx(slow_coarse(maps[0].tolist(), *grid), abs=1e-9)
    assert on_grid(torch.ones(1, rows, columns), grid).unique().tolist() == [1.0]


@given(st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0, -1.0]), min_size=1, max_size=30))
def test_marked_cells_equal_the_loops(values):
    """At most a fifth, ties all or none, the cells at the maximum where they alone are more."""
    marked = top_cells(torch.tensor(values)).tolist()
    if len(set(values)) == 1:
        assert all(math.isnan(value) for value in marked)
    else:
        assert {at for at, value in enumerate(marked) if value == 1} == slow_top(values)


@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-5, 5))
def test_scale_and_shift_change_nothing(seed, factor, shift):
    """Only the order of cells counts; a map is like itself, and the contrary of its negative."""
    maps = torch.rand((2, 5, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    correlation, overlap = alike([maps], [maps * factor + shift])
    assert torch.allclose(correlation, torch.ones(2, 1, 1, dtype=torch.float64))
    assert overlap.tolist() == [[[1.0]]] * 2
    assert torch.allclose(alike([maps], [-maps])[0], -torch.ones(2, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, "constant"])
def test_undefined_maps_are_undefined(spoilt):
    """A constant map, and one with a value that is not finite, is like nothing, not even itself."""
    maps = torch.rand(2, 4, 4)
    maps[1] = 0.5 if spoilt == "constant" else maps[1]
    maps[1, 2, 3] = maps[1, 2, 3] if spoilt == "constant" else spoilt
    for found in alike([maps], [maps]):
        assert found[0].item() == pytest.approx(1)
        assert math.isnan(found[1].item())
    assert centred_ranks(maps[1].flatten()).isnan().all()


def test_independent_maps_are_not_alike():
    """Noise beside noise: no correlation, and the overlap that chance gives, a ninth."""
    first, second = (torch.rand((400, 14, 14), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    correlation, overlap = alike([first], [second])
    assert abs(correlation.mean().item()) < 0.01
    assert overlap.mean().item() == pytest.approx(1 / 9, abs=0.01)


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 1.0, 1.0), (0.3, 0.45, 0.95), (30.0, -0.1, 0.1)])
def test_planted_likeness_fades_with_noise(noise, least, most):
    """A blob and the same blob on a grid twice as fine agree; under much noise no longer."""
    at = torch.linspace(-1, 1, 28)
    fine = torch.exp(-4 * ((at[:, None] - 0.3) ** 2 + (at[None] + 0.2) ** 2)).expand(60, 28, 28)
    generator = torch.Generator().manual_seed(0)
    coarse = on_grid(fine, (14, 14))
    coarse = coarse + noise * torch.randn(coarse.shape, generator=generator, dtype=torch.float64)
    correlation = alike([fine, coarse], [fine, coarse])[0][:, 0, 1].mean().item()
    assert least - 1e-9 <= correlation <= most + 1e-9


def test_images_are_compared_with_their_own():
    """Rows of the result belong to images: an exchange of images shows."""
    maps = torch.rand((3, 6, 6), generator=torch.Generator().manual_seed(0))
    straight, turned = (alike([maps], [other])[0][:, 0, 0] for other in (maps, maps.roll(1, 0)))
    assert torch.allclose(straight, torch.ones(3, dtype=torch.float64))
    assert (turned < 0.9).all()
