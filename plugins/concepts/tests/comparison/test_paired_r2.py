"""Paired differences of R²: against loops, planted and absent differences, and what pairing gains."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_concepts.comparison.paired import flipped_p, over_splits, paired_differences


def slow_difference(first, second, baseline):
    """Take R² of either network from sums over groups, and the one from the other."""

    def r2(errors):
        return 1 - math.fsum(errors) / math.fsum(baseline)

    return r2(first) - r2(second)


def slow_p(first, second, flips):
    """Share of all given sign patterns, and the one that was seen, whose sum is as far from 0."""
    gained = [b - a for a, b in zip(first, second, strict=True)]
    seen = abs(math.fsum(gained))
    reached = [abs(math.fsum(s * g for s, g in zip(signs, gained, strict=True))) for signs in flips]
    return (1 + sum(value >= seen - 1e-12 for value in reached)) / (1 + len(flips))


def errors_of(groups, gain, seed=0, noise=1.0):
    """Squared errors of two networks whose images are equally hard; the first saves ``gain`` of R²."""
    rng = np.random.default_rng(seed)
    hard = rng.gamma(1.0, 1.0, groups)
    second = 0.5 * hard
    first = second - gain + 0.02 * noise * rng.normal(size=groups)
    return first[:, None, None], second[:, None, None], np.ones((groups, 1))


def test_the_difference_is_that_of_the_two_r2():
    """Equal to the loops, for every pair and concept."""
    rng = np.random.default_rng(0)
    first, second, baseline = rng.random((7, 3, 2)), rng.random((7, 3, 2)), rng.random((7, 2))
    found = paired_differences(first, second, baseline)

    for pair in range(3):
        for concept in range(2):
            wanted = slow_difference(first[:, pair, concept], second[:, pair, concept], baseline[:, concept])
            assert found.difference[pair, concept] == pytest.approx(wanted, abs=1e-12)


def test_p_is_that_of_flipped_signs():
    """With ten groups p is near that of all 1024 patterns of signs."""
    first, second, baseline = errors_of(10, 0.01, seed=3, noise=3)
    flips = [[1 - 2 * (pattern >> bit & 1) for bit in range(10)] for pattern in range(1024)]

    wanted = slow_p(first[:, 0, 0], second[:, 0, 0], flips)
    assert float(flipped_p(first, second, baseline)[0, 0]) == pytest.approx(wanted, abs=0.02)


def test_the_better_network_is_first():
    """Smaller errors of the first are a positive difference; exchanged, its sign and interval turn over."""
    first, second, baseline = errors_of(60, 0.1)
    found, turned = paired_differences(first, second, baseline), paired_differences(second, first, baseline)

    assert found.difference[0, 0] == pytest.approx(0.1, abs=0.02)
    assert found.low[0, 0] > 0
    assert turned.difference[0, 0] == -found.difference[0, 0]
    assert turned.high[0, 0] == pytest.approx(-found.low[0, 0])
    assert flipped_p(first, second, baseline)[0, 0] < 0.001


def test_pairing_beats_two_intervals():
    """Images that are hard for both cancel: the paired interval is far narrower than two unpaired ones."""
    first, second, baseline = errors_of(60, 0.01)
    found = paired_differences(first, second, baseline)
    nothing = np.zeros_like(first)
    alone = [
        paired_differences(errors, nothing + baseline[:, :, None], baseline) for errors in (first, second)
    ]

    assert found.low[0, 0] > 0
    overlap = min(float(one.high[0, 0]) for one in alone) - max(float(one.low[0, 0]) for one in alone)
    assert overlap > 5 * float(found.high[0, 0] - found.low[0, 0])


def test_a_small_difference_needs_many_groups():
    """What is found with 60 groups is not with 4: there no pattern of signs is rare enough."""
    assert flipped_p(*errors_of(60, 0.01))[0, 0] < 0.05
    assert flipped_p(*errors_of(4, 0.01))[0, 0] > 0.05


def test_nothing_is_found_where_nothing_is():
    """Of 200 pairs of equal networks about a twentieth are different, by p as by the interval."""
    rng = np.random.default_rng(1)
    first, second = rng.gamma(1.0, 1.0, (2, 40, 200, 1))
    found = paired_differences(first, second, np.full((40, 1), 2.0))
    p = flipped_p(first, second, np.full((40, 1), 2.0))

    assert (p < 0.05).mean() <= 0.085
    assert ((found.low > 0) | (found.high < 0)).mean() <= 0.12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), groups=st.integers(2, 30), lost=st.integers(0, 28))
def test_a_group_without_the_concept_counts_nowhere(seed, groups, lost):
    """Groups that are NaN in one network, or in the baseline, change nothing for the others."""
    lost = min(lost, groups - 2)
    first, second, baseline = errors_of(groups, 0.05, seed)
    more = [np.concatenate([part, part[:lost] * 3 + 1]) for part in (first, second, baseline)]
    for place, part in enumerate(more):
        part[groups + place :: 3] = np.nan
    found = paired_differences(*more)

    assert found.difference[0, 0] == pytest.approx(
        paired_differences(first, second, baseline).difference[0, 0]
    )
    assert found.low[0, 0] <= found.high[0, 0]


def test_what_is_undefined_is_nan():
    """One group has no interval, no group no difference, and a constant concept neither."""
    first, second, baseline = errors_of(1, 0.1)
    one = paired_differences(first, second, baseline)
    assert np.isfinite(one.difference).all()
    assert np.isnan([one.low, one.high, flipped_p(first, second, baseline)]).all()
    none = paired_differences(np.full((5, 1, 1), np.nan), np.zeros((5, 1, 1)), np.ones((5, 1)))
    assert np.isnan([none.difference, none.low, none.high]).all()
    first, second, _ = errors_of(5, 0.1)
    constant = paired_differences(first, second, np.zeros((5, 1)))
    assert np.isnan([constant.difference, constant.low, flipped_p(first, second, np.zeros((5, 1)))]).all()
    empty = paired_differences(np.empty((0, 1, 2)), np.empty((0, 1, 2)), np.empty((0, 2)))
    assert np.isnan([empty.difference, empty.low]).all()


def test_a_rare_concept_keeps_its_interval():
    """Where some resamples hold no group with the concept, those are left out of the percentiles."""
    first, second, baseline = errors_of(12, 0.1)
    first[3:] = np.nan

    found = paired_differences(first, second, baseline)
    assert np.isfinite([found.low, found.high]).all()


def test_over_splits_is_the_papers_error():
    """Mean and standard deviation over splits, divided by the root of their number."""
    first, second = [0.5, 0.7, 0.6, 0.8], [0.4, 0.5, 0.6, 0.5]
    differences = [0.1, 0.2, 0.0, 0.3]
    mean = math.fsum(differences) / 4
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / 3)

    found = over_splits(np.array(first)[:, None], np.array(second)[:, None])
    assert float(found[0][0]) == pytest.approx(mean)
    assert float(found[1][0]) == pytest.approx(deviation / 2)
    assert np.isnan(over_splits([[0.5]], [[0.4]])[1]).all()
    assert np.isnan(over_splits(np.empty((0, 2)), np.empty((0, 2)))).all()
