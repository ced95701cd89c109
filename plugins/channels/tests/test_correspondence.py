"""Classes of a network find their mask regions by name, by option, or as a complement."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels.weights.correspondence import correspond

from wsss_probe.errors import UsageError


def test_equal_names_match_whatever_their_case():
    """Several classes each find the mask class of their name; the others have none."""
    found = correspond(("Cat", "dog", "tree"), ("DOG", "cat"))

    assert found.regions == {"Cat": "cat", "dog": "DOG", "tree": ""}
    assert found.reasons == {"Cat": "same name", "dog": "same name"}
    assert found.known == ("Cat", "dog")


@pytest.mark.parametrize(
    ("mask_classes", "region"), [(("gland",), "not gland"), (("gland", "white"), "tissue without gland")]
)
def test_the_other_of_two_classes_is_the_complement(mask_classes, region):
    """Of two classes one is in the masks; the other is what is left, without white where there is white."""
    found = correspond(("benign", "gland"), mask_classes)

    assert found.regions == {"benign": region, "gland": "gland"}
    assert "the complement of gland, since there are two classes" in found.words


def test_the_complement_is_taken_for_two_classes_and_one_thing_only():
    """Three classes, two things in the masks, or masks of white alone leave the other class alone."""
    assert correspond(("a", "b", "gland"), ("gland",)).known == ("gland",)
    assert correspond(("other", "gland"), ("gland", "vessel")).known == ("gland",)
    assert correspond(("white", "other"), ("white",)).known == ("white",)
    assert correspond(("gland",), ("gland",)).known == ("gland",)


@pytest.mark.parametrize("white", ["white", "White"])
def test_white_beside_a_thing_is_nobodys_region(white):
    """A class named white finds no region, is not what is left of gland either, and gives none away."""
    assert correspond((white, "other"), ("gland", "white")).regions == {white: "", "other": ""}
    assert correspond((white, "gland"), ("gland", "white")).regions == {white: "", "gland": "gland"}
    named = correspond((white, "tumour"), ("gland", "white"), {"tumour": "gland"})
    assert named.regions == {white: "", "tumour": "gland"}
    assert named.known == ("tumour",)


def test_match_may_not_name_white_beside_a_thing():
    """The message lists the regions that there are."""
    with pytest.raises(
        UsageError, match=r"found: white; wanted: gland, not gland, tissue without gland(?!,)"
    ):
        correspond(("a", "b"), ("gland", "white"), {"a": "white"})


def test_match_comes_first():
    """A named pair beats an equal name, may name any complement, and gives the other class its own."""
    found = correspond(("tumour", "normal"), ("gland", "white"), {"tumour": "gland"})
    assert found.regions == {"tumour": "gland", "normal": "tissue without gland"}
    assert found.reasons["tumour"] == "named by match"
    named = correspond(("gland", "x"), ("gland", "vessel"), {"gland": "vessel", "x": "not gland"})
    assert named.regions == {"gland": "vessel", "x": "not gland"}


def test_nothing_matched_is_said():
    """Without a common name every class stays without a region."""
    found = correspond(("a", "b"), ("gland",))

    assert found.known == ()
    assert found.words == "no class has a mask region"


@pytest.mark.parametrize(
    ("match", "wrong"), [({"tumor": "gland"}, "found: tumor; wanted: a, b"), ({"a": "glans"}, "found: glans")]
)
def test_names_that_do_not_exist_are_refused(match, wrong):
    """A class or a region that is misspelt ends in one line that says what there is."""
    with pytest.raises(UsageError, match=wrong):
        correspond(("a", "b"), ("gland",), match)


def test_match_without_masks_is_refused():
    """A region in match needs masks, and the message says so."""
    with pytest.raises(UsageError, match="wanted: masks in the manifest"):
        correspond(("a", "b"), (), {"a": "gland"})


NAMES = st.lists(st.sampled_from(["a", "b", "c", "white", "not a"]), unique=True, max_size=4)


@settings(deadline=None, max_examples=60)
@given(NAMES, NAMES)
def test_every_class_is_answered_and_every_region_exists(classes, mask_classes):
    """All classes appear in their order, and only those with a region have a reason."""
    found = correspond(classes, mask_classes)

    assert list(found.regions) == classes
    assert set(found.reasons) == set(found.known)
    things = [name for name in mask_classes if name != "white"]
    left = {f"{how} {name}" for how in ("not", "tissue without") for name in things}
    assert set(found.regions.values()) <= {"", *(things or mask_classes), *left}
