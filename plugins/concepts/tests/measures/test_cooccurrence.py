"""Co-occurrence: the goldens, loops from the definitions, scikit-image, planted texture, and none."""

from math import radians, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.feature import graycomatrix, graycoprops
from wsss_probe_concepts.measures.cooccurrence import PROPERTIES, Cooccurrence, offset_of
from wsss_probe_concepts.measures.grey import grey_levels
from wsss_probe_concepts.measures.pixel_pairs import count_pairs

from wsss_probe import View
from wsss_probe.errors import UsageError

CLASSIC = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2], [2, 2, 3, 3]], dtype=np.uint8)


def counts_by_loops(grey, down, right, symmetric=True, region=None):
    """Count pairs (level, level) with loops, of pixels in the same region where there are regions."""
    counts = {}
    for r in range(len(grey)):
        for c in range(len(grey[0])):
            y, x = r + down, c + right
            if not (0 <= y < len(grey) and 0 <= x < len(grey[0])):
                continue
            if region is not None and (region[r][c] == 0 or region[r][c] != region[y][x]):
                continue
            for pair in [(grey[r][c], grey[y][x]), (grey[y][x], grey[r][c])][: 1 + symmetric]:
                counts[pair] = counts.get(pair, 0) + 1
    return counts


def properties_by_loops(counts):
    """The six properties from the formulas; correlation None where it is undefined."""
    pairs = sum(counts.values())
    p = {cell: count / pairs for cell, count in counts.items()}
    mi, mj = sum(i * v for (i, _), v in p.items()), sum(j * v for (_, j), v in p.items())
    vi = sum((i - mi) ** 2 * v for (i, _), v in p.items())
    vj = sum((j - mj) ** 2 * v for (_, j), v in p.items())
    covariance = sum((i - mi) * (j - mj) * v for (i, j), v in p.items())
    asm = sum(v**2 for v in p.values())
    return {
        "asm": asm,
        "contrast": sum(v * (i - j) ** 2 for (i, j), v in p.items()),
        "correlation": covariance / sqrt(vi * vj) if vi * vj > 1e-20 else None,
        "dissimilarity": sum(v * abs(i - j) for (i, j), v in p.items()),
        "energy": sqrt(asm),
        "homogeneity": sum(v / (1 + (i - j) ** 2) for (i, j), v in p.items()),
    }


def shown(grey):
    """Show grey levels as a colour image whose luminance they are."""
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=2)


def drawn(seed, size=(20, 17), levels=60):
    """Draw grey levels that resemble their neighbours to the right."""
    walk = np.random.default_rng(seed).normal(size=size).cumsum(axis=1)
    return ((walk - walk.min()) / np.ptp(walk) * (levels - 1)).astype(np.uint8)


class TestGoldens:
    def test_classic_counts(self):
        """The 4 x 4 image of every text book has these 24 pairs."""
        pairs = count_pairs(CLASSIC, (0, 1))[0]
        matrix = np.zeros((4, 4), dtype=int)
        matrix[pairs.first, pairs.second] = pairs.count

        assert matrix.tolist() == [[4, 2, 1, 0], [2, 4, 0, 0], [1, 0, 6, 1], [0, 0, 1, 2]]

    def test_classic_properties(self):
        """And these properties."""
        found = Cooccurrence(regions=("image",)).measure(View(shown(CLASSIC)))

        assert found["contrast"] == pytest.approx(7 / 12, abs=1e-12)
        assert found["dissimilarity"] == pytest.approx(5 / 12, abs=1e-12)
        assert found["homogeneity"] == pytest.approx(0.8083333, abs=1e-7)
        assert found["asm"] == pytest.approx(0.1458333, abs=1e-7)
        assert found["energy"] == pytest.approx(0.3818813, abs=1e-7)
        assert found["correlation"] == pytest.approx(0.7195326, abs=1e-7)

    def test_a_digit_by_loops(self):
        """A made digit of 28 x 28 with the settings that were published for handwritten ones."""
        rows, columns = np.mgrid[:28, :28]
        ring = np.abs(np.hypot(rows - 14, 1.4 * (columns - 14)) - 8)
        digit = np.clip(255 * (2.5 - ring), 0, 255).astype(np.uint8)
        wanted = properties_by_loops(counts_by_loops(digit.tolist(), 0, 1))

        found = Cooccurrence(regions=("image",)).measure(View(shown(digit)))

        assert found == pytest.approx(wanted, rel=1e-12)
        assert wanted["asm"] > 0.3
        assert wanted["contrast"] > 500


