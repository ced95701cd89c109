"""From judged images to a table of maps, beside baselines, and what may be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import FEW_GROUPS, group_bootstrap, nanmean
from wsss_probe_explainers.paired import Comparison, compare
from wsss_probe_explainers.sampling import BASELINES, Judged, baseline_name

if TYPE_CHECKING:
    from wsss_probe.contracts import Run

__all__ = ["conclude", "verdicts"]

_LEVEL = 0.05
"""Adjusted p below which a difference counts."""


def conclude(name: str, judged: Sequence[Judged], price: int, run: Run) -> Conclusion:
    """Conclude over the judged images.

    Parameters
    ----------
    name : str
        Of the probe.
    judged : sequence of Judged
    price : int
        Network inputs that each judged image cost.
    run : Run

    Returns
    -------
    Conclusion
        By (explainer, measure) ``mean, low, high, defined``; by (explainer, step) ``inserted, deleted``;
        by (explainer) ``baseline, verdict``; by (explainer, baseline) ``difference, difference_low,
        difference_high, p, q`` of the gain, NaN for baselines; ``full, blank, fall_low``.
    """
    rows = run.rows(name)
    used = np.flatnonzero(np.isfinite(rows["full"].values))
    kept = rows.isel(image=used).load()
    groups = None if run.groups is None else run.groups[used]
    measured = group_bootstrap(kept["measures"].values, groups, seed=run.survey.seed)
    fall = group_bootstrap(kept["full"].values - kept["blank"].values, groups, seed=run.survey.seed)
    comparison = _compared(kept, judged, groups, run.survey.seed)
    both, by_step = ("explainer", "measure"), ("explainer", "step")
    summary = xr.Dataset(
        {
            "mean": (both, measured.estimate),
            "low": (both, measured.low),
            "high": (both, measured.high),
            "defined": (both, np.isfinite(kept["measures"].values).sum(axis=0)),
            "inserted": (by_step, nanmean(kept["inserted"].values)),
            "deleted": (by_step, nanmean(kept["deleted"].values)),
            "baseline": ("explainer", np.array([item.pair is None for item in judged])),
            "full": nanmean(kept["full"].values),
            "blank": nanmean(kept["blank"].values),
            "fall_low": float(fall.low),
            **comparison,
        },
        coords={**{key: kept[key].values for key in ("explainer", "measure", "step")}, "against": _against()},
    )
    summary = summary.assign(verdict=("explainer", verdicts(summary)))
    summary.attrs = {"n": len(used), "groups": fall.groups, "price": price, "note": fall.note}
    scores = {
        key: rows["measures"].sel(measure=key, drop=True)[:, : sum(i.pair is not None for i in judged)]
        for key in ("insertion", "deletion")
    }
    return Conclusion(summary, findings(summary, run), map_scores=scores)


def _against() -> np.ndarray:
    return np.array(BASELINES, dtype=object)


def _compared(
    kept: xr.Dataset, judged: Sequence[Judged], groups: np.ndarray | None, seed: int
) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """Compare the gain of each map with that of each baseline on its grid, as one family."""
    gain = kept["measures"].sel(measure="gain").values.astype(np.float64)
    place = {item.name: at for at, item in enumerate(judged)}
    own = [at for at, item in enumerate(judged) if item.pair is not None]
    pairs = [(at, place[baseline_name(name, judged[at].grid)]) for at in own for name in BASELINES]
    first, second = (np.array(side, dtype=int) for side in zip(*pairs, strict=True))
    found: Comparison = compare(gain[:, first] - gain[:, second], groups, seed)
    columns = {"difference": found.difference, "difference_low": found.low, "difference_high": found.high}
    table = {}
    for key, values in {**columns, "p": found.p, "q": found.q}.items():
        full = np.full((len(judged), len(BASELINES)), np.nan)
        full[own] = values.reshape(len(own), len(BASELINES))
        table[key] = (("explainer", "against"), full)
    return table


def verdicts(summary: xr.Dataset) -> np.ndarray:
    """Say of each map whether it is better or worse than the baselines on its grid.

    Parameters
    ----------
    summary : Dataset

    Returns
    -------
    ndarray of object, (explainer,)
        ``better`` than every one, ``worse`` than one at least, ``undecided``, ``undefined``, or
        ``baseline``. The interval of the difference excludes 0 and its q is below 0.05.
    """
    low, high, q = (summary[key].values for key in ("difference_low", "difference_high", "q"))
    sure = np.nan_to_num(q, nan=1) < _LEVEL
    better, worse = ((low > 0) & sure).all(1), ((high < 0) & sure).any(1)
    found = np.where(better, "better", np.where(worse, "worse", "undecided")).astype(object)
    found[np.isnan(summary["difference"].values).all(1)] = "undefined"
    found[summary["baseline"].values] = "baseline"
    return np.asarray(found)


# -- what may be said --------------------------------------------------------------------------

_SAYINGS = {
    "better": "the network's answer follows {maps} more than every baseline on the same grid",
    "worse": "the network's answer follows {maps} less than a map that knows nothing of the network",
    "undecided": "it is open whether the network's answer follows {maps} more than a map that knows nothing",
}


def findings(summary: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State which maps are better than the baselines, which are worse, and which neither.

    Parameters
    ----------
    summary : Dataset
    run : Run

    Returns
    -------
    tuple of Finding
        Three at most, and one for maps that are undefined.
    """
    made = []
    for kind in ("better", "worse", "undecided"):
        chosen = np.flatnonzero(summary["verdict"].values == kind)
        if len(chosen):
            made.append(_finding(summary, kind, chosen, run))
    lost = [str(name) for name in summary["explainer"].values[summary["verdict"].values == "undefined"]]
    if lost:
        text = f"Faithfulness is undefined for {_listed(lost)}: no judged image has a map of it."
        made.append(Finding("undefined-maps", "notice", text, n=0))
    return tuple(made)


