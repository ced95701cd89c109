"""Relevance maps for wsss-probe: CAM, Grad-CAM, Grad-CAM++, Layer-CAM.

In an audit the host finds them through the hook below; in Python
``GradCAM(model, layer).attribute(images, target=...)`` gives the same maps. Importing this module
loads no torch: the classes are loaded on first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsss_probe import hookimpl

if TYPE_CHECKING:
    from wsss_probe import Explainer
    from wsss_probe_explainers.attribution import CAM, GradCAM, GradCAMPlusPlus, LayerCAM

__all__ = ["CAM", "GradCAM", "GradCAMPlusPlus", "LayerCAM", "wsss_probe_explainers"]


@hookimpl
def wsss_probe_explainers() -> Iterable[Explainer]:
    """Offer the four maps."""
    from wsss_probe_explainers.explainers import (
        class_activation_map,
        grad_cam_map,
        layer_cam_map,
        plus_plus_map,
    )

    return [class_activation_map, grad_cam_map, plus_plus_map, layer_cam_map]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name in {"CAM", "GradCAM", "GradCAMPlusPlus", "LayerCAM"}:
        return getattr(import_module("wsss_probe_explainers.attribution"), name)
    msg = f"module 'wsss_probe_explainers' has no attribute {name!r}"
    raise AttributeError(msg)
