"""The comparison in a run: planted differences are told with their sign, absent ones are bounded."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from wsss_probe_concepts.comparison.comparison_probe import NetworkComparison
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe.errors import UsageError
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

probe = NetworkComparison()

CONCEPTS = ("texture/contrast", "texture/energy", "colour/red")
KINDS = {"audited": "audited", "shuffled-0": "control", "shuffled-1": "control"}


def table(r2, groups=40, seed=0, concepts=CONCEPTS, noise=0.05, dead=()):
    """What ``rcv`` concludes at one layer, for given R² (network to concept to number; else .2)."""
    rng = np.random.default_rng(seed)
    networks, kinds = list(r2), [KINDS.get(name, "network") for name in r2]
    hard = rng.gamma(4.0, 0.25, (groups, len(concepts)))
    own = rng.normal(size=(len(networks), groups, len(concepts)))
    wanted = np.array([[r2[name].get(concept, 0.2) for concept in concepts] for name in networks])
    sse = ((1 - wanted)[:, None] * (1 + noise * own) * hard)[:, None]
    held = 1 - sse.sum(axis=2) / hard.sum(axis=0)
    splits = held[:, :, None] + 0.01 * rng.normal(size=(len(networks), 1, 10, len(concepts)))
    cells = ("network", "model", "concept")
    return xr.Dataset(
        {
            "sse": (("network", "model", "group", "concept"), sse),
            "ssb": (("group", "concept"), hard),
            "r2_split": (("network", "model", "split", "concept"), splits),
            "network_r2_held": (cells, held),
            "network_kind": ("network", np.array(kinds, dtype=object)),
            "network_alive": ("network", [name not in dead for name in networks]),
            "n": ("concept", [groups * 3] * len(concepts)),
        },
        coords={
            "network": np.array(networks, dtype=object),
            "model": np.array(["ridge"], dtype=object),
            "concept": np.array(concepts, dtype=object),
        },
        attrs={"images": groups * 3, "groups": groups},
    )


def networks(**more):
    """R² of every network: controls are poor, further ones as given."""
    return {
        "audited": {},
        "shuffled-0": dict.fromkeys(CONCEPTS, 0.0),
        "shuffled-1": dict.fromkeys(CONCEPTS, 0.05),
        **more,
    }


def further(*names):
    """A scene whose further networks have these names; what they compute plays no part."""
    return make_scene().with_networks({name: make_scene().network for name in names})


def concluded(tables, *names, controls=2, **changes):
    """Conclude over given tables by layer; the run, the summary, and findings by name."""
    run = run_in_memory([probe], further(*names), controls=controls)
    summaries = {f"rcv@{layer}": one for layer, one in tables.items()}
    run = replace(run, summaries=summaries, **changes)
    conclusion = run.concluded(probe)
    return run, conclusion.summary, {finding.name: finding for finding in conclusion.findings}


def layers():
    """The layers of the scene."""
    return list(make_scene().survey.layers)


class TestNetworkComparison(ProbeSuite):
    """The comparison conforms to the contract where there is nothing to compare with."""

    probe = NetworkComparison()
    tables = {f"rcv@{layer}": table(networks()) for layer in layers()}  # noqa: RUF012


class TestNetworkComparisonOfTwo(ProbeSuite):
    """The comparison conforms to the contract with further networks."""

    probe = NetworkComparison()
    tables = {  # noqa: RUF012
        f"rcv@{layer}": table(networks(plain={}, tuned={"texture/contrast": 0.5})) for layer in layers()
    }

    def scene(self):
        """Make a scene with networks."""
        return further("plain", "tuned")

    def run(self, scene, controls=1):
        """Survey with the controls that the tables name."""
        return super().run(scene, min(controls, 2))


# -- what is planted -----------------------------------------------------------------------------


def test_a_planted_difference_is_told():
    """Contrast is encoded better by the tuned network at the last layer only, and the finding says so."""
    first, *_, last = layers()
    tuned = networks(plain={}, tuned={"texture/contrast": 0.4})
    tables = {layer: table(networks(plain={}, tuned={})) for layer in layers()} | {last: table(tuned)}
    run, summary, findings = concluded(tables, "plain", "tuned")

    finding = findings["difference@tuned@plain@texture/contrast"]
    assert finding.verdict == "ok"
    assert finding.effect == pytest.approx(0.2, abs=0.03)
    assert finding.interval[0] > 0
    assert f"tuned encodes texture/contrast better than plain at {last}: +0.2" in finding.statement
    assert first not in finding.statement.split("(")[0]
    assert "worse" not in finding.statement
    turned = findings["difference@audited@tuned@texture/contrast"]
    assert "audited encodes texture/contrast worse than tuned" in turned.statement
    assert turned.effect < 0
    assert set(findings) == {
        *("differences@audited@plain", "differences@audited@tuned", "differences@tuned@plain"),
        *("difference@audited@tuned@texture/contrast", "difference@tuned@plain@texture/contrast"),
    }
    sections = check_sections(probe.sections(summary, run), probe.name)
    assert sections[0].blocks[1].data["concept"].nunique() == 3


def test_better_here_and_worse_there_is_told_in_one_sentence():
    """One finding a concept names the layers of either sign."""
    first, *_, last = layers()
    tables = {layer: table(networks(tuned={"colour/red": 0.2})) for layer in layers()}
    tables[first] = table(networks(tuned={"colour/red": 0.5}))
    tables[last] = table(networks(tuned={"colour/red": 0.1}))
    _, _, findings = concluded(tables, "tuned")
    statement = findings["difference@audited@tuned@colour/red"].statement

    assert f"better than tuned at {last}: +0.098" in statement
    assert re.search(rf"worse than tuned at {re.escape(first)}: -0\.(29|30)\d", statement)


def test_nothing_is_found_where_nothing_is():
    """Equal networks differ nowhere, and the sentence bounds what may have been missed."""
    tables = {layer: table(networks(other={}), seed=seed) for seed, layer in enumerate(layers())}
    _, summary, findings = concluded(tables, "other")

    assert list(findings) == ["differences@audited@other"]
    finding = findings["differences@audited@other"]
    count = 3 * len(layers())
    assert f"differ in held-out R² (ridge) in 0 of {count} comparisons" in finding.statement
    farthest = float(np.fmax(np.abs(summary["low"]), np.abs(summary["high"])).max())
    said = float(re.search(r"differences beyond ([\d.]+) are excluded", finding.statement)[1])
    assert farthest <= said < farthest + 0.01
    assert finding.effect == 0


def test_noise_hides_a_difference():
    """The planted difference of .02 is found with little noise of its own and missed with much."""
    for noise, found in ((0.02, True), (1.0, False)):
        tables = {layer: table(networks(tuned={"colour/red": 0.22}), noise=noise) for layer in layers()}
        _, _, findings = concluded(tables, "tuned")
        assert ("difference@audited@tuned@colour/red" in findings) == found


def test_q_is_over_concepts_layers_and_pairs():
    """A p that is small alone is not small among all: q is that of Benjamini and Hochberg over the table."""
    tables = {layer: table(networks(plain={}, tuned={}), seed=seed) for seed, layer in enumerate(layers())}
    _, summary, _ = concluded(tables, "plain", "tuned")
    p = np.sort(summary["p"].values.ravel())
    slow = [min(p[j] * len(p) / (j + 1) for j in range(i, len(p))) for i in range(len(p))]

    np.testing.assert_allclose(np.sort(summary["q"].values.ravel()), slow)
    assert summary["p"].dims == ("layer", "pair", "concept")


# -- controls and reasons that hold a verdict back ---------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controls": 0}, "no living control"),
        ({"not_testable": "AUC too low"}, "not testable here: AUC too low"),
    ],
)
def test_reasons_that_hold_a_verdict_back(change, words):
    """Without controls, and on a classifier that is none, a difference is told without a verdict."""
    tables = {layer: table(networks(tuned={"colour/red": 0.5})) for layer in layers()}
    _, _, findings = concluded(tables, "tuned", **change)
    finding = findings["difference@audited@tuned@colour/red"]

    assert finding.verdict == "notice"
    assert words in finding.statement


def test_few_groups_hold_a_verdict_back():
    """Nine groups find a large difference and give no verdict."""
    tables = {layer: table(networks(tuned={"colour/red": 0.8}), groups=9) for layer in layers()}
    _, _, findings = concluded(tables, "tuned")
    finding = findings["difference@audited@tuned@colour/red"]

    assert finding.verdict == "notice"
    assert "fewer than 10 groups" in finding.statement


def test_a_difference_below_the_controls_is_no_verdict():
    """Where a random network encodes the concept as well, the better network has learned nothing of it."""
    as_good = networks(tuned={"colour/red": 0.5})
    as_good["shuffled-1"] = {"colour/red": 0.5}
    _, summary, findings = concluded({layer: table(as_good) for layer in layers()}, "tuned")
    finding = findings["difference@audited@tuned@colour/red"]

    assert finding.verdict == "notice"
    assert "not above every living control" in finding.statement
    assert not summary["above_controls"].sel(concept="colour/red").any()
    dead = {layer: table(as_good, dead=("shuffled-1",)) for layer in layers()}
    _, _, findings = concluded(dead, "tuned")
    assert findings["difference@audited@tuned@colour/red"].verdict == "ok"


def test_the_better_network_is_held_against_the_controls():
    """It does not matter that the worse of the two is no better than a random one."""
    tables = {
        layer: table(networks(audited={"colour/red": 0.0}, tuned={"colour/red": 0.5})) for layer in layers()
    }
    _, summary, findings = concluded(tables, "tuned")

    assert findings["difference@audited@tuned@colour/red"].verdict == "ok"
    assert summary["above_controls"].sel(concept="colour/red").all()


def test_a_dead_network_is_not_tested():
    """Where one of a pair does not respond to images there is no p, and it is counted."""
    tables = {layer: table(networks(tuned={"colour/red": 0.5}), dead=("tuned",)) for layer in layers()}
    _, summary, findings = concluded(tables, "tuned")

    assert np.isnan(summary["p"].values).all()
    count = 3 * len(layers())
    assert f"{count} of {count} are not tested" in findings["differences@audited@tuned"].statement


def test_a_concept_that_is_not_estimable_is_counted():
    """NaN errors of one concept are no zeros: the others are compared, and the number is told."""
    tables = {layer: table(networks(tuned={"colour/red": 0.5})) for layer in layers()}
    for one in tables.values():
        one["sse"].loc[{"network": "tuned", "concept": "texture/energy"}] = np.nan
        one["r2_split"].loc[{"network": "tuned", "concept": "texture/energy"}] = np.nan
    _, summary, findings = concluded(tables, "tuned")

    assert np.isnan(summary["difference"].sel(concept="texture/energy").values).all()
    count = len(layers())
    assert f"{count} of {3 * count} are not tested" in findings["differences@audited@tuned"].statement
    assert "difference@audited@tuned@colour/red" in findings


# -- with the regressions themselves -------------------------------------------------------------------


def test_on_regressions_of_two_networks():
    """A concept that one network computes and the other cannot see is encoded better by the first."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    blind = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    blind[0].weight.data[:, 0] = 0  # sees no red
    scene = make_scene(own.eval(), images=60)
    pixels = torch.rand(60, 3, 1, 1, generator=torch.Generator().manual_seed(1)) * torch.ones(60, 3, 16, 24)
    red = pixels[:, 0].mean(dim=(1, 2)).numpy()
    scene = replace(scene, images=pixels).with_concepts(
        {"colour/red": red, "noise/none": np.sin(np.arange(60) * 99.0)}
    )
    scene = scene.with_networks({"blind": blind.eval()})
    run = run_in_memory([probe], scene, controls=2)
    parts = Rcv(permutations=19, bootstraps=5).split(scene.survey)
    run = replace(run, summaries={part.name: run.concluded(part).summary for part in parts})
    conclusion = run.concluded(probe)
    findings = {finding.name: finding for finding in conclusion.findings}

    cell = conclusion.summary.sel(pair="audited less blind", concept="colour/red", layer="0")
    assert float(cell["difference"]) == pytest.approx(float(cell["first_r2"]) - float(cell["second_r2"]))
    assert float(cell["difference"]) > 0.5
    assert "difference@audited@blind@colour/red" in findings
    assert "difference@audited@blind@noise/none" not in findings


