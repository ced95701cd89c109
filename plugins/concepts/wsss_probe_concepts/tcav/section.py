"""What a reader sees of classification concept vectors: scores of each class with nulls, and all numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table
from wsss_probe_concepts.relevance.living import living_scores
from wsss_probe_concepts.relevance.section import scored_bars
from wsss_probe_concepts.tcav.findings import TESTABLE, strongest

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = (
    "Concept activation vector: normal of a linear classifier (hinge loss) of a layer's averaged features, "
    "images with the concept against images without (Kim et al. 2018, arXiv:1711.11279). TCAV score: share "
    "of the class's images whose logit rises along it. Bars: 95 % over groups, the vector held fixed. Grey "
    "lines: 95 % of vectors of labels exchanged between groups; that is chance, not 0.5."
)

NULL = "exchanged labels"

MEANINGS = {
    "AUC": "of the vector on groups that it was not fitted to; under 0.7 at its lower end it is none",
    "accuracy": "balanced, held out",
    "TCAV": "share of the class's images whose logit rises along the vector; chance is the null, not 0.5",
    "magnitude": "mean derivative of the logit along the vector (gradient averaged over positions)",
    "cosine": "of the vector with the class's mean gradient",
    "p labels": "magnitude against vectors of exchanged labels, two-sided",
    "p random": "magnitude against random directions, two-sided",
    "q": "of the larger of both p, over concepts, classes and layers",
    "q TCAV": "of the TCAV score against vectors of exchanged labels",
    "relevant": "AUC at least 0.7, q < 0.05, cosine beyond 0 and every living control, ten groups",
}


def sections(table: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG001  # the table has it all
    """Build the report's section; none where no concept has two values.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.tcav.joint.joined`.
    run : Run

    Yields
    ------
    Section
    """
    if "tcav" in table:
        figures = [figure for row in range(table.sizes["class"]) for figure in _figure(table, row)]
        yield Section(
            "concepts", "Do classes follow concepts that are there or not?", (*figures, _table(table))
        )


def _figure(table: xr.Dataset, row: int) -> Iterator[Figure]:
    """Bars of one class at the layer of its strongest concept."""
    best = strongest(table.isel({"class": row}))
    if best is None:
        return
    at = table.isel({"class": row, "layer": best[0]})
    at = at.isel(concept=np.flatnonzero(np.isfinite(at["tcav"].values)))
    labels = [
        f"{name} (AUC {low:.2f} or more)" if low >= TESTABLE else f"{name} (not testable)"
        for name, low in zip(at["concept"].values, at["auc_low"].values, strict=True)
    ]
    kinds = ("low", "high", "null_low", "null_high")
    values = {"score": at["tcav"].values} | {kind: at[f"tcav_{kind}"].values for kind in kinds}
    controls = living_scores(at, "tcav")
    figure = scored_bars(labels, values, controls, f"TCAV score of class {at['class'].item()}", NULL)
    reached = f"symbols: {len(controls)} living control networks" if controls else "no living control network"
    independent = "" if table.attrs["grouped"] else " (images treated as independent)"
    caption = (
        f"TCAV score of class {at['class'].item()} at {at['layer'].item()}; n = {int(at['n'][0])} images in "
        f"{int(at['groups'][0])} groups{independent}. "
        f"Control: grey lines, {table.attrs['permutations']} {NULL}; {reached}."
    )
    data = pd.DataFrame({"concept": at["concept"].values, "TCAV": values["score"]})
    yield Figure(figure, caption, DEFINITION, data.assign(**{k: values[k] for k in kinds}))


def _table(table: xr.Dataset) -> Table:
    """Every number, one row a concept, class and layer."""
    frames = [
        _rows(table.isel({"layer": layer, "class": row}))
        for row in range(table.sizes["class"])
        for layer in range(table.sizes["layer"])
    ]
    grouped = "" if table.attrs["grouped"] else " (images treated as independent)"
    caption = (
        f"Concepts with two values, classes and layers{grouped}; low, high: 95 % over groups; null: 95 % of "
        f"{table.attrs['permutations']} vectors of exchanged labels; controls: range of the cosine over "
        "living networks that learned nothing, each with vectors of its own."
    )
    return Table(pd.concat(frames, ignore_index=True), caption, meanings=MEANINGS)


def _rows(at: xr.Dataset) -> pd.DataFrame:
    """Rows of one class at one layer."""
    controls = np.array([*living_scores(at, "alignment").values()]).reshape(-1, at.sizes["concept"])
    columns = {
        "AUC": "auc",
        "AUC low": "auc_low",
        "AUC high": "auc_high",
        "accuracy": "accuracy",
        "with": "with",
        "without": "without",
        "TCAV": "tcav",
        "TCAV low": "tcav_low",
        "TCAV high": "tcav_high",
        "null from": "tcav_null_low",
        "null to": "tcav_null_high",
        "magnitude": "magnitude",
        "cosine": "alignment",
        "cosine low": "alignment_low",
        "cosine high": "alignment_high",
        "p labels": "p_permuted",
        "p random": "p_random",
        "q": "q",
        "q TCAV": "q_tcav",
        "n": "n",
        "groups": "groups",
    }
    head = {
        "class": str(at["class"].item()),
        "layer": str(at["layer"].item()),
        "concept": at["concept"].values,
        "relevant": np.where(at["relevant"].values, "yes", ""),
    }
    ends = {
        "controls from": np.fmin.reduce(controls, axis=0, initial=np.nan),
        "controls to": np.fmax.reduce(controls, axis=0, initial=np.nan),
    }
    return pd.DataFrame({**head, **{title: at[key].values for title, key in columns.items()}, **ends})
