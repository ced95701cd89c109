"""Intervals, permutation tests, multiplicity and classifier scores, each against a slower way."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from wsss_probe.statistics import (
    FEW_GROUPS,
    Interval,
    accuracy,
    auc,
    auc_interval,
    balanced_accuracy,
    benjamini_hochberg,
    group_bootstrap,
    nanmean,
    permutation_p,
    permutation_test,
)

NAN = float("nan")


def auc_by_the_book(scores, labels):
    """Compare every positive with every negative; loops only."""
    wins = pairs = 0
    for high, positive in zip(scores, labels, strict=True):
        for low, negative in zip(scores, labels, strict=True):
            if positive and not negative:
                pairs += 1
                wins += 1 if high > low else 0.5 if high == low else 0
    return wins / pairs if pairs else NAN


def benjamini_hochberg_by_the_book(values):
    """Smallest m p_(j) / j over j >= rank, at most 1; loops only, NaN left out."""
    tested = sorted(value for value in values if value == value)
    adjusted = []
    for value in values:
        if value != value:
            adjusted.append(NAN)
            continue
        candidates = [len(tested) * p / (rank + 1) for rank, p in enumerate(tested) if p >= value]
        adjusted.append(min([1.0, *candidates]))
    return adjusted


def bootstrap_by_the_book(values, groups, resamples, generator):
    """Draw groups by name and pool their images; loops only."""
    names = sorted(set(groups))
    means = []
    for _ in range(resamples):
        drawn = [names[generator.integers(len(names))] for _ in names]
        pool = [v for name in drawn for v, g in zip(values, groups, strict=True) if g == name and v == v]
        means.append(sum(pool) / len(pool))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def clustered(seed, groups, images, simulations):
    """Values whose true mean is 0, half their variance shared within a group, (image, simulation)."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(groups, 1, simulations))
    values = shared + generator.normal(size=(groups, images, simulations))
    return values.reshape(groups * images, simulations), np.repeat(np.arange(groups), images)


def covered(interval, truth=0.0):
    """Share of the simulations whose interval holds the truth."""
    return float(((interval.low <= truth) & (truth <= interval.high)).mean())


