"""From rows to a summary and findings: whether near-equal weights go with alike maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import Interval, benjamini_hochberg, group_bootstrap, nanmean, permutation_p
from wsss_probe_channels.evidence import reliable
from wsss_probe_channels.pairs.near_equal import KINDS, Choice, choose_pairs, known_classes

if TYPE_CHECKING:
    from wsss_probe.contracts import Run
    from wsss_probe_channels.pairs.near_equal_probe import NearEqual

__all__ = ["MEASURES", "conclude", "exchange_p"]

MEASURES = ("near", "random", "difference", "near_excess", "random_excess", "excess_difference")
"""Means over pairs, by image: F1 of either kind and their difference; the same less independence."""

EXCHANGES = 1999
"""Exchanges of pairs between the kinds: no p below 1/2000."""


def conclude(probe: NearEqual, run: Run) -> Conclusion:
    """Conclude over all images of one layer.

    Parameters
    ----------
    probe : NearEqual
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        By (class, kind, pair): channels, weights, means over images and the interval of the mean F1. By
        (class, measure) and (control, class, measure): :data:`MEASURES`, with intervals for the audited
        network. By (class): ``within``, all pairs within the tolerance; ``p`` and ``q`` of the difference;
        images and groups behind it, and what a reader must know of them.
    """
    rows = run.rows(probe.name).load()
    f1 = rows["f1"].values
    classes = f1.shape[1]
    weights = probe.weights(run.survey.head, {name: run.summary(name) for name in _known_tables(probe, run)})
    if weights is None:
        weights = np.full((classes, 1), np.nan)
    position = known_classes(weights)
    weights = weights[position]
    choice = choose_pairs(weights, probe.tolerance, probe.pairs, probe.seed)
    measured = [_bootstrap(values, run) for values in np.moveaxis(by_image(rows), 1, 0)]
    means = [nanmean(f1[:, c]) for c in range(classes)]
    p = np.array([exchange_p(mean[0], mean[1], probe.seed + c) for c, mean in enumerate(means)])
    compared = xr.Dataset(
        {
            "within": ("class", choice.within),
            "p": ("class", p),
            "q": ("class", benjamini_hochberg(p)),
            **{name: ("class", [getattr(one, name) for one in measured]) for name in ("n", "groups")},
            "note": ("class", np.array([one.note for one in measured], dtype=object)),
            "value": (("class", "measure"), np.array([one.estimate for one in measured])),
            "value_low": (("class", "measure"), np.array([one.low for one in measured])),
            "value_high": (("class", "measure"), np.array([one.high for one in measured])),
        }
    )
    summary = xr.merge([_pair_table(rows, weights, choice, run), compared, _control_table(probe, run)])
    names = [run.survey.classes[c] for c in position]
    summary = summary.assign_coords(
        {"class": np.array(names, dtype=object), "measure": np.array(MEASURES, dtype=object)}
    )
    kind = "head" if probe.weights(run.survey.head, {}) is not None else "effective"
    summary.attrs = {**probe.options, "weights": kind}
    evidence = _Evidence(summary, probe.layer, run.not_testable)
    return Conclusion(summary, tuple(_finding(evidence, c) for c in range(classes)))


def _known_tables(probe: NearEqual, run: Run) -> list[str]:
    return sorted({f"head-weights@{probe.layer}"} & run.summary_names)


def by_image(rows: xr.Dataset) -> np.ndarray:
    """:data:`MEASURES` of every image: means over the pairs where F1 is defined.

    Parameters
    ----------
    rows : Dataset
        ``f1`` and ``expected`` (image, class, kind, pair).

    Returns
    -------
    ndarray of float64, (image, class, measure)
        NaN on images where one of the kinds has no F1, so that all measures are of the same images.
    """
    f1 = rows["f1"].values.astype(np.float64)
    means = nanmean(np.moveaxis(f1, -1, 0))
    excess = nanmean(np.moveaxis(f1 - rows["expected"].values, -1, 0))
    parts = [
        part for both in (means, excess) for part in (both[..., 0], both[..., 1], both[..., 0] - both[..., 1])
    ]
    values = np.stack(parts, axis=-1)
    values[np.isnan(values[..., 2])] = np.nan
    return values


def _bootstrap(values: np.ndarray, run: Run) -> Interval:
    return group_bootstrap(values, run.groups, seed=run.survey.seed)


def exchange_p(near: np.ndarray, random: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the difference of means when pairs are exchanged between the kinds.

    An interval over images holds for the pairs at hand; whether other near-equal pairs would differ from
    other random pairs is a question to the pairs, so they are what is exchanged.

    Parameters
    ----------
    near, random : ndarray, (pair,)
        Mean F1 of each pair; NaN is left out.
    seed : int

    Returns
    -------
    float
        NaN with less than two pairs of a kind.

    Examples
    --------
    >>> exchange_p(np.array([0.9, 0.8, 0.9, 0.8]), np.array([0.1, 0.2, 0.1, 0.2])) < 0.05
    True
    """
    near, random = near[np.isfinite(near)], random[np.isfinite(random)]
    if min(len(near), len(random)) < 2:
        return float("nan")
    values = np.concatenate([near, random])
    order = np.random.default_rng(seed).random((EXCHANGES, len(values))).argsort(axis=1)
    exchanged = values[order]
    null = exchanged[:, : len(near)].mean(axis=1) - exchanged[:, len(near) :].mean(axis=1)
    return float(permutation_p(abs(near.mean() - random.mean()), np.abs(null)))


