"""The gallery of relevance maps: which images it shows, and what stands under each map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from wsss_probe.contracts import Gallery, Picture, Section, Text
from wsss_probe.names import display
from wsss_probe.performance import top_right
from wsss_probe.report.text import number
from wsss_probe.targets import target_names

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Pair
    from wsss_probe.preparation import Prepared
    from wsss_probe.run import AuditedRun

__all__ = ["chosen_images", "predicted_class", "relevance_section"]

_SHOWN_IMAGES: Final = 8
_SHOWN_SCORES: Final = 4


def relevance_section(
    prepared: Prepared, run: AuditedRun, scores: Mapping[str, xr.DataArray] | None = None
) -> Section:
    """Show some images, each with its map by every explainer and layer.

    Parameters
    ----------
    prepared : Prepared
    run : AuditedRun
    scores : mapping of str to DataArray, (image, explainer)
        Of single maps, by short name; the coordinate ``explainer`` holds ``"<explainer>, <layer>"``.

    Returns
    -------
    Section
    """
    pairs = prepared.plan.relevance
    if not pairs:
        text = "No explainer suits these layers, or none is installed: `pip install ./plugins/*/`."
        return Section("where", "Relevance maps", (Text(text),))
    chosen = chosen_images(prepared, run)
    maps = {pair: values for pair in pairs if (values := _maps(run, pair, chosen)) is not None}
    rows = tuple(_row(run, (at, index), maps, scores or {}) for at, index in enumerate(chosen))
    return Section("where", "Relevance maps", (Gallery(rows, _caption(prepared, scores or {})),))


def _caption(prepared: Prepared, scores: Mapping[str, xr.DataArray]) -> str:
    target = prepared.survey.targets[0]
    whose = display(target_names([target], prepared.survey.classes)[target])
    scored = f"Under a map: {', '.join(list(scores)[:_SHOWN_SCORES])} of this image. " if scores else ""
    return (
        "Original with the mask's outline (where there is one), then one map per explainer and layer for "
        f"the {whose} class, on the layer's own grid, each scaled by its own largest value; the common scale "
        f"is that of one explainer at one layer over the images shown. {scored}"
        "Shown: the most confident errors first, then images spread over the predicted classes. Pictures "
        "carry no test."
    )


def _maps(run: AuditedRun, pair: Pair, chosen: Sequence[int]) -> np.ndarray | None:
    """Maps of the chosen images, (image, row, column), or None if they were not kept."""
    table = run.relevance(*pair)
    return None if table is None else np.asarray(table["relevance"].isel(image=list(chosen)).values)


def _row(
    run: AuditedRun,
    place: tuple[int, int],
    maps: Mapping[Pair, np.ndarray],
    scores: Mapping[str, xr.DataArray],
) -> tuple[str, tuple[Picture, ...]]:
    at, index = place
    pixels, mask = run.picture(index), run.mask(index)
    pictures = [Picture(pixels, "original", outline=None if mask is None else mask >= 0)]
    for pair, values in maps.items():
        label = ", ".join(pair)
        note = " · ".join(_scored(scores, label, index))
        pictures.append(Picture(pixels, label, values[at], note=note, common=_limits(values)))
    return _image_title(run, index), tuple(pictures)


def _limits(values: np.ndarray) -> tuple[float, float] | None:
    """Lowest and highest defined value."""
    defined = values[np.isfinite(values)]
    return (float(defined.min()), float(defined.max())) if defined.size else None


def _scored(scores: Mapping[str, xr.DataArray], label: str, index: int) -> list[str]:
    """Scores of one map in words; none where it has none."""
    told = []
    for name, table in list(scores.items())[:_SHOWN_SCORES]:
        explainers = [str(explainer) for explainer in table["explainer"].values]
        if label not in explainers:
            continue
        values = table.isel(explainer=explainers.index(label)).values
        if np.isfinite(values[index]):
            told.append(f"{name} {_said(float(values[index]), table.values)}")
    return told


def _said(value: float, among: np.ndarray) -> str:
    """Write a score of 0 or 1 alone as no or yes, any other as a number."""
    if np.isin(among[np.isfinite(among)], (0, 1)).all():
        return "yes" if value else "no"
    return f"{value:.2f}" if abs(value) < 10 else number(value)


def _image_title(run: AuditedRun, index: int) -> str:
    logits = run.logits.isel(image=index).values
    predicted = predicted_class(logits, run.survey.classes)
    name = run.images["name"].iloc[index]
    label = display(str(run.images["label"].iloc[index]))
    said = f", labelled {label}" if label else ""
    return f"{name}: predicted {display(predicted)}{said}"


def predicted_class(logits: np.ndarray, classes: Sequence[str]) -> str:
    """Name of the class with the largest logit; a single logit may also say that its class is absent."""
    if not np.isfinite(logits).any():
        return "–"
    absent = len(classes) == 1 and logits[0] <= 0
    return f"not {classes[0]}" if absent else classes[int(np.nanargmax(logits))]


def chosen_images(prepared: Prepared, run: AuditedRun) -> list[int]:
    """Choose the most confident errors, then images spread over the predicted classes."""
    logits = run.logits.values
    usable = np.flatnonzero(np.isfinite(logits).all(axis=1))
    if not len(usable):
        return []
    margin = np.sort(logits[usable], axis=1)
    single = margin.shape[1] == 1
    confidence = np.abs(margin[:, 0]) if single else margin[:, -1] - margin[:, -2]
    predicted = margin[:, 0] > 0 if single else logits[usable].argmax(axis=1)
    wrong = prepared.labelled[usable] & ~top_right(logits[usable], prepared.labels[usable])
    by_confidence = np.argsort(-confidence, kind="stable")
    owner = np.arange(len(usable)) if run.groups is None else run.groups[usable]
    errors = _one_a_group([i for i in by_confidence if wrong[i]], owner)[: _SHOWN_IMAGES // 2]
    right = np.array(_one_a_group(by_confidence[~wrong[by_confidence]], owner), dtype=int)
    others = _spread(right, predicted, _SHOWN_IMAGES - len(errors))
    return [int(usable[i]) for i in [*errors, *others]]


def _one_a_group(order: Sequence[int] | np.ndarray, groups: np.ndarray) -> list[int]:
    """Keep the first of each group, then the others: tiles of one image look alike."""
    first = {groups[index]: index for index in reversed(list(order))}
    chosen = set(first.values())
    return [i for i in order if i in chosen] + [i for i in order if i not in chosen]


def _spread(order: np.ndarray, classes: np.ndarray, wanted: int) -> list[int]:
    """Take from each class in turn, the first of its images in ``order`` first."""
    queues = {c: [i for i in order if classes[i] == c] for c in dict.fromkeys(classes[order].tolist())}
    taken: list[int] = []
    while len(taken) < wanted and any(queues.values()):
        for queue in queues.values():
            if queue and len(taken) < wanted:
                taken.append(queue.pop(0))
    return taken
