"""PxAP over all images: exact from fine steps, its interval and the controls' from coarse ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe.pxap import ScoreHistogram, auprc, precision_recall, prevalence, pxap
from wsss_probe.statistics import resampled_sums

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from wsss_probe_explainers.localisation.network import Floats, NetworkScores

__all__ = ["PooledPixels", "coarse_pxap", "pooled_pixels"]

RESAMPLES = 1000


@final
@dataclass(frozen=True, slots=True)
class PooledPixels:
    """Pixels of all images that count, over all thresholds.

    Parameters
    ----------
    pxap, auprc, prevalence : ndarray, (explainer,)
        From 1,000 steps.
    low, high : ndarray, (explainer,)
        95 % interval of PxAP over groups, from 100 steps.
    precision, recall : ndarray, (explainer, threshold)
        At 101 thresholds.
    """

    pxap: Floats
    auprc: Floats
    prevalence: Floats
    low: Floats
    high: Floats
    precision: Floats
    recall: Floats


def pooled_pixels(
    partial: xr.Dataset, network: NetworkScores, groups: NDArray[Any] | None, seed: int = 0
) -> PooledPixels:
    """Compute PxAP and its neighbours of every kind of map.

    Parameters
    ----------
    partial : Dataset
        ``pixels_inside`` and ``pixels_outside`` (explainer, score).
    network : NetworkScores
        Of the same network.
    groups : ndarray or None, (image,)
    seed : int

    Returns
    -------
    PooledPixels
    """
    ordered = partial.sel(explainer=np.array(network.names, dtype=object))
    fine = ScoreHistogram(ordered["pixels_inside"].values, ordered["pixels_outside"].values)
    by_image = np.nan_to_num(network.histograms)
    ends = np.array([_interval(by_image[:, at], groups, seed) for at in range(len(network.names))])
    precision, recall = precision_recall(_histogram(by_image.sum(0)))
    return PooledPixels(pxap(fine), auprc(fine), prevalence(fine), ends[:, 0], ends[:, 1], precision, recall)


def coarse_pxap(network: NetworkScores) -> Floats:
    """PxAP of every kind of map from 100 steps, (explainer,), for controls on the same images."""
    return pxap(_histogram(np.nan_to_num(network.histograms).sum(0)))


def _histogram(counts: Floats) -> ScoreHistogram:
    """Read the last two dimensions as side and threshold."""
    return ScoreHistogram(counts[..., 0, :], counts[..., 1, :])


def _interval(by_image: Floats, groups: NDArray[Any] | None, seed: int) -> tuple[float, float]:
    """Percentiles over resampled groups; NaN with fewer than two groups that have pixels."""
    present = np.asarray(by_image.any((1, 2)))
    units = np.arange(len(present)) if groups is None else np.asarray(groups)
    if len(np.unique(units[present])) < 2:
        return float("nan"), float("nan")
    sums = resampled_sums(by_image[present], units[present], resamples=RESAMPLES, seed=seed)
    low, high = np.nanquantile(pxap(_histogram(sums)), [0.025, 0.975])
    return float(low), float(high)
