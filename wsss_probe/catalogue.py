"""The command ``concepts``: what can be measured in images and, if asked, its values as a table."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import xarray as xr

    from wsss_probe.config import AuditOptions
    from wsss_probe.host import PluginHost
    from wsss_probe.images import ManifestSource
    from wsss_probe.measuring import Measuring

__all__ = ["show_concepts"]

_SHARD = 64


def show_concepts(
    options: AuditOptions,
    host: PluginHost,
    out: str,
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> None:
    """Print what can be measured; with ``out`` measure it, one row per image, and write a CSV file.

    Parameters
    ----------
    options : AuditOptions
        Without images every measure is listed.
    host : PluginHost
    out : str
        Empty for no file.
    progress : callable
        See :func:`wsss_probe.auditing.perform`.

    Raises
    ------
    UsageError
        ``out`` without images, or a file that is there already.
    """
    if not (options.images or options.manifest):
        if out:
            msg = "nothing to measure"
            raise UsageError(msg, remedy="give --images FOLDER or --manifest FILE")
        _print(("measure", "title", "in every audit"), _offered(host))
        return
    if out and Path(out).exists():
        msg = f"'{out}' exists"
        raise UsageError(msg, remedy="give another --out, or delete it")
    from wsss_probe.matching import match_measures

    source = _source(options)
    measures = match_measures(host, options.measures, options.concepts, source.masks)
    _print(("concept", "unit", "meaning"), _named(measures))
    if out:
        _write(out, source, _measured(options, host, (source, measures), progress))


def _offered(host: PluginHost) -> list[tuple[str, ...]]:
    items = [offered.item for offered in host.collect_concept_measures()]
    return [(item.name, item.card.title, "yes" if item.default else "asked for") for item in items]


def _named(measures: Sequence[Measuring]) -> list[tuple[str, ...]]:
    return [
        (f"{own.offered.name}/{concept.name}", concept.unit, concept.meaning)
        for own in measures
        for concept in own.concepts
    ]


def _print(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        # rich would turn the tabs, at which other programs cut, into blanks
        sys.stdout.writelines("\t".join(row) + "\n" for row in (headings, *rows))
        return
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _source(options: AuditOptions) -> ManifestSource:
    """Images at the size that is asked for, else at their own."""
    from wsss_probe.images import ManifestSource, Preprocessing
    from wsss_probe.preparation import read_images

    return ManifestSource(read_images(options), Preprocessing.parse(options.preprocess or "unit"))


def _measured(
    options: AuditOptions,
    host: PluginHost,
    what: tuple[ManifestSource, tuple[Measuring, ...]],
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> xr.Dataset:
    from wsss_probe.concepts import read_concepts
    from wsss_probe.measuring import MeasureTask, measure_concepts
    from wsss_probe.store import Store

    source, measures = what
    store = Store(None, len(source), _SHARD, "")
    names = source.masks.names if source.masks else ()
    task = MeasureTask(measures, source, names, store, host, options.processes)
    with progress("concepts", len(source)) as advance:
        measure_concepts(task, advance)
    return read_concepts(store, source.manifest.frame)


def _write(out: str, source: ManifestSource, concepts: xr.Dataset) -> None:
    """Write one row per image; what is undefined is left empty."""
    from wsss_probe.atomic import write_atomically

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", *concepts["concept"].values])
    for image, row in zip(source.manifest.frame["image"], concepts["value"].values, strict=True):
        writer.writerow([image, *("" if value != value else repr(float(value)) for value in row)])  # noqa: PLR0124
    write_atomically(Path(out), text.getvalue())
