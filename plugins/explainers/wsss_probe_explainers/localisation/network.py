"""What the rows say about all maps of one network, on the images that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MEASURES", "Floats", "NetworkScores", "counted_images", "network_scores"]

Floats = NDArray[np.float64]

MEASURES = ("average_precision", "pointing", "inside", "recall")
"""Scores of an image that need no chosen threshold; the first is what maps are compared by."""


@final
@dataclass(frozen=True, slots=True)
class NetworkScores:
    """Scores of every map of one network.

    Parameters
    ----------
    names : list of str
        Of explainers and baselines.
    measures : mapping of str to ndarray, (image, explainer)
        :data:`MEASURES`; NaN on images that do not count.
    above : ndarray, (image, explainer, side, threshold)
        Pixels inside and outside the region with at least each score.
    """

    names: list[str]
    measures: Mapping[str, Floats]
    above: Floats

    @property
    def dice(self) -> Floats:
        """Dice at every threshold, (image, explainer, threshold)."""
        inside, outside = self.above[:, :, 0], self.above[:, :, 1]
        total = inside + outside + inside[..., :1]
        return np.asarray(np.divide(2 * inside, total, out=np.full_like(total, np.nan), where=total > 0))

    @property
    def histograms(self) -> Floats:
        """Pixels by score instead of at least it, (image, explainer, side, threshold)."""
        ended = np.concatenate([self.above, np.zeros_like(self.above[..., :1])], axis=-1)
        return np.asarray(-np.diff(ended, axis=-1))


def counted_images(rows: xr.Dataset) -> NDArray[np.bool_]:
    """Images whose mask shows what the audited network's maps explain."""
    counted: NDArray[np.bool_] = (rows["own"].values == 1) & (rows["objects"].values > 0)
    return counted


def network_scores(rows: xr.Dataset, names: Sequence[str], counted: NDArray[np.bool_]) -> NetworkScores:
    """Read the rows of one network.

    Parameters
    ----------
    rows : Dataset
        Of the audited network, or of a control, whose order may differ.
    names : sequence of str
        Maps, in the order wanted; NaN for one that the network lacks.
    counted : ndarray of bool, (image,)
        Of the audited network, so that all networks are compared on the same images.

    Returns
    -------
    NetworkScores
    """
    found = rows.reindex(explainer=np.array(names, dtype=object))
    out = ~counted

    def kept(name: str) -> Floats:
        values = np.array(found[name].values, dtype=np.float64)
        values[out] = np.nan
        return values

    above = np.stack([kept("above_inside"), kept("above_outside")], axis=2)
    return NetworkScores(list(names), {name: kept(name) for name in MEASURES}, above)
