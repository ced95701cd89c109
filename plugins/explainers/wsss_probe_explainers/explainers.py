"""The maps as descriptions that the host runs in a survey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_args

import torch
from torch import Tensor

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe_explainers.cards import CAM_CARD, GRAD_CAM_CARD, LAYER_CAM_CARD, PLUS_PLUS_CARD
from wsss_probe_explainers.formulas import PlusPlusVariant, cam, grad_cam, grad_cam_plus_plus, layer_cam

if TYPE_CHECKING:
    from wsss_probe import Batch, Head, LayerInfo, Target

__all__ = [
    "ClassActivationMap",
    "GradientMap",
    "PlusPlusMap",
    "class_activation_map",
    "grad_cam_map",
    "layer_cam_map",
    "plus_plus_map",
]


@final
@dataclass(frozen=True, slots=True)
class GradientMap(Explainer):
    """A map that is a function of one layer's activation and gradient.

    Parameters
    ----------
    name : str
    card : DefinitionCard
    formula : callable
        ``formula(activation, gradient)``, both (image, channel, row, column), to (image, row, column).
    gradients : bool
        Always true here.
    default : bool
        Whether an audit computes it unasked.
    """

    name: str
    card: DefinitionCard
    formula: Callable[[Tensor, Tensor], Tensor]
    gradients: bool = True
    default: bool = True

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Apply the formula to the layer's activation and the gradient of each image's target.

        Returns
        -------
        Tensor, (image, row, column)
            Signed where the formula is; NaN where activation or gradient is.
        """
        return self.formula(batch.activations[layer], batch.gradients[layer, self.explains(target)])


@final
@dataclass(frozen=True, slots=True)
class PlusPlusMap(Explainer):
    """Grad-CAM++ in one of its variants.

    Parameters
    ----------
    variant : {"authors", "unnormalised"}
        Coefficients normalised per channel as in the authors' code, or eq. 19 as printed.
    name : str
    card : DefinitionCard
    gradients : bool
        Always true here.

    Raises
    ------
    UsageError
        For a variant that does not exist.
    """

    variant: PlusPlusVariant = "authors"
    name: str = "gradcampp"
    card: DefinitionCard = PLUS_PLUS_CARD
    gradients: bool = True

    def __post_init__(self) -> None:
        """Refuse what no formula computes."""
        if self.variant not in get_args(PlusPlusVariant):
            msg = "unknown variant of Grad-CAM++"
            raise UsageError(msg, found=str(self.variant), wanted=" or ".join(get_args(PlusPlusVariant)))

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Apply the formula to the layer's activation and the gradient of each image's target.

        Returns
        -------
        Tensor, (image, row, column)
            Not negative, up to one positive factor per image; NaN where activation or gradient is.
        """
        return grad_cam_plus_plus(
            batch.activations[layer], batch.gradients[layer, self.explains(target)], self.variant
        )


@final
@dataclass(frozen=True, slots=True)
class ClassActivationMap(Explainer):
    """CAM: the maps under a proved GAP + linear head, weighted by the head itself.

    Parameters
    ----------
    name : str
    card : DefinitionCard
    gradients : bool
        Always false here.
    """

    name: str = "cam"
    card: DefinitionCard = CAM_CARD
    gradients: bool = False

    def accepts(self, layer: LayerInfo, head: Head) -> str:
        """Refuse every layer but the one whose maps a proved linear head averages."""
        if layer.layout != "maps":
            return f"needs maps, the output has shape {layer.shape}"
        if not head.linear:
            return (
                f"needs a GAP + linear head, and the head is not linear: {head.reason or 'no reason given'}"
            )
        if layer.name != head.layer:
            return f"needs the layer that the head averages, {head.layer!r}"
        return ""

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Weigh the maps by the head's row of each image's target class.

        Returns
        -------
        Tensor, (image, row, column)
            Signed; NaN where the activation is.
        """
        activation = batch.activations[layer]
        weight = torch.as_tensor(batch.head.weight, dtype=torch.float32, device=activation.device)
        return cam(activation, batch.targets[target].float() @ weight)


class_activation_map = ClassActivationMap()
grad_cam_map = GradientMap("gradcam", GRAD_CAM_CARD, grad_cam)
layer_cam_map = GradientMap("layercam", LAYER_CAM_CARD, layer_cam)
plus_plus_map = PlusPlusMap()
