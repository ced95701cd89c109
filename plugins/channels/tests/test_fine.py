"""channel-f1-fine screens the best channels again on the masks' grid, and says how the numbers change."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from wsss_probe_channels import ChannelF1
from wsss_probe_channels.screening import fine
from wsss_probe_channels.screening.fine import ChannelF1Fine, chosen_channels
from wsss_probe_channels.screening.fine_conclusion import rank_agreement
from wsss_probe_channels.screening.table import channel_table

from wsss_probe.errors import UsageError
from wsss_probe.schema import check_conclusion, check_observation, check_sections
from wsss_probe.testing import ProbeSuite
from wsss_probe.testing.runs import run_in_memory
from wsss_probe.testing.scenes import make_scene

COARSE = "channel-f1@conv"


def scene_tables():
    """Summary of the coarse screen of the suite's scene, for its last layer."""
    scene = make_scene()
    (layer,) = (part.layer for part in ChannelF1Fine().split(scene.survey))
    coarse = ChannelF1(layer)
    return {coarse.name: run_in_memory([coarse], scene, controls=0).concluded(coarse).summary}


class TestSuite(ProbeSuite):
    """The fine screen of some channels conforms to the contract."""

    probe = ChannelF1Fine(channels=2)
    tables = scene_tables()


class TestSuiteOfAllChannels(ProbeSuite):
    """The fine screen of all channels, on a grid of its own, conforms to the contract."""

    probe = ChannelF1Fine(channels=0, resolution="12x20")
    tables = scene_tables()


# -- a run in memory, network by network -------------------------------------------------------


def coarse_of(made, maps, masks, classes=("gland",)):
    """What the fine screen reads of one network's coarse summary."""
    probe = ChannelF1("conv")
    seen = made.observed(maps, masks, classes, probe=probe, size=len(maps))
    return channel_table(seen.table, seen.sums, probe.strong).assign_attrs(probe.options)


def rows_of(made, maps, masks, classes=("gland",), *, probe, table, size=20):
    """Rows of the fine screen of one network, batch by batch."""
    pieces = []
    for start in range(0, len(maps), size):
        part = slice(start, start + size)
        batch = replace(made.batch(maps[part], masks[part], classes), tables={COARSE: table})
        pieces.append(check_observation(probe.observe(batch), len(maps[part]), probe.name).rows)
    return xr.concat(pieces, "image", join="exact")


def make_run(made, maps, masks, classes=("gland",), *, probe, controls=(), groups=None, **more):
    """A finished run of both screens; controls are the maps of other networks."""
    coarse_run = made.run(maps, masks, classes, groups=groups)
    table = coarse_of(made, maps, masks, classes)
    rows = rows_of(made, maps, masks, classes, probe=probe, table=table)
    others = []
    for position, other in enumerate(controls):
        seen = rows_of(made, other, masks, classes, probe=probe, table=coarse_of(made, other, masks, classes))
        others.append(
            SimpleNamespace(
                name=f"c-{position}", alive=lambda _layer: True, rows=lambda _name, seen=seen: seen
            )
        )
    return SimpleNamespace(
        rows=lambda _name: rows,
        summary={COARSE: table}.__getitem__,
        survey=coarse_run.survey,
        images=coarse_run.images,
        groups=groups,
        contents=None,
        controls=others,
        not_testable=more.get("not_testable", ""),
    )


def concluded(run, probe):
    """Conclude and make sections as the host does, with its checks."""
    conclusion = check_conclusion(probe.conclude(run), probe.name)
    check_sections(probe.sections(conclusion.summary, run), probe.name)
    return conclusion


def noisy_plant(made, level=0.3, images=24, channels=12, seed=1):
    """Masks, and maps of noise among which channel 7 knows the masks."""
    masks = made.blobs(images)
    return masks, made.plant(made.noise(images, channels, seed), masks, channel=7, level=level)


# -- the number itself -------------------------------------------------------------------------


def bilinear_by_loops(one, rows, columns):
    """A map on another grid, pixel centre by pixel centre; beyond the outer centres it is constant."""
    height, width = len(one), len(one[0])
    result = []
    for row in range(rows):
        y = min(max((row + 0.5) * height / rows - 0.5, 0), height - 1)
        top, low = int(y), min(int(y) + 1, height - 1)
        line = []
        for column in range(columns):
            x = min(max((column + 0.5) * width / columns - 0.5, 0), width - 1)
            left, right = int(x), min(int(x) + 1, width - 1)
            upper = one[top][left] * (1 - (x - left)) + one[top][right] * (x - left)
            lower = one[low][left] * (1 - (x - left)) + one[low][right] * (x - left)
            line.append(upper * (1 - (y - top)) + lower * (y - top))
        result.append(line)
    return result


