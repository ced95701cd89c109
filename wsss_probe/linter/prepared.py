"""The model linter on a prepared audit: which images it looks at, and what is known about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from wsss_probe.findings import HOST
from wsss_probe.linter import MOST_EXAMPLES, Diagnosis, Known, examine

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe.contracts import Finding
    from wsss_probe.images import Source
    from wsss_probe.preparation import Prepared

__all__ = ["examine_prepared", "lint_prepared"]

_UNLABELLED = 16


def lint_prepared(prepared: Prepared) -> list[tuple[str, Finding]]:
    """Findings of the model linter on an audit, the graver ones first; they open its report."""
    order = ("warning", "notice")
    found = [s.finding for diagnosis in examine_prepared(prepared) for s in diagnosis.suspicions]
    return [(HOST, finding) for finding in sorted(found, key=lambda made: order.index(made.verdict))]


def examine_prepared(prepared: Prepared) -> tuple[Diagnosis, ...]:
    """Examine the network of an audit on some of its images.

    Parameters
    ----------
    prepared : Prepared
        Flags are read where the network was handed over; the passes run on the audit's own copy.

    Returns
    -------
    tuple of Diagnosis
    """
    subject = prepared.subject
    examples, chosen = _examples(prepared)
    groups = subject.manifest.groups
    labelled = len(chosen) > 0 and bool(prepared.labelled[chosen].all())
    known = Known(
        audited=tuple(prepared.survey.layers),
        labels=prepared.labels[chosen] if labelled else None,
        groups=None if groups is None else groups[chosen],
        multilabel=prepared.survey.multilabel,
        preprocessing=subject.model.preprocessing,
        flags=subject.model.module,
    )
    device = next((p.device for p in subject.working.parameters()), torch.device("cpu"))
    return examine(subject.working, examples.to(device), subject.layers, known)


def _examples(prepared: Prepared) -> tuple[Tensor, np.ndarray]:
    """Read images from all over the manifest: labelled ones where there are any, each of another group."""
    labelled = np.flatnonzero(prepared.labelled)
    pool = labelled if len(labelled) else np.arange(len(prepared.subject.source))
    wanted = MOST_EXAMPLES if len(labelled) else _UNLABELLED
    spread = _spread(pool, prepared.subject.manifest.groups, wanted)
    return _read(prepared.subject.source, spread, prepared.subject.examples)


def _spread(pool: np.ndarray, groups: np.ndarray | None, wanted: int) -> np.ndarray:
    """Positions far apart, since manifests are usually sorted by class."""
    if groups is not None:
        _, first = np.unique(groups[pool].astype(str), return_index=True)
        pool = pool[np.sort(first)] if len(first) >= wanted else pool
    places = np.linspace(0, len(pool) - 1, min(wanted, len(pool))).round().astype(int)
    found: np.ndarray = pool[np.unique(places)]
    return found


def _read(source: Source, positions: np.ndarray, otherwise: Tensor) -> tuple[Tensor, np.ndarray]:
    """Stack what can be read; where nothing can, the images that the audit was prepared with."""
    samples = [source.read(int(position)) for position in positions]
    usable = [s for s in samples if s.tensor is not None and bool(torch.isfinite(s.tensor).all())]
    tensors = [sample.tensor for sample in usable if sample.tensor is not None]
    if not tensors:
        return otherwise, np.empty(0, dtype=int)
    return torch.stack(tensors), np.array([sample.index for sample in usable])
