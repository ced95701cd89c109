"""What agreement tells: maps that are the same, one name with several maps, agreement that chance gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Finding
from wsss_probe_explainers.agreement.twins import MANY_FORMULAS, family

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Pair

__all__ = ["SAME", "findings", "same_maps"]

SAME = 0.999
"""Rank correlation above which maps count as the same."""

_DIFFERENT = 0.95
"""IoU at one half, or rank correlation, below which implementations of one method disagree."""


def findings(summary: xr.Dataset, maps: Sequence[Pair]) -> tuple[Finding, ...]:
    """Tell of maps that are the same here, of names with several maps, and of pairs that chance explains.

    Parameters
    ----------
    summary : Dataset
        As :class:`wsss_probe_explainers.agreement.agreement_probe.Agreement` concludes.
    maps : sequence of (str, str)

    Returns
    -------
    tuple of Finding
        Notices and warnings; agreement is never an ``ok``, since maps may agree and be wrong.
    """
    return (*_same(summary, maps), *_implementations(summary), *_by_chance(summary, maps))


def _control(summary: xr.Dataset) -> str:
    pairs = int(summary.attrs["chance_pairs"])
    return f"maps of different images ({pairs} pairs of images)" if pairs else ""


def _groups(summary: xr.Dataset) -> int | None:
    return None if summary.attrs["groups"] < 0 else int(summary.attrs["groups"])


# -- the same maps -----------------------------------------------------------------------------


def same_maps(correlation: np.ndarray, maps: Sequence[Pair]) -> list[list[int]]:
    """Group the maps of one layer that are the same, across methods.

    Parameters
    ----------
    correlation : ndarray of float, (map, map)
        Mean rank correlation.
    maps : sequence of (str, str)

    Returns
    -------
    list of list of int
        Positions; every map of a group is the same as every other, and they are of two methods at least.
    """
    left, groups = list(range(len(maps))), []
    while left:
        group = [left.pop(0)]
        for at in list(left):
            alike = all(correlation[at, member] > SAME for member in group)
            if alike and maps[at][1] == maps[group[0]][1]:
                group.append(at)
                left.remove(at)
        if len({family(maps[at][0]) for at in group}) > 1:
            groups.append(group)
    return groups


def _same(summary: xr.Dataset, maps: Sequence[Pair]) -> Iterator[Finding]:
    correlation, low, high = (summary[f"correlation{part}"].values for part in ("", "_low", "_high"))
    for number, group in enumerate(same_maps(correlation, maps)):
        layer, names = maps[group[0]][1], [maps[at][0] for at in group]
        least = min(combinations(group, 2), key=lambda couple: correlation[couple])
        n = int(summary["n"].values[least])
        yield Finding(
            f"same-maps@{layer}" + (f"#{number}" if number else ""),
            "notice",
            f"{', '.join(names[:-1])} and {names[-1]} give the same maps at {layer}: rank correlation "
            f"at least {correlation[least]:.4f}{_on(n)}. They are one witness, not {len(group)}.",
            effect=float(correlation[least]),
            interval=(float(low[least]), float(high[least])),
            n=n,
            groups=_groups(summary),
            unit="rank correlation",
            control=_control(summary),
        )


def _on(images: int) -> str:
    return f" on {images} image{'s' if images != 1 else ''}"


# -- one name, several maps --------------------------------------------------------------------


def _implementations(summary: xr.Dataset) -> Iterator[Finding]:
    """Name the implementations of one method that disagree, by method and layer."""
    if "twin" not in summary.dims:
        return
    half, rank = summary["half_overlap"].values, summary["twin_correlation"].values
    names = [family(str(name)) for name in summary["twin_first"].values]
    layers = [str(layer) for layer in summary["twin_layer"].values]
    for method, layer in dict.fromkeys(zip(names, layers, strict=True)):
        own = [at for at in range(len(names)) if (names[at], layers[at]) == (method, layer)]
        apart = [at for at in own if half[at] < _DIFFERENT or rank[at] < _DIFFERENT]
        if apart:
            yield _disagreement(summary, (method, layer), apart, len(own))


def _disagreement(summary: xr.Dataset, place: tuple[str, str], apart: Sequence[int], couples: int) -> Finding:
    method, layer = place
    worst = min(apart, key=lambda at: float(summary["half_overlap"].values[at]))
    row = summary.isel(twin=worst)
    first, second = str(row["twin_first"].values), str(row["twin_second"].values)
    n, half, rank = (float(row[name]) for name in ("twin_n", "half_overlap", "twin_correlation"))
    programs = "-by-" in first + second and method != MANY_FORMULAS
    return Finding(
        f"implementations@{method}@{layer}",
        "warning" if programs else "notice",
        f"Maps called {method} disagree at {layer}, {len(apart)} of {couples} pairs of them; most: {first} "
        f"and {second}, IoU at one half {half:.2f}, rank correlation {rank:.2f},{_on(int(n))}. The name does "
        "not say which formula was computed: name the program with the map.",
        effect=half,
        interval=(float(row["half_overlap_low"]), float(row["half_overlap_high"])),
        n=int(n),
        groups=_groups(summary),
        unit="IoU at one half",
        control="the same formula by two programs, 1",
    )


# -- no more than chance -----------------------------------------------------------------------


def _by_chance(summary: xr.Dataset, maps: Sequence[Pair]) -> Iterator[Finding]:
    """Count pairs of methods at one layer that agree on an image no more than on different ones."""
    if not summary.attrs["chance_pairs"]:
        return
    low, chance = summary["correlation_low"].values, summary["correlation_chance"].values
    couples = [
        couple
        for couple in combinations(range(len(maps)), 2)
        if maps[couple[0]][1] == maps[couple[1]][1] and np.isfinite(low[couple] + chance[couple])
    ]
    lost = [couple for couple in couples if low[couple] <= chance[couple]]
    if not lost:
        return
    worst = min(lost, key=lambda couple: low[couple] - chance[couple])
    one, other = maps[worst[0]], maps[worst[1]]
    mean = float(summary["correlation"].values[worst])
    yield Finding(
        "agreement-by-chance",
        "notice",
        f"{len(lost)} of {len(couples)} pairs of explainers at one layer are not shown to agree more on an "
        f"image than on different images, such as {one[0]} and {other[0]} at {one[1]}: rank correlation "
        f"{mean:.2f}, {float(chance[worst]):.2f} across images. The interval reaches that number: what they "
        "share may not be about the image.",
        effect=mean,
        interval=(float(low[worst]), float(summary["correlation_high"].values[worst])),
        n=int(summary["n"].values[worst]),
        groups=_groups(summary),
        unit="rank correlation",
        control=_control(summary),
    )