def _finding(summary: xr.Dataset, kind: str, chosen: np.ndarray, run: Run) -> Finding:
    reasons = _reasons(summary, run)
    verdict = {"better": "notice" if reasons else "ok", "worse": "warning"}.get(kind, "notice")
    if kind == "worse" and (run.not_testable or not _falls(summary)):
        verdict = "notice"
    number = f"{len(chosen)} {'map' if len(chosen) == 1 else 'maps'}"
    parts = [
        f"{_SAYINGS[kind].format(maps=number)} (insertion less deletion area, difference to the hardest "
        f"baseline): {_listed([_described(summary, at) for at in chosen])}",
        *(reasons if kind == "better" or run.not_testable or not _falls(summary) else []),
    ]
    text = "; ".join(parts) + "."
    return Finding(
        f"faithfulness-{kind}",
        verdict,  # type: ignore[arg-type]
        text[0].upper() + text[1:],
        effect=float(len(chosen)),
        n=summary.attrs["n"],
        groups=summary.attrs["groups"] or None,
        unit="maps",
        control=f"baselines on the same grid: {', '.join(BASELINES)}",
    )


def _reasons(summary: xr.Dataset, run: Run) -> list[str]:
    """Why nothing here is ok."""
    found = []
    if summary.attrs["groups"] < FEW_GROUPS:
        found.append(f"no verdict on {summary.attrs['groups']} groups")
    if not _falls(summary):
        found.append("the answer does not fall reliably when the image is blank, so the curves say little")
    if run.not_testable:
        found.append(f"not testable here: {run.not_testable}")
    return found


def _falls(summary: xr.Dataset) -> bool:
    """Whether hiding everything lowers the answer at all."""
    return bool(float(summary["fall_low"]) > 0)


def _described(summary: xr.Dataset, at: int) -> str:
    """A map with its difference to the baseline that it beats least."""
    row = summary.isel(explainer=int(at))
    hardest = int(np.nanargmin(row["difference"].values))
    difference, low, high = (
        float(row[key].values[hardest]) for key in ("difference", "difference_low", "difference_high")
    )
    return f"{row['explainer'].item()} {difference:+.3f} [{low:+.3f}, {high:+.3f}] to {BASELINES[hardest]}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    """Name some, and count the rest."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "; ".join([*names[:most], *more])
