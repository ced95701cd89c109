"""Otsu's threshold for many maps at once, pixel for pixel as scikit-image computes it.

Otsu (1979), A threshold selection method from gray-level histograms, doi:10.1109/TSMC.1979.4310076,
eq. 18: the threshold maximises the between-class variance ω₁ω₂(μ₁ − μ₂)².

Histograms are laid out ``(bin, map)``: each step is then one vector operation over maps, and running sums can
add in the very order in which NumPy adds, which is what makes the result equal to scikit-image's float
arithmetic to the last bit instead of nearly always. Pixels are worked on in blocks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["binarize", "otsu"]

BINS = 256
"""Bins between a map's smallest and largest value, as in ``skimage.filters.threshold_otsu``."""

_SORT_UP_TO = 14 * 14
"""Largest map, in pixels, that is sorted instead of counted into bins: there the two cost the same."""

_SORTED, _COUNTED, _ELSEWHERE = 1 << 19, 1 << 22, 1 << 23
"""Pixels whose thresholds are found together: when sorted, when counted into bins, and on other devices than
the CPU. Many pay for the loop over bins, few bound the memory."""

_MAPS = 1 << 11
"""Maps whose histograms are split together: few enough for the cache."""

_BLOCK = 1 << 17
"""Pixels binned at once on the CPU: with two scratch buffers they stay in the cache of one core, where a pass
costs a fifth of one through memory. Cells of its histograms stay below 2^24, see ``_histogram``."""

_LARGEST, _SMALLEST_RANGE = 2.0**40, 2.0**-50
"""Beyond these, squares of differences times pixel counts would leave float32."""


class _Ends(NamedTuple):
    """Smallest and largest value of each map, (map,)."""

    low: Tensor
    high: Tensor


def otsu(maps: Tensor) -> Tensor:
    """Otsu's threshold of every map.

    The same masks as ``skimage.filters.threshold_otsu(map)`` with ``map > threshold``: 256 bins between the
    map's minimum and maximum, and the centre of the first bin that maximises the between-class variance.
    Half precision is computed in float32. Maps whose range scikit-image cannot bin (narrower than 256
    steps of the number format) or in which its squares overflow or vanish are shifted and scaled first.

    Otsu always splits: a threshold says nothing about whether there are two classes. A rectified map has a
    spike at zero, and its threshold often separates little more than zero from not zero.

    Parameters
    ----------
    maps : Tensor of float, (..., row, column)
        Any device, any leading dimensions; not changed.

    Returns
    -------
    Tensor of float, (...)
        In the units of ``maps``; float32, or float64 for float64 maps. NaN where a map is degenerate:
        constant, empty, or with a value that is not finite.

    Raises
    ------
    TypeError
        If ``maps`` is not a floating-point tensor.
    ValueError
        If it has fewer than two dimensions.

    References
    ----------
    Otsu (1979), doi:10.1109/TSMC.1979.4310076.

    Examples
    --------
    >>> otsu(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    tensor(0.0020)
    """
    if not maps.is_floating_point():
        raise TypeError(f"maps must be a floating-point tensor, got {maps.dtype}")
    if maps.ndim < 2:
        raise ValueError(
            f"maps must have the dimensions (..., row, column), got the shape {tuple(maps.shape)}"
        )
    leading, pixels = maps.shape[:-2], maps.shape[-2] * maps.shape[-1]
    dtype = torch.promote_types(maps.dtype, torch.float32)
    flat = maps.detach().reshape(leading.numel(), pixels)
    thresholds = torch.full((len(flat),), torch.nan, dtype=dtype, device=maps.device)
    if pixels:
        rows = _together(pixels, maps.device)
        for out, group in zip(torch.split(thresholds, rows), torch.split(flat, rows), strict=True):
            _fill(out, group.to(dtype))
    return thresholds.reshape(leading)


def binarize(maps: Tensor, thresholds: Tensor) -> Tensor:
    """Pixels strictly above their map's threshold.

    Parameters
    ----------
    maps : Tensor of float, (..., row, column)
    thresholds : Tensor of float, (...)
        As :func:`otsu` returns them; NaN gives an empty mask.

    Returns
    -------
    Tensor of bool, (..., row, column)

    Examples
    --------
    >>> maps = torch.tensor([[0.0, 2.0], [1.0, 5.0]])
    >>> binarize(maps, torch.tensor(2.0))
    tensor([[False, False],
            [False,  True]])
    """
    # With its two new dimensions a threshold takes part in type promotion: half-precision maps are
    # compared in float32, where the threshold has its full precision.
    return maps > thresholds[..., None, None]


