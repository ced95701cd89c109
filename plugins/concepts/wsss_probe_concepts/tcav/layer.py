"""Classification concept vectors of one layer: how well they part images, and whether classes follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from wsss_probe_concepts.regression import make_folds
from wsss_probe_concepts.regression.permuted import permuted_positions
from wsss_probe_concepts.relevance.bounds import share_bounds
from wsss_probe_concepts.relevance.nulls import null_range, random_directions, two_sided_p
from wsss_probe_concepts.relevance.sensitivity import Scores, score, sensitivities
from wsss_probe_concepts.tcav.classifier import concept_vector, held_out_auc, held_out_scores

if TYPE_CHECKING:
    from wsss_probe_concepts.relevance.evidence import Evidence
    from wsss_probe_concepts.tcav.binary import Binary

__all__ = ["Settings", "concept_table", "unit_vector"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How vectors are judged.

    Parameters
    ----------
    permutations : int
        Of the labels, and random directions.
    resamples, seed : int
    """

    permutations: int
    resamples: int
    seed: int


def unit_vector(features: Floats, present: NDArray[np.bool_], known: NDArray[np.bool_], seed: int) -> Floats:
    """Unit concept vector of a fit to all images with a value, (channel,); NaN where there is none."""
    coefficient, _ = concept_vector(features[known], present[known], seed)
    length = float(np.linalg.norm(coefficient))
    return coefficient / length if length > 0 else np.full(len(coefficient), np.nan)


def concept_table(seen: Evidence, concept: Binary, settings: Settings) -> xr.Dataset:
    """Fit, judge and score the vector of one concept.

    Parameters
    ----------
    seen : Evidence
    concept : Binary
        On the images of ``seen``.
    settings : Settings

    Returns
    -------
    Dataset
        ``auc`` with ``auc_low``, ``auc_high``, ``accuracy`` (balanced), both held out; ``without`` and
        ``with`` the number of images; ``direction`` (channel); by (class): ``tcav`` with ``_low``, ``_high``,
        ``_null_low``, ``_null_high``, ``magnitude`` (mean sensitivity), ``alignment`` with ``_low``,
        ``_high``, ``p_permuted`` and ``p_random`` of the magnitude, ``p``, the larger, ``p_tcav`` and
        ``p_random_tcav``, ``n`` and ``groups``.
    """
    vector = unit_vector(seen.features, concept.present, concept.known, settings.seed)[None]
    found = score(seen.gradient, vector, seen.member)
    how = {"resamples": settings.resamples, "seed": settings.seed}
    share = share_bounds(sensitivities(seen.gradient, vector), seen.own, seen.groups, **how)
    low, high = seen.alignment_bounds(vector, **how)
    values = {
        "tcav": found.tcav,
        "tcav_low": share.low,
        "tcav_high": share.high,
        "magnitude": found.mean,
        "alignment": seen.alignment(vector),
        "alignment_low": low,
        "alignment_high": high,
    }
    by_class: dict[str, Any] = {name: ("class", value[:, 0]) for name, value in values.items()}
    nulls = _against_nulls(seen, concept, settings, found)
    counts = {"n": seen.own.sum(axis=0), "groups": seen.group_numbers}
    by_class |= {name: ("class", value) for name, value in (nulls | counts).items()}
    return xr.Dataset({**by_class, **_judged(seen, concept, settings), "direction": ("channel", vector[0])})


def _judged(seen: Evidence, concept: Binary, settings: Settings) -> dict[str, Any]:
    """How well planes part images of groups that they were not fitted to."""
    known = concept.known
    groups = None if seen.groups is None else seen.groups[known]
    folds = make_folds(int(known.sum()), groups, seed=settings.seed)
    scores = held_out_scores(seen.features[known], concept.present[known], folds, settings.seed)
    auc, accuracy = held_out_auc(
        scores, concept.present[known], groups, resamples=settings.resamples, seed=settings.seed
    )
    numbers = dict(zip(("without", "with"), concept.counts, strict=True))
    ends = {"auc_low": float(auc.low), "auc_high": float(auc.high)}
    return {"auc": float(auc.estimate), **ends, "accuracy": accuracy, **numbers}


def _against_nulls(
    seen: Evidence, concept: Binary, settings: Settings, found: Scores
) -> dict[str, NDArray[Any]]:
    """Compare with vectors of labels that were exchanged between groups, and with random directions."""
    number, seed = settings.permutations, settings.seed
    positions = permuted_positions(concept.known, seen.groups, number, seed)
    vectors = [unit_vector(seen.features, concept.present[own], concept.known, seed) for own in positions]
    permuted = score(seen.gradient, np.array(vectors), seen.member)
    drawn = score(seen.gradient, random_directions(seen.features.shape[1], number, seed), seen.member)
    mean, share = found.mean[:, 0], found.tcav[:, 0]
    null_low, null_high = null_range(permuted.tcav.T)
    p_permuted = two_sided_p(mean, permuted.mean.T, symmetric=True)
    p_random = two_sided_p(mean, drawn.mean.T, symmetric=True)
    return {
        "tcav_null_low": null_low,
        "tcav_null_high": null_high,
        "p_permuted": p_permuted,
        "p_random": p_random,
        "p": np.maximum(p_permuted, p_random),
        "p_tcav": two_sided_p(share, permuted.tcav.T, symmetric=False),
        "p_random_tcav": two_sided_p(share, drawn.tcav.T, symmetric=False),
    }
