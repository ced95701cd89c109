"""The loss of image labels: one class of several, or each class on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_probe.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsss_probe_localizers.labels import Labels
    from wsss_probe_localizers.options import ClassWeights

__all__ = ["class_weights", "loss_of"]


def class_weights(labels: Labels, rows: NDArray[np.intp], weights: ClassWeights) -> Tensor | None:
    """Weights of the loss: of each class, or of each class's presence with sigmoids.

    ``balanced``: n / (C · n_c) with a softmax, (n − n_c) / n_c with sigmoids.

    Parameters
    ----------
    labels : Labels
    rows : ndarray of int
        Training rows.
    weights : ClassWeights

    Returns
    -------
    Tensor or None, (class,)

    Raises
    ------
    ModelError
        If weights were given for another number of classes.
    """
    if weights == "none":
        return None
    if weights == "balanced":
        counts = torch.from_numpy(labels.sets[rows].sum(axis=0)).float()
        return (len(rows) - counts) / counts if labels.multilabel else len(rows) / (len(counts) * counts)
    if len(weights) != len(labels.classes):
        raise ModelError(
            "class weights do not fit the classes",
            found=f"{len(weights)} weights",
            wanted=f"{len(labels.classes)} ({', '.join(labels.classes)})",
        )
    return torch.tensor(weights, dtype=torch.float32)


def loss_of(logits: Tensor, sets: Tensor, weights: Tensor | None, *, multilabel: bool) -> Tensor:
    """Softmax cross-entropy, or one binary cross-entropy per class.

    Parameters
    ----------
    logits : Tensor, (image, class)
    sets : Tensor of bool, (image, class)
    weights : Tensor or None, (class,)
    multilabel : bool

    Returns
    -------
    Tensor
        Mean over images (weighted with a softmax) and, with sigmoids, classes.
    """
    if multilabel:
        return F.binary_cross_entropy_with_logits(logits, sets.to(logits), pos_weight=weights)
    return F.cross_entropy(logits, sets.int().argmax(dim=1), weight=weights)
