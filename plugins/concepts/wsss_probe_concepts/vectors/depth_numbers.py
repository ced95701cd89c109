"""The numbers behind the figures: every network, layer, concept and model; and the fits that are shown."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from wsss_probe import Table
from wsss_probe_concepts.regression import fit_table
from wsss_probe_concepts.vectors.encoded import Cell, audited
from wsss_probe_concepts.vectors.features import features_of
from wsss_probe_concepts.vectors.probe import PRIMARY

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["all_numbers", "concept_table", "fits_table"]

_CHANNELS: Final = 5
"""Channels shown of each fit."""

_MEANINGS: Final = {
    "held-out R²": "ridge, images left out; 0 is what the mean of the training part predicts",
    "95 %": "interval of the held-out R² over independent groups",
    "mean of splits": "mean over splits of the held-out R² of each; the paper draws that of in-sample R²",
    "standard error": "standard deviation over splits by the root of their number; splits share images",
    "controls": "lowest to highest held-out R² of the living controls at this layer",
    "q": "permuted concepts, Benjamini and Hochberg over all concepts and layers",
    "in-sample R²": "ordinary least squares on the images of the fit; supports nothing",
    "p/(n - 1)": "in-sample R² that pure noise reaches on average",
    "partial R²": "held-out share of what the other concepts leave unexplained",
    "VIF": "variance inflation factor of the concept given the others",
    "angle": "mean angle between directions of the training parts, in radians",
    "note": "why the concept is not estimable",
}

_COLUMNS: Final = {
    "r2_held": "held-out R²",
    "r2_low": "2.5 %",
    "r2_high": "97.5 %",
    "split_mean": "mean of splits",
    "split_error": "standard error",
    "r2_train": "in-sample R²",
    "r2_adjusted": "adjusted R²",
}


def all_numbers(table: xr.Dataset) -> pd.DataFrame:
    """Write one row per network, layer, concept and model; of controls the primary model's only.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.depth_table`.

    Returns
    -------
    DataFrame
        In the order of execution, to six decimals; q stands beside the audited network's ridge only.
    """
    dims = ("network", "layer", "concept", "model")
    size = [table.sizes[dim] for dim in dims]
    grid = np.meshgrid(*[np.arange(count) for count in size], indexing="ij")
    names = {dim: table[dim].values[at.ravel()] for dim, at in zip(dims, grid, strict=True)}
    numbers = {title: table[key].transpose(*dims).values.ravel() for key, title in _COLUMNS.items()}
    shared = {
        title: np.broadcast_to(
            table[key].transpose("layer", "concept").values[None, :, :, None], size
        ).ravel()
        for key, title in (("noise_r2", "p/(n - 1)"), ("n", "n"))
    }
    tested = (names["network"] == "audited") & (names["model"] == PRIMARY)
    q = np.broadcast_to(table["q_value"].transpose("layer", "concept").values[None, :, :, None], size).ravel()
    alive = table["alive"].transpose("network", "layer").values[grid[0].ravel(), grid[1].ravel()]
    frame = pd.DataFrame(names | numbers | shared | {"q": np.where(tested, q, np.nan), "alive": alive})
    told = (table["kind"].values[grid[0].ravel()] != "control") | (names["model"] == PRIMARY)
    return frame[told].reset_index(drop=True).round(6)  # a report has no room for the rest


def concept_table(table: xr.Dataset) -> Table:
    """Show every concept at every layer: held out, beside controls, in sample, and why not.

    Parameters
    ----------
    table : Dataset

    Returns
    -------
    Table
        Largest held-out R² first.
    """
    frame = pd.DataFrame(list(_rows(table)))
    frame = frame.sort_values("held-out R²", ascending=False, kind="stable")
    note = f"; {table.attrs['note']}" if table.attrs["note"] else ""
    caption = (
        f"One row per concept and layer of the audited network; {table.attrs['images']} images in "
        f"{table.attrs['groups']} groups{note}; {table.attrs['folds']} folds × {table.attrs['repeats']}. "
        "Controls are networks that learned nothing, at the same layer. The curves' download holds all "
        "networks, and all models but those of the controls."
    )
    return Table(
        frame, caption, meanings={key: text for key, text in _MEANINGS.items() if key in frame.columns}
    )


def _rows(table: xr.Dataset) -> Iterator[dict[str, object]]:
    own = {key: audited(table, key) for key in ("r2_held", "r2_low", "r2_high", "split_mean", "split_error")}
    plain = ("noise_r2", "n", "vif", "partial_r2", "reason", "q_value")
    own |= {key: table[key].transpose("layer", "concept").values for key in plain}
    own["angle"] = table["angle_mean"].sel(model=PRIMARY).transpose("layer", "concept").values
    train = table["r2_train"].sel(network="audited")
    has_ols = "ols" in table["model"].values
    own["train"] = (
        (train.sel(model="ols") if has_ols else train.sel(model=PRIMARY) * np.nan)
        .transpose("layer", "concept")
        .values
    )
    reached = _reached(table)
    for layer, concept in np.ndindex(table.sizes["layer"], table.sizes["concept"]):
        cell = {key: values[layer, concept] for key, values in own.items()}
        yield {
            "concept": str(table["concept"].values[concept]),
            "layer": str(table["layer"].values[layer]),
            "held-out R²": float(cell["r2_held"]),
            "95 %": _interval(float(cell["r2_low"]), float(cell["r2_high"])),
            "controls": reached[layer][concept],
            "q": float(cell["q_value"]),
            "mean of splits": float(cell["split_mean"]),
            "standard error": float(cell["split_error"]),
            "in-sample R²": float(cell["train"]),
            "p/(n - 1)": float(cell["noise_r2"]),
            "partial R²": float(cell["partial_r2"]),
            "VIF": float(cell["vif"]),
            "angle": float(cell["angle"]),
            "n": int(cell["n"]),
            "note": str(cell["reason"]),
        }


def _interval(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}" if np.isfinite([low, high]).all() else ""


def _reached(table: xr.Dataset) -> list[list[str]]:
    """Range of the living controls in words, by layer and concept."""
    places = np.flatnonzero(table["kind"].values == "control")
    part = table.isel(network=places)
    held = part["r2_held"].sel(model=PRIMARY).transpose("network", "layer", "concept").values
    alive = part["alive"].transpose("network", "layer").values.astype(bool)
    known = np.where(alive[..., None], held, np.nan)
    low, high = (end.reduce(known, axis=0, initial=np.nan) for end in (np.fmin, np.fmax))
    return [[_interval(*ends) for ends in zip(*row, strict=True)] for row in zip(low, high, strict=True)]


def fits_table(table: xr.Dataset, run: Run, cells: Sequence[Cell]) -> list[Table]:
    """Show the channels that ordinary least squares weighs most for the concepts shown, with standard errors.

    Parameters
    ----------
    table : Dataset
    run : Run
    cells : sequence of Cell

    Returns
    -------
    list of Table
        None where least squares is not estimable for any of them.
    """
    if "ols" not in table["model"].values or table.attrs["features"] == "projected":
        return []
    why = table["why"].sel(model="ols").transpose("layer", "concept").values
    able = [cell for cell in cells if not why[cell.layer, cell.concept]]
    frames = [_fit(table, run, cell) for cell in able]
    if not frames:
        return []
    caption = (
        f"Ordinary least squares on all images (statsmodels): the {_CHANNELS} channels of each fit with the "
        "largest |t|. Standard errors and p treat images as independent and the channels as named before: "
        "they are no test, and with many channels the smallest p is small by luck. Control: none; read the "
        "held-out R²."
    )
    return [Table(pd.concat(frames, ignore_index=True), caption)]


def _fit(table: xr.Dataset, run: Run, cell: Cell) -> pd.DataFrame:
    """Coefficients of one fit, the largest |t| first."""
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    layer, concept = str(table["layer"].values[cell.layer]), str(table["concept"].values[cell.concept])
    features = features_of(run, layer, str(table.attrs["features"]))
    with warnings.catch_warnings():
        # dead and repeated channels are no surprise: their coefficients are those of least norm
        warnings.simplefilter("ignore", SingularMatrixWarning)
        fit = fit_table(features, run.concepts["value"].values[:, cell.concept]).drop(index="intercept")
    largest = fit["t"].abs().sort_values(ascending=False, kind="stable").index[:_CHANNELS]
    rows = fit.loc[largest].reset_index()
    rows.insert(0, "concept", concept)
    rows.insert(1, "layer", layer)
    return rows