class TestAgainstScikitImage:
    @pytest.mark.parametrize("symmetric", [True, False])
    @pytest.mark.parametrize("angle", [0, 30, 45, 90, 135, 180, 270])
    @pytest.mark.parametrize("distance", [1, 3])
    def test_counts_and_properties(self, distance, angle, symmetric):
        """Every distance, angle and order of pairs gives scikit-image's matrix and its six properties."""
        grey = drawn(distance)
        matrix = graycomatrix(grey, [distance], [radians(angle)], levels=256, symmetric=symmetric)
        pairs = count_pairs(grey, offset_of(distance, angle), None, symmetric)[0]
        ours = np.zeros((256, 256), dtype=int)
        ours[pairs.first, pairs.second] = pairs.count

        assert np.array_equal(ours, matrix[:, :, 0, 0])
        for name, (function, _, _) in PROPERTIES.items():
            prop = name.upper() if name == "asm" else name
            assert function(pairs) == pytest.approx(graycoprops(matrix, prop)[0, 0], rel=1e-10)

    def test_grey_levels_are_theirs(self):
        """Colour becomes grey as the paper's code does it, to the level; weights are luminance's."""
        pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
        looped = [
            [round(0.2125 * float(r) + 0.7154 * float(g) + 0.0721 * float(b)) for r, g, b in row]
            for row in pixels
        ]

        assert np.array_equal(grey_levels(pixels), looped)

    def test_crop_after_a_sentinel(self):
        """The matrix of 2018, cropped after its sentinel, is ours once it is normalised over pairs inside."""
        # Old versions of scikit-image did not normalise again after the crop; ASM and contrast shrank with
        # the share of pairs that lie inside.
        grey, inside = drawn(3), np.hypot(*(np.mgrid[:20, :17] - 9)) < 5
        marked = np.where(inside, grey.astype(np.uint16), 256)
        matrix = graycomatrix(marked, [1], [0], levels=257, symmetric=True, normed=True)[:256, :256]
        share = float(matrix.sum())
        measure = Cooccurrence(regions=("mask",))

        found = measure.measure(View(shown(grey), np.where(inside, 0, -2), ("nucleus",)))

        assert 0 < share < 0.5
        for name, prop in {"asm": "ASM", "contrast": "contrast", "correlation": "correlation"}.items():
            assert found[f"{name} in mask"] == pytest.approx(graycoprops(matrix, prop)[0, 0], rel=1e-10)
        i, j = np.mgrid[:256, :256]
        old_asm, old_contrast = (matrix**2).sum(), (matrix[:, :, 0, 0] * (i - j) ** 2).sum()
        assert old_asm == pytest.approx(found["asm in mask"] * share**2, rel=1e-10)
        assert old_contrast == pytest.approx(found["contrast in mask"] * share, rel=1e-10)


