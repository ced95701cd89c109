"""Haralick's features: by loops from the definitions, beside mahotas, on planted texture and on none."""

from math import exp, log2, sqrt

import mahotas
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from wsss_probe_concepts.measures.haralick import DIRECTIONS, Haralick
from wsss_probe_concepts.measures.haralick_features import DIFFERENCE_VARIANCES, FEATURES, haralick_features
from wsss_probe_concepts.measures.pixel_pairs import count_pairs

from wsss_probe import View
from wsss_probe.errors import UsageError

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))


def matrix_by_loops(grey, down, right, inside=None):
    """P over pairs of pixels in both orders, with loops; None where there is no pair."""
    rows, columns, levels = len(grey), len(grey[0]), int(np.max(grey)) + 1
    p = [[0] * levels for _ in range(levels)]
    pairs = 0
    for r in range(rows):
        for c in range(columns):
            y, x = r + down, c + right
            if not (0 <= y < rows and 0 <= x < columns):
                continue
            if inside is not None and not (inside[r][c] and inside[y][x]):
                continue
            p[grey[r][c]][grey[y][x]] += 1
            p[grey[y][x]][grey[r][c]] += 1
            pairs += 2
    return [[one / pairs for one in row] for row in p] if pairs else None


def entropy_by_loops(shares):
    """Bits."""
    return -sum(share * log2(share) for share in shares if share > 0)


def features_by_loops(p):
    """All thirteen from the paper's appendix, levels from 0, bits, and mahotas' choices named in the docs."""
    g = range(len(p))
    px = [sum(p[i][j] for j in g) for i in g]
    py = [sum(p[i][j] for i in g) for j in g]
    total, step = [0.0] * (2 * len(p) - 1), [0.0] * len(p)
    for i in g:
        for j in g:
            total[i + j] += p[i][j]
            step[abs(i - j)] += p[i][j]
    mx, my = sum(i * px[i] for i in g), sum(j * py[j] for j in g)
    vx, vy = sum((i - mx) ** 2 * px[i] for i in g), sum((j - my) ** 2 * py[j] for j in g)
    f = {}
    f["angular second moment"] = sum(p[i][j] ** 2 for i in g for j in g)
    f["contrast"] = sum(n**2 * sum(p[i][j] for i in g for j in g if abs(i - j) == n) for n in g)
    f["correlation"] = (sum(i * j * p[i][j] for i in g for j in g) - mx * my) / sqrt(vx * vy)
    f["sum of squares"] = sum((i - mx) ** 2 * p[i][j] for i in g for j in g)
    f["inverse difference moment"] = sum(p[i][j] / (1 + (i - j) ** 2) for i in g for j in g)
    f["sum average"] = sum(k * total[k] for k in range(len(total)))
    f["sum variance"] = sum((k - f["sum average"]) ** 2 * total[k] for k in range(len(total)))
    f["sum entropy"] = entropy_by_loops(total)
    f["entropy"] = entropy_by_loops(p[i][j] for i in g for j in g)
    mean_share = sum(step) / len(step)
    f["difference variance"] = sum((share - mean_share) ** 2 for share in step) / len(step)
    f["difference entropy"] = entropy_by_loops(step)
    hx, hy = entropy_by_loops(px), entropy_by_loops(py)
    hxy1 = -sum(p[i][j] * log2(px[i] * py[j]) for i in g for j in g if px[i] * py[j] > 0)
    hxy2 = -sum(px[i] * py[j] * log2(px[i] * py[j]) for i in g for j in g if px[i] * py[j] > 0)
    f["information correlation 1"] = (f["entropy"] - hxy1) / max(hx, hy)
    f["information correlation 2"] = sqrt(max(0.0, 1 - exp(-2 * (hxy2 - f["entropy"]))))
    return f