class TestGroupBootstrap:
    def test_nominal_coverage_over_groups(self):
        """Of 95 % intervals over 40 groups about 94 % hold the truth."""
        values, groups = clustered(0, groups=40, images=6, simulations=600)

        assert 0.91 < covered(group_bootstrap(values, groups, resamples=600)) < 0.975

    def test_images_are_not_independent(self):
        """The same data taken image by image give intervals that are far too narrow."""
        values, _ = clustered(0, groups=40, images=6, simulations=600)

        assert covered(group_bootstrap(values, resamples=600)) < 0.8

    def test_finds_nothing_where_nothing_is(self):
        """Two samples of one distribution differ significantly in about one of twenty cases."""
        values, groups = clustered(1, groups=40, images=6, simulations=600)
        other, _ = clustered(2, groups=40, images=6, simulations=600)

        assert 0.025 < 1 - covered(group_bootstrap(values - other, groups, resamples=600)) < 0.09

    def test_ends_are_the_book_s(self):
        """The percentiles are those of drawing groups by name, up to the noise of drawing."""
        generator = np.random.default_rng(3)
        groups = generator.choice(list("abcdefghijkl"), size=60).tolist()
        values = generator.exponential(size=60)
        values[::7] = NAN
        low, high = bootstrap_by_the_book(values.tolist(), groups, 4000, generator)
        interval = group_bootstrap(values, groups, resamples=4000)

        assert (low, high) == pytest.approx((float(interval.low), float(interval.high)), abs=0.02)

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(st.floats(-100, 100), min_size=12, max_size=30),
        st.integers(2, 6),
        st.integers(0, 1000),
    )
    def test_holds_the_mean(self, values, groups, seed):
        """The interval of a mean holds the mean, for balanced groups of whatever values."""
        values = np.array(values[: len(values) // groups * groups])
        assume(np.ptp(values) > 1e-6)
        interval = group_bootstrap(values, np.arange(len(values)) % groups, seed=seed, resamples=500)

        assert interval.low - 1e-9 <= interval.estimate <= interval.high + 1e-9

    def test_any_statistic(self):
        """The fast mean and a statistic that is called draw the same groups, so they agree."""
        values, groups = clustered(4, groups=15, images=3, simulations=2)
        values[5, 0] = values[9, 1] = NAN
        fast = group_bootstrap(values, groups, resamples=200)
        called = group_bootstrap(values, groups, lambda drawn: np.nanmean(drawn, axis=0), resamples=200)

        np.testing.assert_allclose(called.low, fast.low)
        np.testing.assert_allclose(called.high, fast.high)
        np.testing.assert_allclose(called.estimate, fast.estimate)

    def test_a_statistic_of_another_shape(self):
        """A statistic may turn rows into one number, such as a share of two columns."""
        pairs = np.stack([np.arange(40.0) % 2, np.ones(40)], axis=1)
        interval = group_bootstrap(pairs, None, lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum())

        assert interval.estimate == 0.5
        assert interval.low.shape == interval.high.shape == ()
        assert 0.3 < interval.low < 0.5 < interval.high < 0.7

    def test_trailing_dimensions_share_the_draws(self):
        """Each trailing entry has the interval that it would have alone."""
        values, groups = clustered(5, groups=12, images=4, simulations=6)
        together = group_bootstrap(values.reshape(48, 3, 2), groups, resamples=300)
        alone = group_bootstrap(values.reshape(48, 3, 2)[:, 1, 0], groups, resamples=300)

        assert together.low.shape == (3, 2)
        assert float(alone.low) == pytest.approx(together.low[1, 0])
        assert float(alone.high) == pytest.approx(together.high[1, 0])

    def test_blocks_change_nothing(self, monkeypatch):
        """Draws made in small blocks are the draws made at once."""
        values, groups = clustered(6, groups=12, images=4, simulations=2)
        whole = group_bootstrap(values, groups, resamples=100)
        monkeypatch.setattr("wsss_probe.statistics._BLOCK", 36)
        pieces = group_bootstrap(values, groups, resamples=100)

        np.testing.assert_allclose(whole.low, pieces.low, rtol=1e-12)

    def test_seed(self):
        """A seed decides the interval, and another seed another one."""
        values, groups = clustered(7, groups=12, images=4, simulations=1)
        first, again, other = (group_bootstrap(values, groups, resamples=99, seed=s) for s in (1, 1, 2))

        assert first.low == again.low
        assert first.low != other.low

    @pytest.mark.parametrize(
        ("groups", "note"),
        [
            (None, "images treated as independent"),
            (np.arange(40) % 9, f"unreliable: fewer than {FEW_GROUPS} groups"),
            (np.arange(40) % 10, ""),
        ],
        ids=["none", "nine", "ten"],
    )
    def test_notes(self, groups, note):
        """The note tells of missing and of few groups."""
        interval = group_bootstrap(np.arange(40.0), groups, resamples=50)

        assert interval.note == note
        assert interval.groups == (40 if groups is None else len(set(groups.tolist())))

    def test_counts_what_is_defined(self):
        """Images and groups without a defined value do not count."""
        values = np.array([[1.0, NAN], [NAN, NAN], [NAN, 2.0], [NAN, NAN]])
        interval = group_bootstrap(values, ["a", "a", "b", "c"], resamples=50)

        assert (interval.n, interval.groups) == (2, 2)

    def test_one_group_is_ignorance(self):
        """One group with values gives an estimate and no interval, entry by entry."""
        values = np.array([[1.0, 1.0], [3.0, 3.0], [NAN, 5.0]])
        interval = group_bootstrap(values, ["a", "a", "b"], resamples=50)

        assert interval.estimate.tolist() == [2.0, 3.0]
        assert np.isnan(interval.low).tolist() == np.isnan(interval.high).tolist() == [True, False]

    @pytest.mark.parametrize("statistic", [nanmean, lambda drawn: drawn.sum(0)], ids=["mean", "called"])
    def test_no_images(self, statistic):
        """Without images nothing is known, and nothing fails."""
        interval = group_bootstrap(np.zeros((0, 3)), None, statistic)

        assert (interval.n, interval.groups) == (0, 0)
        assert np.isnan(interval.low).all()
        assert interval.high.shape == (3,)

    def test_one_group_per_image_is_needed(self):
        """Groups of another length are refused with both lengths."""
        with pytest.raises(ValueError, match=r"shape \(2,\), wanted one per image: \(3,\)"):
            group_bootstrap([1.0, 2.0, 3.0], ["a", "b"])

    def test_interval_is_frozen(self):
        """An interval cannot be changed once made."""
        with pytest.raises(AttributeError):
            group_bootstrap([1.0, 2.0]).low = 0.0


class TestPermutation:
    @pytest.mark.parametrize(
        ("observed", "p"), [(10.0, 1 / 5), (3.0, 2 / 5), (2.5, 2 / 5), (0.0, 1.0), (NAN, NAN)]
    )
    def test_share_of_the_null(self, observed, p):
        """The observation counts as one of the null, and an equal value as reached."""
        assert float(permutation_p(observed, [0.0, 1.0, 2.0, 3.0])) == pytest.approx(p, nan_ok=True)

    def test_rounding_does_not_make_an_equal_value_smaller(self):
        """A permuted sum that differs by rounding alone still counts as reached."""
        assert permutation_p(0.1 + 0.2, [0.3]) == 1.0

    def test_undefined_permutations(self):
        """Undefined permutations are left out; without any there is no p value."""
        p = permutation_p([1.0, 1.0], [[0.0, NAN], [NAN, NAN]])

        assert p.tolist() == pytest.approx([0.5, NAN], nan_ok=True)

    def test_planted_difference(self):
        """A difference between groups of the two labels is found, at the smallest p there is."""
        values, groups = clustered(0, groups=30, images=5, simulations=1)
        labels = groups % 2 == 0
        values = values[:, 0] + 3 * labels
        result = permutation_test(lambda y: values[y].mean() - values[~y].mean(), labels, groups)

        assert result.p == pytest.approx(1 / 1000)
        assert (result.permutations, result.note) == (999, "labels exchanged between groups")

    def test_p_is_uniform_where_nothing_is(self):
        """Without a difference p is below 0.1 in a tenth of the cases, if groups are exchanged whole."""
        values, groups = clustered(1, groups=30, images=5, simulations=400)
        labels = groups % 2 == 0

        def difference(y):
            return values[y].mean(0) - values[~y].mean(0)

        by_group = permutation_test(difference, labels, groups, permutations=299)
        by_image = permutation_test(difference, labels, permutations=299)

        assert 0.06 < (by_group.p <= 0.1).mean() < 0.14
        assert (by_image.p <= 0.1).mean() > 0.2
        assert by_image.note == "labels exchanged between images, treated as independent"

    def test_labels_that_vary_inside_groups_stay_inside(self):
        """Such labels are exchanged within each group, whose label counts never change."""
        groups = np.array(list("abcabcabcabc"))
        labels = np.array([0, 1, 2, 0, 1, 3, 0, 5, 4, 0, 5, 4])
        seen = []
        result = permutation_test(lambda y: seen.append(y.copy()) or 0.0, labels, groups, permutations=20)

        assert result.note == "labels exchanged within groups"
        for name in "abc":
            inside = groups == name
            assert all(sorted(y[inside]) == sorted(labels[inside]) for y in seen)
        assert any(not np.array_equal(labels, y) for y in seen)

    def test_rows_of_labels_move_together(self):
        """Labels as sets, a row per image, are exchanged as rows."""
        labels = np.arange(12).reshape(6, 2)
        seen = []
        permutation_test(lambda y: seen.append(y.copy()) or 0.0, labels, permutations=5)

        assert all({tuple(row) for row in y} == {tuple(row) for row in labels} for y in seen)


class TestBenjaminiHochberg:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), max_size=25))
    def test_is_the_book_s(self, values):
        """Adjusted values are the book's, and NaN stays where it was and does not count."""
        expected = benjamini_hochberg_by_the_book(values)

        assert benjamini_hochberg(values).tolist() == pytest.approx(expected, nan_ok=True)

    def test_any_shape_is_one_family(self):
        """A table of p values is one family."""
        p = np.random.default_rng(0).uniform(size=(4, 5))

        assert np.array_equal(benjamini_hochberg(p), benjamini_hochberg(p.ravel()).reshape(4, 5))

    def test_finds_the_planted_and_little_else(self):
        """Of 20 strong and 180 null tests the strong are found, with few false ones among them."""
        generator = np.random.default_rng(0)
        p = np.concatenate([generator.uniform(0, 1e-4, 20), generator.uniform(size=180)])
        found = benjamini_hochberg(p) <= 0.05

        assert found[:20].all()
        assert found[20:].sum() <= 4


