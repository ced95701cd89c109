"""Frames become tables and CSV."""

from __future__ import annotations

import csv
import io
import math
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from wsss_probe.contracts import Figure
from wsss_probe.report.plots import encode_figure
from wsss_probe.report.tables import (
    EXPLAINED_ROWS_SHOWN,
    NUMBERS_SHOWN,
    ROWS_SHOWN,
    encode_table,
    from_csv,
    to_csv,
)


def test_cells_are_written_for_people_and_sorted_as_numbers() -> None:
    """Floats get three digits, whole numbers none, truth values words; undefined sorts apart."""
    frame = pd.DataFrame(
        {"f1": [0.12345, np.nan], "n": [240.0, np.nan], "ok": [True, False], "who": ["a", None]}
    )
    table = encode_table(frame, "c")
    assert table.rows == (("0.123", "240", "yes", "a"), ("–", "–", "no", "–"))
    assert table.order == ((0.12345, 240.0, None, None), (None, None, None, None))
    assert table.numeric == (True, True, False, False)


def test_infinity_is_shown_and_sorted_at_the_end() -> None:
    """Infinity has a sign of its own and a finite sort key, since JSON knows none."""
    table = encode_table(pd.DataFrame({"x": [np.inf, 1.5, -np.inf]}), "")
    assert [row[0] for row in table.rows] == ["∞", "1.50", "−∞"]
    keys = [row[0] for row in table.order]
    assert sorted(keys) == [keys[2], keys[1], keys[0]]
    assert np.isfinite(keys).all()


def test_equal_column_names_and_odd_values_pass() -> None:
    """Frames with twin columns, dates, bytes and numpy scalars are shown, not refused."""
    values = [[1, datetime(2026, 1, 2), b"\xff", np.float32(0.5), np.bool_(True)]]
    table = encode_table(pd.DataFrame(values, columns=["a", "a", "b", "c", "d"], dtype=object), "")
    assert table.columns == ("a", "a", "b", "c", "d")
    assert table.rows[0] == ("1", "2026-01-02 00:00:00", "b'\\xff'", "0.500", "yes")


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []})])
def test_empty_frames_have_no_rows(frame: pd.DataFrame) -> None:
    """A frame without rows or columns is a table without rows."""
    assert encode_table(frame, "").rows == ()


def test_long_tables_are_cut_with_a_note_and_whole_in_the_csv() -> None:
    """Above 500 rows the page shows the first ones and says so; the CSV holds all."""
    table = encode_table(pd.DataFrame({"x": range(ROWS_SHOWN + 1)}), "")
    assert len(table.rows) == ROWS_SHOWN
    assert table.notes == ("The first 500 of 501 rows are shown and sorted.",)
    assert len(table.csv.splitlines()) == ROWS_SHOWN + 2
    assert encode_table(pd.DataFrame({"x": range(ROWS_SHOWN)}), "").notes == ()


def test_a_table_with_meanings_shows_all_channels_of_a_wide_layer() -> None:
    """A table that explains its columns is there to be searched: 2048 rows stand on the page."""
    frame = pd.DataFrame({"channel": range(EXPLAINED_ROWS_SHOWN + 1)})
    table = encode_table(frame, "", meanings={"channel": "from 0"})
    assert len(table.rows) == EXPLAINED_ROWS_SHOWN == 2048
    assert table.notes == ("The first 2048 of 2049 rows are shown and sorted.",)


def test_meanings_stand_by_column() -> None:
    """Every column has its meaning or an empty text; a table without meanings has none at all."""
    frame = pd.DataFrame({"a": [1], "b": [2], "c": [3]})
    assert encode_table(frame, "", meanings={"c": "last", "a": "first"}).meanings == ("first", "", "last")
    assert encode_table(frame, "").meanings == ()


@pytest.mark.parametrize("text", ["=1", "'", "'a", "plain", "-tie", ""])
def test_texts_come_back_from_csv(text: str) -> None:
    """What keeps a text from running is taken off again, and nothing else is."""
    written, _ = to_csv(pd.DataFrame({"x": [text]}))
    _, row = csv.reader(io.StringIO(written.replace("\n\n", '\n""\n')))
    assert from_csv(row[0]) == text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_text_cannot_be_a_formula(start: str) -> None:
    """A text that a spreadsheet would run gets a quote before it, in cells and in the header."""
    text, _ = to_csv(pd.DataFrame({f"{start}name": [f"{start}1+1"]}))
    header, cell = (row[0] for row in csv.reader(io.StringIO(text)))
    assert header.startswith("'")
    assert cell.startswith("'")


def test_csv_numbers_keep_full_precision() -> None:
    """Numbers are data: negative ones get no quote, digits stay, undefined is empty."""
    values = [-0.1234567890123456, np.nan, 1e-30]
    text, rows = to_csv(pd.DataFrame({"x": values, "name": ["a,b", 'say "x"', "two\nlines"]}))
    assert rows == 3
    back = pd.read_csv(io.StringIO(text))
    np.testing.assert_array_equal(back["x"], values)
    assert back["name"].tolist() == ["a,b", 'say "x"', "two\nlines"]


def test_csv_is_cut_after_a_whole_line() -> None:
    """A CSV over its limit ends with a complete row, and the table says how many there are."""
    frame = pd.DataFrame({"name": ["x" * 40] * 1000})
    table = encode_table(frame, "", csv_length=10_000)
    assert len(table.csv) <= 10_000
    kept = table.csv.splitlines()[1:]
    assert set(kept) == {"x" * 40}
    assert table.notes[-1] == f"The CSV holds the first {len(kept)} of 1000 rows, to keep this file small."


def test_sort_keys_are_short() -> None:
    """A number on the page is sorted by nine of its digits, a whole number by all; the CSV has all."""
    table = encode_table(pd.DataFrame({"x": [1 / 3, 12345678901.0, math.inf]}), "")

    assert [row[0] for row in table.order] == [0.333333333, 12345678901.0, 1.7e308]
    assert str(1 / 3) in table.csv


def test_the_numbers_of_a_figure_are_fewer() -> None:
    """What a figure shows already stands below it with fewer rows, and whole in its CSV."""
    frame = pd.DataFrame({"x": range(NUMBERS_SHOWN + 1)})
    found = encode_figure(Figure({"data": [], "layout": {}}, "c", data=frame)).numbers

    assert found is not None
    assert len(found.rows) == NUMBERS_SHOWN
    assert len(found.csv.splitlines()) == NUMBERS_SHOWN + 2
