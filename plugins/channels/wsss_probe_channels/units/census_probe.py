"""The probe census: which channels of a layer say nothing of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Finding, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import map_layers
from wsss_probe_channels.units.census import STATES, census, ranges, states
from wsss_probe_channels.units.census_section import sections
from wsss_probe_channels.units.duplicates import moments

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Control, Run

__all__ = ["Census"]


@final
@dataclass(frozen=True)
class Census(Probe):
    """What every channel of a layer does over all images, at every audited layer.

    *Dead*: every cell of every image is 0. *Constant*: every cell of every image has one value, not 0.
    *Saturated*: on the images on which the channel reaches its overall maximum, more than half of the
    cells, on average, are exactly at it (a clamp such as ReLU6 at 6, a sigmoid at 1; a maximum of 0 is
    sparsity, and maps of one cell say nothing of it). *Duplicate*: Pearson's r with a lower channel, over
    all cells of all images, is above ``duplicate`` in absolute value. *Sparsity*: mean share of cells
    that are exactly 0. No paper's method: it is what "512 channels" (Feng et al., sections 2.2 and 2.7)
    leaves open, and what a mean over channels should be read with.

    Misleads: "dead" is on these images; few of them, or all of a kind, make more dead and duplicate
    channels, so read the controls beside it. Before the activation function nothing is dead or sparse.
    Two channels that are silent almost everywhere are duplicates only if they speak together. A clamp that
    is reached but for rounding is not seen. Layers of more than 1024 channels are compared by a random
    sketch: 1 - abs(r) then has a standard error of 9 % of itself, and pairs near the limit may fall on
    either side.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for every audited layer with maps.
    duplicate : float
        Absolute correlation strictly above which a channel duplicates another.
    notice : float
        Share of channels in one of these states above which there is a finding.

    Raises
    ------
    UsageError
        For a limit outside [0, 1].
    """

    layer: str = ""
    duplicate: float = 0.99
    notice: float = 0.1
    name: str = field(init=False, default="census")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse limits without a meaning; derive the name and what the plan records."""
        limits = {"duplicate": self.duplicate, "notice": self.notice}
        for name, limit in limits.items():
            if not 0 <= limit <= 1:
                msg = f"{name} of the census is out of range"
                raise UsageError(msg, found=str(limit), wanted="a number in [0, 1]")
        object.__setattr__(self, "options", {"layer": self.layer, **limits})
        object.__setattr__(self, "name", f"census@{self.layer}" if self.layer else "census")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per audited layer with maps."""
        return (self,) if self.layer else tuple(replace(self, layer=name) for name in map_layers(survey))

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and nothing else."""
        return Needs(layers=frozenset({self.layer} if self.layer else map_layers(survey)))

    def observe(self, batch: Batch) -> Observation:
        """Measure one batch.

        Returns
        -------
        Observation
            Rows ``maximum``, ``minimum``, ``zeros``, ``at_maximum`` (image, channel), NaN for an image
            with a map that is not finite; partial of
            :func:`wsss_probe_channels.units.duplicates.moments`, over finite and readable images.
        """
        maps = batch.activations[self.layer]
        seen = ranges(maps)
        rows = {name: (("image", "channel"), value.cpu().numpy()) for name, value in seen.values.items()}
        kept = seen.finite & batch.readable.to(maps.device)
        counted = maps if bool(kept.all()) else maps[kept]
        return Observation(xr.Dataset(rows), moments(counted, batch.indices[kept.cpu().numpy()]))

    def conclude(self, run: Run) -> Conclusion:
        """Say what each channel does, and count the idle ones of the controls.

        Returns
        -------
        Conclusion
            The table of :func:`wsss_probe_channels.units.census.census`; by (control) the share of channels
            in each state, the mean ``control_sparsity``, and whether the control is alive at all.
        """
        own = _taken(self, run)
        summary = xr.merge([own, _control_table(self, run.controls)])
        summary.attrs = {**self.options, "images": own.attrs["images"]}
        return Conclusion(summary, _findings(self, summary))

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the counts beside the controls', the idle channels, and how sparse the channels are."""
        return sections(summary, run)


def _taken(probe: Census, run: Run | Control) -> xr.Dataset:
    """Take the census of one network."""
    rows = run.rows(probe.name).load()
    values = {str(name): variable.values for name, variable in rows.data_vars.items()}
    return census(values, run.partial(probe.name), probe.duplicate)


def _control_table(probe: Census, controls: Iterable[Control]) -> xr.Dataset:
    """Write the share of channels in each state of every control; empty without controls."""
    taken = [(control, _taken(probe, control)) for control in controls]
    if not taken:
        return xr.Dataset()
    columns = {
        f"control_{state}": [float(states(table)[state].mean()) for _, table in taken] for state in STATES
    }
    columns["control_sparsity"] = [float(table["sparsity"].mean()) for _, table in taken]
    columns["control_alive"] = [control.alive(probe.layer) for control, _ in taken]
    return xr.Dataset(
        {name: ("control", np.array(column)) for name, column in columns.items()},
        coords={"control": np.array([control.name for control, _ in taken], dtype=object)},
    )


def _findings(probe: Census, summary: xr.Dataset) -> tuple[Finding, ...]:
    """Tell of a layer in which many channels say nothing of their own."""
    found = states(summary)
    counts = {state: int(found[state].sum()) for state in STATES}
    channels, number = summary.sizes["channel"], sum(counts.values())
    share = number / max(channels, 1)
    images = int(summary.attrs["images"])
    if not images or share <= probe.notice:
        return ()
    named = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    against, controls = _beside_controls(summary)
    statement = (
        f"Layer {probe.layer}: {number} of {channels} channels ({share:.0%}) say nothing of their own "
        f"on {images} image{'s' if images != 1 else ''}: {named} (duplicate: |r| above {probe.duplicate:g}); "
        f"{against}. Means over channels count them."
    )
    name = f"idle-channels@{probe.layer}"
    return (
        Finding(
            name, "notice", statement, effect=share, n=images, unit="share of channels", control=controls
        ),
    )


def _beside_controls(summary: xr.Dataset) -> tuple[str, str]:
    """Say what share of the living controls' channels is idle, and name the controls."""
    if "control" not in summary.dims:
        return "no control was run", ""
    alive = summary["control_alive"].values.astype(bool)
    if not alive.any():
        return "no control is alive", ""
    shares = sum(summary[f"control_{state}"].values[alive] for state in STATES)
    number = f"{alive.sum()} control{'s' if alive.sum() > 1 else ''}"
    names = ", ".join(map(str, summary["control"].values[alive]))
    return f"{min(shares):.0%} to {max(shares):.0%} in {number} that learned nothing", names
