"""Which images each concept is fitted on: concepts that miss the same images share one factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wsss_probe_concepts.regression.folds import Folds

__all__ = ["FEWEST", "Pattern", "as_matrix", "finite_rows", "patterns", "unfit"]

Floats = NDArray[np.float64]

FEWEST = 10
"""Images below which no fit is shown: held out by fifths, two images would judge eight."""


@final
@dataclass(frozen=True, slots=True)
class Pattern:
    """Concepts that are defined on the same images.

    Parameters
    ----------
    images : ndarray of bool, (image,)
    concepts : ndarray of int, (concept of the pattern,)
        Their positions.
    """

    images: NDArray[np.bool_]
    concepts: NDArray[np.intp]


def as_matrix(values: ArrayLike, name: str) -> Floats:
    """Read values as a table of float64.

    Parameters
    ----------
    values : array, (image, ...)
    name : str
        What they are, for the message.

    Returns
    -------
    ndarray of float64, two-dimensional

    Raises
    ------
    UsageError
        If they are no numbers, or have not two dimensions.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} are not numbers", found=str(error), wanted="numbers or NaN") from error
    if array.ndim != 2:
        raise UsageError(f"{name} are no table", found=f"shape {array.shape}", wanted="two dimensions")
    return array


def finite_rows(features: Floats) -> NDArray[np.bool_]:
    """Images whose every feature is finite, (image, 1).

    Parameters
    ----------
    features : ndarray of float, (image, channel)

    Returns
    -------
    ndarray of bool, (image, 1)
    """
    return np.asarray(np.isfinite(features).all(axis=1, keepdims=True), dtype=bool)


def patterns(defined: NDArray[np.bool_]) -> list[Pattern]:
    """Put concepts together that are defined on the same images.

    Parameters
    ----------
    defined : ndarray of bool, (image, concept)

    Returns
    -------
    list of Pattern
        In the order of the first concept of each.

    Examples
    --------
    >>> found = patterns(np.array([[True, True, True], [True, False, True]]))
    >>> [(one.images.tolist(), one.concepts.tolist()) for one in found]
    [([True, True], [0, 2]), ([True, False], [1])]
    """
    alike: dict[bytes, list[int]] = {}
    for concept in range(defined.shape[1]):
        alike.setdefault(np.ascontiguousarray(defined[:, concept]).tobytes(), []).append(concept)
    return [Pattern(defined[:, same[0]], np.array(same, dtype=np.intp)) for same in alike.values()]


def unfit(concepts: Floats, images: NDArray[np.bool_], folds: Folds) -> NDArray[np.str_]:
    """Why concepts cannot be fitted to these images by any model, (concept,); empty where they can.

    Parameters
    ----------
    concepts : ndarray of float64, (image, concept)
        Defined on these images.
    images : ndarray of bool, (image,)
    folds : Folds

    Returns
    -------
    ndarray of str, (concept,)
    """
    reasons = np.full(concepts.shape[1], "", dtype=object)
    values = concepts[images]
    trained = [images.sum() - images[test].sum() for test in folds.test]
    if folds.reason:
        reasons[:] = folds.reason
    elif len(values) < FEWEST:
        reasons[:] = f"fewer than {FEWEST} images: {len(values)}"
    elif min(trained) < FEWEST // 2:
        reasons[:] = f"fewer than {FEWEST // 2} images in a training part: {min(trained)}"
    else:
        low, high = values.min(0), values.max(0)
        reasons[high - low <= 1e-12 * np.maximum(np.abs(low), np.abs(high))] = "constant"
    return reasons.astype(str)
