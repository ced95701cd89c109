"""The linter in an audit: its findings come first everywhere, and the network is as it was."""

import pytest
import torch
from torch import nn

import wsss_probe
from wsss_probe.certificate import fingerprint
from wsss_probe.config import resolve
from wsss_probe.findings import read_findings
from wsss_probe.host import PluginHost
from wsss_probe.images import TensorSource
from wsss_probe.linter.prepared import examine_prepared
from wsss_probe.preparation import find_subject, prepare

OWN = ["probabilities", "train-mode"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of a network with a softmax at its end, handed over in train mode, and what it was before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network = nn.Sequential(*layers, nn.Linear(6, 3), nn.Softmax(dim=1)).train()
    before = fingerprint(network)
    images = torch.randn((12, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    outcome = wsss_probe.audit(
        network, images, layers=("1",), controls="none", out=str(tmp_path_factory.mktemp("lint") / "run"),
    )  # fmt: skip
    return outcome, before.differences(fingerprint(network))


def test_its_findings_come_first(audited):
    """In the outcome and in findings.json the linter stands before all others, graver findings first."""
    outcome, _ = audited
    names = [finding.name for _, finding in outcome.findings]

    assert names[:2] == OWN
    assert [(plugin, finding.name) for plugin, finding in read_findings(outcome.folder)][:2] == [
        ("host", name) for name in OWN
    ]


def test_they_open_the_report(audited):
    """In the report's strip the first line is the linter's warning."""
    text = (audited[0].folder / "report.html").read_text(encoding="utf-8")

    assert 0 < text.index("ends in a softmax") < text.index("came in train mode")
    assert text.index("ends in a softmax") < text.index("The audited network is bit-identical")


def test_the_network_is_as_it_was(audited):
    """The certificate covers the linter, and nothing differs."""
    outcome, differences = audited

    assert differences == ()
    assert {f.name: f for _, f in outcome.findings}["certificate"].verdict == "ok"


class Counting(TensorSource):
    """Images in memory; one in three cannot be read."""

    def read(self, index):
        """Read an image, or a reason why not."""
        sample = super().read(index)
        return sample if index % 3 else type(sample)(index, error="broken")


def test_unreadable_images_are_left_out(make, images):
    """Images that cannot be read are no examples; the others are looked at."""
    network = make()
    options = resolve({"layers": ("conv2",), "controls": "none"})
    subject = find_subject(options, PluginHost(), network, Counting(images))
    found = examine_prepared(prepare(options, PluginHost(), subject))

    assert [s.name for diagnosis in found for s in diagnosis.suspicions] == []
    assert not any("fail" in diagnosis.skipped for diagnosis in found)
