"""Metrics and losses against loops from their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_localizers.heldout import class_scores, hits, mean_auc, measure, recalls
from wsss_probe_localizers.labels import Labels
from wsss_probe_localizers.loss import class_weights, loss_of

from wsss_probe.errors import ModelError


def cases(seed, images=30, classes=3):
    """Logits with one class per image, and with several."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, classes)) * 3
    single = np.eye(classes, dtype=bool)[generator.integers(classes, size=images)]
    several = generator.random((images, classes)) < 0.4
    return logits, single, several


def auc_by_the_book(scores, positive):
    """Share of (positive, negative) pairs in the right order; ties count half."""
    pairs = [
        (p, n)
        for p, is_p in zip(scores, positive, strict=True)
        if is_p
        for n, is_n in zip(scores, positive, strict=True)
        if not is_n
    ]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def probability(row, index):
    """Softmax of one entry."""
    exponentials = [math.exp(value - max(row)) for value in row]
    return exponentials[index] / sum(exponentials)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_auc_ranks_by_probability(seed):
    """The mean AUC equals that of softmax probabilities, or of logits with sigmoids."""
    logits, single, several = cases(seed)
    softmax = [[probability(row, index) for row in logits] for index in range(3)]

    expected = np.mean([auc_by_the_book(softmax[index], single[:, index]) for index in range(3)])
    assert mean_auc(logits, single, multilabel=False) == pytest.approx(expected)
    expected = np.mean([auc_by_the_book(logits[:, index], several[:, index]) for index in range(3)])
    assert mean_auc(logits, several, multilabel=True) == pytest.approx(expected)


def test_scores_do_not_saturate():
    """Logits whose probabilities are all 1.0 in floating point keep their order."""
    scores = class_scores(np.array([[80.0, 0.0], [90.0, 0.0], [100.0, 0.0]]), multilabel=False)

    assert np.all(np.diff(scores[:, 0]) > 1)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_accuracies_by_the_book(seed):
    """Accuracy and balanced accuracy equal loops over images, for a softmax and for sigmoids."""
    logits, single, several = cases(seed)
    truth, said = single.argmax(axis=1), logits.argmax(axis=1)
    by_class = [np.mean([said[i] == c for i in range(30) if truth[i] == c]) for c in sorted(set(truth))]

    assert hits(logits, single, multilabel=False).mean() == pytest.approx(np.mean(truth == said))
    found = recalls(logits, single, multilabel=False)
    with_images = ~np.isnan(found).all(axis=0)
    assert np.nanmean(np.nanmean(found[:, with_images], axis=0)) == pytest.approx(np.mean(by_class))

    right = [[(logits[i, c] > 0) == several[i, c] for c in range(3)] for i in range(30)]
    assert hits(logits, several, multilabel=True).mean() == pytest.approx(np.mean(right))
    sides = [
        np.mean([right[i][c] for i in range(30) if several[i, c] == side])
        for side in (True, False)
        for c in range(3)
    ]
    assert np.nanmean(recalls(logits, several, multilabel=True), axis=0).tolist() == pytest.approx(sides)


def test_a_constant_answer_is_at_chance():
    """Balanced accuracy of a constant answer is one over the classes, whatever their shares."""
    sets = np.eye(2, dtype=bool)[[0] * 90 + [1] * 10]
    logits = np.tile([2.0, 0.0], (100, 1))
    metrics = measure(
        logits, Labels(("a", "b"), False, sets), np.arange(100), np.arange(100).astype(str).astype(object)
    )

    assert metrics["accuracy"]["estimate"] == pytest.approx(0.9)
    assert metrics["balanced_accuracy"]["estimate"] == pytest.approx(0.5)
    assert metrics["auc"]["a"]["estimate"] == pytest.approx(0.5)


