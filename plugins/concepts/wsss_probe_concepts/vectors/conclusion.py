"""One layer's regressions in every network, on the same images and splits, as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import FEW_GROUPS, permutation_p
from wsss_probe_concepts.regression import (
    bootstrap_directions,
    collinearity,
    held_out_r2,
    make_folds,
    null_r2,
    partial_r2,
    regress,
    squared_errors,
    stability,
)
from wsss_probe_concepts.vectors.features import features_of
from wsss_probe_concepts.vectors.probe import PRIMARY

if TYPE_CHECKING:
    from wsss_probe.contracts import Network, Run
    from wsss_probe_concepts.regression import Folds, Model, Regression
    from wsss_probe_concepts.vectors.probe import Rcv

__all__ = ["conclude"]

_DETERMINED: Final = 1e9
"""Variance inflation factor that stands for a concept which the others determine."""

_R2: Final = ("held", "low", "high", "train", "adjusted")

_LEVELS: Final = (0.1, 0.5)
"""Quantiles of the cosines of bootstrapped directions: what a few resamples can say."""


def conclude(probe: Rcv, run: Run) -> Conclusion:
    """Regress every concept on one layer's features.

    Parameters
    ----------
    probe : Rcv
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        Of the audited network, by (model, concept): ``r2_held``, ``r2_low``, ``r2_high`` (95 % over groups),
        ``r2_train``, ``r2_adjusted``, ``p_value`` (ridge only), ``why`` it is not estimable, ``length``,
        ``intercept``, ``direction`` (model, concept, channel) in raw feature units (the dimension is
        ``feature`` for sketches), and ``angle_mean``, ``angle_max`` between fold directions in radians.
        By (concept): ``noise_r2`` = p/(n - 1), ``n``, ``vif`` (at most 1e9), ``partial_r2``, ``reason``,
        ``unit``, ``meaning``, and ``cosine_low``, ``cosine_median`` of bootstrapped ridge directions with the
        direction (10 % and 50 %). ``predicted`` (image, concept): held-out prediction of ridge, mean
        over repeats, in the concept's unit.

        Of all networks, by (network, model, concept): ``network_r2_held``, ``…_low``, ``…_high``,
        ``…_train``, ``…_adjusted``; ``r2_split`` (network, model, split, concept); ``sse`` (network, model,
        group, concept) and ``ssb`` (group, concept), whose sums over groups give 1 - SSE/SSB; by (network)
        ``network_kind``, ``network_alive``.

        Without variables where no concept was measured.
    """
    attrs: dict[str, Any] = dict(probe.options)
    if not run.concepts.sizes["concept"]:
        return Conclusion(xr.Dataset(attrs=attrs))
    seen = _networks(probe, run)
    shared = _share(probe, run, seen)
    features = features_of(run, probe.layer, probe.features)[shared.usable]
    own = regress(features, shared.values, shared.folds, probe.models)
    parts = [_of_network(own, shared), *(_of_other(probe, shared, one) for one in seen[1:])]
    table = xr.merge(
        [_of_audited(probe, shared, features, own), xr.concat(parts, dim="network")], join="exact"
    )
    names = {
        "model": list(probe.models),
        "concept": shared.concepts["concept"].values,
        "group": shared.membership[0],
    }
    coordinates = {name: np.array(values, dtype=object) for name, values in names.items()}
    table = table.assign(
        network_kind=("network", np.array([one.kind for one in seen], dtype=object)),
        network_alive=("network", np.array([one.alive for one in seen])),
    )
    network = np.array([one.name for one in seen], dtype=object)
    table = table.assign_coords(coordinates | {"network": network})
    audited = table.sel(network="audited", drop=True)
    table = table.assign({f"r2_{end}": audited[f"network_r2_{end}"] for end in _R2})
    return Conclusion(table.assign_attrs(attrs | _size(shared)))


# -- what all networks share --------------------------------------------------------------------

Kind = Literal["audited", "control", "network"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One network whose features are regressed on."""

    name: str
    kind: Kind
    alive: bool
    source: Run | Network


