"""XGrad-CAM and HiRes-CAM: maps of the product of a layer's activation and gradient.

Everywhere ``activation`` A and ``gradient`` g = dY/dA are (image, channel, row, column), Y is the
logit before softmax or sigmoid, and the result is (image, row, column) on the layer's own grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss_probe_explainers.formulas import cam, full

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["hi_res_cam", "x_grad_cam"]


def x_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM: channels weighted by their mean gradient, each place counting by its activation.

    ``w_k = sum_ij A_k(i, j) g_k(i, j) / sum_ij A_k(i, j)`` and ``M = relu(sum_k w_k A_k)`` (Fu et
    al. 2020). Before the ReLU the cells add up to ``sum A g``, which is the logit of a network of
    linear layers and ReLUs but for its biases.

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)
        The paper takes activations that are not negative. A channel whose activations add up to
        exactly 0 counts nothing.

    Returns
    -------
    Tensor, (image, row, column)
        Not negative.

    Examples
    --------
    >>> import torch
    >>> x_grad_cam(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 4.0]]]])).tolist()
    [[[3.0, 9.0]]]
    """
    maps, slope = full(activation), full(gradient)
    mass = maps.sum((-2, -1))
    shared = (slope * maps).sum((-2, -1))
    return cam(maps, (shared / mass.where(mass != 0, 1)).where(mass != 0, shared * 0)).relu_()


def hi_res_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """HiRes-CAM: gradient times activation at each place, summed over channels.

    ``M(i, j) = sum_k g_k(i, j) A_k(i, j)`` (Draelos and Carin 2020). Signed: negative values speak
    against the class. Where the logit is linear in the layer (a flatten or GAP and one linear
    layer), the cells add up to the logit but for its bias.

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)

    Returns
    -------
    Tensor, (image, row, column)
        Signed.

    Examples
    --------
    >>> import torch
    >>> hi_res_cam(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[-1.0, 4.0]]]])).tolist()
    [[[-1.0, 8.0]]]
    """
    return (full(gradient) * full(activation)).sum(1)
