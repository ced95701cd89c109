"""Samples of few images agree with the rest as far as a slow count by loops says, and no further."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.screening.sample_size import (
    agreement_table,
    draw_images,
    sample_sizes,
    sampled_scores,
    spearman,
)

# -- reference --------------------------------------------------------------------------------


def slow_ranks(values):
    """Ranks from 1; equals share the mean of theirs."""
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def slow_spearman(first, second):
    """Pearson's correlation of ranks over the entries that both define."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 3:
        return None
    left, right = slow_ranks([a for a, _ in pairs]), slow_ranks([b for _, b in pairs])
    mean = (len(pairs) + 1) / 2
    up = sum((a - mean) * (b - mean) for a, b in zip(left, right, strict=True))
    down = sum((a - mean) ** 2 for a in left) * sum((b - mean) ** 2 for b in right)
    return up / down**0.5 if down else None


def slow_means(f1, present, images):
    """Mean F1 of each channel that is defined on half of the images with the class; None for others."""
    means = []
    for channel in range(len(f1[0])):
        values = [f1[i][channel] for i in images if f1[i][channel] == f1[i][channel]]
        held = [i for i in images if present[i]]
        answered = [i for i in held if f1[i][channel] == f1[i][channel]]
        enough = len(answered) > 0 and 2 * len(answered) >= len(held)
        means.append(sum(values) / len(values) if enough else None)
    return means


def slow_scores(f1, present, sample, rest):
    """Agreement, regret and blind regret of one sample."""
    inside, outside = slow_means(f1, present, sample), slow_means(f1, present, rest)
    chosen, best = None, None
    for channel, mean in enumerate(inside):
        if mean is not None and (chosen is None or mean > inside[chosen]):
            chosen = channel
    defined = [mean for mean in outside if mean is not None]
    if defined:
        best = max(defined)
    blind = None if best is None else best - sum(defined) / len(defined)
    known = chosen is not None and outside[chosen] is not None
    return slow_spearman(inside, outside), best - outside[chosen] if known else None, blind


def number(value):
    """None as NaN."""
    return np.nan if value is None else value


# -- agreement with it --------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_every_draw_equals_the_reference(seed):
    """Rank agreement and regret of every sample, with undefined F1, absent classes and equal channels."""
    rng = np.random.default_rng(seed)
    f1 = rng.integers(0, 6, (24, 6)) / 5
    f1[rng.random(f1.shape) < 0.3] = np.nan
    f1[:, 4] = np.nan
    present = rng.random(24) < 0.6
    draws = draw_images(None, rng.random(24) < 0.9, seed, draws=3)

    found = sampled_scores(f1, present, draws)

    for draw in range(3):
        rest = np.flatnonzero(draws.rest[draw]).tolist()
        for row in range(len(draws.sizes)):
            sample = np.flatnonzero(draws.sampled[draw, row]).tolist()
            expected = slow_scores(f1.tolist(), present, sample, rest)
            for name, value in zip(("agreement", "regret", "blind"), expected, strict=True):
                assert found[name][draw, row] == pytest.approx(number(value), nan_ok=True), name


@settings(max_examples=20, deadline=None)
@given(st.integers(12, 60), st.integers(2, 9), st.integers(0, 100))
def test_samples_share_no_group_with_the_rest(images, number_of_groups, seed):
    """Known images only; each sample has its size, holds the smaller ones, and no group of the rest."""
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{n}" for n in rng.integers(0, number_of_groups, images)], object)
    known = rng.random(images) < 0.9

    draws = draw_images(groups, known, seed, draws=4)

    assert draws.sizes.tolist() == sample_sizes(int(known.sum())).tolist()
    for sampled, rest in zip(draws.sampled, draws.rest, strict=True):
        assert sampled.sum(axis=1).tolist() == draws.sizes.tolist()
        assert all((small <= large).all() for small, large in pairwise(sampled))
        assert not (sampled.any(axis=0) & rest).any()
        assert not ((sampled.any(axis=0) | rest) & ~known).any()
        if len(set(groups[known])) > 1:
            assert not set(groups[sampled.any(axis=0)]) & set(groups[rest])


