"""How good a classifier is: accuracy and AUC on hand-made logits, and when nothing may be concluded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe.performance import (
    TESTABLE_AUC,
    Performance,
    measure_performance,
    performance_finding,
    top_right,
)
from wsss_probe.statistics import Interval


def measure(logits, labels, *, multilabel=False, groups=None, splits=None, labelled=None):
    """Measure with nothing said about groups and splits."""
    logits = np.asarray(logits, dtype=np.float32)
    splits = np.full(len(logits), "", dtype=object) if splits is None else np.array(splits, dtype=object)
    groups = None if groups is None else np.array(groups, dtype=object)
    return measure_performance(logits, np.asarray(labels, dtype=bool), multilabel, groups, splits, labelled)


def one_hot(classes, number):
    """Label sets with one class each."""
    return np.eye(number, dtype=bool)[classes]


def slow_auc(scores, positive):
    """Count the pairs of a positive and a negative image that stand in the right order."""
    wins = pairs = 0
    for a, is_positive in zip(scores, positive, strict=True):
        for b, other in zip(scores, positive, strict=True):
            if is_positive and not other:
                pairs += 1
                wins += 1 if a > b else 0.5 if a == b else 0
    return wins / pairs


def slow_probability(logits, chosen):
    """Softmax probability of one class, image by image."""
    found = []
    for row in logits:
        powers = [np.exp(value - max(row)) for value in row]
        found.append(powers[chosen] / sum(powers))
    return found


def of(low, estimate=None, high=None):
    """A performance with a given AUC interval."""
    estimate = low if estimate is None else estimate
    bounds = [np.asarray(value, dtype=float) for value in (estimate, low, high or estimate)]
    interval = Interval(*bounds, n=10, groups=10)
    return Performance(interval, interval, "split test", 10)


class TestTwoClasses:
    def test_hand_made_logits(self):
        """Three of four images are right, and three of four pairs stand in order."""
        found = measure([[2, 0], [0, 1], [1, 0], [0, 3]], one_hot([0, 0, 1, 1], 2))

        assert float(found.accuracy.estimate) == 0.5
        assert float(found.auc.estimate) == 0.75
        assert found.labelled == 4

    def test_the_level_of_the_logits_says_nothing(self):
        """Adding a constant to all logits of one image leaves the AUC of a softmax as it is."""
        logits = np.array([[2.0, 0], [0, 1], [1, 0], [0, 3]])
        moved = logits + np.array([[0.0], [100], [-50], [7]])

        assert measure(moved, one_hot([0, 0, 1, 1], 2)).auc.estimate == 0.75

    def test_confident_images_keep_their_order(self):
        """Two images whose probabilities both round to one are still ranked by their logits."""
        found = measure([[0, 50], [0, 60], [0, -1], [0, 55]], one_hot([0, 1, 0, 1], 2))

        assert float(found.auc.estimate) == 1.0

    def test_one_class_absent_cannot_be_estimated(self):
        """Without a negative image there is no AUC, and nothing may be concluded."""
        found = measure([[2, 0], [0, 1]], one_hot([1, 1], 2))

        assert np.isnan(found.auc.estimate)
        assert found.not_testable == "AUC not estimable on these labels"
        assert performance_finding(found).verdict == "warning"
        assert performance_finding(found).effect is None
        assert performance_finding(found).interval is None


class TestManyClasses:
    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 10_000))
    def test_auc_is_the_mean_over_present_classes(self, seed):
        """The AUC equals a loop over pairs for every class that occurs and does not fill all images."""
        random = np.random.default_rng(seed)
        logits = random.normal(size=(9, 4)).astype(np.float32)
        classes = random.integers(0, 3, 9)  # class 3 never occurs
        values = [
            slow_auc(slow_probability(logits, c), classes == c) for c in range(4) if 0 < sum(classes == c) < 9
        ]
        found = measure(logits, one_hot(classes, 4))

        if values:
            np.testing.assert_allclose(found.auc.estimate, np.mean(values))
        else:
            assert np.isnan(found.auc.estimate)
        assert found.accuracy.estimate == np.mean([row.argmax() for row in logits] == classes)

    def test_any_of_several_labels_is_right(self):
        """With two labels on an image the top class is right if it is one of them."""
        found = measure([[3, 0, 0], [0, 3, 0]], [[True, False, True], [True, False, True]])

        assert float(found.accuracy.estimate) == 0.5


class TestManyLabels:
    def test_accuracy_wants_the_whole_set(self):
        """With one sigmoid per class an image counts only when its whole label set is right."""
        found = measure([[1, -1], [1, 1], [-1, 1]], [[1, 0], [1, 0], [0, 1]], multilabel=True)

        assert float(found.accuracy.estimate) == pytest.approx(2 / 3)

    def test_two_sigmoids_are_two_scores(self):
        """The AUC of two independent logits is the mean of both, not that of their difference."""
        logits = [[5, 1], [4, 9], [-3, 8], [-4, -9]]
        labels = [[1, 0], [1, 1], [0, 1], [0, 0]]
        labelled = np.ones(4, dtype=bool)
        expected = np.mean([slow_auc([row[c] for row in logits], [y[c] for y in labels]) for c in (0, 1)])
        found = measure(logits, labels, multilabel=True, labelled=labelled)

        assert float(found.auc.estimate) == expected == 1.0


class TestOneLogit:
    def test_negative_images_count(self):
        """A single logit is right when its sign is; images known to be negative count."""
        labels = np.array([[True], [True], [False], [False]])
        found = measure([[2], [-1], [-2], [1]], labels, labelled=np.ones(4, dtype=bool))

        assert found.labelled == 4
        assert float(found.accuracy.estimate) == 0.5
        assert float(found.auc.estimate) == 0.75

    def test_without_negatives_nothing_is_estimable(self):
        """If only positive images are known the AUC is not estimable and the accuracy not always one."""
        found = measure([[2], [-1]], [[True], [True]])

        assert float(found.accuracy.estimate) == 0.5
        assert np.isnan(found.auc.estimate)

    def test_top_right_of_a_zero_logit(self):
        """A logit of exactly zero says absent."""
        assert top_right(np.array([[0.0], [0.0]]), np.array([[True], [False]])).tolist() == [False, True]


class TestWhichImages:
    logits = np.array([[0, 1.0], [1, 0], [0, 1], [1, 0]])

    def test_unreadable_and_unlabelled_images_count_nowhere(self):
        """NaN rows and images without a label are left out of n and of every number."""
        logits = np.array([[0, 1.0], [np.nan, np.nan], [1, 0], [1, 0]])
        labels = np.array([[False, True], [True, False], [True, False], [False, False]])
        found = measure(logits, labels)

        assert found.labelled == 2
        assert float(found.auc.estimate) == float(found.accuracy.estimate) == 1.0

    @pytest.mark.parametrize("name", ["test", "val", "Validation", "VALID"])
    def test_held_out_images_are_preferred(self, name):
        """Where a split is held out, only its images count, whatever its case."""
        found = measure(self.logits, one_hot([0, 1, 1, 0], 2), splits=["train", "train", name, name])

        assert (found.labelled, found.held_out) == (2, f"split {name.lower()}")
        assert float(found.accuracy.estimate) == 1.0

    def test_both_held_out_parts_are_named(self):
        """Test and validation images count together and both are named."""
        found = measure(self.logits, one_hot([1, 0, 1, 0], 2), splits=["test", "val", "train", ""])

        assert (found.labelled, found.held_out) == (2, "split test, val")

    def test_training_images_are_called_optimistic(self):
        """Without held-out images the finding says that the images were trained on."""
        found = measure(self.logits, one_hot([1, 0, 1, 0], 2), splits=["train", "", "training", ""])

        assert (found.labelled, found.held_out) == (4, "training images, so optimistic")

    def test_an_unlabelled_held_out_part_counts_nothing(self):
        """A held-out split without labels does not hide the labelled rest."""
        labels = one_hot([1, 0, 1, 0], 2)
        labels[2:] = False
        found = measure(self.logits, labels, splits=["", "", "test", "test"])

        assert found.labelled == 2
        assert "not known" in found.held_out

    def test_no_label_at_all(self):
        """Without a label nothing is said against the classifier, and the report says why."""
        found = measure(self.logits, np.zeros((4, 2), dtype=bool))

        assert (found.auc, found.labelled, found.not_testable) == (None, 0, "")
        assert performance_finding(found).verdict == "notice"

    def test_groups_are_the_unit(self):
        """The interval resamples groups, and the finding counts them."""
        logits = np.tile(self.logits, (5, 1))
        labels = one_hot([1, 0, 1, 0] * 5, 2)
        found = measure(logits, labels, groups=[f"g{n // 4}" for n in range(20)])
        finding = performance_finding(found)

        assert (finding.n, finding.groups) == (20, 5)
        assert "images treated as independent" not in finding.statement
        assert "images treated as independent" in performance_finding(measure(logits, labels)).statement

    def test_groups_of_left_out_images_are_not_counted(self):
        """Only groups with a counted image are independent units."""
        found = measure(
            self.logits, one_hot([1, 0, 1, 0], 2), groups=list("aabc"), splits=["test"] * 2 + [""] * 2
        )

        assert found.auc.groups == 1


class TestVerdict:
    @pytest.mark.parametrize(("low", "testable"), [(0.69, False), (TESTABLE_AUC, True), (0.95, True)])
    def test_the_lower_bound_decides(self, low, testable):
        """Conclusions rest on the lower bound, never on the estimate."""
        found = of(low, estimate=0.99, high=1.0)

        assert (found.not_testable == "") is testable
        assert performance_finding(found).verdict == ("ok" if testable else "warning")

    def test_reason_names_the_bound(self):
        """The reason gives the AUC, its interval and the limit."""
        assert of(0.5, 0.6, 0.7).not_testable == "AUC 0.600 [0.500, 0.700] has a lower bound under 0.7"

    def test_warning_says_what_to_check(self):
        """A classifier that may not be used points at the preprocessing and the order of classes."""
        statement = performance_finding(of(0.4, 0.5, 0.6)).statement

        assert "Not testable here" in statement
        assert "Check the preprocessing" in statement

    def test_a_classifier_at_chance_is_not_testable(self):
        """Logits that know nothing about the labels are found out."""
        random = np.random.default_rng(0)
        labels = one_hot(list(itertools.islice(itertools.cycle([0, 1]), 60)), 2)
        found = measure(random.normal(size=(60, 2)), labels)

        assert found.not_testable
