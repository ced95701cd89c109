"""Relevance of every concept for every class at one layer: scores, intervals, nulls, other networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from wsss_probe_concepts.regression import null_r2
from wsss_probe_concepts.relevance.bounds import relevance_bounds, share_bounds
from wsss_probe_concepts.relevance.fits import directions_of, permuted_directions
from wsss_probe_concepts.relevance.nulls import null_range, random_directions, two_sided_p
from wsss_probe_concepts.relevance.sensitivity import bidirectional_relevance, score, sensitivities

if TYPE_CHECKING:
    from wsss_probe_concepts.regression import Folds, Model

__all__ = ["CONSTANT", "Evidence", "Regressed", "Tested", "layer_table", "network_scores", "reasons"]

Floats = NDArray[np.float64]

CONSTANT = (
    "every image has the same sensitivity, as wherever the class is a linear function of these features: "
    "Br divides by its spread and is undefined"
)


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What one network says at one layer.

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
        Means over positions.
    gradient : ndarray of float64, (image, class, channel)
        NaN for images that could not be read.
    member : ndarray of bool, (image, class)
    groups : ndarray or None, (image,)
    """

    features: Floats
    gradient: Floats
    member: NDArray[np.bool_]
    groups: NDArray[Any] | None

    @property
    def size(self) -> Floats:
        """Root mean square of the gradient over the images of each class, (class,); NaN without one."""
        squares = (self.gradient**2).sum(axis=2)
        own = self.member & np.isfinite(squares)
        number = own.sum(axis=0)
        total = np.where(own, squares, 0.0).sum(axis=0)
        return np.asarray(np.sqrt(np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)))


@final
@dataclass(frozen=True, slots=True)
class Regressed:
    """What the regression of this layer's features said of each concept.

    Parameters
    ----------
    concepts : ndarray of float64, (image, concept)
        Measured values; NaN where undefined.
    direction : ndarray of float64, (concept, channel)
    r2 : ndarray of float64, (concept,)
        Held out.
    errors : (ndarray, ndarray), (group, concept)
        Sums by group of squared held-out errors, and of those of the training mean.
    """

    concepts: Floats
    direction: Floats
    r2: Floats
    errors: tuple[Floats, Floats]


@final
@dataclass(frozen=True, slots=True)
class Tested:
    """How nulls are made.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    folds : Folds
        Splits of the held-out R² under permutation.
    permutations, resamples, seed : int
    """

    model: Model
    folds: Folds
    permutations: int
    resamples: int
    seed: int


def layer_table(seen: Evidence, regressed: Regressed, tested: Tested) -> xr.Dataset:
    """Score all concepts for all classes of the audited network.

    Parameters
    ----------
    seen : Evidence
    regressed : Regressed
    tested : Tested

    Returns
    -------
    Dataset
        By (class, concept): ``tcav`` and ``br`` with ``_low``, ``_high`` (95 % over groups), ``_null_low``,
        ``_null_high`` (95 % of permuted concepts); ``sensitivity`` (mean) and ``spread``; ``alignment``, the
        cosine of the direction with the class's mean gradient; ``p_permuted`` and ``p_random`` of the mean
        sensitivity and ``p``, the larger of both; ``p_tcav``, ``p_br`` against permuted concepts and
        ``p_random_tcav``, ``p_random_br``. By (class): ``n``, ``groups``.
    """
    found = score(seen.gradient, regressed.direction, seen.member)
    br = bidirectional_relevance(regressed.r2, found.ratio)
    values: dict[str, Floats] = {"tcav": found.tcav, "br": br, "sensitivity": found.mean, "spread": found.spread}
    values["alignment"] = _alignment(seen, regressed.direction)
    values |= _bounded(seen, regressed, tested)
    values |= _against_permuted(seen, regressed, tested, values)
    values |= _against_random(seen, regressed, tested, values)
    # both nulls must be left behind: each alone has layers at which it is too narrow
    values["p"] = np.maximum(values["p_permuted"], values["p_random"])
    table = xr.Dataset({name: (("class", "concept"), value) for name, value in values.items()})
    table["n"] = ("class", (seen.member & np.isfinite(seen.gradient).all(axis=2)).sum(axis=0))
    table["groups"] = ("class", _group_numbers(seen))
    return table


def network_scores(
    networks: Mapping[str, Evidence], concepts: Floats, r2: Mapping[str, Floats], model: Model
) -> tuple[Floats, Floats]:
    """Score concepts in other networks, each along directions fitted to its own features.

    Parameters
    ----------
    networks : mapping of str to Evidence
    concepts : ndarray of float64, (image, concept)
    r2 : mapping of str to ndarray, (concept,)
        Held out, by network.
    model : {"ols", "ridge", "pca"}

    Returns
    -------
    tcav, br : ndarray of float64, (network, class, concept)
    """
    tcav, br = [], []
    for name, seen in networks.items():
        found = score(seen.gradient, directions_of(seen.features, concepts, model), seen.member)
        tcav.append(found.tcav)
        br.append(bidirectional_relevance(r2[name], found.ratio))
    return np.array(tcav), np.array(br)


