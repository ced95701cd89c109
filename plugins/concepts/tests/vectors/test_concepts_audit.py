"""Concepts in a whole audit through the command line, with covariates of the manifest as concepts."""

import json

import numpy as np
import pytest
from PIL import Image

import wsss_probe
from wsss_probe import cli
from wsss_probe.passport import read_passport

FACTORY = '''
import torch
from torch import nn

def network():
    """Two convolutions whose means follow brightness, and two classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()
'''


def write_images(folder, images=48):
    """Write pictures in 16 groups with known brightness, noise, a text and a constant; one is no picture."""
    (folder / "images").mkdir()
    rows = ["image,label,group,brightness,noise,stain,constant,partly"]
    for number in range(images):
        random = np.random.default_rng(number)
        level = random.integers(40, 200)
        pixels = np.clip(level + random.normal(0, 20, (24, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        partly = f"{random.normal():.4f}" if number % 2 else ""
        label = "ab"[number % 2]
        cells = [level, f"{random.normal():.4f}", f"HE{number % 2}", 1, partly]
        rows.append(",".join(map(str, [f"images/{number}.png", label, f"g{number // 3}", *cells])))
    (folder / "images" / "5.png").write_bytes(b"no picture")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "factory.py").write_text(FACTORY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One audit with two controls."""
    folder = tmp_path_factory.mktemp("concepts")
    write_images(folder)
    arguments = {
        "--model": f"{folder / 'factory.py'}:network",
        "--images": folder / "manifest.csv",
        "--preprocess": "unit size=24x32",
        "--classes": "a,b",
        "--layers": "0,2,3",
        "--controls": "shuffled:2",
        "--only-plugins": "concepts",
        "--concepts": "none",
        "--out": folder / "run",
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    with pytest.raises(SystemExit) as done:
        cli.run(["audit", *words, "--trust-code"])
    assert done.value.code in {0, None}
    return folder


@pytest.mark.slow
class TestWholeAudit:
    def test_nothing_fails(self, folder):
        """Every probe concluded in the audited network; the record has no failure."""
        record = json.loads((folder / "run" / "run.json").read_text())
        tree = wsss_probe.open_run(folder / "run")

        assert record["failures"] == []
        assert {"rcv@0", "rcv@2", "rcv@3", "concept-depth"} <= set(tree["probes"].children)

    def test_brightness_is_encoded_and_noise_is_not(self, folder):
        """Held-out R² of the covariate that the pictures follow is near 1, that of noise near 0 or below."""
        table = wsss_probe.open_run(folder / "run")["probes/concept-depth/summary"].to_dataset()
        held = table["r2_held"].sel(network="audited", model="ridge")

        assert table["layer"].values.tolist() == ["0", "2", "3"]
        assert table["kind"].values.tolist() == ["audited", "control", "control"]
        assert (held.sel(concept="manifest/brightness") > 0.95).all()
        assert (held.sel(concept="manifest/noise") < 0.3).all()

    def test_what_is_not_estimable_says_why(self, folder):
        """A text and a constant are rows with reasons, a column with gaps rests on its own images."""
        table = wsss_probe.open_run(folder / "run")["probes/concept-depth/summary"].to_dataset()
        for concept in ("manifest/stain", "manifest/constant"):
            if concept in table["concept"].values:
                assert np.isnan(table["r2_held"].sel(concept=concept)).all()
                assert (table["reason"].sel(concept=concept) != "").all()
        n = table["n"].isel(layer=0)
        assert int(n.sel(concept="manifest/partly")) < int(n.sel(concept="manifest/brightness")) == 47

    def test_the_report_shows_figures_pictures_and_numbers(self, folder):
        """The section stands in the report, with the best concept in it."""
        page = (folder / "run" / "report.html").read_text()

        assert "Concepts in the features, over depth" in page
        assert "manifest/brightness" in page

    def test_the_passport_names_the_concept(self, folder):
        """Channels that follow brightness have it as their concept."""
        frame = read_passport(folder / "run", "3")

        assert "manifest/brightness" in set(frame["concept"])
        assert "manifest/noise" not in set(frame["concept"])
