"""Do weights predict channel quality: slow references, planted truth, calibration, bad inputs.

The references come first: loops from the formula, nothing of ours imported.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from wsss_probe_channels import ChannelF1
from wsss_probe_channels.weights.weight_quality import (
    Measured,
    detectable,
    kendall,
    percentiles,
    permutation_ps,
    predictors,
    resampled,
    spearman,
)
from wsss_probe_channels.weights.weight_quality_probe import WeightQuality

from wsss_probe import Head, LayerInfo, Survey
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

# -- references --------------------------------------------------------------------------------


def slow_pairs(x, y):
    """Pairs that are both finite."""
    return [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]


def slow_ranks(values):
    """Mean rank of each value: one plus those below, plus half of its other equals."""
    return [1 + sum(v < w for v in values) + (sum(v == w for v in values) - 1) / 2 for w in values]


def slow_spearman(x, y):
    """Pearson's correlation of the ranks."""
    pairs = slow_pairs(x, y)
    if len(pairs) < 3:
        return math.nan
    rx, ry = (slow_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    mx, my = sum(rx) / len(rx), sum(ry) / len(ry)
    top = sum((a - mx) * (b - my) for a, b in zip(rx, ry, strict=True))
    bottom = math.sqrt(sum((a - mx) ** 2 for a in rx) * sum((b - my) ** 2 for b in ry))
    return top / bottom if bottom else math.nan


def slow_kendall(x, y):
    """Tau-b: pairs in order less pairs out of order, over the pairs that are not equal on a side."""
    pairs = slow_pairs(x, y)
    if len(pairs) < 3:
        return math.nan
    score = first = second = 0
    for i, (a, b) in enumerate(pairs):
        for c, d in pairs[:i]:
            score += ((a > c) - (a < c)) * ((b > d) - (b < d))
            first += a != c
            second += b != d
    return score / math.sqrt(first * second) if first and second else math.nan


def slow_mean(values):
    """Mean of what is finite; NaN where nothing is."""
    kept = [v for v in values if math.isfinite(v)]
    return sum(kept) / len(kept) if kept else math.nan


# -- what the tests build with -----------------------------------------------------------------


def f1_rows(f1, area=None, classes=("tumour",)):
    """Rows of channel-F1, (image, channel, class)."""
    area = np.full((len(f1), len(classes)), 0.3) if area is None else area
    return xr.Dataset(
        {"f1": (("image", "channel", "class"), f1.astype(np.float32)), "area": (("image", "class"), area)},
        coords={"class": np.array(classes, dtype=object)},
    )


def weight_table(weight, regions=None, kind="head"):
    """Summary of head-weights."""
    names = [f"class {c}" for c in range(len(weight))]
    regions = {names[0]: "tumour"} if regions is None else regions
    return xr.Dataset(
        {"weight": (("class", "channel"), weight)},
        coords={"class": np.array(names, dtype=object)},
        attrs={"kind": kind, "regions": {name: regions.get(name, "") for name in names}},
    )


def plan(weight=None):
    """Plan one layer under a head."""
    head = Head(linear=False) if weight is None else Head(True, "conv", weight, np.zeros(len(weight)))
    layers = {"conv": LayerInfo("conv", "Conv2d", 0, 1, (4, 8, 8), "maps")}
    return Survey(layers, ("class 0", "class 1"), ("predicted",), ("tumour",), head, (3, 32, 32), False, 0)


@dataclass(frozen=True)
class Network:
    """One network's tables: what ``conclude`` reads of it."""

    table: xr.Dataset
    features: np.ndarray
    survey: Survey
    weights: xr.Dataset | None = None
    groups: np.ndarray | None = None
    controls: tuple = ()
    not_testable: str = ""
    name: str = ""
    living: bool = True
    sums: xr.Dataset | None = None

    def partial(self, probe):
        """Sums of gradients."""
        assert probe == "head-weights@conv"
        return self.sums

    def rows(self, probe):
        """Rows of channel-F1."""
        assert probe == "channel-f1@conv"
        return self.table

    def pooled(self, layer):
        """Pooled features of the layer."""
        assert layer == "conv"
        return xr.DataArray(self.features, dims=("image", "channel"))

    def summary(self, probe):
        """Summary of head-weights."""
        assert probe == "head-weights@conv"
        return self.weights

    def alive(self, layer):
        """Whether this control lives."""
        return self.living


def scene(seed=0, channels=60, images=40, effect=1.0, level=0.05):
    """Make mean F1 that rises with the weight for class 0, with noise between channels and images."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(2, channels))
    quality = effect * weight[0] + rng.normal(size=channels)
    f1 = 0.4 + 0.1 * quality + level * rng.normal(size=(images, channels))
    return f1, rng.exponential(size=(images, channels)), weight


def network(seed=0, made=None, **more):
    """Make a network of a scene; its weights are in the head and in the table."""
    f1, pooled, weight = scene(seed) if made is None else made
    return Network(f1_rows(f1[..., None]), pooled, plan(weight), weight_table(weight), **more)


probe = WeightQuality(layer="conv", permutations=999)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Kendall's interval from few resamples: it is taken pair by pair and no test is about its width."""
    monkeypatch.setattr("wsss_probe_channels.weights.weight_quality_probe.KENDALL_RESAMPLES", 20)


def concluded(run, using=probe):
    """Conclude as the host does, with its checks, and make sections."""
    conclusion = check_conclusion(using.conclude(run), using.name)
    return conclusion, check_sections(using.sections(conclusion.summary, run), using.name)


# -- agreement with the references -------------------------------------------------------------

FEW = arrays.arrays(np.float64, st.integers(0, 12), elements=st.sampled_from([-1.5, 0.0, 0.5, 2.0, math.nan]))


@settings(deadline=None, max_examples=60)
@given(x=FEW, seed=st.integers(0, 1000))
def test_correlations_equal_the_loops(x, seed):
    """Spearman and Kendall with equals and undefined values, and NaN where nothing varies."""
    y = np.random.default_rng(seed).choice([0.0, 1.0, 3.0, math.nan], size=len(x))

    for ours, slow in ((spearman, slow_spearman), (kendall, slow_kendall)):
        assert float(ours(x, y)) == pytest.approx(slow(x.tolist(), y.tolist()), abs=1e-12, nan_ok=True)


def test_correlations_broadcast_over_resamples():
    """Rows are correlated one by one, each with its own undefined channels."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=7), rng.normal(size=(5, 7))
    y[2, 3] = y[4, :6] = np.nan

    for ours, slow in ((spearman, slow_spearman), (kendall, slow_kendall)):
        wanted = [slow(x.tolist(), row.tolist()) for row in y]
        np.testing.assert_allclose(ours(x, y), wanted, atol=1e-12)


def test_predictors_follow_their_definitions():
    """Weight, size, distance to the mean of the others, and share of the logit, for the middle of three."""
    rng = np.random.default_rng(1)
    weight, activation = rng.normal(size=(3, 5)), rng.exponential(size=5)

    found = predictors(weight, 1, activation)

    for k in range(5):
        own = weight[1][k]
        wanted = [own, abs(own), own - (weight[0][k] + weight[2][k]) / 2, own * activation[k]]
        assert [values[k] for values in found] == pytest.approx(wanted)
    assert np.isnan(predictors(weight[:1], 0, activation)[2]).all()  # one class has no others


def test_resamples_take_means_and_ranks_anew():
    """Every replicate is the correlation over the drawn groups' images, image by image."""
    rng = np.random.default_rng(2)
    f1, pooled, weight = rng.random((9, 5)), rng.random((9, 5)), rng.normal(size=(2, 5))
    f1[rng.random((9, 5)) < 0.2] = np.nan
    member = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3])
    generator = np.random.default_rng(4)
    drawn = generator.integers(4, size=(6, 4))

    found = resampled(Measured(f1, pooled, weight, 0), member, spearman, resamples=6, seed=4)

    for replicate, groups in zip(found, drawn.tolist(), strict=True):
        images = [n for group in groups for n in range(9) if member[n] == group]
        means = [slow_mean([f1[n, k] for n in images]) for k in range(5)]
        activity = [slow_mean([pooled[n, k] for n in images]) for k in range(5)]
        for value, said in zip(replicate, predictors(weight, 0, np.array(activity)), strict=True):
            assert value == pytest.approx(slow_spearman(said.tolist(), means), abs=1e-9, nan_ok=True)


