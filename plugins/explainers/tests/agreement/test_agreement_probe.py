"""The probe agreement on planted maps: copies, noise, twins that differ, a place that is always the same."""

# ruff: noqa: D102  # methods of the contracts

import math

import numpy as np
import pytest
import torch
from wsss_probe_explainers.agreement.agreement_conclusion import chance_level
from wsss_probe_explainers.agreement.agreement_findings import same_maps
from wsss_probe_explainers.agreement.agreement_probe import Agreement

from wsss_probe import INPUT, DefinitionCard, Explainer
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

LAYER = "features"


class Made(Explainer):
    """Maps that a function of the batch and the grid makes."""

    card = DefinitionCard("Made", "m", "Nobody")
    gradients = False

    def __init__(self, name, make, grid="layer"):
        self.name, self.make, self.grid = name, make, grid

    def accepts(self, layer, head):
        return "" if layer.name in {LAYER, INPUT} else "not here"

    def reads(self, layer, layers):
        return () if layer == INPUT else (layer,)

    def attribute(self, batch, layer, target):
        grid = batch.images.shape[2:] if layer == INPUT else batch.activations[layer].shape[2:]
        return self.make(batch, tuple(grid)).float()


def noise(seed):
    """Noise of its own for each image."""

    def make(batch, grid):
        drawn = [
            torch.rand(grid, generator=torch.Generator().manual_seed(1000 * seed + i))
            for i in batch.indices.tolist()
        ]
        return torch.stack(drawn)

    return make


def red(batch, grid):
    """Where the image is red, which is where the mask is."""
    return torch.nn.functional.adaptive_avg_pool2d(batch.images[:, :1] - batch.images[:, 1:2], grid)[:, 0]


def noisy_red(amount):
    """The same under noise."""
    return lambda batch, grid: red(batch, grid) + amount * noise(5)(batch, grid)


def centre(seed):
    """One blob for all images, a little noise of its own on it."""

    def make(batch, grid):
        rows, columns = (torch.linspace(-1, 1, side) for side in grid)
        blob = torch.exp(-2 * (rows[:, None] ** 2 + columns[None] ** 2))
        return blob + 0.01 * noise(seed)(batch, grid)

    return make


def rectangles(images=24):
    """A scene in which every second image has a red rectangle."""
    return make_scene(images=images)


def judged(*explainers, scene=None, groups=None):
    """Survey, conclude; gives the conclusion, the probe and the run."""
    scene = (scene or rectangles()).with_explainers(explainers)
    (probe,) = Agreement().split(scene.survey)
    run = run_in_memory([probe], scene, controls=0)
    if groups is not None:
        run = type(run)(**{name: getattr(run, name) for name in run.__slots__} | {"groups": np.array(groups)})
    return run.concluded(probe), probe, run


def value(summary, name, one, other, layer=LAYER):
    """Entry of a matrix by names."""
    return float(summary[name].sel(explainer=f"{one}, {layer}", other=f"{other}, {layer}"))


class TestContract(ProbeSuite):
    probe = Agreement()

    def scene(self):
        """A scene with maps on two grids, one of them undefined, and twins."""
        undefined = Made("undefined", lambda batch, grid: torch.full((len(batch.indices), *grid), torch.nan))
        return make_scene().with_explainers(
            [
                Made("red", red),
                Made("red-by-other", noisy_red(0.2)),
                Made("pixels", noise(1), "input"),
                undefined,
            ]
        )


