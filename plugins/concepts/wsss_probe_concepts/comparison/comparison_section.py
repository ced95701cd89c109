"""What a reader sees of the comparison: differences over depth with intervals and zero, and the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe_concepts.comparison.comparison_findings import ALPHA, different, strongest
from wsss_probe_concepts.comparison.depth_plot import Curve, depth_plot

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run

__all__ = ["sections"]

_DRAWN = 6
"""Concepts in a figure; as many as there are colours."""

_LARGEST = 1.0
"""Differences are drawn up to here."""

DEFINITION = (
    "Difference of held-out R² = (SSE of the second - SSE of the first) / SSB, squared errors of predictions "
    "for images left out, on the same images and splits; SSB is the error of the training mean. 95 % "
    "interval: percentiles over resampled groups. p: signs of the groups' differences flipped; q: Benjamini "
    "and Hochberg over concepts, layers and pairs."
)

INTRODUCTION = (
    "Networks of one architecture see the same images, and concepts are fitted on the same splits, so what "
    "is hard in an image cancels in the difference. Above zero the first network encodes the concept better. "
    "One training run each: another run may differ by as much."
)

MEANINGS = {
    "difference": "held-out R² of the first network less that of the second",
    "low": "lower end of the 95 % interval over groups",
    "high": "upper end of the 95 % interval over groups",
    "p": "two-sided, signs of groups flipped; not corrected",
    "q": "p adjusted over concepts, layers and pairs",
    "different": f"q below {ALPHA:g} and an interval without 0",
    "above controls": "whether the better of the two is above every living control, by paired intervals",
    "over splits": "mean difference over splits and its standard error, as the paper draws; splits share "
    "images, so it is too narrow",
}


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        As :func:`wsss_probe_concepts.comparison.comparison_conclusion.conclude` makes it.
    run : Run

    Yields
    ------
    Section
        None where nothing was compared.
    """
    if "difference" not in summary:
        return
    figures = [_figure(summary.isel(pair=place)) for place in range(summary.sizes["pair"])]
    blocks: tuple[Block, ...] = (Text(INTRODUCTION), *figures, _table(summary, len(run.controls)))
    yield Section("concepts", "Which network encodes which concept better", blocks)


def _figure(pair: xr.Dataset) -> Figure:
    first, second = str(pair["first"].item()), str(pair["second"].item())
    drawn = strongest(pair, _DRAWN)
    curves = {str(pair["concept"].values[at]): _curve(pair.isel(concept=at)) for at in drawn}
    layers = [str(layer) for layer in pair["layer"].values]
    total = pair.sizes["concept"]
    which = "All" if len(drawn) == total else f"The {len(drawn)} most different of"
    caption = (
        f"{first} less {second}: held-out R² ({pair.attrs['model']}) over depth, 95 % intervals over "
        f"{_units(pair)}. {which} {total} concepts; zero: no difference; differences beyond {_LARGEST:g} are "
        "cut off."
    )
    figure = depth_plot(layers, curves, f"R² of {first} less R² of {second}")
    return Figure(figure, caption, DEFINITION, _rows(pair))


def _curve(one: xr.Dataset) -> Curve:
    """Differences as far as they are drawn: a fit that goes astray on one image has any R² below 0."""
    drawn = (np.clip(one[name].values, -_LARGEST, _LARGEST) for name in ("difference", "low", "high"))
    return Curve(*drawn)


def _units(table: xr.Dataset) -> str:
    groups = table.attrs["groups"]
    return f"{groups} groups" if table.attrs["grouped"] else f"{groups} images treated as independent"


def _table(summary: xr.Dataset, controls: int) -> Table:
    frame = pd.concat([_rows(summary.isel(pair=place)) for place in range(summary.sizes["pair"])])
    against = f"{controls} control{'s' if controls != 1 else ''}" if controls else "no control was run"
    caption = (
        f"Every pair, concept and layer: held-out R² of both ({summary.attrs['model']}), their difference "
        f"with 95 % interval over {_units(summary)}, and whether the better one is above the living controls "
        f"({against})."
    )
    return Table(frame.reset_index(drop=True), caption, meanings=MEANINGS)


def _rows(pair: xr.Dataset) -> pd.DataFrame:
    """One row per layer and concept of a pair."""
    found = different(pair)
    rows = []
    for at, layer in enumerate(pair["layer"].values):
        for concept, name in enumerate(pair["concept"].values):
            one = pair.isel(layer=at, concept=concept)
            rows.append(
                {
                    "network": str(pair["first"].item()),
                    "other": str(pair["second"].item()),
                    "layer": str(layer),
                    "concept": str(name),
                    **{key: float(one[key]) for key in ("difference", "low", "high", "p", "q")},
                    "different": "yes" if found[at, concept] else "no",
                    "R² of the network": float(one["first_r2"]),
                    "R² of the other": float(one["second_r2"]),
                    "above controls": "yes" if bool(one["above_controls"]) else "no",
                    "over splits": f"{float(one['split_mean']):+.3f} ± {float(one['split_error']):.3f}",
                    "n": int(one["n"]),
                }
            )
    return pd.DataFrame(rows)
