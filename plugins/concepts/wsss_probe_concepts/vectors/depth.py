"""All layers in one table: R² over depth for every network, with q-values over concepts and layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import benjamini_hochberg
from wsss_probe_concepts.vectors.depth_findings import findings, nothing_measured
from wsss_probe_concepts.vectors.features import concept_layers
from wsss_probe_concepts.vectors.probe import PRIMARY

if TYPE_CHECKING:
    from wsss_probe.contracts import Run
    from wsss_probe_concepts.vectors.depth_probe import ConceptDepth

__all__ = ["conclude", "depth_table", "tables_by_layer"]

_OF_NETWORKS = ("held", "low", "high", "train", "adjusted")
_OF_CONCEPTS = ("noise_r2", "n", "vif", "partial_r2", "reason", "cosine_low", "cosine_median")
_OF_MODELS = ("why", "angle_mean", "angle_max")


def conclude(probe: ConceptDepth, run: Run) -> Conclusion:
    """Conclude over all layers.

    Parameters
    ----------
    probe : ConceptDepth
    run : Run

    Returns
    -------
    Conclusion
        An empty table and one notice where no concept was measured.
    """
    tables = tables_by_layer(run)
    if not tables:
        return Conclusion(xr.Dataset(attrs=dict(probe.options)), (nothing_measured(run),))
    table = depth_table(tables).assign_attrs(probe.options)
    return Conclusion(table, findings(table, run))


def tables_by_layer(run: Run) -> dict[str, xr.Dataset]:
    """Read what ``rcv`` concluded, by layer in the order of execution; layers without concepts left out."""
    named = {layer: f"rcv@{layer}" for layer in concept_layers(run.survey)}
    read = {layer: run.summary(name) for layer, name in named.items() if name in run.summary_names}
    return {layer: table.load() for layer, table in read.items() if "network_r2_held" in table}


def depth_table(tables: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put the layers side by side.

    Parameters
    ----------
    tables : mapping of str to Dataset
        Summaries of ``rcv``, by layer, in the order of execution.

    Returns
    -------
    Dataset
        By (layer, network, model, concept): ``r2_held``, ``r2_low``, ``r2_high`` (95 %), ``r2_train``,
        ``r2_adjusted``, ``split_mean`` and ``split_error``, the mean over splits of the R² of each and
        its standard error (sample standard deviation over the root of their number). By (layer,
        network): ``alive``. By (layer, concept): ``p_value``, ``q_value`` over all cells that were
        tested, ``noise_r2`` = p/(n - 1), ``n``, ``vif``, ``partial_r2``, ``reason``, and the cosines
        of bootstrapped directions; by (layer, model, concept) ``why`` a model is not estimable, and
        angles between fold directions. By (network): ``kind``; by (concept): ``unit``, ``meaning``.
    """
    first = next(iter(tables.values()))
    joined = xr.concat(
        [_layer_part(table) for table in tables.values()],
        dim=xr.DataArray(np.array(list(tables), dtype=object), dims="layer", name="layer"),
        join="exact",
        coords="minimal",
        compat="override",
    )
    once: dict[str, Any] = {
        "kind": ("network", first["network_kind"].values),
        "unit": ("concept", first["unit"].values),
        "meaning": ("concept", first["meaning"].values),
    }
    q = benjamini_hochberg(joined["p_value"].values)
    kept = ("images", "groups", "note", "folds", "repeats", "permutations", "features")
    attrs = {key: first.attrs[key] for key in kept}
    return joined.assign(once | {"q_value": (("layer", "concept"), q)}).assign_attrs(attrs)


def _layer_part(table: xr.Dataset) -> xr.Dataset:
    """Take from one layer what is compared over layers."""
    splits = table["r2_split"]
    count = splits.notnull().sum("split")
    parts = {
        **{f"r2_{name}": table[f"network_r2_{name}"] for name in _OF_NETWORKS},
        **{name: table[name] for name in (*_OF_CONCEPTS, *_OF_MODELS)},
        "alive": table["network_alive"],
        "p_value": table["p_value"].sel(model=PRIMARY, drop=True),
        "split_mean": splits.where(count > 0, drop=False).fillna(0).sum("split") / count.where(count > 0),
        "split_error": _spread(splits, count) / np.sqrt(count.where(count > 1)),
    }
    return xr.Dataset({name: part.drop_attrs() for name, part in parts.items()})


def _spread(splits: xr.DataArray, count: xr.DataArray) -> xr.DataArray:
    """Sample standard deviation over the splits that are defined; NaN for fewer than two, no warning."""
    mean = splits.fillna(0).sum("split") / count.where(count > 0)
    squares = ((splits - mean) ** 2).fillna(0).sum("split")
    return (squares / (count - 1).where(count > 1)) ** 0.5
