"""The probe Dissect: intersection over union of every channel with every concept, over the data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.regions import regions_of
from wsss_probe_channels.units.dissect import Overlap, overlap
from wsss_probe_channels.units.dissect_conclusion import conclude
from wsss_probe_channels.units.dissect_section import sections

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["Dissect"]

MOST_BYTES = 200_000_000
"""Rows by image, channel and concept are kept for intervals up to this size."""


@final
@dataclass(frozen=True)
class Dissect(Probe):
    """Intersection over union of each channel's strongest responses with each concept.

    Bau, Zhou, Khosla, Oliva, Torralba (2017), Network Dissection, arXiv:1704.05796, sections 2.2 and 2.3:
    ``M_k = S_k > T_k`` with S_k the map resized to the masks bilinearly and T_k from ``quantiles@<layer>``;
    ``IoU(k, c) = sum_n |M_k and L_c| / sum_n |M_k or L_c|`` over the data set. Pixels of M_k count only on
    images where the category of c is labelled: where some pixel is of any mask class, for a
    complement (``not gland``) where some pixel counts. Ignored pixels count nowhere. A channel is a
    detector of its best concept if IoU > 0.04. ``iou_all`` counts M_k on every image with known pixels.

    Misleads: with M_k on a share q of the pixels and the concept on p, IoU is at most min(q, p) / max(q, p),
    so at q = .005 a concept on more than 12.5 % of the pixels has no detector, however good: read the
    ``cap``. Large objects weigh more, since pixels are summed over images. Images without any labelled
    object are left out of ``iou``, which flatters a channel that fires there. Bilinear resizing ignores where
    the receptive field really is. The best of many channels is good by luck: see the controls.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        ``last``, ``all`` or names; see :func:`wsss_probe_channels.evidence.evidence_layers`.
    complements : {"auto", "none", "all"}
        See :func:`wsss_probe_channels.regions.regions_of`.
    per_image : {"auto", "yes", "no"}
        Whether counts are kept by image, which intervals need; ``auto`` up to 200 MB.

    Raises
    ------
    UsageError
        For another word in ``complements`` or ``per_image``.
    """

    layer: str = ""
    layers: str = "last"
    complements: Literal["auto", "none", "all"] = "auto"
    per_image: Literal["auto", "yes", "no"] = "auto"
    name: str = field(init=False, default="dissect")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse words without a meaning; derive the name and what the plan records."""
        wanted = {"complements": ("auto", "none", "all"), "per_image": ("auto", "yes", "no")}
        for option, words in wanted.items():
            if getattr(self, option) not in words:
                msg = f"unknown {option} of dissect"
                raise UsageError(msg, found=str(getattr(self, option)), wanted=", ".join(words))
        options = {"layer": self.layer, "complements": self.complements, "per_image": self.per_image}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"dissect@{self.layer}" if self.layer else "dissect")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer, and decide for each whether counts by image fit."""
        if not survey.mask_classes:
            return (self,)  # the host skips it and says why
        wanted = evidence_layers(survey, self.layer or self.layers)
        return tuple(replace(self, layer=name, per_image=self._kept(survey, name)) for name in wanted)

    def _kept(self, survey: Survey, layer: str) -> Literal["yes", "no"]:
        if self.per_image != "auto":
            return self.per_image
        classes = len(regions_of(survey.mask_classes, self.complements))
        size = survey.images * survey.layers[layer].shape[0] * classes * 8
        return "yes" if size <= MOST_BYTES else "no"

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps, masks and the thresholds of the first pass."""
        if not self.layer:
            return Needs(layers=frozenset(evidence_layers(survey, self.layers)), masks=True)
        tables = frozenset({f"quantiles@{self.layer}"})
        return Needs(layers=frozenset({self.layer}), masks=True, tables=tables)

    def observe(self, batch: Batch) -> Observation | None:
        """Count one batch.

        Returns
        -------
        Observation or None
            Rows ``intersection, union`` (image, channel, class) if kept; NaN on images without a known pixel.
            Partial, in pixels, ``intersection, unit, unit_all`` (channel, class) and ``area, pixels``
            (class); ``above, cells`` (channel), cells of the layer's grid above the threshold and in all.
            None without masks.
        """
        if batch.masks is None:
            return None
        maps = batch.activations[self.layer]
        maps = maps if maps.itemsize >= 4 else maps.float()
        table = batch.tables[f"quantiles@{self.layer}"]
        threshold = torch.from_numpy(table["threshold"].values).to(maps)
        usable = batch.readable.to(maps.device) & torch.isfinite(maps).flatten(1).all(dim=1)
        regions = regions_of(batch.mask_classes, self.complements)
        seen = overlap(maps, threshold, batch.masks, regions)
        coords = {"class": np.array([region.name for region in regions], dtype=object)}
        partial = xr.Dataset(_sums(seen, usable) | _reached(maps[usable], threshold), coords=coords)
        return Observation(_rows(seen, usable, coords) if self.per_image != "no" else None, partial)

    def conclude(self, run: Run) -> Conclusion:
        """Find each channel's best concept and each concept's best channel, beside the controls."""
        return conclude(self.name, self.layer, run, kept=self.per_image != "no")

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show concepts beside their controls and caps, and every channel."""
        return sections(self.layer, summary, run)


_Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


def _rows(seen: Overlap, usable: Tensor, coords: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Write the counts of each image."""
    union = seen.unit * seen.occurs[:, None] + seen.area[:, None] - seen.intersection
    unknown = ~usable[:, None, None] | (seen.pixels == 0)[:, None]
    dims = ("image", "channel", "class")
    values = {"intersection": seen.intersection, "union": union}
    return xr.Dataset(
        {
            name: (dims, value.masked_fill(unknown, torch.nan).float().cpu().numpy())
            for name, value in values.items()
        },
        coords=coords,
    )


def _sums(seen: Overlap, usable: Tensor) -> _Variables:
    """Add up the counts of the usable images."""
    occurs = seen.occurs.double()
    by_channel = {
        "intersection": seen.intersection,
        "unit": seen.unit * occurs[:, None],
        "unit_all": seen.unit,
    }
    by_class = {"area": seen.area, "pixels": seen.pixels * occurs}
    summed = {name: (("channel", "class"), value) for name, value in by_channel.items()}
    return {
        name: (dims, value[usable].sum(dim=0).cpu().numpy())
        for name, (dims, value) in {**summed, **{n: (("class",), v) for n, v in by_class.items()}}.items()
    }


def _reached(maps: Tensor, threshold: Tensor) -> _Variables:
    """Count the cells above the threshold at the layer's own resolution."""
    above = (maps > threshold[:, None, None]).sum(dim=(0, 2, 3)).double().cpu().numpy()
    cells = np.full(len(threshold), float(len(maps) * maps.shape[2] * maps.shape[3]))
    return {"above": (("channel",), above), "cells": (("channel",), cells)}
