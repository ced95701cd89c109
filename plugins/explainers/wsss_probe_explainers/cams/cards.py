"""Definition cards of the further class activation maps: formula, paper, and when not to believe them."""

from __future__ import annotations

from dataclasses import replace

from wsss_probe import DefinitionCard
from wsss_probe_explainers.cards import PLUS_PLUS_CARD

__all__ = [
    "FINER_CARD",
    "FUSION_CARD",
    "HI_RES_CARD",
    "MONAI_CARD",
    "PYTORCH_GRAD_CAM_CARD",
    "SMOOTH_CARD",
    "TORCHCAM_CARD",
    "UNNORMALISED_CARD",
    "XPLIQUE_CARD",
    "X_GRAD_CARD",
]

X_GRAD_CARD = DefinitionCard(
    title="XGrad-CAM",
    formula="w_k = sum_ij A_k(i, j) dY/dA_k(i, j) / sum_ij A_k(i, j);  M = relu(sum_k w_k A_k)",
    paper=(
        "Fu, Hu, Dong, Guo, Gao, Li (2020), Axiom-based Grad-CAM: Towards Accurate Visualization and "
        "Explanation of CNNs, BMVC, doi:10.48550/arXiv.2008.02312"
    ),
    symbols=(
        "A_k: map of channel k; Y: logit of the target, before softmax or sigmoid; w_k: mean gradient of the "
        "channel, each place counting by its activation."
    ),
    invariances=(
        "adding a constant to the logit changes nothing",
        "scaling the logit by c > 0 scales the map by c",
        "counting a channel in other units changes nothing",
        "before the ReLU the cells add up to sum A dY/dA",
        "on GAP + linear it is Grad-CAM",
    ),
    misleads=(
        "One weight per channel still stands for all places, so where gradients differ in sign by place it "
        "fits none. With signed activations a channel's sum can pass through 0 and that channel takes over. "
        "The ReLU hides evidence against the class."
    ),
    bibtex=(
        "@inproceedings{fu2020xgradcam, title={Axiom-based Grad-{CAM}: Towards Accurate Visualization and "
        "Explanation of {CNN}s}, author={Fu, Ruigang and Hu, Qingyong and Dong, Xiaohu and Guo, Yulan and "
        "Gao, Yinghui and Li, Biao}, booktitle={BMVC}, year={2020}, doi={10.48550/arXiv.2008.02312}}"
    ),
)

HI_RES_CARD = DefinitionCard(
    title="HiRes-CAM",
    formula="M(i, j) = sum_k dY/dA_k(i, j) A_k(i, j)",
    paper=(
        "Draelos, Carin (2020), Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional "
        "neural networks, doi:10.48550/arXiv.2011.08891"
    ),
    symbols=(
        "A_k: map of channel k; Y: logit of the target, before softmax or sigmoid; M: signed (negative "
        "speaks against the class)."
    ),
    invariances=(
        "adding a constant to the logit changes nothing",
        "scaling the logit by c > 0 scales the map by c",
        "where the logit is linear in the layer, the cells add up to the logit but for its bias",
        "on GAP + linear it is CAM / (row x column)",
    ),
    misleads=(
        "It shows what the layer's cells contribute only where the rest of the network is linear (a flatten "
        "or GAP and one linear layer). Behind more layers it is the gradient at one point times the value: "
        "saturated evidence shows as none, and single cells are noisy. Programs that clip it at 0 hide "
        "evidence against the class."
    ),
    bibtex=(
        "@article{draelos2020hirescam, title={Use {HiResCAM} instead of {Grad-CAM} for faithful explanations "
        "of convolutional neural networks}, author={Draelos, Rachel Lea and Carin, Lawrence}, "
        "journal={arXiv:2011.08891}, year={2020}, doi={10.48550/arXiv.2011.08891}}"
    ),
)

SMOOTH_CARD = DefinitionCard(
    title="Smooth Grad-CAM++",
    formula=(
        "Dn_k = mean over noisy images of (dY/dA_k)^n;  alpha_k = D2_k / (2 D2_k + S_k D3_k);  "
        "M = relu(sum_k w_k A_k), w_k = sum_ij alpha_k relu(D1_k)"
    ),
    paper=(
        "Omeiza, Speakman, Cintas, Weldermariam (2019), Smooth Grad-CAM++: An Enhanced Inference Level "
        "Visualization Technique for Deep Convolutional Neural Network Models, doi:10.48550/arXiv.1908.01224"
    ),
    symbols=(
        "A_k: map of channel k of the image without noise, S_k its sum; Y: logit of the class that is "
        "explained without noise. Noise: Gaussian, on the network's input, standard deviation a share of the "
        "image's own range; drawn for each image from a generator of its own."
    ),
    invariances=(
        "adding a constant to the logit changes nothing",
        "without noise, or where noise changes no gradient, it is Grad-CAM++ as printed (eq. 19)",
    ),
    misleads=(
        "Known up to one positive factor per image. Few samples leave chance in the map: another seed gives "
        "another one. Where noise turns gradients round, D3 is negative, 2 + S D3 / D2 can come near 0 and "
        "single channels take over. Noisy images lie outside of what the network was trained on. Printed "
        "with D1 in the numerator of alpha, which cannot be meant; programs that take the last noisy "
        "gradient for D1 give another map."
    ),
    bibtex=(
        "@article{omeiza2019smooth, title={Smooth Grad-{CAM}++: An Enhanced Inference Level Visualization "
        "Technique for Deep Convolutional Neural Network Models}, author={Omeiza, Daniel and Speakman, "
        "Skyler and Cintas, Celia and Weldermariam, Komminist}, journal={arXiv:1908.01224}, year={2019}, "
        "doi={10.48550/arXiv.1908.01224}}"
    ),
)

