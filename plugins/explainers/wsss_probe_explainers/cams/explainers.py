"""The further class activation maps by gradient as descriptions that the host runs in a survey."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wsss_probe_explainers.cams.cards import (
    HI_RES_CARD,
    MONAI_CARD,
    PYTORCH_GRAD_CAM_CARD,
    TORCHCAM_CARD,
    UNNORMALISED_CARD,
    X_GRAD_CARD,
    XPLIQUE_CARD,
)
from wsss_probe_explainers.cams.contrast import FinerMap
from wsss_probe_explainers.cams.fusion import Fusion
from wsss_probe_explainers.cams.implementations import PROGRAMS, program_plus_plus
from wsss_probe_explainers.cams.products import hi_res_cam, x_grad_cam
from wsss_probe_explainers.cams.smoothing import SmoothMap
from wsss_probe_explainers.explainers import GradientMap
from wsss_probe_explainers.formulas import grad_cam_plus_plus

if TYPE_CHECKING:
    from wsss_probe import Explainer

__all__ = [
    "finer_map",
    "fusion_map",
    "gradient_cams",
    "hi_res_map",
    "program_maps",
    "smooth_map",
    "unnormalised_map",
    "x_grad_map",
]

x_grad_map = GradientMap("xgradcam", X_GRAD_CARD, x_grad_cam)
hi_res_map = GradientMap("hirescam", HI_RES_CARD, hi_res_cam)
unnormalised_map = GradientMap(
    "gradcampp-unnormalised",
    UNNORMALISED_CARD,
    partial(grad_cam_plus_plus, variant="unnormalised"),
    default=False,
)
program_maps = tuple(
    GradientMap(f"gradcampp-{program}", card, partial(program_plus_plus, program=program), default=False)
    for program, card in zip(
        PROGRAMS, (PYTORCH_GRAD_CAM_CARD, TORCHCAM_CARD, MONAI_CARD, XPLIQUE_CARD), strict=True
    )
)
smooth_map = SmoothMap()
finer_map = FinerMap()
fusion_map = Fusion()

gradient_cams: tuple[Explainer, ...] = (
    x_grad_map,
    hi_res_map,
    unnormalised_map,
    *program_maps,
    smooth_map,
    finer_map,
    fusion_map,
)
"""All of them."""
