"""One class for each method of this plugin, called as captum's are: ``GradCAM(model, layer)``."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

from wsss_probe.errors import UsageError
from wsss_probe_explainers.attribution.attribution import Attribution
from wsss_probe_explainers.cams.explainers import finer_map, fusion_map, hi_res_map, smooth_map, x_grad_map
from wsss_probe_explainers.decompositions.maps import (
    eigen_cam_map,
    eigen_grad_cam_map,
    kernel_pca_map,
)
from wsss_probe_explainers.explainers import (
    class_activation_map,
    grad_cam_map,
    layer_cam_map,
    plus_plus_map,
)
from wsss_probe_explainers.perturbations.ablation_cam import ablation_cam_map
from wsss_probe_explainers.perturbations.score_cam import score_cam_map
from wsss_probe_explainers.pixels import (
    DeepLiftMap,
    FeatureAblationMap,
    GuidedGradCAMMap,
    InputXGradientMap,
    IntegratedGradientsMap,
    OcclusionMap,
    SaliencyMap,
    SmoothGradMap,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wsss_probe import Explainer

__all__ = [
    "CAM",
    "KPCACAM",
    "AblationCAM",
    "DeepLift",
    "EigenCAM",
    "EigenGradCAM",
    "FeatureAblation",
    "FinerCAM",
    "Fusion",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "Occlusion",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
]


class OnLayer(Attribution):
    """A method whose map lies on the grid of a layer.

    Parameters
    ----------
    model : nn.Module
        Any network that gives logits (image, class), or that a callable target can read.
    layer : str or nn.Module
        Dotted name, or the submodule itself; its output must be maps.
    classes : sequence of str
        Names of the logits, for targets by name.
    layout : str
        Order of the layer's output where its shape does not tell.
    **options
        The explainer's own, such as ``variant``.
    """

    method: ClassVar[Explainer]

    def __init__(
        self,
        model: nn.Module,
        layer: str | nn.Module,
        classes: Sequence[str] = (),
        layout: str = "",
        **options: Any,
    ) -> None:
        super().__init__(_with(self.method, options), model, layer, classes, layout)


class OnPixels(Attribution):
    """A method whose map lies on the input.

    Parameters
    ----------
    model : nn.Module
        Any network that gives logits (image, class), or that a callable target can read.
    classes : sequence of str
        Names of the logits, for targets by name.
    **options
        The explainer's own, such as ``internal_batch``.
    """

    method: ClassVar[Explainer]

    def __init__(self, model: nn.Module, classes: Sequence[str] = (), **options: Any) -> None:
        super().__init__(_with(self.method, options), model, classes=classes)


def _with(explainer: Explainer, options: dict[str, Any]) -> Explainer:
    """Change an explainer's options."""
    known = [field.name for field in fields(explainer)]  # type: ignore[arg-type]
    if unknown := [name for name in options if name not in known]:
        fixed = {"name", "card", "gradients", "default", "formula"}
        wanted = ", ".join(name for name in known if name not in fixed) or "none"
        raise UsageError(f"{explainer.name} has no such option", found=", ".join(unknown), wanted=wanted)
    return replace(explainer, **options)  # type: ignore[type-var]


# -- on a layer --------------------------------------------------------------------------------


@final
class CAM(OnLayer):
    """CAM: the maps that a GAP + linear head averages, weighted by that head; signed.

    Zhou et al. (2016), doi:10.1109/CVPR.2016.319, eq. 2. The head is proved on the given images:
    where its logits are not ``sum w GAP + b`` of this layer, an error says so.
    """

    method = class_activation_map


@final
class GradCAM(OnLayer):
    """Grad-CAM: ``relu(sum_k mean(dY/dA_k) A_k)``.

    Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74, eq. 1-2. Misleads where a channel's gradients
    differ in sign from place to place: they are averaged first.
    """

    method = grad_cam_map


@final
class GradCAMPlusPlus(OnLayer):
    """Grad-CAM++, in the authors' normalised form unless ``variant="unnormalised"``.

    Chattopadhay et al. (2018), doi:10.1109/WACV.2018.00097, eq. 19. Known up to one positive factor
    per image: compare places within a map. Misleads where activations are negative.
    """

    method = plus_plus_map


