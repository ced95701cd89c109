"""channel-F1 finds a planted channel, finds nothing where nothing is, and says what it cannot say."""

import math

import numpy as np
import pytest
import torch
from wsss_probe_channels import ChannelF1

from wsss_probe import Gallery
from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_sections

probe = ChannelF1(layer="conv", complements="none")


def concluded(run, using=probe):
    """Conclude as the host does, with its checks."""
    return check_conclusion(using.conclude(run), using.name)


# -- planted truth -----------------------------------------------------------------------------


def test_a_planted_channel_is_found(made):
    """A channel that is the mask plus noise has rank 1, and F1 above 0.6 on every image."""
    masks = made.blobs(40)
    maps = made.plant(made.noise(40, 12), masks, channel=7)
    controls = tuple(made.observed(made.noise(40, 12, seed), masks, name=f"c-{seed}") for seed in (5, 6, 7))

    conclusion = concluded(made.run(maps, masks, controls=controls))
    summary, finding = conclusion.summary, conclusion.findings[0]

    assert summary["rank"].sel(channel=7).item() == 1
    assert summary["strong"].values[:, 0].tolist() == [0] * 7 + [40] + [0] * 4
    assert summary["best_channel"].item() == 7
    assert summary["best_f1"].item() > 0.9
    assert finding.verdict == "ok"
    assert "above all 3 controls" in finding.statement
    assert "no p below 0.25" in finding.statement
    assert finding.n == 20
    assert finding.name == "best-channel/gland@conv"  # unique among the layers of a run


def test_noise_hides_the_planted_channel(made):
    """The screen sees the channel at moderate noise and loses it where noise is many times the signal."""
    masks = made.blobs(30)

    ranks = []
    for level in (0.2, 0.5, 20.0):
        maps = made.plant(made.noise(30, 40), masks, channel=7, level=level)
        ranks.append(float(concluded(made.run(maps, masks)).summary["rank"].sel(channel=7).item()))

    assert ranks[0] == ranks[1] == 1
    assert ranks[2] > 1


def test_distractors_do_not_mislead(made):
    """A channel with another object as sharp, and one that is the same in every image, rank below."""
    masks = made.blobs(30)
    maps = made.plant(made.noise(30, 6), masks, channel=4, level=0.4)
    maps = made.plant(maps, made.blobs(30, seed=9), channel=1, level=0.0)
    maps[:, 2] = torch.arange(64.0).view(8, 8)

    summary = concluded(made.run(maps, masks)).summary

    assert summary["rank"].sel(channel=4).item() == 1


def test_nothing_is_found_where_nothing_is(made):
    """Noise against noise is above all R controls about once in R + 1 times, as the statement says."""
    masks = made.blobs(16)
    above = 0
    for seed in range(24):
        maps = [made.noise(16, 10, 100 * seed + i) for i in range(4)]
        controls = tuple(made.observed(maps[i], masks, size=16, name=f"c-{i}") for i in (1, 2, 3))
        run = made.run(maps[0], masks, size=16, controls=controls)
        above += "; above all 3 controls (" in concluded(run).findings[0].statement

    assert above <= 12  # 6 expected; more than 12 of 24 happen once in 500 times by chance


# -- invariances -------------------------------------------------------------------------------


def test_permuting_channels_permutes_scores(made):
    """Channels are scored one by one: another order gives the same scores in that order."""
    masks, order = made.blobs(12), [3, 0, 5, 1, 4, 2]
    maps = made.plant(made.noise(12, 6), masks, channel=3, level=0.5)

    plain, permuted = (concluded(made.run(m, masks)).summary for m in (maps, maps[:, order]))

    np.testing.assert_array_equal(permuted["mean_f1"].values, plain["mean_f1"].values[order])
    assert permuted["best_channel"].item() == 0


