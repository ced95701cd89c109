"""MobileNetV2 as exported from TensorFlow: its padding, normalisation folded into the convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional as F

from wsss_probe.errors import ModelError

__all__ = ["FoldedMobileNetV2", "build_mobilenet"]

# Sandler et al. (2018), table 2: expansion, channels, repeats, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


def _same(extent: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one axis: TensorFlow's SAME puts the odd pixel behind."""
    total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
    return total // 2, total - total // 2


@final
class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, and ReLU6 where asked for."""

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__(incoming, outgoing, kernel, stride, groups=groups)
        self._relu = relu

    def forward(self, images: Tensor) -> Tensor:
        """Pad, convolve, clip to 0..6."""
        rows = _same(images.shape[2], self.kernel_size[0], self.stride[0])
        columns = _same(images.shape[3], self.kernel_size[1], self.stride[1])
        maps = super().forward(F.pad(images, (*columns, *rows)))
        return F.relu6(maps) if self._relu else maps


@final
class _Inverted(nn.Module):
    """An inverted residual: expand, filter each channel, project without a nonlinearity."""

    def __init__(self, incoming: int, outgoing: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = incoming * expansion
        self.expand = _Convolution(incoming, inside, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _Convolution(inside, inside, 3, stride=stride, groups=inside)
        self.project = _Convolution(inside, outgoing, 1, relu=False)
        self._residual = stride == 1 and incoming == outgoing

    def forward(self, maps: Tensor) -> Tensor:
        """Add what goes in where the shape stays."""
        projected: Tensor = self.project(self.depthwise(self.expand(maps)))
        return maps + projected if self._residual else projected


@final
class FoldedMobileNetV2(nn.Module):
    """MobileNetV2 of width 1 for weights exported from TensorFlow.

    ``features.0`` is the stem, ``features.1`` to ``features.17`` are the inverted residuals,
    ``features.18`` the last 1×1 convolution; global average pooling and one linear layer follow. Every
    convolution has a bias and none a batch normalisation behind it.

    Parameters
    ----------
    classes : int
        1001 for ImageNet: output 0 is background.

    References
    ----------
    Sandler et al. (2018), MobileNetV2: inverted residuals and linear bottlenecks, arXiv:1801.04381.
    """

    def __init__(self, classes: int = 1001) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Convolution(3, _STEM, 3, stride=2)]
        incoming = _STEM
        for expansion, outgoing, repeats, first in _STAGES:
            for position in range(repeats):
                layers.append(_Inverted(incoming, outgoing, 1 if position else first, expansion))
                incoming = outgoing
        self.features = nn.Sequential(*layers, _Convolution(incoming, _LAST, 1))
        self.classifier = nn.Linear(_LAST, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits, ``(image, class)``."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def build_mobilenet(arguments: Mapping[str, Any]) -> FoldedMobileNetV2:
    """Build a :class:`FoldedMobileNetV2` with random weights.

    Parameters
    ----------
    arguments : mapping
        ``classes``, how many (1001).

    Returns
    -------
    FoldedMobileNetV2

    Raises
    ------
    ModelError
        If another argument is given, or no whole number above 0.

    Examples
    --------
    >>> build_mobilenet({"classes": 2}).classifier.out_features
    2
    """
    unknown = [name for name in arguments if name != "classes"]
    classes = arguments.get("classes", 1001)
    if unknown or not str(classes).isdecimal() or int(classes) < 1:
        raise ModelError(
            "arguments of mobilenetv2-folded cannot be meant",
            found=", ".join(f"{name}={value!r}" for name, value in arguments.items()),
            wanted="classes, a whole number above 0",
        )
    return FoldedMobileNetV2(int(classes))
