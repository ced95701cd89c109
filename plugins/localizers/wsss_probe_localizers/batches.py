"""Batches in a reproducible order, and the logits of a network over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from wsss_probe_localizers.pictures import Pictures, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.images import Preprocessing
    from wsss_probe_localizers.labels import Labels
    from wsss_probe_localizers.options import TrainingOptions

__all__ = ["loader", "logits_of", "seed_of", "unit"]


def seed_of(*parts: int) -> int:
    """Mix whole numbers, 0 or more, into one seed of 32 bits; neighbouring steps share no stream.

    Parameters
    ----------
    *parts : int

    Returns
    -------
    int
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@final
class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches at a time: one gather instead of one call per image."""

    def __init__(self, pictures: Pictures, rows: NDArray[np.intp], sets: NDArray[np.bool_]) -> None:
        self._pictures, self._rows = pictures, rows
        self._sets = torch.from_numpy(sets[rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self._pictures.read(self._rows[list(places)].tolist()), self._sets[list(places)]


@final
class _Shuffled(Sampler[list[int]]):
    """Batches in an order that depends on seed and epoch alone."""

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self._length, self._size, self._seed = length, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> range:
        # A last batch of one image has no spread for batch normalisation: it waits for the next epoch.
        return range(0, self._length - (self._length % self._size == 1), self._size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
        order = torch.randperm(self._length, generator=generator).tolist()
        stop = self._length - (self._length % self._size == 1)
        for start in self._starts():
            yield order[start : min(start + self._size, stop)]


def loader(
    pictures: Pictures, rows: NDArray[np.intp], labels: Labels, options: TrainingOptions, *, shuffle: bool
) -> DataLoader[Any]:
    """Make batches ``(uint8 (image, row, column, 3), bool (image, class))``.

    Parameters
    ----------
    pictures : Pictures
    rows : ndarray of int
        Row numbers of the manifest.
    labels : Labels
    options : TrainingOptions
    shuffle : bool
        In an order that changes with the epoch, and without a last batch of one image.

    Returns
    -------
    DataLoader
    """
    size = options.batch_size
    in_order = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
    return DataLoader(
        _Rows(pictures, rows, labels.sets),
        batch_sampler=_Shuffled(len(rows), size, options.seed) if shuffle else in_order,
        collate_fn=_as_is,  # type: ignore[arg-type]  # a batch comes whole, not as a list
        num_workers=options.num_workers,
    )


def _as_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Leave a batch that is one already."""
    return batch


def unit(pixels: Tensor) -> Tensor:
    """Turn bytes into 0..1; the channels stay last in memory, where convolutions on a CPU want them.

    Parameters
    ----------
    pixels : Tensor of uint8, (image, row, column, 3)

    Returns
    -------
    Tensor of float32, (image, 3, row, column)
    """
    return pixels.permute(0, 3, 1, 2).float() / 255


def logits_of(network: nn.Module, batches: DataLoader[Any], preprocessing: Preprocessing) -> Tensor:
    """Run a network in eval mode over batches, in their order.

    Parameters
    ----------
    network : Module
        On any device.
    batches : DataLoader
        From :func:`loader`.
    preprocessing : Preprocessing

    Returns
    -------
    Tensor, (image, class)
        On the CPU.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        outputs = [network(normalise(unit(pixels.to(device)), preprocessing)).cpu() for pixels, _ in batches]
    return torch.cat(outputs)
