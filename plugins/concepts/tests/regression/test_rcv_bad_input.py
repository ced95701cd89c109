"""What cannot be estimated is a row with a reason: never an R² of 1, −inf, or a stack trace."""

import numpy as np
import pytest
from wsss_probe_concepts.regression import (
    Regression,
    held_out_r2,
    make_folds,
    null_r2,
    regress,
    split_r2,
    stability,
)


def undefined(fitted: Regression, concept: int) -> bool:
    """Whether nothing but the reason is said of a concept."""
    numbers = [
        fitted.residual[:, :, concept],
        fitted.direction[concept],
        fitted.fold_direction[:, concept],
        fitted.length[concept],
        fitted.intercept[concept],
        fitted.r2_train[concept],
        fitted.r2_adjusted[concept],
        held_out_r2(fitted).r2.estimate[concept],
        split_r2(fitted)[:, concept],
        stability(fitted).mean[concept],
    ]
    return bool(fitted.reason[concept]) and all(np.isnan(one).all() for one in numbers)


def test_constant_concepts_have_a_reason_and_others_are_untouched() -> None:
    """Also one that is constant up to rounding, and one that is all NaN."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(50, 4))
    good = features[:, :1] + generator.normal(size=(50, 1))
    rounding = 1e8 + 1e-7 * generator.integers(0, 2, size=(50, 1))
    concepts = np.column_stack([good, np.zeros(50), np.full(50, 7.1), np.full(50, np.nan), rounding])
    folds = make_folds(50)
    for model, fitted in regress(features, concepts, folds).items():
        assert fitted.reason.tolist() == ["", "constant", "constant", "fewer than 10 images: 0", "constant"]
        assert all(undefined(fitted, concept) for concept in range(1, 5))
        alone = regress(features, good, folds)[model]
        assert fitted.residual[:, :, 0] == pytest.approx(alone.residual[:, :, 0])
        assert np.isnan(null_r2(features, concepts, folds, model, 3)[:, 1:]).all()


@pytest.mark.parametrize("channels", [39, 40, 49, 50, 51, 300])
def test_ols_is_not_estimable_with_as_many_channels_as_images(channels: int) -> None:
    """50 images, 40 in a training part: from 39 channels on no OLS; ridge and PCA are."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(50, channels)), generator.normal(size=(50, 3))
    fits = regress(features, concepts, make_folds(50))
    assert all(undefined(fits["ols"], concept) for concept in range(3))
    assert all(reason.startswith("n <= p + 1: OLS not estimable") for reason in fits["ols"].reason)
    assert fits["ols"].rank.tolist() == [min(channels, 49)] * 3
    assert fits["ols"].noise_r2 == min(channels, 49) / 49
    for model in ("ridge", "pca"):
        assert fits[model].reason.tolist() == [""] * 3
        assert np.isfinite(held_out_r2(fits[model]).r2.estimate).all()
        assert fits[model].r2_train.max() < 0.99


def test_ols_with_one_image_more_than_coefficients_is_estimable() -> None:
    """38 channels and 40 training images: estimable, and honest about it."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(50, 38)), generator.normal(size=(50, 3))
    fitted = regress(features, concepts, make_folds(50))["ols"]
    assert fitted.reason.tolist() == [""] * 3
    assert np.all(held_out_r2(fitted).r2.estimate < 0)


def test_dead_channels_do_not_make_ols_impossible() -> None:
    """It is the rank that counts, not the number of columns."""
    generator = np.random.default_rng(0)
    features = np.zeros((50, 100))
    features[:, :5] = generator.normal(size=(50, 5))
    fitted = regress(features, features[:, :1] + generator.normal(size=(50, 1)), make_folds(50))["ols"]
    assert fitted.reason.tolist() == [""]
    assert fitted.noise_r2 == 5 / 49


@pytest.mark.parametrize("value", [0.0, 0.1, 1e7 / 3])
def test_dead_layers_have_a_reason(value: float) -> None:
    """Every channel constant, also where the mean of copies is not the copy: nothing to fit, by any model."""
    concepts = np.random.default_rng(0).normal(size=(53, 2))
    dead = np.full((53, 6), value)
    for model, fitted in regress(dead, concepts, make_folds(53)).items():
        assert all(undefined(fitted, concept) for concept in range(2))
        assert "every channel is constant" in fitted.reason[0]
        assert np.isnan(null_r2(dead, concepts, make_folds(53), model, 2)).all()


def test_channel_that_is_constant_in_a_training_part_divides_by_nothing() -> None:
    """A channel that responds to one image only; and one group's worth of a concept."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    features[:, 0] = 0
    features[7, 0] = 1e-30
    concepts = np.zeros((60, 1))
    concepts[7] = 5.0
    for fitted in regress(features, concepts, make_folds(60)).values():
        assert fitted.reason.tolist() == [""]
        assert np.isfinite(held_out_r2(fitted).r2.estimate[0])