# -- tables ------------------------------------------------------------------------------------


def _pair_table(rows: xr.Dataset, weights: np.ndarray, choice: Choice, run: Run) -> xr.Dataset:
    """Summarise every pair over all images."""
    f1, empty = rows["f1"].values.astype(np.float64), rows["empty"].values
    interval = _bootstrap(f1, run)
    ends = choice.channels
    position = np.arange(len(ends))[:, None, None, None]
    pair_weights = np.where(ends >= 0, weights[position, ends], np.nan)
    columns = {
        "first": ends[..., 0],
        "second": ends[..., 1],
        "weight": pair_weights.mean(axis=-1),
        "weight_difference": np.abs(pair_weights[..., 0] - pair_weights[..., 1]),
        "mean_f1": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        # the paper's table has zeros: F1 with an empty mask is 0 there
        "mean_f1_empty_is_0": nanmean(np.where(empty > 0, 0, f1)),
        "expected_f1": nanmean(rows["expected"].values.astype(np.float64)),
        "empty": nanmean(empty.astype(np.float64)),
        "correlation": nanmean(rows["correlation"].values.astype(np.float64)),
        "defined": np.isfinite(f1).sum(axis=0),
    }
    dims = ("class", "kind", "pair")
    coords = {"kind": np.array(KINDS, dtype=object), "pair": np.arange(ends.shape[2])}
    return xr.Dataset({name: (dims, values) for name, values in columns.items()}, coords=coords)


def _control_table(probe: NearEqual, run: Run) -> xr.Dataset:
    """Measure every control in the same way, by control, class and measure; empty without controls."""
    if not run.controls:
        return xr.Dataset()
    values = [nanmean(by_image(control.rows(probe.name))) for control in run.controls]
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([c.alive(probe.layer) for c in run.controls])),
            "control_value": (("control", "class", "measure"), np.array(values)),
        },
        coords={"control": np.array([c.name for c in run.controls], dtype=object)},
    )


# -- findings ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The summary with what may be said of it."""

    summary: xr.Dataset
    layer: str
    not_testable: str

    def controls(self, position: int) -> list[float]:
        """Differences between near-equal and random pairs in the living controls."""
        if "control" not in self.summary.dims:
            return []
        values = self.summary["control_value"].values[:, position, 2]
        alive = self.summary["control_alive"].values.astype(bool)
        return [float(value) for value in values[alive & np.isfinite(values)]]

    def measured(self, position: int, measure: str) -> tuple[float, float, float]:
        """Estimate, low and high."""
        number = MEASURES.index(measure)
        names = ("value", "value_low", "value_high")
        estimate, low, high = (float(self.summary[name].values[position, number]) for name in names)
        return estimate, low, high


