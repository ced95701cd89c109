"""Maps that know nothing of the network: random, centre blob, edges of the input, its intensity.

A map that is no better than the best of these says nothing that the network was needed for. All are
float32 tensors on the grid of the map that they are compared with; large is relevant.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["centre_blob", "edge_map", "intensity", "random_map"]

_BLOB_WIDTH = 0.5
"""Standard deviation of the blob, as a share of half a side."""


def random_map(indices: Iterable[int], grid: tuple[int, int], seed: int) -> Tensor:
    """Independent uniform numbers at every cell.

    Parameters
    ----------
    indices : iterable of int, (image,)
        Positions in the manifest: an image's draw does not depend on its batch.
    grid : (int, int)
        Rows and columns.
    seed : int

    Returns
    -------
    Tensor of float32, (image, row, column)
        In [0, 1).
    """
    # the grid is part of the seed, so that two layers of an audit do not share their draws
    planes = [np.random.default_rng((abs(seed), int(index), *grid)).random(grid) for index in indices]
    return torch.from_numpy(np.array(planes, dtype=np.float32).reshape(-1, *grid))


def centre_blob(grid: tuple[int, int]) -> Tensor:
    """A Gaussian blob in the middle, half as wide (one standard deviation) as half of each side.

    ``exp(-(y^2 + x^2) / (2 * 0.5^2))`` with y and x from -1 to 1 between the borders of the image,
    taken at the centres of the cells. Photographers put objects there (centre bias).

    Parameters
    ----------
    grid : (int, int)
        Rows and columns.

    Returns
    -------
    Tensor of float32, (row, column)
        In (0, 1].
    """
    rows, columns = ((torch.arange(side) + 0.5) * 2 / side - 1 for side in grid)
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * _BLOB_WIDTH**2))


def edge_map(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Strength of the edges of the input: Sobel's gradient over all channels, averaged to the grid.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
        Network input.
    grid : (int, int)
        Rows and columns; each cell is the mean over its pixels.

    Returns
    -------
    Tensor of float32, (image, row, column)
        Root of the summed squares of both derivatives of every channel, in units of the input per
        pixel; 0 for a constant image, NaN where the input is.
    """
    planes = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    smooth, change = planes.new_tensor([1.0, 2.0, 1.0]), planes.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, change), torch.outer(change, smooth)])[:, None] / 8
    gradients = F.conv2d(planes.flatten(0, 1)[:, None], kernels)
    strength = gradients.square().reshape(*images.shape[:2], 2, *images.shape[2:]).sum((1, 2)).sqrt()
    return F.adaptive_avg_pool2d(strength, grid)


def intensity(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Intensity of the input: the mean over its channels, averaged to the grid.

    Bright is relevant; negate it where the dark is meant (stained tissue).

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
        Network input.
    grid : (int, int)
        Rows and columns; each cell is the mean over its pixels.

    Returns
    -------
    Tensor of float32, (image, row, column)
        In units of the input.
    """
    return F.adaptive_avg_pool2d(images.float().mean(1), grid)
