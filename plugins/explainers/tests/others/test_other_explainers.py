"""Adapters of other people's packages: offered where installed, equal where formulas coincide."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from wsss_probe_explainers.attribution import Attribution, GradCAM
from wsss_probe_explainers.others import other_explainers

from wsss_probe import Head, LayerInfo
from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import INPUT, Contrast, Layout
from wsss_probe.errors import ModelError
from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing import ExplainerSuite, make_scene
from wsss_probe.testing.models import inplace, multi_logit

ADAPTERS = {adapter.name: adapter for adapter in other_explainers()}
ON_LAYERS = {name: adapter for name, adapter in ADAPTERS.items() if adapter.grid == "layer"}
every = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=lambda adapter: adapter.name)


def installed(package):
    """Skip a test that compares with a package that is not there."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


class TestGradCAMByCaptum(ExplainerSuite):
    """Captum's Grad-CAM conforms to the contract."""

    explainer = ADAPTERS["gradcam-by-captum"]


def at(adapter):
    """Name the layer that an adapter explains in ``multi_logit`` and ``inplace``."""
    return INPUT if adapter.grid == "input" else "features"


def maps(adapter, network, images, target="predicted"):
    """Maps by one adapter."""
    layers = {info.name: info for info in describe_layers(network, images[:1]) if info.layout == "maps"}
    return explain(network, images, [(adapter, at(adapter))], Asked(layers, target=target))[
        adapter.name, at(adapter)
    ]


@pytest.fixture
def images():
    """Give four images, wider than high."""
    return torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@every
def test_cards_name_the_package_and_its_version(adapter):
    """A reader sees whose numbers these are."""
    package = adapter.name.split("-by-")[1].replace("torchcam", "torch-cam")

    assert package in adapter.card.title
    assert any(sign.isdigit() for sign in adapter.card.formula)
    assert "doi" in adapter.card.paper or "arXiv" in adapter.card.paper or "https" in adapter.card.paper
    assert adapter.card.bibtex.count("{") == adapter.card.bibtex.count("}")
    assert not adapter.default


def test_no_package_is_imported_to_be_offered(monkeypatch):
    """Packages that are installed are offered without being loaded; those that are not, are not."""
    monkeypatch.setattr(
        "wsss_probe_explainers.others.find_spec", lambda name: name if name == "torchcam" else None
    )
    loaded = set(sys.modules)

    names = [adapter.name for adapter in other_explainers()]

    assert names == [
        "gradcam-by-captum",
        *(f"{m}-by-torchcam" for m in ("gradcam", "gradcampp", "layercam", "xgradcam")),
    ]
    assert not {name for name in set(sys.modules) - loaded if name.startswith("torchcam")}


@every
@pytest.mark.parametrize("build", [multi_logit, inplace], ids=lambda build: build.__name__)
def test_nothing_is_left_on_the_network(adapter, build, images):
    """What the packages leave behind, hooks, flags and gradients, is taken off."""
    network = build().train()
    network.classifier(torch.ones(1, 8)).sum().backward()
    before = fingerprint(network)

    found = maps(adapter, network, images)

    assert before.differences(fingerprint(network)) == ()
    assert bool(found.isfinite().all())


@every
def test_an_image_is_explained_alone_as_in_a_batch(adapter, images):
    """A batch gives what its images give one by one."""
    together = maps(adapter, multi_logit(), images, 1)

    for index in range(len(images)):
        torch.testing.assert_close(
            maps(adapter, multi_logit(), images[index : index + 1], 1)[0],
            together[index],
            rtol=1e-3,
            atol=1e-7,
        )


@every
def test_a_contrast_is_explained_and_a_broken_image_is_nan(adapter, images):
    """Packages that know classes only explain a contrast through its score; NaN spoils one map."""
    broken = images.clone()
    broken[2] = torch.nan

    found = maps(adapter, multi_logit(), broken, Contrast(1, 0))

    assert bool(found[2].isnan().all())
    assert bool(found[[0, 1, 3]].isfinite().all())
    assert not torch.allclose(found[0], maps(adapter, multi_logit(), images, 1)[0])


@pytest.mark.parametrize("adapter", ON_LAYERS.values(), ids=lambda adapter: adapter.name)
def test_what_packages_get_wrong_in_silence_is_refused(adapter):
    """Modules that run twice and other layouts than (image, channel, row, column) are refused."""
    head = Head(False)
    maps_ = LayerInfo("a", "ReLU", 0, 1, (4, 8, 8), "maps")

    assert adapter.accepts(maps_, head) == ""
    assert "2 calls" in adapter.accepts(LayerInfo("a#1", "ReLU", 0, 2, (4, 8, 8), "maps"), head)
    assert "NHWC" in adapter.accepts(
        LayerInfo("a", "Block", 0, 1, (4, 8, 8), "maps", native=Layout("NHWC")), head
    )
    assert "needs maps" in adapter.accepts(LayerInfo("fc", "Linear", 0, 1, (4,), "vector"), head)


