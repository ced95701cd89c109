"""Pictures as data URIs at their native grid: photographs, maps over them, outlines of masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from wsss_probe.report.colors import Scale, paint
from wsss_probe.report.encoded import EncodedPicture
from wsss_probe.report.text import number, one_line

if TYPE_CHECKING:
    from wsss_probe.contracts import Picture

__all__ = ["LONGEST_MAP", "LONGEST_SIDE", "Album", "coarse", "contour", "encode_picture", "shrink"]

LONGEST_SIDE = 512
"""Pictures are never enlarged, and made smaller only above this many pixels."""

LONGEST_MAP = 112
"""Maps over pictures are drawn on their own grid, and coarser only above this many cells."""

_LEVELS: Final[Mapping[Scale, int]] = {"sequential": 255, "diverging": 127}
"""Steps from zero to the largest value: finer ones are not seen, and cost three times the bytes."""

_PLACEHOLDER_SIDE = 224
_OUTLINE_SIDE = 336
_INK, _RIM = (255, 255, 255, 255), (16, 18, 22, 210)


class Album:
    """Collects data URIs, each once; the same pixels get the same position."""

    def __init__(self) -> None:
        self._positions: dict[bytes, int] = {}
        self._uris: list[str] = []

    @property
    def uris(self) -> tuple[str, ...]:
        """All pictures, in the order in which they came."""
        return tuple(self._uris)

    def add(self, pixels: np.ndarray) -> int:
        """Take in a picture and say its position.

        Parameters
        ----------
        pixels : ndarray of uint8, (row, column, 3) or (row, column, 4)

        Returns
        -------
        int
        """
        key = sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self._positions:
            self._positions[key] = len(self._uris)
            self._uris.append(_lossless(pixels))
        return self._positions[key]


def _lossless(pixels: np.ndarray) -> str:
    """Photographs are smallest as lossless WebP, maps and outlines with opacity as PNG."""
    if pixels.shape[2] == 4:
        return _with_palette(pixels)
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return _uri(image, "webp", lossless=True, method=3)


def _with_palette(pixels: np.ndarray) -> str:
    """Maps and outlines have few colours: one byte a cell and a table, where 256 are enough."""
    colours, place = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    if len(colours) > 256:
        return _uri(Image.fromarray(pixels), "png", optimize=True)
    image = Image.fromarray(place.reshape(pixels.shape[:2]).astype(np.uint8))
    image.putpalette(colours[:, :3].tobytes())
    return _uri(image, "png", optimize=True, transparency=colours[:, 3].tobytes())


def _uri(image: Image.Image, kind: str, **options: bool | int | bytes) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shrink(uri: str, side: int, quality: int) -> str:
    """Make an encoded photograph smaller and lossy; maps and outlines come back as they are.

    Parameters
    ----------
    uri : str
        As an :class:`Album` made it.
    side : int
        Longest side in pixels afterwards, at most.
    quality : int
        WebP quality, 0 to 100.

    Returns
    -------
    str
    """
    if not uri.startswith("data:image/webp"):
        return uri
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    smaller = _uri(image, "webp", quality=quality, method=4)
    return min(uri, smaller, key=len)


def contour(mask: np.ndarray) -> np.ndarray:
    """Draw the border of a mask as a thin light line with a dark rim.

    Parameters
    ----------
    mask : ndarray of bool, (row, column)

    Returns
    -------
    ndarray of uint8, (row, column, 4)
        Enlarged by a whole factor, so that the line is thin whatever the mask's grid; cells of
        the mask at the picture's edge are outlined too.
    """
    longest = max(mask.shape)
    step, factor = max(1, longest // _OUTLINE_SIDE), max(1, _OUTLINE_SIDE // longest)
    large = mask[::step, ::step].astype(bool).repeat(factor, axis=0).repeat(factor, axis=1)
    core = _eroded(large)
    inner = _eroded(_eroded(core))
    drawn = np.zeros((*large.shape, 4), dtype=np.uint8)
    drawn[large & ~_eroded(inner)] = _RIM
    drawn[core & ~inner] = _INK
    return drawn


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Keep the cells whose four neighbours are set; outside the picture nothing is set."""
    padded = np.pad(mask, 1)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & neighbours)


