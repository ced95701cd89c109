"""From a file to pixels or mask ids: what is read, what is refused, and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from wsss_probe.errors import ImageError
from wsss_probe.names import display

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "Decoded",
    "cut",
    "decode",
    "decode_mask",
    "image_size",
    "luminance",
]

Box = tuple[int, int, int, int]
"""``(x, y, width, height)`` in pixels of the upright image; x counts columns, y rows."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""Formats that are read; the content of a file decides, not its name."""

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Suffixes by which images are found in a folder, in lower case."""

MAX_PIXELS = 50_000_000
"""Largest image that is decoded; a small file can hold a huge one."""

_KINDS = (
    (b"\x89PNG", "a damaged PNG file"),
    (b"\xff\xd8", "a damaged JPEG file"),
    (b"II*\0", "a damaged TIFF file"),
    (b"MM\0*", "a damaged TIFF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"%!PS", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a PSD file"),
    (b"<", "HTML, SVG or XML text"),
    (b"PK", "a zip archive"),
)
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_EIGHT_BIT = frozenset({"1", "L", "P"})
_TURNED = frozenset({5, 6, 7, 8})


@final
@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded image.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)
        RGB, upright.
    notes : tuple of str
        What was decided on the way, one phrase each.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def decode(path: str | Path, *, box: Box | None = None, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file to upright 8-bit RGB.

    Grey and palette images become RGB; transparency is laid over white; 16-bit grey is divided by
    257 (65535 becomes 255), never clipped and never stretched; 32-bit and floating-point grey is
    taken as it is within 0..255, divided by 257 within 0..65535 and else refused, because a stretch
    by each image's own range would make images incomparable. CMYK and YCbCr are converted without
    colour profiles. Of several frames the first is taken.

    Parameters
    ----------
    path : str or Path
    box : (x, y, width, height), optional
        Part of the upright image, fully inside.
    max_pixels : int
        Larger images are refused before any pixel is decoded.

    Returns
    -------
    Decoded

    Raises
    ------
    ImageError
        Whatever is wrong with this one file, with the reason.
    """
    with _opened(Path(path), max_pixels) as image:
        notes = _upright(image)
        pixels, more = _rgb(image)
        return Decoded(pixels if box is None else cut(pixels, box), (*notes, *more))


def decode_mask(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8 | np.uint16]:
    """Decode a mask file to its ids: grey levels, or palette positions (not colours).

    Parameters
    ----------
    path : str or Path
    max_pixels : int

    Returns
    -------
    ndarray of uint8 or uint16, (row, column)
        Upright; uint16 for files that hold more than 8 bits.

    Raises
    ------
    ImageError
        Not readable, in colour, of another range, or JPEG, whose ids are not exact.
    """
    with _opened(Path(path), max_pixels) as image:
        remedy = "save class ids as a PNG with one channel"
        if image.format == "JPEG":
            raise ImageError("mask not usable", found="JPEG, which changes ids", remedy=remedy)
        _upright(image)
        if image.mode not in {"I", *_EIGHT_BIT, *_SIXTEEN_BIT}:
            found = f"mode {image.mode}"
            raise ImageError("mask not usable", found=found, wanted="one channel of ids", remedy=remedy)
        ids = np.array(image).astype(np.int64)  # mode 1 gives booleans: ids 0 and 1
        if ids.size and not 0 <= ids.min() <= ids.max() <= 65535:
            raise ImageError("mask not usable", found=f"ids {ids.min()}..{ids.max()}", wanted="0..65535")
        return ids.astype(np.uint8 if image.mode in _EIGHT_BIT else np.uint16)


