"""Relevance maps for wsss-probe, each with its formula declared and each judged against chance.

In an audit the host finds explainers and probes through the hooks below; in Python
``GradCAM(model, layer).attribute(images, target=...)`` gives the same maps. Importing this module
loads no torch: everything is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsss_probe import hookimpl

if TYPE_CHECKING:
    from wsss_probe import Explainer, Probe
    from wsss_probe_explainers.attribution import (
        CAM,
        KPCACAM,
        AblationCAM,
        Attribution,
        DeepLift,
        EigenCAM,
        EigenGradCAM,
        FeatureAblation,
        FinerCAM,
        Fusion,
        GradCAM,
        GradCAMPlusPlus,
        GuidedGradCAM,
        HiResCAM,
        InputXGradient,
        IntegratedGradients,
        LayerCAM,
        Occlusion,
        Saliency,
        ScoreCAM,
        SmoothGrad,
        SmoothGradCAMPlusPlus,
        XGradCAM,
    )

__all__ = [
    "CAM",
    "KPCACAM",
    "AblationCAM",
    "Attribution",
    "DeepLift",
    "EigenCAM",
    "EigenGradCAM",
    "FeatureAblation",
    "FinerCAM",
    "Fusion",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "Occlusion",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
    "wsss_probe_explainers",
    "wsss_probe_probes",
]

_PROBES = MappingProxyType(
    {
        "DegenerateMaps": "agreement.degenerate_probe",
        "Localisation": "localisation.localisation_probe",
        "Faithfulness": "faithfulness.faithfulness_probe",
        "Sensitivity": "faithfulness.sensitivity_probe",
        "Sanity": "sanity.sanity_probe",
        "Agreement": "agreement.agreement_probe",
    }
)
"""Probes, in the order of the report: class and module."""


@hookimpl
def wsss_probe_explainers() -> Iterable[Explainer]:
    """Offer the maps: those that an audit makes unasked first."""
    from wsss_probe_explainers.offered import offered_explainers

    return offered_explainers()


@hookimpl
def wsss_probe_probes() -> Iterable[Probe]:
    """Offer the probes that judge maps, anybody's."""
    for name, module in _PROBES.items():
        yield getattr(import_module(f"wsss_probe_explainers.{module}"), name)()


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name in __all__:
        return getattr(import_module("wsss_probe_explainers.attribution"), name)
    msg = f"module 'wsss_probe_explainers' has no attribute {name!r}"
    raise AttributeError(msg)