def test_streaming_equals_one_shot(made):
    """Batches of one, of five and of all images give identical rows, sums and conclusions."""
    masks = made.blobs(11)
    maps = made.plant(made.noise(11, 6), masks, channel=3)

    runs = [made.run(maps, masks, size=size) for size in (11, 5, 1)]

    for run in runs[1:]:
        assert run.audited.table.identical(runs[0].audited.table)
        assert run.audited.sums.identical(runs[0].audited.sums)
        assert concluded(run).summary.identical(concluded(runs[0]).summary)


def test_means_and_sums_follow_their_definitions(made):
    """Mean F1 is the mean over images, pooled F1 comes from pixel sums, strong counts strictly above."""
    masks = made.blobs(9)
    maps = made.plant(made.noise(9, 5), masks, channel=3, level=1.0)

    run = made.run(maps, masks)
    summary, rows, sums = concluded(run).summary, run.audited.table, run.audited.sums

    for channel in range(5):
        scores = [float(value) for value in rows["f1"].values[:, channel, 0]]
        tp, fp, fn = (float(sums[name].values[channel, 0]) for name in ("tp", "fp", "fn"))
        assert summary["mean_f1"].values[channel, 0] == pytest.approx(sum(scores) / 9)
        assert summary["pooled_f1"].values[channel, 0] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert summary["strong"].values[channel, 0] == sum(score > 0.6 for score in scores)
        assert summary["defined"].values[channel, 0] == 9
    low, high = (summary[name].values[:, 0] for name in ("low", "high"))
    assert (low <= summary["mean_f1"].values[:, 0]).all()
    assert (summary["mean_f1"].values[:, 0] <= high).all()


def test_exactly_six_tenths_is_not_strong(made):
    """F1 = 0.6 is not above 0.6: three of seven pixels hit, none beside."""
    mask = torch.full((1, 8, 8), -2)
    mask[0, 0, :7] = 0
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, :3] = 1

    run = made.run(maps.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1))

    assert run.audited.table["f1"].values.tolist() == [[[pytest.approx(0.6)]]] * 2
    assert concluded(run).summary["strong"].item() == 0


def test_the_all_ones_mask_is_scored_beside_the_channel(made):
    """The baseline is 2a / (1 + a) of the class's share, and a channel below it is said to be so."""
    masks = torch.zeros(12, 32, 32, dtype=torch.int64)
    masks[:, :4] = -2
    maps = made.noise(12, 4)
    controls = (made.observed(torch.rand(12, 4, 8, 8) ** 30, masks, name="c-0"),)

    conclusion = concluded(made.run(maps, masks, controls=controls))

    share = 28 / 32
    assert conclusion.summary["best_all_ones_f1"].item() == pytest.approx(2 * share / (1 + share))
    assert "an all-ones mask scores at least as high" in conclusion.findings[0].statement
    assert "above all 1 control (" in conclusion.findings[0].statement
    assert conclusion.findings[0].verdict == "notice"


# -- what cannot be said -----------------------------------------------------------------------


def test_a_dead_channel_is_left_out_and_counted(made):
    """A constant map has no F1, no rank and no part in means; its images are counted."""
    masks = made.blobs(10)
    maps = made.plant(made.noise(10, 4), masks, channel=2)
    maps[:, 0] = 0
    maps[:8, 1] = 3
    maps[8:, 1] = made.plant(maps, masks, channel=1, level=0)[8:, 1]

    summary = concluded(made.run(maps, masks)).summary

    assert summary["degenerate"].values.tolist() == [10, 8, 0, 0]
    assert summary["defined"].values[:, 0].tolist() == [0, 2, 10, 10]
    assert np.isnan(summary["rank"].values[:2, 0]).all()
    assert np.isnan(summary["mean_f1"].values[0, 0])
    assert summary["mean_f1"].values[1, 0] == 1
    assert summary["pooled_f1"].values[0, 0] == 0
    assert summary["best_channel"].item() == 2


