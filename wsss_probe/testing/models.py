"""Tiny networks with weights set by hand, so that the right answer is known.

For tests of plugins: each function builds one network in eval mode, in no time, without drawing a
random number. All take images (image, channel, row, column) with values in 0..1 and any size from
8x8 pixels, and have 3 input channels unless they say otherwise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = [
    "PLANTED_CHANNEL",
    "branched",
    "dead_channel",
    "flat_head",
    "inplace",
    "multi_logit",
    "one_channel",
    "planted_gap",
    "reused",
    "single_logit",
    "tuple_output",
    "with_weights",
]

PLANTED_CHANNEL = 2
"""The channel of ``planted_gap``'s layer ``features`` that is the foreground."""


def with_weights(module: nn.Module, phase: float = 0.0) -> nn.Module:
    """Fill every parameter with a fixed wave, scaled by its fan-in.

    Parameters
    ----------
    module : nn.Module
        Changed and returned in eval mode.
    phase : float
        Another phase gives another network.

    Returns
    -------
    nn.Module
    """
    with torch.no_grad():
        for position, parameter in enumerate(module.parameters()):
            fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
            places = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
            # an irrational step: no period, so no two filters are alike
            parameter.copy_(torch.sin(places * 2.3999632 + position + phase) * (2 / fan_in) ** 0.5)
    return module.eval()


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    # skip_init: the default initialisation would move the user's random state
    made = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, stride=stride, padding=size // 2)  # type: ignore[no-untyped-call]
    assert isinstance(made, nn.Conv2d)
    return made


def _linear(inputs: int, outputs: int) -> nn.Linear:
    made = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    assert isinstance(made, nn.Linear)
    return made


class _GAP(nn.Module):
    """Maps, global average pooling, one linear layer."""

    def __init__(self, features: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = _linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (image, class)."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def planted_gap() -> nn.Module:
    """Build a network in which one channel is the foreground.

    Foreground are pixels whose red exceeds their green by more than 0.5 (0.45 to 0.55 is a ramp).
    Layer ``features`` has the input's size and six channels: 0 brightness, 1 always zero (dead),
    ``PLANTED_CHANNEL`` exactly 1 on the foreground and 0 elsewhere, 3 blue, 4 the background (1
    minus the foreground), 5 green. The classes are ``background`` and ``foreground``: logit 1 is
    the foreground's share of the image, logit 0 a constant 0.25.

    Returns
    -------
    nn.Module
        Layers ``features.0`` to ``features.3``, ``features``, ``pool``, ``classifier``; the head is linear.
    """
    features = nn.Sequential(_conv(3, 6, 1), nn.ReLU(), _conv(6, 6, 1), nn.ReLU())
    net = _GAP(features, 6, 2)
    mixing = torch.zeros(6, 3)
    mixing[0] = 1 / 3
    mixing[1] = mixing[2] = torch.tensor(
        [10.0, -10.0, 0.0]
    )  # two ramps, 0.1 apart: their difference saturates
    mixing[3, 2] = mixing[5, 1] = 1
    choosing = torch.zeros(6, 6)
    choosing[0, 0] = choosing[3, 3] = choosing[5, 5] = 1
    choosing[2, 1], choosing[2, 2] = 1, -1
    choosing[4, 1], choosing[4, 2] = -1, 1
    planned = {
        "features.0.weight": mixing.view(6, 3, 1, 1),
        "features.0.bias": torch.tensor([0, -4.5, -5.5, 0, 0, 0]),
        "features.2.weight": choosing.view(6, 6, 1, 1),
        "features.2.bias": torch.tensor([0.0, -1, 0, 0, 1, 0]),
        "classifier.weight": torch.tensor([[0.0] * 6, [0.0, 0, 1, 0, 0, 0]]),
        "classifier.bias": torch.tensor([0.25, 0.0]),
    }
    net.load_state_dict(planned)
    return net.eval()


def inplace() -> nn.Module:
    """Build convolution, BatchNorm and in-place ReLU twice; each BatchNorm's output is overwritten.

    Returns
    -------
    nn.Module
        Layers ``features.0`` to ``features.5``, ``features``, ``pool``, ``classifier``; 3 classes.
    """
    features = nn.Sequential(
        _conv(3, 6),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        _conv(6, 8, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
    )
    return with_weights(_GAP(features, 8, 3))


class _Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(3, 4)
        self.second = _conv(4, 8, stride=2)
        self.relu = nn.ReLU()
        self.idle = _conv(4, 4)
        self.classifier = _linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.second(self.relu(self.first(images))))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits


def reused() -> nn.Module:
    """Build a network whose one ``relu`` runs twice and whose layer ``idle`` never runs.

    Returns
    -------
    nn.Module
        Layers ``first``, ``second``, ``relu#0``, ``relu#1``, ``idle``, ``classifier``; 3 classes.
    """
    return with_weights(_Reused())


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(_conv(4, 8, stride=2), nn.ReLU(), _conv(8, 8))
        self.short = _conv(4, 8, 1, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.long(maps) + self.short(maps))


class _Branched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 4)
        self.block = _Block()
        self.classifier = _linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.block(torch.relu(self.stem(images))).mean((2, 3)))
        return logits


