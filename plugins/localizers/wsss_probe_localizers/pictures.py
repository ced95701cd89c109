"""Training images as the network sees them: decoded once, kept as bytes where they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.errors import ImageError, ManifestError
from wsss_probe.images import ManifestSource, Preprocessing, image_size
from wsss_probe_localizers.split import TRAIN, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.manifest import Manifest

__all__ = ["Files", "Loaded", "Memory", "Pictures", "data_digest", "load", "normalise"]

# Luminance of ITU-R 601 in the 16-bit fixed point of Pillow's mode L.
_LUMINANCE = (19595, 38470, 7471)


class Pictures(Protocol):
    """Views of images, by row number of the manifest."""

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return views, uint8 (image, row, column, 3)."""


@final
class Files:
    """Decodes at every read.

    Parameters
    ----------
    manifest : Manifest
    preprocessing : Preprocessing
    """

    def __init__(self, manifest: Manifest, preprocessing: Preprocessing) -> None:
        self._source = ManifestSource(replace(manifest, masks=None), preprocessing)

    def view(self, row: int) -> NDArray[np.uint8]:
        """Read one view, uint8 (row, column, 3); raises ImageError."""
        sample = self._source.read(row)
        if sample.view is None:
            raise ImageError(sample.error)
        return sample.view

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return views, uint8 (image, row, column, 3)."""
        return torch.from_numpy(np.stack([self.view(row) for row in rows]))


@final
class Memory:
    """Views that were read before.

    Parameters
    ----------
    pixels : Tensor of uint8, (image, row, column, 3)
    positions : ndarray of int
        Place in ``pixels`` of each row of the manifest.
    """

    def __init__(self, pixels: Tensor, positions: NDArray[np.intp]) -> None:
        self.pixels = pixels
        self._positions = torch.from_numpy(positions)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return views, uint8 (image, row, column, 3)."""
        return self.pixels[self._positions[torch.as_tensor(rows)]]


@final
@dataclass(frozen=True, eq=False)
class Loaded:
    """Images that can be read, and how they become network input.

    Parameters
    ----------
    pictures : Pictures
    readable : ndarray of bool, (image,)
        False also for rows that were not asked for.
    preprocessing : Preprocessing
    notes : tuple of str
    """

    pictures: Pictures
    readable: NDArray[np.bool_]
    preprocessing: Preprocessing
    notes: tuple[str, ...]


def data_digest(manifest: Manifest, split: Split) -> str:
    """Sha256 over the manifest and the image files that a split uses.

    Parameters
    ----------
    manifest : Manifest
    split : Split

    Returns
    -------
    str
    """
    whole = hashlib.sha256(manifest.digest.encode())
    rows = np.concatenate(list(split.rows.values()))
    _, first = np.unique(manifest.frame["image"].to_numpy(dtype=str)[rows], return_index=True)
    for row in rows[first].tolist():
        try:
            whole.update(manifest.file_digest(row).encode())
        except ImageError:
            whole.update(b"not readable")
    return whole.hexdigest()


def load(
    manifest: Manifest,
    split: Split,
    preprocessing: Preprocessing | None,
    size: int | None,
    cache_bytes: int,
) -> Loaded:
    """Decode every image once, keep the views where they fit, measure mean and standard deviation.

    Parameters
    ----------
    manifest : Manifest
    split : Split
        Rows to read; colours are measured on ``train``.
    preprocessing : Preprocessing or None
        None takes mean and standard deviation from the training images.
    size : int or None
        Side to which images are resized without ``preprocessing``; None keeps the size of the
        images, which must then be one.
    cache_bytes : int
        Largest memory for views, in bytes.

    Returns
    -------
    Loaded

    Raises
    ------
    ManifestError
        If no image can be read, or images differ in size and no size was given.
    """
    rows = np.concatenate(list(split.rows.values()))
    start = preprocessing or Preprocessing(size=None if size is None else (size, size))
    if start.size is None and start.resize is None:
        start = replace(start, size=_common_size(manifest, rows))
    files = Files(manifest, start)
    views = _Views(len(manifest), len(rows), cache_bytes)
    training = set(split.rows[TRAIN].tolist())
    failures: list[str] = []
    # Tiles of one image one after another: it is decoded once.
    for row in rows[np.argsort(manifest.frame["image"].to_numpy(dtype=str)[rows], kind="stable")].tolist():
        try:
            views.add(row, files.view(row), measured=row in training)
        except ImageError as error:
            failures.append(str(error))
    if not views.readable.any():
        raise ManifestError("no image can be read", found=failures[0])
    if preprocessing is None:
        mean, spread = views.colours()
        start = replace(start, mean=mean, std=spread)
    return Loaded(views.memory() or Files(manifest, start), views.readable, start, _failure_note(failures))