def drawn(seed, size=(14, 11), levels=9):
    """Draw an image in which neighbours resemble each other."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(size[0] + 1, size[1] + 1)).cumsum(axis=1)
    smooth = noise[1:, 1:] + noise[:-1, 1:] + noise[1:, :-1]
    ranks = smooth.ravel().argsort().argsort().reshape(smooth.shape)
    return (ranks * levels // ranks.size).astype(np.uint8)


def shown(grey):
    """Show grey levels as a colour image whose luminance they are."""
    return View(np.repeat(grey[..., None], 3, axis=2))


class TestFeatures:
    @pytest.mark.parametrize(("down", "right"), STEPS)
    @pytest.mark.parametrize("seed", range(3))
    def test_equal_the_definitions(self, seed, down, right):
        """All thirteen are those of loops over the matrix."""
        grey = drawn(seed)
        wanted = features_by_loops(matrix_by_loops(grey.tolist(), down, right))

        found = haralick_features(count_pairs(grey, (down, right))[0])

        assert list(FEATURES) == list(wanted)
        np.testing.assert_allclose(found, list(wanted.values()), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("distance", [1, 2, 5])
    @pytest.mark.parametrize("size", [(9, 30), (64, 64)])
    def test_equal_mahotas(self, size, distance):
        """For images of 8 bits all thirteen in all directions are those of mahotas."""
        grey = drawn(4, size, levels=200)
        wanted = mahotas.features.haralick(grey, distance=distance)

        found = [
            haralick_features(count_pairs(grey, (distance * down, distance * right))[0])
            for down, right in DIRECTIONS
        ]

        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)

    @settings(deadline=None, max_examples=60)
    @given(arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.integers(0, 255)))
    def test_equal_mahotas_for_any_image(self, grey):
        """Also for noise, two colours, and one, for which mahotas makes up what we call undefined."""
        wanted = mahotas.features.haralick(grey)
        for (down, right), row in zip(DIRECTIONS, wanted, strict=True):
            found = haralick_features(count_pairs(grey, (down, right))[0])
            defined = np.isfinite(found)
            varied = found[3] > 0
            assert defined[[2, 11, 12]].all() == varied
            assert defined[[0, 1, 3, 4, 5, 6, 7, 8, 9, 10]].all()
            # near independence the root of a rounding error remains in the last one
            found[12], row[12] = found[12] ** 2, row[12] ** 2
            np.testing.assert_allclose(found[defined], row[defined], rtol=1e-9, atol=1e-9)

    def test_difference_variance_has_two_readings(self):
        """The second reading is the variance of |x - y| over pairs, mahotas' ``use_x_minus_y_variance``."""
        grey = drawn(1)
        wanted = mahotas.features.haralick(grey, use_x_minus_y_variance=True)[0]
        p = matrix_by_loops(grey.tolist(), 0, 1)
        steps = [(abs(i - j), p[i][j]) for i in range(len(p)) for j in range(len(p))]
        mean = sum(step * share for step, share in steps)
        looped = sum((step - mean) ** 2 * share for step, share in steps)

        found = haralick_features(count_pairs(grey, (0, 1))[0], DIFFERENCE_VARIANCES["differences"])

        np.testing.assert_allclose(found, wanted, rtol=1e-11)
        assert found[9] == pytest.approx(looped, rel=1e-12)

    def test_mahotas_differs_from_the_paper_where_the_page_says(self):
        """Sum average from 0 and not from 1, sum variance about its own mean, information in bits."""
        p = matrix_by_loops(drawn(2).tolist(), 0, 1)
        ours = features_by_loops(p)
        g = range(len(p))
        from_one = sum((i + 1 + j + 1) * p[i][j] for i in g for j in g)
        misprint = sum((i + j - ours["sum entropy"]) ** 2 * p[i][j] for i in g for j in g)

        assert from_one == pytest.approx(ours["sum average"] + 2)
        assert misprint == pytest.approx(
            ours["sum variance"] + (ours["sum average"] - ours["sum entropy"]) ** 2
        )

    def test_one_level_has_no_correlation(self):
        """Where neighbours never vary, correlation and both information measures are undefined."""
        found = haralick_features(count_pairs(np.full((5, 5), 7, dtype=np.uint8), (0, 1))[0])

        assert np.flatnonzero(np.isnan(found)).tolist() == [2, 11, 12]
        assert found[[0, 1, 3, 5, 8]].tolist() == [1, 0, 0, 14, 0]


