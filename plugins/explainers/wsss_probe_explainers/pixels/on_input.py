"""An explainer whose map lies on the input, as the same few steps for every method of captum."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor, nn

from wsss_probe import Explainer
from wsss_probe.errors import UsageError
from wsss_probe_explainers.pixels.scores import Score, scored

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsss_probe import Batch, Head, LayerInfo, Target

__all__ = ["OnInput", "Some", "require_positive"]


@final
@dataclass(frozen=True, slots=True)
class Some:
    """Some images of a batch, ready to be explained.

    Parameters
    ----------
    images : Tensor, (image, channel, row, column)
        A copy that asks for gradients; finite.
    weights : Tensor, (image, class)
        Of the target's score; finite.
    index : int
        Of the first image, in the manifest: what a random draw is seeded by.
    """

    images: Tensor
    weights: Tensor
    index: int


def _attributed(batch: Batch, target: Target, at_once: int, explain: Callable[[Some], Tensor]) -> Tensor:
    """Explain the images of a batch, some at a time.

    Parameters
    ----------
    batch : Batch
    target : Target
    at_once : int
        Images in one call: 1 where one image alone takes many passes.
    explain : callable
        ``explain(some)`` to a Tensor (image, channel, row, column).

    Returns
    -------
    Tensor, (image, channel, row, column)
        float32; NaN for an image with NaN or infinity in it, and one without this target.
    """
    images, weights = batch.images.detach(), batch.targets[target].detach()
    usable = images.isfinite().flatten(1).all(1) & weights.isfinite().all(1)
    images = images.where(usable.view(-1, 1, 1, 1), 0)
    weights = weights.where(usable[:, None], 0)
    found = [
        explain(
            Some(
                images[start : start + at_once].clone().requires_grad_(),
                weights[start : start + at_once],
                int(batch.indices[start]),
            )
        ).detach()
        for start in range(0, len(images), at_once)
    ]
    return torch.cat(found).float().masked_fill(~usable.view(-1, 1, 1, 1), torch.nan)


class OnInput(Explainer):
    """An explainer on the input: a method that is told a score and some images.

    Attributes
    ----------
    internal_batch : int
        Most images, or changed copies of one image, in one pass: what bounds the memory.
    said : str
        How the warning begins that captum gives for this method on every call.
    """

    internal_batch: int
    said: str = ""
    gradients: bool = False
    default: bool = False
    grid: Literal["layer", "input"] = "input"

    def accepts(self, layer: LayerInfo, head: Head) -> str:  # noqa: ARG002  # the contract's
        """Refuse every layer but the input itself."""
        if layer.type == "Input" and layer.layout == "maps":
            return ""
        return f"explains the input, not the output of {layer.name!r}"

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:  # noqa: ARG002
        """Explain each image's target at the pixels.

        Returns
        -------
        Tensor, (image, row, column)
            NaN for an image with NaN or infinity in it, and one without this target.

        Raises
        ------
        ModelError
            If the method does not suit the network.
        """
        with scored(batch, self.card.title, self.said) as score:
            self.require(score.network, batch.images)
            found = _attributed(batch, target, self.at_once(), partial(self.explain, score))
            return self.joined(found)

    def require(self, network: nn.Module, images: Tensor) -> None:
        """Refuse a network that the method gets wrong; by default none.

        Raises
        ------
        ModelError
        """

    def at_once(self) -> int:
        """Images in one call of :meth:`explain`: 1 where one image takes many passes."""
        return 1

    @abstractmethod
    def explain(self, score: Score, some: Some) -> Tensor:
        """Compute the method's own result, (image, channel, row, column)."""

    @abstractmethod
    def joined(self, found: Tensor) -> Tensor:
        """Join the colours: (image, channel, row, column) to (image, row, column)."""


def require_positive(**options: float) -> None:
    """Refuse an option that is not above 0.

    Raises
    ------
    UsageError
    """
    for name, value in options.items():
        if not value > 0:
            msg = f"{name} cannot be meant"
            raise UsageError(msg, found=str(value), wanted="a number above 0")