@pytest.mark.parametrize("case", ["absent class", "one image", "no mask", "all dead", "one value everywhere"])
def test_degenerate_data_never_crash(case, made):
    """Absent classes, one image, no known mask, dead layers and constant masks end in a statement."""
    masks, maps = made.blobs(6), made.noise(6, 3)
    if case == "absent class":
        masks[:] = -2
    if case == "one image":
        masks, maps = masks[:1], maps[:1]
    if case == "no mask":
        masks[:] = -1
    if case == "all dead":
        maps[:] = 0
    if case == "one value everywhere":
        masks[:] = 0

    run = made.run(
        maps, masks, classes=("gland", "fat"), controls=(made.observed(maps, masks, ("gland", "fat")),)
    )
    conclusion = concluded(run)
    sections = check_sections(probe.sections(conclusion.summary, run), probe.name)

    assert len(sections) == 2
    assert len(conclusion.findings) == 2
    assert all(finding.verdict == "notice" for finding in conclusion.findings)
    estimable = case == "one value everywhere"
    assert ("not estimable" in conclusion.findings[0].statement) is not estimable
    assert "not estimable" in conclusion.findings[1].statement


def test_unreadable_images_count_nowhere(made):
    """An image that could not be decoded adds to no sum, no mean and no count."""
    masks = made.blobs(8)
    maps = made.plant(made.noise(8, 4), masks, channel=1)
    readable = torch.tensor([True] * 6 + [False] * 2)

    whole = made.run(maps, masks, readable=readable)
    without = made.run(maps[:6], masks[:6])

    assert whole.audited.sums.identical(without.audited.sums)
    summary, expected = concluded(whole).summary, concluded(without).summary
    for name in ("mean_f1", "pooled_f1", "strong", "defined", "degenerate", "rank"):
        np.testing.assert_array_equal(summary[name].values, expected[name].values)


def test_a_dead_control_gives_no_verdict(made):
    """Where every control is degenerate, beating it is worth nothing and the finding says so."""
    masks = made.blobs(24)
    maps = made.plant(made.noise(24, 4), masks, channel=1)
    dead = made.observed(made.noise(24, 4, 9), masks, name="shuffled-0", living=False)
    alive = made.observed(made.noise(24, 4, 8), masks, name="shuffled-1")

    all_dead = concluded(made.run(maps, masks, controls=(dead,))).findings[0]
    one_dead = concluded(made.run(maps, masks, controls=(dead, alive))).findings[0]
    none_run = concluded(made.run(maps, masks)).findings[0]

    assert all_dead.verdict == "notice"
    assert "control degenerate, no verdict" in all_dead.statement
    assert one_dead.verdict == "ok"
    assert "above all 1 control (" in one_dead.statement
    assert "1 degenerate and left out" in one_dead.statement
    assert none_run.verdict == "notice"
    assert "no control was run, no verdict" in none_run.statement


def test_few_groups_carry_no_verdict(made):
    """What clears every control by an interval over fewer than ten groups is a notice."""
    masks = made.blobs(24)
    maps = made.plant(made.noise(24, 4), masks, channel=1)
    control = made.observed(made.noise(24, 4, 8), masks, name="shuffled-0")

    verdicts = {}
    for number in (9, 24):
        groups = np.array([f"g{index % number}" for index in range(24)])
        run = made.run(maps, masks, controls=(control,), groups=groups)
        verdicts[number] = concluded(run).findings[0]

    assert verdicts[9].groups < 10 <= verdicts[24].groups
    assert verdicts[9].verdict == "notice"
    assert verdicts[24].verdict == "ok"
    assert "above all 1 control (" in verdicts[9].statement


def test_a_control_that_does_as_well_takes_the_verdict(made):
    """One living control with the same channel is enough: no better than a network that learned nothing."""
    masks = made.blobs(12)
    maps = made.plant(made.noise(12, 4), masks, channel=1)
    controls = (
        made.observed(maps, masks, name="a-0"),
        made.observed(made.noise(12, 4, 8), masks, name="a-1"),
    )

    finding = concluded(made.run(maps, masks, controls=controls)).findings[0]

    assert finding.verdict == "notice"
    assert "not above all 2 controls" in finding.statement


