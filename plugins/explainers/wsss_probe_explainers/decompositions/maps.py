"""Decompositions as explainers: Eigen-CAM, Eigen-Grad-CAM, KPCA-CAM and their variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from wsss_probe import DefinitionCard, Explainer
from wsss_probe_explainers.decompositions.cards import (
    EIGEN_CAM_CARD,
    EIGEN_CAM_CENTRED_CARD,
    EIGEN_GRAD_CAM_CARD,
    KERNEL_PCA_CARD,
)
from wsss_probe_explainers.decompositions.components import (
    first_component,
    first_component_centred,
    kernel_component,
)

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Head, LayerInfo, Target

__all__ = [
    "ComponentMap",
    "EvidenceComponentMap",
    "KernelMap",
    "eigen_cam_centred_map",
    "eigen_cam_map",
    "eigen_grad_cam_map",
    "kernel_pca_map",
    "kernel_pca_rbf_map",
]

_MOST_POSITIONS = 1024


@final
@dataclass(frozen=True, slots=True)
class ComponentMap(Explainer):
    """What the activations of a layer have in common, whatever the target.

    Parameters
    ----------
    name : str
    card : DefinitionCard
    formula : callable
        ``formula(activation)``, (image, channel, row, column), to (image, row, column).
    default : bool
    gradients : bool
        Always false here.
    """

    name: str
    card: DefinitionCard
    formula: Callable[[Tensor], Tensor]
    default: bool = True
    gradients: bool = False

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:  # noqa: ARG002  # the target does not enter
        """Decompose the layer's activation.

        Returns
        -------
        Tensor, (image, row, column)
            Signed; NaN where the activation is, and where no direction is the first.
        """
        return self.formula(batch.activations[layer])


@final
@dataclass(frozen=True, slots=True)
class KernelMap(Explainer):
    """What the activations have in common by a kernel, whatever the target.

    Parameters
    ----------
    name : str
    card : DefinitionCard
    formula : callable
        ``formula(activation)``, (image, channel, row, column), to (image, row, column).
    default, gradients : bool
        Always false here.
    """

    name: str
    card: DefinitionCard
    formula: Callable[[Tensor], Tensor]
    default: bool = False
    gradients: bool = False

    def accepts(self, layer: LayerInfo, head: Head) -> str:  # noqa: ARG002  # any head will do
        """Refuse what is no map, and grids whose kernel, an entry per pair of positions, would not fit."""
        if layer.layout != "maps":
            return f"needs maps, the output has shape {layer.shape}"
        positions = layer.shape[1] * layer.shape[2]
        if positions > _MOST_POSITIONS:
            return f"needs at most {_MOST_POSITIONS} positions, the layer has {positions}"
        return ""

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:  # noqa: ARG002  # the target does not enter
        """Decompose the kernel of the layer's positions.

        Returns
        -------
        Tensor, (image, row, column)
            Signed; NaN where the activation is, and where no direction is the first.
        """
        return self.formula(batch.activations[layer])


@final
@dataclass(frozen=True, slots=True)
class EvidenceComponentMap(Explainer):
    """What the evidence for a target, activation times gradient, has in common.

    Parameters
    ----------
    name : str
    card : DefinitionCard
    formula : callable
        ``formula(evidence)``, (image, channel, row, column), to (image, row, column).
    gradients : bool
        Always true here.
    """

    name: str
    card: DefinitionCard
    formula: Callable[[Tensor], Tensor]
    gradients: bool = True

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Decompose the layer's activation times the gradient of each image's target.

        Returns
        -------
        Tensor, (image, row, column)
            Signed; NaN where activation or gradient is, and where no direction is the first.
        """
        gradient = batch.gradients[layer, self.explains(target)]
        return self.formula(_full(batch.activations[layer]) * _full(gradient))


def _full(values: Tensor) -> Tensor:
    """Multiply half precision in float32: products would underflow."""
    return values if values.itemsize >= 4 else values.float()


eigen_cam_map = ComponentMap("eigencam", EIGEN_CAM_CARD, first_component)
eigen_cam_centred_map = ComponentMap(
    "eigencam-centred", EIGEN_CAM_CENTRED_CARD, first_component_centred, default=False
)
eigen_grad_cam_map = EvidenceComponentMap("eigengradcam", EIGEN_GRAD_CAM_CARD, first_component_centred)
kernel_pca_map = KernelMap("kpcacam", KERNEL_PCA_CARD, kernel_component)
kernel_pca_rbf_map = KernelMap("kpcacam-rbf", KERNEL_PCA_CARD, partial(kernel_component, kernel="rbf"))