def test_one_group_is_divided_by_image():
    """With a single group the images are divided, since nothing else can be."""
    draws = draw_images(np.full(40, "slide"), np.ones(40, bool), 0)

    assert (draws.rest.sum(axis=1) == 20).all()


def test_draws_differ_and_the_seed_decides():
    """The same seed gives the same draws; two draws of one seed differ."""
    first, again, other = (draw_images(None, np.ones(40, bool), seed) for seed in (0, 0, 1))

    np.testing.assert_array_equal(first.sampled, again.sampled)
    assert (first.sampled[0] != first.sampled[1]).any()
    assert (first.sampled != other.sampled).any()


# -- planted truth -----------------------------------------------------------------------------


def world(spread, noise=0.15, images=160, channels=60, seed=3):
    """F1 of channels whose true means differ by ``spread``, with noise from image to image."""
    rng = np.random.default_rng(seed)
    truth = 0.4 + spread * rng.normal(size=channels)
    return (truth + noise * rng.normal(size=(images, channels)))[..., None]


def table(f1):
    """Summarise twenty draws of images that all hold the class."""
    return agreement_table(f1, np.full((len(f1), 1), 0.3), draw_images(None, np.ones(len(f1), bool), 0))


def test_more_images_agree_more_and_choose_better():
    """Where channels differ agreement rises and regret falls with the number of images."""
    found = table(world(0.1))
    agreement, regret = (found[f"sample_{name}"].values[:, 0] for name in ("agreement", "regret_high"))

    assert found["sampled"].values.tolist() == [5, 10, 20, 40, 80]
    assert (np.diff(agreement) > 0).all()
    assert agreement[-1] > 0.9
    assert regret[0] > regret[-1]
    assert regret[-1] < 0.02 < found["sample_blind"].values[-1, 0]
    assert (found["sample_agreement_low"] <= found["sample_agreement"]).all()
    assert (found["sample_agreement"] <= found["sample_agreement_high"]).all()


def test_five_images_are_too_few_where_noise_is_large():
    """The same channels under four times the noise: five images hardly rank them, eighty do better."""
    agreement = table(world(0.1, noise=0.6))["sample_agreement"].values[:, 0]

    assert agreement[0] < 0.5 < agreement[-1]


def test_equal_channels_agree_in_nothing():
    """Where channels do not differ there is no ranking to find, and a choice is as good as a blind one."""
    found = table(world(0.0))

    assert (np.abs(found["sample_agreement"].values) < 0.15).all()
    np.testing.assert_allclose(found["sample_regret"], found["sample_blind"], atol=0.03)


# -- what cannot be said -------------------------------------------------------------------------


def test_too_few_images_give_no_table():
    """Below ten images no sample leaves another half."""
    assert not len(table(world(0.1, images=9)).data_vars)


@pytest.mark.parametrize("case", ["absent", "dead", "one channel", "rare class"])
def test_degenerate_data_are_counted_as_missing(case):
    """Absent classes and dead layers have no draws; one channel has regret 0 and no ranking."""
    f1, area = world(0.1, images=40), np.full((40, 1), 0.3)
    if case == "absent":
        area[:] = 0
    if case == "dead":
        f1[:] = np.nan
    if case == "one channel":
        f1 = f1[:, :1]
    if case == "rare class":
        area[4:] = 0

    found = agreement_table(f1, area, draw_images(None, np.ones(40, bool), 0))

    draws = found["sample_draws"].values[:, 0]
    expected = {
        "absent": draws == 0,
        "dead": draws == 0,
        "one channel": draws == 20,
        "rare class": draws < 20,
    }
    assert expected[case].all()
    if case == "one channel":
        assert (found["sample_regret"].values == 0).all()
        assert np.isnan(found["sample_agreement"].values).all()


def test_ranks_of_too_few_or_constant_entries_are_undefined():
    """Two common entries, or one side that never changes, have no rank correlation."""
    first = np.array([[1.0, 2.0, np.nan], [1.0, 1.0, 1.0], [3.0, 1.0, 2.0]])
    second = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [30.0, 10.0, 20.0]])

    found = spearman(first, second)

    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(1)
