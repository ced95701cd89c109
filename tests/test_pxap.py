"""PxAP and its neighbours: against loops by the book, by its laws, and at the edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from wsss_probe.pxap import (
    ScoreHistogram,
    auprc,
    best_threshold,
    coarser,
    dice_curve,
    iou_curve,
    normalised,
    precision_recall,
    prevalence,
    pxap,
    resized,
    score_histogram,
)


def cut(scores, truth, threshold):
    """Count true and false positives of one threshold; loops only."""
    tp = fp = 0
    for score, inside in zip(scores, truth, strict=True):
        if score >= threshold:
            tp += inside
            fp += not inside
    return tp, fp


def pxap_by_the_book(scores, truth, steps):
    """Cut the pixels at every threshold, from the highest to the lowest; loops only."""
    inside, total, recall_above = sum(truth), 0.0, 0.0
    for step in range(steps, -1, -1):
        tp, fp = cut(scores, truth, step * (1 / steps))
        if tp + fp:
            recall = tp / inside
            total += tp / (tp + fp) * (recall - recall_above)
            recall_above = recall
    return total


def auprc_by_the_book(scores, truth, steps, parts=20_000):
    """Integrate precision over recall numerically, ties broken evenly; loops only."""
    inside, area = sum(truth), 0.0
    for step in range(steps, -1, -1):
        tp, fp = cut(scores, truth, step * (1 / steps))
        tp_above, fp_above = cut(scores, truth, (step + 1) * (1 / steps)) if step < steps else (0, 0)
        gained, wrong = tp - tp_above, fp - fp_above
        for part in range(parts):
            share = (part + 0.5) / parts
            hits = tp_above + share * gained
            area += hits / (hits + fp_above + share * wrong + 1e-300) * gained / parts / inside
    return area


def one(scores, truth, known=None, bins=1000):
    """Histogram of a list of pixels."""
    known = None if known is None else torch.tensor([known])
    maps = torch.tensor([[scores]], dtype=torch.float64)
    return score_histogram(maps, torch.tensor([truth]), known, bins).pooled()


def drawn(seed, pixels=400, share=0.3):
    """Scores that know the mask a little, on a coarse grid now and then."""
    generator = np.random.default_rng(seed)
    truth = generator.random(pixels) < share
    scores = np.clip(generator.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    if seed % 2:
        scores = np.round(scores, 2)
    return scores.tolist(), truth.tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [10, 1000])
def test_pxap_equals_the_loop_over_thresholds(seed, steps):
    """One histogram gives what cutting all pixels at every threshold gives."""
    scores, truth = drawn(seed)

    found = float(pxap(one(scores, truth, bins=steps)))

    assert found == pytest.approx(pxap_by_the_book(scores, truth, steps), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_auprc_equals_the_integral(seed):
    """The closed form is the area under precision over recall with ties broken evenly."""
    scores, truth = drawn(seed, pixels=60)

    found = float(auprc(one(scores, truth, bins=10)))

    assert found == pytest.approx(auprc_by_the_book(scores, truth, 10), abs=1e-5)


@pytest.mark.parametrize("share", [0.29664, 0.05, 0.5])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_map_scores_the_prevalence(share, value):
    """A map that says nothing has the share of the mask as its PxAP and AUPRC, whatever its value."""
    truth = (np.arange(100_000) < share * 100_000).tolist()
    histogram = one([value] * 100_000, truth)

    assert float(pxap(histogram)) == pytest.approx(share, abs=1e-12)
    assert float(auprc(histogram)) == pytest.approx(share, abs=1e-12)
    assert float(prevalence(histogram)) == pytest.approx(share, abs=1e-12)


def test_a_perfect_map_scores_one_and_its_inverse_the_prevalence():
    """The mask itself scores 1; its inverse reaches recall at full coverage only."""
    truth = [True] * 30 + [False] * 70
    scores = [float(inside) for inside in truth]

    assert float(pxap(one(scores, truth))) == 1
    assert float(auprc(one(scores, truth))) == 1
    inverse = one([1 - score for score in scores], truth)
    assert float(pxap(inverse)) == pytest.approx(0.3)


def test_the_score_one_is_a_threshold_of_its_own():
    """A pixel with score 1 is above one with 0.9999, although both are in the last thousandth."""
    assert float(pxap(one([1.0, 0.9999], [True, False]))) == 1
    assert float(pxap(one([0.9998, 0.9999], [True, False]))) == 0.5


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_ignored_pixels_have_no_effect(seed, extra):
    """Whatever stands at ignored pixels, NaN and 7 too, all numbers stay as they are."""
    scores, truth = drawn(seed, pixels=50)
    truth[0] = True
    generator = np.random.default_rng(seed)
    others = generator.choice([0.0, 0.5, 1.0, 7.0, math.nan], extra).tolist()
    known = [True] * 50 + [False] * extra

    found = one(scores + others, truth + (generator.random(extra) < 0.5).tolist(), known)

    wanted = one(scores, truth)
    assert np.array_equal(found.positive, wanted.positive)
    assert np.array_equal(found.negative, wanted.negative)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_same_data_twice_change_nothing(seed):
    """Two copies of the data give the same shares as one."""
    scores, truth = drawn(seed, pixels=50)
    truth[0] = True
    histogram = one(scores, truth)
    twice = histogram + histogram

    for measure in (pxap, auprc, prevalence):
        assert float(measure(twice)) == pytest.approx(float(measure(histogram)), abs=1e-12)
    assert np.allclose(dice_curve(twice), dice_curve(histogram))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_scores_equal_the_loop(pixels):
    """For any scores in [0, 1], also those on the edge of a step, the loop agrees, and all is in [0, 1]."""
    scores, truth = [score for score, _ in pixels], [inside for _, inside in pixels]
    truth[0] = True

    histogram = one(scores, truth)

    assert float(pxap(histogram)) == pytest.approx(pxap_by_the_book(scores, truth, 1000), abs=1e-12)
    assert 0 <= float(auprc(histogram)) <= 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_threshold_belongs_to_the_step_that_it_begins(dtype):
    """A score equal to a threshold is at least that threshold, for all thousand of them."""
    edges = torch.arange(1001, dtype=torch.float64) * 0.001
    histogram = score_histogram(edges.to(dtype)[None, None], torch.ones(1, 1001, dtype=torch.bool)).pooled()
    wanted = [sum(cut(edges.to(dtype).tolist(), [True] * 1001, edge)) for edge in edges.tolist()]

    assert histogram.positive[::-1].cumsum()[::-1].tolist() == wanted


def test_it_meets_average_precision_as_steps_shrink():
    """With scores on a grid that the steps hold, PxAP is scikit-learn's average precision."""
    scores, truth = drawn(1, pixels=3000)

    assert float(pxap(one(scores, truth))) == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


