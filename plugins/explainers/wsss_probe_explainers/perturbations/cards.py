"""Definition cards of the perturbations: what each map computes, and when not to believe it."""

from __future__ import annotations

from dataclasses import replace

from wsss_probe import DefinitionCard

__all__ = ["ABLATION_CAM_CARD", "SCORE_CAM_AUTHORS_CARD", "SCORE_CAM_CARD", "SCORE_CAM_TOP_CARD"]

SCORE_CAM_CARD = DefinitionCard(
    title="Score-CAM",
    formula=(
        "S_k = p(x * H_k) - p(0), H_k = (up(A_k) - min) / (max - min);  a = softmax_k(S);  "
        "M = relu(sum_k a_k A_k)"
    ),
    paper=(
        "Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu (2020), Score-CAM: Score-Weighted Visual "
        "Explanations for Convolutional Neural Networks, arXiv:1910.01279, "
        "doi:10.1109/CVPRW50498.2020.00020, algorithm 1"
    ),
    symbols=(
        "A_k: map of channel k, up: bilinear to the input's size; x: the network's input, after "
        "preprocessing; 0: an input of zeros; p: probability of the target (softmax over classes; the "
        "sigmoid of a single logit); a_k: weight of channel k. A constant map is not shown and weighs 0."
    ),
    invariances=(
        "adding a constant to all logits changes nothing",
        "scaling or shifting a channel's map changes no mask",
        "weights are positive and add up to 1",
    ),
    misleads=(
        "Probabilities lie between 0 and 1 and are put through a softmax over hundreds of channels, so the "
        "largest weight is at most e times the smallest: the map is close to the plain mean over channels, "
        "whatever the class. No weight is negative. Masked inputs are no natural images, and a mask "
        "smoother than the object lets its surroundings through. Programs under this name differ (logits "
        "for probabilities, weights without the softmax), and so do their maps."
    ),
    bibtex=(
        "@inproceedings{wang2020scorecam, title={Score-{CAM}: Score-Weighted Visual Explanations for "
        "Convolutional Neural Networks}, author={Wang, Haofan and Wang, Zifan and Du, Mengnan and Yang, Fan "
        "and Zhang, Zijian and Ding, Sirui and Mardziel, Piotr and Hu, Xia}, booktitle={CVPR Workshops}, "
        "pages={111--119}, year={2020}, doi={10.1109/CVPRW50498.2020.00020}}"
    ),
)

SCORE_CAM_AUTHORS_CARD = replace(
    SCORE_CAM_CARD,
    title="Score-CAM, authors' code",
    formula="a_k = p(x * H_k), H_k = (up(A_k) - min) / (max - min);  M = relu(sum_k a_k A_k)",
    invariances=(
        "adding a constant to all logits changes nothing",
        "scaling or shifting a channel's map changes no mask",
    ),
    misleads=(
        "The authors' code leaves out the softmax over channels and the black image of the paper's "
        "algorithm 1. Where the class is probable without seeing anything, every channel gets that much "
        "weight. No weight is negative. Masked inputs are no natural images."
    ),
)

SCORE_CAM_TOP_CARD = replace(
    SCORE_CAM_CARD,
    title="Score-CAM of 64 channels",
    formula=f"{SCORE_CAM_CARD.formula}, k over the 64 channels with the largest standard deviation",
    misleads=(
        "An approximation of Score-CAM: other channels weigh 0, although a channel that varies little may "
        f"matter much. {SCORE_CAM_CARD.misleads}"
    ),
)

ABLATION_CAM_CARD = DefinitionCard(
    title="Ablation-CAM",
    formula="w_k = (Y - Y_k) / |Y|;  M = relu(sum_k w_k A_k)",
    paper=(
        "Desai, Ramaswamy (2020), Ablation-CAM: Visual Explanations for Deep Convolutional Network via "
        "Gradient-free Localization, doi:10.1109/WACV45572.2020.9093360, eq. 3-4"
    ),
    symbols=(
        "A_k: map of channel k; Y: logit of the target, before softmax or sigmoid; Y_k: the same with "
        "channel k set to zero everywhere. The paper divides by Y; we divide by |Y|, so that a channel whose "
        "loss lowers a negative logit speaks for the class as well. A channel that is zero already weighs 0."
    ),
    invariances=(
        "scaling the logit by c > 0 changes nothing",
        "on GAP + linear without bias it is relu(sum_k w_ck mean(A_k) A_k) / |Y|",
    ),
    misleads=(
        "Channels are taken away one at a time, so two that say the same hide each other. Zero is no "
        "neutral value in a layer that is not rectified. A constant added to the logit changes the scale of "
        "the map: compare places within a map, not values between images; a logit of exactly 0 gives no map. "
        "In half precision a channel's share of a logit is lost in rounding, so such networks are refused."
    ),
    bibtex=(
        "@inproceedings{desai2020ablationcam, title={Ablation-{CAM}: Visual Explanations for Deep "
        "Convolutional Network via Gradient-free Localization}, author={Desai, Saurabh and Ramaswamy, "
        "Harish G.}, booktitle={WACV}, pages={972--980}, year={2020}, "
        "doi={10.1109/WACV45572.2020.9093360}}"
    ),
)
