"""Grad-CAM++ as other programs compute it, reproduced by name so that maps can be compared.

Programs that carry the name Grad-CAM++ compute different weights. None of these formulas is the
paper's; each is kept as its program has it, epsilons and mixed-up indices included. What all have
in common is left alone: ``M = relu(sum_k w_k A_k)``, and no positive factor per image (MONAI's
exp(Y)) is kept. Only positions with a positive gradient contribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wsss_probe_explainers.formulas import cam, full

__all__ = ["PROGRAMS", "Program", "program_plus_plus", "program_weights"]

Program = Literal["pytorch-grad-cam", "torchcam", "monai", "xplique"]
"""Whose Grad-CAM++."""


def program_plus_plus(activation: Tensor, gradient: Tensor, program: Program) -> Tensor:
    """Grad-CAM++ as a program computes it.

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)
    program : {"pytorch-grad-cam", "torchcam", "monai", "xplique"}

    Returns
    -------
    Tensor, (image, row, column)
        Not negative, up to one positive factor per image.
    """
    return cam(activation, program_weights(activation, gradient, program)).relu_()


def program_weights(activation: Tensor, gradient: Tensor, program: Program) -> Tensor:
    """Channel weights of Grad-CAM++ as a program computes them.

    With r = relu(g) and S the sum of A over positions:

    ================== ===================================================================
    pytorch-grad-cam   sum r^3 / (2 g^2 + S g^3 + 1e-6)
    torchcam           sum r^3 (its division acts on a copy and is lost)
    monai              sum r^3 / (2 g^2 + sum(A g^3) + 1e-7), a denominator of 0 counting as 1
    xplique            mean r^3 / (2 g^2 + mean(A) g^3), a denominator of 0 counting as 1e-4
    ================== ===================================================================

    Parameters
    ----------
    activation, gradient : Tensor, (image, channel, row, column)
        Where activations are negative a denominator may be exactly 0 in pytorch-grad-cam too; it
        counts as 1, so that no infinity comes out.
    program : {"pytorch-grad-cam", "torchcam", "monai", "xplique"}

    Returns
    -------
    Tensor, (image, channel)

    Examples
    --------
    >>> g = torch.tensor([[[[0.5, -2.0]]]])
    >>> [round(program_weights(torch.ones_like(g), g, name).item(), 3) for name in PROGRAMS]
    [0.167, 0.125, -0.017, 0.1]
    """
    # image by image: what is computed on the way stays in the processor's cache
    pairs = zip(full(activation), full(gradient), strict=True)
    return torch.stack([_WEIGHTS[program](own, slope) for own, slope in pairs])


def _pytorch_grad_cam(activation: Tensor, slope: Tensor) -> Tensor:
    rise = slope.relu()
    denominator = _printed(rise, activation.sum((-2, -1), keepdim=True)).add_(1e-6)
    return (rise**3).div_(_without_zeros(denominator, 1)).sum((-2, -1))


def _torchcam(_activation: Tensor, slope: Tensor) -> Tensor:
    return (slope.relu() ** 3).sum((-2, -1))


def _monai(activation: Tensor, slope: Tensor) -> Tensor:
    rise = slope.relu()
    mixed = (activation * slope**3).sum((-2, -1), keepdim=True)
    denominator = _without_zeros(2 * rise**2 + mixed, 1).add_(1e-7)
    return (rise**3).div_(_without_zeros(denominator, 1)).sum((-2, -1))


def _xplique(activation: Tensor, slope: Tensor) -> Tensor:
    rise = slope.relu()
    denominator = _without_zeros(_printed(rise, activation.mean((-2, -1), keepdim=True)), 1e-4)
    return (rise**3).div_(denominator).mean((-2, -1))


def _printed(rise: Tensor, total: Tensor) -> Tensor:
    """Denominator 2 g^2 + S g^3 as the paper prints it, where the gradient rises; 0 elsewhere."""
    return (rise * total).add_(2).mul_(rise).mul_(rise)


def _without_zeros(denominator: Tensor, instead: float) -> Tensor:
    return denominator.masked_fill_(denominator == 0, instead)


_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pytorch-grad-cam": _pytorch_grad_cam,
    "torchcam": _torchcam,
    "monai": _monai,
    "xplique": _xplique,
}

PROGRAMS: tuple[Program, ...] = ("pytorch-grad-cam", "torchcam", "monai", "xplique")
"""All programs whose formula is reproduced."""
