"""An explainer of somebody else's package as one of ours: lent the network, asked for raw maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor, nn

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.contracts import INPUT
from wsss_probe.errors import UsageError
from wsss_probe.evaluation import find_module
from wsss_probe_explainers.pixels import Score, scored

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsss_probe import Batch, Head, LayerInfo, Target

__all__ = ["Adapter", "Asking", "ScoreColumn"]


@final
class ScoreColumn(nn.Module):
    """A network whose only logit is the score of each image's target.

    So every package explains class 0 and no package has to know contrasts of classes.

    Parameters
    ----------
    score : Score
    weights : Tensor, (image, class)
    """

    weights: Tensor

    def __init__(self, score: Score, weights: Tensor) -> None:
        super().__init__()
        self.score = score
        self.register_buffer("weights", weights)

    def forward(self, images: Tensor) -> Tensor:
        """Give scores, (image, 1)."""
        scores: Tensor = self.score(images, self.weights)
        return scores[:, None]


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """What a package is given.

    Parameters
    ----------
    network : ScoreColumn
    layer : nn.Module or None
        None where the map lies on the input.
    images : Tensor, (image, channel, row, column)
        Asks for gradients; finite.
    """

    network: ScoreColumn
    layer: nn.Module | None
    images: Tensor


@final
@dataclass(frozen=True, slots=True)
class Adapter(Explainer):
    """Somebody else's implementation, for comparison with ours.

    Parameters
    ----------
    name : str
        ``<method>-by-<package>``.
    card : DefinitionCard
        Names the package and its version.
    compute : callable
        ``compute(asking)`` to maps (image, row, column) on the native grid.
    grid : {"layer", "input"}
    gradients, default : bool
        Always false here: the package takes its own gradients, and only when asked.
    """

    name: str
    card: DefinitionCard
    compute: Callable[[Asking], Tensor]
    grid: Literal["layer", "input"] = "layer"
    gradients: bool = False
    default: bool = False

    def accepts(self, layer: LayerInfo, head: Head) -> str:  # noqa: ARG002  # the contract's
        """Refuse what these packages get wrong without a word: reused modules, and other layouts."""
        if self.grid == "input":
            return "" if layer.type == "Input" else f"explains the input, not the output of {layer.name!r}"
        if layer.layout != "maps":
            return f"needs maps, the output has shape {layer.shape}"
        if layer.native.kind != "NCHW":
            return f"takes outputs for (image, channel, row, column), these are {layer.native}"
        if layer.calls > 1:
            return f"cannot choose among the {layer.calls} calls of this module"
        return ""

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Let the package explain the images, on the network itself.

        Returns
        -------
        Tensor, (image, row, column)
            As the package has it before it normalises; NaN for images with NaN or infinity in them.

        Raises
        ------
        ModelError
            If the package fails on this network.
        UsageError
            If the package is there but cannot be loaded.
        """
        weights = batch.targets[target].detach()
        usable = batch.images.isfinite().flatten(1).all(1) & weights.isfinite().all(1)
        images = batch.images.detach().float().where(usable.view(-1, 1, 1, 1), 0)
        with scored(batch, self.card.title) as score:
            module = None if layer == INPUT else find_module(score.network, layer)
            network = ScoreColumn(score, weights.where(usable[:, None], 0)).eval()
            try:
                found = self.compute(Asking(network, module, images.clone().requires_grad_()))
            except ImportError as error:
                msg = f"{self.name} cannot be loaded"
                raise UsageError(msg, found=str(error)[:160]) from error
        return found.detach().to(images.device).float().masked_fill(~usable.view(-1, 1, 1), torch.nan)
