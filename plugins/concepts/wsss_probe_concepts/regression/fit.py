"""One fit of many concepts to the features of one training part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.smoothing import chosen, gains_of, unexplained

if TYPE_CHECKING:
    from wsss_probe_concepts.regression.smoothing import Model
    from wsss_probe_concepts.regression.spectrum import Projected, Spectrum

__all__ = ["Fit", "coefficients", "fit", "unit"]

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Fit:
    """Linear functions of the features, one a concept.

    Parameters
    ----------
    centre : ndarray of float64, (channel,)
        Mean of the features; predictions are ``mean + (features - centre) @ coefficient``.
    mean : ndarray of float64, (concept,)
    coefficient : ndarray of float64, (channel, concept)
        In raw feature units.
    freedom : ndarray of float64, (concept,)
        Effective degrees of freedom without the intercept, Σ g.
    rss, total : ndarray of float64, (concept,)
        Sum of squares about the fit and about the mean, in the images of the fit.
    setting : ndarray of int, (concept,)
        Which penalty or number of components was chosen.
    """

    centre: Floats
    mean: Floats
    coefficient: Floats
    freedom: Floats
    rss: Floats
    total: Floats
    setting: NDArray[np.intp]

    def predict(self, features: Floats) -> Floats:
        """Predict the concepts of images, (image, concept), from (image, channel)."""
        return np.asarray(self.mean + (features - self.centre) @ self.coefficient)


def fit(model: Model, spectrum: Spectrum, concepts: Projected) -> Fit:
    """Fit one model to all concepts, each with its own setting.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    spectrum : Spectrum
    concepts : Projected

    Returns
    -------
    Fit
    """
    gains, along, beside = gains_of(model, spectrum), concepts.along, concepts.beside
    setting = chosen(gains, along, beside, spectrum.n)
    rss = np.take_along_axis(unexplained(gains, along, beside), setting[None], axis=0)[0]
    own = gains[setting]
    return Fit(
        centre=spectrum.mean,
        mean=concepts.mean,
        coefficient=spectrum.raw_axes @ coefficients(own, spectrum.size, along),
        freedom=own.sum(1),
        rss=rss,
        total=concepts.total,
        setting=setting,
    )


def coefficients(gains: Floats, size: Floats, along: Floats) -> Floats:
    """Coefficients on the axes, g z / s.

    Parameters
    ----------
    gains : ndarray, (concept, component)
        Of the chosen setting.
    size : ndarray, (component,)
    along : ndarray, (component, concept)

    Returns
    -------
    ndarray of float64, (component, concept)
    """
    return np.asarray((gains / size).T * along)


def unit(coefficient: Floats) -> tuple[Floats, Floats]:
    """Direction and length of coefficients.

    Parameters
    ----------
    coefficient : ndarray, (channel, concept)

    Returns
    -------
    direction : ndarray of float64, (concept, channel)
        Of unit norm; NaN where all coefficients are 0.
    length : ndarray of float64, (concept,)
    """
    length = np.linalg.norm(coefficient, axis=0)
    direction = np.full(coefficient.T.shape, np.nan)
    np.divide(coefficient.T, length[:, None], out=direction, where=length[:, None] > 0)
    return direction, length
