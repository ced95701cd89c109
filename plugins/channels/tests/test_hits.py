"""Hit rates are shares of points, chance is the area, and exchanges of classes give honest p-values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.weights.hits import Tally, central, exchanged, hit_rate


def slow_rates(inside, area, members):
    """Hit rate and area over the points of some channels, image by image and channel by channel."""
    points, hits, expected = 0, 0.0, 0.0
    for n in range(len(inside)):
        if not 0 < area[n] < 1:
            continue
        for k in range(len(inside[n])):
            if members[k] and not math.isnan(inside[n][k]):
                points += 1
                hits += inside[n][k]
                expected += area[n]
    return points, (hits / points, expected / points) if points else (float("nan"),) * 2


def drawn(seed, images=9, channels=6):
    """Points at random, some missing, with areas that include 0, 1 and unknown."""
    random = np.random.default_rng(seed)
    area = random.choice([0.0, 0.1, 0.3, 0.8, 1.0, np.nan], images)
    inside = (random.random((images, channels)) < np.nan_to_num(area)[:, None]).astype(float)
    inside[random.random(inside.shape) < 0.2] = np.nan
    return inside, area, random.random(channels) < 0.5


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_rates_follow_the_definition(seed):
    """Points, hit rate, area and excess are those that loops find, exchanges included."""
    inside, area, members = drawn(seed)
    labels = exchanged(members.astype(int), np.ones(6, dtype=bool), 20, seed)

    found = hit_rate(Tally.of(inside, area), members, labels == 1, None, 0)

    points, (hit, mean_area) = slow_rates(inside.tolist(), area.tolist(), members.tolist())
    assert found.points == points
    assert (found.hit, found.area) == pytest.approx((hit, mean_area), nan_ok=True)
    assert float(found.excess.estimate) == pytest.approx(hit - mean_area, nan_ok=True)
    null = [slow_rates(inside.tolist(), area.tolist(), (row == 1).tolist())[1] for row in labels]
    over = [a - b for a, b in null if not math.isnan(a)]
    if over and points:
        reached = sum(value >= hit - mean_area - 1e-12 for value in over)
        assert found.p == pytest.approx((1 + reached) / (1 + len(over)))
        assert found.null == pytest.approx(tuple(np.quantile(over, [0.025, 0.975])))


def test_exchanges_keep_the_number_of_each_class():
    """Only the channels named exchange their classes, and no class gains a channel."""
    labels = np.array([0, 0, 1, 1, 2, -1, -1])
    among = np.array([1, 1, 1, 1, 1, 0, 0], dtype=bool)

    made = exchanged(labels, among, 50, 3)

    assert (np.sort(made[:, :5], axis=1) == [0, 0, 1, 1, 2]).all()
    assert (made[:, 5:] == -1).all()
    assert len({tuple(row) for row in made.tolist()}) > 10


def test_images_that_the_region_fills_or_misses_do_not_dilute():
    """Where every point hits or none can, a point says nothing; only images in between count."""
    inside = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    members = np.array([True, False])

    found = hit_rate(Tally.of(inside, np.array([0.25, 1.0, 0.0])), members, members[None], None, 0)

    assert (found.points, found.images, found.hit, found.area) == (1, 1, 1.0, 0.25)


def test_groups_make_the_interval():
    """Images of one group are one observation; fewer than ten groups are called unreliable."""
    random = np.random.default_rng(0)
    tilt = np.repeat(random.random(6) < 0.5, 20)
    inside = np.tile(tilt[:, None], (1, 4)).astype(float)
    tally, members = Tally.of(inside, np.full(120, 0.5)), np.ones(4, dtype=bool)

    grouped = hit_rate(tally, members, members[None], np.repeat(np.arange(6), 20), 0).excess
    alone = hit_rate(tally, members, members[None], None, 0).excess

    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert grouped.groups == 6
    assert "unreliable: fewer than 10 groups" in grouped.note
    assert "images treated as independent" in alone.note


@pytest.mark.parametrize("case", ["no member", "dead", "no area", "no image"])
def test_nothing_to_count_is_undefined(case):
    """No channel of the class, no live map, no image in between or no image at all: NaN, no warning."""
    inside, area, members = np.ones((5, 3)), np.full(5, 0.5), np.ones(3, dtype=bool)
    if case == "no member":
        members = np.zeros(3, dtype=bool)
    if case == "dead":
        inside[:] = np.nan
    if case == "no area":
        area[:] = 0
    if case == "no image":
        inside, area = inside[:0], area[:0]

    found = hit_rate(Tally.of(inside, area), members, members[None], None, 0)

    assert found.points == found.channels == found.images == 0
    for value in (found.hit, found.area, found.p, found.excess.estimate, found.excess.low, *found.null):
        assert math.isnan(float(value))


def p_of(seed, effect=0.0, images=12, channels=16):
    """The p-value of channels of which some lie inside more often than others, by ``effect``."""
    random = np.random.default_rng(seed)
    area = random.uniform(0.2, 0.6, images)
    members = np.arange(channels) < channels // 2
    # channels differ and images differ, and neither knows of the classes
    tilt = random.normal(0, 0.1, channels)[None] + random.normal(0, 0.1, (images, 1)) + effect * members
    inside = (random.random((images, channels)) < area[:, None] + tilt).astype(float)
    null = exchanged(members.astype(int), np.ones(channels, dtype=bool), 99, seed) == 1
    return hit_rate(Tally.of(inside, area), members, null, None, seed).p


def test_p_is_calibrated_where_nothing_is():
    """Of 100 fixed seeds without an effect at most 11 have p of .05 or less."""
    p = np.array([p_of(seed) for seed in range(100)])

    assert (p <= 0.05).sum() <= 11
    assert p.min() >= 0.01
    assert 0.35 < p.mean() < 0.65


def test_a_planted_effect_is_found_until_it_is_small():
    """A difference of 40 points is found every time, one of 4 points hardly ever: there the test fails."""
    large = [p_of(seed, effect=0.4) for seed in range(10)]
    small = [p_of(seed, effect=0.04) for seed in range(10)]

    assert max(large) <= 0.05
    assert sum(p <= 0.05 for p in small) <= 5


def test_central_leaves_out_what_is_undefined():
    """Quantiles come from defined values; without one there are none."""
    assert central(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(math.isnan(value) for value in central(np.array([np.nan])))