class TestRegions:
    def test_inside_a_mask(self):
        """Only pairs of which both pixels are inside count: loops say the same."""
        grey = drawn(0)
        mask = np.full(grey.shape, -2)
        mask[3:9, 4:12], mask[12:18, 2:9], mask[5, 5] = 0, 1, -1
        view = View(shown(grey), mask, ("gland", "stroma"))
        regions = {"mask": mask >= 0, "gland": mask == 0, "stroma": mask == 1}

        found = Cooccurrence((2,), (90,), regions=("mask", "gland", "stroma")).measure(view)

        for name, inside in regions.items():
            wanted = properties_by_loops(
                counts_by_loops(grey.tolist(), 2, 0, True, inside.astype(int).tolist())
            )
            for prop, value in wanted.items():
                assert found[f"{prop} in {name}"] == pytest.approx(value, rel=1e-10)

    def test_objects_one_by_one(self):
        """Every object has a matrix of its own; touching ones share no pair; the mean is over objects."""
        grey, objects = drawn(1), np.zeros((20, 17), dtype=int)
        objects[2:8, 2:8], objects[2:8, 8:14], objects[12:18, 4:12] = 9, 4, 700
        objects[10, 15] = 5  # too small
        view = View(shown(grey), np.where(objects > 0, 0, -2), ("nucleus",), objects)
        each = [
            properties_by_loops(
                counts_by_loops(grey.tolist(), 0, 1, True, np.where(objects == n, 1, 0).tolist())
            )
            for n in (4, 9, 700)
        ]

        found = Cooccurrence(regions=("objects",), smallest=4).measure(view)

        for prop in PROPERTIES:
            wanted = np.mean([own[prop] for own in each])
            assert found[f"{prop} in objects, mean"] == pytest.approx(wanted, rel=1e-10)

    def test_an_object_of_one_colour_has_no_correlation(self):
        """It is left out of that mean and of no other."""
        grey, objects = drawn(2), np.zeros((20, 17), dtype=int)
        objects[2:8, 2:8], objects[12:18, 4:12] = 1, 2
        grey[2:8, 2:8] = 30
        view = View(shown(grey), None, (), objects)
        other = properties_by_loops(
            counts_by_loops(grey.tolist(), 0, 1, True, (objects == 2).astype(int).tolist())
        )

        found = Cooccurrence(regions=("objects",)).measure(view)

        assert found["correlation in objects, mean"] == pytest.approx(other["correlation"], rel=1e-10)
        assert found["contrast in objects, mean"] == pytest.approx(other["contrast"] / 2, rel=1e-10)

    def test_says_how_many_objects_were_too_small(self):
        """Without an object that is large enough the reason counts the others."""
        objects = np.zeros((20, 17), dtype=int)
        objects[2:4, 2:4], objects[9, 9] = 1, 2
        measure = Cooccurrence(regions=("objects",))

        found = measure.measure(View(shown(drawn(0)), None, (), objects))

        assert set(found.values()) == {"no object of at least 20 pixels; 2 smaller left out"}
        empty = measure.measure(View(shown(drawn(0)), None, (), objects * 0))
        assert set(empty.values()) == {"no object"}

    def test_an_empty_mask_is_a_reason(self):
        """Nothing inside, no mask, and no pair inside are told apart."""
        measure, pixels, mask = Cooccurrence(regions=("mask",)), shown(drawn(0)), np.full((20, 17), -2)
        lonely = mask.copy()
        lonely[4, 4] = lonely[8, 8] = 0

        said = [measure.measure(View(pixels, own, ("gland",)))["asm in mask"] for own in (mask, None, lonely)]

        assert said == ["the mask region is empty", "the image has no mask", "no two pixels at distance 1"]

    def test_regions_that_the_data_lack_are_not_named(self):
        """By default the image, and objects where there are any; an unknown class is refused."""
        assert len(Cooccurrence().concepts((), False)) == 6
        assert [c.name for c in Cooccurrence().concepts(("gland",), True)][6] == "asm in objects, mean"
        with pytest.raises(UsageError, match="region 'glands' is no class of the mask"):
            Cooccurrence(regions=("glands",)).concepts(("gland",), True)


class TestMetamorphic:
    @settings(deadline=None, max_examples=60)
    @given(arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(2, 8)), elements=st.integers(0, 255)))
    def test_reflection_leaves_symmetric_pairs(self, grey):
        """A mirrored image has the same pairs in the other order; ranges hold for every image."""
        measure = Cooccurrence(regions=("image",))
        found, mirrored = (measure.measure(View(shown(own))) for own in (grey, grey[:, ::-1]))

        assert found == mirrored
        assert 0 < found["asm"] <= 1
        assert 0 < found["homogeneity"] <= 1
        assert found["energy"] ** 2 == pytest.approx(found["asm"])
        assert 0 <= found["dissimilarity"] ** 2 <= found["contrast"] * (1 + 1e-12)
        if isinstance(found["correlation"], str):
            assert len({*grey[:, :-1].ravel(), *grey[:, 1:].ravel()}) == 1
        else:
            assert -1 - 1e-12 <= found["correlation"] <= 1 + 1e-12

    def test_transposition_turns_the_angle(self):
        """Rows become columns, and 0 degrees become 90."""
        grey = drawn(5)
        flat, upright = Cooccurrence(angles=(0,)), Cooccurrence(angles=(90,))

        assert flat.measure(View(shown(grey))) == upright.measure(View(shown(grey.T)))
        assert flat.measure(View(shown(grey))) != flat.measure(View(shown(grey.T)))

    def test_brightness_changes_nothing(self):
        """All six see differences and shares of levels, and not the levels."""
        grey, measure = drawn(5), Cooccurrence(regions=("image",))

        assert measure.measure(View(shown(grey + 90))) == pytest.approx(
            measure.measure(View(shown(grey))), rel=1e-9
        )

    def test_twice_the_contrast_is_four_times_the_contrast(self):
        """Contrast is a squared difference; correlation does not see the scale."""
        grey, measure = drawn(5), Cooccurrence(regions=("image",))
        found, doubled = measure.measure(View(shown(grey))), measure.measure(View(shown(grey * 2)))

        assert doubled["contrast"] == pytest.approx(4 * found["contrast"])
        assert doubled["dissimilarity"] == pytest.approx(2 * found["dissimilarity"])
        assert doubled["correlation"] == pytest.approx(found["correlation"], rel=1e-9)
        assert doubled["asm"] == pytest.approx(found["asm"])

    def test_angles_are_averaged(self):
        """Two angles give the mean of what each gives."""
        view = View(shown(drawn(6)))
        one, other, both = (Cooccurrence(angles=own).measure(view) for own in ((0,), (90,), (0, 90)))

        assert both["contrast"] == pytest.approx((one["contrast"] + other["contrast"]) / 2)


