"""Everything that this plugin offers as explainers, in the order of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss_probe_explainers.cams.explainers import (
    finer_map,
    fusion_map,
    hi_res_map,
    program_maps,
    smooth_map,
    unnormalised_map,
    x_grad_map,
)
from wsss_probe_explainers.decompositions.maps import (
    eigen_cam_centred_map,
    eigen_cam_map,
    eigen_grad_cam_map,
    kernel_pca_map,
    kernel_pca_rbf_map,
)
from wsss_probe_explainers.explainers import (
    class_activation_map,
    grad_cam_map,
    layer_cam_map,
    plus_plus_map,
)
from wsss_probe_explainers.others import other_explainers
from wsss_probe_explainers.perturbations.ablation_cam import ablation_cam_map
from wsss_probe_explainers.perturbations.score_cam import (
    score_cam_authors_map,
    score_cam_map,
    score_cam_top_map,
)
from wsss_probe_explainers.pixels import PIXEL_EXPLAINERS

if TYPE_CHECKING:
    from wsss_probe import Explainer

__all__ = ["offered_explainers"]

_OF_ONE_PASS: tuple[Explainer, ...] = (
    class_activation_map,
    grad_cam_map,
    plus_plus_map,
    layer_cam_map,
    x_grad_map,
    hi_res_map,
    eigen_cam_map,
    eigen_grad_cam_map,
)
"""Made unasked: together they cost one forward and one backward pass to the layer."""

_VARIANTS: tuple[Explainer, ...] = (
    unnormalised_map,
    *program_maps,
    eigen_cam_centred_map,
    kernel_pca_rbf_map,
)
"""Of interest beside others only."""

_COSTLY: tuple[Explainer, ...] = (
    finer_map,
    smooth_map,
    fusion_map,
    kernel_pca_map,
    ablation_cam_map,
    score_cam_map,
    score_cam_top_map,
    score_cam_authors_map,
)


def offered_explainers() -> tuple[Explainer, ...]:
    """List the explainers; adapters of other packages only where these are installed."""
    return (*_OF_ONE_PASS, *_COSTLY, *PIXEL_EXPLAINERS, *_VARIANTS, *other_explainers())
