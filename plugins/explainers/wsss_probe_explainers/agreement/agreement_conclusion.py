"""What agreement comes to over all images, and what chance gives on maps of different images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import INPUT, Conclusion
from wsss_probe.statistics import FEW_GROUPS, group_bootstrap, nanmean
from wsss_probe_explainers.agreement.agreement_findings import findings
from wsss_probe_explainers.agreement.alike import Grid, alike, common_grid
from wsss_probe_explainers.agreement.twins import twins

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Survey
    from wsss_probe.contracts import Pair, Run

__all__ = ["Chance", "chance_level", "concluded", "kept_grids"]

_SHIFTS = 6
"""Other images that each of the chosen ones is compared with."""


@final
@dataclass(frozen=True, slots=True)
class Chance:
    """Agreement of maps of different images, of different groups.

    Parameters
    ----------
    correlation, overlap : ndarray of float64, (map, map)
        Also of each explainer with itself; NaN where no two maps are defined.
    pairs : int
        Pairs of images.
    """

    correlation: np.ndarray
    overlap: np.ndarray
    pairs: int


def concluded(maps: Sequence[Pair], chosen: Sequence[int], name: str, run: Run) -> Conclusion:
    """Conclude over all images.

    Parameters
    ----------
    maps : sequence of (str, str)
        In the order of the rows.
    chosen : sequence of int
        Images whose maps were kept.
    name : str
        Of the probe.
    run : Run

    Returns
    -------
    Conclusion
        As :class:`wsss_probe_explainers.agreement.agreement_probe.Agreement` says.
    """
    rows, partial = run.rows(name).load(), run.partial(name).load()
    names = [", ".join(pair) for pair in maps]
    present = partial["present"].values > 0
    used = np.asarray(chosen)[present]
    owners = None if run.groups is None else run.groups[used]
    chance = chance_level(_unpacked(partial["kept"].values[present], kept_grids(maps, run.survey)), owners)
    summary = xr.merge([_matrices(rows, len(maps), chance, run), _twin_table(maps, rows, run)])
    summary = summary.assign_coords(explainer=names, other=names)
    summary.attrs = {
        "images": len(run.images),
        "groups": -1 if run.groups is None else len(set(run.groups.tolist())),
        "chance_pairs": chance.pairs,
        "chance_images": int(present.sum()),
        "interval": "" if _groups(run) >= FEW_GROUPS else f"; unreliable: fewer than {FEW_GROUPS} groups",
    }
    return Conclusion(summary, findings(summary, maps))


def _groups(run: Run) -> int:
    return len(run.images) if run.groups is None else len(set(run.groups.tolist()))


def kept_grids(maps: Sequence[Pair], survey: Survey) -> list[Grid]:
    """Grids on which the maps of the chosen images were kept."""
    shapes = [survey.input_shape if layer == INPUT else survey.layers[layer].shape for _, layer in maps]
    sizes: list[Grid] = [(shape[-2], shape[-1]) for shape in shapes]
    return [common_grid(size, size) for size in sizes]


def _unpacked(kept: np.ndarray, grids: Sequence[Grid]) -> list[Tensor]:
    """Maps of the chosen images, (image, row, column) each."""
    return [
        torch.from_numpy(np.array(kept[:, at, : rows * columns]).reshape(-1, rows, columns))
        for at, (rows, columns) in enumerate(grids)
    ]


def chance_level(maps: Sequence[Tensor], owners: np.ndarray | None = None) -> Chance:
    """Compare maps of different images in the way that maps of one image are compared.

    Parameters
    ----------
    maps : sequence of Tensor, (image, row, column)
    owners : ndarray, (image,), optional
        Group of each image; images of one group are not compared.

    Returns
    -------
    Chance
        Means over all images and up to six others of each, either map of a pair from either image.
    """
    images = len(maps[0]) if maps else 0
    names = np.arange(images) if owners is None else owners
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for shift in _shifts(images):
        apart = names != np.roll(names, -shift)
        if apart.any():
            kept = torch.from_numpy(apart)
            others = [each.roll(-shift, 0)[kept] for each in maps]
            both = alike([each[kept] for each in maps], others)
            found.append((both[0].numpy(), both[1].numpy()))
    if not found:
        blank = np.full((len(maps), len(maps)), np.nan)
        return Chance(blank, blank.copy(), 0)
    means = [nanmean(np.concatenate(parts)) for parts in zip(*found, strict=True)]
    symmetric = [nanmean(np.stack([each, each.T])) for each in means]
    return Chance(symmetric[0], symmetric[1], sum(len(each[0]) for each in found))


def _shifts(images: int) -> list[int]:
    """How far apart the compared images stand, evenly spread over all distances."""
    count = min(_SHIFTS, max(images - 1, 0))
    return sorted({round(float(shift)) for shift in np.linspace(1, images - 1, count)})


def _matrices(rows: xr.Dataset, maps: int, chance: Chance, run: Run) -> xr.Dataset:
    """Means with intervals as symmetric tables, 1 on the diagonal, chance beside them."""
    pairs = np.array(list(combinations(range(maps), 2)))
    levels = {"correlation": chance.correlation, "overlap": chance.overlap}
    found: dict[str, np.ndarray] = {}
    for name, level in levels.items():
        interval = group_bootstrap(rows[name].values, run.groups, seed=run.survey.seed)
        parts = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
        found |= {name + part: _square(values, pairs, maps) for part, values in parts.items()}
        found[f"{name}_chance"] = level
    counted = np.isfinite(rows["correlation"].values).sum(0).astype(float)
    found["n"] = _square(counted, pairs, maps, np.nan)
    return xr.Dataset({name: (("explainer", "other"), values) for name, values in found.items()})


def _square(values: np.ndarray, pairs: np.ndarray, maps: int, diagonal: float = 1.0) -> np.ndarray:
    square = np.full((maps, maps), diagonal)
    square[pairs[:, 0], pairs[:, 1]] = square[pairs[:, 1], pairs[:, 0]] = values
    return square


def _twin_table(maps: Sequence[Pair], rows: xr.Dataset, run: Run) -> xr.Dataset:
    """One row per pair of maps of one method at one layer; empty where there are none."""
    couples = twins(maps)
    if not couples:
        return xr.Dataset()
    order = {pair: at for at, pair in enumerate(combinations(range(len(maps)), 2))}
    values = {
        "difference": rows["difference"].values,
        "half_overlap": rows["half_overlap"].values,
        "twin_correlation": rows["correlation"].values[:, [order[couple] for couple in couples]],
    }
    named = {"twin_first": 0, "twin_second": 1}
    found = {key: ("twin", np.array([maps[c[at]][0] for c in couples], object)) for key, at in named.items()}
    found["twin_layer"] = ("twin", np.array([maps[one][1] for one, _ in couples], object))
    return xr.Dataset({**found, **dict(_with_intervals(values, run))}, {"twin": rows["twin"].values})


def _with_intervals(values: dict[str, np.ndarray], run: Run) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    for name, array in values.items():
        interval = group_bootstrap(array, run.groups, seed=run.survey.seed)
        yield name, ("twin", interval.estimate)
        yield f"{name}_low", ("twin", interval.low)
        yield f"{name}_high", ("twin", interval.high)
    yield "twin_n", ("twin", np.isfinite(values["difference"]).sum(0).astype(float))
