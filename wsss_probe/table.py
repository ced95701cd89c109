"""The file behind a manifest: cells as text, paths that stay in their folder, atomic writing."""

from __future__ import annotations

import csv
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from wsss_probe.atomic import replacing
from wsss_probe.errors import ManifestError, UnsafeInputError, UsageError
from wsss_probe.names import display, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "TILE", "read_table", "require_inside", "text_column", "write_table"]

COLUMNS = ("image", "label", "mask", "group", "split")
TILE = ("x", "y", "width", "height")

_PATHS = ("image", "mask")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")

Record = tuple[str, list[str]]
"""Where a row stands (``line 3``), and its cells."""


def text_column(cells: Iterable[str]) -> pd.Series:
    """Hold texts as they are; pandas' own text type breaks on names that are not UTF-8."""
    import pandas as pd

    return pd.Series(list(cells), dtype=object)


# -- reading ----------------------------------------------------------------------------------


def read_table(path: Path, root: Path) -> pd.DataFrame:
    """Read and check a table of images.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.parquet``.
    root : Path
        Resolved folder that no path may leave.

    Returns
    -------
    DataFrame
        Text cells as they are; tile columns as int.

    Raises
    ------
    ManifestError
        Not a manifest; the line is named.
    UnsafeInputError
        A path leaves ``root``.
    """
    import pandas as pd

    reader = {".csv": _csv_records, ".parquet": _parquet_records}.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            "manifest has an unknown suffix", found=display(path.name), wanted=".csv or .parquet"
        )
    if not path.is_file():
        raise ManifestError("manifest not found", found=display(str(path)))
    records = reader(path)
    header = _header(records)
    places, rows = [], []
    for place, cells in records:
        if len(cells) != len(header):
            found = f"{len(cells)} cells, {place}"
            raise ManifestError("row of another length", found=found, wanted=f"{len(header)} cells")
        places.append(place)
        rows.append(cells)
    if not rows:
        raise ManifestError("manifest has no row", found=display(path.name))
    frame = pd.DataFrame(rows, columns=header, dtype=object)
    return _checked(frame, places, root)


def _header(records: Iterator[Record]) -> list[str]:
    _, cells = next(records, ("", []))
    header = [cell.strip() for cell in cells]
    if "image" not in header:
        close = nearest("image", header)
        remedy = f"rename column {display(close)}" if close else "write a header line"
        found = ", ".join(map(display, header)) or "an empty file"
        raise ManifestError("manifest has no column 'image'", found=found, remedy=remedy)
    twice = {name for name in header if header.count(name) > 1}
    if twice or "" in header:
        found = ", ".join(map(display, sorted(twice))) or "a column without a name"
        raise ManifestError("column names must differ", found=found)
    tiles = [name for name in TILE if name in header]
    if tiles and len(tiles) < len(TILE):
        raise ManifestError("tile columns are incomplete", found=", ".join(tiles), wanted=", ".join(TILE))
    return header


def _csv_records(path: Path) -> Iterator[Record]:
    # A file name need not be UTF-8: its bytes survive as surrogates, which only paths may hold
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield f"line {line}", cells
                line = reader.line_num + 1
        except (csv.Error, OSError) as error:
            raise ManifestError("manifest is not CSV", found=f"{error}, line {line}") from error


def _parquet_records(path: Path) -> Iterator[Record]:
    try:
        table = _pyarrow("pyarrow.parquet").read_table(path)
    except (OSError, ValueError) as error:
        raise ManifestError("manifest is not Parquet", found=display(str(error))) from error
    yield "header", list(table.column_names)
    columns = [column.to_pylist() for column in table.columns]
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        yield f"row {number}", ["" if cell is None else str(cell) for cell in cells]


