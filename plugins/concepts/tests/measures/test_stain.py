"""Stains: amounts by loops, planted amounts under noise, and slides that have none."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2hed
from wsss_probe_concepts.measures.stain import Stain

from wsss_probe import View
from wsss_probe.errors import UsageError

STAINS = ("haematoxylin", "eosin", "dab")
VECTORS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def solved(amounts):
    """Solve three equations for the amounts of three stains, by Cramer's rule."""

    def determinant(m):
        return (
            m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
        )

    whole = determinant(VECTORS)
    swapped = [[amounts if row == stain else VECTORS[row] for row in range(3)] for stain in range(3)]
    return [determinant(m) / whole for m in swapped]


def stains_by_loops(pixels):
    """Mean and population deviation of each stain, pixel by pixel from optical densities."""
    amounts = []
    for row in pixels:
        for pixel in row:
            densities = [log(max(value / 255, 1e-6)) / log(1e-6) for value in pixel]
            amounts.append([max(0.0, amount) for amount in solved(densities)])
    found = {}
    for n, stain in enumerate(STAINS):
        own = [amount[n] for amount in amounts]
        mean = sum(own) / len(own)
        found[f"{stain}, mean"] = mean
        found[f"{stain}, spread"] = (sum((value - mean) ** 2 for value in own) / len(own)) ** 0.5
    return found


def slide(amounts, noise=0.0, seed=0, vectors=VECTORS, size=(40, 40)):
    """Make a slide whose stains absorb light, amount by amount, with noise in the camera."""
    generator = np.random.default_rng(seed)
    spread = generator.uniform(0.8, 1.2, size=(*size, 3)) * np.asarray(amounts)
    light = 255 * np.exp(spread @ np.asarray(vectors) * log(1e-6))
    seen = light + generator.normal(scale=noise, size=light.shape)
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)


class TestAmounts:
    @settings(deadline=None, max_examples=40)
    @given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
    def test_equal_loops(self, pixels):
        """Beer and Lambert, three equations in three unknowns, negative amounts set to 0."""
        assert Stain().measure(View(pixels)) == pytest.approx(stains_by_loops(pixels.tolist()), abs=1e-9)

    def test_equal_scikit_image(self):
        """Means and deviations are those of ``rgb2hed``."""
        pixels = slide((0.05, 0.03, 0.01), noise=4)
        planes = rgb2hed(pixels)

        found = Stain().measure(View(pixels))

        assert [found[f"{s}, mean"] for s in STAINS] == pytest.approx(planes.mean(axis=(0, 1)).tolist())
        assert [found[f"{s}, spread"] for s in STAINS] == pytest.approx(planes.std(axis=(0, 1)).tolist())

    def test_order_of_pixels_does_not_matter(self):
        """Shuffled pixels have the same amounts."""
        pixels = slide((0.05, 0.03, 0.01), noise=4)
        shuffled = np.random.default_rng(1).permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)

        assert Stain().measure(View(shuffled)) == pytest.approx(Stain().measure(View(pixels)))


class TestRegions:
    def test_inside_masks_and_objects(self):
        """Only pixels of the region count; objects are taken together."""
        pixels = np.where(np.arange(40)[:, None, None] < 20, slide((0.08, 0, 0)), slide((0, 0.08, 0)))
        mask, objects = np.full((40, 40), -2), np.zeros((40, 40), dtype=int)
        mask[:10], mask[30:] = 0, 1
        objects[2:5, 2:5], objects[35:38, 2:5] = 1, 2
        regions = {"mask": mask >= 0, "b": mask == 1, "objects": objects > 0}

        found = Stain(("mask", "b", "objects")).measure(View(pixels, mask, ("a", "b"), objects))

        for region, inside in regions.items():
            wanted = stains_by_loops([pixels[inside].tolist()])
            for name, value in wanted.items():
                assert found[f"{name} in {region}"] == pytest.approx(value, abs=1e-9)

    def test_empty_regions_are_a_reason(self):
        """No pixel, no amount."""
        view = View(slide((0.1, 0, 0)), np.full((40, 40), -2), ("a",), np.zeros((40, 40), dtype=int))

        found = Stain(("mask", "objects")).measure(view)

        assert found["eosin, mean in mask"] == "the mask region is empty"
        assert found["eosin, mean in objects"] == "no object"

    def test_float_pixels_are_a_reason(self):
        """Normalised network input has no optical density."""
        found = Stain().measure(View(slide((0.1, 0, 0)).astype(np.float32)))

        assert set(found.values()) == {"needs 8-bit pixels, found float32"}

    def test_refuses_regions_that_cannot_be_meant(self):
        """A text is no list."""
        with pytest.raises(UsageError, match="regions of the concept measure 'stain'"):
            Stain("image")


class TestPlanted:
    @pytest.mark.parametrize("amounts", [(0.05, 0.02, 0.0), (0.01, 0.06, 0.0), (0.03, 0.0, 0.05)])
    def test_finds_the_planted_amounts(self, amounts):
        """Under camera noise every stain's mean is the planted one."""
        found = Stain().measure(View(slide(amounts, noise=3)))

        assert [found[f"{s}, mean"] for s in STAINS] == pytest.approx(amounts, abs=0.003)

    def test_more_eosin_is_no_more_haematoxylin(self):
        """Ten slides that differ in eosin alone have the same haematoxylin."""
        found = [Stain().measure(View(slide((0.04, e, 0), noise=3))) for e in np.linspace(0.01, 0.06, 10)]

        assert np.ptp([own["haematoxylin, mean"] for own in found]) < 0.004
        assert np.ptp([own["eosin, mean"] for own in found]) > 0.045

    def test_fails_for_other_dyes(self):
        """Stains of another laboratory, whose vectors are turned, are mistaken for DAB."""
        other = ((0.49, 0.77, 0.41), (0.09, 0.95, 0.28), VECTORS[2])

        found = Stain().measure(View(slide((0.05, 0.02, 0), vectors=other)))

        assert found["dab, mean"] > 0.015

    def test_finds_nothing_where_nothing_is(self):
        """An empty slide has none of the three."""
        found = Stain().measure(View(np.full((9, 9, 3), 255, dtype=np.uint8)))

        assert set(found.values()) == {0.0}
