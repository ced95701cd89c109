"""What a rule on the input's own intensity reaches: the baseline that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from wsss_probe.overlap import f1
from wsss_probe_channels.screening.screen import Resolution, screen

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe_channels.regions import MaskRegion

__all__ = ["intensity_f1", "rule_names"]


def rule_names(inputs: int) -> list[str]:
    """Name the rules for a network with so many input channels, in the order of :func:`intensity_f1`.

    >>> rule_names(1)
    ['dark input 0', 'bright input 0']
    """
    return [f"{side} input {channel}" for side in ("dark", "bright") for channel in range(inputs)]


def intensity_f1(
    images: Tensor, masks: Tensor, regions: Sequence[MaskRegion], grid: tuple[int, int]
) -> Tensor:
    """F1 of Otsu's mask of each input channel, dark side and bright side, with each region.

    A stain, a colour or the brightness alone may outline an object. Where such a rule scores as
    high as a channel, the channel shows no more than that.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
        Network input; Otsu does not see an affine preprocessing.
    masks : Tensor of int, (image, row, column)
        Positions of classes; -1 ignored, -2 in no class.
    regions : sequence of MaskRegion
    grid : (int, int)
        Images are averaged to it, masks brought to it by majority.

    Returns
    -------
    Tensor, (image, rule, region)
        NaN where an input channel is constant, or both masks are empty.
    """
    pooled = F.adaptive_avg_pool2d(images.float(), grid)
    sides = torch.cat([-pooled, pooled], dim=1)
    seen = screen(sides, masks, regions, Resolution("layer"))
    return f1(seen.counts).masked_fill(seen.threshold.isnan().unsqueeze(-1), torch.nan)
