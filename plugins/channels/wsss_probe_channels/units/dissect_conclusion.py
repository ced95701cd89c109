"""From pixel sums to intersection over union, detectors, and what may be said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import group_bootstrap
from wsss_probe_channels.evidence import reliable
from wsss_probe_channels.screening.selection import Best, Halves, choices_of, split_halves

if TYPE_CHECKING:
    from wsss_probe import Choice
    from wsss_probe.contracts import Control, Run

__all__ = ["CROWDED", "DETECTOR", "conclude", "iou_table"]

DETECTOR = 0.04
"""A channel is a detector of its best concept when their IoU is strictly above it."""

CROWDED = 2
"""A channel with more than this many times the share above its threshold was not divided there: its values
crowd at one point, and its region is not that of its strongest responses."""


def conclude(name: str, layer: str, run: Run, *, kept: bool) -> Conclusion:
    """Conclude over all images of one layer.

    Parameters
    ----------
    name, layer : str
    run : Run
    kept : bool
        Whether there are rows by image, so that a concept's best channel is chosen on one half of the
        images and scored on the other, with an interval.

    Returns
    -------
    Conclusion
        The table of :func:`iou_table`; by (class) ``best_channel``, its ``best_iou`` on the scoring images,
        ``best_low``, ``best_high``, ``best_n``; by (control, class) ``control_iou``, by (control)
        ``control_detectors``, ``control_unique``, ``control_alive``.
    """
    share = float(run.summary(f"quantiles@{layer}").attrs["share"])
    table = iou_table(run.partial(name), share)
    halves = _halves(run.rows(name), run) if kept else None
    best = [
        _scored(_Network(run, name, table), halves, position, run) for position in range(len(table["class"]))
    ]
    summary = xr.merge([table, _best_table(best, table), _control_table(name, layer, run, (halves, share))])
    summary.attrs = {
        "how": halves.how if halves else "chosen and scored on all images, so optimistic",
        "share": share,
        "unique": int((table["detectors"].values > 0).sum()),
        "images": int((halves.choose | halves.score).sum()) if halves else len(run.images),
        "scored": int(halves.score.sum()) if halves else len(run.images),
    }
    findings = [_best_finding(summary, layer, run, position) for position in range(len(best))]
    named = [f"channel of {layer} for {concept}, dissected" for concept in map(str, table["class"].values)]
    choices = _choices(best, halves, run, named)
    return Conclusion(summary, (*findings, _detector_finding(summary, layer, run)), choices)


# -- the table ---------------------------------------------------------------------------------


def iou_table(partial: xr.Dataset, share: float = 0.005) -> xr.Dataset:
    """Turn pixel sums over images into intersection over union.

    Parameters
    ----------
    partial : Dataset
        As :meth:`wsss_probe_channels.units.dissect_probe.Dissect.observe` gives it, added up.
    share : float
        Share of cells that was to be above the threshold.

    Returns
    -------
    Dataset
        By (channel, class): ``iou``, ``iou_all``, ``cap``, the largest IoU that masks of these sizes can
        have, NaN where the concept is absent. By (channel): ``best``, position of the concept with the
        largest IoU, -1 if there is none, ``best_concept`` in words, ``best_concept_iou``, ``detector``,
        ``reached``, the share of low-resolution cells above the threshold, ``crowded``, whether that is more
        than twice what was asked for (equal values, which no threshold divides), so that the channel is no
        detector, and ``coverage``, the share of pixels. By (class): ``prevalence``, ``detectors``.
    """
    inter, unit, everywhere = (partial[key].values for key in ("intersection", "unit", "unit_all"))
    area, pixels = partial["area"].values, partial["pixels"].values
    iou = _ratio(inter, np.where(area > 0, unit + area - inter, 0))
    cap = _ratio(np.minimum(unit, area), np.where(area > 0, np.maximum(unit, area), 0))
    best = np.where(np.isfinite(iou).any(axis=1), np.nan_to_num(iou, nan=-1).argmax(axis=1), -1)
    top = np.where(best >= 0, iou[np.arange(len(iou)), best], np.nan)
    reached = _ratio(partial["above"].values, partial["cells"].values)
    crowded = reached > CROWDED * share
    detector = (top > DETECTOR) & ~crowded
    names = np.array([*map(str, partial["class"].values), ""], dtype=object)
    both = ("channel", "class")
    return xr.Dataset(
        {
            "iou": (both, iou),
            "iou_all": (both, _ratio(inter, np.where(area > 0, everywhere + area - inter, 0))),
            "cap": (both, cap),
            "best": ("channel", best),
            "best_concept": ("channel", np.where(detector, names[best], "")),
            "best_concept_iou": ("channel", top),
            "detector": ("channel", detector),
            "reached": ("channel", reached),
            "crowded": ("channel", crowded),
            "coverage": ("channel", _ratio(unit, pixels[None]).max(axis=1, initial=0)),
            "prevalence": ("class", _ratio(area, pixels)),
            "detectors": ("class", np.bincount(best[detector], minlength=len(area))),
        },
        coords={"channel": np.arange(len(iou)), "class": partial["class"].values},
    )


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotient, NaN where there is nothing to divide by."""
    top, bottom = np.broadcast_arrays(top, bottom)
    ratio: np.ndarray = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio


