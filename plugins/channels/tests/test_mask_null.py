"""Channel-F1 against moved and exchanged masks: slow references, planted truth, calibration, bad inputs.

The references come first: loops from the formula, nothing of ours imported.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_channels import ChannelF1
from wsss_probe_channels.nulls.mask_null import (
    binarised,
    donors,
    draw_sums,
    mean_scores,
    null_table,
    offsets,
    shifted,
)
from wsss_probe_channels.nulls.mask_null_probe import ChannelNull, PermutedNull
from wsss_probe_channels.regions import regions_of

from wsss_probe import Batch, Head, LayerInfo, Survey, hookimpl
from wsss_probe.auditing import perform
from wsss_probe.config import resolve
from wsss_probe.errors import UsageError
from wsss_probe.host import PluginHost
from wsss_probe.images import TensorSource
from wsss_probe.preparation import find_subject, prepare
from wsss_probe.run import open_run
from wsss_probe.schema import check_conclusion, check_observation, check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

# -- references --------------------------------------------------------------------------------


def slow_otsu(plane):
    """Otsu 1979 over 256 bins between the extremes: the first bin centre of largest variance."""
    values = [float(value) for row in plane for value in row]
    low, high = min(values), max(values)
    if not all(math.isfinite(value) for value in values) or low == high:
        return None
    width = (high - low) / 256
    bins = [min(int((value - low) / width), 255) for value in values]
    centres = [low + (index + 0.5) * width for index in range(256)]
    best, threshold = -1.0, None
    for split in range(255):
        below = [centres[b] for b in bins if b <= split]
        above = [centres[b] for b in bins if b > split]
        if below and above:
            gap = sum(below) / len(below) - sum(above) / len(above)
            variance = len(below) * len(above) * gap**2
            if variance > best * (1 + 1e-12):
                best, threshold = variance, centres[split]
    return threshold


def slow_f1(plane, mask, inside, ignored=(-1,)):
    """F1 of one map's Otsu mask with the cells whose value is in ``inside``; NaN where undefined."""
    threshold = slow_otsu(plane)
    if threshold is None:
        return math.nan
    tp = fp = fn = 0
    for row, truths in zip(plane, mask, strict=True):
        for value, truth in zip(row, truths, strict=True):
            if truth not in ignored:
                tp += value > threshold and truth in inside
                fp += value > threshold and truth not in inside
                fn += value <= threshold and truth in inside
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan


def slow_shift(mask, down, along):
    """Move a mask down and to the right around its borders."""
    height, width = len(mask), len(mask[0])
    out = [[None] * width for _ in range(height)]
    for i, j in itertools.product(range(height), range(width)):
        out[(i + down) % height][(j + along) % width] = mask[i][j]
    return out


def slow_mean(values):
    """Mean of what is defined, NaN where nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def slow_p(observed, null):
    """One plus the draws that are as large, over one plus all."""
    return (1 + sum(value >= observed for value in null)) / (1 + len(null))


# -- what the tests build with -----------------------------------------------------------------


def plan(channels, classes=("gland",), grid=(8, 8), seed=0):
    """Plan one layer."""
    layers = {"conv": LayerInfo("conv", "Conv2d", 0, 1, (channels, *grid), "maps")}
    return Survey(
        layers, ("a", "b"), ("predicted",), tuple(classes), Head(linear=False), (3, 32, 32), False, seed
    )


def batch(maps, masks, classes, indices, tables=None, readable=None):
    """Make one batch of some images."""
    size = len(indices)
    return Batch(
        indices=np.array(indices),
        images=torch.zeros(size, 3, 4, 4),
        labels=torch.zeros(size, 2, dtype=torch.bool),
        masks=None if masks is None else masks[indices],
        mask_classes=tuple(classes),
        readable=torch.ones(size, dtype=torch.bool) if readable is None else readable[indices],
        logits=torch.zeros(size, 2),
        activations={"conv": maps[indices]},
        gradients={},
        head=Head(linear=False),
        forward=lambda images: images,
        resume=lambda _layer, given: given,
        tables=tables or {},
    )


@dataclass(frozen=True)
class Network:
    """One network's tables: what ``conclude`` reads of it."""

    seen: dict
    survey: Survey
    groups: np.ndarray | None = None
    summaries: dict | None = None
    controls: tuple = ()
    not_testable: str = ""
    name: str = ""
    living: bool = True

    @property
    def summary_names(self):
        """Names of what concluded."""
        return frozenset(self.summaries or ())

    def rows(self, probe):
        """Rows of a probe."""
        return self.seen[probe].rows

    def partial(self, probe):
        """Sums of a probe."""
        return self.seen[probe].partial

    def summary(self, probe):
        """Summary of a probe that concluded."""
        return self.summaries[probe]

    def alive(self, layer):
        """Whether this control lives."""
        return self.living


