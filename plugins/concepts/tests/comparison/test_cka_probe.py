"""CKA in a run: networks that share layers are found, random ones are not, and reasons hold verdicts back."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_concepts.comparison.cka import alignment, represented
from wsss_probe_concepts.comparison.cka_findings import above_floor, findings
from wsss_probe_concepts.comparison.cka_probe import Cka

from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.runs import shuffled

probe = Cka()


def network(seed=0, width=12):
    """Three convolutions with random weights of some seed; ``0`` to ``4`` are its layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [
            *(nn.Conv2d(3, width, 3), nn.ReLU()),
            *(nn.Conv2d(width, width, 3), nn.ReLU()),
            *(nn.Conv2d(width, width, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)),
        ]
        return nn.Sequential(*parts).eval()


def changed_after(net, module):
    """Copy a network with the weights of all modules after one shuffled: the layers up to it are shared."""
    other = copy.deepcopy(net)
    for position, part in enumerate(other):
        if position > module:
            other[position] = shuffled(part, 99)
    return other


def scene_of(networks, images=40, net=None):
    """A scene with further networks; images differ in colour and texture."""
    scene = make_scene(net or network(), images=images)
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand((images, 3, 4, 4), generator=generator)
    pixels = nn.functional.interpolate(coarse, size=tuple(scene.images.shape[2:])) + 0.3 * scene.images
    return replace(scene, images=pixels).with_networks(networks)


def concluded(networks, images=40, controls=2, **changes):
    """Survey, conclude with the host's checks, and give table and findings by name."""
    run = replace(run_in_memory([probe], scene_of(networks, images), controls=controls), **changes)
    conclusion = run.concluded(probe)
    return run, conclusion.summary, {finding.name: finding for finding in conclusion.findings}


class TestCka(ProbeSuite):
    """CKA conforms to the contract, also without further networks."""

    probe = Cka()


class TestCkaOfNetworks(ProbeSuite):
    """CKA conforms to the contract with two further networks."""

    probe = Cka()

    def scene(self):
        """Make a scene with networks."""
        return scene_of({"same": network(), "other": network(5)}, images=8)


def test_without_networks_there_is_nothing():
    """A run of one network has an empty table, no finding and no section."""
    run, table, findings = concluded({})

    assert not table.data_vars
    assert not findings
    assert not list(probe.sections(table, run))


def test_shared_layers_are_found():
    """A network that shares the first two convolutions is alike there and not in the third."""
    run, table, findings = concluded({"tuned": changed_after(network(), 3)})
    pair = table.sel(network="audited", other="tuned")

    np.testing.assert_allclose(pair["cka"].values[:4], 1, atol=1e-9)
    assert float(pair["high"][-1]) < 1
    assert (pair["floor"].values < 0.9999).all()
    finding = findings["alike@audited@tuned"]
    assert finding.verdict == "ok"
    assert finding.effect == pytest.approx(1)
    assert "layers (0, 1, 2, 3" in finding.statement
    assert "falls with depth" in finding.statement
    sections = check_sections(probe.sections(table, run), "cka")
    assert "tuned" in str(sections[0].blocks[1].figure)


def test_networks_that_learned_nothing_are_not_alike():
    """Two random networks are no more alike than either is with a control: no layer, no verdict."""
    for seed in range(3):
        _, _, findings = concluded({"random": network(50 + seed)}, controls=4)
        finding = findings["alike@audited@random"]
        assert finding.verdict == "notice"
        assert float(finding.effect) < 1


def test_the_less_is_shared_the_lower_it_is():
    """First weights mixed with fresh ones: CKA falls, until two networks are as alike as with a control."""
    values, verdicts = [], []
    for share in (0.0, 0.1, 1.0):
        other, fresh = changed_after(network(), 9), network(60)
        other[0].weight.data = (1 - share) * other[0].weight.data + share * fresh[0].weight.data
        _, table, findings = concluded({"mixed": other}, controls=4)
        values.append(float(table["cka"].sel(network="audited", other="mixed")[0]))
        verdicts.append(findings["alike@audited@mixed"].verdict)

    assert values == sorted(values, reverse=True)
    assert verdicts == ["ok", "ok", "notice"]


def test_the_table_is_alignment_of_pooled_features():
    """Numbers are those of the estimator on pooled features, images that one network cannot see left out."""
    scene = scene_of({"other": network(5)}).unreadable([3, 4])
    run = run_in_memory([probe], scene, controls=1)
    table = run.concluded(probe).summary
    kept = np.delete(np.arange(40), [3, 4])
    own, other = (tables.pooled("2").values[kept] for tables in (run, run.networks[0]))
    wanted = alignment([represented(own), represented(other)])

    found = table.sel(layer="2", network="audited", other="other")
    for name, values in (("cka", wanted.estimate), ("low", wanted.low), ("biased", wanted.biased)):
        assert float(found[name]) == pytest.approx(values[0, 1])
    assert int(table["n"]) == 38


