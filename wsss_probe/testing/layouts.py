"""The same tiny network with maps in three layouts, and one whose logits read a class token only.

For tests of what must not depend on how a network orders its maps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wsss_probe.testing.models import with_weights

__all__ = ["class_token", "laid_out"]

_PATCH = 4


def _linear(inputs: int, outputs: int) -> nn.Module:
    # skip_init: the default initialisation would move the user's random state
    return nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call, no-any-return]


def _embedding(channels: int) -> nn.Module:
    size = {"kernel_size": _PATCH, "stride": _PATCH}
    return nn.utils.skip_init(nn.Conv2d, 3, channels, **size)  # type: ignore[no-untyped-call, no-any-return]


class _Mixing(nn.Module):
    """Mix channels at each position, and put them out in a layout; a summary of all goes before tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.mix = _linear(6, 12)
        self.relu = nn.ReLU()
        self.kind = kind

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps in the layout."""
        mixed: Tensor = self.relu(self.mix(maps.permute(0, 2, 3, 1)))
        if self.kind == "NHWC":
            return mixed
        if self.kind == "NCHW":
            return mixed.permute(0, 3, 1, 2)
        return torch.cat([_summary(maps)[:, None], mixed.flatten(1, 2)], dim=1)


def _summary(maps: Tensor) -> Tensor:
    """Twelve numbers that depend on the image, (image, 12)."""
    return maps.amax((2, 3)).repeat(1, 2)


class _LaidOut(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = _embedding(6)
        self.block = _Mixing(kind)
        self.after = _linear(12, 12)
        self.relu = nn.ReLU()
        self.classifier = _linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (image, class)."""
        embedded = self.embed(images)
        tokens, first = self._tokens(self.block(embedded), embedded)
        read: Tensor = self.relu(self.after(tokens)).mean(1) + first
        logits: Tensor = self.classifier(read)
        return logits

    def _tokens(self, mixed: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens without the first, (image, token, 12), and the first, (image, 12)."""
        if self.block.kind == "tokens":
            return mixed[:, 1:], mixed[:, 0]
        rows = mixed if self.block.kind == "NHWC" else mixed.permute(0, 2, 3, 1)
        return rows.flatten(1, 2), _summary(embedded)


def laid_out(kind: Literal["NCHW", "NHWC", "tokens"]) -> nn.Module:
    """Build a network whose layer ``block`` puts out maps in a layout.

    The three are the same function of images with the same weights: maps, gradients and logits
    agree. Tokens have one before them that depends on the image and is added to what is read.

    Parameters
    ----------
    kind : {"NCHW", "NHWC", "tokens"}

    Returns
    -------
    nn.Module
        Layers ``embed`` (NCHW), ``block`` (12 channels, a quarter of the input's rows and columns),
        ``after``, ``classifier``; 3 classes.
    """
    return with_weights(_LaidOut(kind))


class _Attention(nn.Module):
    """Add to each token what it attends to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.query, self.value = _linear(8, 8), _linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (image, token, channel)."""
        normal = self.norm(tokens)
        weights = torch.softmax(self.query(normal) @ normal.transpose(1, 2), dim=2)
        attended: Tensor = weights @ self.value(normal)
        return tokens + attended


class _ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _embedding(8)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.Sequential(_Attention(), _Attention())
        self.classifier = _linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (image, class)."""
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(images), -1, -1), patches], dim=1)
        logits: Tensor = self.classifier(self.blocks(tokens)[:, 0])
        return logits


def class_token() -> nn.Module:
    """Build a transformer of two blocks whose logits read the class token of the last.

    The patches of ``blocks.1`` and of ``blocks`` have no part in the logits; those of
    ``blocks.1.norm``, and of ``blocks.0``, have.

    Returns
    -------
    nn.Module
        Layers ``embed``, ``blocks.0``, ``blocks.1`` with ``norm``, ``query`` and ``value`` in each,
        ``classifier``; 3 classes.
    """
    return with_weights(_ClassToken())
