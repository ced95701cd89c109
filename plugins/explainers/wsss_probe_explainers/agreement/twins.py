"""Maps that carry one method's name: implementations by different packages, and variants of a formula."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe.contracts import Pair

__all__ = ["MANY_FORMULAS", "family", "half_overlap", "largest_difference", "min_max", "twins"]

_BY = "-by-"
MANY_FORMULAS = "gradcampp"
"""A name under which programs compute different formulas, knowingly: all of them are compared."""


def family(explainer: str) -> str:
    """Name of the method that an explainer implements.

    >>> family("gradcam-by-captum"), family("gradcampp-monai"), family("layercam")
    ('gradcam', 'gradcampp', 'layercam')
    """
    method = explainer.partition(_BY)[0]
    return MANY_FORMULAS if method.startswith(MANY_FORMULAS) else method


def twins(maps: Sequence[Pair]) -> tuple[tuple[int, int], ...]:
    """List the pairs of maps of one method at one layer.

    Parameters
    ----------
    maps : sequence of (str, str)
        Explainer and layer.

    Returns
    -------
    tuple of (int, int)
        Positions, the lower first.
    """
    named = [(family(explainer), layer) for explainer, layer in maps]
    return tuple(
        (one, other) for one, other in combinations(range(len(maps)), 2) if named[one] == named[other]
    )


def min_max(maps: Tensor) -> Tensor:
    """Stretch each map from 0 to 1, as packages do before they show it.

    Parameters
    ----------
    maps : Tensor, (image, row, column)

    Returns
    -------
    Tensor of float64, (image, row, column)
        NaN for a map that is constant or not finite.
    """
    values = maps.double().flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    usable = (high > low) & values.isfinite().all(1, keepdim=True)
    stretched = (values - low) / (high - low).where(usable, 1)
    return stretched.masked_fill(~usable, torch.nan).view(maps.shape)


def largest_difference(first: Tensor, second: Tensor) -> Tensor:
    """Largest absolute difference of two stretched maps.

    Parameters
    ----------
    first, second : Tensor, (image, row, column)
        On the same grid.

    Returns
    -------
    Tensor of float64, (image,)
        In [0, 1]; NaN where either map is constant or not finite.
    """
    return (min_max(first) - min_max(second)).abs().flatten(1).amax(1)


def half_overlap(first: Tensor, second: Tensor) -> Tensor:
    """IoU of the cells at or above half of each stretched map.

    Parameters
    ----------
    first, second : Tensor, (image, row, column)
        On the same grid.

    Returns
    -------
    Tensor of float64, (image,)
        In [0, 1]; NaN where either map is constant or not finite.
    """
    stretched = [min_max(maps).flatten(1) for maps in (first, second)]
    one, other = (values >= 0.5 for values in stretched)
    overlap = (one & other).sum(1).double() / (one | other).sum(1)
    undefined = stretched[0].isnan().any(1) | stretched[1].isnan().any(1)
    return overlap.masked_fill(undefined, torch.nan)
