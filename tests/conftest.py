"""Plugins made in a test, and audits prepared with them."""

# ruff: noqa: D102  # methods of the contracts

import pytest
import torch

from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import DefinitionCard, Explainer, Needs, Probe
from wsss_probe.hookspecs import hookimpl
from wsss_probe.host import PluginHost
from wsss_probe.images import TensorSource
from wsss_probe.report import loads
from wsss_probe.testing.models import multi_logit


class Plugin:
    """A plugin that offers what it is given."""

    def __init__(self, probes=(), explainers=()):
        self._probes, self._explainers = probes, explainers

    @hookimpl
    def wsss_probe_probes(self):
        return list(self._probes)

    @hookimpl
    def wsss_probe_explainers(self):
        return list(self._explainers)


class Looking(Probe):
    """A probe made of functions; its name and needs are given."""

    def __init__(self, name, observe=None, conclude=None, needs=None, split=None):
        self.name, self._conclude = name, conclude
        self._needs, self._split = needs or Needs(), split
        self._observe = observe

    def needs(self, survey):
        return self._needs(survey) if callable(self._needs) else self._needs

    def split(self, survey):
        return (self,) if self._split is None else self._split(survey)

    def observe(self, batch):
        return self._observe(batch) if self._observe else None

    def conclude(self, run):
        return self._conclude(run)


class TimesGradient(Explainer):
    """Evidence is activation times gradient, summed over channels."""

    name = "timesgradient"
    card = DefinitionCard("Times gradient", "sum_c a_c g_c", "Nobody (2000), Nothing")
    gradients = True

    def attribute(self, batch, layer, target):
        return (batch.activations[layer] * batch.gradients[layer, target]).sum(dim=1)


@pytest.fixture
def looking():
    """Make a probe of functions: ``looking(name, observe, conclude, needs, split)``."""
    return Looking


@pytest.fixture
def times_gradient():
    """The class of an explainer, so that tests can derive others."""
    return TimesGradient


@pytest.fixture
def hosting():
    """Make a plugin host with one plugin ``t`` that offers the given things."""

    def make(probes=(), explainers=(), strict=False):
        host = PluginHost(strict=strict)
        host.register(Plugin(probes, explainers), "t", version="1")
        return host

    return make


@pytest.fixture
def reported(hosting, tmp_path):
    """Audit images in memory; gives the stored report."""

    def make(probes=(), explain=(), net=None, images=None, **options):
        host = hosting(probes, explain)
        source = (
            TensorSource(torch.rand((6, 3, 16, 24), generator=torch.Generator().manual_seed(0)))
            if images is None
            else images
        )
        asked = AuditOptions(**{"layers": ("features",), "controls": "none", **options})
        prepared = prepared_audit(asked, host, net or multi_logit(2), source)
        outcome = perform(prepared, tmp_path / "run", "wsss-probe audit --model 'a b'")
        return loads((outcome.folder / "report.json").read_text())

    return make
