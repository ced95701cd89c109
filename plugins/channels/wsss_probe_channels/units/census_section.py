"""What a reader sees of the census: counts beside the controls', the idle channels, sparsity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table
from wsss_probe.report.figures import histogram
from wsss_probe_channels.units.census import STATES, states

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run

__all__ = ["sections"]

DEFINITION = "Sparsity of a channel: mean over images of the share of cells of its map that are exactly 0."

MEANINGS = {
    "dead": "every cell of every image is 0",
    "constant": "every cell of every image has one value, not 0",
    "saturated": "more than half of the cells are at the channel's maximum on the images that reach it",
    "duplicate": "|r| with a lower channel over all cells of all images is above the limit",
    "sparsity": "mean share of cells that are exactly 0",
}


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section for one layer.

    Parameters
    ----------
    summary : Dataset
        As the census concludes.
    run : Run

    Yields
    ------
    Section
    """
    blocks: list[Table | Figure] = [_counts(summary, len(run.images))]
    found = states(summary)
    if any(state.any() for state in found.values()):
        blocks.append(_idle(summary))
    if np.isfinite(summary["sparsity"].values).any():
        blocks.append(_sparsity(summary))
    yield Section("channels", f"Census of {summary.attrs['layer']}", tuple(blocks))


def _counts(summary: xr.Dataset, images: int) -> Table:
    """Count the channels in each state: the audited network first, then its controls as shares of it."""
    found, channels = states(summary), summary.sizes["channel"]
    own = {state: int(found[state].sum()) for state in STATES}
    sparsity = summary["sparsity"].values
    spread = float(np.mean(sparsity[np.isfinite(sparsity)])) if np.isfinite(sparsity).any() else np.nan
    rows = [{"network": "audited", "channels": channels, **own, "sparsity": spread, "note": ""}]
    for row in range(summary.sizes.get("control", 0)):
        control = summary.isel(control=row)
        shares = {state: round(float(control[f"control_{state}"]) * channels) for state in STATES}
        note = "" if bool(control["control_alive"]) else "degenerate, counts for nothing"
        rows.append(
            {
                "network": str(control["control"].values),
                "channels": channels,
                **shares,
                "sparsity": float(control["control_sparsity"]),
                "note": note,
            }
        )
    caption = (
        f"Channels that say nothing of their own on {summary.attrs['images']} of {images} images; each is "
        f"counted once. Duplicate: |r| above {summary.attrs['duplicate']:g}, both signs."
    )
    return Table(pd.DataFrame(rows), caption, meanings=MEANINGS)


def _idle(summary: xr.Dataset) -> Table:
    """List the channels in any state."""
    frame = pd.DataFrame(list(_idle_rows(summary)))
    caption = (
        "Channels that say nothing of their own. of: the lowest channel that it duplicates; r: Pearson's "
        f"correlation with it over all cells of {summary.attrs['images']} images, with its sign."
    )
    return Table(frame, caption, meanings={"sparsity": MEANINGS["sparsity"]})


def _idle_rows(summary: xr.Dataset) -> Iterator[dict[str, object]]:
    found = states(summary)
    for state in STATES:
        for channel in np.flatnonzero(found[state]):
            of = int(summary["duplicate_of"].values[channel])
            yield {
                "channel": int(channel),
                "state": state,
                "of": str(of) if of >= 0 else "",
                "r": float(summary["duplicate_r"].values[channel]),
                "maximum": float(summary["maximum"].values[channel]),
                "sparsity": float(summary["sparsity"].values[channel]),
            }


def _sparsity(summary: xr.Dataset) -> Figure:
    """Show how sparse the channels are."""
    sparsity = summary["sparsity"].values
    controls = _control_means(summary)
    marks = {"mean of the controls": float(controls.mean())} if len(controls) else {}
    figure = histogram({"audited": sparsity}, axis="share of cells that are exactly 0", marks=marks)
    against = "no living control"
    if len(controls):
        spread = f"{controls.min():.2f} to {controls.max():.2f}"
        against = f"means of the living controls ({len(controls)}): {spread}"
    caption = (
        f"Sparsity of {summary.sizes['channel']} channels over {summary.attrs['images']} images; {against}."
    )
    data = pd.DataFrame({"channel": summary["channel"].values, "sparsity": sparsity})
    return Figure(figure, caption, DEFINITION, data)


def _control_means(summary: xr.Dataset) -> np.ndarray:
    """Mean sparsity of every living control, (control,)."""
    if "control" not in summary.dims:
        return np.empty(0)
    means = summary["control_sparsity"].values[summary["control_alive"].values.astype(bool)]
    return np.asarray(means[np.isfinite(means)])
