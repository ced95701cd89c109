"""The head of a network: whether its logits are a linear function of pooled maps.

With such a head (global average pooling, then one linear layer; or a 1x1 convolution, then global
average pooling) the class activation map is exact and a channel's share of a logit is known. It is
never assumed from names or types: the equation is checked on real images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsss_probe.contracts import Head, LayerInfo
from wsss_probe.precision import HALF, floating_dtype
from wsss_probe.taps import PassOptions, run_pass

__all__ = ["find_head"]

_TOLERANCE = 1e-5
# the part that the maps explain must stand out from rounding, or any maps would pass beside a large bias
_SHARE = 1e-2
# the pooled maps are among the last with their number of channels
_MOST = 12


def find_head(module: nn.Module, images: Tensor, layers: Sequence[LayerInfo]) -> Head:
    """Find a head that averages maps and weighs the averages, and prove it.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    images : Tensor, (image, channel, row, column)
        Real images; several, since the proof is only as good as they differ.
    layers : sequence of LayerInfo
        As :func:`wsss_probe.layers.describe_layers` gives them; only these can be the pooled layer.

    Returns
    -------
    Head
        ``linear`` if ``weight @ GAP(maps of layer) + bias`` equals the logits, both in float64, to
        1e-5 of the largest absolute logit, for the deepest maps where it does; else ``reason``
        says why not. A network in half precision is proved on a copy in float32, since its own
        rounding hides the equation.
    """
    if floating_dtype(module) in HALF:
        module = copy.deepcopy(module).float()
    logits = run_pass(module, images, ()).logits
    if logits is None or not bool(torch.isfinite(logits).all()) or not bool(logits.any()):
        return Head(False, reason="the logits of the given images are zero or not finite")
    weights = _weights(module, logits.shape[1])
    if not weights:
        return Head(False, reason=f"no linear layer or 1x1 convolution puts out {logits.shape[1]} values")
    tried = [_proved(module, images, layers, found, logits.double()) for found in weights]
    return next((head for head in tried if head.linear), tried[0])


@dataclass(frozen=True, slots=True)
class _Weights:
    """What might be the last layer; ``weight`` is float64 (class, channel)."""

    name: str
    weight: Tensor
    bias: Tensor


def _weights(module: nn.Module, classes: int) -> list[_Weights]:
    """Read all linear layers and 1x1 convolutions that put out the logits' number, the last first."""
    found = []
    for name, part in module.named_modules():
        pixelwise = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1
        if (isinstance(part, nn.Linear) or pixelwise) and len(part.weight) == classes:
            found.append(_read(name, part))
    return found[::-1]


def _read(name: str, part: nn.Linear | nn.Conv2d) -> _Weights:
    weight = part.weight.detach().flatten(1).double()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().double()
    return _Weights(name, weight, bias)


def _proved(
    module: nn.Module, images: Tensor, layers: Sequence[LayerInfo], found: _Weights, logits: Tensor
) -> Head:
    candidates = _candidates(layers, found)
    if not candidates:
        return Head(
            False,
            reason=f"{found.name!r} reads {found.weight.shape[1]} values; no maps have as many channels",
        )
    maps = run_pass(module, images, candidates, PassOptions(logits=False)).activations
    errors = {}
    for layer in candidates:
        share = maps[layer.name].double().mean((2, 3)) @ found.weight.T
        difference = float((share + found.bias - logits).abs().max())
        error = difference / float(logits.abs().max())
        if error <= _TOLERANCE and difference <= _SHARE * float(share.abs().max()):
            return Head(True, layer.name, found.weight.cpu().numpy(), found.bias.cpu().numpy(), error)
        errors[layer.name] = error
    nearest = min(errors, key=lambda name: errors[name])
    return Head(
        False,
        error=errors[nearest],
        reason=f"weight @ GAP + bias of {found.name!r} is not the logits for any maps; "
        f"nearest {nearest!r}, off by {errors[nearest]:.2g} of the largest logit",
    )


def _candidates(layers: Sequence[LayerInfo], found: _Weights) -> list[LayerInfo]:
    """List the maps that may have been pooled, deepest first; a 1x1 map is pooled already."""
    fitting = [
        layer
        for layer in layers
        if layer.layout == "maps"
        and layer.shape[0] == found.weight.shape[1]
        and layer.shape[1] * layer.shape[2] > 1
    ]
    return sorted(fitting, key=lambda layer: -layer.order)[:_MOST]
