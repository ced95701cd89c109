"""One layer's relevance, from the tables of a run: who is compared with whom, on which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.errors import UsageError
from wsss_probe_concepts.regression import make_folds
from wsss_probe_concepts.relevance.evidence import Evidence
from wsss_probe_concepts.relevance.layer import (
    Nulls,
    Regressed,
    layer_table,
    network_scores,
    reasons,
)
from wsss_probe_concepts.relevance.membership import class_images

if TYPE_CHECKING:
    from wsss_probe.contracts import Network, Run
    from wsss_probe_concepts.relevance.probe import LayerRelevance

__all__ = ["Seen", "conclude_layer", "gradient_rows", "group_names", "seen_images", "words"]

RESAMPLES = 1000


def words(names: Any) -> np.ndarray:
    """Text as an array that tables keep."""
    return np.array([str(name) for name in names], dtype=object)


def gradient_rows(network: Run | Network, layer: str) -> xr.Dataset | None:
    """Rows of ``concept-gradients`` at a layer; None where no logit has a gradient there.

    Parameters
    ----------
    network : Run or Network
    layer : str

    Returns
    -------
    Dataset or None
    """
    try:
        return network.rows(f"concept-gradients@{layer}").load()
    except (UsageError, KeyError):
        # The host skips that probe at a layer without a path to the logits, and says so
        return None


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """The images that are looked at, and whose they are.

    Parameters
    ----------
    usable : ndarray of int, (usable,)
        Positions of images with finite features and gradients in the audited network.
    member : ndarray of bool, (usable, class)
    by : {"label", "prediction"}
    groups : ndarray of object or None, (usable,)
        Names of groups as text.
    classes : ndarray of object, (class,)
    """

    usable: np.ndarray
    member: np.ndarray
    by: str
    groups: np.ndarray | None
    classes: np.ndarray

    def evidence(self, network: Run | Network, layer: str) -> Evidence | None:
        """What a network says of these images; None where it has no gradient there."""
        rows = gradient_rows(network, layer)
        if rows is None:
            return None
        features = np.asarray(network.pooled(layer).values, np.float64)[self.usable]
        gradient = rows["gradient"].values[self.usable].astype(np.float64)
        return Evidence(features, gradient, self.member, self.groups)


def seen_images(run: Run, layer: str, rows: xr.Dataset) -> Seen:
    """Find the images that can be looked at, and the classes that they speak for.

    Parameters
    ----------
    run : Run
    layer : str
    rows : Dataset
        Of ``concept-gradients`` at the layer.

    Returns
    -------
    Seen
    """
    finite = np.isfinite(run.pooled(layer).values).all(axis=1)
    finite &= np.isfinite(rows["gradient"].values).all(axis=(1, 2))
    usable = np.flatnonzero(finite)
    names, classes = list(map(str, rows["class"].values)), list(run.survey.classes)
    positions = [classes.index(name) if name in classes else None for name in names]
    member, by = class_images(
        rows["label"].values, run.logits.values, positions, multilabel=run.survey.multilabel
    )
    groups = None if run.groups is None else words(run.groups)[usable]
    return Seen(usable, member[usable], by, groups, words(names))


def group_names(seen: Seen) -> np.ndarray:
    """Names of the groups in sorted order, as tables of sums by group know them."""
    if seen.groups is None:
        return words(seen.usable)
    return np.unique(seen.groups)


def conclude_layer(probe: LayerRelevance, run: Run) -> Conclusion:
    """Score every concept for every class at one layer, in every network.

    Parameters
    ----------
    probe : LayerRelevance
    run : Run

    Returns
    -------
    Conclusion
        The table of :func:`wsss_probe_concepts.relevance.layer.layer_table`, with ``r2_held``, ``r2_low``,
        ``r2_high`` (concept), ``reason`` (class, concept), and by (network, class, concept)
        ``network_tcav`` and ``network_br``, by (network) ``network_kind`` and ``network_alive``. Without
        variables, and with ``why`` among its attributes, where nothing can be scored.
    """
    table, rows = run.summary(f"rcv@{probe.layer}").load(), gradient_rows(run, probe.layer)
    attrs: dict[str, Any] = dict(probe.options)
    if why := _unscored(table, rows, probe):
        return Conclusion(xr.Dataset(attrs=attrs | {"why": why}))
    assert rows is not None  # noqa: S101  # or there was a reason
    seen = seen_images(run, probe.layer, rows)
    own = seen.evidence(run, probe.layer)
    assert own is not None  # noqa: S101  # its rows were read
    regressed = _regressed(table, run, seen, probe.model)
    found = layer_table(own, regressed, _nulls(probe, table, run, seen))
    found = found.assign_coords({"class": seen.classes, "concept": words(table["concept"].values)})
    for name in ("r2_held", "r2_low", "r2_high"):
        found[name] = ("concept", table[name].sel(model=probe.model).values)
    found["reason"] = (("class", "concept"), reasons(found, table["reason"].values))
    found = found.merge(_others(probe, run, seen, regressed, table))
    size = {"images": len(seen.usable), "by": seen.by, "grouped": run.groups is not None}
    return Conclusion(found.assign_attrs(attrs | size))


# -- parts ------------------------------------------------------------------------------------


def _unscored(table: xr.Dataset, rows: xr.Dataset | None, probe: LayerRelevance) -> str:
    """Why nothing can be scored at this layer; empty if it can."""
    if "direction" not in table:
        return "no concept was measured"
    if rows is None:
        return "no logit has a gradient at this layer"
    if "channel" not in table["direction"].dims or table.attrs.get("features", "mean") != "mean":
        return "directions of maxima or sketches are none of channel means, along which gradients are taken"
    if probe.model not in table["model"].values:
        return f"rcv did not fit {probe.model}"
    return ""


def _regressed(table: xr.Dataset, run: Run, seen: Seen, model: str) -> Regressed:
    """Take directions, R² and errors by group from the table of ``rcv``."""
    chosen = table.sel(model=model)
    values = run.concepts["value"].sel(concept=table["concept"].values).values[seen.usable]
    sse = chosen["sse"].sel(network="audited")
    places = {str(name): row for row, name in enumerate(table["group"].values)}
    order = [places.get(str(name), -1) for name in group_names(seen)]
    errors = tuple(_taken(side.transpose("group", "concept").values, order) for side in (sse, table["ssb"]))
    return Regressed(
        np.asarray(values, np.float64),
        np.asarray(chosen["direction"].transpose("concept", "channel").values, np.float64),
        np.asarray(chosen["r2_held"].values, np.float64),
        (errors[0], errors[1]),
    )


def _taken(sums: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Rows of sums in another order; 0 for a group that has none."""
    padded = np.concatenate([np.nan_to_num(sums), np.zeros((1, sums.shape[1]))])
    return np.asarray(padded[list(order)], dtype=np.float64)


