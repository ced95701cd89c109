"""Network Dissection: how the strongest responses of channels meet concepts, in pixels of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_probe_channels.regions import MaskRegion, planes

__all__ = ["Overlap", "overlap"]

_CHUNK = 1 << 24
"""Pixels of resized maps at once: 64 MiB of float32."""


@final
@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels of one batch; whole numbers, on the grid of the masks.

    Parameters
    ----------
    intersection, unit : Tensor of float64, (image, channel, class)
        Pixels above the threshold in the concept, and among all pixels that count for it.
    area, pixels : Tensor of float64, (image, class)
        Pixels of the concept, and all that count for it.
    occurs : Tensor of bool, (image, class)
        Whether the category of the concept is labelled in the image.
    """

    intersection: Tensor
    unit: Tensor
    area: Tensor
    pixels: Tensor
    occurs: Tensor


def overlap(maps: Tensor, threshold: Tensor, masks: Tensor, regions: Sequence[MaskRegion]) -> Overlap:
    """Resize maps to the masks bilinearly, threshold them strictly, and count.

    Maps whose largest value is not above the threshold are skipped: bilinear values are never larger.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)
    threshold : Tensor, (channel,)
        NaN: nothing is above it.
    masks : Tensor of int, (image, row, column)
    regions : sequence of MaskRegion

    Returns
    -------
    Overlap
    """
    inside, known = (plane.flatten(2) for plane in planes(masks, regions))
    both = torch.cat([inside, known], dim=1).float()
    active = maps.amax(dim=(2, 3)) > threshold
    counts = torch.zeros(*maps.shape[:2], both.shape[1], dtype=torch.float64, device=maps.device)
    width = max(1, _CHUNK // both.shape[2])
    grid = (int(masks.shape[-2]), int(masks.shape[-1]))
    for image in range(len(maps)):
        firing = active[image].nonzero()[:, 0]
        for channels in torch.split(firing, width) if len(firing) else ():
            large = F.interpolate(maps[image : image + 1, channels], grid, mode="bilinear")[0]
            above = (large > threshold[channels, None, None]).flatten(1).float()
            counts[image, channels] = (above @ both[image].T).double()
    intersection, unit = torch.split(counts, len(regions), dim=2)
    return Overlap(intersection, unit, inside.sum(2).double(), known.sum(2).double(), _occurs(masks, regions))


def _occurs(masks: Tensor, regions: Sequence[MaskRegion]) -> Tensor:
    """Whether the image has a pixel of any mask class; for a complement, any pixel that counts for it."""
    labelled = (masks >= 0).flatten(1).any(dim=1)
    found = [
        region.known(masks).flatten(1).any(dim=1) if region.complement else labelled for region in regions
    ]
    return torch.stack(found, dim=1)
