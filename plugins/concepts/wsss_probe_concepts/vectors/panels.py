"""Small multiples: equal panels in a grid, each with its title, over plain plotly dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["grid_layout", "in_panel"]

_COLUMNS = 3
_BETWEEN_COLUMNS, _BETWEEN_ROWS = 0.05, 0.11
_HEIGHT = 300
_UNNAMED = {"showticklabels": False}  # slanted names of layers would run into the panel below


def grid_layout(titles: Sequence[str], x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """Lay out panels, at most three in a row.

    Parameters
    ----------
    titles : sequence of str
        Of the panels, in reading order.
    x, y : dict
        Axes of every panel; titles of axes stand at the left column and the bottom panels only, names of
        places along x at the bottom panels only.

    Returns
    -------
    dict
        Layout of plotly; panel 0 has the axes ``xaxis`` and ``yaxis``, panel 1 ``xaxis2`` and ``yaxis2``.
    """
    columns = min(_COLUMNS, max(1, len(titles)))
    rows = -(-len(titles) // columns)
    layout: dict[str, Any] = {"height": 90 + _HEIGHT * rows, "annotations": []}
    for panel, title in enumerate(titles):
        row, column = divmod(panel, columns)
        across, up = _extent(column, columns, _BETWEEN_COLUMNS), _extent(rows - 1 - row, rows, _BETWEEN_ROWS)
        number = "" if panel == 0 else str(panel + 1)
        below = panel + columns >= len(titles)
        own_x = x if below else {key: value for key, value in x.items() if key != "title"} | _UNNAMED
        own_y = y if column == 0 else {key: value for key, value in y.items() if key != "title"}
        layout[f"xaxis{number}"] = own_x | {"domain": across, "anchor": f"y{number}"}
        layout[f"yaxis{number}"] = own_y | {"domain": up, "anchor": f"x{number}"}
        layout["annotations"].append(_title(title, across, up))
    return layout


def _extent(place: int, count: int, between: float) -> list[float]:
    size = (1 - between * (count - 1)) / count
    start = place * (size + between)
    return [start, min(1.0, start + size)]


def _title(title: str, across: list[float], up: list[float]) -> dict[str, Any]:
    return {
        "text": title,
        "x": sum(across) / 2,
        "y": up[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13},
    }


def in_panel(trace: dict[str, Any], panel: int) -> dict[str, Any]:
    """Put a trace into a panel; the legend names it once, in the first.

    Parameters
    ----------
    trace : dict
        With a ``name``, which is its legend group.
    panel : int

    Returns
    -------
    dict
    """
    number = "" if panel == 0 else str(panel + 1)
    legend = {"legendgroup": trace["name"], "showlegend": panel == 0 and trace.get("showlegend", True)}
    return trace | legend | {"xaxis": f"x{number}", "yaxis": f"y{number}"}
