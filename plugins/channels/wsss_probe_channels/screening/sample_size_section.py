"""How few images suffice, as a figure with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure
from wsss_probe.report.figures import CONTROL_COLOR, PALETTE
from wsss_probe_channels.screening.sample_size import DRAWS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sample_size_figure", "sample_size_frame"]

DEFINITION = (
    "Twenty times, groups are divided at random in two; m images are sampled from one part and compared with "
    "all images of the other. Agreement: Spearman's rank correlation over channels of the mean F1. Regret: "
    "mean F1, on the other part, of the best channel there minus that of the channel that is best on the m "
    "images. The best channel there is itself the luckiest of many, so the regret does not reach 0. "
    "Numbers: medians over draws, low and high the 10th and 90th percentile; blind_regret, of a channel "
    "drawn at random; draws, those with the class in both parts; controls_low and controls_high, the range "
    "over living controls of their median agreement."
)
_MOST, _GAP = 6, 0.07
_MEASURES = ("sample_agreement", "sample_regret")
_TITLES = ("rank agreement", "regret, F1")


def sample_size_frame(summary: xr.Dataset, classes: Sequence[str]) -> pd.DataFrame:
    """Write one row per class and size of the sample; no rows without samples.

    Parameters
    ----------
    summary : Dataset
        From :func:`wsss_probe_channels.screening.conclusion.conclude`.
    classes : sequence of str

    Returns
    -------
    DataFrame
    """
    if "sampled" not in summary.dims:
        return pd.DataFrame(columns=["class", "images"])
    names = [name for measure in _MEASURES for name in (measure, f"{measure}_low", f"{measure}_high")]
    low, high = _control_agreement(summary)
    frames = []
    for position, label in enumerate(classes):
        own = {name.removeprefix("sample_"): summary[name].values[:, position] for name in names}
        frame = pd.DataFrame({"class": label, "images": summary["sampled"].values, **own})
        frame["blind_regret"] = summary["sample_blind"].values[:, position]
        frame["draws"] = summary["sample_draws"].values[:, position]
        frame["controls_low"], frame["controls_high"] = low[:, position], high[:, position]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _control_agreement(summary: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Range (sampled, class) over living controls of their median agreement; NaN without."""
    nothing = np.full(summary["sample_agreement"].shape, np.nan)
    if "control_sample_agreement" not in summary:
        return nothing, nothing
    alive = summary["control_alive"].values.astype(bool)
    found = summary["control_sample_agreement"].values[alive]
    defined = np.isfinite(found)
    low = np.where(defined, found, np.inf).min(axis=0, initial=np.inf)
    high = np.where(defined, found, -np.inf).max(axis=0, initial=-np.inf)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def sample_size_figure(summary: xr.Dataset, layer: str, classes: Sequence[str]) -> Figure | None:
    """Draw agreement and regret over the number of images, one column per class.

    Parameters
    ----------
    summary : Dataset
    layer : str
    classes : sequence of str

    Returns
    -------
    Figure or None
        At most six columns; the numbers of all classes are in its data. None without samples.
    """
    frame = sample_size_frame(summary, classes)
    if not len(frame):
        return None
    shown = list(classes[:_MOST])
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": 460, "showlegend": False, "annotations": []}
    for column, name in enumerate(shown):
        own = frame[frame["class"] == name]
        data += [_controls(own, column), *_lines(own, "agreement", column, 2 * column)]
        data += [*_lines(own, "regret", column, 2 * column + 1), _blind(own, 2 * column + 1)]
        _add_column(layout, column, len(shown), own)
    caption = (
        f"How few images suffice at {layer}: line, median of {DRAWS} draws; band, 10th to 90th percentile "
        "over draws (not an interval over groups: draws share images). Grey: range over the living controls "
        "of their median agreement, since channels of a network that learned nothing keep their order as "
        "well; dotted: regret of a channel drawn at random."
    )
    return Figure({"data": data, "layout": layout}, caption, DEFINITION, frame)


def _axes(panel: int) -> dict[str, str]:
    return {"xaxis": f"x{panel + 1}", "yaxis": f"y{panel + 1}"}


def _lines(own: pd.DataFrame, measure: str, column: int, panel: int) -> list[dict[str, Any]]:
    """Draw the median and the band of one measure; undefined sizes are left out."""
    kept = own[np.isfinite(own[measure])]
    color = PALETTE[column % len(PALETTE)]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": kept["images"].tolist(),
        "y": kept[measure].tolist(),
        "line": {"color": color, "width": 2},
        "hovertemplate": "%{x} images: %{y:.3f}<extra></extra>",
    }
    return [_band(kept, f"{measure}_low", f"{measure}_high", color) | _axes(panel), line | _axes(panel)]


def _band(kept: pd.DataFrame, low: str, high: str, color: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "fill": "toself",
        "opacity": 0.25,
        "x": [*kept["images"], *kept["images"][::-1]],
        "y": [*kept[low], *kept[high][::-1]],
        "fillcolor": color,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _controls(own: pd.DataFrame, column: int) -> dict[str, Any]:
    kept = own[np.isfinite(own["controls_low"])]
    return _band(kept, "controls_low", "controls_high", CONTROL_COLOR) | _axes(2 * column)


def _blind(own: pd.DataFrame, panel: int) -> dict[str, Any]:
    kept = own[np.isfinite(own["blind_regret"])]
    line = {"dash": "dot", "width": 1.5, "color": CONTROL_COLOR}
    ends = {"x": kept["images"].tolist(), "y": kept["blind_regret"].tolist()}
    hover = "random channel: %{y:.3f}<extra></extra>"
    return {"type": "scatter", "mode": "lines", **ends, "line": line, "hovertemplate": hover} | _axes(panel)


def _add_column(layout: dict[str, Any], column: int, columns: int, own: pd.DataFrame) -> None:
    """Place the two panels of a class below each other, agreement on top, and name them."""
    width = (1 - _GAP * (columns - 1)) / columns
    left = column * (width + _GAP)
    sizes = own["images"].tolist()
    for row, (low, high) in enumerate(((0.56, 1.0), (0.0, 0.44))):
        panel = 2 * column + row + 1
        across = {"type": "log", "domain": [left, left + width], "anchor": f"y{panel}"}
        layout[f"xaxis{panel}"] = {**across, "tickvals": sizes, "ticktext": [str(size) for size in sizes]}
        layout[f"yaxis{panel}"] = {"domain": [low, high], "anchor": f"x{panel}"}
        if column == 0:
            layout[f"yaxis{panel}"]["title"] = {"text": _TITLES[row]}
        if row:
            layout[f"xaxis{panel}"]["title"] = {"text": "images"}
    place = {"x": left, "xref": "paper", "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    layout["annotations"].append({**place, "text": str(own["class"].iloc[0]), "showarrow": False})