class TestRefusals:
    def test_one_colour_has_no_correlation(self):
        """scikit-image gives 1 for it; the other five are defined."""
        found = Cooccurrence(regions=("image",)).measure(View(shown(np.full((5, 5), 40))))

        assert found["correlation"] == "one grey level only"
        assert (found["asm"], found["contrast"], found["homogeneity"]) == (1, 0, 1)
        flat = graycomatrix(np.full((5, 5), 40, dtype=np.uint8), [1], [0])
        assert graycoprops(flat, "correlation")[0, 0] == 1

    def test_constant_firsts_have_no_correlation(self):
        """Without symmetry one of the two may be constant alone."""
        grey = np.array([[3, 9], [3, 7]], dtype=np.uint8)

        found = Cooccurrence(symmetric=False, regions=("image",)).measure(View(shown(grey)))

        assert found["correlation"] == "one grey level only"
        assert found["contrast"] == (36 + 16) / 2

    def test_one_pixel_is_a_reason(self):
        """There is no pair in it."""
        found = Cooccurrence(regions=("image",)).measure(View(shown([[3]])))

        assert set(found.values()) == {"no two pixels at distance 1"}

    @pytest.mark.parametrize(
        "options",
        [
            {"angles": ()},
            {"angles": (0, 0)},
            {"angles": ("0",)},
            {"angles": 0},
            {"angles": (float("nan"),)},
            {"symmetric": "yes"},
            {"distances": (1.5,)},
            {"levels": 0},
            {"regions": ("image", "image")},
        ],
    )
    def test_refuses_options_that_cannot_be_meant(self, options):
        """Each says what was found and what is wanted."""
        with pytest.raises(UsageError, match="cooccurrence"):
            Cooccurrence(**options)


def planted(rho, noise, seed):
    """Draw rows in which neighbours correlate by rho, under independent noise; brightness distracts."""
    generator = np.random.default_rng(seed)
    field = generator.normal(size=(80, 80))
    for c in range(1, 80):
        field[:, c] = rho * field[:, c - 1] + sqrt(1 - rho**2) * field[:, c]
    seen = generator.uniform(110, 140) + 15 * field + generator.normal(scale=noise, size=field.shape)
    return View(shown(np.clip(np.round(seen), 0, 255)))


class TestPlanted:
    @pytest.mark.parametrize("rho", [-0.5, 0.3, 0.9])
    def test_finds_the_planted_correlation(self, rho):
        """Correlation is rho, less the share of the noise in the variance; vertically it is 0."""
        views = [planted(rho, noise=5, seed=n) for n in range(8)]
        along, across = (
            np.array([Cooccurrence(angles=(angle,)).measure(view)["correlation"] for view in views])
            for angle in (0, 90)
        )

        assert along.mean() == pytest.approx(rho * 225 / 250, abs=0.02)
        assert abs(across.mean()) < 0.1 + 0.05 * (rho > 0.5)

    def test_fails_where_noise_drowns_it(self):
        """With four times the spread in noise little is left of .9."""
        found = [Cooccurrence().measure(planted(0.9, noise=60, seed=n))["correlation"] for n in range(8)]

        assert np.mean(found) < 0.1

    def test_finds_nothing_where_nothing_is(self):
        """Independent pixels have no correlation, within three standard errors."""
        found = [Cooccurrence().measure(planted(0, noise=5, seed=n))["correlation"] for n in range(20)]

        assert abs(np.mean(found)) < 3 * np.std(found, ddof=1) / sqrt(20)
