"""What is to be learned: classes, and the label set of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.errors import ManifestError
from wsss_probe.names import display, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.manifest import Manifest

__all__ = ["Labels", "read_labels"]


@final
@dataclass(frozen=True, slots=True)
class Labels:
    """Label sets of all images.

    Parameters
    ----------
    classes : tuple of str
        Names of the logits, in order.
    multilabel : bool
        Whether each class is decided on its own.
    sets : ndarray of bool, (image, class)
        All false for an image without a label.
    """

    classes: tuple[str, ...]
    multilabel: bool
    sets: NDArray[np.bool_]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which images have a label, (image,)."""
        return np.asarray(self.sets.any(axis=1))


def read_labels(manifest: Manifest, classes: tuple[str, ...], multilabel: bool | None) -> Labels:
    """Read classes and label sets from a manifest.

    Parameters
    ----------
    manifest : Manifest
    classes : tuple of str
        Order of the classes; empty takes all labels found, naturally sorted.
    multilabel : bool or None
        None says yes where an image has several labels.

    Returns
    -------
    Labels

    Raises
    ------
    ManifestError
        If nothing can be learned from the labels, or a label is not among ``classes``.
    """
    several = bool(manifest.frame["label"].str.contains(";").any())
    labels = Labels(
        classes or manifest.label_names,
        several if multilabel is None else multilabel,
        manifest.label_sets(classes or manifest.label_names),
    )
    _check_names(manifest, labels)
    if not labels.multilabel:
        _check_single(labels)
    return labels


def _check_names(manifest: Manifest, labels: Labels) -> None:
    """Refuse an empty label column, and labels that no logit stands for."""
    if not manifest.label_names:
        raise ManifestError(
            "no image has a label", found="an empty column label", remedy="name a class in the column label"
        )
    for label in manifest.unknown_labels(labels.classes):
        raise ManifestError(
            "a label is not among the classes",
            found=display(label),
            wanted=", ".join(labels.classes),
            remedy=f"nearest is {nearest(label, labels.classes)}; add it to --classes, or remove these rows",
        )


def _check_single(labels: Labels) -> None:
    """Refuse labels that no softmax can be trained on."""
    if (labels.sets.sum(axis=1) > 1).any():
        raise ManifestError(
            "an image has several labels, but one class per image was asked for",
            remedy="use --multilabel, or give each image one label",
        )
    if len(labels.classes) < 2:
        raise ManifestError(
            "too few classes to train a classifier",
            found=f"{len(labels.classes)} ({', '.join(labels.classes)})",
            wanted="2 or more",
            remedy="label the images of another class, or use --multilabel",
        )
