"""The channel passport: one row of evidence per channel, joined from the host and every plugin.

runs/vgg16/passport/<layer>.csv     one row per channel, whole precision; the layer's name is escaped
                    <layer>.json    what each column means, its kind, and who said it
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import pandas as pd

from wsss_probe.atomic import write_atomically
from wsss_probe.contracts import Block, ChannelColumn, Gallery, Picture, Section, Table, Text
from wsss_probe.errors import CorruptRunError, PluginError, UsageError
from wsss_probe.names import display
from wsss_probe.report.tables import from_csv, to_csv
from wsss_probe.report.text import number
from wsss_probe.run import read_record
from wsss_probe.schema import check_channel_column, check_channel_columns, escape, unescape

if TYPE_CHECKING:
    from wsss_probe.contracts import ChannelColumns, Run, Survey
    from wsss_probe.host import Offered, PluginHost

__all__ = ["Passport", "evidence_layer", "issue_passports", "join_columns", "read_passport", "write_passport"]

FOLDER: Final = "passport"
OPENED: Final = 24
"""Channels whose row opens pictures."""

EXAMPLES: Final = 3
"""Images that such a row shows."""

_LONGEST_SIDE: Final = 224  # pixels; full size would cost a page more than all of its other pictures
_HOST_ORDER: Final = 80.0
_OURSELVES: Final = "wsss-probe itself"
_CHANNEL: Final = "channel"
_CHANNEL_MEANING: Final = "Position in the layer's output, from 0."


@final
@dataclass(frozen=True, slots=True)
class Passport:
    """What all analyses together say about every channel of one layer.

    Parameters
    ----------
    layer : str
    columns : tuple of ChannelColumn
        Checked, from left to right.
    owners : mapping of str to str
        By column: the distribution that said it.
    """

    layer: str
    columns: tuple[ChannelColumn, ...]
    owners: Mapping[str, str]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per channel, the column ``channel`` first."""
        named: dict[str, Any] = {_CHANNEL: np.arange(len(self.columns[0].values))}
        for column in self.columns:
            named[column.name] = _series(column.values, _kind(column.values))
        return pd.DataFrame(named)

    @property
    def meanings(self) -> dict[str, str]:
        """By column of the frame: what it means."""
        return {_CHANNEL: _CHANNEL_MEANING, **{column.name: column.meaning for column in self.columns}}

    @property
    def lead(self) -> str:
        """Name of the first column of numbers that says anything, by which the report sorts."""
        numeric = [c for c in self.columns if _kind(c.values) in {"integer", "number"}]
        known = (c for c in numeric if not all(math.isnan(value) for value in c.values))
        return next(known, numeric[0]).name


def issue_passports(
    host: PluginHost, offered: Sequence[Offered[ChannelColumns]], run: Run
) -> tuple[Section, ...]:
    """Join the columns of every audited layer with maps, write them into the run, and show them.

    Parameters
    ----------
    host : PluginHost
        Isolates and records what plugins raise.
    offered : sequence of Offered[ChannelColumns]
    run : Run
        Every probe has concluded.

    Returns
    -------
    tuple of Section
        The passport of the evidence layer first; its best channels open pictures.
    """
    evidence = evidence_layer(run.survey)
    layers = [name for name, info in run.survey.layers.items() if info.layout == "maps"]
    sections = []
    for layer in sorted(layers, key=lambda name: name != evidence):
        passport = join_columns(host, offered, run, layer)
        write_passport(run.path, passport)
        sections.append(_section(passport, run, OPENED if layer == evidence else 0))
    return tuple(sections)


def evidence_layer(survey: Survey) -> str:
    """Name the layer that a proved linear head averages, if it is audited, else the last one with maps.

    Parameters
    ----------
    survey : Survey

    Returns
    -------
    str
        Empty when no audited layer has maps.
    """
    layers = [name for name, info in survey.layers.items() if info.layout == "maps"]
    return survey.head.layer if survey.head.layer in layers else layers[-1] if layers else ""


# -- joining -----------------------------------------------------------------------------------


def join_columns(
    host: PluginHost, offered: Sequence[Offered[ChannelColumns]], run: Run, layer: str
) -> Passport:
    """Join what the host and the plugins say about the channels of a layer.

    Parameters
    ----------
    host : PluginHost
        A column that breaks the contract or has the name of another is recorded as its plugin's
        failure and left out; the others stay.
    offered : sequence of Offered[ChannelColumns]
    run : Run
    layer : str

    Returns
    -------
    Passport
    """
    pooled = np.asarray(run.pooled(layer).values, dtype=np.float64)
    joined = list(_own_columns(pooled))
    owners = dict.fromkeys((_CHANNEL, *(column.name for column in joined)), _OURSELVES)
    for provider in offered:
        for column in _asked(host, provider, run, layer):
            with host.guarded("column", provider.origin.offers(column)) as guard:
                if guard.enabled:
                    checked = check_channel_column(column, pooled.shape[1], f"{provider.name} at {layer}")
                    _require_free(column.name, owners, provider)
                    owners[column.name] = str(provider.origin)
                    joined.append(checked)
    return Passport(layer, tuple(sorted(joined, key=lambda column: column.order)), owners)


