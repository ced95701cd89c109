"""The gallery: which images it shows, in which order, with what under each map."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from wsss_probe.contracts import INPUT, Conclusion
from wsss_probe.gallery import chosen_images, predicted_class
from wsss_probe.images import Sample, TensorSource
from wsss_probe.testing.models import planted_gap, single_logit

SIZE = (16, 24)


def pictures(number=6, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


def section(report, title):
    """The section of this title."""
    (found,) = [section for section in report.sections if section.title == title]
    return found


def chosen(logits, labels, labelled=None, groups=None):
    """Images that the gallery shows."""
    logits, labels = np.array(logits, dtype=float), np.array(labels, dtype=bool)
    labelled = labels.any(axis=1) if labelled is None else np.array(labelled)
    run = SimpleNamespace(
        logits=SimpleNamespace(values=logits), groups=None if groups is None else np.array(groups)
    )
    return chosen_images(SimpleNamespace(labels=labels, labelled=labelled), run)


class TestChosenImages:
    def test_most_confident_errors_first(self):
        """At most four errors come first, the most confident before the others; then the rest."""
        logits = [[0, margin] for margin in (1, 5, 3, 2, 4, 6)] + [[2, 0], [3, 0]]
        labels = [[True, False]] * 6 + [[True, False]] * 2

        assert chosen(logits, labels)[:4] == [5, 1, 4, 2]
        assert chosen(logits, labels)[4:] == [7, 6]

    def test_the_others_are_spread_over_the_predicted_classes(self):
        """Without errors, classes take turns, each with its most confident image first."""
        logits = [[9, 0, 0], [8, 0, 0], [7, 0, 0], [0, 5, 0], [0, 6, 0], [0, 0, 1]]
        labels = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]

        assert chosen(logits, labels) == [0, 4, 5, 1, 3, 2]

    def test_never_more_than_eight_and_none_twice(self):
        """Eight rows are shown of many, each once."""
        random = np.random.default_rng(0)
        found = chosen(random.normal(size=(50, 3)), np.eye(3, dtype=bool)[random.integers(0, 3, 50)])

        assert len(found) == len(set(found)) == 8

    def test_unreadable_images_are_not_chosen(self):
        """NaN rows are left out; if nothing is readable nothing is shown."""
        logits = [[np.nan, np.nan], [1, 0], [np.nan, np.nan]]

        assert chosen(logits, np.zeros((3, 2))) == [1]
        assert chosen([[np.nan, np.nan]], [[False, False]]) == []

    def test_unlabelled_images_are_no_errors(self):
        """Without labels confidence alone orders each class."""
        assert chosen([[1, 0], [3, 0], [0, 2]], np.zeros((3, 2))) == [1, 2, 0]

    def test_of_a_single_logit(self):
        """Of one logit an error is a wrong sign, and its size is the confidence."""
        logits, labels = [[4.0], [-3.0], [0.5], [-0.1]], [[True], [True], [False], [False]]

        assert chosen(logits, labels, labelled=[True] * 4) == [1, 2, 0, 3]
        assert chosen(logits, labels, labelled=[False] * 4) == [0, 1, 2, 3]

    def test_one_image_a_group_first(self):
        """Tiles of one image look alike: each group is seen before any is seen twice."""
        logits = [[9, 0], [8, 0], [7, 0], [1, 0]]
        labels = [[False, True]] * 4

        assert chosen(logits, labels, groups=["a", "a", "a", "b"]) == [0, 3, 1, 2]


class TestGallery:
    def test_shows_picture_mask_and_map_on_its_own_grid(self, reported, times_gradient):
        """Each row has the view with the mask's outline, and the stored map as it is."""
        masks = torch.full((6, *SIZE), -2)
        masks[:, 4:8, 4:8] = 0
        report = reported(explain=[times_gradient()], images=TensorSource(pictures(), masks))
        (gallery,) = section(report, "Relevance maps").blocks

        assert len(gallery.rows) == 6
        for row in gallery.rows:
            assert [picture.label for picture in row.pictures] == ["original", "timesgradient, features"]
            assert row.pictures[0].outline is not None
            assert (row.pictures[0].height, row.pictures[0].width) == SIZE
            assert row.pictures[1].overlay is not None
            assert re.fullmatch(r"image \d: predicted class [01]", row.title)
        assert "for the predicted class" in gallery.caption

    def test_titles_name_each_images_own_prediction(self, reported, times_gradient):
        """The title of a row tells what was predicted for that image."""
        images = torch.full((4, 3, *SIZE), 0.5)
        images[1::2, 0], images[1::2, 1] = 1.0, 0.0
        report = reported(explain=[times_gradient()], net=planted_gap(), images=TensorSource(images))

        assert sorted(row.title for row in section(report, "Relevance maps").blocks[0].rows) == [
            f"image {n}: predicted class {n % 2}" for n in range(4)
        ]

    def test_caption_names_the_class_that_is_explained(self, reported, times_gradient):
        """With a class as first target the caption names it."""
        report = reported(explain=[times_gradient()], classes=("red", "green"), targets=("green", "label"))

        assert "for the green class" in section(report, "Relevance maps").blocks[0].caption

    def test_an_image_lost_since_the_survey_is_a_placeholder(self, reported, times_gradient):
        """An image that can no longer be read keeps its row, without pixels."""

        class Vanishing:
            def __init__(self):
                self.left = None

            def __len__(self):
                return 3

            def read(self, index):
                return Sample(index, tensor=pictures(3)[index])

            def picture(self, index):
                return None

        (gallery,) = section(
            reported(explain=[times_gradient()], images=Vanishing()), "Relevance maps"
        ).blocks

        assert len(gallery.rows) == 3
        assert all(picture.base is None for row in gallery.rows for picture in row.pictures)

    @pytest.mark.parametrize(
        ("logits", "classes", "said"),
        [
            ([1.0, 2.0], ("a", "b"), "b"),
            ([np.nan, np.nan], ("a", "b"), "–"),
            ([0.1], ("tumour",), "tumour"),
            ([-0.1], ("tumour",), "not tumour"),
        ],
    )
    def test_what_was_predicted(self, logits, classes, said):
        """The largest logit names the class; one logit below 0 says that its class is absent."""
        assert predicted_class(np.array(logits), classes) == said

    def test_a_network_of_one_logit_has_a_report(self, reported, times_gradient):
        """A whole report of a network with a single logit."""
        report = reported(explain=[times_gradient()], net=single_logit(), classes=("tumour",))
        titles = {row.title.partition(": ")[2] for row in section(report, "Relevance maps").blocks[0].rows}

        assert titles <= {"predicted tumour", "predicted not tumour"}