def otsu_by_loops(one):
    """Otsu's threshold of 256 bins, in double precision."""
    values = [value for line in one for value in line]
    low, width = min(values), (max(values) - min(values)) / 256
    counts = [0] * 256
    for value in values:
        counts[min(255, int((value - low) / width))] += 1
    centres = [low + (index + 0.5) * width for index in range(256)]
    best, threshold = -1.0, math.nan
    for split in range(255):
        n1, n2 = sum(counts[: split + 1]), sum(counts[split + 1 :])
        mean1 = sum(c * x for c, x in zip(counts[: split + 1], centres, strict=False)) / n1
        mean2 = sum(c * x for c, x in zip(counts[split + 1 :], centres[split + 1 :], strict=True)) / n2
        if n1 * n2 * (mean1 - mean2) ** 2 > best * (1 + 1e-9):
            best, threshold = n1 * n2 * (mean1 - mean2) ** 2, centres[split]
    return threshold


def f1_by_loops(one, mask, region):
    """F1 of a map with a region given as (wanted values, ignored values)."""
    wanted, ignored = region
    resized = bilinear_by_loops(one, len(mask), len(mask[0]))
    threshold = otsu_by_loops(resized)
    both = claimed = there = 0
    for row, line in enumerate(mask):
        for column, value in enumerate(line):
            if value in ignored:
                continue
            above, inside = resized[row][column] > threshold, value in wanted
            both, claimed, there = both + (above and inside), claimed + above, there + inside
    return 2 * both / (claimed + there)


