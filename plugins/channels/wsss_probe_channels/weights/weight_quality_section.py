"""What a reader sees of weights and channel quality: the correlations, their reference, the scatter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Finding, Section, Table
from wsss_probe.report.figures import scatter
from wsss_probe_channels.weights.correspondence import REMEDY

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run

__all__ = ["findings", "no_class_finding", "sections"]

LEVEL, FEW_GROUPS = 0.05, 10

DEFINITION = (
    "Spearman's rho and Kendall's tau-b across the channels of the layer between a predictor and the mean "
    "over images of channel-F1 with the class (Feng, Hafiane, Laurent, Weakly Supervised Segmentation of "
    "Histopathology Images, sections 2.5 and 3). Interval: groups of images resampled, means and ranks taken "
    "anew. p: channels exchanged, two-sided; q: Benjamini-Hochberg over predictors and classes."
)


# -- what may be said --------------------------------------------------------------------------


def no_class_finding(layer: str) -> Finding:
    """Say that no class of the network is a region of the masks, so that nothing can be correlated."""
    statement = (
        f"Layer {layer}: no class of the network corresponds to a mask class, so whether weights predict "
        f"what channels outline is not estimable; {REMEDY}."
    )
    return Finding(f"weight-quality@{layer}", "notice", statement, n=0)


def findings(summary: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State for each class whether the head weight predicts how well a channel outlines it.

    ``ok``, that it does, needs all of: q below .05, an interval that leaves out 0, a living control
    network with such weights, a correlation farther from 0 than that of every such control, at least
    ten groups, and a classifier that can be tested.

    Parameters
    ----------
    summary : Dataset
        Of weight-quality.
    run : Run

    Returns
    -------
    tuple of Finding
    """
    names = enumerate(map(str, summary["class"].values))
    return tuple(_finding(summary.isel({"class": position}), name, run) for position, name in names)


def _finding(table: xr.Dataset, name: str, run: Run) -> Finding:
    layer, channels = table.attrs["layer"], int(table["channels"])
    title = f"weight-quality/{name}@{layer}"
    subject = f"Layer {layer}, class {name} (mask {table['region'].item()})"
    rho, low, high, p, q = (
        float(table[key].values[0]) for key in ("spearman", "spearman_low", "spearman_high", "p", "q")
    )
    if not np.isfinite(rho):
        text = f"{subject}: not estimable whether weights predict channel-F1, {channels} channels have one."
        return Finding(title, "notice", text, n=0, unit="Spearman's rho")
    reference, tau = _controls(table), float(table["kendall"].values[0])
    clears = q < LEVEL and low * high > 0 and len(reference) > 0 and abs(rho) > np.abs(reference).max()
    parts = [
        f"{subject}: Spearman between {_kind(table)} and mean F1 over {channels} channels is {rho:.2f} "
        f"[{low:.2f}, {high:.2f}] (p = {p:.2g}, q = {q:.2g}; Kendall {tau:.2f})",
        _strongest(table),
        _control_words(reference),
        f"a rho nearer to 0 than {float(table['detectable']):.2f} would mostly go unseen here",
        *_notes(table),
    ]
    if run.not_testable:
        parts.append(f"not testable here: {run.not_testable}")
    return Finding(
        title,
        "ok" if clears and not run.not_testable and table.attrs["groups"] >= FEW_GROUPS else "notice",
        "; ".join(part for part in parts if part) + ".",
        effect=rho,
        interval=(low, high),
        n=table.attrs["images"],
        groups=table.attrs["groups"],
        unit="Spearman's rho",
        control=f"{len(reference)} control networks, {table.attrs['permutations']} orders of the channels",
    )


def _kind(summary: xr.Dataset) -> str:
    return "head weight" if summary.attrs["kind"] == "head" else "effective weight"


def _controls(table: xr.Dataset) -> np.ndarray:
    """Correlations of the weight in living control networks that have such weights, (control,)."""
    if "control" not in table.dims:
        return np.empty(0)
    values = table["control_spearman"].values[table["control_alive"].values.astype(bool), 0]
    kept: np.ndarray = values[np.isfinite(values)]
    return kept


def _control_words(reference: np.ndarray) -> str:
    if not len(reference):
        return "no living control network with such weights, no verdict"
    number = f"{len(reference)} control network{'s' if len(reference) > 1 else ''}"
    return f"in {number} it is {reference.min():.2f} to {reference.max():.2f}"


