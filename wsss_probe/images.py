"""Pictures as a network sees them: decoded, preprocessed, with their masks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, final

import numpy as np
from PIL import Image

from wsss_probe.decoding import MAX_PIXELS, Decoded, cut, decode, decode_mask, image_size, luminance
from wsss_probe.errors import ImageError, ManifestError, UsageError
from wsss_probe.masks import MaskSpec
from wsss_probe.names import display
from wsss_probe.preprocessing import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsss_probe.manifest import Manifest

__all__ = [
    "Decoded",
    "ManifestSource",
    "Preprocessing",
    "Sample",
    "Source",
    "TensorSource",
    "decode",
    "decode_mask",
    "image_size",
    "mask_view",
    "network_input",
    "view",
]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
}
_KEPT_IMAGES = 4
_KEPT_BYTES = 512 * 2**20

Size = tuple[int, int]
Thing = TypeVar("Thing")


# -- geometry ---------------------------------------------------------------------------------


def view(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop to what the network sees.

    Antialiased on 8-bit pixels; sides and offsets are rounded as torchvision rounds them.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)
    preprocessing : Preprocessing

    Returns
    -------
    ndarray of uint8, (row, column, 3)
        A new array.

    Raises
    ------
    ImageError
        So elongated that resizing would exceed 50 million pixels.
    """
    shape = _shape(pixels)
    (rows, columns), corner = _geometry(shape, preprocessing)
    if (rows, columns) != shape:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.array(image.resize((columns, rows), _FILTERS[preprocessing.interpolation]))
    return np.array(_cropped(pixels, corner, preprocessing))


def mask_view(mask: NDArray[np.integer[Any]], preprocessing: Preprocessing) -> NDArray[np.int64]:
    """Bring a mask to the grid of :func:`view`; each value comes from the nearest pixel.

    Parameters
    ----------
    mask : ndarray of int, (row, column)
        As large as the decoded image.
    preprocessing : Preprocessing

    Returns
    -------
    ndarray of int64, (row, column)
    """
    shape = _shape(mask)
    resized, corner = _geometry(shape, preprocessing)
    rows, columns = (_nearest(*lengths) for lengths in zip(shape, resized, strict=True))
    return _cropped(mask[np.ix_(rows, columns)], corner, preprocessing).astype(np.int64)


