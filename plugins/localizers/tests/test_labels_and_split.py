"""Which labels can be learned, and which images train; no group on two sides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_localizers.labels import read_labels
from wsss_probe_localizers.split import image_groups, split_rows

from wsss_probe.errors import ManifestError
from wsss_probe.manifest import Manifest


def table(labels, **columns):
    """A manifest of files that nobody opens."""
    frame = pd.DataFrame(
        {"image": [f"{index}.png" for index in range(len(labels))], "label": labels, **columns}
    )
    return Manifest(Path("nowhere"), frame)


def divided(manifest, share=0.25, seed=0, multilabel=None):
    """Read the labels and split."""
    return split_rows(manifest, read_labels(manifest, (), multilabel), share=share, seed=seed)


def test_classes_come_from_the_labels_or_in_the_order_asked():
    """Classes are naturally sorted, or as given; sets follow that order."""
    manifest = table(["b", "a", "b"])

    assert read_labels(manifest, (), None).classes == ("a", "b")
    asked = read_labels(manifest, ("b", "a"), None)
    assert asked.classes == ("b", "a")
    assert asked.sets.tolist() == [[True, False], [False, True], [True, False]]


def test_several_labels_mean_multilabel():
    """A semicolon makes sigmoids; --multilabel does so for single labels."""
    assert read_labels(table(["a;b", "a", "b"]), (), None).multilabel
    assert not read_labels(table(["a", "b"]), (), None).multilabel
    assert read_labels(table(["a", "b"]), (), True).multilabel


@pytest.mark.parametrize(
    ("labels", "classes", "multilabel", "message"),
    [
        (["", ""], (), None, "no image has a label"),
        (["a", "a"], (), None, r"too few classes.*found: 1 \(a\); wanted: 2 or more"),
        (["a;b", "b"], (), False, "several labels.*remedy: use --multilabel"),
        (
            ["tumour", "stroma"],
            ("tumor", "stroma"),
            None,
            "not among the classes; found: tumour.*nearest is tumor",
        ),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, classes, multilabel, message):
    """One clear line says what is wrong with the labels."""
    with pytest.raises(ManifestError, match=message):
        read_labels(table(labels), classes, multilabel)


@settings(deadline=None, max_examples=12)
@given(
    groups=st.lists(st.integers(0, 9), min_size=20, max_size=40),
    seed=st.integers(0, 5),
    share=st.sampled_from([0.2, 0.3, 0.5]),
)
def test_no_group_is_on_two_sides(groups, seed, share):
    """Whatever the groups, a group trains or validates, never both, and every image is used once."""
    groups = [*range(10), *groups]
    labels = [("a", "b")[group % 2] for group in groups]
    manifest = table(labels, group=[f"g{group}" for group in groups])

    split = divided(manifest, share, seed)

    sides = {name: set(image_groups(manifest)[rows]) for name, rows in split.rows.items()}
    assert not sides["train"] & sides["val"]
    assert sorted(np.concatenate(list(split.rows.values())).tolist()) == list(range(len(groups)))
    assert split.notes == ()


def test_classes_get_their_share():
    """With many groups validation holds about the asked share of every class."""
    labels = ["rare" if index % 10 == 0 else "common" for index in range(400)]
    manifest = table(labels, group=[f"g{index // 4}" for index in range(400)])

    sets = read_labels(manifest, (), None).sets
    rows = divided(manifest, share=0.25).rows["val"]

    assert (sets[rows].sum(axis=0) / sets.sum(axis=0)).tolist() == pytest.approx([0.25, 0.25], abs=0.05)


def test_tiles_of_one_image_stay_together():
    """Tiles without a group belong to their image."""
    frame = pd.DataFrame(
        {
            "image": [f"{index // 5}.png" for index in range(40)],
            "label": ["a", "b"] * 20,
            "x": 0,
            "y": 0,
            "width": 4,
            "height": 4,
        }
    )
    manifest = Manifest(Path("nowhere"), frame)

    split = divided(manifest)

    names = manifest.frame["image"].to_numpy()
    assert not set(names[split.rows["train"]]) & set(names[split.rows["val"]])


def test_a_split_in_the_manifest_is_kept():
    """Named splits are used as they are; others than train and val are held out; '' is left out."""
    manifest = table(
        ["a", "b", "a", "b", "a", "b", "a"], split=["train", "training", "valid", "val", "test", "testB", ""]
    )

    split = divided(manifest)

    assert {name: rows.tolist() for name, rows in split.rows.items()} == {
        "train": [0, 1],
        "val": [2, 3],
        "test": [4],
        "testB": [5],
    }


def test_a_shared_group_and_missing_labels_are_told():
    """The manifest may put one group on two sides or lack labels: the notes say so."""
    manifest = table(
        ["a", "b", "", "a", "b"],
        split=["train", "train", "train", "val", "val"],
        group=["p1", "p2", "p3", "p1", "p4"],
    )

    notes = divided(manifest).notes

    assert notes == (
        "1 images without a label were left out",
        "groups both in train and in val: 1; val is not independent of training",
    )


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            table(["a", "b"], split=["test", "val"]),
            "no labelled image to train on; wanted: rows with a label",
        ),
        (
            table(["a", "a", "b"], split=["train", "train", "val"]),
            "class 'b' is missing in training; found: 0 of 2",
        ),
        (table(["a", "b"] * 4, group="one"), "cannot be split by group.*found: one group"),
        (table(["a", "b", "a", "a"], group=["1", "2", "3", "4"]), "every class on both sides.*4 groups.*val"),
    ],
)
def test_splits_that_cannot_be_are_refused(manifest, message):
    """No training images, a class missing in training, or groups that cannot be divided."""
    with pytest.raises(ManifestError, match=message):
        divided(manifest)


def test_a_class_on_every_image_cannot_be_learned_by_a_sigmoid():
    """With sigmoids a class needs images without it."""
    manifest = table(["a;b", "a", "a;b"], split=["train", "train", "val"])

    with pytest.raises(ManifestError, match="class 'a' is on every training image"):
        divided(manifest)


def test_unreadable_images_leave_the_split():
    """What cannot be read leaves; a class that leaves training with it is an error."""
    manifest = table(["a", "b", "a", "b"], split=["train", "train", "val", "val"])
    labels = read_labels(manifest, (), None)
    split = split_rows(manifest, labels, share=0.5, seed=0)

    assert split.where(np.array([True, True, False, True]), labels).rows["val"].tolist() == [3]
    with pytest.raises(ManifestError, match="class 'b' is missing in training"):
        split.where(np.array([True, False, True, True]), labels)
    with pytest.raises(ManifestError, match="no image for validation can be read"):
        split.where(np.array([True, True, False, False]), labels)
