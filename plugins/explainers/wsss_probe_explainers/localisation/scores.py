"""How one map meets one image's region: pointing, mass, precision, objects, boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from wsss_probe.boxes import BoxOverlap, box_overlap
from wsss_probe.pxap import ScoreHistogram, normalised, pxap, score_histogram

if TYPE_CHECKING:
    from wsss_probe_explainers.localisation.truth import ImageTruth

__all__ = ["CUTS", "MOST_BOXES", "MapScores", "mass_inside", "objects_reached", "pointing", "score"]

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

CUTS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Thresholds at which boxes are drawn; the papers take a hundred, each costs a search for parts."""

MOST_BOXES = 3
"""Images with more objects get no boxes: the measure is about images of few things, and costs the most."""


@final
@dataclass(frozen=True, slots=True)
class MapScores:
    """What is said about one map.

    Parameters
    ----------
    pointing, inside, average_precision, recall : float
        See the functions of this module; ``average_precision`` is :func:`wsss_probe.pxap.pxap` of this
        image alone.
    histogram : ScoreHistogram
        (bin,), of the map scaled to [0, 1].
    boxes : BoxOverlap
        At :data:`CUTS`.
    constant : bool
    """

    pointing: float
    inside: float
    average_precision: float
    recall: float
    histogram: ScoreHistogram
    boxes: BoxOverlap
    constant: bool


def score(plane: Plane, truth: ImageTruth) -> MapScores:
    """Score one map.

    Parameters
    ----------
    plane : ndarray of float32, (row, column)
        On the grid of the mask; finite.
    truth : ImageTruth
        With a region.

    Returns
    -------
    MapScores
    """
    scaled = normalised(torch.from_numpy(plane))
    counted = score_histogram(scaled[None], torch.from_numpy(truth.inside), torch.from_numpy(truth.known))
    histogram = counted.pooled()
    few = 0 < len(truth.objects) <= MOST_BOXES
    return MapScores(
        pointing=pointing(plane, truth),
        inside=mass_inside(plane, truth),
        average_precision=float(pxap(histogram)),
        recall=objects_reached(plane, truth),
        histogram=histogram,
        boxes=box_overlap(scaled.numpy(), truth.objects.boxes if few else (), CUTS),
        constant=bool(plane.min() == plane.max()),
    )


def pointing(plane: Plane, truth: ImageTruth) -> float:
    """Share of the largest known pixels that lie on the region: 1 or 0 unless there are ties.

    The pointing game (Zhang et al. 2016, Top-down neural attention by excitation backprop,
    arXiv:1608.00507, section 4), with the expected hit where several pixels share the
    maximum: a constant map gets the share of the region and not the luck of the first pixel.

    It misleads: one pixel decides, so a map that is wrong everywhere else may be perfect; a large region is
    hit by chance as often as it is large.

    Parameters
    ----------
    plane : ndarray of float, (row, column)
    truth : ImageTruth
        Its ``reach`` is what counts as a hit.

    Returns
    -------
    float
        In [0, 1].
    """
    top = truth.known & (plane == plane[truth.known].max())
    return float((top & truth.reach).sum() / top.sum())


def mass_inside(plane: Plane, truth: ImageTruth) -> float:
    """Share of the positive relevance that lies in the region: ``Σ_in max(R, 0) / Σ max(R, 0)``.

    Kohlbrenner et al. (2020), Towards best practice in explaining neural network decisions with LRP,
    arXiv:1910.09840 (attribution localisation, the inside-total ratio). Chance is the region's share of the
    known pixels. It misleads: a map that is positive everywhere cannot get far from that share, whatever it
    shows.

    Parameters
    ----------
    plane : ndarray of float, (row, column)
        Not scaled: scaling would move zero.
    truth : ImageTruth

    Returns
    -------
    float
        In [0, 1]; NaN without positive relevance.
    """
    positive = np.clip(plane, 0, None, dtype=np.float64)
    total = positive[truth.known].sum()
    return float(positive[truth.inside].sum() / total) if total > 0 else float("nan")


def objects_reached(plane: Plane, truth: ImageTruth) -> float:
    """Share of the objects that the map reaches when it may mark as many pixels as they have.

    The threshold is the value below which the map marks exactly as many known pixels as the region has; an
    object is reached when its mean relevance is strictly above. So every map spends the same area, and one
    that marks everything reaches nothing more. It misleads where objects are much smaller than a cell of the
    map's grid, and where touching things are one object.

    Parameters
    ----------
    plane : ndarray of float, (row, column)
    truth : ImageTruth

    Returns
    -------
    float
        In [0, 1]; 0 for a constant map.
    """
    values = plane[truth.known].astype(np.float64)
    kept = min(int(truth.inside.sum()), len(values) - 1)
    threshold = np.partition(values, len(values) - 1 - kept)[len(values) - 1 - kept]
    labels = truth.objects.labels.ravel()
    sums = np.bincount(labels, weights=plane.ravel(), minlength=len(truth.objects) + 1)
    means = sums[1:] / truth.objects.areas
    return float((means > threshold).mean())