FINER_CARD = DefinitionCard(
    title="Finer-CAM",
    formula="Y = y_c - weight x mean of the largest other logits;  M = Grad-CAM of Y",
    paper=(
        "Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su, Chao (2025), Finer-CAM: Spotting the Difference "
        "Reveals Finer Details for Visual Explanation, CVPR, doi:10.48550/arXiv.2501.11309"
    ),
    symbols=(
        "y_c: logit of the target; compared with the mean of the 3 largest logits of other classes, weight "
        "0.6, as the authors' code aggregates them."
    ),
    invariances=(
        "adding a constant to the logits changes nothing",
        "with weight 0 it is Grad-CAM",
        "it is linear in the logits: before the ReLU, the target's Grad-CAM minus the share of the others'",
    ),
    misleads=(
        "It says why this class rather than those next to it, not where the class is: an object that all of "
        "them share may vanish, and often should. With two classes whose logits mirror each other it is "
        "Grad-CAM. Which classes come next depends on the image, so maps of two images may answer two "
        "questions. The gradient is averaged as in Grad-CAM."
    ),
    bibtex=(
        "@inproceedings{zhang2025finercam, title={Finer-{CAM}: Spotting the Difference Reveals Finer Details "
        "for Visual Explanation}, author={Zhang, Ziheng and Gu, Jianyang and Chowdhury, Arpita and Mai, "
        "Zheda and Carlyn, David and Berger-Wolf, Tanya and Su, Yu and Chao, Wei-Lun}, booktitle={CVPR}, "
        "year={2025}, doi={10.48550/arXiv.2501.11309}}"
    ),
)

FUSION_CARD = DefinitionCard(
    title="Fusion of maps",
    formula="M = mean, largest or weighted mean over parts p of resized(M_p / max|M_p|)",
    paper=(
        "Jiang, Zhang, Hou, Cheng, Wei (2021), LayerCAM: Exploring Hierarchical Class Activation Maps for "
        "Localization, doi:10.1109/TIP.2021.3089943, which fuses layers by the largest value; the division "
        "and the other two ways are this plugin's"
    ),
    symbols=(
        "M_p: map of one explainer at one layer, divided by its own largest absolute value (a map of zeros "
        "stays zero); resized: bilinear, align_corners=False, to the grid of the first layer."
    ),
    invariances=(
        "scaling a part's map by c > 0 changes nothing",
        "the order of parts changes nothing but which grid is meant",
        "one part alone is that part divided by its largest absolute value",
    ),
    misleads=(
        "Division by the largest value gives a map of noise as much say as a map of evidence, so one "
        "bad part spoils the whole. Which layers to fuse is a choice: made by score, "
        "it must be scored on other images. The fine grid promises a sharpness that coarse parts do not have."
    ),
    bibtex=(
        "@article{jiang2021layercam, title={Layer{CAM}: Exploring Hierarchical Class Activation Maps for "
        "Localization}, author={Jiang, Peng-Tao and Zhang, Chang-Bin and Hou, Qibin and Cheng, Ming-Ming and "
        "Wei, Yunchao}, journal={IEEE Transactions on Image Processing}, volume={30}, pages={5875--5888}, "
        "year={2021}, doi={10.1109/TIP.2021.3089943}}"
    ),
)

# -- Grad-CAM++ under the same name -------------------------------------------------------------


def _compared(program: str, formula: str, wrong: str) -> DefinitionCard:
    """Card of a formula that carries the name Grad-CAM++ and is kept to be compared with it."""
    return replace(
        PLUS_PLUS_CARD,
        title=f"Grad-CAM++ ({program})",
        formula=f"{formula};  M = relu(sum_k w_k A_k)",
        paper=f"{PLUS_PLUS_CARD.paper.partition(', eq. 19')[0]}, as computed by {program}",
        symbols=(
            "A_k: map of channel k, S_k its sum over positions; g = dY/dA_k, g^+ its positive part; "
            "Y: logit. One positive factor per image is left out."
        ),
        invariances=("adding a constant to the logit changes nothing",),
        misleads=f"Kept for comparison only. {wrong} Known up to one positive factor per image.",
    )


UNNORMALISED_CARD = _compared(
    "eq. 19 as printed",
    "w_k = sum_ij g^+ / (2 + S_k g)",
    "The coefficients of a channel are not divided by their sum, as the authors' own program does: wide "
    "channels weigh more than steep ones, which is what the method set out to mend.",
)
PYTORCH_GRAD_CAM_CARD = _compared(
    "pytorch-grad-cam",
    "w_k = sum_ij g^2 g^+ / (2 g^2 + S_k g^3 + 1e-6)",
    "Coefficients are not normalised, and the 1e-6 that is added outweighs g^2 wherever gradients are below "
    "1e-3, as behind GAP: the weight becomes sum g^3, and scaling the logits changes the map.",
)
TORCHCAM_CARD = _compared(
    "torchcam",
    "w_k = sum_ij (g^+)^3",
    "The division by the denominator writes into a copy and is lost, so no coefficient takes part: steep "
    "channels count with the cube of their gradient.",
)
MONAI_CARD = _compared(
    "MONAI",
    "w_k = sum_ij g^2 g^+ / (2 g^2 + sum_ab A_k(a, b) g_k(a, b)^3 + 1e-7)",
    "The sum runs over A g^3 with both indices instead of over A alone. It can be negative where activations "
    "are not: the denominator passes through 0, weights turn negative or take over.",
)
XPLIQUE_CARD = _compared(
    "xplique",
    "w_k = mean_ij g^2 g^+ / (2 g^2 + mean(A_k) g^3)",
    "The mean of the activation stands for its sum, so the coefficient is nearly 1/2 everywhere and the "
    "weight nearly half the mean positive gradient.",
)
