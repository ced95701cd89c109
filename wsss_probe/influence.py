"""Which layers the logits depend on, tried on one image.

A layer without a path to the logits has no gradient; one whose class token alone is read has a
gradient of exactly zero everywhere on its maps. Both are found before an audit begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wsss_probe.contracts import Layout
from wsss_probe.errors import ModelError
from wsss_probe.layout import to_maps
from wsss_probe.taps import PassOptions, run_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from wsss_probe.contracts import LayerInfo

__all__ = ["UNREACHED", "mark_unreached", "without_gradient"]

UNREACHED = "the logits do not depend on the patch tokens of this layer, only on those before them"


def without_gradient(module: nn.Module, image: Tensor, layers: Sequence[LayerInfo]) -> dict[str, str]:
    """Find the layers at which no logit has a gradient.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    image : Tensor, (1, channel, row, column)
    layers : sequence of LayerInfo

    Returns
    -------
    dict of str to str
        Why, by layer; empty when all have one.
    """
    reasons = {layer.name: UNREACHED for layer in layers if not layer.reached}
    _, failed = _gradients(module, image, [layer for layer in layers if layer.reached])
    return {layer.name: why for layer in layers if (why := (reasons | failed).get(layer.name))}


def mark_unreached(module: nn.Module, image: Tensor, layers: Sequence[LayerInfo]) -> tuple[LayerInfo, ...]:
    """Mark the layers of tokens of which the logits read the prefix only.

    One backward pass, and only where there are tokens with a prefix.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    image : Tensor, (1, channel, row, column)
    layers : sequence of LayerInfo

    Returns
    -------
    tuple of LayerInfo
        The same, ``reached`` false where the gradient is zero at every patch and not at the prefix.
    """
    tokens = [layer for layer in layers if layer.native.prefix]
    # as if NCHW: the gradient of the whole output, prefix included
    found, _ = _gradients(module, image, [replace(layer, native=Layout()) for layer in tokens])
    lost = {
        layer.name
        for layer in tokens
        if layer.name in found
        and bool(found[layer.name].any())
        and not bool(to_maps(layer.native, found[layer.name]).any())
    }
    return tuple(
        replace(layer, reached=False, reason=UNREACHED) if layer.name in lost else layer for layer in layers
    )


def _gradients(
    module: nn.Module, image: Tensor, layers: Sequence[LayerInfo]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Gradient of the predicted logit at each layer, or why there is none."""
    if not layers:
        return {}, {}
    options = PassOptions(
        {"predicted": tuple(layer.name for layer in layers)},
        lambda logits: {"predicted": logits.argmax(dim=1)},
    )
    try:
        taken = run_pass(module, image, layers, options).gradients
    except ModelError as error:
        if len(layers) == 1:
            return {}, {layers[0].name: f"no gradient: {error.found or error.what}"}
        # one layer spoils the pass for all: halves find it in few passes
        middle = len(layers) // 2
        left, right = (_gradients(module, image, part) for part in (layers[:middle], layers[middle:]))
        return {**left[0], **right[0]}, {**left[1], **right[1]}
    return {name: gradient for (name, _), gradient in taken.items()}, {}
