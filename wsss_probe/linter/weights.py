"""Checks of the model linter on parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from wsss_probe.linter.diagnosis import Suspicion, count, listed

if TYPE_CHECKING:
    from wsss_probe.linter.evidence import Evidence

__all__ = ["collapsed_variance", "nonfinite_weights", "unused_statistics"]


def nonfinite_weights(evidence: Evidence) -> Iterator[Suspicion]:
    """Parameters and buffers with NaN or infinity."""
    tensors = chain(evidence.module.named_parameters(), evidence.module.named_buffers())
    bad = {
        name: int((~torch.isfinite(tensor)).sum()) for name, tensor in tensors if tensor.is_floating_point()
    }
    bad = {name: number for name, number in bad.items() if number}
    if bad:
        worded = listed([f"{name} ({number} values)" for name, number in bad.items()])
        yield Suspicion(
            "nonfinite-weights",
            "warning",
            f"{count(len(bad), 'tensor')} of the network hold NaN or infinity: {worded}.",
            "Nothing computed through them means anything: take the last checkpoint without them.",
            effect=float(sum(bad.values())),
            unit="values",
        )


def _norms(module: nn.Module) -> list[tuple[str, _NormBase]]:
    """Normalisations that keep running statistics."""
    return [
        (name or "the network", part)
        for name, part in module.named_modules()
        if isinstance(part, _NormBase) and part.running_mean is not None and part.running_var is not None
    ]


def unused_statistics(evidence: Evidence) -> Iterator[Suspicion]:
    """Running statistics that are those of initialisation."""
    norms = _norms(evidence.module)
    fresh = [
        name
        for name, part in norms
        if part.running_mean is not None
        and part.running_var is not None
        and bool((part.running_mean == 0).all())
        and bool((part.running_var == 1).all())
        and (part.num_batches_tracked is None or int(part.num_batches_tracked) == 0)
    ]
    if fresh:
        yield Suspicion(
            "fresh-statistics",
            "warning",
            f"{len(fresh)} of {count(len(norms), 'normalisation')} have the statistics of initialisation "
            f"(mean 0, variance 1, no batch seen): {listed(fresh)}.",
            "Untrained, or loaded without its buffers: load running_mean and running_var too.",
            effect=len(fresh) / len(norms),
            unit="share of normalisations",
        )


def collapsed_variance(evidence: Evidence) -> Iterator[Suspicion]:
    """Running variances that are negative, or below eps in most channels: tiny differences are blown up."""
    negative, tiny = [], []
    for name, part in _norms(evidence.module):
        variance = part.running_var
        if variance is None:
            continue
        if bool((variance < 0).any()):
            negative.append(name)
        elif float((variance < part.eps).double().mean()) > 0.5:
            tiny.append(name)
    if negative:
        yield Suspicion(
            "negative-variance",
            "warning",
            f"Running variances are negative in {listed(negative)}.",
            "The checkpoint is damaged, or was averaged wrongly: load another one.",
            effect=float(len(negative)),
            unit="normalisations",
        )
    if tiny:
        yield Suspicion(
            "tiny-variance",
            "notice",
            f"Most running variances are below eps in {listed(tiny)}: tiny differences are blown up there.",
            "The layer before it is dead or was never fed; look at its channels.",
            effect=float(len(tiny)),
            unit="normalisations",
        )
