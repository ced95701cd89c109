"""The probe channel-f1-fine, which screens a layer's best channels again, on the grid of the masks.

On the layer's grid a mask is a few cells and thin structures are gone. The paper's number is that of the
mask's own pixels, which costs hundreds of times as much: so only the channels that the coarse screen ranks
best are screened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe.overlap import f1
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.regions import Complements, MaskRegion, masks_on, region_shares, regions_of
from wsss_probe_channels.screening.fine_conclusion import conclude
from wsss_probe_channels.screening.fine_section import sections
from wsss_probe_channels.screening.intensity import intensity_f1, rule_names
from wsss_probe_channels.screening.screen import Resolution, screen
from wsss_probe_channels.screening.table import top_channels

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["ChannelF1Fine", "chosen_channels"]

_CELLS = 1 << 22
"""Map cells that are resized and thresholded at once: 16 MiB of float32."""


@final
@dataclass(frozen=True)
class ChannelF1Fine(Probe):
    """F1 of the best channels' Otsu masks with every region, on the grid of the masks.

    The map is resized bilinearly to the mask's grid, then ``B = A_nk > Otsu(A_nk)`` and
    ``F1 = 2 |B and M_nc| / (|B| + |M_nc|)`` (Feng et al., sections 2.6 and 2.7, where the order of the two
    is not said). Second pass: the channels are the best of each region in the table
    ``channel-f1@<layer>`` of the same network, so a control screens its own best ones.

    Misleads: a channel that the coarse screen ranks low is never seen, and the coarse ranks rest on all
    images, those of the scoring half among them (``channels = 0`` screens all). Resizing adds no
    detail: a border on the mask's grid is that of the layer's, made smooth. And as channel-f1 does:
    Otsu always splits, and a colour or a mask of ones may do as well.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    channels : int
        Best channels of each region that are screened, the union over regions; 0 means all of the layer.
    resolution : str
        As of :class:`wsss_probe_channels.screening.screen.Resolution`: ``mask`` (default) or ``NxN``.
    layers : str
        Layers to split into, see :func:`wsss_probe_channels.evidence.evidence_layers`.
    complements : {"auto", "none", "all"}
        As of channel-f1, which must have these regions among its own.

    Raises
    ------
    UsageError
        For a negative number of channels, a resolution that says no grid or unknown complements.
    """

    layer: str = ""
    channels: int = 32
    resolution: str = "mask"
    layers: str = "last"
    complements: Complements = "auto"
    name: str = field(init=False, default="channel-f1-fine")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if self.channels < 0:
            msg = "channel-f1-fine needs a number of channels"
            raise UsageError(msg, found=str(self.channels), wanted="0 for all, or more")
        if self.complements not in get_args(Complements):
            msg = "unknown complements of channel-f1-fine"
            raise UsageError(msg, found=str(self.complements), wanted=", ".join(get_args(Complements)))
        names = ("layer", "channels", "resolution", "layers", "complements")
        options = {name: getattr(self, name) for name in names}
        object.__setattr__(self, "options", options | {"order": Resolution(self.resolution).order})
        object.__setattr__(self, "name", f"channel-f1-fine@{self.layer}" if self.layer else "channel-f1-fine")

    @property
    def coarse(self) -> str:
        """The probe whose ranks choose the channels."""
        return f"channel-f1@{self.layer}"

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer."""
        if self.layer or not survey.mask_classes:
            return (self,)
        return tuple(replace(self, layer=name) for name in evidence_layers(survey, self.layers))

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps, for masks, and for the ranks of the coarse screen."""
        if not self.layer:
            return Needs(layers=frozenset(evidence_layers(survey, self.layers)), masks=True)
        return Needs(layers=frozenset({self.layer}), masks=True, tables=frozenset({self.coarse}))

    def observe(self, batch: Batch) -> Observation | None:
        """Screen the chosen channels on one batch.

        Returns
        -------
        Observation or None
            Rows ``f1`` (image, place, class), ``area`` (image, class), the region's share of known
            pixels, and ``intensity_f1`` (image, rule, class) of rules on the input alone, all on the grid
            of the comparison. ``place`` has a fixed size; its coordinate is the number of the channel, or
            negative where fewer channels were chosen. None without masks.

        Raises
        ------
        UsageError
            When the coarse screen does not know a region.
        """
        if batch.masks is None:
            return None
        regions = regions_of(batch.mask_classes, self.complements)
        names = [region.name for region in regions]
        chosen = chosen_channels(batch.tables[self.coarse], names, self.channels)
        maps = batch.activations[self.layer]
        grid = Resolution(self.resolution).grid(maps, batch.masks)
        masks = masks_on(batch.masks, grid)
        places = self._places(maps.shape[1], len(regions))
        rows = xr.Dataset(
            {
                "f1": (("image", "place", "class"), _f1_by_place(maps, chosen, places, (masks, regions))),
                "area": (("image", "class"), _array(region_shares(masks, regions))),
                "intensity_f1": (
                    ("image", "rule", "class"),
                    _array(intensity_f1(batch.images, masks, regions, grid)),
                ),
            },
            coords={
                "place": np.concatenate([chosen, -1 - np.arange(places - len(chosen))]),
                "class": np.array(names, dtype=object),
                "rule": np.array(rule_names(batch.images.shape[1]), dtype=object),
            },
        )
        return Observation(rows)

    def _places(self, channels: int, regions: int) -> int:
        """Count the channels that may be chosen at most, whatever the network."""
        return min(channels, self.channels * regions) if self.channels else channels

    def conclude(self, run: Run) -> Conclusion:
        """Choose the best channel on one half, score it on the other; compare with the coarse screen."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the best channels beside their coarse scores, and what the controls reach."""
        return sections(self, summary, run)


