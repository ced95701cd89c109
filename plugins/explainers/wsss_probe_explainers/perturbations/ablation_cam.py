"""Ablation-CAM: channels weighted by how far the logit falls when each is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import ModelError
from wsss_probe_explainers.formulas import cam
from wsss_probe_explainers.perturbations.cards import ABLATION_CAM_CARD
from wsss_probe_explainers.perturbations.channels import explainable, foremost, require_counts

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Target

__all__ = ["AblationMap", "ablation_cam_map"]

_BYTES = 64 << 20
"""Of copies of maps at once; never less than one copy of the batch."""


@final
@dataclass(frozen=True, slots=True)
class AblationMap(Explainer):
    """Ablation-CAM.

    The rest of the network runs from the layer on; what lies before it is not computed again. A
    channel that is zero everywhere is not run: its weight is 0 exactly.

    Parameters
    ----------
    top : int or None
        Only so many channels, those with the largest spread; the others weigh 0. None means all.
    at_once : int
        Copies of maps in one partial pass, in whole batches; 64 MiB of copies are a bound as well.
    name : str
    card : DefinitionCard
    default, gradients : bool
        Always false here.

    Raises
    ------
    UsageError
        For numbers that are no counts.
    """

    top: int | None = None
    at_once: int = 256
    name: str = "ablationcam"
    card: DefinitionCard = ABLATION_CAM_CARD
    default: bool = False
    gradients: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        require_counts("Ablation-CAM", self.top, self.at_once)

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Take each of the layer's channels away and weigh its map by the fall of the target's score.

        Returns
        -------
        Tensor, (image, row, column)
            Not negative; NaN for images without pixels or without the target, and where the score is 0.

        Raises
        ------
        ModelError
            For activations in half precision: one channel of hundreds moves a logit by less than rounding.
        """
        maps, usable = batch.activations[layer], explainable(batch, target)
        if maps.itemsize < 4:
            msg = f"Ablation-CAM: the falls of logits at {layer!r} would be rounding"
            raise ModelError(msg, found=str(maps.dtype), wanted="float32", remedy="audit it in float32")
        active = (maps != 0).flatten(2).any(2) & usable[:, None]
        before, falls = _falls(batch, layer, target, foremost(maps, active, self.top), self.at_once)
        heat = cam(maps, falls / before.abs()[:, None]).relu()
        return torch.where((usable & (before != 0))[:, None, None], heat, torch.nan)


def _falls(batch: Batch, layer: str, target: Target, taken: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
    """Score of each image, (image,), and its fall without each taken channel, (image, channel)."""
    maps, wanted = batch.activations[layer], batch.targets[target]
    before = (batch.resume(layer, maps).float() * wanted).sum(1)
    falls = torch.zeros(taken.shape, device=maps.device)
    # each image has its own channels in its own order, so that every copy takes one away from every image
    order = taken.int().sort(dim=1, descending=True, stable=True).indices
    turns = order[:, : int(taken.sum(1).max())].T  # (turn, image)
    images = torch.arange(len(maps), device=maps.device)
    at_most = max(1, min(at_once, _BYTES // max(1, maps[0].nbytes)) // len(maps))
    for part in torch.split(turns, at_most) if len(turns) else ():
        copies = maps.repeat(len(part), 1, 1, 1).view(len(part), *maps.shape)
        copies[torch.arange(len(part), device=maps.device)[:, None], images, part] = 0
        logits = batch.resume(layer, copies.flatten(0, 1)).float().view(len(part), len(maps), -1)
        falls[images, part] = before - (logits * wanted).sum(2)
    return before, falls.masked_fill(~taken, 0)


ablation_cam_map = AblationMap()
