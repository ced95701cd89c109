"""Colour: every number by loops, planted blur and tint, and grey images that have no colour."""

import colorsys
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from wsss_probe_concepts.measures.colour import Colour

from wsss_probe import View
from wsss_probe.errors import UsageError


def colour_by_loops(pixels):
    """All eight, from their definitions."""
    flat = [tuple(map(float, pixel)) for row in pixels for pixel in row]
    n = len(flat)

    def spread(values):
        mean = sum(values) / n
        return sqrt(sum((v - mean) ** 2 for v in values) / n), mean

    def colourful(kept):
        s_rg, m_rg = spread([kept(r - g) for r, g, _ in flat])
        s_yb, m_yb = spread([kept((r + g) / 2 - b) for r, g, b in flat])
        return sqrt(s_rg**2 + s_yb**2) + 0.3 * sqrt(m_rg**2 + m_yb**2)

    grey = [[0.2125 * float(r) + 0.7154 * float(g) + 0.0721 * float(b) for r, g, b in row] for row in pixels]
    curved = []
    for r in range(1, len(grey) - 1):
        for c in range(1, len(grey[0]) - 1):
            around = grey[r - 1][c] + grey[r + 1][c] + grey[r][c - 1] + grey[r][c + 1]
            curved.append(around - 4 * grey[r][c])
    mean = sum(curved) / len(curved)
    return {
        "colourfulness": colourful(lambda v: v),
        "brightness": sum(map(sum, grey)) / n,
        "saturation": sum(colorsys.rgb_to_hsv(*pixel)[1] for pixel in flat) / n,
        "red": sum(r for r, _, _ in flat) / n,
        "green": sum(g for _, g, _ in flat) / n,
        "blue": sum(b for _, _, b in flat) / n,
        "sharpness": sum((v - mean) ** 2 for v in curved) / len(curved),
        "colourfulness, absolute": colourful(abs),
    }


def scene(seed, blur=0, noise=0.0, tint=(0, 0, 0), side=48):
    """Draw patches with edges, blurred, tinted, and seen by a noisy camera."""
    generator = np.random.default_rng(seed)
    patches = generator.uniform(60, 190, size=(side // 6, side // 6, 3))
    seen = np.kron(patches, np.ones((6, 6, 1)))
    for _ in range(blur):
        seen = (seen + sum(np.roll(seen, step, axis) for step in (-1, 1) for axis in (0, 1))) / 5
    seen = seen + tint + generator.normal(scale=noise, size=seen.shape)
    return View(np.clip(np.round(seen), 0, 255).astype(np.uint8))


class TestDefinitions:
    @settings(deadline=None, max_examples=40)
    @given(arrays(np.uint8, st.tuples(st.integers(3, 6), st.integers(3, 6), st.just(3))))
    def test_equal_loops(self, pixels):
        """Colourfulness as published (signed) and as the paper's repository has it, and the six others."""
        found = Colour(channels=True, absolute=True).measure(View(pixels))

        assert found == pytest.approx(colour_by_loops(pixels.tolist()), rel=1e-9, abs=1e-6)

    def test_sign_matters(self):
        """Half red and half green is colourful; without signs it would be one tint."""
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[:2, :, 0] = pixels[2:, :, 1] = 200

        found = Colour(absolute=True).measure(View(pixels))

        assert found["colourfulness"] == pytest.approx(200 + 0.3 * 100)
        assert found["colourfulness, absolute"] == pytest.approx(0.3 * sqrt(200**2 + 100**2))

    @pytest.mark.parametrize("change", [np.flipud, np.fliplr, np.rot90])
    def test_reflection_changes_nothing(self, change):
        """No number knows which way is up."""
        view = scene(0, noise=5)

        assert Colour().measure(View(np.ascontiguousarray(change(view.pixels)))) == pytest.approx(
            Colour().measure(view)
        )

    def test_more_light_is_no_more_colour(self):
        """Ten levels more in all channels add ten to brightness and leave colourfulness and sharpness."""
        found, lighter = (Colour().measure(scene(1, tint=(own,) * 3)) for own in (0, 10))

        assert lighter["brightness"] == pytest.approx(found["brightness"] + 10)
        for name in ("colourfulness", "sharpness"):
            assert lighter[name] == pytest.approx(found[name])

    def test_black_has_no_saturation(self):
        """0 by definition, not 0 / 0."""
        assert Colour().measure(View(np.zeros((4, 4, 3), dtype=np.uint8)))["saturation"] == 0

    def test_sharpness_needs_an_inner_pixel(self):
        """Two rows have none; all else is defined."""
        found = Colour().measure(View(scene(0).pixels[:2]))

        assert found["sharpness"] == "needs three rows and columns"
        assert all(isinstance(value, float) for name, value in found.items() if name != "sharpness")

    def test_16_bit_pixels_are_a_reason(self):
        """Also for the concept that was asked for beside the others."""
        found = Colour(absolute=True).measure(View(scene(0).pixels.astype(np.uint16)))

        assert len(found) == 5
        assert set(found.values()) == {"needs 8-bit pixels, found uint16"}

    @pytest.mark.parametrize("options", [{"absolute": "no"}, {"channels": 1}])
    def test_refuses_what_is_no_truth_value(self, options):
        """Both options are true or false."""
        with pytest.raises(UsageError, match="colour"):
            Colour(**options)


def ordered(name, first, second, images=10):
    """Share of pairs of images in which a concept is larger in the first kind."""
    values = [
        [Colour().measure(scene(100 * k + n, **own))[name] for n in range(images)]
        for k, own in enumerate((first, second))
    ]
    return np.mean([[a > b for b in values[1]] for a in values[0]])


class TestPlanted:
    def test_finds_blur_and_tint(self):
        """Sharp from blurred and tinted from plain, whatever the patches are."""
        assert ordered("sharpness", {"noise": 1.0}, {"noise": 1.0, "blur": 2}) == 1
        assert ordered("colourfulness", {"tint": (50, 0, -50), "noise": 3}, {"noise": 3}) > 0.9
        assert ordered("brightness", {"tint": (40, 40, 40)}, {}) == 1

    def test_fails_where_noise_is_taken_for_sharpness(self):
        """A blurred image with noise counts as sharper than a sharp one without: the page says so."""
        assert ordered("sharpness", {"noise": 40.0, "blur": 3}, {}) > 0.9

    def test_finds_nothing_where_nothing_is(self):
        """Grey images have no colour, flat ones no sharpness, and two draws of a kind are not told apart."""
        grey = np.repeat(scene(0).pixels[..., :1], 3, axis=2)
        found = Colour().measure(View(grey))
        flat = Colour().measure(View(np.full((9, 9, 3), 80, dtype=np.uint8)))

        assert (found["colourfulness"], found["saturation"]) == (0, 0)
        assert (flat["sharpness"], flat["colourfulness"]) == (0, 0)
        assert 0.2 < ordered("sharpness", {"noise": 3.0}, {"noise": 3.0}) < 0.8