def _nulls(probe: LayerRelevance, table: xr.Dataset, run: Run, seen: Seen) -> Nulls:
    """Make nulls on the splits that the held-out R² was measured on."""
    folds = make_folds(
        len(seen.usable),
        seen.groups,
        int(table.attrs.get("folds", 5)),
        int(table.attrs.get("repeats", 2)),
        run.survey.seed,
    )
    scored = min(probe.scored, probe.permutations)
    return Nulls(probe.model, folds, probe.permutations, scored, RESAMPLES, run.survey.seed)


def _others(
    probe: LayerRelevance, run: Run, seen: Seen, regressed: Regressed, table: xr.Dataset
) -> xr.Dataset:
    """Score the same concepts in controls and further networks, on the same images."""
    everyone = [(n, "control") for n in run.controls] + [(n, "network") for n in run.networks]
    if not everyone:
        return xr.Dataset()
    kept = {n.name: own for n, _ in everyone if (own := seen.evidence(n, probe.layer)) is not None}
    held: Mapping[str, np.ndarray] = {
        name: table["network_r2_held"].sel(network=name, model=probe.model).values for name in kept
    }
    found = network_scores(kept, regressed.concepts, held, probe.model)
    undefined = np.full((2, *seen.member.shape[1:], len(regressed.r2)), np.nan)
    scored = [found.get(network.name, undefined) for network, _ in everyone]
    cells = ("network", "class", "concept")
    return xr.Dataset(
        {
            "network_tcav": (cells, np.array([tcav for tcav, _ in scored])),
            "network_br": (cells, np.array([br for _, br in scored])),
            "network_kind": ("network", words(kind for _, kind in everyone)),
            "network_alive": ("network", [bool(network.alive(probe.layer)) for network, _ in everyone]),
        },
        coords={"network": words(network.name for network, _ in everyone)},
    )
