"""Features that come some rows at a time give the same numbers as all at once."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_concepts.regression import Regression, make_folds, regress, regress_chunks
from wsss_probe_concepts.regression.factor import factor_of, merged

from wsss_probe.errors import UsageError

FIELDS = (
    "residual", "baseline", "direction", "length", "intercept", "fold_direction", "r2_train", "r2_adjusted",
    "noise_r2", "n", "rank", "freedom", "penalty", "components",
)  # fmt: skip


def same(one: Regression, two: Regression) -> bool:
    """Whether all numbers agree to 1e-9."""
    return all(
        np.allclose(getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-9, equal_nan=True)
        for name in FIELDS
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    channels=st.sampled_from([1, 5, 30]),
    missing=st.booleans(),
    seed=st.integers(0, 30),
)
def test_chunks_give_what_the_array_gives(sizes: list[int], channels: int, missing: bool, seed: int) -> None:
    """Any cut of the rows, with and without missing concepts, all models."""
    n = sum(sizes)
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, channels)) * 3 + 100
    concepts = features[:, :1] + generator.normal(size=(n, 3))
    if missing:
        concepts[: n // 3, 1] = np.nan
    folds = make_folds(n, seed=seed)

    def chunks() -> Iterator[np.ndarray]:
        yield from np.split(features, np.cumsum(sizes)[:-1])

    whole, parts = regress(features, concepts, folds), regress_chunks(chunks, concepts, folds)
    for model, one in whole.items():
        assert same(one, parts[model])
        assert one.reason.tolist() == parts[model].reason.tolist()


def test_many_more_rows_than_columns_are_compressed() -> None:
    """Roots never have more than two rows a column, and lose nothing, however ill-conditioned."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 6)) * 10.0 ** np.arange(-3, 3) + 10
    rows[:, 5] += 1e3 * rows[:, 4]
    whole = factor_of(rows)
    for parts in ([rows[:10], rows[10:]], np.array_split(rows, 37), [rows[:0], rows]):
        factor = merged([factor_of(part) for part in parts])
        assert len(factor.root) <= 12
        assert factor.n == 4000
        assert factor.mean == pytest.approx(rows.mean(0), rel=1e-12)
        wanted = whole.root.T @ whole.root
        scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
        assert (factor.root.T @ factor.root) / scale == pytest.approx(wanted / scale, abs=1e-11)
    assert merged([factor_of(rows[:0]), factor_of(rows[:0])]).n == 0


def test_chunks_of_another_length_are_refused() -> None:
    """Rows of features and of concepts are the same images."""
    folds = make_folds(20)
    with pytest.raises(UsageError, match="do not fit"):
        regress_chunks(lambda: [np.zeros((7, 2))], np.zeros((20, 1)), folds)
    with pytest.raises(UsageError, match="folds"):
        regress(np.zeros((21, 2)), np.zeros((21, 1)), folds)
    with pytest.raises(UsageError, match="no table"):
        regress(np.zeros((20, 2)), np.zeros(20), folds)
    with pytest.raises(UsageError, match="numbers"):
        regress(np.zeros((20, 2)), [["dark"]] * 20, folds)


def test_ill_conditioned_features_keep_their_digits() -> None:
    """Channels that nearly copy each other (condition 1e6): normal equations lose what the roots keep."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(3000, 6))
    features[:, 1:] = features[:, :1] + 1e-6 * features[:, 1:]
    truth = generator.normal(size=6)
    concept = features @ truth
    fitted = regress_chunks(
        lambda: np.array_split(features, 30), concept[:, None], make_folds(3000, repeats=1), ("ols",)
    )["ols"]
    found = fitted.direction[0] * fitted.length[0]
    centred = features - features.mean(0)
    normal = np.linalg.solve(centred.T @ centred, centred.T @ (concept - concept.mean()))
    assert np.abs(found - truth).max() < 1e-7
    assert np.abs(found - truth).max() < 0.01 * np.abs(normal - truth).max()
