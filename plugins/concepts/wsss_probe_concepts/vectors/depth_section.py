"""What a reader sees of concepts over depth: curves, heatmap, images along vectors, stability, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Section, Text
from wsss_probe.report.markdown import literal
from wsss_probe_concepts.vectors.along import images_along
from wsss_probe_concepts.vectors.depth_figures import depth_curves, heatmap, stability_plot
from wsss_probe_concepts.vectors.depth_numbers import all_numbers, concept_table, fits_table
from wsss_probe_concepts.vectors.encoded import Cell, strongest

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run

__all__ = ["sections"]

_ALONG = 3
"""Concepts whose images are shown."""


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section.

    Parameters
    ----------
    summary : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.conclude`.
    run : Run

    Yields
    ------
    Section
        None where no concept was measured: the finding says what to do.
    """
    if "r2_held" not in summary:
        return
    cells = strongest(summary, run.concepts["value"].values, int(summary.attrs["shown"]))
    blocks: list[Block] = [Text(_introduction(summary, run))]
    if cells:
        blocks.append(depth_curves(summary, cells, all_numbers(summary)))
        blocks.append(heatmap(summary))
        blocks += images_along(summary, run, cells[:_ALONG])
        blocks += _stability(summary, cells)
    blocks.append(concept_table(summary))
    blocks += fits_table(summary, run, cells)
    yield Section("concepts", "Concepts in the features, over depth", tuple(blocks))


def _introduction(summary: xr.Dataset, run: Run) -> str:
    layers = ", ".join(literal(name) for name in summary["layer"].values)
    text = (
        "How well do a layer's features, averaged over positions, predict a measured quantity on images "
        f"that the regression has not seen? {summary.sizes['concept']} concepts at {summary.sizes['layer']} "
        f"layers, in the order of execution: {layers}. A concept that random weights predict as well was "
        "not learned. That a concept can be read from the features does not say that the classes rest on "
        "it."
    )
    if run.not_testable:
        text += f" Not testable here: {literal(run.not_testable)}."
    return text


def _stability(summary: xr.Dataset, cells: Sequence[Cell]) -> list[Block]:
    angle = summary["angle_mean"].sel(model="ridge").transpose("layer", "concept").values
    known = [cell for cell in cells if np.isfinite(angle[cell.layer, cell.concept])]
    return [stability_plot(summary, known)] if known else []
