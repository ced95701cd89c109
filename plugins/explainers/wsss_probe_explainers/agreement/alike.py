"""How alike two relevance maps are: rank correlation, and overlap of what each marks most.

Both look at the order of cells alone, so a map's scale, its sign convention and any normalisation that
keeps the order count for nothing. Maps on different grids are compared on the coarser one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

__all__ = ["FINEST", "TOP", "Grid", "alike", "centred_ranks", "common_grid", "on_grid", "top_cells"]

Grid = tuple[int, int]

FINEST = 28
"""Maps are compared on at most so many rows and columns: single pixels are noise beside a coarse map."""

TOP = 0.2
"""Share of the area that a map marks most."""


def common_grid(first: Grid, second: Grid) -> Grid:
    """Grid on which two maps are compared: the coarser of the two, and no finer than :data:`FINEST`.

    >>> common_grid((7, 56), (14, 14)), common_grid((224, 224), (224, 224))
    ((7, 14), (28, 28))
    """
    return min(first[0], second[0], FINEST), min(first[1], second[1], FINEST)


def on_grid(maps: Tensor, grid: Grid) -> Tensor:
    """Average maps over areas: each coarse cell is the mean of the fine cells that it touches.

    Parameters
    ----------
    maps : Tensor, (image, row, column)
    grid : (int, int)
        Not finer than the maps.

    Returns
    -------
    Tensor of float64, (image, row, column)
    """
    wide = maps.double()
    return wide if maps.shape[1:] == grid else adaptive_avg_pool2d(wide[:, None], grid)[:, 0]


def alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compare every map of the first kind with every map of the second, image by image.

    Parameters
    ----------
    first, second : sequence of Tensor, (image, row, column)
        As many, with the same grids in the same order; the images need not be the same.

    Returns
    -------
    correlation : Tensor of float64, (image, map, map)
        Spearman's, in [-1, 1], ties sharing their mean rank; NaN where a map is constant or not finite.
    overlap : Tensor of float64, (image, map, map)
        IoU of the :data:`TOP` of both areas (:func:`top_cells`), in [0, 1]; NaN as well.
    """
    sizes: list[Grid] = [(maps.shape[1], maps.shape[2]) for maps in first]
    shape = (len(first[0]) if first else 0, len(sizes), len(sizes))
    correlation, overlap = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(2))
    for grid in dict.fromkeys(common_grid(one, other) for one in sizes for other in sizes):
        members = [at for at, size in enumerate(sizes) if common_grid(size, grid) == grid]
        here = torch.tensor(
            [[common_grid(sizes[one], sizes[other]) == grid for other in members] for one in members]
        )
        rows, columns = (torch.tensor(members)[index] for index in here.nonzero(as_tuple=True))
        values = [_flat(maps, members, grid) for maps in (first, second)]
        correlation[:, rows, columns] = _products(values, centred_ranks)[:, here].clamp(-1, 1)
        overlap[:, rows, columns] = _overlap(values)[:, here]
    return correlation, overlap


def _flat(maps: Sequence[Tensor], members: Sequence[int], grid: Grid) -> Tensor:
    """Some of the maps on one grid, (image, map, cell)."""
    return torch.stack([on_grid(maps[at].cpu(), grid).flatten(1) for at in members], dim=1)


def _products(values: Sequence[Tensor], prepare: Callable[[Tensor], Tensor]) -> Tensor:
    first, second = (prepare(each) for each in values)
    products: Tensor = first @ second.mT
    return products


def _overlap(values: Sequence[Tensor]) -> Tensor:
    both = _products(values, top_cells)
    first, second = (top_cells(each).sum(-1) for each in values)
    return both / (first[:, :, None] + second[:, None, :] - both)


def centred_ranks(values: Tensor) -> Tensor:
    """Ranks of the cells of each map, ties sharing their mean rank, centred and of length 1.

    Parameters
    ----------
    values : Tensor, (..., cell)

    Returns
    -------
    Tensor of float64, (..., cell)
        The product of two maps' ranks is Spearman's correlation. NaN for a map that is constant or not
        finite.

    Examples
    --------
    >>> (centred_ranks(torch.tensor([1.0, 5.0, 5.0])) * 6**0.5).round(decimals=6).tolist()
    [-2.0, 1.0, 1.0]
    """
    filled = values.double().nan_to_num().contiguous()
    ordered = filled.sort(-1).values
    before = torch.searchsorted(ordered, filled)
    ranks = (before + torch.searchsorted(ordered, filled, right=True)).double() / 2
    centred = ranks - ranks.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    usable = (length > 0) & values.isfinite().all(-1, keepdim=True)
    unit: Tensor = centred / length.where(usable, 1)
    return unit.masked_fill(~usable, torch.nan)


def top_cells(values: Tensor) -> Tensor:
    """Mark the cells with the highest values: the :data:`TOP` share of them, or less.

    Cells of one value stand together: where the last of them would exceed the share, none of them counts;
    so zeros that a ReLU left are never marked. Where the cells at the maximum alone exceed the share,
    they are marked.

    Parameters
    ----------
    values : Tensor, (..., cell)

    Returns
    -------
    Tensor of float64, (..., cell)
        1 or 0; NaN for a map that is constant or not finite.

    Examples
    --------
    >>> top_cells(torch.tensor([3.0, 0.0, 5.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 1.0])).tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    cells = values.shape[-1]
    number = max(1, int(TOP * cells))
    filled = values.double().nan_to_num()
    next_best = filled.topk(min(number + 1, cells), dim=-1).values[..., -1:]
    highest = filled.amax(-1, keepdim=True)
    marked = torch.where(highest > next_best, filled > next_best, filled == highest)
    usable = (highest > filled.amin(-1, keepdim=True)) & values.isfinite().all(-1, keepdim=True)
    return marked.double().masked_fill(~usable, torch.nan)
