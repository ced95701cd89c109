"""How few images would have shown the same: the ranking and the choice of channels from m images.

Masks are dear. Where five images rank the channels as a hundred do, five are enough; where they do not, a
screen on five says nothing about the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from wsss_probe_channels.screening.selection import MIN_DEFINED

__all__ = ["DRAWS", "Draws", "agreement_table", "draw_images", "sample_sizes", "sampled_scores", "spearman"]

DRAWS = 20
"""Random divisions of the images, each with one sample of every size."""

SMALLEST = 5
"""Images of the smallest sample; sizes double from there."""


@final
@dataclass(frozen=True, slots=True)
class Draws:
    """Samples of images beside images of other groups.

    Parameters
    ----------
    sizes : ndarray of int, (sampled,)
        Images of each sample.
    sampled : ndarray of bool, (draw, sampled, image)
        Of one draw, each sample holds the smaller ones.
    rest : ndarray of bool, (draw, image)
        The images that the samples of a draw are compared with; they share no group with them.
    """

    sizes: np.ndarray
    sampled: np.ndarray
    rest: np.ndarray


def sample_sizes(images: int) -> np.ndarray:
    """Sizes 5, 10, 20, 40 and so on, up to half of the images.

    >>> sample_sizes(100).tolist(), sample_sizes(9).tolist()
    ([5, 10, 20, 40], [])
    """
    sizes = SMALLEST * 2 ** np.arange(40)
    return sizes[2 * sizes <= images]


def draw_images(groups: np.ndarray | None, known: np.ndarray, seed: int, draws: int = DRAWS) -> Draws:
    """Divide the groups at random, several times, and sample images from one part.

    Groups in random order are taken until they hold half of the images; samples of all sizes come
    from them at random, and the images of the other groups are the rest. So the rest is the same for
    every size, and no image of it is a neighbour of a sampled one.

    Parameters
    ----------
    groups : ndarray or None, (image,)
        Unit of independence. With one group only, images are divided.
    known : ndarray of bool, (image,)
        Images with a known mask; others are in no sample and no rest.
    seed : int
    draws : int

    Returns
    -------
    Draws
    """
    positions = np.flatnonzero(known)
    sizes = sample_sizes(len(positions))
    unit = np.arange(len(known)) if groups is None else np.asarray(groups, dtype=object).astype(str)
    names, member = np.unique(unit[positions], return_inverse=True)
    if len(names) < 2:
        member = np.arange(len(positions))
    sampled = np.zeros((draws, len(sizes), len(known)), dtype=bool)
    rest = np.zeros((draws, len(known)), dtype=bool)
    generator = np.random.default_rng(seed)
    for draw in range(draws):
        pool = _half_of_groups(member, generator)
        rest[draw, positions[~pool]] = True
        order = generator.permutation(positions[pool])
        for row, size in enumerate(sizes):
            sampled[draw, row, order[:size]] = True
    return Draws(sizes, sampled, rest)


def _half_of_groups(member: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Images (image,) of the first groups, in random order, that hold half of the images."""
    size = np.bincount(member)
    order = generator.permutation(len(size))
    taken = order[: 1 + int(np.searchsorted(np.cumsum(size[order]), len(member) / 2))]
    return np.isin(member, taken)


