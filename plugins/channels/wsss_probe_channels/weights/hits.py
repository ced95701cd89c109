"""How often the maxima of some channels fall inside a mask region, beside how large the region is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from wsss_probe.statistics import Interval, group_bootstrap, permutation_p

__all__ = ["HitRate", "Tally", "central", "exchanged", "hit_rate", "informative"]


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """Points in one region, on images where a point can be inside as well as outside.

    Parameters
    ----------
    point : ndarray of bool, (image, channel)
        Where there is a point: the map is live, the pixel counts, the image is informative.
    hit : ndarray of bool, (image, channel)
        Where it is inside.
    area : ndarray, (image,)
        Share of the image that the region covers; 0 where the image is not informative.
    """

    point: np.ndarray
    hit: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, inside: np.ndarray, area: np.ndarray) -> Tally:
        """Count from the rows of the probe peaks.

        Parameters
        ----------
        inside : ndarray, (image, channel)
            1, 0 or NaN.
        area : ndarray, (image,)

        Returns
        -------
        Tally
        """
        told = informative(area)
        point = np.isfinite(inside) & told[:, None]
        return cls(point, point & (inside > 0.5), np.where(told, area, 0).astype(np.float64))

    def by_channel(self) -> np.ndarray:
        """Points, hits and hits expected from the area alone, (channel, 3)."""
        expected = self.area @ self.point
        return np.stack([self.point.sum(axis=0), self.hit.sum(axis=0), expected], axis=1).astype(np.float64)


def informative(area: np.ndarray) -> np.ndarray:
    """Images that the region covers in part: elsewhere every point hits, or every point misses.

    >>> informative(np.array([0.0, 0.3, 1.0, np.nan])).tolist()
    [False, True, False, False]
    """
    told: np.ndarray = (area > 0) & (area < 1)  # NaN is neither
    return told


@final
@dataclass(frozen=True, slots=True)
class HitRate:
    """Hit rate of the channels of one class.

    Parameters
    ----------
    channels, images, points : int
        Channels of the class with any point, images with any of these points, and the points.
    hit, area : float
        Share of the points inside the region, and mean area of the region over the same points: what
        points that fall anywhere would reach.
    excess : Interval
        ``hit - area`` with its interval over groups.
    null : (float, float)
        Where 95 % of the excesses lie when classes are exchanged between channels.
    p : float
        Share of exchanges with an excess at least as large, the observation included.
    """

    channels: int
    images: int
    points: int
    hit: float
    area: float
    excess: Interval
    null: tuple[float, float]
    p: float


def exchanged(labels: np.ndarray, among: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Exchange labels between some channels; the others keep theirs.

    Parameters
    ----------
    labels : ndarray of int, (channel,)
    among : ndarray of bool, (channel,)
    permutations, seed : int

    Returns
    -------
    ndarray of int, (permutation, channel)
    """
    made = np.tile(labels, (permutations, 1))
    made[:, among] = np.random.default_rng(seed).permuted(made[:, among], axis=1)
    return made


def hit_rate(
    tally: Tally, members: np.ndarray, null: np.ndarray, groups: np.ndarray | None, seed: int
) -> HitRate:
    """Score the channels of one class.

    Channels are exchangeable if weights say nothing about where a channel answers; so an exchange of
    classes keeps what all channels share, such as maxima at borders or in the middle.

    Parameters
    ----------
    tally : Tally
    members : ndarray of bool, (channel,)
        Channels of the class.
    null : ndarray of bool, (permutation, channel)
        The same after each exchange.
    groups : ndarray or None, (image,)
    seed : int

    Returns
    -------
    HitRate
        NaN where no channel of the class has a point.
    """
    sums = tally.by_channel()
    points, hits, expected = members @ sums
    reached = _excess(null @ sums)
    by_image = tally.point[:, members].sum(axis=1)
    over = tally.hit[:, members].sum(axis=1) - tally.area * by_image
    has = by_image > 0
    # groups without any point are not drawn: they hold nothing
    kept = None if groups is None else np.asarray(groups)[has]
    excess = group_bootstrap(np.stack([over, by_image], axis=1)[has], kept, _ratio_of_sums, seed=seed)
    return HitRate(
        channels=int((members & (sums[:, 0] > 0)).sum()),
        images=int(has.sum()),
        points=int(points),
        hit=float(_share(hits, points)),
        area=float(_share(expected, points)),
        excess=excess,
        null=central(reached),
        p=float(permutation_p(_excess(members @ sums), reached)),
    )


def central(values: np.ndarray) -> tuple[float, float]:
    """Quantiles .025 and .975 of what is defined; NaN where nothing is."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _excess(sums: np.ndarray) -> np.ndarray:
    """Hit rate less area of sums (..., 3) of points, hits and expected hits.

    Rounded far below any difference that matters, so that an exchange that is none is equal to the
    observation however its terms were added.
    """
    return np.round(_share(sums[..., 1] - sums[..., 2], sums[..., 0]), 12)


def _ratio_of_sums(values: np.ndarray) -> float:
    over, points = values.sum(axis=0)
    return float(over / points) if points else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Quotient that is NaN where there is nothing."""
    top, bottom = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.asarray(np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0))
