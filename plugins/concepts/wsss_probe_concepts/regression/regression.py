"""What the fits of one model say of every concept at one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsss_probe_concepts.regression.folds import Folds
    from wsss_probe_concepts.regression.smoothing import Model

__all__ = ["Draft", "Regression", "drafts", "finished"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Regression:
    """What one model says of every concept at one layer; all float64.

    Where a concept is not estimable, ``reason`` says why and its numbers are NaN.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    residual : ndarray, (repeat, image, concept)
        Held-out prediction minus value: each repeat predicts each image once, from a fit without its fold.
        NaN where the value is NaN.
    baseline : ndarray, (repeat, image, concept)
        Mean of the training part minus value: what held-out R² is measured against.
    direction : ndarray, (concept, channel)
        The RCV: unit coefficients of the fit to all images, in raw feature units.
    length, intercept : ndarray, (concept,)
        ``concept ~ length * direction @ features + intercept``.
    fold_direction : ndarray, (split, concept, channel)
        Direction of the fit to each training part.
    r2_train, r2_adjusted : ndarray, (concept,)
        In-sample R², and 1 − (1 − R²)(n − 1)/(n − 1 − df) with the effective degrees of freedom.
    noise_r2 : float
        p/(n − 1): in-sample R² by OLS that pure noise with this rank reaches on average.
    n : ndarray, (concept,)
        Images behind the fit.
    rank : ndarray, (concept,)
        Linearly independent channels.
    freedom : ndarray, (concept,)
        Effective degrees of freedom, without the intercept: the rank for OLS.
    penalty : ndarray, (concept,)
        Chosen ridge penalty per image (λ/n, standardised features); NaN for other models.
    components : ndarray, (concept,)
        Chosen number of principal components; NaN for other models.
    reason : ndarray of str, (concept,)
        Why not estimable, empty if it is.
    test : tuple of ndarray of int
        Held-out images of each split, as in the folds.
    """

    model: Model
    residual: Floats
    baseline: Floats
    direction: Floats
    length: Floats
    intercept: Floats
    fold_direction: Floats
    r2_train: Floats
    r2_adjusted: Floats
    noise_r2: float
    n: Floats
    rank: Floats
    freedom: Floats
    penalty: Floats
    components: Floats
    reason: NDArray[np.str_]
    test: tuple[NDArray[np.intp], ...]


# -- while it is filled ---------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Draft:
    """Arrays of a :class:`Regression`, filled as its images come.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By the name of the field; filled in place.
    reason : ndarray of str, (concept,)
    """

    arrays: Mapping[str, Floats]
    reason: NDArray[np.object_]


_PLACE: Final = MappingProxyType(
    {
        "residual": 2,
        "direction": 0,
        "fold_direction": 1,
        **dict.fromkeys(
            ("length", "intercept", "r2_train", "r2_adjusted", "freedom", "penalty", "components"), 0
        ),
    }
)
"""Where the concept stands among the dimensions of what is NaN when a concept is not estimable."""


def drafts(values: Floats, folds: Folds, channels: int, models: Sequence[Model]) -> dict[Model, Draft]:
    """Start with nothing said of any concept.

    Parameters
    ----------
    values : ndarray of float64, (image, concept)
    folds : Folds
    channels : int
    models : sequence of {"ols", "ridge", "pca"}

    Returns
    -------
    dict of str to Draft
        All of NaN; the baseline is one array that all models share.
    """
    images, concepts = values.shape
    baseline = np.full((folds.repeats, images, concepts), np.nan)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(_PLACE, (concepts,)),
        "rank": (concepts,),
        "residual": baseline.shape,
        "direction": (concepts, channels),
        "fold_direction": (len(folds.test), concepts, channels),
    }
    return {
        model: Draft(
            {
                **{name: np.full(shape, np.nan) for name, shape in shapes.items()},
                "baseline": baseline,
                "n": (~np.isnan(values)).sum(0).astype(np.float64),
            },
            np.full(concepts, "", dtype=object),
        )
        for model in models
    }


def finished(model: Model, draft: Draft, folds: Folds) -> Regression:
    """Give a draft's arrays away; where a concept has a reason, no fit is shown.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    draft : Draft
    folds : Folds

    Returns
    -------
    Regression
    """
    arrays, spoilt = draft.arrays, draft.reason != ""
    for name, axis in _PLACE.items():
        arrays[name][(slice(None),) * axis + (spoilt,)] = np.nan
    noise = arrays["rank"] / np.maximum(arrays["n"] - 1, 1)
    fullest = noise[~np.isnan(noise) & (arrays["n"] == arrays["n"].max(initial=0))]
    return Regression(
        model=model,
        noise_r2=float(fullest[0]) if len(fullest) else np.nan,
        reason=draft.reason.astype(str),
        test=folds.test,
        **arrays,
    )