def test_permutation_p_counts_orders_on_both_sides():
    """With four channels the exact two-sided p is known from all 24 orders."""
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])

    (p,) = permutation_ps([-x], y, permutations=20_000, seed=0)

    assert p == pytest.approx(8 / 24, abs=0.015)  # |rho| of .8 or 1 in 2 x 4 of 24 orders


def test_a_constant_predictor_has_no_p():
    """Nothing to order, nothing to test."""
    assert np.isnan(permutation_ps([np.ones(5)], np.arange(5.0), permutations=9, seed=0)).all()


def test_the_detectable_size_is_seen_with_80_percent_power():
    """Of 600 normal samples with that rank correlation about 80 % are significant at .05."""
    from scipy.stats import spearmanr

    channels, rng = 40, np.random.default_rng(3)
    rho = detectable(channels)
    pearson = 2 * math.sin(math.pi * rho / 6)
    x = rng.normal(size=(600, channels))
    y = pearson * x + math.sqrt(1 - pearson**2) * rng.normal(size=x.shape)

    share = np.mean([spearmanr(a, b).pvalue < 0.05 for a, b in zip(x, y, strict=True)])

    assert 0.74 < share < 0.86
    assert math.isnan(detectable(3))
    assert detectable(512) < detectable(64)


# -- planted truth -----------------------------------------------------------------------------


