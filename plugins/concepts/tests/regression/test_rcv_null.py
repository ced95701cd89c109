"""Permuted concepts: what is exchanged, the same estimator, and how often noise is called a concept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from wsss_probe_concepts.regression import (
    held_out_r2,
    make_folds,
    null_r2,
    permuted_concepts,
    regress,
)

from wsss_probe.errors import UsageError
from wsss_probe.statistics import permutation_p

# -- what is exchanged ----------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    seed=st.integers(0, 50),
    missing=st.booleans(),
)
def test_every_group_takes_its_values_from_one_other_group(
    sizes: list[int], seed: int, missing: bool
) -> None:
    """Blocks stay together and in order, each group is a source once, and NaN stays where it is."""
    generator = np.random.default_rng(seed)
    groups = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = np.arange(len(groups), dtype=float)[:, None]
    if missing:
        values[generator.random(len(groups)) < 0.3] = np.nan
    known = ~np.isnan(values[:, 0])
    for one in permuted_concepts(values, groups, 5, seed)[:, :, 0]:
        assert np.array_equal(np.isnan(one), ~known)
        sources = []
        for group in np.unique(groups[known]):
            own = np.flatnonzero(known & (groups == group))
            taken = one[own].astype(int)
            source = np.unique(groups[taken])
            assert len(source) == 1
            block = np.flatnonzero(known & (groups == source[0]))
            assert taken.tolist() == [block[place % len(block)] for place in range(len(own))]
            sources.append(int(source[0]))
        assert sorted(sources) == np.unique(groups[known]).tolist()


def test_all_concepts_of_an_image_go_together() -> None:
    """The same exchange for every concept keeps how they hang together."""
    values = np.arange(24.0).reshape(12, 2)
    for one in permuted_concepts(values, None, 20):
        assert np.array_equal(one[:, 1] - one[:, 0], np.ones(12))
        assert np.array_equal(np.sort(one[:, 0]), values[:, 0])


def test_seed_decides_the_exchange() -> None:
    """Repeatable, and different from permutation to permutation."""
    values = np.arange(20.0)[:, None]
    first, same, other = (permuted_concepts(values, None, 4, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    with pytest.raises(UsageError, match="groups"):
        permuted_concepts(values, ["a"], 4)


# -- the same estimator ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ols", "ridge", "pca"])
@pytest.mark.parametrize("channels", [6, 200])
def test_null_is_the_regression_of_permuted_concepts(model: str, channels: int) -> None:
    """Each permutation through the whole of regress, with missing values and groups of unequal size."""
    generator = np.random.default_rng(1)
    groups = np.sort(generator.integers(0, 18, size=90))
    features = generator.normal(size=(90, channels)) + 10
    features[5, 0] = np.nan
    concepts = features[:, 1:5] @ generator.normal(size=(4, 3)) + generator.normal(size=(90, 3)) + 1e3
    concepts[:7, 1] = np.nan
    folds = make_folds(90, groups)
    null = null_r2(features, concepts, folds, model, 4, 3, groups)
    left = np.where(np.isnan(features).any(1)[:, None], np.nan, concepts)
    for number, exchanged in enumerate(permuted_concepts(left, groups, 4, 3)):
        wanted = held_out_r2(regress(features, exchanged, folds, (model,))[model], groups).r2.estimate
        assert null[number] == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert np.isnan(null).all() == (model == "ols" and channels == 200)


def test_blocks_of_permutations_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a block bounds memory only."""
    generator = np.random.default_rng(0)
    features, concepts = generator.normal(size=(40, 5)), generator.normal(size=(40, 3))
    whole = null_r2(features, concepts, make_folds(40), number=11)
    monkeypatch.setattr("wsss_probe_concepts.regression.permuted._BLOCK", 300)
    assert null_r2(features, concepts, make_folds(40), number=11) == pytest.approx(whole, abs=1e-12)


# -- calibration ----------------------------------------------------------------------------------


def judged(features: np.ndarray, concepts: np.ndarray, groups: np.ndarray | None) -> tuple[float, float]:
    """Held-out R² by ridge with its p-value."""
    folds = make_folds(len(features), groups)
    observed = held_out_r2(regress(features, concepts, folds, ("ridge",))["ridge"], resamples=2).r2.estimate
    return float(observed[0]), float(
        permutation_p(observed, null_r2(features, concepts, folds, groups=groups, number=199))[0]
    )


def test_noise_is_called_a_concept_no_more_often_than_stated() -> None:
    """100 fixed seeds of noise: at most 11 rejections at .05, p uniform, and mean held-out R² at most 0."""
    results = []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        features, concepts = generator.normal(size=(100, 30)), generator.normal(size=(100, 1))
        results.append(judged(features, concepts, None))
    r2, p = np.array(results).T
    assert (p <= 0.05).sum() <= 11
    assert r2.mean() <= 0
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("unequal", [False, True])
def test_noise_that_groups_share_is_no_concept(unequal: bool) -> None:
    """Features and concept shared within groups, plus noise: exchanged image by image this is called real."""
    p, single = [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(2, 9, size=20) if unequal else np.full(20, 5)
        groups = np.repeat(np.arange(20), sizes)
        features = generator.normal(size=(20, 10))[groups] + 0.3 * generator.normal(size=(len(groups), 10))
        concepts = generator.normal(size=(20, 1))[groups] + 0.3 * generator.normal(size=(len(groups), 1))
        p.append(judged(features, concepts, groups)[1])
        if seed < 20:
            single.append(judged(features, concepts, None)[1])
    assert (np.array(p) <= 0.05).sum() <= 11
    assert (np.array(single) <= 0.05).sum() >= 15


def test_planted_concept_has_the_smallest_p() -> None:
    """With noise as large as the signal, at one permutation in 200, also by groups."""
    generator = np.random.default_rng(7)
    groups = np.repeat(np.arange(25), 4)
    features = generator.normal(size=(100, 30))
    concepts = features[:, :1] * 2 + features[:, 1:2] + 2 * generator.normal(size=(100, 1))
    assert judged(features, concepts, None)[1] == 1 / 200
    assert judged(features, concepts, groups)[1] == 1 / 200