def branched() -> nn.Module:
    """Build a residual network: a long branch (two 3x3 convolutions) and a short one (1x1).

    Returns
    -------
    nn.Module
        Layers ``stem``, ``block.long``, ``block.short``, ``block``, ``classifier``; 3 classes.
        Receptive fields: ``stem`` 3, ``block.long`` and ``block`` 9, ``block.short`` 3.
    """
    return with_weights(_Branched())


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(images)
        return torch.relu(maps), torch.relu(-maps)


class _Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(4, 8, stride=2)

    def forward(self, maps: Tensor) -> Mapping[str, Tensor | None]:
        return OrderedDict(out=torch.relu(self.conv(maps)), extra=None)


class _Silent(nn.Module):
    def forward(self, maps: Tensor) -> None:
        """Return nothing, as a layer that only checks something would."""


class _TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.boxed, self.silent = _Pair(), _Boxed(), _Silent()
        self.classifier = _linear(8, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        on, off = self.pair(images)
        self.silent(on)
        maps = self.boxed(on - off)["out"]
        return {"maps": maps, "logits": self.classifier(maps.mean((2, 3)))}


def tuple_output() -> nn.Module:
    """Build a network whose layers put out a tuple, a mapping and nothing.

    Returns
    -------
    nn.Module
        ``pair`` puts out two tensors, ``boxed`` a mapping with one tensor (image, 8, row, column)
        and a None, ``silent`` None; the network a mapping with the logits; 3 classes.
    """
    return with_weights(_TupleOutput())


def dead_channel() -> nn.Module:
    """Build ``inplace`` with channel 3 of ``features`` always zero.

    Returns
    -------
    nn.Module
    """
    net = inplace()
    with torch.no_grad():
        weights = dict(net.named_parameters())
        weights["features.4.weight"][3] = 0
        weights["features.4.bias"][3] = -1
    return net


def one_channel() -> nn.Module:
    """Build a network for images (image, 1, row, column); 2 classes.

    Returns
    -------
    nn.Module
    """
    return with_weights(_GAP(nn.Sequential(_conv(1, 4), nn.ReLU()), 4, 2))


def multi_logit(classes: int = 5) -> nn.Module:
    """Build a network with independent logits, one sigmoid per class.

    Parameters
    ----------
    classes : int

    Returns
    -------
    nn.Module
    """
    features = nn.Sequential(_conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), _conv(6, 8), nn.ReLU())
    return with_weights(_GAP(features, 8, classes))


class _SingleLogit(_GAP):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, 0]


def single_logit() -> nn.Module:
    """Build a network that returns (image,) instead of (image, class).

    Returns
    -------
    nn.Module
    """
    return with_weights(_SingleLogit(nn.Sequential(_conv(3, 4), nn.ReLU()), 4, 1))


def flat_head() -> nn.Module:
    """Build a network for 8x8 images whose head is not linear in pooled maps: it flattens them.

    Returns
    -------
    nn.Module
    """
    features = nn.Sequential(_conv(3, 4), nn.ReLU(), nn.MaxPool2d(2))
    flat = nn.Sequential(OrderedDict(features=features, flat=nn.Flatten(), classifier=_linear(4 * 4 * 4, 2)))
    return with_weights(flat)
