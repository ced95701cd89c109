"""Partial R²: against loops of whole regressions, planted confounding, and collinear concepts."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from statsmodels.stats.outliers_influence import variance_inflation_factor
from wsss_probe_concepts.regression import collinearity, held_out_r2, make_folds, partial_r2, regress
from wsss_probe_concepts.regression.smoothing import PENALTIES


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four hidden causes, of which features show three; concepts mix them."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(200, 4))
    features = hidden[:, :3] @ generator.normal(size=(3, 10)) + 0.3 * generator.normal(size=(200, 10))
    concepts = hidden @ generator.normal(size=(4, 4)) + 0.3 * generator.normal(size=(200, 4))
    return features, concepts


def test_partial_r2_of_ols_is_that_of_two_regressions() -> None:
    """OLS of a concept on the others, and on the others with the features, by sklearn."""
    features, concepts = made()
    folds = make_folds(200)
    found = partial_r2(features, concepts, folds, "ols")
    for concept in range(4):
        others = np.delete(concepts, concept, axis=1)
        full = reduced = 0.0
        for test in folds.test:
            training = np.setdiff1d(np.arange(200), test)
            for design in (others, np.column_stack([others, features])):
                model = LinearRegression().fit(design[training], concepts[training, concept])
                errors = ((model.predict(design[test]) - concepts[test, concept]) ** 2).sum()
                full, reduced = (full, reduced + errors) if design is others else (full + errors, reduced)
        assert found[concept] == pytest.approx(1 - full / reduced)


def ridge_beside(
    others: np.ndarray, features: np.ndarray, own: np.ndarray, penalty: float
) -> tuple[np.ndarray, float]:
    """Coefficients of features penalised beside others that are not, with the trace of the hat matrix."""
    design = np.column_stack([np.ones(len(own)), others, features])
    load = np.diag([0.0] * (1 + others.shape[1]) + [penalty] * features.shape[1])
    inverse = np.linalg.inv(design.T @ design + load)
    return inverse @ design.T @ own, float(np.trace(design @ inverse @ design.T))


def test_partial_r2_of_ridge_is_that_of_a_penalised_part() -> None:
    """Normal equations with a penalty on the features alone, GCV with the whole trace, split by split."""
    features, concepts = made(1)
    folds = make_folds(200, repeats=1)
    found = partial_r2(features, concepts, folds, "ridge")
    for concept in range(4):
        others = np.delete(concepts, concept, axis=1)
        full = reduced = 0.0
        for test in folds.test:
            training = np.setdiff1d(np.arange(200), test)
            centre, spread = features[training].mean(0), features[training].std(0)
            standard = (features - centre) / spread
            own, n, best = concepts[training, concept], len(training), (np.inf, np.empty(0))
            for penalty in n * PENALTIES:
                weights, trace = ridge_beside(others[training], standard[training], own, penalty)
                design = np.column_stack([np.ones(n), others[training], standard[training]])
                gcv = ((own - design @ weights) ** 2).mean() / (1 - trace / n) ** 2
                best = min(best, (gcv, weights), key=lambda pair: pair[0])
            design = np.column_stack([np.ones(len(test)), others[test], standard[test]])
            full += ((design @ best[1] - concepts[test, concept]) ** 2).sum()
            alone = LinearRegression().fit(others[training], own)
            reduced += ((alone.predict(others[test]) - concepts[test, concept]) ** 2).sum()
        assert found[concept] == pytest.approx(1 - full / reduced, abs=1e-9)


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
def test_a_concept_known_only_through_another_has_no_partial_r2(model: str) -> None:
    """Features show the first concept; the second follows it: predicted, but not beyond the first."""
    generator = np.random.default_rng(3)
    features = generator.normal(size=(400, 8))
    first = features[:, 0] + 0.2 * generator.normal(size=400)
    second = first + 0.6 * generator.normal(size=400)
    third = features[:, 1] + 0.2 * generator.normal(size=400)
    concepts = np.column_stack([first, second, third])
    folds = make_folds(400)
    held_out = held_out_r2(regress(features, concepts, folds, (model,))[model]).r2.estimate
    partial = partial_r2(features, concepts, folds, model)
    assert held_out[1] > 0.5
    assert partial[1] < 0.05
    assert partial[0] > 0.5
    assert partial[2] > 0.5


def test_without_others_it_is_the_held_out_r2() -> None:
    """One concept alone has nothing to be held fixed."""
    features, concepts = made()
    folds = make_folds(200)
    for model, one in regress(features, concepts[:, :1], folds).items():
        found = partial_r2(features, concepts[:, :1], folds, model)
        assert found == pytest.approx(held_out_r2(one).r2.estimate, abs=1e-9)


def test_noise_has_no_partial_r2() -> None:
    """Features of noise add nothing to what the other concepts say."""
    generator = np.random.default_rng(5)
    _, concepts = made(5)
    found = partial_r2(generator.normal(size=(200, 30)), concepts, make_folds(200))
    assert np.all(found < 0.05)


def test_inflation_is_that_of_statsmodels() -> None:
    """Variance inflation factors, with a constant column for the intercept."""
    _, concepts = made()
    wanted = [variance_inflation_factor(np.column_stack([concepts, np.ones(200)]), k) for k in range(4)]
    assert collinearity(concepts) == pytest.approx(wanted)


def test_concepts_that_determine_each_other_are_said_to() -> None:
    """A sum of two others inflates without bound and has no partial R²; constants are left out."""
    generator = np.random.default_rng(0)
    features, concepts = made()
    concepts = np.column_stack([concepts[:, :2], concepts[:, :2].sum(1), np.full(200, 3.0), concepts[:, 3]])
    found = collinearity(concepts)
    assert np.isinf(found[:3]).all()
    assert np.isnan(found[3])
    assert 1 <= found[4] < 10
    partial = partial_r2(features, concepts, make_folds(200))
    assert np.isnan(partial[:4]).all()
    assert np.isfinite(partial[4])
    assert np.isnan(collinearity(generator.normal(size=(3, 5)))).all()


def test_concepts_that_miss_few_images_are_held_fixed_and_others_are_not() -> None:
    """Nine tenths of the images suffice; images without all of these are left out."""
    generator = np.random.default_rng(8)
    features = generator.normal(size=(300, 5))
    first = features[:, 0] + 0.1 * generator.normal(size=300)
    second = first + 0.5 * generator.normal(size=300)
    concepts = np.column_stack([first, second])
    folds = make_folds(300)
    concepts[:10, 0] = np.nan
    assert partial_r2(features, concepts, folds)[1] < 0.05
    kept = ~np.isnan(concepts[:, 0])
    assert collinearity(concepts) == pytest.approx(collinearity(concepts[kept]))
    concepts[:150, 0] = np.nan
    assert partial_r2(features, concepts, folds)[1] > 0.5
    assert collinearity(concepts)[1] == 1


def test_more_coefficients_than_images_are_not_estimable() -> None:
    """OLS with as many channels and concepts as images; ridge still is."""
    generator = np.random.default_rng(1)
    features, concepts = generator.normal(size=(30, 20)), generator.normal(size=(30, 5))
    assert np.isnan(partial_r2(features, concepts, make_folds(30), "ols")).all()
    assert np.isfinite(partial_r2(features, concepts, make_folds(30), "ridge")).all()
    assert np.isnan(partial_r2(features, concepts, make_folds(30, np.zeros(30)), "ridge")).all()
