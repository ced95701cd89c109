"""What a reader sees of maps with the same pooled value: some of them, and how alike they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Gallery, Picture, Section, Table, Text
from wsss_probe.report.figures import histogram
from wsss_probe_channels.pairs.same_gap_conclusion import KINDS, LIKENESS

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_channels.pairs.same_gap import SameGap

__all__ = ["sections"]

SHOWN = 2
"""Couples of each kind that are shown: four columns in all, as in the paper's figure 2."""

DEFINITION = (
    "G = mean of a map over positions. Two maps agree if |G_a - G_b| <= tolerance * max(G_a, G_b), both G "
    "positive. F1 between the Otsu masks of the two maps, NaN where one is constant. Feng, Hafiane, Laurent, "
    "Weakly Supervised Segmentation of Histopathology Images: An Insight in Feature Maps Ability for "
    "Learning Models Interpretation, section 2.3 and figure 2."
)

MEANINGS = {
    "likeness": "correlation: Pearson's over positions; f1: of the Otsu masks; maxima: smaller over larger",
    "same": "mean over couples whose pooled values agree",
    "different": "mean over the same first maps with a third map, whose pooled value does not agree",
    "difference": "same less different",
    "all couples": "couples that agree among the images looked at; the others are drawn from them",
}


def sections(probe: SameGap, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    probe : SameGap
    summary : Dataset
        From :func:`wsss_probe_channels.pairs.same_gap_conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    title = f"Maps of {probe.layer} with the same pooled value"
    seen = np.isfinite(summary["value"].values[:, :, LIKENESS.index("f1"), 0]).any(axis=1)
    if not seen.any():
        text = Text("No two maps that vary have the same positive pooled value.")
        yield Section("channels", title, (text,))
        return
    gallery = _gallery(probe, summary, run)
    if gallery.rows:
        yield Section("channels", title, (gallery,))
    figures = [_figure(summary, int(kind)) for kind in np.flatnonzero(seen)]
    title = f"Same pooled value at {probe.layer} beside different ones"
    yield Section("chance", title, (_table(summary), *figures))


def _table(summary: xr.Dataset) -> Table:
    """Write how alike couples are that agree and that do not."""
    size = len(LIKENESS)
    columns = ("same", "different", "difference", "low", "high")
    frame = pd.DataFrame(
        {
            "couple": np.repeat(np.array(KINDS, dtype=object), size),
            "likeness": np.tile(np.array(LIKENESS, dtype=object), len(KINDS)),
            **{name: summary[name].values.ravel() for name in columns},
            "couples": np.repeat(summary["couples"].values, size),
            "all couples": np.repeat(summary["total"].values, size),
        }
    )
    note = next((f" ({text})" for text in summary["note"].values if text), "")
    caption = (
        f"Couples of maps of {summary.attrs['shown']} images whose pooled values agree within "
        f"{summary.attrs['tolerance']:g} of the larger, and the same first maps with a third whose "
        "value does not agree. low, high: 95 % interval of the difference over groups of the first image"
        f"{note}. F1 rises with the share of the grid that both masks cover, and equal means go with equal "
        "shares: read the correlation as well."
    )
    return Table(frame, caption, meanings=MEANINGS)


def _figure(summary: xr.Dataset, kind: int) -> Figure:
    """Draw the distribution of F1 over couples of one kind."""
    f1 = summary["value"].values[kind, :, LIKENESS.index("f1")]
    name = KINDS[kind]
    figure = histogram(
        {"same pooled value": f1[:, 0], "different pooled values": f1[:, 1]},
        axis=f"F1 between the Otsu masks of two maps ({name})",
        bins=20,
    )
    same, other = (column[np.isfinite(column)] for column in f1.T)
    low, middle, high = np.quantile(same, (0.25, 0.5, 0.75)) if len(same) else [np.nan] * 3
    caption = (
        f"Couples of {name}: {len(same)} with the same pooled value, median F1 {middle:.2f} (quartiles "
        f"{low:.2f} to {high:.2f}); grey: {len(other)} with different pooled values. "
        f"{summary.attrs['shown']} images."
    )
    data = pd.DataFrame(f1, columns=["same", "different"])
    return Figure(figure, caption, DEFINITION, data)


# -- pictures ----------------------------------------------------------------------------------


def _gallery(probe: SameGap, summary: xr.Dataset, run: Run) -> Gallery:
    """Show couples of median correlation, the two maps of a couple in one column."""
    chosen = [(kind, couple) for kind in range(len(KINDS)) for couple in _typical(summary, kind)]
    columns = [
        [_picture(probe, summary.isel({"kind": k, "couple": c, "map": m}), run) for m in (0, 1)]
        for k, c in chosen
    ]
    rows = tuple(
        (f"{which} map of each couple", tuple(column[place] for column in columns))
        for place, which in enumerate(("first", "second"))
        if columns
    )
    names = ", ".join(KINDS[kind] for kind, _ in chosen)
    caption = (
        f"Each column: two maps with the same pooled value G, as in figure 2 of Feng et al. ({names}); Max "
        "is the map's largest value. The couples of median correlation are shown, so neither the most alike "
        "nor the least."
    )
    return Gallery(rows, caption)


def _typical(summary: xr.Dataset, kind: int) -> list[int]:
    """Couples around the median correlation."""
    values = summary["value"].values[kind, :, LIKENESS.index("correlation"), 0]
    order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
    start = max(0, (len(order) - SHOWN) // 2)
    return [int(couple) for couple in order[start : start + SHOWN]]


def _picture(probe: SameGap, one: xr.Dataset, run: Run) -> Picture:
    index, channel = int(one["image_position"].item()), int(one["channel_position"].item())
    maps = run.activations(index, probe.layer)
    label = (
        f"{run.images['name'].iloc[index]}, channel {channel}: G {float(one['pooled'].item()):.4g}, "
        f"Max {float(one['maximum'].item()):.4g}"
    )
    return Picture(run.picture(index), label, overlay=None if maps is None else maps[channel])
