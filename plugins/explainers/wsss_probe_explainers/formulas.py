"""The class activation maps as pure functions of one layer's activation and gradient.

Everywhere ``activation`` A and ``gradient`` g = dY/dA are (image, channel, row, column), Y is the
logit before softmax or sigmoid, and the result is (image, row, column) on the layer's own grid:
neither resized nor normalised. A map of zeros is a valid result (no positive evidence); NaN comes
out only for images with NaN or infinity in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "PlusPlusVariant",
    "cam",
    "full",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "plus_plus_weights",
]

PlusPlusVariant = Literal["authors", "unnormalised"]
"""How Grad-CAM++ treats its coefficients: normalised per channel (the authors' code) or not (eq. 19)."""


def cam(activation: Tensor, weight: Tensor) -> Tensor:
    """Class activation map: the maps of a GAP + linear network, weighted by its own head.

    ``M(row, column) = sum_k w_k A_k(row, column)`` (Zhou et al. 2016, eq. 2). Signed: negative
    values speak against the class. Its spatial mean plus the bias is the logit.

    Parameters
    ----------
    activation : Tensor, (image, channel, row, column)
    weight : Tensor, (image, channel)
        Row of the head's weight for each image's own target class.

    Returns
    -------
    Tensor, (image, row, column)

    Examples
    --------
    >>> import torch
    >>> cam(torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]), torch.tensor([[1.0, -1.0]])).tolist()
    [[[-2.0, 2.0]]]
    """
    maps = full(activation).flatten(2)
    return (weight.to(maps.dtype).unsqueeze(1) @ maps).view(len(maps), *activation.shape[2:])


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient, positive evidence kept.

    ``alpha_k = mean_ij g_k(i, j)`` (Selvaraju et al. 2017, eq. 1) and
    ``M = relu(sum_k alpha_k A_k)`` (eq. 2).

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)

    Returns
    -------
    Tensor, (image, row, column)
        Not negative.

    Examples
    --------
    >>> import torch
    >>> grad_cam(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 4.0]]]])).tolist()
    [[[2.0, 4.0]]]
    """
    return cam(activation, full(gradient).mean((-2, -1))).relu()


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor, variant: PlusPlusVariant = "authors") -> Tensor:
    """Grad-CAM++: channels weighted by their positive gradients, each with its own coefficient.

    ``M = relu(sum_k w_k A_k)`` (Chattopadhay et al. 2018) with the weights of
    :func:`plus_plus_weights`. The paper's score is exp(Y); the factor e^Y that this puts on every
    weight is left out, so a map is known up to one positive factor per image: compare places
    within a map, not values between images.

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)
        The derivation takes activations that are not negative (after a ReLU).
    variant : {"authors", "unnormalised"}

    Returns
    -------
    Tensor, (image, row, column)
        Not negative.
    """
    return cam(activation, plus_plus_weights(activation, gradient, variant)).relu()


def plus_plus_weights(activation: Tensor, gradient: Tensor, variant: PlusPlusVariant = "authors") -> Tensor:
    """Channel weights of Grad-CAM++, ``w_k = sum_ij alpha_k(i, j) relu(g_k(i, j))``.

    For a network that is piecewise linear behind the layer, d^n exp(Y) / dA^n = e^Y g^n, and
    eq. 19 of the paper becomes ``alpha = g^2 / (2 g^2 + S_k g^3) = 1 / (2 + S_k g)`` with S_k the
    sum of A_k over positions. We compute the last form: the ratio of powers loses gradients below
    1e-3 to rounding or to an epsilon. A denominator of exactly 0 (only where activations are
    negative) is replaced by 1, as the authors do.

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)
    variant : {"authors", "unnormalised"}
        ``"authors"`` divides a channel's coefficients by their sum over positions with a positive
        gradient (by 1 if that sum is 0), as the authors' code does; ``"unnormalised"`` is eq. 19
        as printed.

    Returns
    -------
    Tensor, (image, channel)
    """
    weigh = _VARIANTS[variant]
    # image by image: what is computed on the way stays in the processor's cache, which saves two thirds
    pairs = zip(full(activation), full(gradient), strict=True)
    return torch.stack([weigh(own.sum((-2, -1), keepdim=True), slope.relu()) for own, slope in pairs])


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Layer-CAM: every position weighted by its own positive gradient.

    ``M(i, j) = relu(sum_k relu(g_k(i, j)) A_k(i, j))`` (Jiang et al. 2021).

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)

    Returns
    -------
    Tensor, (image, row, column)
        Not negative.

    Examples
    --------
    >>> import torch
    >>> layer_cam(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[-1.0, 4.0]]]])).tolist()
    [[[0.0, 8.0]]]
    """
    return full(gradient).relu().mul_(full(activation)).sum(1).relu_()


def full(values: Tensor) -> Tensor:
    """Compute half precision in float32: sums over positions would overflow.

    Parameters
    ----------
    values : Tensor

    Returns
    -------
    Tensor
        The same one if it is float32 or wider.
    """
    return values if values.itemsize >= 4 else values.float()


def _coefficients(total: Tensor, rise: Tensor) -> Tensor:
    """Coefficients 1 / (2 + S g) where the gradient rises; 1/2 elsewhere, where they count nothing."""
    denominator = torch.addcmul(torch.full_like(total, 2), total, rise)
    if bool((total < 0).any()):  # only then can it be 0
        denominator.masked_fill_(denominator == 0, 1)
    return denominator.reciprocal_()


def _weigh(total: Tensor, rise: Tensor) -> Tensor:
    """Sum of coefficients times positive gradients, per channel."""
    return _coefficients(total, rise).mul_(rise).sum((-2, -1))


def _weigh_normalised(total: Tensor, rise: Tensor) -> Tensor:
    """Divide by the sum of coefficients over positions with a positive gradient; 0 counts as 1."""
    coefficient = _coefficients(total, rise).mul_(rise.sign())
    scale = coefficient.sum((-2, -1))
    return coefficient.mul_(rise).sum((-2, -1)) / scale.where(scale != 0, 1)


_VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "authors": _weigh_normalised,
    "unnormalised": _weigh,
}
