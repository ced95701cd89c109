"""Angles between directions of splits, and of resampled groups."""

import dataclasses

import numpy as np
import pytest
from wsss_probe_concepts.regression import bootstrap_directions, make_folds, regress, stability


def made(noise: float, channels: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, one concept, and groups of five."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(150, channels))
    concept = features[:, :1] - features[:, 1:2] + noise * generator.normal(size=(150, 1))
    return features, concept, np.arange(150) // 5


def test_angles_are_those_of_all_pairs() -> None:
    """A loop over pairs of splits."""
    features, concept, groups = made(1.0)
    fitted = regress(features, concept, make_folds(150, groups))["ols"]
    angles = []
    for one in range(10):
        for two in range(one):
            a, b = fitted.fold_direction[one, 0], fitted.fold_direction[two, 0]
            angles.append(np.arccos(min(a @ b, 1.0)))
    found = stability(fitted)
    assert found.mean[0] == pytest.approx(np.mean(angles))
    assert found.largest[0] == pytest.approx(np.max(angles))


def test_opposite_directions_are_pi_apart() -> None:
    """The sign of a direction is part of it."""
    features, concept, groups = made(1.0)
    fitted = regress(features, concept, make_folds(150, groups))["ols"]
    turned = fitted.fold_direction.copy()
    turned[1] = -turned[0]
    turned[2:] = np.nan
    found = stability(dataclasses.replace(fitted, fold_direction=turned))
    assert found.mean[0] == pytest.approx(np.pi)
    turned[1] = np.nan
    assert np.isnan(stability(dataclasses.replace(fitted, fold_direction=turned)).mean[0])


def test_directions_of_many_channels_are_unstable() -> None:
    """The same signal among ten and among 140 channels: the angle between folds tells them apart."""
    few, many = (
        stability(regress(*made(1.0, channels)[:2], make_folds(150), ("ridge",))["ridge"]).mean[0]
        for channels in (10, 140)
    )
    assert few < 0.2
    assert many > 2 * few


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
def test_bootstrap_is_a_fit_to_the_drawn_groups(model: str) -> None:
    """Each replicate by hand: the rows of drawn groups, the whole regression, the cosine."""
    features, concept, groups = made(2.0)
    found = bootstrap_directions(features, concept, model, groups, 3, 4)
    full = regress(features, concept, make_folds(150), (model,))[model].direction[0]
    for replicate, drawn in enumerate(np.random.default_rng(4).integers(30, size=(3, 30))):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        own = regress(features[rows], concept[rows], make_folds(150), (model,))[model].direction[0]
        assert found[replicate, 0] == pytest.approx(own @ full)


def test_bootstrap_is_near_one_for_a_signal_and_not_for_noise() -> None:
    """A clear concept keeps its direction; noise has none to keep."""
    features, concept, _ = made(0.5)
    generator = np.random.default_rng(1)
    concepts = np.column_stack([concept, generator.normal(size=150), np.full(150, 2.0)])
    concepts[:30, 1] = np.nan
    found = bootstrap_directions(features, concepts, number=20)
    assert found[:, 0].min() > 0.98
    assert np.median(found[:, 1]) < 0.9
    assert np.isnan(found[:, 2]).all()


def test_bootstrap_of_one_group_or_too_many_channels_is_undefined() -> None:
    """NaN, not 1."""
    features, concept, _ = made(0.5)
    assert np.isnan(bootstrap_directions(features, concept, groups=np.zeros(150), number=2)).all()
    wide = np.random.default_rng(0).normal(size=(150, 200))
    assert np.isnan(bootstrap_directions(wide, concept, "ols", number=2)).all()
    assert np.isfinite(bootstrap_directions(wide, concept, "ridge", number=2)).all()
