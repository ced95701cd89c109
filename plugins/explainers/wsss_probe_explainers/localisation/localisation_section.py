"""What a reader sees of localisation: how maps, baselines and controls rank, and what thresholds do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Section, Table, Text
from wsss_probe.report.markdown import literal
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_explainers.localisation.localisation_figures import curves, ranking_figure, reached_figure

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block

__all__ = ["sections"]

MEANINGS = {
    "average precision": "mean over images of PxAP of the image alone; chance is the region's share",
    "low": "lower end of its 95 % interval over groups",
    "high": "upper end of its 95 % interval over groups",
    "n": "images with a map and a region",
    "PxAP": "all pixels pooled, 1,000 steps; chance is the prevalence",
    "PxAP low": "lower end of its 95 % interval over groups, from 100 steps",
    "PxAP high": "upper end of its 95 % interval over groups, from 100 steps",
    "AUPRC": "area under precision and recall of the same pixels, exact between the steps",
    "prevalence": "share of the pooled pixels in the region",
    "pointing": "mean hit of the largest value; ties give the expected hit",
    "mass inside": "mean share of the positive relevance in the region; chance is the region's share",
    "objects reached": "mean share of connected objects, the map marking as many pixels as they have",
    "threshold": "of the map scaled to [0, 1], with the largest mean Dice on the choosing images",
    "Dice": "mean over the scoring images at that threshold",
    "IoU": "mean over the scoring images at that threshold",
    "MaxBoxAcc": "box of the largest part, IoU from .5, at the best threshold of these images: optimistic",
    "MaxBoxAccV2": "best box of all parts, mean over IoU from .3, .5, .7, each at its best threshold",
    "constant": "maps with one value only",
    "undefined": "maps with a value that is not finite",
}

COLUMNS = {
    "average precision": "average_precision",
    "low": "average_precision_low",
    "high": "average_precision_high",
    "n": "average_precision_n",
    "PxAP": "pxap",
    "PxAP low": "pxap_low",
    "PxAP high": "pxap_high",
    "AUPRC": "auprc",
    "prevalence": "prevalence",
    "pointing": "pointing",
    "mass inside": "inside",
    "objects reached": "recall",
    "threshold": "chosen_threshold",
    "Dice": "dice",
    "IoU": "iou",
    "MaxBoxAcc": "max_box_acc",
    "MaxBoxAccV2": "max_box_acc_v2",
    "constant": "constant",
    "undefined": "undefined",
}


def sections(summary: xr.Dataset) -> Iterable[Section]:
    """Build the report's sections.

    Parameters
    ----------
    summary : Dataset
        From :func:`~wsss_probe_explainers.localisation.localisation_conclusion.conclude`.

    Yields
    ------
    Section
    """
    intro = Text(_intro(summary))
    if not summary.attrs["images"]:
        yield Section("where", "Relevance maps against the masks", (intro,))
        return
    blocks: list[Block] = [intro, ranking_figure(summary), _table(summary)]
    blocks += [figure for figure in (reached_figure(summary), *curves(summary)) if figure is not None]
    yield Section("where", "Relevance maps against the masks", tuple(blocks))
    yield Section("chance", "Relevance maps beside maps that know nothing", tuple(_beside(summary)))


def _intro(summary: xr.Dataset) -> str:
    """Say what maps are compared with, on which images."""
    attrs = summary.attrs
    independent = "; images treated as independent" if attrs["independent"] else ""
    few = f" Fewer than {FEW_GROUPS} groups: no verdict." if attrs["groups"] < FEW_GROUPS else ""
    return (
        f"Maps for the target {literal(attrs['target'])} are compared with {literal(attrs['truth'])}. "
        f"{attrs['images']} images in {attrs['groups']} groups have such a region{independent}; "
        f"{attrs['empty']} have none and are left out.{few} Maps are resized bilinearly "
        "(align_corners=False) to the masks and, where a threshold is needed, scaled to [0, 1] one by one. "
        f"Thresholds were {literal(attrs['parting'])}, for baselines and controls alike."
    )


def _table(summary: xr.Dataset) -> Table:
    """Write every number of every kind of map."""
    order = np.argsort(-summary["average_precision"].values, kind="stable")
    values = {title: summary[name].values[order] for title, name in COLUMNS.items()}
    kinds = np.where(summary["explains"].values[order], "explainer", "baseline")
    frame = pd.DataFrame({"map": summary["explainer"].values[order], "kind": kinds, **values})
    for measure, title in (("average_precision", "controls"), ("dice", "controls' Dice")):
        frame[title] = _control_ranges(summary, f"control_{measure}", order)
    caption = (
        f"One row per kind of map, by mean average precision over {summary.attrs['images']} images "
        f"({summary.attrs['groups']} groups). Baselines know nothing of the network and stand once for each "
        "grid. controls: lowest and highest mean of the same map on living controls. Dice and IoU are "
        "held out."
    )
    return Table(frame, caption, meanings=MEANINGS)


def _control_ranges(summary: xr.Dataset, name: str, order: np.ndarray) -> list[str]:
    """Lowest and highest mean of the controls, in words; empty where none lives."""
    if name not in summary:
        return [""] * len(order)
    columns = summary[name].values[:, order].T
    kept = [column[np.isfinite(column)] for column in columns]
    explains = summary["explains"].values[order]
    return [
        f"{column.min():.3f} to {column.max():.3f}" if own and len(column) else ""
        for column, own in zip(kept, explains, strict=True)
    ]


def _beside(summary: xr.Dataset) -> Iterable[Block]:
    """Tables of paired comparisons."""
    caption = (
        "Mean over images of the difference of average precision, with its 95 % interval over groups; p by "
        "flipped signs of groups (999 flips), q by Benjamini and Hochberg over this table."
    )
    first = _pairs(summary, "comparison")
    yield Table(
        first, f"Each explainer against the baselines on its grid and against itself on controls. {caption}"
    )
    rivals = _pairs(summary, "rivalry").drop(columns="kind")
    if len(rivals):
        yield Table(rivals, f"Each explainer against every other. {caption}")


def _pairs(summary: xr.Dataset, dimension: str) -> pd.DataFrame:
    """Write one family of comparisons; pairs without a common image are left out."""
    names = ("map", "other", "kind", "mean", "low", "high", "p", "q", "n", "groups")
    frame = pd.DataFrame({name: summary[f"{dimension}_{name}"].values for name in names})
    frame = frame[frame["n"] > 0].rename(columns={"mean": "difference", "other": "against"})
    return frame.reset_index(drop=True)
