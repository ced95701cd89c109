"""What may be said of concepts over depth: what is encoded, what of it was learned, and what misleads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_concepts.vectors.encoded import (
    Cell,
    Living,
    audited,
    best_cell,
    correlations,
    encoded,
    learned,
    living_controls,
)

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["findings", "nothing_measured"]

_GAP: Final = 0.2
"""In-sample R² of OLS above the held-out one by more than this is called a trap."""

_NAMED: Final = 4


def nothing_measured(run: Run) -> Finding:
    """Say that there are no concepts, and what to do.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Finding
    """
    statement = (
        "No concept vector can be fitted, since no concept was measured in these images: choose measures "
        "with --concepts, or give the manifest a numeric column (each is a concept)."
    )
    return Finding("no-concepts", "notice", statement, n=len(run.images))


def findings(table: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State what stands out.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.depth_table`, with the probe's limits as attributes.
    run : Run

    Returns
    -------
    tuple of Finding
    """
    living = living_controls(table)
    cell = best_cell(table)
    made = [_nothing_estimable(table)] if cell is None else [_best(table, cell, living, run)]
    made += [] if cell is None else [_learned(table, living, run)]
    for more in (_not_estimable(table), _in_sample(table), _unstable(table), _collinear(table, run)):
        made += list(more)
    return tuple(made)


# -- what is encoded, what was learned ----------------------------------------------------------


def _best(table: xr.Dataset, cell: Cell, living: Living, run: Run) -> Finding:
    """State which concept is encoded best, beside the controls."""
    held, low, high = (float(audited(table, f"r2_{end}")[cell.layer, cell.concept]) for end in _ENDS)
    above, against = _against(living, cell.concept, low)
    q = float(table["q_value"].values[cell.layer, cell.concept])
    significant = bool(encoded(table)[cell.layer, cell.concept])
    test = f"q = {q:.2g}" if np.isfinite(q) else "not tested"
    parts = [
        f"Of {table.sizes['concept']} concepts at {table.sizes['layer']} layers "
        f"{_named(table, cell.concept)} is encoded best, at {_layer(table, cell)}: held-out R² {held:.2f} "
        f"[{low:.2f}, {high:.2f}], {test} (ridge, {_size(table, cell)})",
        *([] if significant else ["this is not significant, so nothing is shown to be encoded"]),
        against,
        *_reservations(table, run),
    ]
    sure = significant and above and len(parts) == 2
    return Finding(
        "best-concept",
        "ok" if sure else "notice",
        "; ".join(parts) + ".",
        effect=held,
        interval=(low, high) if np.isfinite([low, high]).all() else None,
        n=_images(table, cell),
        groups=int(table.attrs["groups"]),
        unit="held-out R²",
        control=", ".join(living.names),
    )


_ENDS: Final = ("held", "low", "high")


def _against(living: Living, concept: int, low: float) -> tuple[bool, str]:
    """Whether a concept's interval is above all living controls, and the words for it."""
    reached = living.reached[:, concept]
    known = reached[np.isfinite(reached)]
    if not len(known):
        return False, f"{_no_control(living)}, no verdict"
    above = bool(low > known.max())
    left_out = f" ({living.dead} degenerate and left out)" if living.dead else ""
    ends = [f"{end:.2f}" for end in (known.min(), known.max())]
    spread = " to ".join(dict.fromkeys(ends))
    where = "above" if above else "not above"
    verdict = "" if above else ", so no better than networks that learned nothing"
    return above, f"{where} all {_controls(known)}{left_out}, which reach {spread}{verdict}"


def _controls(known: np.ndarray) -> str:
    many = len(known) > 1
    return f"{len(known)} control{'s' if many else ''} at {'their' if many else 'its'} best layer"


def _no_control(living: Living) -> str:
    return (
        "control degenerate"
        if living.dead
        else "no control is estimable"
        if living.names
        else "no control was run"
    )


