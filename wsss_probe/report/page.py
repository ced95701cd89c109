"""The page around an encoded document: one file, scripts by hash, everything escaped.

Text of the document passes through jinja's autoescape and nothing else. What is trusted (our
styles and scripts, plotly.js, cleaned Markdown, escaped JSON) never goes through a template: the
template leaves a slot, and the page is cut and joined at the slots afterwards. A slot is marked
by NUL, which no text can hold once its invisible characters are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wsss_probe.findings import folded
from wsss_probe.report.budget import STEPS, degrade
from wsss_probe.report.colors import Scale, css_gradient
from wsss_probe.report.encoded import (
    EncodedBlock,
    EncodedDocument,
    EncodedFact,
    EncodedFigure,
    EncodedSection,
)
from wsss_probe.report.markdown import markdown_html
from wsss_probe.report.sections import QUESTIONS
from wsss_probe.report.text import visible

__all__ = ["fit", "page", "script_json"]

_TEMPLATES = Path(__file__).parent / "templates"
_SLOT = re.compile("\x00([0-9]+)\x00")
_HELD = {"figure": ("figure", "figures"), "table": ("table", "tables"), "gallery": ("gallery", "galleries")}
_NAMES = {"table": "Table", "figure": "Figure", "gallery": "Gallery"}
_JSON_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def fit(document: EncodedDocument, budget_bytes: int) -> str:
    """Make the page, giving up precision step by step until it fits.

    Parameters
    ----------
    document : EncodedDocument
    budget_bytes : int

    Returns
    -------
    str
        At most ``budget_bytes`` as UTF-8; if even the last step is too large, that step's page,
        which says so.
    """
    whole = page(document)
    if _size(whole) <= budget_bytes:
        return whole
    for step in STEPS:
        smaller = degrade(document, step, budget_bytes)
        whole = page(smaller)
        if _size(whole) <= budget_bytes:
            return whole
    note = f"This file is larger than the {budget_bytes / 1e6:.3g} MB that it was to keep to."
    return page(smaller, (note,))


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


# -- what goes into a slot --------------------------------------------------------------------


class _Slot:
    """Stands in a template for trusted text."""

    def __init__(self, position: int) -> None:
        self._position = position

    def __str__(self) -> str:
        return f"\x00{self._position}\x00"


class _Slots:
    """Trusted texts of one page, by position."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def hold(self, trusted: str) -> _Slot:
        """Take in a trusted text and return what stands for it in the template."""
        self._texts.append(trusted)
        return _Slot(len(self._texts) - 1)

    def fill(self, rendered: str) -> str:
        """Cut the rendered template at the slots and join it with the texts."""
        pieces = _SLOT.split(rendered)
        pieces[1::2] = [self._texts[int(position)] for position in pieces[1::2]]
        return "".join(pieces)