def observed(probe, maps, masks, classes, size=5, tables=None, readable=None):
    """Stream images through a probe and put the pieces together as the host does."""
    starts = range(0, len(maps), size)
    pieces = []
    for start in starts:
        part = batch(maps, masks, classes, list(range(len(maps)))[start : start + size], tables, readable)
        pieces.append(check_observation(probe.observe(part), len(part.indices), probe.name))
    rows = [piece.rows for piece in pieces if piece.rows is not None]
    joined = xr.concat(rows, "image") if rows else None
    if joined is not None and readable is not None:
        joined = joined.where(xr.DataArray(readable.numpy(), dims="image"))
    return replace(pieces[0], rows=joined, partial=sum(piece.partial for piece in pieces))


def shift_run(maps, masks, classes=("gland",), shifts=39, size=5, readable=None, **more):
    """Survey with moved masks; the probe and the finished run."""
    survey = plan(maps.shape[1], classes, tuple(maps.shape[-2:]))
    (probe,) = ChannelNull(shifts=shifts).split(survey)
    seen = observed(probe, maps, masks, classes, size, readable=readable)
    return probe, Network({probe.name: seen}, survey, **more)


def both_nulls(maps, masks, classes=("gland",), draws=39, groups=None, **more):
    """Conclude both nulls; the run with both summaries, and both conclusions."""
    probe, run = shift_run(maps, masks, classes, draws, groups=groups, **more)
    first = check_conclusion(probe.conclude(run), probe.name)
    (second,) = PermutedNull(permutations=draws).split(run.survey)
    tables = {probe.name: first.summary}
    seen = {**run.seen, second.name: observed(second, maps, masks, classes, tables=tables)}
    run = replace(run, seen=seen, summaries=tables)
    permuted = check_conclusion(second.conclude(run), second.name)
    return replace(run, summaries={**tables, second.name: permuted.summary}), first, permuted


def blobs(number, seed, grid=(8, 8), middle=False):
    """Masks with one rectangle of class 0 on background; anywhere around the torus, or in the middle."""
    rng = np.random.default_rng([seed, 1])
    masks = np.full((number, *grid), -2)
    for mask in masks:
        height, width = rng.integers(2, 5, 2)
        top, left = (2, 2) if middle else rng.integers(0, grid)
        rows, columns = (top + np.arange(height)) % grid[0], (left + np.arange(width)) % grid[1]
        mask[np.ix_(rows, columns)] = 0
    return torch.from_numpy(masks)


def noise(number, channels, seed, grid=(8, 8)):
    """Rectified noise, alike among neighbours around the torus, that knows nothing of the masks."""
    maps = torch.randn(number, channels, *grid, generator=torch.Generator().manual_seed(seed))
    for dim in (2, 3):
        maps = maps + maps.roll(1, dim)
    return maps.relu()