def _strongest(table: xr.Dataset) -> str:
    """Name the predictor with the largest correlation where it is another one."""
    rho = table["spearman"].values
    best = int(np.nanargmax(np.abs(rho)))
    if best == 0:
        return ""
    name = str(table["predictor"].values[best])
    return f"{name} correlates more, {rho[best]:.2f} (q = {float(table['q'].values[best]):.2g})"


def _notes(summary: xr.Dataset) -> list[str]:
    """What must be told beside the interval."""
    groups, given = summary.attrs["groups"], summary.attrs["grouped"]
    notes = [] if given else ["images treated as independent"]
    return notes + ([f"interval unreliable: fewer than {FEW_GROUPS} groups"] if groups < FEW_GROUPS else [])


# -- what is shown -----------------------------------------------------------------------------


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section for one layer; none where nothing could be correlated.

    Parameters
    ----------
    summary : Dataset
        Of weight-quality.
    run : Run

    Yields
    ------
    Section
    """
    if "spearman" not in summary:
        return
    classes = [str(name) for name in summary["class"].values]
    figures = [_scatter(summary.isel({"class": i}), name) for i, name in enumerate(classes)]
    blocks: tuple[Block, ...] = (_table(summary, classes, run.not_testable), *figures)
    yield Section(
        "channels", f"Do weights predict which channels of {summary.attrs['layer']} are good?", blocks
    )


def _table(summary: xr.Dataset, classes: list[str], not_testable: str) -> Table:
    """One row per class and predictor, beside the control networks."""
    low, high = _control_range(summary)
    names = [str(name) for name in summary["predictor"].values]
    frames = [
        pd.DataFrame(
            {
                "class": name,
                "predictor": names,
                "Spearman": summary["spearman"].values[row],
                "low": summary["spearman_low"].values[row],
                "high": summary["spearman_high"].values[row],
                "p": summary["p"].values[row],
                "q": summary["q"].values[row],
                "controls from": low[row],
                "controls to": high[row],
                "Kendall": summary["kendall"].values[row],
                "Kendall low": summary["kendall_low"].values[row],
                "Kendall high": summary["kendall_high"].values[row],
            }
        )
        for row, name in enumerate(classes)
    ]
    attrs = summary.attrs
    seen = ", ".join(
        f"{one} {int(n)} channels, detectable rho {float(least):.2f}"
        for one, n, least in zip(
            classes, summary["channels"].values, summary["detectable"].values, strict=True
        )
    )
    caption = (
        f"Rank correlation across channels of {_kind(summary)} with mean channel-F1; {attrs['images']} "
        f"images in {attrs['groups']} groups. low, high: 95 % over groups of images (Kendall from fewer "
        f"resamples). p: {attrs['permutations']} orders of the channels; q over predictors and classes; "
        "controls: Spearman in living control networks with weights of their own. "
        f"{seen} (80 % power at .05)."
    )
    notes = _notes(summary) + ([f"not testable here: {not_testable}"] if not_testable else [])
    return Table(pd.concat(frames, ignore_index=True), " ".join([caption, *(f"{n}." for n in notes)]))


def _control_range(summary: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest correlation of living controls, each (class, predictor); NaN without."""
    shape = summary["spearman"].shape
    if "control" not in summary.dims:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    values = summary["control_spearman"].values[summary["control_alive"].values.astype(bool)]
    defined = np.isfinite(values)
    low = np.where(defined, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(defined, values, -np.inf).max(axis=0, initial=-np.inf)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def _scatter(table: xr.Dataset, name: str) -> Figure:
    """One point per channel: its weight for the class and its mean F1 with it."""
    weight, f1 = table["weight"].values, table["mean_f1"].values
    shown = np.flatnonzero(np.isfinite(f1) & np.isfinite(weight))
    data = pd.DataFrame({"channel": shown, "weight": weight[shown], "mean_f1": f1[shown]})
    axes = (f"{_kind(table)} for {name}", f"mean F1 with {table['region'].item()}")
    figure = scatter(
        data["weight"], data["mean_f1"], axes=axes, labels=[f"channel {channel}" for channel in shown]
    )
    low, high = (float(table[f"spearman_{end}"].values[0]) for end in ("low", "high"))
    caption = (
        f"Class {name}: {len(shown)} channels with an F1 on at least half of the images with the class; "
        f"Spearman {float(table['spearman'].values[0]):.2f} [{low:.2f}, {high:.2f}], "
        f"n = {table.attrs['images']} images. Control: {_control_words(_controls(table))}."
    )
    return Figure(figure, caption, DEFINITION, data)
