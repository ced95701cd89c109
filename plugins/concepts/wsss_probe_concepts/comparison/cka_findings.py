"""What CKA allows to say of two networks: alike beyond what random networks are, and down to which depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_concepts.comparison.beside import compared_pairs

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["above_floor", "findings"]


def above_floor(pair: xr.Dataset) -> np.ndarray:
    """Layers at which two networks are alike beyond their controls and beyond chance, bool (layer,).

    Parameters
    ----------
    pair : Dataset
        One network and one other of the table that ``cka`` concludes.

    Returns
    -------
    ndarray of bool
        False without a living control, and without an interval.
    """
    limit = np.maximum(pair["floor"].values, float(pair["chance"]))
    above: np.ndarray = pair["low"].values > limit
    return above


def findings(table: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """Say of every compared pair where it is alike, and whether that falls with depth.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.comparison.cka_conclusion.conclude`.
    run : Run

    Returns
    -------
    tuple of Finding
        One a pair, about the first layer, which is where features are said to be reused.
    """
    return tuple(_finding(table, name, other, run) for name, other in compared_pairs(run))


def _finding(table: xr.Dataset, name: str, other: str, run: Run) -> Finding:
    pair = table.sel(network=name, other=other)
    living = _living(table, name, other)
    above = above_floor(pair) & living
    doubts = _doubts(pair, table, run)
    at = [str(layer) for layer in table["layer"].values[above]]
    where = (
        f"at {len(at)} of {len(above)} layers ({', '.join(at)})" if at else f"at none of {len(above)} layers"
    )
    parts = [
        f"{name} and {other} represent images alike, beyond {_controls(table)} and chance, {where}",
        f"at the first layer, {_at(pair, 0)}",
        *([f"at the last, {_at(pair, -1)}", _fall(pair)] if len(above) > 1 else []),
        *doubts,
    ]
    low, high = float(pair["low"][0]), float(pair["high"][0])
    estimate = float(pair["cka"][0])
    controls = sorted({str(control) for control in pair["floor_control"].values if control})
    return Finding(
        f"alike@{name}@{other}",
        "ok" if above[0] and not doubts else "notice",
        "; ".join(parts) + ".",
        effect=estimate if np.isfinite(estimate) else None,
        interval=(low, high) if np.isfinite([low, high]).all() else None,
        n=int(table["n"]),
        groups=int(table["groups"]),
        unit="linear CKA",
        control=", ".join(controls),
    )


def _living(table: xr.Dataset, name: str, other: str) -> np.ndarray:
    """Layers at which both networks respond to images."""
    alive = table["alive"]
    both: np.ndarray = alive.sel(network=name).values & alive.sel(network=other).values
    return both


def _controls(table: xr.Dataset) -> str:
    """Word what the networks are held against; an unrelated network passes R controls once in R + 1 times."""
    living = (table["kind"].values == "control") & table["alive"].values.any(axis=0)
    count = int(living.sum())
    if not count:
        return "no control"
    named = f"all {count} living controls" if count > 1 else "the living control"
    return f"{named} (by chance alone once in {count + 1} times)"


def _at(pair: xr.Dataset, place: int) -> str:
    """Word the CKA at one layer and what it stands against."""
    one = pair.isel(layer=place)
    layer, value, low, high = one["layer"].item(), *(float(one[key]) for key in ("cka", "low", "high"))
    if not np.isfinite(value):
        return f"{layer}, linear CKA is not defined"
    floor = str(one["floor_control"].item())
    against = f"{float(one['floor']):.2f} with {floor}" if floor else "no living control"
    return (
        f"{layer}, linear CKA (debiased, pooled features) is {value:.2f} [{low:.2f}, {high:.2f}], {against}"
    )


def _fall(pair: xr.Dataset) -> str:
    """Say whether it falls from the first to the last layer."""
    fall, low, high = (float(pair[key]) for key in ("fall", "fall_low", "fall_high"))
    if not np.isfinite([fall, low, high]).all():
        return "the change over depth has no interval"
    number = f"by {abs(fall):.2f} [{min(abs(low), abs(high)):.2f}, {max(abs(low), abs(high)):.2f}]"
    if low > 0:
        return f"it falls with depth {number}"
    if high < 0:
        return f"it rises with depth {number}"
    return f"no fall or rise with depth is shown ({-fall:+.2f} [{-high:+.2f}, {-low:+.2f}])"


def _doubts(pair: xr.Dataset, table: xr.Dataset, run: Run) -> list[str]:
    """Reasons for which there is no verdict, whatever the numbers."""
    groups = int(table["groups"])
    controls = "" if (pair["floor_control"].values != "").any() else "no living control, so no verdict"
    few = f"fewer than {FEW_GROUPS} groups, so no verdict" if groups < FEW_GROUPS else ""
    testable = f"not testable here: {run.not_testable}" if run.not_testable else ""
    return [doubt for doubt in (controls, few, testable) if doubt]
