"""Documents for the report's tests: a harmless one and the same one with a payload in every text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from wsss_probe.contracts import DefinitionCard, Figure, Finding, Gallery, Picture, Section, Table, Text
from wsss_probe.report import Document
from wsss_probe.report import page as page_module

PAYLOADS = {
    "script-close": "</script><script>document.title='owned'</script>",
    "img": "<img src=x onerror=\"document.title='owned'\">",
    "svg": "<svg/onload=document.title='owned'>",
    "link": "<a href=\"javascript:document.title='owned'\">go</a>",
    "attribute": "\" onmouseover=\"document.title='owned'\" x='",
    "unquoted": "x onfocus=document.title='owned' autofocus",
    "template": "{{7*7}}{% raw %}${7*7}",
    "plotly": "%{x}<b>bold</b><br>&lt;i&gt;&#60;u>",
    "comment": "<!-- --><!--<script>",
    "cdata": "]]><![CDATA[<script>document.title='owned'</script>",
    "style": "</style><style>body{display:none}</style>",
    "title": "</title><script>document.title='owned'</script>",
    "textarea": "</textarea></noscript></pre></dialog><script>document.title='owned'</script>",
    "separators": "a\u2028b\u2029c",
    "bidi": "abc\u202egnp.exe",
    "control": "a\x00b\x1b[31mc\x7f\r\nd",
    "surrogate": "caf\udce9.png",
    "slot": "\x000\x00 \x001\x00",
}


def plot(text: str) -> dict:
    """A figure with a text wherever plotly takes one."""
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "name": text,
        "x": [1, 2, 3],
        "y": [1.0, float("nan"), float("inf")],
        "text": [text, text, text],
        "customdata": [text, text, text],
        "hovertemplate": f"{text}%{{customdata}}<extra></extra>",
        "marker": {"color": [1, 2, 3], "colorbar": {"title": {"text": text}}, "showscale": True},
    }
    layout = {
        "title": {"text": text},
        "xaxis": {"title": {"text": text}, "tickvals": [1, 2], "ticktext": [text, text]},
        "annotations": [{"text": text, "x": 1, "y": 1}],
        text: text,
    }
    return {"data": [trace], "layout": layout, "config": {"toImageButtonOptions": {"filename": text}}}


def every_text(text: str) -> Document:
    """A document in which each text field of each contract holds ``text``; Markdown is left out."""
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    overlay = np.linspace(-1, 1, 12).reshape(4, 3)
    picture = Picture(pixels, text, overlay, overlay > 0, text, (-1.0, 2.0))
    # Objects: text that is not UTF-8 fits no other column once pandas keeps text through pyarrow
    frame = pd.DataFrame({0: pd.Series([text, "b"], dtype=object), 1: [1.5, np.nan]})
    frame.columns = pd.Index([text, "value"], dtype=object)
    card = DefinitionCard(text, text, text, text, (text,), text, text)
    blocks = (
        Table(frame, text),
        Table(frame, text, {0: Gallery(((text, (picture, Picture(None, text))),), text)}, {text: text}),
        Figure(plot(text), text, text, frame),
        Gallery(((text, (picture, Picture(None, text), Picture(pixels, text))),), text),
    )
    return Document(
        title=f"Audit {text}",
        subtitle=text,
        findings=((text, Finding(text, "warning", text, 0.5, (0.25, 0.75), 10, 2, text, text)),),
        sections=(Section("where", text, blocks), Section("failed", text, ())),
        cards=((text, card),),
        provenance={text: text, "group": {text: [text]}, "deep": {"a": {text: text}}},
    )


@pytest.fixture
def build() -> Callable[[str], Document]:
    """``build(text)`` makes a document with ``text`` in every field."""
    return every_text


@pytest.fixture
def payloads() -> dict[str, str]:
    """Texts that tried to run, to close a tag, to reorder or to break the encoding elsewhere."""
    return PAYLOADS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``payload`` once for each of them."""
    if "payload" in metafunc.fixturenames:
        metafunc.parametrize("payload", PAYLOADS.values(), ids=list(PAYLOADS))


@pytest.fixture
def section_of() -> Callable[..., Document]:
    """``section_of(*blocks)`` makes a document with one section."""
    return lambda *blocks: Document("T", "", (), (Section("where", "S", blocks),))


@pytest.fixture
def text_document() -> Callable[[str], Document]:
    """``text_document(markdown)`` makes a document with one Markdown block."""
    return lambda markdown: Document("T", "", (), (Section("where", "S", (Text(markdown),)),))


@pytest.fixture
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the 4.8 MB of plotly.js where the page around it is what is tested."""
    monkeypatch.setattr(page_module, "_plotly", lambda: "window.Plotly = null;")