def network_input(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Turn a view into numbers: ``(pixel / scale - mean) / std`` in the network's channel order.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)
        As :func:`view` returns it.
    preprocessing : Preprocessing

    Returns
    -------
    Tensor of float32, (channel, row, column)
    """
    import torch

    if preprocessing.channels == 1:
        pixels = luminance(pixels)[..., np.newaxis]
    elif preprocessing.order == "bgr":
        pixels = pixels[..., ::-1]
    # NumPy, not torch: a parallel operation in a reading thread keeps cores busy that the network needs
    numbers = np.moveaxis(pixels, -1, 0).astype(np.float32, order="C")
    mean, std = (
        np.array(values, dtype=np.float32).reshape(-1, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    numbers /= np.float32(preprocessing.scale)
    numbers -= mean
    numbers /= std
    return torch.from_numpy(numbers)


def _shape(array: NDArray[Any]) -> Size:
    return array.shape[0], array.shape[1]


def _geometry(shape: Size, preprocessing: Preprocessing) -> tuple[Size, tuple[int, int]]:
    """Size after resizing, and the upper left corner of the crop."""
    size = preprocessing.size
    resized = _resized(shape, preprocessing)
    if resized[0] * resized[1] > MAX_PIXELS:
        found = f"{shape[0]} x {shape[1]} pixels, {resized[0]} x {resized[1]} after resizing"
        raise ImageError("image is too elongated", found=found)
    if size is None or preprocessing.crop == "none":
        return resized, (0, 0)
    return resized, (round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2))


def _resized(shape: Size, preprocessing: Preprocessing) -> Size:
    size, side = preprocessing.size, preprocessing.resize
    if size is not None and preprocessing.crop == "none":
        return size
    if side is not None:
        short, long = min(shape), max(shape)
        longer = int(side * long / short)
        shape = (side, longer) if shape[0] <= shape[1] else (longer, side)
    if size is None:
        return shape
    # The crop must lie inside: enlarge what is too small
    factor = max(1.0, size[0] / shape[0], size[1] / shape[1])
    return max(size[0], round(shape[0] * factor)), max(size[1], round(shape[1] * factor))


def _cropped(array: NDArray[Any], corner: tuple[int, int], preprocessing: Preprocessing) -> NDArray[Any]:
    if preprocessing.size is None:
        return array
    (top, left), (rows, columns) = corner, preprocessing.size
    return array[top : top + rows, left : left + columns]


def _nearest(length: int, wanted: int) -> NDArray[np.intp]:
    """Pixel under the centre of each new pixel."""
    return ((2 * np.arange(wanted) + 1) * length // (2 * wanted)).astype(np.intp)


# -- samples and their sources ----------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """One image, ready for the network, or the reason why not.

    Parameters
    ----------
    index : int
        Row of the manifest.
    view : ndarray of uint8, (row, column, 3), or None
        What the network sees, for display; None when unreadable, or for images in memory.
    tensor : Tensor of float32, (channel, row, column), or None
        Network input; None when unreadable.
    mask : ndarray of int64, (row, column), or None
        Positions of mask classes on the input grid; -1 ignored, -2 background.
    error : str
        Why the image cannot be used; empty when it can.
    notes : tuple of str
        What was decided while decoding.
    mask_error : str
        Why the image is used without its mask; empty when there is none to miss.
    objects : ndarray of int64, (row, column), or None
        Number of the annotated object at each pixel of the input grid, 0 in none; None where masks
        hold classes and no objects.
    """

    index: int
    view: NDArray[np.uint8] | None = None
    tensor: Tensor | None = None
    mask: NDArray[np.int64] | None = None
    error: str = ""
    notes: tuple[str, ...] = ()
    mask_error: str = ""
    objects: NDArray[np.int64] | None = None


class Source(Protocol):
    """Where samples come from; ``read`` may be called from several threads at once."""

    def __len__(self) -> int:
        """Count the images."""

    def read(self, index: int) -> Sample:
        """Read one image; a bad one gives a sample with its ``error``, never an exception."""

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Show one image as the network sees it, (row, column, 3); None if it cannot be read."""


@final
class ManifestSource:
    """Reads the images and masks of a manifest.

    Parameters
    ----------
    manifest : Manifest
    preprocessing : Preprocessing
        Without a fixed size, every image must be as large as the first readable one.
    max_pixels : int
        Larger images are refused.
    """

    def __init__(
        self, manifest: Manifest, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.manifest = manifest
        self.preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._images: _Shelf[Decoded] = _Shelf(lambda decoded: decoded.pixels.nbytes)
        self._masks: _Shelf[NDArray[np.uint8 | np.uint16]] = _Shelf(lambda ids: ids.nbytes)

    def __reduce__(self) -> tuple[Callable[..., ManifestSource], tuple[object, ...]]:
        # Shelves and their locks stay behind: another process reads for itself
        return _manifest_source, (self.manifest, self.preprocessing, self._max_pixels)

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def masks(self) -> MaskSpec | None:
        """What masks mean, or None without masks."""
        return self.manifest.masks

    def read(self, index: int) -> Sample:
        """Read one image and its mask.

        Parameters
        ----------
        index : int
            Row of the manifest.

        Returns
        -------
        Sample
            With an ``error`` when the image is bad, with a ``mask_error`` when only its mask is.

        Raises
        ------
        IndexError
            No such row.
        """
        sample = self.seen(index)
        if sample.view is None:
            return sample
        return replace(sample, tensor=network_input(sample.view, self.preprocessing))

    def seen(self, index: int) -> Sample:
        """Read one image and its mask as :meth:`read` does, but make no tensor, and load no torch."""
        _require_row(index, len(self))
        try:
            decoded, pixels = self._pixels(index)
            shown = view(pixels, self.preprocessing)
            self._require_size(_shape(shown))
        except ImageError as error:
            return Sample(index, error=str(error))
        mask, objects, mask_error = self._mask(index, _shape(decoded.pixels), pixels)
        return Sample(index, shown, None, mask, "", decoded.notes, mask_error, objects)

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Show one image as the network sees it, (row, column, 3); None if it cannot be read."""
        return self.seen(index).view

    def _pixels(self, index: int) -> tuple[Decoded, NDArray[np.uint8]]:
        """Whole image, and its tile where the manifest has tiles."""
        path, box = self.manifest.path(index), self.manifest.box(index)
        if box is None:
            decoded = decode(path, max_pixels=self._max_pixels)
            return decoded, decoded.pixels
        decoded = self._images.get(path, lambda: decode(path, max_pixels=self._max_pixels))
        return decoded, cut(decoded.pixels, box)

    def _mask(
        self, index: int, shape: Size, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, str]:
        """Classes and objects on the input grid, or why the mask cannot be used."""
        path, box, spec = self.manifest.mask_path(index), self.manifest.box(index), self.masks
        if path is None or spec is None:
            return None, None, ""
        try:
            if box is None:
                ids = decode_mask(path, max_pixels=self._max_pixels)
            else:
                ids = self._masks.get(path, lambda: decode_mask(path, max_pixels=self._max_pixels))
            if ids.shape != shape:
                found, wanted = (f"{rows} x {columns} pixels" for rows, columns in (_shape(ids), shape))
                raise ImageError("mask of another size than its image", found=found, wanted=wanted)
            own = ids if box is None else cut(ids, box)
            positions = spec.with_white(spec.positions(own), pixels)
            objects = mask_view(spec.objects(own), self.preprocessing) if spec.any_id else None
            return mask_view(positions, self.preprocessing), objects, ""
        except (ImageError, ManifestError) as error:
            return None, None, f"{display(path.name)}: {error}"

    def _require_size(self, size: Size) -> None:
        if self.preprocessing.size is None and size != self._common_size:
            first = self._common_size
            found = f"{size[0]} x {size[1]} pixels, the first readable image has {first[0]} x {first[1]}"
            raise ImageError("images differ in size", found=found, remedy="--preprocess size=ROWxCOLUMN")

    @cached_property
    def _common_size(self) -> Size:
        # By row number and not by which thread comes first: the outcome is the same in every run
        for index in range(len(self)):
            try:
                return _shape(view(self._pixels(index)[1], self.preprocessing))
            except ImageError:
                continue  # its own read says why
        return (0, 0)


def _manifest_source(manifest: Manifest, preprocessing: Preprocessing, max_pixels: int) -> ManifestSource:
    return ManifestSource(manifest, preprocessing, max_pixels=max_pixels)


@final
class TensorSource:
    """Images that are in memory already, preprocessed.

    Parameters
    ----------
    images : Tensor of float, (image, channel, row, column)
        Network input. The view of an image is stretched to its own range, for display only.
    masks : Tensor of int, (image, row, column), optional
        Positions in ``mask_classes``; -1 ignored, -2 background.
    mask_classes : sequence of str
        Default: ``mask 0``, ``mask 1``, ….

    Raises
    ------
    UsageError
        Shapes, types or positions that do not fit.
    """

    def __init__(self, images: Tensor, masks: Tensor | None = None, mask_classes: Sequence[str] = ()) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            found = f"{images.dtype}, shape {tuple(images.shape)}"
            raise UsageError("images in memory", found=found, wanted="float (image, channel, row, column)")
        self.images = images.detach()
        self.masks = None if masks is None else _positions_spec(masks, tuple(mask_classes), images)
        self._positions = None if masks is None else masks.detach().cpu().numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        """Read one image; one with NaN or infinite values has an ``error``.

        Raises
        ------
        IndexError
            No such image.
        """
        _require_row(index, len(self))
        tensor = self.images[index].cpu().float()
        # NumPy, not torch: a parallel operation in a reading thread keeps cores busy that the network needs
        if not np.isfinite(tensor.numpy()).all():
            return Sample(index, error="image holds NaN or infinite values")
        mask = None if self._positions is None else self._positions[index]
        # No view: a survey does not look at pictures, and rendering costs more than reading
        return Sample(index, None, tensor, mask)

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Show one image from its darkest to its brightest value, (row, column, 3)."""
        sample = self.read(index)
        return None if sample.tensor is None else _rendering(sample.tensor)


def _require_row(index: int, length: int) -> None:
    if not 0 <= index < length:
        msg = f"image {index} of {length}"
        raise IndexError(msg)


def _positions_spec(masks: Tensor, names: tuple[str, ...], images: Tensor) -> MaskSpec:
    shape = (images.shape[0], *images.shape[2:])
    if tuple(masks.shape) != shape or masks.is_floating_point():
        found = f"{masks.dtype}, shape {tuple(masks.shape)}"
        raise UsageError("masks in memory", found=found, wanted=f"int {shape}")
    low, high = (int(masks.min()), int(masks.max())) if masks.numel() else (0, 0)
    names = names or tuple(f"mask {position}" for position in range(max(high, 0) + 1))
    if low < -2 or high >= len(names):
        raise UsageError("masks in memory", found=f"positions {low}..{high}", wanted=f"-2..{len(names) - 1}")
    return MaskSpec(tuple((name, (position,)) for position, name in enumerate(names)), background=())


def _rendering(tensor: Tensor) -> NDArray[np.uint8]:
    grey = tensor if tensor.shape[0] in {1, 3} else tensor.mean(dim=0, keepdim=True)
    low, high = grey.min(), grey.max()
    scaled = (grey - low) / (high - low).clamp(min=1e-12) * 255
    return np.array(scaled.round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy())


@dataclass
class _Entry(Generic[Thing]):
    lock: Lock = field(default_factory=Lock)
    outcome: Thing | ImageError | None = None
    size: int = 0


@final
class _Shelf(Generic[Thing]):
    """The last few things that were made, each made once although several threads want it."""

    def __init__(self, size_of: Callable[[Thing], int]) -> None:
        self._size_of = size_of
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry[Thing]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Thing]) -> Thing:
        """Give what is kept under ``key``, or make it; an ImageError is kept like a thing."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.outcome is None:
                self._fill(entry, make)
        self._tidy()
        if isinstance(entry.outcome, ImageError):
            raise entry.outcome
        return cast("Thing", entry.outcome)

    def _fill(self, entry: _Entry[Thing], make: Callable[[], Thing]) -> None:
        try:
            made = make()
        except ImageError as error:
            entry.outcome = error
        else:
            entry.outcome, entry.size = made, self._size_of(made)

    def _tidy(self) -> None:
        with self._lock:
            while len(self._entries) > 1 and (
                len(self._entries) > _KEPT_IMAGES or self._bytes() > _KEPT_BYTES
            ):
                self._entries.popitem(last=False)

    def _bytes(self) -> int:
        return sum(entry.size for entry in self._entries.values())
