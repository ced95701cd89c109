"""Networks trained to localise from image labels, for wsss-probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wsss_probe.contracts import Command, ModelSource
from wsss_probe.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import nn

__all__ = ["wsss_probe_commands", "wsss_probe_model_sources"]


def _build_gap(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a GAP network; torch is imported when one is asked for, not before."""
    from wsss_probe_localizers.networks import build

    return build(arguments)


@hookimpl
def wsss_probe_model_sources() -> Iterable[ModelSource]:
    """Offer the network that ``train gap`` trains."""
    summary = "convolutional features, global average pooling, one linear layer"
    return [ModelSource("gap", summary, _build_gap)]


@hookimpl
def wsss_probe_commands() -> Iterable[Command]:
    """Offer ``train gap``."""
    summary = "Train a classifier with a GAP + linear head from image labels."
    return [Command("train gap", summary, "wsss_probe_localizers.command:train_gap")]
