"""Definition cards of the maps on the input: formula, paper, invariances, when each misleads."""

from __future__ import annotations

from wsss_probe import DefinitionCard

__all__ = [
    "DEEPLIFT_CARD",
    "FEATURE_ABLATION_CARD",
    "GUIDED_GRADCAM_CARD",
    "INPUT_X_GRADIENT_CARD",
    "INTEGRATED_GRADIENTS_CARD",
    "OCCLUSION_CARD",
    "SALIENCY_CARD",
    "SMOOTHGRAD_CARD",
]

_SYMBOLS = "x_c(i, j): network input of colour c, after preprocessing; Y: score of the target, of logits."
_SHIFT = "adding a constant to the logit changes nothing"
_SCALE = "scaling the logit by c > 0 scales the map by c"
_ZERO = (
    "The default replacement is 0 in the network's units: the mean colour where preprocessing subtracts it, "
    "black where it does not. What has that colour can never be important."
)

SALIENCY_CARD = DefinitionCard(
    title="Saliency",
    formula="M(i, j) = max_c |dY/dx_c(i, j)|",
    paper=(
        "Simonyan, Vedaldi, Zisserman (2014), Deep Inside Convolutional Networks: Visualising Image "
        "Classification Models and Saliency Maps, arXiv:1312.6034"
    ),
    symbols=_SYMBOLS,
    invariances=(_SHIFT, _SCALE),
    misleads=(
        "It says to which pixels the score is sensitive, not which ones made it. Noisy: gradients of "
        "neighbouring pixels have little to do with each other, and striding prints a grid on them."
    ),
    bibtex=(
        "@inproceedings{simonyan2014deep, title={Deep Inside Convolutional Networks: Visualising Image "
        "Classification Models and Saliency Maps}, author={Simonyan, Karen and Vedaldi, Andrea and "
        "Zisserman, Andrew}, booktitle={ICLR Workshop}, year={2014}, eprint={1312.6034}}"
    ),
)

INPUT_X_GRADIENT_CARD = DefinitionCard(
    title="Input x gradient",
    formula="M(i, j) = sum_c x_c(i, j) dY/dx_c(i, j)",
    paper=(
        "Shrikumar, Greenside, Shcherbina, Kundaje (2016), Not Just a Black Box: Learning Important "
        "Features Through Propagating Activation Differences, arXiv:1605.01713"
    ),
    symbols=_SYMBOLS,
    invariances=(_SHIFT, _SCALE, "without biases (piecewise linear network) its sum is the logit"),
    misleads=(
        "A pixel of value 0 gets 0 however much it matters: which colour that is, preprocessing decides. "
        "On images it shows the image itself as much as the network."
    ),
    bibtex=(
        "@article{shrikumar2016not, title={Not Just a Black Box: Learning Important Features Through "
        "Propagating Activation Differences}, author={Shrikumar, Avanti and Greenside, Peyton and "
        "Shcherbina, Anna and Kundaje, Anshul}, journal={arXiv preprint arXiv:1605.01713}, year={2016}}"
    ),
)

INTEGRATED_GRADIENTS_CARD = DefinitionCard(
    title="Integrated gradients",
    formula="M(i, j) = sum_c (x_c - b_c)(i, j) integral_0^1 dY/dx_c(i, j) at b + t (x - b) dt",
    paper=("Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks, ICML, arXiv:1703.01365"),
    symbols=f"{_SYMBOLS} b: the replacement that the way begins at.",
    invariances=(_SHIFT, _SCALE, "its sum is Y(x) - Y(b), whatever the network"),
    misleads=f"It explains the difference from a replacement, which nobody has seen in an image. {_ZERO}",
    bibtex=(
        "@inproceedings{sundararajan2017axiomatic, title={Axiomatic Attribution for Deep Networks}, "
        "author={Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi}, booktitle={ICML}, year={2017}, "
        "eprint={1703.01365}}"
    ),
)

SMOOTHGRAD_CARD = DefinitionCard(
    title="SmoothGrad",
    formula="M(i, j) = max_c |mean_n dY/dx_c(i, j) at x + e_n|, e_n ~ N(0, s^2)",
    paper=(
        "Smilkov, Thorat, Kim, Viegas, Wattenberg (2017), SmoothGrad: removing noise by adding noise, "
        "arXiv:1706.03825"
    ),
    symbols=f"{_SYMBOLS} s: a share of the image's range of values, 0.15 by default.",
    invariances=(_SHIFT, _SCALE, "an image's noise is fixed by its place in the manifest"),
    misleads=(
        "Smoother is not truer: noise of this size gives images that the network has never seen, and the "
        "map is that of the neighbourhood, not of the image."
    ),
    bibtex=(
        "@article{smilkov2017smoothgrad, title={SmoothGrad: removing noise by adding noise}, "
        "author={Smilkov, Daniel and Thorat, Nikhil and Kim, Been and Vi{\\'e}gas, Fernanda and "
        "Wattenberg, Martin}, journal={arXiv preprint arXiv:1706.03825}, year={2017}}"
    ),
)

