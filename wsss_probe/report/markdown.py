"""Markdown of plugins as HTML that can neither run nor fetch anything."""

from __future__ import annotations

import re
from functools import cache

import nh3
from markdown_it import MarkdownIt

from wsss_probe.report.text import visible

__all__ = ["literal", "markdown_html"]

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
"""Every sign that Markdown may take for markup; a backslash before any of them is allowed."""

_TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a",
    "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
# A section's own heading is h3, so a plugin's first level starts below it.
_FIRST_LEVEL = 4


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def markdown_html(markdown: str) -> str:
    """Render Markdown and keep only harmless tags.

    Parameters
    ----------
    markdown : str
        Raw HTML in it is shown as text; images are not drawn.

    Returns
    -------
    str
        HTML with links to https, http and mailto only, and no other attribute than ``href``.
    """
    parser = _parser()
    tokens = parser.parse(visible(markdown))
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1]) + _FIRST_LEVEL - 1)}"
    html = parser.renderer.render(tokens, parser.options, {})
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"https", "http", "mailto"},
        link_rel="noopener noreferrer",
        url_relative="deny",
    )


def literal(text: object) -> str:
    r"""Write Markdown that shows a text as it is, a name of a layer or class say.

    Parameters
    ----------
    text : object

    Returns
    -------
    str

    Examples
    --------
    >>> literal("a*b_c")
    'a\\*b\\_c'
    """
    return _MARKS.sub(r"\\\1", visible(str(text)).replace("\n", " "))
