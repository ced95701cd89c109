"""Random flips and colour jitter on whole batches, drawn from an explicit generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wsss_probe.errors import UsageError

__all__ = ["Augmentation", "augment", "flip", "jitter"]

# Luma of ITU-R BT.601: what saturation 0 leaves.
_LUMA = (0.299, 0.587, 0.114)

# RGB to YIQ: turning the I-Q plane turns the hue and keeps the luma.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@final
@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may be changed at random in a training image.

    Parameters
    ----------
    horizontal, vertical : bool
        Flip left-right or top-bottom with probability 1/2.
    brightness, contrast, saturation : float
        Factors are drawn from 1 ± this.
    hue : float
        Turns of the hue circle are drawn from 0 ± this; .5 is the complement.
    """

    horizontal: bool = True
    vertical: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        limits = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise UsageError(
                    f"colour jitter: {name} is out of range",
                    found=str(getattr(self, name)),
                    wanted=f"0 to {limit:g}",
                )

    @property
    def colours(self) -> bool:
        """Whether any colour is changed."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip and jitter each image of a batch on its own.

    Parameters
    ----------
    images : Tensor of float, (image, 3, row, column)
        Red, green, blue in 0..1.
    augmentation : Augmentation
    generator : Generator
        On the CPU, so that a seed gives the same batch on every device.

    Returns
    -------
    Tensor, (image, 3, row, column)
        In 0..1; the argument stays as it is.
    """
    if augmentation.horizontal:
        images = flip(images, -1, generator)
    if augmentation.vertical:
        images = flip(images, -2, generator)
    return jitter(images, augmentation, generator) if augmentation.colours else images


def flip(images: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """Flip each image along an axis with probability 1/2.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
    axis : int
        -1 flips columns, -2 rows.
    generator : Generator

    Returns
    -------
    Tensor, (image, channel, row, column)
    """
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(axis), images)


def jitter(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Change brightness, saturation and hue by one colour matrix per image, then contrast.

    Parameters
    ----------
    images : Tensor of float, (image, 3, row, column)
        In 0..1.
    augmentation : Augmentation
    generator : Generator

    Returns
    -------
    Tensor, (image, 3, row, column)
        Clipped to 0..1.
    """
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    draws = torch.rand(len(images), 4, generator=generator) * 2 - 1
    brightness, contrast, saturation, hue = (draws * torch.tensor(strengths)).unbind(1)
    matrix = (1 + brightness)[:, None, None] * _saturation(1 + saturation) @ _hue(hue)
    changed = torch.einsum("nij,njrc->nirc", matrix.to(images), images)
    grey = changed.mean(dim=(1, 2, 3), keepdim=True)
    factor = (1 + contrast).to(images)[:, None, None, None]
    return (grey + factor * (changed - grey)).clamp(0, 1)


def _saturation(factor: Tensor) -> Tensor:
    """Mix each colour with its luma, (image, 3, 3)."""
    luma = torch.tensor(_LUMA).expand(3, 3)
    return luma + factor[:, None, None] * (torch.eye(3) - luma)


def _hue(turns: Tensor) -> Tensor:
    """Turn the chroma plane, (image, 3, 3)."""
    angle = turns * (2 * torch.pi)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (torch.ones_like(angle), zero, zero, zero, cosine, -sine, zero, sine, cosine)
    yiq = torch.tensor(_YIQ)
    turned: Tensor = torch.linalg.inv(yiq) @ torch.stack(rows, 1).view(-1, 3, 3) @ yiq
    return turned
