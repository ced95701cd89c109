"""Images found in a folder, with what the layout of the folder says about them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wsss_probe.decoding import SUFFIXES
from wsss_probe.errors import ManifestError, NothingToDoError, UsageError
from wsss_probe.names import display, natural_order

__all__ = ["find_rows"]

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})

Row = dict[str, str]


def find_rows(folder: Path, pattern: str | None = None) -> list[Row]:
    """List the images of a folder, naturally sorted, one row of cells each.

    ``images/`` beside ``masks/`` pairs files by their path without suffix; a folder around images
    is their label; a folder ``train``, ``val`` or ``test`` at the top is their split. Hidden files
    and folders are passed over, links to folders are not followed.

    Parameters
    ----------
    folder : Path
    pattern : str, optional
        Regular expression searched in each file name; its named groups become columns.

    Returns
    -------
    list of dict
        Column name to cell.

    Raises
    ------
    NothingToDoError
        No image.
    UsageError
        The folder or the pattern cannot be meant.
    ManifestError
        Two masks for one image.
    """
    if not folder.is_dir():
        raise UsageError(f"{display(str(folder))} is not a folder of images")
    expression = _compiled(pattern)
    paths = sorted(_images(folder), key=natural_order)
    paired = (folder / "images").is_dir()
    masks = _masks(paths) if paired else {}
    rows = [_row(path, paired, masks) for path in paths if not paired or path.startswith("images/")]
    if not rows:
        wanted = f"files that end in {', '.join(sorted(SUFFIXES))}"
        raise NothingToDoError(f"no image in {display(str(folder))}", wanted=wanted)
    if expression is not None:
        _apply(expression, rows)
    return rows


def _images(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name).relative_to(folder).as_posix()


def _masks(paths: list[str]) -> dict[str, str]:
    masks: dict[str, str] = {}
    for path in paths:
        if path.startswith("masks/"):
            key = _stem(path)
            if key in masks:
                found = f"{display(masks[key])} and {display(path)}"
                raise ManifestError("two masks for one image", found=found, remedy="remove one of them")
            masks[key] = path
    return masks


def _stem(path: str) -> str:
    return str(PurePosixPath(*PurePosixPath(path).parts[1:]).with_suffix(""))


def _row(path: str, paired: bool, masks: dict[str, str]) -> Row:
    around = list(PurePosixPath(path).parts[paired:-1])
    split = around.pop(0) if around and around[0].lower() in _SPLITS else ""
    label = around[0] if around else ""
    return {
        "image": path,
        "label": label,
        "mask": masks.get(_stem(path), "") if paired else "",
        "split": split,
    }


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError("pattern is not a regular expression", found=f"{pattern} ({error})") from error
    taken = sorted({"image", "x", "y", "width", "height"} & expression.groupindex.keys())
    if taken or not expression.groupindex:
        wanted = "named groups such as (?P<label>[a-z]+)_(?P<group>[0-9]+)"
        raise UsageError("pattern names no usable column", found=", ".join(taken) or pattern, wanted=wanted)
    return expression


def _apply(expression: re.Pattern[str], rows: list[Row]) -> None:
    found = [expression.search(PurePosixPath(row["image"]).name) for row in rows]
    if not any(found):
        example = display(PurePosixPath(rows[0]["image"]).name)
        raise UsageError(
            "pattern matches no file name", found=expression.pattern, wanted=f"a match in {example}"
        )
    for row, match in zip(rows, found, strict=True):
        cells = match.groupdict() if match else dict.fromkeys(expression.groupindex)
        row.update({name: cell or "" for name, cell in cells.items()})
