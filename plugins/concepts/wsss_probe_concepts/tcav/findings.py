"""What may be said of each class: the two-valued concept it is shown to follow, or what is lacking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_concepts.relevance.living import living_number

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["LEVEL", "TESTABLE", "findings", "strongest"]

LEVEL, TESTABLE = 0.05, 0.7
"""False discovery rate, and the held-out AUC whose lower end a vector must reach to be one."""


def findings(table: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State for each class which concept it follows most, as far as that is shown.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.tcav.joint.joined`.
    run : Run

    Returns
    -------
    tuple of Finding
        None for a class without a score.
    """
    classes = [table.isel({"class": row}) for row in range(table.sizes["class"])]
    return tuple(_finding(one, best, run) for one in classes if (best := strongest(one)) is not None)


def strongest(table: xr.Dataset) -> tuple[int, int] | None:
    """Find the layer and concept that a class is judged by.

    Parameters
    ----------
    table : Dataset
        Of one class, (layer, concept).

    Returns
    -------
    (int, int) or None
        The one with the largest absolute alignment among those that are relevant; without any, among
        those whose vector parts images; else among all. None where nothing is scored.
    """
    size = np.abs(table["alignment"].values)
    known = np.isfinite(size)
    if not known.any():
        return None
    shown, parted = table["relevant"].values.astype(bool), table["auc_low"].values >= TESTABLE
    among = next(kept for kept in (shown, parted & known, known) if kept.any())
    layer, concept = np.unravel_index(int(np.argmax(np.where(among & known, size, -1.0))), size.shape)
    return int(layer), int(concept)


def _finding(table: xr.Dataset, best: tuple[int, int], run: Run) -> Finding:
    cell = table.isel(layer=best[0], concept=best[1])
    name, shown = str(cell["class"].item()), bool(cell["relevant"])
    controls = living_number(cell, "alignment")
    said = _lacking(cell, controls)
    parts = [
        _opening(table, cell, shown=shown),
        _numbers(cell),
        _control_words(controls),
        *([] if table.attrs["grouped"] else ["images treated as independent"]),
        *([f"lacking: {', '.join(said)}"] if said else []),
        *([f"not testable here: {run.not_testable}"] if run.not_testable else []),
    ]
    low, high = float(cell["alignment_low"]), float(cell["alignment_high"])
    return Finding(
        f"tcav/{name}",
        "ok" if shown and not run.not_testable else "notice",
        "; ".join(parts) + ".",
        effect=float(cell["alignment"]),
        interval=(low, high) if np.isfinite([low, high]).all() else None,
        n=int(cell["n"]),
        groups=int(cell["groups"]),
        unit="cosine of concept vector and mean gradient",
        control=", ".join(
            [*controls, f"{table.attrs['permutations']} exchanged labels", "random directions"]
        ),
    )


def _opening(table: xr.Dataset, cell: xr.Dataset, *, shown: bool) -> str:
    name, place = cell["class"].item(), f"{cell['concept'].item()} at {cell['layer'].item()}"
    tried = int(np.isfinite(table["alignment"].values).sum())
    if shown:
        number = int(table["relevant"].values.sum())
        return f"Class {name} follows {place}, the strongest of {number} shown among {tried} tried"
    return f"Class {name}: none of {tried} two-valued concepts and layers is shown, nearest is {place}"


def _numbers(cell: xr.Dataset) -> str:
    auc, low, high = (float(cell[key]) for key in ("auc", "auc_low", "auc_high"))
    return (
        f"its vector parts {int(cell['with'])} images with the concept from {int(cell['without'])} without "
        f"by a held-out AUC of {auc:.2f} [{low:.2f}, {high:.2f}]; the logit rises along it on "
        f"{float(cell['tcav']):.0%} of n = {int(cell['n'])} images (exchanged labels: "
        f"{float(cell['tcav_null_low']):.0%} to {float(cell['tcav_null_high']):.0%}), cosine with the mean "
        f"gradient {float(cell['alignment']):.2f} [{float(cell['alignment_low']):.2f}, "
        f"{float(cell['alignment_high']):.2f}], q = {float(cell['q']):.2g}"
    )


def _lacking(cell: xr.Dataset, controls: dict[str, float]) -> list[str]:
    """What keeps one cell from being called relevant; empty where nothing does."""
    low, high = float(cell["alignment_low"]), float(cell["alignment_high"])
    said = []
    if not float(cell["auc_low"]) >= TESTABLE:
        said.append(f"not testable here, the lower end of the vector's AUC is under {TESTABLE}")
    if not float(cell["q"]) < LEVEL:
        said.append(f"q is {float(cell['q']):.2g}")
    if not low * high > 0:
        said.append("the interval of the cosine is not beyond 0")
    elif not controls:
        said.append("no living control network to compare with")
    elif not min(abs(low), abs(high)) > max(abs(value) for value in controls.values()):
        said.append("the interval of the cosine is not beyond that of every living control")
    if not int(cell["groups"]) >= FEW_GROUPS:
        said.append(f"fewer than {FEW_GROUPS} groups")
    return said


def _control_words(controls: dict[str, float]) -> str:
    if not controls:
        return "no living control network with a gradient, no verdict"
    number = f"{len(controls)} control network{'s' if len(controls) > 1 else ''}"
    low, high = min(controls.values()), max(controls.values())
    return f"cosine in {number} that learned nothing: {low:.2f} to {high:.2f}"
