"""What a reader sees of relevance: both scores of each class with intervals and nulls, and all numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import bars_with_controls
from wsss_probe.report.markdown import literal
from wsss_probe_concepts.relevance.findings import strongest
from wsss_probe_concepts.relevance.living import living_scores

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run

__all__ = ["scored_bars", "sections"]

MOST_BARS = 12
"""Concepts that are drawn; the table has all."""

NULL_COLOR = "#878d96"

DEFINITION = (
    "S = g · v, the gradient of the class logit (mean over positions) along the unit regression concept "
    "vector. TCAV score: share of the class's images with S > 0. Br = max(held-out R², 0) · mean(S) / "
    "std(S), population deviation (Graziani, Andrearczyk, Müller 2018, arXiv:1904.04520). Whiskers: 95 % "
    "over groups, directions held fixed. Grey lines are chance, not 0 or 0.5: of TCAV, permuted concepts "
    "that are fitted and scored alike; of Br, random directions with the concept's R². q: of the mean "
    "sensitivity, against both; Benjamini-Hochberg over concepts, classes and layers."
)

MEANINGS = {
    "Br": "max(held-out R², 0) · mean(S) / std(S) over the class's images",
    "share of largest": "Br over the largest absolute Br of the class at this layer, as bars are published",
    "TCAV": "share of the class's images whose logit rises with the concept; chance is the null, not 0.5",
    "S": "mean sensitivity, logits per unit of activation; times rows and columns of the layer it is the "
    "derivative of the logit when the vector is added at every position",
    "alignment": "cosine of the concept's direction with the class's mean gradient",
    "p permuted": "mean sensitivity against permuted concepts, two-sided",
    "p random": "mean sensitivity against random directions, two-sided",
    "q": "of the larger of both p, over concepts, classes and layers",
    "q TCAV": "of the TCAV score, in the same way; most directions have 0 or 1 where gradients are alike",
    "q Br": "of Br, in the same way",
    "p Br": "Br against permuted concepts: small for whatever is encoded, used or not",
    "R²": "held out",
    "relevant": "q < 0.05, R² above 0, Br beyond 0 and beyond every living control, ten groups",
}


def sections(table: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section; none where nothing was scored.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.relevance.joint.joined`.
    run : Run

    Yields
    ------
    Section
    """
    if "br" not in table:
        return
    blocks: list[Block] = [_introduction(table, run)]
    for row in range(table.sizes["class"]):
        blocks += list(_figures(table.isel({"class": row})))
    yield Section("concepts", "Do classes rest on concepts?", (*blocks, _table(table)))


def scored_bars(
    labels: list[str], values: dict[str, np.ndarray], controls: dict[str, np.ndarray], axis: str, null: str
) -> dict[str, Any]:
    """Draw bars with intervals over the range of their null, each row its own.

    Parameters
    ----------
    labels : list of str
    values : dict of str to ndarray, (row,)
        ``score``, ``low``, ``high``, ``null_low`` and ``null_high``.
    controls : dict of str to ndarray, (row,)
        What each living control reached.
    axis, null : str
        What is measured, and what its null is.

    Returns
    -------
    dict
        A plotly figure.
    """
    ends = np.stack([values["low"], values["high"]], axis=1)
    ends = np.where(np.isfinite(ends), ends, values["score"][:, None])
    figure = bars_with_controls(labels, values["score"], controls, axis=axis, intervals=ends.tolist())
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": f"{null}, 95 %",
        "x": _between(values["null_low"], values["null_high"]),
        "y": _between(np.arange(len(labels)) - 0.42, np.arange(len(labels)) - 0.42),
        "line": {"width": 6, "color": NULL_COLOR},
        "hovertemplate": f"{null}: %{{x:.3g}}<extra></extra>",
    }
    figure["data"].append(line)
    figure["layout"]["showlegend"] = True
    return figure


def _between(start: np.ndarray, end: np.ndarray) -> list[float | None]:
    """Ends of separate lines, with a gap after each."""
    return [x for pair in zip(start.tolist(), end.tolist(), strict=True) for x in (*pair, None)]


# -- parts ------------------------------------------------------------------------------------


def _introduction(table: xr.Dataset, run: Run) -> Text:
    cells = int(np.isfinite(table["p"].values).sum())
    number = int(table["relevant"].values.sum())
    said = [
        f"{number} of {cells} combinations of concept, class and layer are shown to be relevant.",
        "Images of a class are those with its label."
        if table.attrs["by"] == "label"
        else "Without labels, images of a class are those predicted as it.",
    ]
    flat = np.isfinite(table["sensitivity"].values) & ~np.isfinite(table["br"].values)
    if flat.any():
        layers = [str(name) for name in table["layer"].values[flat.any(axis=(1, 2))]]
        said.append(
            f"At {literal(', '.join(layers))} the sensitivity is the same for every image, as wherever a "
            "class is a linear function of these features: Br divides by its spread and is undefined there, "
            "and a TCAV score is 0 or 1 by the sign of one number."
        )
    if run.not_testable:
        said.append(f"Not testable here: {literal(run.not_testable)}")
    return Text(" ".join(said))


