"""The probes channel-null and channel-null-permuted: channel-F1 against masks moved and exchanged.

The moved mask asks whether a channel is in the right place, the exchanged mask whether it follows its
own image; whether training matters, only control networks say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe.overlap import IGNORED
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.nulls.mask_null import (
    answered,
    binarised,
    donors,
    draw_sums,
    eligible_channels,
    grid_masks,
    known_masks,
    mean_scores,
    null_table,
    offsets,
    shifted,
)
from wsss_probe_channels.nulls.mask_null_section import permuted_findings, sections, shift_findings
from wsss_probe_channels.regions import Complements, regions_of

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Control, Run

__all__ = ["ChannelNull", "PermutedNull"]


@final
@dataclass(frozen=True)
class ChannelNull(Probe):
    """Mean channel-F1 against each image's own mask, moved around the image.

    For image n, channel k and region c on the layer's grid: ``B = A_nk > Otsu(A_nk)``, and for R moves
    drawn uniformly over the grid, from the seed and the image's position alone, ``T_r(k, c) = mean over
    n of F1(B_nk, shift_r(M_nc))``, with F1 undefined where channel-F1 has none. ``p = (1 + #{T_r >= T}) /
    (R + 1)`` (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585, eq. 2); q by Benjamini and Hochberg over
    the channels of a region; the best channel against the best of every draw. The F1 is that of Feng et
    al., sections 2.6 and 2.7, who compare it with nothing.

    Misleads: it asks only whether a channel is in the right place beyond the sizes of its mask and of
    the object. A channel that always marks the middle passes where objects lie in the middle
    (:class:`PermutedNull` sees that), and untrained networks pass as well: control networks alone say
    whether training matters. A move around the border is exact only where the picture has no border
    effect: padding, a vignette or a frame make borders differ from the middle. Images of one group are
    moved independently, so p is too small where they show the same.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for the layers of ``layers``.
    layers : str
        ``last`` (default), ``all``, or names, comma-separated.
    shifts : int
        R.
    complements : {"auto", "none", "all"}
        Which regions there are beside the mask classes, see
        :func:`wsss_probe_channels.regions.regions_of`.
    seed : int
        Set by :meth:`split` to that of the run.

    Raises
    ------
    UsageError
        For fewer than one shift.
    """

    layer: str = ""
    layers: str = "last"
    shifts: int = 199
    complements: Complements = "auto"
    seed: int = 0
    name: str = field(init=False, default="channel-null")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        _require_draws("shifts", self.shifts)
        options = {"layer": self.layer, "shifts": self.shifts, "complements": self.complements}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", null_name(self.layer) if self.layer else "channel-null")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer, with the run's seed; none without masks, which channel-F1 reports."""
        chosen = _layers(self, survey) if survey.mask_classes else ()
        return tuple(replace(self, layer=name, seed=survey.seed) for name in chosen)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and for masks."""
        return Needs(layers=frozenset(_layers(self, survey)), masks=True)

    def observe(self, batch: Batch) -> Observation | None:
        """Score every map against its image's mask, and the mask moved R times.

        Returns
        -------
        Observation or None
            Partial ``total, count`` (draw, channel, class), sums and numbers of F1, draw 0 being the
            mask as it is, ``answered`` (channel, class) and ``present`` (class), in images. Rows ``cells``
            (image, row, column), the mask on the layer's grid. None without masks.
        """
        if batch.masks is None:
            return None
        regions = regions_of(batch.mask_classes, self.complements)
        masks = grid_masks(batch, self.layer, batch.masks)
        maps = batch.activations[self.layer]
        seen = binarised(maps)
        rows, columns = maps.shape[-2:]
        moves = offsets(self.seed, batch.indices, self.shifts, (rows, columns))
        sums = draw_sums(seen, lambda part: shifted(masks, moves[:, part]), self.shifts + 1, regions)
        counts = answered(seen, masks, regions).cpu().numpy()
        partial = _sums_table(*sums, [region.name for region in regions])
        partial["answered"] = (("channel", "class"), counts[:-1])
        partial["present"] = ("class", counts[-1])
        cells = masks.float().cpu().numpy()
        return Observation(xr.Dataset({"cells": (("image", "row", "column"), cells)}), partial)

    def conclude(self, run: Run) -> Conclusion:
        """Compare with moved masks, in this network and, as a reference, in its controls.

        Returns
        -------
        Conclusion
            The table of ``null_table``; ``eligible`` (channel, class);
            by (control, class) how many channels were ``tested`` and have q below .05, and p of the
            best; by (image, row, column) the masks as small integers and by (image) the number of the
            group, for :class:`PermutedNull`.
        """
        table = _compared(run, self.name)
        masks = _mask_table(run, self.name)
        controls = _control_table(run.controls, self)
        summary = xr.merge([table, masks, controls])
        summary.attrs = {"layer": self.layer, "draws": self.shifts, **_numbers(masks)}
        return Conclusion(summary, shift_findings(summary, run))

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show both nulls, shifted and permuted, side by side."""
        return sections(summary, run)


@final
@dataclass(frozen=True)
class PermutedNull(Probe):
    """Mean channel-F1 against the masks of other images.

    As :class:`ChannelNull`, but for R permutations of the groups every image gets a mask of the group that
    its own is exchanged for (without groups: of another image). A group may keep its masks in a draw,
    since only then is p exact, whatever the number of groups. Second pass over the images: it reads the
    masks of all of them from the summary of channel-null.

    Misleads: it is far too easy to pass. A channel that merely fires where there is anything at all, or
    more on images with the class, passes without outlining it, and so do the best channels of untrained
    networks. It says that a channel follows this image's mask rather than the usual place, and nothing
    of training. With few groups p cannot become small.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for the layers of ``layers``.
    layers : str
        As that of channel-null, or some of them.
    permutations : int
        R.
    complements : {"auto", "none", "all"}
        As that of channel-null.
    seed : int
        Set by :meth:`split` to that of the run.

    Raises
    ------
    UsageError
        For fewer than one permutation.
    """

    layer: str = ""
    layers: str = "last"
    permutations: int = 99
    complements: Complements = "auto"
    seed: int = 0
    name: str = field(init=False, default="channel-null-permuted")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        _require_draws("permutations", self.permutations)
        options = {"layer": self.layer, "permutations": self.permutations, "complements": self.complements}
        object.__setattr__(self, "options", options)
        name = "channel-null-permuted"
        object.__setattr__(self, "name", f"{name}@{self.layer}" if self.layer else name)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer, with the run's seed; none without masks, which channel-F1 reports."""
        chosen = _layers(self, survey) if survey.mask_classes else ()
        return tuple(replace(self, layer=name, seed=survey.seed) for name in chosen)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and the masks of all images; controls have their say in channel-null."""
        layers = _layers(self, survey)
        tables = frozenset(map(null_name, layers))
        return Needs(layers=frozenset(layers), masks=True, tables=tables, controls=False)

    def observe(self, batch: Batch) -> Observation | None:
        """Score every map against the masks that its image gets in each permutation.

        Returns
        -------
        Observation or None
            Partial ``total, count`` (draw, channel, class), as those of channel-null. None without masks.
        """
        if batch.masks is None:
            return None
        regions = regions_of(batch.mask_classes, self.complements)
        table = batch.tables[null_name(self.layer)]
        cells = table["cells"].values
        given = donors(self.seed, table["group"].values, known_masks(cells), self.permutations)
        given = given[:, batch.indices]
        device = batch.masks.device

        def masks_of(part: slice) -> Tensor:
            return torch.from_numpy(cells[given[part].T]).to(device)

        sums = draw_sums(binarised(batch.activations[self.layer]), masks_of, self.permutations + 1, regions)
        return Observation(partial=_sums_table(*sums, [region.name for region in regions]))

    def conclude(self, run: Run) -> Conclusion:
        """Compare with exchanged masks.

        Returns
        -------
        Conclusion
            The table of ``null_table``; all NaN with fewer than two groups.
        """
        earlier = run.summary(null_name(self.layer))
        groups = int(earlier.attrs["groups"])
        sums = run.partial(self.name)
        means = mean_scores(sums["total"].values, sums["count"].values)
        eligible = earlier["eligible"].values.astype(bool) & (groups > 1)
        table = null_table(means, eligible, "permuted").assign_coords({"class": sums["class"].values})
        numbers = {name: earlier.attrs[name] for name in ("images", "groups")}
        table.attrs = {"layer": self.layer, "draws": self.permutations, **numbers}
        return Conclusion(table, permuted_findings(table, run))


def null_name(layer: str) -> str:
    """Name of channel-null at a layer."""
    return f"channel-null@{layer}"


def _layers(probe: ChannelNull | PermutedNull, survey: Survey) -> tuple[str, ...]:
    return (probe.layer,) if probe.layer else evidence_layers(survey, probe.layers)


def _require_draws(option: str, number: int) -> None:
    if number < 1:
        msg = f"{option} of a null of channel-F1 is too small"
        raise UsageError(msg, found=str(number), wanted="1 or more", remedy=f"{option} = 99")


def _sums_table(total: Tensor, count: Tensor, names: Sequence[str]) -> xr.Dataset:
    """Write sums over the images of a batch; numbers of images fit small integers."""
    by_draw = ("draw", "channel", "class")
    return xr.Dataset(
        {
            "total": (by_draw, total.cpu().numpy()),
            "count": (by_draw, count.cpu().numpy().astype(np.int32)),
        },
        coords={"draw": np.arange(len(total)), "class": np.array(names, dtype=object)},
    )


def _compared(network: Run | Control, name: str) -> xr.Dataset:
    """Compare one network's channels with moved masks."""
    sums = network.partial(name).load()
    counts = np.concatenate([sums["answered"].values, sums["present"].values[None]])
    eligible = eligible_channels(counts)
    means = mean_scores(sums["total"].values, sums["count"].values)
    table = null_table(means, eligible, "shift").assign(eligible=(("channel", "class"), eligible))
    return table.assign(present=("class", counts[-1])).assign_coords({"class": sums["class"].values})


def _mask_table(run: Run, name: str) -> xr.Dataset:
    """Masks of all images on the layer's grid, as small as they can be, and who belongs together."""
    cells = np.nan_to_num(run.rows(name)["cells"].values, nan=IGNORED)
    small = cells.astype(np.int8 if len(run.survey.mask_classes) < 128 else np.int32)
    own = np.arange(len(cells)) if run.groups is None else np.asarray(run.groups, dtype=object).astype(str)
    group = np.unique(own, return_inverse=True)[1].astype(np.int32)
    return xr.Dataset({"cells": (("image", "row", "column"), small), "group": ("image", group)})


def _numbers(masks: xr.Dataset) -> dict[str, int]:
    known = known_masks(masks["cells"].values)
    return {"images": int(known.sum()), "groups": len(np.unique(masks["group"].values[known]))}


def _control_table(controls: Sequence[Control], probe: ChannelNull) -> xr.Dataset:
    """Count what networks that learned nothing reach in the same comparison; empty without controls."""
    if not controls:
        return xr.Dataset()
    tables = [_compared(control, probe.name) for control in controls]
    both = ("control", "class")
    return xr.Dataset(
        {
            "control_alive": ("control", [bool(control.alive(probe.layer)) for control in controls]),
            "control_tested": (both, [np.isfinite(t["q_shift"].values).sum(axis=0) for t in tables]),
            "control_significant": (both, [(t["q_shift"].values < 0.05).sum(axis=0) for t in tables]),
            "control_p_best": (both, [t["p_best_shift"].values for t in tables]),
        },
        coords={
            "control": np.array([control.name for control in controls], dtype=object),
            "class": tables[0]["class"].values,
        },
    )
