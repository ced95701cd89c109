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
    from wsss_probe_concepts.relevance.evidence import Evidence

__all__ = ["CONSTANT", "Nulls", "Regressed", "layer_table", "network_scores", "reasons"]

Floats = NDArray[np.float64]

CONSTANT = (
    "every image has the same sensitivity, as wherever the class is a linear function of these features: "
    "Br divides by its spread and is undefined"
)


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
class Nulls:
    """How nulls are made.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    folds : Folds
        Splits of the held-out R² under permutation.
    permutations : int
        Of concepts, and random directions, for p of the mean sensitivity.
    scored : int
        How many of them get a TCAV score and a Br as well: these ask for every image and for fits to
        every training part, and only their range is drawn.
    resamples, seed : int
    """

    model: Model
    folds: Folds
    permutations: int
    scored: int
    resamples: int
    seed: int


def layer_table(seen: Evidence, regressed: Regressed, nulls: Nulls) -> xr.Dataset:
    """Score all concepts for all classes of the audited network.

    Parameters
    ----------
    seen : Evidence
    regressed : Regressed
    nulls : Nulls

    Returns
    -------
    Dataset
        By (class, concept): ``tcav`` and ``br`` with ``_low``, ``_high`` (95 % over groups), ``_null_low``,
        ``_null_high`` (95 % of permuted concepts); ``sensitivity`` (mean) and ``spread``; ``alignment``, the
        cosine of the direction with the class's mean gradient; ``p_permuted`` and ``p_random`` of the mean
        sensitivity and ``p``, the larger of both; ``p_tcav``, ``p_br`` against permuted concepts and
        ``p_random_tcav``, ``p_random_br``; ``br_random_low``, ``br_random_high``, 95 % of random directions
        with the concept's R². By (class): ``n``, ``groups``.
    """
    found = score(seen.gradient, regressed.direction, seen.member)
    br = bidirectional_relevance(regressed.r2, found.ratio)
    values: dict[str, Floats] = {
        "tcav": found.tcav,
        "br": br,
        "sensitivity": found.mean,
        "spread": found.spread,
    }
    values["alignment"] = seen.alignment(regressed.direction)
    values |= _bounded(seen, regressed, nulls)
    values |= _against_permuted(seen, regressed, nulls, values)
    values |= _against_random(seen, regressed, nulls, values)
    # both nulls must be left behind: each alone has layers at which it is too narrow
    values["p"] = np.maximum(values["p_permuted"], values["p_random"])
    table = xr.Dataset({name: (("class", "concept"), value) for name, value in values.items()})
    table["n"] = ("class", seen.own.sum(axis=0))
    table["groups"] = ("class", seen.group_numbers)
    return table


def network_scores(
    networks: Mapping[str, Evidence], concepts: Floats, r2: Mapping[str, Floats], model: Model
) -> dict[str, tuple[Floats, Floats]]:
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
    dict of str to (ndarray, ndarray), (class, concept)
        TCAV score and bidirectional relevance of each network.
    """
    scores = {
        name: score(seen.gradient, directions_of(seen.features, concepts, model), seen.member)
        for name, seen in networks.items()
    }
    return {n: (own.tcav, bidirectional_relevance(r2[n], own.ratio)) for n, own in scores.items()}


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


def _bounded(seen: Evidence, regressed: Regressed, nulls: Nulls) -> dict[str, Floats]:
    """Intervals of both scores over groups."""
    along = sensitivities(seen.gradient, regressed.direction)
    how = {"resamples": nulls.resamples, "seed": nulls.seed}
    share = share_bounds(along, seen.own, seen.groups, **how)
    relevance = relevance_bounds(along, seen.own, regressed.errors, seen.groups, size=seen.size, **how)
    return {
        "tcav_low": share.low,
        "tcav_high": share.high,
        "br_low": relevance.low,
        "br_high": relevance.high,
    }


def _against_permuted(
    seen: Evidence, regressed: Regressed, nulls: Nulls, values: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Compare with concepts that were exchanged between groups and fitted in the same way."""
    classes, concepts = values["tcav"].shape
    average = np.full((nulls.permutations, classes, concepts), np.nan)
    null = {name: np.full((nulls.scored, classes, concepts), np.nan) for name in ("tcav", "ratio")}
    means = seen.mean_gradient
    how = {"number": nulls.permutations, "seed": nulls.seed}
    for block in permuted_directions(seen.features, regressed.concepts, seen.groups, nulls.model, **how):
        numbers = block.first + np.arange(len(block.directions))
        average[np.ix_(numbers, np.arange(classes), block.concepts)] = (block.directions @ means.T).transpose(
            0, 2, 1
        )
        few = numbers < nulls.scored
        _score_block(
            seen, block.directions[few], null, np.ix_(numbers[few], np.arange(classes), block.concepts)
        )
    r2 = null_r2(
        seen.features, regressed.concepts, nulls.folds, nulls.model, nulls.scored, nulls.seed, seen.groups
    )
    null["br"] = bidirectional_relevance(r2[:, None], null["ratio"])
    found = {"p_permuted": two_sided_p(values["sensitivity"], average, symmetric=True)}
    for name in ("tcav", "br"):
        found[f"p_{name}"] = two_sided_p(values[name], null[name], symmetric=name == "br")
        found[f"{name}_null_low"], found[f"{name}_null_high"] = null_range(null[name])
    return found


def _score_block(seen: Evidence, directions: Floats, null: Mapping[str, Floats], place: Any) -> None:
    """Put the scores of some permutations, (permutation, concept, channel), in their place."""
    count, concepts, channels = directions.shape
    if not count:
        return
    found = score(seen.gradient, directions.reshape(-1, channels), seen.member)
    for name, scores in (("tcav", found.tcav), ("ratio", found.ratio)):
        null[name][place] = scores.reshape(-1, count, concepts).transpose(1, 0, 2)


def _against_random(
    seen: Evidence, regressed: Regressed, nulls: Nulls, values: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Compare with unit vectors drawn without regard to any concept; all concepts share the draws."""
    drawn = random_directions(seen.features.shape[1], nulls.permutations, nulls.seed)
    found = score(seen.gradient, drawn[: nulls.scored], seen.member)
    average = (drawn @ seen.mean_gradient.T)[..., None]
    tcav, ratio = (scores.T[..., None] for scores in (found.tcav, found.ratio))
    br = bidirectional_relevance(regressed.r2, ratio)
    low, high = null_range(np.broadcast_to(br, (len(br), *values["br"].shape)))
    return {
        "p_random": two_sided_p(values["sensitivity"], average, symmetric=True),
        "p_random_tcav": two_sided_p(values["tcav"], tcav, symmetric=False),
        "p_random_br": two_sided_p(values["br"], br, symmetric=True),
        "br_random_low": low,
        "br_random_high": high,
    }