def _figures(table: xr.Dataset) -> Iterator[Figure]:
    """Bars of both scores of one class, at the layer of its strongest concept."""
    best = strongest(table)
    if best is None:
        return
    at = table.isel(layer=best[0])
    for name, title, null in (("br", "Br", "random directions"), ("tcav", "TCAV score", "permuted concepts")):
        # where Br is undefined at this layer, the order is that of the mean sensitivity
        size = np.abs(at["br" if np.isfinite(at["br"].values).any() else "sensitivity"].values)
        order = [c for c in np.argsort(-np.nan_to_num(size, nan=-1.0), kind="stable") if size[c] >= 0]
        if np.isfinite(at[name].values).any():
            yield _figure(at.isel(concept=order[:MOST_BARS]), name, title, null, len(order))


def _figure(at: xr.Dataset, name: str, title: str, null: str, scored: int) -> Figure:
    names = [str(concept) for concept in at["concept"].values]
    labels = [f"{concept}, q = {q:.2g}" for concept, q in zip(names, at["q"].values, strict=True)]
    kinds = ("low", "high", "null_low", "null_high")
    values = {"score": at[name].values} | {kind: at[f"{name}_{kind}"].values for kind in kinds}
    if name == "br":
        values |= {f"null_{end}": at[f"br_random_{end}"].values for end in ("low", "high")}
    controls = living_scores(at, name)
    figure = scored_bars(labels, values, controls, f"{title} of class {at['class'].item()}", null)
    left = f", the {len(labels)} strongest of {scored} concepts" if scored > len(labels) else ""
    many = "s" if len(controls) > 1 else ""
    reached = "no living control network"
    if controls:
        reached = f"symbols: {len(controls)} living control network{many}, each with vectors of its own"
    caption = (
        f"{title} of class {at['class'].item()} at {at['layer'].item()}{left}; n = {int(at['n'])} images in "
        f"{int(at['groups'])} groups{'' if at.attrs['grouped'] else ' (images treated as independent)'}. "
        f"Control: grey lines, {at.attrs['scored']} {null}; {reached}."
    )
    data = pd.DataFrame(
        {"concept": labels, title: values["score"], **{k: values[k] for k in kinds}, **controls}
    )
    return Figure(figure, caption, DEFINITION, data)


def _table(table: xr.Dataset) -> Table:
    """Every number, one row a concept, class and layer."""
    frames = [
        _rows(table.isel({"layer": layer, "class": row}))
        for row in range(table.sizes["class"])
        for layer in range(table.sizes["layer"])
    ]
    attrs = table.attrs
    grouped = "" if attrs["grouped"] else " (images treated as independent)"
    caption = (
        f"Relevance of each concept for each class at each layer, {attrs['images']} images{grouped}; low, "
        f"high: 95 % over groups; null: 95 % of {attrs['scored']} permuted concepts (p: of "
        f"{attrs['permutations']}, and of as many random directions); controls: range over living networks "
        "that learned nothing, each with vectors of its own."
    )
    return Table(pd.concat(frames, ignore_index=True), caption, meanings=MEANINGS)


def _rows(at: xr.Dataset) -> pd.DataFrame:
    """Rows of one class at one layer."""
    br = at["br"].values
    largest = np.max(np.abs(br[np.isfinite(br)]), initial=0.0)
    controls = np.array([*living_scores(at, "br").values()]).reshape(-1, len(br))
    columns = {
        "class": str(at["class"].item()),
        "layer": str(at["layer"].item()),
        "concept": at["concept"].values,
        "relevant": np.where(at["relevant"].values, "yes", ""),
        "Br": br,
        "Br low": at["br_low"].values,
        "Br high": at["br_high"].values,
        "q": at["q"].values,
        "share of largest": br / largest if largest > 0 else np.full(len(br), np.nan),
        "random from": at["br_random_low"].values,
        "random to": at["br_random_high"].values,
        "permuted from": at["br_null_low"].values,
        "permuted to": at["br_null_high"].values,
        "controls from": np.fmin.reduce(controls, axis=0, initial=np.nan),
        "controls to": np.fmax.reduce(controls, axis=0, initial=np.nan),
        "TCAV": at["tcav"].values,
        "TCAV low": at["tcav_low"].values,
        "TCAV high": at["tcav_high"].values,
        "TCAV null from": at["tcav_null_low"].values,
        "TCAV null to": at["tcav_null_high"].values,
        "S": at["sensitivity"].values,
        "alignment": at["alignment"].values,
        "p permuted": at["p_permuted"].values,
        "p random": at["p_random"].values,
        "q TCAV": at["q_tcav"].values,
        "q Br": at["q_br"].values,
        "p Br": at["p_br"].values,
        "R²": at["r2_held"].values,
        "n": int(at["n"]),
        "groups": int(at["groups"]),
        "note": at["reason"].values,
    }
    return pd.DataFrame(columns).round(6)  # a download holds twice as many rows
