"""Weight classes find planted agreement, find nothing where nothing is, and say what they cannot say."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from wsss_probe_channels import ChannelF1
from wsss_probe_channels.weights.head_weights import HeadWeights
from wsss_probe_channels.weights.peaks import Peaks
from wsss_probe_channels.weights.weight_classes import WeightClasses

from wsss_probe import Head
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_observation, check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

CLASSES = ("no gland", "gland")


class TestWeightClasses(ProbeSuite):
    """Weight classes conform to the contract, behind the probes whose tables they read."""

    probe = WeightClasses(permutations=19)
    tables = dict.fromkeys((f"{n}@features" for n in ("peaks", "head-weights", "channel-f1")), xr.Dataset())

    def run(self, scene, controls=1):
        """Survey with the probes before, and conclude them first."""
        before = [HeadWeights(match={"class 1": "rectangle"}), Peaks(), ChannelF1()]
        parts = [part for probe in before for part in probe.split(scene.survey) if "@features" in part.name]
        parts = [part for part in parts if part.name.endswith("@features")]
        run = run_in_memory([*parts, *self.parts(scene)], scene, controls=controls)
        summaries = {part.name: run.concluded(part).summary for part in parts}
        return replace(run, summaries=summaries)


# -- runs of planted maps -----------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """One network: its rows, sums and head."""

    tables: dict
    sums: dict
    survey: object
    name: str = ""
    living: bool = True

    def rows(self, probe):
        """Rows of a probe."""
        return self.tables[probe]

    def partial(self, probe):
        """Sums of a probe."""
        return self.sums[probe]

    def alive(self, layer):
        """Whether this control lives."""
        assert layer == "conv"
        return self.living


@dataclass(frozen=True)
class Finished(Net):
    """A finished survey of one layer."""

    summaries: dict = field(default_factory=dict)
    masks: object = None
    groups: object = None
    controls: tuple = ()
    not_testable: str = ""

    def summary(self, probe):
        """Summary of a probe."""
        return self.summaries[probe]

    @property
    def images(self):
        """The manifest."""
        return pd.DataFrame({"name": [f"image {n}" for n in range(len(self.masks))]})

    def picture(self, index):
        """A grey picture, or None for the first image."""
        return None if index == 0 else np.full((32, 32, 3), 128, dtype=np.uint8)

    def mask(self, index):
        """The mask on the input grid."""
        return self.masks[index].numpy()


def net(made, maps, masks, weight, mask_classes=("gland",), classes=CLASSES, **names):
    """Let the probes before observe maps and masks."""
    head = Head(True, "conv", weight=weight)
    survey = replace(made.survey(maps.shape[1], mask_classes), classes=classes, head=head)
    tables, sums = {}, {}
    for probe in (Peaks(layer="conv"), ChannelF1(layer="conv")):
        seen = check_observation(probe.observe(made.batch(maps, masks, mask_classes)), len(maps), probe.name)
        tables[probe.name], sums[probe.name] = seen.rows, seen.partial
    return Net(tables, sums, survey, **names)


def finished(made, maps, masks, weight, *, match=None, controls=(), groups=None, not_testable="", **more):
    """Make a run, conclude head-weights, and hand over the rest."""
    own = net(made, maps, masks, weight, **more)
    run = Finished(own.tables, own.sums, own.survey, masks=masks, controls=controls, groups=groups)
    (part,) = HeadWeights(match=match or {}).split(own.survey)
    weights = check_conclusion(part.conclude(run), part.name).summary
    return replace(run, summaries={part.name: weights}, not_testable=not_testable)


def concluded(run, **options):
    """Conclude and make sections, with the host's checks."""
    probe = WeightClasses(layer="conv", **{"permutations": 199, **options})
    conclusion = check_conclusion(probe.conclude(run), probe.name)
    check_sections(probe.sections(conclusion.summary, run), probe.name)
    return conclusion


