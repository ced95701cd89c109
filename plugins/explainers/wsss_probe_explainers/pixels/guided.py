"""Guided Grad-CAM: where a layer's Grad-CAM is high, which pixels guided backpropagation reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from wsss_probe.errors import ModelError
from wsss_probe.evaluation import find_module, split_call
from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe_explainers.pixels.cards import GUIDED_GRADCAM_CARD
from wsss_probe_explainers.pixels.on_input import OnInput, Some, require_positive
from wsss_probe_explainers.pixels.rectifiers import rectifier_modules, require_rectifiers_as_modules

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsss_probe import DefinitionCard
    from wsss_probe_explainers.pixels.scores import Score

__all__ = ["GuidedGradCAMMap"]


@final
@dataclass(frozen=True, slots=True)
class GuidedGradCAMMap(OnInput):
    """Grad-CAM of a layer, enlarged, times guided backpropagation.

    Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74, section 3.2; Springenberg et al. (2015). Signed.
    Misleads by its detail: guided backpropagation draws the image's edges for any class.

    Parameters
    ----------
    at : str
        Layer whose Grad-CAM is taken; by default the last that an audit would choose by itself.
    internal_batch : int
        Most images in one pass.
    """

    at: str = ""
    internal_batch: int = 16
    said: str = "Setting backward hooks on ReLU activations"
    name: str = "guided-gradcam"
    card: DefinitionCard = GUIDED_GRADCAM_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(internal_batch=self.internal_batch)

    def at_once(self) -> int:
        """As many images as a pass may hold."""
        return self.internal_batch

    def require(self, network: nn.Module, images: Tensor) -> None:
        """Refuse a network whose ReLUs cannot be guided.

        Raises
        ------
        ModelError
            If a ReLU is no module, there is none, or the layer gives no maps or runs more than once.
        """
        if not rectifier_modules(network, describe_layers(network, images[:1].detach())):
            raise ModelError(
                f"{self.card.title} needs ReLUs to guide the gradient", found="none", wanted="nn.ReLU modules"
            )
        require_rectifiers_as_modules(network, images, self.card.title)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Multiply Grad-CAM, enlarged, by guided backpropagation."""
        from captum.attr import GuidedGradCam

        found: Tensor = GuidedGradCam(score, self._layer(score.network, some.images)).attribute(
            some.images, additional_forward_args=(some.weights,), interpolate_mode="bilinear"
        )
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Sum over colours; the paper shows them as colours."""
        return found.sum(1)

    def _layer(self, network: nn.Module, images: Tensor) -> nn.Module:
        layers = describe_layers(network, images[:1].detach())
        name = choose_layers(layers, (self.at or "auto",)).names[-1]
        chosen = next(info for info in layers if info.name == name)
        if chosen.layout != "maps" or chosen.calls > 1 or chosen.native.kind != "NCHW":
            raise ModelError(
                f"{self.card.title} does not suit layer {split_call(name)[0]!r}",
                found=f"{chosen.calls} calls, {chosen.layout} {chosen.native}, outputs {chosen.shape}",
                wanted="a layer that runs once and puts out maps, channels first",
            )
        return find_module(network, name)
