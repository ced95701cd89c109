"""From rows to numbers: PxAP and Dice by the book, sealed thresholds, comparisons, and what is missing."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from wsss_probe_explainers.explainers import class_activation_map, grad_cam_map, plus_plus_map
from wsss_probe_explainers.localisation.comparison import Column, Compared, against_baselines, compare
from wsss_probe_explainers.localisation.judged import BASELINES, grids_of
from wsss_probe_explainers.localisation.localisation_probe import Localisation
from wsss_probe_explainers.localisation.localisation_verdict import Standing
from wsss_probe_explainers.localisation.network import NetworkScores
from wsss_probe_explainers.localisation.pooled_pixels import pooled_pixels
from wsss_probe_explainers.localisation.reached import second_order, several

from wsss_probe.errors import SealedError, UsageError
from wsss_probe.schema import check_sections
from wsss_probe.sealed import scored, split_of
from wsss_probe.statistics import benjamini_hochberg, group_bootstrap
from wsss_probe.testing import make_scene, run_in_memory

MAPS = [class_activation_map, grad_cam_map, plus_plus_map]


def survey(scene, probe=None, controls=1):
    """Survey a scene with the probe."""
    (part,) = (probe or Localisation()).split(scene.survey)
    return part, run_in_memory([part], scene, controls=controls)


@cache
def surveyed(**options):
    """Survey twenty images."""
    return survey(make_scene(images=20).with_explainers(MAPS), Localisation(**options))


def scaled_map(run, name, image):
    """The map of one image at the size of the mask, scaled to [0, 1]."""
    explainer, layer = name.split(", ")
    plane = torch.from_numpy(run.relevance(explainer, layer)["relevance"].values[image])
    size = run.scene.masks.shape[1:]
    plane = torch.nn.functional.interpolate(plane[None, None], size=size, mode="bilinear")[0, 0]
    return ((plane - plane.min()) / (plane.max() - plane.min())).numpy()


def dice_by_the_book(scores, mask, threshold):
    """Count pixel by pixel; loops only."""
    tp = fp = fn = 0
    for value, inside in zip(scores.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if inside != -1:
            tp += value >= threshold and inside == 0
            fp += value >= threshold and inside != 0
            fn += value < threshold and inside == 0
    return 2 * tp / (2 * tp + fp + fn)


def test_pxap_is_that_of_the_pooled_pixels():
    """Summary and brute force agree, over the images that have the object."""
    part, run = surveyed()
    name = "gradcam, features"
    pixels = []
    for image, mask in enumerate(run.scene.masks.numpy()):
        if (mask == 0).any():
            values = scaled_map(run, name, image)
            pixels += list(zip(values[mask != -1].tolist(), (mask == 0)[mask != -1].tolist(), strict=True))
    total, above = 0.0, 0.0
    for step in range(1000, -1, -1):
        kept = [inside for value, inside in pixels if value >= step * 0.001]
        if kept:
            recall = sum(kept) / sum(inside for _, inside in pixels)
            total, above = total + sum(kept) / len(kept) * (recall - above), recall

    found = run.concluded(part).summary.sel(explainer=name)

    assert float(found["pxap"]) == pytest.approx(total, abs=1e-6)
    assert float(found["prevalence"]) == pytest.approx(np.mean([inside for _, inside in pixels]))
    assert float(found["pxap_low"]) <= total <= float(found["pxap_high"])


def test_dice_is_held_out_at_the_reported_threshold():
    """Cutting maps at the reported threshold gives the reported Dice, on the other half only."""
    part, run = surveyed()
    conclusion = run.concluded(part)
    name = "cam, features"
    at = conclusion.summary.sel(explainer=name)
    choice = next(one for one in conclusion.choices if one.what == f"threshold of {name}")
    threshold = float(at["chosen_threshold"])
    own = np.array([(mask == 0).any() for mask in run.scene.masks.numpy()])
    shown = conclusion.map_scores["Dice"].sel(explainer=name).values

    by_book = {
        int(image): dice_by_the_book(scaled_map(run, name, image), run.scene.masks[image].numpy(), threshold)
        for image in np.flatnonzero(own)
    }
    sealed = {
        image for image in by_book if split_of(run, np.arange(len(own)) == image, "").seal <= choice.seal
    }
    assert len(sealed) == choice.images == 5
    assert np.isnan(shown[~own]).all()
    assert {image: pytest.approx(shown[image], abs=1e-6) for image in by_book} == by_book
    assert float(at["dice"]) == pytest.approx(
        np.mean([by_book[i] for i in by_book if i not in sealed]), abs=1e-6
    )
    assert float(at["chosen_dice"]) == pytest.approx(np.mean([by_book[i] for i in sealed]), abs=1e-6)
    assert choice.value == pytest.approx(threshold)
    assert float(choice.score) >= max(
        np.mean([dice_by_the_book(scaled_map(run, name, i), run.scene.masks[i].numpy(), t) for i in sealed])
        for t in (0.1, 0.3, 0.5, 0.7, 0.9)
    )


def test_thresholds_are_sealed():
    """A choice is refused on the images that it was made on; opening it again is on record."""
    part, run = surveyed()
    choice = run.concluded(part).choices[0]
    everything = split_of(run, np.ones(20, dtype=bool), "all")
    with pytest.raises(SealedError, match="chosen on the images"):
        scored(choice, everything, lambda value, images: None)

    part, run = surveyed(reopen=True)
    conclusion = run.concluded(part)
    assert all(one.reopened for one in conclusion.choices)
    assert "those included that it was chosen on" in conclusion.summary.attrs["parting"]
    with pytest.raises(UsageError, match="split to choose on"):
        surveyed(chosen_on="nowhere")[1].concluded(surveyed(chosen_on="nowhere")[0])


def test_every_explainer_meets_the_baselines_on_its_own_grid():
    """Five baselines a map, on the grid of that map, and the control's same map."""
    part, run = surveyed()
    table = run.concluded(part).summary
    frame = table[["comparison_map", "comparison_other", "comparison_kind"]].to_dataframe()

    for name, grid in grids_of(run.survey).items():
        own = frame[frame["comparison_map"] == name]
        wanted = [f"{baseline}, {grid[0]} x {grid[1]}" for baseline in BASELINES]
        assert list(own[own["comparison_kind"] == "baseline"]["comparison_other"]) == wanted
        assert list(own[own["comparison_kind"] == "control"]["comparison_other"]) == ["shuffled-0"]


