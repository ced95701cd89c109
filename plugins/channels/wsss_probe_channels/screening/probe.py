"""The probe channel-F1, which asks whether a single channel outlines a thing without being told to.

Feng, Hafiane, Laurent: Weakly Supervised Segmentation of Histopathology Images. Each channel's map is
binarised by Otsu and compared with the mask of each class by F1; a channel that scores above 0.6
on many images follows the object wherever it is.
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
from wsss_probe.overlap import f1, pooled
from wsss_probe_channels.evidence import map_layers
from wsss_probe_channels.regions import Complements, MaskRegion, region_shares, regions_of
from wsss_probe_channels.screening.conclusion import conclude
from wsss_probe_channels.screening.intensity import intensity_f1, rule_names
from wsss_probe_channels.screening.screen import Resolution, Screen, screen
from wsss_probe_channels.screening.section import sections

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["ChannelF1"]


@final
@dataclass(frozen=True)
class ChannelF1(Probe):
    """F1 of every channel's Otsu mask with every mask class, at one layer.

    For image n, channel k and class c: ``B = A_nk > Otsu(A_nk)``,
    ``F1 = 2 |B and M_nc| / (|B| + |M_nc|)`` (Feng et al., sections 2.6 and 2.7). A map that is
    constant or not finite has no F1: it is left out of means and counted.

    Misleads: Otsu always splits, so the mean F1 of a channel that ignores the object is near
    ``2pq / (p + q)`` and not 0; on images without the class every non-empty mask has F1 0; the best
    of many channels is good by luck on the images that it was chosen on; a colour or an all-ones
    mask may do as well. Hence held-out scores, controls and the all-ones baseline.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for every audited layer with maps.
    resolution : str
        ``layer`` (default): mask to the layer's grid by majority, map thresholded as it is. It
        costs one sort per map, about 1/100 of thresholding a 7x7 layer at 224x224, so the screen can
        follow the survey. ``mask``: map to the mask's grid bilinearly, then Otsu; the finer number, for
        few layers. ``NxN``: both to that grid, map before Otsu.
    strong : float
        A per-image F1 strictly above it counts as strong.
    chosen_on : str
        Split on which the best channel is chosen; empty takes ``train`` if there is one besides
        another, else a validation split, else a random half of the groups.
    complements : {"auto", "none", "all"}
        Which mask classes get complements as regions of their own, see
        :func:`wsss_probe_channels.regions.regions_of`.

    Raises
    ------
    UsageError
        For a resolution that says no grid, a ``strong`` outside [0, 1] or unknown complements.
    """

    layer: str = ""
    resolution: str = "layer"
    strong: float = 0.6
    chosen_on: str = ""
    complements: Complements = "auto"
    name: str = field(init=False, default="channel-f1")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if not 0 <= self.strong <= 1:
            msg = "strong is no F1"
            raise UsageError(msg, found=str(self.strong), wanted="a number in [0, 1]")
        if self.complements not in get_args(Complements):
            msg = "unknown complements of channel-f1"
            raise UsageError(msg, found=str(self.complements), wanted=", ".join(get_args(Complements)))
        options = {
            "layer": self.layer,
            "resolution": self.resolution,
            "order": Resolution(self.resolution).order,
            "strong": self.strong,
            "chosen_on": self.chosen_on,
            "complements": self.complements,
        }
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"channel-f1@{self.layer}" if self.layer else "channel-f1")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per audited layer with maps: layers differ in width, so each is a table."""
        if self.layer or not survey.mask_classes:
            return (self,)
        return tuple(replace(self, layer=name) for name in map_layers(survey))

    def regions(self, mask_classes: Sequence[str]) -> tuple[MaskRegion, ...]:
        """List what the channels are compared with: each mask class, then complements."""
        return regions_of(mask_classes, self.complements)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and for masks."""
        return Needs(layers=frozenset({self.layer} if self.layer else map_layers(survey)), masks=True)

    def observe(self, batch: Batch) -> Observation | None:
        """Screen one batch.

        Returns
        -------
        Observation or None
            Rows ``f1`` (image, channel, class), ``threshold``, ``coverage``, ``degenerate`` (image,
            channel), ``area`` (image, class), the region's share of known pixels, and ``intensity_f1``
            (image, rule, class) of rules on the input alone; partial ``tp, fp, fn`` (channel, class)
            in pixels. ``class`` runs over :meth:`regions`. None without masks.
        """
        if batch.masks is None:
            return None
        regions = self.regions(batch.mask_classes)
        resolution = Resolution(self.resolution)
        maps = batch.activations[self.layer]
        seen = screen(maps, batch.masks, regions, resolution)
        plain = intensity_f1(batch.images, seen.masks, regions, resolution.grid(maps, batch.masks))
        coords = {"class": np.array([region.name for region in regions], dtype=object)}
        rules = np.array(rule_names(batch.images.shape[1]), dtype=object)
        rows = _rows(seen, regions, coords).assign_coords(rule=rules)
        rows["intensity_f1"] = (("image", "rule", "class"), _array(plain))
        return Observation(rows, _partial(seen, batch.readable, coords))

    def conclude(self, run: Run) -> Conclusion:
        """Rank the channels, choose the best on one half, score it on the other beside its controls."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the best channels, all channels, examples, and what the controls reach."""
        return sections(self, summary, run)


def _rows(seen: Screen, regions: Sequence[MaskRegion], coords: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Write what the screen says about each image."""
    degenerate = seen.threshold.isnan()
    scores = f1(seen.counts).masked_fill(degenerate.unsqueeze(-1), torch.nan)
    by_channel = ("image", "channel")
    return xr.Dataset(
        {
            "f1": ((*by_channel, "class"), _array(scores)),
            "threshold": (by_channel, _array(seen.threshold)),
            "coverage": (by_channel, _array(seen.coverage)),
            "degenerate": (by_channel, _array(degenerate)),
            "area": (("image", "class"), _array(region_shares(seen.masks, regions))),
        },
        coords=coords,
    )


def _partial(seen: Screen, readable: Tensor, coords: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Pixel sums over the readable images; a degenerate map has an empty mask and so misses all."""
    kept = readable.to(seen.threshold.device)
    counts = type(seen.counts)(*(getattr(seen.counts, name)[kept] for name in ("tp", "fp", "fn")))
    sums = pooled(counts)
    return xr.Dataset(
        {
            name: (("channel", "class"), getattr(sums, name).double().cpu().numpy())
            for name in ("tp", "fp", "fn")
        },
        coords=coords,
    )


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.float().cpu().numpy()
    return array
