"""Points over a picture: where the maps of some channels have their maxima."""

from __future__ import annotations

import numpy as np

from wsss_probe.report.colors import PALETTE

__all__ = ["point_plot"]

_SIDE = 448
"""A smaller picture is enlarged by a whole factor up to this many pixels, so that points stay round."""

_SMALLEST, _LARGEST = 1 / 64, 3
"""Radius of one point over the picture's side, seen in a thumbnail; and how often it fits in the largest."""


def point_plot(
    pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, color: str = PALETTE[1]
) -> np.ndarray:
    """Draw points into a picture.

    Points at one place become one disc, whose area grows with their number.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)
        Not changed.
    rows, columns : ndarray, (point,)
        In pixels of the picture; pixel i lies between i and i + 1. NaN is no point.
    color : str
        ``#rrggbb``.

    Returns
    -------
    ndarray of uint8, (row, column, 3)
        Enlarged by a whole factor where the picture is small; faded, so that the points stand out.
    """
    factor = max(1, _SIDE // max(pixels.shape[:2]))
    canvas = pixels.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.float64)
    canvas = 0.55 * canvas + 0.45 * canvas.mean(axis=2, keepdims=True)
    places, counts = _places(rows, columns)
    ink = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)
    smallest = _SMALLEST * max(canvas.shape[:2])
    for (row, column), count in zip(places * factor, counts, strict=True):
        _draw(canvas, (row, column), smallest * min(np.sqrt(count), _LARGEST), ink)
    drawn: np.ndarray = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return drawn


def _places(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct places (place, 2) and how many points each has, most first, so that small discs lie on top."""
    points = np.stack([rows, columns], axis=1)
    places, counts = np.unique(points[np.isfinite(points).all(axis=1)], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return places[order], counts[order]


def _draw(canvas: np.ndarray, centre: tuple[float, float], radius: float, ink: np.ndarray) -> None:
    """Put a disc with a dark rim into the canvas; smooth at its edge."""
    rim = max(canvas.shape[:2]) / 160
    reach = radius + rim + 1
    low = [max(0, int(middle - reach)) for middle in centre]
    high = [min(side, int(middle + reach) + 1) for side, middle in zip(canvas.shape[:2], centre, strict=True)]
    part = canvas[low[0] : high[0], low[1] : high[1]]
    down = np.arange(low[0], high[0])[:, None] + 0.5 - centre[0]
    right = np.arange(low[1], high[1])[None] + 0.5 - centre[1]
    distance = np.hypot(down, right)[..., None]
    for wide, colour in ((radius + rim, 20.0), (radius, ink)):
        share = np.clip(wide + 0.5 - distance, 0, 1)
        part[:] = (1 - share) * part + share * colour