def coarse(overlay: np.ndarray) -> np.ndarray:
    """Average a map over areas until it has at most :data:`LONGEST_MAP` cells a side.

    Parameters
    ----------
    overlay : ndarray of float, (row, column)
        Undefined values are NaN, or infinite.

    Returns
    -------
    ndarray of float64, (row, column)
        The map as it is where it is no larger; NaN for an area with an undefined value in it.
    """
    values = np.where(np.isfinite(overlay), overlay, np.nan).astype(np.float64)
    share = LONGEST_MAP / max(values.shape)
    if share >= 1:
        return values
    size = tuple(max(1, round(side * share)) for side in reversed(values.shape))
    smaller = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(smaller, dtype=np.float64)


def _range(lowest: float, highest: float) -> tuple[float, Scale, str]:
    """Largest absolute value, colour scale and words for values between these."""
    largest = max(abs(lowest), abs(highest))
    if lowest < 0:
        return largest, "diverging", f"±{number(largest)}"
    return largest, "sequential", f"0 to {number(largest)}" if largest else "0 everywhere"


def _painted(overlay: np.ndarray, limits: tuple[float, float], album: Album) -> tuple[int, Scale, str]:
    """Paint a map on the scale of these limits: its position, the scale, and the limits in words."""
    largest, scale, extent = _range(*limits)
    levels = _LEVELS[scale]
    scaled = np.rint(np.clip(overlay / (largest or 1.0), -1, 1) * levels) / levels
    return album.add(paint(scaled, scale)), scale, extent


def _overlay(picture: Picture, album: Album) -> dict[str, Any]:
    """Encode the map over a picture, on its own scale and on the one that it shares."""
    if picture.overlay is None:
        return {}
    values = coarse(picture.overlay)
    if not np.isfinite(values).any():
        return {"extent": "map undefined"}
    names = ("overlay", "scale", "extent")
    own = float(np.nanmin(values)), float(np.nanmax(values))
    found: dict[str, Any] = dict(zip(names, _painted(values, own, album), strict=True))
    if picture.common is not None:
        shared = _painted(values, picture.common, album)
        found |= dict(zip(("common", "common_scale", "common_extent"), shared, strict=True))
    return found | {"coarsened": values.shape != picture.overlay.shape}


def encode_picture(picture: Picture, row: str, album: Album) -> EncodedPicture:
    """Encode a picture with its layers.

    Parameters
    ----------
    picture : Picture
    row : str
        Title of its row, for the alternative text.
    album : Album
        Takes the layers.

    Returns
    -------
    EncodedPicture
    """
    label, note = one_line(picture.label), one_line(picture.note)
    told = [one_line(row), label]
    layers = _overlay(picture, album)
    if picture.overlay is not None:
        told += [f"with a map over it, {layers['extent']}" if "overlay" in layers else layers["extent"], note]
    if picture.outline is not None:
        layers["outline"] = album.add(contour(picture.outline))
        told.append(_share(picture.outline))
    height, width = _PLACEHOLDER_SIDE, _PLACEHOLDER_SIDE
    if picture.pixels is None:
        told.append("the image could not be read")
    else:
        height, width = picture.pixels.shape[:2]
        layers["base"] = album.add(np.ascontiguousarray(picture.pixels))
    alt = ", ".join(part for part in told if part)
    return EncodedPicture(label, alt, width, height, note=note, **layers)


def _share(mask: np.ndarray) -> str:
    return f"outline of a mask that covers {100 * float(np.mean(mask.astype(bool))):.0f} %"
