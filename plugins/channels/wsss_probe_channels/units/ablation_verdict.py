"""What may be said about the channels that matter, beside controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe_channels.evidence import reliable

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["accuracy_finding", "changing", "channel_finding"]

REDUNDANCY = "taken away one at a time, so channels that say the same hide each other"


def changing(summary: xr.Dataset, kind: str) -> np.ndarray:
    """Channels whose change of accuracy has an interval that excludes 0.

    Parameters
    ----------
    summary : Dataset
    kind : {"zero", "mean"}

    Returns
    -------
    ndarray of bool, (channel,)
    """
    low, high = (summary[f"accuracy_{kind}_{end}"].values for end in ("low", "high"))
    excluded: np.ndarray = (low > 0) | (high < 0)
    return excluded


def channel_finding(summary: xr.Dataset, layer: str, run: Run, position: int) -> Finding:
    """State which channel moves the logit of a class most, and whether controls have one like it.

    Parameters
    ----------
    summary : Dataset
    layer : str
    run : Run
    position : int
        Of the class.

    Returns
    -------
    Finding
    """
    row = summary.isel({"class": position})
    label = str(row["class"].values) if "class" in row.coords else f"class {position}"
    name, subject = f"ablation/{label}@{layer}", f"Layer {layer}, class {label}"
    channel = int(row["top_channel"])
    if channel < 0:
        text = f"{subject}: not estimable, since too few images count or the logit does not vary."
        return Finding(name, "notice", text, n=0)
    effect, low, high = (float(row[f"top_{key}"]) for key in ("effect", "low", "high"))
    controls = _living(row, "control_effect")
    above = bool(len(controls)) and low > controls.max()
    note = row["top_note"].item()
    parts = [
        f"{subject}: setting channel {channel} to its mean, {summary.attrs['how']}, moves the logit by "
        f"{effect:.3f} [{low:.3f}, {high:.3f}] of its standard deviation on average"
        + (f" ({note})" if note else ""),
        _against(controls, effect, above=above),
        REDUNDANCY,
    ]
    parts += [f"not testable here: {run.not_testable}"] if run.not_testable else []
    return Finding(
        name,
        "ok" if above and reliable(int(row["top_groups"])) and not run.not_testable else "notice",
        "; ".join(parts) + ".",
        effect=effect,
        interval=(low, high) if np.isfinite(low) else None,
        n=int(row["top_n"]),
        groups=int(row["top_groups"]) or None,
        unit="standard deviations of the logit",
        control=f"{len(controls)} control networks, largest effect each" if len(controls) else "",
    )


def _living(summary: xr.Dataset, key: str) -> np.ndarray:
    """Numbers of the controls that respond to images; none where no control was run."""
    if key not in summary:
        return np.empty(0)
    values = summary[key].values[summary["control_alive"].values.astype(bool)]
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _against(controls: np.ndarray, effect: float, *, above: bool) -> str:
    if not len(controls):
        return "no living control, so no verdict"
    spread = f"the largest in {len(controls)} controls {controls.min():.3f} to {controls.max():.3f}"
    limit = f"no p below {1 / (len(controls) + 1):.2g}"
    if above:
        return f"above all controls ({spread}); {limit}"
    if effect > controls.max():
        return f"above all controls ({spread}), but not with its whole interval, so no verdict; {limit}"
    return f"not above all controls ({spread}): networks that learned nothing have such channels"


def accuracy_finding(summary: xr.Dataset, layer: str, run: Run) -> Finding:
    """State how many channels change accuracy when they are taken away.

    Parameters
    ----------
    summary : Dataset
    layer : str
    run : Run

    Returns
    -------
    Finding
    """
    name, channels = f"ablation-accuracy@{layer}", summary.sizes["channel"]
    if not summary.attrs["labelled"]:
        text = f"Layer {layer}: the change of accuracy is not known, since no image that counts has a label."
        return Finding(name, "notice", text, n=0)
    zero, mean = (int(changing(summary, kind).sum()) for kind in ("zero", "mean"))
    worst = int(np.argmin(summary["accuracy_zero"].values))
    change, low, high = (float(summary[f"accuracy_zero{end}"].values[worst]) for end in ("", "_low", "_high"))
    counts = _living(summary, "control_changing")
    parts = [
        f"Layer {layer}: {zero} of {channels} channels change accuracy ({summary.attrs['accuracy']:.3f}), "
        f"with an interval that excludes 0, when set to zero, {mean} when set to their mean (not corrected "
        f"for {channels} channels)",
        f"the largest loss is channel {worst}, {change:+.3f} [{low:+.3f}, {high:+.3f}]"
        if change < 0
        else "no channel loses any",
        f"controls have {counts.min():.0f} to {counts.max():.0f} such channels"
        if len(counts)
        else "no living control to compare with",
        REDUNDANCY,
    ]
    parts += [f"not testable here: {run.not_testable}"] if run.not_testable else []
    return Finding(
        name,
        "notice",
        "; ".join(parts) + ".",
        effect=float(zero),
        n=summary.attrs["labelled"],
        unit="channels",
        control=f"{len(counts)} control networks" if len(counts) else "",
    )