def test_weights_that_predict_quality_are_found():
    """A planted correlation clears p, interval and controls; the predictor of no effect does not."""
    controls = tuple(network(seed, scene(seed, effect=0), name=f"c-{seed}") for seed in (5, 6, 7))

    conclusion, _ = concluded(network(controls=controls, groups=np.repeat(np.arange(20), 2)))

    summary, (finding,) = conclusion.summary, conclusion.findings
    first = summary.isel({"class": 0})
    assert first["q"].values[0] < 0.05 < first["q"].values[1]
    assert first["spearman_low"].values[0] < first["spearman"].values[0] < 1
    assert first["kendall_low"].values[0] > 0
    assert finding.verdict == "ok"
    assert finding.name == "weight-quality/class 0@conv"
    assert "over 60 channels" in finding.statement
    assert "in 3 control networks it is" in finding.statement
    assert (finding.n, finding.groups) == (40, 20)
    assert finding.interval == (first["spearman_low"].values[0], first["spearman_high"].values[0])


def test_noise_between_images_hides_the_planted_correlation():
    """The correlation is lost where F1 is mostly noise."""
    found = [
        concluded(network(made=scene(level=level)))[0].summary["q"].values[0, 0] for level in (0.1, 20.0)
    ]

    assert found[0] < 0.05 < found[1]


