"""Layouts of maps: inferred from shapes, read from words, turned into (image, channel, row, column) and back.

The rule, for an output of a batch of one image; the input has H rows and W columns.

* A module of torch's whose name ends in ``2d`` puts out NCHW.
* Four dimensions of the sizes of earlier maps are in their layout, where only one reading has them.
* Other four dimensions: NCHW if (row, column) fits the input; NHWC if it does not, and the first two do;
  else NCHW, with a reason. A grid fits if it is the input at one common stride, but for a border of
  at most half its shorter side.
* Three dimensions: tokens, if all but 0 to 5 of them fill the grid of earlier maps of the same pass
  (the patch embedding); where there are none, if they fill the input with square patches of whole
  pixels. Where two readings are possible, maps that were flattened among them, it is no map, with a
  reason.
* An output whose first dimension is not the image is no map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from wsss_probe.contracts import Layout
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.evaluation import split_call
from wsss_probe.names import display

__all__ = [
    "NO_FIT",
    "asked_layout",
    "fits",
    "from_maps",
    "infer_layout",
    "maps_shape",
    "parse_layout",
    "parse_layouts",
    "prefix_tokens",
    "to_maps",
]

NO_FIT = "its rows and columns do not fit the input's"
"""Reason of what has four dimensions and may be no map of the image."""

_MOST_PREFIX = 5
_WORDED = re.compile(r"tokens:([1-9]\d{0,4})x([1-9]\d{0,4})(?:\+(\d{1,3}))?")
_WANTED = "NCHW, NHWC or tokens:ROWSxCOLUMNS+PREFIX"


# -- between the network and everybody else ----------------------------------------------------


def fits(layout: Layout, shape: Sequence[int]) -> bool:
    """Whether an output of this shape, without the image dimension, can have a layout."""
    if layout.kind != "tokens":
        return len(shape) == 3
    return len(shape) == 2 and shape[0] == layout.prefix + math.prod(layout.grid or ())


def maps_shape(layout: Layout, shape: Sequence[int], name: str = "") -> tuple[int, int, int]:
    """Shape (channel, row, column) of the maps in an output.

    Parameters
    ----------
    layout : Layout
    shape : sequence of int
        Of the output as the network gives it, without the image dimension.
    name : str
        Of the layer, for the message.

    Raises
    ------
    ModelError
        If an output of this shape cannot have this layout.
    """
    if not fits(layout, shape):
        tokens = layout.prefix + math.prod(layout.grid or ())
        wanted = f"({tokens}, channel)" if layout.kind == "tokens" else "three dimensions beside the image's"
        raise ModelError(
            f"layout {layout} does not fit" + (f" layer {name!r}" if name else ""),
            found=f"an output of shape {tuple(shape)}",
            wanted=wanted,
            remedy=f"--layouts {name or 'LAYER'}={_WANTED}",
        )
    if layout.grid is not None:
        return shape[1], *layout.grid
    first, second, third = shape
    return (first, second, third) if layout.kind == "NCHW" else (third, first, second)


def to_maps(layout: Layout, output: Tensor) -> Tensor:
    """View the maps in what a layer put out.

    Parameters
    ----------
    layout : Layout
    output : Tensor
        As the network gives it; never copied.

    Returns
    -------
    Tensor, (image, channel, row, column)
        The very same tensor for NCHW; prefix tokens are left out.

    Raises
    ------
    ModelError
        If the output cannot have this layout.

    Examples
    --------
    >>> to_maps(Layout("tokens", 1, (2, 3)), torch.zeros(4, 7, 8)).shape
    torch.Size([4, 8, 2, 3])
    """
    if layout.kind == "NCHW":
        return output
    maps_shape(layout, output.shape[1:])
    if layout.kind == "NHWC":
        return output.permute(0, 3, 1, 2)
    tokens = output[:, layout.prefix :].transpose(1, 2)
    return torch.unflatten(tokens, 2, layout.grid or ())


def prefix_tokens(layout: Layout, output: Tensor) -> Tensor | None:
    """View the tokens that are in no map, (image, prefix, channel); None where there are none."""
    return output[:, : layout.prefix] if layout.prefix else None


def from_maps(layout: Layout, maps: Tensor, prefix: Tensor | None = None) -> Tensor:
    """Put maps back into the order of the network; the inverse of :func:`to_maps`.

    Parameters
    ----------
    layout : Layout
    maps : Tensor, (k * image, channel, row, column)
        ``k`` whole copies of the batch one after another.
    prefix : Tensor, (image, prefix, channel), optional
        What :func:`prefix_tokens` gave; each copy gets the same.

    Returns
    -------
    Tensor

    Raises
    ------
    ModelError
        If the layout has prefix tokens and none are given.
    """
    if layout.kind == "NCHW":
        return maps
    if layout.kind == "NHWC":
        return maps.permute(0, 2, 3, 1)
    tokens = maps.flatten(2).transpose(1, 2)
    if not layout.prefix:
        return tokens
    if prefix is None:
        raise ModelError(f"layout {layout} lacks its prefix tokens", found="maps only")
    copies = prefix.repeat(len(maps) // len(prefix), 1, 1)
    return torch.cat([copies.to(tokens), tokens], dim=1)


# -- inferred ----------------------------------------------------------------------------------


def infer_layout(
    shape: Sequence[int],
    input_shape: Sequence[int],
    seen: Iterable[tuple[int, int, int]] = (),
    module: str = "",
) -> tuple[Layout | None, str]:
    """Tell the layout of an output from shapes, by the rule of this module.

    Parameters
    ----------
    shape : sequence of int
        Of the whole output for one image, the image dimension first.
    input_shape : sequence of int, (channel, row, column)
    seen : iterable of (int, int, int)
        Channel, row and column of maps that appeared earlier in the same pass.
    module : str
        Class name of the module.

    Returns
    -------
    Layout or None, str
        None if it is no map. The text says why, where the shape alone does not.

    Examples
    --------
    >>> print(infer_layout((1, 197, 768), (3, 224, 224))[0])
    tokens:14x14+1
    >>> print(infer_layout((1, 7, 7, 768), (3, 224, 224))[0])
    NHWC
    """
    if len(shape) not in {3, 4}:
        return None, ""
    if shape[0] != 1:
        return None, f"its first dimension, {shape[0]} for one image, is not the image"
    if not all(shape):
        return (Layout(), "it is empty") if len(shape) == 4 else (None, "it is empty")
    if len(shape) == 3:
        return _tokens((shape[1], shape[2]), (input_shape[-2], input_shape[-1]), seen)
    if module.endswith("2d"):
        return Layout(), ""
    kept = _kept(shape[1:], frozenset(seen))
    return (kept, "") if kept else _four(shape[1:], (input_shape[-2], input_shape[-1]))


def _kept(shape: Sequence[int], seen: Collection[tuple[int, int, int]]) -> Layout | None:
    """Layout of earlier maps of the same sizes: what works on single values changes neither."""
    first, last = (shape[0], shape[1], shape[2]) in seen, (shape[2], shape[0], shape[1]) in seen
    return None if first == last else Layout() if first else Layout("NHWC")


def _four(shape: Sequence[int], size: tuple[int, int]) -> tuple[Layout, str]:
    last, first = _fits((shape[1], shape[2]), size), _fits((shape[0], shape[1]), size)
    if last and first:
        return Layout(), "it could be NHWC as well, by its shape"
    if first:
        return Layout("NHWC"), ""
    return Layout(), "" if last else NO_FIT


def _fits(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid is the input at one common stride, but for a border that is lost or added."""
    (rows, columns), (height, width) = grid, size
    if rows * width == columns * height:
        return rows <= height
    for stride in range(1, max(height, width) + 1):
        lost = height - stride * rows, width - stride * columns
        if abs(lost[0] - lost[1]) < stride and -stride <= min(lost) and max(lost) <= min(size) // 2:
            return True
    return False


