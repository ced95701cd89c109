"""Channel-F1 against masks that were moved or exchanged: what it would be by chance.

A channel's Otsu mask B stays, the mask M is replaced R times, and each time the mean F1 over images is
taken: ``T_r(k, c) = mean over n of F1(B_nk, M'_nrc)``. Draw 0 is always the mask itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe.overlap import IGNORED, majority_mask
from wsss_probe.statistics import benjamini_hochberg, permutation_p
from wsss_probe.threshold import binarize, otsu
from wsss_probe_channels.regions import planes
from wsss_probe_channels.screening.selection import MIN_DEFINED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe import Batch
    from wsss_probe_channels.regions import MaskRegion

__all__ = [
    "Binarised",
    "answered",
    "binarised",
    "donors",
    "draw_sums",
    "eligible_channels",
    "grid_masks",
    "mean_scores",
    "null_table",
    "offsets",
    "shifted",
]

Masks = Callable[[slice], Tensor]
"""Masks of some draws: ``masks_of(draws) -> (image, draw, row, column)``."""

_CHUNK = 1 << 22
"""Cells of the operands and products of one matrix product: 16 MiB of float32 each."""


@final
@dataclass(frozen=True, slots=True)
class Binarised:
    """The Otsu masks of one batch.

    Parameters
    ----------
    pixels : Tensor of float, (image, channel, cell)
        1 above the threshold, else 0.
    undefined : Tensor of bool, (image, channel)
        Maps without a threshold.
    """

    pixels: Tensor
    undefined: Tensor


# -- one batch ---------------------------------------------------------------------------------


def grid_masks(batch: Batch, layer: str, masks: Tensor) -> Tensor:
    """Masks on the layer's grid by majority, as channel-F1 has them; unreadable images are all ignored.

    Parameters
    ----------
    batch : Batch
    layer : str
    masks : Tensor of int, (image, row, column)
        Those of the batch.

    Returns
    -------
    Tensor of int, (image, row, column)
    """
    rows, columns = batch.activations[layer].shape[-2:]
    known = torch.where(batch.readable.to(masks.device)[:, None, None], masks, IGNORED)
    if tuple(masks.shape[-2:]) == (rows, columns):
        return known
    return majority_mask(known, (rows, columns), len(batch.mask_classes))


def binarised(maps: Tensor) -> Binarised:
    """Threshold every map by Otsu.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)

    Returns
    -------
    Binarised
    """
    full = (maps if maps.itemsize >= 4 else maps.float()).contiguous()  # thresholds go map by map
    threshold = otsu(full)
    return Binarised(binarize(full, threshold).flatten(2).float(), threshold.isnan())


def answered(seen: Binarised, masks: Tensor, regions: Sequence[MaskRegion]) -> Tensor:
    """Count the images that hold a region and for which a channel has an F1.

    Parameters
    ----------
    seen : Binarised
    masks : Tensor of int, (image, row, column)
        On the layer's grid.
    regions : sequence of MaskRegion

    Returns
    -------
    Tensor of float64, (channel + 1, region)
        Last the images that hold the region at all.
    """
    present = planes(masks, regions)[0].flatten(2).any(2).double()
    return torch.cat([(~seen.undefined).double().t() @ present, present.sum(0, keepdim=True)])


def draw_sums(
    seen: Binarised, masks_of: Masks, draws: int, regions: Sequence[MaskRegion]
) -> tuple[Tensor, Tensor]:
    """Sum F1 over the images of a batch, for every draw of masks.

    Parameters
    ----------
    seen : Binarised
    masks_of : callable
        ``masks_of(draws) -> Tensor of int, (image, draw, row, column)`` on the layer's grid.
    draws : int
    regions : sequence of MaskRegion

    Returns
    -------
    total, count : Tensor of float64, (draw, channel, region)
        Sum of the defined F1, and how many they are.
    """
    images, channels, cells = seen.pixels.shape
    width = max(1, _CHUNK // (max(1, images) * (len(regions) + 1) * (channels + cells)))
    parts = [
        _sums(seen, masks_of(slice(start, min(start + width, draws))), regions)
        for start in range(0, draws, width)
    ]
    return torch.cat([total for total, _ in parts]), torch.cat([count for _, count in parts])


def _sums(seen: Binarised, masks: Tensor, regions: Sequence[MaskRegion]) -> tuple[Tensor, Tensor]:
    scores = _scores(seen, masks, regions)
    defined = ~scores.isnan()
    total = scores.nan_to_num(0.0).sum(0, dtype=torch.float64)
    return total.transpose(0, 1), defined.sum(0, dtype=torch.float64).transpose(0, 1)


def _scores(seen: Binarised, masks: Tensor, regions: Sequence[MaskRegion]) -> Tensor:
    """F1 of every map with every draw of its image's mask, (image, channel, draw, region)."""
    images, draws = masks.shape[:2]
    inside, known = (part.flatten(2).float() for part in planes(masks.flatten(0, 1), regions))
    kinds = list(dict.fromkeys(region.white for region in regions))  # what counts depends on white alone
    kind = [kinds.index(region.white) for region in regions]
    truth = torch.cat([inside, known[:, [kind.index(one) for one in range(len(kinds))]]], dim=1)
    truth = truth.reshape(images, draws * truth.shape[1], -1)
    # One product of 0/1 matrices meets all maps with all draws; sums of ones are exact below 2^24
    met = torch.bmm(seen.pixels, truth.transpose(1, 2))
    met = met.reshape(*met.shape[:2], draws, len(regions) + len(kinds))
    hits, area = met[..., : len(regions)], met[..., [len(regions) + one for one in kind]]
    size = inside.sum(2).reshape(images, 1, draws, len(regions))
    scores: Tensor = 2 * hits / (area + size)
    return scores.masked_fill(seen.undefined[:, :, None, None], torch.nan)


