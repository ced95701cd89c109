"""Network Dissection equals loops over pixels, finds what is planted and nothing where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsss_probe_channels.regions import regions_of
from wsss_probe_channels.screening.selection import split_halves
from wsss_probe_channels.units import dissect as module
from wsss_probe_channels.units.dissect import overlap
from wsss_probe_channels.units.dissect_conclusion import iou_table
from wsss_probe_channels.units.dissect_probe import Dissect
from wsss_probe_channels.units.quantiles import Quantiles

from wsss_probe.errors import UsageError
from wsss_probe.layers import describe_layers
from wsss_probe.schema import check_conclusion, check_sections
from wsss_probe.testing import ProbeSuite, make_scene
from wsss_probe.testing.models import multi_logit, one_channel
from wsss_probe.testing.runs import run_in_memory

few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixture only holds functions

# -- reference ---------------------------------------------------------------------------------


def slow_bilinear(plane, rows, columns):
    """Resize with cell centres at half pixels, border values repeated."""
    height, width = len(plane), len(plane[0])

    def place(index, wanted, size):
        at = min(max((index + 0.5) * size / wanted - 0.5, 0), size - 1)
        return int(at), min(int(at) + 1, size - 1), at - int(at)

    out = []
    for i in range(rows):
        top, bottom, down = place(i, rows, height)
        line = []
        for j in range(columns):
            left, right, along = place(j, columns, width)
            upper = plane[top][left] * (1 - along) + plane[top][right] * along
            lower = plane[bottom][left] * (1 - along) + plane[bottom][right] * along
            line.append(upper * (1 - down) + lower * down)
        out.append(line)
    return out


def slow_iou(planes, masks, threshold, concept):
    """IoU of one channel with one concept over images, by loops; values of masks: class, -2, or -1 ignored.

    ``concept`` is a class, or ``("not", class)`` for all other known pixels.
    """
    inter = union = everywhere = area = unit = 0
    for plane, mask in zip(planes, masks, strict=True):
        complement = isinstance(concept, tuple)
        labelled = any(v != -1 if complement else v >= 0 for line in mask for v in line)
        large = slow_bilinear(plane, len(mask), len(mask[0]))
        for values, truths in zip(large, mask, strict=True):
            for value, truth in zip(values, truths, strict=True):
                if truth == -1:
                    continue
                inside = truth != concept[1] if complement else truth == concept
                fires = value > threshold
                inter += fires and inside
                area += inside
                unit += fires and labelled
                union += inside or (fires and labelled)
                everywhere += inside or fires
    cap = min(unit, area) / max(unit, area) if max(unit, area) and area else float("nan")
    return inter / union if area else float("nan"), inter / everywhere if area else float("nan"), cap


def example(seed, images=3, channels=3, grid=(3, 4), size=(7, 9)):
    """Draw maps and masks with two classes, background, ignored pixels, and one image without a class."""
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(size=(images, channels, *grid)), 0)
    masks = rng.choice([0, 1, -2, -1], p=[0.3, 0.2, 0.4, 0.1], size=(images, *size))
    masks[0][masks[0] >= 0] = -2
    return torch.from_numpy(maps), torch.from_numpy(masks)


def partial_of(maps, masks, threshold, classes=("gland", "fat"), made=None, **options):
    """Sums over images as the probe gives them."""
    table = xr.Dataset({"threshold": ("channel", np.asarray(threshold, dtype=np.float64))})
    batch = replace(made.batch(maps, masks, classes), tables={"quantiles@conv": table})
    return Dissect(layer="conv", **options).observe(batch)


@few
@given(st.integers(0, 10_000))
def test_it_equals_the_reference(made, seed):
    """IoU, IoU over all images, and cap of every channel and concept, complements too."""
    maps, masks = example(seed)
    threshold = [0.3, 0.8, 1.2]
    concepts = [0, 1, ("not", 0), ("not", 1)]
    expected = np.array(
        [
            [slow_iou(maps[:, k].tolist(), masks.tolist(), t, concept) for concept in concepts]
            for k, t in enumerate(threshold)
        ]
    )

    found = iou_table(partial_of(maps, masks, threshold, made=made, complements="all").partial)

    for position, name in enumerate(("iou", "iou_all", "cap")):
        np.testing.assert_allclose(found[name].values, expected[..., position], rtol=1e-12)


def test_rows_add_up_to_the_partial(made):
    """Sums of the counts by image are the sums over images, and one batch is as good as three."""
    maps, masks = example(4)
    seen = partial_of(maps, masks, [0.5] * 3, made=made)
    pieces = [partial_of(maps[i : i + 1], masks[i : i + 1], [0.5] * 3, made=made) for i in range(3)]
    inter, union = (seen.rows[name].sum("image").values for name in ("intersection", "union"))

    np.testing.assert_array_equal(inter, seen.partial["intersection"].values)
    expected = seen.partial["unit"] + seen.partial["area"] - seen.partial["intersection"]
    np.testing.assert_array_equal(union, expected.values)
    xr.testing.assert_equal(sum(piece.partial for piece in pieces), seen.partial)


def test_rows_and_columns_are_not_exchanged():
    """A channel in the upper right meets a concept in the upper right of a map that is not square."""
    maps, masks = torch.zeros(1, 1, 2, 4), torch.full((1, 4, 8), -2)
    maps[..., 0, 3], masks[:, 0, 7] = 1.0, 0
    seen = overlap(maps, torch.tensor([0.9]), masks, regions_of(("gland",), "none"))

    assert seen.intersection.item() == 1


def test_the_threshold_is_strict_and_skipping_is_exact(monkeypatch):
    """A map whose largest value is the threshold has no pixel; chunks of one channel change nothing."""
    maps, masks = example(2)
    top = maps[:, 0].max().repeat(3)
    regions = regions_of(("gland", "fat"), "none")
    assert overlap(maps, top, masks, regions).unit[:, 0].sum() == 0

    whole = overlap(maps, top / 3, masks, regions).unit
    monkeypatch.setattr(module, "_CHUNK", 1)
    assert torch.equal(overlap(maps, top / 3, masks, regions).unit, whole)


# -- what the paper's definitions imply -----------------------------------------------------------


def surveyed(maps, masks, classes=("gland",), share=0.005, *, made, groups=None, controls=(), **options):
    """First and second pass over maps, and the conclusion."""
    count, thresholds = made.replace, Quantiles(layer="conv", share=share)
    found, tables = {}, {}
    for name, own in {"": maps, **dict(controls)}.items():
        first = thresholds.observe(made.batch(own, masks, classes))
        seen = _Seen(first.rows, first.partial)
        table = tables[name] = thresholds.conclude(seen).summary
        batch = count(made.batch(own, masks, classes), tables={"quantiles@conv": table})
        second = Dissect(layer="conv", **options).observe(batch)
        found[name] = _Seen(second.rows, second.partial, name)
    run = made.run(maps, masks, classes, groups=groups)
    run = _Surveyed(run, found.pop(""), tuple(found.values()), tables[""])
    return check_conclusion(Dissect(layer="conv", **options).conclude(run), "dissect"), run


class _Surveyed:
    """A run of both passes."""

    def __init__(self, run, audited, controls, table, not_testable=""):
        self.survey, self.images, self.groups = run.survey, run.images, run.groups
        self.contents = None
        self.audited, self.controls, self.not_testable = audited, controls, not_testable
        self.rows, self.partial = audited.rows, audited.partial
        self.summary = {"quantiles@conv": table}.__getitem__


class _Seen:
    """Rows and sums of one network."""

    def __init__(self, rows, partial, name=""):
        self._rows, self._partial, self.name, self.living = rows, partial, name, "dead" not in name

    def rows(self, _probe):
        return self._rows

    def partial(self, _probe):
        return self._partial

    def alive(self, _layer):
        return self.living


def test_a_unit_that_is_the_mask_has_iou_one(made):
    """With maps on the grid of the masks and the matching quantile nothing is missed or added."""
    masks = made.blobs(6)
    maps = torch.cat([(masks == 0)[:, None].float(), torch.rand(6, 2, 32, 32)], dim=1)
    share = float((masks == 0).float().mean())
    summary = surveyed(maps, masks, share=share * 1.01, made=made)[0].summary

    assert summary["iou"].values[0, 0] == 1
    assert summary["detector"].values[0]
    assert summary["iou"].values[1:, 0].max() < 0.3


def test_micro_and_macro_differ_on_two_images(made):
    """A large object that is found and a small one that is missed: 16/17 over pixels, 1/2 over images."""
    masks = torch.full((2, 8, 8), -2)
    masks[0, :4, :4], masks[1, 7, 7] = 0, 0
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, 0, :4, :4] = 1
    seen = partial_of(maps, masks, [0.5], ("gland",), made=made)
    by_image = (seen.rows["intersection"] / seen.rows["union"]).values[:, 0, 0]

    assert iou_table(seen.partial)["iou"].values[0, 0] == pytest.approx(16 / 17)
    assert by_image.mean() == pytest.approx(1 / 2)


def test_a_concept_that_covers_everything_has_the_units_share(made):
    """Where L is every pixel, IoU is q, and so is the cap."""
    maps, masks = made.noise(5, 4), torch.zeros(5, 32, 32, dtype=torch.int64)
    summary = surveyed(maps, masks, share=0.1, made=made, complements="none")[0].summary

    np.testing.assert_allclose(summary["iou"].values[:, 0], summary["coverage"].values, rtol=1e-12)
    np.testing.assert_allclose(summary["cap"].values[:, 0], summary["coverage"].values, rtol=1e-12)
    assert summary["prevalence"].values[0] == 1


@few
@given(st.integers(0, 10_000), st.floats(0.1, 1.5))
def test_no_iou_is_above_its_cap(made, seed, threshold):
    """min(q, p) / max(q, p) bounds the intersection over union."""
    maps, masks = example(seed)
    table = iou_table(partial_of(maps, masks, [threshold] * 3, made=made).partial)

    assert not (table["iou"].values > table["cap"].values + 1e-12).any()


def test_images_without_a_labelled_object_count_only_in_iou_all(made):
    """A channel that fires on an empty image keeps its IoU but loses in ``iou_all``."""
    masks = torch.full((3, 8, 8), -2)
    masks[0, :4], masks[2] = 0, -1
    maps = torch.zeros(3, 1, 8, 8)
    maps[0, 0, :4], maps[1, 0, :4], maps[2] = 1, 1, 1
    table = iou_table(partial_of(maps, masks, [0.5], ("gland",), made=made, complements="none").partial)

    assert table["iou"].values.item() == 1
    assert table["iou_all"].values.item() == 0.5


# -- planted truth -----------------------------------------------------------------------------


def test_a_planted_channel_is_found_and_noise_hides_it(made):
    """The planted channel is the concept's best until noise is many times the signal."""
    masks, others = made.blobs(40), {f"c{i}": made.noise(40, 12, 50 + i) for i in range(3)}
    best, verdicts = [], []
    for level in (0.2, 20.0):
        maps = made.plant(made.noise(40, 12), masks, channel=7, level=level)
        maps = made.plant(maps, made.blobs(40, seed=9), channel=1, level=0.0)  # another object, as sharp
        conclusion, _ = surveyed(maps, masks, share=0.1, made=made, controls=others.items())
        best.append(int(conclusion.summary["best_channel"].values[0]))
        verdicts.append(conclusion.findings[0].verdict)

    assert best[0] == 7
    assert verdicts == ["ok", "notice"]


