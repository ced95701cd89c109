"""Other people's explainers, offered where their packages are installed, to compare implementations."""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from wsss_probe import DefinitionCard
from wsss_probe_explainers.others.adapter import Adapter
from wsss_probe_explainers.others.packages import by_captum, by_pytorch_grad_cam, by_torchcam, by_zennit

__all__ = ["Adapter", "other_explainers"]

_PYTORCH_GRAD_CAM = {
    "gradcam": "GradCAM",
    "gradcampp": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "eigengradcam": "EigenGradCAM",
}
_TORCHCAM = {
    "gradcam": "GradCAM",
    "gradcampp": "GradCAMpp",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}


def other_explainers() -> tuple[Adapter, ...]:
    """Adapters of the packages that are installed; none of them is imported for that.

    Returns
    -------
    tuple of Adapter
        Grad-CAM by captum always.
    """
    found = [
        Adapter("gradcam-by-captum", _card("Grad-CAM", "captum", "relu of LayerGradCam", "captum"), by_captum)
    ]
    if find_spec("pytorch_grad_cam"):
        found += [
            Adapter(
                f"{name}-by-pytorch-grad-cam",
                _card(theirs, "pytorch-grad-cam", f"{theirs} before scaling", "grad-cam"),
                partial(by_pytorch_grad_cam, method=theirs),
            )
            for name, theirs in _PYTORCH_GRAD_CAM.items()
        ]
    if find_spec("torchcam"):
        found += [
            Adapter(
                f"{name}-by-torchcam",
                _card(theirs, "torch-cam", f"{theirs} before normalising", "torchcam"),
                partial(by_torchcam, method=theirs),
            )
            for name, theirs in _TORCHCAM.items()
        ]
    if find_spec("zennit"):
        card = _card("LRP, epsilon and z-plus", "zennit", "sum over colours of EpsilonPlus", "zennit")
        found.append(Adapter("lrp-epsilon-plus-by-zennit", card, by_zennit, grid="input"))
    return tuple(found)


_PAPERS = {
    "captum": "Kokhlikyan et al. (2020), Captum: A unified and generic model interpretability library for "
    "PyTorch, arXiv:2009.07896",
    "pytorch-grad-cam": "Gildenblat and contributors (2021), PyTorch library for CAM methods, "
    "https://github.com/jacobgil/pytorch-grad-cam",
    "torch-cam": "Fernandez (2020), TorchCAM: class activation explorer, https://github.com/frgfm/torch-cam",
    "zennit": "Anders, Neumann, Samek, Mueller, Lapuschkin (2021), Software for Dataset-wide XAI: From Local "
    "Explanations to Global Insights with Zennit, CoRelAy, and ViRelAy, arXiv:2106.13200",
}
_BIBTEX = {
    "captum": "@article{kokhlikyan2020captum, title={Captum: A unified and generic model interpretability "
    "library for {PyTorch}}, author={Kokhlikyan, Narine and others}, journal={arXiv preprint "
    "arXiv:2009.07896}, year={2020}}",
    "pytorch-grad-cam": "@misc{jacobgilpytorchcam, title={PyTorch library for CAM methods}, author={Jacob "
    "Gildenblat and contributors}, year={2021}, url={https://github.com/jacobgil/pytorch-grad-cam}}",
    "torch-cam": "@misc{torcham2020, title={TorchCAM: class activation explorer}, author={Fernandez, "
    "Fran{\\c{c}}ois-Guillaume}, year={2020}, url={https://github.com/frgfm/torch-cam}}",
    "zennit": "@article{anders2021software, title={Software for Dataset-wide {XAI}: From Local "
    "Explanations to Global Insights with {Zennit}, {CoRelAy}, and {ViRelAy}}, author={Anders, Christopher "
    'J. and Neumann, David and Samek, Wojciech and M{\\"u}ller, Klaus-Robert and Lapuschkin, Sebastian}, '
    "journal={arXiv preprint arXiv:2106.13200}, year={2021}}",
}


def _card(title: str, package: str, theirs: str, distribution: str) -> DefinitionCard:
    return DefinitionCard(
        title=f"{title} by {package}",
        formula=f"{theirs}, {package} {_version(distribution)}",
        paper=_PAPERS[package],
        symbols="The score that it explains is ours: sum over classes of weight * logit.",
        invariances=("those of the package's own formula",),
        misleads=(
            f"What {package} computes under this name, which may be another formula than the paper's: "
            "compare it with ours before you compare results with those of others. It sees modules only: "
            "an operation in place after the layer may change what it has kept, and a rule for a module "
            "does not reach a function."
        ),
        bibtex=_BIBTEX[package],
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"
