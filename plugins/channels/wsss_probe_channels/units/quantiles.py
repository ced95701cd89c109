"""Each channel's own threshold over the whole data set, from one pass and a small table.

A layer's values may lie anywhere between 1e-7 and 1e9 and are not known before the pass, so they are
counted by their floating-point pattern: sign, exponent and the first bits of the mantissa. A second,
finer count by mantissa alone divides the bin in which the quantile falls, as a vernier does; and the
largest value of each map, kept per image, says where the last bin really ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers

if TYPE_CHECKING:
    from wsss_probe import Batch, Survey
    from wsss_probe.contracts import Run

__all__ = ["Histogram", "Quantiles", "Thresholds", "histogram", "upper_quantile"]

_COARSE, _FINE = 5, 10
"""Bits of the mantissa by which values are binned: 32 bins an octave, and 1024 by mantissa alone."""

_LOWEST, _OCTAVES = -24, 54
"""Magnitudes from 2**-24 to 2**30 have bins of their own; what lies outside shares one at either end."""

_MANTISSA, _BIAS = 23, 127
_REGULAR = _OCTAVES << _COARSE
_MOST = _REGULAR + 2
"""Largest bin number: 0 is zero itself, 1 what is smaller than 2**-24, ``_MOST`` what is 2**30 or more."""

_PARTS = 1 << (_FINE - _COARSE)
_FIRST = (_BIAS + _LOWEST) << _COARSE
_UNEVEN = 3
"""Standard deviations of chi-squared above which counts are no longer taken as even."""

_CHUNK = 1 << 22
"""Values that are binned at once: 32 MiB of indices."""


@final
@dataclass(frozen=True, slots=True)
class Histogram:
    """Values counted by floating-point pattern; histograms of parts of the data add up.

    Parameters
    ----------
    count : ndarray of int, (channel, bin)
        Bins in the order of the values, from the most negative to the most positive.
    vernier : ndarray of int, (channel, part)
        Counts by the first ten bits of the mantissa, whatever the exponent; negative values first.
    maximum : ndarray of float, (channel,)
        Largest value; NaN without values.
    """

    count: np.ndarray
    vernier: np.ndarray
    maximum: np.ndarray


@final
@dataclass(frozen=True, slots=True)
class Thresholds:
    """Upper quantiles of every channel.

    Parameters
    ----------
    threshold : ndarray of float64, (channel,)
        NaN without values.
    reached : ndarray of float64, (channel,)
        Share of values above it as the histogram has it.
    doubt : ndarray of float64, (channel,)
        Share of values in the threshold's own bin: the true share cannot be further away than that.
    """

    threshold: np.ndarray
    reached: np.ndarray
    doubt: np.ndarray


def histogram(maps: Tensor) -> Histogram:
    """Count the values of every channel.

    Parameters
    ----------
    maps : Tensor, (image, channel, row, column)
        Finite.

    Returns
    -------
    Histogram
    """
    values = maps.float().flatten(2).transpose(0, 1).flatten(1)  # (channel, value)
    width = max(1, _CHUNK // max(1, values.shape[1]))
    parts = [_histogram(part.contiguous()) for part in torch.split(values, width)]
    count, vernier = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    largest = values.amax(dim=1) if values.shape[1] else values.new_full((len(values),), torch.nan)
    return Histogram(count, vernier, largest.cpu().numpy())


def _histogram(values: Tensor) -> tuple[Tensor, Tensor]:
    """Count some channels, each (channel, bin) of int32."""
    pattern = values.abs().view(torch.int32)
    number = ((pattern >> (_MANTISSA - _COARSE)) - (_FIRST - 2)).clamp_(1, _MOST)
    number.masked_fill_(pattern == 0, 0)
    regular = (number > 1) & (number < _MOST)
    negative = values < 0
    fine = (pattern >> (_MANTISSA - _FINE)) & ((1 << _FINE) - 1)
    fine = torch.where(negative, fine, fine + (1 << _FINE))
    fine = torch.where(regular, fine, 2 << _FINE)  # a place for all that is not divided, dropped below
    vernier = _counted(fine, (2 << _FINE) + 1)[:, :-1]
    return _counted(torch.where(negative, -number, number) + _MOST, 2 * _MOST + 1), vernier


def _counted(number: Tensor, bins: int) -> Tensor:
    """Count how often each number from 0 occurs in each row, (row, bin)."""
    offset = torch.arange(len(number), device=number.device)[:, None] * bins
    counts = torch.bincount((number + offset).flatten(), minlength=len(number) * bins)
    return counts.view(len(number), bins).int()


def _edges() -> np.ndarray:
    """Values at which bins begin, and the last one ends, (bin + 1,); the bin of zero has no width."""
    pattern = np.arange(_FIRST, _FIRST + _REGULAR + 1, dtype=np.int32) << (_MANTISSA - _COARSE)
    largest = float(np.finfo(np.float32).max)
    positive = np.array([0.0, *pattern.view(np.float32).astype(np.float64), largest])
    return np.concatenate([-positive[::-1], positive])


def upper_quantile(counted: Histogram, share: float) -> Thresholds:
    """Find the value that a share of each channel's values exceeds.

    Equal values (the zeros of a ReLU) are never divided, since the comparison is strict: where fewer
    than ``share`` of the values are positive and the rest is zero, the threshold is 0 and less is reached.

    Parameters
    ----------
    counted : Histogram
    share : float
        In (0, 1).

    Returns
    -------
    Thresholds
    """
    count = np.asarray(counted.count, dtype=np.float64)
    rows, total = np.arange(len(count)), count.sum(axis=1)
    wanted = share * total
    above = _above(count)
    place = np.argmax(above <= wanted[:, None], axis=1)  # the bin in which the quantile falls
    inside, beyond = count[rows, place], above[rows, place]
    borders = _borders(place)
    parts = _divided(counted, place, inside, borders)
    left = _above(parts) + beyond[:, None]
    part = np.argmax(left <= wanted[:, None], axis=1)
    held = parts[rows, part]
    low, high = borders[rows, part], np.fmin(borders[rows, part + 1], counted.maximum)
    surplus = left[rows, part] + held - wanted
    along = np.divide(surplus, held, out=np.zeros_like(held), where=held > 0)
    zero = place == _MOST
    filled = np.where(total > 0, total, np.nan)
    return Thresholds(
        np.where(total > 0, np.where(zero, 0.0, low + (high - low) * along), np.nan),
        np.where(zero, beyond, wanted) / filled,
        np.where(zero, 0.0, inside) / filled,
    )


def _above(count: np.ndarray) -> np.ndarray:
    """Number of values in the bins above each, (channel, bin)."""
    after: np.ndarray = count[:, ::-1].cumsum(axis=1)[:, ::-1] - count
    return after


def _borders(place: np.ndarray) -> np.ndarray:
    """Where the parts of each channel's bin begin, and the last one ends, (channel, part + 1)."""
    edges = _edges()
    low, high = edges[place, None], edges[place + 1, None]
    borders: np.ndarray = low + (high - low) * np.linspace(0, 1, _PARTS + 1)
    return borders


