"""Saliency, input x gradient, integrated gradients and SmoothGrad: the score's gradient at the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from wsss_probe_explainers.pixels.cards import (
    INPUT_X_GRADIENT_CARD,
    INTEGRATED_GRADIENTS_CARD,
    SALIENCY_CARD,
    SMOOTHGRAD_CARD,
)
from wsss_probe_explainers.pixels.on_input import OnInput, Some, require_positive
from wsss_probe_explainers.pixels.replacements import Replacement, replaced, require_replacement

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import DefinitionCard
    from wsss_probe_explainers.pixels.scores import Score

__all__ = ["InputXGradientMap", "IntegratedGradientsMap", "SaliencyMap", "SmoothGradMap"]


@final
@dataclass(frozen=True, slots=True)
class SaliencyMap(OnInput):
    """The largest slope of the score over a pixel's colours, without its sign.

    Simonyan, Vedaldi, Zisserman (2014), arXiv:1312.6034, section 3. Not negative; score per unit of the
    network's input. Misleads as a picture of what made the score: it shows what would change it.

    Parameters
    ----------
    internal_batch : int
        Most images in one pass.
    """

    internal_batch: int = 16
    name: str = "saliency"
    card: DefinitionCard = SALIENCY_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(internal_batch=self.internal_batch)

    def at_once(self) -> int:
        """As many images as a pass may hold."""
        return self.internal_batch

    def explain(self, score: Score, some: Some) -> Tensor:
        """Take the gradient without its sign."""
        from captum.attr import Saliency

        found: Tensor = Saliency(score).attribute(some.images, additional_forward_args=(some.weights,))
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Take the largest over colours."""
        return found.amax(1)


@final
@dataclass(frozen=True, slots=True)
class InputXGradientMap(OnInput):
    """The score's gradient times the pixel, summed over colours.

    Shrikumar, Greenside, Shcherbina, Kundaje (2016), arXiv:1605.01713. Signed, in units of the score.
    Misleads where a pixel is 0 in the network's units: it gets 0 whatever it does.

    Parameters
    ----------
    internal_batch : int
        Most images in one pass.
    """

    internal_batch: int = 16
    name: str = "input-x-gradient"
    card: DefinitionCard = INPUT_X_GRADIENT_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(internal_batch=self.internal_batch)

    def at_once(self) -> int:
        """As many images as a pass may hold."""
        return self.internal_batch

    def explain(self, score: Score, some: Some) -> Tensor:
        """Multiply the gradient by the pixels."""
        from captum.attr import InputXGradient

        found: Tensor = InputXGradient(score).attribute(some.images, additional_forward_args=(some.weights,))
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Sum over colours."""
        return found.sum(1)


@final
@dataclass(frozen=True, slots=True)
class IntegratedGradientsMap(OnInput):
    """The score's gradient along the way from a replacement to the image, times what was changed.

    Sundararajan, Taly, Yan (2017), arXiv:1703.01365, eq. 1, by Gauss-Legendre quadrature. Signed, in
    units of the score; its sum is the score of the image minus that of the replacement, up to the
    quadrature's error. Misleads where the image has the replacement's colour: such pixels get 0.

    Parameters
    ----------
    steps : int
        Points on the way.
    replacement : {"zero", "mean-of-image", "blur"}
        Where the way begins.
    internal_batch : int
        Most points in one pass.
    """

    steps: int = 50
    replacement: Replacement = "zero"
    internal_batch: int = 16
    name: str = "integrated-gradients"
    card: DefinitionCard = INTEGRATED_GRADIENTS_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(steps=self.steps, internal_batch=self.internal_batch)
        require_replacement(self.replacement)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Integrate the gradient of one image."""
        from captum.attr import IntegratedGradients

        found: Tensor = IntegratedGradients(score).attribute(
            some.images,
            baselines=replaced(some.images, self.replacement),
            additional_forward_args=(some.weights,),
            n_steps=self.steps,
            internal_batch_size=self.internal_batch,
        )
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Sum over colours."""
        return found.sum(1)


@final
@dataclass(frozen=True, slots=True)
class SmoothGradMap(OnInput):
    """Saliency of the mean gradient over noisy copies of the image.

    Smilkov, Thorat, Kim, Viegas, Wattenberg (2017), arXiv:1706.03825, section 3. Not negative; score per
    unit of the network's input. Misleads by its smoothness, which is the noise's and not the network's.

    Parameters
    ----------
    samples : int
        Noisy copies of each image.
    noise : float
        Standard deviation of the noise, as a share of the image's own range of values.
    seed : int
        With an image's place in the manifest it fixes that image's noise.
    internal_batch : int
        Most copies in one pass.
    """

    samples: int = 32
    noise: float = 0.15
    seed: int = 0
    internal_batch: int = 16
    name: str = "smoothgrad"
    card: DefinitionCard = SMOOTHGRAD_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(samples=self.samples, noise=self.noise, internal_batch=self.internal_batch)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Average the gradient over noisy copies of one image."""
        from captum.attr import NoiseTunnel, Saliency

        # captum draws from torch's own state, which the loan of the network gives back as it was
        torch.manual_seed(1_000_003 * self.seed + some.index)
        pixels = some.images.detach()
        found: Tensor = NoiseTunnel(Saliency(score)).attribute(
            some.images,
            nt_type="smoothgrad",
            nt_samples=self.samples,
            nt_samples_batch_size=self.internal_batch,
            stdevs=self.noise * float(pixels.amax() - pixels.amin()),
            additional_forward_args=(some.weights,),
            # signed gradients are averaged: what only noise makes cancels
            abs=False,
        )
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Take the largest absolute value over colours."""
        return found.abs().amax(1)
