"""What a reader sees of channel-f1-fine: the finer numbers beside the coarse ones, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Section, Table, Text
from wsss_probe.report.markdown import literal

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_channels.screening.fine import ChannelF1Fine

__all__ = ["sections"]

SHOWN = 10
"""Channels per class in the table; the stored summary has all that were screened."""


def sections(probe: ChannelF1Fine, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    probe : ChannelF1Fine
    summary : Dataset
        From :func:`wsss_probe_channels.screening.fine_conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    classes = [str(name) for name in summary["class"].values]
    words = (
        f"Order of operations: {summary.attrs['order']}. Screened are {summary.attrs['screened']} of "
        f"{summary.sizes['channel']} channels: {_which(probe)}."
    )
    words += f" Not testable here: {run.not_testable}" if run.not_testable else ""
    blocks = (Text(words), _channels(summary, classes), _agreement(summary, classes))
    yield Section("channels", f"Best channels of {probe.layer}, screened again finely", blocks)
    yield Section("chance", f"Finely screened channels of {probe.layer} beside controls", (_chance(summary),))


def _which(probe: ChannelF1Fine) -> str:
    if probe.channels == 0:
        return "all of the layer"
    return f"the {probe.channels} best of each class in {literal(probe.coarse)}, over all images"


def _channels(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write the best channels of each class with their finer and coarser means."""
    frames = []
    for position, name in enumerate(classes):
        mean = summary["mean_f1"].values[:, position]
        order = np.argsort(-mean, kind="stable")[: min(SHOWN, int(np.isfinite(mean).sum()))]
        values = {c: summary[c].values[order, position] for c in ("mean_f1", "low", "high", "change")}
        values["coarse_f1"] = values["mean_f1"] - values["change"]
        frames.append(pd.DataFrame({"class": name, "channel": order, **values}))
    caption = (
        f"Best {SHOWN} channels per class on the finer grid. Mean over the images where F1 is defined, 95 % "
        "interval over groups; the channels are the best on these same images, and the interval does not pay "
        f"for that. {_sizes(summary, classes)} Held-out scores and controls: see under chance."
    )
    meanings = {
        "mean_f1": "mean F1 over images on the finer grid",
        "low": "lower end of its 95 % interval over groups",
        "high": "upper end of its 95 % interval over groups",
        "change": "mean_f1 minus coarse_f1",
        "coarse_f1": "mean F1 of the same channel in the coarse screen, channel-f1",
    }
    return Table(pd.concat(frames, ignore_index=True), caption, meanings=meanings)


def _sizes(summary: xr.Dataset, classes: Sequence[str]) -> str:
    present = summary["present"].values
    ones = summary["all_ones_f1"].values
    parts = [
        f"{name} in {count} images (all-ones mask {one:.3f})"
        for name, count, one in zip(classes, present, ones, strict=True)
    ]
    return "; ".join(parts) + "."


def _agreement(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write how far the two screens agree."""
    columns = ("agreement", "compared", "mean_change", "largest_change", "coarse_channel", "coarse_f1")
    frame = pd.DataFrame({"class": classes, **{name: summary[name].values for name in columns}})
    caption = (
        "How far the finer screen agrees with the coarse one, over the channels that both have scored. Where "
        "only the best channels were screened again, agreement is lower than it would be over all. No "
        "comparison with a control: these are two readings of the same network."
    )
    meanings = {
        "agreement": "Spearman's rank correlation of the two means over channels",
        "compared": "channels compared",
        "mean_change": "mean over channels of finer minus coarse mean F1",
        "largest_change": "largest absolute change of a channel's mean F1",
        "coarse_channel": "first channel of the coarse screen, -1 where none has a rank",
        "coarse_f1": "its mean F1 there",
    }
    return Table(frame, caption, meanings=meanings)


def _chance(summary: xr.Dataset) -> Table:
    """Write what the best channel of each network reaches on images that it was not chosen on."""
    classes = [str(name) for name in summary["class"].values]
    audited = {
        "class": classes,
        "network": "audited",
        "channel": summary["best_channel"].values,
        "f1": summary["best_f1"].values,
        "low": summary["best_low"].values,
        "high": summary["best_high"].values,
        "n": summary["best_n"].values,
        "note": summary["best_note"].values,
    }
    ones = {"network": "all-ones mask", "f1": summary["best_all_ones_f1"].values, "note": "baseline"}
    rule = {
        "network": [f"Otsu of the {name or 'input'}" for name in summary["best_intensity_rule"].values],
        "f1": summary["best_intensity_f1"].values,
        "note": "baseline without a network, chosen and scored alike",
    }
    parts: list[Mapping[str, Any]] = [audited, ones, rule, *_controls(summary)]
    frames = [pd.DataFrame({"class": classes, **part}) for part in parts]
    caption = (
        f"Best of the finely screened channels per class, {summary.attrs['how']}; f1: mean F1 on the scoring "
        "images (n), low and high its 95 % interval over groups. Controls screen, choose and score their own "
        "best channels alike."
    )
    table = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    return Table(table, caption)


def _controls(summary: xr.Dataset) -> list[Mapping[str, Any]]:
    if "control" not in summary.dims:
        return []
    alive = summary["control_alive"].values.astype(bool)
    return [
        {
            "network": str(name),
            "channel": summary["control_channel"].values[row],
            "f1": summary["control_f1"].values[row],
            "note": "" if alive[row] else "degenerate, counts for nothing",
        }
        for row, name in enumerate(summary["control"].values)
    ]