def _divided(counted: Histogram, place: np.ndarray, inside: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Divide each channel's bin at ``place`` into parts, (channel, part).

    The vernier holds what lies at these mantissas in *all* octaves; what the others hold is known in sum and
    taken off evenly, with one standard deviation of its noise. Where it is even within its noise the bin
    is divided evenly, up to the largest value.
    """
    seen, regular = _vernier(counted, place)
    # a part counts as far as it lies below the largest value
    width = np.diff(borders)
    width[width == 0] = 1  # the bin of zero
    reach = np.nan_to_num((counted.maximum[:, None] - borders[:, :-1]) / width).clip(0, 1)
    others = ((seen.sum(axis=1) - inside) / _PARTS).clip(0)
    own = (seen - (others + np.sqrt(others))[:, None]).clip(0) * (reach > 0)
    uneven = regular & _uneven(seen, reach == 1) & (own.sum(axis=1) > 0)
    own = np.where(uneven[:, None], own, reach)
    own[:, 0] += own.sum(axis=1) == 0
    divided: np.ndarray = own * (inside / own.sum(axis=1))[:, None]
    return divided


def _uneven(seen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Whether the parts that count differ by more than their noise, by chi-squared, (channel,)."""
    parts = counts.sum(axis=1)
    mean = (seen * counts).sum(axis=1) / np.maximum(parts, 1)
    squares = ((seen - mean[:, None]) ** 2 * counts).sum(axis=1)
    uneven: np.ndarray = squares > mean * (parts + _UNEVEN * np.sqrt(2 * parts))
    return uneven


def _vernier(counted: Histogram, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts at the mantissas of each channel's bin, (channel, part), and whether it has any."""
    number = place - _MOST
    size = np.abs(number)
    regular = (size > 1) & (size < _MOST)
    start = np.where(number > 0, 1 << _FINE, 0) + (size - 2) % (1 << _COARSE) * _PARTS
    index = np.where(regular[:, None], start[:, None] + np.arange(_PARTS), 0)
    seen = np.take_along_axis(np.asarray(counted.vernier, dtype=np.float64), index, axis=1)
    return np.where((number < 0)[:, None], seen[:, ::-1], seen), regular  # in the order of the values


@final
@dataclass(frozen=True)
class Quantiles(Probe):
    """Threshold T of every channel with P(a > T) = ``share`` over all images and positions.

    Bau, Zhou, Khosla, Oliva, Torralba (2017), Network Dissection, arXiv:1704.05796, section 2.2: the
    threshold is one number per channel for the whole data set, taken at the layer's own resolution.

    Values are counted by sign, exponent and mantissa (32 bins an octave from 2^-24 to 2^30, divided by a
    vernier of 1024 mantissas): 22 KiB per channel and batch, whatever the number of images. The share that
    is really above the threshold is measured in the second pass (``reached`` of ``dissect``).

    Misleads: equal values are not divided, so a channel that is positive on less than ``share`` of its cells
    gets T = 0 and reaches less; where values crowd at a limit that is not zero (tanh at 1), or differ by
    less than 1/1000 of their size, the share that is reached may be far from the one that was asked for.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        ``last``, ``all`` or names; see :func:`wsss_probe_channels.evidence.evidence_layers`.
    share : float

    Raises
    ------
    UsageError
        For a share outside (0, 1).
    """

    layer: str = ""
    layers: str = "last"
    share: float = 0.005
    name: str = field(init=False, default="quantiles")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a share without a meaning; derive the name and what the plan records."""
        if not 0 < self.share < 1:
            msg = "share is no share of values"
            raise UsageError(msg, found=str(self.share), wanted="a number in (0, 1)", remedy="share = 0.005")
        object.__setattr__(self, "options", {"layer": self.layer, "share": self.share})
        object.__setattr__(self, "name", f"quantiles@{self.layer}" if self.layer else "quantiles")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer; none without masks, since nothing else reads the thresholds."""
        if not survey.mask_classes:
            return ()
        wanted = evidence_layers(survey, self.layer or self.layers)
        return tuple(replace(self, layer=name) for name in wanted)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps."""
        return Needs(layers=frozenset({self.layer} if self.layer else evidence_layers(survey, self.layers)))

    def observe(self, batch: Batch) -> Observation:
        """Count one batch.

        Returns
        -------
        Observation
            Rows ``maximum`` (image, channel); partial ``count`` (channel, bin) and ``vernier`` (channel,
            part). Images that are not readable or have a value that is not finite are left out.
        """
        maps = batch.activations[self.layer]
        highest = maps.float().amax(dim=(2, 3))
        finite = torch.isfinite(maps).flatten(1).all(dim=1)
        usable = batch.readable.to(maps.device) & finite
        found = histogram(maps if bool(usable.all()) else maps[usable])
        rows = highest.masked_fill(~finite[:, None], torch.nan).cpu().numpy()
        partial = xr.Dataset(
            {"count": (("channel", "bin"), found.count), "vernier": (("channel", "part"), found.vernier)},
            coords={"bin": np.arange(-_MOST, _MOST + 1), "part": np.arange(found.vernier.shape[1])},
        )
        return Observation(xr.Dataset({"maximum": (("image", "channel"), rows)}), partial)

    def conclude(self, run: Run) -> Conclusion:
        """Find the thresholds.

        Returns
        -------
        Conclusion
            Summary ``threshold``, ``reached`` and ``doubt`` (channel), see :class:`Thresholds`.
        """
        partial = run.partial(self.name)
        rows = run.rows(self.name)["maximum"].values
        largest = np.fmax.reduce(rows, axis=0, initial=np.nan)
        counted = Histogram(partial["count"].values, partial["vernier"].values, largest)
        found = upper_quantile(counted, self.share)
        columns = {"threshold": found.threshold, "reached": found.reached, "doubt": found.doubt}
        summary = xr.Dataset({name: ("channel", values) for name, values in columns.items()})
        return Conclusion(summary.assign_attrs(self.options))
