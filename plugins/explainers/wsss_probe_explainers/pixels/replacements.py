"""What stands in the place of a pixel that is taken away, or where a path to the image begins."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from wsss_probe.errors import UsageError

__all__ = ["Replacement", "replaced", "require_replacement"]

Replacement = Literal["zero", "mean-of-image", "blur"]
"""``"zero"``: 0 in the network's units, which is the mean colour of the training images where
preprocessing subtracts it, and black where it does not. ``"mean-of-image"``: the image's own mean, by
channel. ``"blur"``: the image under a Gaussian whose sigma is a tenth of the longer side."""


def replaced(images: Tensor, by: Replacement) -> Tensor:
    """Make the images of which nothing is left.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
    by : {"zero", "mean-of-image", "blur"}

    Returns
    -------
    Tensor, (image, channel, row, column)

    Examples
    --------
    >>> replaced(torch.tensor([[[[1.0, 3.0]]]]), "mean-of-image").tolist()
    [[[[2.0, 2.0]]]]
    """
    images = images.detach()
    if by == "zero":
        return torch.zeros_like(images)
    if by == "mean-of-image":
        return images.float().mean((2, 3), keepdim=True).to(images.dtype).expand_as(images).clone()
    sigma = max(images.shape[2:]) / 10
    blurred = gaussian_filter(images.float().cpu().numpy(), (0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(blurred).to(images)


def require_replacement(by: str) -> None:
    """Refuse what no image is made of.

    Raises
    ------
    UsageError
    """
    if by not in get_args(Replacement):
        msg = "unknown replacement of pixels"
        raise UsageError(msg, found=str(by), wanted=", ".join(get_args(Replacement)))