class TestMeasure:
    def test_mean_and_range_over_directions(self):
        """The concepts are mahotas' own mean and peak-to-peak value, by name."""
        view = shown(drawn(3, (30, 20), levels=60))
        wanted = mahotas.features.haralick(view.pixels[..., 0], return_mean_ptp=True)

        found = Haralick().measure(view)

        assert list(found)[:2] == ["angular second moment, mean", "contrast, mean"]
        np.testing.assert_allclose(list(found.values()), wanted, rtol=1e-10)

    def test_each_distance_has_its_name(self):
        """Several distances give several sets of concepts, each the one of its distance."""
        view = shown(drawn(3, (30, 20), levels=60))
        wanted = mahotas.features.haralick(view.pixels[..., 0], distance=4, return_mean=True)

        found = Haralick(distances=(1, 4)).measure(view)

        assert len(found) == 52
        assert found["sum average, mean, d=4"] == pytest.approx(wanted[5], rel=1e-12)

    def test_levels_are_bins_of_equal_width(self):
        """With 4 levels a pixel of 64 is in the second bin, and one of 63 in the first."""
        grey = np.array([[0, 63, 64], [127, 128, 255], [191, 192, 5]], dtype=np.uint8)
        binned = np.array([[0, 0, 1], [1, 2, 3], [2, 3, 0]], dtype=np.uint8)
        wanted = mahotas.features.haralick(binned, return_mean_ptp=True)

        np.testing.assert_allclose(list(Haralick(levels=4).measure(shown(grey)).values()), wanted, rtol=1e-10)

    def test_inside_a_mask_only_pairs_inside_count(self):
        """Features inside a mask are those of loops over pairs of which both lie inside."""
        grey = drawn(5, (16, 16), levels=40)
        inside = np.hypot(*(np.mgrid[:16, :16] - 8)) < 6
        view = View(shown(grey).pixels, np.where(inside, 0, -2), ("gland",))
        each = [features_by_loops(matrix_by_loops(grey.tolist(), *step, inside.tolist())) for step in STEPS]

        found = Haralick(regions=("gland",)).measure(view)

        for feature in FEATURES:
            if feature != "difference variance":  # depends on the number of levels: see the next test
                values = [own[feature] for own in each]
                assert found[f"{feature}, mean in gland"] == pytest.approx(np.mean(values), rel=1e-9)
                assert found[f"{feature}, range in gland"] == pytest.approx(
                    np.ptp(values), rel=1e-9, abs=1e-9
                )

    def test_what_lies_outside_a_mask_does_not_matter(self):
        """Other pixels outside leave everything as it is, also what depends on the largest level."""
        grey = drawn(6, (16, 16), levels=40)
        inside = np.hypot(*(np.mgrid[:16, :16] - 8)) < 6
        views = [
            View(
                shown(np.where(inside, grey, other).astype(np.uint8)).pixels, np.where(inside, 0, -1), ("a",)
            )
            for other in (0, 255)
        ]
        measure = Haralick(regions=("mask",))

        assert measure.measure(views[0]) == measure.measure(views[1])

    @pytest.mark.parametrize("change", [np.flipud, np.fliplr, np.rot90, np.transpose])
    def test_mean_and_range_do_not_see_reflections(self, change):
        """Reflections exchange directions or orders of pairs, and leave mean and range."""
        grey = drawn(7, (24, 24), levels=64)

        found, wanted = (Haralick().measure(shown(own)) for own in (np.ascontiguousarray(change(grey)), grey))

        assert found == pytest.approx(wanted, rel=1e-10, abs=1e-12)

    def test_brightness_moves_the_sum_average_only(self):
        """Twenty grey levels more are forty in the sum average; what says differences stays."""
        grey = drawn(8, (24, 24), levels=64)
        found, wanted = (dict(Haralick().measure(shown(own))) for own in (grey + np.uint8(20), grey))
        assert found.pop("sum average, mean") == pytest.approx(wanted.pop("sum average, mean") + 40)
        for own in (found, wanted):  # the number of levels is in it
            own.pop("difference variance, mean")
            own.pop("difference variance, range")

        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    def test_one_colour_is_a_reason(self):
        """An image of one colour has no correlation, and says so."""
        found = Haralick().measure(shown(np.full((9, 9), 100, dtype=np.uint8)))

        assert (
            found["correlation, mean"] == found["information correlation 2, range"] == "one grey level only"
        )
        assert found["contrast, mean"] == 0

    def test_small_images_are_a_reason(self):
        """Where a direction has no pair there is no mean over directions."""
        found = Haralick(distances=(3,)).measure(shown(np.zeros((3, 9), dtype=np.uint8)))

        assert set(found.values()) == {"no two pixels at distance 3 in every direction"}

    def test_floating_and_16_bit_pixels_are_a_reason(self):
        """What is no 8-bit image is refused with what was found."""
        pixels = shown(drawn(0)).pixels
        for kind in (np.float32, np.uint16):
            found = Haralick().measure(View(pixels.astype(kind)))
            assert set(found.values()) == {f"needs 8-bit pixels, found {np.dtype(kind)}"}

    @pytest.mark.parametrize(
        "options",
        [
            {"distances": ()},
            {"distances": (1, 1)},
            {"distances": (0,)},
            {"distances": 1},
            {"levels": 1},
            {"levels": 257},
            {"levels": True},
            {"regions": ()},
            {"regions": "image"},
            {"smallest": 0},
            {"difference_variance": "both"},
        ],
    )
    def test_refuses_options_that_cannot_be_meant(self, options):
        """Each says what was found and what is wanted."""
        with pytest.raises(UsageError, match="haralick"):
            Haralick(**options)


