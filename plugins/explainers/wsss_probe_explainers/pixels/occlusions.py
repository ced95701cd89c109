"""Occlusion and feature ablation: how the score falls when a part of the image is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

from wsss_probe.errors import UsageError
from wsss_probe_explainers.pixels.cards import FEATURE_ABLATION_CARD, OCCLUSION_CARD
from wsss_probe_explainers.pixels.on_input import OnInput, Some, require_positive
from wsss_probe_explainers.pixels.replacements import Replacement, replaced, require_replacement

if TYPE_CHECKING:
    from wsss_probe import DefinitionCard
    from wsss_probe_explainers.pixels.scores import Score

__all__ = ["FeatureAblationMap", "OcclusionMap", "Regions", "patches", "superpixels"]

Regions = Literal["superpixels", "patches"]


@final
@dataclass(frozen=True, slots=True)
class OcclusionMap(OnInput):
    """The mean fall of the score over all windows that hide a pixel.

    Zeiler, Fergus (2014), doi:10.1007/978-3-319-10590-1_53, section 4.2. Signed, in units of the score:
    positive where hiding lowers it. Misleads where evidence stands twice, and where the window itself is
    something to see.

    Parameters
    ----------
    window, stride : int
        In pixels; by default a seventh of the longer side, and half a window. A stride is cut to the window.
    replacement : {"zero", "mean-of-image", "blur"}
        What a window shows.
    internal_batch : int
        Most hidden copies in one pass.
    """

    window: int = 0
    stride: int = 0
    replacement: Replacement = "zero"
    internal_batch: int = 16
    name: str = "occlusion"
    card: DefinitionCard = OCCLUSION_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(window=self.window + 1, stride=self.stride + 1, internal_batch=self.internal_batch)
        require_replacement(self.replacement)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Slide the window over one image."""
        from captum.attr import Occlusion

        channels, *sides = some.images.shape[1:]
        window = self.window or max(round(max(sides) / 7), 1)
        stride = min(self.stride or max(window // 2, 1), window)
        found: Tensor = Occlusion(score).attribute(
            some.images,
            sliding_window_shapes=(channels, *(min(window, side) for side in sides)),
            strides=(channels, *(min(stride, side) for side in sides)),
            baselines=replaced(some.images, self.replacement),
            additional_forward_args=(some.weights,),
            perturbations_per_eval=self.internal_batch,
        )
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Take one colour: a window hides all of them at once, so each carries the whole fall."""
        return found[:, 0]


@final
@dataclass(frozen=True, slots=True)
class FeatureAblationMap(OnInput):
    """The fall of the score when a region of the image is replaced, by region.

    Kokhlikyan et al. (2020), arXiv:2009.07896 (captum); the idea of Zeiler and Fergus (2014) on
    regions that do not overlap. Signed, in units of the score; equal within a region. Misleads by its
    outlines: superpixels follow the image's edges whatever the network saw.

    Parameters
    ----------
    regions : {"superpixels", "patches"}
        SLIC superpixels of each image, or squares of equal size.
    number : int
        About how many regions an image has.
    replacement : {"zero", "mean-of-image", "blur"}
        What a region shows when it is taken away.
    internal_batch : int
        Most changed copies in one pass.
    """

    regions: Regions = "superpixels"
    number: int = 64
    replacement: Replacement = "zero"
    internal_batch: int = 16
    name: str = "feature-ablation"
    card: DefinitionCard = FEATURE_ABLATION_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(number=self.number, internal_batch=self.internal_batch)
        require_replacement(self.replacement)
        if self.regions not in get_args(Regions):
            msg = "unknown regions"
            raise UsageError(msg, found=str(self.regions), wanted=" or ".join(get_args(Regions)))

    def explain(self, score: Score, some: Some) -> Tensor:
        """Take away each region of one image."""
        from captum.attr import FeatureAblation

        divide = superpixels if self.regions == "superpixels" else patches
        found: Tensor = FeatureAblation(score).attribute(
            some.images,
            baselines=replaced(some.images, self.replacement),
            additional_forward_args=(some.weights,),
            feature_mask=divide(some.images[0].detach(), self.number)[None, None],
            perturbations_per_eval=self.internal_batch,
        )
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Take one colour: a region loses all of them at once, so each carries the whole fall."""
        return found[:, 0]


def superpixels(image: Tensor, number: int) -> Tensor:
    """Divide an image into SLIC superpixels of its own colours, each scaled to 0..1 together.

    Parameters
    ----------
    image : Tensor, (channel, row, column)
    number : int
        About how many.

    Returns
    -------
    Tensor of int64, (row, column)
        From 0, without gaps.
    """
    from skimage.segmentation import slic

    values = image.float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    found = slic(scaled, n_segments=number, compactness=0.1, start_label=0, channel_axis=0, convert2lab=False)
    _, regions = np.unique(found, return_inverse=True)
    return torch.as_tensor(regions.reshape(found.shape), device=image.device)


def patches(image: Tensor, number: int) -> Tensor:
    """Divide an image into equal rectangles, as near to squares as their number allows.

    Parameters
    ----------
    image : Tensor, (channel, row, column)
    number : int
        About how many.

    Returns
    -------
    Tensor of int64, (row, column)
        From 0, without gaps, in reading order.

    Examples
    --------
    >>> patches(torch.zeros(3, 2, 4), 2).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    rows, columns = image.shape[1:]
    side = (rows * columns / number) ** 0.5
    down = min(max(round(rows / side), 1), rows)
    across = min(max(round(columns / side), 1), columns)
    row = torch.arange(rows, device=image.device) * down // rows
    column = torch.arange(columns, device=image.device) * across // columns
    regions: Tensor = row[:, None] * across + column
    return regions