# -- what masks are exchanged for --------------------------------------------------------------


def offsets(seed: int, indices: Sequence[int] | np.ndarray, shifts: int, grid: tuple[int, int]) -> Tensor:
    """Draw shifts for images, uniform over the grid; no shift at all may be drawn as well.

    Parameters
    ----------
    seed : int
    indices : sequence of int, (image,)
        Positions in the manifest: an image's shifts do not depend on its batch.
    shifts : int
    grid : (int, int)

    Returns
    -------
    Tensor of int, (image, draw, 2)
        Rows and columns; ``shifts + 1`` draws, the first of which is no shift.
    """
    drawn = [np.random.default_rng([seed, int(index)]).integers(grid, size=(shifts, 2)) for index in indices]
    moves = np.array(drawn, dtype=np.int64).reshape(len(indices), shifts, 2)
    return torch.from_numpy(np.concatenate([np.zeros_like(moves[:, :1]), moves], axis=1))


def shifted(masks: Tensor, moves: Tensor) -> Tensor:
    """Masks moved around the torus: what leaves at one border enters at the other.

    Parameters
    ----------
    masks : Tensor of int, (image, row, column)
    moves : Tensor of int, (image, draw, 2)

    Returns
    -------
    Tensor of int, (image, draw, row, column)

    Examples
    --------
    >>> shifted(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[0, 1]]])).tolist()
    [[[[3, 1, 2]]]]
    """
    images, height, width = masks.shape
    down, along = moves.to(masks.device).unbind(-1)
    row = (torch.arange(height, device=masks.device) - down[..., None]) % height
    column = (torch.arange(width, device=masks.device) - along[..., None]) % width
    image = torch.arange(images, device=masks.device)[:, None, None, None]
    return masks[image, row[..., None], column[:, :, None, :]]


