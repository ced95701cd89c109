"""Figures as JSON that is safe to draw: finite numbers, harmless labels, no network, bounded size."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_probe.report.colors import PALETTE
from wsss_probe.report.encoded import EncodedFigure
from wsss_probe.report.tables import NUMBERS_SHOWN, encode_table
from wsss_probe.report.text import one_line, visible

if TYPE_CHECKING:
    from wsss_probe.contracts import Figure

__all__ = ["POINTS", "encode_figure", "neutral", "thin"]

POINTS = 20_000
"""Points per figure; more are thinned out, with a note."""

_TEMPLATE_KEYS = frozenset({"hovertemplate", "texttemplate"})
_TEMPLATE_TAGS = re.compile(r"<(?!br>|b>|/b>|extra>|/extra>)")
_ENTITY = re.compile(r"&(?=#|\w+;)")
# These fetch tiles or borders from a server when they are drawn.
_NETWORK = re.compile(r"geo|map|choropleth", re.IGNORECASE)
_LOCAL_MAPS = frozenset({"heatmap", "treemap", "histogram2d"})
# Colours of page and paper belong to the reader's theme, the width to the window.
_OURS = frozenset({"template", "paper_bgcolor", "plot_bgcolor", "width", "autosize", "images", "updatemenus"})
_LAYOUT: dict[str, Any] = {
    "autosize": True,
    "colorway": list(PALETTE),
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "uirevision": "kept",
}
_MARGIN = {"l": 56, "r": 24, "t": 36, "b": 52}
_LOWEST, _HIGHEST, _USUAL = 180, 1600, 380


def encode_figure(figure: Figure) -> EncodedFigure:
    """Encode a plotly figure and the numbers behind it.

    Parameters
    ----------
    figure : Figure

    Returns
    -------
    EncodedFigure
        Undefined and infinite numbers are null; ``<`` in labels is shown as ``‹``, since plotly
        reads it as a tag; traces that would ask a server are left out, with a note.
    """
    traces = [trace for trace in figure.figure.get("data", ()) if isinstance(trace, Mapping)]
    local = [trace for trace in traces if not _asks_network(trace)]
    notes = [f"Left out, since it would need the internet: {_type(t)}." for t in traces if _asks_network(t)]
    thinned = [_thin(trace, POINTS // max(1, len(local))) for trace in local]
    layout = _layout(figure.figure.get("layout") or {})
    return EncodedFigure(
        figure={"data": [_plain(trace) for trace, _ in thinned], "layout": layout},
        caption=visible(figure.caption),
        definition=visible(figure.definition),
        height=layout["height"],
        numbers=None if figure.data is None else encode_table(figure.data, "", rows=NUMBERS_SHOWN),
        notes=tuple(notes + [note for _, note in thinned if note]),
    )


def thin(figure: EncodedFigure, points: int) -> tuple[dict[str, Any], str]:
    """Thin an encoded figure further.

    Parameters
    ----------
    figure : EncodedFigure
    points : int
        Points for the whole figure.

    Returns
    -------
    figure : dict
    note : str
        Empty if nothing had to go.
    """
    traces = figure.figure["data"]
    thinned = [_thin(trace, points // max(1, len(traces))) for trace in traces]
    notes = [note for _, note in thinned if note]
    return figure.figure | {"data": [trace for trace, _ in thinned]}, " ".join(notes)


def neutral(text: object) -> str:
    """Take the meaning out of what plotly reads as tags and entities in a label."""
    return _ENTITY.sub("＆", visible(text)).replace("<", "‹")


def _neutral_template(text: object) -> str:
    return _ENTITY.sub("＆", _TEMPLATE_TAGS.sub("‹", visible(text)))


# -- the layout -------------------------------------------------------------------------------


def _layout(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in given.items() if key not in _OURS and not _NETWORK.search(str(key))}
    layout: dict[str, Any] = _plain(kept) | _LAYOUT
    if "colorway" in kept:
        layout["colorway"] = _plain(kept["colorway"])
    layout["margin"] = _MARGIN | (layout.get("margin") or {})
    wanted = layout.get("height") or _USUAL
    layout["height"] = int(min(_HIGHEST, max(_LOWEST, wanted)))
    return layout


def _type(trace: Mapping[str, Any]) -> str:
    return one_line(trace.get("type", "scatter"))


def _asks_network(trace: Mapping[str, Any]) -> bool:
    kind = _type(trace)
    remote = kind not in _LOCAL_MAPS and bool(_NETWORK.search(kind))
    return remote or (kind == "image" and "source" in trace)


# -- thinning ---------------------------------------------------------------------------------


def _thin(trace: Mapping[str, Any], limit: int) -> tuple[Mapping[str, Any], str]:
    """Keep at most ``limit`` evenly spaced points of a trace."""
    whole = {key: _unpacked(value) for key, value in trace.items()}
    grid = _grid(whole.get("z"))
    if grid is not None:
        return _thin_grid(whole, grid, limit)
    length = max(_lengths(whole), default=0)
    if length <= limit:
        return whole, ""
    kept = np.linspace(0, length - 1, max(2, limit)).astype(int)
    return _taken(whole, length, kept), f"Drawn with {len(kept)} of {length} points, evenly spaced."


def _thin_grid(trace: dict[str, Any], grid: tuple[int, int], limit: int) -> tuple[dict[str, Any], str]:
    rows, columns = grid
    step = math.ceil(math.sqrt(rows * columns / max(1, limit)))
    if step <= 1:
        return trace, ""
    thinned = dict(trace)
    for key, value in trace.items():
        if _grid(value) == grid:
            thinned[key] = [list(row)[::step] for row in list(value)[::step]]
    for key, length in (("x", columns), ("y", rows)):
        if _is_sequence(trace.get(key)) and len(trace[key]) == length:
            thinned[key] = list(trace[key])[::step]
    return thinned, f"Drawn with every {step}th row and column of {rows} × {columns}."


def _unpacked(value: Any) -> Any:
    """Turn plotly's packed arrays (dtype and base64 bytes) back into arrays."""
    if not isinstance(value, Mapping):
        return value
    if {"dtype", "bdata"} <= set(value):
        array = np.frombuffer(base64.b64decode(str(value["bdata"])), dtype=np.dtype(str(value["dtype"])))
        shape = value.get("shape")
        return array if shape is None else array.reshape([int(n) for n in str(shape).split(",")])
    return {key: _unpacked(inner) for key, inner in value.items()}


