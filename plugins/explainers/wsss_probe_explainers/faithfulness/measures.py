"""Numbers of one image's maps: area under a curve, average drop, infidelity, sparseness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area", "average_drop", "gini", "infidelity", "squares"]

Floats = NDArray[np.float64]


def area(curves: NDArray[np.floating]) -> Floats:
    """Area under curves over equal steps from 0 to 1, by trapezia.

    Parameters
    ----------
    curves : ndarray of float, (..., step)

    Returns
    -------
    ndarray of float64, (...)
        In the units of the curve: the mean height.
    """
    values = np.asarray(curves, dtype=np.float64)
    return np.asarray((values[..., 1:] + values[..., :-1]).mean(-1) / 2)


def average_drop(full: float, answers: NDArray[np.floating]) -> Floats:
    """Share of the probability that is lost when an image is seen through a map.

    ``max(0, Y - O) / Y``   (Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097, section 5.1)

    Parameters
    ----------
    full : float
        Y, the probability of the explained class on the whole image.
    answers : ndarray of float, (map,)
        O, on the image times the map.

    Returns
    -------
    ndarray of float64, (map,)
        In [0, 1]; NaN where Y is 0.
    """
    lost = np.maximum(0, full - np.asarray(answers, dtype=np.float64))
    return lost / full if full > 0 else np.full(lost.shape, np.nan)


def infidelity(sums: NDArray[np.floating], changes: NDArray[np.floating]) -> Floats:
    """Share of the answer's changes that sums of the map over what was hidden leave unexplained.

    ``min over b of mean((b I.M - (f(x) - f(x - I)))^2) / mean((f(x) - f(x - I))^2)``, the normalised
    infidelity of Yeh, Hsieh, Suggala, Inouye, Ravikumar (2019), On the (In)fidelity and Sensitivity of
    Explanations, arXiv:1901.09392, over its value for a map of zeros. 1 minus the squared cosine of the
    two vectors, so the sign of a map does not count, nor its scale.

    Parameters
    ----------
    sums : ndarray of float, (map, square)
        I.M: sum of each map over each hidden square.
    changes : ndarray of float, (square,)
        f(x) - f(x - I): by how much the answer falls when the square is hidden.

    Returns
    -------
    ndarray of float64, (map,)
        0: the map explains every change; 1: none (so does a map of zeros). NaN where nothing changes.
    """
    a, b = np.asarray(sums, dtype=np.float64), np.asarray(changes, dtype=np.float64)
    whole, own = float((b**2).sum()), (a**2).sum(-1)
    if whole == 0:
        return np.full(len(a), np.nan)
    explained = np.divide((a @ b) ** 2, own * whole, out=np.zeros(len(a)), where=own > 0)
    left = np.clip(1 - explained, 0, 1)
    return np.where(np.isfinite(a).all(-1), left, np.nan)


def squares(grid: tuple[int, int], count: int, seed: int, index: int) -> NDArray[np.bool_]:
    """Draw squares to hide: sides from an eighth to a half of the shorter side, anywhere inside.

    Parameters
    ----------
    grid : (int, int)
    count : int
    seed, index : int
        The draw depends on the image, not on its batch; all maps of an image share it.

    Returns
    -------
    ndarray of bool, (square, row, column)
    """
    generator = np.random.default_rng((abs(seed), index, count))
    shorter = min(grid)
    sides = generator.integers(max(1, shorter // 8), max(1, shorter // 2) + 1, size=count)
    made = np.zeros((count, *grid), dtype=bool)
    for plane, side in zip(made, sides, strict=True):
        row, column = (int(generator.integers(0, length - side + 1)) for length in grid)
        plane[row : row + side, column : column + side] = True
    return made


def gini(plane: NDArray[np.floating]) -> float:
    """Sparseness of a map: Gini's index of its absolute values.

    ``1 - 2 sum_i (|m|_(i) / sum |m|) (N - i + 1/2) / N`` with values in rising order (Hurley and Rickard
    2009, doi:10.1109/TIT.2009.2027527; for maps Chalasani et al. 2020, arXiv:1810.06583).

    Parameters
    ----------
    plane : ndarray of float, (row, column)

    Returns
    -------
    float
        0: every cell the same; (N - 1)/N: one cell alone. NaN for a map of zeros.
    """
    values = np.sort(np.abs(np.asarray(plane, dtype=np.float64)).ravel())
    total, count = values.sum(), len(values)
    if not np.isfinite(total) or total == 0:
        return float("nan")
    return float(1 - 2 * (values / total * (count - np.arange(1, count + 1) + 0.5)).sum() / count)