def test_a_transformation_that_keeps_the_steps_changes_nothing():
    """PxAP sees steps only; a transformation that crosses them changes it."""
    scores, truth = drawn(0)
    moved = [math.floor(score * 1000) / 1000 + 0.0004 if score < 1 else score for score in scores]

    assert float(pxap(one(moved, truth))) == float(pxap(one(scores, truth)))
    squeezed = [score / 100 for score in scores]
    assert float(pxap(one(squeezed, truth))) != float(pxap(one(scores, truth)))


@pytest.mark.parametrize("curve", [dice_curve, iou_curve])
def test_the_best_threshold_is_the_one_that_gives_the_score(curve):
    """Cutting at the reported threshold gives the reported overlap; its mirror image does not."""
    scores, truth = [0.1, 0.2, 0.25, 0.3, 0.9], [False, False, True, True, True]
    histogram = one(scores, truth)

    best = best_threshold(histogram, curve(histogram))

    assert best.value == pytest.approx(0.201)  # the lowest threshold that leaves 0.2 out
    tp, fp = cut(scores, truth, best.value)
    dice = 2 * tp / (tp + fp + sum(truth))
    assert best.score == pytest.approx(dice if curve is dice_curve else dice / (2 - dice))
    assert cut(scores, truth, 1 - best.value) != (tp, fp)


def test_curves_equal_the_loop():
    """Dice, IoU, precision and recall at every threshold, by the book."""
    scores, truth = drawn(2, pixels=80)
    histogram = one(scores, truth, bins=20)
    dice, iou, (precision, recall) = dice_curve(histogram), iou_curve(histogram), precision_recall(histogram)

    for step, threshold in enumerate(histogram.thresholds.tolist()):
        tp, fp = cut(scores, truth, threshold)
        fn = sum(truth) - tp
        assert dice[step] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert iou[step] == pytest.approx(tp / (tp + fp + fn))
        assert recall[step] == pytest.approx(tp / sum(truth))
        if tp + fp:
            assert precision[step] == pytest.approx(tp / (tp + fp))
        else:
            assert math.isnan(precision[step])


