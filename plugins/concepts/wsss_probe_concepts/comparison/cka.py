"""Linear centred kernel alignment between networks: debiased, with groups as the unit, and jackknifed.

Whether two networks represent images alike is asked of the similarities between images, so channels need
not correspond. The estimator that is usually published rises with the number of channels over the number
of images, to nearly 1 for unrelated features; this one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["Alignment", "Represented", "alignment", "chance_bound", "difference_interval", "represented"]

_FEWEST = 4
"""Distinct groups in a term of the unbiased estimator."""


@final
@dataclass(frozen=True, slots=True)
class Represented:
    """Features of one network, as the estimator reads them.

    Parameters
    ----------
    values : ndarray of float64, (image, factor)
        Centred and scaled features, or as many factors as images with the same inner products.
    group : ndarray of int, (image,)
        Number of each image's group.
    means : ndarray of float64, (group, factor)
        Means of the images of each group.
    """

    values: Floats
    group: NDArray[np.intp]
    means: Floats

    @property
    def weight(self) -> Floats:
        """One over the size of each image's group, (image,): every group counts the same."""
        weight: Floats = 1 / np.bincount(self.group)[self.group]
        return weight


@final
@dataclass(frozen=True, slots=True)
class Alignment:
    """CKA of every two of some networks at one layer.

    Parameters
    ----------
    estimate, low, high : ndarray of float64, (network, network)
        Debiased linear CKA in [-1, 1] with its 95 % jackknife interval; NaN where undefined.
    biased : ndarray of float64, (network, network)
        The usual estimator, for comparison only.
    without : ndarray of float64, (group, network, network)
        The estimate without each group.
    """

    estimate: Floats
    low: Floats
    high: Floats
    biased: Floats
    without: Floats


def represented(features: ArrayLike, groups: ArrayLike | None = None) -> Represented:
    """Prepare the features of one network.

    Parameters
    ----------
    features : array of float, (image, channel)
        Defined for every image.
    groups : array, (image,), optional
        Unit of independence of each image; without it each image is its own.

    Returns
    -------
    Represented
    """
    values = np.asarray(features, dtype=np.float64)
    images = len(values)
    group = np.arange(images) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    centred = values - values.mean(axis=0) if images else values
    largest = float(np.abs(values).max(initial=0))
    spread = float(np.abs(centred).max(initial=0))
    # What centring leaves of a constant is rounding; it must not be scaled up to a representation
    constant = not spread > largest * 1e-12
    centred = np.full_like(centred, np.nan) if constant else centred / spread
    if centred.shape[1] > images and not constant:
        triangle = np.asarray(np.linalg.qr(centred.T, mode="r"))
        centred = np.ascontiguousarray(triangle.T)  # the same inner products
    sums = np.zeros((int(group.max(initial=-1)) + 1, centred.shape[1]))
    np.add.at(sums, group, centred)
    return Represented(centred, group, sums / np.bincount(group)[:, None])


def alignment(networks: Sequence[Represented]) -> Alignment:
    """Measure how alike every two networks represent the same images.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K and L the inner products of images in either network
    (Kornblith et al. 2019, arXiv:1905.00414, section 3) and the unbiased HSIC of Song et al. (2012, JMLR 13,
    equation 5; Nguyen et al. 2021, arXiv:2010.15327). That estimator is a mean over tuples of distinct
    images. Where groups are given, tuples are of distinct groups and the images of a group share one vote:
    two tiles of a slide resemble each other in every network, and would otherwise raise CKA as the diagonal
    does.

    The interval leaves out one group at a time (jackknife, Efron and Tibshirani 1993, chapter 11) on the
    scale of Fisher's z, Student's t with groups less one degrees of freedom; a bootstrap would draw an image
    twice and compare it with itself.

    Parameters
    ----------
    networks : sequence of Represented
        Of the same images and groups.

    Returns
    -------
    Alignment
        NaN with fewer than four groups or where features are constant; no interval with fewer than five.
    """
    count = len(networks)
    groups = len(networks[0].means) if networks else 0
    inner = np.full((groups + 1, count, count), np.nan)
    biased = np.full((count, count), np.nan)
    for a, b in combinations_with_replacement(range(count), 2):
        inner[:, a, b] = inner[:, b, a] = _hsic(networks[a], networks[b])
        product = networks[a].values.T @ networks[b].values
        biased[a, b] = biased[b, a] = float((product**2).sum())
    whole, without = _normalised(inner[0]), _normalised(inner[1:])
    low, high = _jackknife(whole, without)
    return Alignment(whole, low, high, _normalised(biased), without)


