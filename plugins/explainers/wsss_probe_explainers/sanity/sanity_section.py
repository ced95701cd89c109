"""What a reader sees of the sanity checks: similarity against depth of forgetting, and every number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import CONTROL_COLOR
from wsss_probe_explainers.line_plot import line_plot

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

_DEFINITION = (
    "Layers with parameters are parted into groups in the order in which they run and drawn again "
    "by each layer's own initialisation, or permuted, and scaled so that its output keeps its spread; "
    "BatchNorm among them learns its statistics anew. Similarity: Spearman's rank correlation over cells of "
    "the absolute map with that of the trained network, same image and class. Adebayo et al. (2018), "
    "arXiv:1810.03292."
)

_MEANINGS = {
    "chance": "absolute rank correlation of maps of different images, trained network",
    "all forgotten": "absolute rank correlation with the trained network's map, everything drawn again",
    "kept": "share of the way from chance to identity that is left; 0.5 and above hardly depends on weights",
    "signed": "rank correlation with sign, everything drawn again",
    "SSIM": "structural similarity of absolute maps, everything drawn again",
    "other class": "rank correlation with the map for another class, drawn for each image",
    "alive": "whether the drawn network's maps differ between images at all",
}


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        From :mod:`wsss_probe_explainers.sanity.sanity_conclusion`.
    run : Run

    Yields
    ------
    Section
    """
    text = (
        "Do the maps need what the network has learned? Its layers are drawn again, from the output down, "
        "and each group alone. A map that stays as it was shows the image, not the network. A map that "
        "changes may still be a poor explanation."
    )
    if run.not_testable:
        text += f" Not testable here: {run.not_testable}."
    blocks: list[Any] = [Text(text)]
    if summary.sizes["step"]:
        blocks += [_curves(summary, order) for order in ("cascading", "independent")]
        blocks += [_table(summary)]
    yield Section("chance", "Maps of a network that forgets", tuple(blocks))


def _curves(summary: xr.Dataset, order: str) -> Figure:
    """Draw similarity against the group, over the range of chance."""
    places = np.flatnonzero(summary["order"].values == order)
    if order == "independent":  # its first group is the cascade's first step
        places = np.r_[np.flatnonzero(summary["order"].values == "cascading")[:1], places]
    part = summary.isel(step=places).sel(similarity="absolute")
    names = [str(name) for name in summary["explainer"].values]
    depth = part["depth"].values
    curves = {name: part["mean"].values[:, at] for at, name in enumerate(names)}
    axes = (
        "groups of layers drawn again, from the output" if order == "cascading" else "the group drawn again",
        "absolute rank correlation",
    )
    plot = line_plot(depth, curves, set(), axes)
    chance = summary["chance"].sel(similarity="absolute").values
    plot["layout"] |= _band(chance)
    data = pd.DataFrame({"group": depth, "layers": part["modules"].values, **curves})
    dead = int((~part["alive"].values).sum())
    what = (
        "Groups drawn again from the output down" if order == "cascading" else "Each group drawn again alone"
    )
    caption = (
        f"{what}, mean over n = {summary.attrs['n']} images of {summary.attrs['groups']} groups; 1: the map "
        f"itself; grey: maps of different images, trained network, {np.nanmin(chance, initial=1):.2f} to "
        f"{np.nanmax(chance, initial=-1):.2f}, by explainer. {dead} of {part['alive'].size} points are of "
        "networks whose maps no longer differ between images; they say nothing."
    )
    return Figure(plot, caption, _DEFINITION, data)


def _band(chance: np.ndarray) -> dict[str, Any]:
    finite = chance[np.isfinite(chance)]
    if not len(finite):
        return {}
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": float(finite.min()), "y1": float(finite.max())}
    fill = {"fillcolor": CONTROL_COLOR, "opacity": 0.2, "line": {"width": 0}, "layer": "below"}
    return {"shapes": [{"type": "rect", **ends, **fill}]}


def _table(summary: xr.Dataset) -> Table:
    """Write what is left of every map."""
    whole = int(np.flatnonzero(summary["order"].values == "cascading")[-1])
    last = summary.isel(step=whole)
    chance = summary["chance"].sel(similarity="absolute").values
    ends = zip(summary["excess_low"].values, summary["excess_high"].values, strict=True)
    frame = pd.DataFrame(
        {
            "map": [str(name) for name in summary["explainer"].values],
            "verdict": summary["verdict"].values,
            "chance": chance,
            "all forgotten": chance + summary["excess"].values,
            "above chance 95 %": [f"[{low:+.2f}, {high:+.2f}]" for low, high in ends],
            "kept": summary["kept"].values,
            "signed": last["mean"].sel(similarity="signed").values,
            "SSIM": last["mean"].sel(similarity="ssim").values,
            "other class": summary["logit"].sel(similarity="signed").values,
            "alive": ["yes" if own else "no" for own in last["alive"].values],
        }
    )
    caption = (
        f"One row per explainer and layer; n = {summary.attrs['n']} images, 95 % intervals over "
        f"{summary.attrs['groups']} groups; everything forgotten: mean over {summary.attrs['draws']} draws "
        "(signed and SSIM: the first). Control: maps of different images by the trained network."
    )
    return Table(frame.sort_values("kept", ascending=False, kind="stable"), caption, meanings=_MEANINGS)
