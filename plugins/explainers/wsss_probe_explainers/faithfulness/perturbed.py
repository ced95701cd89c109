"""Images of which only what a map calls relevant is shown, or hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_probe.errors import UsageError

__all__ = ["BLANKS", "blank_image", "hidden", "on_grid", "ranked", "shown", "tie_order"]

BLANKS = ("blur", "mean", "zero")
"""What stands in the place of hidden pixels."""

_BLUR = 10
"""The blur's standard deviation is the shorter side over this; at 224 pixels 22."""


def blank_image(image: Tensor, kind: str = "blur") -> Tensor:
    """Make the image that stands where pixels are hidden.

    Parameters
    ----------
    image : Tensor, (channel, row, column)
        Network input.
    kind : {"blur", "mean", "zero"}
        Gaussian blur with a standard deviation of a tenth of the shorter side, cut at three of
        them, the border repeated; each channel's mean over the image; or 0, which after the usual
        normalisation is the mean colour of the training images.

    Returns
    -------
    Tensor, (channel, row, column)

    Raises
    ------
    UsageError
        For another kind.
    """
    if kind == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    if kind == "zero":
        return torch.zeros_like(image)
    if kind != "blur":
        wanted = f"{', '.join(BLANKS[:-1])} or {BLANKS[-1]}"
        raise UsageError("unknown blank image", found=str(kind), wanted=wanted)
    sigma = min(image.shape[1:]) / _BLUR
    reach = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=image.device)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(image.dtype)
    padded = F.pad(image[:, None], (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, weights[None, None, None, :])
    return F.conv2d(across, weights[None, None, :, None])[:, 0]


def on_grid(plane: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring a map to another grid: bilinear between the centres of its cells.

    Parameters
    ----------
    plane : Tensor, (row, column)
    grid : (int, int)

    Returns
    -------
    Tensor, (row, column)
        The same values where the grid is the map's own.
    """
    if tuple(plane.shape) == tuple(grid):
        return plane
    return F.interpolate(plane[None, None].float(), tuple(grid), mode="bilinear", align_corners=False)[0, 0]


def tie_order(grid: tuple[int, int], seed: int, index: int) -> Tensor:
    """Draw the order in which equally relevant pixels of an image come.

    A rectified map is 0 over much of an image; by place these pixels would come from the top left.

    Parameters
    ----------
    grid : (int, int)
    seed : int
    index : int
        Position in the manifest: all maps of an image share the order.

    Returns
    -------
    Tensor of int64, (row * column,)
    """
    generator = np.random.default_rng((abs(seed), index, *grid))
    return torch.from_numpy(generator.permutation(grid[0] * grid[1]))


def ranked(planes: Tensor, ties: Tensor) -> Tensor:
    """Flat positions from the most relevant to the least.

    Parameters
    ----------
    planes : Tensor, (map, row, column)
        Signed: negative evidence comes last.
    ties : Tensor of int64, (row * column,)
        From :func:`tie_order`.

    Returns
    -------
    Tensor of int64, (map, row * column)
    """
    ties = ties.to(planes.device)
    return ties[planes.flatten(1)[:, ties].argsort(dim=1, descending=True, stable=True)]


def shown(image: Tensor, blank: Tensor, order: Tensor, shares: Sequence[float]) -> Tensor:
    """Show only the most relevant pixels of an image, on its blank (insertion).

    Parameters
    ----------
    image, blank : Tensor, (channel, row, column)
    order : Tensor of int64, (row * column,)
        From the most relevant pixel to the least.
    shares : sequence of float
        Of the pixels, in [0, 1].

    Returns
    -------
    Tensor, (share, channel, row, column)
    """
    return torch.stack([torch.where(_top(order, share, image), image, blank) for share in shares])


def hidden(image: Tensor, blank: Tensor, order: Tensor, shares: Sequence[float]) -> Tensor:
    """Hide the most relevant pixels of an image behind its blank (deletion); see :func:`shown`."""
    return shown(blank, image, order, shares)


def _top(order: Tensor, share: float, image: Tensor) -> Tensor:
    """Mark the first of an order, (row, column)."""
    chosen = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    chosen[order[: math.floor(share * len(order) + 0.5)]] = True
    return chosen.view(image.shape[1:])
