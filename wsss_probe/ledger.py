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

__all__ = ["ledger_sections", "masks_consumed", "read_choices", "write_choices"]

_FILE = "choices.json"


def write_choices(folder: Path, choices: Sequence[tuple[str, Choice]]) -> None:
    """Write ``choices.json`` of a run.

    Parameters
    ----------
    folder : Path
    choices : sequence of (str, Choice)
        With the plugin that made each.
    """
    # many choices are made on the same images: each seal is written once
    seals = list(dict.fromkeys(choice.seal for _, choice in choices))
    rows = [
        {"plugin": plugin, **asdict(choice), "seal": seals.index(choice.seal)} for plugin, choice in choices
    ]
    kept = {"seals": [sorted(seal) for seal in seals], "choices": rows}
    write_atomically(folder / _FILE, json.dumps(kept, indent=1))


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
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seals = [frozenset(map(str, seal)) for seal in kept["seals"]]
        return [(row.pop("plugin"), Choice(**{**row, "seal": seals[row["seal"]]})) for row in kept["choices"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        msg = f"'{path}' holds no choices"
        raise CorruptRunError(msg, found=str(error), remedy="run the audit again") from error


def masks_consumed(choices: Sequence[tuple[str, Choice]]) -> int:
    """Count the masks that choices were made on; masks that several were made on count once.

    Parameters
    ----------
    choices : sequence of (str, Choice)
        With the plugin.

    Returns
    -------
    int
        Exact where choices were made on the same images or on quite different ones, and wherever every
        image that was chosen on has a mask; else an upper bound.
    """
    looked = [choice for _, choice in choices if choice.masks]
    largest: dict[frozenset[str], int] = {}
    for choice in looked:
        largest[choice.seal] = max(largest.get(choice.seal, 0), choice.masks)
    images = {digest for seal in largest for digest in seal if digest.startswith("content:")}
    total = sum(largest.values())
    return min(total, len(images)) if images else total


_COLUMNS = (
    ("plugin", "what made the choice"),
    ("chosen", "what was chosen"),
    ("value", "the winner"),
    ("out of", "candidates"),
    ("by", "what the candidates were compared by"),
    ("score where it was chosen", "of the winner, on the images it was chosen on: optimistic"),
    ("on", "which images"),
    ("images", "images that it was chosen on"),
    ("masks consumed", "masks that it was chosen with"),
    ("groups", "independent groups among these images; images where there are no groups"),
    ("scored on the same images", "yes where somebody asked for it; such a score is optimistic"),
)


def ledger_sections(choices: Sequence[tuple[str, Choice]]) -> tuple[Section, ...]:
    """List every choice and the masks that it consumed; nothing where nothing was chosen."""
    if not choices:
        return ()
    rows = [(plugin, *_cells(choice)) for plugin, choice in choices]
    consumed = masks_consumed(choices)
    caption = (
        f"Everything that was chosen by its score: {len(choices)} choices, which consumed {consumed} masks. "
        "The score where it was chosen is optimistic; conclusions rest on other images, which share no group "
        "and no file with these."
    )
    frame = pd.DataFrame(rows, columns=[name for name, _ in _COLUMNS])
    table = Table(frame, caption, meanings=dict(_COLUMNS))
    return (Section("how", "Choices and the masks they consumed", (table,)),)


def _cells(choice: Choice) -> tuple[object, ...]:
    return (
        choice.what,
        str(choice.value),
        choice.candidates,
        choice.measure,
        choice.score,
        choice.split,
        choice.images,
        choice.masks,
        choice.groups,
        "yes" if choice.reopened else "no",
    )
