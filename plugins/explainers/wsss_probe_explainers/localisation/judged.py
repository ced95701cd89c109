"""The maps that are judged: every explainer's at every layer, and beside them maps that know nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from wsss_probe.contracts import INPUT
from wsss_probe_explainers.baselines import centre_blob, edge_map, intensity, random_map

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Survey
    from wsss_probe.contracts import Pair

__all__ = ["BASELINES", "Grid", "Judged", "baseline_name", "grids_of", "maps_of", "pair_name"]

Grid = tuple[int, int]

BASELINES: Mapping[str, Callable[[Batch, Grid], Tensor]] = {
    "random map": lambda batch, grid: random_map(batch.indices, grid, seed=0),
    "centre blob": lambda batch, grid: centre_blob(grid).expand(len(batch.indices), -1, -1),
    "edges": lambda batch, grid: edge_map(batch.images, grid),
    "bright input": lambda batch, grid: intensity(batch.images, grid),
    "dark input": lambda batch, grid: -intensity(batch.images, grid),
}
"""Maps that know nothing of the network, by name; bright and dark both stand, so that none is chosen."""


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """One kind of map over a batch.

    Parameters
    ----------
    name : str
    maps : Tensor, (image, row, column)
        On its own grid.
    """

    name: str
    maps: Tensor


def pair_name(pair: Pair) -> str:
    """Name a map by explainer and layer.

    >>> pair_name(("gradcam", "layer4"))
    'gradcam, layer4'
    """
    return ", ".join(pair)


def baseline_name(name: str, grid: Sequence[int]) -> str:
    """Name a baseline by what it is and its grid: each explainer is compared on its own.

    >>> baseline_name("edges", (7, 9))
    'edges, 7 x 9'
    """
    return f"{name}, {grid[0]} x {grid[1]}"


def maps_of(batch: Batch) -> list[Judged]:
    """Collect the maps of a batch, explainers first, then baselines by grid.

    Parameters
    ----------
    batch : Batch
        With relevance.

    Returns
    -------
    list of Judged
    """
    own = [Judged(pair_name(pair), maps) for pair, maps in batch.relevance.items()]
    grids: dict[Grid, None] = dict.fromkeys(
        (maps.shape[1], maps.shape[2]) for maps in batch.relevance.values()
    )
    others = [
        Judged(baseline_name(name, grid), make(batch, grid))
        for grid in grids
        for name, make in BASELINES.items()
    ]
    return own + others


def grids_of(survey: Survey) -> dict[str, Grid]:
    """Grid of every explainer's map that a survey plans, by its name.

    Parameters
    ----------
    survey : Survey

    Returns
    -------
    dict of str to (int, int)
    """
    shapes = {
        pair: survey.input_shape if pair[1] == INPUT else survey.layers[pair[1]].shape
        for pair in survey.relevance
    }
    return {pair_name(pair): (shape[-2], shape[-1]) for pair, shape in shapes.items()}