def _learned(table: xr.Dataset, living: Living, run: Run) -> Finding:
    """Count the concepts that are encoded, and those that are above every living control."""
    found, ours = encoded(table).any(axis=0), learned(table, living)
    which = np.flatnonzero(ours.any(axis=0))
    reservations = _reservations(table, run)
    total = table.sizes["concept"]
    text = f"{int(found.sum())} of {total} concepts are encoded at some layer (q < 0.05, interval above 0); "
    if not living.names:
        text += f"{_no_control(living)}, so none is known to be learned"
    else:
        names = _listed([_named(table, int(at)) for at in which])
        text += f"{len(which)} of these better than in {_number(living)}{names}"
    return Finding(
        "learned-concepts",
        "ok" if len(which) and not reservations else "notice",
        "; ".join([text, *reservations]) + ".",
        effect=float(len(which)) if living.names else None,
        n=int(table.attrs["images"]),
        groups=int(table.attrs["groups"]),
        unit="concepts above every living control",
        control=", ".join(living.names),
    )


def _number(living: Living) -> str:
    count = len(living.names)
    return f"all {count} living controls" if count > 1 else "the living control"


def _reservations(table: xr.Dataset, run: Run) -> list[str]:
    """Reasons for which there is no verdict, whatever the numbers."""
    groups = int(table.attrs["groups"])
    few = [f"no verdict on {groups} group{'s' if groups != 1 else ''}"] if groups < FEW_GROUPS else []
    return few + ([f"not testable here: {run.not_testable}"] if run.not_testable else [])


# -- what is not estimable, and what misleads ---------------------------------------------------


def _nothing_estimable(table: xr.Dataset) -> Finding:
    reasons = _reasons(table["reason"].values)
    statement = f"No concept vector is estimable at any layer: {reasons}."
    return Finding("best-concept", "notice", statement, n=0, unit="held-out R²")


def _not_estimable(table: xr.Dataset) -> Iterator[Finding]:
    """Count the fits that were refused, by model."""
    cells = table.sizes["layer"] * table.sizes["concept"]
    refused = {str(model): table["why"].sel(model=model).values.ravel() for model in table["model"].values}
    counts = {model: int((reasons != "").sum()) for model, reasons in refused.items()}
    if not any(counts.values()):
        return
    told = [f"{model} {count} ({_reasons(refused[model])})" for model, count in counts.items() if count]
    listed = "; ".join(told)
    statement = (
        f"Not estimable, of {cells} concepts by layers: {listed}. They are no zeros and count nowhere."
    )
    yield Finding("not-estimable", "notice", statement, effect=float(max(counts.values())), unit="fits")


