"""Names as people meet them: shown safely, ordered naturally, matched to the nearest."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["display", "natural_order", "nearest"]

_LONGEST = 120


def display(text: str, longest: int | None = _LONGEST) -> str:
    r"""Show any text on one line: bytes that are not UTF-8, control and bidi characters as escapes.

    Parameters
    ----------
    text : str
        A file name or label, possibly with lone surrogates from ``os.fsdecode``.
    longest : int or None
        Longer texts are cut in the middle; None cuts nothing.

    Returns
    -------
    str
        Can be written as UTF-8.

    Examples
    --------
    >>> display("a\udcff\nb\u202e")
    'a\\xff\\nb\\u202e'
    """
    harmless = text.isascii() and text.isprintable()
    plain = text if harmless else "".join(_shown(character) for character in text)
    if longest is None or len(plain) <= longest:
        return plain
    half = longest // 2
    return f"{plain[:half]}…{plain[-half:]}"


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        # os.fsdecode hides an undecodable byte in these code points
        return f"\\x{ord(character) - 0xDC00:02x}"
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return character.encode("unicode_escape").decode("ascii") if hidden else character


def natural_order(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Key that sorts ``a2`` before ``a10``; equal only for equal texts.

    Examples
    --------
    >>> sorted(["b/10.png", "b/9.png", "a.png"], key=natural_order)
    ['a.png', 'b/9.png', 'b/10.png']
    """
    parts = re.split(r"([0-9]+)", text)
    key = tuple((0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts if part)
    return key, text


def nearest(word: str, options: Iterable[str]) -> str:
    """Find the option that looks most like ``word``; an empty string without options.

    Examples
    --------
    >>> nearest("imagnet", ["unit", "imagenet"])
    'imagenet'
    """
    folded: dict[str, str] = {}
    for option in options:
        folded.setdefault(option.casefold(), option)
    close = get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.0)
    return folded[close[0]] if close else ""