def test_size_and_sign_are_told_apart():
    """Channels with large weights of either sign being good shows in |weight| alone, and is said."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 80))
    f1 = 0.3 + 0.1 * np.abs(weight[0]) + 0.05 * rng.normal(size=(30, 80))

    conclusion, _ = concluded(network(made=(f1, np.ones((30, 80)), weight)))

    q = conclusion.summary["q"].values[0]
    assert q[1] < 0.05 < q[0]
    assert conclusion.findings[0].verdict == "notice"
    assert "|weight| correlates more, " in conclusion.findings[0].statement


def test_a_control_with_the_same_correlation_takes_the_verdict():
    """One living control network as far from 0, on either side, is enough; a dead one is not."""
    f1, pooled, weight = scene()
    flipped = (1 - f1, pooled, weight)
    groups = np.repeat(np.arange(20), 2)

    verdicts = [
        concluded(network(groups=groups, controls=controls))[0].findings[0].verdict
        for controls in (
            (network(5, scene(5, effect=0)),),
            (network(5, scene(5, effect=0)), network(made=flipped)),
            (network(5, scene(5, effect=0)), network(made=flipped, living=False)),
            (network(5, scene(5, effect=0), living=False),),
            (),
        )
    ]

    assert verdicts == ["ok", "notice", "ok", "notice", "notice"]


def test_p_is_calibrated_on_noise():
    """Of 100 fixed seeds without a relation at most 11 give p up to .05, for every predictor."""
    rejected = np.zeros(4)
    for seed in range(100):
        f1, pooled, weight = scene(seed, channels=24, images=3, effect=0)
        measured = Measured(f1, pooled, weight, 0)
        means, activation = measured.means()
        rejected += (
            permutation_ps(predictors(weight, 0, activation), means, permutations=199, seed=seed) <= 0.05
        )

    assert (rejected <= 11).all()
    assert (rejected >= 1).all()  # a p that never falls is no test


# -- what the head says of the masks -----------------------------------------------------------


def test_only_classes_that_are_regions_take_part():
    """Three classes, two of them regions: each is correlated with its own region, the third with none."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 30))
    f1 = np.stack([0.3 + 0.1 * weight[2], 0.3 + 0.1 * weight[0]], axis=1)[None].repeat(12, 0)
    f1 = f1 + 0.001 * rng.normal(size=f1.shape)
    table = weight_table(weight, {"class 0": "not tumour", "class 2": "tumour"})
    run = Network(f1_rows(f1, classes=("tumour", "not tumour")), np.ones((12, 30)), plan(weight), table)

    conclusion, (section,) = concluded(run)

    summary = conclusion.summary
    assert summary["class"].values.tolist() == ["class 0", "class 2"]
    assert summary["region"].values.tolist() == ["not tumour", "tumour"]
    assert (summary["spearman"].values[:, 0] > 0.95).all()
    assert len(conclusion.findings) == 2
    assert len(section.blocks) == 3
    wanted = predictors(weight, 2, np.ones(30))[2]
    measured = float(spearman(wanted, f1[..., 0].mean(0)))
    assert summary["spearman"].values[1, 2] == pytest.approx(measured, abs=1e-3)


def test_q_is_over_predictors_and_classes():
    """The family is all predictors of all classes that take part."""
    from scipy.stats import false_discovery_control

    _, pooled, weight = scene()
    f1 = np.random.default_rng(0).random((40, 60, 2))
    table = weight_table(weight, {"class 0": "tumour", "class 1": "not tumour"})
    run = Network(f1_rows(f1, classes=("tumour", "not tumour")), pooled, plan(weight), table)

    summary = concluded(run)[0].summary

    wanted = false_discovery_control(summary["p"].values.ravel())
    np.testing.assert_allclose(summary["q"].values.ravel(), wanted)


def test_no_class_among_the_regions_is_said():
    """Without a class that is a region there is a notice, an empty table and no section."""
    f1, pooled, weight = scene()
    run = Network(f1_rows(f1[..., None]), pooled, plan(weight), weight_table(weight, {}))

    conclusion, shown = concluded(run)

    assert "no class of the network corresponds to a mask class" in conclusion.findings[0].statement
    assert not conclusion.summary.data_vars
    assert shown == ()


# -- bad inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["absent class", "no mask", "all dead", "two channels", "one image", "equal weights"]
)
def test_degenerate_data_end_in_a_statement(case):
    """Absent classes, no mask, dead layers, too few channels or images and equal weights never crash."""
    f1, pooled, weight = scene(channels=12, images=8)
    area = np.full((8, 1), 0.3)
    if case == "absent class":
        area[:] = 0
    if case == "no mask":
        f1[:], area[:] = np.nan, np.nan
    if case == "all dead":
        f1[:] = np.nan
    if case == "two channels":
        f1, pooled, weight = f1[:, :2], pooled[:, :2], weight[:, :2]
    if case == "one image":
        f1, pooled, area = f1[:1], pooled[:1], area[:1]
    if case == "equal weights":
        weight[:] = 1
    run = Network(f1_rows(f1[..., None], area), pooled, plan(weight), weight_table(weight))
    run = replace(run, controls=(replace(run, name="c-0"),))

    conclusion, _ = concluded(run)

    (finding,) = conclusion.findings
    assert finding.verdict == "notice"
    assert ("not estimable" in finding.statement) is (case != "one image")
    assert np.isnan(conclusion.summary["spearman_low"].values[0, 0])


