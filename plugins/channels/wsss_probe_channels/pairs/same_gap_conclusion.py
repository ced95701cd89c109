"""From pooled values and a few images' maps to how alike maps with the same pooled value are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Finding
from wsss_probe.statistics import group_bootstrap
from wsss_probe_channels.pairs.near_equal import agreement
from wsss_probe_channels.pairs.same_gap_couples import Couples, draw_couples

if TYPE_CHECKING:
    from wsss_probe.contracts import Run
    from wsss_probe_channels.pairs.same_gap import SameGap

__all__ = ["KINDS", "LIKENESS", "conclude"]

KINDS = ("two channels", "two images")
"""What a couple is: two channels of one image, or two images of one channel."""

LIKENESS = ("correlation", "f1", "maxima")
"""Pearson's correlation of the maps, F1 of their Otsu masks, the smaller maximum over the larger."""

COUPLES = ("same", "different")
"""The first map with the second, which agrees, and with the third, which does not."""


def conclude(probe: SameGap, run: Run) -> Conclusion:
    """Draw couples of maps whose pooled values agree, and compare them with couples that do not.

    Parameters
    ----------
    probe : SameGap
        With its layer set.
    run : Run

    Returns
    -------
    Conclusion
        By (kind, couple, map): image, channel (-1 where none), pooled value and maximum of the first, second
        and third map. By (kind, couple, likeness, agreement): ``value``. By (kind, likeness): means, and
        their difference with its interval; by (kind): ``total``, all couples that agree.
    """
    images = _chosen(run, probe)
    pooled = run.pooled(probe.layer).values[images]
    seed = run.survey.seed
    across = draw_couples(pooled, probe.tolerance, probe.couples, seed)
    along = draw_couples(pooled.T, probe.tolerance, probe.couples, seed + 1)
    place = np.stack([_places(across, probe.couples, rows=True), _places(along, probe.couples, rows=False)])
    maps = _maps(run, probe.layer, images, place)
    index = np.where(place[..., 0] >= 0, images[place[..., 0]] if len(images) else -1, -1)
    summary = _summary(_Seen(place, maps, pooled, index), run)
    summary["total"] = ("kind", [across.total, along.total])
    summary.attrs = {**probe.options, "shown": len(images)}
    return Conclusion(summary, (_finding(summary, probe.layer),))


def _chosen(run: Run, probe: SameGap) -> np.ndarray:
    """Positions of some images that could be read, at random, in their order."""
    pooled = run.pooled(probe.layer).values
    known = np.flatnonzero(np.isfinite(pooled).all(axis=1))
    chosen: np.ndarray = np.sort(np.random.default_rng(run.survey.seed).permutation(known)[: probe.images])
    return chosen


def _places(couples: Couples, at_most: int, *, rows: bool) -> np.ndarray:
    """Image (position among the chosen) and channel of each map, (couple, map, 2); -1 where none.

    ``rows``: whether the rows of the table that couples were drawn from are images.
    """
    place = np.full((at_most, 3, 2), -1, dtype=np.intp)
    row = np.broadcast_to(couples.row[:, None], couples.entry.shape)
    both = np.stack([row, couples.entry] if rows else [couples.entry, row], axis=-1)
    place[: len(both)] = np.where(couples.entry[..., None] >= 0, both, -1)
    return place


