"""The best channels beside random ones on the same images, as in figures 7 and 9 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsss_probe import Gallery, Picture
from wsss_probe_channels.screening.table import RANDOM, top_channels

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_channels.regions import MaskRegion
    from wsss_probe_channels.screening.probe import ChannelF1

__all__ = ["channel_gallery"]

SHOWN = (0.25, 0.5, 1.0)
"""Images by the rank of the best channel's F1: between poor and typical, typical, best."""


def channel_gallery(probe: ChannelF1, summary: xr.Dataset, run: Run, position: int) -> Gallery | None:
    """Show nine columns: the image, the best channels, and channels drawn at random.

    Parameters
    ----------
    probe : ChannelF1
        With its layer set.
    summary : Dataset
        From :func:`wsss_probe_channels.screening.conclusion.conclude`.
    run : Run
    position : int
        Of the class.

    Returns
    -------
    Gallery or None
        None where no channel ranks, or none is defined on an image with the class.
    """
    best = top_channels(summary, position, RANDOM)
    if not len(best):
        return None
    random = np.flatnonzero(summary["drawn"].values[:, position])
    rows = run.rows(probe.name)
    f1 = rows["f1"].isel({"channel": [*best, *random], "class": position}).values
    leader, shown = _images(summary, rows, _thing(probe.regions(run.survey.mask_classes), position))
    if not shown:  # the class itself is nowhere, what is left without it may be
        leader, shown = _images(summary, rows, position)
    names = [
        *(f"channel {channel}" for channel in best),
        *(f"random {channel}" for channel in random),
    ]
    labels = [[f"{name}, {_score(value)}" for name, value in zip(names, f1[i], strict=True)] for i in shown]
    strips = [
        (str(run.images["name"].iloc[index]), _strip(probe, run, index, position, [*best, *random], told))
        for index, told in zip(shown, labels, strict=True)
    ]
    if not strips:
        return None
    name = str(summary["class"].values[position])
    caption = (
        f"Class {name}: the {len(best)} best channels of {probe.layer} beside {len(random)} drawn at random "
        f"among its living channels, on the images where {leader} is at its lower quartile, its median and "
        "its best; outline: the class."
    )
    return Gallery(tuple(strips), caption)


def _thing(regions: Sequence[MaskRegion], position: int) -> int:
    """Place among the regions of the class that the one at ``position`` is, or is without."""
    own = regions[position].position
    return next(at for at, other in enumerate(regions) if other.position == own and not other.complement)


def _images(summary: xr.Dataset, rows: xr.Dataset, position: int) -> tuple[str, list[int]]:
    """Images with a class over the range of its best channel's F1, and that channel in words.

    A class and what is left without it are shown on the same images.
    """
    best = top_channels(summary, position, 1)
    if not len(best):
        return "", []
    f1 = rows["f1"].isel({"channel": int(best[0]), "class": position}).values
    shown = _spread(np.where(rows["area"].values[:, position] > 0, f1, np.nan))
    return f"F1 of channel {best[0]} with {summary['class'].values[position]}", shown


def _score(value: float) -> str:
    return f"F1 {value:.2f}" if np.isfinite(value) else "no F1"


def _spread(scores: np.ndarray) -> list[int]:
    """Positions of the images at the ranks shown, best last."""
    order = np.argsort(scores, kind="stable")[: int(np.isfinite(scores).sum())]
    steps = [round(share * (len(order) - 1)) for share in SHOWN] if len(order) else []
    return [int(order[step]) for step in dict.fromkeys(steps)]


def _strip(
    probe: ChannelF1, run: Run, index: int, position: int, channels: list[int], labels: list[str]
) -> tuple[Picture, ...]:
    """Show one image as it is, then under the map of each channel."""
    pixels, mask, maps = run.picture(index), run.mask(index), run.activations(index, probe.layer)
    region = probe.regions(run.survey.mask_classes)[position]
    outline = None if mask is None else region.inside(torch.from_numpy(mask)).numpy()
    plain = Picture(pixels, "image and mask", outline=outline)
    if maps is None:
        return (plain,)
    shown = zip(channels, labels, strict=True)
    return (plain, *(Picture(pixels, told, overlay=maps[at], outline=outline) for at, told in shown))