def test_nothing_is_found_where_nothing_is(made):
    """Noise clears four noisy controls, with its whole interval, in at most 2 of 12 draws."""
    masks, cleared = made.blobs(20), 0
    for seed in range(12):
        others = {f"c{i}": made.noise(20, 6, 1000 + 10 * seed + i) for i in range(4)}
        maps = made.noise(20, 6, 500 + seed)
        conclusion, _ = surveyed(maps, masks, share=0.1, made=made, controls=others.items())
        cleared += conclusion.findings[0].verdict == "ok"

    assert cleared <= 2


def test_what_is_not_testable_is_never_ok(made):
    """The reason is in every statement."""
    masks = made.blobs(30)
    maps = made.plant(made.noise(30, 6), masks, channel=2)
    _, run = surveyed(maps, masks, share=0.1, made=made, controls={"c": made.noise(30, 6, 9)}.items())
    run.not_testable = "AUC unknown"
    findings = Dissect(layer="conv").conclude(run).findings

    assert {finding.verdict for finding in findings} == {"notice"}
    assert all("not testable here: AUC unknown" in finding.statement for finding in findings)


def test_dead_controls_allow_no_verdict(made):
    """A control that does not respond counts for nothing."""
    masks = made.blobs(30)
    maps = made.plant(made.noise(30, 6), masks, channel=2)
    controls = {"dead": torch.zeros(30, 6, 8, 8)}.items()
    conclusion, _ = surveyed(maps, masks, share=0.1, made=made, controls=controls)

    assert conclusion.findings[0].verdict == "notice"
    assert "no living control" in conclusion.findings[0].statement


