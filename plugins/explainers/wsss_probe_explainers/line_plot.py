"""Lines of several maps over one axis; what knows nothing of the network is grey."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_probe.report.figures import CONTROL_COLOR, PALETTE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["line_plot"]

_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")


def line_plot(
    x: ArrayLike, curves: Mapping[str, ArrayLike], grey: Collection[str], axes: tuple[str, str]
) -> dict[str, Any]:
    """Draw lines.

    Parameters
    ----------
    x : array of float, (point,)
    curves : mapping of str to array of float, (point,)
    grey : collection of str
        Names of baselines.
    axes : (str, str)
        What is measured along x and y, with units.

    Returns
    -------
    dict
        For :class:`wsss_probe.contracts.Figure`.
    """
    along = np.asarray(x, dtype=float).tolist()
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": along,
            "y": np.asarray(values, dtype=float).tolist(),
            "line": {
                "color": CONTROL_COLOR if name in grey else PALETTE[place % len(PALETTE)],
                "dash": _DASHES[place % len(_DASHES)] if name in grey else "solid",
                "width": 2,
            },
            "hovertemplate": f"{name}<br>%{{x:.2g}}: %{{y:.3g}}<extra></extra>",
        }
        for place, (name, values) in enumerate(curves.items())
    ]
    layout = {
        "height": 420,
        "showlegend": True,
        "xaxis": {"title": {"text": axes[0]}},
        "yaxis": {"title": {"text": axes[1]}},
    }
    return {"data": data, "layout": layout}
