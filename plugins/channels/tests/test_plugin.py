"""The plugin is found by the host, conforms, and loads no torch before it must."""

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import wsss_probe_channels
from wsss_probe_channels import ChannelF1

from wsss_probe.testing import ProbeSuite

OFFERED = [
    "channel-f1",
    "channel-f1-fine",
    "head-weights",
    "weight-classes",
    "weight-quality",
    "near-equal",
    "same-gap",
    "peaks",
    "dissect",
    "quantiles",
    "ablation",
    "invariance",
    "census",
    "channel-null",
    "channel-null-permuted",
]

SET_BY_THE_HOST = {
    "": {"layer"},
    "head-weights": {"asked"},
    "invariance": {"total", "seed", "receptive_field"},
    "channel-null": {"seed"},
    "channel-null-permuted": {"seed"},
}
"""What ``split`` sets and a run file should not, by probe; the empty name stands for all."""

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def readme_options():
    """Read the options of each probe that the README shows, as a run file gives them."""
    (block,) = re.findall(r"## Options.*?```toml\n(.*?)```", README, flags=re.DOTALL)
    return tomllib.loads(block)["probes"]


class TestChannelF1(ProbeSuite):
    """channel-F1 on the layer's grid conforms to the contract."""

    probe = ChannelF1()


class TestChannelF1AtTheMask(ProbeSuite):
    """channel-F1 on the mask's grid conforms to the contract."""

    probe = ChannelF1(resolution="mask")


def test_the_plugin_is_installed():
    """The entry point leads to the module, and its hook offers the probes, in the order of the report."""
    (found,) = [point for point in entry_points(group="wsss_probe") if point.name == "channels"]

    assert found.load() is wsss_probe_channels
    assert [probe.name for probe in wsss_probe_channels.wsss_probe_probes()] == OFFERED


def test_importing_the_plugin_loads_no_torch():
    """The entry module costs the command line neither torch nor xarray."""
    code = "import sys, wsss_probe_channels; sys.exit('torch' in sys.modules or 'xarray' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_does_not_exist_is_an_attribute_error():
    """The lazy module says which name it does not have."""
    with pytest.raises(AttributeError, match="has no attribute 'Dissection'"):
        _ = wsss_probe_channels.Dissection


def test_every_probe_can_be_imported_by_its_name():
    """The module gives the class of each probe that it offers, and lists it."""
    for probe in wsss_probe_channels.wsss_probe_probes():
        name = type(probe).__name__
        assert name in wsss_probe_channels.__all__
        assert getattr(wsss_probe_channels, name) is type(probe)


def test_the_readme_has_a_row_for_each_probe():
    """Rows are in the order of the report; each says a question, needs, a cost and what misleads."""
    rows = [line.strip("|").split(" | ") for line in README.splitlines() if line.startswith("| `")]

    assert [row[0].strip(" `") for row in rows] == OFFERED
    assert all(len(row) == 5 and all(cell.strip() for cell in row) for row in rows)
    assert all(row[1].count("?") == 1 for row in rows)


def test_the_readme_has_the_options_of_each_probe_with_their_defaults():
    """What a run file may set is there under the probe's name, and nothing else is."""
    shown = readme_options()

    assert list(shown) == OFFERED
    for probe in wsss_probe_channels.wsss_probe_probes():
        hidden = SET_BY_THE_HOST[""] | SET_BY_THE_HOST.get(probe.name, set())
        own = {f.name: getattr(probe, f.name) for f in fields(probe) if f.init and f.name not in hidden}
        assert shown[probe.name] == own


def test_the_readme_is_short():
    """One page is read, ten are not."""
    assert len(README.splitlines()) < 120