def planted(maps, masks, channel, level, seed=5):
    """Replace a channel by the mask plus noise."""
    spread = torch.randn(masks.shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat(
        [maps[:, :channel], ((masks == 0) + level * spread).relu()[:, None], maps[:, channel + 1 :]], dim=1
    )


# -- agreement with the references -------------------------------------------------------------


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000), columns=st.integers(3, 6))
def test_sums_over_moved_masks_equal_the_loops(seed, columns):
    """Every draw's sum and number of F1, with ignored cells, white and a dead map, on maps not square."""
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.choice([0, 1, -2, -1], size=(3, 4, columns)))
    maps = torch.from_numpy(rng.exponential(size=(3, 2, 4, columns)).astype(np.float32))
    maps[0, 1] = 2.0
    probe = ChannelNull(layer="conv", shifts=3, seed=7)

    seen = probe.observe(batch(maps, masks, ("gland", "white"), [0, 1, 2])).partial

    regions = {
        "gland": ((0,), (-1,)),
        "not gland": ((1, -2), (-1,)),
        "tissue without gland": ((-2,), (-1, 1)),
    }
    assert seen["class"].values.tolist() == list(regions)
    moves = offsets(7, [0, 1, 2], 3, (4, columns)).tolist()
    for draw, channel, (name, (inside, ignored)) in itertools.product(range(4), range(2), regions.items()):
        scores = [
            slow_f1(
                maps[n, channel].tolist(), slow_shift(masks[n].tolist(), *moves[n][draw]), inside, ignored
            )
            for n in range(3)
        ]
        entry = seen.sel({"class": name}).isel(draw=draw, channel=channel)
        defined = [score for score in scores if not math.isnan(score)]
        assert entry["count"].item() == len(defined)
        assert entry["total"].item() == pytest.approx(sum(defined), rel=1e-6)


def test_sums_over_exchanged_masks_equal_the_loops():
    """In every draw each map is scored against the mask that its image was given."""
    maps, masks, groups = noise(6, 2, 3, (4, 5)), blobs(6, 3, (4, 5)), np.array(list("aabbcc"))
    masks[4] = -1
    run, first, _ = both_nulls(maps, masks, draws=7, groups=groups)

    sums = run.partial("channel-null-permuted@conv")
    given_masks = donors(0, first.summary["group"].values, [True] * 4 + [False, True], 7)

    for draw, channel in itertools.product(range(8), range(2)):
        scores = [
            slow_f1(maps[n, channel].tolist(), masks[int(given_masks[draw, n])].tolist(), (0,))
            for n in range(6)
        ]
        means = sums["total"] / sums["count"]
        assert means.values[draw, channel, 0] == pytest.approx(slow_mean(scores), rel=1e-6)


def test_p_values_follow_their_formula():
    """Each p counts the draws that are at least as large, the mask itself included."""
    means = np.random.default_rng(0).integers(0, 6, size=(20, 4, 2)) / 7
    eligible = np.array([[True, True], [True, False], [True, True], [True, False]])

    table = null_table(means, eligible, "shift")

    for channel, position in itertools.product(range(4), range(2)):
        entry = {name: table[name].values[channel, position] for name in ("p_shift", "p_family_shift")}
        if not eligible[channel, position]:
            assert all(math.isnan(value) for value in entry.values())
            continue
        own = [float(value) for value in means[:, channel, position]]
        best = [
            max(means[draw, k, position] for k in range(4) if eligible[k, position]) for draw in range(20)
        ]
        assert entry["p_shift"] == pytest.approx(slow_p(own[0], own[1:]))
        assert entry["p_family_shift"] == pytest.approx(slow_p(own[0], best[1:]))
        assert table["p_best_shift"].values[position] == pytest.approx(slow_p(best[0], best[1:]))
        assert table["null_mean"].values[channel, position] == pytest.approx(sum(own[1:]) / 19)
    tested = sorted(table["p_shift"].values[:, 0])
    q = [min(min(1, p * 4 / (rank + 1)) for rank, p in enumerate(tested) if rank >= k) for k in range(4)]
    assert sorted(table["q_shift"].values[:, 0]) == pytest.approx(q)


