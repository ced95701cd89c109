"""Definition cards: what each map computes, in the words of its paper, and when not to believe it."""

from __future__ import annotations

from wsss_probe import DefinitionCard

__all__ = ["CAM_CARD", "GRAD_CAM_CARD", "LAYER_CAM_CARD", "PLUS_PLUS_CARD"]

CAM_CARD = DefinitionCard(
    title="CAM",
    formula="M_c(i, j) = sum_k w_ck A_k(i, j)",
    paper=(
        "Zhou, Khosla, Lapedriza, Oliva, Torralba (2016), Learning Deep Features for Discriminative "
        "Localization, doi:10.1109/CVPR.2016.319, eq. 2"
    ),
    symbols=(
        "A_k: map of channel k of the layer that the head averages; w_ck: weight of channel k in the "
        "linear head for class c; M_c: evidence for class c, signed (negative speaks against the class)."
    ),
    invariances=(
        "the head's bias does not enter",
        "scaling the logits by a constant scales the map by it",
        "the spatial mean plus the bias is the logit, exactly",
    ),
    misleads=(
        "Weights act on spatial averages: the map says which places raise the average, not which pixels "
        "caused them; each cell sees its whole receptive field, often the whole image. With softmax only "
        "differences between classes matter, so evidence shared by all classes shows as evidence for one."
    ),
    bibtex=(
        "@inproceedings{zhou2016cam, title={Learning Deep Features for Discriminative Localization}, "
        "author={Zhou, Bolei and Khosla, Aditya and Lapedriza, Agata and Oliva, Aude and Torralba, Antonio}, "
        "booktitle={CVPR}, pages={2921--2929}, year={2016}, doi={10.1109/CVPR.2016.319}}"
    ),
)

GRAD_CAM_CARD = DefinitionCard(
    title="Grad-CAM",
    formula="alpha_k = mean_ij dY/dA_k(i, j);  M = relu(sum_k alpha_k A_k)",
    paper=(
        "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra (2017), Grad-CAM: Visual Explanations from Deep "
        "Networks via Gradient-based Localization, doi:10.1109/ICCV.2017.74, eq. 1-2"
    ),
    symbols=(
        "A_k: map of channel k; Y: logit of the target, before softmax or sigmoid; alpha_k: mean gradient."
    ),
    invariances=(
        "adding a constant to the logit changes nothing",
        "scaling the logit by c > 0 scales the map by c",
        "on GAP + linear it is relu(CAM) / (row x column)",
    ),
    misleads=(
        "A channel's gradients are averaged first, so where they differ in sign by place the weight fits no "
        "place; this happens in every layer that a fully connected or strided part follows. The ReLU hides "
        "evidence against the class: an all-zero map means that the weighted sum is nowhere "
        "positive, not that "
        "nothing was used."
    ),
    bibtex=(
        "@inproceedings{selvaraju2017gradcam, title={Grad-{CAM}: Visual Explanations from Deep Networks via "
        "Gradient-based Localization}, author={Selvaraju, Ramprasaath R. and Cogswell, Michael and "
        "Das, Abhishek "
        "and Vedantam, Ramakrishna and Parikh, Devi and Batra, Dhruv}, booktitle={ICCV}, pages={618--626}, "
        "year={2017}, doi={10.1109/ICCV.2017.74}}"
    ),
)

PLUS_PLUS_CARD = DefinitionCard(
    title="Grad-CAM++",
    formula=(
        "alpha_k(i, j) = 1 / (2 + S_k g_k(i, j));  w_k = sum_ij alpha_k g_k^+ / sum_{g_k > 0} alpha_k;  "
        "M = relu(sum_k w_k A_k)"
    ),
    paper=(
        "Chattopadhay, Sarkar, Howlader, Balasubramanian (2018), Grad-CAM++: Generalized "
        "Gradient-based Visual "
        "Explanations for Deep Convolutional Networks, doi:10.1109/WACV.2018.00097, eq. 19 with the "
        "normalisation of the authors' code"
    ),
    symbols=(
        "A_k: map of channel k, S_k its sum over positions; g_k = dY/dA_k, g_k^+ its positive "
        "part; Y: logit. "
        "The paper explains exp(Y): its factor e^Y is one positive constant per image and is left out."
    ),
    invariances=(
        "adding a constant to the logit changes nothing (it would change e^Y only)",
        "on GAP + linear it is CAM restricted to positive weights, divided by (row x column)",
        "with positive weights only it equals Grad-CAM there",
    ),
    misleads=(
        "Known up to one positive factor per image: compare places within a map, not values between images. "
        "The derivation takes a network that is piecewise linear behind the layer and activations "
        "that are not "
        "negative; with signed activations 2 + S g can pass through 0 and single channels take "
        "over. Channels "
        "with negative gradients never count, so it cannot show evidence against a class. Programs "
        "that mix up "
        "the indices or drop the normalisation give other maps under the same name."
    ),
    bibtex=(
        "@inproceedings{chattopadhay2018gradcampp, title={Grad-{CAM}++: Generalized Gradient-based Visual "
        "Explanations for Deep Convolutional Networks}, author={Chattopadhay, Aditya and Sarkar, Anirban and "
        "Howlader, Prantik and Balasubramanian, Vineeth N.}, booktitle={WACV}, pages={839--847}, "
        "year={2018}, "
        "doi={10.1109/WACV.2018.00097}}"
    ),
)

LAYER_CAM_CARD = DefinitionCard(
    title="Layer-CAM",
    formula="M(i, j) = relu(sum_k relu(dY/dA_k(i, j)) A_k(i, j))",
    paper=(
        "Jiang, Zhang, Hou, Cheng, Wei (2021), LayerCAM: Exploring Hierarchical Class Activation Maps for "
        "Localization, doi:10.1109/TIP.2021.3089943"
    ),
    symbols="A_k: map of channel k; Y: logit of the target, before softmax or sigmoid.",
    invariances=(
        "adding a constant to the logit changes nothing",
        "scaling the logit by c > 0 scales the map by c",
        "on GAP + linear it is CAM restricted to positive weights, divided by (row x column)",
    ),
    misleads=(
        "Early layers give sharp maps that follow edges: sharpness is the layer's resolution, not certainty. "
        "Gradients of single positions are noisy; evidence against the class never shows."
    ),
    bibtex=(
        "@article{jiang2021layercam, title={Layer{CAM}: Exploring Hierarchical Class Activation Maps for "
        "Localization}, author={Jiang, Peng-Tao and Zhang, Chang-Bin and Hou, Qibin and Cheng, Ming-Ming and "
        "Wei, Yunchao}, journal={IEEE Transactions on Image Processing}, volume={30}, pages={5875--5888}, "
        "year={2021}, doi={10.1109/TIP.2021.3089943}}"
    ),
)