def textured(smoothness, noise, brightness, seed):
    """Draw a texture of a given smoothness, whose histogram does not give it away, under noise."""
    generator = np.random.default_rng(seed)
    field = generator.normal(size=(40, 40))
    for _ in range(smoothness):
        field = (field + np.roll(field, 1, 0) + np.roll(field, 1, 1) + np.roll(field, (1, 1), (0, 1))) / 4
    ranks = field.ravel().argsort().argsort().reshape(field.shape) / field.size
    seen = 90 * ranks + brightness + generator.normal(scale=noise, size=ranks.shape)
    return np.clip(seen, 0, 255).astype(np.uint8)


def told_apart(feature, kinds, noise):
    """Share of pairs of images of two kinds of texture that a feature puts in order; brightness distracts."""
    values = [
        [
            Haralick().measure(shown(textured(kind, noise, 40 + 4 * n, 100 * set_ + n)))[feature]
            for n in range(12)
        ]
        for set_, kind in enumerate(kinds)
    ]
    return np.mean([[b > a for a in values[0]] for b in values[1]])


class TestPlanted:
    def test_finds_the_smoother_texture(self):
        """Correlation tells smoothness 1 from 2 apart under noise, whatever the brightness."""
        assert told_apart("correlation, mean", (1, 2), noise=10) > 0.95

    def test_fails_where_noise_drowns_the_texture(self):
        """With noise of many times the texture's spread nothing is left to find."""
        assert told_apart("correlation, mean", (1, 2), noise=600) < 0.8

    def test_finds_nothing_where_nothing_is(self):
        """Two draws of one texture are not told apart, and independent pixels have no correlation."""
        noise = [np.random.default_rng(1000 + n).integers(0, 256, (60, 60)) for n in range(20)]
        values = [Haralick().measure(shown(grey.astype(np.uint8)))["correlation, mean"] for grey in noise]

        assert 0.25 < told_apart("correlation, mean", (1, 1), noise=10) < 0.75
        assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(20)
        assert np.abs(values).max() < 0.05
