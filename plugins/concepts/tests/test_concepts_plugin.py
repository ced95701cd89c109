"""The plugin as a whole: what it offers, and that offering costs nothing."""

import subprocess
import sys

import pytest
import wsss_probe_concepts

from wsss_probe.host import PluginHost


@pytest.fixture
def host():
    """Make a host with this plugin alone."""
    made = PluginHost(strict=True)
    made.load(only=("concepts",))
    return made


def test_measures(host):
    """Texture, shape, stain and colour are offered, all of them unasked."""
    offered = host.collect_concept_measures()

    assert {o.name for o in offered} == {"colour", "cooccurrence", "haralick", "morphology", "stain"}
    assert all(o.item.default for o in offered)


def test_probes(host):
    """Vectors, their relevance, classification vectors and the comparison of networks are offered."""
    names = {offered.name for offered in host.collect_probes()}

    assert {"rcv", "concept-depth", "concept-relevance", "tcav", "network-comparison", "cka"} <= names


def test_names_lead_to_classes():
    """Every class can be had from the package by its name; another name is an AttributeError."""
    probe = next(iter(wsss_probe_concepts._PROBES))

    assert getattr(wsss_probe_concepts, probe).__name__ == probe
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        wsss_probe_concepts.Nothing  # noqa: B018


def test_importing_loads_nothing_heavy():
    """The entry module needs neither torch nor what the measures need."""
    code = (
        "import sys, wsss_probe_concepts; "
        "print({'torch', 'mahotas', 'skimage', 'sklearn', 'plotly', 'captum'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