def test_a_classifier_that_cannot_be_tested_takes_the_verdict(made):
    """Where no conclusion may rest on the classifier, its reason is given and nothing is ok."""
    masks = made.blobs(12)
    maps = made.plant(made.noise(12, 4), masks, channel=1)
    controls = (made.observed(made.noise(12, 4, 8), masks, name="a-0"),)

    run = made.run(maps, masks, controls=controls, not_testable="AUC 0.52 on held-out images")
    finding = concluded(run).findings[0]

    assert finding.verdict == "notice"
    assert "not testable here: AUC 0.52 on held-out images" in finding.statement


def test_few_groups_make_the_interval_unreliable(made):
    """Tiles of four patients are four observations, and the statement says what that means."""
    masks = made.blobs(40)
    maps = made.plant(made.noise(40, 4), masks, channel=1)
    groups = np.repeat([f"patient {i}" for i in range(4)], 10)

    finding = concluded(made.run(maps, masks, groups=groups)).findings[0]

    assert finding.groups == 2
    assert "unreliable" in finding.statement


# -- the contract ------------------------------------------------------------------------------


def test_the_probe_splits_by_layer(made):
    """One copy per layer with maps, each with its own name, needs and options; without masks none is made."""
    plan = made.survey(4, layers=("a", "b"))

    copies = list(ChannelF1(resolution="mask").split(plan))

    assert [copy.name for copy in copies] == ["channel-f1@a", "channel-f1@b"]
    assert [copy.needs(plan).layers for copy in copies] == [{"a"}, {"b"}]
    assert all(copy.needs(plan).masks for copy in copies)
    assert copies[0].options["resolution"] == "mask"
    assert copies[0].options["order"].startswith("map to the mask's grid")
    bare = made.replace(plan, mask_classes=())
    assert [copy.name for copy in ChannelF1().split(bare)] == ["channel-f1"]
    assert ChannelF1().needs(bare).layers == {"a", "b"}


def test_a_batch_is_left_as_it_is(made):
    """Observing changes neither maps nor masks."""
    maps, masks = made.noise(3, 4), made.blobs(3)
    before = maps.clone(), masks.clone()

    probe.observe(made.batch(maps, masks, ("gland",)))

    assert torch.equal(maps, before[0])
    assert torch.equal(masks, before[1])


def test_without_masks_nothing_is_observed(made):
    """A batch without masks gives no rows."""
    assert probe.observe(made.batch(made.noise(3, 4), None, ())) is None


def test_settings_without_a_meaning_are_refused():
    """A resolution without a grid and a strong F1 outside [0, 1] are refused when they are set."""
    with pytest.raises(UsageError, match="unknown resolution"):
        ChannelF1(resolution="pixel")
    with pytest.raises(UsageError, match=r"strong is no F1; found: 6"):
        ChannelF1(strong=6)


