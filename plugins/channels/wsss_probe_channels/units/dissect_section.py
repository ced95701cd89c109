"""What a reader sees of Network Dissection: every channel's best concept, and concepts beside controls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import bars_with_controls

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = (
    "T: threshold of a channel with P(a > T) = share over all images and positions of the layer's grid. "
    "M: map resized bilinearly to the mask, above T. IoU = sum over images |M and L| / sum over images "
    "|M or L|, with M counted on images where the category of L is labelled, ignored pixels nowhere. "
    "Cap: min(q, p) / max(q, p) with q and p the pixels of M and L. Detector: IoU above 0.04 with the best "
    "concept. Bau, Zhou, Khosla, Oliva, Torralba, Network Dissection, arXiv:1704.05796."
)

_MEANINGS = {
    "concept": "best concept of the channel, where it is a detector",
    "detector": "whether its IoU with the best concept is above 0.04",
    "reached": "share of the layer's cells that is really above the threshold",
    "crowded": "more than twice the share is above: equal values that no threshold divides, so no detector",
    "covers": "share of mask pixels above the threshold, after resizing",
}


def sections(layer: str, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    layer : str
    summary : Dataset
        From :func:`wsss_probe_channels.units.dissect_conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    warning = (Text(f"Not testable here: {run.not_testable}."),) if run.not_testable else ()
    yield Section("channels", f"Network Dissection of {layer}", (*warning, _channels(summary)))
    yield Section("chance", f"Concepts of {layer} beside controls", (_figure(summary), _concepts(summary)))


def _channels(summary: xr.Dataset) -> Table:
    """Write every channel, the best detectors first."""
    order = np.argsort(-np.nan_to_num(summary["best_concept_iou"].values, nan=-1), kind="stable")
    columns = {"channel": order, "concept": summary["best_concept"].values[order]}
    columns |= {"detector": summary["detector"].values[order]}
    for position, name in enumerate(map(str, summary["class"].values)):
        for key, title in (("iou", "IoU"), ("cap", "cap"), ("iou_all", "IoU all images")):
            columns[f"{title} {name}"] = summary[key].values[order, position]
    for key, title in (("reached", "reached"), ("crowded", "crowded"), ("coverage", "covers")):
        columns[title] = summary[key].values[order]
    caption = (
        f"One row per channel, over all images (n = {summary.attrs['images']}). IoU from sums over images: "
        "pixels are weighed; cap: the largest IoU that regions of these sizes can have; IoU all images: the "
        "channel's pixels counted also on images without any labelled object. Intervals and controls: see "
        "under chance."
    )
    return Table(pd.DataFrame(columns), caption, meanings=_MEANINGS)


def _figure(summary: xr.Dataset) -> Figure:
    """Draw each concept's best channel with its interval, and the controls' own best."""
    names = [str(name) for name in summary["class"].values]
    data = pd.DataFrame(
        {
            "concept": names,
            **{key: summary[f"best_{key}"].values for key in ("channel", "iou", "low", "high", "n")},
            "largest possible": np.fmax.reduce(summary["cap"].values, axis=0, initial=np.nan),
        }
    )
    controls = _controls(summary)
    figure = bars_with_controls(
        names,
        data["iou"],
        controls,
        axis="IoU of the best channel",
        intervals=list(zip(data["low"], data["high"], strict=True)),
    )
    caption = (
        f"Best channel of each concept, {summary.attrs['how']}; n = {summary.attrs['scored']} images; "
        "whiskers: 95 % interval over groups"
        + ("" if np.isfinite(data["low"]).any() else " (none: counts by image were too large to keep)")
        + f"; grey: {len(controls)} living controls, whose own best channels are chosen and scored alike."
    )
    return Figure(figure, caption, DEFINITION, data)


def _controls(summary: xr.Dataset) -> dict[str, np.ndarray]:
    """IoU of the living controls' best channels by concept."""
    if "control" not in summary.dims:
        return {}
    living = zip(
        summary["control"].values, summary["control_alive"].values, summary["control_iou"].values, strict=True
    )
    return {str(name): iou for name, alive, iou in living if alive}


def _concepts(summary: xr.Dataset) -> Table:
    """Write how many detectors each network has, and what the concepts allow."""
    own = {
        "network": "audited",
        "detectors": int(summary["detector"].sum()),
        "concepts": summary.attrs["unique"],
    }
    rows = [{**own, "note": ""}]
    if "control" in summary.dims:
        names = ("control", "control_detectors", "control_unique", "control_alive")
        rows += [
            {
                "network": str(name),
                "detectors": int(detectors),
                "concepts": int(unique),
                "note": "" if alive else "degenerate, counts for nothing",
            }
            for name, detectors, unique, alive in zip(*(summary[key].values for key in names), strict=True)
        ]
    allowed = ", ".join(
        f"{name} covers {share:.1%}" if np.isfinite(share) else f"{name} is absent"
        for name, share in zip(summary["class"].values, summary["prevalence"].values, strict=True)
    )
    caption = (
        f"Detectors (channels whose IoU with their best concept is above 0.04) of {summary.sizes['channel']} "
        f"channels, and distinct concepts among them, over all images. Of the pixels, {allowed}: a concept "
        "much larger than a channel's region cannot be detected, see the cap."
    )
    return Table(pd.DataFrame(rows), caption)