@pytest.mark.parametrize("value", [0.3, 6.0, -2.0])
def test_values_that_crowd_are_no_detection(made, value):
    """A constant channel has no strongest responses: whatever its region is, it detects nothing."""
    masks = made.blobs(10)
    maps = made.noise(10, 4)
    maps[:, 2] = value
    summary, finding = _parts(surveyed(maps, masks, made=made)[0])

    assert not summary["detector"].values[2]
    assert 2 not in summary["best_channel"].values
    if summary["reached"].values[2] == 1:
        assert "1 left out, whose values crowd" in finding.statement


def test_the_best_channel_is_chosen_on_one_half_only(made):
    """A channel that is perfect on the other half alone is better over all, and not chosen."""
    masks = made.blobs(12)
    run = made.run(made.noise(12, 8), masks)
    half = torch.from_numpy(split_halves(run, np.ones(12, dtype=bool), "", 0).choose)
    maps = 0.1 * made.noise(12, 8)
    maps[half] = made.plant(maps, masks, channel=1, level=0.8)[half]
    maps[~half] = made.plant(maps, masks, channel=3, level=0.0)[~half]
    summary = surveyed(maps, masks, share=0.1, made=made)[0].summary

    assert summary["iou"].values[:, 0].argmax() == 3
    assert summary["best_channel"].values[0] == 1


