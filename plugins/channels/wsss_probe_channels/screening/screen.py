"""One batch of the screen: every channel thresholded and compared with every region.

The order of operations is part of the number, so it is chosen by name (see :class:`Resolution`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_probe.errors import UsageError
from wsss_probe.overlap import Counts
from wsss_probe.threshold import binarize, otsu
from wsss_probe_channels.regions import MaskRegion, masks_on, region_counts

__all__ = ["Resolution", "Screen", "screen"]

_CHUNK = 1 << 22
"""Map cells that are resized and thresholded at once: 16 MiB of float32."""


@final
@dataclass(frozen=True, slots=True)
class Resolution:
    """The grid on which map and mask are compared, and in which order they get there.

    ``layer``: the mask comes down to the layer's grid by majority; the map is thresholded as it is.
    ``mask``: the map is resized to the mask's grid (bilinear, ``align_corners=False``), then
    thresholded. ``NxN``: both go to that grid, the map bilinearly and before its threshold, the mask by
    majority.

    Parameters
    ----------
    name : str
        ``layer``, ``mask``, or two whole numbers, ``112x112``.

    Raises
    ------
    UsageError
        For any other name.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse a name that says no grid."""
        if self.name not in {"layer", "mask"} and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.name):
            msg = "unknown resolution of channel-f1"
            raise UsageError(
                msg, found=self.name, wanted="layer, mask or NxN", remedy="resolution = '112x112'"
            )

    @property
    def order(self) -> str:
        """The order of operations, in words."""
        if self.name == "layer":
            return "mask to the layer's grid by majority; Otsu on the map as it is; F1 on the layer's grid"
        if self.name == "mask":
            return "map to the mask's grid (bilinear, align_corners=False); Otsu; F1 on the mask's grid"
        return (
            f"map to {self.name} (bilinear, align_corners=False); Otsu; mask to {self.name} by majority; F1"
        )

    def grid(self, maps: Tensor, masks: Tensor) -> tuple[int, int]:
        """Rows and columns of the grid for these maps and masks."""
        if self.name in {"layer", "mask"}:
            rows, columns = (maps if self.name == "layer" else masks).shape[-2:]
        else:
            rows, columns = map(int, self.name.split("x"))
        return rows, columns


@final
@dataclass(frozen=True, slots=True)
class Screen:
    """What the screen says about one batch.

    Parameters
    ----------
    counts : Counts
        Pixels (image, channel, region): true positive, false positive, false negative.
    threshold : Tensor, (image, channel)
        In units of the activation; NaN where the map is degenerate.
    coverage : Tensor, (image, channel)
        Share of the grid above the threshold.
    masks : Tensor of int, (image, row, column)
        The masks on the grid of the comparison.
    """

    counts: Counts
    threshold: Tensor
    coverage: Tensor
    masks: Tensor


def screen(maps: Tensor, masks: Tensor, regions: Sequence[MaskRegion], resolution: Resolution) -> Screen:
    """Threshold every map by Otsu and count its overlap with every region.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)
    masks : Tensor of int, (image, row, column)
        Positions of classes; -1 ignored, -2 in no class.
    regions : sequence of MaskRegion
        From :func:`wsss_probe_channels.regions.regions_of`; they are looked up after the masks came to
        the grid, so a complement is what the majority is not.
    resolution : Resolution

    Returns
    -------
    Screen
    """
    grid = resolution.grid(maps, masks)
    small = masks_on(masks, grid)
    width = max(1, _CHUNK // (len(maps) * grid[0] * grid[1]))
    seen = _empty(maps, small, len(regions))
    for start in range(0, maps.shape[1], width):
        part = slice(start, start + width)
        _copy(_screen_channels(maps[:, part], small, regions), seen, part)
    return seen


def _empty(maps: Tensor, masks: Tensor, regions: int) -> Screen:
    """Make room for all channels at once.

    Small results that stayed between the large blocks of one part and the next would keep the allocator
    from using those again, and memory would grow with the number of channels.
    """
    by_channel, device = tuple(maps.shape[:2]), maps.device
    counts = (torch.empty(*by_channel, regions, dtype=torch.int64, device=device) for _ in range(3))
    dtype = torch.promote_types(maps.dtype, torch.float32)
    threshold = torch.empty(by_channel, dtype=dtype, device=device)
    return Screen(Counts(*counts), threshold, torch.empty(by_channel, device=device), masks)


def _copy(part: Screen, into: Screen, channels: slice) -> None:
    for name in ("tp", "fp", "fn"):
        getattr(into.counts, name)[:, channels] = getattr(part.counts, name)
    into.threshold[:, channels] = part.threshold
    into.coverage[:, channels] = part.coverage


def _screen_channels(maps: Tensor, masks: Tensor, regions: Sequence[MaskRegion]) -> Screen:
    """Resize, threshold and count some channels."""
    full = maps if maps.itemsize >= 4 else maps.float()
    resized = _resize(full, tuple(masks.shape[-2:])).contiguous()  # thresholds go map by map
    threshold = otsu(resized)
    predicted = binarize(resized, threshold)
    coverage = predicted.flatten(2).float().mean(2)
    return Screen(region_counts(predicted, masks, regions), threshold, coverage, masks)


def _resize(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[-2:]) == grid:
        return maps
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
