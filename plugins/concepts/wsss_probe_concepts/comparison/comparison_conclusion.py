"""Differences between the networks of a run as one table: layers, pairs and concepts, with controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import benjamini_hochberg
from wsss_probe_concepts.comparison.beside import AUDITED, compared_pairs
from wsss_probe_concepts.comparison.comparison_findings import findings
from wsss_probe_concepts.comparison.paired import flipped_p, over_splits, paired_differences
from wsss_probe_concepts.vectors.depth import tables_by_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.contracts import Run

    Floats = NDArray[np.float64]

__all__ = ["conclude"]

_CELL = ("layer", "pair", "concept")


def conclude(model: str, run: Run) -> Conclusion:
    """Compare the networks of a run.

    Parameters
    ----------
    model : str
        A model of ``rcv``.
    run : Run
        With the summaries of ``rcv``.

    Returns
    -------
    Conclusion
        By (layer, pair, concept): ``difference`` of held-out R², ``low``, ``high`` (95 % over groups), ``p``,
        ``q`` over the whole table; ``first_r2``, ``second_r2``; ``split_mean`` and ``split_error``, mean and
        standard error over splits; ``above_controls``, whether the better of the two is above every
        living control (paired interval), false without one. By (layer, pair): ``alive``, whether both
        respond to images; other cells are not tested. By (layer): ``controls``, how many are alive. By
        (layer, concept): ``n`` images. By (pair): ``first`` and ``second``. Without variables where there
        is nothing to compare.
    """
    layers = {name: table for name, table in tables_by_layer(run).items() if model in table["model"].values}
    pairs = compared_pairs(run)
    if not layers or not pairs:
        return Conclusion(xr.Dataset(attrs={"model": model}))
    controls = tuple(control.name for control in run.controls)
    parts = [
        _layer(_Layer(table.sel(model=model), pairs, controls), run.survey.seed) for table in layers.values()
    ]
    table = xr.concat(parts, dim="layer", join="exact")
    table["q"] = (_CELL, benjamini_hochberg(table["p"].transpose(*_CELL).values))
    first = next(iter(layers.values()))
    table = table.transpose(*_CELL).assign_coords(
        layer=np.array(list(layers), dtype=object),
        pair=np.array([f"{one} less {other}" for one, other in pairs], dtype=object),
        concept=first["concept"].values,
    )
    table = table.assign(
        first=("pair", np.array([one for one, _ in pairs], dtype=object)),
        second=("pair", np.array([other for _, other in pairs], dtype=object)),
    )
    size = {"images": int(first.attrs["images"]), "groups": int(first.attrs["groups"])}
    table.attrs = {"model": model, **size, "grouped": run.groups is not None}
    return Conclusion(table, findings(table, run))


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer says of all networks: a table of ``rcv`` at one model, and who is compared."""

    table: xr.Dataset
    pairs: Sequence[tuple[str, str]]
    controls: Sequence[str]

    def errors(self, names: Sequence[str]) -> Floats:
        """Squared errors of some networks, (group, network, concept)."""
        chosen = self.table["sse"].sel(network=list(names))
        return np.asarray(chosen.transpose("group", "network", "concept").values, dtype=np.float64)

    @property
    def baseline(self) -> Floats:
        """Squared errors of the training mean, (group, concept)."""
        return np.asarray(self.table["ssb"].transpose("group", "concept").values, dtype=np.float64)

    def alive(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Whether some networks respond to images here."""
        return np.asarray(self.table["network_alive"].sel(network=list(names)).values, dtype=bool)


def _layer(layer: _Layer, seed: int) -> xr.Dataset:
    """Compare the pairs at one layer, and each network with the controls."""
    first, second = ([pair[side] for pair in layer.pairs] for side in (0, 1))
    errors = layer.errors(first), layer.errors(second), layer.baseline
    paired = paired_differences(*errors, seed)
    above = _above_controls(layer, seed)
    better = np.where(
        paired.difference > 0, above.sel(network=first).values, above.sel(network=second).values
    )
    alive = layer.alive(first) & layer.alive(second)
    splits = layer.table["r2_split"].transpose("split", "network", "concept")
    mean, error = over_splits(splits.sel(network=first).values, splits.sel(network=second).values)
    reached = layer.table["network_r2_held"].transpose("network", "concept")
    cells = {
        "difference": paired.difference,
        "low": paired.low,
        "high": paired.high,
        "p": np.where(alive[:, None], flipped_p(*errors, seed), np.nan),
        "first_r2": reached.sel(network=first).values,
        "second_r2": reached.sel(network=second).values,
        "split_mean": mean,
        "split_error": error,
        "above_controls": better & alive[:, None],
    }
    table = xr.Dataset({name: (("pair", "concept"), values) for name, values in cells.items()})
    controls = int(layer.alive(layer.controls).sum())
    n = ("concept", layer.table["n"].values)
    return table.assign(alive=("pair", alive), controls=controls, n=n)


def _above_controls(layer: _Layer, seed: int) -> xr.DataArray:
    """Whether each network that is no control is above every living one, (network, concept)."""
    own = list(dict.fromkeys([AUDITED, *(name for pair in layer.pairs for name in pair)]))
    living = [name for name, alive in zip(layer.controls, layer.alive(layer.controls), strict=True) if alive]
    above = np.full((len(own), layer.table.sizes["concept"]), bool(living))
    for control in living:
        others = layer.errors([control] * len(own))
        above &= paired_differences(layer.errors(own), others, layer.baseline, seed).low > 0
    return xr.DataArray(above, dims=("network", "concept"), coords={"network": own})