def _maps(run: Run, layer: str, images: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Maps of all couples, (kind, couple, map, row, column); one image is computed at a time."""
    maps = np.full((*place.shape[:-1], *run.survey.layers[layer].shape[1:]), np.nan, dtype=np.float32)
    for position in np.unique(place[..., 0][place[..., 0] >= 0]):
        all_maps = run.activations(int(images[position]), layer)
        if all_maps is not None:
            mine = place[..., 0] == position
            maps[mine] = all_maps[place[..., 1][mine]]
    return maps


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where the maps of all couples are, (kind, couple, map), and the maps.

    ``place`` counts among the chosen images, ``image`` among all; ``pooled`` is by chosen image and channel.
    """

    place: np.ndarray
    maps: np.ndarray
    pooled: np.ndarray
    image: np.ndarray


def _summary(seen: _Seen, run: Run) -> xr.Dataset:
    """Compare the first map of each couple with the second and with the third."""
    there = (seen.place >= 0).all(axis=-1)
    values = np.stack([_likeness(seen.maps, 0, other) for other in (1, 2)], axis=-1)
    pooled = np.full(there.shape, np.nan)
    pooled[there] = seen.pooled[tuple(seen.place[there].T)]
    by_map, by_couple = ("kind", "couple", "map"), ("kind", "couple", "likeness", "agreement")
    compared = xr.Dataset(
        {
            "image_position": (by_map, seen.image),
            "channel_position": (by_map, seen.place[..., 1]),
            "pooled": (by_map, pooled),
            "maximum": (by_map, np.where(there, seen.maps.max(axis=(-2, -1)), np.nan)),
            "value": (by_couple, values),
        },
        coords={
            "kind": np.array(KINDS, dtype=object),
            "couple": np.arange(there.shape[1]),
            "map": np.array(("first", "second", "third"), dtype=object),
            "likeness": np.array(LIKENESS, dtype=object),
            "agreement": np.array(COUPLES, dtype=object),
        },
    )
    return xr.merge([compared, _means(values, seen.image[:, :, 0], run)])


def _likeness(maps: np.ndarray, one: int, other: int) -> np.ndarray:
    """:data:`LIKENESS` of two maps of each couple, (kind, couple, likeness)."""
    flat = torch.from_numpy(maps.reshape(-1, *maps.shape[2:]))
    seen = agreement(flat, np.array([one]), np.array([other]))
    tops = maps[:, :, [one, other]].max(axis=(-2, -1)).astype(np.float64)
    ratio = np.full(tops.shape[:2], np.nan)
    np.divide(tops.min(axis=-1), tops.max(axis=-1), out=ratio, where=tops.max(axis=-1) > 0)
    parts = [part.numpy().reshape(maps.shape[:2]) for part in (seen.correlation, seen.f1)]
    return np.stack([*parts, ratio], axis=-1)


def _means(values: np.ndarray, image: np.ndarray, run: Run) -> xr.Dataset:
    """Means over couples and their difference, with intervals over the groups of the first maps' images."""
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("same", "different", "difference", "low", "high")
    }
    notes, groups, counts = [], [], []
    for kind in range(len(KINDS)):
        both = values[kind]
        known = np.isfinite(both[:, LIKENESS.index("f1")]).all(axis=-1)
        unit = image[kind][known] if run.groups is None else np.asarray(run.groups)[image[kind][known]]
        stacked = np.concatenate([both, both[..., :1] - both[..., 1:]], axis=-1)[known]
        interval = group_bootstrap(stacked, unit, seed=run.survey.seed)
        for position, name in enumerate(("same", "different", "difference")):
            columns[name].append(interval.estimate[:, position])
        columns["low"].append(interval.low[:, 2])
        columns["high"].append(interval.high[:, 2])
        independent = "images treated as independent" if run.groups is None else ""
        notes.append("; ".join(text for text in (independent, interval.note) if text))
        groups.append(interval.groups)
        counts.append(int(known.sum()))
    table = {name: (("kind", "likeness"), np.array(column)) for name, column in columns.items()}
    rest = {"note": np.array(notes, dtype=object), "groups": groups, "couples": counts}
    return xr.Dataset({**table, **{name: ("kind", column) for name, column in rest.items()}})


def _finding(summary: xr.Dataset, layer: str) -> Finding:
    """State how alike maps with the same pooled value are; never ``ok``, since no network is a control."""
    name = f"same-gap@{layer}"
    known = np.flatnonzero(summary["couples"].values > 0)
    if not len(known):
        statement = (
            f"Layer {layer}: no two maps with the same positive pooled value beside a third with another, "
            "so nothing can be said about maps with the same pooled value."
        )
        return Finding(name, "notice", statement, n=0, unit="F1")
    words = "; ".join(_words(summary.isel({"kind": kind})) for kind in known)
    first = summary.isel({"kind": int(known[0])})
    low, high, effect = (float(first[part].values[1]) for part in ("low", "high", "difference"))
    return Finding(
        name,
        "notice",
        f"Layer {layer}: maps whose pooled values agree within {summary.attrs['tolerance']:g} of the larger: "
        f"{words}.",
        effect=effect,
        interval=(low, high),
        n=int(summary.attrs["shown"]),
        groups=int(first["groups"].item()),
        unit="difference in F1",
        control="maps with different pooled values",
    )


def _words(one: xr.Dataset) -> str:
    """Say for one kind of couples how alike they are and how alike couples that do not agree are."""
    correlation, f1, _ = (float(value) for value in one["same"].values)
    others = [float(value) for value in one["different"].values]
    low, high, difference = (float(one[part].values[1]) for part in ("low", "high", "difference"))
    note = str(one["note"].item())
    if np.isnan(low):
        said = "without an interval, beside maps whose values differ"
    elif low > 0:
        said = "more alike than maps whose values differ"
    elif high < 0:
        said = "less alike than maps whose values differ"
    else:
        said = "no more alike than maps whose values differ"
    return (
        f"{one['kind'].item()} ({int(one['couples'].item())} couples): mean F1 {f1:.3f} and correlation "
        f"{correlation:.3f}, {said} ({others[1]:.3f} and {others[0]:.3f}); difference in F1 "
        f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]" + (f" ({note})" if note else "")
    )
