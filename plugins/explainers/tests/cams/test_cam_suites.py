"""The further CAMs conform to the contract, carry complete cards, and say which layers suit."""

import math

import pytest
import torch
from wsss_probe_explainers import wsss_probe_explainers
from wsss_probe_explainers.cams.contrast import FinerMap
from wsss_probe_explainers.cams.explainers import (
    finer_map,
    fusion_map,
    gradient_cams,
    hi_res_map,
    program_maps,
    unnormalised_map,
    x_grad_map,
)
from wsss_probe_explainers.cams.fusion import Fusion
from wsss_probe_explainers.cams.smoothing import SmoothMap

from wsss_probe import Head, LayerInfo
from wsss_probe.errors import UsageError
from wsss_probe.testing import ExplainerSuite


class TestXGradCAM(ExplainerSuite):
    """XGrad-CAM conforms to the contract."""

    explainer = x_grad_map


class TestHiResCAM(ExplainerSuite):
    """HiRes-CAM conforms to the contract."""

    explainer = hi_res_map


class TestPrinted(ExplainerSuite):
    """Grad-CAM++ as printed conforms to the contract."""

    explainer = unnormalised_map


class TestPytorchGradCAM(ExplainerSuite):
    """pytorch-grad-cam's Grad-CAM++ conforms to the contract."""

    explainer = program_maps[0]


class TestTorchCAM(ExplainerSuite):
    """torchcam's Grad-CAM++ conforms to the contract."""

    explainer = program_maps[1]


class TestMONAI(ExplainerSuite):
    """MONAI's Grad-CAM++ conforms to the contract."""

    explainer = program_maps[2]


class TestXplique(ExplainerSuite):
    """xplique's Grad-CAM++ conforms to the contract."""

    explainer = program_maps[3]


class TestSmooth(ExplainerSuite):
    """Smooth Grad-CAM++ conforms to the contract."""

    explainer = SmoothMap(samples=2)


class TestFiner(ExplainerSuite):
    """Finer-CAM conforms to the contract."""

    explainer = finer_map


class TestFusionOfLayers(ExplainerSuite):
    """The mean of two layers conforms to the contract."""

    explainer = Fusion("layercam", ("features.1", "features"))


class TestFusionOfExplainers(ExplainerSuite):
    """The largest value of two explainers at two layers conforms to the contract."""

    explainer = Fusion(("gradcam", "gradcampp"), ("features.1", "features"), "max")


class TestWeightedFusion(ExplainerSuite):
    """A weighted mean conforms to the contract."""

    explainer = Fusion("gradcam", ("features.1", "features"), "weighted", (1, 3))


def test_names_say_what_an_audit_computes_unasked():
    """XGrad-CAM and HiRes-CAM come unasked; what costs passes or is kept for comparison does not."""
    unasked = [item.name for item in gradient_cams if item.default]

    assert unasked == ["xgradcam", "hirescam"]
    assert [item.name for item in gradient_cams if not item.default] == [
        "gradcampp-unnormalised",
        "gradcampp-pytorch-grad-cam",
        "gradcampp-torchcam",
        "gradcampp-monai",
        "gradcampp-xplique",
        "smoothgradcampp",
        "finercam",
        "fusion",
    ]


