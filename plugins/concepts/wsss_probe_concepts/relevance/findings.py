"""What may be said of each class: the concept it is shown to rest on, or what is lacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_concepts.relevance.living import living_number

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["findings", "lacking", "nothing_scored", "strongest"]

Cell = tuple[int, int]
"""Positions of a layer and a concept."""


def nothing_scored(whys: Mapping[str, str]) -> Finding:
    """Say that no layer could be scored, and why.

    Parameters
    ----------
    whys : mapping of str to str
        By layer.

    Returns
    -------
    Finding
    """
    said = dict.fromkeys(why for why in whys.values() if why)
    statement = (
        f"Whether classes rest on concepts is not estimable: {'; '.join(said) or 'no layer was read'}."
    )
    return Finding("concept-relevance", "notice", statement, n=0)


def findings(table: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State for each class which concept it rests on most, as far as that is shown.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.relevance.joint.joined`.
    run : Run

    Returns
    -------
    tuple of Finding
        ``ok`` where a concept is relevant and the classifier can be tested; else a notice that says what is
        lacking for the nearest one.
    """
    floor = int(np.isfinite(table["p"].values).sum()) / (table.attrs["permutations"] + 1)
    names = enumerate(map(str, table["class"].values))
    return tuple(_finding(table.isel({"class": row}), name, floor, run) for row, name in names)


def strongest(table: xr.Dataset) -> Cell | None:
    """Find the cell that a class is judged by.

    Parameters
    ----------
    table : Dataset
        Of one class, (layer, concept).

    Returns
    -------
    (int, int) or None
        The relevant one with the largest absolute Br; without any, the one with the smallest q, and of equal
        ones the largest absolute Br, an undefined one counting as 0. None where nothing has a q.
    """
    size = np.abs(np.nan_to_num(table["br"].values))
    shown, q = table["relevant"].values.astype(bool), table["q"].values
    if not np.isfinite(q).any():
        return None
    order = np.lexsort((-size.ravel(), np.where(np.isfinite(q), q, np.inf).ravel()))
    best = order[0] if not shown.any() else int(np.argmax(np.where(shown, size, -1.0)))
    layer, concept = np.unravel_index(best, q.shape)
    return int(layer), int(concept)


def lacking(cell: xr.Dataset, reached: float, q_floor: float) -> list[str]:
    """Say what keeps one cell from being called relevant; empty where nothing does.

    Parameters
    ----------
    cell : Dataset
        One layer, class and concept.
    reached : float
        Largest absolute Br of living controls; NaN where there is none.
    q_floor : float
        Smallest q that a single cell could have, given how many were tried and permuted.

    Returns
    -------
    list of str
    """
    low, high, q = (float(cell[name]) for name in ("br_low", "br_high", "q"))
    said = [] if float(cell["r2_low"]) > 0 else ["the interval of held-out R² is not above 0"]
    if not q < 0.05:
        said.append(
            f"q is {q:.2g}" + (f", and cannot be below {q_floor:.2g} here" if q_floor >= 0.05 else "")
        )
    if not np.isfinite(float(cell["br"])):
        said.append(str(cell["reason"].item()) or "Br is undefined")
    elif not low * high > 0:
        said.append("the interval of Br is not beyond 0")
    elif not np.isfinite(reached):
        said.append("no living control network to compare with")
    elif not min(abs(low), abs(high)) > reached:
        said.append("the interval of Br is not beyond that of every living control")
    if not int(cell["groups"]) >= FEW_GROUPS:
        said.append(f"fewer than {FEW_GROUPS} groups")
    return said


# -- parts ------------------------------------------------------------------------------------


def _finding(table: xr.Dataset, name: str, floor: float, run: Run) -> Finding:
    title, best = f"concept-relevance/{name}", strongest(table)
    if best is None:
        why = next((text for text in map(str, table["reason"].values.ravel()) if text), "no concept")
        return Finding(title, "notice", f"Class {name}: relevance of concepts is not estimable: {why}.", n=0)
    cell = table.isel(layer=best[0], concept=best[1])
    shown, tried = bool(cell["relevant"]), int(np.isfinite(table["q"].values).sum())
    controls = living_number(cell, "br")
    reached = float(np.max(np.abs(list(controls.values())), initial=-1)) if controls else np.nan
    said = lacking(cell, reached, floor)
    parts = [
        _opening(table, cell, name, shown=shown, tried=tried),
        _numbers(cell),
        _control_words(controls),
        *([] if table.attrs["grouped"] else ["images treated as independent"]),
        *([f"lacking: {', '.join(said)}"] if said else []),
        *([f"not testable here: {run.not_testable}"] if run.not_testable else []),
    ]
    br, low, high = (float(cell[key]) for key in ("br", "br_low", "br_high"))
    return Finding(
        title,
        "ok" if shown and not run.not_testable else "notice",
        "; ".join(part for part in parts if part) + ".",
        effect=br,
        interval=(low, high) if np.isfinite([low, high]).all() else None,
        n=int(cell["n"]),
        groups=int(cell["groups"]),
        unit="Br",
        control=", ".join(
            [*controls, f"{table.attrs['permutations']} permuted concepts", "random directions"]
        ),
    )


def _opening(table: xr.Dataset, cell: xr.Dataset, name: str, *, shown: bool, tried: int) -> str:
    place = f"{cell['concept'].item()} at {cell['layer'].item()}"
    number = int(table["relevant"].values.sum())
    if shown:
        return f"Class {name} rests on {place}, the strongest of {number} shown among {tried} tried"
    return f"Class {name}: none of {tried} concepts and layers is shown to be relevant, nearest is {place}"


def _numbers(cell: xr.Dataset) -> str:
    """Numbers of one cell in words."""
    br, low, high, tcav = (float(cell[key]) for key in ("br", "br_low", "br_high", "tcav"))
    score = f"Br {br:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(br) else "Br undefined"
    way = "rises" if float(cell["sensitivity"]) > 0 else "falls"
    return (
        f"{score}, q = {float(cell['q']):.2g}: the logit {way} with the concept on average, and rises on "
        f"{tcav:.0%} of n = {int(cell['n'])} images (permuted concepts: "
        f"{float(cell['tcav_null_low']):.0%} to {float(cell['tcav_null_high']):.0%}); "
        f"held-out R² {float(cell['r2_held']):.2f} "
        f"[{float(cell['r2_low']):.2f}, {float(cell['r2_high']):.2f}]"
    )


def _control_words(controls: Mapping[str, float]) -> str:
    if not controls:
        return "no living control network with a Br, no verdict"
    number = f"{len(controls)} control network{'s' if len(controls) > 1 else ''}"
    return (
        f"Br in {number} that learned nothing: {min(controls.values()):.2f} to {max(controls.values()):.2f}"
    )
