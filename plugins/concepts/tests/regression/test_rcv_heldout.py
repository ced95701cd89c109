"""Held-out R² against a reference of loops, and against what noise makes of the in-sample figure."""

import math

import numpy as np
import pytest
from wsss_probe_concepts.regression import (
    Regression,
    held_out_r2,
    make_folds,
    regress,
    split_r2,
    squared_errors,
)

# -- the formulas, in loops -----------------------------------------------------------------------


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a linear system by elimination with pivots."""
    rows = [[*map(float, row), float(value)] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(size):
            if row != column:
                times = rows[row][column] / rows[column][column]
                rows[row] = [a - times * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [rows[row][size] / rows[row][row] for row in range(size)]


def eigen(matrix: list[list[float]]) -> list[tuple[float, list[float]]]:
    """Eigenvalues with their vectors, largest first, by Jacobi rotations."""
    size = len(matrix)
    a = [row[:] for row in matrix]
    v = [[float(i == j) for j in range(size)] for i in range(size)]
    for _ in range(60):
        for p in range(size):
            for q in range(p + 1, size):
                if abs(a[p][q]) < 1e-300:
                    continue
                angle = 0.5 * math.atan2(2 * a[p][q], a[q][q] - a[p][p])
                c, s = math.cos(angle), math.sin(angle)
                for k in range(size):
                    a[k][p], a[k][q] = c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]
                for k in range(size):
                    a[p][k], a[q][k] = c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]
                for k in range(size):
                    v[k][p], v[k][q] = c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]
    pairs = [(a[j][j], [v[i][j] for i in range(size)]) for j in range(size)]
    return sorted(pairs, key=lambda pair: -pair[0])


def dot(a: list[float], b: list[float]) -> float:
    """Sum of products."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def standardised(rows: list[list[float]], means: list[float], spreads: list[float]) -> list[list[float]]:
    """Rows less the mean, by the spread."""
    return [[(x - m) / s for x, m, s in zip(row, means, spreads, strict=True)] for row in rows]


