"""The best channel is chosen on some images and scored on others, never the same."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.screening.selection import (
    Halves,
    best_channel,
    choices_of,
    eligible,
    mean_defined,
    split_halves,
)

from wsss_probe.errors import UsageError


def run_of(splits, groups=None, contents=None):
    """A run with nothing but a manifest."""
    names = [f"{index}.png" for index in range(len(splits))]
    frame = pd.DataFrame({"image": names, "mask": names, "split": splits})
    survey = SimpleNamespace(mask_classes=("gland",))
    return SimpleNamespace(images=frame, groups=groups, contents=contents, survey=survey)


everything = np.ones(8, dtype=bool)


def test_a_train_split_decides_where_there_is_one():
    """Channels are chosen on ``train`` and scored on everything else."""
    found = split_halves(run_of(["train"] * 3 + ["test"] * 5), everything, "", 0)

    assert found.choose.tolist() == [True] * 3 + [False] * 5
    assert found.score.tolist() == [False] * 3 + [True] * 5
    assert found.how == "chosen on split 'train' and scored on the others"


def test_a_named_split_decides_before_train():
    """``chosen_on`` names the split to choose on."""
    found = split_halves(run_of(["train"] * 4 + ["val"] * 4), everything, "val", 0)

    assert found.choose.tolist() == [False] * 4 + [True] * 4


def test_a_split_without_masks_is_refused():
    """Choosing on a split that has no image with a mask names the splits there are."""
    known = np.array([False] * 4 + [True] * 4)

    with pytest.raises(UsageError, match=r"no image with a mask is in it; found: test, train; remedy"):
        split_halves(run_of(["train"] * 4 + ["test"] * 4), known, "train", 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 5), st.data())
def test_halves_are_disjoint_and_share_no_group(numbers, seed, data):
    """Without splits, groups are halved: no image and no group is on both sides, none unknown."""
    groups = np.array([f"patient {number}" for number in numbers], dtype=object)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers))))

    found = split_halves(run_of([""] * len(numbers), groups), known, "", seed)

    assert not (found.choose & found.score).any()
    assert ((found.choose | found.score) == known).all()
    number = len(set(groups[known]))
    if number > 1:
        assert not set(groups[found.choose]) & set(groups[found.score])
        assert len(set(groups[found.choose])) == (number + 1) // 2


def test_one_group_is_halved_by_image_and_says_so():
    """With one group the halves are not independent, and the words say it."""
    groups = np.array(["section"] * 8, dtype=object)

    found = split_halves(run_of([""] * 8, groups), everything, "", 0)

    assert found.choose.sum() == found.score.sum() == 4
    assert found.how.endswith("(not independent)")


def test_all_images_in_train_are_halved():
    """A split that holds everything divides nothing, so the images are halved at random."""
    found = split_halves(run_of(["train"] * 8), everything, "", 0)

    assert found.choose.sum() == found.score.sum() == 4


def random_half(groups, known, seed):
    """As the halves were drawn before the host drew them: the numbers of earlier reports hold."""
    unit = np.arange(len(known)) if groups is None else groups
    names, position = np.unique(unit[known].astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    choose = np.zeros(len(known), dtype=bool)
    choose[np.flatnonzero(known)] = np.isin(position, order[: (len(names) + 1) // 2])
    return choose


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_halves_are_those_of_earlier_reports(grouped, seed):
    """The host divides as this plugin did, so that a number does not change with the version."""
    random = np.random.default_rng(seed)
    known = random.random(40) > 0.2
    groups = np.array([f"patient {number}" for number in random.integers(0, 9, 40)], dtype=object)
    groups = groups if grouped else None

    found = split_halves(run_of([""] * 40, groups), known, "", seed)

    np.testing.assert_array_equal(found.choose, random_half(groups, known, seed))


def test_a_patient_in_both_splits_is_scored_nowhere():
    """Images of a patient of the training split do not score, though they are in the test split."""
    groups = np.array(["a", "b", "c", "a", "d", "e", "f", "b"], dtype=object)

    found = split_halves(run_of(["train"] * 3 + ["test"] * 5, groups), everything, "", 0)

    assert found.score.tolist() == [False] * 4 + [True] * 3 + [False]


def test_a_choice_is_issued_for_the_ledger():
    """The best channel is sealed against the images it was chosen on, with their masks and the candidates."""
    run = run_of([""] * 8)
    sides = split_halves(run, everything, "", 0)
    f1 = np.random.default_rng(0).random((8, 5))
    best = best_channel(f1, np.full(8, 0.3), sides)

    (made,) = choices_of(run, "channel of r3 for gland", best, sides)

    assert (made.what, made.value, made.score) == ("channel of r3 for gland", best.channel, best.chosen)
    assert (made.candidates, made.images, made.masks, made.groups) == (5, 4, 4, 4)
    assert made.split == "a random half of the images"
    assert not made.reopened


def test_halves_of_one_group_open_the_seal():
    """Images of one group on both sides: the ledger says that the choice was scored where it was made."""
    run = run_of([""] * 8, np.array(["section"] * 8, dtype=object))
    sides = split_halves(run, everything, "", 0)
    best = best_channel(np.random.default_rng(0).random((8, 5)), np.full(8, 0.3), sides)

    (made,) = choices_of(run, "channel of r3 for gland", best, sides)

    assert made.reopened
    assert made.groups == 1


def test_nothing_chosen_is_nothing_in_the_ledger():
    """Where no channel can be chosen there is no choice."""
    run = run_of([""] * 8)
    sides = split_halves(run, everything, "", 0)
    nothing = best_channel(np.full((8, 3), np.nan), np.full(8, 0.3), sides)

    assert choices_of(run, "channel of r3 for gland", nothing, sides) == ()


def halves(number):
    """Choose on the even images, score on the odd ones."""
    choose = np.arange(number) % 2 == 0
    return Halves(choose, ~choose, "")


def test_the_choice_does_not_see_the_scoring_half():
    """A channel that shines only where it is chosen is chosen, and scored where it fails."""
    f1 = np.tile([[0.9, 0.5], [0.1, 0.8]], (4, 1))

    found = best_channel(f1, np.full(8, 0.3), halves(8))

    assert found.channel == 0
    assert found.chosen == pytest.approx(0.9)
    assert found.score == pytest.approx(0.1)
    assert np.isnan(found.scored[::2]).all()


def test_the_best_of_noise_is_no_better_elsewhere():
    """Nothing to find: the best of 200 noise channels looks good where chosen and average elsewhere."""
    f1 = np.random.default_rng(0).random((40, 200))

    found = best_channel(f1, np.full(40, 0.3), halves(40))

    assert found.chosen > 0.62
    assert abs(found.score - 0.5) < 0.15


def test_a_nearly_dead_channel_is_not_chosen():
    """A channel defined on less than half of the choosing images does not take part."""
    f1 = np.full((8, 2), 0.5)
    f1[:, 0] = np.nan
    f1[0, 0] = 1.0

    assert best_channel(f1, np.full(8, 0.3), halves(8)).channel == 1
    assert eligible(f1, everything).tolist() == [False, True]


def test_a_channel_silent_where_the_class_is_absent_takes_part():
    """A channel that answers only images with the class is right to do so, and is chosen."""
    area = np.tile([0.3, 0, 0, 0, 0], 8)
    f1 = np.where(area[:, None] > 0, [1.0, 0.5], [np.nan, 0.0])

    assert best_channel(f1, area, halves(40)).channel == 0
    assert eligible(f1, area > 0).tolist() == [True, True]


@pytest.mark.parametrize("case", ["absent", "absent from one half", "all dead", "no mask"])
def test_what_cannot_be_estimated_has_no_best_channel(case):
    """No class, no class in one half, no living channel or no mask: no channel, NaN, no crash."""
    f1, area = np.full((8, 3), 0.5), np.full(8, 0.3)
    if case == "absent":
        area = np.zeros(8)
    if case == "absent from one half":
        area[1::2] = 0
    if case == "all dead":
        f1[:] = np.nan
    if case == "no mask":
        area[:] = np.nan

    found = best_channel(f1, area, halves(8))

    assert found.channel == -1
    assert np.isnan(found.score)
    assert np.isnan(found.chosen)


def test_the_mean_leaves_out_what_is_undefined():
    """NaN is left out of means, infinity too; nothing at all is NaN without a warning."""
    values = np.array([[1.0, np.nan], [0.0, np.nan]])

    assert mean_defined(values).tolist()[0] == 0.5
    assert np.isnan(mean_defined(values)[1])
    assert np.isnan(mean_defined(np.empty((0, 1)))[0])
