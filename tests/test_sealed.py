"""Choices by score: no group and no file on both sides, refused where they were made, and luck shows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe.errors import SealedError, UsageError
from wsss_probe.ledger import read_choices, write_choices
from wsss_probe.sealed import Split, choose, halves, scored, split_of
from wsss_probe.testing.runs import InMemoryRun
from wsss_probe.testing.scenes import make_scene

SCENE = make_scene(images=12)


def run_of(groups=None, contents=None, splits=None, names=None, images=12):
    """A run in memory, with the parts of a manifest that dividing reads."""
    frame = InMemoryRun(SCENE).images.head(1).loc[[0] * images].reset_index(drop=True)
    frame["image"] = names if names is not None else [f"image{index}.png" for index in range(images)]
    frame["split"] = splits if splits is not None else [""] * images

    class _Run:
        survey = SCENE.survey
        images = frame

    run = _Run()
    run.groups = None if groups is None else np.array(groups, dtype=object)
    run.contents = None if contents is None else np.array(contents, dtype=object)
    return run


everything = np.ones(12, dtype=bool)


def sides(run, usable=everything, chosen_on="", seed=0):
    """Positions of both parts."""
    first, second = halves(run, usable, chosen_on, seed)
    return set(first.images.tolist()), set(second.images.tolist())


# -- parts that share nothing ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_no_group_and_no_file_is_in_both_halves(groups, seed, data):
    """Whatever the groups, the copies of files and the split, both parts share no group and no content."""
    count = len(groups)
    numbers = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    splits = data.draw(
        st.none() | st.lists(st.sampled_from(["train", "test", ""]), min_size=count, max_size=count)
    )
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    run = run_of([f"patient {g}" for g in groups], [f"file {n}" for n in numbers], splits, images=count)

    first, second = halves(run, usable, seed=seed)

    assert not first.seal & second.seal
    assert set(run.groups[first.images]).isdisjoint(run.groups[second.images])
    assert set(run.contents[first.images]).isdisjoint(run.contents[second.images])
    assert usable[first.images].all()
    assert usable[second.images].all()
    if splits is None:
        assert len(first) + len(second) == usable.sum()


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.integers(0, 8), min_size=12, max_size=12), seed=st.integers(0, 3))
def test_half_of_the_groups_is_chosen_on(groups, seed):
    """Without splits half of the groups, one more where their number is odd, is chosen on."""
    run = run_of([f"patient {g}" for g in groups])

    first, second = halves(run, everything, seed=seed)

    number = len(set(groups))
    assert first.groups == ((number + 1) // 2 if number > 1 else 0)
    assert len(first) + len(second) == 12


def test_one_group_cannot_be_divided():
    """All tiles of one slide: nothing can be chosen that is not scored on the same slide."""
    first, second = halves(run_of(["slide"] * 12), everything)

    assert len(first) == 0
    assert len(second) == 12
    with pytest.raises(UsageError, match="found: no image in a random half of the groups"):
        choose("threshold", {0.5: 0.9}, "mean F1", first)


def test_one_file_under_two_names_stays_together():
    """Copies of one file are one unit, also where nobody gives groups."""
    contents = [f"file {index // 2}" for index in range(12)]

    for seed in range(10):
        first, _ = sides(run_of(contents=contents), seed=seed)
        assert {index // 2 for index in first if index % 2 == 0} == {i // 2 for i in first if i % 2}


def test_files_that_cannot_be_read_are_no_copies_of_each_other():
    """An empty digest says nothing, so such images are divided like any others."""
    first, second = sides(run_of(contents=[""] * 12))

    assert len(first) == len(second) == 6


def test_a_copy_joins_two_patients():
    """A file that two patients share makes them one unit: neither can be held out of the other."""
    groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    contents = [f"file {index}" for index in range(12)]
    contents[7] = contents[0]

    for seed in range(10):
        first, second = sides(run_of(groups, contents), seed=seed)
        assert {0, 7} <= first or {0, 7} <= second


@pytest.mark.parametrize(
    ("splits", "chosen_on", "wanted"),
    [
        (["train"] * 6 + ["test"] * 6, "", (range(6), range(6, 12))),
        (["train"] * 4 + ["val"] * 4 + ["test"] * 4, "", (range(4, 8), range(8, 12))),
        (["train"] * 4 + ["val"] * 8, "", (range(4, 12), range(4))),
        (["Train"] * 6 + ["Test"] * 6, "", (range(6), range(6, 12))),
        (["train"] * 4 + ["val"] * 4 + ["test"] * 4, "train", (range(4), range(4, 12))),
        (["train"] * 6 + ["test"] * 6, "test", (range(6, 12), range(6))),
    ],
)
def test_the_manifest_decides_where_it_can(splits, chosen_on, wanted):
    """Validation goes before training, what was asked for before both; training images are scored on last."""
    first, second = sides(run_of(splits=splits), chosen_on=chosen_on)

    assert (first, second) == tuple(map(set, wanted))


def test_a_patient_in_both_splits_is_not_scored():
    """Images of a patient whom the choice has seen count on neither side of the held-out score."""
    groups = ["a", "b", "c", "d", "e", "f"] * 2
    groups[6] = "g"

    first, second = sides(run_of(groups, splits=["train"] * 6 + ["test"] * 6))

    assert first == set(range(6))
    assert second == {6}


def test_a_split_that_is_not_there_is_named():
    """The message says which splits there are."""
    run = run_of(splits=["train"] * 6 + ["test"] * 6)

    with pytest.raises(UsageError, match="found: val; wanted: test, train"):
        halves(run, everything, "val")


# -- what a split knows ------------------------------------------------------------------------


def test_masks_are_counted_by_path_and_in_memory():
    """A path counts one mask; images in memory that have masks have one each."""
    run = run_of()
    paths = run.images
    paths["mask"] = ["m.png"] * 5 + [""] * 7

    assert split_of(run, everything, "all").masks == 5
    paths["mask"] = ""
    assert split_of(run, everything, "all").masks == 12


def test_without_contents_and_groups_names_are_sealed():
    """Nothing else is known, so an image is known again by its name."""
    mine = split_of(run_of(), np.arange(12) < 3, "three")
    same = split_of(run_of(), np.arange(12) == 2, "one of them")
    other = split_of(run_of(), np.arange(12) == 3, "another")

    assert len(mine.seal) == mine.groups == 3
    assert mine.seal & same.seal
    assert not mine.seal & other.seal


# -- choosing and scoring ----------------------------------------------------------------------

half = Split("a half", np.arange(3), 3, frozenset({"a", "b"}))


def test_the_first_of_equals_wins_and_undefined_takes_no_part():
    """Ties go to the first candidate; NaN and infinity are no scores, but count as candidates."""
    made = choose("threshold", {0.1: np.nan, 0.2: 0.7, 0.3: 0.7, 0.4: np.inf}, "mean F1", half)

    assert (made.value, made.score, made.candidates) == (0.2, 0.7, 4)
    assert (made.images, made.masks, made.groups, made.reopened) == (3, 3, 2, False)


def test_numbers_of_numpy_become_plain():
    """Candidates from an array can be written down as JSON."""
    made = choose("channel", dict.fromkeys(np.arange(3), 1.0), "mean F1", half)

    assert type(made.value) is int


def test_nothing_defined_is_no_choice():
    """Where no candidate has a score, none is the best."""
    with pytest.raises(UsageError, match="no layer can be chosen; found: no mean F1 defined on a half"):
        choose("layer", {"layer4": np.nan}, "mean F1", half)


def test_a_planted_leak_is_refused():
    """One shared group is enough, and the message counts it; on other images the score is given."""
    made = choose("threshold", {0.5: 0.9}, "mean F1", half)
    leaky = Split("the rest", np.arange(3, 6), 3, frozenset({"b", "c"}))
    clean = replace(leaky, seal=frozenset({"c", "d"}))

    with pytest.raises(SealedError, match="found: 1 groups and 0 images in both; wanted: none"):
        scored(made, leaky, lambda *_: pytest.fail("it was scored"))
    assert scored(made, clean, lambda value, positions: (value, positions.sum())) == ((0.5, 12), made)


def test_asking_for_it_opens_the_seal_and_is_remembered():
    """With ``again`` the score is given and the choice says so ever after."""
    made = choose("threshold", {0.5: 0.9}, "mean F1", half)
    clean = Split("the rest", np.arange(3, 6), 3, frozenset({"c"}))

    _, reopened = scored(made, half, lambda *_: 0.0, again=True)
    _, still = scored(reopened, clean, lambda *_: 0.0)
    _, sealed = scored(made, clean, lambda *_: 0.0, again=True)

    assert (reopened.reopened, still.reopened, sealed.reopened) == (True, True, False)


@pytest.mark.parametrize(
    ("groups", "names", "contents", "refused"),
    [
        (None, "renamed{}.png", "file {}", True),
        (None, "image{}.png", "others {}", False),
        ("patient {}", "renamed{}.png", "others {}", True),
        ("case {}", "renamed{}.png", "file {}", True),
        ("case {}", "image{}.png", "others {}", False),
    ],
)
def test_the_seal_holds_in_another_run(tmp_path, groups, names, contents, refused):
    """A choice read from another run knows its patients by name, and its files under any name."""

    def filled(template):
        return None if template is None else [template.format(index) for index in range(12)]

    first, _ = halves(run_of(filled("patient {}"), filled("file {}")), everything)
    if groups is None:
        first, _ = halves(run_of(None, filled("file {}")), everything)
    write_choices(tmp_path, [("mine", choose("threshold", {0.5: 0.9}, "mean F1", first))])
    ((_, kept),) = read_choices(tmp_path)
    there = split_of(run_of(filled(groups), filled(contents), names=filled(names)), everything, "new data")

    if refused:
        with pytest.raises(SealedError, match="chosen on the images that it is to be scored on"):
            scored(kept, there, lambda *_: 0.0)
    else:
        assert scored(kept, there, lambda *_: 1.0)[0] == 1.0


def test_luck_shows_where_it_was_chosen_and_nowhere_else():
    """The best of 200 random candidates looks good on its own half and is chance on the other, always."""
    chosen, held = [], []
    for seed in range(40):
        random = np.random.default_rng(seed).random((12, 200))
        first, second = halves(run_of(), everything, seed=seed)
        scores = dict(enumerate(random[first.images].mean(axis=0)))
        made = choose("candidate", scores, "score", first)
        score, _ = scored(made, second, lambda value, where, table=random: table[where, value].mean())
        chosen.append(made.score)
        held.append(score)

    assert np.mean(chosen) > 0.75
    assert abs(np.mean(held) - 0.5) < 0.06


def test_a_true_difference_survives():
    """A candidate that is really better is chosen, until noise drowns it."""
    kept = {}
    for noise in (0.05, 5.0):
        right = []
        for seed in range(20):
            table = np.random.default_rng(seed).normal(0, noise, (12, 30))
            table[:, 17] += 0.2
            first, _ = halves(run_of(), everything, seed=seed)
            made = choose("candidate", dict(enumerate(table[first.images].mean(axis=0))), "score", first)
            right.append(made.value == 17)
        kept[noise] = np.mean(right)

    assert kept[0.05] == 1.0
    assert kept[5.0] < 0.5
