"""Lines of several maps over one axis; what knows nothing of the network is grey."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_probe.report.figures import CONTROL_COLOR, PALETTE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["line_plot"]

_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


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
    known = [name for name in curves if name not in grey]
    looks = {
        name: (PALETTE[place % len(PALETTE)], _DASHES[place // len(PALETTE) % len(_DASHES)])
        for place, name in enumerate(known)
    }
    baselines = [name for name in curves if name in grey]
    looks |= {name: (CONTROL_COLOR, _DASHES[1 + at % 5]) for at, name in enumerate(baselines)}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": along,
            "y": np.asarray(values, dtype=float).tolist(),
            "line": {"color": looks[name][0], "dash": looks[name][1], "width": 2},
            "hovertemplate": f"{name}<br>%{{x:.2g}}: %{{y:.3g}}<extra></extra>",
        }
        for name, values in curves.items()
    ]
    layout = {
        "height": 420,
        "showlegend": True,
        "xaxis": {"title": {"text": axes[0]}},
        "yaxis": {"title": {"text": axes[1]}},
    }
    return {"data": data, "layout": layout}
