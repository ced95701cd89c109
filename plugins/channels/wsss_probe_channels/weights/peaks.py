"""The probe peaks: where every map of a layer has its maximum, and whether that is inside the masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers, map_layers
from wsss_probe_channels.regions import Complements, planes, regions_of
from wsss_probe_channels.screening.selection import mean_defined

if TYPE_CHECKING:
    from wsss_probe import Batch, Survey
    from wsss_probe.contracts import Run

__all__ = ["Located", "Peaks", "located"]


@final
@dataclass(frozen=True, slots=True)
class Located:
    """Maxima of the maps of one batch.

    Parameters
    ----------
    cell_row, cell_column : Tensor of int, (image, channel)
        Cell of the first maximum in reading order; of no meaning where dead.
    grid : (int, int)
        Rows and columns of the maps.
    dead : Tensor of bool, (image, channel)
        Maps without a maximum above 0, constant, or with a value that is not finite.
    tied : Tensor of bool, (image, channel)
        Live maps with more than one cell of the largest value.
    """

    cell_row: Tensor
    cell_column: Tensor
    grid: tuple[int, int]
    dead: Tensor
    tied: Tensor

    def centres(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Row and column of the cells' centres in input pixels, ``(r + ½) H / h``; NaN where dead.

        Pixel i lies between i and i + 1.
        """
        row = (self.cell_row.double() + 0.5) * size[0] / self.grid[0]
        column = (self.cell_column.double() + 0.5) * size[1] / self.grid[1]
        return row.masked_fill(self.dead, torch.nan), column.masked_fill(self.dead, torch.nan)

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """Position, in reading order, of the input pixel that holds each centre, (image, channel)."""
        row = (2 * self.cell_row + 1) * size[0] // (2 * self.grid[0])
        column = (2 * self.cell_column + 1) * size[1] // (2 * self.grid[1])
        return row * size[1] + column


def located(maps: Tensor) -> Located:
    """Find the maximum of every map.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)

    Returns
    -------
    Located

    Examples
    --------
    >>> found = located(torch.tensor([[[[0.0, 0.0, 0.0, 2.0]]]]))
    >>> found.centres((8, 8))
    (tensor([[4.]], dtype=torch.float64), tensor([[7.]], dtype=torch.float64))
    """
    flat = maps.flatten(2)
    first = flat.argmax(dim=2)  # the first of equals
    low, high = flat.amin(dim=2), flat.amax(dim=2)
    dead = ~(torch.isfinite(low) & torch.isfinite(high) & (high > 0) & (high > low))
    tied = ((flat == high[..., None]).sum(dim=2) > 1) & ~dead
    width = maps.shape[3]
    return Located(first // width, first % width, (maps.shape[2], width), dead, tied)


@final
@dataclass(frozen=True)
class Peaks(Probe):
    """Location of every live map's maximum, and whether it lies inside each mask region.

    The paper draws these points over the image, by the class of the channel's larger weight (Feng,
    Hafiane, Laurent, section 2.5, Fig. 5). A point is the centre of the map's cell in input pixels. A map
    whose maximum is not above 0, which is constant or not finite has no point; the first of several
    equal maxima counts.

    Misleads: one pixel speaks for a whole map; a cell of a deep layer is wide and sees more than itself,
    so points near a border fall on either side; convolutions with padding put maxima at borders, and
    objects in the middle are hit by chance: compare with other channels and controls, not with 0.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        ``last`` (default), ``all`` or names, comma-separated; see
        :func:`wsss_probe_channels.evidence.evidence_layers`.
    complements : {"auto", "none", "all"}
        See :func:`wsss_probe_channels.regions.regions_of`.

    Raises
    ------
    UsageError
        For another word in ``complements``.
    """

    layer: str = ""
    layers: str = "last"
    complements: Complements = "auto"
    name: str = field(init=False, default="peaks")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if self.complements not in get_args(Complements):
            msg = "unknown complements of peaks"
            raise UsageError(msg, found=str(self.complements), wanted=", ".join(get_args(Complements)))
        object.__setattr__(self, "options", {"layer": self.layer, "complements": self.complements})
        object.__setattr__(self, "name", f"peaks@{self.layer}" if self.layer else "peaks")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer."""
        if self.layer or not survey.mask_classes:
            return (self,)
        return tuple(replace(self, layer=name) for name in evidence_layers(survey, self.layers))

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and for masks."""
        return Needs(layers=frozenset({self.layer} if self.layer else map_layers(survey)), masks=True)

    def observe(self, batch: Batch) -> Observation | None:
        """Locate the maxima of one batch.

        Returns
        -------
        Observation or None
            Rows ``row, column`` (image, channel) in input pixels, NaN for dead maps; ``inside`` (image,
            channel, class) 1 or 0, NaN where the map is dead or the pixel is ignored; ``area`` (image,
            class), the region's share of the pixels that count. Partial ``live, dead, tied`` (channel,)
            in images. None without masks.
        """
        if batch.masks is None:
            return None
        found = located(batch.activations[self.layer])
        size = (batch.masks.shape[1], batch.masks.shape[2])
        regions = regions_of(batch.mask_classes, self.complements)
        inside, known = (part.flatten(2) for part in planes(batch.masks, regions))
        hit = _at(inside, found, size).double()
        hit = hit.masked_fill(~_at(known, found, size) | found.dead[..., None], torch.nan)
        row, column = found.centres(size)
        by_channel, readable = ("image", "channel"), batch.readable[:, None]
        rows = {
            "row": (by_channel, _array(row)),
            "column": (by_channel, _array(column)),
            "inside": ((*by_channel, "class"), _array(hit)),
            "area": (("image", "class"), _array(inside.float().sum(2).double() / known.float().sum(2))),
        }
        sums = {"live": ~found.dead, "dead": found.dead, "tied": found.tied}
        counts = {n: ("channel", (v & readable).sum(0).cpu().numpy()) for n, v in sums.items()}
        names = np.array([region.name for region in regions], dtype=object)
        return Observation(xr.Dataset(rows, coords={"class": names}), xr.Dataset(counts))

    def conclude(self, run: Run) -> Conclusion:
        """Count each channel's points, dead maps and ties, and the share of points in each region."""
        rows, counts = run.rows(self.name).load(), run.partial(self.name)
        both = ("channel", "class")
        summary = xr.Dataset(
            {name: ("channel", counts[name].values.astype(np.int64)) for name in ("live", "dead", "tied")}
            | {
                "inside_share": (both, mean_defined(rows["inside"].values)),
                "mean_area": ("class", mean_defined(rows["area"].values)),
            },
            coords={"channel": np.arange(rows.sizes["channel"]), "class": rows["class"].values},
        )
        summary.attrs = {"complements": self.complements, "point": "cell centre (r + 0.5) H / h"}
        return Conclusion(summary)


def _at(plane: Tensor, found: Located, size: tuple[int, int]) -> Tensor:
    """Read planes (image, region, pixel) at the points, (image, channel, region)."""
    index = found.pixels(size)[:, None].expand(-1, plane.shape[1], -1)
    return plane.gather(2, index).transpose(1, 2)


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.float().cpu().numpy()
    return array
