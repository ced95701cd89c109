"""How well a classifier does on images that it was not trained on, with intervals over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsss_probe.statistics import Interval, auc, auc_interval, group_bootstrap, nanmean

if TYPE_CHECKING:
    from wsss_probe_localizers.labels import Labels

__all__ = ["class_scores", "hits", "mean_auc", "measure", "recalls"]

Floats = NDArray[np.floating[Any]]
Sets = NDArray[np.bool_]


def class_scores(logits: Floats, *, multilabel: bool) -> Floats:
    """Score each class by which images are ranked for its AUC.

    With sigmoids the logit itself; with a softmax the logit less the log-sum-exp of the others,
    which orders images as the probability does and never saturates.

    Parameters
    ----------
    logits : ndarray, (image, class)
    multilabel : bool

    Returns
    -------
    ndarray, (image, class)
    """
    if multilabel:
        return logits
    wide = logits.astype(np.float64)
    others = [np.logaddexp.reduce(np.delete(wide, index, axis=1), axis=1) for index in range(wide.shape[1])]
    margins: Floats = wide - np.stack(others, axis=1)
    return margins


def mean_auc(logits: Floats, sets: Sets, *, multilabel: bool) -> float:
    """Mean over the classes whose AUC is defined; NaN if none is.

    Parameters
    ----------
    logits : ndarray, (image, class)
    sets : ndarray of bool, (image, class)
    multilabel : bool

    Returns
    -------
    float
        0..1.
    """
    scores = class_scores(logits, multilabel=multilabel)
    return float(nanmean(np.array([auc(scores[:, one], sets[:, one]) for one in range(sets.shape[1])])))


def _right(logits: Floats, sets: Sets, *, multilabel: bool) -> Sets:
    """Whether each class is decided rightly: the largest logit, or (sigmoids) every logit above 0."""
    if multilabel:
        return np.asarray((logits > 0) == sets)
    return np.asarray((np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]) == sets)


def hits(logits: Floats, sets: Sets, *, multilabel: bool) -> NDArray[np.float64]:
    """Share of right decisions in each image; with a softmax 1 or 0. Their mean is the accuracy.

    Parameters
    ----------
    logits : ndarray, (image, class)
    sets : ndarray of bool, (image, class)
    multilabel : bool

    Returns
    -------
    ndarray, (image,)
        0..1.
    """
    right = _right(logits, sets, multilabel=multilabel)
    return np.asarray(right.mean(axis=1) if multilabel else right.all(axis=1), dtype=np.float64)


def recalls(logits: Floats, sets: Sets, *, multilabel: bool) -> NDArray[np.float64]:
    """Tell for each image and class whether it was found; NaN where the image is not of the class.

    The mean over images is the recall of a class, the mean of those the balanced accuracy. With
    sigmoids the absence of each class counts as a class too.

    Parameters
    ----------
    logits : ndarray, (image, class)
    sets : ndarray of bool, (image, class)
    multilabel : bool

    Returns
    -------
    ndarray, (image, class), or (image, 2 · class) with sigmoids
        1, 0 or NaN.
    """
    right = _right(logits, sets, multilabel=multilabel)
    found = np.where(sets, right, np.nan)
    return np.concatenate([found, np.where(~sets, right, np.nan)], axis=1) if multilabel else found


def measure(
    logits: Floats, labels: Labels, rows: NDArray[np.intp], groups: NDArray[np.object_]
) -> dict[str, Any]:
    """Measure a classifier on some images.

    Parameters
    ----------
    logits : ndarray, (image, class)
        Of the images ``rows``, in that order.
    labels : Labels
    rows : ndarray of int
        Row numbers of the manifest.
    groups : ndarray of str
        Group of every row of the manifest.

    Returns
    -------
    dict
        ``n``, ``groups``, and ``accuracy``, ``balanced_accuracy``, ``auc`` (by class), each with
        its 95 % interval over groups; ready for JSON, where NaN is None.
    """
    sets, members, multilabel = labels.sets[rows], groups[rows].astype(str), labels.multilabel
    found = recalls(logits, sets, multilabel=multilabel)
    scores = class_scores(logits, multilabel=multilabel)
    return {
        "n": len(rows),
        "groups": len(np.unique(members)),
        "accuracy": _json(group_bootstrap(hits(logits, sets, multilabel=multilabel), members)),
        "balanced_accuracy": _json(group_bootstrap(found, members, lambda drawn: nanmean(nanmean(drawn)))),
        "auc": {
            name: _json(auc_interval(scores[:, index], sets[:, index], members))
            for index, name in enumerate(labels.classes)
        },
    }


def _json(interval: Interval) -> dict[str, Any]:
    """Write an interval as JSON can hold it."""
    values = {name: float(getattr(interval, name)) for name in ("estimate", "low", "high")}
    known = {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}
    return {**known, "note": interval.note}
