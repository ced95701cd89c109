"""The last layer of a network: found, drawn anew, and built again from a model card."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError, ProbeError, UnsafeInputError
from wsss_probe.host import PluginHost
from wsss_probe.zoo import build, is_factory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsss_probe.contracts import ModelSource

__all__ = ["build_finetuned", "find_head", "installed_sources", "replace_head"]

_ARGUMENTS = ("source", "arguments", "head", "units")


def installed_sources() -> Mapping[str, ModelSource]:
    """Collect the model sources of the installed plugins, by name.

    Returns
    -------
    mapping of str to ModelSource
    """
    host = PluginHost()
    host.load()
    return {offered.name: offered.item for offered in host.collect_model_sources()}


def find_head(network: nn.Module, example: Tensor) -> str:
    """Find the layer whose outputs are the logits.

    It is the last linear layer or 1×1 convolution in the order of the modules which, made one output
    wider, makes the logits one more; so an auxiliary classifier, or a layer that happens to have as many
    outputs, is not taken for it.

    Parameters
    ----------
    network : Module
        Left as it is found.
    example : Tensor, (1, channel, row, column)

    Returns
    -------
    str
        Dotted name.

    Raises
    ------
    ModelError
        If there is no such layer.
    """
    logits = _count(network, example)
    found = [(name, part) for name, part in network.named_modules() if name and _outputs(part) == logits > 0]
    for name, part in reversed(found):
        with _exchanged(network, name, _like(part, logits + 1)):
            wider = _count(network, example)
        if wider == logits + 1:
            return str(name)
    raise ModelError(
        f"no head to replace in {type(network).__name__}",
        found=", ".join(name for name, _ in found) or f"no layer with {logits} outputs",
        wanted="a linear layer or 1x1 convolution whose outputs are the logits",
    )


def replace_head(network: nn.Module, name: str, units: int) -> None:
    """Put a new layer in the place of the head, drawn from torch's global generator.

    Parameters
    ----------
    network : Module
        Changed in place.
    name : str
        Dotted name of a linear layer or 1×1 convolution.
    units : int
        Outputs of the new one, which has a bias.

    Raises
    ------
    ModelError
        If there is no such layer.
    """
    part = dict(network.named_modules()).get(name)
    if not name or part is None or not _outputs(part):
        raise ModelError(
            f"{type(network).__name__} has no head of that name",
            found=repr(name),
            wanted="a linear layer or 1x1 convolution",
        )
    network.set_submodule(name, _like(part, units))


def build_finetuned(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network by name and replace its head, with random weights.

    Parameters
    ----------
    arguments : mapping
        ``source`` (a registry's or plugin's name), ``arguments`` of that source, ``head`` (dotted name) and
        ``units`` (outputs).

    Returns
    -------
    Module

    Raises
    ------
    ModelError
        If an argument is missing, unknown, or does not suit the network.
    UnsafeInputError
        If the source is code: a card that travels with weights must not decide what is run.
    """
    if set(arguments) != set(_ARGUMENTS) or not str(arguments["units"]).isdecimal():
        raise ModelError(
            "arguments of a finetuned network cannot be meant",
            found=", ".join(sorted(arguments)) or "none",
            wanted=f"{', '.join(_ARGUMENTS)}, units a whole number",
        )
    source, inner = str(arguments["source"]), arguments["arguments"]
    if is_factory(source):
        raise UnsafeInputError(
            "refused a finetuned network", found=f"code as its source: {source}", wanted="a plain name"
        )
    if not isinstance(inner, Mapping):
        raise ModelError(f"arguments of {source} cannot be meant", found=repr(inner), wanted="a mapping")
    network = build(source, arguments=inner, sources=installed_sources()).module
    replace_head(network, str(arguments["head"]), int(arguments["units"]))
    return network


def _outputs(part: nn.Module) -> int:
    """Outputs of a layer that may be a head; 0 of any other."""
    if isinstance(part, nn.Linear):
        return part.out_features
    pixelwise = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1
    return part.out_channels if isinstance(part, nn.Conv2d) and pixelwise else 0


def _like(part: nn.Module, outputs: int) -> nn.Module:
    """Make a layer of the same kind and inputs, with a bias."""
    if isinstance(part, nn.Linear):
        return nn.Linear(part.in_features, outputs)
    if isinstance(part, nn.Conv2d):
        return nn.Conv2d(part.in_channels, outputs, 1, (part.stride[0], part.stride[-1]))
    raise TypeError(part)


@contextmanager
def _exchanged(network: nn.Module, name: str, layer: nn.Module) -> Iterator[None]:
    """Put another layer in a place for the time being."""
    own = network.get_submodule(name)
    network.set_submodule(name, layer)
    try:
        yield
    finally:
        network.set_submodule(name, own)


def _count(network: nn.Module, example: Tensor) -> int:
    """Count the logits of one image in eval mode; 0 if the network fails or puts out none."""
    network.eval()
    try:
        with torch.no_grad():
            logits = network(example)
    except ProbeError:
        raise
    except Exception:  # noqa: BLE001  # a wider layer that does not fit is simply not the head
        return 0
    return int(logits.shape[1]) if isinstance(logits, Tensor) and logits.ndim == 2 else 0