def test_rows_are_the_formula(made):
    """Map up bilinearly, then Otsu, then F1 on the mask's pixels, for every region, by loops."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(2, 3, 4, 6, generator=generator)
    masks = torch.randint(-2, 2, (2, 9, 15), generator=generator)
    classes = ("gland", "white")
    coarse = coarse_of(made, maps, masks, classes)
    rows = rows_of(made, maps, masks, classes, probe=ChannelF1Fine("conv", channels=0), table=coarse)
    # values: -2 background, -1 ignored, 0 gland, 1 white
    regions = {
        "gland": ({0}, {-1}),
        "not gland": ({-2, 1}, {-1}),
        "tissue without gland": ({-2}, {-1, 1}),
    }

    assert rows["class"].values.tolist() == list(regions)
    for image in range(2):
        for channel in range(3):
            for name, region in regions.items():
                found = rows["f1"].sel({"place": channel, "class": name}).values[image]
                wanted = f1_by_loops(maps[image, channel].tolist(), masks[image].tolist(), region)
                assert found == pytest.approx(wanted, abs=1e-6)


def test_all_channels_are_those_of_the_screen_at_mask_resolution(made):
    """With channels = 0 the means are exactly those of channel-f1 with resolution = 'mask'."""
    masks, maps = noisy_plant(made)
    probe = ChannelF1Fine("conv", channels=0)

    summary = concluded(make_run(made, maps, masks, probe=probe), probe).summary
    screen = ChannelF1("conv", resolution="mask")
    at_masks = screen.conclude(made.run(maps, masks, probe=screen)).summary

    np.testing.assert_allclose(summary["mean_f1"].values, at_masks["mean_f1"].values, rtol=1e-12)
    assert summary["best_channel"].values.tolist() == at_masks["best_channel"].values.tolist()
    np.testing.assert_allclose(summary["best_f1"].values, at_masks["best_f1"].values, rtol=1e-12)


# -- which channels ----------------------------------------------------------------------------


def ranked(ranks):
    """Make a coarse table of ranks (channel, class)."""
    names = np.array(["gland", "not gland"], dtype=object)
    return xr.Dataset({"rank": (("channel", "class"), np.array(ranks, dtype=float))}, coords={"class": names})


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_best_of_each_class_are_chosen_once(number, seed):
    """The union over classes of the best ranks, ascending, never more than the number for each class."""
    rng = np.random.default_rng(seed)
    ranks = np.stack([rng.permutation(8) + 1.0, rng.permutation(8) + 1.0], axis=1)
    ranks[rng.uniform(size=8) < 0.3] = np.nan

    found = chosen_channels(ranked(ranks), ["gland", "not gland"], number)

    wanted = set()
    for column in ranks.T:
        valid = sorted((rank, channel) for channel, rank in enumerate(column) if not math.isnan(rank))
        wanted |= {channel for _, channel in valid[:number]}
    assert found.tolist() == sorted(wanted)


def test_zero_chooses_all_and_a_missing_region_is_named():
    """0 stands for all channels; a region that the coarse screen does not know is one clear error."""
    table = ranked([[1, 2], [2, 1], [np.nan, np.nan]])

    assert chosen_channels(table, ["gland"], 0).tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="was not asked for tissue without gland") as error:
        chosen_channels(table, ["gland", "tissue without gland"], 1)
    assert "same complements" in str(error.value)


def test_places_have_a_fixed_size(made):
    """Places beyond the chosen channels have negative numbers and NaN, so that networks share a form."""
    masks, maps = noisy_plant(made, images=6)
    table = coarse_of(made, maps, masks)
    rows = rows_of(made, maps, masks, probe=ChannelF1Fine("conv", channels=4), table=table)
    chosen = chosen_channels(table, ["gland", "not gland"], 4).tolist()

    assert rows.sizes["place"] == 8
    assert rows["place"].values.tolist() == chosen + [-1 - index for index in range(8 - len(chosen))]
    assert rows["f1"].isel(place=slice(len(chosen), None)).isnull().all()
    assert rows["f1"].isel(place=slice(len(chosen))).notnull().all()


def test_a_few_channels_at_a_time_are_the_same(made, monkeypatch):
    """Screening channel by channel, to bound the memory, gives the very same rows."""
    masks, maps = noisy_plant(made, images=6)
    table, probe = coarse_of(made, maps, masks), ChannelF1Fine("conv", channels=3)
    together = rows_of(made, maps, masks, probe=probe, table=table)
    monkeypatch.setattr(fine, "_CELLS", 1)

    assert rows_of(made, maps, masks, probe=probe, table=table).identical(together)


def test_a_control_screens_its_own_best(made):
    """A control has other ranks, so other channels, and its best is named by its own number."""
    masks, maps = noisy_plant(made)
    other = made.plant(made.noise(24, 12, seed=9), masks, channel=2, level=1.0)
    probe = ChannelF1Fine("conv", channels=1, complements="none")
    run = make_run(made, maps, masks, probe=probe, controls=[other])

    summary = concluded(run, probe).summary

    assert summary["best_channel"].sel({"class": "gland"}) == 7
    assert summary["control_channel"].sel({"class": "gland"}).values.tolist() == [2]
    assert np.isfinite(summary["mean_f1"].sel({"class": "gland"})).values.nonzero()[0].tolist() == [7]


# -- planted truth -----------------------------------------------------------------------------


def test_the_planted_channel_is_confirmed(made):
    """A channel that knows the masks, among noise, is the best on the finer grid and beats its controls."""
    masks, maps = noisy_plant(made, images=40)
    maps = made.plant(maps, made.blobs(40, seed=9), channel=1, level=0.0)  # as sharp, another object
    probe = ChannelF1Fine("conv", channels=4)
    controls = [made.noise(40, 12, seed) for seed in (5, 6, 7)]

    conclusion = concluded(make_run(made, maps, masks, probe=probe, controls=controls), probe)
    finding = {finding.name: finding for finding in conclusion.findings}["fine-best-channel/gland@conv"]

    assert finding.verdict == "ok"
    assert finding.statement.startswith("On the masks' grid: Layer conv, class gland: channel 7, ")
    assert "above all 3 controls" in finding.statement
    assert "In the coarse screen this channel has rank 1, " in finding.statement
    assert conclusion.summary["best_f1"].sel({"class": "gland"}) > 0.75


@pytest.mark.parametrize(("level", "wins"), [(0.3, True), (1.0, True), (60.0, False)])
def test_noise_hides_the_planted_channel(made, level, wins):
    """The channel is the best up to a noise as large as its signal, and is lost at sixty times that."""
    masks, maps = noisy_plant(made, level, images=30, channels=20)
    probe = ChannelF1Fine("conv", channels=8)

    summary = concluded(make_run(made, maps, masks, probe=probe), probe).summary

    assert (int(summary["best_channel"].sel({"class": "gland"})) == 7) is wins


def test_nothing_is_found_where_nothing_is(made):
    """Noise against noise is above all three controls about one time in four, and never with a verdict."""
    masks, probe, above = made.blobs(12), ChannelF1Fine("conv", channels=3), 0
    for seed in range(16):
        maps = [made.noise(12, 6, 100 * seed + index) for index in range(4)]
        finding = concluded(make_run(made, maps[0], masks, probe=probe, controls=maps[1:]), probe).findings[0]
        above += "; above all 3 controls (" in finding.statement
        assert finding.verdict == "notice"

    assert above <= 9  # 4 expected; more than 9 of 16 happen once in 600 times by chance


def test_finer_borders_change_the_number(made):
    """A smooth map whose object lies between the cells scores higher on the masks' grid, as change says."""
    masks = torch.full((12, 32, 32), -2)
    for index, mask in enumerate(masks):
        mask[2 + index % 4 : 14, 6:21] = 0
    truth = torch.nn.functional.avg_pool2d((masks == 0).float()[:, None], 4)
    maps = torch.cat([made.noise(12, 3), truth], dim=1)
    probe = ChannelF1Fine("conv", channels=0, complements="none")
    run = make_run(made, maps, masks, probe=probe)

    summary = concluded(run, probe).summary
    change = summary["change"].values[:, 0]

    coarse = run.summary(COARSE)["mean_f1"].sel({"class": "gland"}).values
    np.testing.assert_allclose(change, summary["mean_f1"].values[:, 0] - coarse)
    assert abs(change[3]) > 0.01
    assert summary["largest_change"].item() == pytest.approx(np.abs(change).max())
    assert summary["mean_change"].item() == pytest.approx(change.mean())
    assert summary["agreement"].item() == pytest.approx(
        spearmanr(coarse, summary["mean_f1"].values[:, 0]).statistic
    )
    assert summary["coarse_channel"].item() == 3
    assert summary["compared"].item() == 4


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12))
def test_rank_agreement_is_spearmans(pairs):
    """Ties included, and NaN where one side does not vary."""
    first, second = np.array(pairs, dtype=float).T
    found = rank_agreement(first, second)

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


