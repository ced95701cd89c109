"""The table of networks: how well each classifies by its own logits, and which layers respond."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_concepts.comparison.networks_probe import Networks

from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

probe = Networks()


def reading(sign):
    """A network whose second logit is the redness of the image, with a sign."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net[0].weight[0, 0] = net[0].weight[1, 1] = 1
        net[4].weight[1, 0] = sign
    return net.eval()


def scene():
    """Images whose class, a red rectangle or none, a network can read off."""
    return make_scene(reading(1), images=30).with_networks({"wrong": reading(-1), "still": reading(0)})


def slow_auc(scores, positive):
    """Share of pairs of a positive and a negative that are in order; equal ones count half."""
    pairs = [(a, b) for a in scores[positive] for b in scores[~positive]]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


class TestNetworks(ProbeSuite):
    """The table conforms to the contract without further networks."""

    probe = Networks()


class TestNetworksOfThree(ProbeSuite):
    """The table conforms to the contract with further networks."""

    probe = Networks()

    def scene(self):
        """Make a scene with networks."""
        return scene().first(8)


def test_each_network_is_judged_by_its_own_logits():
    """The audited network is right, its negative wrong, and a constant one guesses; by loops."""
    run = run_in_memory([probe], scene(), controls=1)
    table = run.concluded(probe).summary

    assert table["network"].values.tolist() == ["audited", "wrong", "still", "shuffled-0"]
    assert table["kind"].values.tolist() == ["audited", "network", "network", "control"]
    assert table["auc"].values[:3] == pytest.approx([1, 0, 0.5])
    positive = scene().labels[:, 1].numpy()
    for at, network in enumerate([run, *run.networks, *run.controls]):
        logits = network.logits.values
        wanted = slow_auc(logits[:, 1] - logits[:, 0], positive)
        assert float(table["auc"][at]) == pytest.approx(wanted, abs=1e-6)
    assert (table["auc_low"] <= table["auc"]).all()
    assert table["n"].values.tolist() == [30] * 4
    assert run.concluded(probe).findings == ()


def test_dead_layers_are_named():
    """A layer that does not respond is named in the section."""
    run = run_in_memory([probe], scene(), controls=0)
    dead = [replace(network, dead=frozenset({"0"})) for network in run.networks]
    run = replace(run, networks=dead)
    table = run.concluded(probe).summary
    (section,) = check_sections(probe.sections(table, run), probe.name)

    rows = section.blocks[0].frame.set_index("network")["layers that respond"]
    assert rows["audited"] == "all"
    assert rows["wrong"] == "1 of 2; not 0"


def test_without_labels_nothing_is_known_of_the_classifier():
    """AUC is NaN without labels, and the section says that it is not known."""
    plain = scene()
    run = run_in_memory([probe], replace(plain, labels=torch.zeros_like(plain.labels)))
    table = run.concluded(probe).summary

    assert np.isnan(table["auc"].values).all()
    (section,) = probe.sections(table, run)
    assert section.blocks[0].frame["AUC"].tolist() == ["not known"] * 4


def test_without_further_networks_there_is_nothing():
    """A run of one network has no table of networks."""
    run = run_in_memory([probe], make_scene())
    conclusion = run.concluded(probe)

    assert not conclusion.summary.data_vars
    assert not list(probe.sections(conclusion.summary, run))
