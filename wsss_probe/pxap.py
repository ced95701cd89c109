"""Pixel scores against masks, over all thresholds: histograms, PxAP, AUPRC, and the best threshold.

Choe et al. (2020), Evaluating weakly supervised object localization methods right, arXiv:2001.07437,
section 4.2: pixels of all images are pooled, scores are cut at every multiple of 0.001, and precision is
summed over steps of recall. Everything here follows from one histogram of scores in and outside the mask,
which is added up image by image: memory does not grow with the images.

All numbers are shares in [0, 1]; papers print PxAP times 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "BINS",
    "ScoreHistogram",
    "Threshold",
    "auprc",
    "best_threshold",
    "coarser",
    "dice_curve",
    "iou_curve",
    "normalised",
    "precision_recall",
    "prevalence",
    "pxap",
    "resized",
    "score_histogram",
]

Floats = NDArray[np.float64]

BINS = 1000
"""Steps between 0 and 1: thresholds are multiples of 0.001."""


@final
@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """How many pixels have which score, in the mask and outside it.

    Whole numbers, so any order of adding gives the same.

    Parameters
    ----------
    positive, negative : ndarray of float64, (..., bin)
        Pixels in the mask, and known pixels outside it. Bin l counts scores from l Δ to below (l + 1) Δ
        with Δ = 1 / (number of bins - 1); the last bin counts the score 1 alone.
    """

    positive: Floats
    negative: Floats

    @property
    def thresholds(self) -> Floats:
        """Lower edge of every bin, (bin,): from 0 to 1."""
        steps = self.positive.shape[-1] - 1
        return np.asarray(np.arange(steps + 1) * (1 / steps))

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """Add the pixels of other images."""
        return ScoreHistogram(self.positive + other.positive, self.negative + other.negative)

    def pooled(self) -> ScoreHistogram:
        """Sum over the first dimension, such as images."""
        return ScoreHistogram(self.positive.sum(0), self.negative.sum(0))


@final
@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold with the largest overlap, and that overlap.

    Parameters
    ----------
    value : float
        Pixels with at least this score are predicted.
    score : float
        NaN, and so is ``value``, where nothing is in the mask.
    """

    value: float
    score: float


# -- from maps to scores -----------------------------------------------------------------------


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps to the grid of the masks, bilinearly with ``align_corners=False``.

    Parameters
    ----------
    maps : Tensor of float, (image, row, column)
    size : (int, int)
        Rows and columns.

    Returns
    -------
    Tensor of float32, (image, row, column)
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def normalised(maps: Tensor) -> Tensor:
    """Scale each map by its own smallest and largest value: ``(x - min) / (max - min)``.

    A step of its own, since it changes PxAP: it makes scores comparable between images that were not,
    and hides how strong a map is.

    Parameters
    ----------
    maps : Tensor of float, (..., row, column)

    Returns
    -------
    Tensor of the same type and shape
        In [0, 1]; zeros for a constant map, NaN for a map with a value that is not finite.
    """
    flat = maps.flatten(-2)
    low, high = flat.amin(-1)[..., None, None], flat.amax(-1)[..., None, None]
    # halves, so that the range of the largest numbers does not overflow
    width = high / 2 - low / 2
    scaled = (maps / 2 - low / 2) / torch.where(width > 0, width, 1)
    return torch.where(torch.isfinite(low) & torch.isfinite(high), scaled, torch.nan)


