"""The ledger of choices: what was chosen by score, on which images, and how many masks it consumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from wsss_probe.atomic import write_atomically
from wsss_probe.contracts import Choice, Section, Table
from wsss_probe.errors import CorruptRunError

__all__ = ["ledger_sections", "read_choices", "write_choices"]

_FILE = "choices.json"


def write_choices(folder: Path, choices: Sequence[tuple[str, Choice]]) -> None:
    """Write ``choices.json`` of a run.

    Parameters
    ----------
    folder : Path
    choices : sequence of (str, Choice)
        With the plugin that made each.
    """
    rows = [{"plugin": plugin, **asdict(choice), "seal": sorted(choice.seal)} for plugin, choice in choices]
    write_atomically(folder / _FILE, json.dumps(rows, indent=2))


def read_choices(folder: Path) -> list[tuple[str, Choice]]:
    """Read the choices of a run, to use one on other images.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of (str, Choice)
        With the plugin; empty for a run that chose nothing.

    Raises
    ------
    CorruptRunError
        When the file cannot be read as choices.
    """
    path = Path(folder) / _FILE
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [(row.pop("plugin"), Choice(**{**row, "seal": frozenset(row["seal"])})) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' holds no choices"
        raise CorruptRunError(msg, found=str(error), remedy="run the audit again") from error


def ledger_sections(choices: Sequence[tuple[str, Choice]]) -> tuple[Section, ...]:
    """List every choice and the masks that it consumed; nothing where nothing was chosen."""
    if not choices:
        return ()
    frame = pd.DataFrame(
        [
            (
                plugin,
                c.what,
                str(c.value),
                c.candidates,
                c.measure,
                c.score,
                c.split,
                c.images,
                c.masks,
                c.groups,
                "yes" if c.reopened else "no",
            )
            for plugin, c in choices
        ],
        columns=[
            "plugin",
            "chosen",
            "value",
            "out of",
            "by",
            "score where it was chosen",
            "on",
            "images",
            "masks consumed",
            "groups",
            "scored on the same images",
        ],
    )
    caption = (
        "Everything that was chosen by its score, and the images that it is sealed against. The score where "
        "it was chosen is optimistic; conclusions rest on other images."
    )
    return (Section("how", "Choices and the masks they consumed", (Table(frame, caption),)),)