def scores(values, explainer="timesgradient, features"):
    """Scores of one explainer's maps."""
    table = np.asarray(values, dtype=float)[:, None]
    return xr.DataArray(table, dims=("image", "explainer"), coords={"explainer": [explainer]})


class TestUnderAMap:
    @pytest.fixture
    def notes(self, reported, times_gradient, looking):
        """Audit with these scores; gives the notes of the maps by image."""

        def make(**scored):
            named = {name.replace("_", " "): table for name, table in scored.items()}
            probe = looking("p", conclude=lambda run: Conclusion(xr.Dataset(), map_scores=named))
            (gallery,) = section(reported([probe], [times_gradient()]), "Relevance maps").blocks
            assert [row.pictures[0].note for row in gallery.rows] == [""] * 6
            found = {int(re.search(r"\d", row.title)[0]): row.pictures[1].note for row in gallery.rows}
            return [found[index] for index in range(6)], gallery.caption

        return make

    def test_scores_stand_under_their_own_map(self, notes):
        """Each image's score is shown under its map, undefined ones are left out, the caption names them."""
        found, caption = notes(
            Dice=scores([0.1, 0.25, np.nan, 1, 0.5, 123.4]), hit=scores([0, 1, 1, 0, np.nan, 1])
        )

        assert found == [
            "Dice 0.10 · hit no", "Dice 0.25 · hit yes", "hit yes", "Dice 1.00 · hit no", "Dice 0.50",
            "Dice 123 · hit yes",
        ]  # fmt: skip
        assert "Under a map: Dice, hit of this image." in caption

    def test_scores_are_taken_by_the_name_of_the_map(self, notes):
        """In a table of several explainers each map finds its own column, wherever it stands."""
        table = xr.concat([scores([0.1] * 6, "other, features"), scores([0.9] * 6)], dim="explainer")

        assert notes(Dice=table.transpose("image", "explainer"))[0] == ["Dice 0.90"] * 6

    def test_scores_of_another_map_stand_nowhere(self, notes):
        """A score of an explainer that is not shown has no place."""
        assert notes(Dice=scores([0.5] * 6, "other, features"))[0] == [""] * 6

    def test_four_scores_at_most(self, notes):
        """More than four would bury the picture."""
        found, caption = notes(**{name: scores([0.5] * 6) for name in "abcde"})

        assert found[0] == "a 0.50 · b 0.50 · c 0.50 · d 0.50"
        assert "Under a map: a, b, c, d of" in caption


class TestCommonScale:
    def test_is_that_of_one_explainer_over_the_images_shown(self, reported, times_gradient):
        """A map twice as strong as another is so on the common scale, and not on its own."""

        class Graded(times_gradient):
            name = "graded"

            def attribute(self, batch, layer, target):
                ramp = torch.linspace(0, 1, 12).expand(len(batch.indices), 8, 12)
                return ramp * torch.as_tensor(batch.indices + 1.0)[:, None, None].float()

        (gallery,) = section(reported(explain=[times_gradient(), Graded()]), "Relevance maps").blocks
        graded = [row.pictures[2] for row in gallery.rows]

        assert {picture.common_extent for picture in graded} == {"0 to 6.00"}
        assert len({picture.extent for picture in graded}) == 6
        assert len({picture.overlay for picture in graded}) == 1
        assert len({picture.common for picture in graded}) == 6
        assert {row.pictures[1].common_extent for row in gallery.rows} != {"0 to 6.00"}

    def test_of_maps_that_are_undefined(self, reported, times_gradient):
        """Where an explainer gives NaN everywhere there is no scale, and the label says why."""

        class Undefined(times_gradient):
            name = "undefined"

            def attribute(self, batch, layer, target):
                return torch.full((len(batch.indices), 8, 12), torch.nan)

        (gallery,) = section(reported(explain=[Undefined()]), "Relevance maps").blocks

        assert {(p.extent, p.common) for row in gallery.rows for p in row.pictures[1:]} == {
            ("map undefined", None)
        }


class TestMapsOnTheInput:
    def test_are_drawn_coarser_with_a_note(self, reported, times_gradient):
        """A map as large as the image is averaged before it is drawn; its label says ``input``."""

        class Pixels(times_gradient):
            name, grid, gradients = "pixels", "input", False

            def attribute(self, batch, layer, target):
                return batch.images.sum(dim=1)

        images = TensorSource(torch.rand((2, 3, 16, 240)))
        (gallery,) = section(reported(explain=[Pixels()], images=images), "Relevance maps").blocks
        picture = gallery.rows[0].pictures[1]

        assert picture.label == f"pixels, {INPUT}"
        assert picture.coarsened
        assert any("at most 112 cells a side" in note for note in gallery.notes)