def _tokens(
    shape: tuple[int, int], size: tuple[int, int], seen: Iterable[tuple[int, int, int]]
) -> tuple[Layout | None, str]:
    tokens, channels = shape
    maps = [known for known in dict.fromkeys(seen) if math.prod(known[1:]) > 1]
    found = _earlier(tokens, maps) if maps else _patches(tokens, size)
    if not found:
        whose = "grid of earlier maps" if maps else "grid of square patches"
        return None, f"no {whose} has {tokens} cells, with 0 to {_MOST_PREFIX} tokens before them"
    if len(found) > 1:
        return None, f"its tokens could be {' or '.join(map(str, found))}: say which with --layouts"
    if _channels_first(tokens, channels, maps):
        return None, f"{channels} are the cells of earlier maps: its channels may stand first; say --layouts"
    return found[0], ""


def _earlier(tokens: int, maps: Iterable[tuple[int, int, int]]) -> list[Layout]:
    """List the readings as a grid of earlier maps with a few tokens before it."""
    grids = dict.fromkeys((rows, columns) for _, rows, columns in maps)
    prefixes = {grid: tokens - math.prod(grid) for grid in grids}
    return [Layout("tokens", number, grid) for grid, number in prefixes.items() if _is_prefix(number)]


def _channels_first(tokens: int, channels: int, maps: Iterable[tuple[int, int, int]]) -> bool:
    """Whether these may be flattened maps, (channel, row * column)."""
    same = [known[0] for known in maps if math.prod(known[1:]) == channels]
    return bool(same) and (channels not in same or tokens in same)