def score_histogram(
    scores: Tensor, truth: Tensor, known: Tensor | None = None, bins: int = BINS
) -> ScoreHistogram:
    """Count the scores of pixels in the mask and outside it, map by map.

    Parameters
    ----------
    scores : Tensor of float, (map, row, column)
        In [0, 1].
    truth : Tensor of bool, (map, row, column) or (row, column)
        Whether a pixel is in the mask.
    known : Tensor of bool, same shape as ``truth``, optional
        False for ignored pixels, which count nowhere.
    bins : int
        Steps between 0 and 1.

    Returns
    -------
    ScoreHistogram
        Each (map, bin); :meth:`ScoreHistogram.pooled` adds the maps up.

    Raises
    ------
    ValueError
        If a known pixel's score is NaN or outside [0, 1], or the shapes differ.
    """
    inside = truth.cpu().numpy()
    counted = np.ones_like(inside) if known is None else known.cpu().numpy()
    inside, outside = inside & counted, ~inside & counted
    maps: NDArray[Any] = scores.detach().cpu().numpy()
    maps = maps.reshape(-1, *maps.shape[-2:])
    if inside.shape[-2:] != maps.shape[-2:] or inside.ndim not in {2, 3}:
        raise ValueError(f"truth has the shape {inside.shape} and scores {tuple(scores.shape)}")
    edges = np.asarray(np.arange(bins + 1) * (1 / bins), dtype=np.float64)
    sides = [np.broadcast_to(side, maps.shape) for side in (inside, outside)]
    positive, negative = (
        np.array([_counted(plane[of], edges) for plane, of in zip(maps, side, strict=True)]) for side in sides
    )
    shape = (len(maps), bins + 1)
    return ScoreHistogram(positive.reshape(shape), negative.reshape(shape))


def _counted(values: NDArray[Any], edges: Floats) -> Floats:
    """Count the values from each edge to below the next; the last edge has no next."""
    # Sorting is vectorised and needs no arithmetic that could be rounded over an edge
    ordered = np.sort(values)
    if len(ordered) and not (ordered[0] >= 0 and ordered[-1] <= 1):  # NaN sorts last
        raise ValueError("a score is NaN or outside [0, 1]; normalised() brings maps there")
    below = np.append(np.searchsorted(ordered.astype(np.float64), edges), len(ordered))
    return np.diff(below).astype(np.float64)


