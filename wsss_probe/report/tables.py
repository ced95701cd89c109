"""Frames as tables: cells written out, numbers sortable, all rows offered as CSV."""

from __future__ import annotations

import csv
import io
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wsss_probe.report.encoded import EncodedTable
from wsss_probe.report.text import DASH, number, one_line, visible

__all__ = [
    "EXPLAINED_ROWS_SHOWN",
    "NUMBERS_SHOWN",
    "ROWS_SHOWN",
    "encode_table",
    "from_csv",
    "to_csv",
]

ROWS_SHOWN = 500
"""Rows on the page; the CSV holds the others."""

EXPLAINED_ROWS_SHOWN = 2048
"""The same for a table whose columns have meanings: it is there to be searched, not to be looked over."""

NUMBERS_SHOWN = 200
"""The same for the numbers of a figure, which the figure shows already."""

CSV_LENGTH = 2_000_000
"""In characters; a longer CSV is cut after a whole line, with a note."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def encode_table(
    frame: pd.DataFrame,
    caption: str,
    csv_length: int = CSV_LENGTH,
    meanings: Mapping[str, str] | None = None,
    rows: int = ROWS_SHOWN,
) -> EncodedTable:
    """Encode a frame; its index is not shown.

    Parameters
    ----------
    frame : DataFrame
    caption : str
    csv_length : int
        Longest CSV, in characters.
    meanings : mapping of str to str, optional
        By column.
    rows : int
        On the page, for a table without meanings.

    Returns
    -------
    EncodedTable
    """
    meanings = meanings or {}
    shown = frame.head(EXPLAINED_ROWS_SHOWN if meanings else rows)
    columns = [_column(shown.iloc[:, i].tolist()) for i in range(shown.shape[1])]
    text, kept = to_csv(frame, csv_length)
    return EncodedTable(
        caption=visible(caption),
        columns=tuple(one_line(name) for name in frame.columns),
        numeric=tuple(any(value is not None for value in order) for _, order in columns),
        rows=tuple(zip(*(texts for texts, _ in columns), strict=True)) if columns else (),
        order=tuple(zip(*(order for _, order in columns), strict=True)) if columns else (),
        total=len(frame),
        csv=text,
        notes=_notes(len(frame), len(shown), kept),
        meanings=tuple(visible(meanings.get(name, "")) for name in frame.columns) if meanings else (),
    )


def _notes(total: int, shown: int, kept: int) -> tuple[str, ...]:
    notes = []
    if total > shown:
        notes.append(f"The first {shown} of {total} rows are shown and sorted.")
    if kept < total:
        notes.append(f"The CSV holds the first {kept} of {total} rows, to keep this file small.")
    return tuple(notes)


def _column(values: Sequence[Any]) -> tuple[list[str], list[float | None]]:
    """Texts of a column and what its numbers are sorted by; whole numbers are shown whole."""
    finite = [float(v) for v in values if _is_number(v) and math.isfinite(v)]
    whole = all(value.is_integer() for value in finite)
    order = [_round_trip(v) if _is_number(v) and not math.isnan(v) else None for v in values]
    return [_cell(value, whole) for value in values], order


def _round_trip(value: Any) -> float | None:
    """Sort keys stay finite, since JSON knows no infinity, and short: a page holds thousands."""
    finite = max(-1.7e308, min(1.7e308, float(value)))
    return finite if finite.is_integer() else float(f"{finite:.9g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (_is_number(value) and math.isnan(value))


def _cell(value: Any, whole: bool) -> str:
    if _is_missing(value):
        return DASH
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not _is_number(value):
        return one_line(value)
    if whole and math.isfinite(value):
        return str(int(value)).replace("-", "−")
    return number(float(value))


def to_csv(frame: pd.DataFrame, limit: int = CSV_LENGTH) -> tuple[str, int]:
    """Write a frame as CSV that a spreadsheet will not run.

    Parameters
    ----------
    frame : DataFrame
    limit : int
        Characters after which no further row is written.

    Returns
    -------
    text : str
        Full precision, undefined numbers empty. Texts that begin like a formula get a ``'``
        before them, invisible characters an escape.
    rows : int
        Rows that fitted.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_plain(name) for name in frame.columns])
    kept = 0
    for row in frame.itertuples(index=False, name=None):
        end = buffer.tell()
        writer.writerow([_plain(value) for value in row])
        if buffer.tell() > limit:
            buffer.truncate(end)
            break
        kept += 1
    return buffer.getvalue(), kept


def from_csv(cell: str) -> str:
    """Give back the text that :func:`to_csv` wrote, without the sign that keeps it from running.

    >>> from_csv("'-tie"), from_csv("plain")
    ('-tie', 'plain')
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell


def _plain(value: Any) -> Any:
    if _is_missing(value):
        return ""
    if _is_number(value):
        return value
    text = str(value)
    return visible(f"'{text}" if text.startswith(_FORMULA_STARTS) else text)