def planted(made, seed=0, *, level=0.3, wrong=0, images=40):
    """Eight channels for gland, eight for what is left, eight of noise; one distractor that is sharp.

    Weights agree with the maps but for the first ``wrong`` channels of each kind; those of noise are
    drawn.
    """
    masks, random = made.blobs(images, seed), np.random.default_rng(seed)
    maps = made.noise(images, 25, seed + 1)
    inverse = torch.where(masks == 0, -2, 0)
    for channel in range(8):
        maps = made.plant(maps, masks, channel, level, seed + 10 + channel)
        maps = made.plant(maps, inverse, channel + 8, level, seed + 30 + channel)
    maps = made.plant(maps, made.blobs(images, seed + 99), 24, 0.0)
    weight = random.normal(0, 0.1, (2, 25))
    favoured = np.array([1] * 8 + [0] * 8)
    favoured[:wrong], favoured[8 : 8 + wrong] = 0, 1
    weight[favoured, np.arange(16)] = weight[:, :16].max(axis=0) + 0.1
    return maps, masks, weight


def noise_controls(made, masks, number=2, channels=25):
    """Controls of noise with drawn weights."""
    return tuple(
        net(made, made.noise(len(masks), channels, 70 + i), masks, weight, name=f"shuffled-{i}")
        for i, weight in enumerate(np.random.default_rng(5).normal(0, 0.1, (number, 2, channels)))
    )


# -- planted truth -----------------------------------------------------------------------------


def test_planted_agreement_is_found(made):
    """Channels that lie in the mask of their weight's class: both statements hold, for both classes."""
    maps, masks, weight = planted(made)
    run = finished(made, maps, masks, weight, controls=noise_controls(made, masks))

    conclusion = concluded(run)
    summary, findings = conclusion.summary, {finding.name: finding for finding in conclusion.findings}

    assert set(findings) == {f"weight-{what}/{c}@conv" for what in ("hits", "crossing") for c in CLASSES}
    gland = summary.sel({"class": "gland"})
    assert gland["region"].item() == "gland"
    assert gland["hit_rate"].item() > gland["area"].item() + 0.3
    assert gland["p"].item() == 1 / 200
    assert gland["crossed"].item() < 0.3
    assert summary["screened_class"].values[:16].tolist() == [1] * 8 + [0] * 8
    hits = findings["weight-hits/gland@conv"]
    assert hits.verdict == "ok"
    assert hits.interval[0] > 0
    assert "2 controls reach" in hits.statement
    assert "no p below 0.33" in hits.statement
    assert findings["weight-crossing/gland@conv"].verdict == "ok"
    assert "weights that say nothing would give" in findings["weight-crossing/gland@conv"].statement


def test_crossed_weights_are_counted(made):
    """Three of eight channels of each kind with the wrong weight: the rate among the best says so."""
    maps, masks, weight = planted(made, wrong=3)
    summary = concluded(finished(made, maps, masks, weight), best=8).summary

    assert summary["best_crossed"].values.tolist() == [3 / 8, 3 / 8]
    table = summary["contingency"].sel({"screened": "gland"})
    assert table.sel({"larger_weight": "no gland"}).item() >= 3
    assert summary["contingency"].sum().item() == 25


def test_noise_hides_the_agreement(made):
    """At moderate noise p is small; where noise is many times the signal the test fails to see it."""
    clear, hidden = (
        concluded(finished(made, *planted(made, level=level))).summary["p"].sel({"class": "gland"}).item()
        for level in (0.3, 30.0)
    )

    assert clear == 1 / 200
    assert hidden > 0.05


def test_nothing_is_ok_where_weights_say_nothing(made):
    """Drawn weights over planted maps: of 12 seeds hardly one statement is ok, and none of all."""
    good = []
    for seed in range(12):
        maps, masks, _ = planted(made, seed, images=12)
        weight = np.random.default_rng(seed + 500).normal(0, 0.1, (2, 25))
        controls = noise_controls(made, masks, 1)
        found = concluded(finished(made, maps, masks, weight, controls=controls), permutations=49)
        good += [finding.verdict == "ok" for finding in found.findings]

    assert sum(good) <= 4  # of 48; 5 % at most