# -- references and halves ---------------------------------------------------------------------


def test_halves_are_those_of_the_coarse_screen(made):
    """Both choose and score on the same images, also on a named split, and say so in the same words."""
    masks, maps = noisy_plant(made)
    probe = ChannelF1Fine("conv", channels=0)
    groups = np.array([f"g{index // 2}" for index in range(24)])
    run = make_run(made, maps, masks, probe=probe, groups=groups)
    run.images["split"] = ["train"] * 10 + ["test"] * 14

    summary = concluded(run, probe).summary
    scored = run.rows(probe.name)["f1"].sel({"place": 7, "class": "gland"}).values[10:]

    assert summary.attrs["how"] == "chosen on split 'train' and scored on the others"
    assert summary["best_n"].sel({"class": "gland"}) == 14
    assert summary["best_f1"].sel({"class": "gland"}).item() == pytest.approx(scored.mean())
    assert summary["best_groups"].sel({"class": "gland"}) == 7
    assert "unreliable: fewer than 10 groups" in str(summary["best_note"].sel({"class": "gland"}).item())


def test_intervals_hold_their_means(made):
    """Means follow their definition and lie inside their intervals."""
    masks, maps = noisy_plant(made)
    probe = ChannelF1Fine("conv", channels=3)
    run = make_run(made, maps, masks, probe=probe)
    summary, rows = concluded(run, probe).summary, run.rows(probe.name)

    for place, channel in enumerate(rows["place"].values):
        if channel < 0:
            continue
        for name in ("gland", "not gland"):
            own = summary.sel({"channel": channel, "class": name})
            values = [float(value) for value in rows["f1"].sel({"class": name}).values[:, place]]
            assert own["mean_f1"].item() == pytest.approx(sum(values) / len(values))
            assert own["low"].item() <= own["mean_f1"].item() <= own["high"].item()


def test_not_testable_is_said_and_never_ok(made):
    """A classifier that cannot be tested allows no verdict, however good the channel."""
    masks, maps = noisy_plant(made)
    probe = ChannelF1Fine("conv", channels=4)
    run = make_run(
        made, maps, masks, probe=probe, controls=[made.noise(24, 12, 5)], not_testable="its AUC is 0.5"
    )

    conclusion = concluded(run, probe)
    (first, *_) = probe.sections(conclusion.summary, run)

    assert {finding.verdict for finding in conclusion.findings} == {"notice"}
    assert all("not testable here: its AUC is 0.5" in finding.statement for finding in conclusion.findings)
    assert "Not testable here: its AUC is 0.5" in first.blocks[0].markdown


