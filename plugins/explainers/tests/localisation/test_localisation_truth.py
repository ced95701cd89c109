"""What maps are compared with: by name, by wish, and where nothing has the name."""

from dataclasses import replace

import pytest
import torch
from wsss_probe_explainers.localisation.localisation_probe import Localisation
from wsss_probe_explainers.localisation.truth import regions, truth_of

from wsss_probe.errors import UsageError
from wsss_probe.testing import make_scene


def test_names_decide_whatever_the_case():
    """The mask class of the explained class counts; white does not."""
    truth = truth_of(("none", "Gland", "white"), ("white", "gland"))

    assert truth.matches == (-1, 1, -1)
    assert truth.positions == (1,)
    assert "left out" in truth.words


def test_without_a_name_all_but_white_count():
    """No class is named like a mask class: all classes but white together, and the words say what follows."""
    truth = truth_of(("benign", "malignant"), ("gland", "white", "stroma"))

    assert truth.positions == (0, 2)
    assert truth.matches == ()
    assert "not evidence for a class" in truth.short
    assert "'gland' or 'stroma'" in truth.short


def test_a_wish_comes_first():
    """A named mask class, white too, or any of them; anything else is refused."""
    assert truth_of(("red",), ("red", "white"), "white").positions == (1,)
    assert truth_of(("red",), ("red", "blue", "white"), "any").positions == (0, 1)
    with pytest.raises(UsageError, match="no mask class; found: rde; wanted: red or any"):
        truth_of(("red",), ("red",), "rde")
    with pytest.raises(UsageError, match="distance"):
        Localisation(tolerance=-1)


def batch_with(masks, weights):
    """A batch of two images with these masks, explained for these classes."""
    scene = make_scene(images=2)
    batch = replace(scene.batch(), targets={"predicted": torch.tensor(weights)})
    return batch, torch.tensor(masks)


def test_regions_follow_the_explained_class():
    """Each image is held to the class that it is explained for, and to all others where that is missing."""
    truth = truth_of(("red", "blue"), ("blue", "red"))
    batch, masks = batch_with([[[0, 1, -2, -1]], [[1, 1, -2, -1]]], [[0.0, 1.0], [0.0, 1.0]])

    region, own = regions(batch, masks, truth, "predicted")

    assert own.tolist() == [True, False]
    assert region.tolist() == [[[True, False, False, False]], [[True, True, False, False]]]


def test_a_contrast_is_explained_for_its_first_class():
    """Of a contrast the class that is asked for counts; an image without a target has none of its own."""
    truth = truth_of(("red", "blue"), ("red", "blue"))
    nan = float("nan")
    batch, masks = batch_with([[[0, 1]], [[0, 1]]], [[-1.0, 1.0], [nan, nan]])

    region, own = regions(batch, masks, truth, "predicted")

    assert region[0].tolist() == [[False, True]]
    assert own.tolist() == [True, False]


def test_without_names_an_image_counts_when_it_shows_anything():
    """The union of all classes decides which images count."""
    truth = truth_of(("a", "b"), ("red", "blue"))
    batch, masks = batch_with([[[-2, 1]], [[-2, -1]]], [[1.0, 0.0], [1.0, 0.0]])

    region, own = regions(batch, masks, truth, "predicted")

    assert own.tolist() == [True, False]
    assert region.tolist() == [[[False, True]], [[False, False]]]