def _together(pixels: int, device: torch.device) -> int:
    """Count the maps of so many pixels whose thresholds are found together."""
    if pixels <= _SORT_UP_TO:
        return (_SORTED if device.type == "cpu" else _ELSEWHERE) // pixels
    return max(1, min(_COUNTED // pixels, _MAPS) if device.type == "cpu" else _ELSEWHERE // pixels)


def _fill(thresholds: Tensor, maps: Tensor) -> None:
    """Write the thresholds of ``maps`` (map, pixel) where they are defined."""
    by_sorting = maps.shape[1] <= _SORT_UP_TO
    pixels = _sorted(maps) if by_sorting else maps
    lows, highs = (pixels[:, 0], pixels[:, -1]) if by_sorting else (pixels.amin(1), pixels.amax(1))
    ends = _Ends(lows.contiguous(), highs.contiguous())
    # NaN sorts last and passes through amin and amax, so the ends tell of every value that is not finite
    usable = torch.isfinite(ends.low) & torch.isfinite(ends.high) & (ends.low < ends.high)
    if not bool(usable.all()):
        pixels, ends = pixels[usable], _Ends(ends.low[usable], ends.high[usable])
    if not ends.low.numel():
        return
    count = _count_sorted if by_sorting else _count_by_bin
    shift, scale = _conditioning(ends)
    if not bool(((shift == 0) & (scale == 1)).all()):
        conditioned = _condition(pixels, shift[:, None], scale[:, None])
        ends = _Ends(_condition(ends.low, shift, scale), _condition(ends.high, shift, scale))
        thresholds[usable] = _restore(_best_split(*count(conditioned, ends)), shift, scale)
    else:
        thresholds[usable] = _best_split(*count(pixels, ends))


def _sorted(maps: Tensor) -> Tensor:
    """Sort each row; NumPy's vectorised sort is ten times as fast as torch's on the CPU."""
    if maps.device.type == "cpu":
        return torch.from_numpy(np.sort(maps.numpy(), axis=1))
    return maps.sort(dim=1).values


# -- the histogram, exactly numpy.histogram's --------------------------------------------------


def _edge(index: Tensor, ends: _Ends, out: Tensor | None = None) -> Tensor:
    """Lower edge of a bin, rounded as in ``numpy.linspace(low, high, 257)``, whose last edge is ``high``."""
    return torch.mul(index, (ends.high - ends.low) / BINS, out=out).add_(ends.low)


def _bins(pixels: Tensor, ends: _Ends) -> Tensor:
    """Bin of each pixel, whole numbers in the pixels' float type, of the shape of ``pixels``.

    As ``numpy.histogram``: a first guess by division, then moved by one where the edges say so.
    """
    # Dividing by the width of a bin is dividing by the range and multiplying by 2^8, to the last bit
    bins = (pixels - ends.low).div_((ends.high - ends.low) / BINS).floor_()
    # One scratch buffer for all that follows: fresh pages cost more here than the arithmetic
    scratch = torch.empty_like(bins)
    bins -= torch.lt(pixels, _edge(bins, ends, out=scratch), out=scratch)
    upper = _edge(torch.add(bins, 1, out=scratch), ends, out=scratch)
    bins += torch.ge(pixels, upper, out=scratch)
    return bins.clamp_(max=BINS - 1)  # the last bin includes its upper edge


def _centre(index: Tensor, ends: _Ends) -> Tensor:
    """Centre of a bin, as scikit-image rounds it."""
    upper = torch.where(index == BINS - 1, ends.high, _edge(index + 1, ends))
    return upper.add_(_edge(index, ends)).div_(2)


def _count_by_bin(pixels: Tensor, ends: _Ends) -> tuple[Tensor, Tensor]:
    """Count the pixels (map, pixel) of every bin: counts and centres, (bin, map)."""
    rows = len(pixels) if pixels.device.type != "cpu" else max(1, _BLOCK // pixels.shape[1])
    blocks = zip(*(torch.split(part, rows) for part in (pixels, *ends)), strict=True)
    counts = torch.cat([_histogram(block, _Ends(low, high)) for block, low, high in blocks])
    index = torch.arange(BINS, dtype=pixels.dtype, device=pixels.device)[:, None]
    return counts.t().to(torch.float32, memory_format=torch.contiguous_format), _centre(index, ends)


def _histogram(pixels: Tensor, ends: _Ends) -> Tensor:
    """Count the pixels (map, pixel) of every bin, (map, bin)."""
    maps = len(pixels)
    cell = _bins(pixels, _Ends(ends.low[:, None], ends.high[:, None]))
    # Cells are numbered in floats, exact below 2^24: a block of maps this large holds some hundreds
    cell += torch.arange(0, maps * BINS, BINS, device=pixels.device)[:, None]
    return torch.bincount(cell.int().flatten(), minlength=BINS * maps).reshape(maps, BINS)


def _count_sorted(pixels: Tensor, ends: _Ends) -> tuple[Tensor, Tensor]:
    """Count equal bins among sorted pixels (map, pixel): counts and centres, (pixel, map).

    A bin's count stands at its last pixel and is 0 before. Bins without pixels do not appear; they could
    never be the first maximum. So a small map costs its pixels, not 256 bins.
    """
    bins = _bins(pixels.t().contiguous(), ends)
    last = torch.ones_like(bins, dtype=torch.float32)
    last[:-1] = bins[1:] != bins[:-1]
    rank = torch.arange(1, len(bins) + 1, dtype=torch.float32, device=bins.device)[:, None]
    through = _running(torch.maximum, last * rank)
    counts = through.clone()
    counts[1:] -= through[:-1]
    return counts, _centre(bins, ends)


# -- maps that scikit-image's float arithmetic cannot bin -----------------------------------------


def _unbinnable(ends: _Ends, width: Tensor, magnitude: Tensor) -> Tensor:
    """Whether rounding makes two edges of a map's bins meet, (map,); ``numpy.histogram`` refuses those."""
    narrow = width <= 8 * BINS * torch.finfo(ends.low.dtype).eps * magnitude  # never, if wider
    if bool(narrow.any()):
        index = torch.arange(BINS + 1, dtype=ends.low.dtype, device=ends.low.device)[:, None]
        edges = _edge(index, _Ends(ends.low[narrow], ends.high[narrow]))
        narrow[narrow.clone()] = (edges[1:] <= edges[:-1]).any(0)
    return narrow


def _conditioning(ends: _Ends) -> tuple[Tensor, Tensor]:
    """Shift and scale, (map,) in float64, that make a map safe to bin; 0 and 1 for ordinary maps.

    Scales are powers of two, so they change no digit and a map scaled by one keeps its mask.
    """
    low, high = ends.low.double(), ends.high.double()
    width, magnitude = high - low, torch.maximum(low.abs(), high.abs())
    narrow = _unbinnable(ends, width, magnitude)
    odd = (magnitude > _LARGEST) | (width < _SMALLEST_RANGE)
    exponent = torch.frexp(torch.where(narrow, width, magnitude)).exponent.clamp(-1000, 1000)
    scale = torch.where(odd, torch.ldexp(torch.ones_like(low), -exponent), 1)
    return torch.where(narrow, low, 0), scale


def _condition(values: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale without overflow on the way."""
    return ((values.double() - shift) * scale).to(values.dtype)


def _restore(thresholds: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Thresholds in the units of the maps, rounded down: a value above the exact one stays above."""
    exact = thresholds.double() / scale + shift
    rounded = exact.to(thresholds.dtype)
    lower = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > exact, lower, rounded)


# -- the split ---------------------------------------------------------------------------------


def _running(combine: Callable[..., Tensor], rows: Tensor) -> Tensor:
    """Combine each row with all before it, strictly one after the other.

    ``torch.cumsum`` adds in float64 on the CPU and in a tree on CUDA; scikit-image's order and precision
    decide which of two nearly equal splits wins. ``torch.cummax`` is merely slow.
    """
    result = torch.empty_like(rows)
    result[0] = rows[0]
    done = result.unbind(0)
    for before, row, out in zip(done[:-1], rows.unbind(0)[1:], done[1:], strict=True):
        combine(before, row, out=out)
    return result


def _best_split(counts: Tensor, centres: Tensor) -> Tensor:
    """Centre of the first bin that maximises the between-class variance, (map,).

    A row with count 0 has the variance of the row before it, exactly, so it is never the first maximum;
    before a map's first count it has the weight 0, hence the variance 0.
    """
    terms = counts * centres
    weight = counts.cumsum(0)  # whole numbers: exact in any order
    weight, rest = weight[:-1], weight[-1] - weight[:-1]
    # Both directions in one loop of half the length
    lower, upper = _running(torch.add, torch.cat([terms, terms.flip(0)], dim=1)).chunk(2, dim=1)
    between = (lower[:-1] / weight.clamp(min=1)).sub_((upper[:-1].flip(0)).div_(rest))
    variance = between.square_().mul_(weight * rest)
    best = variance.amax(0)
    # Centres rise, so the first maximum is the lowest centre; many times faster than argmax over rows
    return torch.where(variance == best, centres[:-1], torch.inf).amin(0)
