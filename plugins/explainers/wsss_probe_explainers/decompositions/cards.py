"""Definition cards of the decompositions: what each map computes, and when not to believe it."""

from __future__ import annotations

from dataclasses import replace

from wsss_probe import DefinitionCard

__all__ = ["EIGEN_CAM_CARD", "EIGEN_CAM_CENTRED_CARD", "EIGEN_GRAD_CAM_CARD", "KERNEL_PCA_CARD"]

_SIGN = (
    "The sign, which a decomposition leaves open, is such that the map agrees with the sum of the values "
    "over channels."
)

EIGEN_CAM_CARD = DefinitionCard(
    title="Eigen-CAM",
    formula="X = U S V^T;  M = X v_1 = s_1 u_1",
    paper=(
        "Muhammad, Yeasin (2020), Eigen-CAM: Class Activation Map using Principal Components, "
        "doi:10.1109/IJCNN48605.2020.9206626, eq. 4-5"
    ),
    symbols=(
        "X: the layer's activations of one image, a row per position and a column per channel, not centred; "
        f"v_1: first right singular vector; s_1 u_1: the map, signed. {_SIGN}"
    ),
    invariances=(
        "the target does not enter: every class has the same map",
        "channels in another order, or rotated among themselves, change nothing",
        "activations that are not negative give a map that is not negative",
        "scaling the activations by c > 0 scales the map by c",
    ),
    misleads=(
        "It explains the layer, not the decision: it shows what most of the activation has in common, "
        "whatever "
        "class that speaks for, and the largest object wins. Not centred, a level that all positions share "
        "counts as structure, so a flat layer gives a flat map. Where two directions explain alike the map "
        "is not defined (NaN). Programs that leave the sign to the linear algebra show the background on "
        "some machines."
    ),
    bibtex=(
        "@inproceedings{muhammad2020eigencam, title={Eigen-{CAM}: Class Activation Map using Principal "
        "Components}, author={Muhammad, Mohammed Bany and Yeasin, Mohammed}, booktitle={IJCNN}, year={2020}, "
        "doi={10.1109/IJCNN48605.2020.9206626}}"
    ),
)

EIGEN_CAM_CENTRED_CARD = replace(
    EIGEN_CAM_CARD,
    title="Eigen-CAM, centred",
    formula="X - mean over positions = U S V^T;  M = (X - mean) v_1 = s_1 u_1",
    symbols=(
        "X: the layer's activations of one image, a row per position and a column per channel, each less "
        f"its mean over positions; v_1: first principal axis; s_1 u_1: the map, signed. {_SIGN}"
    ),
    invariances=(
        "the target does not enter: every class has the same map",
        "a constant added to a channel changes nothing",
        "channels in another order, or rotated among themselves, change nothing",
        "the map's spatial mean is 0",
    ),
    misleads=(
        "Not the paper's map: popular libraries centre, and keep the half that their linear algebra "
        "happens to call positive. It explains the layer, not the decision. Its mean is 0, so a part of "
        "every map is positive, also where there is nothing to see."
    ),
)

EIGEN_GRAD_CAM_CARD = DefinitionCard(
    title="Eigen-Grad-CAM",
    formula="X = A * dY/dA less each channel's mean = U S V^T;  M = X v_1 = s_1 u_1",
    paper=(
        "Gildenblat and contributors (2021), pytorch-grad-cam, "
        "https://github.com/jacobgil/pytorch-grad-cam, eigen_grad_cam.py; after Muhammad, Yeasin (2020), "
        "Eigen-CAM, doi:10.1109/IJCNN48605.2020.9206626"
    ),
    symbols=(
        "A: activations of one image; Y: logit of the target, before softmax or sigmoid; X: their product "
        "with the gradient, a row per position and a column per channel, each less its mean over positions; "
        f"s_1 u_1: the map, signed. {_SIGN}"
    ),
    invariances=(
        "adding a constant to the logit changes nothing",
        "scaling the logit by c > 0 scales the map by c",
        "the map's spatial mean is 0",
    ),
    misleads=(
        "No paper defines it; the definition is that of the library that named it, with the sign that it "
        "leaves open fixed. Its mean is 0, so a part of every map is positive, also where nothing speaks for "
        "the class. One direction of the evidence is shown, and evidence that other channels carry "
        "elsewhere is lost. NaN where two directions explain alike."
    ),
    bibtex=(
        "@misc{gildenblat2021, title={PyTorch library for {CAM} methods}, author={Gildenblat, Jacob and "
        "contributors}, year={2021}, howpublished={https://github.com/jacobgil/pytorch-grad-cam}}"
    ),
)

KERNEL_PCA_CARD = DefinitionCard(
    title="KPCA-CAM",
    formula="K_pq = tanh(x_p.x_q / C + 1), centred in both directions;  M = sqrt(l_1) u_1",
    paper=(
        "Karmani, Sivakaran, Prasad, Ali, Yang, Tang (2024), KPCA-CAM: Visual Explainability of Deep "
        "Computer Vision Models using Kernel PCA, arXiv:2410.00267, doi:10.48550/arXiv.2410.00267"
    ),
    symbols=(
        "x_p: activations at position p over the C channels, each less its mean over positions; K: kernel of "
        "all pairs of positions (sigmoid as in the authors' code, or exp(-|x_p - x_q|^2 / C)); l_1, u_1: its "
        f"largest eigenvalue and that vector; M: the map, signed. {_SIGN}"
    ),
    invariances=(
        "the target does not enter: every class has the same map",
        "channels in another order, or rotated among themselves, change nothing",
        "the map's spatial mean is 0",
    ),
    misleads=(
        "It explains the layer, not the decision. The kernel's scale is 1 / channels whatever the size of "
        "the activations: large ones saturate tanh and the map falls into two levels, small ones give the "
        "centred linear map. A sigmoid kernel need not be positive, so the first component need not be "
        "the largest part of anything. Its mean is 0, so a part of every map is positive."
    ),
    bibtex=(
        "@article{karmani2024kpcacam, title={{KPCA-CAM}: Visual Explainability of Deep Computer Vision "
        "Models using Kernel {PCA}}, author={Karmani, Sachin and Sivakaran, Thanushon and Prasad, Gaurav "
        "and Ali, Mehmet and Yang, Wenbo and Tang, Sheyang}, journal={arXiv preprint arXiv:2410.00267}, "
        "year={2024}, doi={10.48550/arXiv.2410.00267}}"
    ),
)
