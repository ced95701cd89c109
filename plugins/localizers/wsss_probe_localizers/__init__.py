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


def _build_finetuned(arguments: Mapping[str, Any]) -> nn.Module:
    """Build any network with another head."""
    from wsss_probe_localizers.heads import build_finetuned

    return build_finetuned(arguments)


def _build_mobilenet(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a MobileNetV2 for weights exported from TensorFlow."""
    from wsss_probe_localizers.mobilenet import build_mobilenet

    return build_mobilenet(arguments)


@hookimpl
def wsss_probe_model_sources() -> Iterable[ModelSource]:
    """Offer the networks that ``train`` writes, and one that it may start from."""
    return [
        ModelSource("gap", "convolutional features, global average pooling, one linear layer", _build_gap),
        ModelSource("finetuned", "any network by name, with another head", _build_finetuned),
        ModelSource(
            "mobilenetv2-folded",
            "MobileNetV2 exported from TensorFlow, normalisation folded",
            _build_mobilenet,
        ),
    ]


@hookimpl
def wsss_probe_commands() -> Iterable[Command]:
    """Offer ``train gap`` and ``train finetune``."""
    gap = "Train a classifier with a GAP + linear head from image labels."
    finetune = "Finetune a trained network on image labels, with a new head."
    return [
        Command("train gap", gap, "wsss_probe_localizers.command:train_gap"),
        Command("train finetune", finetune, "wsss_probe_localizers.finetune_command:train_finetune"),
    ]
