"""The encoded form of a document: plain frozen values, everything ready to be shown.

Texts hold no invisible character, numbers are written out, pictures are data URIs that stand
once in an album and are named by their position. This is what a stored report holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from wsss_probe.contracts import Question, Verdict  # noqa: TC001 - pydantic reads the annotations

__all__ = [
    "EncodedBlock",
    "EncodedCard",
    "EncodedDocument",
    "EncodedFact",
    "EncodedFigure",
    "EncodedFinding",
    "EncodedGallery",
    "EncodedPicture",
    "EncodedRow",
    "EncodedSection",
    "EncodedTable",
    "EncodedText",
]

DataUri = Annotated[str, StringConstraints(pattern=r"\Adata:image/(png|webp);base64,[A-Za-z0-9+/]+=*\z")]
"""A picture in the page itself; a stored report can name no other."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Markdown, not yet HTML: it is cleaned each time that a page is made."""

    markdown: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """One picture: layers are positions in the document's album, None where there is none.

    ``common`` is the overlay once more, on the scale that its maps share; ``coarsened`` says that the map
    is finer than it is drawn.
    """

    label: str
    alt: str
    width: int
    height: int
    base: int | None = None
    overlay: int | None = None
    outline: int | None = None
    scale: Literal["", "sequential", "diverging"] = ""
    extent: str = ""
    note: str = ""
    common: int | None = None
    common_scale: Literal["", "sequential", "diverging"] = ""
    common_extent: str = ""
    coarsened: bool = False


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A titled row of pictures."""

    title: str
    pictures: tuple[EncodedPicture, ...]


@dataclass(frozen=True, slots=True)
class EncodedGallery:
    """Rows of pictures."""

    caption: str
    rows: tuple[EncodedRow, ...]
    notes: tuple[str, ...] = ()
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """Cells as shown; ``order`` holds what numeric cells are sorted by, None for texts.

    ``meanings`` has a text for every column, or none at all; ``details`` holds pictures that a row
    opens, with the row's position.
    """

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    order: tuple[tuple[float | None, ...], ...]
    total: int
    csv: str
    notes: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()
    details: tuple[tuple[int, EncodedGallery], ...] = ()
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class EncodedFigure:
    """A plotly figure of JSON values, with its numbers as a table where the plugin gave them."""

    figure: dict[str, Any]
    caption: str
    definition: str
    height: int
    numbers: EncodedTable | None = None
    notes: tuple[str, ...] = ()
    kind: Literal["figure"] = "figure"


EncodedBlock = EncodedText | EncodedTable | EncodedFigure | EncodedGallery


@dataclass(frozen=True, slots=True)
class EncodedSection:
    """A section with its encoded blocks."""

    question: Question
    title: str
    blocks: tuple[Annotated[EncodedBlock, Field(discriminator="kind")], ...]


@dataclass(frozen=True, slots=True)
class EncodedFinding:
    """A finding with its numbers written out; empty texts where there is nothing to say."""

    plugin: str
    name: str
    verdict: Verdict
    statement: str
    effect: str
    unit: str
    interval: str
    size: str
    control: str


@dataclass(frozen=True, slots=True)
class EncodedCard:
    """A definition card and the plugin that it came from."""

    plugin: str
    title: str
    formula: str
    symbols: str
    paper: str
    invariances: tuple[str, ...]
    misleads: str
    bibtex: str


@dataclass(frozen=True, slots=True)
class EncodedFact:
    """One line of provenance."""

    group: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A whole report but for the page around it."""

    title: str
    subtitle: str
    findings: tuple[EncodedFinding, ...]
    sections: tuple[EncodedSection, ...]
    cards: tuple[EncodedCard, ...] = ()
    provenance: tuple[EncodedFact, ...] = ()
    album: tuple[DataUri, ...] = ()
    notes: tuple[str, ...] = field(default=())
    format: Literal["wsss-probe report 1"] = "wsss-probe report 1"