def sampled_scores(f1: np.ndarray, present: np.ndarray, draws: Draws) -> dict[str, np.ndarray]:
    """Compare what each sample says about the channels with what the rest says.

    Parameters
    ----------
    f1 : ndarray, (image, channel)
        Of one class; NaN where undefined.
    present : ndarray of bool, (image,)
        Images that hold the class. Only channels that could be chosen (see
        :func:`wsss_probe_channels.screening.selection.eligible`) are compared.
    draws : Draws

    Returns
    -------
    dict of str to ndarray, (draw, sampled)
        ``agreement``: Spearman's rank correlation of mean F1 over channels. ``regret``: mean F1 in the rest
        of its best channel minus that of the channel which is best in the sample. ``blind``: the same for
        a channel drawn at random, on average. NaN where the class or every channel is absent.
    """
    shape = draws.sampled.shape
    inside = _ranked_means(draws.sampled.reshape(-1, shape[-1]), f1, present)
    outside = np.repeat(_ranked_means(draws.rest, f1, present), shape[1], axis=0)
    best = np.where(np.isfinite(outside), outside, -np.inf).max(axis=1, initial=-np.inf)
    best = np.where(np.isfinite(best), best, np.nan)
    choosable = np.isfinite(inside).any(axis=1)
    chosen = np.where(np.isfinite(inside), inside, -np.inf).argmax(axis=1)
    kept = np.where(choosable, outside[np.arange(len(outside)), chosen], np.nan)
    defined = np.isfinite(outside)
    average = np.where(defined, outside, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
    found = {"agreement": spearman(inside, outside), "regret": best - kept, "blind": best - average}
    return {name: values.reshape(shape[:2]) for name, values in found.items()}


def _ranked_means(images: np.ndarray, f1: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean F1 (set, channel) over sets of images (set, image); NaN where the channel may not be chosen."""
    weights, defined = images.astype(np.float64), np.isfinite(f1)
    count = weights @ defined
    total = weights @ np.where(defined, f1, 0)
    where = weights[:, present] @ defined[present]
    enough = (where > 0) & (where >= MIN_DEFINED * weights[:, present].sum(axis=1)[:, None])
    means: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=enough)
    return means


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row, over entries that both define; equals share ranks.

    Parameters
    ----------
    first, second : ndarray, (row, entry)

    Returns
    -------
    ndarray of float64, (row,)
        NaN with fewer than three common entries, or where one side is constant.

    Examples
    --------
    >>> spearman(np.array([[1.0, 2.0, 3.0, np.nan]]), np.array([[0.1, 0.3, 0.2, 9.0]])).round(6).tolist()
    [0.5]
    """
    both = np.isfinite(first) & np.isfinite(second)
    ranks = [pd.DataFrame(np.where(both, part, np.nan)).rank(axis=1).to_numpy() for part in (first, second)]
    number = both.sum(axis=1)
    # ranks of n entries have the mean (n + 1) / 2, with or without equals
    left, right = (np.where(both, part - (number[:, None] + 1) / 2, 0) for part in ranks)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    found: np.ndarray = np.divide(
        (left * right).sum(axis=1), scale, out=np.full(len(scale), np.nan), where=(number > 2) & (scale > 0)
    )
    return found


def agreement_table(f1: np.ndarray, area: np.ndarray, draws: Draws) -> xr.Dataset:
    """Summarise the draws for every class.

    Parameters
    ----------
    f1 : ndarray, (image, channel, class)
    area : ndarray, (image, class)
    draws : Draws

    Returns
    -------
    Dataset
        By (sampled, class): ``sample_agreement``, ``sample_regret`` and ``sample_blind``, medians over
        draws, the first two with ``_low`` and ``_high``, the 10th and 90th percentile; ``sample_draws``,
        draws with a regret. Empty when there are too few images for any sample.
    """
    if not len(draws.sizes):
        return xr.Dataset()
    columns: dict[str, list[np.ndarray]] = {}
    for position in range(f1.shape[2]):
        scores = sampled_scores(f1[..., position], area[:, position] > 0, draws)
        for name, values in _percentiles(scores).items():
            columns.setdefault(name, []).append(values)
    both = ("sampled", "class")
    table = {name: (both, np.stack(values, axis=1)) for name, values in columns.items()}
    return xr.Dataset(table, coords={"sampled": draws.sizes})


def _percentiles(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Median, 10th and 90th percentile over the draws in which each number is defined."""
    levels = {"": 0.5, "_low": 0.1, "_high": 0.9}
    found: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        quantiles = pd.DataFrame(values).quantile(list(levels.values())).to_numpy()
        found |= {f"sample_{name}{end}": row for end, row in zip(levels, quantiles, strict=True)}
    del found["sample_blind_low"], found["sample_blind_high"]
    return found | {"sample_draws": np.isfinite(scores["regret"]).sum(axis=0)}
