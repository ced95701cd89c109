"""Targets: read from words, and as weights of the logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsss_probe.contracts import Contrast
from wsss_probe.errors import ModelError
from wsss_probe.targets import parse_target, require_target, target_names, target_weights
from wsss_probe.testing.scenes import weights_of

LOGITS = torch.tensor([[0.0, 2, 1], [3, 0, 0], [0, 0, 5]])
NONE = torch.zeros(3, 3, dtype=torch.bool)


def classes(weights: torch.Tensor) -> list[int]:
    """Which class each one-hot row means."""
    assert torch.equal(weights.sum(1), torch.ones(len(weights)))
    return weights.argmax(1).tolist()


class TestWeights:
    def test_predicted_is_the_largest_logit(self):
        """``predicted`` is each image's own argmax."""
        assert classes(target_weights(LOGITS, NONE, ["predicted"])["predicted"]) == [1, 0, 2]

    def test_label_is_the_first_label_or_the_prediction(self):
        """``label`` is the first label; an image without one falls back to its prediction."""
        labels = torch.tensor([[False, False, True], [False, True, True], [False, False, False]])

        assert classes(target_weights(LOGITS, labels, ["label"])["label"]) == [2, 1, 2]

    def test_a_class_is_itself(self):
        """A class index means that class for every image, and only what is asked is given."""
        found = target_weights(LOGITS, NONE, [1, "predicted"])

        assert {target: classes(weights) for target, weights in found.items()} == {
            1: [1, 1, 1],
            "predicted": [1, 0, 2],
        }

    def test_what_counts_as_predicted_can_be_fixed(self):
        """A given class replaces the argmax, also inside a contrast."""
        fixed = torch.tensor([2, 2, 0])
        found = target_weights(LOGITS, NONE, ["predicted", Contrast("predicted", 1)], fixed)

        assert classes(found["predicted"]) == [2, 2, 0]
        assert found[Contrast("predicted", 1)].tolist() == [[0, -1, 1], [0, -1, 1], [1, -1, 0]]

    def test_next_is_the_largest_other_logit(self):
        """A contrast with the next class subtracts the runner-up, with its weight."""
        found = target_weights(LOGITS, NONE, [Contrast(weight=0.5)])[Contrast(weight=0.5)]

        assert found[0].tolist() == [0, 1, -0.5]

    def test_next_of_a_fixed_class_may_be_the_largest(self):
        """The runner-up of a class that is not predicted is the predicted one."""
        found = target_weights(LOGITS, NONE, [Contrast(of=0)])[Contrast(of=0)]

        assert found[0].tolist() == [1, -1, 0]

    def test_a_single_class_has_no_next(self):
        """Where there is no other class the weights are undefined."""
        found = target_weights(torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool), [Contrast()])

        assert found[Contrast()].isnan().all()

    @given(
        st.integers(0, 2**31), st.sampled_from(["predicted", "label", 0, 2]),
        st.sampled_from(["next", "predicted", 1]), st.integers(1, 5), st.floats(0, 2),
    )  # fmt: skip
    def test_equal_the_reference(self, seed, of, against, references, weight):
        """Any contrast has the weights that a loop over images and classes gives."""
        generator = torch.Generator().manual_seed(seed)
        logits = torch.rand(4, 4, generator=generator)
        labels = torch.rand(4, 4, generator=generator) > 0.6
        target = Contrast(of, against, weight, references)

        found = target_weights(logits, labels, [target])[target]

        assert torch.allclose(found, weights_of(logits, labels, target), atol=1e-6)


class TestWords:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("predicted", ("predicted",)),
            ("all", (0, 1, 2)),
            ("b", (1,)),
            ("a vs b", (Contrast(0, 1),)),
            ("predicted vs next", (Contrast("predicted", "next"),)),
            ("c vs d", (2,)),
        ],
    )
    def test_are_read(self, text, wanted):
        """Words, classes and contrasts are read; a class name with ``vs`` in it stays a class."""
        assert parse_target(text, ["a", "b", "c vs d"]) == wanted

    def test_an_unknown_class_names_the_nearest(self):
        """A misspelt class is one line with what was probably meant."""
        with pytest.raises(ModelError, match="'tumour'"):
            parse_target("tumor vs normal", ["normal", "tumour"])

    def test_names_are_those_of_the_classes(self):
        """People read class names, not numbers."""
        assert target_names([Contrast(0, 1), 1, "label"], ["a", "b"]) == {
            Contrast(0, 1): "a minus 1 x b",
            1: "b",
            "label": "label",
        }

    @pytest.mark.parametrize("target", [3, -1, True, "next", "tumour", Contrast(0, 7), 1.5])
    def test_what_is_no_target_is_refused(self, target):
        """An index out of range, an unknown word or another type is a clear error."""
        with pytest.raises(ModelError, match="no class"):
            require_target(target, 3)
