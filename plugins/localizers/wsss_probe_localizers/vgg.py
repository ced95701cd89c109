"""VGG-style feature extractors, written as a layout string.

A layout is what Simonyan & Zisserman (2015) print as a column of their table 1: the widths of the
convolutions in order, with ``P`` where a 2×2 max-pool stands.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from types import MappingProxyType

from torch import nn

from wsss_probe.errors import ModelError

__all__ = ["PRESETS", "parse_layout", "vgg_features"]

SMALL = "16,16,P,32,32,P,64,64"

PRESETS = MappingProxyType(
    {
        "vgg": SMALL,
        # Without the fifth pool, as in a CAM network: the last maps keep a stride of 16.
        "vgg11": "64,P,128,P,256,256,P,512,512,P,512,512",
        "vgg13": "64,64,P,128,128,P,256,256,P,512,512,P,512,512",
        "vgg16": "64,64,P,128,128,P,256,256,256,P,512,512,512,P,512,512,512",
        "vgg19": "64,64,P,128,128,P,256,256,256,256,P,512,512,512,512,P,512,512,512,512",
    }
)


def parse_layout(layout: str) -> tuple[int | None, ...]:
    """Read a layout string.

    Parameters
    ----------
    layout : str
        A name of :data:`PRESETS`, or widths and ``P`` separated by commas.

    Returns
    -------
    tuple of int or None
        Width of each convolution; None is a 2×2 max-pool.

    Raises
    ------
    ModelError
        If an entry is neither a positive width nor ``P``, or no convolution ends the layout.

    Examples
    --------
    >>> parse_layout("16,P,32")
    (16, None, 32)
    """
    entries = [entry.strip().upper() for entry in PRESETS.get(layout, layout).split(",")]
    wrong = [entry for entry in entries if not re.fullmatch(r"P|[1-9]\d{0,4}", entry)]
    if wrong:
        raise ModelError(
            f"VGG layout {layout!r} cannot be read",
            found=repr(wrong[0]),
            wanted="widths and P separated by commas",
            remedy=f"for example {SMALL}",
        )
    if entries[-1] == "P":
        raise ModelError(
            f"VGG layout {layout!r} ends with a pool",
            wanted="a convolution last, since global average pooling follows",
        )
    return tuple(None if entry == "P" else int(entry) for entry in entries)


def vgg_features(layout: str, *, width: float = 1.0, channels: int = 3) -> nn.Sequential:
    """Build convolution, batch normalisation and ReLU blocks with pools between them.

    Modules are named as in the literature: ``relu5_3`` is the third ReLU after the fourth pool.

    Parameters
    ----------
    layout : str
        See :func:`parse_layout`.
    width : float
        Factor on every width, at least one channel stays.
    channels : int
        Channels of the images.

    Returns
    -------
    Sequential
        ``(image, channels, row, column)`` to ``(image, channel, row / 2^P, column / 2^P)``, not
        negative.

    References
    ----------
    Simonyan & Zisserman (2015), Very deep convolutional networks for large-scale image
    recognition, arXiv:1409.1556, table 1; batch normalisation added.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    incoming, block, number = channels, 1, 0
    for entry in parse_layout(layout):
        if entry is None:
            modules[f"pool{block}"] = nn.MaxPool2d(2)
            block, number = block + 1, 0
            continue
        outgoing, number = max(1, round(entry * width)), number + 1
        modules[f"conv{block}_{number}"] = _convolution(incoming, outgoing)
        modules[f"norm{block}_{number}"] = nn.BatchNorm2d(outgoing)
        modules[f"relu{block}_{number}"] = nn.ReLU()
        incoming = outgoing
    return nn.Sequential(modules)


def _convolution(incoming: int, outgoing: int) -> nn.Conv2d:
    """Make a 3×3 convolution, He-initialised; batch normalisation brings the bias."""
    convolution = nn.Conv2d(incoming, outgoing, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