def donors(seed: int, groups: ArrayLike, usable: ArrayLike, permutations: int) -> np.ndarray:
    """Draw whose mask each image gets: whole groups exchange their masks.

    A group may keep its own masks, since the test is exact only if every exchange can be drawn; with few
    groups a null without the true order would be beaten far too often. In groups of unequal size the
    masks of the other group are taken in order and again from the first.

    Parameters
    ----------
    seed : int
    groups : array of int, (image,)
    usable : array of bool, (image,)
        Images with a known mask; the others keep theirs.
    permutations : int

    Returns
    -------
    ndarray of int, (draw, image)
        Positions in the manifest; ``permutations + 1`` draws, the first of which is the image itself.
    """
    own = np.arange(len(np.asarray(usable)))
    kept = np.flatnonzero(usable)
    _, member = np.unique(np.asarray(groups)[kept], return_inverse=True)
    order = np.argsort(member, kind="stable")
    size = np.bincount(member)
    start = np.cumsum(size) - size
    place = np.empty(len(kept), dtype=np.intp)  # of each image in its group
    place[order] = np.arange(len(kept)) - np.repeat(start, size)
    drawn = np.tile(np.arange(len(size)), (permutations, 1))
    other = np.random.default_rng([seed, len(own)]).permuted(drawn, axis=1)[:, member]
    given = np.tile(own, (permutations + 1, 1))
    given[1:, kept] = kept[order[start[other] + place % size[other]]]
    return given


# -- over all images ---------------------------------------------------------------------------


def mean_scores(total: ArrayLike, count: ArrayLike) -> np.ndarray:
    """Mean F1 of every draw, (draw, channel, class); NaN where no F1 is defined."""
    sums, number = np.asarray(total, dtype=np.float64), np.asarray(count, dtype=np.float64)
    mean: np.ndarray = np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
    return mean


def eligible_channels(counts: ArrayLike) -> np.ndarray:
    """Channels that answer at least half of the images with the class, as channel-F1 ranks them.

    Parameters
    ----------
    counts : array, (channel + 1, class)
        From :func:`answered`, added up.

    Returns
    -------
    ndarray of bool, (channel, class)
    """
    array = np.asarray(counts)
    enough: np.ndarray = (array[:-1] > 0) & (array[:-1] >= MIN_DEFINED * array[-1])
    return enough


def null_table(means: np.ndarray, eligible: np.ndarray, kind: str) -> xr.Dataset:
    """Compare each channel with its own null, and with the best channel of every draw.

    Parameters
    ----------
    means : ndarray, (draw, channel, class)
        The first draw is the observation.
    eligible : ndarray of bool, (channel, class)
        All else is NaN for the others.
    kind : str
        Ends the names: ``p_<kind>``.

    Returns
    -------
    Dataset
        By (channel, class): ``observed`` mean F1; ``null_mean`` and ``null_high`` (95th percentile);
        ``p_<kind>``; ``q_<kind>``, by Benjamini and Hochberg over the channels of a class;
        ``p_family_<kind>``, against the largest mean F1 of any channel in each draw. By (class):
        ``p_best_<kind>``, that of the best channel.
    """
    kept = np.where(eligible, means, np.nan)
    observed, null = kept[0], kept[1:]
    p = permutation_p(observed, null)
    family = permutation_p(observed, _largest(null)[:, None])
    best = _largest(kept)
    both = ("channel", "class")
    return xr.Dataset(
        {
            "observed": (both, observed),
            "null_mean": (both, null.mean(axis=0)),
            "null_high": (both, np.quantile(null, 0.95, axis=0)),
            f"p_{kind}": (both, p),
            f"q_{kind}": (both, np.stack([benjamini_hochberg(column) for column in p.T], axis=1)),
            f"p_family_{kind}": (both, family),
            f"p_best_{kind}": ("class", permutation_p(best[0], best[1:])),
        },
        coords={"channel": np.arange(len(observed))},
    )


def _largest(means: np.ndarray) -> np.ndarray:
    """Largest mean over channels, (draw, class); NaN where there is none."""
    largest = np.where(np.isnan(means), -np.inf, means).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(largest), largest, np.nan)


def fewest(groups: int) -> float:
    """Smallest p that exchanging so many groups can give, 1 over the number of orders."""
    return 1 / math.factorial(groups) if groups < 20 else 0.0


def known_masks(cells: np.ndarray) -> np.ndarray:
    """Images with a known cell, bool, (image,)."""
    known: np.ndarray = (cells != IGNORED).any(axis=(1, 2))
    return known
