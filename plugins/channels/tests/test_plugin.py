"""The plugin is found by the host, conforms, and loads no torch before it must."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import wsss_probe_channels
from wsss_probe_channels import ChannelF1

from wsss_probe.testing import ProbeSuite


class TestChannelF1(ProbeSuite):
    """channel-F1 on the layer's grid conforms to the contract."""

    probe = ChannelF1()


class TestChannelF1AtTheMask(ProbeSuite):
    """channel-F1 on the mask's grid conforms to the contract."""

    probe = ChannelF1(resolution="mask")


def test_the_plugin_is_installed():
    """The entry point leads to the module, and its hook offers the probe."""
    (found,) = [point for point in entry_points(group="wsss_probe") if point.name == "channels"]

    assert found.load() is wsss_probe_channels
    assert [probe.name for probe in wsss_probe_channels.wsss_probe_probes()] == ["channel-f1"]


def test_importing_the_plugin_loads_no_torch():
    """The entry module costs the command line neither torch nor xarray."""
    code = "import sys, wsss_probe_channels; sys.exit('torch' in sys.modules or 'xarray' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_does_not_exist_is_an_attribute_error():
    """The lazy module says which name it does not have."""
    with pytest.raises(AttributeError, match="has no attribute 'Dissection'"):
        _ = wsss_probe_channels.Dissection


def test_the_readme_names_everything_that_is_offered():
    """A reader of the README meets the probe and its options by name."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

    assert all(f"`{name}`" in readme for name in ("channel-f1", "resolution", "strong", "chosen_on"))
