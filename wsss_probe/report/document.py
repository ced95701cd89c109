"""A report as a value, as a stored text and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import TypeAdapter, ValidationError

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import CorruptRunError, UsageError
from wsss_probe.report.budget import positions_of
from wsss_probe.report.encoded import EncodedDocument
from wsss_probe.report.page import fit
from wsss_probe.report.pictures import Album
from wsss_probe.report.sections import QUESTIONS, encode_card, encode_facts, encode_findings, encode_section
from wsss_probe.report.text import one_line, visible

if TYPE_CHECKING:
    from wsss_probe.contracts import DefinitionCard, Finding, Section

__all__ = ["BUDGET_BYTES", "Document", "dumps", "encode", "loads", "render", "write"]

BUDGET_BYTES = 15_000_000
"""Size that a report keeps to by giving up precision of its pictures, with notes."""


@final
@dataclass(frozen=True, slots=True)
class Document:
    """Everything that a report shows.

    Parameters
    ----------
    title, subtitle : str
        Plain text.
    findings : tuple of (str, Finding)
        Each with the name of its plugin; the report orders them, gravest first.
    sections : tuple of Section
        The report orders them by their question, otherwise they stay in the order given.
    cards : tuple of (str, DefinitionCard)
        Definitions of the methods that ran, each with the name of its plugin.
    provenance : mapping
        What made the report: versions, hashes, times, commands; one level of grouping. The only
        place for anything that differs between two equal runs.
    """

    title: str
    subtitle: str
    findings: tuple[tuple[str, Finding], ...]
    sections: tuple[Section, ...]
    cards: tuple[tuple[str, DefinitionCard], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def encode(document: Document) -> EncodedDocument:
    """Turn frames, arrays and pixels into plain values, sections in the order of the questions."""
    album = Album()
    order = list(QUESTIONS)
    sections = sorted(document.sections, key=lambda section: order.index(section.question))
    encoded = tuple(encode_section(section, album) for section in sections)
    return EncodedDocument(
        title=one_line(document.title),
        subtitle=visible(document.subtitle),
        findings=encode_findings(document.findings),
        sections=encoded,
        cards=tuple(encode_card(plugin, card) for plugin, card in document.cards),
        provenance=encode_facts(document.provenance),
        album=album.uris,
    )


def _encoded(document: Document | EncodedDocument) -> EncodedDocument:
    return encode(document) if isinstance(document, Document) else document


def render(document: Document | EncodedDocument, *, budget_bytes: int = BUDGET_BYTES) -> str:
    """Make the HTML page; equal documents give equal pages, byte for byte.

    Parameters
    ----------
    document : Document or EncodedDocument
    budget_bytes : int
        Above this size pictures get smaller, then fewer, each time with a note on the page.

    Returns
    -------
    str
    """
    return fit(_encoded(document), budget_bytes)


def write(
    document: Document | EncodedDocument, path: Path | str, *, budget_bytes: int = BUDGET_BYTES
) -> None:
    """Render and write a report; the file is there whole or not at all.

    Parameters
    ----------
    document : Document or EncodedDocument
    path : Path or str
        The HTML file; an older one is replaced.
    budget_bytes : int

    Raises
    ------
    UsageError
        If the folder of ``path`` does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise UsageError(f"report {target}", found="no such folder", remedy=f"create {target.parent}")
    page = render(document, budget_bytes=budget_bytes)
    write_atomically(target, page)


def dumps(document: Document | EncodedDocument) -> str:
    """Store a document as JSON text, pictures included.

    Parameters
    ----------
    document : Document or EncodedDocument

    Returns
    -------
    str
        ASCII only; :func:`loads` reads it without plugins, model or images.
    """
    return json.dumps(asdict(_encoded(document)), allow_nan=False, separators=(",", ":"))


def loads(text: str) -> EncodedDocument:
    """Read what :func:`dumps` stored.

    Parameters
    ----------
    text : str

    Returns
    -------
    EncodedDocument
        Renders to the same page as the document that was stored.

    Raises
    ------
    CorruptRunError
        If the text is not a stored report of this version.
    """
    try:
        document = TypeAdapter(EncodedDocument).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the beginning"
        raise _unreadable(f"{first['msg']} at {where}") from error
    shown = {at for section in document.sections for block in section.blocks for at in positions_of(block)}
    if not shown <= set(range(len(document.album))):
        raise _unreadable("pictures that are not in its album")
    return document


def _unreadable(found: str) -> CorruptRunError:
    return CorruptRunError(
        "stored report cannot be read",
        found=found,
        wanted="the JSON that wsss-probe wrote",
        remedy="run the audit again",
    )