class TestPlanted:
    @pytest.mark.parametrize(
        ("amount", "least", "most"), [(0.0, 0.9999, 1.0), (0.3, 0.3, 0.97), (50.0, -0.15, 0.15)]
    )
    def test_likeness_fades_with_noise(self, amount, least, most):
        """A copy agrees wholly, a noisy one in part, under much noise not at all."""
        conclusion, *_ = judged(Made("red", red), Made("copy", noisy_red(amount)))
        assert least <= value(conclusion.summary, "correlation", "red", "copy") <= most

    def test_copies_are_one_witness(self):
        """Three names for one map are found, the distractor is not among them; twins alone are no news."""
        conclusion, *_ = judged(
            Made("red", red), Made("twice", lambda b, g: 2 * red(b, g)), Made("other", noise(2)),
            Made("red-by-x", red), Made("third", lambda b, g: red(b, g) - 1),
        )  # fmt: skip
        (found,) = [f for f in conclusion.findings if f.name == f"same-maps@{LAYER}"]
        assert found.verdict == "notice"
        assert found.statement.startswith("red, twice, red-by-x and third give the same maps at features")
        assert (found.n, found.groups) == (24, None)
        assert found.control.startswith("maps of different images (")

    def test_nothing_is_found_where_nothing_is(self):
        """Maps of noise are alike by chance only, and nobody is called the same or apart by name."""
        conclusion, *_ = judged(Made("a", noise(1)), Made("b", noise(2)), Made("c", noise(3)))
        assert {f.name for f in conclusion.findings} <= {"agreement-by-chance"}
        for one, other in ("ab", "ac", "bc"):
            assert abs(value(conclusion.summary, "correlation", one, other)) < 0.1
            assert abs(value(conclusion.summary, "correlation_chance", one, other)) < 0.1
            assert value(conclusion.summary, "overlap", one, other) == pytest.approx(1 / 9, abs=0.04)

    def test_a_place_that_is_always_the_same_is_chance(self):
        """Two centre blobs agree on every image, and across images as much: that is said."""
        conclusion, *_ = judged(Made("one", centre(1)), Made("two", centre(2)))
        assert value(conclusion.summary, "correlation", "one", "two") > 0.95
        assert value(conclusion.summary, "correlation_chance", "one", "two") > 0.95
        assert value(conclusion.summary, "correlation_chance", "one", "one") > 0.95
        (found,) = [f for f in conclusion.findings if f.name == "agreement-by-chance"]
        assert "1 of 1 pairs of explainers at one layer" in found.statement
        assert found.effect <= found.interval[1]

    def test_evidence_in_the_image_is_above_chance(self):
        """Where maps follow the image they agree on it more than across images; no finding."""
        conclusion, *_ = judged(
            Made("one", noisy_red(0.01)), Made("two", lambda b, g: red(b, g) + 0.05 * noise(3)(b, g))
        )
        low = value(conclusion.summary, "correlation_low", "one", "two")
        assert low > value(conclusion.summary, "correlation_chance", "one", "two")
        assert conclusion.findings == ()


class TestTwins:
    def test_a_package_with_another_map_is_a_warning(self):
        """What a package gives under our name and is not our map is named, with how far apart they are."""
        conclusion, *_ = judged(Made("red", red), Made("red-by-x", red), Made("red-by-y", noise(4)))
        (found,) = [f for f in conclusion.findings if f.name == f"implementations@red@{LAYER}"]
        assert found.verdict == "warning"
        assert "2 of 3 pairs" in found.statement
        assert "red-by-y" in found.statement
        assert found.effect < 0.5

    def test_packages_that_agree_are_no_finding(self):
        """Two implementations of one formula: differences of 0, overlaps of 1, nothing to say."""
        conclusion, *_ = judged(Made("red", red), Made("red-by-x", lambda b, g: red(b, g) * 3 + 1))
        assert conclusion.findings == ()
        assert conclusion.summary["difference"].values == pytest.approx([0], abs=1e-5)
        assert conclusion.summary["half_overlap"].values == pytest.approx([1], abs=1e-2)
        assert conclusion.summary["twin_n"].values.tolist() == [24]

    def test_formulas_under_one_name_are_a_notice(self):
        """Variants of Grad-CAM++ are known to differ."""
        conclusion, *_ = judged(
            Made("gradcampp", red), Made("gradcampp-monai", noisy_red(5)), Made("gradcam", noise(8))
        )
        (found,) = [f for f in conclusion.findings if f.name.startswith("implementations")]
        assert (found.name, found.verdict) == (f"implementations@gradcampp@{LAYER}", "notice")