def _is_sequence(value: Any) -> bool:
    sized = hasattr(value, "__len__") and hasattr(value, "__iter__")
    return sized and not isinstance(value, str | bytes | Mapping)


def _grid(value: Any) -> tuple[int, int] | None:
    if not _is_sequence(value) or not len(value):
        return None
    first = next(iter(value))
    return (len(value), len(first)) if _is_sequence(first) else None


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _lengths(inner)
    elif _is_sequence(value):
        yield len(value)
        if len(value) and isinstance(next(iter(value)), Mapping):
            for inner in value:
                yield from _lengths(inner)


def _taken(value: Any, length: int, kept: np.ndarray) -> Any:
    if isinstance(value, Mapping):
        return {key: _taken(inner, length, kept) for key, inner in value.items()}
    if not _is_sequence(value):
        return value
    if len(value) == length:
        return np.asarray(value)[kept] if isinstance(value, np.ndarray) else _picked(value, kept)
    return [_taken(inner, length, kept) for inner in value]


def _picked(value: Any, kept: np.ndarray) -> list[Any]:
    listed = list(value)
    return [listed[i] for i in kept]


# -- JSON values ------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Anything as JSON: what has no number or text of its own becomes its ``str``."""
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.integer | np.floating | Decimal):
        return _plain_number(value)
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    return [_plain(inner) for inner in _items(value)] if _is_sequence(value) else _plain_text(value)


def _plain_number(value: Any) -> float | int | None:
    if isinstance(value, int | np.integer):
        return int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _plain_text(value: Any) -> str:
    if isinstance(value, datetime | date):
        return neutral(value.isoformat())
    return neutral(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)


def _items(value: Any) -> Sequence[Any]:
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return value.tolist() if is_numbers else list(value)


def _plain_mapping(value: Mapping[Any, Any]) -> Any:
    unpacked = _unpacked(value)
    if not isinstance(unpacked, Mapping):
        return _plain(unpacked)
    return {one_line(key): _plain_member(str(key), inner) for key, inner in unpacked.items()}


def _plain_member(key: str, value: Any) -> Any:
    if key not in _TEMPLATE_KEYS:
        return _plain(value)
    return _neutral_template(value) if isinstance(value, str) else [_neutral_template(text) for text in value]
