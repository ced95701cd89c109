"""A network in which the second layer encodes a concept and the first does not, and networks that do not."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_concepts.vectors.depth_probe import ConceptDepth
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe.testing import InMemoryControl, InMemoryRun, make_scene

EARLY, LATE = "zeta", "alpha"  # the alphabet runs against the order of execution


class Signs(nn.Module):
    """Rectifies both signs: sums of its channels are absolute values, which no linear layer has."""

    def forward(self, maps):
        """Return twice the channels."""
        return torch.cat([maps.relu(), (-maps).relu()], dim=1)


class Twice(nn.Module):
    """Says everything twice and adds nothing."""

    def forward(self, maps):
        """Return twice the channels."""
        return torch.cat([maps, maps], dim=1)


def network(late):
    """Hand the input on, then apply a layer; six logits."""
    parts = OrderedDict([(EARLY, nn.Identity()), (LATE, late)])
    return nn.Sequential(OrderedDict(parts, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())).eval()


class Planted:
    """A scene of 120 images in 40 groups with planted concepts, and what can be made of it."""

    early, late = EARLY, LATE

    def __init__(self, images=120, noise=0.1, seed=0, groups=40):
        random = np.random.default_rng(seed)
        means = random.normal(size=(images, 3))
        pixels = torch.tensor(means, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 8, 8).clone()
        scene = make_scene(network(Signs()), images=images, size=(8, 8))
        self.concepts = {
            "planted/size": np.abs(means[:, 0]) + noise * random.normal(size=images),
            "noise/one": random.normal(size=images),
            "noise/two": random.normal(size=images),
        }
        self.scene = replace(scene, images=pixels).with_concepts(self.concepts)
        self.groups = np.arange(images) % groups
        self.means = means

    def control(self, name="shuffled-0", late=None, dead=()):
        """Make a control that encodes nothing, unless it is given a layer that does."""
        other = self.scene.with_network(network(late or Twice()))
        return InMemoryControl(name, InMemoryRun(other), frozenset(dead))

    def run(self, controls=None, scene=None, networks=(), **more):
        """Make a run with living controls."""
        given = [self.control()] if controls is None else controls
        run = InMemoryRun(scene or self.scene, controls=given, networks=networks, groups=self.groups)
        return replace(run, **more)


def concluded(run, rcv=None, depth=None):
    """Conclude rcv at every layer and all layers together, as a run with all the summaries."""
    rcv = rcv or Rcv(permutations=99, bootstraps=3)
    tables = {probe.name: run.concluded(probe).summary for probe in rcv.split(run.survey)}
    run = replace(run, summaries=tables)
    conclusion = run.concluded(depth or ConceptDepth())
    run = replace(run, summaries={**tables, "concept-depth": conclusion.summary})
    return run, conclusion


@pytest.fixture(scope="session")
def planted():
    """Makes scenes with planted concepts."""
    return Planted


@pytest.fixture(scope="session")
def conclude():
    """Concludes all probes of a run."""
    return concluded


@pytest.fixture(scope="session")
def layers_with():
    """Networks by what their second layer does."""
    return {"signs": network(Signs()), "twice": network(Twice())}