def chance_bound(groups: int) -> float:
    """CKA that images exchanged between the two networks exceed in at most one of twenty orders.

    Over all orders of n images the debiased CKA has mean 0 and variance 2 / (n (n - 3)), whatever the
    features: its matrices are centred so that rows sum to 0, and the permutation variance of such a product
    (Mantel 1967) depends on n alone. By Cantelli's inequality P(CKA >= t) <= variance / (variance + t^2).

    Parameters
    ----------
    groups : int
        Independent groups; for groups of several images it errs on the safe side.

    Returns
    -------
    float
        NaN below four groups.

    Examples
    --------
    >>> round(chance_bound(1000), 4), round(chance_bound(50), 2)
    (0.0062, 0.13)
    """
    if groups < _FEWEST:
        return float("nan")
    return float(np.sqrt(19 * 2 / (groups * (groups - 3))))


def difference_interval(first: Floats, second: Floats) -> Floats:
    """Half the width of the 95 % jackknife interval of a difference of two CKAs over the same groups.

    Parameters
    ----------
    first, second : ndarray of float64, (group, network, network)
        As :attr:`Alignment.without`.

    Returns
    -------
    ndarray of float64, (network, network)
        NaN where either is undefined.
    """
    if len(first) <= _FEWEST:
        return np.full(first.shape[1:], np.nan)
    return _reach(first - second)


# -- parts ------------------------------------------------------------------------------------


def _normalised(inner: Floats) -> Floats:
    """Divide inner products (..., network, network) by both norms; NaN where one is not positive."""
    squares = np.diagonal(inner, axis1=-2, axis2=-1)
    norms = np.sqrt(np.where(squares > 0, squares, np.nan))
    ratio: Floats = inner / (norms[..., :, None] * norms[..., None, :])
    return ratio


def _jackknife(whole: Floats, without: Floats) -> tuple[Floats, Floats]:
    """Interval from the estimates without each group, on Fisher's z."""
    if len(without) <= _FEWEST:
        return np.full_like(whole, np.nan), np.full_like(whole, np.nan)
    edge = 1 - 1e-12  # a network with itself: the interval is the point 1
    z, others = (np.arctanh(np.clip(values, -edge, edge)) for values in (whole, without))
    reach = _reach(others)
    return np.minimum(np.tanh(z - reach), whole), np.maximum(np.tanh(z + reach), whole)


