"""Signs of a channel's weights, and the class that they speak for.

Feng, Hafiane, Laurent, section 2.5: of 512 channels 115 have two positive weights, 108 two negative
ones, 150 favour class 0 and 139 class 1. A weight of exactly 0 is not covered there; here it has a
bucket of its own, so that every channel is counted once.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SIGNS", "channel_signs", "pair_signs", "sign_counts", "weight_classes"]

SIGNS = ("++", "--", "+-", "-+", "zero", "undefined")
"""Sign of a class's own weight, then of the others' mean: both positive, both negative, for this class,
for the others, a weight of exactly 0, a weight that is not finite."""


def weight_classes(weight: np.ndarray) -> np.ndarray:
    """Position of the class with the largest weight, per channel.

    Parameters
    ----------
    weight : ndarray, (class, channel)

    Returns
    -------
    ndarray of int, (channel,)
        -1 where the largest weight is shared or any is not finite. A single logit decides by its sign
        alone: 0 where the weight is positive, -1 elsewhere.

    Examples
    --------
    >>> weight_classes(np.array([[0.2, 0.1, 0.3], [0.1, 0.1, 0.4]])).tolist()
    [0, -1, 1]
    """
    finite = np.isfinite(weight).all(axis=0)
    if not len(weight):
        return np.full(weight.shape[1], -1)
    if len(weight) == 1:
        return np.where(finite & (weight[0] > 0), 0, -1)
    alone = (weight == weight.max(axis=0)).sum(axis=0) == 1
    return np.where(finite & alone, weight.argmax(axis=0), -1)


def pair_signs(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bucket of each pair of weights.

    Parameters
    ----------
    own, other : ndarray, (...)

    Returns
    -------
    ndarray of str (object), (...)
        One of :data:`SIGNS`.

    Examples
    --------
    >>> pair_signs(np.array([0.1, -0.1, 0.0]), np.array([0.2, 0.3, 0.3])).tolist()
    ['++', '-+', 'zero']
    """
    tests = [
        ~(np.isfinite(own) & np.isfinite(other)),
        (own == 0) | (other == 0),
        (own > 0) & (other > 0),
        (own < 0) & (other < 0),
        own > 0,
    ]
    names = ["undefined", "zero", "++", "--", "+-"]
    return np.select(tests, names, default="-+").astype(object)


def _others(weight: np.ndarray) -> np.ndarray:
    """Mean weight of the other classes, (class, channel); the negative of a single logit's own.

    A single logit decides like two logits of opposite sign.
    """
    if len(weight) == 1:
        return -weight
    with np.errstate(invalid="ignore"):  # infinite minus infinite ends as undefined
        return np.asarray((weight.sum(axis=0) - weight) / (len(weight) - 1))


def sign_counts(weight: np.ndarray) -> np.ndarray:
    """Count channels by sign of their own weight and of the mean of the other classes' weights.

    With two classes the mean of the others is the other weight, and class 0's row is the published
    partition.

    Parameters
    ----------
    weight : ndarray, (class, channel)

    Returns
    -------
    ndarray of int, (class, sign)
        In the order of :data:`SIGNS`; every row adds up to the number of channels.
    """
    other = weight[::-1] if len(weight) == 2 else _others(weight)  # exact zeros survive no subtraction
    signs = pair_signs(weight, other)
    return np.stack([(signs == name).sum(axis=1) for name in SIGNS], axis=1)


def channel_signs(weight: np.ndarray) -> np.ndarray:
    """Signs of all weights of each channel, in words.

    Parameters
    ----------
    weight : ndarray, (class, channel)

    Returns
    -------
    ndarray of str (object), (channel,)
        Two classes: one of :data:`SIGNS`. Otherwise the numbers of positive and negative weights and
        of zeros, ``3+ 1-`` or ``2+ 1- 1 zero``; ``undefined`` where a weight is not finite.

    Examples
    --------
    >>> channel_signs(np.array([[0.2, 0.1], [-0.1, 0.1], [0.3, 0.0]])).tolist()
    ['2+ 1-', '2+ 0- 1 zero']
    """
    if len(weight) == 2:
        return pair_signs(weight[0], weight[1])
    counts = zip((weight > 0).sum(axis=0), (weight < 0).sum(axis=0), (weight == 0).sum(axis=0), strict=True)
    words = [f"{above}+ {below}-" + (f" {zeros} zero" if zeros else "") for above, below, zeros in counts]
    return np.where(np.isfinite(weight).all(axis=0), np.array(words, dtype=object), "undefined").astype(
        object
    )
