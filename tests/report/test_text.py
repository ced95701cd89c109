"""Texts and numbers as a reader sees them."""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe.report.markdown import literal, markdown_html
from wsss_probe.report.page import script_json
from wsss_probe.report.text import number, one_line, visible

ANY_TEXT = st.text(st.characters(), max_size=40)


@given(ANY_TEXT)
@settings(deadline=None, max_examples=200)
def test_visible_text_is_utf8_and_stays(text: str) -> None:
    """Whatever comes in, the text can be written as UTF-8 and a second pass changes nothing."""
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown
    assert not {unicodedata.category(sign) for sign in shown if sign not in "\n\t"} & {"Cc", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126)))
@settings(deadline=None, max_examples=50)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    """Printable ASCII is never touched, backslashes included."""
    assert one_line(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("a\u2066b", "a\\u2066b"),
        ("\udce9", "\\udce9"),
        ("\ufeffx", "\\ufeffx"),
        ("bell\x07", "bell\\x07"),
        ("Ära µm 漢字 👩\u200d🔬", "Ära µm 漢字 👩\u200d🔬"),
    ],
)
def test_hidden_characters_are_escaped(text: str, shown: str) -> None:
    """Controls, bidirectional marks and lone surrogates become visible; letters and emoji stay."""
    assert visible(text) == shown


def test_lines_survive_in_paragraphs_and_not_in_names() -> None:
    """A paragraph keeps its line breaks, a name shows them."""
    assert visible("a\nb\tc") == "a\nb\tc"
    assert one_line("a\nb\tc") == "a\\nb\\tc"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.77149, "0.771"),
        (0.5, "0.500"),
        (0.9996, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (99.95, "100"),
        (1234.5, "1234"),
        (0.0012345, "0.00123"),
        (0.00012345, "1.23e−4"),
        (1.5e6, "1.50e6"),
        (-0.25, "−0.250"),
        (0.0, "0"),
        (-0.0, "0"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, shown: str) -> None:
    """Three digits, a true minus, a dash for what is undefined, powers only far from one."""
    assert number(value) == shown


@given(st.recursive(ANY_TEXT | st.integers() | st.booleans() | st.none(), st.lists, max_leaves=6))
@settings(deadline=None, max_examples=100)
def test_script_json_means_the_same_and_holds_no_tag(value: object) -> None:
    """JSON for a script element reads back equal and holds no sign that could end the element."""
    written = script_json(value)
    assert json.loads(written) == value
    assert not set(written) & set("<>&\u2028\u2029")


def test_script_json_refuses_what_json_has_not() -> None:
    """NaN in a script element would stop the page's script; it never gets there."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([math.nan])


@pytest.mark.parametrize(
    "name",
    ["[x](http://a.b)", "**q** `c`", "<b>", "a_b_c", "# top", "- item", "1. one", "| a |", "~~s~~", "\\"],
)
def test_literal_names_stay_as_they_are(name: str) -> None:
    """A name that looks like Markdown is shown sign by sign, without a link or any other tag."""
    shown = markdown_html(literal(name))
    assert html.unescape(re.sub(r"</?p>|\n", "", shown)) == name
