"""The maps of one batch in Python, in captum's manner: ``Attribution(explainer, model, layer).attribute``.

The same explainers on the same pass as in an audit, so the numbers are the same; the model is left
exactly as it is found, whatever the explainer does to it and whether or not it succeeds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
import xarray as xr
from torch import Tensor, nn

from wsss_probe import Explainer, Head, LayerInfo
from wsss_probe.contracts import INPUT
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.evaluation import evaluating, find_module, split_call
from wsss_probe.explaining import Asked, explained_batch, input_layer
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers
from wsss_probe.layout import parse_layout
from wsss_probe.schema import check_relevance
from wsss_probe_explainers.attribution.asked import AskedFor, Question, read_question
from wsss_probe_explainers.attribution.probabilities import warn_of_probabilities
from wsss_probe_explainers.attribution.standing_in import one_by_one, stand_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Attribution"]


class Attribution:
    """Any explainer, of this plugin or another, for any network and images.

    Parameters
    ----------
    explainer : Explainer
    model : nn.Module
        Gives logits (image, class), alone or in a tuple, list or mapping; or anything that a callable
        target turns into scores.
    layer : str or nn.Module
        Dotted name, or the submodule itself; empty for an explainer on the input.
    classes : sequence of str
        Names of the logits, for targets by name.
    layout : str
        Order of that layer's output where it cannot be told from its shape: ``"NHWC"``,
        ``"tokens:14x14+1"``.

    Raises
    ------
    ModelError
        If there is no such layer.
    UsageError
        If a layer is given for a map on the input, or none for a map on a layer.
    """

    def __init__(
        self,
        explainer: Explainer,
        model: nn.Module,
        layer: str | nn.Module = "",
        classes: Sequence[str] = (),
        layout: str = "",
    ) -> None:
        self.explainer, self.model, self.classes = explainer, model, tuple(classes)
        self.layer = _layer_name(explainer, model, layer)
        self.layouts = {self.layer: parse_layout(layout)} if layout else {}

    def attribute(
        self, images: Tensor, target: AskedFor = None, additional_forward_args: Any = ()
    ) -> xr.DataArray:
        """Compute the maps of some images.

        Parameters
        ----------
        images : Tensor, (image, channel, row, column)
            Preprocessed, on the model's device.
        target : int, str, Tensor of int (image,), Contrast, (class, class), callable or None
            What is explained; None is the predicted class, ``"all"`` every class. A callable turns
            the model's output into scores (image,).
        additional_forward_args : tuple
            Further inputs of the model, as in captum; tensors have one entry for each image, or one
            for all. The images are then explained one by one.

        Returns
        -------
        DataArray, (image, row, column), or (image, class, row, column) for ``"all"``
            float32 on the explainer's grid, never normalised, with the explained class as coordinate
            ``target``. NaN for images with NaN in them or in their logits.

        Raises
        ------
        ModelError
            If the layer or class does not exist or does not suit, or there is no gradient.
        UsageError
            If images or target cannot be meant.

        Warns
        -----
        UserWarning
            If the model ends in softmax or sigmoid, or some images have no finite logits.
        """
        _require_images(images)
        question = read_question(target, self.classes, len(images))
        inputs = additional_forward_args
        inputs = inputs if isinstance(inputs, tuple) else () if inputs is None else (inputs,)
        with evaluating(self.model):
            if inputs:
                split = enumerate(one_by_one(inputs, len(images)))
                parts = [self._explained(images[i : i + 1], question.of(i), own) for i, own in split]
            else:
                parts = [self._explained(images, question, ())]
        if question.score is None:
            warn_of_probabilities(torch.cat([part.logits for part in parts]), parts[0].layers)
        usable = torch.cat([part.usable for part in parts])
        if not bool(usable.all()):
            lacking = int((~usable).sum())
            message = f"{lacking} of {len(usable)} images or their logits hold NaN or infinity: maps of NaN"
            warnings.warn(message, stacklevel=2)
        return self._labelled(torch.cat([p.maps for p in parts]), parts, question)

    def _explained(self, images: Tensor, question: Question, inputs: tuple[Any, ...]) -> _Part:
        network = stand_in(self.model, inputs, question.score)
        finite = images.detach().isfinite().flatten(1).all(1)
        examples = images[finite] if bool(finite.any()) else torch.zeros_like(images[:1])
        layers = _described(network, examples[:1], self.layouts)
        info = _layer_info(layers, self.layer, images)
        asked = Asked(
            {known.name: known for known in layers if known.layout == "maps"},
            _accepted_head(self.explainer, info, network, (examples, layers)),
            question.target,
        )
        first = _maps(self.explainer, network, images, (info.name, asked))
        if not question.every:
            return _Part(first.maps, first.logits, first.classes, finite & first.usable, layers)
        others = [
            _maps(self.explainer, network, images, (info.name, Asked(asked.layers, asked.head, number)))
            for number in range(1, first.logits.shape[1])
        ]
        maps = torch.stack([first.maps, *(other.maps for other in others)], dim=1)
        return _Part(maps, first.logits, first.classes, finite & first.usable, layers)

    def _labelled(self, maps: Tensor, parts: Sequence[_Part], question: Question) -> xr.DataArray:
        card = self.explainer.card
        usable = torch.cat([part.usable for part in parts])
        maps = maps.masked_fill(~usable.view(-1, *[1] * (maps.ndim - 1)), torch.nan)
        attrs = {"method": card.title, "formula": card.formula, "paper": card.paper, "layer": self.layer}
        coords: dict[str, Any] = {}
        dims = ("image", "row", "column")
        if question.every:
            dims = ("image", "class", "row", "column")  # type: ignore[assignment]
            coords["class"] = list(self.classes or range(maps.shape[1]))
        elif question.score is None:
            coords["target"] = ("image", torch.cat([part.classes for part in parts]).cpu().numpy())
        if question.words:
            attrs["target"] = question.words
        return xr.DataArray(maps.cpu().numpy(), dims=dims, coords=coords, name="relevance", attrs=attrs)


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """Maps of some images, with what was seen on the way."""

    maps: Tensor
    logits: Tensor
    classes: Tensor
    usable: Tensor
    layers: tuple[LayerInfo, ...] = ()


def _maps(explainer: Explainer, network: nn.Module, images: Tensor, at: tuple[str, Asked]) -> _Part:
    layer, asked = at
    batch, target = explained_batch(network, images, [(explainer, layer)], asked)
    usable = batch.logits.isfinite().all(1)
    grid = images.shape[2:] if layer == INPUT else asked.layers[layer].shape[1:]
    found = explainer.attribute(batch, layer, target)
    maps = check_relevance(found, (len(images), *grid), explainer.name, usable)
    weights = batch.targets[target]
    classes = weights.nan_to_num().argmax(1).masked_fill(weights.isnan().any(1), -1)
    return _Part(maps, batch.logits, classes, usable)


# -- borders -----------------------------------------------------------------------------------


def _layer_name(explainer: Explainer, model: nn.Module, layer: str | nn.Module) -> str:
    """Name of a layer given by name or as the submodule itself."""
    if explainer.grid == "input":
        if layer not in {"", INPUT}:
            msg = f"{explainer.card.title} explains the input"
            raise UsageError(msg, found=f"layer {layer!r}"[:80], wanted="no layer")
        return INPUT
    if not isinstance(layer, str):
        names: list[str] = [name for name, part in model.named_modules() if part is layer and name]
        if not names:
            msg = "layer is no submodule of the model"
            raise ModelError(msg, found=type(layer).__name__, remedy="give its dotted name")
        return names[0]
    if not layer:
        msg = f"{explainer.card.title} explains a layer"
        raise UsageError(msg, found="none", remedy="name one; 'wsss-probe layers' lists them")
    find_module(model, layer)
    return layer


def _require_images(images: Tensor) -> None:
    if isinstance(images, Tensor) and images.ndim == 4 and len(images) and images.is_floating_point():
        return
    shape = (
        f"{tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
    )
    msg = "images are no batch of preprocessed images"
    wanted = "float Tensor (image, channel, row, column)"
    volumes = isinstance(images, Tensor) and images.ndim == 5
    remedy = "give the slices of a volume one by one: volumes are not supported" if volumes else None
    raise UsageError(msg, found=shape, wanted=wanted, remedy=remedy)


def _described(network: nn.Module, example: Tensor, layouts: Mapping[str, Any]) -> tuple[LayerInfo, ...]:
    """Describe what the layers put out, or say that the network does not take such images."""
    try:
        return describe_layers(network, example, layouts)
    except (RuntimeError, TypeError) as error:
        lacking = "argument" in str(error) and isinstance(error, TypeError)
        raise ModelError(
            "the network does not take these images",
            found=f"{tuple(example.shape)} of {example.dtype} on {example.device}: {str(error)[:160]}",
            remedy="give its further inputs as additional_forward_args" if lacking else None,
        ) from error


def _layer_info(layers: Sequence[LayerInfo], layer: str, images: Tensor) -> LayerInfo:
    """Find the layer by its name."""
    if layer == INPUT:
        return input_layer(images.shape[1:])
    # a bare name of a module that runs more than once means its last call, as in an audit
    calls = [info for info in layers if info.calls and layer in {info.name, split_call(info.name)[0]}]
    if not calls:
        raise ModelError(f"layer {layer!r} never runs", remedy="run 'wsss-probe layers'")
    return calls[-1]


def _accepted_head(
    explainer: Explainer,
    info: LayerInfo,
    network: nn.Module,
    known: tuple[Tensor, Sequence[LayerInfo]],
) -> Head:
    """Refuse a layer that does not suit; look for the head only where the explainer asks for one."""
    head = Head(linear=False, reason="not looked for")
    if explainer.accepts(info, head):
        images, layers = known
        head = find_head(network, images, _without_doubles(layers, info))
    if reason := explainer.accepts(info, head):
        raise ModelError(f"{explainer.card.title} does not suit layer {info.name!r}", found=reason)
    return head


def _without_doubles(layers: Sequence[LayerInfo], wanted: LayerInfo) -> list[LayerInfo]:
    """Leave out other layers of the same shape: a block and its last part are the same maps.

    The head is then proved for the layer that was asked for, under the name that it was given.
    """
    return [info for info in layers if info.name == wanted.name or info.shape != wanted.shape]