def coarser(histogram: ScoreHistogram, factor: int) -> ScoreHistogram:
    """Join ``factor`` bins to one; the score 1 keeps a bin of its own.

    Parameters
    ----------
    histogram : ScoreHistogram
    factor : int
        Divides the number of steps.

    Returns
    -------
    ScoreHistogram

    Raises
    ------
    ValueError
        If ``factor`` does not divide the steps.
    """
    steps = histogram.positive.shape[-1] - 1
    if steps % factor:
        raise ValueError(f"{factor} does not divide {steps} steps")

    def joined(counts: Floats) -> Floats:
        inner = counts[..., :-1].reshape(*counts.shape[:-1], steps // factor, factor).sum(-1)
        return np.concatenate([inner, counts[..., -1:]], axis=-1)

    return ScoreHistogram(joined(histogram.positive), joined(histogram.negative))


# -- over all thresholds -----------------------------------------------------------------------


def _at_least(counts: Floats) -> Floats:
    """Pixels whose score is at least each threshold."""
    return np.asarray(counts[..., ::-1].cumsum(-1)[..., ::-1])


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Quotient that is NaN, without a warning, where the denominator is 0."""
    return np.asarray(np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom != 0))


def prevalence(histogram: ScoreHistogram) -> Floats:
    """Share of the known pixels that are in the mask: PxAP of a map that says nothing.

    Parameters
    ----------
    histogram : ScoreHistogram

    Returns
    -------
    ndarray of float64, (...)
        NaN without known pixels.
    """
    inside = histogram.positive.sum(-1)
    return _ratio(inside, inside + histogram.negative.sum(-1))


def precision_recall(histogram: ScoreHistogram) -> tuple[Floats, Floats]:
    """Precision and recall of ``score >= threshold`` at every threshold.

    Parameters
    ----------
    histogram : ScoreHistogram

    Returns
    -------
    (ndarray, ndarray), each (..., bin)
        By ascending threshold. Precision is NaN where nothing is predicted, recall where nothing is in
        the mask.
    """
    tp, fp = _at_least(histogram.positive), _at_least(histogram.negative)
    return _ratio(tp, tp + fp), _ratio(tp, np.broadcast_to(tp[..., :1], tp.shape))


def pxap(histogram: ScoreHistogram) -> Floats:
    """Pixel average precision: precision at each threshold times the recall gained there, summed.

    PxAP = Σ_l Prec(τ_l) (Rec(τ_l) - Rec(τ_{l+1}))   (Choe et al. 2020, arXiv:2001.07437, section 4.2)

    The rectangle rule with the precision at the lower threshold of each step, as the authors' code does.
    It misleads in three ways. Chance is the :func:`prevalence` and not 0. Pixels are pooled, so large
    objects weigh more. And it depends on how scores spread over the steps: the same ranking squeezed into
    a tenth of the range gives another number.

    Parameters
    ----------
    histogram : ScoreHistogram
        Pooled over the images.

    Returns
    -------
    ndarray of float64, (...)
        In [0, 1]; NaN where nothing is in the mask.

    Examples
    --------
    >>> scores = torch.tensor([[[0.9, 0.8, 0.3, 0.1]]])
    >>> found = score_histogram(scores, torch.tensor([[True, False, True, False]]))
    >>> round(float(pxap(found.pooled())), 4)
    0.8333
    """
    precision, _ = precision_recall(histogram)
    inside = histogram.positive.sum(-1)
    return _ratio((np.nan_to_num(precision) * histogram.positive).sum(-1), inside)


def auprc(histogram: ScoreHistogram) -> Floats:
    """Area under the curve of precision and recall, exact between thresholds.

    Within a step true and false positives grow together, as they would if ties were broken at random;
    precision is then no straight line in recall, and joining points by lines would be optimistic (Davis
    and Goadrich 2006, doi:10.1145/1143844.1143874, section 4). With p and n pixels of a step in and
    outside the mask, and T and F above it,

        area = (p / P) [ p / (p + n) + (T n - F p) / (p + n)² ln((T + F + p + n) / (T + F)) ].

    Between this and :func:`pxap` lies only what the steps blur; both are the prevalence for a constant map.

    Parameters
    ----------
    histogram : ScoreHistogram

    Returns
    -------
    ndarray of float64, (...)
        In [0, 1]; NaN where nothing is in the mask.
    """
    p, n = histogram.positive, histogram.negative
    tp, fp = _at_least(p) - p, _at_least(n) - n
    step, above = p + n, tp + fp
    grown = np.log1p(np.divide(step, above, out=np.zeros_like(step), where=above > 0))
    share = np.divide(p, step, out=np.zeros_like(step), where=step > 0)
    bend = np.divide(tp * n - fp * p, step**2, out=np.zeros_like(step), where=step > 0)
    return _ratio((p * (share + bend * grown)).sum(-1), p.sum(-1))


def dice_curve(histogram: ScoreHistogram) -> Floats:
    """Dice of ``score >= threshold`` with the mask at every threshold: ``2 tp / (2 tp + fp + fn)``.

    Parameters
    ----------
    histogram : ScoreHistogram

    Returns
    -------
    ndarray of float64, (..., bin)
        By ascending threshold; NaN where nothing is in the mask.
    """
    tp, fp = _at_least(histogram.positive), _at_least(histogram.negative)
    inside = np.broadcast_to(tp[..., :1], tp.shape)
    return np.where(inside > 0, _ratio(2 * tp, tp + fp + inside), np.nan)


def iou_curve(histogram: ScoreHistogram) -> Floats:
    """Intersection over union at every threshold: ``tp / (tp + fp + fn)``; see :func:`dice_curve`."""
    dice = dice_curve(histogram)
    return np.asarray(dice / (2 - dice))


def best_threshold(histogram: ScoreHistogram, curve: Floats) -> Threshold:
    """Find the threshold with the largest value of a curve.

    It is the very threshold at which cutting the scores gives that value: authors' codes that run through
    thresholds downwards and read them upwards report its mirror image. A threshold that is chosen like
    this on the images that it is scored on is optimistic, see :mod:`wsss_probe.sealed`.

    Parameters
    ----------
    histogram : ScoreHistogram
        Of one map, or pooled: (bin,).
    curve : ndarray, (bin,)
        Such as :func:`dice_curve` of it.

    Returns
    -------
    Threshold
        The lowest of equally good ones.
    """
    if np.isnan(curve).all():
        return Threshold(float("nan"), float("nan"))
    place = int(np.nanargmax(curve))
    return Threshold(float(histogram.thresholds[place]), float(curve[place]))
