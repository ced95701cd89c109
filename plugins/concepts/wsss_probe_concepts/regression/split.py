"""Training and test part of one split, factorised for thousands of concepts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from wsss_probe_concepts.regression.smoothing import chosen, gains_of, inestimable
from wsss_probe_concepts.regression.spectrum import scored

if TYPE_CHECKING:
    from wsss_probe_concepts.regression.folds import Folds
    from wsss_probe_concepts.regression.smoothing import Model

__all__ = ["Split", "splits_of"]

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]


@final
@dataclass(frozen=True, slots=True)
class Split:
    """One factorisation, with the images on either side of it.

    Parameters
    ----------
    training, test : ndarray of int
        Positions of the images.
    scores : ndarray of float64, (training image, component)
        Left singular vectors of the training part.
    held_out : ndarray of float64, (test image, component)
        Test images on the same axes, in the same units.
    gains : ndarray of float64, (setting, component)
        What the model may choose among.
    """

    training: Positions
    test: Positions
    scores: Floats
    held_out: Floats
    gains: Floats

    @property
    def fewest(self) -> int:
        """Coefficients of the most sparing setting, rounded down: the rank for OLS."""
        return int(self.gains.sum(1).min())

    def errors(self, concepts: Floats) -> tuple[Floats, Floats]:
        """Fit concepts to the training part and judge them on the test part.

        Parameters
        ----------
        concepts : ndarray of float64, (image, concept)

        Returns
        -------
        ndarray of float64, (concept,), twice
            Σ (prediction − value)², and Σ (mean of the training part − value)².
        """
        mean = concepts[self.training].mean(0)
        centred = concepts[self.training] - mean
        along = self.scores.T @ centred
        beside = np.maximum((centred**2).sum(0) - (along**2).sum(0), 0.0)
        setting = chosen(self.gains, along, beside, len(self.training))
        predicted = self.held_out @ (self.gains[setting].T * along)
        truth = concepts[self.test] - mean
        return ((predicted - truth) ** 2).sum(0), (truth**2).sum(0)


def splits_of(features: Floats, images: NDArray[np.bool_], folds: Folds, model: Model) -> list[Split]:
    """Factorise every training part.

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
    images : ndarray of bool, (image,)
        Images that take part; their features are finite.
    folds : Folds
    model : {"ols", "ridge", "pca"}

    Returns
    -------
    list of Split
        None at all where the model cannot be fitted to one of the training parts.
    """
    splits = []
    for test_images in folds.test:
        inside = np.zeros(len(images), dtype=bool)
        inside[test_images] = True
        training, test = np.flatnonzero(images & ~inside), np.flatnonzero(images & inside)
        spectrum, scores = scored(features[training])
        if inestimable(model, spectrum):
            return []
        projected = (features[test] - spectrum.mean) @ spectrum.raw_axes / spectrum.size
        splits.append(Split(training, test, scores, projected, gains_of(model, spectrum)))
    return splits