def test_all_ones_is_scored_on_the_masks_pixels(made):
    """The baseline is 2a / (1 + a) of the region's share of the mask's own pixels, not of the cells."""
    masks = torch.full((8, 32, 32), -2)
    masks[:, :13, :11] = 0
    probe = ChannelF1Fine("conv", channels=2)

    summary = concluded(make_run(made, made.noise(8, 3), masks, probe=probe), probe).summary

    for name, area in (("gland", 13 * 11 / 1024), ("not gland", 1 - 13 * 11 / 1024)):
        assert summary["all_ones_f1"].sel({"class": name}).item() == pytest.approx(2 * area / (1 + area))


# -- what cannot be said -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        "absent class",
        "one image",
        "no mask",
        "all dead",
        "one value",
        "one channel",
        "NaN maps",
        "not square",
    ],
)
@pytest.mark.parametrize("channels", [0, 2])
def test_degenerate_data_never_crash(case, channels, made):
    """Whatever is missing, there is a statement for every region, and none that is ok."""
    masks, maps = made.blobs(6), made.noise(6, 3)
    if case == "absent class":
        masks[:] = -2
    if case == "one image":
        masks, maps = masks[:1], maps[:1]
    if case == "no mask":
        masks[:] = -1
    if case == "all dead":
        maps[:] = 0
    if case == "one value":
        masks[:] = 0
    if case == "one channel":
        maps = maps[:, :1]
    if case == "NaN maps":
        maps[:, 1] = torch.nan
        maps[2] = torch.nan
    if case == "not square":
        masks, maps = masks[:, :20], maps[:, :, :5]
    probe = ChannelF1Fine("conv", channels=channels)

    conclusion = concluded(
        make_run(made, maps, masks, ("gland", "white"), probe=probe, controls=[maps]), probe
    )

    names = ["gland", "not gland", "tissue without gland"]
    assert [finding.name for finding in conclusion.findings] == [
        f"fine-best-channel/{name}@conv" for name in names
    ]
    assert all(finding.verdict == "notice" for finding in conclusion.findings)
    told = ["not estimable" not in finding.statement for finding in conclusion.findings]
    everywhere = case in ("one channel", "not square", "NaN maps")
    # of one value there is gland and nothing else; of an absent class only what is left
    assert told == {"one value": [True, False, False], "absent class": [False, True, True]}.get(
        case, [everywhere] * 3
    )


@pytest.mark.parametrize("channels", [0, 2])
def test_a_class_that_no_image_has_is_not_estimable(channels, made):
    """Of two things only one is in the masks: the other has a statement too, that it cannot be estimated."""
    masks, maps = made.blobs(6), made.noise(6, 3)
    masks[:, :, -4:] = 2
    probe, classes = ChannelF1Fine("conv", channels=channels), ("gland", "fat", "white")

    found = concluded(make_run(made, maps, masks, classes, probe=probe, controls=[maps]), probe).findings

    assert [finding.name for finding in found] == [f"fine-best-channel/{n}@conv" for n in ("gland", "fat")]
    assert ["not estimable" in finding.statement for finding in found] == [False, True]
    assert all(finding.verdict == "notice" for finding in found)


def test_a_dead_channel_counts_nowhere(made):
    """A constant map has no F1 on its images; means are over the others."""
    masks, maps = noisy_plant(made, images=10)
    maps[:3, 7] = 2.0
    probe = ChannelF1Fine("conv", channels=0)
    run = make_run(made, maps, masks, probe=probe)

    summary = concluded(run, probe).summary
    own = run.rows(probe.name)["f1"].sel({"place": 7, "class": "gland"}).values

    assert np.isnan(own[:3]).all()
    assert summary["mean_f1"].sel({"channel": 7, "class": "gland"}).item() == pytest.approx(own[3:].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": -1}, "needs a number of channels"),
        ({"resolution": "fine"}, "unknown resolution"),
        ({"complements": "some"}, "unknown complements"),
    ],
)
def test_settings_without_a_meaning_are_refused(options, message):
    """Each wrong setting is one clear error."""
    with pytest.raises(UsageError, match=message):
        ChannelF1Fine(**options)


def test_it_reads_the_coarse_table_of_its_layers(made):
    """One copy per layer asked for, each a second pass behind the coarse screen of that layer."""
    plan = made.survey(4, layers=("early", "late"))

    assert [part.name for part in ChannelF1Fine().split(plan)] == ["channel-f1-fine@late"]
    parts = ChannelF1Fine(layers="all").split(plan)
    assert [part.needs(plan).tables for part in parts] == [
        frozenset({"channel-f1@early"}),
        frozenset({"channel-f1@late"}),
    ]
    assert all(part.needs(plan).masks for part in parts)
