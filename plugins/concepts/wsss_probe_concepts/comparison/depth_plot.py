"""Numbers over depth: one line a comparison, with intervals; what is a control or chance is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe.report.figures import CONTROL_COLOR, PALETTE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Curve", "depth_plot"]

_DASHES = ("solid", "dot", "dash", "dashdot")
_APART = 0.05
"""Share of the distance between two layers by which neighbouring lines stand apart, so that whiskers show."""


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """A number at every layer.

    Parameters
    ----------
    values : ndarray of float, (layer,)
    low, high : ndarray of float, (layer,), optional
        Interval; without it no whiskers are drawn.
    grey : bool
        Whether it is a control.
    """

    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    grey: bool = field(default=False, kw_only=True)


def depth_plot(layers: Sequence[str], curves: Mapping[str, Curve], axis: str) -> dict[str, Any]:
    """Draw curves over the layers, shallow ones first, with a line at zero.

    Parameters
    ----------
    layers : sequence of str
        In the order of execution.
    curves : mapping of str to Curve
        By name.
    axis : str
        What is measured.

    Returns
    -------
    dict
        For :class:`wsss_probe.contracts.Figure`.
    """
    data = [
        _trace(name, curve, layers, place, len(curves)) for place, (name, curve) in enumerate(curves.items())
    ]
    layout = {
        "height": 440,
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {
            "title": {"text": "layer, in the order of execution"},
            "tickmode": "array",
            "tickvals": list(range(len(layers))),
            "ticktext": list(layers),
            "range": [-0.5, len(layers) - 0.5],
            "zeroline": False,
        },
        "yaxis": {"title": {"text": axis}, "zeroline": True, "zerolinewidth": 2},
    }
    return {"data": data, "layout": layout}


def _trace(name: str, curve: Curve, layers: Sequence[str], place: int, count: int) -> dict[str, Any]:
    aside = 0.0 if curve.grey else _APART * (place - (count - 1) / 2)
    look = (
        {"color": CONTROL_COLOR, "dash": _DASHES[1 + place % 3], "width": 1.5}
        if curve.grey
        else {"color": PALETTE[place % len(PALETTE)], "dash": _DASHES[place // len(PALETTE) % 4], "width": 2}
    )
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines" if curve.grey else "lines+markers",
        "name": name,
        "x": [at + aside for at in range(len(layers))],
        "y": _plain(curve.values),
        "line": look,
        "customdata": list(layers),
        "hovertemplate": f"{name}<br>%{{customdata}}: %{{y:.3f}}<extra></extra>",
    }
    if curve.low is not None and curve.high is not None:
        whiskers = {
            "array": _plain(curve.high - curve.values),
            "arrayminus": _plain(curve.values - curve.low),
        }
        trace["error_y"] = {"type": "data", "symmetric": False, **whiskers, "width": 4}
    return trace


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers as JSON can hold them; nothing is drawn where one is undefined."""
    return [float(value) if np.isfinite(value) else None for value in values]
