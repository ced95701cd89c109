"""What a reader sees of agreement: who agrees with whom beside chance, and what goes by one name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table
from wsss_probe_explainers.agreement.alike import FINEST, TOP

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["matrix", "sections"]

_WRITTEN = 14
"""Maps up to which the cells hold their numbers."""

_DEFINITIONS = {
    "correlation": (
        "rank correlation",
        f"Spearman's rank correlation over the cells of two maps of one image, on the coarser of their grids "
        f"and at most {FINEST} x {FINEST} (means over areas), ties sharing their rank; mean over images.",
    ),
    "overlap": (
        f"IoU of the top {TOP:.0%}",
        f"IoU of the {TOP:.0%} of the area that two maps of one image mark most, on the coarser of their "
        f"grids and at most {FINEST} x {FINEST} (means over areas); cells of one value count together or "
        "not at all; mean over images.",
    ),
}

_TWIN_MEANINGS = {
    "largest difference": "largest absolute difference of the two maps after min-max, mean over images",
    "IoU at one half": "of the cells at or above one half after min-max, mean over images",
    "rank correlation": "Spearman's, over the cells, mean over images",
}


def sections(summary: xr.Dataset) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        As :class:`wsss_probe_explainers.agreement.agreement_probe.Agreement` concludes.

    Yields
    ------
    Section
    """
    blocks: list[Figure | Table] = [_figure(summary, name) for name in _DEFINITIONS]
    if "twin" in summary.dims:
        blocks.append(_twin_rows(summary))
    yield Section("where", "Agreement between maps", tuple(blocks))


def _figure(summary: xr.Dataset, name: str) -> Figure:
    title, definition = _DEFINITIONS[name]
    names = [str(each) for each in summary["explainer"].values]
    own, chance = summary[name].values, summary[f"{name}_chance"].values
    groups = int(summary.attrs["groups"])
    over = "images treated as independent" if groups < 0 else f"{groups} groups"
    caption = (
        f"Agreement of {len(names)} maps: {title}. Below the diagonal: of one image, mean over "
        f"{summary.attrs['images']} images ({over}; 95 % intervals in the numbers"
        f"{summary.attrs['interval']}). On and above it, the control: of different images, "
        f"{summary.attrs['chance_pairs']} pairs of {summary.attrs['chance_images']} images. Only what is "
        "brighter below than above is about the image."
    )
    return Figure(matrix(own, chance, names, title), caption, definition, _numbers(summary, name, title))


def matrix(own: np.ndarray, chance: np.ndarray, names: list[str], title: str) -> dict[str, Any]:
    """Draw a heatmap: agreement below the diagonal, chance on and above it.

    Parameters
    ----------
    own, chance : ndarray of float, (map, map)
        Symmetric; NaN stays empty.
    names : list of str
    title : str
        Of the colour bar.

    Returns
    -------
    dict
    """
    shown = np.where(np.tri(len(names), k=-1, dtype=bool), own, chance)
    lowest = float(np.nanmin(shown, initial=0.0))
    trace = {
        "type": "heatmap",
        "z": [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in shown],
        "x": names,
        "y": names,
        "colorscale": "Cividis",
        "zmin": min(0.0, lowest),
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.3f}<extra></extra>",
    }
    if len(names) <= _WRITTEN:
        trace |= {"texttemplate": "%{z:.2f}"}
    axis = {"showgrid": False, "ticks": "", "type": "category"}
    layout = {
        "height": 190 + 27 * len(names),
        "xaxis": axis | {"tickangle": -60},
        "yaxis": axis | {"autorange": "reversed"},
    }
    return {"data": [trace], "layout": layout}


def _numbers(summary: xr.Dataset, name: str, title: str) -> pd.DataFrame:
    """One row per pair of maps."""
    names = [str(each) for each in summary["explainer"].values]
    rows = [
        {
            "map": names[one],
            "other": names[other],
            title: float(summary[name].values[one, other]),
            "low": float(summary[f"{name}_low"].values[one, other]),
            "high": float(summary[f"{name}_high"].values[one, other]),
            "different images": float(summary[f"{name}_chance"].values[one, other]),
            "n": int(summary["n"].values[one, other]),
        }
        for one, other in combinations(range(len(names)), 2)
    ]
    return pd.DataFrame(rows)


def _twin_rows(summary: xr.Dataset) -> Table:
    columns = {
        "largest difference": "difference",
        "IoU at one half": "half_overlap",
        "rank correlation": "twin_correlation",
    }
    table: dict[str, Sequence[Any]] = {
        "layer": summary["twin_layer"].values.tolist(),
        "map": summary["twin_first"].values.tolist(),
        "other": summary["twin_second"].values.tolist(),
    }
    for title, name in columns.items():
        table[title] = summary[name].values.tolist()
        table[f"{title}, interval"] = [
            f"{low:.3f} to {high:.3f}"
            for low, high in zip(summary[f"{name}_low"].values, summary[f"{name}_high"].values, strict=True)
        ]
    table["n"] = summary["twin_n"].values.astype(int).tolist()
    caption = (
        "Maps that carry one method's name at one layer, by different programs or formulas, after min-max as "
        "programs show them; mean over n images with 95 % interval. The same formula gives 0, 1 and 1."
    )
    return Table(pd.DataFrame(table), caption, meanings=_TWIN_MEANINGS)
