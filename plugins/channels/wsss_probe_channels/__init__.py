"""Channel evidence: which channels carry the target, whether weights say so, whether either beats chance.

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
    from wsss_probe_channels.ablation_probe import Ablation
    from wsss_probe_channels.census_probe import Census
    from wsss_probe_channels.dissect_probe import Dissect
    from wsss_probe_channels.fine import ChannelF1Fine
    from wsss_probe_channels.head_weights import HeadWeights
    from wsss_probe_channels.invariance_probe import Invariance
    from wsss_probe_channels.mask_null_probe import ChannelNull, PermutedNull
    from wsss_probe_channels.near_equal_probe import NearEqual
    from wsss_probe_channels.peaks import Peaks
    from wsss_probe_channels.probe import ChannelF1
    from wsss_probe_channels.quantiles import Quantiles
    from wsss_probe_channels.same_gap import SameGap
    from wsss_probe_channels.weight_classes import WeightClasses
    from wsss_probe_channels.weight_quality_probe import WeightQuality

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
        "ChannelF1": "probe",
        "ChannelF1Fine": "fine",
        "HeadWeights": "head_weights",
        "WeightClasses": "weight_classes",
        "WeightQuality": "weight_quality_probe",
        "NearEqual": "near_equal_probe",
        "SameGap": "same_gap",
        "Peaks": "peaks",
        "Dissect": "dissect_probe",
        "Quantiles": "quantiles",
        "Ablation": "ablation_probe",
        "Invariance": "invariance_probe",
        "Census": "census_probe",
        "ChannelNull": "mask_null_probe",
        "PermutedNull": "mask_null_probe",
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
