"""Taking one channel away and running the rest of the network, many copies at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from wsss_probe import Batch

__all__ = ["ablated_logits"]

_CHUNK = 64 << 20
"""Bytes of copies of maps at once; never less than one batch."""

_SAME = 1e-5


def ablated_logits(batch: Batch, layer: str, images: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of some images as they are, and with each channel in turn set to a value.

    Where a map has that value everywhere, nothing is run: its logits are those of the image as it is,
    exactly.

    Parameters
    ----------
    batch : Batch
    layer : str
    images : Tensor of int, (image,)
        Positions in the batch.
    value : Tensor, (channel,)

    Returns
    -------
    before : Tensor, (image, class)
    after : Tensor, (image, channel, class)
    """
    maps = batch.activations[layer]
    whole = batch.resume(layer, maps).float()
    before = whole[images]
    after = before[:, None].repeat(1, maps.shape[1], 1)
    changed = (maps[images] != value[:, None, None]).flatten(2).any(dim=2)
    run = _packed if _depends_on_maps_only(batch, layer, whole) else _aligned
    for places, logits in run(batch, layer, images, value, changed):
        after[places[:, 0], places[:, 1]] = logits
    return before, after


def _depends_on_maps_only(batch: Batch, layer: str, logits: Tensor) -> bool:
    """Whether logits move with the maps when maps change places, so that copies may stand anywhere.

    They do not where a shortcut goes around the layer.
    """
    if len(logits) == 1:
        return True
    moved = batch.resume(layer, batch.activations[layer].roll(1, dims=0)).float()
    return bool((moved - logits.roll(1, dims=0)).abs().max() <= _SAME * logits.abs().max())


def _rows(batch: Batch, layer: str) -> int:
    """Copies at once, in whole batches."""
    maps = batch.activations[layer]
    return max(1, _CHUNK // max(1, maps.nbytes)) * len(maps)


def _packed(
    batch: Batch, layer: str, images: Tensor, value: Tensor, changed: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run changed maps only, each in any place of a batch; give (image, channel) and logits."""
    maps = batch.activations[layer]
    places = changed.nonzero()
    for part in torch.split(places, _rows(batch, layer)) if len(places) else ():
        short = -len(part) % len(maps)
        filled = torch.cat([part, part[-1:].expand(short, 2)])
        copies = maps[images[filled[:, 0]]]  # indexing copies
        copies[torch.arange(len(filled)), filled[:, 1]] = value[filled[:, 1], None, None].to(copies)
        yield part, batch.resume(layer, copies)[: len(part)].float()


def _aligned(
    batch: Batch, layer: str, images: Tensor, value: Tensor, changed: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run copies of the whole batch, one per channel, each image in its own place."""
    maps = batch.activations[layer]
    channels = changed.any(dim=0).nonzero()[:, 0]
    for part in torch.split(channels, max(1, _rows(batch, layer) // len(maps))) if len(channels) else ():
        copies = maps.repeat(len(part), 1, 1, 1).view(len(part), *maps.shape)
        for copy, channel in zip(copies, part.tolist(), strict=True):
            copy[:, channel] = value[channel].to(copies)
        logits = batch.resume(layer, copies.flatten(0, 1)).float().view(len(part), len(maps), -1)
        wanted = changed[:, part].nonzero()
        yield (
            torch.stack([wanted[:, 0], part[wanted[:, 1]]], dim=1),
            logits[wanted[:, 1], images[wanted[:, 0]]],
        )