def test_comparisons_are_those_of_the_parts():
    """Mean and interval are those of the paired differences; q is over the whole family."""
    generator = np.random.default_rng(0)
    scores = generator.random((40, 6))
    scores[3, 0] = np.nan
    scores[:, 0] += 0.3
    names = ["a", *(f"{name}, 2 x 2" for name in BASELINES)]
    columns = against_baselines(scores, names, {"a": (2, 2)})
    groups = np.repeat(np.arange(20), 2)

    found = compare([*columns, Column("x", "y", "map", np.full(40, np.nan))], groups)

    wanted = group_bootstrap(scores[:, 0] - scores[:, 2], groups)
    assert (found[1].map, found[1].other) == ("a", "centre blob, 2 x 2")
    assert found[1].mean == pytest.approx(float(wanted.estimate))
    assert found[1].low == pytest.approx(float(wanted.low), abs=0.02)
    assert (found[1].n, found[1].groups) == (39, 20)
    assert [one.q for one in found[:5]] == pytest.approx(benjamini_hochberg([one.p for one in found[:5]]))
    assert all(one.above for one in found[:5])
    assert not found[5].above
    assert np.isnan(found[5].p)
    assert compare([], groups) == []


def test_a_control_that_explains_another_class_is_compared_on_the_same_images():
    """Rows of a control count where the audited network's do, whatever class the control predicts."""
    scene = make_scene(images=12).with_explainers(MAPS)
    other = replace(scene, survey=replace(scene.survey, classes=("rectangle", "none")))
    part, run = survey(other, controls=2)
    conclusion = run.concluded(part)
    own = run.rows(part.name)["own"].values

    assert conclusion.summary.attrs["images"] == int(own.sum())
    for control in range(2):
        values = conclusion.summary["control_average_precision"].values[control]
        assert np.isfinite(values).all() == bool(own.any())


