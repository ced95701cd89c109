"""The plugin is found by the host, conforms, and loads no torch before it must."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
import wsss_probe_explainers
from wsss_probe_explainers.explainers import (
    PlusPlusMap,
    class_activation_map,
    grad_cam_map,
    layer_cam_map,
    plus_plus_map,
)
from wsss_probe_explainers.formulas import cam

from wsss_probe import Head, LayerInfo, Needs
from wsss_probe.errors import UsageError
from wsss_probe.testing import ExplainerSuite
from wsss_probe.testing.scenes import make_scene

UNASKED = ("cam", "gradcam", "gradcampp", "layercam", "xgradcam", "hirescam", "eigencam", "eigengradcam")
OFFERED = tuple(item.name for item in wsss_probe_explainers.wsss_probe_explainers())
JUDGES = ("degenerate-maps", "localisation", "faithfulness", "sensitivity", "sanity", "agreement")


class TestCAM(ExplainerSuite):
    """CAM conforms to the contract."""

    explainer = class_activation_map


class TestGradCAM(ExplainerSuite):
    """Grad-CAM conforms to the contract."""

    explainer = grad_cam_map


class TestGradCAMPlusPlus(ExplainerSuite):
    """Grad-CAM++ conforms to the contract."""

    explainer = plus_plus_map


class TestUnnormalised(ExplainerSuite):
    """Un-normalised Grad-CAM++ conforms to the contract."""

    explainer = PlusPlusMap("unnormalised")


class TestLayerCAM(ExplainerSuite):
    """Layer-CAM conforms to the contract."""

    explainer = layer_cam_map


def test_the_plugin_is_installed():
    """The entry point leads to the module, and its hooks offer maps of one pass unasked, and judges."""
    (found,) = [point for point in entry_points(group="wsss_probe") if point.name == "explainers"]

    assert found.load() is wsss_probe_explainers
    offered = tuple(wsss_probe_explainers.wsss_probe_explainers())
    assert tuple(item.name for item in offered if item.default) == UNASKED
    assert len(set(OFFERED)) == len(OFFERED) > len(UNASKED)
    assert tuple(probe.name for probe in wsss_probe_explainers.wsss_probe_probes()) == JUDGES


def test_importing_the_plugin_loads_no_torch():
    """The entry module costs the command line neither torch nor captum."""
    code = "import sys, wsss_probe_explainers; sys.exit('torch' in sys.modules or 'captum' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_does_not_exist_is_an_attribute_error():
    """The lazy module says which name it does not have."""
    with pytest.raises(AttributeError, match="has no attribute 'NoCAM'"):
        _ = wsss_probe_explainers.NoCAM


def test_the_readme_names_everything_that_is_offered():
    """A reader of the README meets every map by the name that it has in a run."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

    assert [name for name in (*OFFERED, *JUDGES) if f"`{name}`" not in readme and "-by-" not in name] == []


def test_an_audit_and_python_use_the_same_formula():
    """CAM of a batch in the survey is the weighted sum with each image's own class."""
    scene = make_scene()
    layer = scene.survey.head.layer
    batch = scene.batch(Needs(layers=frozenset({layer})))

    found = class_activation_map.attribute(batch, layer, "predicted")

    weight = torch.as_tensor(scene.survey.head.weight, dtype=torch.float32)[batch.logits.argmax(1)]
    torch.testing.assert_close(found, cam(batch.activations[layer], weight))


def test_cam_says_why_a_layer_does_not_suit():
    """Only the layer that a proved linear head averages suits CAM; else the reason is given."""
    maps = LayerInfo("features", "ReLU", 0, 1, (4, 8, 8), "maps")
    linear = Head(True, "features", np.ones((2, 4)), np.zeros(2), 0.0)

    assert class_activation_map.accepts(maps, linear) == ""
    assert "averages, 'stem'" in class_activation_map.accepts(maps, Head(True, "stem"))
    assert "not linear: two layers" in class_activation_map.accepts(maps, Head(False, reason="two layers"))
    assert "needs maps" in class_activation_map.accepts(
        LayerInfo("fc", "Linear", 1, 1, (2,), "vector"), linear
    )


def test_a_variant_that_does_not_exist_is_refused():
    """An option of a run file is checked before the audit starts."""
    with pytest.raises(UsageError, match=r"unknown variant of Grad-CAM\+\+; found: eq19"):
        PlusPlusMap("eq19")


@pytest.mark.parametrize("explainer", wsss_probe_explainers.wsss_probe_explainers(), ids=lambda e: e.name)
def test_cards_are_complete(explainer):
    """Every card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = explainer.card

    assert any(kind in card.paper for kind in ("doi:", "arXiv:", "https://"))
    assert card.bibtex.startswith("@")
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))
