"""What may be said about a map when the network has forgotten what it learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["findings", "verdicts"]

_HARDLY = 0.5
"""Share of the way from chance to identity that a map keeps if it hardly depends on the weights."""

_SAME_CLASS = 0.9
"""Similarity to the map of another class above which a map hardly depends on the class."""


def verdicts(summary: xr.Dataset) -> np.ndarray:
    """Say of each map what forgetting everything does to it.

    Parameters
    ----------
    summary : Dataset

    Returns
    -------
    ndarray of object, (explainer,)
        ``hardly depends``: the interval of the absolute similarity is above chance, every draw is, and half
        of the way from chance to identity is left. ``depends in part``: above chance, less is left.
        ``depends``: not above chance. ``undefined``: no comparison is possible, because maps of different
        images are alike before or after, or there are none.
    """
    low, kept, least = (summary[key].values for key in ("excess_low", "kept", "least"))
    above = (low > 0) & (least > 0)
    found = np.where(above & (kept >= _HARDLY), "hardly depends", "depends").astype(object)
    found[above & (kept < _HARDLY)] = "depends in part"
    found[~(np.isfinite(kept) & np.isfinite(low) & _alive(summary))] = "undefined"
    return np.asarray(found)


def _alive(summary: xr.Dataset) -> np.ndarray:
    """Whether every network that has forgotten everything gives maps that differ between images."""
    order, depth = summary["order"].values, summary["depth"].values
    cascade = np.flatnonzero(order == "cascading")
    whole = [*np.flatnonzero(order == "again"), *cascade[depth[cascade] == depth[cascade].max(initial=0)]]
    if not whole:
        return np.zeros(summary.sizes["explainer"], dtype=bool)
    return np.asarray(summary["alive"].values[np.array(whole)].all(0))


def findings(summary: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State which maps hardly depend on the weights, one by one, and the others together.

    Parameters
    ----------
    summary : Dataset
    run : Run

    Returns
    -------
    tuple of Finding
    """
    verdict = summary["verdict"].values
    made = [_hardly(summary, int(at)) for at in np.flatnonzero(verdict == "hardly depends")]
    made += [
        item
        for kind in ("depends in part", "depends", "undefined")
        if (item := _together(summary, kind, run)) is not None
    ]
    same = np.flatnonzero(summary["logit_low"].sel(similarity="signed").values > _SAME_CLASS)
    return (*made, *([_classless(summary, same)] if len(same) else []))


def _hardly(summary: xr.Dataset, at: int) -> Finding:
    row = summary.isel(explainer=at)
    explainer, _, layer = str(row["explainer"].item()).partition(", ")
    low, high = float(row["excess_low"]), float(row["excess_high"])
    chance = float(row["chance"].sel(similarity="absolute"))
    few = summary.attrs["groups"] < FEW_GROUPS
    text = (
        f"The map of {explainer} at {layer} hardly depends on the weights: with all layers drawn again its "
        f"absolute rank correlation with the trained network's is {chance + float(row['excess']):.2f}, where "
        f"maps of different images have {chance:.2f} (difference [{low:.2f}, {high:.2f}], "
        f"{summary.attrs['draws']} draws)" + (f"; few groups: {summary.attrs['groups']}" if few else "")
    )
    return Finding(
        f"weights/{explainer}@{layer}",
        "warning",
        f"{text}.",
        effect=float(row["excess"]),
        interval=(low, high),
        n=summary.attrs["n"],
        groups=summary.attrs["groups"] or None,
        unit="rank correlation above chance",
        control="maps of different images by the trained network",
    )


_SAYINGS = {
    "depends in part": "changes with the weights, though not down to what maps of different images share",
    "depends": "is no more like itself than like another image's once all layers are drawn again",
    "undefined": "cannot be tested by forgetting, since maps of different images are alike or there are none",
}


def _together(summary: xr.Dataset, kind: str, run: Run) -> Finding | None:
    chosen = np.flatnonzero(summary["verdict"].values == kind)
    if not len(chosen):
        return None
    few = summary.attrs["groups"] < FEW_GROUPS
    reasons = [f"no verdict on {summary.attrs['groups']} groups"] if few else []
    reasons += [f"not testable here: {run.not_testable}"] if run.not_testable else []
    described = [_described(summary, int(at), numbers=kind != "undefined") for at in chosen]
    # a list of many maps is in the table
    more = [f"and {len(described) - 6} more"] if len(described) > 6 else []
    parts = [f"Of {_number(chosen)} the map {_SAYINGS[kind]}: {'; '.join([*described[:6], *more])}", *reasons]
    sure = kind == "depends" and not reasons
    return Finding(
        f"weights-{kind.replace(' ', '-')}",
        "ok" if sure else "notice",
        "; ".join(parts) + ".",
        effect=float(len(chosen)),
        n=summary.attrs["n"],
        groups=summary.attrs["groups"] or None,
        unit="explainers",
        control="maps of different images by the trained network",
    )


def _number(chosen: Sequence[int] | np.ndarray) -> str:
    return f"{len(chosen)} {'explainer' if len(chosen) == 1 else 'explainers'}"


def _described(summary: xr.Dataset, at: int, *, numbers: bool) -> str:
    row = summary.isel(explainer=at)
    name = str(row["explainer"].item())
    if not numbers:
        return name
    return (
        f"{name} {float(row['excess']):+.2f} [{float(row['excess_low']):+.2f}, "
        f"{float(row['excess_high']):+.2f}] above chance"
    )


def _classless(summary: xr.Dataset, same: np.ndarray) -> Finding:
    """Name the maps that hardly depend on the class."""
    level = summary["logit"].sel(similarity="signed").values
    named = "; ".join(f"{summary['explainer'].values[at]} {level[at]:.2f}" for at in same[:6])
    more = f"; and {len(same) - 6} more" if len(same) > 6 else ""
    text = (
        f"Of {_number(same)} the map hardly depends on the class: for another class, drawn for each image, "
        f"its rank correlation with the explained class's is above {_SAME_CLASS}: {named}{more}."
    )
    return Finding(
        "class-does-not-matter",
        "warning",
        text,
        effect=float(len(same)),
        n=summary.attrs["n"],
        groups=summary.attrs["groups"] or None,
        unit="explainers",
        control="a map with itself is 1",
    )