# -- the best channel of a concept --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Best:
    """A concept's best channel and what it scores; -1 and NaN when not estimable."""

    channel: int = -1
    iou: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    groups: int = 0
    note: str = ""
    chosen: float = float("nan")
    candidates: int = 1


def _halves(rows: xr.Dataset, run: Run) -> Halves:
    """Divide the images with a known mask."""
    known = np.isfinite(rows["union"].isel(channel=0).values).any(axis=1)
    return split_halves(run, known, "", run.survey.seed)


@dataclass(frozen=True, slots=True)
class _Network:
    """A network's counts by image, and its table."""

    tables: Run | Control
    name: str
    table: xr.Dataset


def _scored(network: _Network, halves: Halves | None, position: int, run: Run | None = None) -> _Best:
    """Choose a network's best channel for one concept and score it; with an interval if ``run`` is given."""
    crowded = network.table["crowded"].values
    if halves is None:
        iou = np.where(crowded, np.nan, network.table["iou"].values[:, position])
        return _best_of_all(iou)
    rows = network.tables.rows(network.name).isel({"class": position})
    counts = np.stack([rows["intersection"].values, rows["union"].values]).astype(np.float64)
    chosen = np.where(crowded, np.nan, _dataset_iou(counts[:, halves.choose]))
    if not np.isfinite(chosen).any():
        return _Best()
    channel, candidates = int(np.nanargmax(chosen)), int(np.isfinite(chosen).sum())
    own = counts[:, :, channel].T  # (image, 2)
    scored = halves.score & np.isfinite(own).all(axis=1)
    score = float(_dataset_iou(own[scored].T[..., None])[0])
    if not np.isfinite(score):
        return _Best()
    if run is None:
        return _Best(channel, score)
    groups = None if run.groups is None else run.groups[scored]
    best = _with_interval(channel, own[scored], groups, run)
    return replace(best, chosen=float(chosen[channel]), candidates=candidates)


def _best_of_all(iou: np.ndarray) -> _Best:
    """Choose and score on all images, (channel,)."""
    if not np.isfinite(iou).any():
        return _Best()
    top = float(np.nanmax(iou))
    return _Best(int(np.nanargmax(iou)), top, chosen=top, candidates=int(np.isfinite(iou).sum()))


def _choices(
    best: Sequence[_Best], halves: Halves | None, run: Run, named: Sequence[str]
) -> tuple[Choice, ...]:
    """What was chosen by its IoU; scored on the same images where nothing is kept by image."""
    everywhere = np.ones(len(run.images), dtype=bool)
    sides = halves or Halves(everywhere, everywhere, "", "all images", independent=False)
    made: list[Choice] = []
    for what, item in zip(named, best, strict=True):
        kept = np.array([item.iou])
        chosen = Best(item.channel, item.chosen, kept, item.candidates, "IoU over all pixels")
        made += choices_of(run, what, chosen, sides)
    return tuple(made)


