"""The paper's cumulative score over channel positions, beside what the controls' best channels reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure
from wsss_probe.report.figures import CONTROL_COLOR, PALETTE, ControlRange

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["control_range", "score_curve"]

DEFINITION = (
    "Cumulative score of a channel: images on which F1 of its Otsu mask with the class is strictly above "
    "the bound (0.6 in the paper). Feng, Hafiane, Laurent, section 3 and figure 8."
)
_PANEL, _FRAME, _MOST = 150, 100, 10
_FILL = "rgba(135, 141, 150, 0.30)"


def control_range(summary: xr.Dataset, name: str, position: int) -> ControlRange | None:
    """Range over living controls of a number of theirs, for the class at ``position``; None if none lives.

    Parameters
    ----------
    summary : Dataset
    name : str
        Variable by (control, class).
    position : int

    Returns
    -------
    ControlRange or None
    """
    if "control" not in summary.dims:
        return None
    top = summary[name].values[summary["control_alive"].values.astype(bool), position]
    top = top[np.isfinite(top)]
    words = f"best channels of {len(top)} control{'s' if len(top) != 1 else ''}"
    return ControlRange(float(top.min()), float(top.max()), words) if len(top) else None


def score_curve(summary: xr.Dataset, layer: str, classes: Sequence[str]) -> Figure:
    """Draw the cumulative score of every channel, one panel per class.

    Parameters
    ----------
    summary : Dataset
        From :func:`wsss_probe_channels.screening.conclusion.conclude`.
    layer : str
    classes : sequence of str

    Returns
    -------
    Figure
        At most ten panels; the numbers of all classes are in its data.
    """
    scores = summary["strong"].values
    shown = classes[:_MOST]
    layout: dict[str, Any] = {
        "height": _FRAME + _PANEL * len(shown),
        "showlegend": False,
        "xaxis": {"title": {"text": "channel position"}, "anchor": f"y{len(shown)}"},
        "shapes": [],
        "annotations": [],
    }
    for position, name in enumerate(shown):
        _add_panel(layout, position, len(shown), name)
        _add_band(layout, position, control_range(summary, "control_top_strong", position))
    data = pd.DataFrame(scores, columns=list(classes))
    data.insert(0, "channel", summary["channel"].values)
    figure = {"data": [_curve(scores[:, i], i) for i in range(len(shown))], "layout": layout}
    return Figure(figure, _caption(summary, layer, scores), DEFINITION, data)


def _curve(scores: np.ndarray, position: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(scores) > 1 else "markers",
        "x": list(range(len(scores))),
        "y": scores.tolist(),
        "yaxis": f"y{position + 1}",
        "line": {"width": 1.2, "color": PALETTE[position % len(PALETTE)]},
        "hovertemplate": "channel %{x}: %{y} images<extra></extra>",
    }


def _add_panel(layout: dict[str, Any], position: int, panels: int, name: str) -> None:
    """Give a class its own axis, first on top, and its name."""
    top, height = 1 - position / panels, 1 / panels
    layout[f"yaxis{position + 1}"] = {
        "domain": [top - 0.78 * height, top],
        "rangemode": "tozero",
        "title": {"text": "images"},
        "anchor": "x",
    }
    place = {"x": 0, "xref": "paper", "y": top, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    layout["annotations"].append({**place, "text": name, "showarrow": False})


def _add_band(layout: dict[str, Any], position: int, control: ControlRange | None) -> None:
    """Draw what the best channels of the controls reach; a line where they agree."""
    if control is None:
        return
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": control.low, "y1": control.high}
    look = {"fillcolor": _FILL, "line": {"width": 1, "color": CONTROL_COLOR}, "layer": "below"}
    layout["shapes"].append({"type": "rect", "yref": f"y{position + 1}", **ends, **look})


def _caption(summary: xr.Dataset, layer: str, scores: np.ndarray) -> str:
    counts = ", ".join(str(int(n)) for n in summary["present"].values)
    living = int(summary["control_alive"].values.astype(bool).sum()) if "control" in summary.dims else 0
    band = (
        f"grey: range over {living} living control{'s' if living != 1 else ''} of the count of each "
        "control's best channel, so a channel above it beats the best of every control"
        if living
        else "no living control to compare with"
    )
    return (
        f"Images with F1 above {summary.attrs['strong']} for each of the {len(scores)} channels of {layer}, "
        f"by class (images with the class: {counts}); {band}. All images count, also those that a "
        "channel would be chosen on."
    )
