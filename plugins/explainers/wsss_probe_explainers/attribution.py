"""The maps for one batch in Python, in captum's manner: ``GradCAM(model, layer).attribute(images)``.

The same formulas as in an audit, from the same taps; the model is left exactly as it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from wsss_probe import DefinitionCard, Head, LayerInfo
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers
from wsss_probe.taps import Captured, PassOptions, find_module, run_pass, split_call
from wsss_probe_explainers.cards import CAM_CARD, GRAD_CAM_CARD, LAYER_CAM_CARD, PLUS_PLUS_CARD
from wsss_probe_explainers.explainers import PlusPlusMap, class_activation_map, grad_cam_map
from wsss_probe_explainers.formulas import PlusPlusVariant, cam, grad_cam, grad_cam_plus_plus, layer_cam

__all__ = ["CAM", "AskedFor", "GradCAM", "GradCAMPlusPlus", "LayerCAM"]

AskedFor = int | Tensor | str | None
"""Which logit is explained: a class, one class per image (int64 (image,)), or the predicted one."""


@final
class GradCAM:
    """Grad-CAM of one layer: ``relu(sum_k mean(dY/dA_k) A_k)``.

    Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74, eq. 1-2. Misleads where a channel's gradients
    differ in sign from place to place: they are averaged first.

    Parameters
    ----------
    model : nn.Module
        Any network that gives logits (image, class).
    layer : str or nn.Module
        Dotted name, or the submodule itself; its output must be maps.
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module) -> None:
        self.model, self.layer = model, _layer_name(model, layer)

    def attribute(self, images: Tensor, target: AskedFor = None) -> xr.DataArray:
        """Compute the maps of some images.

        Parameters
        ----------
        images : Tensor, (image, channel, row, column)
            Preprocessed, on the model's device.
        target : int, Tensor of int (image,), "predicted" or None
            The logit that is explained; None is the predicted class.

        Returns
        -------
        DataArray, (image, row, column)
            float32 on the layer's grid, not negative, with the explained class as coordinate ``target``.

        Raises
        ------
        ModelError
            If the layer does not exist, gives no maps, or the class does not exist.
        UsageError
            If images or target cannot be meant.
        """
        return _by_gradient(self, images, target, GRAD_CAM_CARD, grad_cam)


@final
class GradCAMPlusPlus:
    """Grad-CAM++ of one layer, in the authors' normalised form unless asked otherwise.

    Chattopadhay et al. (2018), doi:10.1109/WACV.2018.00097, eq. 19. Known up to one positive factor
    per image: compare places within a map. Misleads where activations are negative.

    Parameters
    ----------
    model : nn.Module
        Any network that gives logits (image, class).
    layer : str or nn.Module
        Dotted name, or the submodule itself; its output must be maps.
    variant : {"authors", "unnormalised"}
        Coefficients normalised per channel as in the authors' code, or eq. 19 as printed.
    """

    def __init__(
        self, model: nn.Module, layer: str | nn.Module, variant: PlusPlusVariant = "authors"
    ) -> None:
        self.model, self.layer = model, _layer_name(model, layer)
        self.variant = PlusPlusMap(variant).variant

    def attribute(self, images: Tensor, target: AskedFor = None) -> xr.DataArray:
        """Compute the maps of some images; see :meth:`GradCAM.attribute`."""
        formula = partial(grad_cam_plus_plus, variant=self.variant)
        return _by_gradient(self, images, target, PLUS_PLUS_CARD, formula)


@final
class LayerCAM:
    """Layer-CAM of one layer: ``relu(sum_k relu(dY/dA_k) A_k)``, position by position.

    Jiang et al. (2021), doi:10.1109/TIP.2021.3089943. Sharp in early layers, where sharpness is the
    layer's resolution and no sign of certainty.

    Parameters
    ----------
    model : nn.Module
        Any network that gives logits (image, class).
    layer : str or nn.Module
        Dotted name, or the submodule itself; its output must be maps.
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module) -> None:
        self.model, self.layer = model, _layer_name(model, layer)

    def attribute(self, images: Tensor, target: AskedFor = None) -> xr.DataArray:
        """Compute the maps of some images; see :meth:`GradCAM.attribute`."""
        return _by_gradient(self, images, target, LAYER_CAM_CARD, layer_cam)


@final
class CAM:
    """CAM: the maps that a GAP + linear head averages, weighted by that head; signed.

    Zhou et al. (2016), doi:10.1109/CVPR.2016.319, eq. 2. The head is proved on the given images:
    where its logits are not ``sum w GAP + b`` of this layer, an error says so.

    Parameters
    ----------
    model : nn.Module
        A network with a GAP + linear head.
    layer : str or nn.Module
        The layer that the head averages.
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module) -> None:
        self.model, self.layer = model, _layer_name(model, layer)

    def attribute(self, images: Tensor, target: AskedFor = None) -> xr.DataArray:
        """Compute the maps of some images; see :meth:`GradCAM.attribute`, but signed."""
        described = _described(self.model, images)
        info = _last_call(described, self.layer)
        head = find_head(self.model, images, _without_doubles(described, info))
        _refuse(class_activation_map.accepts(info, head), "CAM", self.layer)
        captured = run_pass(self.model, images, (info,))
        classes = _indices(target, len(images))(_logits(captured))
        weight = torch.as_tensor(head.weight, dtype=torch.float32, device=classes.device)
        maps = cam(captured.activations[info.name], weight[_existing(classes, len(weight))])
        return _labelled(maps, classes, CAM_CARD, self.layer)


