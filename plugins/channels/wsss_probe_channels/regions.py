"""What a channel may be asked to outline: the mask classes, and what is left when one is taken away.

Feng et al. treat "normal tissue" as a region beside "cancer". Whether white background belongs to
it is not said there and changes every number, so both readings have a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from wsss_probe.masks import WHITE
from wsss_probe.overlap import IGNORED, Counts, majority_mask

__all__ = [
    "Complements",
    "MaskRegion",
    "masks_on",
    "planes",
    "region_counts",
    "region_shares",
    "regions_of",
]

_EXACT_IN_FLOAT32 = 1 << 24

Complements = Literal["auto", "none", "all"]
"""Which classes get complements: ``auto``, the only class besides white; ``all``, each."""


@final
@dataclass(frozen=True, slots=True)
class MaskRegion:
    """A set of pixels that each image's mask defines.

    Parameters
    ----------
    name : str
        The mask class; ``not gland``, all other known pixels; ``tissue without gland``, the same with
        white pixels ignored.
    position : int
        Position of the mask class that it is, or that it is without.
    complement : bool
        Whether it is what is left without that class.
    white : int
        Position of the class white, whose pixels are ignored; -1 when none are.
    """

    name: str
    position: int
    complement: bool = False
    white: int = -1

    def inside(self, masks: Tensor) -> Tensor:
        """Pixels of the region, bool, any shape."""
        if not self.complement:
            return masks == self.position
        return self.known(masks) & (masks != self.position)

    def known(self, masks: Tensor) -> Tensor:
        """Pixels that count, bool, any shape."""
        known = masks != IGNORED
        return known & (masks != self.white) if self.white >= 0 else known


def regions_of(mask_classes: Sequence[str], complements: Complements = "auto") -> tuple[MaskRegion, ...]:
    """List the regions of a manifest's masks: each class but white, then complements.

    White is bare glass and no thing that a channel should outline; it only says which pixels a
    complement leaves out. A manifest whose only class is white keeps it.

    Parameters
    ----------
    mask_classes : sequence of str
    complements : {"auto", "none", "all"}

    Returns
    -------
    tuple of MaskRegion

    Examples
    --------
    >>> [region.name for region in regions_of(("gland", "white"))]
    ['gland', 'not gland', 'tissue without gland']
    """
    own = tuple(MaskRegion(name, position) for position, name in enumerate(mask_classes))
    things = tuple(region for region in own if region.name != WHITE)
    if complements == "none" or not things or (complements == "auto" and len(things) != 1):
        return things or own
    white = list(mask_classes).index(WHITE) if WHITE in mask_classes else -1
    made: list[MaskRegion] = []
    for thing in things:
        made.append(MaskRegion(f"not {thing.name}", thing.position, complement=True))
        if white >= 0:
            name = f"tissue without {thing.name}"
            made.append(MaskRegion(name, thing.position, complement=True, white=white))
    return (*things, *made)


def planes(masks: Tensor, regions: Sequence[MaskRegion]) -> tuple[Tensor, Tensor]:
    """Where each region is, and where its pixels count.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    regions : sequence of MaskRegion

    Returns
    -------
    inside, known : Tensor of bool, (image, region, row, column)
    """
    inside = torch.stack([region.inside(masks) for region in regions], dim=1)
    known = torch.stack([region.known(masks) for region in regions], dim=1)
    return inside, known


def masks_on(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring masks to a grid by majority; every class that occurs takes part, whether or not it is a region.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    grid : (int, int)

    Returns
    -------
    Tensor of int, (image, row, column)
    """
    return masks if tuple(masks.shape[-2:]) == grid else majority_mask(masks, grid, int(masks.max()) + 1)


def region_shares(masks: Tensor, regions: Sequence[MaskRegion]) -> Tensor:
    """Share of each image's known pixels that each region covers, NaN where none is known.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    regions : sequence of MaskRegion

    Returns
    -------
    Tensor of float64, (image, region)
    """
    inside, known = (plane.flatten(2).sum(2).double() for plane in planes(masks, regions))
    return inside / known


def region_counts(predicted: Tensor, masks: Tensor, regions: Sequence[MaskRegion]) -> Counts:
    """Count for every map how it meets every region.

    Parameters
    ----------
    predicted : Tensor of bool, (image, channel, row, column)
    masks : Tensor of int, (image, row, column)
        On the grid of ``predicted``.
    regions : sequence of MaskRegion

    Returns
    -------
    Counts
        Each (image, channel, region).
    """
    # sums of ones are exact in float32 below 2^24
    dtype = torch.float32 if masks[0].numel() < _EXACT_IN_FLOAT32 else torch.float64
    inside, known = (part.flatten(2).to(dtype) for part in planes(masks, regions))
    pixels = predicted.flatten(2).to(dtype)
    tp = torch.bmm(pixels, inside.transpose(1, 2)).long()
    area = torch.bmm(pixels, known.transpose(1, 2)).long()
    return Counts(tp=tp, fp=area - tp, fn=inside.sum(2).long()[:, None] - tp)
