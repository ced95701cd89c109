"""What a reader sees of faithfulness: curves, measures with their intervals, comparisons with baselines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe_explainers.line_plot import line_plot
from wsss_probe_explainers.sampling import BASELINES

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_explainers.faithfulness.judged import How

__all__ = ["sections"]

_MEANINGS = {
    "insertion": "area under the score while the most relevant pixels are shown first; high is better",
    "deletion": "area under the score while the most relevant pixels are hidden first; low is better",
    "gain": "insertion less deletion; what baselines are compared by",
    "road": "score without the least relevant cells less score without the most relevant; 0 says nothing",
    "drop": "share of the probability lost when the image is seen through the map; low is better",
    "increase": "share of images whose probability rises when seen through the map; high is better",
    "infidelity": "share of the score's changes that the map leaves unexplained; low is better, sign blind",
    "sparseness": "Gini index of absolute values on the map's own grid; neither good nor bad",
    "images": "images with a map that is defined",
    "against baselines": "better than every baseline on the same grid, worse than one, or undecided",
}


def sections(summary: xr.Dataset, how: How, run: Run) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        From :mod:`wsss_probe_explainers.faithfulness.faithfulness_conclusion`.
    how : How
    run : Run

    Yields
    ------
    Section
    """
    n, groups = summary.attrs["n"], summary.attrs["groups"]
    text = (
        f"Does the network's answer follow its maps? Judged on {n} images of {groups} groups, evenly spread "
        f"over the manifest, at {summary.attrs['price']} network inputs an image. Nobody says here where the "
        "object is: a map that is faithful to what the network uses may still miss the object."
    )
    if run.not_testable:
        text += f" Not testable here: {run.not_testable}."
    blocks: list[Any] = [Text(text)]
    if n:
        blocks += [
            *(_curves(summary, how, kind) for kind in ("inserted", "deleted")),
            _measures(summary, how),
        ]
        blocks.append(_comparisons(summary))
    yield Section("where", "Do answers follow the maps?", tuple(blocks))


def _curves(summary: xr.Dataset, how: How, kind: str) -> Figure:
    """Draw all mean curves."""
    names = [str(name) for name in summary["explainer"].values]
    values = dict(zip(names, summary[kind].values, strict=True))
    grey = {name for name, own in zip(names, summary["baseline"].values, strict=True) if own}
    verb = "shown" if kind == "inserted" else "hidden"
    plot = line_plot(summary["step"].values, values, grey, (f"share of pixels {verb}", f"mean {how.score}"))
    data = pd.DataFrame({f"share {verb}": summary["step"].values, **values})
    better = "A map is better the earlier its curve rises." if verb == "shown" else "Better: an earlier fall."
    caption = (
        f"Most relevant pixels {verb} first, mean over n = {summary.attrs['n']} images; grey: baselines that "
        f"know nothing of the network. Whole image {float(summary['full']):.3f}, blank image "
        f"{float(summary['blank']):.3f}: the ends of every curve. {better} Intervals: see the table."
    )
    definition = (
        f"Maps are brought to the input bilinearly; hidden pixels are replaced by the {how.blank} image. "
        "Equally relevant pixels come in an order drawn once per image. Petsiuk, Das, Saenko (2018), "
        "arXiv:1806.07421."
    )
    return Figure(plot, caption, definition, data)


def _measures(summary: xr.Dataset, how: How) -> Table:
    """Write every measure of every map with its interval."""
    columns: dict[str, Any] = {"map": [str(name) for name in summary["explainer"].values]}
    columns["against baselines"] = list(summary["verdict"].values)
    for measure in summary["measure"].values:
        part = summary.sel(measure=measure)
        columns[str(measure)] = part["mean"].values
        ends = zip(part["low"].values, part["high"].values, strict=True)
        columns[f"{measure} 95 %"] = [f"[{low:.3f}, {high:.3f}]" for low, high in ends]
    columns["images"] = summary["defined"].sel(measure="insertion").values
    frame = pd.DataFrame(columns).sort_values("gain", ascending=False, kind="stable")
    note = f" ({summary.attrs['note']})" if summary.attrs["note"] else ""
    caption = (
        f"One row per map, baselines among them, highest gain first; n = {summary.attrs['n']} images, 95 % "
        f"intervals over {summary.attrs['groups']} groups{note}. Heights are in units of {how.score}."
    )
    return Table(frame.reset_index(drop=True), caption, meanings=_MEANINGS)


def _comparisons(summary: xr.Dataset) -> Table:
    """Write every comparison with a baseline."""
    rows = []
    for at in np.flatnonzero(~summary["baseline"].values):
        part = summary.isel(explainer=int(at))
        for place, name in enumerate(BASELINES):
            low, high = (float(part[f"difference_{end}"].values[place]) for end in ("low", "high"))
            difference, q = (float(part[key].values[place]) for key in ("difference", "q"))
            row = {"map": part["explainer"].item(), "baseline": name, "difference": difference}
            rows.append({**row, "low": low, "high": high, "q": q})
    caption = (
        f"Gain of each map less gain of each baseline on the same grid, image by image, n = "
        f"{summary.attrs['n']} images, 95 % interval over {summary.attrs['groups']} groups; q: two-sided "
        "p by exchanging signs of groups, adjusted over all rows (Benjamini and Hochberg)."
    )
    return Table(pd.DataFrame(rows), caption)
