"""Finer-CAM: Grad-CAM of a class's logit minus those of the classes next to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.contracts import Contrast
from wsss_probe.errors import UsageError
from wsss_probe_explainers.cams.cards import FINER_CARD
from wsss_probe_explainers.formulas import grad_cam

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Target

__all__ = ["FinerMap"]


@final
@dataclass(frozen=True, slots=True)
class FinerMap(Explainer):
    """Grad-CAM of the target's logit minus a share of the mean of the largest other logits.

    Parameters
    ----------
    weight : float
        Share that is subtracted; 0 is Grad-CAM.
    references : int
        How many other classes, from 1; all others where the network has fewer.
    name : str
    card : DefinitionCard
    gradients : bool
        Always true here.
    default : bool
        False: it costs a backward pass of its own.

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    weight: float = 0.6
    references: int = 3
    name: str = "finercam"
    card: DefinitionCard = FINER_CARD
    gradients: bool = True
    default: bool = False

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        if not (isinstance(self.weight, int | float) and 0 <= self.weight < math.inf):
            msg = "weight of the other classes cannot be meant"
            raise UsageError(msg, found=repr(self.weight), wanted="a number from 0, such as 0.6")
        if not (isinstance(self.references, int) and self.references >= 1):
            msg = "too few classes to compare with"
            raise UsageError(msg, found=repr(self.references), wanted="a whole number from 1")

    def explains(self, target: Target) -> Target:
        """Turn a class into its contrast with the classes next to it; a contrast stays what it is."""
        if isinstance(target, Contrast):
            return target
        return Contrast(target, "next", self.weight, self.references)

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Apply Grad-CAM's formula to the gradient of the contrast.

        Returns
        -------
        Tensor, (image, row, column)
            Not negative; NaN for a network with one class, which has no others.
        """
        return grad_cam(batch.activations[layer], batch.gradients[layer, self.explains(target)])
