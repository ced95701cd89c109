"""No text of a document can become a tag, a handler, an address or a script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wsss_probe.report import Document, dumps, loads, render
from wsss_probe.report import page as page_module
from wsss_probe.report.markdown import markdown_html

PACKAGE = Path(page_module.__file__).parent
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Skeleton(HTMLParser):
    """The tags of a page with the names of their attributes, and what scripts and styles hold."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        named = dict(attrs)
        self.tags.append((tag, tuple(named)))
        self.addresses += [
            value or "" for name, value in attrs if name in {"href", "src", "action", "srcdoc"}
        ]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        self._open.append((tag, named))

    def handle_data(self, data: str) -> None:
        """Note what a script holds."""
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") != "application/json":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        """Close a tag and what is open in it."""
        self._open = [pair for pair in self._open if pair[0] in VOID] if tag == "html" else self._open
        while self._open and self._open.pop()[0] != tag:
            pass


@pytest.mark.usefixtures("small_plotly")
def test_a_payload_in_every_field_changes_no_tag(payload: str, build: Callable[[str], Document]) -> None:
    """With a payload in every text the page has the same tags and attributes as with harmless words."""
    hostile = Skeleton(render(build(payload)))
    harmless = Skeleton(render(build("harm\nless" if "\n" in payload else "harmless")))
    assert hostile.tags == harmless.tags
    assert hostile.scripts == harmless.scripts


@pytest.mark.usefixtures("small_plotly")
def test_a_payload_in_a_stored_report_changes_no_tag(payload: str, build: Callable[[str], Document]) -> None:
    """The way through a stored file is as safe as the direct one."""
    assert render(loads(dumps(build(payload)))) == render(build(payload))


@pytest.mark.usefixtures("small_plotly")
def test_a_tampered_stored_report_changes_no_tag(payload: str, build: Callable[[str], Document]) -> None:
    """Texts that were put into a stored file afterwards, past the encoding, are escaped all the same."""
    stored = json.loads(dumps(build("harmless")))
    spoilt = {name: payload.encode("ascii", "replace").decode() for name in ("title", "subtitle")}
    page = render(loads(json.dumps(stored | spoilt)))
    assert Skeleton(page).tags == Skeleton(render(build("harmless"))).tags
    assert page.count("--paper: light-dark") == 1


@pytest.mark.usefixtures("small_plotly")
def test_addresses_are_in_the_file(payload: str, build: Callable[[str], Document]) -> None:
    """Every address on a page is data of the page itself or a place in it."""
    for address in Skeleton(render(build(payload))).addresses:
        assert re.match(
            r"data:(image/(png|webp|gif);base64,|text/(csv|plain);charset=utf-8;base64,|,$)|#[\w-]+$", address
        )


@pytest.mark.usefixtures("small_plotly")
def test_every_payload_can_be_written(payload: str, build: Callable[[str], Document]) -> None:
    """No payload breaks the encoding, and no invisible character reaches the page."""
    page = render(build(payload))
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\u2028\u2029]", page)


@pytest.mark.usefixtures("small_plotly")
def test_markdown_payloads_become_text(payload: str, text_document: Callable[[str], Document]) -> None:
    """Raw HTML in a plugin's Markdown is shown as text: the page gains no tag but those of Markdown."""
    hostile, harmless = (Skeleton(render(text_document(text))) for text in (f"# A\n\n{payload}", "# A\n\nb"))
    added = hostile.tags[len(harmless.tags) :]
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in harmless.tags} | {
        "p",
        "br",
        "em",
        "strong",
        "code",
        "pre",
    }
    assert not [names for _, names in (*hostile.tags, *added) if any(name.startswith("on") for name in names)]
    assert hostile.scripts == harmless.scripts


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>\n"),
        ("[x](data:text/html;base64,PHNjcmlwdD4=)", "<p>[x](data:text/html;base64,PHNjcmlwdD4=)</p>\n"),
        ("[x](file:///etc/passwd)", "<p>[x](file:///etc/passwd)</p>\n"),
        (
            "![x](https://example.org/x.png)",
            '<p>!<a href="https://example.org/x.png" rel="noopener noreferrer">x</a></p>\n',
        ),
        ("[x](../secret)", '<p><a rel="noopener noreferrer">x</a></p>\n'),
        ("[x](https://a.b)", '<p><a href="https://a.b" rel="noopener noreferrer">x</a></p>\n'),
        ("<b style='background:url(//x)'>y</b>", "<p>&lt;b style='background:url(//x)'&gt;y&lt;/b&gt;</p>\n"),
        ("# Head", "<h4>Head</h4>\n"),
        ("**b** `c`", "<p><strong>b</strong> <code>c</code></p>\n"),
        ("```html\n</pre><script>\n```", "<pre><code>&lt;/pre&gt;&lt;script&gt;\n</code></pre>\n"),
    ],
)
def test_markdown_is_cleaned(markdown: str, html: str) -> None:
    """Links to the web work, everything that runs, fetches or styles does not."""
    assert markdown_html(markdown) == html


def test_scripts_run_by_hash_only(build: Callable[[str], Document]) -> None:
    """The policy stands first in the head and names exactly the hashes of the scripts on the page."""
    page = render(build("x"))
    skeleton = Skeleton(page)
    assert [tag for tag, _ in skeleton.tags[:3]] == ["html", "head", "meta"]
    assert page.index("Content-Security-Policy") < page.index("<title>")
    digests = [hashlib.sha256(script.encode()).digest() for script in skeleton.scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert len(digests) == 3
    assert skeleton.policy == (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_templates_trust_nothing() -> None:
    """No template marks anything as safe, switches escaping off or leaves an attribute unquoted."""
    templates = sorted((PACKAGE / "templates").glob("*.j2"))
    assert len(templates) > 5
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|tojson|xmlattr)|autoescape|=\{\{|Markup", text), path.name
        assert not re.search(r"\son\w+=", text), path.name


def test_code_trusts_nothing() -> None:
    """The one environment escapes and is strict; no module makes markup or reads pickles."""
    code = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")}
    assert [name for name, text in code.items() if "Environment(" in text] == ["page.py"]
    assert "autoescape=True" in code["page.py"]
    assert "undefined=StrictUndefined" in code["page.py"]
    assert not [
        name for name, text in code.items() if re.search(r"Markup\(|pickle|from_string|to_html", text)
    ]


def test_scripts_never_write_markup() -> None:
    """Our scripts build nodes; they never parse text as HTML or code."""
    for path in (PACKAGE / "templates").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(", text
        )
