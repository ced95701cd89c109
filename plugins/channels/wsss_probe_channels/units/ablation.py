"""What taking one channel away does to logits and decisions, exactly, under a head that averages maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

__all__ = ["Effects", "Labels", "linear_effects", "right"]

_CHUNK = 1 << 20
"""Entries (image, channel) of a block: 8 MiB of float64 per array."""


@final
@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of the images.

    Parameters
    ----------
    sets : ndarray of bool, (image, class)
    known : ndarray of bool, (image,)
    multilabel : bool
        Each class is decided by its own sign instead of against the others.
    """

    sets: np.ndarray
    known: np.ndarray
    multilabel: bool


@final
@dataclass(frozen=True, slots=True)
class Effects:
    """What each channel's removal does.

    Parameters
    ----------
    logit_zero, logit_mean : ndarray, (channel, class)
        Mean change of the logit when the channel is set to zero, and to its mean over the data.
    size_zero, size_mean : ndarray, (channel, class)
        Mean absolute change.
    spread : ndarray, (class,)
        Standard deviation of the logit over images.
    flips_zero, flips_mean : ndarray of int8, (image, channel)
        By labelled image: 1 where the decision becomes right, -1 where it becomes wrong.
    right : ndarray of bool, (image,)
        By labelled image: whether the decision is right as it is.
    used, labelled : ndarray of int, (image,)
        Positions of the images that count, and of the labelled ones among them.
    mean_size : callable
        ``mean_size(mask of bool, (used,)) -> (channel, class)``: ``size_mean`` over some of the images.
    sizes : callable
        ``sizes(channel, class) -> (used,)``: the absolute changes behind one entry of ``size_mean``.
    """

    logit_zero: np.ndarray
    logit_mean: np.ndarray
    size_zero: np.ndarray
    size_mean: np.ndarray
    spread: np.ndarray
    flips_zero: np.ndarray
    flips_mean: np.ndarray
    right: np.ndarray
    used: np.ndarray
    labelled: np.ndarray
    mean_size: Callable[[np.ndarray], np.ndarray]
    sizes: Callable[[int, int], np.ndarray]


def right(logits: np.ndarray, labels: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Whether the decision agrees with the labels.

    Parameters
    ----------
    logits : ndarray, (class, image, ...)
    labels : ndarray of bool, (image, class)
    multilabel : bool
        Every class by its sign; so too for a single logit. Otherwise the class with the largest logit,
        the first of equals, must be a label.

    Returns
    -------
    ndarray of bool, (image, ...)
    """
    shape = (len(labels), *[1] * (logits.ndim - 2))
    truths = [labels[:, position].reshape(shape) for position in range(len(logits))]
    if multilabel or len(logits) == 1:
        agreed = np.ones(logits.shape[1:], dtype=bool)
        for values, truth in zip(logits, truths, strict=True):
            agreed &= (values > 0) == truth
        return agreed
    best = logits[0].copy()
    agreed = np.broadcast_to(truths[0], best.shape).copy()
    for values, truth in zip(logits[1:], truths[1:], strict=True):
        better = values > best
        np.copyto(best, values, where=better)
        np.copyto(agreed, np.broadcast_to(truth, best.shape), where=better)
    return agreed


def linear_effects(pooled: np.ndarray, weight: np.ndarray, logits: np.ndarray, labels: Labels) -> Effects:
    """Effects under ``logits = weight @ pooled + bias``, without running the network.

    Setting channel k to the value v changes logit c of image n by ``-w_ck (GAP_nk - v)``.

    Parameters
    ----------
    pooled : ndarray, (image, channel)
        Spatial means of the maps; NaN for images that do not count.
    weight : ndarray, (class, channel)
    logits : ndarray, (image, class)
    labels : Labels

    Returns
    -------
    Effects
    """
    used = np.flatnonzero(np.isfinite(pooled).all(axis=1) & np.isfinite(logits).all(axis=1))
    gap, own = pooled[used].astype(np.float64), logits[used].astype(np.float64)
    mean = gap.mean(axis=0) if len(used) else np.full(gap.shape[1], np.nan)
    strength = np.abs(weight).T
    known = labels.known[used]
    flips = [
        _flips(gap[known], value, weight, own[known], _of(labels, used[known])) for value in (0 * mean, mean)
    ]

    def mean_size(images: np.ndarray) -> np.ndarray:
        size: np.ndarray = _mean(np.abs(gap[images] - mean))[:, None] * strength
        return size

    def sizes(channel: int, position: int) -> np.ndarray:
        changes: np.ndarray = np.abs(weight[position, channel] * (gap[:, channel] - mean[channel]))
        return changes

    return Effects(
        logit_zero=-_mean(gap)[:, None] * weight.T + 0.0,  # no -0
        logit_mean=-_mean(gap - mean)[:, None] * weight.T + 0.0,
        size_zero=_mean(np.abs(gap))[:, None] * strength,
        size_mean=mean_size(np.ones(len(used), dtype=bool)),
        spread=own.std(axis=0) if len(used) else np.full(len(weight), np.nan),
        flips_zero=flips[0],
        flips_mean=flips[1],
        right=right(own[known].T, labels.sets[used[known]], multilabel=labels.multilabel),
        used=used,
        labelled=used[known],
        mean_size=mean_size,
        sizes=sizes,
    )


def _of(labels: Labels, images: np.ndarray) -> Labels:
    return Labels(labels.sets[images], labels.known[images], labels.multilabel)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over images, NaN without any."""
    mean: np.ndarray = values.mean(axis=0) if len(values) else np.full(values.shape[1:], np.nan)
    return mean


def _flips(
    gap: np.ndarray, value: np.ndarray, weight: np.ndarray, logits: np.ndarray, labels: Labels
) -> np.ndarray:
    """Compare decisions with and without each channel, (image, channel), a block of images at a time."""
    flips = np.zeros(gap.shape, dtype=np.int8)
    block = max(1, _CHUNK // max(1, gap.shape[1] * len(weight)))
    for start in range(0, len(gap), block):
        part = slice(start, start + block)
        taken = gap[part] - value
        after = logits[part].T[..., None] - weight[:, None, :] * taken
        now = right(after, labels.sets[part], multilabel=labels.multilabel)
        before = right(logits[part].T, labels.sets[part], multilabel=labels.multilabel)
        flips[part] = now.astype(np.int8) - before.astype(np.int8)[:, None]
    return flips