# -- bad inputs --------------------------------------------------------------------------------


def test_a_concept_too_large_to_be_detected_is_named(made):
    """With quantile .005 no channel can detect a concept on half of the pixels, and the finding says so."""
    masks = torch.full((8, 32, 32), -2)
    masks[:, :16] = 0
    summary, finding = _parts(surveyed(made.noise(8, 4), masks, made=made)[0])

    assert summary["detector"].sum() == 0
    assert "no channel could detect gland, not gland" in finding.statement


def _parts(conclusion):
    return conclusion.summary, conclusion.findings[-1]


@pytest.mark.parametrize("kind", ["dead", "absent", "constant", "one channel", "nan", "one image"])
def test_bad_input_concludes_and_shows(made, kind):
    """Dead layers, absent classes, constant masks, one channel, NaN maps and one image give no error."""
    masks = made.blobs(1 if kind == "one image" else 6)
    maps = made.noise(len(masks), 1 if kind == "one channel" else 3)
    maps = torch.zeros_like(maps) if kind == "dead" else maps
    if kind == "nan":
        maps[2, 1] = torch.nan
    masks = torch.full_like(masks, -2) if kind == "absent" else masks
    masks = torch.zeros_like(masks) if kind == "constant" else masks
    conclusion, run = surveyed(maps, masks, made=made)
    summary = conclusion.summary
    check_sections(Dissect(layer="conv").sections(summary, run), "dissect")

    if kind == "absent":
        assert np.isnan(summary["iou"].values[:, 0]).all()
        assert "the concept is absent" in conclusion.findings[0].statement
    if kind == "dead":
        assert not summary["iou"].values.any()
        assert not summary["reached"].values.any()