def _by_gradient(
    face: GradCAM | GradCAMPlusPlus | LayerCAM,
    images: Tensor,
    target: AskedFor,
    card: DefinitionCard,
    formula: Callable[[Tensor, Tensor], Tensor],
) -> xr.DataArray:
    """One forward and one backward pass to the layer, then the formula."""
    info = _last_call(_described(face.model, images), face.layer)
    _refuse(grad_cam_map.accepts(info, Head(linear=False)), card.title, face.layer)
    choose = _indices(target, len(images))
    options = PassOptions({"predicted": (info.name,)}, lambda logits: {"predicted": choose(logits)})
    captured = run_pass(face.model, images, (info,), options)
    maps = formula(captured.activations[info.name], captured.gradients[info.name, "predicted"])
    return _labelled(maps, choose(_logits(captured)), card, face.layer)


# -- borders -----------------------------------------------------------------------------------


def _layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """Name of a layer given by name or as the submodule itself."""
    if isinstance(layer, str):
        find_module(model, layer)
        return layer
    names: list[str] = [name for name, part in model.named_modules() if part is layer and name]
    if not names:
        msg = "layer is no submodule of the model"
        raise ModelError(msg, found=type(layer).__name__, remedy="give its dotted name")
    return names[0]


def _described(model: nn.Module, images: Tensor) -> tuple[LayerInfo, ...]:
    """Describe what the layers put out for these images."""
    if not (isinstance(images, Tensor) and images.ndim == 4 and len(images) and images.is_floating_point()):
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        msg = "images are no batch of preprocessed images"
        raise UsageError(msg, found=str(shape), wanted="float Tensor (image, channel, row, column)")
    return describe_layers(model, images[:1])


def _last_call(described: Sequence[LayerInfo], layer: str) -> LayerInfo:
    """Find the layer by its name."""
    # a bare name of a module that runs more than once means its last call, as in an audit
    calls = [info for info in described if info.calls and layer in {info.name, split_call(info.name)[0]}]
    if not calls:
        raise ModelError(f"layer {layer!r} never runs", remedy="run 'wsss-probe layers'")
    return calls[-1]


def _without_doubles(described: Sequence[LayerInfo], wanted: LayerInfo) -> list[LayerInfo]:
    """Leave out other layers of the same shape: a block and its last part are the same maps.

    The head is then proved for the layer that was asked for, under the name that it was given.
    """
    return [info for info in described if info.name == wanted.name or info.shape != wanted.shape]


def _refuse(reason: str, method: str, layer: str) -> None:
    if reason:
        raise ModelError(f"{method} does not suit layer {layer!r}", found=reason)


def _indices(target: AskedFor, images: int) -> Callable[[Tensor], Tensor]:
    """Turn what was asked for into a function from logits to one class per image."""
    if isinstance(target, Tensor):
        if target.shape != (images,) or target.is_floating_point() or target.dtype == torch.bool:
            msg = "target does not fit the images"
            raise UsageError(msg, found=f"{target.dtype} {tuple(target.shape)}", wanted=f"int64 ({images},)")
        return lambda logits: target.to(logits.device, torch.int64)
    if target is None or target == "predicted":
        return lambda logits: logits.argmax(1)
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        msg = "target cannot be meant"
        raise UsageError(msg, found=repr(target), wanted="a class index, one per image, or 'predicted'")
    return lambda logits: torch.full((len(logits),), int(target), device=logits.device)


def _existing(classes: Tensor, number: int) -> Tensor:
    if bool(((classes < 0) | (classes >= number)).any()):
        found = f"indices {int(classes.min())} to {int(classes.max())}"
        raise ModelError("target is not a class", found=found, wanted=f"0 to {number - 1}")
    return classes


def _logits(captured: Captured) -> Tensor:
    if captured.logits is None:
        raise ModelError("the network gave no logits")
    return captured.logits


def _labelled(maps: Tensor, classes: Tensor, card: DefinitionCard, layer: str) -> xr.DataArray:
    """Name the maps: what they are, of which layer and class."""
    return xr.DataArray(
        maps.float().cpu().numpy(),
        dims=("image", "row", "column"),
        coords={"target": ("image", classes.cpu().numpy())},
        name="relevance",
        attrs={"method": card.title, "formula": card.formula, "paper": card.paper, "layer": layer},
    )
