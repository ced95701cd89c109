"""Which images the costly judgements of maps look at, which maps, and which class was explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.contracts import INPUT, Contrast
from wsss_probe_explainers.baselines import centre_blob, edge_map, intensity, random_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe import Batch, Survey, Target
    from wsss_probe.contracts import Pair

__all__ = [
    "BASELINES",
    "Judged",
    "baseline_maps",
    "baseline_name",
    "evenly_spread",
    "explained_classes",
    "judged_maps",
    "pair_name",
]

BASELINES = ("random map", "centre blob", "edges", "bright", "dark")
"""Maps that know nothing of the network, in the order of :func:`baseline_maps`."""


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """One map of every image that is judged.

    Parameters
    ----------
    name : str
        ``"<explainer>, <layer>"``, or ``"<baseline>, <rows> x <columns>"``.
    grid : (int, int)
    pair : (str, str) or None
        Explainer and layer; None for a baseline.
    """

    name: str
    grid: tuple[int, int]
    pair: Pair | None = None


def pair_name(pair: Pair) -> str:
    """Name of the map of an explainer at a layer, as in the gallery."""
    return f"{pair[0]}, {pair[1]}"


def baseline_name(baseline: str, grid: tuple[int, int]) -> str:
    """Name of a baseline on a grid."""
    return f"{baseline}, {grid[0]} x {grid[1]}"


def judged_maps(survey: Survey) -> tuple[Judged, ...]:
    """List all planned maps, and behind them the baselines on each of their grids.

    Parameters
    ----------
    survey : Survey

    Returns
    -------
    tuple of Judged
    """
    found = []
    for explainer, layer in survey.relevance:
        shape = survey.input_shape if layer == INPUT else survey.layers[layer].shape
        found.append(Judged(pair_name((explainer, layer)), (shape[1], shape[2]), (explainer, layer)))
    grids = dict.fromkeys(item.grid for item in found)
    return (*found, *(Judged(baseline_name(name, grid), grid) for grid in grids for name in BASELINES))


def baseline_maps(index: int, image: Tensor, grid: tuple[int, int], seed: int) -> list[Tensor]:
    """Make the baselines of one image on one grid, in the order of :data:`BASELINES`.

    Parameters
    ----------
    index : int
        Position in the manifest.
    image : Tensor, (channel, row, column)
        Network input.
    grid : (int, int)
    seed : int

    Returns
    -------
    list of Tensor, (row, column)
    """
    level = intensity(image[None], grid)[0]
    blob = centre_blob(grid).to(image.device)
    random = random_map([index], grid, seed)[0].to(image.device)
    return [random, blob, edge_map(image[None], grid)[0], level, -level]


def evenly_spread(images: int, count: int) -> tuple[int, ...]:
    """Positions of some images, evenly spread over a manifest.

    Parameters
    ----------
    images : int
        Rows of the manifest.
    count : int
        How many are wanted.

    Returns
    -------
    tuple of int
        Rising; all images where there are not more than wanted.

    Examples
    --------
    >>> evenly_spread(100, 4), evenly_spread(3, 4)
    ((12, 37, 62, 87), (0, 1, 2))
    """
    if images <= count:
        return tuple(range(images))
    return tuple(int((place + 0.5) * images / count) for place in range(count))


def explained_classes(batch: Batch, target: Target) -> NDArray[np.float32]:
    """Class whose logit is explained, image by image.

    Parameters
    ----------
    batch : Batch
    target : Target

    Returns
    -------
    ndarray of float32, (image,)
        Index of the class; NaN for a contrast, which is no single class.
    """
    classes = batch.targets[target].argmax(1).float()
    if isinstance(target, Contrast):
        classes = torch.full_like(classes, torch.nan)
    found: NDArray[np.float32] = classes.cpu().numpy().astype(np.float32)
    return found