def reasons(table: xr.Dataset, by_concept: Iterable[str]) -> NDArray[np.object_]:
    """Say why a cell has no bidirectional relevance; empty where it has.

    Parameters
    ----------
    table : Dataset
        Of :func:`layer_table`.
    by_concept : iterable of str
        Why a concept could not be regressed; empty where it could.

    Returns
    -------
    ndarray of object, (class, concept)
    """
    texts = np.full(table["br"].shape, "", dtype=object)
    for position, why in enumerate(by_concept):
        texts[:, position] = str(why)
    for row, number in enumerate(table["n"].values):
        if number == 0:
            texts[row] = "no image of this class"
    undefined = ~np.isfinite(table["br"].values) & (texts == "")
    flat = undefined & np.isfinite(table["sensitivity"].values)
    texts[flat] = CONSTANT
    texts[undefined & ~flat] = "not estimable"
    return texts


# -- parts ------------------------------------------------------------------------------------


def _alignment(seen: Evidence, direction: Floats) -> Floats:
    """Cosine of each direction with the mean gradient of each class, (class, concept)."""
    own = seen.member & np.isfinite(seen.gradient).all(axis=2)
    means = np.einsum("ic,ick->ck", own, np.where(own[..., None], seen.gradient, 0.0))
    length = np.linalg.norm(means, axis=1, keepdims=True)
    cosine = np.full((len(means), len(direction)), np.nan)
    return np.divide(means @ direction.T, length, out=cosine, where=length > 0)


def _group_numbers(seen: Evidence) -> NDArray[np.intp]:
    """Independent groups with a readable image of each class, (class,)."""
    own = seen.member & np.isfinite(seen.gradient).all(axis=2)
    names = np.arange(len(own)) if seen.groups is None else seen.groups
    return np.array([len(np.unique(names[column])) for column in own.T], dtype=np.intp)


def _bounded(seen: Evidence, regressed: Regressed, tested: Tested) -> dict[str, Floats]:
    """Intervals of both scores over groups."""
    along = sensitivities(seen.gradient, regressed.direction)
    member = seen.member & np.isfinite(seen.gradient).all(axis=2)
    how = {"resamples": tested.resamples, "seed": tested.seed}
    share = share_bounds(along, member, seen.groups, **how)
    relevance = relevance_bounds(along, member, regressed.errors, seen.groups, size=seen.size, **how)
    return {
        "tcav_low": share.low,
        "tcav_high": share.high,
        "br_low": relevance.low,
        "br_high": relevance.high,
    }


def _against_permuted(
    seen: Evidence, regressed: Regressed, tested: Tested, values: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Compare with concepts that were exchanged between groups and fitted in the same way."""
    number, (classes, concepts) = tested.permutations, values["tcav"].shape
    null = {name: np.full((number, classes, concepts), np.nan) for name in ("tcav", "sensitivity", "ratio")}
    blocks = permuted_directions(
        seen.features, regressed.concepts, seen.groups, tested.model, number=number, seed=tested.seed
    )
    for block in blocks:
        count, own, channels = block.directions.shape
        found = score(seen.gradient, block.directions.reshape(-1, channels), seen.member)
        place = np.ix_(range(block.first, block.first + count), range(classes), block.concepts)
        for name, scores in (("tcav", found.tcav), ("sensitivity", found.mean), ("ratio", found.ratio)):
            null[name][place] = scores.reshape(classes, count, own).transpose(1, 0, 2)
    r2 = null_r2(
        seen.features, regressed.concepts, tested.folds, tested.model, number, tested.seed, seen.groups
    )
    null["br"] = bidirectional_relevance(r2[:, None], null["ratio"])
    tcav_low, tcav_high = null_range(null["tcav"])
    br_low, br_high = null_range(null["br"])
    return {
        "p_permuted": two_sided_p(values["sensitivity"], null["sensitivity"], symmetric=True),
        "p_tcav": two_sided_p(values["tcav"], null["tcav"], symmetric=False),
        "p_br": two_sided_p(values["br"], null["br"], symmetric=True),
        "tcav_null_low": tcav_low,
        "tcav_null_high": tcav_high,
        "br_null_low": br_low,
        "br_null_high": br_high,
    }


def _against_random(
    seen: Evidence, regressed: Regressed, tested: Tested, values: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Compare with unit vectors drawn without regard to any concept; all concepts share the draws."""
    channels = seen.features.shape[1]
    drawn = random_directions(channels, tested.permutations, tested.seed)
    found = score(seen.gradient, drawn, seen.member)
    shape = values["tcav"].shape

    def null(scores: Floats) -> Floats:
        return np.broadcast_to(scores.T[..., None], (len(drawn), *shape))

    br = bidirectional_relevance(regressed.r2, null(found.ratio))
    return {
        "p_random": two_sided_p(values["sensitivity"], null(found.mean), symmetric=True),
        "p_random_tcav": two_sided_p(values["tcav"], null(found.tcav), symmetric=False),
        "p_random_br": two_sided_p(values["br"], br, symmetric=True),
    }
