"""The command doctor: one line for every check and library, the fix beside it, and an exit code."""

import re

import numpy as np
import pytest
from PIL import Image

from wsss_probe import doctor
from wsss_probe.cli import _run
from wsss_probe.linter import CHECKS

FACTORY = """
import torch
from torch import nn


def sound():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(6, 2)).eval()


def saturated():
    return nn.Sequential(sound(), nn.Softmax(dim=1)).eval()
"""


@pytest.fixture
def examined(tmp_path, capsys):
    """Function that runs doctor on a network of the factory file; exit code, lines and complaint."""
    (tmp_path / "net.py").write_text(FACTORY)
    random = np.random.default_rng(0)
    for index in range(24):
        folder = tmp_path / "images" / ("a", "b")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")

    def run(name, *more):
        asked = ["doctor", "--model", f"{tmp_path / 'net.py'}:{name}", "--trust-code", *more]
        code = _run([part.replace("IMAGES", str(tmp_path / "images")) for part in asked])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


class TestNetwork:
    def test_a_sound_network_passes(self, examined):
        """One line for every check, no warning, exit code 0; what needs data is left out and says so."""
        code, lines, _ = examined("sound", "--preprocess", "unit size=24")

        assert code == 0, lines
        assert len(lines) == len(CHECKS) + 1
        assert "PASS weights are finite" in lines
        assert "SKIP the input is normalised (not looked at: no images were given)" in lines
        assert lines[-1] == "15 checks: 0 warnings, 0 notices"

    def test_a_warning_has_its_fix_and_an_exit_code(self, examined):
        """A softmax inside is a warning with what to do, and exit code 1."""
        code, lines, _ = examined("saturated", "--preprocess", "unit size=24")
        (warned,) = [line for line in lines if line.startswith("WARN")]

        assert code == 1
        assert "ends in a softmax" in warned
        assert "Audit the network without its last step" in warned

    def test_labelled_images_are_looked_at(self, examined):
        """With images and classes, accuracy is said; an untrained network is at chance."""
        code, lines, _ = examined(
            "sound", "--preprocess", "unit size=24", "--images", "IMAGES", "--classes", "a,b"
        )

        assert code in {0, 1}
        assert any("labelled examples, where the commonest class alone" in line for line in lines)
        assert not any(line.startswith("SKIP") and "no images were given" in line for line in lines)

    def test_a_terminal_gets_a_table(self, examined, monkeypatch):
        """On a terminal the fixes stand in a column of their own."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
        _, lines, _ = examined("saturated", "--preprocess", "unit size=24")
        text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))

        assert "what to do" in text
        assert re.search(r"WARN +The network ends in a softmax", text)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--weights", "x.pt"], "no network to examine; remedy: give --model, or no option at all"),
            (["--model", "torchvision/resnet18"], "no weights for torchvision/resnet18"),
            (["--model", "torchvision/resnet81", "--weights", "random"], "resnet81"),
        ],
    )
    def test_what_is_no_network_is_said_on_one_line(self, capsys, arguments, said):
        """Bad input ends with exit code 4 and one line."""
        assert _run(["doctor", *arguments]) == 4
        complaint = capsys.readouterr().err.strip()
        assert said in complaint
        assert "\n" not in complaint


class TestInstallation:
    def test_complete(self, capsys, hosting):
        """Every library has a line with its version, every plugin its own."""
        assert doctor.check_installation(hosting()) is True
        said = capsys.readouterr().out

        assert "✓ torch 2" in said
        assert "✓ plugin t 1" in said

    def test_a_needed_library_is_missing(self, capsys, hosting, monkeypatch):
        """Without a needed library the installation is not fine, and the line says how to get it."""
        whole = doctor._version
        monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "zarr" else whole(name))

        assert doctor.check_installation(hosting()) is False
        assert "! zarr is not installed: pip install zarr" in capsys.readouterr().out

    def test_an_optional_library_is_missing(self, capsys, hosting, monkeypatch):
        """Without an optional one it is fine, and the extra is named."""
        monkeypatch.setitem(doctor._OPTIONAL, "no-such-library", "pip install 'wsss-probe[x]'")

        assert doctor.check_installation(hosting()) is True
        assert "• no-such-library is not installed: pip install 'wsss-probe[x]'" in capsys.readouterr().out

    def test_a_plugin_is_broken(self, capsys, hosting):
        """A plugin that does not load has its error in the line."""
        host = hosting()

        class Unmarked:
            def wsss_probe_probes(self):
                return []

        host.register(Unmarked(), "unmarked")

        assert doctor.check_installation(host) is False
        assert "! plugin unmarked : function wsss_probe_probes is not marked" in capsys.readouterr().out

    def test_no_plugin_at_all(self, capsys):
        """Without plugins a line says how to get some."""
        from wsss_probe.host import PluginHost

        assert doctor.check_installation(PluginHost()) is True
        assert "no plugins: pip install ./plugins/*/" in capsys.readouterr().out
