"""Which images speak for a class: those with its label, or, without labels, those predicted as it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["class_images"]

Truths = NDArray[np.bool_]


def class_images(
    label: ArrayLike, logits: ArrayLike, positions: Sequence[int | None], *, multilabel: bool = False
) -> tuple[Truths, str]:
    """Say which images are those of each class.

    Parameters
    ----------
    label : array of float, (image, output)
        1 for the classes of an image's label; all 0 where it has none; NaN where it could not be read.
    logits : array of float, (image, output)
        NaN where the image could not be read.
    positions : sequence of int or None
        The classes; None stands for a target that each image has its own of, so that every image counts.
    multilabel : bool
        Whether classes are decided one by one.

    Returns
    -------
    member : ndarray of bool, (image, class)
    by : {"label", "prediction"}
        Labels where any image has one; then images without a label speak for no class.

    Examples
    --------
    >>> member, by = class_images([[0, 0], [0, 0]], [[1.0, 3.0], [2.0, 0.0]], (0, 1))
    >>> member.tolist(), by
    ([[False, True], [True, False]], 'prediction')
    """
    said: Truths = np.asarray(np.greater(np.asarray(label, np.float64), 0))
    by = "label" if said.any() else "prediction"
    if by == "prediction":
        said = _predicted(np.asarray(logits, np.float64), multilabel)
    everybody: Truths = np.asarray(np.isfinite(np.asarray(logits, np.float64)).all(axis=1))
    columns = [everybody if position is None else said[:, position] for position in positions]
    member = np.stack(columns, axis=1) if columns else np.zeros((len(said), 0), dtype=bool)
    return member & everybody[:, None], by


def _predicted(logits: NDArray[np.float64], multilabel: bool) -> Truths:
    """Classes that the network says of each image; a single output says its class above 0."""
    if multilabel or logits.shape[1] == 1:
        return np.asarray(logits > 0)
    known: Truths = np.asarray(np.isfinite(logits).all(axis=1))
    largest = np.where(known[:, None], logits, 0.0).argmax(axis=1)
    return np.asarray((np.arange(logits.shape[1]) == largest[:, None]) & known[:, None])
