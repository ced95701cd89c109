"""All analyses in one audit of an unusual network: all layers, grey input, not square, several labels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import wsss_probe
from wsss_probe.errors import ExitCode
from wsss_probe.findings import read_findings
from wsss_probe.ledger import masks_consumed, read_choices
from wsss_probe.passport import read_passport

CLASSES = ("dot", "bar", "ring")
LAYERS = ("0", "3", "4")
EVERYWHERE = (
    "channel-f1-fine", "head-weights", "weight-classes", "weight-quality", "near-equal", "same-gap", "peaks",
    "dissect", "quantiles", "ablation", "invariance", "channel-null", "channel-null-permuted",
)  # fmt: skip


def network():
    """Two convolutions for grey images, the second not symmetric, and three sigmoid units."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 7, (3, 1), stride=(1, 2)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, len(CLASSES)),
    ).eval()


def write_images(folder, absent=""):
    """Write 16 grey pictures in 8 groups with up to three labels, masks of two classes, and white glass."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["image,label,mask,group,split"]
    for number in range(16):
        random = np.random.default_rng(number)
        pixels = random.integers(60, 140, (24, 36), dtype=np.uint8)
        pixels[:, 30:] = 250
        mask = np.zeros((24, 36), np.uint8)
        labels = [name for place, name in enumerate(CLASSES) if (number >> place) % 2]
        if "dot" in labels and absent != "dot":
            mask[4:10, 4:10] = 1
        if "bar" in labels:
            mask[14:20, 8:26] = 2
        pixels[mask == 1] = 20
        pixels[mask == 2] = 200
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        rows.append(f"images/{number}.png,{';'.join(labels)},masks/{number}.png,g{number // 2},test")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "manifest.toml").write_text("[masks]\nwhite = 240\n[masks.classes]\ndot = 1\nbar = 2\n")
    return folder / "manifest.csv"


def audited(manifest, out, **more):
    """Audit the network."""
    return wsss_probe.audit(
        network(),
        manifest,
        out=str(out),
        classes=CLASSES,
        multilabel=True,
        preprocess="unit size=24x36 channels=1 mean=0 std=1",
        batch_size=8,
        concepts="none",
        **more,
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One audit with every analysis at every convolution."""
    folder = tmp_path_factory.mktemp("any")
    options = {name: {"layers": "all"} for name in EVERYWHERE}
    asked = {"layers": LAYERS, "controls": "shuffled:1", "probes": options}
    return audited(write_images(folder), folder / "run", **asked)


@pytest.mark.slow
class TestAnyNetwork:
    def test_nothing_fails(self, outcome):
        """Every analysis ends at every layer, in the network and in its control."""
        assert outcome.exit_code == ExitCode.DONE
        tree = wsss_probe.open_run(outcome.folder)
        for layer in LAYERS:
            for name in ("channel-f1", "census", *EVERYWHERE):
                assert f"{name}@{layer}" in tree["probes"].children, (name, layer)

    def test_white_is_no_region_and_both_classes_are(self, outcome):
        """The screen knows the two things of the masks; white glass is neither of them."""
        table = wsss_probe.open_run(outcome.folder)[f"probes/channel-f1@{LAYERS[0]}/summary"]
        assert table["class"].values.tolist() == ["dot", "bar"]

    def test_weights_are_known_at_every_layer(self, outcome):
        """Exact under the linear head, effective elsewhere; one for each class and channel."""
        tree = wsss_probe.open_run(outcome.folder)
        kinds = {}
        for layer, channels in zip(LAYERS, (5, 7, 7), strict=True):
            table = tree[f"probes/head-weights@{layer}/summary"]
            kinds[layer] = table.attrs["kind"]
            assert table["weight"].shape == (len(CLASSES), channels)
            assert np.isfinite(table["weight"].values).all()
        assert kinds == {"0": "effective", "3": "effective", "4": "head"}

    def test_every_choice_is_in_the_ledger(self, outcome):
        """What is quoted of a best channel was chosen on other groups, and the ledger says on which."""
        choices = {choice.what: choice for _, choice in read_choices(outcome.folder)}

        assert {
            "channel of 4 for dot",
            "channel of 4 for dot, fine",
            "channel of 4 for dot, dissected",
        } <= set(choices)
        assert not any(choice.reopened for choice in choices.values())
        assert choices["channel of 4 for dot"].masks == 8
        assert choices["channel of 4 for dot"].groups == 4
        assert 8 <= masks_consumed([("channels", choice) for choice in choices.values()]) <= 16

    def test_every_layer_has_a_passport(self, outcome):
        """One row per channel, with columns from several analyses."""
        for layer, channels in zip(LAYERS, (5, 7, 7), strict=True):
            frame = read_passport(outcome.folder, layer)
            assert len(frame) == channels
            assert {"F1 dot", "F1 bar", "sparsity"} <= set(frame.columns)

    def test_weak_evidence_is_not_called_good(self, outcome):
        """An untrained classifier allows no verdict on class evidence."""
        said = [finding for plugin, finding in read_findings(outcome.folder) if plugin == "channels"]
        assert said
        good = [finding.name for finding in said if finding.verdict == "ok"]
        assert [name for name in good if not name.startswith("follows-motion")] == []


@pytest.mark.slow
def test_one_class_absent_and_no_masks(tmp_path):
    """A class that no mask shows, or no masks at all, stop nothing: what cannot be said is left out."""
    for name, absent, masks in (("absent", "dot", True), ("maskless", "", False)):
        folder = tmp_path / name
        folder.mkdir()
        manifest = write_images(folder, absent)
        if not masks:
            lines = manifest.read_text().splitlines()
            kept = [",".join(cell for i, cell in enumerate(line.split(",")) if i != 2) for line in lines]
            manifest.write_text("\n".join(kept) + "\n")
        outcome = audited(manifest, folder / "run", layers=LAYERS[-1:], controls="none")
        assert outcome.exit_code == ExitCode.DONE
        said = [finding.name for plugin, finding in outcome.findings]
        assert (f"best-channel/dot@{LAYERS[-1]}" in said) is masks
        assert f"census@{LAYERS[-1]}" in wsss_probe.open_run(outcome.folder)["probes"].children