@final
class SmoothGradCAMPlusPlus(OnLayer):
    """Smooth Grad-CAM++: Grad-CAM++ of gradients averaged over noisy copies.

    Omeiza et al. (2019), arXiv:1908.01224. Misleads by its smoothness, which is the noise's.
    """

    method = smooth_map


@final
class LayerCAM(OnLayer):
    """Layer-CAM: ``relu(sum_k relu(dY/dA_k) A_k)``, position by position.

    Jiang et al. (2021), doi:10.1109/TIP.2021.3089943. Sharp in early layers, where sharpness is the
    layer's resolution and no sign of certainty.
    """

    method = layer_cam_map


@final
class XGradCAM(OnLayer):
    """XGrad-CAM: channels weighted by the mean gradient at their own activation.

    Fu et al. (2020), arXiv:2008.02312.
    """

    method = x_grad_map


@final
class HiResCAM(OnLayer):
    """HiRes-CAM: ``sum_k dY/dA_k A_k``, position by position.

    Draelos and Carin (2020), arXiv:2011.08891.
    """

    method = hi_res_map


@final
class EigenCAM(OnLayer):
    """Eigen-CAM: the first principal component of the activations; of no class.

    Muhammad and Yeasin (2020), arXiv:2008.00299.
    """

    method = eigen_cam_map


@final
class EigenGradCAM(OnLayer):
    """Eigen-Grad-CAM: the first principal component of activation times gradient."""

    method = eigen_grad_cam_map


@final
class KPCACAM(OnLayer):
    """KPCA-CAM: the first kernel principal component of the activations; of no class.

    Karmani et al. (2024), arXiv:2410.00267.
    """

    method = kernel_pca_map


@final
class ScoreCAM(OnLayer):
    """Score-CAM: channels weighted by the score of the image seen through their maps.

    Wang et al. (2020), arXiv:1910.01279. Needs no gradient; one pass for each channel.
    """

    method = score_cam_map


@final
class AblationCAM(OnLayer):
    """Ablation-CAM: channels weighted by the fall of the score without them.

    Desai and Ramaswamy (2020), doi:10.1109/WACV45572.2020.9093360. One partial pass for each channel.
    """

    method = ablation_cam_map


@final
class FinerCAM(OnLayer):
    """Finer-CAM: Grad-CAM of a class against those next to it.

    Zhang et al. (2025), arXiv:2501.11309.
    """

    method = finer_map


@final
class Fusion(OnLayer):
    """Maps of several layers or methods made one; see the options of the explainer."""

    method = fusion_map


# -- on the input ------------------------------------------------------------------------------


@final
class Saliency(OnPixels):
    """Saliency: the largest slope of the score over a pixel's colours.

    Simonyan et al. (2014), arXiv:1312.6034.
    """

    method = SaliencyMap()


@final
class InputXGradient(OnPixels):
    """Input x gradient, summed over colours.

    Shrikumar et al. (2016), arXiv:1605.01713.
    """

    method = InputXGradientMap()


@final
class IntegratedGradients(OnPixels):
    """Integrated gradients from a replacement to the image; options ``steps``, ``replacement``.

    Sundararajan et al. (2017), arXiv:1703.01365.
    """

    method = IntegratedGradientsMap()


@final
class SmoothGrad(OnPixels):
    """SmoothGrad: saliency of the mean gradient over noisy copies; options ``samples``, ``noise``, ``seed``.

    Smilkov et al. (2017), arXiv:1706.03825.
    """

    method = SmoothGradMap()


@final
class GuidedGradCAM(OnPixels):
    """Guided Grad-CAM; option ``at``, the layer of its Grad-CAM.

    Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74.
    """

    method = GuidedGradCAMMap()


@final
class DeepLift(OnPixels):
    """DeepLIFT by the rescale rule; option ``replacement``.

    Shrikumar et al. (2017), arXiv:1704.02685.
    """

    method = DeepLiftMap()


@final
class Occlusion(OnPixels):
    """Occlusion by a sliding window; options ``window``, ``stride``, ``replacement``.

    Zeiler and Fergus (2014), doi:10.1007/978-3-319-10590-1_53.
    """

    method = OcclusionMap()


@final
class FeatureAblation(OnPixels):
    """The fall of the score without a region; options ``regions``, ``number``, ``replacement``.

    Kokhlikyan et al. (2020), arXiv:2009.07896.
    """

    method = FeatureAblationMap()