def _common_size(manifest: Manifest, rows: NDArray[np.intp]) -> tuple[int, int] | None:
    """Size of all images or tiles, from their headers; None if no header can be read."""
    common: tuple[int, int] | None = None
    for row in rows.tolist():
        box = manifest.box(row)
        try:
            found = image_size(manifest.path(row)) if box is None else (box[3], box[2])
        except ImageError:
            continue  # its own read says why
        common = common or found
        if found != common:
            raise ManifestError(
                "images differ in size and no size was given",
                found=f"{common[1]} x {common[0]} and {found[1]} x {found[0]} pixels",
                remedy="give --size 96 (say), or train on tiles of one size",
            )
    return common


@final
class _Views:
    """Collects views and the counts of each colour value."""

    def __init__(self, rows: int, expected: int, cache_bytes: int) -> None:
        self.readable = np.zeros(rows, dtype=bool)
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._expected, self._cache_bytes = expected, cache_bytes
        self._kept: dict[int, NDArray[np.uint8]] | None = {}

    def add(self, row: int, picture: NDArray[np.uint8], *, measured: bool) -> None:
        """Take one view."""
        self.readable[row] = True
        if picture.nbytes * self._expected > self._cache_bytes:
            self._kept = None
        if self._kept is not None:
            self._kept[row] = picture
        if measured:
            for channel in range(3):
                self._counts[channel] += np.bincount(picture[..., channel].ravel(), minlength=256)

    def memory(self) -> Memory | None:
        """Return the views as one tensor, or None where they were too large to keep."""
        if self._kept is None:
            return None
        positions = np.full(len(self.readable), -1, dtype=np.intp)
        positions[list(self._kept)] = np.arange(len(self._kept))
        return Memory(torch.from_numpy(np.stack(list(self._kept.values()))), positions)

    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel in 0..1, rounded so that a card is readable."""
        values = np.arange(256) / 255
        total = np.maximum(self._counts.sum(axis=1), 1)
        mean = self._counts @ values / total
        spread = np.sqrt(np.maximum(self._counts @ values**2 / total - mean**2, 0))
        # A constant channel has no spread to divide by.
        spread = np.where(spread < 1e-3, 1.0, spread)
        return tuple(np.round(mean, 4).tolist()), tuple(np.round(spread, 4).tolist())


def _failure_note(failures: list[str]) -> tuple[str, ...]:
    """Count images that could not be read, with the first reason."""
    if not failures:
        return ()
    return (f"{len(failures)} images could not be read and were left out; the first: {failures[0]}",)


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn a batch of views into network input, as the host does image by image.

    Parameters
    ----------
    images : Tensor, (image, 3, row, column)
        Red, green, blue in 0..1 (bytes divided by 255, and possibly augmented).
    preprocessing : Preprocessing

    Returns
    -------
    Tensor of float32, (image, channel, row, column)
        ``(pixel / scale - mean) / std`` with pixel = 255 · image.
    """
    if preprocessing.channels == 1:
        weights = images.new_tensor(_LUMINANCE) / 65536
        images = (torch.einsum("c,ncij->nij", weights, images)[:, None] * 255).round() / 255
    elif preprocessing.order == "bgr":
        images = images.flip(1)
    mean, spread = (
        images.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    return (images * (255 / preprocessing.scale) - mean) / spread
