"""What is given up when a report is too large: first precision of pictures, last the pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wsss_probe.report.encoded import (
    EncodedBlock,
    EncodedDocument,
    EncodedFigure,
    EncodedGallery,
    EncodedPicture,
    EncodedTable,
)
from wsss_probe.report.pictures import shrink
from wsss_probe.report.plots import thin

__all__ = ["STEPS", "Step", "degrade", "positions_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """One size of a report: limits that hold for all of it.

    Parameters
    ----------
    side, quality : int
        Longest side of a photograph in pixels, and its WebP quality.
    rows : int
        Rows of each gallery, and rows of each table that open pictures.
    points : int
        Points of each figure.
    csv : int
        Bytes of each CSV; a longer one is not offered.
    lines : int
        Rows of each table.
    """

    side: int
    quality: int
    rows: int
    points: int
    csv: int
    lines: int = 10_000


STEPS = (
    Step(512, 85, 1_000, 20_000, 2_000_000),
    Step(224, 75, 40, 20_000, 2_000_000),
    Step(160, 65, 24, 10_000, 500_000, 1_000),
    Step(112, 55, 12, 5_000, 200_000, 500),
    Step(80, 45, 6, 2_000, 50_000, 200),
    Step(64, 35, 0, 1_000, 0, 50),
)
"""Tried in this order until the report fits."""


def degrade(document: EncodedDocument, step: Step, budget_bytes: int) -> EncodedDocument:
    """Make a document smaller; every loss is noted where it shows.

    Parameters
    ----------
    document : EncodedDocument
        As it was encoded at first; steps are not applied one upon another.
    step : Step
    budget_bytes : int
        Named in the document's note.

    Returns
    -------
    EncodedDocument
    """
    sections = tuple(
        replace(section, blocks=tuple(_smaller(block, step) for block in section.blocks))
        for section in document.sections
    )
    kept = sorted({at for section in sections for block in section.blocks for at in positions_of(block)})
    positions = {old: new for new, old in enumerate(kept)}
    note = f"Parts were reduced to keep this file below {budget_bytes / 1e6:.3g} MB; notes say which."
    moved = tuple(
        replace(section, blocks=tuple(_moved(block, positions) for block in section.blocks))
        for section in sections
    )
    album = tuple(shrink(document.album[old], step.side, step.quality) for old in kept)
    return replace(document, sections=moved, album=album, notes=(*document.notes, note))


def positions_of(block: EncodedBlock) -> set[int]:
    """Positions in the album that a block shows."""
    pictures = [picture for gallery in _galleries(block) for row in gallery.rows for picture in row.pictures]
    return {at for p in pictures for at in _layers(p).values() if at is not None}


def _galleries(block: EncodedBlock) -> tuple[EncodedGallery, ...]:
    """Galleries in a block: itself, or those that the rows of a table open."""
    if isinstance(block, EncodedTable):
        return tuple(gallery for _, gallery in block.details)
    return (block,) if isinstance(block, EncodedGallery) else ()


def _moved(block: EncodedBlock, positions: dict[int, int]) -> EncodedBlock:
    if isinstance(block, EncodedTable):
        details = tuple((row, _moved_gallery(gallery, positions)) for row, gallery in block.details)
        return replace(block, details=details)
    return _moved_gallery(block, positions) if isinstance(block, EncodedGallery) else block


def _moved_gallery(block: EncodedGallery, positions: dict[int, int]) -> EncodedGallery:
    rows = tuple(
        replace(row, pictures=tuple(_moved_picture(picture, positions) for picture in row.pictures))
        for row in block.rows
    )
    return replace(block, rows=rows)


def _moved_picture(picture: EncodedPicture, positions: dict[int, int]) -> EncodedPicture:
    layers = {name: None if at is None else positions[at] for name, at in _layers(picture).items()}
    return replace(picture, **layers)  # type: ignore[arg-type]  # all of them are int or None


def _layers(picture: EncodedPicture) -> dict[str, int | None]:
    """Positions in the album of all that lies on top of each other in a picture."""
    return {
        "base": picture.base,
        "overlay": picture.overlay,
        "common": picture.common,
        "outline": picture.outline,
    }


def _smaller(block: EncodedBlock, step: Step) -> EncodedBlock:
    match block:
        case EncodedGallery():
            return _smaller_gallery(block, step)
        case EncodedFigure():
            return _smaller_figure(block, step)
        case EncodedTable():
            return _smaller_table(block, step)
        case _:
            return block


def _smaller_gallery(gallery: EncodedGallery, step: Step) -> EncodedGallery:
    notes = [f"Pictures are compressed, at most {step.side} pixels a side, to keep this file small."]
    if len(gallery.rows) > step.rows:
        notes.append(f"{step.rows} of {len(gallery.rows)} rows are shown, to keep this file small.")
    return replace(gallery, rows=gallery.rows[: step.rows], notes=(*gallery.notes, *notes))


def _smaller_figure(figure: EncodedFigure, step: Step) -> EncodedFigure:
    drawn, note = thin(figure, step.points)
    numbers = None if figure.numbers is None else _smaller_table(figure.numbers, step)
    return replace(figure, figure=drawn, numbers=numbers, notes=(*figure.notes, *([note] if note else [])))


def _smaller_table(table: EncodedTable, step: Step) -> EncodedTable:
    """Cut the CSV, the rows, and how many of them open pictures; each with a note."""
    kept = tuple((row, gallery) for row, gallery in table.details if row < step.lines)[: step.rows]
    notes = []
    if table.csv and len(table.csv) > step.csv:
        notes.append("The CSV is left out, to keep this file small.")
    if len(table.rows) > step.lines:
        notes.append(f"{step.lines} of {table.total} rows are shown, to keep this file small.")
    if len(kept) < len(table.details):
        notes.append(
            f"{len(kept)} of {len(table.details)} rows open their pictures, to keep this file small."
        )
    if kept:
        notes.append(f"Pictures are compressed, at most {step.side} pixels a side, to keep this file small.")
    return replace(
        table,
        csv="" if len(table.csv) > step.csv else table.csv,
        rows=table.rows[: step.lines],
        order=table.order[: step.lines],
        details=kept,
        notes=(*table.notes, *notes),
    )