def test_the_observation_is_the_mean_f1_of_the_screen():
    """Draw 0 is what channel-F1 reports, so p is about the number that a reader sees."""
    maps, masks = noise(9, 4, 1), blobs(9, 1)
    maps[:3, 2] = 0
    probe, run = shift_run(maps, masks)

    rows = ChannelF1(layer="conv").observe(batch(maps, masks, ("gland",), list(range(9)))).rows

    wanted = np.nanmean(rows["f1"].sel({"class": "gland"}).values, axis=0)
    table = probe.conclude(run).summary.sel({"class": "gland"})
    np.testing.assert_allclose(table["observed"].values, wanted, rtol=1e-6)


# -- what masks are exchanged for --------------------------------------------------------------


def test_moves_are_uniform_and_the_images_own():
    """Every move of the grid is drawn, none at all among them, and none depends on the batch."""
    moves = offsets(3, range(200), 20, (2, 3))[:, 1:].reshape(-1, 2)
    counts = np.bincount(moves[:, 0] * 3 + moves[:, 1], minlength=6)

    assert (np.abs(counts - 4000 / 6) < 5 * np.sqrt(4000 / 6)).all()
    assert torch.equal(offsets(3, [7, 150], 20, (2, 3)), offsets(3, range(200), 20, (2, 3))[[7, 150]])
    assert not torch.equal(offsets(4, [7], 20, (2, 3)), offsets(3, [7], 20, (2, 3)))
    assert (offsets(3, range(5), 20, (2, 3))[:, 0] == 0).all()


def test_a_moved_mask_keeps_every_value():
    """Moving around the border changes places, not areas."""
    masks = torch.randint(-2, 3, (3, 5, 7))

    moved = shifted(masks, offsets(0, range(3), 9, (5, 7)))

    assert moved.shape == (3, 10, 5, 7)
    assert torch.equal(
        moved.flatten(2).sort(2).values, masks.flatten(1).sort(1).values[:, None].expand(-1, 10, -1)
    )


def test_whole_groups_exchange_their_masks():
    """Images of a group get masks of one group, in order, and none is lost; unusable images keep theirs."""
    groups = np.array([0, 1, 0, 2, 1, 2, 0])
    usable = np.array([True] * 6 + [False])

    given_masks = donors(0, groups, usable, 50)

    assert given_masks[0].tolist() == list(range(7))
    assert (given_masks[:, 6] == 6).all()
    orders = set()
    for draw in given_masks:
        assert sorted(draw[:6]) == list(range(6))
        assert all(groups[draw[one]] == groups[draw[other]] for one, other in ((0, 2), (1, 4), (3, 5)))
        assert all(draw[one] < draw[other] for one, other in ((0, 2), (1, 4), (3, 5)))
        orders.add(tuple(groups[draw[[0, 1, 3]]]))
    assert len(orders) == 6


def test_unequal_groups_take_masks_in_turn():
    """A group of three that gets the masks of a group of two uses the first again."""
    given_masks = donors(1, [0, 0, 0, 1, 1], [True] * 5, 20)

    assert {tuple(draw) for draw in given_masks} == {(0, 1, 2, 3, 4), (3, 4, 3, 0, 1)}


# -- planted truth -----------------------------------------------------------------------------


def test_a_planted_channel_passes_both_nulls_and_noise_does_not():
    """The channel that follows the mask has the smallest p there is; distractors have no small q."""
    masks = blobs(20, 0)
    maps = planted(noise(20, 8, 0), masks, 5, level=0.5)

    _, first, second = both_nulls(maps, masks, draws=199)

    for conclusion, kind in ((first, "shift"), (second, "permuted")):
        table = conclusion.summary.sel({"class": "gland"})
        assert table[f"p_{kind}"].values[5] == 1 / 200
        assert table[f"p_best_{kind}"].item() == 1 / 200
        assert np.flatnonzero(table[f"q_{kind}"].values < 0.05).tolist() == [5]
        assert table["null_mean"].values[5] < table["null_high"].values[5] < table["observed"].values[5]
        finding = conclusion.findings[0]
        assert finding.verdict == "notice"
        assert finding.name == f"mask-null-{kind}/gland@conv"
        assert "1 of 8 channels have q < 0.05 against 199" in finding.statement
        assert "1 have p < 0.05 against the best channel of every draw" in finding.statement
        assert "channel 5" in finding.statement
        assert "possible from" not in finding.statement


