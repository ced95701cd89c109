"""DeepLIFT by the rescale rule, where captum can do it, proved by its own axiom on every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from wsss_probe.errors import ModelError
from wsss_probe.evaluation import find_module, split_call
from wsss_probe.layers import describe_layers
from wsss_probe_explainers.pixels.cards import DEEPLIFT_CARD
from wsss_probe_explainers.pixels.on_input import OnInput, Some, require_positive
from wsss_probe_explainers.pixels.rectifiers import require_rectifiers_as_modules
from wsss_probe_explainers.pixels.replacements import Replacement, replaced, require_replacement

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import DefinitionCard
    from wsss_probe_explainers.pixels.scores import Score

__all__ = ["DeepLiftMap"]

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

_TOLERANCE = 0.01
"""Largest gap of the axiom, as a share of the contributions without their signs."""


@final
@dataclass(frozen=True, slots=True)
class DeepLiftMap(OnInput):
    """What each pixel contributed to the change of the score from a replacement to the image.

    Shrikumar, Greenside, Kundaje (2017), arXiv:1704.02685, rescale rule. Signed, in units of the
    score; its sum is the score of the image minus that of the replacement. Misleads where positive and
    negative parts of a unit cancel, and where the image has the replacement's colour.

    Parameters
    ----------
    replacement : {"zero", "mean-of-image", "blur"}
        The reference.
    internal_batch : int
        Most images in one pass, references counted.
    """

    replacement: Replacement = "zero"
    internal_batch: int = 16
    said: str = "Setting forward, backward hooks and attributes on non-linear"
    name: str = "deeplift"
    card: DefinitionCard = DEEPLIFT_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(internal_batch=self.internal_batch)
        require_replacement(self.replacement)

    def at_once(self) -> int:
        """Half of what a pass may hold: the references go with the images."""
        return max(self.internal_batch // 2, 1)

    def require(self, network: nn.Module, images: Tensor) -> None:
        """Refuse a network that captum's rules get wrong or stumble over.

        Raises
        ------
        ModelError
            If a ReLU is no module, a non-linear module runs more than once, or max-pooling overlaps.
        """
        require_rectifiers_as_modules(network, images, self.card.title)
        _require_modules(network, images)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Share out the change of the score, and prove that all of it was shared out.

        Raises
        ------
        ModelError
            If it was not: a kind of module that captum treats as if it were linear.
        """
        from captum.attr import DeepLift

        reference = replaced(some.images, self.replacement)
        found: Tensor = DeepLift(score).attribute(
            some.images, baselines=reference, additional_forward_args=(some.weights,)
        )
        _require_summation(found, score, some, reference)
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Sum over colours."""
        return found.sum(1)


def _require_modules(network: nn.Module, images: Tensor) -> None:
    """Refuse modules that captum's rules get wrong or stumble over."""
    wrong: dict[str, str] = {}
    for info in describe_layers(network, images[:1].detach()):
        name = split_call(info.name)[0]
        module = find_module(network, name)
        # captum keeps the values of one call
        if info.calls > 1 and (isinstance(module, _POOLS) or _is_activation(module)):
            wrong[name] = f"{name} runs {info.calls} times"
        # captum unpools, and where windows overlap one of them overwrites the other
        if isinstance(module, _POOLS) and _overlaps(module):
            wrong[name] = f"{name} pools over windows that overlap"
    if wrong:
        raise ModelError(
            "DeepLIFT by captum does not suit this network",
            found=", ".join(list(wrong.values())[:3]),
            wanted="non-linear modules that run once and pools that do not overlap",
            remedy="use integrated-gradients",
        )


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _overlaps(pool: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) -> bool:
    sizes, strides = (
        side if isinstance(side, tuple) else (side,) for side in (pool.kernel_size, pool.stride)
    )
    return any(step < side for side, step in zip(sizes, strides, strict=False))


def _require_summation(found: Tensor, score: Score, some: Some, reference: Tensor) -> None:
    with torch.no_grad():
        change = score(some.images, some.weights) - score(reference, some.weights)
    shares = found.detach().flatten(1)
    # an image that is its own reference has nothing to share out
    gap = (shares.sum(1) - change).abs() / shares.abs().sum(1).clamp(min=1e-12)
    wrong = (gap > _TOLERANCE) & change.isfinite()
    if bool(wrong.any()):
        raise ModelError(
            "DeepLIFT's contributions do not add up to the change of the score",
            found=f"a gap of {float(gap[wrong].max()):.0%} of them",
            wanted=f"at most {_TOLERANCE:.0%}: non-linear modules that captum knows, each used once",
            remedy="use integrated-gradients",
        )