def _is_prefix(number: int) -> bool:
    return 0 <= number <= _MOST_PREFIX


def _patches(tokens: int, size: tuple[int, int]) -> list[Layout]:
    height, width = size
    sides = [side for side in range(1, math.gcd(height, width) + 1) if math.gcd(height, width) % side == 0]
    grids = [(height // side, width // side) for side in sides]
    return [
        Layout("tokens", tokens - math.prod(grid), grid)
        for grid in grids
        if math.prod(grid) > 1 and _is_prefix(tokens - math.prod(grid))
    ]


# -- said by the user --------------------------------------------------------------------------


def parse_layout(text: str, layer: str = "") -> Layout:
    """Read a layout from words.

    Parameters
    ----------
    text : str
        ``NCHW``, ``NHWC``, or ``tokens:14x14+1``: rows, columns, and the tokens before them.
    layer : str
        Whose layout it is, for the message.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> parse_layout("tokens:14x14+1")
    Layout(kind='tokens', prefix=1, grid=(14, 14))
    """
    said = text.strip()
    if said in {"NCHW", "NHWC"}:
        return Layout("NCHW" if said == "NCHW" else "NHWC")
    if match := _WORDED.fullmatch(said):
        return Layout("tokens", int(match[3] or 0), (int(match[1]), int(match[2])))
    whose = f" of '{display(layer)}'" if layer else ""
    raise UsageError(f"layout{whose} cannot be read", found=display(text), wanted=_WANTED)


def parse_layouts(text: str) -> dict[str, str]:
    """Read layouts by layer from words: ``blocks.11=tokens:14x14+1,layers.3=NHWC``.

    Returns
    -------
    dict of str to str
        By layer name or pattern, unread.

    Raises
    ------
    UsageError
    """
    found = {}
    for part in (part for part in text.split(",") if part.strip()):
        name, mark, layout = part.partition("=")
        if not (mark and name.strip() and layout.strip()):
            wanted = f"LAYER=LAYOUT,…, where LAYOUT is {_WANTED}"
            raise UsageError("--layouts cannot be read", found=display(part.strip()), wanted=wanted)
        found[name.strip()] = layout.strip()
    return found


def asked_layout(name: str, asked: Mapping[str, Layout]) -> tuple[str, Layout] | None:
    """Find what was said about a layer, by its name, its module's name, or a pattern; the last counts."""
    names = {name, split_call(name)[0]}
    found = [(key, own) for key, own in asked.items() if any(fnmatchcase(each, key) for each in names)]
    exact = [(key, own) for key, own in found if key in names]
    return (exact or found)[-1] if found else None
