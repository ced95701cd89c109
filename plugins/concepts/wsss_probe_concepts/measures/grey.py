"""Grey levels of a view, and what cannot be measured in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["check_levels", "check_whole_numbers", "grey_levels", "quantised", "refusal", "refused"]

_LEVELS = 256


def refusal(pixels: np.ndarray) -> str:
    """Say why an image is no 8-bit colour image; an empty text when it is one.

    Parameters
    ----------
    pixels : ndarray, (row, column, channel)

    Returns
    -------
    str
    """
    if pixels.dtype != np.uint8:
        return f"needs 8-bit pixels, found {pixels.dtype}"
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        return f"needs rows, columns and three channels, found {' x '.join(map(str, pixels.shape))}"
    return "" if pixels.size else "the image has no pixels"


def refused(names: Iterable[str], why: str) -> dict[str, float | str]:
    """Give the same reason for every concept."""
    return dict.fromkeys(names, why)


def grey_levels(pixels: np.ndarray) -> np.ndarray:
    """Turn colour into grey as the paper does: luminance, rounded to 8 bits.

    ``0.2125 R + 0.7154 G + 0.0721 B``, as scikit-image's ``rgb2gray`` and ``img_as_ubyte`` have it.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, channel)

    Returns
    -------
    ndarray of uint8, (row, column)
    """
    from skimage.color import rgb2gray
    from skimage.util import img_as_ubyte

    grey: np.ndarray = img_as_ubyte(rgb2gray(pixels))  # type: ignore[no-untyped-call]
    return grey


def quantised(grey: np.ndarray, levels: int) -> np.ndarray:
    """Put 256 grey levels into fewer bins of equal width.

    Parameters
    ----------
    grey : ndarray of uint8, (...)
    levels : int
        2 to 256; 256 leaves everything as it is.

    Returns
    -------
    ndarray of uint8, (...)
        From 0 to ``levels - 1``.

    Examples
    --------
    >>> quantised(np.array([0, 63, 64, 255], dtype=np.uint8), 4).tolist()
    [0, 0, 1, 3]
    """
    return grey if levels == _LEVELS else (grey.astype(np.uint16) * levels // _LEVELS).astype(np.uint8)


def check_levels(levels: int, measure: str) -> None:
    """Hold the number of grey levels to 2 .. 256."""
    if not (_whole(levels) and 2 <= levels <= _LEVELS):
        raise UsageError(
            f"grey levels of the concept measure '{measure}'",
            found=repr(levels),
            wanted="a whole number from 2 to 256",
        )


def check_whole_numbers(values: Sequence[int], what: str, measure: str) -> None:
    """Hold an option to a list of different whole numbers above 0."""
    listed = isinstance(values, list | tuple) and len(values) > 0
    if not listed or not all(_whole(one) and one > 0 for one in values) or len(set(values)) < len(values):
        raise UsageError(
            f"{what} of the concept measure '{measure}'",
            found=repr(values),
            wanted="a list of different whole numbers above 0, such as [1, 2]",
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
