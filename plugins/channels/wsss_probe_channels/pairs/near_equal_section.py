"""What a reader sees of near-equal weights: the pairs, some of their maps, and what random pairs reach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Gallery, Picture, Section, Table, Text
from wsss_probe_channels.pairs.near_equal import KINDS
from wsss_probe_channels.pairs.near_equal_conclusion import MEASURES

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_channels.pairs.near_equal_probe import NearEqual

__all__ = ["sections"]

SHOWN = 4
"""Pairs whose maps are shown, as in the paper's figure 6."""

MEANINGS = {
    "channels": "the two channels, counted from 0",
    "weight": "mean of the two weights for the class",
    "weight_difference": "absolute difference of the two weights",
    "mean_f1": "F1 between the two Otsu masks, mean over images where neither map is constant",
    "mean_f1_empty_is_0": "the paper's reading: F1 with an empty mask counts as 0",
    "expected_f1": "F1 of independent masks with the same coverages p and q, 2pq / (p + q), mean over images",
    "empty": "share of images on which at least one of the two maps is constant, so that its mask is empty",
    "correlation": "Pearson's correlation of the two raw maps over positions, mean over images",
    "defined": "images with an F1",
}


def sections(probe: NearEqual, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    probe : NearEqual
    summary : Dataset
        From :func:`wsss_probe_channels.pairs.near_equal_conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    title = f"Channels of {probe.layer} with near-equal weights"
    table = _pairs(summary)
    if not len(table.frame):
        yield Section("channels", title, (Text("No two channels have a known weight."),))
        return
    gallery = _gallery(probe, summary, run)
    yield Section("channels", title, (table, gallery) if gallery.rows else (table,))
    yield Section("chance", f"Near-equal weights of {probe.layer} beside random pairs", (_networks(summary),))


def _pairs(summary: xr.Dataset) -> Table:
    """Write the paper's table 1, with what it takes to read it."""
    first, second = summary["first"].values, summary["second"].values
    place = np.argwhere(first >= 0)
    at = tuple(place.T)
    columns = (
        "weight",
        "weight_difference",
        "mean_f1",
        "low",
        "high",
        "mean_f1_empty_is_0",
        "expected_f1",
        "empty",
        "correlation",
        "defined",
    )
    frame = pd.DataFrame(
        {
            "class": summary["class"].values[place[:, 0]],
            "pair": np.array(KINDS, dtype=object)[place[:, 1]],
            "channels": [f"{a} & {b}" for a, b in zip(first[at], second[at], strict=True)],
            **{name: summary[name].values[at] for name in columns},
        }
    )
    return Table(frame, _pairs_caption(summary), meanings=MEANINGS)


def _pairs_caption(summary: xr.Dataset) -> str:
    names, within = summary["class"].values, summary["within"].values
    counts = ", ".join(f"{number} for {name}" for name, number in zip(names, within, strict=True))
    what = "head weights" if summary.attrs["weights"] == "head" else "effective weights (mean gradients)"
    return (
        f"One row per pair of channels, as in table 1 of Feng et al.; {what}. Pairs within "
        f"{summary.attrs['tolerance']:g}: {counts}; the closest {summary.sizes['pair']} are kept, and "
        "as many random pairs, whose weights differ, stand beside them; where none is within, the closest "
        "are shown. "
        f"low, high: 95 % interval of the mean F1 over groups{_note(summary)}. Independent masks have "
        "no F1 of 0: read expected_f1 and empty before a mean F1 near 0."
    )


def _note(summary: xr.Dataset) -> str:
    return next((f" ({text})" for text in summary["note"].values if text), "")


def _networks(summary: xr.Dataset) -> Table:
    """Write near-equal against random pairs, in the audited network and the controls."""
    classes = summary["class"].values
    values = summary["value"].values.T
    audited = {
        "class": classes,
        "network": "audited",
        **dict(zip(MEASURES[:3], values[:3], strict=True)),
        "low": summary["value_low"].values[:, 2],
        "high": summary["value_high"].values[:, 2],
        "p": summary["p"].values,
        "q": summary["q"].values,
        "n": summary["n"].values,
        **dict(zip(MEASURES[3:], values[3:], strict=True)),
        "note": "",
    }
    frames = [pd.DataFrame(audited)]
    for row, name in enumerate(summary["control"].values if "control" in summary.dims else ()):
        reached = dict(zip(MEASURES, summary["control_value"].values[row].T, strict=True))
        alive = bool(summary["control_alive"].values[row])
        note = "" if alive else "degenerate, counts for nothing"
        frames.append(pd.DataFrame({"class": classes, "network": str(name), **reached, "note": note}))
    table = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    caption = (
        "Mean F1 between the Otsu masks of two channels, over pairs and then over images (n): pairs of "
        "near-equal weight, random pairs, and the difference with its 95 % interval over groups"
        f"{_note(summary)}; excess: the same less F1 of independent masks. p: two-sided, pairs exchanged "
        "between the kinds; q: Benjamini-Hochberg over classes. Every control network has its own pairs."
    )
    return Table(table, caption)


# -- pictures ----------------------------------------------------------------------------------


def _gallery(probe: NearEqual, summary: xr.Dataset, run: Run) -> Gallery:
    """Show the closest pairs, classes in turn, each on an image of median F1."""
    first = summary["first"].values[:, 0]
    turns = [(int(c), int(pair)) for pair, c in np.argwhere(first.T >= 0)][:SHOWN]
    f1 = run.rows(probe.name)["f1"].values
    strips = []
    for position, pair in turns:
        index = _typical(f1[:, position, 0, pair], run)
        maps = None if index is None else run.activations(index, probe.layer)
        if index is None or maps is None:
            continue
        one = summary.isel({"class": position, "kind": 0, "pair": pair})
        name, weight = str(one["class"].item()), float(one["weight"].item())
        title = f"{run.images['name'].iloc[index]}: weight {weight:.5f} for {name}"
        picture = run.picture(index)
        ends = (int(one["first"].item()), int(one["second"].item()))
        shown = (Picture(picture, f"channel {end}", overlay=_drawable(maps[end])) for end in ends)
        strips.append((title, (Picture(picture, _score(f1[index, position, 0, pair])), *shown)))
    caption = (
        f"Maps of {len(strips)} pairs of near-equal weight, closest first, as in figure 6 of Feng et al.; "
        "each on an image whose F1 is the pair's median, so neither the best nor the worst is picked."
    )
    return Gallery(tuple(strips), caption)


def _typical(f1: np.ndarray, run: Run) -> int | None:
    """Position of the image with the median F1; of the first readable one where there is no F1."""
    defined = np.flatnonzero(np.isfinite(f1))
    if len(defined):
        order = defined[np.argsort(f1[defined], kind="stable")]
        return int(order[(len(order) - 1) // 2])
    readable = np.flatnonzero(run.images["readable"].to_numpy(dtype=bool))
    return int(readable[0]) if len(readable) else None


def _drawable(values: np.ndarray) -> np.ndarray | None:
    return values if np.isfinite(values).all() else None


def _score(f1: float) -> str:
    return f"F1 {f1:.2f}" if np.isfinite(f1) else "F1 not defined: a map is constant"
