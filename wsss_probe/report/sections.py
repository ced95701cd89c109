"""From sections, findings and cards to their encoded form, in the order of the questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wsss_probe.contracts import (
    Block,
    DefinitionCard,
    Figure,
    Finding,
    Gallery,
    Question,
    Section,
    Table,
    Text,
)
from wsss_probe.report.encoded import (
    EncodedBlock,
    EncodedCard,
    EncodedFact,
    EncodedFinding,
    EncodedGallery,
    EncodedRow,
    EncodedSection,
    EncodedTable,
    EncodedText,
)
from wsss_probe.report.pictures import LONGEST_MAP, LONGEST_SIDE, Album, encode_picture
from wsss_probe.report.plots import encode_figure
from wsss_probe.report.tables import encode_table
from wsss_probe.report.text import number, one_line, visible

__all__ = [
    "QUESTIONS",
    "encode_card",
    "encode_facts",
    "encode_findings",
    "encode_section",
]

QUESTIONS: Mapping[Question, str] = {
    "verdict": "What is the verdict?",
    "where": "Where does it look?",
    "channels": "Which channels?",
    "concepts": "Which concepts?",
    "chance": "Is that better than chance?",
    "segmentation": "How good as a segmentation?",
    "failed": "What failed?",
    "how": "How was this made?",
}
"""The report's headings, in their order."""

_SEVERITY = ("warning", "notice", "ok")


def encode_findings(findings: Sequence[tuple[str, Finding]]) -> tuple[EncodedFinding, ...]:
    """Encode findings, gravest first, otherwise in the order given."""
    ordered = sorted(findings, key=lambda pair: _SEVERITY.index(pair[1].verdict))
    return tuple(_finding(plugin, finding) for plugin, finding in ordered)


def _finding(plugin: str, finding: Finding) -> EncodedFinding:
    interval = finding.interval
    return EncodedFinding(
        plugin=one_line(plugin),
        name=one_line(finding.name),
        verdict=finding.verdict,
        statement=visible(finding.statement),
        effect="" if finding.effect is None else _effect(finding.effect, finding.interval),
        unit=one_line(finding.unit),
        interval="" if interval is None else f"{number(interval[0])} to {number(interval[1])}",
        size=_size(finding.n, finding.groups),
        control=visible(finding.control),
    )


def _effect(effect: float, interval: tuple[float, float] | None) -> str:
    """Write a count as one; whatever has an interval is a measurement."""
    counted = interval is None and float(effect).is_integer()
    return f"{int(effect):d}".replace("-", "−") if counted else number(effect)


def _size(n: int | None, groups: int | None) -> str:
    images = "" if n is None else f"{n} image{'' if n == 1 else 's'}"
    units = "" if groups is None else f"{groups} independent group{'' if groups == 1 else 's'}"
    return " in ".join(part for part in (images, units) if part)


def encode_section(section: Section, album: Album) -> EncodedSection:
    """Encode a section; its pictures go into the album.

    Parameters
    ----------
    section : Section
    album : Album

    Returns
    -------
    EncodedSection
    """
    blocks = tuple(_block(block, album) for block in section.blocks)
    return EncodedSection(section.question, one_line(section.title), blocks)


def _block(block: Block, album: Album) -> EncodedBlock:
    match block:
        case Text():
            return EncodedText(visible(block.markdown))
        case Table():
            return _table(block, album)
        case Figure():
            return encode_figure(block)
        case Gallery():
            return _gallery(block, album)


def _table(table: Table, album: Album) -> EncodedTable:
    """Encode a table with the pictures of the rows that are shown."""
    encoded = encode_table(table.frame, table.caption, meanings=table.meanings)
    shown = sorted(int(at) for at in table.details if at < len(encoded.rows))
    details = tuple((at, _gallery(table.details[at], album)) for at in shown)
    return replace(encoded, details=details)


def _gallery(gallery: Gallery, album: Album) -> EncodedGallery:
    rows = tuple(
        EncodedRow(one_line(title), tuple(encode_picture(picture, title, album) for picture in pictures))
        for title, pictures in gallery.rows
    )
    shown = [picture for row in rows for picture in row.pictures]
    notes = []
    if any(max(picture.width, picture.height) > LONGEST_SIDE for picture in shown):
        notes.append(f"Pictures are shown with at most {LONGEST_SIDE} pixels a side.")
    if any(picture.coarsened for picture in shown):
        notes.append(
            f"Maps are drawn with at most {LONGEST_MAP} cells a side: where a map is finer, a cell is the "
            "mean of the area below it, and so is the value under the picture."
        )
    return EncodedGallery(visible(gallery.caption), rows, tuple(notes))


def encode_card(plugin: str, card: DefinitionCard) -> EncodedCard:
    """Encode a definition card."""
    return EncodedCard(
        plugin=one_line(plugin),
        title=one_line(card.title),
        formula=visible(card.formula),
        symbols=visible(card.symbols),
        paper=visible(card.paper),
        invariances=tuple(visible(text) for text in card.invariances),
        misleads=visible(card.misleads),
        bibtex=visible(card.bibtex).strip(),
    )


def encode_facts(provenance: Mapping[str, Any]) -> tuple[EncodedFact, ...]:
    """Encode provenance: a mapping inside becomes a group, deeper ones dotted names."""
    facts: list[EncodedFact] = []
    for key, value in provenance.items():
        inside = isinstance(value, Mapping)
        group, pairs = (one_line(key), _flat(value)) if inside else ("", iter([(str(key), value)]))
        facts += [EncodedFact(group, one_line(name), _fact(leaf)) for name, leaf in pairs]
    return tuple(sorted(facts, key=lambda fact: fact.group != ""))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fact(value: Any) -> str:
    if isinstance(value, str):
        return visible(value).strip("\n")
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return visible(", ".join(str(item) for item in value))
    return visible(json.dumps(value, default=str, ensure_ascii=False))
