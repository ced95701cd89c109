"""Concepts: which measurable quantities a network's features encode, and whether its classes rest on them.

Importing this module loads no torch: a probe or a measure is loaded when the host asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsss_probe import hookimpl

if TYPE_CHECKING:
    from wsss_probe import ChannelColumns, ConceptMeasure, Probe

__all__ = ["wsss_probe_channel_columns", "wsss_probe_concept_measures", "wsss_probe_probes"]

_MEASURES: MappingProxyType[str, str] = MappingProxyType(
    {
        "Cooccurrence": "measures.cooccurrence",
        "Haralick": "measures.haralick",
        "Morphology": "measures.morphology",
        "Stain": "measures.stain",
        "Colour": "measures.colour",
    }
)
_PROBES: MappingProxyType[str, str] = MappingProxyType(
    {
        "Rcv": "vectors.probe",
        "ConceptDepth": "vectors.depth_probe",
        "ConceptGradients": "relevance.gradients",
        "ConceptRelevance": "relevance.probe",
        "Tcav": "tcav.probe",
        "Networks": "comparison.networks_probe",
        "NetworkComparison": "comparison.comparison_probe",
        "Cka": "comparison.cka_probe",
    }
)
"""Module of each probe, in the order in which the report shows them."""


@hookimpl
def wsss_probe_concept_measures() -> Iterable[ConceptMeasure]:
    """Offer measures of texture, shape, stain and colour."""
    return [_load(name, module)() for name, module in _MEASURES.items()]


@hookimpl
def wsss_probe_probes() -> Iterable[Probe]:
    """Offer every analysis; the host splits each into one probe per layer."""
    return [_load(name, module)() for name, module in _PROBES.items()]


@hookimpl
def wsss_probe_channel_columns() -> Iterable[ChannelColumns]:
    """Offer each channel's strongest concept, for the passport."""
    from wsss_probe_concepts.vectors.columns import ConceptColumns

    return [ConceptColumns()]


def _load(name: str, module: str) -> Any:
    return getattr(import_module(f"wsss_probe_concepts.{module}"), name)


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    modules = {**_MEASURES, **_PROBES}
    if name in modules:
        return _load(name, modules[name])
    msg = f"module 'wsss_probe_concepts' has no attribute {name!r}"
    raise AttributeError(msg)
