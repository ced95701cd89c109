"""The linter on how a network is built: reuse, functions, in-place operations, train mode."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.layers import describe_layers
from wsss_probe.linter import CHECKS, Known, examine, lint
from wsss_probe.testing import models


def test_a_healthy_network_has_nothing(make, linted):
    """Nothing to find: no finding at all on a network that is as it should be."""
    assert linted(make()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_other_healthy_networks_have_nothing(make, linted, seed):
    """No false alarm with other weights."""
    assert linted(make(seed=seed, channels=16)) == {}


def test_a_reused_module_is_counted_and_its_calls_are_named(make, linted):
    """A ReLU that runs twice: which call is meant, and how to say the other."""
    found = linted(make(make.reused), audited=["relu1#1"])["reused-modules"]

    assert found.verdict == "notice"
    assert "relu1 (2 times) runs more than once" in found.statement
    assert "; of them relu1#1 is audited" in found.statement
    assert "relu1#0 names the first" in found.remedy
    assert found.effect == 1


def test_functions_are_seen_where_they_are_called(make, linted):
    """A functional ReLU and a clamp at zero are activations that no tap reaches."""
    found = linted(make(make.functional), audited=["bn2"])["functional-activations"]

    assert found.verdict == "notice"
    assert "relu in 1 module: the network itself" in found.statement


def test_activations_of_modules_are_no_functions(linted):
    """Modules that are activations, PReLU with its weight among them, are what they should be."""
    kinds = (
        nn.ReLU(),
        nn.ReLU6(),
        nn.GELU(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.PReLU(4),
    )
    parts = [part for kind in kinds for part in (nn.Conv2d(4, 4, 1), kind)]
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )

    assert "functional-activations" not in linted(network.eval(), audited=["0"])


def test_a_users_own_activation_module_is_no_function(linted):
    """A module without weights whose forward is an activation can be tapped, whatever it calls."""

    class Swish(nn.Module):
        def forward(self, maps):
            return maps * torch.sigmoid(maps)

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Swish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert "functional-activations" not in linted(network.eval(), audited=["0"])


def test_a_clamp_to_a_range_is_no_activation(make, linted):
    """Values cut to a range, as a network may do with its input, are no rectifier."""
    network = make()
    whole = network.forward
    network.forward = lambda images: whole(images.clamp(0, 5))

    assert "functional-activations" not in linted(network, audited=["conv1"])


def test_what_runs_outside_python_could_not_be_looked_at(images):
    """A scripted part hides its functions; that is said, and nothing is claimed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        inner = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    network = nn.Sequential(inner, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = {s.name: s for d in examine(network, images, ()) for s in d.suspicions}

    assert "Functions inside 0 could not be looked at" in found["functional-activations-unchecked"].statement


def test_an_overwritten_layer_is_named_if_it_is_audited(make, linted):
    """What overwrites an audited output is said; elsewhere it does not matter."""
    network = make(make.overwriting)

    assert "bn2 is overwritten in place" in linted(network, audited=["bn2"])["overwritten-layers"].statement
    assert "overwritten-layers" not in linted(network, audited=["bn1"])


def test_parts_in_train_mode_are_named(make, linted):
    """A network handed over as it is while fine-tuning: which parts would answer differently each time."""
    network = make()
    network.train()
    network.bn1.eval()
    found = linted(network)["train-mode"]

    assert found.verdict == "notice"
    assert "1 normalisation (bn2) and 1 dropout (drop)" in found.statement
    assert found.effect == 2


def test_train_mode_without_consequences_is_nothing(make, linted):
    """A root in train mode, and a dropout of nothing, change no answer."""
    network = make()
    network.drop.p = 0.0
    network.drop.train()
    network.training = network.relu1.training = True

    assert linted(network) == {}


def test_frozen_parameters_are_nothing(make, linted):
    """Parameters that need no gradient are no fault: the pass takes its gradients at the maps."""
    network = make()
    network.requires_grad_(False)

    assert linted(network) == {}


NETWORKS = {
    "planted_gap": set(),
    "inplace": {"fresh-statistics"},
    "reused": {"reused-modules"},
    "branched": set(),
    "one_channel": set(),
    "multi_logit": set(),
    "single_logit": set(),
    "tuple_output": set(),
    "flat_head": set(),
    "dead_channel": {"fresh-statistics", "silent-channels", "silent-rectifiers"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tiny_networks_have_what_they_were_made_with(linted, name):
    """Each network of the testing kit has the trouble it was made for, and no other warning."""
    network = getattr(models, name)()
    channels = 1 if name == "one_channel" else 3
    side = 8 if name == "flat_head" else 16
    images = torch.rand((8, channels, side, side), generator=torch.Generator().manual_seed(0))

    found = linted(network, images)

    assert NETWORKS[name] <= set(found)
    assert {n for n, s in found.items() if s.verdict == "warning"} <= NETWORKS[name]


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_is_as_it_was(make, images, broken):
    """Flags, hooks, buffers, gradients and random state are those from before, also where a pass fails."""
    network = make()
    network.train()
    network.bn1.eval()
    network.head.weight.grad = torch.ones_like(network.head.weight)
    layers = describe_layers(network, images[:1])
    if broken:
        network.relu2.forward = lambda maps: maps.no_such_thing
    before, numbers = fingerprint(network), torch.get_rng_state()

    found = examine(network, images, layers, Known(("conv2",)))

    assert before.differences(fingerprint(network)) == ()
    assert torch.equal(numbers, torch.get_rng_state())
    assert len(found) == len(CHECKS)


def test_an_error_inside_a_check_is_a_finding(make, images):
    """A network that fails on the examples: what needs a pass could not be checked, the rest is."""
    network = make().train()
    layers = describe_layers(network, images[:1])
    network.relu2.forward = lambda maps: maps.no_such_thing
    found = {finding.name: finding for finding in lint(network, images, layers, Known(("conv2",)))}

    assert found["probabilities-unchecked"].statement.startswith(
        "Whether the outputs are logits could not be checked: AttributeError: "
    )
    assert found["train-mode"].verdict == "notice"
    assert {finding.verdict for finding in found.values()} == {"notice"}


def test_every_check_has_a_line_in_the_docs():
    """Every check and every finding that the linter can make is explained, with why and remedy."""
    text = (Path(__file__).parents[2] / "docs" / "linter.md").read_text(encoding="utf-8")

    assert [name for name, _, _ in CHECKS if f"`{name}`" not in text] == []


def test_findings_are_sentences(make, linted):
    """Statements end in a full stop, remedies too, and stay on one line."""
    network = make(make.reused).train()
    network.bn1.reset_running_stats()
    found = linted(network, network_examples()).values()

    assert len(found) >= 4
    for suspicion in found:
        assert suspicion.statement.endswith(".")
        assert suspicion.remedy.endswith(".")
        assert "\n" not in suspicion.finding.statement


def network_examples():
    """Images far from 0 and 1."""
    return torch.rand((8, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 255
