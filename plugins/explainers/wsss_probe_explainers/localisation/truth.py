"""What a relevance map should lie on: the region of each image's mask, and its single objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.boxes import Parts, connected_parts, numbered_parts
from wsss_probe.errors import UsageError
from wsss_probe.masks import WHITE
from wsss_probe.overlap import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe import Batch, Target

__all__ = ["ImageTruth", "Truth", "image_truth", "regions", "truth_of"]

ANY = "any"
"""Asks for all mask classes together."""


@final
@dataclass(frozen=True, slots=True)
class Truth:
    """Which mask classes a map is compared with.

    Parameters
    ----------
    positions : tuple of int
        Mask classes that count where an image's explained class has none of its own.
    matches : tuple of int
        By class of the network: the mask class of the same name, or -1; empty when names do not decide.
    words : str
        The same in words, for the report.
    short : str
        In few words, for a sentence.
    """

    positions: tuple[int, ...] = ()
    matches: tuple[int, ...] = ()
    words: str = ""
    short: str = ""


def truth_of(classes: Sequence[str], mask_classes: Sequence[str], wanted: str = "") -> Truth:
    """Decide what maps are compared with.

    Parameters
    ----------
    classes : sequence of str
        Of the network.
    mask_classes : sequence of str
    wanted : str
        A mask class, or ``any`` for all but white together. Empty takes for each image the mask class that
        is named like its explained class, whatever the case; all but white where no class has such a name.

    Returns
    -------
    Truth

    Raises
    ------
    UsageError
        When no mask class has the name.

    Examples
    --------
    >>> truth_of(("benign", "malignant"), ("gland", "white")).short
    "'gland' (where things are, not evidence for a class)"
    """
    things = [position for position, name in enumerate(mask_classes) if name != WHITE]
    named = {mask_classes[position].casefold(): position for position in things}
    matches = tuple(named.get(name.casefold(), -1) for name in classes)
    if wanted in mask_classes or wanted == ANY:
        chosen = (mask_classes.index(wanted),) if wanted in mask_classes else tuple(things)
        short = _listed(chosen, mask_classes)
        return Truth(chosen, words=f"{short}, as asked, whatever class is explained", short=short)
    if wanted:
        known = ", ".join(mask_classes) or "masks in the manifest"
        raise UsageError("truth of localisation is no mask class", found=wanted, wanted=f"{known} or {ANY}")
    if max(matches, default=-1) < 0:
        short = _listed(things, mask_classes)
        return Truth(
            tuple(things),
            words=f"{short}; no class of the network has that name, so this says where things are and "
            "nothing about evidence for a class",
            short=f"{short} (where things are, not evidence for a class)",
        )
    found = tuple(sorted({position for position in matches if position >= 0}))
    words = (
        f"the mask class named like the explained class ({_listed(found, mask_classes)}); an image whose "
        "mask lacks it is left out"
    )
    return Truth(found, matches, words, "the mask of the explained class")


def _listed(positions: Sequence[int], mask_classes: Sequence[str]) -> str:
    return " or ".join(repr(mask_classes[position]) for position in positions) or "nothing"


def regions(batch: Batch, masks: Tensor, truth: Truth, target: Target) -> tuple[Tensor, Tensor]:
    """Mark the region of each image of a batch, and say whether it is that of the explained class.

    A network that explains another class than the image shows (a control, say) is held to the classes
    that are there, so that all networks are compared on the same images.

    Parameters
    ----------
    batch : Batch
    masks : Tensor of int, (image, row, column)
        Of the batch.
    truth : Truth
    target : Target
        What the maps explain.

    Returns
    -------
    (Tensor of bool (image, row, column), Tensor of bool (image,))
    """
    region = torch.isin(masks, torch.tensor(truth.positions, dtype=masks.dtype, device=masks.device))
    if not truth.matches:
        return region, region.flatten(1).any(1)
    weights = batch.targets[target]
    matched = torch.tensor(truth.matches, dtype=masks.dtype, device=masks.device)
    matched = matched[weights.nan_to_num().argmax(1)].where(~weights.isnan().any(1), -1)
    named = (masks == matched[:, None, None]) & (matched >= 0)[:, None, None]
    own = named.flatten(1).any(1)
    return torch.where(own[:, None, None], named, region), own


@final
@dataclass(frozen=True, slots=True)
class ImageTruth:
    """The region of one image as maps are compared with it.

    Parameters
    ----------
    inside : ndarray of bool, (row, column)
        Known pixels of the region.
    known : ndarray of bool, (row, column)
    reach : ndarray of bool, (row, column)
        ``inside``, widened by the tolerance of the pointing game.
    objects : Parts
        Annotated objects where masks tell them apart; else connected parts of the region, and things
        that touch are one.
    """

    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]
    reach: NDArray[np.bool_]
    objects: Parts

    @property
    def area(self) -> float:
        """Share of the known pixels; NaN without known pixels."""
        known = int(self.known.sum())
        return int(self.inside.sum()) / known if known else float("nan")


def image_truth(region: Tensor, mask: Tensor, tolerance: float, objects: Tensor | None = None) -> ImageTruth:
    """Prepare the region of one image.

    Parameters
    ----------
    region : Tensor of bool, (row, column)
    mask : Tensor of int, (row, column)
    tolerance : float
        Distance in pixels of the network input up to which a point beside the region is a hit.
    objects : Tensor of int, (row, column), optional
        Numbers of annotated objects, which may touch; without them connected parts are objects.

    Returns
    -------
    ImageTruth
    """
    known = (mask != IGNORED).cpu().numpy()
    inside = region.cpu().numpy() & known
    found = connected_parts(inside) if objects is None else numbered_parts(objects.cpu().numpy() * inside)
    return ImageTruth(inside, known, _widened(inside, tolerance), found)


def _widened(inside: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    """Add what lies within a distance of the region."""
    if tolerance <= 0 or not inside.any():
        return inside
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(~inside) <= tolerance)
