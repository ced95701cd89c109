"""Audits of networks and images that nobody here made."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

import wsss_probe

pytestmark = pytest.mark.real

PCAM = "size=96 mean=.70,.54,.69 std=.24,.28,.22"
TENSORFLOW = "size=224 resize=224 crop=center scale=127.5 mean=1 std=1"
CAFFE = "size=227 resize=256 crop=center scale=1 mean=104,117,123 std=1 order=bgr"


@pytest.fixture(scope="module")
def networks(shared):
    """Loader of the real networks."""
    spec = importlib.util.spec_from_file_location("real_models", shared / "weights" / "models.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_models"] = module
    spec.loader.exec_module(module)
    return module


def statements(outcome):
    """Findings by name."""
    return {finding.name: finding for _, finding in outcome.findings}


def test_pcam(networks, shared, tmp_path):
    """The lymph-node network separates its held-out images, and its head is linear."""
    outcome = wsss_probe.audit(
        networks.load("pcam_gap")[0], shared / "data" / "pcam" / "manifest.csv", preprocess=PCAM,
        classes=("normal", "tumour"), max_images=160, controls="shuffled:1", out=str(tmp_path / "run"),
    )  # fmt: skip
    found = statements(outcome)
    record = json.loads((outcome.folder / "run.json").read_text())

    assert outcome.exit_code == 0
    assert found["classifier"].effect > 0.85
    assert found["certificate"].verdict == "ok"
    assert record["head"]["linear"]
    assert all(record["controls"]["shuffled-0"].values())


@pytest.mark.parametrize(
    ("name", "preprocess", "linear", "offset", "least"),
    [("mobilenetv2", TENSORFLOW, True, 1, 0.7), ("squeezenet10_dc", CAFFE, False, 0, 0.4)],
)
@pytest.mark.slow
def test_imagenet(networks, shared, tmp_path, name, preprocess, linear, offset, least):
    """Photographs: the recorded logits name the right class as often as the weights' source says."""
    manifest = shared / "data" / "imagenet_sample"
    outcome = wsss_probe.audit(
        networks.load(name)[0], manifest / "images", preprocess=preprocess, max_images=50,
        controls="none", out=str(tmp_path / "run"), layers=("auto",), only_plugins=("channels",),
    )  # fmt: skip
    tree = wsss_probe.open_run(outcome.folder)
    lines = (manifest / "manifest.csv").read_text().splitlines()[1:]
    index = {line.split(",")[0].rpartition("/")[2]: int(line.rsplit(",", 1)[1]) for line in lines}
    truth = np.array([index[str(path).rpartition("/")[2]] for path in tree["images/path"].values])
    right = tree["predictions/logits"].values.argmax(axis=1) == truth + offset
    record = json.loads((outcome.folder / "run.json").read_text())

    assert right.mean() >= least
    assert record["head"]["linear"] is linear
    assert statements(outcome)["certificate"].verdict == "ok"


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("pcam_gap", "features", 96), ("mobilenetv2", "features.18", 224), ("resnet20", "layer3", 32)],
)
def test_record_equals_a_plain_hook(networks, name, layer, size):
    """Recorded maps equal those of a plain forward hook, to half precision."""
    network = networks.load(name)[0]
    images = torch.rand(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    seen = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2].clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    recorded = wsss_probe.record(network, images, layer, batch_size=4)
    found = recorded["activations"].children[layer]["maps"].values
    expected = seen[0].numpy()

    # Half precision keeps 11 bits; the memory format of the pass moves sums by some 1e-5 of the largest.
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=2e-5 * np.abs(expected).max())
    assert found.dtype == np.float16
