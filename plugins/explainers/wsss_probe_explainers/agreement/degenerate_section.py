"""What a reader sees of maps that show nothing: how many, of which kind, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Section, Table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sections"]

_MEANINGS = {
    "undefined": "images whose map has NaN or infinity in it",
    "zero": "images whose map is 0 everywhere",
    "constant": "images whose map has one value, not 0",
    "one cell": "images of which one cell of nine or more holds 99.9 % of the map",
    "why": "the first cause that holds, with the number of images",
}


def sections(summary: xr.Dataset) -> Iterable[Section]:
    """Build the report's section; none where every map shows places.

    Parameters
    ----------
    summary : Dataset
        As :class:`wsss_probe_explainers.agreement.degenerate_probe.DegenerateMaps` concludes.

    Yields
    ------
    Section
    """
    struck = np.flatnonzero(summary["kinds"].values.sum(1))
    if not len(struck):
        return
    frame = pd.DataFrame([_row(summary.isel(explainer=int(at))) for at in struck])
    groups = int(summary.attrs["groups"])
    over = "images treated as independent" if groups < 0 else f"{groups} groups"
    caption = (
        f"Maps that show no place: {len(struck)} of {summary.sizes['explainer']} maps have such images. "
        f"share: of n images that could be read, with 95 % interval ({over}). No control: a blank map "
        "needs none."
    )
    yield Section("where", "Maps that show nothing", (Table(frame, caption, meanings=_MEANINGS),))


def _row(own: xr.Dataset) -> dict[str, Any]:
    counts = dict(zip(own["kind"].values.tolist(), own["kinds"].values.tolist(), strict=True))
    causes = zip(own["cause"].values.tolist(), own["causes"].values.tolist(), strict=True)
    return {
        "map": str(own["explainer"].values),
        "share": float(own["share"]),
        "low": float(own["share_low"]),
        "high": float(own["share_high"]),
        "n": int(own["n"]),
        **counts,
        "why": "; ".join(f"{cause} ({number})" for cause, number in causes if number),
    }
