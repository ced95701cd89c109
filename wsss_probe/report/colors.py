"""Two colour tables and no other: cividis for magnitudes, red-blue around zero for signed maps.

Both keep their order for colour-blind readers and in grey print; a rainbow has no order at all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["PALETTE", "Scale", "css_gradient", "paint"]

Scale = Literal["sequential", "diverging"]

PALETTE = ("#2b7bba", "#d55e00", "#009e73", "#b8629a", "#a6761d", "#5b6fc4")
"""Colours of traces: Okabe and Ito's hues, evened out to stand on white and on near-black."""

# Nuñez, Anderton & Renslow (2018), doi:10.1371/journal.pone.0199239; ten stops as in plotly.colors.
_CIVIDIS = "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838"
# ColorBrewer RdBu, blue first: negative is blue, positive is red.
_BLUE_RED = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"
_STOPS: dict[Scale, str] = {"sequential": _CIVIDIS, "diverging": _BLUE_RED}


def _stops(scale: Scale) -> np.ndarray:
    return np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in _STOPS[scale].split()])


def paint(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Colour a map that is already scaled by its largest absolute value.

    Parameters
    ----------
    values : ndarray of float, (row, column)
        In 0..1 for ``sequential``, -1..1 for ``diverging``; NaN where undefined.
    scale : {"sequential", "diverging"}

    Returns
    -------
    ndarray of uint8, (row, column, 4)
        Red, green, blue, opacity. Undefined is transparent, and both scales fade towards zero:
        where a map says nothing, the picture below stays visible.
    """
    defined = np.isfinite(values)
    known = np.where(defined, values, 0.0)
    position = known if scale == "sequential" else (known + 1) / 2
    stops = _stops(scale)
    at = np.linspace(0, 1, len(stops))
    colour = [np.interp(position, at, stops[:, i]) for i in range(3)]
    rgba = np.stack([*colour, 255 * _opacity(known, scale) * defined], axis=-1)
    return np.asarray(np.clip(np.rint(rgba), 0, 255), dtype=np.uint8)


def _opacity(values: np.ndarray, scale: Scale) -> np.ndarray:
    return np.asarray(0.35 + 0.65 * values if scale == "sequential" else np.sqrt(np.abs(values)))


def css_gradient(scale: Scale) -> str:
    """Name the colour table as a CSS gradient, lowest value left, as drawn over a picture."""
    stops = _stops(scale)
    share = _opacity(np.linspace(-1 if scale == "diverging" else 0, 1, len(stops)), scale)
    colours = [f"rgb({r} {g} {b} / {a:.2f})" for (r, g, b), a in zip(stops, share, strict=True)]
    return f"linear-gradient(to right, {', '.join(colours)})"