GUIDED_GRADCAM_CARD = DefinitionCard(
    title="Guided Grad-CAM",
    formula="M(i, j) = up(relu(sum_k mean(dY/dA_k) A_k))(i, j) * sum_c G_c(i, j)",
    paper=(
        "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra (2017), Grad-CAM: Visual Explanations from Deep "
        "Networks via Gradient-based Localization, doi:10.1109/ICCV.2017.74; guided backpropagation: "
        "Springenberg, Dosovitskiy, Brox, Riedmiller (2015), arXiv:1412.6806"
    ),
    symbols=(
        f"{_SYMBOLS} A_k: map of channel k of a layer; up: bilinear enlargement to the input; G: dY/dx where "
        "each ReLU passes back positive gradients only."
    ),
    invariances=(_SHIFT, "scaling the logit by c > 0 scales the map by c squared"),
    misleads=(
        "Guided backpropagation hardly depends on the class or on the upper weights: it partly restores the "
        "image (Adebayo et al. 2018; Nie et al. 2018). What is specific to the class is Grad-CAM's part."
    ),
    bibtex=(
        "@inproceedings{selvaraju2017gradcam, title={Grad-{CAM}: Visual Explanations from Deep Networks via "
        "Gradient-based Localization}, author={Selvaraju, Ramprasaath R. and Cogswell, Michael and Das, "
        "Abhishek and Vedantam, Ramakrishna and Parikh, Devi and Batra, Dhruv}, booktitle={ICCV}, "
        "pages={618--626}, year={2017}, doi={10.1109/ICCV.2017.74}}"
    ),
)

DEEPLIFT_CARD = DefinitionCard(
    title="DeepLIFT",
    formula=(
        "M(i, j) = sum_c (x_c - b_c)(i, j) m_c(i, j), m by the chain rule with "
        "(f(u) - f(v)) / (u - v) for f'(u) at every non-linear module"
    ),
    paper=(
        "Shrikumar, Greenside, Kundaje (2017), Learning Important Features Through Propagating Activation "
        "Differences, ICML, arXiv:1704.02685"
    ),
    symbols=f"{_SYMBOLS} b: the replacement; u, v: a module's input for x and for b.",
    invariances=(_SHIFT, _SCALE, "its sum is Y(x) - Y(b); where it is not, the network is refused"),
    misleads=(
        "The rescale rule only: positive and negative parts of a unit may cancel unseen. Two networks that "
        f"compute the same function may get different maps. {_ZERO}"
    ),
    bibtex=(
        "@inproceedings{shrikumar2017learning, title={Learning Important Features Through Propagating "
        "Activation Differences}, author={Shrikumar, Avanti and Greenside, Peyton and Kundaje, Anshul}, "
        "booktitle={ICML}, year={2017}, eprint={1704.02685}}"
    ),
)

OCCLUSION_CARD = DefinitionCard(
    title="Occlusion",
    formula="M(i, j) = mean over windows W that hold (i, j) of Y(x) - Y(x with W replaced)",
    paper=(
        "Zeiler, Fergus (2014), Visualizing and Understanding Convolutional Networks, ECCV, "
        "doi:10.1007/978-3-319-10590-1_53"
    ),
    symbols=f"{_SYMBOLS} All colours of a window are replaced together.",
    invariances=(_SHIFT, _SCALE, "needs no gradient"),
    misleads=(
        "Evidence that stands twice is not missed when one copy is hidden; a grey square is itself something "
        f"to see. Resolution is the window's. {_ZERO}"
    ),
    bibtex=(
        "@inproceedings{zeiler2014visualizing, title={Visualizing and Understanding Convolutional Networks}, "
        "author={Zeiler, Matthew D. and Fergus, Rob}, booktitle={ECCV}, pages={818--833}, year={2014}, "
        "doi={10.1007/978-3-319-10590-1_53}}"
    ),
)

FEATURE_ABLATION_CARD = DefinitionCard(
    title="Feature ablation",
    formula="M(i, j) = Y(x) - Y(x with R replaced), R the region that holds (i, j)",
    paper=(
        "Kokhlikyan et al. (2020), Captum: A unified and generic model interpretability library for PyTorch, "
        "arXiv:2009.07896"
    ),
    symbols=f"{_SYMBOLS} R: a SLIC superpixel of the image itself, or a square.",
    invariances=(_SHIFT, _SCALE, "needs no gradient"),
    misleads=(
        "One region at a time: evidence that stands twice is not missed. Large regions get more; superpixels "
        f"follow the image's edges, so a map looks well outlined whatever the network saw. {_ZERO}"
    ),
    bibtex=(
        "@article{kokhlikyan2020captum, title={Captum: A unified and generic model interpretability library "
        "for {PyTorch}}, author={Kokhlikyan, Narine and Miglani, Vivek and Martin, Miguel and Wang, Edward "
        "and Alsallakh, Bilal and Reynolds, Jonathan and Melnikov, Alexander and Kliushkina, Natalia and "
        "Araya, Carlos and Yan, Siqi and Reblitz-Richardson, Orion}, journal={arXiv preprint "
        "arXiv:2009.07896}, year={2020}}"
    ),
)
