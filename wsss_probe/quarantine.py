"""Images that count nowhere: which, why, and when they are too many."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import ExitCode, ProbeError
from wsss_probe.names import display

if TYPE_CHECKING:
    import pandas as pd

    from wsss_probe.preparation import Prepared
    from wsss_probe.store import LedgerLine, Store

__all__ = ["check_quarantine", "described_images", "noted", "record_images", "unreadable_images"]

_FEW: Final = 5
"""So many bad images stop no audit, however few there are in all."""


def unreadable_images(lines: Sequence[LedgerLine]) -> dict[int, str]:
    """Reasons by image why it could not be read.

    Parameters
    ----------
    lines : sequence of LedgerLine

    Returns
    -------
    dict of int to str
    """
    first = [line for line in lines if line.stage == "0"]
    return {int(key): why for line in first for key, why in line.unreadable.items() if key.isdecimal()}


def noted(what: str, lines: Sequence[LedgerLine]) -> dict[int, str]:
    """Reasons by image why its ``mask``, or the network's ``output`` for it, counts nowhere.

    Parameters
    ----------
    what : {"mask", "output"}
    lines : sequence of LedgerLine

    Returns
    -------
    dict of int to str
    """
    first = [line for line in lines if line.stage == "0"]
    pairs = [(key.partition(":"), why) for line in first for key, why in line.unreadable.items()]
    return {int(index): why for (kind, _, index), why in pairs if kind == what}


def described_images(prepared: Prepared, lines: Sequence[LedgerLine]) -> pd.DataFrame:
    """Manifest with the columns ``readable`` and ``name``, as :attr:`wsss_probe.contracts.Run.images`.

    Parameters
    ----------
    prepared : Prepared
    lines : sequence of LedgerLine

    Returns
    -------
    DataFrame
    """
    frame = prepared.subject.manifest.frame.copy()
    frame["readable"] = ~frame.index.isin(list(unreadable_images(lines)))
    frame["name"] = [display(str(path)) for path in frame["image"]]
    if prepared.subject.manifest.tiled:
        frame["name"] += [f" at {x}, {y}" for x, y in zip(frame["x"], frame["y"], strict=True)]
    return frame


def record_images(prepared: Prepared, store: Store, lines: Sequence[LedgerLine]) -> None:
    """Write the manifest into the run, so that its tables can be read without any other file."""
    import xarray as xr

    frame = described_images(prepared, lines)
    columns = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        plain = values if values.dtype.kind in "bif" else np.array([_text(v) for v in values], dtype=object)
        columns["path" if name == "image" else str(name)] = ("image", plain)
    store.write_static("images", xr.Dataset(columns))
    store.write_coordinate("image", np.arange(len(frame)))


def _text(value: object) -> str:
    """Text that UTF-8 can hold; file names may hold bytes that it cannot."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def check_quarantine(prepared: Prepared, folder: Path, lines: Sequence[LedgerLine]) -> None:
    """Write ``quarantine.csv``; stop when too many images are unreadable.

    Parameters
    ----------
    prepared : Prepared
    folder : Path
    lines : sequence of LedgerLine

    Raises
    ------
    ProbeError
        With exit code 6.
    """
    bad = unreadable_images(lines)
    names = prepared.subject.manifest.frame["image"]
    rows = [("image", "unreadable", i, why) for i, why in sorted(bad.items())]
    rows += [("mask", "refused", i, why) for i, why in sorted(noted("mask", lines).items())]
    rows += [("output", "not finite", i, why) for i, why in sorted(noted("output", lines).items())]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["index", "image", "what", "reason"])
    writer.writerows([i, _text(names.iloc[i]), f"{what} {state}", _text(why)] for what, state, i, why in rows)
    write_atomically(folder / "quarantine.csv", text.getvalue())
    limit = max(_FEW, prepared.options.max_bad_fraction * len(names))
    if len(bad) > limit or len(bad) == len(names):
        msg = "too many images cannot be read"
        error = ProbeError(
            msg,
            found=f"{len(bad)} of {len(names)}, the first: {next(iter(bad.values()))}",
            wanted=f"at most {int(limit)}",
            remedy=f"see {folder / 'quarantine.csv'}, or raise --max-bad-fraction",
        )
        error.exit_code = ExitCode.WITH_FAILURES
        raise error