def test_sections_show_every_class_and_control(made):
    """Charts and galleries per class, all channels, and one row per network beside chance."""
    masks = made.blobs(20)
    masks[10:] = torch.where(masks[10:] == 0, 1, masks[10:])
    maps = made.plant(made.noise(20, 5), masks, channel=2)
    others = [made.plant(made.noise(20, 5), masks, channel=1, level=0.3), made.noise(20, 5, 1)]
    controls = tuple(
        made.observed(other, masks, ("gland", "fat"), name=f"shuffled-{seed}", living=seed != 1)
        for seed, other in enumerate(others)
    )
    run = made.run(maps, masks, classes=("gland", "fat"), controls=controls)

    summary = concluded(run).summary
    shown = check_sections(probe.sections(summary, run), probe.name)

    assert [section.question for section in shown] == ["channels", "chance"]
    _, curve, gland, fat, pairs, table, gallery, _ = shown[0].blocks
    assert "by class (images with the class: 10, 10)" in curve.caption
    assert curve.figure["data"][0]["y"][2] == 10
    assert [shape["y1"] for shape in curve.figure["layout"]["shapes"]] == summary[
        "control_top_strong"
    ].values[0].tolist()
    alone = controls[0].table["f1"].values[..., 0]
    counts = [sum(float(score) > 0.6 for score in alone[:, channel]) for channel in range(5)]
    assert summary["control_top_strong"].values[0, 0] == max(counts) > min(counts)
    assert "class gland" in gland.caption
    assert "class fat" in fat.caption
    assert len(gland.figure["data"][0]["x"]) == 5
    assert pairs.frame["kind"].tolist() == (["best"] * 4 + ["random"]) * 2
    assert len(table.frame) == 10
    assert gallery.rows[-1][1][1].label.startswith("channel 2, F1 ")
    assert gallery.rows[-1][1][5].label.startswith("random ")
    assert 1 <= len(gallery.rows) <= 3
    assert gallery.rows[-1][1][0].outline.shape == (32, 32)
    networks = shown[1].blocks[0].frame
    own = ["audited", "all-ones mask", "Otsu of the input", "shuffled-0", "shuffled-1"]
    assert networks["network"].tolist() == own * 2
    assert networks["note"].tolist().count("degenerate, counts for nothing") == 2
    assert not math.isnan(networks["f1"].iloc[0])
    np.testing.assert_allclose(networks["chosen_f1"] - networks["f1"], networks["drop"], atol=1e-6)
    samples = shown[1].blocks[1]
    assert samples.data["images"].tolist() == [5, 10] * 2
    assert samples.data["controls_low"].tolist() == samples.data["controls_high"].tolist()  # one lives
    assert [trace["yaxis"] for trace in samples.figure["data"]][-2:] == ["y4", "y4"]


def test_complements_are_classes_of_their_own(made):
    """With one class and white, what is left of both readings has rows, a finding and its own outline."""
    masks = made.blobs(20)
    masks[:, :, -4:] = 1
    masks[5] = 1
    maps = made.plant(made.noise(20, 5), masks, channel=2)
    maps[:, 3] = 1.2 - maps[:, 2]
    auto = ChannelF1(layer="conv")
    run = made.run(maps, masks, classes=("gland", "white"), probe=auto)

    conclusion = concluded(run, auto)
    galleries = check_sections(auto.sections(conclusion.summary, run), "x")[0].blocks[-3:]

    names = ["gland", "not gland", "tissue without gland"]
    assert conclusion.summary["class"].values.tolist() == names
    assert [finding.name for finding in conclusion.findings] == [f"best-channel/{n}@conv" for n in names]
    assert conclusion.summary["best_n"].values[:2].tolist() == [10, 10]  # half of 20: all white is known too
    assert conclusion.summary["best_channel"].values.tolist() == [2, 3, 3]
    area = run.audited.table["area"].isel({"image": 5}).values.tolist()
    assert area == [0, 1, pytest.approx(math.nan, nan_ok=True)]
    assert [gallery.caption.split(":")[0] for gallery in galleries] == [f"Class {name}" for name in names]
    rest = galleries[-1]
    assert "tissue without gland" in rest.caption
    index = run.images["name"].tolist().index(rest.rows[-1][0])
    np.testing.assert_array_equal(rest.rows[-1][1][1].outline, masks[index].numpy() == -2)


