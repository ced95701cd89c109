"""ROAD's noisy linear imputation: what is removed becomes what its surroundings say, and a little noise.

Rong, Leemann, Borisov, Kasneci, Kasneci (2022), A Consistent and Efficient Evaluation Strategy for
Attribution Methods, arXiv:2202.00449, section 4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["imputed", "road_grid", "without"]

_MOST_CELLS = 56
"""Cells along a side: the equations of 224 x 224 pixels would take most of the time of the probe."""

_NOISE = 0.01
"""Standard deviation of the noise, as a share of that of the image."""

_NEIGHBOURS = [
    (down, across, 1 / 12 if down and across else 1 / 6)
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if down or across
]


def road_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Grid of the cells that are removed whole: single pixels up to 56 a side, else equal blocks.

    Parameters
    ----------
    size : (int, int)
        Rows and columns of the input.

    Returns
    -------
    (int, int)
    """
    block = math.ceil(max(size) / _MOST_CELLS)
    return math.ceil(size[0] / block), math.ceil(size[1] / block)


def imputed(image: NDArray[np.floating], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Solve for the removed pixels: each is the weighted mean of its eight neighbours.

    Direct neighbours weigh 1/6, diagonal ones 1/12; what lies outside the image is left out.

    Parameters
    ----------
    image : ndarray of float, (channel, row, column)
    removed : ndarray of bool, (row, column)

    Returns
    -------
    ndarray of float64, (channel, row, column)
        Kept pixels as they were; each channel's mean where nothing was kept.
    """
    found = np.array(image, dtype=np.float64)
    if removed.all():
        return np.broadcast_to(found.mean((1, 2))[:, None, None], found.shape).copy()
    if not removed.any():
        return found
    number = np.full(removed.shape, -1)
    number[removed] = np.arange(removed.sum())
    rows, columns = np.nonzero(removed)
    own = np.arange(len(rows))
    sums, known, entries = np.zeros(len(rows)), np.zeros((len(rows), len(found))), []
    for down, across, weight in _NEIGHBOURS:
        r, c = rows + down, columns + across
        inside = (r >= 0) & (r < removed.shape[0]) & (c >= 0) & (c < removed.shape[1])
        sums += weight * inside
        at, other = own[inside], number[r[inside], c[inside]]
        kept = other < 0
        known[at[kept]] += weight * found[:, r[inside][kept], c[inside][kept]].T
        entries.append((at[~kept], other[~kept], np.full((~kept).sum(), -weight)))
    entries.append((own, own, sums))
    i, j, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    system = coo_matrix((values, (i, j)), shape=(len(rows), len(rows))).tocsc()
    found[:, removed] = splu(system).solve(known).T
    return found


def without(image: Tensor, removed: Tensor, seed: int, index: int) -> Tensor:
    """Remove cells of an image and impute them.

    Parameters
    ----------
    image : Tensor, (channel, row, column)
        Network input.
    removed : Tensor of bool, (row, column)
        On :func:`road_grid` of the image. Where cells are blocks of pixels, the means of the blocks
        are imputed and brought back bilinearly; the pixels of other blocks stay.
    seed, index : int
        The noise depends on the image, not on its batch, and not on the map.

    Returns
    -------
    Tensor, (channel, row, column)
    """
    cells, size = (removed.shape[0], removed.shape[1]), (image.shape[1], image.shape[2])
    coarse = image if cells == size else F.adaptive_avg_pool2d(image[None].float(), cells)[0]
    filled = torch.from_numpy(imputed(coarse.float().cpu().numpy(), removed.cpu().numpy()))
    filled = filled.to(image.device, image.dtype)
    gone = removed.to(image.device)
    if cells != size:
        filled = F.interpolate(filled[None], size, mode="bilinear", align_corners=False)[0]
        gone = F.interpolate(gone[None, None].to(image.dtype), size, mode="nearest-exact")[0, 0] > 0
    noise = np.random.default_rng((abs(seed), index)).normal(size=tuple(image.shape))
    drawn = torch.from_numpy(noise).to(image.device, image.dtype) * _NOISE * image.std()
    return torch.where(gone, filled + drawn, image)