def test_without_concepts_or_networks_there_is_nothing():
    """No concept, no further network, or a model that was not fitted: empty, without a section."""
    empty = {layer: xr.Dataset() for layer in layers()}
    for run, summary, findings in (
        concluded(empty, "tuned"),
        concluded({layer: table(networks()) for layer in layers()}),
    ):
        assert not summary.data_vars
        assert not findings
        assert not list(probe.sections(summary, run))


def test_another_model_is_refused():
    """A model that rcv does not know is one clear line."""
    with pytest.raises(UsageError, match="lasso"):
        NetworkComparison(model="lasso")


def test_a_fit_that_goes_astray_does_not_lead():
    """An R² far below 0 counts as not encoded: it neither comes first nor stretches the figure."""
    wild = {"texture/energy": 0.3, "colour/red": 0.8}
    tables = {
        layer: table(networks(audited={"texture/energy": -20.0, "colour/red": 0.0}, tuned=wild))
        for layer in layers()
    }
    run, summary, findings = concluded(tables, "tuned")
    told = [name.rpartition("@")[2] for name in findings if name.startswith("difference@")]

    assert told.index("colour/red") < told.index("texture/energy")
    said = findings["difference@audited@tuned@texture/energy"].statement
    assert said.count("(the lesser below 0)") == len(layers())
    assert "below 0" not in findings["difference@audited@tuned@colour/red"].statement.partition(";")[0]
    (section,) = check_sections(probe.sections(summary, run), probe.name)
    drawn = section.blocks[1].figure["data"]
    assert min(min(trace["y"]) for trace in drawn if "y" in trace) == -1
    assert "beyond 1 are cut off" in section.blocks[1].caption