def _finding(evidence: _Evidence, position: int) -> Finding:
    """State for one class whether near-equal weights go with alike maps.

    ``ok``, near-equal weights do tell of alike maps, needs all of: the interval of the difference to random
    pairs is above every living control's difference and above 0, q over pairs at most .05, and a testable
    classifier.
    """
    summary = evidence.summary
    class_name = str(summary["class"].values[position])
    name = f"near-equal/{class_name}@{evidence.layer}"
    subject = f"Layer {evidence.layer}, class {class_name}"
    pairs = int((summary["first"].values[position, 0] >= 0).sum())
    if not pairs:
        reason = "there are no two channels with a known weight"
        return Finding(name, "notice", f"{subject}: no pairs of near-equal weight, since {reason}.")
    estimate, low, high = evidence.measured(position, "difference")
    if not np.isfinite(estimate):
        reason = (
            "no random pair differs in weight"
            if not (summary["first"].values[position, 1] >= 0).any()
            else "no image has a map that is not constant in both kinds of pairs"
        )
        statement = f"{subject}: not estimable whether near-equal weights go with alike maps, since {reason}."
        return Finding(name, "notice", statement, n=0, unit="F1")
    verdict, words = _verdict(evidence, position)
    counted = f"{subject}: {pairs} pair{'s' if pairs > 1 else ''}"
    statement = "; ".join([_numbers(evidence, position, counted), *words]) + "."
    controls = ["random pairs of channels"] + (["control networks"] if evidence.controls(position) else [])
    return Finding(
        name,
        "ok" if verdict and reliable(int(summary["groups"].values[position])) else "notice",
        statement,
        effect=estimate,
        interval=(low, high),
        n=int(summary["n"].values[position]),
        groups=int(summary["groups"].values[position]),
        unit="difference in F1",
        control=", ".join(controls),
    )


def _numbers(evidence: _Evidence, position: int, subject: str) -> str:
    """Say what the pairs are, how alike their maps are, and how alike those of random pairs."""
    summary = evidence.summary
    near, random = (evidence.measured(position, name)[0] for name in ("near", "random"))
    excess, low, high = evidence.measured(position, "near_excess")
    estimate, *ends = evidence.measured(position, "difference")
    within = int(summary["within"].values[position])
    tolerance = summary.attrs["tolerance"]
    how = f"the closest of {within}" if within else "the closest, none"
    kind = "weights" if summary.attrs["weights"] == "head" else "effective weights"
    p, note = float(summary["p"].values[position]), str(summary["note"].values[position])
    note = f" ({note})" if note else ""
    exchanged = f", p = {p:.2g} when pairs are exchanged" if np.isfinite(p) else ""
    return (
        f"{subject} of near-equal {kind} ({how} within {tolerance:g}) have mean F1 {near:.3f} between their "
        f"Otsu masks, {excess:+.3f} [{low:+.3f}, {high:+.3f}] against independent masks, random pairs "
        f"{random:.3f}; difference {estimate:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        f"{note}{exchanged}; {_empty(summary, position):.0%} of the comparisons meet an empty mask"
    )


def _empty(summary: xr.Dataset, position: int) -> float:
    return float(nanmean(summary["empty"].values[position, 0]))


def _verdict(evidence: _Evidence, position: int) -> tuple[bool, list[str]]:
    """Whether near-equal weights tell of alike maps beyond all controls, and the words for it."""
    _, low, high = evidence.measured(position, "difference")
    clear = float(evidence.summary["q"].values[position]) <= 0.05
    controls = evidence.controls(position)
    above = bool(controls) and low > max(controls)
    if clear and low > 0:
        said = "so channels of near-equal weight are more alike than random ones"
    elif clear and high < 0:
        said = "so channels of near-equal weight are less alike than random ones"
    else:
        said = "so near-equal weights do not tell of alike maps here"
        if low > 0 or high < 0:
            said = f"these pairs differ from those, but no more than pairs do among themselves, {said}"
    spread = (
        f"the same difference is {min(controls):+.3f} to {max(controls):+.3f} in {len(controls)} living "
        f"control{'s' if len(controls) > 1 else ''}"
        if controls
        else "no living control, no verdict"
    )
    words = [said, spread]
    if evidence.not_testable:
        words.append(f"not testable here: {evidence.not_testable}")
    return clear and low > 0 and above and not evidence.not_testable, words
