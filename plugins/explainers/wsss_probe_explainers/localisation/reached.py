"""How many objects of an image a map reaches, and whether Grad-CAM++ reaches more than Grad-CAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe import Finding
from wsss_probe.passport import evidence_layer
from wsss_probe.statistics import FEW_GROUPS, group_bootstrap
from wsss_probe_explainers.localisation.comparison import Column, Compared, compare
from wsss_probe_explainers.localisation.judged import pair_name

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from wsss_probe.contracts import Run
    from wsss_probe_explainers.localisation.network import Floats, NetworkScores

__all__ = ["HOW_MANY", "Several", "by_number", "second_order", "several"]

HOW_MANY = ("1", "2", "3 or more")
"""Numbers of objects in an image that are told apart."""

FIRST, SECOND = "gradcam", "gradcampp"


@final
@dataclass(frozen=True, slots=True)
class Several:
    """Grad-CAM++ against Grad-CAM in images with two objects or more.

    Parameters
    ----------
    layer : str
    compared : Compared
        Objects reached by the second minus by the first.
    means : (float, float)
        Share reached by the first and by the second.
    controls : tuple of float
        The same difference on each living control.
    """

    layer: str
    compared: Compared
    means: tuple[float, float]
    controls: tuple[float, ...]


def by_number(rows: xr.Dataset, network: NetworkScores, groups: NDArray[Any] | None) -> dict[str, Any]:
    """Share of objects reached, by the number of objects in the image.

    Parameters
    ----------
    rows : Dataset
    network : NetworkScores
    groups : ndarray or None, (image,)

    Returns
    -------
    dict
        Variables ``reached``, ``reached_low``, ``reached_high`` and ``reached_n`` (explainer, objects).
    """
    recall = network.measures["recall"]
    count = rows["objects"].values[:, None]
    parts = [np.where(where, recall, np.nan) for where in (count == 1, count == 2, count >= 3)]
    stacked = np.stack(parts, axis=-1)
    interval = group_bootstrap(stacked, groups)
    both = ("explainer", "objects")
    return {
        "reached": (both, interval.estimate),
        "reached_low": (both, interval.low),
        "reached_high": (both, interval.high),
        "reached_n": (both, np.isfinite(stacked).sum(0)),
    }


def several(
    rows: xr.Dataset, audited: NetworkScores, controls: Mapping[str, NetworkScores], run: Run
) -> Several | None:
    """Compare the two explainers in images with several objects; None where one of them is missing.

    Parameters
    ----------
    rows : Dataset
    audited : NetworkScores
    controls : mapping of str to NetworkScores
        NaN where a control is dead.
    run : Run

    Returns
    -------
    Several or None
    """
    layer = evidence_layer(run.survey)
    names = pair_name((FIRST, layer)), pair_name((SECOND, layer))
    if not set(names) <= set(audited.names):
        return None
    several_objects = rows["objects"].values >= 2

    def scores(network: NetworkScores) -> tuple[Floats, Floats]:
        recall = np.where(several_objects[:, None], network.measures["recall"], np.nan)
        first, second = (recall[:, network.names.index(name)] for name in names)
        return first, second

    first, second = scores(audited)
    compared = compare([Column(names[1], names[0], "map", second - first)], run.groups, run.survey.seed)[0]
    others = [np.asarray(two - one) for one, two in map(scores, controls.values())]
    living = tuple(float(one[np.isfinite(one)].mean()) for one in others if np.isfinite(one).any())
    means = tuple(
        float(one[np.isfinite(one)].mean()) if np.isfinite(one).any() else np.nan for one in (first, second)
    )
    return Several(layer, compared, (means[0], means[1]), living)


def second_order(reached: Several | None, run: Run) -> tuple[Finding, ...]:
    """State whether the second reaches more objects; nothing where no image has several.

    Parameters
    ----------
    reached : Several or None
    run : Run

    Returns
    -------
    tuple of Finding
    """
    if reached is None or not reached.compared.n:
        return ()
    one = reached.compared
    clear = one.low > 0
    above = bool(reached.controls) and one.low > max(reached.controls)
    verdict = clear and above and one.groups >= FEW_GROUPS and not run.not_testable
    words = "more" if clear else "fewer" if one.high < 0 else "neither clearly more nor clearly fewer"
    parts = [
        f"In images with two objects or more ({one.n} images, {one.groups} groups) Grad-CAM++ at "
        f"{reached.layer} reaches {words} of them than Grad-CAM: {reached.means[1]:.3f} against "
        f"{reached.means[0]:.3f}, difference {one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}], each map "
        "marking as many pixels as the objects have",
        _beside(reached),
    ]
    if run.groups is None:
        parts.append("images treated as independent")
    if one.groups < FEW_GROUPS:
        parts.append(f"fewer than {FEW_GROUPS} groups, no verdict")
    if run.not_testable:
        parts.append(f"not testable here: {run.not_testable}")
    finding = Finding(
        f"several-objects@{reached.layer}",
        "ok" if verdict else "notice",
        "; ".join(parts) + ".",
        effect=one.mean,
        interval=(one.low, one.high) if np.isfinite(one.low) else None,
        n=one.n,
        groups=one.groups,
        unit="share of objects",
        control="the same difference on controls",
    )
    return (finding,)


def _beside(reached: Several) -> str:
    """The same difference on networks that learned nothing."""
    if not reached.controls:
        return "no living control, no verdict"
    low, high = min(reached.controls), max(reached.controls)
    return f"the same difference on {len(reached.controls)} controls: {low:+.3f} to {high:+.3f}"