@pytest.mark.parametrize("value", [-1, -2])
def test_without_any_object_the_probe_says_so(value):
    """Masks that are empty, or ignored altogether: a finding, no numbers, no warning."""
    scene = make_scene(images=4).with_explainers(MAPS)
    part, run = survey(replace(scene, masks=torch.full_like(scene.masks, value)))
    conclusion = run.concluded(part)

    assert [finding.verdict for finding in conclusion.findings] == ["notice"]
    assert "No map could be compared" in conclusion.findings[0].statement
    assert conclusion.choices == ()
    assert np.isnan(conclusion.summary["average_precision"].values).all()
    assert conclusion.summary.attrs["empty"] == 4
    (section,) = check_sections(part.sections(conclusion.summary, run), "localisation")
    assert "4 have none" in section.blocks[0].markdown


def test_maps_that_are_undefined_or_constant_are_counted():
    """A map of NaN has no score and is counted; a constant one has the score of chance and is counted."""
    scene = make_scene(images=6).with_explainers(MAPS)
    (part,) = Localisation().split(scene.survey)
    batch = scene.batch(part.needs(scene.survey))
    first, second = list(batch.relevance)[:2]
    maps = dict(batch.relevance)
    maps[first] = torch.full_like(maps[first], torch.nan)
    maps[second] = torch.zeros_like(maps[second])

    seen = part.observe(replace(batch, relevance=maps))

    names = [", ".join(pair) for pair in (first, second)]
    present = seen.rows["objects"].values > 0
    undefined, constant = seen.rows.sel(explainer=names[0]), seen.rows.sel(explainer=names[1])
    assert (undefined["undefined"].values[present] == 1).all()
    assert np.isnan(undefined["average_precision"].values).all()
    assert float(seen.partial.sel(explainer=names[0])["pixels_inside"].sum()) == 0
    assert (constant["constant"].values[present] == 1).all()
    assert np.allclose(constant["average_precision"].values[present], constant["area"].values[present])
    assert np.isnan(constant["inside"].values).all()
    assert np.isnan(seen.rows["undefined"].values[~present]).all()


def test_without_masks_or_maps_nothing_is_observed():
    """Without masks in the batch there is no observation, without an explainer no probe."""
    scene = make_scene(images=4).with_explainers(MAPS)
    (part,) = Localisation().split(scene.survey)

    assert part.observe(replace(scene.batch(part.needs(scene.survey)), masks=None)) is None
    assert tuple(Localisation().split(make_scene().survey)) == ()
    assert len(tuple(Localisation().split(scene.without_masks().survey))) == 1


def test_pooled_intervals_resample_groups():
    """PxAP of one group has no interval; of equal images an interval of no width; ordered ends otherwise."""
    part, run = surveyed()
    rows, partial = run.rows(part.name), run.partial(part.name)
    names = [str(name) for name in rows["explainer"].values]
    above = np.stack([rows["above_inside"].values, rows["above_outside"].values], axis=2).astype(float)
    scores = NetworkScores(names, {}, above)

    one = pooled_pixels(partial, scores, np.zeros(20))
    same = pooled_pixels(partial, NetworkScores(names, {}, np.repeat(above[1:2], 20, axis=0)), None)
    own = pooled_pixels(partial, scores, None)

    assert np.isnan(one.low).all()
    assert np.allclose(same.low, same.high)
    assert (own.low < own.high).all()