def test_the_floor_is_the_highest_living_control():
    """The floor of a pair is the larger of what either has with a control; dead controls do not count."""
    run, table, _ = concluded({"other": network(5)}, controls=2)
    cka = table["cka"].sel(layer="0")
    controls = ["shuffled-0", "shuffled-1"]
    reached = {
        one: max(float(cka.sel(network=name, other=one)) for name in ("audited", "other")) for one in controls
    }
    highest = max(controls, key=reached.get)
    pair = table.sel(layer="0", network="audited", other="other")

    assert float(pair["floor"]) == pytest.approx(reached[highest])
    assert pair["floor_control"].item() == highest
    dead = [replace(c, dead=frozenset({"0"} if c.name == highest else ())) for c in run.controls]
    (lowest,) = set(controls) - {highest}
    again = replace(run, controls=dead).concluded(probe).summary
    assert again["floor_control"].sel(layer="0", network="audited", other="other").item() == lowest


def test_a_network_made_as_a_control_is_no_floor_of_its_own():
    """A further network that is one of the controls is alike with it by definition: left out."""
    net = network()
    _, table, findings = concluded({"random": shuffled(net, 0), "same": net}, controls=2)
    cka = table["cka"].sel(layer="0")
    pair = table.sel(layer="0", network="audited", other="random")

    assert float(cka.sel(network="random", other="shuffled-0")) == pytest.approx(1)
    reached = [
        float(cka.sel(network=one, other=two))
        for one, two in (("audited", "shuffled-0"), ("audited", "shuffled-1"), ("random", "shuffled-1"))
    ]
    assert float(pair["floor"]) == pytest.approx(max(reached))
    assert findings["alike@audited@random"].verdict == "notice"
    assert findings["alike@audited@same"].verdict == "ok"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controls": 0}, "no living control"),
        ({"groups": np.array(["a", "b", "c", "d", "e", "f", "g", "h"] * 5)}, "fewer than 10 groups"),
        ({"not_testable": "AUC too low"}, "not testable here: AUC too low"),
    ],
)
def test_reasons_that_hold_a_verdict_back(change, words):
    """Without controls, with few groups, and on a classifier that is none, there is no ok."""
    _, _, findings = concluded({"tuned": changed_after(network(), 3)}, **change)
    finding = findings["alike@audited@tuned"]

    assert finding.verdict == "notice"
    assert words in finding.statement


def test_networks_are_compared_in_the_order_of_the_run_file():
    """Each further network is compared with the audited one, and with the one before it."""
    _, _, findings = concluded({"random": network(5), "tuned": network(6)})

    assert list(findings) == ["alike@audited@random", "alike@audited@tuned", "alike@tuned@random"]


def test_groups_are_the_unit_of_the_run():
    """Groups of the manifest reach the estimator and the number that is told."""
    groups = np.repeat([f"slide {i}" for i in range(10)], 4)
    run, table, _ = concluded({"other": network(5)}, groups=groups)
    own, other = (tables.pooled("0").values for tables in (run, run.networks[0]))
    wanted = alignment([represented(own, groups), represented(other, groups)])

    assert int(table["groups"]) == 10
    assert float(table["cka"].sel(layer="0", network="audited", other="other")) == pytest.approx(
        wanted.estimate[0, 1]
    )


def test_a_network_that_fails_at_a_layer_costs_the_others_nothing():
    """Features without one finite image are undefined for their pairs alone."""
    broken = network(5)
    broken[2].weight.data[:] = torch.nan
    _, table, findings = concluded({"broken": broken, "other": network(6)})

    assert math.isnan(float(table["cka"].sel(layer="4", network="audited", other="broken")))
    assert math.isfinite(float(table["cka"].sel(layer="4", network="audited", other="other")))
    assert "at the last, 5, linear CKA is not defined" in findings["alike@audited@broken"].statement


def test_alike_in_depth_alone_is_no_verdict_about_early_layers():
    """The verdict is about the first layer; a pair that is alike at others only is told, without an ok."""
    run, table, _ = concluded({"tuned": changed_after(network(), 3)})
    table = table.copy(deep=True)
    table["low"].loc[{"layer": "0"}] = 0.0
    (finding,) = findings(table, run)

    assert "at 5 of 6 layers (1, 2, 3, 4, 5)" in finding.statement
    assert finding.verdict == "notice"


def test_chance_is_a_floor_too():
    """Above every control and below chance is not beyond both."""
    _, table, _ = concluded({"tuned": network(5)})
    pair = table.sel(network="audited", other="tuned").copy(deep=True)
    pair["low"][:], pair["floor"][:], pair["chance"] = 0.1, 0.0, 0.05
    assert above_floor(pair).all()
    assert not above_floor(pair.assign(chance=0.1)).any()
    assert not above_floor(pair.assign(chance=0.2)).any()


def test_a_dead_layer_is_not_alike():
    """Where a further network does not respond to images, nothing is said to be shared."""
    run, _, _ = concluded({"same": network()})
    dead = [replace(one, dead=frozenset({"0", "3"})) for one in run.networks]
    (finding,) = replace(run, networks=dead).concluded(probe).findings

    assert "at 4 of 6 layers (1, 2, 4, 5)" in finding.statement
    assert finding.verdict == "notice"
