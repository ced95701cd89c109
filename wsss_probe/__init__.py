"""wsss-probe: audit a trained CNN, layer by layer, with a control beside every number.

This façade imports neither torch nor plotly; what needs them is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsss_probe.contracts import (
    INPUT,
    Batch,
    ChannelColumn,
    ChannelColumns,
    Choice,
    Command,
    Concept,
    ConceptMeasure,
    Conclusion,
    Contrast,
    DefinitionCard,
    Explainer,
    Figure,
    Finding,
    Gallery,
    Head,
    LayerInfo,
    ModelSource,
    Needs,
    Observation,
    Picture,
    Probe,
    Section,
    Survey,
    Table,
    Target,
    Text,
    View,
)
from wsss_probe.errors import ExitCode, ProbeError
from wsss_probe.hookspecs import hookimpl

if TYPE_CHECKING:
    from wsss_probe.api import audit, record
    from wsss_probe.run import open_run

__version__ = "0.1.0"

__all__ = [
    "INPUT",
    "Batch",
    "ChannelColumn",
    "ChannelColumns",
    "Choice",
    "Command",
    "Concept",
    "ConceptMeasure",
    "Conclusion",
    "Contrast",
    "DefinitionCard",
    "ExitCode",
    "Explainer",
    "Figure",
    "Finding",
    "Gallery",
    "Head",
    "LayerInfo",
    "ModelSource",
    "Needs",
    "Observation",
    "Picture",
    "Probe",
    "ProbeError",
    "Section",
    "Survey",
    "Table",
    "Target",
    "Text",
    "View",
    "__version__",
    "audit",
    "hookimpl",
    "open_run",
    "record",
]

_LAZY = {"audit": "wsss_probe.api", "open_run": "wsss_probe.run", "record": "wsss_probe.api"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    msg = f"module 'wsss_probe' has no attribute {name!r}"
    raise AttributeError(msg)