def _asked(
    host: PluginHost, provider: Offered[ChannelColumns], run: Run, layer: str
) -> tuple[ChannelColumn, ...]:
    """Ask one plugin for its columns; none if it fails."""
    columns: tuple[ChannelColumn, ...] = ()
    with host.guarded("columns", provider) as guard:
        if guard.enabled:
            columns = check_channel_columns(provider.item.columns(run, layer), provider.name)
    return columns


def _require_free(name: str, owners: Mapping[str, str], provider: Offered[ChannelColumns]) -> None:
    if name in owners:
        msg = f"two plugins offer the passport column {name!r}"
        found = f"{owners[name]} and {provider.origin}"
        raise PluginError(msg, found=found, wanted="one", remedy="leave one out with --no-plugin")


def _own_columns(pooled: np.ndarray) -> Iterator[ChannelColumn]:
    """Say how active a channel is, and how much that varies over images, (image, channel)."""
    known = np.isfinite(pooled)
    count = known.sum(axis=0)
    values = np.where(known, pooled, 0.0)
    divisor = np.maximum(count, 1)
    mean = np.where(count > 0, values.sum(axis=0) / divisor, np.nan)
    squares = np.where(known, (values - np.nan_to_num(mean)) ** 2, 0.0).sum(axis=0) / divisor
    spread = np.where(count > 0, np.sqrt(squares), np.nan)
    over = f"over n = {int(count.max(initial=0))} readable images"
    unit = "in units of the layer's output; it says how active, not what for: no control."
    yield ChannelColumn(
        "mean activation", mean.tolist(), f"Mean {over} of the map's spatial mean, {unit}", _HOST_ORDER
    )
    yield ChannelColumn(
        "sd of activation",
        spread.tolist(),
        f"Standard deviation {over} of the map's spatial mean, {unit} 0: no image moves the channel.",
        _HOST_ORDER,
    )


# -- the files ---------------------------------------------------------------------------------


def _kind(values: Sequence[Any]) -> str:
    """Say what a checked column holds: integer, number, flag or text."""
    if any(isinstance(value, str) for value in values):
        return "text"
    if any(isinstance(value, bool) for value in values):
        return "flag"
    return "integer" if values and all(isinstance(value, int) for value in values) else "number"


def _series(values: Sequence[Any], kind: str) -> pd.Series:
    """Make a column of a frame; undefined among truth values keeps them as objects."""
    complete = not any(isinstance(value, float) and math.isnan(value) for value in values)
    kinds = {"integer": None, "number": np.float64, "flag": bool if complete else object, "text": object}
    return pd.Series(list(values), dtype=kinds[kind])


def write_passport(folder: Path, passport: Passport) -> None:
    """Write the table and, beside it, what its columns mean.

    Parameters
    ----------
    folder : Path
        Run folder.
    passport : Passport
    """
    frame, meanings = passport.frame, passport.meanings
    kinds = {_CHANNEL: "integer", **{column.name: _kind(column.values) for column in passport.columns}}
    described = [
        {"name": name, "kind": kinds[name], "meaning": meanings[name], "from": passport.owners[name]}
        for name in frame.columns
    ]
    text, _ = to_csv(frame, sys.maxsize)
    write_atomically(_path(folder, passport.layer, "csv"), text)
    stored = json.dumps({"layer": passport.layer, "columns": described}, indent=1)
    write_atomically(_path(folder, passport.layer, "json"), stored)


def _path(folder: Path, layer: str, kind: str) -> Path:
    return folder / FOLDER / f"{escape(layer)}.{kind}"


def read_passport(folder: str | Path, layer: str) -> pd.DataFrame:
    """Read the channel passport of a layer from a finished run.

    Parameters
    ----------
    folder : str or Path
        Run folder.
    layer : str

    Returns
    -------
    DataFrame
        One row per channel; ``attrs["meanings"]`` and ``attrs["from"]`` say by column what it means
        and which distribution said it.

    Raises
    ------
    UsageError
        When ``folder`` is no finished run or has no passport of this layer.
    CorruptRunError
        When the passport cannot be read.
    """
    run = Path(folder)
    read_record(run)
    table, description = (_path(run, layer, kind) for kind in ("csv", "json"))
    if not table.is_file():
        known = ", ".join(sorted(unescape(path.stem) for path in (run / FOLDER).glob("*.csv")))
        msg = f"'{run}' has no channel passport of this layer"
        raise UsageError(msg, found=layer, wanted=known or "a run with audited layers that have maps")
    try:
        columns = json.loads(description.read_text(encoding="utf-8"))["columns"]
        with table.open(encoding="utf-8", newline="") as stream:
            _, *rows = csv.reader(stream)
        cells = zip(*rows, strict=True)
        named = {c["name"]: _read_cells(cell, c["kind"]) for c, cell in zip(columns, cells, strict=True)}
        attrs = {what: {c["name"]: c[key] for c in columns} for what, key in _ATTRS.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"'{table}' cannot be read"
        raise CorruptRunError(msg, found=str(error), remedy="delete the run and audit again") from error
    frame = pd.DataFrame(named)
    frame.attrs = attrs
    return frame


_ATTRS: Final = {"meanings": "meaning", "from": "from"}


def _read_cells(cells: Sequence[str], kind: str) -> pd.Series:
    """Turn texts of the CSV back into what was written."""
    readers: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "number": lambda cell: float(cell or "nan"),
        "flag": lambda cell: {"True": True, "False": False, "": math.nan}[cell],
        "text": from_csv,
    }
    read = readers[kind]
    return _series([read(cell) for cell in cells], kind)


