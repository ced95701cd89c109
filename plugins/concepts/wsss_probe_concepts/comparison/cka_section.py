"""What a reader sees of CKA: the pairs of networks over depth, what random networks reach, and the table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe_concepts.comparison.beside import compared_pairs
from wsss_probe_concepts.comparison.cka_findings import above_floor
from wsss_probe_concepts.comparison.depth_plot import Curve, depth_plot

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = (
    "Linear CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K and L the inner products between images of "
    "the features (mean over positions) of either network, HSIC unbiased (Song et al. 2012; Kornblith et al. "
    "2019; Nguyen et al. 2021); images of one group are never compared with each other. 95 % interval: "
    "jackknife over groups. Chance: images exchanged between the networks stay below it in at least 95 % of "
    "the orders."
)

INTRODUCTION = (
    "Do two networks find the same images alike? 1: exactly so, up to scale; 0: unrelated. Networks that "
    "learned nothing are far from 0 in early layers, since they pass brightness and colour through, so only "
    "what lies above them is evidence that something learned is shared."
)

MEANINGS = {
    "CKA": "debiased linear CKA of the features averaged over positions",
    "low": "lower end of the 95 % interval, jackknife over groups",
    "high": "upper end of the 95 % interval, jackknife over groups",
    "floor": "largest CKA of either network with a living control",
    "beyond": "whether the interval is above the floor and above chance",
    "biased": "the usual estimator; it rises with channels over images, to 1 for unrelated features",
}


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        As :func:`wsss_probe_concepts.comparison.cka_conclusion.conclude` makes it.
    run : Run

    Yields
    ------
    Section
        None where no further network was compared.
    """
    if "cka" not in summary:
        return
    blocks = (Text(INTRODUCTION), _figure(summary, run), _table(summary))
    yield Section("concepts", "How alike the networks represent the images", blocks)


def _figure(summary: xr.Dataset, run: Run) -> Figure:
    layers = [str(layer) for layer in summary["layer"].values]
    pairs = compared_pairs(run)
    curves = {f"{name} and {other}": _curve(summary.sel(network=name, other=other)) for name, other in pairs}
    floors = np.stack([summary["floor"].sel(network=name, other=other).values for name, other in pairs])
    known = np.isfinite(floors)
    if known.any():
        highest = np.where(known.any(axis=0), np.where(known, floors, -np.inf).max(axis=0), np.nan)
        curves["highest with a living control"] = Curve(highest, grey=True)
    chance = float(summary["chance"])
    curves["chance"] = Curve(np.full(len(layers), chance), grey=True)
    caption = (
        f"Linear CKA, debiased, over depth, with 95 % intervals over {_units(summary)} (n = "
        f"{int(summary['n'])}). Grey: what any of these networks reaches with a living control, and chance "
        f"({chance:.3f})."
    )
    return Figure(depth_plot(layers, curves, "linear CKA"), caption, DEFINITION, _rows(summary))


def _curve(pair: xr.Dataset) -> Curve:
    return Curve(pair["cka"].values, pair["low"].values, pair["high"].values)


def _units(summary: xr.Dataset) -> str:
    groups = int(summary["groups"])
    return f"{groups} groups" if summary.attrs["grouped"] else f"{groups} images treated as independent"


def _table(summary: xr.Dataset) -> Table:
    caption = (
        "Every two of the networks at every layer. floor: the largest CKA of either with a living control; "
        f"beyond: the whole interval is above it and above chance; {_units(summary)}."
    )
    return Table(_rows(summary), caption, meanings=MEANINGS)


def _rows(summary: xr.Dataset) -> pd.DataFrame:
    """One row per pair of networks that are no controls, and layer."""
    kinds = summary["kind"].values
    names = [
        str(name) for name, kind in zip(summary["network"].values, kinds, strict=True) if kind != "control"
    ]
    rows = []
    for name, other in combinations(names, 2):
        pair = summary.sel(network=name, other=other)
        alive = summary["alive"].sel(network=name).values & summary["alive"].sel(network=other).values
        beyond = above_floor(pair) & alive
        for at, layer in enumerate(summary["layer"].values):
            one = pair.isel(layer=at)
            rows.append(
                {
                    "layer": str(layer),
                    "network": name,
                    "other": other,
                    "CKA": float(one["cka"]),
                    "low": float(one["low"]),
                    "high": float(one["high"]),
                    "floor": float(one["floor"]),
                    "control": str(one["floor_control"].item()),
                    "beyond": ("yes" if beyond[at] else "no") if alive[at] else "a network is dead here",
                    "biased": float(one["biased"]),
                }
            )
    return pd.DataFrame(rows)
