"""Screened class against weight class: scores above independence, rates, intervals and p-values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.weights.contingency import (
    Scores,
    covering,
    crossed_rates,
    crossings,
    screened_classes,
)


def slow_scores(f1, coverage, area):
    """Mean over informative images of F1 less 2pq / (p + q), NaN where defined on less than half of them."""
    images, channels, classes = f1.shape
    means = [[float("nan")] * classes for _ in range(channels)]
    for k in range(channels):
        for c in range(classes):
            told = [n for n in range(images) if 0 < area[n, c] < 1]
            defined = [n for n in told if not math.isnan(f1[n, k, c])]
            if defined and len(defined) >= len(told) / 2:
                above = []
                for n in defined:
                    p, q = float(coverage[n, k]), float(area[n, c])
                    above.append(float(f1[n, k, c]) - 2 * p * q / (p + q))
                means[k][c] = sum(above) / len(above)
    return means


def slow_rate(score, weight_class, classes, j, best=None):
    """Share of the channels that cover class j whose largest weight is for another class."""
    chosen = []
    for k, own in enumerate(score):
        known = [value for value in own if not math.isnan(value)]
        top = max(known, default=0)
        if weight_class[k] >= 0 and top > 0 and own[j] == top and known.count(top) == 1:
            chosen.append(k)
    if best is not None:
        chosen = sorted(chosen, key=lambda k: -score[k][j])[:best]
    return sum(weight_class[k] != classes[j] for k in chosen) / len(chosen) if chosen else float("nan")


def drawn(seed, images=8, channels=9, classes=3):
    """F1, coverage and area at random, with undefined F1 and areas of 0, 1 and NaN."""
    random = np.random.default_rng(seed)
    f1 = random.random((images, channels, classes))
    f1[random.random((images, channels)) < 0.3] = np.nan
    area = random.choice([0.0, 0.2, 0.5, 0.9, 1.0, np.nan], (images, classes))
    return f1, random.uniform(0, 1, (images, channels)), area


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_scores_and_rates_follow_the_definition(seed):
    """Scores, screened classes and rates are those that loops find, for all channels and for the best."""
    f1, coverage, area = drawn(seed)
    weight_class, classes = np.random.default_rng(seed).integers(-1, 4, 9), (0, 1, 3)

    for groups in (None, np.arange(8) // 3):
        score = Scores.of(f1, coverage, area, groups).means()
        wanted = slow_scores(f1, coverage, area)
        np.testing.assert_allclose(score, wanted, atol=1e-12)
    for best in (None, 2):
        found = crossed_rates(covering(score, weight_class, best), weight_class, classes)
        expected = [slow_rate(score.tolist(), weight_class.tolist(), classes, j, best) for j in range(3)]
        np.testing.assert_allclose(found, expected)


def test_an_independent_mask_scores_nothing_whatever_its_size():
    """Random masks of any coverage have a score near 0 for small and large regions; all-ones would not."""
    random = np.random.default_rng(0)
    truth = random.random((200, 1, 400)) < np.array([0.1, 0.7]).repeat(100)[:, None, None]
    masks = random.random((200, 5, 400)) < np.array([0.05, 0.2, 0.5, 0.8, 0.95])[:, None]
    both = (truth & masks).sum(axis=2)
    f1 = 2 * both / (truth.sum(axis=2) + masks.sum(axis=2))

    score = Scores.of(f1[..., None], masks.mean(axis=2), truth.mean(axis=2)).means()

    assert np.abs(score).max() < 0.01
    large = f1[100:, 1].mean() - 2 * 0.7 / 1.7
    assert large < -0.4  # less the all-ones level, a small mask would count against the large region


def test_resampled_groups_count_as_often_as_they_were_drawn():
    """A group drawn twice weighs twice, one not drawn not at all."""
    f1, coverage, area = (array[:4] for array in drawn(1))
    f1, area = np.nan_to_num(f1, nan=0.5), np.full_like(area, 0.3)
    scores = Scores.of(f1, coverage, area, np.array(["a", "a", "b", "c"]))

    found = scores.means(np.array([[2.0, 0.0, 1.0]]))[0]

    twice = [0, 1, 0, 1, 3]
    np.testing.assert_allclose(found, Scores.of(f1[twice], coverage[twice], area[twice]).means())


def test_a_tie_or_a_score_below_zero_is_no_class():
    """A channel that covers two regions alike, or none beyond independence, is screened for none."""
    score = np.array([[0.2, 0.2], [-0.1, -0.3], [0.0, -1.0], [np.nan, np.nan], [np.nan, 0.1]])

    assert screened_classes(score).tolist() == [-1, -1, -1, -1, 1]


def planted(seed, share, images=30, channels=60, noise=0.05):
    """Channels that cover one of two complementary regions; a share of the weights is exchanged."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, channels)
    weight_class = np.where(random.random(channels) < share, 1 - truth, truth)
    area = random.uniform(0.3, 0.7, (images, 1)) * [1, -1] + [0, 1]
    coverage = random.uniform(0.2, 0.5, (images, channels))
    p, q = coverage[..., None], area[:, None]
    gain = 0.2 * (truth[:, None] == np.arange(2)) - 0.1 + random.normal(0, noise, (images, channels, 2))
    return Scores.of(2 * p * q / (p + q) + gain, coverage, area), weight_class, truth