def cut(array: NDArray[Scalar], box: Box) -> NDArray[Scalar]:
    """Take a box out of an image or mask, ``(row, column, ...)``.

    Raises
    ------
    ImageError
        The box does not lie fully inside.
    """
    x, y, width, height = box
    rows, columns = array.shape[:2]
    if not (0 <= x < x + width <= columns and 0 <= y < y + height <= rows):
        found = f"x {x}, y {y}, width {width}, height {height} in {rows} x {columns} pixels"
        raise ImageError("tile does not lie inside its image", found=found)
    return array[y : y + height, x : x + width]


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Row and column count of the upright image, from the header alone.

    Raises
    ------
    ImageError
        The header is not readable.
    """
    with _opened(Path(path), max_pixels) as image:
        columns, rows = image.size
        # Pillow turns the size of a TIFF itself; asking a PNG for EXIF that its header lacks decodes it
        has_exif = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        turned = has_exif and _orientation(image) in _TURNED
        return (columns, rows) if turned else (rows, columns)


# -- opening ----------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    name = display(path.name)
    try:
        _require_file(path)
        with Image.open(path, formats=FORMATS) as image:
            columns, rows = image.size
            if columns * rows > max_pixels:
                raise ImageError(
                    f"{name} is too large", found=f"{rows} x {columns} pixels", wanted=_cap(max_pixels)
                )
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is too large", found="a decompression bomb", wanted=_cap(max_pixels)
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image", found=_kind(path), wanted=", ".join(FORMATS)) from error
    # A damaged file raises OSError, ValueError, SyntaxError, MemoryError, struct.error and more from
    # decoders that we do not control; here, and only here, all of them mean "this image is bad".
    except Exception as error:
        reason = display(str(error) or type(error).__name__)
        raise ImageError(f"{name} is not readable", found=reason) from error


def _cap(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:g} million pixels"


def _require_file(path: Path) -> None:
    name = display(path.name)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 Path.is_file hides why
    except FileNotFoundError as error:
        found = "a link to nothing" if path.is_symlink() else "no such file"
        raise ImageError(f"{name} is missing", found=found) from error
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name} is not readable", found=getattr(error, "strerror", "") or str(error)
        ) from error
    if not stat.S_ISREG(mode):
        # opening a pipe would wait for ever
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ImageError(f"{name} is not a file", found=found)


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(64).lstrip()
    if not start:
        return "an empty file"
    return next((kind for prefix, kind in _KINDS if start.startswith(prefix)), "something else")


# -- converting -------------------------------------------------------------------------------


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: Image.Image) -> list[str]:
    """Load the first frame, turned as EXIF says; a truncated file fails here, not at opening."""
    notes = ["first of several frames"] if getattr(image, "is_animated", False) else []
    image.seek(0)
    image.load()
    orientation = _orientation(image)
    if orientation != 1:
        ImageOps.exif_transpose(image, in_place=True)
        notes.append(f"turned upright (EXIF orientation {orientation})")
    return notes


def _rgb(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PPM"):
        return _from_sixteen_bit(np.array(image))
    if image.mode in {"I", "F"}:
        return _from_wide(np.array(image))
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    notes = [f"{image.mode} converted to RGB"] if image.mode in {"CMYK", "YCbCr", "LAB", "HSV"} else []
    return np.array(image.convert("RGB")), notes


def _from_sixteen_bit(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], list[str]]:
    wide = values.astype(np.int64)
    return _grey((wide * 255 + 32767) // 65535), [f"16-bit grey divided by 257, largest value {wide.max()}"]


def _from_wide(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], list[str]]:
    low, high = float(values.min()), float(values.max())
    fractions = values.dtype.kind == "f" and 0 < high <= 1
    if not (0 <= low <= high <= 65535) or fractions:  # NaN fails the comparison
        found = f"{'floating-point' if values.dtype.kind == 'f' else '32-bit'} values {low:g}..{high:g}"
        remedy = "save as 8-bit or 16-bit"
        raise ImageError(
            "range of grey values unknown", found=found, wanted="0..255 or 0..65535", remedy=remedy
        )
    if high > 255:
        return _from_sixteen_bit(np.rint(values.astype(np.float64)))
    return _grey(np.rint(values.astype(np.float64))), [f"grey values {low:g}..{high:g} taken as 0..255"]


def _grey(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def _over_white(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    opaque = image.getchannel("A").getextrema() == (255, 255)
    flat = Image.alpha_composite(white, image).convert("RGB")
    return np.array(flat), [] if opaque else ["transparency laid over white"]


def luminance(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey value of each pixel, by the weights of ITU-R BT.601, as Pillow computes it.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)

    Returns
    -------
    ndarray of uint8, (row, column)

    Examples
    --------
    >>> luminance(np.array([[[255, 255, 255], [255, 0, 0]]], dtype=np.uint8)).tolist()
    [[255, 76]]
    """
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