class TestAuc:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=25))
    def test_counts_pairs(self, images):
        """The area is the share of pairs in order, ties half, as counted pair by pair."""
        scores, labels = [score for score, _ in images], [label for _, label in images]

        assert auc(scores, labels) == pytest.approx(auc_by_the_book(scores, labels), nan_ok=True)

    def test_equals_scikit_learn(self):
        """The area is scikit-learn's, and NaN scores are left out."""
        generator = np.random.default_rng(0)
        scores, labels = generator.normal(size=500).round(1), generator.uniform(size=500) < 0.3

        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        assert auc([*scores, NAN], [*labels, True]) == auc(scores, labels)

    def test_infinite_scores_are_ties(self):
        """Two infinite scores are equal, not undefined."""
        assert auc([np.inf, np.inf, -np.inf], [True, False, False]) == 0.75

    def test_one_class_alone(self):
        """With one class, or no image, there is no area."""
        assert np.isnan([auc([0.1, 0.2], [True, True]), auc([0.1], [False]), auc([], [])]).all()

    def test_interval_is_the_bootstrap_s(self):
        """The weighted area of each resample is the area of the images drawn."""
        generator = np.random.default_rng(0)
        groups, labels = np.arange(60) % 12, np.arange(60) % 3 == 0
        scores = (generator.normal(size=60) + labels).round(1)
        slow = group_bootstrap(
            np.stack([scores, labels], axis=1),
            groups,
            lambda drawn: auc(drawn[:, 0], drawn[:, 1]),
            resamples=150,
        )
        fast = auc_interval(scores, labels, groups, resamples=150)

        ends = [float(getattr(slow, name)) for name in ("estimate", "low", "high")]
        assert ends == pytest.approx([float(fast.estimate), float(fast.low), float(fast.high)])
        assert (fast.n, fast.groups, fast.note) == (60, 12, "")

    def test_interval_without_scores(self):
        """Images without a score leave with their groups."""
        interval = auc_interval([NAN, 0.1, 0.2, 0.3], [1, 0, 1, 1], ["a", "b", "c", "c"], resamples=50)

        assert (interval.n, interval.groups) == (3, 2)
        assert isinstance(interval, Interval)

    def test_chance(self):
        """Scores that know nothing have an interval around one half, at any prevalence."""
        generator = np.random.default_rng(2)
        interval = auc_interval(generator.normal(size=800), generator.uniform(size=800) < 0.1, resamples=300)

        assert interval.low < 0.5 < interval.high

    @pytest.mark.parametrize("call", [auc, auc_interval])
    def test_one_score_per_label(self, call):
        """Scores and labels of different lengths are refused with both shapes."""
        with pytest.raises(ValueError, match=r"scores have the shape \(2,\) and labels \(3,\)"):
            call([0.1, 0.2], [True, False, True])