def test_rates_match_loops(made):
    """Hit rates and areas over all images are those of loops over the rows of peaks."""
    maps, masks, weight = planted(made, images=10)
    run = finished(made, maps, masks, weight)
    summary = concluded(run, permutations=9).summary

    rows, favoured = run.rows("peaks@conv"), weight.argmax(axis=0)
    for c, (name, region) in enumerate(zip(CLASSES, ("not gland", "gland"), strict=True)):
        inside, area = (rows[v].sel({"class": region}).values for v in ("inside", "area"))
        points = [
            (float(inside[n, k]), float(area[n]))
            for n in range(10)
            for k in range(25)
            if favoured[k] == c and 0 < area[n] < 1 and not np.isnan(inside[n, k])
        ]
        row = summary.sel({"class": name})
        assert row["points"].item() == len(points)
        assert row["hit_rate"].item() == pytest.approx(sum(p[0] for p in points) / len(points))
        assert row["area"].item() == pytest.approx(sum(p[1] for p in points) / len(points))


# -- controls and verdicts ----------------------------------------------------------------------


def verdicts(conclusion):
    """Verdicts by name."""
    return {finding.name.split("@")[0]: finding.verdict for finding in conclusion.findings}


def test_a_control_that_does_as_well_takes_the_verdict(made):
    """One living control with the same maps and weights is enough."""
    maps, masks, weight = planted(made)
    twin = net(made, maps, masks, weight, name="shuffled-9")
    others = noise_controls(made, masks)

    conclusion = concluded(finished(made, maps, masks, weight, controls=(twin, *others)))

    assert set(verdicts(conclusion).values()) == {"notice"}
    row = conclusion.summary
    np.testing.assert_allclose(row["control_hit_rate"].values[0], row["hit_rate"].values)
    np.testing.assert_allclose(row["control_crossed"].values[0], row["crossed"].values)


def test_no_living_control_means_no_verdict(made):
    """Without a control, with dead ones, or with one that has no linear head nothing is ok."""
    maps, masks, weight = planted(made)
    dead = replace(noise_controls(made, masks, 1)[0], living=False)
    lost = replace(dead, living=True, survey=replace(dead.survey, head=Head(False)))
    for controls in ((), (dead,), (lost,)):
        conclusion = concluded(finished(made, maps, masks, weight, controls=controls))
        assert set(verdicts(conclusion).values()) == {"notice"}
        assert all("no living control" in finding.statement for finding in conclusion.findings)


def test_a_classifier_that_cannot_be_tested_takes_the_verdict(made):
    """The same numbers stand there with the reason, and nothing is ok."""
    maps, masks, weight = planted(made)
    run = finished(made, maps, masks, weight, controls=noise_controls(made, masks), not_testable="AUC .6")

    conclusion = concluded(run)

    assert set(verdicts(conclusion).values()) == {"notice"}
    assert all("not testable here: AUC .6" in finding.statement for finding in conclusion.findings)


def test_few_groups_are_called_unreliable(made):
    """Images of five patients: the statement says that the interval is not to be relied on."""
    maps, masks, weight = planted(made)
    run = finished(made, maps, masks, weight, groups=np.repeat(list("abcde"), 8))

    conclusion = concluded(run)

    assert all("unreliable: fewer than 10 groups" in finding.statement for finding in conclusion.findings)
    assert conclusion.findings[0].groups == 5


# -- which classes ------------------------------------------------------------------------------


def test_more_classes_than_regions(made):
    """Three classes of which two have masks: two are scored, and the third is where weights may cross to."""
    maps, masks, weight = planted(made)
    masks = torch.where((masks == -2) & (torch.arange(32) < 6), 1, masks)
    weight = np.vstack([np.full(25, -1.0), weight])
    weight[0, :2] = 9.0
    classes = ("fat", "Vessel", "gland")
    run = finished(made, maps, masks, weight, mask_classes=("gland", "vessel"), classes=classes)

    summary = concluded(run).summary

    assert summary["class"].values.tolist() == ["Vessel", "gland"]
    assert summary["larger_weight"].values.tolist() == ["fat", "Vessel", "gland", "(no class)"]
    assert summary["contingency"].sel({"screened": "gland", "larger_weight": "fat"}).item() == 2
    assert summary["screened_class"].values[:8].tolist() == [2] * 8  # positions of the network's classes