@pytest.mark.parametrize("images", [0, 1, 2, 9])
def test_few_images_have_a_reason(images: int) -> None:
    """None, one, two, nine."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(images, 3)), generator.normal(size=(images, 2))
    folds = make_folds(images)
    for model, fitted in regress(features, concepts, folds).items():
        assert all(undefined(fitted, concept) for concept in range(2))
        assert np.isnan(null_r2(features, concepts, folds, model, 2)).all()


def test_one_group_has_a_reason() -> None:
    """Nothing can be held out of one patient."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(40, 3)), generator.normal(size=(40, 2))
    fitted = regress(features, concepts, make_folds(40, ["patient"] * 40))["ridge"]
    assert fitted.reason.tolist() == ["one group: nothing can be held out"] * 2
    assert undefined(fitted, 0)
    assert held_out_r2(fitted, ["patient"] * 40).groups.tolist() == [0, 0]


def test_concept_of_one_fold_has_a_reason() -> None:
    """Where all images with a concept are held out together nothing is left to learn from."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 20)
    features, concepts = generator.normal(size=(100, 3)), generator.normal(size=(100, 2))
    concepts[20:, 1] = np.nan
    fitted = regress(features, concepts, make_folds(100, groups))["ridge"]
    assert fitted.reason.tolist() == ["", "fewer than 5 images in a training part: 0"]


def test_images_with_broken_features_are_left_out() -> None:
    """An unreadable image is NaN in every channel, a network may give infinity in one."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    concepts = features[:, :1] + generator.normal(size=(60, 1))
    features[3], features[9, 1] = np.nan, np.inf
    concepts[11] = np.inf
    fitted = regress(features, concepts, make_folds(60))["ridge"]
    assert fitted.n.tolist() == [57]
    assert np.isnan(fitted.residual[:, [3, 9, 11], 0]).all()
    assert not np.isnan(np.delete(fitted.residual[0, :, 0], [3, 9, 11])).any()


@pytest.mark.parametrize("where", ["features", "concepts"])
def test_outlier_of_1e30_gives_finite_figures(where: str) -> None:
    """It ruins the fit, and the figures say so without overflow."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    concepts = features[:, :1] + generator.normal(size=(60, 1))
    (features if where == "features" else concepts)[17, 0] = 1e30
    for model, fitted in regress(features, concepts, make_folds(60)).items():
        found = held_out_r2(fitted).r2
        assert np.isfinite(found.estimate[0])
        assert found.estimate[0] < 0.2
        assert np.isfinite(null_r2(features, concepts, make_folds(60), model, 3)).all()


def test_collinear_concepts_are_fitted_alike() -> None:
    """A copy of a concept in other units has the same R² and direction."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 8))
    concept = features[:, :1] + generator.normal(size=(60, 1))
    for fitted in regress(features, np.hstack([concept, -1e6 * concept + 3]), make_folds(60)).values():
        assert fitted.direction[1] == pytest.approx(-fitted.direction[0])
        assert held_out_r2(fitted).r2.estimate[1] == pytest.approx(held_out_r2(fitted).r2.estimate[0])
