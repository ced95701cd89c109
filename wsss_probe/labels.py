"""What labels say about images, in terms of the network's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.contracts import Finding, Verdict
from wsss_probe.findings import HOST
from wsss_probe.names import display

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest

__all__ = ["known_labels", "label_findings"]


def known_labels(manifest: Manifest, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read labels as sets, and where they are known.

    Parameters
    ----------
    manifest : Manifest
    classes : sequence of str
        One per logit.

    Returns
    -------
    ndarray of bool, (image, class), and ndarray of bool, (image,)
    """
    outcomes = _outcomes(classes)
    if _foreign(manifest, outcomes):
        nothing = np.zeros((len(manifest), len(classes)), dtype=bool)
        return nothing, np.zeros(len(manifest), dtype=bool)
    labels = manifest.label_sets(outcomes)
    if len(classes) == 1:
        # a label that is not the only class says that it is absent
        return labels[:, 1:], _has_label(manifest)
    return labels, np.asarray(labels.any(axis=1))


def _outcomes(classes: Sequence[str]) -> Sequence[str]:
    """What labels may say, by number: of a single logit 0 says absent and 1 present."""
    return classes if len(classes) != 1 else (f"not {classes[0]}", classes[0])


def _foreign(manifest: Manifest, classes: Sequence[str]) -> bool:
    """Whether there are labels, but none is a class: another vocabulary, or names not given."""
    return bool(manifest.label_names) and manifest.unknown_labels(classes) == manifest.label_names


def _has_label(manifest: Manifest) -> np.ndarray:
    return np.array([cell != "" for cell in manifest.frame["label"]], dtype=bool)


def label_findings(
    manifest: Manifest, classes: Sequence[str], labelled: np.ndarray
) -> list[tuple[str, Finding]]:
    """Name labels that are no class of the network; they are easily a misspelt name.

    Parameters
    ----------
    manifest : Manifest
    classes : sequence of str
    labelled : ndarray of bool, (image,)

    Returns
    -------
    list of (str, Finding)
    """
    outcomes = _outcomes(classes)
    unknown, foreign = manifest.unknown_labels(outcomes), _foreign(manifest, outcomes)
    if not unknown or (len(classes) == 1 and not foreign):
        return []
    lost = int((_has_label(manifest) & ~labelled).sum())
    names = ", ".join(display(name) for name in unknown[:5]) + (" …" if len(unknown) > 5 else "")
    said = f"Some labels are no class of the network: {names}. {lost} images have no other label."
    verdict: Verdict = "notice"
    if foreign:
        verdict = "warning"
        said = (
            f"No label is a class of the network: labels {names}; classes "
            f"{', '.join(display(name) for name in classes[:5])}{' …' * (len(classes) > 5)}. "
            "They count as no label; name the outputs in their order with --classes if they should match."
        )
    return [
        (HOST, Finding("unknown-labels", verdict, said, effect=float(lost), n=len(labelled), unit="images"))
    ]
