"""Convolutional features, global average pooling, one linear layer: the network that CAM was made for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe_localizers.backbones import backbone_features

__all__ = ["GapNet", "build"]

_ARGUMENTS = {"backbone": "vgg", "width": 1.0, "classes": None, "channels": 3}

# Large enough for every network with a stride of 32, small enough to cost nothing.
_TRIAL_SIDE = 96


@final
class GapNet(nn.Module):
    """Features, global average pooling, one linear layer.

    ``logit_c = Σ_k w_ck · mean_p A_k(p) + b_c`` with the maps A that ``features`` returns, so the
    class activation map ``Σ_k w_ck A_k`` is exact: its mean over positions is the logit less the
    bias (Zhou et al. 2016, eq. 1–2).

    Parameters
    ----------
    features : Module
        Images to maps ``(image, channel, row, column)``.
    channels : int
        Channels of those maps.
    classes : int

    References
    ----------
    Zhou et al. (2016), Learning deep features for discriminative localization, arXiv:1512.04150.
    """

    def __init__(self, features: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits, ``(image, class)``."""
        logits: Tensor = self.classifier(self.pool(self.features(images)))
        return logits


def build(arguments: Mapping[str, Any]) -> GapNet:
    """Build a :class:`GapNet` with random weights, drawn from torch's global generator.

    Parameters
    ----------
    arguments : mapping
        ``classes`` (how many, needed), ``backbone`` (see
        :func:`~wsss_probe_localizers.backbones.backbone_features`; ``vgg``), ``width`` (1),
        ``channels`` of the images (3).

    Returns
    -------
    GapNet

    Raises
    ------
    ModelError
        If an argument is unknown, missing or does not suit the backbone.

    Examples
    --------
    >>> build({"backbone": "8,P,16", "classes": 2}).classifier.in_features
    16
    """
    chosen = _checked(arguments)
    channels, backbone = chosen["channels"], chosen["backbone"]
    features = backbone_features(backbone, width=chosen["width"], channels=channels)
    return GapNet(features, _map_channels(features, backbone, channels), chosen["classes"])


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults and convert what came from a command line; refuse what is not known."""
    for name in arguments:
        if name not in _ARGUMENTS:
            near = difflib.get_close_matches(name, _ARGUMENTS, n=1)
            raise ModelError(
                "argument of the gap network unknown",
                found=repr(name),
                wanted=", ".join(_ARGUMENTS),
                remedy=f"nearest: {near[0]}" if near else None,
            )
    merged = {**_ARGUMENTS, **arguments}
    return {
        "backbone": str(merged["backbone"]),
        "width": _number(merged, "width", float),
        "classes": _number(merged, "classes", int),
        "channels": _number(merged, "channels", int),
    }


def _number(arguments: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> int | float:
    """Read a positive number."""
    try:
        value = kind(arguments[name])
    except (TypeError, ValueError):
        value = kind(0)
    if not 0 < value < float("inf"):
        raise ModelError(
            f"argument {name} of the gap network is not a number above 0", found=repr(arguments[name])
        )
    return value


def _map_channels(features: nn.Module, backbone: str, channels: int) -> int:
    """Count the channels of the maps by running one image; not every library states them."""
    was_training = features.training
    features.eval()
    try:
        with torch.no_grad():
            maps = features(torch.zeros(1, channels, _TRIAL_SIDE, _TRIAL_SIDE))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _no_maps(backbone, str(error).partition("\n")[0]) from error
    finally:
        features.train(was_training)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise _no_maps(backbone, f"{tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__}")
    return maps.shape[1]


def _no_maps(backbone: str, found: str) -> ModelError:
    """Say that a network gives no maps to average."""
    return ModelError(
        f"backbone {backbone} gives no feature maps for an image of {_TRIAL_SIDE} x {_TRIAL_SIDE}",
        found=found,
        wanted="(image, channel, row, column)",
        remedy="choose a convolutional network",
    )
