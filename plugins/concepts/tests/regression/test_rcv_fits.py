"""Fits against statsmodels and sklearn, a published table, planted directions, and changes of units."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from wsss_probe_concepts.regression import fit_table, make_folds, regress
from wsss_probe_concepts.regression.factor import factor_of
from wsss_probe_concepts.regression.smoothing import PENALTIES, chosen, component_numbers, gains_of
from wsss_probe_concepts.regression.spectrum import projected

from wsss_probe.errors import UsageError


def made(noise: float, images: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different units, and four concepts."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(images, 12)) @ generator.normal(size=(12, 12))
    concepts = features @ generator.normal(size=(12, 4)) + noise * generator.normal(size=(images, 4))
    return features * 10.0 ** np.linspace(-3, 3, 12) + np.linspace(-5, 500, 12), concepts + 7


# -- oracles --------------------------------------------------------------------------------------


def test_swiss_roll_gives_the_published_table() -> None:
    """Intercept, coefficients, R² and mean squared error of the authors' printed regression, all digits."""
    features, concept = make_swiss_roll(100, noise=0, random_state=0)
    found = regress(features, concept[:, None], make_folds(100), ("ols",))["ols"]
    assert found.intercept[0] == pytest.approx(9.399282612231177, rel=1e-14)
    assert (found.direction * found.length)[0] == pytest.approx(
        [0.03290635, -0.02277642, 0.03501082], abs=5e-9
    )
    assert found.r2_train[0] == pytest.approx(0.019775588138819522, rel=1e-12)
    assert (1 - found.r2_train[0]) * concept.var() == pytest.approx(7.237055268808664, rel=1e-13)


def test_ols_is_that_of_statsmodels() -> None:
    """Coefficients, intercept, R² and adjusted R² of every concept."""
    features, concepts = made(3.0)
    found = regress(features, concepts, make_folds(90), ("ols",))["ols"]
    for concept in range(4):
        fitted = sm.OLS(concepts[:, concept], sm.add_constant(features)).fit()
        coefficients = found.direction[concept] * found.length[concept]
        assert coefficients == pytest.approx(fitted.params[1:], rel=1e-7)
        assert found.intercept[concept] == pytest.approx(fitted.params[0], rel=1e-7)
        assert found.r2_train[concept] == pytest.approx(fitted.rsquared, rel=1e-9)
        assert found.r2_adjusted[concept] == pytest.approx(fitted.rsquared_adj, rel=1e-9)
    assert np.linalg.norm(found.direction, axis=1) == pytest.approx(1)
    assert found.rank.tolist() == [12] * 4
    assert found.freedom == pytest.approx(12)


def test_ridge_is_that_of_sklearn_at_the_penalty_it_chose() -> None:
    """Standardised columns, λ = n times the penalty, mapped back to raw units."""
    features, concepts = made(20.0)
    found = regress(features, concepts, make_folds(90), ("ridge",))["ridge"]
    scaler = StandardScaler().fit(features)
    for concept in range(4):
        model = Ridge(alpha=90 * found.penalty[concept])
        model.fit(scaler.transform(features), concepts[:, concept])
        assert found.direction[concept] * found.length[concept] == pytest.approx(model.coef_ / scaler.scale_)
        assert found.r2_train[concept] == pytest.approx(
            model.score(scaler.transform(features), concepts[:, concept])
        )
        predicted = features @ found.direction[concept] * found.length[concept] + found.intercept[concept]
        assert predicted == pytest.approx(model.predict(scaler.transform(features)))


@pytest.mark.parametrize("noise", [1.0, 10.0, 100.0, 1000.0])
def test_penalty_is_near_the_one_of_leave_one_out(noise: float) -> None:
    """GCV and RidgeCV's leave-one-out differ by leverages alone: a step of the grid, where it matters."""
    features, concepts = made(noise, images=200)
    found = regress(features, concepts, make_folds(200), ("ridge",))["ridge"]
    standard = StandardScaler().fit_transform(features)
    for concept in range(4):
        oracle = RidgeCV(alphas=200 * PENALTIES).fit(standard, concepts[:, concept])
        ours = Ridge(alpha=200 * found.penalty[concept]).fit(standard, concepts[:, concept])
        same = np.abs(ours.predict(standard) - oracle.predict(standard)).mean()
        assert same < 0.15 * noise


def test_gcv_is_its_formula() -> None:
    """(RSS/n)/(1 − df/n)² of Ridge fits, smallest over the grid, with the trace of the hat matrix."""
    features, concepts = made(50.0)
    standard = StandardScaler().fit_transform(features)
    found = regress(features, concepts, make_folds(90), ("ridge",))["ridge"]
    for concept in range(4):
        scores = []
        for penalty in 90 * PENALTIES:
            hat = standard @ np.linalg.solve(standard.T @ standard + penalty * np.eye(12), standard.T)
            residual = concepts[:, concept] - Ridge(alpha=penalty).fit(
                standard, concepts[:, concept]
            ).predict(standard)
            scores.append((residual @ residual / 90) / (1 - (1 + np.trace(hat)) / 90) ** 2)
        assert found.penalty[concept] == PENALTIES[np.argmin(scores)]


def test_principal_components_are_those_of_sklearn() -> None:
    """OLS on the first k components of standardised features, mapped back."""
    features, concepts = made(20.0)
    found = regress(features, concepts, make_folds(90), ("pca",))["pca"]
    for concept in range(4):
        model = make_pipeline(
            StandardScaler(), PCA(int(found.components[concept]), svd_solver="full"), LinearRegression()
        )
        model.fit(features, concepts[:, concept])
        predicted = features @ found.direction[concept] * found.length[concept] + found.intercept[concept]
        assert predicted == pytest.approx(model.predict(features))