def test_a_planted_rate_of_disagreement_is_found():
    """Where 20 % of the channels carry the wrong weight, the rates say so, inside their intervals."""
    scores, weight_class, truth = planted(0, 0.2)

    for best in (None, 10):
        found = crossings(scores, weight_class, (0, 1), best, 199, 0)
        for c, one in enumerate(found):
            assert one.channels == (int((truth == c).sum()) if best is None else 10)
            assert one.interval[0] <= one.rate <= one.interval[1]
            if best is None:
                assert one.rate == (weight_class[truth == c] != c).mean()
                assert one.chance == (weight_class != c).mean()
                assert one.p == 1 / 200
                assert one.rate < one.null[0] < one.chance < one.null[1]


def test_noise_between_images_hides_what_a_channel_covers():
    """With noise twenty times the difference the screen errs, and the interval shows it."""
    clear, hidden = (
        crossings(*planted(0, 0.0, noise=noise)[:2], (0, 1), None, 99, 0)[0] for noise in (0.05, 2)
    )

    assert clear.rate == 0
    assert clear.interval == (0, 0)
    assert hidden.rate > 0.1
    assert hidden.interval[1] - hidden.interval[0] > 0.1


def test_p_is_calibrated_where_weights_say_nothing():
    """Of 100 fixed seeds with weights at random at most 11 have p of .05 or less, in either class."""
    p = np.array(
        [
            [one.p for one in crossings(*planted(seed, 0.5, 6, 24)[:2], (0, 1), None, 99, seed)]
            for seed in range(100)
        ]
    )

    assert ((p <= 0.05).sum(axis=0) <= 11).all()
    assert p.min() >= 0.01


def test_one_group_has_no_interval():
    """Drawn again and again, one group says nothing of the next."""
    f1, coverage, area = drawn(2)
    scores = Scores.of(f1, coverage, area, np.zeros(8))

    found = crossings(scores, np.zeros(9, dtype=int), (0, 1, 2), None, 9, 0)

    assert all(math.isnan(end) for one in found for end in one.interval)


@pytest.mark.parametrize("case", ["undefined", "no image", "no weights"])
def test_nothing_to_screen_is_undefined(case):
    """No defined F1, no image or no largest weight: rates are NaN, and there is no warning."""
    f1, coverage, area = drawn(3)
    weight_class = np.zeros(9, dtype=int)
    if case == "undefined":
        f1[:] = np.nan
    if case == "no image":
        f1, coverage, area = f1[:0], coverage[:0], area[:0]
    if case == "no weights":
        weight_class[:] = -1

    found = crossings(Scores.of(f1, coverage, area), weight_class, (0, 1, 2), None, 9, 0)

    assert [one.channels for one in found] == [0, 0, 0]
    assert all(math.isnan(value) for one in found for value in (one.rate, one.chance, one.p, *one.null))
