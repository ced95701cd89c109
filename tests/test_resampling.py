"""Sums of resampled groups and flipped signs: against loops, against each other, and calibrated."""

import itertools
import math

import numpy as np
import pytest

from wsss_probe.statistics import group_bootstrap, resampled_sums, sign_flip_p


def test_sums_are_those_of_the_bootstrap():
    """The ratio of two resampled sums has the percentiles that the bootstrap of the mean has."""
    generator = np.random.default_rng(0)
    values, groups = generator.random(30), np.repeat(np.arange(10), 3)

    sums = resampled_sums(np.stack([values, np.ones(30)], axis=1), groups, seed=4)

    interval = group_bootstrap(values, groups, seed=4)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    assert (low, high) == (pytest.approx(float(interval.low)), pytest.approx(float(interval.high)))


def test_sums_bring_whole_groups():
    """Each resample holds as many groups as there are, each with all its images; NaN counts as 0."""
    values = np.array([[1.0, 0], [1, 0], [0, 5], [math.nan, 5]])

    sums = resampled_sums(values, ["a", "a", "b", "b"], resamples=50)

    assert sums.shape == (50, 2)
    assert np.array_equal(sums[:, 0] / 2 + sums[:, 1] / 10, np.full(50, 2.0))
    assert resampled_sums(np.empty((0, 3))).shape == (0, 3)


def flips_by_the_book(differences, groups):
    """Try every combination of signs of groups; loops only."""
    names = sorted(set(groups))
    reached = total = 0
    observed = abs(sum(differences))
    for signs in itertools.product((-1, 1), repeat=len(names)):
        flipped = sum(signs[names.index(g)] * d for d, g in zip(differences, groups, strict=True))
        total += 1
        reached += abs(flipped) >= observed - 1e-12
    return reached / total


def test_p_is_near_the_share_of_all_flips():
    """Drawn flips give about the p of all flips."""
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(8), 2)
    differences = generator.normal(0.4, 1, 16)

    found = float(sign_flip_p(differences, groups, permutations=9999))

    assert found == pytest.approx(flips_by_the_book(differences, groups.tolist()), abs=0.02)


def test_p_does_not_count_images_of_one_group_as_evidence():
    """A hundred equal differences in three groups cannot give a p below a quarter; in a hundred they do."""
    differences = np.ones(99)

    assert float(sign_flip_p(differences, np.arange(99) % 3)) > 0.2
    assert float(sign_flip_p(differences)) == pytest.approx(1 / 1000)


def test_p_is_uniform_where_nothing_is():
    """Pairs that do not differ reach p of at most .05 in about one of twenty."""
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 3)
    differences = generator.normal(size=(60, 400)) + np.repeat(generator.normal(size=(20, 400)), 3, axis=0)

    found = sign_flip_p(differences, groups, permutations=199)

    assert 0.02 <= (found <= 0.05).mean() <= 0.085


def test_what_is_not_there_is_not_tested():
    """NaN is left out; fewer than two groups with a difference give no p."""
    one = np.array([[1.0, math.nan], [math.nan, math.nan], [2.0, 3.0]])

    found = sign_flip_p(one)

    assert np.isfinite(found[0])
    assert math.isnan(found[1])
    with pytest.raises(ValueError, match="groups"):
        sign_flip_p([1.0], ["a", "b"])