def test_noise_hides_the_planted_channel():
    """At moderate noise the channel passes, where noise is many times the signal it does not."""
    masks = blobs(12, 2)
    found = []
    for level in (0.5, 30.0):
        probe, run = shift_run(planted(noise(12, 6, 2), masks, 2, level), masks, shifts=199)
        found.append(float(probe.conclude(run).summary["q_shift"].sel({"class": "gland"}).values[2]))

    assert found[0] < 0.05 < found[1]


def test_the_usual_place_passes_moved_masks_only():
    """A channel that always marks the middle, where objects lie, is in place but follows no image."""
    masks = blobs(30, 4, middle=True)
    maps = noise(30, 3, 4)
    maps[:, 1] = 0.01 * maps[:, 1]
    maps[:, 1, 2:5, 2:5] += 1

    _, first, second = both_nulls(maps, masks, draws=99)

    assert first.summary["p_shift"].sel({"class": "gland"}).values[1] == 0.01
    assert second.summary["p_permuted"].sel({"class": "gland"}).values[1] > 0.05


def test_the_right_size_in_the_wrong_place_passes_exchanged_masks_only():
    """A channel that is as large as the object but anywhere beats other images' masks, not moved ones."""
    rng = np.random.default_rng(0)
    masks = torch.full((40, 8, 8), -2)
    maps = noise(40, 2, 6)
    for n in range(40):
        size = 1 if n % 2 else 6
        masks[n, :size, :size] = 0
        maps[n, 0] = 0.0
        maps[n, 0, :size, :size] = 1.0
        maps[n, 0] = maps[n, 0].roll(tuple(rng.integers(0, 8, 2).tolist()), (0, 1))

    _, first, second = both_nulls(maps, masks, draws=99)

    assert first.summary["p_shift"].sel({"class": "gland"}).values[0] > 0.05
    assert second.summary["p_permuted"].sel({"class": "gland"}).values[0] == 0.01


# -- nothing where nothing is ------------------------------------------------------------------


def quick(maps, masks, masks_of, draws=39):
    """Compare with drawn masks, without a run around it: p of the first channel and of the best."""
    total, count = draw_sums(binarised(maps), masks_of, draws + 1, regions_of(("gland",), "none"))
    table = null_table(mean_scores(total, count), np.ones((maps.shape[1], 1), dtype=bool), "null")
    return float(table["p_null"].values[0, 0]), float(table["p_best_null"].values[0])


def moved(masks, seed, draws=39):
    """Masks moved around."""
    moves = offsets(seed, range(len(masks)), draws, tuple(masks.shape[1:]))
    return lambda part: shifted(masks, moves[:, part])


def exchanged(masks, seed, groups=None, draws=39):
    """Masks exchanged between images or groups."""
    own = np.arange(len(masks)) if groups is None else groups
    given_masks = torch.from_numpy(donors(seed, own, np.ones(len(masks), dtype=bool), draws))
    return lambda part: masks[given_masks[part].T]


def test_p_values_are_calibrated_on_noise():
    """Of 100 fixed seeds of noise at most 11 give p up to .05, for one channel and for the best of three."""
    ps = []
    for seed in range(100):
        maps, masks = noise(6, 3, seed, (6, 6)), blobs(6, seed, (6, 6))
        ps.append(quick(maps, masks, moved(masks, seed)) + quick(maps, masks, exchanged(masks, seed)))

    rejected = (np.array(ps) <= 0.05).sum(axis=0)
    assert (rejected <= 11).all()
    assert (rejected >= 1).all()  # a p that never falls is no test