def _dataset_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of sums over images, (2, image, channel) -> (channel,)."""
    inter, union = np.nansum(counts, axis=1)
    return _ratio(inter, union)


def _with_interval(channel: int, own: np.ndarray, groups: np.ndarray | None, run: Run) -> _Best:
    def ratio(drawn: np.ndarray) -> float:
        inter, union = drawn.sum(axis=0)
        return float(inter / union) if union else float("nan")

    found = group_bootstrap(own, groups, ratio, resamples=1000, seed=run.survey.seed)
    bounds = float(found.low.min()), float(found.high.max())
    return _Best(channel, float(found.estimate), *bounds, found.n, found.groups, found.note)


def _best_table(best: Sequence[_Best], table: xr.Dataset) -> xr.Dataset:
    columns: dict[str, Callable[[_Best], object]] = {
        "best_channel": lambda item: item.channel,
        "best_iou": lambda item: item.iou,
        "best_low": lambda item: item.low,
        "best_high": lambda item: item.high,
        "best_n": lambda item: item.n,
        "best_groups": lambda item: item.groups,
        "best_note": lambda item: item.note,
    }
    values = {key: [read(item) for item in best] for key, read in columns.items()}
    arrays = {key: np.array(v, dtype=object if key == "best_note" else None) for key, v in values.items()}
    return xr.Dataset(
        {key: ("class", array) for key, array in arrays.items()}, coords={"class": table["class"]}
    )


def _control_table(name: str, layer: str, run: Run, how: tuple[Halves | None, float]) -> xr.Dataset:
    """What each control reaches in the same way; empty without controls."""
    if not run.controls:
        return xr.Dataset()
    halves, share = how
    tables = [iou_table(control.partial(name), share) for control in run.controls]
    classes = tables[0]["class"].values
    networks = [_Network(control, name, table) for control, table in zip(run.controls, tables, strict=True)]
    iou = [
        [_scored(network, halves, position).iou for position in range(len(classes))] for network in networks
    ]
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([c.alive(layer) for c in run.controls])),
            "control_iou": (("control", "class"), np.array(iou)),
            "control_detectors": ("control", np.array([int(t["detector"].sum()) for t in tables])),
            "control_unique": ("control", np.array([int((t["detectors"] > 0).sum()) for t in tables])),
        },
        coords={"control": np.array([c.name for c in run.controls], dtype=object), "class": classes},
    )


# -- findings ----------------------------------------------------------------------------------


def _living(summary: xr.Dataset, key: str) -> np.ndarray:
    """Numbers of the controls that respond to images and have one."""
    if "control" not in summary.dims:
        return np.empty(0)
    values = summary[key].values[summary["control_alive"].values.astype(bool)]
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _best_finding(summary: xr.Dataset, layer: str, run: Run, position: int) -> Finding:
    """State what a concept's best channel reaches, beside the controls' best and the largest possible."""
    row = summary.isel({"class": position})
    concept = str(row["class"].values)
    name, subject = f"dissect/{concept}@{layer}", f"Layer {layer}, concept {concept}"
    channel = int(row["best_channel"])
    if channel < 0:
        absent = not float(row["prevalence"]) > 0
        reason = "the concept is absent" if absent else "the concept is absent from one half of the images"
        return Finding(name, "notice", f"{subject}: IoU not estimable, since {reason}.", n=0, unit="IoU")
    low, high, iou = float(row["best_low"]), float(row["best_high"]), float(row["best_iou"])
    controls = _living(row, "control_iou")
    above = bool(len(controls)) and low > controls.max()
    parts = [
        f"{subject}: channel {channel}, {summary.attrs['how']}, has IoU {iou:.3f} [{low:.3f}, {high:.3f}]"
        + (f" ({row['best_note'].item()})" if row["best_note"].item() else ""),
        f"at most {float(row['cap'].max()):.3f} is possible for a channel of this layer, since the concept "
        f"covers {float(row['prevalence']):.1%} of the pixels",
        _against(controls, iou, above=above, interval=np.isfinite(low)),
    ]
    parts += [f"not testable here: {run.not_testable}"] if run.not_testable else []
    return Finding(
        name,
        "ok" if above and reliable(int(row["best_groups"])) and not run.not_testable else "notice",
        "; ".join(parts) + ".",
        effect=iou,
        interval=(low, high) if np.isfinite(low) else None,
        n=int(row["best_n"]) or summary.attrs["scored"],
        groups=int(row["best_groups"]) or None,
        unit="IoU",
        control=f"{len(controls)} control networks, best channel each",
    )


def _against(controls: np.ndarray, iou: float, *, above: bool, interval: bool) -> str:
    """Compare with the best channels of the living controls."""
    if not len(controls):
        return "no living control, so no verdict"
    spread = f"best channels of {len(controls)} controls {controls.min():.3f} to {controls.max():.3f}"
    limit = f"no p below {1 / (len(controls) + 1):.2g}"
    if above:
        return f"above all controls ({spread}); {limit}"
    if iou > controls.max():
        why = "its interval reaches into their range" if interval else "there is no interval"
        return f"above all controls ({spread}), but {why}, so no verdict; {limit}"
    return f"not above all controls ({spread}), so no better than a network that learned nothing"


def _detector_finding(summary: xr.Dataset, layer: str, run: Run) -> Finding:
    """Count detectors in the audited network and in its controls."""
    number, channels = int(summary["detector"].sum()), summary.sizes["channel"]
    capped = [
        str(name)
        for name, cap in zip(summary["class"].values, summary["cap"].values.T, strict=True)
        if np.isfinite(cap).any() and np.nanmax(cap) <= DETECTOR
    ]
    text = (
        f"Layer {layer}: {number} of {channels} channels are detectors (IoU above {DETECTOR}) of "
        f"{summary.attrs['unique']} of {summary.sizes['class']} concepts"
    )
    counts = _living(summary, "control_detectors")
    text += (
        f"; controls have {counts.min():.0f} to {counts.max():.0f}"
        if len(counts)
        else "; no living control to compare with"
    )
    left_out = int(summary["crowded"].sum())
    text += f"; {left_out} left out, whose values crowd at their threshold" if left_out else ""
    text += f"; no channel could detect {', '.join(capped)}, which covers too much" if capped else ""
    text += f"; not testable here: {run.not_testable}" if run.not_testable else ""
    return Finding(
        f"detectors@{layer}",
        "notice",
        text + ".",
        effect=float(number),
        unit="channels",
        control=f"{len(counts)} control networks",
    )
