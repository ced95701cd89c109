"""Checks of the model linter on what the network is fed: its input, and its first BatchNorm's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from wsss_probe.linter.diagnosis import NotLookedAtError, Suspicion

if TYPE_CHECKING:
    from wsss_probe.linter.evidence import Evidence

__all__ = ["first_normalisation", "input_statistics"]

_FAR_MEAN, _FAR_SPREAD, _NARROW = 3.0, 5.0, 0.02
_SHIFTED, _SHIFTED_FAR = 3.0, 10.0
_RATIO, _RATIO_FAR = 10.0, 100.0


def _require_data(evidence: Evidence) -> None:
    if evidence.known.made_up:
        msg = "no images were given"
        raise NotLookedAtError(msg)


def input_statistics(evidence: Evidence) -> Iterator[Suspicion]:
    """Mean and spread of the network's input far from the 0 and 1 of a usual normalisation."""
    _require_data(evidence)
    values = evidence.examples.double()
    mean, spread = float(values.mean()), float(values.std(correction=0))
    if abs(mean) <= _FAR_MEAN and _NARROW <= spread <= _FAR_SPREAD:
        return
    low, high = float(values.min()), float(values.max())
    yield Suspicion(
        "input-statistics",
        "notice",
        f"The network's input has mean {mean:.3g} and spread {spread:.3g} (from {low:.3g} to {high:.3g}) "
        f"over {evidence.images}, far from 0 and 1.",
        "Right for a network trained on such values; otherwise set scale, mean and std in --preprocess.",
        effect=mean,
        n=len(evidence.examples),
        unit="input value",
        control="0 and 1",
    )


def first_normalisation(evidence: Evidence) -> Iterator[Suspicion]:
    """Whether the first BatchNorm is fed values like those of its training."""
    _require_data(evidence)
    norm = evidence.seen.first_norm
    if norm is None or not isinstance(norm.part, _BatchNorm):
        msg = "no BatchNorm runs"
        raise NotLookedAtError(msg)
    mean, variance = norm.part.running_mean, norm.part.running_var
    if mean is None or variance is None or bool((mean == 0).all() and (variance == 1).all()):
        msg = "the first BatchNorm knows nothing of its training"
        raise NotLookedAtError(msg)
    known = variance.double() > norm.part.eps  # a dead channel says nothing
    if not bool(known.any()):
        msg = "the first BatchNorm saw constant values only"
        raise NotLookedAtError(msg)
    scale = variance.double()[known]
    shift = float(((norm.mean - mean.double())[known].abs() / scale.sqrt()).median())
    ratio = float(torch.median(norm.variance[known] / scale))
    beyond = max(ratio, 1 / max(ratio, 1e-12))
    if shift <= _SHIFTED and beyond <= _RATIO:
        return
    yield Suspicion(
        "first-normalisation",
        "warning" if shift > _SHIFTED_FAR or beyond > _RATIO_FAR else "notice",
        f"The first BatchNorm, {norm.name}, gets values whose variance is {ratio:.2g} times that of its "
        f"training, and whose mean is {shift:.2g} standard deviations off (medians over channels, "
        f"{evidence.images}).",
        "Other images than in training, or another preprocessing: check scale, mean and std first.",
        effect=ratio,
        n=len(evidence.examples),
        unit="ratio of variances",
        control="1 in training",
    )
