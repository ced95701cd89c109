"""Where in an image something is measured: everywhere, inside the mask, or object by object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsss_probe import View

__all__ = [
    "EMPTY",
    "IMAGE",
    "MASK",
    "OBJECTS",
    "available",
    "check_regions",
    "large_enough",
    "means_of_known",
    "numbered",
    "place",
    "where",
]

IMAGE, MASK, OBJECTS = "image", "mask", "objects"

EMPTY = "the mask region is empty"


def check_regions(regions: Sequence[str], measure: str) -> None:
    """Hold an option to a list of different regions.

    Raises
    ------
    UsageError
    """
    named = isinstance(regions, list | tuple) and all(isinstance(one, str) and one for one in regions)
    if not named or not regions or len(set(regions)) < len(regions):
        raise UsageError(
            f"regions of the concept measure '{measure}'",
            found=repr(regions),
            wanted="a list of 'image', 'mask', 'objects' or names of mask classes, each once",
        )


def available(regions: Sequence[str], mask_classes: Sequence[str], objects: bool) -> list[str]:
    """Leave out the regions that the data do not have.

    Parameters
    ----------
    regions : sequence of str
        ``"image"``, ``"mask"`` (all classes of the mask together), ``"objects"`` (one by one), or
        the name of a class of the mask.
    mask_classes : sequence of str
    objects : bool
        Whether masks number objects.

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        A region that is the name of no class, though there are masks.
    """
    there = {IMAGE: True, MASK: bool(mask_classes), OBJECTS: objects, **dict.fromkeys(mask_classes, True)}
    unknown = [region for region in regions if region not in there]
    if unknown and mask_classes:
        raise UsageError(
            f"region '{unknown[0]}' is no class of the mask",
            wanted=f"one of {', '.join(map(repr, there))}",
        )
    return [region for region in regions if there.get(region, False)]


def place(region: str) -> str:
    """What stands behind a concept's name: nothing for the whole image."""
    return "" if region == IMAGE else f" in {region}" + (", mean" if region == OBJECTS else "")


def where(region: str) -> str:
    """Say in a concept's meaning where it was measured."""
    fixed = {
        IMAGE: "in the whole image",
        MASK: "inside the mask, all classes together",
        OBJECTS: "inside each annotated object; mean over objects",
    }
    return fixed.get(region, f"inside the class {region} of the mask")


def numbered(view: View, region: str) -> np.ndarray | str:
    """Number the pixels of a region: 0 outside, 1 inside, the object's number for objects.

    Parameters
    ----------
    view : View
    region : str

    Returns
    -------
    ndarray of int, (row, column), or str
        A text says why the image has no such region.
    """
    size = view.pixels.shape[:2]
    plane = view.objects if region == OBJECTS else view.mask
    if region == IMAGE:
        return np.ones(size, dtype=np.int64)
    what = "annotated objects" if region == OBJECTS else "mask"
    if plane is None:
        return f"the image has no {what}"
    if plane.shape != size:
        return f"{what} of {plane.shape} beside pixels of {size}"
    if region == OBJECTS:
        return np.where(plane > 0, plane, 0).astype(np.int64)
    if region != MASK and region not in view.mask_classes:
        return f"the mask of the image has no class {region}"
    inside = plane >= 0 if region == MASK else plane == view.mask_classes.index(region)
    return inside.astype(np.int64) if inside.any() else EMPTY


def large_enough(numbers: np.ndarray, smallest: int) -> tuple[np.ndarray, str]:
    """Leave out objects of fewer pixels.

    Parameters
    ----------
    numbers : ndarray of int, (row, column)
        Number of the object at each pixel, 0 in none.
    smallest : int
        Pixels that an object must have.

    Returns
    -------
    numbers : ndarray of int, (row, column)
        What is left, numbered from 1 without gaps.
    why : str
        Why nothing is left, with the number of those left out; an empty text if something is.
    """
    found, inverse, area = np.unique(numbers, return_inverse=True, return_counts=True)
    kept = (found > 0) & (area >= smallest)
    renumbered = np.where(kept, kept.cumsum(), 0)[inverse].reshape(numbers.shape)
    small = int((found > 0).sum() - kept.sum())
    if kept.any():
        return renumbered, ""
    return renumbered, (
        f"no object of at least {smallest} pixels; {small} smaller left out" if small else "no object"
    )


def means_of_known(values: np.ndarray) -> list[float | str]:
    """Means over the objects in which something is defined.

    Parameters
    ----------
    values : ndarray of float, (object, concept)
        NaN where undefined, which here means that all pixels have one grey level.

    Returns
    -------
    list of float or str
    """
    known = np.isfinite(values)
    total, number = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    return [
        float(own / count) if count else "one grey level only"
        for own, count in zip(total, number, strict=True)
    ]