def _reach(without: Floats) -> Floats:
    """Half the width of a 95 % interval, from a statistic without each group, (group, ...)."""
    from scipy.stats import t

    groups = len(without)
    error = np.sqrt((groups - 1) / groups * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    return np.asarray(t.ppf(0.975, groups - 1) * error)


def _hsic(first: Represented, second: Represented) -> Floats:
    """Unbiased HSIC, of all groups and without each one, (1 + group,).

    Its three terms are means over ordered tuples of distinct groups g, h, a, b, where i is an image of g, j
    one of h, and a bar is the mean over a group: of k(i, j) l(i, j), of kbar(i, h) lbar(i, a), and of
    kbar(g, h) lbar(a, b). All are sums that only need products of features, never all pairs of images.
    """
    groups = len(first.means)
    pairs, triples, fours = (_with_deletions(*term) for term in _terms(first, second))
    left = np.array([groups, *[groups - 1] * groups], dtype=np.float64)
    tuples = [np.prod([left - taken for taken in range(length)], axis=0) for length in (2, 3, 4)]
    enough = left >= _FEWEST
    two, three, four = (np.where(enough, number, np.nan) for number in tuples)
    found: Floats = pairs / two - 2 * triples / three + fours / four
    return found


def _with_deletions(whole: float, lost: Floats) -> Floats:
    """A sum, and what is left of it without each group, (1 + group,)."""
    return np.concatenate([[whole], whole - lost])


def _terms(first: Represented, second: Represented) -> tuple[tuple[float, Floats], ...]:
    """Sums of the three terms over tuples of distinct groups, and what each loses with a group."""
    x, y, weight, group = first.values, second.values, first.weight, first.group
    across = (x * weight[:, None]).T @ y
    between = first.means.T @ second.means

    def by_group(values: Floats) -> Floats:
        return np.asarray(np.bincount(group, weight * values, minlength=len(first.means)), dtype=np.float64)

    own_x, own_y = _dot(x, first.means[group]), _dot(y, second.means[group])
    rest_x, rest_y = x @ first.means.sum(0) - own_x, y @ second.means.sum(0) - own_y
    pairs = by_group(_dot(x @ across, y)) - _within(first, second)
    triples = by_group(rest_x * rest_y - _dot(x @ between, y) + own_x * own_y)
    # What a group lends to the sums of others: to one factor, to the other, and to both
    lent_x = first.means @ (x.T @ (weight * rest_y)) - by_group(own_x * rest_y)
    lent_y = second.means @ (y.T @ (weight * rest_x)) - by_group(own_y * rest_x)
    both = _dot(first.means @ across, second.means) - by_group(own_x * own_y)
    return (
        (float(pairs.sum()), 2 * pairs),
        (float(triples.sum()), triples + lent_x + lent_y - 2 * both),
        _four(first.means, second.means, between),
    )


def _four(x: Floats, y: Floats, between: Floats) -> tuple[float, Floats]:
    """Sum of kbar(g, h) lbar(a, b) over distinct groups, by inclusion and exclusion; and the losses."""
    norm_x, norm_y = _dot(x, x), _dot(y, y)
    row_x, row_y = x @ x.sum(0) - norm_x, y @ y.sum(0) - norm_y
    crossed_x = x @ (x.T @ row_y) - norm_x * row_y
    crossed_y = y @ (y.T @ row_x) - norm_y * row_x
    both = _dot(x @ between, y) - norm_x * norm_y

    total_x, total_y, products = row_x.sum(), row_y.sum(), (row_x * row_y).sum()
    whole = _inclusion(total_x, total_y, products, both.sum())
    left = _inclusion(
        total_x - 2 * row_x,
        total_y - 2 * row_y,
        products - row_x * row_y - crossed_x - crossed_y + both,
        both.sum() - 2 * both,
    )
    return float(whole), whole - left


def _inclusion(total_x: Floats, total_y: Floats, products: Floats, both: Floats) -> Floats:
    """Take from all pairs of entries those that share one group, or two."""
    found: Floats = total_x * total_y - 4 * products + 2 * both
    return found


def _within(first: Represented, second: Represented) -> Floats:
    """Weighted sum of k l over the pairs of images of each group, an image with itself included, (group,)."""
    sizes = np.bincount(first.group)
    if (sizes == 1).all():
        return (_dot(first.values, first.values) * _dot(second.values, second.values))[
            np.argsort(first.group)
        ]
    order = np.argsort(first.group, kind="stable")
    found = np.empty(len(sizes))
    for place, members in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        x, y = first.values[members], second.values[members]
        found[place] = float(((x @ x.T) * (y @ y.T)).mean())
    return found


def _dot(first: Floats, second: Floats) -> Floats:
    """Inner product of corresponding rows."""
    product: Floats = np.einsum("ij,ij->i", first, second)
    return product
