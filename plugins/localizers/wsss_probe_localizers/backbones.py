"""Feature extractors by name: VGG layouts of ours, torchvision's and timm's networks without a head."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from wsss_probe.errors import ModelError
from wsss_probe.zoo import ensure_torchvision
from wsss_probe_localizers.vgg import PRESETS, vgg_features

__all__ = ["backbone_features", "known_backbones"]

# Families of torchvision whose children up to the head are a plain chain of feature maps.
_CHAINS = re.compile(
    r"(wide_)?resne[x]?t\d|densenet|vgg\d+_bn|vgg\d+$|mobilenet|efficientnet|convnext|regnet|shufflenet|mnasnet|"
    r"squeezenet|googlenet|inception"
)
_HEADS = ("avgpool", "fc", "classifier")


def known_backbones() -> tuple[str, ...]:
    """List every name that :func:`backbone_features` knows, besides free VGG layouts.

    Returns
    -------
    tuple of str
    """
    ensure_torchvision()
    import timm

    torchvision = (f"torchvision/{name}" for name in _torchvision_names())
    return (*PRESETS, *torchvision, *(f"timm/{name}" for name in timm.list_models()))


def backbone_features(backbone: str, *, width: float = 1.0, channels: int = 3) -> nn.Module:
    """Build a feature extractor with random weights.

    Parameters
    ----------
    backbone : str
        ``vgg``, ``vgg11``, ``vgg13``, ``vgg16``, ``vgg19``, a layout such as
        ``16,16,P,32,32,P,64,64``, ``torchvision/<name>`` or ``timm/<name>``.
    width : float
        Factor on every width; VGG layouts only.
    channels : int
        Channels of the images; torchvision's networks take 3.

    Returns
    -------
    Module
        ``(image, channels, row, column)`` to maps ``(image, channel, row, column)``.

    Raises
    ------
    ModelError
        If the name is unknown (with the nearest known one) or the options do not suit it.
    """
    family, _, name = backbone.partition("/")
    if not name and (backbone in PRESETS or "," in backbone or backbone.isdecimal()):
        return vgg_features(backbone, width=width, channels=channels)
    if family not in {"torchvision", "timm"} or not name:
        raise _unknown(backbone, known_backbones())
    if width != 1.0:
        raise ModelError(
            f"backbone {backbone} has no width factor",
            found=f"width {width:g}",
            remedy="use width 1, or a vgg layout",
        )
    ensure_torchvision()
    return _torchvision(name, channels) if family == "torchvision" else _timm(name, channels)


def _unknown(backbone: str, known: Sequence[str]) -> ModelError:
    """Name the nearest known backbones."""
    same = [name for name in known if name.endswith(f"/{backbone}")]
    near = same or difflib.get_close_matches(backbone, known, n=3, cutoff=0.5)
    return ModelError(
        "backbone unknown",
        found=repr(backbone),
        wanted="vgg…, a layout such as 16,16,P,32, torchvision/<name> or timm/<name>",
        remedy=f"nearest: {', '.join(near)}" if near else None,
    )


def _torchvision_names() -> list[str]:
    """List torchvision's classifiers that are chains of feature maps."""
    import torchvision

    return [name for name in torchvision.models.list_models(torchvision.models) if _CHAINS.match(name)]


def _torchvision(name: str, channels: int) -> nn.Module:
    """Take a torchvision network's children up to its head."""
    import torchvision

    if name not in _torchvision_names():
        raise _unknown(f"torchvision/{name}", [f"torchvision/{known}" for known in _torchvision_names()])
    if channels != 3:
        raise ModelError(
            f"backbone torchvision/{name} takes colour images",
            found=f"{channels} channels",
            wanted="3",
            remedy="use a vgg layout or a timm network",
        )
    auxiliary = {"init_weights": True, "aux_logits": False} if name in {"googlenet", "inception_v3"} else {}
    network = torchvision.models.get_model(name, weights=None, **auxiliary)
    children = OrderedDict[str, nn.Module]()
    for key, child in network.named_children():
        if key in _HEADS:
            break
        children[key] = child
    return _until_nonlinearity(name, children)


def _until_nonlinearity(name: str, children: OrderedDict[str, nn.Module]) -> nn.Sequential:
    """End where the head's average is taken: after the last ReLU, before the last pool of a VGG."""
    if name.startswith("densenet"):
        children["relu"] = nn.ReLU()  # torchvision applies it as a function
    if name.startswith("vgg"):
        *layers, _pool = children["features"].named_children()
        return nn.Sequential(OrderedDict(layers))
    if tuple(children) == ("features",) and isinstance(children["features"], nn.Sequential):
        return children["features"]
    return nn.Sequential(children)


def _timm(name: str, channels: int) -> nn.Module:
    """Build a timm network without pooling and classifier."""
    import timm

    # Only local architectures: a name with ':' or '/' would be looked up on a hub.
    if name.partition(".")[0] not in timm.list_models():
        raise _unknown(f"timm/{name}", [f"timm/{known}" for known in timm.list_models()])
    features = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", in_chans=channels)
    if not isinstance(features, nn.Module):
        raise ModelError(f"backbone timm/{name} is no torch module", found=type(features).__name__)
    return features