def test_few_groups_mark_the_interval(made):
    """Four patients are too few for an interval that can be believed, and the statement says so."""
    masks = made.blobs(24)
    maps = made.plant(made.noise(24, 4), masks, channel=1)
    conclusion, _ = surveyed(maps, masks, share=0.1, made=made, groups=np.repeat(list("abcd"), 6))

    assert "unreliable: fewer than 10 groups" in conclusion.findings[0].statement
    assert conclusion.findings[0].groups == 2


def test_without_rows_there_is_no_interval_and_no_verdict(made):
    """What does not fit is left out, and the statement says why there is no verdict."""
    masks = made.blobs(30)
    maps = made.plant(made.noise(30, 6), masks, channel=2)
    controls = {"c": made.noise(30, 6, 9)}.items()
    conclusion, run = surveyed(maps, masks, share=0.1, made=made, controls=controls, per_image="no")

    assert run.audited.rows("") is None
    assert conclusion.findings[0].verdict == "notice"
    assert "there is no interval" in conclusion.findings[0].statement


def test_rows_are_kept_up_to_a_size(made):
    """The copy for a layer decides by images x channels x concepts."""
    small = made.survey(512)
    (kept,) = Dissect().split(replace(small, images=1000))
    (left,) = Dissect().split(replace(small, images=100_000))

    assert (kept.per_image, left.per_image) == ("yes", "no")
    assert kept.name == "dissect@conv"
    assert kept.needs(small).tables == {"quantiles@conv"}


def test_without_masks_it_is_skipped_by_its_needs(made):
    """There is one copy, which needs masks, and a batch without them gives nothing."""
    bare = replace(made.survey(3), mask_classes=())
    (only,) = Dissect().split(bare)

    assert only.needs(bare).masks
    assert list(Quantiles().split(bare)) == []
    assert Dissect(layer="conv").observe(made.batch(made.noise(1, 3), None, ())) is None


@pytest.mark.parametrize("option", ["complements", "per_image"])
def test_unknown_words_are_refused(option):
    """The message names the option and what may stand there."""
    with pytest.raises(UsageError, match=f"unknown {option} of dissect.*found: maybe"):
        Dissect(**{option: "maybe"})


# -- contract ----------------------------------------------------------------------------------


def _tables(scene):
    """Thresholds of the scene's last layer, as the first pass gives them."""
    (probe,) = Quantiles(share=0.1).split(scene.survey)
    return {probe.name: run_in_memory([probe], scene, controls=0).concluded(probe).summary}


class TestDissect(ProbeSuite):
    """Dissect conforms to the contract."""

    probe = Dissect()
    tables = _tables(make_scene())


class TestDissectOfManyClasses(ProbeSuite):
    """Dissect conforms with more logits than mask classes, and without rows by image."""

    probe = Dissect(per_image="no", complements="none")
    tables = _tables(make_scene(multi_logit(7)))

    def scene(self):
        """Make a scene of seven logits."""
        return make_scene(multi_logit(7))


def test_one_channel_inputs_are_dissected():
    """A network for grey images is a network like any other."""
    scene, network = make_scene(), one_channel()
    first = describe_layers(network, scene.images[:1, :1])[0]
    survey = replace(scene.survey, layers={first.name: first})
    grey = replace(scene, network=network, survey=survey, images=scene.images[:, :1])
    tables = _tables(grey)
    (probe,) = Dissect().split(grey.survey)
    run = run_in_memory([probe], grey, controls=0, summaries=tables)

    assert np.isfinite(run.concluded(probe).summary["iou"].values).all()