@dataclass(frozen=True, slots=True)
class _Shared:
    """Images, concepts and splits that are the same in all networks.

    Parameters
    ----------
    concepts : Dataset
        Of the run, all images.
    usable : ndarray of int, (usable,)
        Positions of the images on which features are finite in all networks that count.
    groups : ndarray or None, (usable,)
    folds : Folds
    seed : int
    """

    concepts: xr.Dataset
    usable: np.ndarray
    groups: np.ndarray | None
    folds: Folds
    seed: int

    @property
    def values(self) -> np.ndarray:
        """Concepts of the usable images, (usable, concept)."""
        return np.asarray(self.concepts["value"].values[self.usable], dtype=np.float64)

    @property
    def membership(self) -> tuple[np.ndarray, np.ndarray]:
        """Names of the groups as text, and the number of each usable image's group."""
        own = self.usable if self.groups is None else self.groups
        names, member = np.unique(own, return_inverse=True)
        return np.array([str(name) for name in names], dtype=object), member


def _networks(probe: Rcv, run: Run) -> list[_Seen]:
    """List the audited network, its controls, and the further networks."""
    seen = [_Seen("audited", "audited", True, run)]
    seen += [_Seen(c.name, "control", bool(c.alive(probe.layer)), c) for c in run.controls]
    return seen + [_Seen(n.name, "network", bool(n.alive(probe.layer)), n) for n in run.networks]


def _share(probe: Rcv, run: Run, seen: Sequence[_Seen]) -> _Shared:
    """Find the images that all networks have, and divide them once for all."""
    usable = _usable(features_of(one.source, probe.layer, probe.features) for one in seen)
    groups = None if run.groups is None else np.asarray(run.groups)[usable]
    folds = make_folds(len(usable), groups, probe.folds, probe.repeats, run.survey.seed)
    return _Shared(run.concepts.load(), usable, groups, folds, run.survey.seed)


def _usable(features: Iterator[np.ndarray]) -> np.ndarray:
    """Images with finite features everywhere; a network that lacks most of them counts for nothing."""
    usable = np.isfinite(next(features)).all(axis=1)
    for other in features:
        finite = np.isfinite(other).all(axis=1)
        if 2 * (usable & finite).sum() > usable.sum():
            usable &= finite
    return np.flatnonzero(usable)


def _size(shared: _Shared) -> dict[str, Any]:
    """Images and groups behind the numbers, and what must be said of them."""
    count = len(shared.membership[0])
    notes = ["images treated as independent"] if shared.groups is None else []
    notes += [f"unreliable: fewer than {FEW_GROUPS} groups"] if count < FEW_GROUPS else []
    return {"images": len(shared.usable), "groups": count, "note": "; ".join(notes)}


# -- every network ------------------------------------------------------------------------------


def _of_network(regressions: dict[Model, Regression], shared: _Shared) -> xr.Dataset:
    """What is kept of one network: R² by model and concept, by split, and squared errors by group."""
    held = {m: held_out_r2(r, shared.groups, seed=shared.seed) for m, r in regressions.items()}
    names, member = shared.membership
    cells = ("model", "concept")
    parts = {
        "network_r2_held": (cells, [held[m].r2.estimate for m in held]),
        "network_r2_low": (cells, [held[m].r2.low for m in held]),
        "network_r2_high": (cells, [held[m].r2.high for m in held]),
        "network_r2_train": (cells, [r.r2_train for r in regressions.values()]),
        "network_r2_adjusted": (cells, [r.r2_adjusted for r in regressions.values()]),
        "r2_split": (("model", "split", "concept"), [held[m].split_r2 for m in held]),
        "sse": (
            ("model", "group", "concept"),
            [_by_group(squared_errors(r)[0], member, len(names)) for r in regressions.values()],
        ),
    }
    return xr.Dataset({name: (dims, np.stack(arrays)) for name, (dims, arrays) in parts.items()})


def _of_other(probe: Rcv, shared: _Shared, one: _Seen) -> xr.Dataset:
    """Regress on the features of a control or further network."""
    features = features_of(one.source, probe.layer, probe.features)[shared.usable]
    return _of_network(regress(features, shared.values, shared.folds, probe.models), shared)


def _by_group(values: np.ndarray, member: np.ndarray, count: int) -> np.ndarray:
    """Sum of the defined values of each group, (group, concept); NaN where a group has none."""
    defined = ~np.isnan(values)
    sums, known = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums, member, np.where(defined, values, 0.0))
    np.add.at(known, member, defined)
    return np.where(known > 0, sums, np.nan)