@pytest.mark.parametrize(
    ("classes", "complements", "regions"),
    [
        (("white", "gland"), "auto", "gland, not gland, tissue without gland"),
        (("gland", "white", "fat"), "auto", "gland, fat"),
        (
            ("white", "gland", "fat"),
            "all",
            "gland, fat, not gland, tissue without gland, not fat, tissue without fat",
        ),
    ],
)
def test_galleries_know_their_class_wherever_white_stands(classes, complements, regions, made):
    """Images are chosen, and pixels outlined, by the class of that name, not by its place among the masks."""
    value = {name: position for position, name in enumerate(classes)}
    blobs, masks = made.blobs(20), torch.full((20, 32, 32), -2)
    masks[:, 16:, 16:] = value.get("fat", -2)
    masks[blobs == 0] = value["gland"]
    masks[:, :, -4:] = value["white"]
    maps = made.plant(made.noise(20, 5), blobs, channel=2)
    maps = made.plant(maps, torch.where(masks == value.get("fat", -9), 0, -2), channel=1, level=0.1)
    auto = ChannelF1(layer="conv", complements=complements)
    run = made.run(maps, masks, classes=classes, probe=auto)

    summary = concluded(run, auto).summary
    blocks = check_sections(auto.sections(summary, run), "x")[0].blocks
    galleries = [block for block in blocks if isinstance(block, Gallery)]

    names = regions.split(", ")
    assert summary["class"].values.tolist() == names
    for name, gallery in zip(names, galleries, strict=True):
        thing = name.split()[-1]
        leader = {"gland": 2, "fat": 1}[thing]
        assert gallery.caption.startswith(f"Class {name}: ")
        assert f"on the images where F1 of channel {leader} with {thing} is at " in gallery.caption
        title, pictures = gallery.rows[-1]
        shown = run.images["name"].tolist().index(title)
        scores = run.audited.table["f1"].sel({"class": thing}).values[:, leader]
        assert scores[shown] == scores.max()
        mask = masks[shown].numpy()
        outline = mask == value[thing]
        if name != thing:
            outline = ~outline & (name.startswith("not ") | (mask != value["white"]))
        np.testing.assert_array_equal(pictures[1].outline, outline)


def test_unknown_complements_are_refused():
    """A word that says nothing about complements is refused with those that do."""
    with pytest.raises(UsageError, match=r"unknown complements of channel-f1; found: some; wanted: auto"):
        ChannelF1(complements="some")


@pytest.mark.parametrize(
    "case",
    ["one channel", "non-square maps", "one input channel", "all dead", "constant masks", "multi-label"],
)
def test_unusual_shapes_reach_the_report(case, made):
    """One channel, maps of other sides, grey input, dead layers and constant masks are shown, not refused."""
    masks, maps = made.blobs(24), made.noise(24, 5)
    if case == "one channel":
        maps = maps[:, :1]
    if case == "non-square maps":
        masks, maps = masks[:, :, :24], maps[..., :6]
    if case == "all dead":
        maps[:] = 0
    if case == "constant masks":
        masks[:] = 0
    auto = ChannelF1(layer="conv")
    run = made.run(maps, masks, probe=auto, inputs=1 if case == "one input channel" else 3)
    run = made.replace(run, survey=made.replace(run.survey, multilabel=case == "multi-label"))

    summary = concluded(run, auto).summary
    shown = check_sections(auto.sections(summary, run), auto.name)

    assert summary["class"].values.tolist() == ["gland", "not gland"]
    assert [len(section.blocks) > 0 for section in shown] == [True, True]
    assert summary.sizes["sampled"] == 2
    assert np.isfinite(summary["best_f1"].values).any() == (case != "all dead")
    assert len(run.audited.table["rule"]) == (2 if case == "one input channel" else 6)


def test_few_groups_are_told_in_every_table(made):
    """With four patients every interval is marked, in the tables and below the chart."""
    masks = made.blobs(40)
    maps = made.plant(made.noise(40, 6), masks, channel=1)
    few, many = (np.array([f"patient {i % number}" for i in range(40)], object) for number in (4, 30))

    def notes(groups):
        run = made.run(maps, masks, groups=groups)
        summary = concluded(run).summary
        found, chance = check_sections(probe.sections(summary, run), probe.name)
        text, frames = found.blocks[2].caption, [block.frame for block in found.blocks[3:5]]
        return summary["groups"].values, text, [f["note"] for f in (*frames, chance.blocks[0].frame.iloc[:1])]

    groups, text, marks = notes(few)
    assert (groups == 4).all()
    assert "6 of 6 intervals rest on fewer than 10 groups" in text
    assert all(mark.str.startswith("unreliable").all() for mark in marks)
    groups, text, marks = notes(many)
    assert (groups == 30).all()
    assert "Unreliable" not in text
    assert all((mark == "").all() for mark in marks)
