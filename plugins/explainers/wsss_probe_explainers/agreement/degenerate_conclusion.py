"""How many maps show nothing, over all images, and what is said about each cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import group_bootstrap
from wsss_probe_explainers.agreement.degenerate import CAUSES, KINDS, REMEDIES

if TYPE_CHECKING:
    from wsss_probe.contracts import Run

__all__ = ["concluded"]

_HARMLESS = ("no positive evidence", "the image has no such target")
"""Causes that say something about the image, not about a fault."""

_NAMED = 4
"""Maps that a finding names; the table holds all."""


def concluded(name: str, run: Run) -> Conclusion:
    """Count maps that show nothing, by kind and by cause.

    Parameters
    ----------
    name : str
        Of the probe.
    run : Run

    Returns
    -------
    Conclusion
    """
    rows = run.rows(name).load()
    kind, cause = _with_lost(rows["kind"].values, rows["cause"].values, run)
    blank = np.where(np.isnan(kind), np.nan, kind > 0)
    interval = group_bootstrap(blank, run.groups, seed=run.survey.seed)
    summary = xr.Dataset(
        {
            "share": ("explainer", interval.estimate),
            "share_low": ("explainer", interval.low),
            "share_high": ("explainer", interval.high),
            "n": ("explainer", np.isfinite(blank).sum(0)),
            "kinds": (("explainer", "kind"), _counted(kind, range(1, len(KINDS)))),
            "causes": (("explainer", "cause"), _counted(cause, range(len(CAUSES)))),
        },
        {"explainer": rows["explainer"].values, "kind": list(KINDS[1:]), "cause": list(CAUSES)},
        {
            "images": int(np.isfinite(blank).any(1).sum()),
            "groups": -1 if run.groups is None else len(set(run.groups.tolist())),
        },
    )
    return Conclusion(summary, tuple(_findings(summary, (blank, cause), run)))


def _with_lost(kind: np.ndarray, cause: np.ndarray, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Fill in images that could be read and gave nothing finite: the host left their rows undefined."""
    lost = np.isnan(kind).all(1) & run.images["readable"].to_numpy(bool)
    kind, cause = kind.copy(), cause.copy()
    kind[lost], cause[lost] = KINDS.index("undefined"), 0
    return kind, cause


def _counted(codes: np.ndarray, wanted: range) -> np.ndarray:
    return np.stack([(codes == code).sum(0) for code in wanted], axis=1)


def _findings(summary: xr.Dataset, codes: tuple[np.ndarray, np.ndarray], run: Run) -> Iterator[Finding]:
    """One finding per cause, with the map that it strikes most."""
    blank, cause = codes
    names = [str(name) for name in summary["explainer"].values]
    for number, why in enumerate(CAUSES):
        counts = summary["causes"].values[:, number]
        if not counts.any():
            continue
        order = [int(at) for at in np.argsort(-counts, kind="stable") if counts[at]]
        worst = order[0]
        struck = np.where(np.isnan(blank[:, worst]), np.nan, cause[:, worst] == number)
        interval = group_bootstrap(struck, run.groups, seed=run.survey.seed)
        n = int(summary["n"].values[worst])
        told = "; ".join(
            f"{names[at]}: {counts[at]} of {int(summary['n'].values[at])}" for at in order[:_NAMED]
        )
        more = f"; and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
        yield Finding(
            f"degenerate-maps/{why.replace(' ', '-').replace(',', '').replace(chr(39), '')}",
            "notice" if why in _HARMLESS else "warning",
            f"Maps that show no place, since {why}: images by map {told}{more}. Remedy: {REMEDIES[why]}.",
            effect=float(interval.estimate),
            interval=(float(interval.low), float(interval.high)),
            n=n,
            groups=None if run.groups is None else interval.groups,
            unit="share of images",
        )