def test_components_are_never_more_than_a_third_of_the_images() -> None:
    """(n − 1)/3, the rank, and at least one."""
    assert component_numbers(1000, 768).max() == 333
    assert component_numbers(1000, 20).max() == 20
    assert component_numbers(4, 20).tolist() == [1]
    assert component_numbers(2, 20).tolist() == [1]
    assert component_numbers(100, 0).tolist() == [0]
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 100))
    found = regress(features, features @ generator.normal(size=(100, 20)), make_folds(40), ("pca",))["pca"]
    assert found.components.max() <= 13


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
def test_equal_settings_are_decided_for_the_first(model: str) -> None:
    """Where features say nothing at all every setting leaves the same: choosing does not fail."""
    factor = factor_of(np.column_stack([np.repeat([1.0, -1.0], 10), np.tile([1.0, -1.0], 10)]))
    spectrum, seen = projected(factor, 1)
    setting = chosen(gains_of(model, spectrum), seen.along, seen.beside, 20)
    assert setting.tolist() == [0 if model != "ridge" else len(PENALTIES) - 1]


def test_standard_errors_are_those_of_statsmodels() -> None:
    """The table that is shown beside a fit, images without the concept left out."""
    features, concepts = made(5.0)
    concepts[3, 0] = np.nan
    table = fit_table(features, concepts[:, 0])
    kept = np.delete(np.arange(90), 3)
    fitted = sm.OLS(concepts[kept, 0], sm.add_constant(features[kept])).fit()
    assert table["coefficient"].to_numpy() == pytest.approx(fitted.params)
    assert table["standard error"].to_numpy() == pytest.approx(fitted.bse)
    assert table["p"].to_numpy() == pytest.approx(fitted.pvalues)
    assert table.index.tolist() == ["intercept", *range(12)]
    assert (table["low"] < table["coefficient"]).all()


def test_no_table_where_the_fit_passes_through_every_point() -> None:
    """n ≤ p + 1 has no standard errors."""
    features, concepts = made(1.0, images=13)
    with pytest.raises(UsageError, match="n <= p \\+ 1"):
        fit_table(features, concepts[:, 0])
    with pytest.raises(UsageError, match="does not fit"):
        fit_table(features, concepts[:5, 0])


# -- planted truth --------------------------------------------------------------------------------


def planted(noise: float, seed: int = 0) -> float:
    """Least cosine over models between a planted direction and what is found, amid distractors."""
    generator = np.random.default_rng(seed)
    features = generator.gamma(2.0, size=(600, 40)) @ (np.eye(40) + 0.1 * generator.normal(size=(40, 40)))
    truth = generator.normal(size=40)
    truth /= np.linalg.norm(truth)
    signal = features @ truth
    concepts = generator.normal(size=(600, 6))  # distractors: noise, and other directions
    concepts[:, 1:4] += features @ generator.normal(size=(40, 3))
    concepts[:, 0] = -3 * signal + 5 + noise * 3 * signal.std() * generator.normal(size=600)
    fits = regress(features, concepts, make_folds(600))
    return min(float(-one.direction[0] @ truth) for one in fits.values())


def test_planted_direction_is_found_until_noise_buries_it() -> None:
    """Cosine above .99 with noise of a quarter of the signal, 1 without noise by OLS; lost at ten times."""
    assert planted(0.25) > 0.99
    assert planted(10.0) < 0.8
    features, _ = made(0.0)
    exact = regress(features, (features @ np.arange(1.0, 13))[:, None], make_folds(90), ("ols",))["ols"]
    assert exact.direction[0] == pytest.approx(np.arange(1, 13) / np.linalg.norm(np.arange(1, 13)), abs=1e-8)
    assert exact.r2_train[0] == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(
    scale=st.lists(st.floats(0.001, 1000.0), min_size=5, max_size=5),
    shift=st.floats(-100, 100),
    times=st.floats(0.001, 1000.0),
    sign=st.sampled_from([-1.0, 1.0]),
    seed=st.integers(0, 50),
)
def test_units_change_no_prediction(
    scale: list[float], shift: float, times: float, sign: float, seed: int
) -> None:
    """Scaled channels divide the raw direction by the scale, and scaled concepts scale residuals."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(40, 5))
    concepts = features[:, :2] + generator.normal(size=(40, 2))
    folds = make_folds(40, seed=seed)
    plain = regress(features, concepts, folds)
    other = regress(features * scale + shift, sign * times * concepts + shift, folds)
    for model, one in plain.items():
        two = other[model]
        assert two.r2_train == pytest.approx(one.r2_train, abs=1e-7)
        assert two.residual == pytest.approx(sign * times * one.residual, abs=1e-6 * times)
        mapped = sign * one.direction / np.array(scale)
        assert two.direction == pytest.approx(mapped / np.linalg.norm(mapped, axis=1)[:, None], abs=1e-6)


def test_copies_and_dead_channels_change_no_prediction() -> None:
    """The rank counts what is independent; OLS takes the solution of minimum norm."""
    generator = np.random.default_rng(4)
    features = generator.normal(size=(50, 6))
    concepts = features[:, :2] + generator.normal(size=(50, 2))
    more = np.column_stack([features, 3 * features[:, 0], np.zeros(50), np.full(50, 1e6), features[:, 1] + 2])
    folds = make_folds(50)
    plain, copied = (regress(one, concepts, folds, ("ols",))["ols"] for one in (features, more))
    assert copied.residual == pytest.approx(plain.residual)
    assert copied.rank.tolist() == [6, 6]
    assert copied.noise_r2 == 6 / 49
    assert copied.direction[:, 7:9] == pytest.approx(0)
