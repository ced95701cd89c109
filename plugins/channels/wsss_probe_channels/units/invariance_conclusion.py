"""From IoU per image to a summary and a finding on whether the best channels follow better than others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe.statistics import group_bootstrap
from wsss_probe_channels.screening.selection import eligible, mean_defined
from wsss_probe_channels.units.invariance_verdict import Evidence, Moved, invariance_finding

if TYPE_CHECKING:
    from wsss_probe.contracts import Control, Run
    from wsss_probe_channels.units.invariance_probe import Invariance

__all__ = ["BEST", "INTERVALS", "QUANTILES", "conclude", "quantiles"]

BEST = 3
"""Channels per region that count as best by channel-F1."""

INTERVALS = 30
"""Most stable channels that get an interval, besides the best ones: those that the report shows first."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Shares of the channels of a layer at which their distribution is drawn."""


def conclude(probe: Invariance, run: Run) -> Conclusion:
    """Conclude over the moved images of one layer.

    Parameters
    ----------
    probe : Invariance
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        By (channel, transform): ``iou``, the mean over images, ``low`` and ``high``, its 95 % interval
        over groups for the best and the most stable channels, ``expected`` for independent masks,
        ``degenerate`` in images. By (channel): ``stability``, the mean over motions, and ``best``, whether
        it is among the best by channel-F1. By (transform): ``layer_iou`` over live channels, ``layer_low``,
        ``layer_high``, ``layer_expected``. By (control, transform): ``control_iou`` and ``control_best`` of
        its own live and best channels, ``control_quantiles``; by (control): ``control_alive``.
    """
    chosen = probe.moved()
    chosen = chosen[chosen < len(run.images)]
    known = f"channel-f1@{probe.layer}" in run.summary_names
    own = _seen(probe, run, chosen, known=known)
    controls = [
        _seen(probe, control, chosen, known=known, name=control.name, alive=control.alive(probe.layer))
        for control in run.controls
    ]
    groups = None if run.groups is None else np.asarray(run.groups, dtype=object)[chosen]
    table = _channels(own, run.partial(probe.name), groups, run.survey.seed)
    names = run.rows(probe.name)["transform"].values
    summary = xr.merge([table, _control_table(controls)]).assign_coords(transform=names)
    moved = int(np.isfinite(own.iou).any(axis=(1, 2)).sum())
    summary.attrs = {**probe.options, "moved": moved, "best_by": f"channel-f1@{probe.layer}" if known else ""}
    expected = float(mean_defined(summary["expected"].values[own.subject].ravel()))
    seed, reason = run.survey.seed, run.not_testable
    evidence = Evidence(probe.layer, own, controls, expected, groups, seed, reason)
    return Conclusion(summary, (invariance_finding(evidence),))


def _seen(
    probe: Invariance,
    run: Run | Control,
    chosen: np.ndarray,
    *,
    known: bool,
    name: str = "audited",
    alive: bool = True,
) -> Moved:
    """Read the moved images of one network, and which of its channels are best by channel-F1."""
    iou = run.rows(probe.name)["iou"].isel(image=chosen).values.astype(np.float64)
    best = _best_channels(run.rows(f"channel-f1@{probe.layer}")) if known else np.empty(0, dtype=np.intp)
    return Moved(iou, best, name, alive)


def _best_channels(rows: xr.Dataset) -> np.ndarray:
    """Channels with the largest mean F1 for any region, as channel-F1 ranks them."""
    f1, area = rows["f1"].values, rows["area"].values
    mean = np.where(eligible(f1, area > 0), mean_defined(f1), -np.inf)
    order = np.argsort(-mean, axis=0, kind="stable")[:BEST]
    return np.unique(order[np.isfinite(np.take_along_axis(mean, order, axis=0))])


def quantiles(mean: np.ndarray) -> np.ndarray:
    """How IoU is distributed over the channels of a layer.

    Parameters
    ----------
    mean : ndarray, (channel, transform)

    Returns
    -------
    ndarray, (transform, quantile)
        At :data:`QUANTILES` of the channels where it is defined; NaN where it is nowhere.
    """
    defined = [column[np.isfinite(column)] for column in mean.T]
    nothing = np.full(len(QUANTILES), np.nan)
    return np.array([np.quantile(column, QUANTILES) if len(column) else nothing for column in defined])


# -- tables ------------------------------------------------------------------------------------


def _channels(own: Moved, sums: xr.Dataset, groups: np.ndarray | None, seed: int) -> xr.Dataset:
    """Write what is known about every channel and about the layer."""
    both = ("channel", "transform")
    mean = mean_defined(own.iou)
    stability = mean_defined(mean.T)
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    steady = np.argsort(-stability, kind="stable")[: min(INTERVALS, int(np.isfinite(stability).sum()))]
    shown = np.union1d(own.best, steady).astype(np.intp)
    if len(shown):
        interval = group_bootstrap(own.iou[:, shown], groups, seed=seed)
        low[shown], high[shown] = interval.low, interval.high
    layer = group_bootstrap(_layer(own), groups, seed=seed)
    defined = sums["defined"].values
    expected = np.divide(
        sums["expected"].values, defined, out=np.full(defined.shape, np.nan), where=defined > 0
    )
    return xr.Dataset(
        {
            "iou": (both, mean),
            "low": (both, low),
            "high": (both, high),
            "expected": (both, expected),
            "degenerate": (both, sums["degenerate"].values.astype(np.int64)),
            "stability": ("channel", stability),
            "best": ("channel", np.isin(np.arange(len(mean)), own.best)),
            "layer_iou": ("transform", layer.estimate),
            "layer_low": ("transform", layer.low),
            "layer_high": ("transform", layer.high),
            "layer_expected": ("transform", mean_defined(expected)),
        },
        coords={"channel": np.arange(len(mean))},
    )


def _layer(seen: Moved) -> np.ndarray:
    """Mean over live channels, (image, transform)."""
    return mean_defined(seen.iou.transpose(1, 0, 2))


def _control_table(controls: Sequence[Moved]) -> xr.Dataset:
    """Write what the controls reach; empty without controls."""
    if not controls:
        return xr.Dataset()
    both = ("control", "transform")
    best = [mean_defined(mean_defined(c.iou[:, c.best].transpose(1, 0, 2))) for c in controls]
    return xr.Dataset(
        {
            "control_alive": ("control", np.array([c.alive for c in controls])),
            "control_iou": (both, np.array([mean_defined(_layer(c)) for c in controls])),
            "control_best": (both, np.array(best)),
            "control_quantiles": (
                (*both, "quantile"),
                np.array([quantiles(mean_defined(c.iou)) for c in controls]),
            ),
        },
        coords={
            "control": np.array([c.name for c in controls], dtype=object),
            "quantile": np.array(QUANTILES),
        },
    )
