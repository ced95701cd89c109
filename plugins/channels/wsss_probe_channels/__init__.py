"""Channel evidence: which channels show what masks show, whether weights say so, and what beats chance.

Importing this module loads no torch: a probe is loaded when the host asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsss_probe import hookimpl

if TYPE_CHECKING:
    from wsss_probe import ChannelColumns, Probe
    from wsss_probe_channels.nulls.mask_null_probe import ChannelNull, PermutedNull
    from wsss_probe_channels.pairs.near_equal_probe import NearEqual
    from wsss_probe_channels.pairs.same_gap import SameGap
    from wsss_probe_channels.screening.fine import ChannelF1Fine
    from wsss_probe_channels.screening.probe import ChannelF1
    from wsss_probe_channels.units.ablation_probe import Ablation
    from wsss_probe_channels.units.census_probe import Census
    from wsss_probe_channels.units.dissect_probe import Dissect
    from wsss_probe_channels.units.invariance_probe import Invariance
    from wsss_probe_channels.units.quantiles import Quantiles
    from wsss_probe_channels.weights.head_weights import HeadWeights
    from wsss_probe_channels.weights.peaks import Peaks
    from wsss_probe_channels.weights.weight_classes import WeightClasses
    from wsss_probe_channels.weights.weight_quality_probe import WeightQuality

__all__ = [
    "Ablation",
    "Census",
    "ChannelF1",
    "ChannelF1Fine",
    "ChannelNull",
    "Dissect",
    "HeadWeights",
    "Invariance",
    "NearEqual",
    "Peaks",
    "PermutedNull",
    "Quantiles",
    "SameGap",
    "WeightClasses",
    "WeightQuality",
    "wsss_probe_channel_columns",
    "wsss_probe_probes",
]

_PROBES = MappingProxyType(
    {
        "ChannelF1": "screening.probe",
        "ChannelF1Fine": "screening.fine",
        "HeadWeights": "weights.head_weights",
        "WeightClasses": "weights.weight_classes",
        "WeightQuality": "weights.weight_quality_probe",
        "NearEqual": "pairs.near_equal_probe",
        "SameGap": "pairs.same_gap",
        "Peaks": "weights.peaks",
        "Dissect": "units.dissect_probe",
        "Quantiles": "units.quantiles",
        "Ablation": "units.ablation_probe",
        "Invariance": "units.invariance_probe",
        "Census": "units.census_probe",
        "ChannelNull": "nulls.mask_null_probe",
        "PermutedNull": "nulls.mask_null_probe",
    }
)
"""Module of each probe, in the order in which the report shows them."""


@hookimpl
def wsss_probe_probes() -> Iterable[Probe]:
    """Offer every analysis; the host splits each into one probe per layer."""
    return [_load(name)() for name in _PROBES]


@hookimpl
def wsss_probe_channel_columns() -> Iterable[ChannelColumns]:
    """Offer what these analyses say about each channel, for the passport."""
    from wsss_probe_channels.columns import Columns

    return [Columns()]


def _load(name: str) -> Any:
    return getattr(import_module(f"wsss_probe_channels.{_PROBES[name]}"), name)


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name in _PROBES:
        return _load(name)
    msg = f"module 'wsss_probe_channels' has no attribute {name!r}"
    raise AttributeError(msg)