class TestAccuracy:
    def test_equals_scikit_learn(self):
        """Plain and balanced accuracy are scikit-learn's, unknown labels left out."""
        generator = np.random.default_rng(0)
        labels = generator.choice([0, 1, 4], p=[0.7, 0.2, 0.1], size=300)
        predicted = np.where(generator.uniform(size=300) < 0.6, labels, 0)

        assert accuracy([*predicted, 0], [*labels, -1]) == pytest.approx((predicted == labels).mean())
        assert balanced_accuracy([*predicted, 4], [*labels, -1]) == pytest.approx(
            balanced_accuracy_score(labels, predicted)
        )

    def test_always_the_same(self):
        """Saying the commonest class always is 90 % right and balanced at chance."""
        labels = [0] * 9 + [1]

        assert accuracy([0] * 10, labels) == pytest.approx(0.9)
        assert balanced_accuracy([0] * 10, labels) == pytest.approx(0.5)

    @pytest.mark.parametrize("score", [accuracy, balanced_accuracy])
    def test_edges(self, score):
        """Without labels there is no score; other lengths are refused."""
        assert np.isnan(score([1], [-1]))
        with pytest.raises(ValueError, match=r"shape \(1,\) and labels \(2,\)"):
            score([1], [0, 1])


def test_slow_libraries_are_loaded_late():
    """Importing the module loads neither scipy nor statsmodels nor torch."""
    code = "import sys, wsss_probe.statistics; print({'scipy', 'statsmodels', 'torch'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"