def test_exchanged_masks_are_calibrated_with_groups():
    """Images of a group that share place and map count once; taken one by one they would reject too often."""
    groups = np.repeat(np.arange(5), 6)
    by_group = one_by_one = 0
    for seed in range(100):
        maps, masks = noise(5, 1, seed, (6, 6))[groups], blobs(5, seed, (6, 6))[groups]
        by_group += quick(maps, masks, exchanged(masks, seed, groups))[0] <= 0.05
        one_by_one += quick(maps, masks, exchanged(masks, seed))[0] <= 0.05

    assert by_group <= 11
    assert one_by_one > 11


def test_few_draws_give_a_small_q_only_to_many_channels_at_once():
    """With 39 draws no q of eight channels is below .05 unless four beat all draws; the statement says so."""
    masks = blobs(12, 0)
    maps = planted(noise(12, 8, 0), masks, 5, level=0.3)
    probe, run = shift_run(maps, masks, shifts=39)

    (statement, *_) = (finding.statement for finding in probe.conclude(run).findings)

    assert "0 of 8 channels have q < 0.05" in statement
    assert "(possible from 4 channels on)" in statement
    assert "1 have p < 0.05 against the best channel of every draw" in statement


# -- invariances -------------------------------------------------------------------------------


def test_batch_borders_change_nothing():
    """Batches of one and of all images give the same sums, to the last place of F1."""
    maps, masks = noise(7, 3, 0), blobs(7, 0)

    sums = [shift_run(maps, masks, size=size)[1].partial("channel-null@conv") for size in (1, 7)]

    xr.testing.assert_allclose(sums[0], sums[1], rtol=1e-12)


def test_chunks_of_draws_change_nothing(monkeypatch):
    """One draw at a time gives the sums of all draws at once."""
    maps, masks = noise(4, 3, 0), blobs(4, 0)
    whole = shift_run(maps, masks)[1].partial("channel-null@conv")
    monkeypatch.setattr("wsss_probe_channels.nulls.mask_null._CHUNK", 1)

    assert shift_run(maps, masks)[1].partial("channel-null@conv").equals(whole)


def test_permuting_channels_permutes_the_table():
    """Channels are compared one by one: another order gives the same p in that order."""
    masks, order = blobs(8, 0), [2, 0, 1]
    maps = planted(noise(8, 3, 0), masks, 1, 0.5)

    plain, permuted = (
        probe.conclude(run).summary for probe, run in (shift_run(m, masks) for m in (maps, maps[:, order]))
    )

    np.testing.assert_array_equal(permuted["p_shift"].values, plain["p_shift"].values[order])
    assert permuted["p_best_shift"].values.tolist() == plain["p_best_shift"].values.tolist()


# -- bad inputs --------------------------------------------------------------------------------


def test_dead_channels_have_no_p():
    """A dead channel, one with NaN, and one that answers too few images have no p and enter no maximum."""
    masks = blobs(10, 0)
    maps = planted(noise(10, 4, 0), masks, 3, 0.3)
    maps[:, 0], maps[:, 1] = 0, torch.nan
    maps[2:, 2] = 1
    maps[:2, 2] = (masks[:2] == 0).float()

    _, first, second = both_nulls(maps, masks)

    for table, kind in ((first.summary, "shift"), (second.summary, "permuted")):
        names = ("observed", f"p_{kind}", f"q_{kind}", f"p_family_{kind}")
        own = {name: np.isfinite(table[name].sel({"class": "gland"}).values).tolist() for name in names}
        assert own == {name: [False, False, False, True] for name in names}
        assert np.isfinite(table[f"p_best_{kind}"].sel({"class": "gland"}).item())