def candidates(model: str, z: list[list[float]], c: list[float]) -> list[tuple[list[float], float]]:
    """Coefficients of every setting of a model, with their degrees of freedom."""
    n, p = len(z), len(z[0])
    gram = [[sum(row[i] * row[j] for row in z) for j in range(p)] for i in range(p)]
    right = [sum(row[i] * value for row, value in zip(z, c, strict=True)) for i in range(p)]
    if model == "ols":
        return [(solve(gram, right), float(p))]
    found = []
    if model == "ridge":
        for step in range(17):
            penalty = n * 10.0 ** (-4 + step / 2)
            loaded = [[gram[i][j] + penalty * (i == j) for j in range(p)] for i in range(p)]
            freedom = sum(solve(loaded, [gram[j][i] for j in range(p)])[i] for i in range(p))
            found.append((solve(loaded, right), freedom))
        return found
    vectors = eigen(gram)
    for number in range(1, min(p, (n - 1) // 3) + 1):  # below 7, every number is tried
        weights = [0.0] * p
        for value, vector in vectors[:number]:
            share = dot(vector, right) / value
            weights = [w + share * one for w, one in zip(weights, vector, strict=True)]
        found.append((weights, float(number)))
    return found


def reference(model: str, rows: list[list[float]], values: list[float], test: list[list[int]]) -> float:
    """Held-out R², split by split, image by image."""
    sse = ssb = 0.0
    for held_out in test:
        training = [i for i in range(len(rows)) if i not in held_out]
        n = len(training)
        means = [sum(rows[i][k] for i in training) / n for k in range(len(rows[0]))]
        spreads = [
            math.sqrt(sum((rows[i][k] - means[k]) ** 2 for i in training) / n) for k in range(len(rows[0]))
        ]
        z = standardised([rows[i] for i in training], means, spreads)
        mean = sum(values[i] for i in training) / n
        c = [values[i] - mean for i in training]
        best, least = [], math.inf
        for weights, freedom in candidates(model, z, c):
            rss = sum((value - dot(row, weights)) ** 2 for row, value in zip(z, c, strict=True))
            gcv = (rss / n) / (1 - (1 + freedom) / n) ** 2
            if gcv < least:
                best, least = weights, gcv
        for i in held_out:
            predicted = mean + dot(standardised([rows[i]], means, spreads)[0], best)
            sse += (predicted - values[i]) ** 2
            ssb += (mean - values[i]) ** 2
    return 1 - sse / ssb


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
@pytest.mark.parametrize("noise", [0.3, 3.0, 30.0])
def test_held_out_r2_is_that_of_the_loops(model: str, noise: float) -> None:
    """All models, choice of penalty and of components included, to rounding."""
    generator = np.random.default_rng(11)
    rows = generator.normal(size=(34, 4)) * [1.0, 5.0, 0.1, 2.0] + [0.0, 3.0, -1.0, 100.0]
    rows[:, 3] += 8 * rows[:, 0]
    values = rows[:, 0] - 2 * rows[:, 2] + noise * generator.normal(size=34)
    folds = make_folds(34)
    wanted = reference(model, rows.tolist(), values.tolist(), [one.tolist() for one in folds.test])
    found = held_out_r2(regress(rows, values[:, None], folds, (model,))[model])
    assert found.r2.estimate[0] == pytest.approx(wanted, abs=1e-10)


# -- the figures about it -------------------------------------------------------------------------


def made(noise: float = 1.0, images: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, three concepts, the last of noise, and groups of four images."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(images, 8))
    concepts = features[:, :3] * 2 + noise * generator.normal(size=(images, 3))
    concepts[:, 2] = generator.normal(size=images)
    return features, concepts, np.arange(images) // 4


def test_pooled_r2_follows_from_the_residuals() -> None:
    """Sums over images and repeats, not a mean of ratios; the same numbers per image for groups' sums."""
    features, concepts, groups = made()
    fitted = regress(features, concepts, make_folds(120, groups))["ridge"]
    found = held_out_r2(fitted, groups)
    sse, ssb = squared_errors(fitted)
    assert found.r2.estimate == pytest.approx(1 - sse.sum(0) / ssb.sum(0))
    assert sse == pytest.approx((fitted.residual**2).sum(0))
    assert found.n.tolist() == [120] * 3
    assert found.groups.tolist() == [30] * 3
    assert np.all(found.r2.low < found.r2.estimate)
    assert np.all(found.r2.estimate < found.r2.high)
    assert found.r2.low[0] > 0.5
    assert found.r2.low[2] < 0.05
    assert not found.r2.note


def test_interval_is_that_of_resampled_groups() -> None:
    """Percentiles of 1 − ΣSSE/ΣSSB over drawn groups, drawn in a plain loop."""
    features, concepts, groups = made(images=80)
    fitted = regress(features, concepts, make_folds(80, groups))["ridge"]
    found = held_out_r2(fitted, groups, resamples=200, seed=5)
    sse, ssb = squared_errors(fitted)
    drawn = []
    generator = np.random.default_rng(5)
    for row in generator.integers(20, size=(200, 20)):
        images = np.concatenate([np.flatnonzero(groups == group) for group in row])
        drawn.append(1 - sse[images].sum(0) / ssb[images].sum(0))
    assert found.r2.low == pytest.approx(np.quantile(drawn, 0.025, axis=0))
    assert found.r2.high == pytest.approx(np.quantile(drawn, 0.975, axis=0))


def test_groups_widen_the_interval_and_few_of_them_are_called_unreliable() -> None:
    """Groups that share their noise leave fewer observations than images."""
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(9), 20)
    features = generator.normal(size=(180, 3)) + generator.normal(size=(9, 3))[groups]
    concepts = features[:, :1] + generator.normal(size=(9, 1))[groups]
    fitted = regress(features, concepts, make_folds(180, groups))["ridge"]
    grouped, single = held_out_r2(fitted, groups).r2, held_out_r2(fitted).r2
    assert (grouped.high - grouped.low)[0] > 1.5 * (single.high - single.low)[0]
    assert "fewer than 10 groups" in grouped.note
    assert "independent" in single.note


def test_r2_of_a_split_is_against_the_mean_of_its_training_part() -> None:
    """Each split by hand."""
    features, concepts, groups = made()
    folds = make_folds(120, groups)
    fitted = regress(features, concepts, folds, ("ols",))["ols"]
    found = split_r2(fitted)
    assert found.shape == (10, 3)
    for split, test in enumerate(folds.test):
        training = np.setdiff1d(np.arange(120), test)
        design = np.column_stack([np.ones(len(training)), features[training]])
        weights = np.linalg.lstsq(design, concepts[training], rcond=None)[0]
        predicted = np.column_stack([np.ones(len(test)), features[test]]) @ weights
        errors = ((predicted - concepts[test]) ** 2).sum(0)
        spread = ((concepts[training].mean(0) - concepts[test]) ** 2).sum(0)
        assert found[split] == pytest.approx(1 - errors / spread)
    assert held_out_r2(fitted, groups).split_r2 == pytest.approx(found)


# -- the trap -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [64, 192, 768])
def test_noise_reaches_p_over_n_minus_one_in_sample_and_nothing_held_out(channels: int) -> None:
    """The trap: n = 1000 images of noise give R² = p/(n − 1) by OLS; adjusted it is 0, held out below 0."""
    generator = np.random.default_rng(channels)
    features, concepts = generator.normal(size=(1000, channels)), generator.normal(size=(1000, 30))
    fits = regress(features, concepts, make_folds(1000, repeats=1))
    ols = fits["ols"]
    assert ols.noise_r2 == channels / 999
    assert ols.r2_train.mean() == pytest.approx(channels / 999, abs=0.02)
    if channels < 800 - 1:
        assert abs(ols.r2_adjusted.mean()) < 0.03
        assert held_out_r2(ols).r2.estimate.mean() < -0.05
    for model in ("ridge", "pca"):
        assert -0.05 < held_out_r2(fits[model]).r2.estimate.mean() <= 0


def test_held_out_r2_of_noise_is_what_theory_says() -> None:
    """n = 300, p = 64, 5 folds: 1 − (1 + p/(m − p − 2)) with m = 240 training images is −.37."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(300, 64)), generator.normal(size=(300, 200))
    fitted = regress(features, concepts, make_folds(300, repeats=1), ("ols",))["ols"]
    assert held_out_r2(fitted).r2.estimate.mean() == pytest.approx(-64 / (240 - 64 - 2), abs=0.03)


def test_undefined_images_are_in_no_sum() -> None:
    """NaN of a concept stays NaN and is counted out."""
    features, concepts, groups = made()
    concepts[:30, 1] = np.nan
    fitted: Regression = regress(features, concepts, make_folds(120, groups))["ridge"]
    found = held_out_r2(fitted, groups)
    assert np.isnan(fitted.residual[:, :30, 1]).all()
    assert not np.isnan(fitted.residual[:, :, 0]).any()
    assert found.n.tolist() == [120, 90, 120]
    assert found.groups.tolist() == [30, 23, 30]
    assert found.r2.estimate[1] > 0.5


def test_two_groups_have_an_interval_and_one_has_none() -> None:
    """Of two groups each may be drawn twice; one is the same however often it is drawn."""
    features, concepts, _ = made()
    fitted = regress(features, concepts, make_folds(120))["ridge"]
    two, one = (held_out_r2(fitted, np.arange(120) % count).r2 for count in (2, 1))
    assert np.all(two.low < two.high)
    assert np.isnan(one.low).all()
    assert np.isnan(one.high).all()
    assert one.estimate == pytest.approx(two.estimate)
