"""Smooth Grad-CAM++: derivatives averaged over noisy copies of each image before they meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe.taps import PassOptions, run_pass
from wsss_probe_explainers.cams.cards import SMOOTH_CARD
from wsss_probe_explainers.formulas import cam, full

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsss_probe import Batch, LayerInfo, Target

__all__ = ["SmoothMap", "noise_for", "smooth_weights"]


def smooth_weights(activation: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Channel weights of Smooth Grad-CAM++.

    ``w_k = sum_ij alpha_k(i, j) relu(D1)`` with ``alpha = D2 / (2 D2 + S_k D3)``, computed as
    ``1 / (2 + S_k D3 / D2)`` so that small gradients are not lost to rounding. D1, D2 and D3 are the
    means of g, g^2 and g^3 over noisy inputs (Omeiza et al. 2019), S_k the sum of A_k.

    Parameters
    ----------
    activation : Tensor, (image, channel, row, column)
        Of the image itself, without noise.
    first, second, third : Tensor, (image, channel, row, column)
        Means of the first three powers of the gradient. Where the third is 0 / 0 (no gradient at
        all) alpha is 1/2 and counts nothing. A denominator of exactly 0 counts as 1.

    Returns
    -------
    Tensor, (image, channel)
        May be negative: D1 > 0 and D3 < 0 happen together where noise turns gradients round.
    """
    total = full(activation).sum((-2, -1), keepdim=True)
    slope = full(third) / second.where(second != 0, 1)
    denominator = slope.mul_(total).add_(2)
    return (full(first).relu() / denominator.masked_fill_(denominator == 0, 1)).sum((-2, -1))


@final
@dataclass(frozen=True, slots=True)
class SmoothMap(Explainer):
    """Grad-CAM++ with derivatives averaged over noisy copies of each image.

    The network runs forward and backward once per copy and layer; the explained class stays that of the
    image without noise.

    Parameters
    ----------
    samples : int
        Noisy copies of each image, from 1.
    noise : float
        Standard deviation of the noise as a share of the image's own range (largest minus smallest
        value of the network input); 0 is Grad-CAM++ as printed.
    seed : int
        From 0. The noise of an image depends on it and on the image's position in the manifest alone.
    name : str
    card : DefinitionCard
    gradients : bool
        Always false here: it takes gradients of its own.
    default : bool
        False: it costs ``samples`` passes an image.

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    samples: int = 8
    noise: float = 0.15
    seed: int = 0
    name: str = "smoothgradcampp"
    card: DefinitionCard = SMOOTH_CARD
    gradients: bool = False
    default: bool = False

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        if not (isinstance(self.samples, int) and self.samples >= 1):
            msg = "samples of noise are too few"
            raise UsageError(msg, found=repr(self.samples), wanted="a whole number from 1")
        if not (isinstance(self.noise, int | float) and 0 <= self.noise < math.inf):
            msg = "noise is no share of the image's range"
            raise UsageError(msg, found=repr(self.noise), wanted="a number from 0, such as 0.15")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            msg = "seed of the noise is no seed"
            raise UsageError(msg, found=repr(self.seed), wanted="a whole number from 0")

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Average derivatives over noisy copies and weigh the layer's own activation.

        Returns
        -------
        Tensor, (image, row, column)
            Not negative; NaN where image, activation or gradient is.
        """
        noise = noise_for(batch.images, batch.indices, self.samples, (self.seed, self.noise))
        with batch.lend() as module:
            inputs = (batch.images + own for own in noise)
            moments = _moments(module, inputs, batch.layers[layer], batch.targets[target])
        activation = batch.activations[layer]
        weights = smooth_weights(activation, *(moment / self.samples for moment in moments))
        return cam(activation, weights).relu_()


def noise_for(
    images: Tensor, indices: np.ndarray, samples: int, drawn: tuple[int, float]
) -> Iterator[Tensor]:
    """Draw noise for each image from a generator of its own, so that a batch is its images one by one.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
    indices : ndarray of int, (image,)
        Positions in the manifest.
    samples : int
    drawn : (int, float)
        Seed, and standard deviation as a share of each image's range.

    Yields
    ------
    Tensor, (image, channel, row, column)
        Gaussian, ``samples`` times.
    """
    seed, share = drawn
    spread = share * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    generators = [np.random.default_rng((seed, int(index))) for index in indices]
    shape = tuple(images.shape[1:])
    for _ in range(samples):
        draws = np.stack([own.standard_normal(shape, dtype=np.float32) for own in generators])
        yield torch.from_numpy(draws).to(images) * spread.view(-1, 1, 1, 1)


def _moments(
    module: nn.Module, inputs: Iterable[Tensor], layer: LayerInfo, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the first three powers of the layer's gradient over noisy inputs."""
    options = PassOptions({"noisy": (layer.name,)}, {"noisy": weights.float()})
    sums: list[Tensor] = []
    for images in inputs:
        slope = full(run_pass(module, images, (layer,), options).gradients[layer.name, "noisy"])
        powers = (slope, slope**2, slope**3)
        sums = [total.add_(power) for total, power in zip(sums, powers, strict=True)] if sums else [*powers]
    first, second, third = sums
    return first, second, third