def chosen_channels(table: xr.Dataset, regions: Sequence[str], number: int) -> np.ndarray:
    """Channels that are screened again.

    Parameters
    ----------
    table : Dataset
        Summary of channel-f1: ``rank`` (channel, class).
    regions : sequence of str
    number : int
        Best channels of each region; 0 means all channels.

    Returns
    -------
    ndarray of int
        In ascending order, each once; empty where no channel has a rank.

    Raises
    ------
    UsageError
        When the table does not know a region.
    """
    known = [str(name) for name in table["class"].values]
    missing = [name for name in regions if name not in known]
    if missing:
        msg = f"channel-f1 was not asked for {', '.join(missing)}"
        raise UsageError(
            msg, found=", ".join(known), remedy="give channel-f1 and channel-f1-fine the same complements"
        )
    if number == 0:
        return np.arange(table.sizes["channel"])
    best = [top_channels(table, known.index(name), number) for name in regions]
    return np.unique(np.concatenate(best)).astype(np.int64)


def _f1_by_place(
    maps: Tensor, chosen: np.ndarray, places: int, truth: tuple[Tensor, Sequence[MaskRegion]]
) -> np.ndarray:
    """F1 of the chosen channels with masks and regions, in the first places; NaN in the others.

    A few channels at a time, whose small results are copied out before the next: results that stayed
    between the large blocks would keep the allocator from using those again, and memory would grow with the
    number of channels.
    """
    masks, regions = truth
    placed = np.full((len(maps), places, len(regions)), np.nan, dtype=np.float32)
    width = max(1, _CELLS // masks.numel())
    for start in range(0, len(chosen), width):
        part = torch.as_tensor(chosen[start : start + width], device=maps.device)
        placed[:, start : start + len(part)] = _f1(maps[:, part], masks, regions)
    return placed


def _f1(maps: Tensor, masks: Tensor, regions: Sequence[MaskRegion]) -> np.ndarray:
    """F1 (image, channel, region) of maps that are resized to the masks' grid; NaN for degenerate maps."""
    seen = screen(maps, masks, regions, Resolution("mask"))
    return _array(f1(seen.counts).masked_fill(seen.threshold.isnan().unsqueeze(-1), torch.nan))


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.float().cpu().numpy()
    return array