def test_intervals_follow_groups_not_images():
    """Images copied within their groups leave estimate and interval where they were."""
    generator = np.random.default_rng(0)
    sets = np.eye(2, dtype=bool)[generator.integers(2, size=60)]
    logits = sets + generator.normal(size=(60, 2))
    groups = np.array([f"g{index // 3}" for index in range(60)], dtype=object)
    once = measure(logits, Labels(("a", "b"), False, sets), np.arange(60), groups)
    labels = Labels(("a", "b"), False, np.repeat(sets, 8, axis=0))
    often = measure(np.repeat(logits, 8, axis=0), labels, np.arange(480), np.repeat(groups, 8))

    assert (once["n"], often["n"], once["groups"], often["groups"]) == (60, 480, 20, 20)
    for name in ("accuracy", "balanced_accuracy"):
        assert once[name] == pytest.approx(often[name])
    assert once["auc"]["a"] == pytest.approx(often["auc"]["a"])
    assert once["accuracy"]["low"] < once["accuracy"]["estimate"] < once["accuracy"]["high"]


def test_what_is_not_defined_is_none():
    """A class without images has no AUC: None, as JSON has no NaN."""
    sets = np.eye(3, dtype=bool)[[0, 1] * 10]
    labels = Labels(("a", "b", "c"), False, sets)
    metrics = measure(
        np.random.default_rng(0).normal(size=(20, 3)),
        labels,
        np.arange(20),
        np.arange(20).astype(str).astype(object),
    )

    assert metrics["auc"]["c"]["estimate"] is None
    assert metrics["auc"]["a"]["estimate"] is not None


def cross_entropy_by_the_book(logits, truth, weights):
    """Weighted mean of -log softmax at the true class."""
    terms = [(weights[t], -math.log(probability(row, t))) for row, t in zip(logits, truth, strict=True)]
    return sum(w * value for w, value in terms) / sum(w for w, _ in terms)


def sigmoids_by_the_book(logits, sets, weights):
    """Mean over images and classes of -(w y log s + (1 - y) log(1 - s))."""
    terms = []
    for row, present in zip(logits, sets, strict=True):
        for weight, value, y in zip(weights, row, present, strict=True):
            s = 1 / (1 + math.exp(-value))
            terms.append(-weight * math.log(s) if y else -math.log(1 - s))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weights", [None, (1.0, 2.5, 0.3)])
def test_losses_by_the_book(weights):
    """Both losses equal loops, with and without class weights."""
    logits, single, several = cases(4)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    own = weights or (1.0, 1.0, 1.0)

    softmax = loss_of(torch.from_numpy(logits), torch.from_numpy(single), tensor, multilabel=False)
    sigmoids = loss_of(torch.from_numpy(logits), torch.from_numpy(several), tensor, multilabel=True)

    assert float(softmax) == pytest.approx(cross_entropy_by_the_book(logits, single.argmax(1), own))
    assert float(sigmoids) == pytest.approx(sigmoids_by_the_book(logits, several, own))


def test_balanced_weights_give_every_class_the_same_total():
    """Weight times count is equal over classes; with sigmoids over presence and absence."""
    sets = np.eye(2, dtype=bool)[[0] * 9 + [1] * 3]
    rows = np.arange(12)

    softmax = class_weights(Labels(("a", "b"), False, sets), rows, "balanced")
    sigmoids = class_weights(Labels(("a", "b"), True, sets), rows, "balanced")

    assert (softmax * torch.tensor([9.0, 3.0])).tolist() == pytest.approx([6.0, 6.0])
    assert (sigmoids * torch.tensor([9.0, 3.0])).tolist() == pytest.approx([3.0, 9.0])
    assert class_weights(Labels(("a", "b"), False, sets), rows, "none") is None


def test_weights_for_other_classes_are_refused():
    """Three weights for two classes name both numbers."""
    labels = Labels(("a", "b"), False, np.eye(2, dtype=bool))

    with pytest.raises(ModelError, match=r"found: 3 weights; wanted: 2 \(a, b\)"):
        class_weights(labels, np.arange(2), (1.0, 2.0, 3.0))