def test_histograms_of_parts_add_up_to_that_of_the_whole():
    """Maps counted one by one, in any order, are the maps counted together."""
    generator = torch.Generator().manual_seed(0)
    scores, truth = (
        torch.rand((5, 6, 7), generator=generator),
        torch.rand((5, 6, 7), generator=generator) > 0.5,
    )

    whole = score_histogram(scores, truth)
    parts = [score_histogram(scores[i : i + 1], truth[i]) for i in (3, 1, 4, 0, 2)]
    total = sum((part.pooled() for part in parts[1:]), parts[0].pooled())

    assert np.array_equal(total.positive, whole.pooled().positive)
    assert np.array_equal(total.negative, whole.pooled().negative)


def test_coarser_steps_are_those_of_a_coarser_count():
    """Joining ten bins to one is counting with a tenth of the bins."""
    scores, truth = drawn(3)
    wanted = one(scores, truth, bins=100)

    found = coarser(one(scores, truth), 10)

    assert np.array_equal(found.positive, wanted.positive)
    assert np.array_equal(found.negative, wanted.negative)
    with pytest.raises(ValueError, match="7 does not divide 1000"):
        coarser(one(scores, truth), 7)


def test_without_a_mask_nothing_is_defined():
    """No pixel in the mask: all is NaN, without a warning; with no known pixel the prevalence too."""
    empty = one([0.2, 0.4], [False, False])

    for measure in (pxap, auprc):
        assert math.isnan(float(measure(empty)))
    assert np.isnan(dice_curve(empty)).all()
    assert math.isnan(best_threshold(empty, dice_curve(empty)).value)
    assert float(prevalence(empty)) == 0
    nothing = one([0.2], [True], known=[False])
    assert math.isnan(float(prevalence(nothing)))
    assert math.isnan(float(pxap(nothing)))


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.5, math.inf])
def test_scores_out_of_range_are_refused(score):
    """A known pixel needs a score in [0, 1]."""
    with pytest.raises(ValueError, match="outside"):
        one([score, 0.5], [True, False])
    with pytest.raises(ValueError, match="shape"):
        score_histogram(torch.zeros(1, 2, 2), torch.zeros(3, 3, dtype=torch.bool))


def test_normalising_spans_each_map_alone():
    """Each map runs from 0 to 1 by itself; constant maps are zeros; NaN and infinite ones are NaN."""
    maps = torch.tensor([[[-2.0, 0.0, 2.0]], [[3.0, 3.0, 3.0]], [[0.0, torch.nan, 1.0]], [[0, torch.inf, 1]]])

    found = normalised(maps)

    assert found[0].tolist() == [[0.0, 0.5, 1.0]]
    assert found[1].tolist() == [[0.0, 0.0, 0.0]]
    assert found[2:].isnan().all()
    huge = normalised(torch.tensor([[-3e38, 3e38]]))
    assert huge.tolist() == [[0.0, 1.0]]


def bilinear_by_the_book(plane, size):
    """Sample between the centres of cells, clamped at the border; loops only."""
    result = []
    for row in range(size[0]):
        line = []
        for column in range(size[1]):
            down = min(max((row + 0.5) * len(plane) / size[0] - 0.5, 0), len(plane) - 1)
            right = min(max((column + 0.5) * len(plane[0]) / size[1] - 0.5, 0), len(plane[0]) - 1)
            top, left = int(down), int(right)
            low, far = min(top + 1, len(plane) - 1), min(left + 1, len(plane[0]) - 1)
            above = plane[top][left] * (1 - right + left) + plane[top][far] * (right - left)
            below = plane[low][left] * (1 - right + left) + plane[low][far] * (right - left)
            line.append(above * (1 - down + top) + below * (down - top))
        result.append(line)
    return result


def test_maps_are_resized_between_the_centres_of_cells():
    """Bilinear with ``align_corners=False``; rows are rows; the same size is left alone."""
    plane = torch.tensor([[[0.0, 4.0, 1.0], [2.0, 6.0, 3.0]]])

    found = resized(plane, (5, 6))

    assert torch.allclose(found[0], torch.tensor(bilinear_by_the_book(plane[0].tolist(), (5, 6))))
    assert torch.equal(resized(plane, (2, 3)), plane)


def test_pooling_weighs_pixels():
    """Histograms of two images pool to the pixels of both, not to the mean of two numbers."""
    small, large = one([0.9, 0.1], [False, True]), one([0.9] * 8 + [0.1] * 8, [True] * 8 + [False] * 8)
    both = ScoreHistogram(
        np.stack([small.positive, large.positive]), np.stack([small.negative, large.negative])
    )

    assert pxap(both).tolist() == [0.5, 1.0]
    assert float(pxap(both.pooled())) == pytest.approx((8 * 8 / 9 + 9 / 18) / 9)
