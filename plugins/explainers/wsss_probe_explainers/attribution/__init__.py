"""The maps in Python, in captum's manner: ``GradCAM(model, layer).attribute(images, target=...)``."""

from __future__ import annotations

from wsss_probe_explainers.attribution.asked import AskedFor
from wsss_probe_explainers.attribution.attribution import Attribution
from wsss_probe_explainers.attribution.faces import (
    CAM,
    KPCACAM,
    AblationCAM,
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
    "AskedFor",
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
]
