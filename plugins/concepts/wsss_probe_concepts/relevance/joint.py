"""All layers together: which concepts each class is shown to rest on, corrected for how many were tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import FEW_GROUPS, benjamini_hochberg
from wsss_probe_concepts.relevance.findings import findings, nothing_scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.contracts import Run
    from wsss_probe_concepts.relevance.probe import ConceptRelevance

__all__ = ["LEVEL", "conclude", "joined", "living_relevance", "relevant"]

LEVEL = 0.05
"""False discovery rate of what is called relevant."""


def conclude(probe: ConceptRelevance, run: Run) -> Conclusion:
    """Conclude over all layers.

    Parameters
    ----------
    probe : ConceptRelevance
    run : Run

    Returns
    -------
    Conclusion
        The table of :func:`joined`, with one finding a class. Without variables where no layer could be
        scored.
    """
    tables = {layer: run.summary(f"concept-relevance@{layer}").load() for layer in probe.layers}
    scored = {layer: table for layer, table in tables.items() if "br" in table}
    if not scored:
        whys = {layer: str(table.attrs.get("why", "")) for layer, table in tables.items()}
        return Conclusion(xr.Dataset(attrs=dict(probe.options)), (nothing_scored(whys),))
    table = joined(scored)
    table.attrs = {**probe.options, **{key: table.attrs[key] for key in ("images", "by", "grouped")}}
    return Conclusion(table, findings(table, run))


def joined(tables: dict[str, xr.Dataset]) -> xr.Dataset:
    """Put layers side by side and correct over all their cells.

    Parameters
    ----------
    tables : dict of str to Dataset
        As :func:`wsss_probe_concepts.relevance.conclusion.conclude_layer` gives them, in order of execution.

    Returns
    -------
    Dataset
        With the dimension ``layer`` first; besides, by (layer, class, concept), ``q`` of ``p``, ``q_tcav``
        and ``q_br`` of the larger p of each score, against permuted concepts and against random directions
        (Benjamini and Hochberg over concepts, classes and layers), and ``relevant``, as
        :func:`relevant` says.
    """
    names = xr.DataArray(np.array(list(tables), dtype=object), dims="layer", name="layer")
    table = xr.concat(list(tables.values()), dim=names, join="exact", combine_attrs="drop_conflicts")
    table = table.transpose("layer", "network", "class", "concept", missing_dims="ignore")
    table["q"] = (table["p"].dims, benjamini_hochberg(table["p"].values))
    for name in ("tcav", "br"):
        p = np.maximum(table[f"p_{name}"].values, table[f"p_random_{name}"].values)
        table[f"q_{name}"] = (table["p"].dims, benjamini_hochberg(p))
    table["relevant"] = (table["br"].dims, relevant(table))
    return table


def living_relevance(table: xr.Dataset) -> NDArray[np.float64]:
    """Largest absolute Br that a living control reaches, (layer, class, concept).

    NaN where no control lives, or none has one.
    """
    reached = np.full(table["br"].shape, np.nan)
    if "network" not in table.dims:
        return reached
    kind = table["network_kind"].values.reshape(-1, table.sizes["network"])[0]
    for place in np.flatnonzero(kind == "control"):
        lives = table["network_alive"].values[:, place].astype(bool)
        own = np.abs(table["network_br"].values[:, place])
        reached = np.fmax(reached, np.where(lives[:, None, None], own, np.nan))
    return reached


def relevant(table: xr.Dataset) -> NDArray[np.bool_]:
    """Whether a class is shown to rest on a concept at a layer, (layer, class, concept).

    All of: q below 0.05; the interval of held-out R² above 0; the interval of Br beyond 0, and beyond the
    absolute Br of every living control, of which there is one; images of the class in at least ten groups.

    Parameters
    ----------
    table : Dataset
        With ``q``.
    """
    low, high = table["br_low"].values, table["br_high"].values
    nearest = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), np.nan)
    encoded = table["r2_low"].values[:, None, :] > 0
    many = table["groups"].values[..., None] >= FEW_GROUPS
    # comparisons with NaN are false: what is undefined is not shown
    return np.asarray((table["q"].values < LEVEL) & encoded & many & (nearest > living_relevance(table)))
