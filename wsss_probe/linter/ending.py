"""Check of the model linter on what comes out: logits are wanted, probabilities saturate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss_probe.linter.diagnosis import Suspicion

if TYPE_CHECKING:
    from wsss_probe.linter.evidence import Evidence

__all__ = ["probabilities"]

_TOLERANCE = 1e-4


def probabilities(evidence: Evidence) -> Iterator[Suspicion]:
    """A softmax or sigmoid inside the network, at its end, by function or by values."""
    ending = evidence.seen.ending or _by_values(evidence.seen.logits)
    if not ending:
        return
    if ending in {"log_softmax", "logsigmoid"}:
        yield Suspicion(
            "log-probabilities",
            "notice",
            f"The network ends in a {ending}: its outputs are log-probabilities, whose gradients for a class "
            "hold those against all others and vanish where the network is sure.",
            "Audit the network without its last step; scores before it are logits.",
            n=len(evidence.examples),
        )
        return
    yield Suspicion(
        "probabilities",
        "warning",
        f"The network ends in a {ending}: its outputs are probabilities, whose gradients vanish where the "
        "network is sure.",
        "Audit the network without its last step, so that its outputs are logits.",
        n=len(evidence.examples),
    )


def _by_values(logits: Tensor) -> str:
    """Name a softmax that no function showed: all rows are different, not negative, and add up to one."""
    values = logits.double()
    if values.shape[1] < 2 or len(values) < 2 or not bool(torch.isfinite(values).all()):
        return ""
    sums_to_one = bool(((values.sum(dim=1) - 1).abs() < _TOLERANCE).all())
    differ = bool((values - values[:1]).abs().max() > _TOLERANCE)
    return "softmax" if sums_to_one and differ and bool((values >= 0).all()) else ""
