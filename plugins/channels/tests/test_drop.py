"""The drop from chosen to scored equals a bootstrap by loops, and tells luck from signal."""

import numpy as np
import pytest
from wsss_probe_channels.screening.drop import drop_interval
from wsss_probe_channels.screening.selection import Halves, best_channel

# -- reference --------------------------------------------------------------------------------


def slow_difference(values, choose, drawn):
    """Mean of the drawn chosen values minus mean of the drawn scored values, by loops."""
    sums, counts = [0.0, 0.0], [0, 0]
    for index in drawn:
        if values[index] != values[index]:
            continue
        side = 0 if choose[index] else 1
        sums[side] += values[index]
        counts[side] += 1
    return None if 0 in counts else sums[0] / counts[0] - sums[1] / counts[1]


def slow_interval(values, choose, groups, resamples=1500):
    """Resample whole groups and take percentiles of the difference itself."""
    rng, names = np.random.default_rng(5), sorted(set(groups))
    members = {name: [i for i, group in enumerate(groups) if group == name] for name in names}
    found = []
    for _ in range(resamples):
        drawn = [i for name in rng.choice(names, len(names)) for i in members[name]]
        difference = slow_difference(values, choose, drawn)
        if difference is not None:
            found.append(difference)
    found.sort()
    return found[int(0.025 * len(found))], found[int(0.975 * len(found))]


def halves(number, chosen=None):
    """Choose on the first half, or on the first so many."""
    choose = np.arange(number) < (number // 2 if chosen is None else chosen)
    return Halves(choose, ~choose, "")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_reference(seed, shared):
    """The difference of means, and the interval of resampled groups, whether or not halves share groups."""
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{number}" for number in np.repeat(np.arange(30), 4)])
    values = 0.5 + 0.1 * rng.normal(size=30)[np.repeat(np.arange(30), 4)] + 0.1 * rng.normal(size=120)
    values[:40] += 0.2
    values[rng.random(120) < 0.1] = np.nan
    sides = halves(120)
    if shared:
        sides = Halves(np.arange(120) % 4 == 0, np.arange(120) % 4 != 0, "")

    found = drop_interval(values, sides, groups, seed=0)

    assert float(found.estimate) == pytest.approx(slow_difference(values, sides.choose, range(120)))
    low, high = slow_interval(values, sides.choose, groups.tolist())
    assert float(found.low) == pytest.approx(low, abs=0.02)
    assert float(found.high) == pytest.approx(high, abs=0.02)


def test_networks_and_classes_are_done_at_once():
    """Values (image, network, class) give what each column gives alone."""
    values = np.random.default_rng(1).random((40, 3, 2))

    whole = drop_interval(values, halves(40), None, seed=0)

    assert whole.estimate.shape == (3, 2)
    alone = drop_interval(values[:, 2, 1], halves(40), None, seed=0)
    assert float(whole.low[2, 1]) == pytest.approx(float(alone.low))
    assert float(whole.high[2, 1]) == pytest.approx(float(alone.high))


def chosen_values(level, channels=100, seed=0):
    """F1 of the best channel of noise, the first of which is better by ``level``."""
    f1 = np.clip(0.4 + 0.15 * np.random.default_rng(seed).normal(size=(60, channels)), 0, 1)
    f1[:, 0] += level
    best = best_channel(f1, np.full(60, 0.3), halves(60))
    return best.channel, f1[:, best.channel]


def test_luck_drops_and_signal_does_not():
    """Over 20 worlds the best of 100 equal channels drops, while one that is better keeps its score."""
    lucky, planted = (
        [
            float(drop_interval(chosen_values(level, seed=n)[1], halves(60), None, 0).estimate)
            for n in range(20)
        ]
        for level in (0.0, 0.3)
    )

    assert np.mean(lucky) > 0.05
    assert abs(np.mean(planted)) < 0.02
    assert {chosen_values(0.3, seed=n)[0] for n in range(20)} == {0}


def test_a_signal_smaller_than_the_noise_is_lost():
    """Where the better channel is hardly better another one is chosen, and drops."""
    channel, values = chosen_values(0.01)

    assert channel != 0
    assert float(drop_interval(values, halves(60), None, 0).estimate) > 0


def test_without_a_choice_nothing_drops():
    """A channel named beforehand: the interval misses 0 in at most 11 of 100 worlds."""
    values = np.random.default_rng(2).random((60, 100))
    found = drop_interval(values, halves(60), None, 0)

    assert ((found.low > 0) | (found.high < 0)).sum() <= 11


@pytest.mark.parametrize(("chosen", "told"), [(6, True), (54, True), (30, False)])
def test_few_groups_in_either_half_are_told(chosen, told):
    """Groups are counted in the smaller half: six there are too few, thirty are not."""
    found = drop_interval(np.linspace(0, 1, 60), halves(60, chosen), None, 0)

    assert found.groups == min(chosen, 60 - chosen)
    assert (found.note != "") is told


@pytest.mark.parametrize("case", ["no channel", "one half empty", "one group"])
def test_what_cannot_be_said_is_undefined(case):
    """Without a channel or without scores on one side there is no drop; one group gives no interval."""
    values, sides, groups = np.linspace(0, 1, 20), halves(20), None
    if case == "no channel":
        values = np.full(20, np.nan)
    if case == "one half empty":
        sides = Halves(np.ones(20, bool), np.zeros(20, bool), "")
    if case == "one group":
        groups = np.zeros(20)

    found = drop_interval(values, sides, groups, 0)

    assert np.isnan(found.low)
    assert bool(np.isnan(found.estimate)) is (case != "one group")
