"""How good the audited classifier is on labelled images: the first thing a report says.

A wrong preprocessing is the commonest silent error of an audit, and it shows here. No conclusion
about what a classifier has learned rests on one that has learned nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from wsss_probe.contracts import Finding
from wsss_probe.statistics import Interval, auc, group_bootstrap

__all__ = [
    "TESTABLE_AUC",
    "Performance",
    "bounds",
    "measure_performance",
    "performance_finding",
    "top_right",
]

TESTABLE_AUC: Final = 0.7
"""The lower bound of the AUC must reach this before anything is concluded from a classifier."""

_HELD_OUT = ("test", "val", "validation", "valid")
_TRAINED = ("train", "training")
_RESAMPLES: Final = 500


@dataclass(frozen=True, slots=True)
class Performance:
    """Accuracy and AUC on labelled images.

    Parameters
    ----------
    accuracy, auc : Interval or None
        None without labels. ``auc`` is the mean, over the classes that have both positive and
        negative images, of one class against the others; NaN where there is no such class. For
        several labels per image ``accuracy`` is the share of images whose whole label set is right.
    held_out : str
        Which images: ``"split test"``, say, or that nothing is known about the split.
    labelled : int
        Readable images with a label, in that part.
    """

    accuracy: Interval | None
    auc: Interval | None
    held_out: str
    labelled: int

    @property
    def not_testable(self) -> str:
        """Why nothing may be concluded from this classifier; empty when something may."""
        if self.auc is None:
            return ""
        estimate, low, high = bounds(self.auc)
        if not np.isfinite(low):
            return "AUC not estimable on these labels"
        if low < TESTABLE_AUC:
            return f"AUC {estimate:.3f} [{low:.3f}, {high:.3f}] has a lower bound under {TESTABLE_AUC}"
        return ""


def bounds(interval: Interval) -> tuple[float, float, float]:
    """Give estimate, lower and upper bound of one number.

    Parameters
    ----------
    interval : Interval

    Returns
    -------
    (float, float, float)
    """
    return float(interval.estimate), float(interval.low), float(interval.high)


def measure_performance(
    logits: np.ndarray,
    labels: np.ndarray,
    multilabel: bool,
    groups: np.ndarray | None,
    splits: np.ndarray,
    labelled: np.ndarray | None = None,
) -> Performance:
    """Measure accuracy and AUC on the held-out part of the labelled images.

    The score of a class is the log-odds of its softmax probability, since a softmax leaves the level
    of an image's logits open; with one sigmoid per class (``multilabel``, or a single logit) that is
    the logit itself.

    Parameters
    ----------
    logits : ndarray, (image, class)
        NaN rows are images that could not be read.
    labels : ndarray of bool, (image, class)
        All false where unknown.
    multilabel : bool
    groups : ndarray or None, (image,)
    splits : ndarray of str, (image,)
    labelled : ndarray of bool, (image,), optional
        Where the label is known; by default where there is one. A network with a single logit needs
        it, since an image without its only class has no label there.

    Returns
    -------
    Performance
    """
    known = labels.any(axis=1) if labelled is None else labelled
    usable = np.isfinite(logits).all(axis=1) & known
    part, held_out = _held_out(splits, usable)
    chosen = np.flatnonzero(part)
    if not len(chosen):
        return Performance(None, None, held_out, 0)
    logits, labels = logits[chosen].astype(np.float64), labels[chosen]
    own = None if groups is None else groups[chosen]
    exact = ((logits > 0) == labels).all(axis=1) if multilabel else top_right(logits, labels)
    accuracy = group_bootstrap(exact.astype(np.float64), own, resamples=_RESAMPLES)
    scores = logits if multilabel or logits.shape[1] == 1 else _log_odds(logits)
    ranked = group_bootstrap(
        np.arange(len(chosen), dtype=np.float64),
        own,
        statistic=lambda drawn: _macro_auc(scores[drawn.astype(int)], labels[drawn.astype(int)]),
        resamples=_RESAMPLES,
    )
    return Performance(accuracy, ranked, held_out, len(chosen))


def _held_out(splits: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, str]:
    lowered = np.array([str(split).lower() for split in splits])
    held = np.isin(lowered, _HELD_OUT) & usable
    if held.any():
        named = ", ".join(sorted(set(lowered[held])))
        return held, f"split {named}"
    if np.isin(lowered, _TRAINED)[usable].any():
        return usable, "training images, so optimistic"
    return usable, "all labelled images; whether they are held out is not known"


def top_right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the class with the largest logit is a label; of a single logit, whether its sign is right.

    Parameters
    ----------
    logits : ndarray, (image, class)
    labels : ndarray of bool, (image, class)

    Returns
    -------
    ndarray of bool, (image,)
    """
    if logits.shape[1] == 1:
        signs: np.ndarray = (logits[:, 0] > 0) == labels[:, 0]
        return signs
    right: np.ndarray = labels[np.arange(len(labels)), logits.argmax(axis=1)]
    return right


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """``log p / (1 - p)`` of the softmax, (image, class): a logit less the log-sum-exp of the others.

    Unlike the probability it never saturates, so confident images keep their order.
    """
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)
    top = logits.max(axis=1, keepdims=True)
    shares = np.exp(logits - top)
    others = shares.sum(axis=1, keepdims=True) - shares
    others[rows, best] = 1  # a difference of nearly equal numbers, taken from the others below
    odds: np.ndarray = logits - top - np.log(others)
    rest = logits.copy()
    rest[rows, best] = -np.inf
    odds[rows, best] = top[:, 0] - np.logaddexp.reduce(rest, axis=1)
    return odds


def _macro_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have both kinds of images."""
    present = [c for c in range(scores.shape[1]) if 0 < labels[:, c].sum() < len(labels)]
    values = [auc(scores[:, c], labels[:, c]) for c in present]
    return float(np.mean(values)) if values else float("nan")


def performance_finding(performance: Performance) -> Finding:
    """Say how good the classifier is and whether conclusions may rest on it."""
    if performance.auc is None or performance.accuracy is None:
        return Finding(
            "classifier",
            "notice",
            "No readable image has a label, so how good the classifier is on these images is not known; "
            "a wrong preprocessing would not show.",
        )
    estimate, low, high = bounds(performance.auc)
    area = f"AUC {estimate:.3f} [{low:.3f}, {high:.3f}]"
    share = "accuracy {:.3f} [{:.3f}, {:.3f}]".format(*bounds(performance.accuracy))
    where = f"on {performance.labelled} labelled images ({performance.held_out})"
    reason = performance.not_testable
    tail = f" Not testable here: {reason}." if reason else ""
    hint = " Check the preprocessing and the order of the classes." if reason else ""
    note = f" Interval {performance.auc.note}." if performance.auc.note else ""
    return Finding(
        "classifier",
        "warning" if reason else "ok",
        f"The classifier reaches {area} and {share} {where}.{note}{tail}{hint}",
        effect=estimate if np.isfinite(estimate) else None,
        interval=(low, high) if np.isfinite([low, high]).all() else None,
        n=performance.labelled,
        groups=performance.auc.groups,
        unit="AUC",
        control="chance is AUC 0.5",
    )
