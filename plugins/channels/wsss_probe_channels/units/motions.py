"""Ways to move a network's input, and to move its maps back.

A layer's grid is coarser than its input, so a shift of the input by whole cells comes back exactly, one by
half a cell only by interpolation, and at the borders the network has seen something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAMES", "Axis", "Motion", "axis", "motions"]

NAMES = ("shift", "half-cell shift", "mirror left-right", "mirror up-down", "rotate 180", "rotate 90")
"""All motions, in the order of tables."""

SHIFT = 8
"""A shift takes about one part in so many of a map, and at least a cell ..."""

MOST = 4
"""... but never more than one part in so many: a map of fewer cells is not shifted along that side."""


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """One side of a layer's grid.

    Parameters
    ----------
    cells : int
        Cells along it.
    step : int
        Input pixels of the smallest shift that is a whole number of cells.
    per_step : int
        How many cells that is; more than one only where maps are finer than the input.
    """

    cells: int
    step: int
    per_step: int = 1


@final
@dataclass(frozen=True, slots=True)
class Motion:
    """One way to move the input.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    move : callable
        ``move(images) -> images``, (image, channel, row, column).
    back : callable
        ``back(maps, moved) -> (maps, moved)``: the maps of the images as they were and as they were moved,
        cut to the cells that can be compared, the latter moved back.
    """

    name: str
    move: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def axis(pixels: int, cells: int) -> Axis:
    """Find the stride along one side from the sizes.

    Where the sizes do not divide, because a network pads too little or too much, the nearest power of two
    is taken. Sizes that divide by chance (28 pixels to 4 cells without padding is a stride of 4, not 7)
    cannot be told.

    Parameters
    ----------
    pixels, cells : int
        Of the input and of the map.

    Returns
    -------
    Axis

    Examples
    --------
    >>> axis(224, 7), axis(8, 16)
    (Axis(cells=7, step=32, per_step=1), Axis(cells=16, step=1, per_step=2))
    >>> axis(227, 13).step
    16
    """
    return Axis(cells, _ratio(pixels, cells)) if pixels >= cells else Axis(cells, 1, _ratio(cells, pixels))


def _ratio(large: int, small: int) -> int:
    whole, rest = divmod(large, small)
    return whole if not rest else 2 ** round(math.log2(large / small))


def motions(
    size: tuple[int, int], grid: tuple[int, int], receptive_field: int | None
) -> tuple[Motion | None, ...]:
    """All motions for one layer.

    Parameters
    ----------
    size, grid : (int, int)
        Rows and columns of the input, and of the maps.
    receptive_field : int or None
        Its side in input pixels decides how many cells at the border are not compared after a shift, as
        far as half of the map is left; None means as many as that.

    Returns
    -------
    tuple of Motion or None
        In the order of :data:`NAMES`; None where the layer does not allow it: a shift needs a side of
        four cells, half a cell needs two pixels, a quarter turn needs squares.
    """
    sides = axis(size[0], grid[0]), axis(size[1], grid[1])
    whole, half = (tuple(offset(side) for side in sides) for offset in (_whole_cells, _half_cell))
    square = size[0] == size[1] and grid[0] == grid[1]
    quarter = Motion(NAMES[5], lambda images: torch.rot90(images, 1, (2, 3)), _turned_back)
    return (
        _shift(NAMES[0], sides, (whole[0], whole[1]), receptive_field),
        _shift(NAMES[1], sides, (half[0], half[1]), receptive_field),
        _mirror(NAMES[2], (3,)),
        _mirror(NAMES[3], (2,)),
        _mirror(NAMES[4], (2, 3)),
        quarter if square else None,
    )


def _turned_back(maps: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    return maps, torch.rot90(moved, -1, (2, 3))


def _mirror(name: str, dims: tuple[int, ...]) -> Motion:
    """Mirror along some sides; borders fall on borders, so all cells are compared."""
    return Motion(name, lambda images: images.flip(dims), lambda maps, moved: (maps, moved.flip(dims)))


# -- shifts --------------------------------------------------------------------------------------


def _whole_cells(side: Axis) -> int:
    """Pixels of a shift by whole cells; 0 if the side is too short."""
    steps = max(1, side.cells // SHIFT // side.per_step)
    return steps * side.step if steps * side.per_step * MOST <= side.cells else 0


def _half_cell(side: Axis) -> int:
    """Pixels of a shift by half a cell, rounded down; 0 if a cell has no half or the side is too short."""
    return side.step // 2 if side.cells >= MOST else 0


def _shift(
    name: str, sides: tuple[Axis, Axis], pixels: tuple[int, int], receptive_field: int | None
) -> Motion | None:
    """Shift down and right, what leaves the image coming in again at the other side."""
    if not any(pixels):
        return None
    offsets = [side.per_step * by / side.step for side, by in zip(sides, pixels, strict=True)]
    margins = _margins(sides, offsets, receptive_field)

    def back(maps: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        for dim, (offset, margin) in enumerate(zip(offsets, margins, strict=True), start=2):
            maps, moved = _cut(maps, moved, dim, offset, margin)
        return maps, moved

    return Motion(name, lambda images: torch.roll(images, pixels, dims=(2, 3)), back)


def _cut(maps: Tensor, moved: Tensor, dim: int, offset: float, margin: int) -> tuple[Tensor, Tensor]:
    """Cut both to the cells that a shift by ``offset`` left, between neighbours by interpolation."""
    whole, part = int(offset), offset - int(offset)
    length = maps.shape[dim] - math.ceil(offset) - 2 * margin
    kept = moved.narrow(dim, margin + whole, length)
    if part:
        kept = (1 - part) * kept + part * moved.narrow(dim, margin + whole + 1, length)
    return maps.narrow(dim, margin, length), kept


def _margins(sides: tuple[Axis, Axis], offsets: list[float], receptive_field: int | None) -> list[int]:
    """Cells at each border that see the border, bounded so that at least half of the map is compared."""
    wanted = [_reach(side, receptive_field) for side in sides]
    lost = [math.ceil(offset) for offset in offsets]

    def left(most: int) -> list[int]:
        return [
            side.cells - gone - 2 * min(want, most)
            for side, gone, want in zip(sides, lost, wanted, strict=True)
        ]

    enough = sides[0].cells * sides[1].cells / 2
    widest = next(
        (
            most
            for most in range(max(wanted), 0, -1)
            if min(left(most)) > 0 and math.prod(left(most)) >= enough
        ),
        0,
    )
    return [min(want, widest) for want in wanted]


def _reach(side: Axis, receptive_field: int | None) -> int:
    """Cells from the border whose receptive field crosses it; all where it is not known."""
    if receptive_field is None:
        return side.cells
    return min(side.cells, math.ceil(max(0, receptive_field - 1) / 2 * side.per_step / side.step))
