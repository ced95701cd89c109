"""Channels that say what another one says: correlation over all cells of all images, batch by batch.

Sums of products are only mergeable about a centre that every batch knows, and a map whose mean is a thousand
times its spread loses its spread in float32. So each image is centred by itself: products of what is left
stay in float32, products of the images' means, which are few, are added in float64, and the two together are
the sum of products about 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DRAWS", "EXACT_UP_TO", "correlation", "duplicates", "moments"]

EXACT_UP_TO = 1024
"""Channels up to which all products are kept; 2048 would be 33 MB per shard and 4 % of a forward pass."""

DRAWS = 256
"""Random signs per cell in the sketch of a wider layer: the standard error of 1 - abs(r) is 9 % of it."""

_ROUNDING = 1e-6
"""A spread below this share of the mean is rounding of float32, and no correlation is told from it."""


def moments(maps: Tensor, indices: np.ndarray, exact_up_to: int = EXACT_UP_TO) -> xr.Dataset:
    """Sums over one batch from which :func:`correlation` is computed; they may be added up.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)
        Finite; may hold no image.
    indices : ndarray of int, (image,)
        Positions in the manifest: they seed the random signs, so that batches do not matter.
    exact_up_to : int
        Channels up to which ``products`` are kept, beyond it a ``sketch``.

    Returns
    -------
    Dataset
        ``count`` of cells, ``sum`` (channel), and either ``products`` (channel, other) or ``square``
        (channel), ``sketch`` (channel, draw) and ``ones`` (draw), the sketch of a map of ones.
    """
    channels = maps.shape[1]
    full = maps if maps.itemsize >= 4 else maps.float()
    means = full.mean(dim=(2, 3))
    rest = (full - means[..., None, None]).permute(0, 2, 3, 1).flatten(1, 2)  # (image, cell, channel)
    cells = rest.shape[1]
    sums: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "count": ((), np.array(float(len(maps) * cells))),
        "sum": (("channel",), _array(cells * means.double().sum(0))),
    }
    if channels <= exact_up_to:
        sums["products"] = (("channel", "other"), _products(rest, means))
        return xr.Dataset(sums, coords={"other": np.arange(channels)})
    square = rest.square().sum(1).double().sum(0) + cells * means.double().square().sum(0)
    sums["square"] = (("channel",), _array(square))
    sums["sketch"], sums["ones"] = _sketch(rest, means, indices)
    return xr.Dataset(sums, coords={"draw": np.arange(DRAWS)})


def _products(rest: Tensor, means: Tensor) -> np.ndarray:
    """Sum of products of all pairs of channels about 0, (channel, other)."""
    flat = rest.flatten(0, 1)
    within = (flat.t() @ flat).double()
    return _array(within + rest.shape[1] * (means.double().t() @ means.double()))


def _sketch(
    rest: Tensor, means: Tensor, indices: np.ndarray
) -> tuple[tuple[tuple[str, ...], np.ndarray], tuple[tuple[str, ...], np.ndarray]]:
    """Project every channel's cells on random signs; one more sign stands for each image's mean.

    Johnson and Lindenstrauss: inner products, and with a small relative error distances, survive.
    """
    cells = rest.shape[1]
    signs = torch.stack([_signs(cells + 1, int(index)) for index in indices]) if len(indices) else None
    if signs is None:
        return (("channel", "draw"), np.zeros((rest.shape[2], DRAWS))), (("draw",), np.zeros(DRAWS))
    signs = signs.to(rest.device)
    within = rest.flatten(0, 1).t() @ signs[:, :-1].flatten(0, 1).to(rest.dtype)
    axes = cells**0.5 * signs[:, -1].double()  # (image, draw)
    between = means.double().t() @ axes
    return (("channel", "draw"), _array(within.double() + between)), (("draw",), _array(axes.sum(0)))


def _signs(cells: int, index: int) -> Tensor:
    """Random signs of one image, the same in every batch and on every device, (cell, draw)."""
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 2, (cells, DRAWS), generator=generator, dtype=torch.int8) * 2 - 1


def correlation(sums: xr.Dataset) -> np.ndarray:
    """Pearson correlation of all pairs of channels over all cells of all images.

    Parameters
    ----------
    sums : Dataset
        Of :func:`moments`, added up.

    Returns
    -------
    ndarray of float64, (channel, channel)
        NaN where a channel does not vary. From a sketch an estimate, good where abs(r) is near 1.
    """
    count = float(sums["count"])
    mean = sums["sum"].values / max(count, 1)
    if "products" in sums:
        scatter = sums["products"].values - count * np.outer(mean, mean)
        variance = np.diagonal(scatter).copy()
    else:
        variance = sums["square"].values - count * mean**2
        centred = sums["sketch"].values - np.outer(mean, sums["ones"].values)
        scatter = centred @ centred.T / DRAWS
    varies = variance > count * (_ROUNDING * mean) ** 2
    scale = np.sqrt(np.where(varies, variance, np.nan))
    r = scatter / np.outer(scale, scale)
    if "products" not in sums:
        r = _from_distance(r)
    clipped: np.ndarray = np.clip(r, -1, 1)
    return clipped


def _from_distance(inner: np.ndarray) -> np.ndarray:
    """Take r from the sketched distance of two channels, whose error vanishes where they are alike."""
    own = np.diagonal(inner)
    r: np.ndarray = inner + np.sign(inner) * (1 - (own[:, None] + own) / 2)
    return r


def duplicates(r: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest channel that each channel duplicates.

    Parameters
    ----------
    r : ndarray, (channel, channel)
        NaN duplicates nothing.
    above : float
        Pairs with abs(r) strictly above it are duplicates.

    Returns
    -------
    of : ndarray of int, (channel,)
        A lower channel, -1 for none.
    r : ndarray, (channel,)
        Correlation with that channel, NaN for none.

    Examples
    --------
    >>> of, signed = duplicates(np.array([[1.0, 0.1, -1.0], [0.1, 1.0, 0.2], [-1.0, 0.2, 1.0]]), 0.99)
    >>> of.tolist(), signed.tolist()
    ([-1, -1, 0], [nan, nan, -1.0])
    """
    near = np.tril(np.abs(r) > above, -1)
    found = near.any(axis=1)
    of = np.where(found, near.argmax(axis=1), -1)
    return of, np.where(found, r[np.arange(len(r)), of], np.nan)


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.cpu().numpy()
    return array
