"""The first pass of a network over some images: what cannot be audited says so in one line."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from wsss_probe.errors import ModelError, ProbeError
from wsss_probe.names import display
from wsss_probe.precision import precision_name
from wsss_probe.taps import run_pass
from wsss_probe.weights_file import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["first_logits", "require_images"]


def require_images(module: nn.Module, name: str) -> None:
    """Refuse a network of volumes, whose weights have three spatial dimensions.

    Raises
    ------
    ModelError
    """
    volumes = [key for key, parameter in module.named_parameters() if parameter.ndim == 5]
    if volumes:
        layer = volumes[0].rpartition(".")[0]
        raise ModelError(
            f"'{display(name)}' is a network of volumes, and images are audited",
            found=f"three spatial dimensions in '{display(layer)}'",
            wanted="(image, channel, row, column)",
        )


def first_logits(module: nn.Module, images: Tensor, name: str) -> Tensor:
    """Run some images.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    images : Tensor, (image, channel, row, column)
    name : str
        Of the network, for people.

    Returns
    -------
    Tensor, (image, class)

    Raises
    ------
    ModelError
        For whatever goes wrong, with the likely remedy: wrap a network of several inputs, convert one
        of a precision that the device cannot compute, or change the size of the images.
    """
    try:
        logits = run_pass(module, images, ()).logits
    except ProbeError:
        raise
    except Exception as error:
        raise _refused(module, images, name, error) from error
    assert logits is not None  # noqa: S101  # asked for by default
    return logits


def _refused(module: nn.Module, images: Tensor, name: str, error: Exception) -> ModelError:
    who, said = f"'{display(name)}'", f"{type(error).__name__}: {first_line(error)}"
    others = _other_inputs(module)
    if others and isinstance(error, TypeError):
        return ModelError(
            f"{who} needs other inputs than images",
            found=f"forward also asks for {', '.join(others)}",
            remedy="wrap it in a module whose forward(images) adds them",
        )
    if _about_precision(str(error)):
        return ModelError(
            f"{who} cannot be computed in its precision, {precision_name(module)}, on {images.device.type}",
            found=said,
            remedy="audit module.float(), or another --device",
        )
    return ModelError(
        f"{who} fails on images of shape {'x'.join(map(str, images.shape[1:]))}",
        found=said,
        remedy="check the size and channels in --preprocess",
    )


def _other_inputs(module: nn.Module) -> list[str]:
    """Name what ``forward`` requires besides its first argument."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    plain = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    needed = [p for p in parameters if p.kind in plain and p.default is inspect.Parameter.empty]
    return [parameter.name for parameter in needed[1:]]


def _about_precision(said: str) -> bool:
    half = any(word in said for word in ("Half", "BFloat16"))
    types = ("should be the same", "same dtype", "scalar type")
    return (half and "not implemented" in said) or any(words in said for words in types)