def test_channels_without_a_rank_are_left_out():
    """A channel with an F1 on few images takes no part; neither does its weight."""
    f1, pooled, weight = scene(channels=20)
    spoiled, extreme = f1.copy(), weight.copy()
    spoiled[3:, 4], extreme[0, 4] = np.nan, 99.0

    found = concluded(network(made=(spoiled, pooled, extreme)))[0].summary
    kept = np.delete(np.arange(20), 4)
    wanted = concluded(network(made=(f1[:, kept], pooled[:, kept], weight[:, kept])))[0].summary

    assert found["channels"].item() == 19
    assert np.isnan(found["mean_f1"].values[0, 4])
    np.testing.assert_allclose(found["spearman"].values, wanted["spearman"].values)
    np.testing.assert_allclose(found["spearman_low"].values, wanted["spearman_low"].values)


def test_images_without_a_mask_count_nowhere():
    """Their activations enter no mean and their groups are not drawn."""
    f1, pooled, weight = scene(images=12)
    area = np.full((12, 1), 0.3)
    masked = f1.copy()
    masked[9:], area[9:] = np.nan, np.nan
    whole = Network(f1_rows(masked[..., None], area), pooled, plan(weight), weight_table(weight))

    found, wanted = (concluded(run)[0] for run in (whole, network(made=(f1[:9], pooled[:9], weight))))

    assert found.summary.equals(wanted.summary)
    assert found.findings == wanted.findings


def test_few_groups_take_the_verdict():
    """Below ten groups the interval is called unreliable and nothing is ok."""
    controls = (network(5, scene(5, effect=0)),)

    finding = concluded(network(controls=controls, groups=np.repeat(np.arange(4), 10)))[0].findings[0]
    single = concluded(network(controls=controls, groups=np.zeros(40)))[0].findings[0]

    assert finding.verdict == "notice"
    assert "interval unreliable: fewer than 10 groups" in finding.statement
    assert finding.groups == 4
    assert single.interval is None


def test_a_correlation_that_rests_on_one_group_takes_the_verdict():
    """Where one image of twelve makes the correlation and the others its reverse, the interval holds 0."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 40))
    f1 = 0.5 - 0.005 * weight[0] + 0.001 * rng.normal(size=(12, 40))
    f1[0] = 0.5 + 0.2 * weight[0]
    control = network(5, scene(5, effect=0))

    run = network(made=(f1, np.ones((12, 40)), weight), controls=(control,), groups=np.arange(12))
    finding = concluded(run)[0].findings[0]

    assert finding.effect > 0.9
    assert finding.interval[0] < 0 < finding.interval[1]
    assert finding.verdict == "notice"


def test_a_head_that_is_not_linear_is_named():
    """Effective weights are called so; controls have their own, of the classes that were asked for."""
    f1, pooled, weight = scene()
    table = weight_table(weight, kind="effective").assign_attrs({"classes with weights": ["class 0"]})
    table["weight"][1] = np.nan
    bare = Network(f1_rows(f1[..., None]), pooled, plan(), table)
    sums = {"total": 3 * weight[:1], "squares": 9 * weight[:1] ** 2}
    both = {name: (("class", "channel"), values) for name, values in sums.items()}
    control = replace(bare, sums=xr.Dataset({**both, "n": ("class", [3.0])}))
    run = replace(bare, controls=(control,), not_testable="AUC 0.52")

    conclusion, (section,) = concluded(run)

    statement = conclusion.findings[0].statement
    assert "effective weight" in statement
    reference = conclusion.summary["control_spearman"].values[0, 0]
    np.testing.assert_allclose(reference, conclusion.summary["spearman"].values[0])
    assert np.isnan(reference).tolist() == [False, False, True, False]
    assert "not testable here: AUC 0.52" in statement
    assert "not testable here: AUC 0.52" in section.blocks[0].caption


def test_a_control_without_a_linear_head_is_no_reference():
    """Where the audited head is linear and a control's is not, there is nothing to compare with."""
    f1, pooled, _ = scene()
    bare = Network(f1_rows(f1[..., None]), pooled, plan())

    conclusion, _ = concluded(network(controls=(bare,), groups=np.arange(40)))

    assert "no living control network with such weights, no verdict" in conclusion.findings[0].statement
    assert conclusion.findings[0].verdict == "notice"
    assert np.isnan(conclusion.summary["control_spearman"].values).all()