def test_an_error_inside_a_package_is_one_line(images):
    """What torch or the package raises becomes one line, and nothing is left."""

    class Cut(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.classifier = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

        def forward(self, images):
            return self.classifier(self.features(images).detach().mean((2, 3)))

    network = Cut().eval()
    before = fingerprint(network)
    with pytest.raises(ModelError, match=r"^[^\n]*cannot explain this network[^\n]*$"):
        maps(ADAPTERS["gradcam-by-captum"], network, images)
    assert before.differences(fingerprint(network)) == ()


# -- agreement ---------------------------------------------------------------------------------


def scaled(found):
    """Min-max of each map."""
    found = np.asarray(found) - np.asarray(found).min((1, 2), keepdims=True)
    return found / found.max((1, 2), keepdims=True).clip(1e-30)


def pair(ours, theirs, layer="features"):
    """Maps of one network in double precision by ours and theirs, scaled."""
    scene = make_scene(inplace(), images=4)
    network = scene.network.double()
    offered = {item.name: item for item in _ours()}
    images = scene.images.double()
    mine, other = (
        Attribution(item, network, layer).attribute(images, 1).values
        for item in (offered[ours], ADAPTERS[theirs])
    )
    assert float(np.abs(other).max()) > 0
    return scaled(mine), scaled(other)


def _ours():
    from wsss_probe_explainers.cams.explainers import gradient_cams
    from wsss_probe_explainers.decompositions.maps import eigen_grad_cam_map
    from wsss_probe_explainers.explainers import grad_cam_map, layer_cam_map

    return [grad_cam_map, layer_cam_map, eigen_grad_cam_map, *gradient_cams]


SAME = {
    "gradcam-by-captum": "gradcam",
    "gradcam-by-pytorch-grad-cam": "gradcam",
    "gradcam-by-torchcam": "gradcam",
    "layercam-by-pytorch-grad-cam": "layercam",
    "layercam-by-torchcam": "layercam",
    "xgradcam-by-torchcam": "xgradcam",
    "xgradcam-by-pytorch-grad-cam": "xgradcam",
    "gradcampp-by-pytorch-grad-cam": "gradcampp-pytorch-grad-cam",
    "gradcampp-by-torchcam": "gradcampp-torchcam",
}


@pytest.mark.parametrize("layer", ["features", "features.2"])
@pytest.mark.parametrize("theirs", SAME)
def test_the_same_formula_gives_the_same_map(theirs, layer):
    """After min-max, ours and theirs differ by at most 1e-5 of the range, in a last and a middle layer."""
    if theirs not in ADAPTERS:
        pytest.skip("the package is not installed")

    ours, other = pair(SAME[theirs], theirs, layer)

    assert np.abs(ours - other).max() <= 1e-5


@pytest.mark.parametrize("adapter", ON_LAYERS.values(), ids=lambda adapter: adapter.name)
def test_maps_are_raw(adapter, images):
    """Nothing is normalised or enlarged: ten times the score is another map, on the layer's grid."""
    network = multi_logit()
    once = maps(adapter, network, images, 1)
    with torch.no_grad():
        network.classifier.weight.mul_(10)

    ten = maps(adapter, network, images, 1)

    assert once.shape == (4, 6, 8)
    assert float(ten.abs().max()) > 5 * float(once.abs().max())


@installed("torchcam")
def test_one_name_is_two_formulas():
    """Grad-CAM++ of torch-cam and that of the authors are different maps in a middle layer."""
    ours, other = pair("gradcampp-unnormalised", "gradcampp-by-torchcam", "features.2")

    assert np.abs(ours - other).max() > 1e-2


@installed("zennit")
def test_relevance_is_conserved_by_zennit():
    """Where no unit has a bias, the relevance of the pixels sums to the score."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 36, 2, bias=False),
    ).eval()
    images = torch.rand(2, 3, 8, 8)

    found = maps(ADAPTERS["lrp-epsilon-plus-by-zennit"], network, images, 1)

    torch.testing.assert_close(found.sum((1, 2)), network(images)[:, 1].detach(), rtol=1e-3, atol=1e-4)


def test_the_python_face_takes_an_adapter(images):
    """An adapter is called like any explainer."""
    found = Attribution(ADAPTERS["gradcam-by-captum"], multi_logit(), "features").attribute(images, 1)

    np.testing.assert_allclose(
        found.values, GradCAM(multi_logit(), "features").attribute(images, 1).values, rtol=1e-4, atol=1e-9
    )
