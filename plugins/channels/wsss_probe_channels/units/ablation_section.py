"""What a reader sees of ablation: the largest effects, every channel, controls, and channel-F1 beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import scatter
from wsss_probe_channels.units.ablation_verdict import changing

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = (
    "One channel's map is set to zero, or to its mean over all positions and images of the audited data, and "
    "the rest of the network goes on. Effect: mean over images of the absolute change of the logit when "
    "set to the mean, in standard deviations of that logit over images. Accuracy: share of labelled images "
    "whose class with the largest logit is a label; of several labels, whose every class has the right sign."
)

_CLASSES = 6
"""Classes that are drawn."""

_MEANINGS = {
    "accuracy zero": "change of accuracy when the channel is set to zero",
    "accuracy mean": "change of accuracy when the channel is set to its mean over the data",
    "low": "95 % interval over groups of the change when set to zero",
    "high": "95 % interval over groups of the change when set to zero",
}


def sections(layer: str, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    layer : str
    summary : Dataset
        From :mod:`wsss_probe_channels.units.ablation_conclusion`.
    run : Run

    Yields
    ------
    Section
    """
    text = (
        "Channels are taken away one at a time. Two channels that say the same then hide each other: "
        "no effect does not mean no role. "
    )
    if summary.attrs["form"] == "resumed":
        text += (
            f"The rest of the network was run again for {int(summary['n'])} images; control networks were "
            "not run for this, so no number here is compared with chance."
        )
    if run.not_testable:
        text += f" Not testable here: {run.not_testable}."
    blocks: list[Any] = [Text(text), _figure(summary), _channels(summary), *_relation(layer, summary, run)]
    yield Section("channels", f"Channels of {layer} taken away", tuple(blocks))
    if "control" in summary.dims:
        yield Section("chance", f"Ablation at {layer} beside controls", (_controls(summary),))


def _figure(summary: xr.Dataset) -> Figure:
    """Draw the effects of all channels, sorted, one colour a class."""
    names = [str(name) for name in summary["class"].values[:_CLASSES]]
    frames = []
    for position, name in enumerate(names):
        effect = summary["relative"].values[:, position]
        order = np.argsort(-np.nan_to_num(effect, nan=-1), kind="stable")
        rank = np.arange(1, len(order) + 1)
        frames.append(pd.DataFrame({"class": name, "rank": rank, "channel": order, "effect": effect[order]}))
    data = pd.concat(frames, ignore_index=True)
    figure = scatter(
        data["rank"],
        data["effect"],
        axes=("channels, largest effect first", "effect in standard deviations of the logit"),
        labels=[f"channel {channel}" for channel in data["channel"]],
        groups=list(data["class"]),
    )
    tops = ", ".join(
        f"{name}: channel {int(row['top_channel'])}, {float(row['top_effect']):.3f} "
        f"[{float(row['top_low']):.3f}, {float(row['top_high']):.3f}]"
        for name, row in ((name, summary.isel({"class": i})) for i, name in enumerate(names))
        if int(row["top_channel"]) >= 0
    )
    caption = (
        f"Effect of setting each channel to its mean, n = {int(summary['n'])} images. Largest effect, "
        f"{summary.attrs['how']}, with its 95 % interval over groups: {tops or 'not estimable'}. "
        + ("Controls: see under chance." if "control" in summary.dims else "No control was run.")
    )
    return Figure(figure, caption, DEFINITION, data)


def _channels(summary: xr.Dataset) -> Table:
    """Write every channel, the largest effect first."""
    largest = np.nan_to_num(summary["relative"].values, nan=-1).max(axis=1)
    order = np.argsort(-largest, kind="stable")
    columns: dict[str, Any] = {"channel": order}
    for position, name in enumerate(summary["class"].values[:_CLASSES]):
        for key, title in (("logit_zero", "zero"), ("size_mean", "mean, size"), ("relative", "effect")):
            columns[f"{name}: {title}"] = summary[key].values[order, position]
    for key, title in (("", "accuracy zero"), ("_low", "low"), ("_high", "high")):
        columns[title] = summary[f"accuracy_zero{key}"].values[order]
    columns["accuracy mean"] = summary["accuracy_mean"].values[order]
    numbers = {kind: int(changing(summary, kind).sum()) for kind in ("zero", "mean")}
    caption = (
        f"One row per channel; n = {int(summary['n'])} images, {summary.attrs['labelled']} labelled. zero: "
        "mean change of the logit when the channel is set to zero; mean, size: mean absolute change when it "
        "is set to its mean; effect: that in standard deviations of the logit. The interval of the change of "
        f"accuracy excludes 0 for {numbers['zero']} channels set to zero and {numbers['mean']} set to their "
        "mean, not corrected for the number of channels."
    )
    if summary.sizes["class"] > _CLASSES:
        caption += f" The first {_CLASSES} of {summary.sizes['class']} classes are shown."
    return Table(pd.DataFrame(columns), caption, meanings=_MEANINGS)


def _relation(layer: str, summary: xr.Dataset, run: Run) -> list[Table]:
    """Rank correlation of effects with channel-F1, where both are known."""
    name = f"channel-f1@{layer}"
    if name not in run.summary_names:
        return []
    quality = run.summary(name)
    if quality.sizes["channel"] != summary.sizes["channel"]:
        return []
    rows = [
        {
            "class": str(label),
            "region": str(region),
            **_rank_correlation(summary["relative"].values[:, i], quality["mean_f1"].values[:, j]),
        }
        for i, label in enumerate(summary["class"].values[:_CLASSES])
        for j, region in enumerate(quality["class"].values)
    ]
    caption = (
        "Do channels that outline a region matter for a class? Spearman's rank correlation over channels "
        "between the effect on the logit and the mean channel-F1; n channels with both. Channels of one "
        "network are not independent, so there is no interval and no p. No control."
    )
    return [Table(pd.DataFrame(rows), caption)]


def _rank_correlation(effect: np.ndarray, f1: np.ndarray) -> dict[str, float]:
    both = np.isfinite(effect) & np.isfinite(f1)
    varied = both.sum() > 2 and np.ptp(effect[both]) > 0 and np.ptp(f1[both]) > 0
    rho = float(spearmanr(effect[both], f1[both]).statistic) if varied else float("nan")
    return {"rho": rho, "n": int(both.sum())}


def _controls(summary: xr.Dataset) -> Table:
    """Write the largest effect per class and network."""
    names = [str(name) for name in summary["class"].values[:_CLASSES]]
    own = {name: float(summary["top_effect"].values[i]) for i, name in enumerate(names)}
    rows = [{"network": "audited", **own, "changing": int(changing(summary, "zero").sum()), "note": ""}]
    for i, name in enumerate(summary["control"].values):
        effects = {label: float(summary["control_effect"].values[i, j]) for j, label in enumerate(names)}
        note = "" if summary["control_alive"].values[i] else "degenerate, counts for nothing"
        count = int(summary["control_changing"].values[i])
        rows.append({"network": str(name), **effects, "changing": count, "note": note})
    caption = (
        f"Largest effect of one channel on each class's logit, {summary.attrs['how']}, each network by "
        "itself; changing: channels set to zero whose change of accuracy has an interval that excludes 0."
    )
    return Table(pd.DataFrame(rows), caption)
