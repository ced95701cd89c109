"""Maps on the network's input: captum's methods, each for the score of any target."""

from __future__ import annotations

from wsss_probe_explainers.pixels.deeplift import DeepLiftMap
from wsss_probe_explainers.pixels.gradients import (
    InputXGradientMap,
    IntegratedGradientsMap,
    SaliencyMap,
    SmoothGradMap,
)
from wsss_probe_explainers.pixels.guided import GuidedGradCAMMap
from wsss_probe_explainers.pixels.occlusions import FeatureAblationMap, OcclusionMap
from wsss_probe_explainers.pixels.scores import Score, scored

__all__ = [
    "PIXEL_EXPLAINERS",
    "DeepLiftMap",
    "FeatureAblationMap",
    "GuidedGradCAMMap",
    "InputXGradientMap",
    "IntegratedGradientsMap",
    "OcclusionMap",
    "SaliencyMap",
    "Score",
    "SmoothGradMap",
    "scored",
]

PIXEL_EXPLAINERS = (
    SaliencyMap(),
    InputXGradientMap(),
    IntegratedGradientsMap(),
    SmoothGradMap(),
    GuidedGradCAMMap(),
    DeepLiftMap(),
    OcclusionMap(),
    FeatureAblationMap(),
)
"""What the plugin offers of them; none unasked."""