def test_sections_show_every_map_and_every_comparison():
    """The table has a row for every kind of map; comparisons stand under chance."""
    part, run = surveyed()
    conclusion = run.concluded(part)

    where, chance = check_sections(part.sections(conclusion.summary, run), "localisation")

    assert (where.question, chance.question) == ("where", "chance")
    table = where.blocks[2].frame
    assert set(table["map"]) == set(conclusion.summary["explainer"].values)
    assert set(table[table["kind"] == "baseline"]["controls"]) == {""}
    assert "20 images" in where.blocks[0].markdown or "10 images" in where.blocks[0].markdown
    assert len(chance.blocks[0].frame) == conclusion.summary.sizes["comparison"]
    assert {block.frame.shape[0] for block in chance.blocks[1:]} == {conclusion.summary.sizes["rivalry"]}


def test_a_positive_mean_is_not_enough_to_be_above():
    """A small difference among noise is above 0 on average, and not above beyond chance."""
    generator = np.random.default_rng(3)
    noise = generator.normal(size=30)
    noise += 0.05 - noise.mean()

    (small,) = compare([Column("a", "b", "map", noise)], None)
    (large,) = compare([Column("a", "b", "map", noise + 2)], None)

    assert small.mean == pytest.approx(0.05)
    assert not small.above
    assert large.above
    assert not replace(large, q=0.05).above
    assert not replace(large, low=0.0).above


def test_clearing_needs_every_comparison_and_the_whole_interval():
    """One baseline or control that is not beaten, a control that reaches the interval, or none at all: no."""
    above = Compared("a", "b", "baseline", mean=0.2, low=0.1, high=0.3, p=0.001, q=0.01, n=20, groups=20)
    level = replace(above, low=-0.1)
    best = Standing("a", 0.6, 0.5, 0.7, 20, 20, baselines=(above,), controls=(above,), reach=0.4)

    assert best.clears
    assert not replace(best, baselines=(above, level)).clears
    assert not replace(best, controls=(level,)).clears
    assert not replace(best, reach=0.55).clears
    assert not replace(best, controls=(), reach=float("nan")).clears


def test_an_image_explained_for_another_class_is_not_pooled():
    """Where the mask lacks the explained class the rows are there, for controls, and the pixels are not."""
    scene = make_scene(images=4).with_explainers(MAPS)
    scene = replace(scene, survey=replace(scene.survey, classes=("rectangle", "none")))
    (part,) = Localisation().split(scene.survey)
    batch = scene.batch(part.needs(scene.survey))
    weights = torch.zeros_like(batch.targets["predicted"])
    weights[:2, 0], weights[2:, 1] = 1, 1

    seen = part.observe(replace(batch, targets={"predicted": weights}))

    assert seen.rows["own"].values.tolist() == [0, 1, 0, 0]
    assert np.isfinite(seen.rows["average_precision"].values[3]).all()
    pooled = seen.partial["pixels_inside"].sum("score") + seen.partial["pixels_outside"].sum("score")
    assert (pooled.values == int((scene.masks[1] != -1).sum())).all()


@pytest.mark.parametrize(
    ("gain", "words", "verdict"), [(0.3, "reaches more", "ok"), (-0.3, "reaches fewer", "notice")]
)
def test_reaching_more_objects_is_second_minus_first(gain, words, verdict):
    """Reaching more of several objects is a positive effect; images with one object do not count."""
    _, run = surveyed()
    generator = np.random.default_rng(0)
    first = generator.uniform(0.3, 0.5, 20)
    rows = run.rows("localisation").assign(objects=("image", np.array([1.0] * 5 + [2.0] * 15)))
    names = ["gradcam, features", "gradcampp, features"]

    def network(gained):
        recall = np.stack([first, first + gained + generator.normal(0, 0.02, 20)], axis=1)
        return NetworkScores(names, {"recall": recall}, np.empty((20, 2, 2, 1)))

    (finding,) = second_order(several(rows, network(gain), {"shuffled-0": network(0.0)}, run), run)

    assert finding.effect == pytest.approx(gain, abs=0.03)
    assert (finding.n, finding.groups) == (15, 15)
    assert words in finding.statement
    assert finding.verdict == verdict
    (beside,) = second_order(several(rows, network(gain), {"shuffled-0": network(0.5)}, run), run)
    assert beside.verdict == "notice"
    assert second_order(several(rows, NetworkScores(names[:1], {}, np.empty(0)), {}, run), run) == ()