def test_a_single_logit_has_one_class(made):
    """One logit: channels with a positive weight are its class, the others are of none."""
    maps, masks, weight = planted(made)
    single = weight[1:] - weight[:1]
    run = finished(made, maps, masks, single, classes=("gland",))

    summary = concluded(run).summary

    assert summary["class"].values.tolist() == ["gland"]
    assert summary["channels"].item() == (single > 0).sum()
    assert summary["p"].item() == 1 / 200


def test_no_match_concludes_nothing(made):
    """Where no class has a region the summary is empty and head-weights has said why."""
    maps, masks, weight = planted(made, images=6)
    conclusion = concluded(finished(made, maps, masks, weight, classes=("a", "b")))

    assert conclusion.findings == ()
    assert not conclusion.summary.data_vars


def test_a_region_that_no_table_has_is_named(made):
    """A complement that was named but not made ends in a notice with both remedies."""
    maps, masks, weight = planted(made, images=6)
    run = finished(
        made,
        maps,
        masks,
        weight,
        mask_classes=("gland", "vessel"),
        classes=("a", "b"),
        match={"a": "not gland"},
    )

    (finding,) = concluded(run).findings

    assert "have no region not gland" in finding.statement
    assert "complements = 'all'" in finding.statement


def test_without_masks_there_is_nothing_to_split():
    """The probe steps aside; peaks is the one that says so."""
    assert WeightClasses().split(make_scene().without_masks().survey) == ()


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    ["all dead", "one channel", "class absent", "class everywhere", "no mask", "NaN", "one image", "ties"],
)
def test_degenerate_data_end_in_a_statement(case, made):
    """Dead layers, one channel, constant or unknown masks, NaN maps and equal weights: no exception."""
    maps, masks, weight = planted(made, images=8)
    if case == "all dead":
        maps = torch.zeros_like(maps)
    if case == "one channel":
        maps, weight = maps[:, :1], weight[:, :1]
    if case in {"class absent", "class everywhere", "no mask"}:
        masks = torch.full_like(masks, {"class absent": -2, "class everywhere": 0, "no mask": -1}[case])
    if case == "NaN":
        maps = torch.where(torch.arange(25)[:, None, None] < 20, torch.nan, maps)
    if case == "one image":
        maps, masks = maps[:1], masks[:1]
    if case == "ties":
        weight = np.zeros_like(weight)
    controls = (net(made, maps, masks, weight, name="shuffled-0"),)

    conclusion = concluded(finished(made, maps, masks, weight, controls=controls))

    assert len(conclusion.findings) == 4
    assert all(finding.verdict == "notice" for finding in conclusion.findings)
    unknown = case in {"all dead", "class absent", "class everywhere", "no mask", "ties"}
    if unknown:
        assert all("not estimable" in f.statement or "no channel" in f.statement for f in conclusion.findings)


def test_points_are_drawn_for_typical_images(made):
    """Three images at the quartiles, a panel per class and the mask outlined in each."""
    maps, masks, weight = planted(made)
    run = finished(made, maps, masks, weight, controls=noise_controls(made, masks))
    summary = concluded(run).summary

    channels, chance = WeightClasses(layer="conv").sections(summary, run)

    gallery = channels.blocks[-1]
    assert len(gallery.rows) == 3
    assert [len(pictures) for _, pictures in gallery.rows] == [3, 3, 3]
    assert all(p.outline is not None for _, pictures in gallery.rows for p in pictures)
    assert chance.blocks[0].frame["network"].nunique() == 3


@pytest.mark.parametrize("option", ["permutations", "best"])
@pytest.mark.parametrize("value", [0, True, 2.5])
def test_options_without_a_meaning_are_refused(option, value):
    """One line says what was found and what is wanted."""
    with pytest.raises(UsageError, match="wanted: a whole number from 1"):
        WeightClasses(**{option: value})