def _reasons(reasons: np.ndarray) -> str:
    """The commonest reasons, with their number."""
    names, counts = np.unique([str(reason) for reason in reasons.ravel() if reason], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    more = f", and {len(order) - 2} other reasons" if len(order) > 2 else ""
    return ", ".join(f"{counts[at]} × {names[at]}" for at in order[:2]) + more


def _in_sample(table: xr.Dataset) -> Iterator[Finding]:
    """Tell where least squares looks much better on the images that it was fitted to."""
    if "ols" not in table["model"].values:
        return
    own = table.sel(network="audited", model="ols")
    train, held = (own[f"r2_{end}"].transpose("layer", "concept").values for end in ("train", "held"))
    gap = np.where(np.isfinite(train) & np.isfinite(held), train - held, -np.inf)
    count = int((gap > _GAP).sum())
    if not count:
        return
    layer, concept = np.unravel_index(int(gap.argmax()), gap.shape)
    noise = float(table["noise_r2"].values[layer, concept])
    cell = Cell(int(layer), int(concept))
    statement = (
        f"In-sample R² of ordinary least squares is above the held-out one by more than {_GAP} in {count} "
        f"of {int(np.isfinite(gap).sum())} fits, most for {_named(table, cell.concept)} at "
        f"{_layer(table, cell)}: {train[layer, concept]:.2f} on the images of the fit, "
        f"{held[layer, concept]:.2f} on images left out; noise alone gives p/(n − 1) = {noise:.2f}. "
        "In-sample numbers are shown dashed and support nothing."
    )
    yield Finding(
        "in-sample-trap",
        "notice",
        statement,
        effect=float(gap.max()),
        n=_images(table, cell),
        unit="in-sample minus held-out R²",
        control=f"p/(n − 1) = {noise:.2f}",
    )


def _unstable(table: xr.Dataset) -> Iterator[Finding]:
    """Tell of concepts that are predicted well along directions that depend on the images of the fit."""
    limit = float(table.attrs["unstable"])
    angle = table["angle_mean"].sel(model="ridge").transpose("layer", "concept").values
    well = encoded(table)
    bad = well & (angle > limit)
    if not bad.any():
        return
    layer, concept = np.unravel_index(int(np.where(bad, angle, -np.inf).argmax()), angle.shape)
    cell = Cell(int(layer), int(concept))
    statement = (
        f"{int(bad.sum())} of {int(well.sum())} encoded concepts by layers have no stable direction: fold "
        f"directions differ by more than {limit:g} rad on average, most for {_named(table, cell.concept)} "
        f"at {_layer(table, cell)} ({angle[layer, concept]:.2f} rad). They are predicted all the same; what "
        "is said along such a direction depends on the images of the fit."
    )
    yield Finding(
        "unstable-directions",
        "notice",
        statement,
        effect=float(angle[layer, concept]),
        n=_images(table, cell),
        unit="rad",
        control="directions at random are about 1.57 rad apart",
    )


def _collinear(table: xr.Dataset, run: Run) -> Iterator[Finding]:
    """Name the concepts that go together."""
    limit = float(table.attrs["collinear"])
    known = np.fmax.reduce(table["vif"].transpose("layer", "concept").values, axis=0)
    which = np.flatnonzero(known > limit)
    if not len(which):
        return
    pairs = _pairs(run.concepts["value"].values, which)
    named = [f"{_named(table, one)} with {_named(table, other)} (r = {r:+.2f})" for one, other, r in pairs]
    statement = (
        f"{len(which)} of {table.sizes['concept']} concepts can be predicted from the others (variance "
        f"inflation factor above {limit:g}){_listed(named)}. What is said of one of them is said of all "
        "that go with it: read partial R²."
    )
    yield Finding(
        "collinear-concepts",
        "notice",
        statement,
        effect=float(known[which].max()) if np.isfinite(known[which].max()) else None,
        n=int(table.attrs["images"]),
        unit="variance inflation factor",
    )


def _pairs(values: np.ndarray, which: np.ndarray) -> list[tuple[int, int, float]]:
    """Each collinear concept with the one that it correlates with most, closest first, no pair twice."""
    r = correlations(values)
    np.fill_diagonal(r, np.nan)
    among = {}
    for concept in which:
        if np.isfinite(r[concept]).any():
            other = int(np.nanargmax(np.abs(r[concept])))
            among[min(int(concept), other), max(int(concept), other)] = float(r[concept, other])
    ordered = sorted(among.items(), key=lambda pair: -abs(pair[1]))
    return [(one, other, value) for (one, other), value in ordered]


# -- words --------------------------------------------------------------------------------------


def _named(table: xr.Dataset, concept: int) -> str:
    return f"'{table['concept'].values[concept]}'"


def _layer(table: xr.Dataset, cell: Cell) -> str:
    return str(table["layer"].values[cell.layer])


def _images(table: xr.Dataset, cell: Cell) -> int:
    return int(table["n"].values[cell.layer, cell.concept])


def _size(table: xr.Dataset, cell: Cell) -> str:
    note = f", {table.attrs['note']}" if table.attrs["note"] else ""
    return f"n = {_images(table, cell)} images, {table.attrs['groups']} groups{note}"


def _listed(names: list[str]) -> str:
    """Write names after a colon; only the first of many."""
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f": {', '.join(names[:_NAMED])}{more}"