class TestChance:
    def test_equals_all_pairs_of_different_images(self):
        """With few images the mean over other images is that of loops over all of them."""
        generator = torch.Generator().manual_seed(0)
        maps = [torch.rand((5, 4, 4), generator=generator).double() for _ in range(2)]
        found = chance_level(maps)
        ranks = [m.flatten(1).argsort(1).argsort(1).double() for m in maps]
        both = [(np.corrcoef(ranks[0][i], ranks[1][j])[0, 1]) for i in range(5) for j in range(5) if i != j]
        assert found.pairs == 20
        assert found.correlation[0, 1] == pytest.approx(np.mean(both), abs=1e-12)
        assert found.correlation[1, 0] == found.correlation[0, 1]

    def test_images_of_one_group_are_not_compared(self):
        """Tiles of one patient are alike for another reason: only pairs of two patients count."""
        maps = [torch.rand((4, 3, 3), generator=torch.Generator().manual_seed(0)).double()]
        assert chance_level(maps, np.array(["a", "a", "b", "b"])).pairs == 8
        assert chance_level(maps, np.array(["a"] * 4)).pairs == 0
        assert math.isnan(chance_level(maps, np.array(["a"] * 4)).correlation[0, 0])

    def test_uses_the_groups_of_the_images_that_were_kept(self):
        """Of a run in which all images are of one group nothing is known about chance."""
        conclusion, *_ = judged(Made("a", red), Made("b", noisy_red(0.1)), groups=["p"] * 24)
        assert conclusion.summary.attrs["chance_pairs"] == 0
        assert np.isnan(conclusion.summary["correlation_chance"].values).all()
        assert not [f for f in conclusion.findings if f.name == "agreement-by-chance"]

    def test_kept_maps_are_those_of_the_images(self):
        """What is kept for a few images, on any grid, gives what the maps themselves give."""
        pixels, scene = Made("pixels", noise(1), "input"), rectangles(40)
        conclusion, probe, run = judged(Made("red", red), pixels, scene=scene)
        assert len(probe.chosen) == 24
        maps = [
            torch.from_numpy(run.relevance(*pair)["relevance"].values[list(probe.chosen)])
            for pair in probe.maps
        ]
        np.testing.assert_allclose(
            conclusion.summary["correlation_chance"].values, chance_level(maps).correlation, atol=1e-6
        )


class TestSameMaps:
    def test_are_groups_in_which_all_are_the_same(self):
        """Not a chain: that the second is like both does not make the first like the third."""
        correlation = np.array([[1, 0.9995, 0.99], [0.9995, 1, 0.9995], [0.99, 0.9995, 1]])
        maps = [("a", LAYER), ("b", LAYER), ("c", LAYER)]
        assert same_maps(correlation, maps) == [[0, 1]]

    def test_of_one_method_or_of_two_layers_are_no_news(self):
        """Two implementations of one method, or one method at two layers, are not two witnesses."""
        correlation = np.ones((3, 3))
        assert same_maps(correlation, [("a", LAYER), ("a-by-x", LAYER), ("b", "deeper")]) == []

    def test_undefined_is_not_the_same(self):
        """NaN is like nothing."""
        assert same_maps(np.array([[1, np.nan], [np.nan, 1]]), [("a", LAYER), ("b", LAYER)]) == []


class TestSection:
    def test_shows_agreement_below_and_chance_above_the_diagonal(self):
        """The heatmap holds means below the diagonal and the control on and above it; numbers go along."""
        conclusion, probe, run = judged(Made("red", red), Made("copy", noisy_red(0.1)), Made("red-by-x", red))
        (section,) = probe.sections(conclusion.summary, run)
        figure, overlap, twins = section.blocks
        z = np.array(figure.figure["data"][0]["z"], dtype=float)
        names = figure.figure["data"][0]["y"]
        assert z[names.index("copy, features"), 0] == pytest.approx(
            value(conclusion.summary, "correlation", "red", "copy"), abs=1e-4
        )
        assert z[0, 0] == pytest.approx(
            value(conclusion.summary, "correlation_chance", "red", "red"), abs=1e-4
        )
        assert z[0, 1] == pytest.approx(float(conclusion.summary["correlation_chance"][0, 1]), abs=1e-4)
        assert figure.data["n"].tolist() == [24] * 3
        assert "24 images" in figure.caption
        assert overlap.figure["data"][0]["zmin"] == 0
        assert twins.frame["map"].tolist() == ["red"]

    def test_one_map_alone_is_not_judged(self):
        """There is nothing to agree with."""
        scene = make_scene().with_explainers([Made("red", red)])
        assert tuple(Agreement().split(scene.survey)) == ()
