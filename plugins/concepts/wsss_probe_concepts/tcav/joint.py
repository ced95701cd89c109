"""All layers together: which concepts each class is shown to follow, corrected for how many were tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import FEW_GROUPS, benjamini_hochberg
from wsss_probe_concepts.tcav.findings import LEVEL, TESTABLE, findings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.contracts import Run
    from wsss_probe_concepts.tcav.probe import Tcav

__all__ = ["conclude", "followed", "joined", "living_alignment"]


def conclude(probe: Tcav, run: Run) -> Conclusion:
    """Conclude over all layers.

    Parameters
    ----------
    probe : Tcav
    run : Run

    Returns
    -------
    Conclusion
        The table of :func:`joined`, with one finding a class. Without variables and findings where no
        concept has two values.
    """
    tables = {layer: run.summary(f"tcav@{layer}").load() for layer in probe.layers}
    scored = {layer: table for layer, table in tables.items() if "tcav" in table}
    if not scored:
        return Conclusion(xr.Dataset(attrs=dict(probe.options)))
    table = joined(scored)
    table.attrs = {**probe.options, **{key: table.attrs[key] for key in ("by", "grouped")}}
    return Conclusion(table, findings(table, run))


def joined(tables: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put layers side by side and correct over all their cells.

    Parameters
    ----------
    tables : mapping of str to Dataset
        As ``tcav@<layer>`` concludes them, in the order of execution.

    Returns
    -------
    Dataset
        With the dimension ``layer`` first and without directions; besides, by (layer, class, concept), ``q``
        of ``p`` and ``q_tcav`` of ``p_tcav``, and ``relevant``, as :func:`followed` says.
    """
    names = xr.DataArray(np.array(list(tables), dtype=object), dims="layer", name="layer")
    parts = [table.drop_dims("channel") for table in tables.values()]
    table = xr.concat(parts, dim=names, join="outer", combine_attrs="drop_conflicts")
    table = table.transpose("layer", "network", "class", "concept", missing_dims="ignore")
    for name in ("q", "q_tcav"):
        p = table[name.replace("q", "p")]
        table[name] = (p.dims, benjamini_hochberg(p.values))
    table["relevant"] = (table["tcav"].dims, followed(table))
    return table


def living_alignment(table: xr.Dataset) -> NDArray[np.float64]:
    """Largest absolute alignment that a living control reaches, (layer, class, concept); NaN without one."""
    reached = np.full(table["alignment"].shape, np.nan)
    kind = table["network_kind"].values if "network" in table.dims else np.empty((len(reached), 0))
    for place in range(kind.shape[1]):
        lives = (kind[:, place] == "control") & table["network_alive"].values[:, place].astype(bool)
        own = np.abs(table["network_alignment"].values[:, place])
        reached = np.fmax(reached, np.where(lives[:, None, None], own, np.nan))
    return reached


def followed(table: xr.Dataset) -> NDArray[np.bool_]:
    """Whether a class is shown to follow a concept at a layer, (layer, class, concept).

    All of: the lower end of the vector's held-out AUC at least 0.7; q below 0.05; the interval of the
    alignment of vector and mean gradient beyond 0, and beyond that of every living control, of which
    there is one; images of the class in at least ten groups.

    Parameters
    ----------
    table : Dataset
        With ``q``.
    """
    low, high = table["alignment_low"].values, table["alignment_high"].values
    nearest = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), np.nan)
    parted = table["auc_low"].values[:, None] >= TESTABLE
    many = table["groups"].values >= FEW_GROUPS
    # comparisons with NaN are false: what is undefined is not shown
    return np.asarray((table["q"].values < LEVEL) & parted & many & (nearest > living_alignment(table)))
