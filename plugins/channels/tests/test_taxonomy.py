"""Signs of weights partition the channels, and the largest weight names a class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from wsss_probe_channels.weights.taxonomy import SIGNS, channel_signs, pair_signs, sign_counts, weight_classes

WEIGHTS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, float("nan"), float("inf")])
TABLES = st.tuples(st.integers(1, 5), st.integers(1, 7)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=WEIGHTS)
)


def slow_bucket(own, other):
    """The bucket of one pair, from the words of the definition."""
    if not (abs(own) < float("inf") and abs(other) < float("inf")):
        return "undefined"
    if own == 0 or other == 0:
        return "zero"
    return ("+" if own > 0 else "-") + ("+" if other > 0 else "-")


def slow_class(column):
    """The class of one channel, from the words of the definition."""
    if any(not abs(value) < float("inf") for value in column):
        return -1
    if len(column) == 1:
        return 0 if column[0] > 0 else -1
    winners = [c for c, value in enumerate(column) if value == max(column)]
    return winners[0] if len(winners) == 1 else -1


def test_the_published_partition():
    """115 channels of two positive weights, 108 of two negative ones, 150 and 139 of opposite signs."""
    numbers = {"++": 115, "--": 108, "+-": 150, "-+": 139}
    random = np.random.default_rng(0)
    signs = [np.array([[1 if s == "+" else -1 for s in name]] * count) for name, count in numbers.items()]
    weight = (np.concatenate(signs) * random.uniform(0.001, 0.2, (512, 2)))[random.permutation(512)].T

    counts = dict(zip(SIGNS, sign_counts(weight)[0].tolist(), strict=True))

    assert counts == {**numbers, "zero": 0, "undefined": 0}
    assert sum(counts.values()) == 512
    classes = weight_classes(weight)
    opposite = weight[0] * weight[1] < 0
    assert (classes[opposite] == 0).sum() == 150
    assert (classes[opposite] == 1).sum() == 139


@settings(deadline=None, max_examples=100)
@given(TABLES)
def test_buckets_and_classes_follow_the_definition(weight):
    """Every channel is in one bucket of every class, the one that loops find; so are weight classes."""
    classes, channels = weight.shape
    counts = sign_counts(weight)

    assert counts.sum(axis=1).tolist() == [channels] * classes
    for c in range(classes):
        expected = dict.fromkeys(SIGNS, 0)
        for k in range(channels):
            others = [float(weight[d, k]) for d in range(classes) if d != c]
            if classes == 1:
                others = [-float(weight[0, k])]
            whole = sum(others) if np.isfinite(others).all() else float("nan")
            expected[slow_bucket(float(weight[c, k]), whole / len(others))] += 1
        assert dict(zip(SIGNS, counts[c].tolist(), strict=True)) == expected
    assert weight_classes(weight).tolist() == [slow_class(weight[:, k].tolist()) for k in range(channels)]


@settings(deadline=None, max_examples=40)
@given(TABLES)
def test_two_classes_mirror_each_other(weight):
    """Exchanging two classes turns +- into -+ and leaves the rest."""
    pair = np.vstack([weight[:1], weight[-1:]])
    mirror = {"+-": "-+", "-+": "+-"}

    assert channel_signs(pair).tolist() == [mirror.get(s, s) for s in channel_signs(pair[::-1])]
    assert pair_signs(*pair).tolist() == channel_signs(pair).tolist()


def test_signs_of_many_classes_are_counted():
    """With other than two classes the word says how many weights are positive, negative and zero."""
    weight = np.array([[1.0, -1.0, 0.0, np.nan], [2.0, -2.0, 0.0, 1.0], [-1.0, -3.0, 1.0, 1.0]])

    assert channel_signs(weight).tolist() == ["2+ 1-", "0+ 3-", "1+ 0- 2 zero", "undefined"]
    assert channel_signs(weight[:1, :2]).tolist() == ["1+ 0-", "0+ 1-"]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_has_no_class(shape):
    """No class or no channel gives an empty or an undecided answer, not an error."""
    assert weight_classes(np.ones(shape)).tolist() == [-1] * shape[1]
