"""Scores of living control networks, as figures, tables and findings read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["living_number", "living_scores"]


def living_scores(at: xr.Dataset, score: str) -> dict[str, np.ndarray]:
    """Scores of every living control, by its name.

    Parameters
    ----------
    at : Dataset
        One class and layer, or one concept of it; no dimension ``network`` where nothing was compared.
    score : str
        As in ``network_<score>``.

    Returns
    -------
    dict of str to ndarray
        Over concepts, where there are any; NaN where undefined.
    """
    if "network" not in at.dims:
        return {}
    living = (at["network_kind"].values == "control") & at["network_alive"].values.astype(bool)
    scores = at[f"network_{score}"].transpose("network", ...).values
    return {str(at["network"].values[row]): scores[row] for row in np.flatnonzero(living)}


def living_number(cell: xr.Dataset, score: str) -> dict[str, float]:
    """Scores of one concept in every living control that has one.

    Parameters
    ----------
    cell : Dataset
        One class, layer and concept.
    score : str

    Returns
    -------
    dict of str to float
    """
    return {name: float(own) for name, own in living_scores(cell, score).items() if np.isfinite(own)}
