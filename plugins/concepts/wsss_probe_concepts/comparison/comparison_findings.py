"""What differences of held-out R² allow to say: who encodes a concept better, or how much is excluded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["ALPHA", "different", "encoded_difference", "findings", "strongest"]

ALPHA: Final = 0.05
"""False discovery rate over concepts, layers and pairs."""

_TOLD: Final = 3
"""Concepts a pair that have a finding of their own; the table has all."""


def different(table: xr.Dataset) -> np.ndarray:
    """Cells in which two networks differ, bool, in the dimensions of ``difference``.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.comparison.comparison_conclusion.conclude`, or one pair of it.

    Returns
    -------
    ndarray of bool
        q below :data:`ALPHA`, and the interval does not hold 0.
    """
    apart = (table["low"].values > 0) | (table["high"].values < 0)
    return np.asarray(apart & (table["q"].values < ALPHA), dtype=bool)


def encoded_difference(table: xr.Dataset) -> np.ndarray:
    """Size of each difference between two R² of which none counts below 0.

    A fit that goes astray on one image reaches any R² below 0; by how much says nothing of the concept.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.comparison.comparison_conclusion.conclude`, or a part of it.

    Returns
    -------
    ndarray of float64, in the dimensions of ``difference``
        At least 0; 0 where undefined.
    """
    first, second = (np.maximum(table[name].values, 0) for name in ("first_r2", "second_r2"))
    return np.asarray(np.abs(np.nan_to_num(first - second)))


def strongest(pair: xr.Dataset, number: int) -> list[int]:
    """Choose concepts in which two networks differ most.

    Parameters
    ----------
    pair : Dataset
        One pair of the table.
    number : int

    Returns
    -------
    list of int
        Positions: those that differ at some layer first, then by the largest difference there, as
        :func:`encoded_difference` measures it.
    """
    size = encoded_difference(pair)
    found = different(pair)
    told = np.where(found, size, 0).max(axis=0, initial=0)
    order = np.lexsort((-size.max(axis=0, initial=0), -told, ~found.any(axis=0)))
    return [int(at) for at in order[:number]]


def findings(table: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State the differences of every pair.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.comparison.comparison_conclusion.conclude`.
    run : Run

    Returns
    -------
    tuple of Finding
        Per pair one over all concepts and layers, then one for each of the most different concepts.
    """
    made: list[Finding] = []
    for place in range(table.sizes["pair"]):
        pair = table.isel(pair=place)
        differing = np.asarray(different(pair).any(axis=0))
        made.append(_overall(pair))
        made += [_of_concept(pair, at, run) for at in strongest(pair, _TOLD) if differing[at]]
    return tuple(made)


def _names(pair: xr.Dataset) -> tuple[str, str]:
    return str(pair["first"].item()), str(pair["second"].item())


def _overall(pair: xr.Dataset) -> Finding:
    """Count what differs, and say what difference is excluded elsewhere."""
    first, second = _names(pair)
    found, tested = different(pair), np.isfinite(pair["q"].values)
    ahead = found & (pair["difference"].values > 0)
    parts = [
        f"{first} and {second} differ in held-out R² ({pair.attrs['model']}) in {int(found.sum())} of "
        f"{int(tested.sum())} comparisons ({pair.sizes['concept']} concepts, {pair.sizes['layer']} layers; "
        f"q < {ALPHA:g} over all pairs)"
    ]
    if found.any():
        parts.append(f"{first} better in {int(ahead.sum())}, {second} in {int(found.sum() - ahead.sum())}")
    if (tested & ~found).any():
        parts.append(_excluded(pair, tested & ~found))
    if lost := found.size - int(tested.sum()):
        parts.append(f"{lost} of {found.size} are not tested (not estimable, or a network is dead there)")
    return Finding(
        f"differences@{first}@{second}",
        "notice",
        "; ".join(parts) + ".",
        effect=float(found.sum()),
        n=int(pair.attrs["images"]),
        groups=int(pair.attrs["groups"]),
        unit=f"different of {int(tested.sum())} comparisons",
        control=second,
    )


def _excluded(pair: xr.Dataset, cells: np.ndarray) -> str:
    """Say how large a difference may be where none is shown."""
    ends = np.fmax(np.abs(pair["low"].values), np.abs(pair["high"].values))
    ends = np.where(cells, ends, -np.inf)
    layer, concept = np.unravel_index(np.argmax(ends), ends.shape)
    where = f"{pair['concept'].values[concept]} at {pair['layer'].values[layer]}"
    largest = np.ceil(100 * ends[layer, concept]) / 100  # never less than what is excluded
    which = f"in the other {int(cells.sum())}" if different(pair).any() else "in these"
    return (
        f"{which} none is shown, and differences beyond {largest:.2f} are excluded (within it lies the 95 % "
        f"interval of each; the farthest is that of {where})"
    )


def _of_concept(pair: xr.Dataset, concept: int, run: Run) -> Finding:
    """State where one concept is encoded better, and where worse."""
    first, second = _names(pair)
    one = pair.isel(concept=concept)
    found = different(one)
    difference = one["difference"].values
    lead = int(np.argmax(np.where(found, encoded_difference(one), -1)))
    sides = {"better": found & (difference > 0), "worse": found & (difference < 0)}
    said = [f"{word} than {second} {_places(one, at)}" for word, at in sides.items() if at.any()]
    doubts = _doubts(one, lead, run)
    parts = [
        f"{first} encodes {one['concept'].item()} {' and '.join(said)} (difference of held-out R², "
        f"{pair.attrs['model']}, same images and splits, 95 % interval over groups, q < {ALPHA:g})",
        *(doubts or [f"the better one is above all living controls at {one['layer'].values[lead]}"]),
    ]
    return Finding(
        f"difference@{first}@{second}@{one['concept'].item()}",
        "notice" if doubts else "ok",
        "; ".join(parts) + ".",
        effect=float(difference[lead]),
        interval=(float(one["low"][lead]), float(one["high"][lead])),
        n=int(one["n"][lead]),
        groups=int(pair.attrs["groups"]),
        unit="difference of held-out R²",
        control=second,
    )


def _places(one: xr.Dataset, chosen: np.ndarray) -> str:
    """Name layers with their difference and interval."""
    lesser = np.minimum(one["first_r2"].values, one["second_r2"].values)
    values = (one[key].values for key in ("difference", "low", "high"))
    told = zip(one["layer"].values, *values, lesser, strict=True)
    worded = [
        f"{name}: {value:+.3f} [{low:+.3f}, {high:+.3f}]{' (the lesser below 0)' if least < 0 else ''}"
        for name, value, low, high, least in told
    ]
    return "at " + ", ".join(text for text, kept in zip(worded, chosen, strict=True) if kept)


def _doubts(one: xr.Dataset, lead: int, run: Run) -> list[str]:
    """Reasons for which there is no verdict, whatever the numbers."""
    groups = int(one.attrs["groups"])
    layer = one["layer"].values[lead]
    doubts = [f"fewer than {FEW_GROUPS} groups, so no verdict"] if groups < FEW_GROUPS else []
    if not int(one["controls"][lead]):
        doubts.append("no living control, so no verdict")
    elif not bool(one["above_controls"][lead]):
        doubts.append(f"at {layer} the better one is not above every living control, so no verdict")
    return doubts + ([f"not testable here: {run.not_testable}"] if run.not_testable else [])
