"""A census of the channels of a layer: dead, constant, saturated, duplicate, and how sparse.

A channel that never speaks, or says what another one says, takes no part in any claim about channels; and
how many there are is a fact about the network that one looks up before reading a mean over channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import xarray as xr

from wsss_probe_channels.screening.selection import mean_defined
from wsss_probe_channels.units.duplicates import correlation, duplicates

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STATES", "Ranges", "census", "ranges", "states"]

STATES = ("dead", "constant", "saturated", "duplicate")
"""Ways in which a channel says nothing of its own."""


@final
@dataclass(frozen=True, slots=True)
class Ranges:
    """What each map reaches.

    Parameters
    ----------
    values : mapping of str to Tensor, (image, channel)
        ``maximum`` and ``minimum`` in units of the activation; ``zeros`` and ``at_maximum``, the share of
        cells that are exactly 0, and that are exactly at the map's own maximum.
    finite : Tensor of bool, (image,)
        Whether all maps of the image are; the others' values are NaN.
    """

    values: Mapping[str, Tensor]
    finite: Tensor


def ranges(maps: Tensor) -> Ranges:
    """Measure one batch of maps.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)

    Returns
    -------
    Ranges

    Examples
    --------
    >>> seen = ranges(torch.tensor([[[[0.0, 2.0], [1.0, 2.0]]]]))
    >>> {name: value.item() for name, value in seen.values.items()}
    {'maximum': 2.0, 'minimum': 0.0, 'zeros': 0.25, 'at_maximum': 0.5}
    """
    highest, lowest = maps.amax(dim=(2, 3)), maps.amin(dim=(2, 3))
    finite = (torch.isfinite(highest) & torch.isfinite(lowest)).all(dim=1)  # both pass NaN through
    values = {
        "maximum": highest.float(),
        "minimum": lowest.float(),
        "zeros": _share(maps == 0),
        "at_maximum": _share(maps == highest[..., None, None]),
    }
    lost = ~finite[:, None]
    return Ranges({name: value.masked_fill(lost, torch.nan) for name, value in values.items()}, finite)


def _share(cells: Tensor) -> Tensor:
    """Share of each map's cells, (image, channel); counted in integers, which is quick."""
    return cells.sum(dim=(2, 3), dtype=torch.int32) / (cells.shape[2] * cells.shape[3])


def census(values: Mapping[str, np.ndarray], sums: xr.Dataset, limit: float) -> xr.Dataset:
    """Say of every channel what it does over all images.

    Parameters
    ----------
    values : mapping of str to ndarray, (image, channel)
        Of :func:`ranges`; NaN for images that do not count.
    sums : Dataset
        Of :func:`wsss_probe_channels.units.duplicates.moments`, over all images that count.
    limit : float
        Absolute correlation above which a channel duplicates another.

    Returns
    -------
    Dataset
        By (channel): ``dead``, ``constant``, ``saturated`` (bool), ``duplicate_of`` (a lower channel, -1
        for none), ``duplicate_r`` (with its sign), ``sparsity`` (share of cells), ``mean``, ``maximum``,
        ``minimum`` (activation), ``at_ceiling`` (share of images that reach the overall maximum). The
        attribute ``images`` counts those that count.
    """
    defined = np.isfinite(values["maximum"])
    highest, lowest = _extreme(np.fmax, values["maximum"]), _extreme(np.fmin, values["minimum"])
    one_value = defined.any(axis=0) & (highest == lowest)
    reached = values["maximum"] == highest
    of, r = duplicates(correlation(sums), limit)
    columns = {
        "dead": one_value & (highest == 0),
        "constant": one_value & (highest != 0),
        "saturated": _clamped(values["at_maximum"], reached) & (highest != 0) & ~one_value,
        "duplicate_of": of,
        "duplicate_r": r,
        "sparsity": mean_defined(values["zeros"]),
        "mean": sums["sum"].values / (float(sums["count"]) or np.nan),
        "maximum": highest,
        "minimum": lowest,
        "at_ceiling": mean_defined(np.where(defined, reached, np.nan)),
    }
    table = xr.Dataset({name: ("channel", np.asarray(column)) for name, column in columns.items()})
    return table.assign_coords(channel=np.arange(len(of))).assign_attrs(images=int(defined.any(axis=1).sum()))


def _extreme(among: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Largest or smallest defined value of each channel, NaN for none."""
    found: np.ndarray = among.reduce(values, axis=0, initial=np.nan)
    return found


def _clamped(at_maximum: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Whether more than half of the cells are at the overall maximum on the images that reach it, (channel,).

    Maps of one cell are always at their maximum and say nothing of it.
    """
    if not (at_maximum < 1).any():
        return np.zeros(at_maximum.shape[1], dtype=bool)
    share = mean_defined(np.where(reached, at_maximum, np.nan))
    clamped: np.ndarray = share > 0.5
    return clamped


def states(table: xr.Dataset) -> dict[str, np.ndarray]:
    """Which channels are in each of :data:`STATES`, bool (channel,); a channel is in one at most.

    Parameters
    ----------
    table : Dataset
        Of :func:`census`.

    Returns
    -------
    dict of str to ndarray
        A saturated channel that is a duplicate as well counts as saturated.
    """
    saturated = table["saturated"].values
    return {
        "dead": table["dead"].values,
        "constant": table["constant"].values,
        "saturated": saturated,
        "duplicate": (table["duplicate_of"].values >= 0) & ~saturated,
    }
