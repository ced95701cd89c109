"""Random channels are living and not the best; groups are counted where F1 is defined."""

import numpy as np
import pytest
import xarray as xr
from wsss_probe_channels.screening.table import random_channels, strong_images, top_channels, with_groups


def ranked(ranks):
    """A table with nothing but ranks of one class."""
    column = np.array(ranks, float)[:, None]
    return xr.Dataset({"rank": (("channel", "class"), column)})


def test_random_channels_are_alive_and_not_the_best():
    """Four of the others that have a rank, the same for one seed, different for another."""
    table = ranked([*range(1, 31), *[np.nan] * 20])

    drawn = [random_channels(table, 0, seed).tolist() for seed in range(20)]

    assert drawn[0] == random_channels(table, 0, 0).tolist()
    assert len({tuple(channels) for channels in drawn}) > 10
    assert {channel for channels in drawn for channel in channels} <= set(range(4, 30))
    assert all(len(set(channels)) == 4 for channels in drawn)


@pytest.mark.parametrize(("ranks", "left"), [([1], 0), ([1, 2, 3, 4, 5], 1), ([np.nan] * 3, 0)])
def test_where_few_channels_live_few_are_drawn(ranks, left):
    """What is left beside the four best is drawn, and nothing where nothing is."""
    drawn = random_channels(ranked(ranks), 0, 0)

    assert len(drawn) == left
    assert not set(drawn) & set(top_channels(ranked(ranks), 0, 4))


def test_groups_are_counted_where_f1_is_defined():
    """A group counts for a channel with one defined image of it; loops say the same."""
    rng = np.random.default_rng(0)
    f1 = np.where(rng.random((20, 3, 2)) < 0.2, 0.5, np.nan)
    groups = np.array([f"g{number}" for number in rng.integers(0, 6, 20)], object)

    found = with_groups(xr.Dataset(), f1, groups)["groups"].values
    alone = with_groups(xr.Dataset(), f1, None)["groups"].values

    for channel in range(3):
        for position in range(2):
            held = [i for i in range(20) if f1[i, channel, position] == 0.5]
            assert found[channel, position] == len({groups[i] for i in held})
            assert alone[channel, position] == len(held)


def test_strong_is_strictly_above():
    """Images are counted above the bound, not at it, and undefined F1 is not above."""
    f1 = np.array([[0.6], [0.61], [np.nan], [0.9]], np.float32)

    assert strong_images(f1, 0.6).tolist() == [2]
    assert strong_images(f1, 0.95).tolist() == [0]
