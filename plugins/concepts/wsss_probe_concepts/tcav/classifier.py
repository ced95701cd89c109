"""Concept classifiers for captum: a seeded linear classifier of averaged features, held out by groups."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from captum.concept import Classifier
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier

from wsss_probe.statistics import Interval, auc_interval

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from wsss_probe_concepts.regression import Folds

__all__ = ["AveragedClassifier", "concept_vector", "held_out_auc", "held_out_scores"]

Floats = NDArray[np.float64]


def concept_vector(features: Floats, present: NDArray[np.bool_], seed: int = 0) -> tuple[Floats, float]:
    """Normal of the plane that parts images with a concept from those without it.

    A linear classifier with hinge loss by stochastic gradient descent, penalty 0.01, at most 1000 passes,
    tolerance 0.001: captum's default, here with a seed, both values weighing the same, and on features in
    units of their standard deviation; the vector is mapped back to raw units (Kim et al. 2018,
    arXiv:1711.11279, section 3.2).

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
        Finite.
    present : ndarray of bool, (image,)
    seed : int

    Returns
    -------
    coefficient : ndarray of float64, (channel,)
        In raw units; towards images with the concept. 0 for constant channels; NaN where only one value
        occurs.
    intercept : float
    """
    if present.all() or not present.any():
        return np.full(features.shape[1], np.nan), float("nan")
    mean, spread = features.mean(axis=0), features.std(axis=0)
    told = spread > 1e-12 * np.abs(mean)
    scale = np.where(told, spread, 1.0)
    model = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed, class_weight="balanced")
    with warnings.catch_warnings():
        # captum's number of passes is kept: a direction that has not settled shows in its held-out AUC
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.where(told, (features - mean) / scale, 0.0), present)
    coefficient = np.where(told, model.coef_[0] / scale, 0.0)
    return coefficient, float(model.intercept_[0] - mean @ coefficient)


def held_out_scores(features: Floats, present: NDArray[np.bool_], folds: Folds, seed: int = 0) -> Floats:
    """Distance of each image from a plane that was fitted without its fold, mean over repeats.

    Parameters
    ----------
    features : ndarray of float64, (image, channel)
    present : ndarray of bool, (image,)
    folds : Folds
    seed : int

    Returns
    -------
    ndarray of float64, (image,)
        In units of the raw features' projection, above 0 on the concept's side; NaN where some training
        part has one value only.
    """
    total = np.zeros(len(present))
    for images in folds.test:
        training = np.ones(len(present), dtype=bool)
        training[images] = False
        coefficient, intercept = concept_vector(features[training], present[training], seed)
        length = np.linalg.norm(coefficient)
        total[images] += (features[images] @ coefficient + intercept) / (length or np.nan)
    return total / folds.repeats if folds.repeats else np.full(len(present), np.nan)


def held_out_auc(
    scores: Floats, present: NDArray[np.bool_], groups: NDArray[Any] | None, *, resamples: int, seed: int
) -> tuple[Interval, float]:
    """Area under the ROC curve of held-out scores with its interval, and the balanced accuracy.

    Parameters
    ----------
    scores : ndarray of float64, (image,)
        Of :func:`held_out_scores`.
    present : ndarray of bool, (image,)
    groups : ndarray or None, (image,)
    resamples, seed : int

    Returns
    -------
    auc : Interval
        0.5 is chance.
    accuracy : float
        Mean of the shares of both values that lie on their own side.
    """
    known = np.isfinite(scores)
    interval = auc_interval(scores, present, groups, resamples=resamples, seed=seed)
    sides = [(scores[known & own] > 0) == side for own, side in ((present, True), (~present, False))]
    accuracy = float(np.mean([side.mean() for side in sides])) if all(map(len, sides)) else float("nan")
    return interval, accuracy


@final
class AveragedClassifier(Classifier):  # type: ignore[misc]  # captum has no types
    """What :class:`captum.concept.TCAV` trains, as this plugin does: averaged features, a seed, no split.

    captum hands over flattened activations; they are averaged over positions, :func:`concept_vector` is
    fitted, and its weights are spread over the positions again, so that captum's product of flattened
    gradient and vector is ours of mean gradient and vector.

    Parameters
    ----------
    positions : int
        Rows times columns of the layer; 1 for features that are averaged already.
    seed : int
    """

    def __init__(self, positions: int = 1, seed: int = 0) -> None:
        self.positions, self.seed = positions, seed
        self.fitted: tuple[Tensor, list[int]] | None = None

    def train_and_eval(self, dataloader: DataLoader[Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Fit to all images; accuracy is left to :func:`held_out_auc`, which knows the groups.

        Parameters
        ----------
        dataloader : DataLoader
            Batches of activations, (image, channel * position), and of concept numbers, (image,).
        **kwargs
            What captum passes on; not used.

        Returns
        -------
        dict
            Empty.
        """
        batches = list(dataloader)
        flat = torch.cat([inputs for inputs, _ in batches]).double().cpu()
        numbers = torch.cat([labels for _, labels in batches]).cpu().numpy()
        features = flat.view(len(flat), -1, self.positions).mean(dim=2).numpy()
        low, high = sorted(set(numbers.tolist()))
        coefficient, _ = concept_vector(features, numbers == high, self.seed)
        unit = torch.from_numpy(coefficient / np.linalg.norm(coefficient))
        spread = (unit[:, None] / self.positions).expand(-1, self.positions).reshape(-1)
        self.fitted = torch.stack([-spread, spread]), [int(low), int(high)]
        return {}

    def weights(self) -> Tensor:
        """Vector of each concept over flattened activations, (concept, channel * position)."""
        return self._trained()[0]

    def classes(self) -> list[int]:
        """Concept numbers, in the order of the weights."""
        return self._trained()[1]

    def _trained(self) -> tuple[Tensor, list[int]]:
        if self.fitted is None:
            msg = "train_and_eval was not called"
            raise RuntimeError(msg)
        return self.fitted