@pytest.mark.parametrize("explainer", gradient_cams, ids=lambda item: item.name)
def test_cards_of_cams_are_complete(explainer):
    """Every card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = explainer.card

    assert "doi:" in card.paper
    assert card.bibtex.startswith("@")
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))


def test_cards_of_other_programs_say_why_they_are_kept():
    """Each formula of another program has a card of its own that says what is wrong with it."""
    cards = [item.card for item in (unnormalised_map, *program_maps)]

    assert len({card.title for card in cards}) == 5
    assert all(card.misleads.startswith("Kept for comparison only.") for card in cards)


def maps_of(name):
    """Describe a layer with maps."""
    return LayerInfo(name, "ReLU", 0, 1, (4, 8, 8), "maps")


def test_fusion_says_which_layer_suits():
    """Only the first of its layers suits; as offered, none does, with what to write in a run file."""
    fused, head = Fusion("layercam", ["layer3", "layer4"]), Head(linear=False, reason="two layers")

    assert "[explainers.fusion]" in fusion_map.accepts(maps_of("layer3"), head)
    assert fused.accepts(maps_of("layer3"), head) == ""
    assert "grid of 'layer3'" in fused.accepts(maps_of("layer4"), head)
    assert "needs maps" in fused.accepts(LayerInfo("layer3", "Linear", 1, 1, (2,), "vector"), head)
    assert "cam: needs a GAP" in Fusion("cam", ["layer3", "layer4"]).accepts(maps_of("layer3"), head)


def test_fusion_reads_all_its_layers_and_puts_the_finest_first():
    """What the parts read is read, once each; a finer layer than the first is refused."""
    layers = {name: LayerInfo(name, "", 0, 1, (4, size, size), "maps") for name, size in (("a", 8), ("b", 4))}

    assert Fusion(("layercam", "gradcam"), ("a", "b")).reads("a", layers) == ("a", "b")
    assert fusion_map.reads("a", layers) == ()
    with pytest.raises(UsageError, match=r"'b' is not the finest.*found: 'a' is finer; .*finest layer first"):
        Fusion("layercam", ("b", "a")).reads("b", layers)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"of": "gradcan", "layers": ["a"]}, r"no such maps to fuse; found: gradcan; wanted: .*gradcam"),
        ({"of": "fusion", "layers": ["a"]}, "no such maps to fuse; found: fusion"),
        ({"of": [], "layers": ["a"]}, "no such maps to fuse; found: none"),
        ({"layers": ["a"], "how": "median"}, "unknown way to fuse.*found: median; wanted: mean or max or w"),
        ({"layers": ["a", "b"], "how": "weighted"}, r"weights do not fit.*found: \[\]; wanted: 2 numbers"),
        ({"layers": ["a"], "how": "weighted", "weights": [0]}, r"weights do not fit.*found: \[0\]"),
        ({"layers": ["a"], "how": "weighted", "weights": [-1]}, r"weights do not fit.*found: \[-1\]"),
        ({"layers": ["a"], "weights": [1]}, "not fused by weight; found: how = 'mean'"),
    ],
)
def test_fusion_refuses_options_that_cannot_be_meant(options, line):
    """A wrong option of a run file is one clear line before the audit starts."""
    with pytest.raises(UsageError, match=line):
        Fusion(**options)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: SmoothMap(samples=0), "samples of noise are too few; found: 0"),
        (lambda: SmoothMap(samples=2.5), "samples of noise are too few; found: 2.5"),
        (lambda: SmoothMap(noise=-0.1), "no share of the image's range; found: -0.1"),
        (lambda: SmoothMap(noise=math.nan), "no share of the image's range; found: nan"),
        (lambda: SmoothMap(seed=-1), "no seed; found: -1"),
        (lambda: FinerMap(weight=-1), "weight of the other classes.*found: -1"),
        (lambda: FinerMap(weight="much"), "weight of the other classes.*found: 'much'"),
        (lambda: FinerMap(references=0), "too few classes to compare with; found: 0"),
    ],
)
def test_smoothing_and_contrast_refuse_options_that_cannot_be_meant(build, line):
    """Numbers out of range and words are refused with what is wanted."""
    with pytest.raises(UsageError, match=line):
        build()


def test_parts_that_explain_different_targets_are_not_fused(monkeypatch):
    """Grad-CAM and Finer-CAM answer different questions: fusing them is refused."""
    offered = [*wsss_probe_explainers(), finer_map]
    monkeypatch.setattr("wsss_probe_explainers.wsss_probe_explainers", lambda: offered)

    with pytest.raises(UsageError, match="explain different targets cannot be fused; found: gradcam, finer"):
        Fusion(("gradcam", "finercam"), ("a",))
    assert Fusion("finercam", ("a",)).explains("predicted") == finer_map.explains("predicted")


def test_weights_sum_out():
    """Weights count relative to each other: 1 and 3 are 2 and 6."""
    from wsss_probe_explainers.cams.fusion import fuse

    maps = [torch.rand(2, 3, 4), torch.rand(2, 3, 4)]

    torch.testing.assert_close(fuse(maps, (3, 4), [1, 3]), fuse(maps, (3, 4), [2, 6]))