def _pyarrow(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        remedy = 'pip install "wsss-probe[parquet]", or use CSV'
        raise ManifestError("Parquet needs pyarrow, which is not installed", remedy=remedy) from error


# -- checking ---------------------------------------------------------------------------------


def _checked(frame: pd.DataFrame, places: Sequence[str], root: Path) -> pd.DataFrame:
    for place, cell in zip(places, frame["image"], strict=True):
        if not cell:
            raise ManifestError("row without an image", found=place)
    for name in (name for name in _PATHS if name in frame.columns):
        inside = _Inside(root)
        for place, cell in zip(places, frame[name], strict=True):
            inside.require(cell, place)
    for name in (name for name in frame.columns if name not in _PATHS):
        _require_utf8(frame[name], places, name)
    if "x" in frame.columns:
        frame = frame.assign(**{name: _pixels(frame[name], places, name) for name in TILE})
    _require_distinct(frame, places)
    return frame


def _require_utf8(cells: Iterable[str], places: Sequence[str], name: str) -> None:
    for place, cell in zip(places, cells, strict=True):
        if any("\ud800" <= character <= "\udfff" for character in cell):
            found = f"{display(cell)} in column {display(name)}, {place}"
            raise ManifestError("manifest is not UTF-8", found=found, remedy="save it as UTF-8")


def _pixels(cells: Iterable[str], places: Sequence[str], name: str) -> list[int]:
    smallest = 1 if name in {"width", "height"} else 0
    numbers = []
    for place, cell in zip(places, cells, strict=True):
        number = int(cell) if cell.isascii() and cell.isdecimal() else -1
        if number < smallest:
            found = f"{display(cell)} in column {name}, {place}"
            raise ManifestError(
                "tile is not in pixels", found=found, wanted=f"a whole number from {smallest}"
            )
        numbers.append(number)
    return numbers


def _require_distinct(frame: pd.DataFrame, places: Sequence[str]) -> None:
    keys = ["image", *(TILE if "x" in frame.columns else ())]
    seen: dict[tuple[object, ...], str] = {}
    for place, (image, *box) in zip(places, frame[keys].itertuples(index=False, name=None), strict=True):
        key = (os.path.normpath(image), *box)
        if key in seen:
            found = f"{display(image)}, {seen[key]} and {place}"
            raise ManifestError("image is listed twice", found=found, remedy="remove one of the rows")
        seen[key] = place


def require_inside(root: Path, cell: str, place: str) -> None:
    """Refuse a path that is not a plain relative path below ``root``.

    Raises
    ------
    ManifestError
        An address, an absolute path or a character that paths here cannot hold.
    UnsafeInputError
        The path leaves ``root``, also through a link.
    """
    _Inside(root).require(cell, place)


class _Inside:
    """Checks many paths against one folder; resolves each parent folder once."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._parents: dict[str, bool] = {}

    def require(self, cell: str, place: str) -> None:
        found = f"{display(cell)}, {place}"
        if "\0" in cell:
            raise ManifestError("path holds a NUL character", found=found)
        if _ADDRESS.match(cell):
            raise ManifestError(
                "path is an address", found=found, wanted="a file below the manifest's folder"
            )
        full = os.path.join(self._root, cell)  # noqa: PTH118 pathlib drops what must be seen
        if not self._contains(full):
            remedy = "put the manifest in a folder around its images"
            raise UnsafeInputError("path leaves the folder of the manifest", found=found, remedy=remedy)
        if cell.startswith("/"):
            raise ManifestError("path is absolute", found=found, wanted="relative to the manifest")
        if "\\" in cell and not os.path.lexists(full):
            raise ManifestError("path holds backslashes", found=found, wanted="slashes")

    def _contains(self, full: str) -> bool:
        parent, name = os.path.split(full)
        if parent not in self._parents:
            self._parents[parent] = self._below(os.path.realpath(parent))
        if name in {"", ".", ".."} or os.path.islink(full):  # noqa: PTH114 see above
            return self._below(os.path.realpath(full))
        return self._parents[parent]

    def _below(self, real: str) -> bool:
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")


# -- writing ----------------------------------------------------------------------------------


def write_table(frame: pd.DataFrame, path: Path, sidecar: str | None = None) -> None:
    """Write a table, and TOML text beside it, each at once or not at all.

    Raises
    ------
    UsageError
        The suffix is neither ``.csv`` nor ``.parquet``, or the folder is missing.
    ManifestError
        The TOML file exists and is not a mask declaration.
    """
    writers: dict[str, Callable[[pd.DataFrame, IO[bytes]], None]]
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise UsageError(
            "manifest has an unknown suffix", found=display(path.name), wanted=".csv or .parquet"
        )
    if not path.parent.is_dir():
        raise UsageError("folder of the manifest does not exist", found=display(str(path.parent)))
    if sidecar is not None:
        beside = path.with_suffix(".toml")
        _require_replaceable(beside)
        with replacing(beside) as stream:
            stream.write(sidecar.encode())
    with replacing(path) as stream:
        writer(frame, stream)


def _require_replaceable(path: Path) -> None:
    if not path.exists():
        return
    try:
        tables = set(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        tables = {"something that is not TOML"}
    if tables - {"masks"}:
        found = ", ".join(sorted(tables - {"masks"}))
        remedy = "choose another name for the manifest"
        raise ManifestError(f"{display(path.name)} exists and holds other things", found=found, remedy=remedy)


def _write_csv(frame: pd.DataFrame, stream: IO[bytes]) -> None:
    from io import StringIO

    text = StringIO(newline="")
    # CRLF, as RFC 4180 has it: only then does the writer quote cells that hold a carriage return
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(frame.columns)
    writer.writerows(frame.itertuples(index=False, name=None))
    stream.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _write_parquet(frame: pd.DataFrame, stream: IO[bytes]) -> None:
    columns: dict[str, list[Any]] = {name: frame[name].tolist() for name in frame.columns}
    try:
        table = _pyarrow("pyarrow").table(columns)
    except UnicodeEncodeError as error:
        found = display(str(error.object))
        raise ManifestError("Parquet holds UTF-8 only", found=found, remedy="write CSV") from error
    _pyarrow("pyarrow.parquet").write_table(table, stream)
