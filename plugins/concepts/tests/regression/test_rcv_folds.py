"""Splits: every image once a repeat, groups on one side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsss_probe_concepts.regression import make_folds

from wsss_probe.errors import UsageError


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=14),
    folds=st.integers(2, 6),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_image_is_held_out_once_a_repeat_with_its_whole_group(
    sizes: list[int], folds: int, repeats: int, seed: int
) -> None:
    """Splits of a repeat partition the images and never cut a group."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    made = make_folds(len(groups), groups, folds, repeats, seed)
    count = min(folds, len(sizes))
    assert len(made.test) == count * repeats
    assert made.images == len(groups)
    for repeat in range(repeats):
        splits = list(made.of_repeat(repeat).values())
        assert np.array_equal(np.sort(np.concatenate(splits)), np.arange(len(groups)))
        for held_out in splits:
            assert len(held_out)
            others = np.setdiff1d(np.arange(len(groups)), held_out)
            assert not set(groups[held_out]) & set(groups[others])


def test_folds_without_groups_are_of_equal_size() -> None:
    """Ten images in five folds are two each."""
    made = make_folds(10, repeats=3)
    assert [len(one) for one in made.test] == [2] * 15
    assert not np.array_equal(np.concatenate(made.test[:5]), np.concatenate(made.test[5:10]))


def test_large_groups_are_spread_over_the_folds() -> None:
    """Sizes of folds differ by no more than the largest group."""
    groups = np.repeat(np.arange(12), [40, 30, 20, 10, 5, 5, 5, 5, 5, 5, 5, 5])
    sizes = [len(one) for one in make_folds(len(groups), groups, seed=3).test]
    assert max(sizes) - min(sizes) <= 20


def test_seed_decides_the_folds() -> None:
    """The same seed divides alike, another does not."""
    first, same, other = (make_folds(50, seed=seed).test for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("n", "groups", "reason"),
    [(0, None, "no images"), (1, None, "one group"), (5, ["a"] * 5, "one group")],
)
def test_nothing_to_hold_out_is_said(n: int, groups: list[str] | None, reason: str) -> None:
    """Fewer than two groups give no split, and a reason."""
    made = make_folds(n, groups)
    assert made.test == ()
    assert made.repeats == made.images == 0
    assert reason in made.reason


def test_impossible_requests_are_refused() -> None:
    """One fold, no repeat, and groups of another length are errors of use."""
    for wrong in ({"folds": 1}, {"repeats": 0}, {"groups": ["a"]}):
        with pytest.raises(UsageError):
            make_folds(8, **wrong)