@pytest.mark.parametrize(
    "case", ["absent class", "one image", "no mask", "all dead", "one value everywhere", "one channel"]
)
def test_degenerate_data_end_in_a_statement(case):
    """Absent classes, one image, no known mask, dead layers, constant masks and one channel never crash."""
    masks, maps = blobs(6, 0), noise(6, 3, 0)
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
    if case == "one channel":
        maps = maps[:, :1]

    run, first, second = both_nulls(maps, masks, classes=("gland", "fat"))
    (probe,) = ChannelNull(shifts=39).split(run.survey)
    (section,) = check_sections(probe.sections(first.summary, run), probe.name)

    assert section.question == "chance"
    own, absent = first.findings
    estimable = case in {"one image", "one value everywhere", "one channel"}
    assert ("not estimable" in own.statement) is not estimable
    assert "not estimable" in absent.statement
    assert all(f.verdict == "notice" for f in (*first.findings, *second.findings))
    if case == "one value everywhere":
        assert (first.summary["p_shift"].values[:, 0] == 1).all()  # a mask that is everywhere cannot be moved
    if case == "one image":
        assert "exchanged between groups and there are fewer than two" in second.findings[0].statement
        assert np.isnan(second.summary["p_permuted"].values).all()


def test_few_groups_make_a_coarse_p_and_it_is_said():
    """Three groups have six orders: the statement tells how small p can become."""
    masks = blobs(9, 0)
    maps = planted(noise(9, 2, 0), masks, 1, 0.1)

    _, _, second = both_nulls(maps, masks, draws=99, groups=np.repeat(["a", "b", "c"], 3))

    assert 0.08 < second.summary["p_permuted"].sel({"class": "gland"}).values[1] < 0.3
    assert "with 3 groups cannot be below 0.17" in second.findings[0].statement
    assert second.findings[0].groups == 3


def test_unreadable_images_count_nowhere():
    """An image that the network answers with NaN, or that was not decoded, adds to no sum."""
    maps, masks = noise(8, 3, 0), blobs(8, 0)
    readable = torch.tensor([True] * 6 + [False] * 2)

    probe, whole = shift_run(maps, masks, readable=readable)
    _, without = shift_run(maps[:6], masks[:6])

    assert whole.partial(probe.name).equals(without.partial(probe.name))
    summary = probe.conclude(whole).summary
    assert summary.attrs["images"] == 6
    assert (summary["cells"].values[6:] == -1).all()


def test_masks_of_all_images_stay_small():
    """The masks that the second pass needs take one byte a cell: 1.6 MB for 2,000 images of 28 x 28."""
    probe, run = shift_run(noise(3, 2, 0), blobs(3, 0))

    cells = probe.conclude(run).summary["cells"]

    assert cells.dtype == np.int8
    assert cells.dims == ("image", "row", "column")


def test_masks_finer_than_the_layer_come_down_by_majority():
    """Masks on the input grid are compared on the layer's."""
    fine = blobs(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)

    coarse = shift_run(noise(4, 2, 0), blobs(4, 0))[1].partial("channel-null@conv")

    assert shift_run(noise(4, 2, 0), fine)[1].partial("channel-null@conv").equals(coarse)


# -- what is said ------------------------------------------------------------------------------


def test_control_networks_are_said_beside_the_count():
    """How many channels of networks that learned nothing pass is in the statement and in the table."""
    masks = blobs(16, 0)
    maps = planted(noise(16, 4, 3), masks, 1, 0.3)
    _, untrained = shift_run(maps[:, [1, 1, 0, 2]], masks, shifts=99, name="shuffled-0")
    _, dead = shift_run(noise(16, 4, 8), masks, shifts=99, name="shuffled-1", living=False)

    run, first, _ = both_nulls(maps, masks, draws=99, controls=(untrained, dead), not_testable="AUC 0.52")
    (probe,) = ChannelNull(shifts=39).split(run.survey)
    (section,) = check_sections(probe.sections(first.summary, run), probe.name)

    statement = first.findings[0].statement
    assert "channels of control networks with such a q: 2 of 4;" in statement
    assert "not testable here: AUC 0.52" in statement
    text, counts, gland, _ = section.blocks
    assert "does training matter" in text.markdown
    frame = counts.frame[counts.frame["class"] == "gland"]
    assert frame["network"].tolist() == ["audited", "audited", "shuffled-0", "shuffled-1"]
    assert frame["masks"].tolist() == ["moved", "exchanged", "moved", "moved"]
    assert frame["q < 0.05"].tolist()[:3] == [1, 1, 2]
    assert frame["note"].tolist()[3] == "degenerate, counts for nothing"
    assert gland.frame["channel"].tolist()[0] == 1
    assert {"F1", "p, moved", "q, exchanged", "p over all, moved"} <= set(gland.frame.columns)
    assert set(gland.meanings) == set(gland.frame.columns) - {"channel"}


