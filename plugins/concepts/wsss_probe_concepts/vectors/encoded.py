"""Which concepts are encoded where, and which of them better than in networks that learned nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import pandas as pd

from wsss_probe_concepts.vectors.probe import PRIMARY

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Cell",
    "Living",
    "audited",
    "best_cell",
    "correlations",
    "encoded",
    "learned",
    "living_controls",
    "strongest",
]

_SIGNIFICANT: Final = 0.05
_TOGETHER: Final = 0.9


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One concept at one layer, by position in the table of ``concept-depth``."""

    layer: int
    concept: int


@final
@dataclass(frozen=True, slots=True)
class Living:
    """What controls reach for every concept, each at its best layer among those that live.

    Parameters
    ----------
    names : tuple of str
        Controls with a living layer.
    reached : ndarray, (control, concept)
        Held-out R²; NaN where not estimable.
    dead : int
        Controls without a living layer.
    """

    names: tuple[str, ...]
    reached: np.ndarray
    dead: int

    @property
    def highest(self) -> np.ndarray:
        """What the best of them reaches, (concept,); NaN where none is estimable."""
        return _largest(self.reached)


def _largest(values: np.ndarray) -> np.ndarray:
    """Maximum over the first dimension of the defined values; NaN, without a warning, where none is."""
    found = np.fmax.reduce(values, axis=0, initial=np.nan)
    return np.asarray(found)


def audited(table: xr.Dataset, variable: str) -> np.ndarray:
    """Take what the primary model says of the audited network.

    Parameters
    ----------
    table : Dataset
    variable : str

    Returns
    -------
    ndarray, (layer, concept)
    """
    chosen = table[variable].sel(network="audited", model=PRIMARY)
    return np.asarray(chosen.transpose("layer", "concept").values)


def encoded(table: xr.Dataset) -> np.ndarray:
    """Whether a concept is encoded: q below 0.05 and the interval of held-out R² above 0.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.depth_table`.

    Returns
    -------
    ndarray of bool, (layer, concept)
    """
    q = table["q_value"].transpose("layer", "concept").values
    return np.asarray((q < _SIGNIFICANT) & (audited(table, "r2_low") > 0))


def living_controls(table: xr.Dataset) -> Living:
    """Say what the controls reach that respond to images at all.

    Parameters
    ----------
    table : Dataset

    Returns
    -------
    Living
    """
    places = np.flatnonzero(table["kind"].values == "control")
    alive = table["alive"].transpose("network", "layer").values[places].astype(bool)
    held = table["r2_held"].sel(model=PRIMARY).transpose("layer", "network", "concept").values[:, places]
    best = _largest(np.where(alive.T[..., None], held, np.nan))
    lives = alive.any(axis=1)
    names = tuple(str(name) for name in table["network"].values[places[lives]])
    return Living(names, best[lives], int((~lives).sum()))


def learned(table: xr.Dataset, living: Living) -> np.ndarray:
    """Whether a concept is encoded better than in every living control.

    Parameters
    ----------
    table : Dataset
    living : Living

    Returns
    -------
    ndarray of bool, (layer, concept)
        All false without a living control.
    """
    return np.asarray(encoded(table) & (audited(table, "r2_low") > living.highest))


def best_cell(table: xr.Dataset) -> Cell | None:
    """Find the largest held-out R² of the audited network; an encoded cell before any that is not.

    Parameters
    ----------
    table : Dataset

    Returns
    -------
    Cell or None
        None where nothing is estimable.
    """
    held = audited(table, "r2_held")
    if not np.isfinite(held).any():
        return None
    among = np.where(encoded(table), held, -np.inf) if encoded(table).any() else held
    layer, concept = np.unravel_index(np.nanargmax(among), held.shape)
    return Cell(int(layer), int(concept))


def strongest(table: xr.Dataset, values: np.ndarray, number: int) -> Sequence[Cell]:
    """Choose concepts to be drawn, each at its best layer: learned and strong ones that differ.

    Parameters
    ----------
    table : Dataset
    values : ndarray, (image, concept)
        Of the concepts in the order of the table.
    number : int

    Returns
    -------
    sequence of Cell
        Learned ones first, then encoded ones, then by held-out R²; a concept that correlates with one chosen
        already beyond 0.9 is left out.
    """
    held, found = audited(table, "r2_held"), encoded(table).any(axis=0)
    ours, best = learned(table, living_controls(table)).any(axis=0), _largest(held)
    ranked = np.lexsort((-np.nan_to_num(best, nan=-np.inf), ~found, ~ours))
    order = [concept for concept in ranked if np.isfinite(best[concept])]
    related = np.abs(correlations(values))
    chosen: list[int] = []
    for concept in order:
        if len(chosen) < number and not (related[concept, chosen] > _TOGETHER).any():
            chosen.append(int(concept))
    return [Cell(int(np.nanargmax(held[:, concept])), concept) for concept in chosen]


def correlations(values: np.ndarray) -> np.ndarray:
    """Correlate concepts over the images that have both.

    Parameters
    ----------
    values : ndarray, (image, concept)

    Returns
    -------
    ndarray of float64, (concept, concept)
        Pearson's r; NaN where it is undefined.
    """
    # pandas keeps constant columns undefined, where sums of products would divide rounding by rounding
    return np.asarray(pd.DataFrame(values).corr().to_numpy(copy=True))