def script_json(value: Any) -> str:
    """Write JSON that may stand in a script element: no tag, no comment, no line separator in it.

    Parameters
    ----------
    value : Any
        JSON values only; NaN and infinity raise ValueError.

    Returns
    -------
    str
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_JSON_ESCAPES)


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").replace("\r\n", "\n").strip()


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n")


@cache
def _style() -> str:
    kinds: tuple[Scale, ...] = ("sequential", "diverging")
    scales = [f".scale-{kind} {{ background: {css_gradient(kind)}; }}" for kind in kinds]
    return "\n".join([_asset("report.css"), *scales])


@cache
def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


# -- what the templates read ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """A block with the identifier and the number that it has on this page."""

    block: EncodedBlock
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class _PlacedSection:
    """A section with its identifier and blocks in place."""

    id: str
    title: str
    blocks: tuple[_Placed, ...]


@dataclass(frozen=True, slots=True)
class _Chapter:
    """All sections that answer one question."""

    id: str
    title: str
    sections: tuple[_PlacedSection, ...]


def _chapters(document: EncodedDocument) -> tuple[_Chapter, ...]:
    counter: Counter[str] = Counter()
    placed = [(section.question, _place(section, counter)) for section in document.sections]
    made = bool(document.cards or document.provenance)
    present = {question for question, _ in placed} | {"verdict"} | ({"how"} if made else set())
    return tuple(
        _Chapter(question, title, tuple(section for asked, section in placed if asked == question))
        for question, title in QUESTIONS.items()
        if question in present
    )


def _place(section: EncodedSection, counter: Counter[str]) -> _PlacedSection:
    counter["section"] += 1
    ident = f"section-{counter['section']}"
    blocks = tuple(_place_block(block, counter) for block in section.blocks)
    return _PlacedSection(ident, section.title, blocks)


def _place_block(block: EncodedBlock, counter: Counter[str]) -> _Placed:
    counter[block.kind] += 1
    number = counter[block.kind]
    return _Placed(block, f"{block.kind}-{number}", f"{_NAMES.get(block.kind, '')} {number}")


def _holds(section: _PlacedSection) -> str:
    """Say what a folded section holds: ``2 tables, 1 figure``."""
    counts = Counter[str](placed.block.kind for placed in section.blocks)
    held = [(counts[kind], one, many) for kind, (one, many) in _HELD.items() if counts[kind]]
    return ", ".join(f"{number} {one if number == 1 else many}" for number, one, many in held)


class _Sources:
    """Says of each picture of the album whether it stands on the page already."""

    def __init__(self, album: Sequence[str]) -> None:
        self.album = album
        self._seen: set[int] = set()

    def first(self, position: int) -> bool:
        """Whether this picture is drawn for the first time; afterwards it is copied by script."""
        new = position not in self._seen
        self._seen.add(position)
        return new


def _groups(facts: Sequence[EncodedFact]) -> dict[str, list[EncodedFact]]:
    groups: dict[str, list[EncodedFact]] = {}
    for fact in facts:
        groups.setdefault(fact.group, []).append(fact)
    return groups


def _data_uri(text: str, kind: str) -> str:
    encoded = base64.b64encode(text.encode("utf-8")).decode("ascii")
    return f"data:text/{kind};charset=utf-8;base64,{encoded}"


def _shown(value: Any) -> Any:
    """Last guard before escaping: whatever a template prints has no invisible character."""
    return value if isinstance(value, _Slot) else visible(value)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(document: EncodedDocument, notes: tuple[str, ...] = ()) -> str:
    """Make the HTML page of a document as it is.

    Parameters
    ----------
    document : EncodedDocument
    notes : tuple of str
        Shown below those of the document.

    Returns
    -------
    str
    """
    slots = _Slots()
    blocks = [block for section in document.sections for block in section.blocks]
    boot, main = _asset("theme.js"), _asset("report.js")
    plotly = _plotly() if any(isinstance(block, EncodedFigure) for block in blocks) else ""
    hashes = [_hash(script) for script in (boot, plotly, main) if script]
    bibtex = "\n\n".join(dict.fromkeys(card.bibtex for card in document.cards if card.bibtex))
    rendered = (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            notes=(*document.notes, *notes),
            policy=_POLICY.format(scripts=" ".join(hashes)),
            style=slots.hold(_style()),
            boot=slots.hold(boot),
            plotly=slots.hold(plotly) if plotly else None,
            script=slots.hold(main),
            chapters=_chapters(document),
            tally=Counter(finding.verdict for finding in document.findings),
            folded=folded(document.findings, lambda one: (one.plugin, one.verdict)),
            groups=_groups(document.provenance),
            sources=_Sources(document.album),
            holds=_holds,
            bibtex=bibtex,
            markdown=lambda text: slots.hold(markdown_html(text)),
            json=lambda value: slots.hold(script_json(value)),
            data_uri=_data_uri,
        )
    )
    return slots.fill(rendered)