def test_without_the_second_pass_one_null_is_shown():
    """The section stands where exchanged masks were not run."""
    probe, run = shift_run(noise(6, 3, 0), blobs(6, 0))

    summary = probe.conclude(run).summary
    (section,) = check_sections(probe.sections(summary, run), probe.name)

    assert not any("exchanged" in column for column in section.blocks[2].frame.columns)


# -- the contract ------------------------------------------------------------------------------


class TestChannelNull(ProbeSuite):
    """Moved masks conform to the contract."""

    probe = ChannelNull(shifts=5)


def earlier():
    """Summary of channel-null for the suite's scene, as the first pass would leave it."""
    scene = make_scene()
    (probe,) = ChannelNull(shifts=5).split(scene.survey)
    return {probe.name: run_in_memory([probe], scene).concluded(probe).summary}


class TestPermutedNull(ProbeSuite):
    """Exchanged masks conform to the contract."""

    probe = PermutedNull(permutations=5)
    tables = earlier()


def test_the_probes_split_by_layer_and_take_the_seed():
    """One copy per layer with the run's seed, none without masks; controls answer moved masks only."""
    survey = plan(3, seed=11)

    (first,), (second,) = ChannelNull().split(survey), PermutedNull().split(survey)

    assert (first.name, second.name) == ("channel-null@conv", "channel-null-permuted@conv")
    assert first.seed == second.seed == 11
    assert first.needs(survey).controls
    assert not second.needs(survey).controls
    assert second.needs(survey).tables == {"channel-null@conv"}
    bare = replace(survey, mask_classes=())
    assert ChannelNull().split(bare) == PermutedNull().split(bare) == ()
    empty = batch(noise(2, 3, 0), None, (), [0, 1])
    assert first.observe(empty) is None
    assert second.observe(empty) is None


class Plugin:
    """A plugin that offers both nulls."""

    @hookimpl
    def wsss_probe_probes(self):
        """Offer them."""
        return [ChannelNull(shifts=9), PermutedNull(permutations=9)]


def test_the_second_pass_reads_the_masks_that_the_first_left(tmp_path):
    """In a whole audit, with a control, an unreadable image and a store on disk, draw 0 is the own mask."""
    made = make_scene(images=10)
    images = made.images.clone()
    images[3] = torch.nan
    host = PluginHost(strict=True)
    host.register(Plugin(), "nulls", version="1")
    options = resolve({"controls": "shuffled:1", "batch_size": 4, "layers": (made.survey.head.layer,)})
    subject = find_subject(options, host, made.network, TensorSource(images, made.masks, ["rectangle"]))

    perform(prepare(options, host, subject), tmp_path / "run", "test")

    tables = open_run(tmp_path / "run")["probes"]
    first, second = (tables[f"{name}@{made.survey.head.layer}/summary"] for name in NAMES)
    assert first["cells"].dtype == np.int8
    assert (first["cells"].values[3] == -1).all()
    assert np.isfinite(first["observed"].values).any()
    np.testing.assert_allclose(second["observed"].values, first["observed"].values, rtol=1e-6)


NAMES = ("channel-null", "channel-null-permuted")


def test_nulls_without_draws_are_refused():
    """Fewer than one draw is refused when it is set."""
    with pytest.raises(UsageError, match=r"shifts of a null of channel-F1 is too small; found: 0"):
        ChannelNull(shifts=0)
    with pytest.raises(UsageError, match="permutations of a null"):
        PermutedNull(permutations=0)
