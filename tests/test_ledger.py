"""The ledger of choices: written, read again, and the masks of several choices counted once."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe import Choice
from wsss_probe.errors import CorruptRunError
from wsss_probe.ledger import ledger_sections, masks_consumed, read_choices, write_choices


def made(
    what="threshold", images=4, masks=None, seal=("content:a", "content:b", "content:c", "content:d"), **more
):
    """A choice; by default on four images that all have masks."""
    values = {"value": 0.5, "measure": "mean F1", "score": 0.7, "candidates": 9, "split": "a random half"}
    count = images if masks is None else masks
    return Choice(what, images=images, masks=count, groups=2, seal=frozenset(seal), **{**values, **more})


text = st.text(min_size=1, max_size=8)
choices = st.builds(
    made,
    text,
    images=st.integers(1, 9),
    masks=st.integers(0, 1),
    seal=st.sets(text, min_size=1, max_size=4),
    value=text | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    score=st.floats(allow_nan=False, allow_infinity=False),
    reopened=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(text, choices), max_size=5))
def test_choices_come_back_as_they_were(tmp_path_factory, wanted):
    """Whatever was chosen is read again: words, numbers and seals."""
    folder = tmp_path_factory.mktemp("run")

    write_choices(folder, wanted)

    assert read_choices(folder) == wanted


def test_a_seal_of_many_choices_is_written_once(tmp_path):
    """Choices on the same images share their seal in the file, so it stays small."""
    seal = [f"content:{index:016x}" for index in range(1000)]

    write_choices(tmp_path, [("mine", made(f"choice {index}", seal=seal)) for index in range(20)])

    assert (tmp_path / "choices.json").stat().st_size < 60_000


def test_a_run_without_choices_has_none(tmp_path):
    """No file, no choices."""
    assert read_choices(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"seals": [], "choices": [{"plugin": "a", "seal": 0}]}',
        '{"seals": [["a"]], "choices": [{}]}',
    ],
)
def test_a_file_that_holds_no_choices(tmp_path, content):
    """A damaged file is named on one line, with what to do."""
    (tmp_path / "choices.json").write_text(content)

    with pytest.raises(
        CorruptRunError, match=r"holds no choices; found: .*; remedy: run the audit again"
    ) as caught:
        read_choices(tmp_path)

    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_not_passed_over(tmp_path):
    """A choice with a field of a later version is refused, not half understood."""
    write_choices(tmp_path, [("mine", made())])
    kept = json.loads((tmp_path / "choices.json").read_text())
    kept["choices"][0]["later"] = 1
    (tmp_path / "choices.json").write_text(json.dumps(kept))

    with pytest.raises(CorruptRunError, match="later"):
        read_choices(tmp_path)


first, second = ("content:a", "content:b"), ("content:c", "content:d")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], 0),
        ([made()], 4),
        ([made(), made("layer")], 4),
        ([made(images=2, seal=first), made("layer", images=2, seal=second)], 4),
        ([made(images=2, seal=first), made("layer", images=4)], 4),
        ([made(masks=0)], 0),
        ([made(masks=1)], 1),
        ([made(seal=("group a",)), made("layer", images=3, seal=("group a",))], 4),
        ([made(images=2, seal=("group a",)), made("layer", images=2, seal=("group b",))], 4),
    ],
)
def test_masks_count_once(found, wanted):
    """Masks that several choices were made on count once; choices without masks consume none."""
    assert masks_consumed([("mine", choice) for choice in found]) == wanted


def test_the_report_lists_every_choice():
    """One row a choice in the chapter on how the report was made, with the total in the caption."""
    listed = [("mine", made()), ("other", made("layer", value="layer4", reopened=True))]

    (section,) = ledger_sections(listed)
    (table,) = section.blocks

    assert section.question == "how"
    assert "2 choices, which consumed 4 masks" in table.caption
    assert table.frame["value"].tolist() == ["0.5", "layer4"]
    assert table.frame["scored on the same images"].tolist() == ["no", "yes"]
    assert set(table.meanings) == set(table.frame.columns)


def test_nothing_chosen_is_no_section():
    """A run without choices has no empty table."""
    assert ledger_sections([]) == ()