# -- the audited network ------------------------------------------------------------------------


def _of_audited(
    probe: Rcv, shared: _Shared, features: np.ndarray, regressions: dict[Model, Regression]
) -> xr.Dataset:
    """What is said of the audited network alone: directions and their stability, p, partial R²."""
    primary, values = regressions[PRIMARY], shared.values
    cells, along = ("model", "concept"), "feature" if probe.features == "projected" else "channel"
    angles = [stability(one) for one in regressions.values()]
    low, median = _cosines(probe, features, shared)
    each = {
        "direction": ((*cells, along), [one.direction for one in regressions.values()]),
        "length": (cells, [one.length for one in regressions.values()]),
        "intercept": (cells, [one.intercept for one in regressions.values()]),
        "why": (cells, [_reasons(one, shared.concepts) for one in regressions.values()]),
        "angle_mean": (cells, [one.mean for one in angles]),
        "angle_max": (cells, [one.largest for one in angles]),
        "p_value": (cells, [_p(probe, shared, features, one) for one in regressions.values()]),
    }
    one = {
        "noise_r2": primary.rank / np.maximum(primary.n - 1, 1),
        "n": primary.n,
        "vif": np.minimum(collinearity(values), _DETERMINED),
        "partial_r2": partial_r2(features, values, shared.folds, PRIMARY),
        "reason": _reasons(primary, shared.concepts),
        "unit": shared.concepts["unit"].values,
        "meaning": shared.concepts["meaning"].values,
        "cosine_low": low,
        "cosine_median": median,
    }
    names, member = shared.membership
    table = xr.Dataset(
        {name: (dims, np.stack(arrays)) for name, (dims, arrays) in each.items()}
        | {name: ("concept", np.asarray(values)) for name, values in one.items()}
        | {"predicted": (("image", "concept"), _predicted(primary, shared))}
        | {"ssb": (("group", "concept"), _by_group(squared_errors(primary)[1], member, len(names)))}
    )
    return table.assign_coords({along: np.arange(features.shape[1])})


def _p(probe: Rcv, shared: _Shared, features: np.ndarray, one: Regression) -> np.ndarray:
    """Share of permuted concepts that are predicted as well, (concept,); NaN where it is not tested."""
    if one.model != PRIMARY or not probe.permutations:
        return np.full(len(one.n), np.nan)
    null = null_r2(
        features, shared.values, shared.folds, PRIMARY, probe.permutations, shared.seed, shared.groups
    )
    return permutation_p(held_out_r2(one, shared.groups, resamples=0).r2.estimate, null)


def _cosines(probe: Rcv, features: np.ndarray, shared: _Shared) -> np.ndarray:
    """Quantiles of the cosines of bootstrapped directions, (quantile, concept)."""
    if not probe.bootstraps:
        return np.full((len(_LEVELS), shared.values.shape[1]), np.nan)
    found = bootstrap_directions(
        features, shared.values, PRIMARY, shared.groups, probe.bootstraps, shared.seed
    )
    quantiles = np.full((len(_LEVELS), found.shape[1]), np.nan)
    known = ~np.isnan(found).all(axis=0)
    quantiles[:, known] = np.nanquantile(found[:, known], _LEVELS, axis=0)
    return quantiles


def _predicted(primary: Regression, shared: _Shared) -> np.ndarray:
    """Held-out prediction of every image of the run, mean over repeats, (image, concept)."""
    predicted = np.full(shared.concepts["value"].shape, np.nan)
    if len(primary.residual):
        predicted[shared.usable] = primary.residual.mean(axis=0) + shared.values
    return predicted


def _reasons(one: Regression, concepts: xr.Dataset) -> np.ndarray:
    """Why concepts are not estimable, with why they are undefined where that is known."""
    told = zip(one.reason, concepts["reason"].values, one.n, strict=True)
    reasons = [_reason(str(reason), str(cause), int(n)) for reason, cause, n in told]
    return np.array(reasons, dtype=object)


def _reason(reason: str, cause: str, n: int) -> str:
    """Why a concept is not estimable: where no image has it, what it is that they lack."""
    if not reason or not cause:
        return reason
    return f"{reason} ({cause})" if n else cause