def test_a_single_logit_has_no_difference():
    """With one class the difference to the others is undefined and the rest stands."""
    f1, pooled, weight = scene()
    run = Network(f1_rows(f1[..., None]), pooled, plan(weight[:1]), weight_table(weight[:1]))

    summary = concluded(run)[0].summary

    assert np.isnan(summary["spearman"].values[0]).tolist() == [False, False, True, False]
    assert np.isnan(summary["q"].values[0]).tolist() == [False, False, True, False]


def test_percentiles_leave_out_undefined_replicates():
    """A predictor without any replicate has no interval, and one group gives none at all."""
    replicates = np.stack([np.append(np.arange(101.0), np.nan), np.full(102, np.nan)], axis=1)

    low, high = percentiles(replicates, 5)

    assert (low[0], high[0]) == (2.5, 97.5)
    assert np.isnan([low[1], high[1], *percentiles(replicates, 1)[0]]).all()


# -- what is shown and the contract ------------------------------------------------------------


def test_the_section_shows_correlations_and_the_scatter():
    """One row per class and predictor beside the range of the living controls, and one point per channel."""
    controls = tuple(network(seed, scene(seed, effect=0), living=seed != 7) for seed in (5, 6, 7))
    conclusion, (section,) = concluded(network(controls=controls))

    table, figure = section.blocks

    assert section.question == "channels"
    assert table.frame["predictor"].tolist()[1] == "|weight|"
    reached = conclusion.summary["control_spearman"].values[:2, 0, 0]
    assert table.frame["controls from"].iloc[0] == reached.min()
    assert table.frame["controls to"].iloc[0] == reached.max()
    assert "detectable rho 0.36" in table.caption
    assert "images treated as independent." in table.caption
    assert len(figure.data) == len(figure.figure["data"][0]["x"]) == 60
    assert "n = 40 images" in figure.caption


class TestWeightQuality(ProbeSuite):
    """The probe conforms to the contract, beside channel-F1, which makes the rows that it reads."""

    probe = WeightQuality(permutations=99)
    layer = make_scene().survey.head.layer
    tables = {  # noqa: RUF012  # read only
        f"channel-f1@{layer}": xr.Dataset(),
        f"head-weights@{layer}": weight_table(make_scene().survey.head.weight, {"class 1": "rectangle"}),
    }

    def run(self, scene, controls=1):
        """Survey with channel-F1 as well."""
        probes = (*self.parts(scene), ChannelF1(layer=self.layer))
        return run_in_memory(probes, scene, controls=controls, summaries=self.tables)


def test_the_probe_asks_for_tables_only():
    """It looks at no image; without masks there is nothing to ask."""
    (part,) = WeightQuality().split(plan())

    assert part.name == "weight-quality@conv"
    assert part.needs(plan()).tables == {"channel-f1@conv", "head-weights@conv"}
    assert not part.needs(plan()).layers
    assert WeightQuality().split(replace(plan(), mask_classes=())) == ()
    with pytest.raises(UsageError, match="permutations of weight-quality are too few"):
        WeightQuality(permutations=0)
