"""Text as a reader may see it: nothing invisible, nothing that reorders, numbers in one style."""

from __future__ import annotations

import math
import re

__all__ = ["DASH", "number", "one_line", "visible"]

DASH = "–"
"""Stands for an undefined number or a missing value."""

# Controls, lone surrogates, soft hyphen, bidirectional controls, zero-width and tag characters.
# A file name with one of them looks like another one, or breaks UTF-8. Joiners (U+200C, U+200D)
# stay: scripts and emoji need them.
_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_HIDDEN = re.compile(f"[{_INVISIBLE}]")
_HIDDEN_OR_BREAK = re.compile(f"[\t\n{_INVISIBLE}]")


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def visible(text: object) -> str:
    r"""Show what would be invisible as a backslash escape; line breaks and tabs stay.

    Parameters
    ----------
    text : object
        Anything with a ``str``; a string subclass comes back as plain ``str``.

    Returns
    -------
    str
        Encodable as UTF-8; applying the function again changes nothing.

    Examples
    --------
    >>> print(visible("a\x1bb"))
    a\x1bb
    """
    return _HIDDEN.sub(_escape, str(text))


def one_line(text: object) -> str:
    r"""As :func:`visible`, with line breaks and tabs escaped too: for names and labels.

    Examples
    --------
    >>> print(one_line("two\nlines"))
    two\nlines
    """
    return _HIDDEN_OR_BREAK.sub(_escape, str(text))


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with significant digits, as a person would.

    Parameters
    ----------
    value : float or None
    digits : int
        Significant digits; whole thousands are never rounded away below a million.

    Returns
    -------
    str
        An en dash for None and NaN; a true minus sign; ``1.20e−5`` outside 0.001 to a million.

    Examples
    --------
    >>> number(0.5), number(1234.5), number(float("nan"))
    ('0.500', '1234', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    return _finite(value, digits).replace("-", "−")


def _finite(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if power < -3 or power >= 6:
        return f"{mantissa}e{power}"
    return f"{value:.{max(0, digits - 1 - power)}f}"
