"""How each package is asked for its raw map, before it normalises and enlarges it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsss_probe.errors import ModelError
from wsss_probe.zoo import ensure_torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsss_probe_explainers.others.adapter import Asking

__all__ = ["by_captum", "by_pytorch_grad_cam", "by_torchcam", "by_zennit"]


def by_pytorch_grad_cam(asking: Asking, method: str) -> Tensor:
    """Ask pytorch-grad-cam.

    The whole of the package's own pass is run; what its ``get_cam_image`` returns is kept on the way,
    and rectified as the package does next.

    Parameters
    ----------
    asking : Asking
    method : str
        Class name in ``pytorch_grad_cam``.

    Returns
    -------
    Tensor, (image, row, column)
    """
    ensure_torchvision()
    package = import_module("pytorch_grad_cam")
    target = import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(0)
    kept: list[Any] = []
    cam = getattr(package, method)(model=asking.network, target_layers=[asking.layer])
    raw = cam.get_cam_image

    def keep(*given: Any, **named: Any) -> Any:
        kept.append(raw(*given, **named))
        return kept[-1]

    cam.get_cam_image = keep
    try:
        cam(asking.images, [target] * len(asking.images))
    except TypeError as error:
        # numpy has no bfloat16
        raise ModelError("pytorch-grad-cam cannot explain this network", found=str(error)[:160]) from error
    finally:
        cam.activations_and_grads.release()
    return torch.as_tensor(kept[0]).relu()


def by_torchcam(asking: Asking, method: str) -> Tensor:
    """Ask torch-cam.

    Parameters
    ----------
    asking : Asking
    method : str
        Class name in ``torchcam.methods``.

    Returns
    -------
    Tensor, (image, row, column)
    """
    ensure_torchvision()
    extractor = getattr(import_module("torchcam.methods"), method)(asking.network, target_layer=asking.layer)
    try:
        scores = asking.network(asking.images)
        found: Sequence[Tensor] = extractor([0] * len(asking.images), scores, normalized=False)
    finally:
        extractor.remove_hooks()
    return found[0]


def by_captum(asking: Asking) -> Tensor:
    """Ask captum's LayerGradCam, rectified.

    Parameters
    ----------
    asking : Asking

    Returns
    -------
    Tensor, (image, row, column)
    """
    from captum.attr import LayerGradCam

    found: Tensor = LayerGradCam(asking.network, asking.layer).attribute(
        asking.images, target=0, relu_attributions=True
    )
    return found[:, 0]


def by_zennit(asking: Asking) -> Tensor:
    """Ask zennit for layer-wise relevance propagation with its composite EpsilonPlus.

    Starts with each weighted logit; nothing is merged into BatchNorm, whose relevance is passed on.

    Parameters
    ----------
    asking : Asking

    Returns
    -------
    Tensor, (image, row, column)
        Summed over colours; signed.
    """
    ensure_torchvision()
    gradient = import_module("zennit.attribution").Gradient
    composite = import_module("zennit.composites").EpsilonPlus()
    network, weights = asking.network.score.network, asking.network.weights

    def start(logits: Tensor) -> Tensor:
        return (logits * weights).detach()

    with gradient(network, composite=composite) as attributor:
        _, found = attributor(asking.images, start)
    relevance: Tensor = found.sum(1)
    return relevance
