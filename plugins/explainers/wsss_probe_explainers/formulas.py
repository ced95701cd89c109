"""The class activation maps as pure functions of one layer's activation and gradient.

Everywhere ``activation`` A and ``gradient`` g = dY/dA are (image, channel, row, column), Y is the
logit before softmax or sigmoid, and the result is (image, row, column) on the layer's own grid:
neither resized nor normalised. A map of zeros is a valid result (no positive evidence); NaN comes
out only for images with NaN or infinity in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlusPlusVariant", "cam", "grad_cam", "grad_cam_plus_plus", "layer_cam", "plus_plus_weights"]

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
    maps = _full(activation).flatten(2)
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
    return cam(activation, _full(gradient).mean((-2, -1))).relu()


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
    rise = _full(gradient)
    total = _full(activation).sum((-2, -1), keepdim=True)
    denominator = rise * total + 2
    coefficient = denominator.where(denominator != 0, 1).reciprocal()
    return _VARIANTS[variant](coefficient, rise.relu())


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
    return (_full(gradient).relu() * _full(activation)).sum(1).relu()


def _full(values: Tensor) -> Tensor:
    """Compute half precision in float32: sums over positions would overflow."""
    return values if values.itemsize >= 4 else values.float()


def _weigh(coefficient: Tensor, rise: Tensor) -> Tensor:
    """Sum of coefficients times positive gradients, per channel."""
    return (coefficient * rise).sum((-2, -1))


def _weigh_normalised(coefficient: Tensor, rise: Tensor) -> Tensor:
    """Divide by the sum of coefficients over positions with a positive gradient; 0 counts as 1."""
    total = (coefficient * (rise > 0)).sum((-2, -1))
    return _weigh(coefficient, rise) / total.where(total != 0, 1)


_VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "authors": _weigh_normalised,
    "unnormalised": _weigh,
}