# -- the report --------------------------------------------------------------------------------


def _section(passport: Passport, run: Run, opened: int) -> Section:
    """Show a passport, the best channels of its leading column first."""
    frame, lead = passport.frame, passport.lead
    order = frame[lead].sort_values(ascending=False, kind="stable", na_position="last").index.to_numpy()
    pooled = np.asarray(run.pooled(passport.layer).values, dtype=np.float64)
    chosen = [channel for channel in order if _moves(pooled[:, channel])][:opened]
    shown = frame.loc[[*chosen, *(channel for channel in order if channel not in set(chosen))]]
    galleries = _galleries(run, passport.layer, {int(c): _strongest(pooled[:, c]) for c in chosen})
    table = Table(shown, _caption(passport, pooled, len(chosen)), galleries, passport.meanings)
    blocks: tuple[Block, ...] = (table,)
    if run.not_testable:
        note = "Not testable here: {}. The numbers describe this network; no conclusion rests on them."
        blocks = (Text(note.format(run.not_testable.rstrip("."))), table)
    return Section("channels", f"Channel passport of {display(passport.layer)}", blocks)


def _caption(passport: Passport, pooled: np.ndarray, opened: int) -> str:
    readable = int(np.isfinite(pooled).any(axis=1).sum())
    file = f"{FOLDER}/{escape(passport.layer)}.csv"
    pictures = (
        f" The first {opened} rows open the {EXAMPLES} images with the largest mean of that channel: chosen "
        "by activation, so they say what drives it and prove nothing."
        if opened
        else ""
    )
    return (
        f"One row per channel ({pooled.shape[1]}), from n = {readable} readable images, sorted by "
        f"{display(passport.lead)}, largest first.{pictures} The best of many channels is good by luck "
        "as well; each column names its control, where it has one. – is undefined. "
        f"All digits: {file} in the run folder."
    )


def _moves(pooled: np.ndarray) -> bool:
    """Whether a channel answers images at all, so that some move it more than others."""
    known = pooled[np.isfinite(pooled)]
    return bool(len(known)) and bool(known.max() > known.min() or len(known) == 1)


def _strongest(pooled: np.ndarray) -> dict[int, float]:
    """Find the images with the largest mean of a channel, and that mean."""
    order = [int(i) for i in np.argsort(-pooled, kind="stable")[:EXAMPLES] if np.isfinite(pooled[i])]
    return {index: float(pooled[index]) for index in order}


def _galleries(run: Run, layer: str, examples: Mapping[int, Mapping[int, float]]) -> dict[int, Gallery]:
    """Make the pictures that rows open, by position; each image goes through the network once."""
    channels: dict[int, dict[int, float]] = {}
    for channel, means in examples.items():
        for index, mean in means.items():
            channels.setdefault(index, {})[channel] = mean
    seen: dict[tuple[int, int], Picture] = {}
    for index, means in channels.items():
        seen |= _pictures(run, layer, index, means)
    return {
        at: Gallery(((f"channel {channel}", tuple(seen[channel, index] for index in chosen)),), "")
        for at, (channel, chosen) in enumerate(examples.items())
    }


def _pictures(run: Run, layer: str, index: int, means: Mapping[int, float]) -> dict[tuple[int, int], Picture]:
    """Lay the maps of some channels over one image."""
    pixels, mask, maps = run.picture(index), run.mask(index), run.activations(index, layer)
    name = str(run.images["name"].iloc[index])
    plain = Picture(_smaller(pixels), name, outline=None if mask is None else mask >= 0)
    return {
        (channel, index): replace(
            plain,
            label=f"{name}, mean {number(mean)}",
            overlay=None if maps is None else maps[channel].copy(),  # a view would keep all maps alive
        )
        for channel, mean in means.items()
    }


def _smaller(pixels: np.ndarray | None) -> np.ndarray | None:
    """Make a picture small enough that a page can hold one for every row that opens."""
    if pixels is None or max(pixels.shape[:2]) <= _LONGEST_SIDE:
        return pixels
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
