"""Otsu's threshold: equal to scikit-image's masks, and to the formula where scikit-image gives up."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import threshold_otsu

from wsss_probe.threshold import binarize, otsu

SHAPES = [(7, 7), (14, 14), (28, 28), (5, 11), (17, 13)]


def gaussian(generator, shape):
    """Signed values, as before a rectifier."""
    return generator.normal(size=shape)


def rectified(generator, shape):
    """Mostly zero, as after a rectifier."""
    return np.maximum(generator.normal(loc=-0.5, size=shape), 0)


def uniform(generator, shape):
    """A flat histogram, in which neighbouring splits are nearly equal."""
    return generator.uniform(-3, 5, size=shape)


def two_level(generator, shape):
    """Two values."""
    return np.where(generator.uniform(size=shape) < 0.3, 2.5, -1.0)


def heavy_tailed(generator, shape):
    """A few values far from all others, so most pixels share a few bins."""
    return generator.standard_t(1.5, size=shape)


def coarse(generator, shape):
    """Few distinct values: many pixels on bin edges and many nearly equal splits."""
    return np.round(generator.normal(size=shape) * 4) / 4


def on_bin_edges(generator, shape):
    """Values on the edges between bins, where the first guess of a bin is often one too high or low."""
    levels = generator.integers(0, 256, size=shape, endpoint=True) / 256
    scale, offset = generator.uniform(0.1, 3, size=(2, shape[0], 1, 1))
    return levels * scale + offset


def tiny_as_gradients(generator, shape):
    """Magnitudes from 1e-12 to 1e-3, another for each map."""
    return generator.normal(size=shape) * 10.0 ** generator.uniform(-12, -3, size=(shape[0], 1, 1))


def on_a_pedestal(generator, shape):
    """A narrow range far from zero, where float32 rounds the bin edges visibly."""
    return 100 + 0.05 * generator.normal(size=shape)


KINDS = [gaussian, rectified, uniform, two_level, heavy_tailed, coarse]
KINDS += [on_bin_edges, tiny_as_gradients, on_a_pedestal]


def our_masks(maps):
    """Masks of an array of maps by the module under test."""
    tensor = torch.from_numpy(maps)
    return binarize(tensor, otsu(tensor)).numpy()


def otsu_by_the_book(values):
    """Otsu (1979), eq. 18, over the 256 bins of one map in double precision; loops only."""
    low, high = min(values), max(values)
    edges = [low + i * (high - low) / 256 for i in range(256)] + [high]
    counts = [0] * 256
    for value in values:
        inside = [i for i in range(256) if edges[i] <= value < edges[i + 1]]
        counts[inside[0] if inside else 255] += 1
    centres = [(edges[i] + edges[i + 1]) / 2 for i in range(256)]
    best, threshold = -1.0, math.nan
    for split in range(255):
        below, above = range(split + 1), range(split + 1, 256)
        n1, n2 = sum(counts[i] for i in below), sum(counts[i] for i in above)
        mean1 = sum(counts[i] * centres[i] for i in below) / n1
        mean2 = sum(counts[i] * centres[i] for i in above) / n2
        if n1 * n2 * (mean1 - mean2) ** 2 > best * (1 + 1e-9):
            best, threshold = n1 * n2 * (mean1 - mean2) ** 2, centres[split]
    return threshold


class TestEqualsScikitImage:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("precision", [np.float32, np.float16], ids=lambda precision: precision.__name__)
    def test_masks_are_equal(self, kind, shape, precision):
        """126 maps of each kind, shape and precision (11,340 in all) have exactly scikit-image's masks."""
        generator = np.random.default_rng(SHAPES.index(shape))
        maps = kind(generator, (126, *shape)).astype(precision)
        usable = maps.max((1, 2)) > maps.min((1, 2))
        exact = maps[usable].astype(np.float32)
        expected = [threshold_otsu(one) for one in exact]

        assert np.array_equal(exact > np.array(expected)[:, None, None], our_masks(maps)[usable])
        assert expected == otsu(torch.from_numpy(maps[usable])).tolist()
        assert not our_masks(maps)[~usable].any()

    @pytest.mark.parametrize("shape", [(7, 7), (28, 28)], ids=str)
    def test_float64_masks_are_equal(self, shape):
        """Double precision is kept, and gives scikit-image's masks too."""
        maps = np.random.default_rng(3).normal(size=(200, *shape))
        thresholds = otsu(torch.from_numpy(maps)).numpy()

        assert thresholds.dtype == np.float64
        assert [threshold_otsu(one) for one in maps] == thresholds.tolist()

    @settings(deadline=None, max_examples=150)
    @given(arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
    def test_any_map_that_it_can_bin(self, one):
        """Whatever the values, the threshold is scikit-image's wherever scikit-image has one."""
        width = float(one.max()) - float(one.min())
        assume(width > 1e-15)
        try:
            expected = threshold_otsu(one)
        except ValueError:  # "cannot create 256 finite-sized bins": those are tested below
            reject()

        assert expected == otsu(torch.from_numpy(one)).item()

    @pytest.mark.parametrize("repeats", [1, 8])
    def test_ties(self, repeats):
        """Of two splits that are equally good but for rounding, scikit-image's is chosen."""
        generator = np.random.default_rng(repeats)
        # Mirror images around the border between bins 127 and 128: cutting off either end is as good
        levels = np.repeat([0, 127.5 / 256, 128.5 / 256, 1], np.array([2, 20, 20, 2]) * repeats)
        offset, scale = generator.uniform(-3, 0, size=(1000, 1)), generator.uniform(0.1, 3, size=(1000, 1))
        maps = (offset + scale * levels).astype(np.float32).reshape(1000, 4, -1)

        assert [threshold_otsu(one) for one in maps] == otsu(torch.from_numpy(maps)).tolist()

    @pytest.mark.parametrize("side", [8, 18])
    def test_ranges_near_the_narrowest(self, side):
        """Ranges of a few hundred steps of float32, where bin edges round visibly, give its thresholds."""
        generator = np.random.default_rng(side)
        expected, maps = [], []
        for steps in np.repeat(np.arange(256, 1200, 2), 2):
            low = np.float32(generator.uniform(1, 2))
            levels = generator.integers(0, steps, size=(side, side), endpoint=True)
            one = low + levels.astype(np.float32) * np.float32(2**-23)
            try:
                expected.append(threshold_otsu(one))
            except ValueError:  # "cannot create 256 finite-sized bins"
                continue
            maps.append(one)

        assert len(maps) > 700
        assert np.array_equal(expected, otsu(torch.from_numpy(np.stack(maps))).numpy())

    @pytest.mark.parametrize("shape", [(60, 70), (300, 301), (370, 360)], ids=str)
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
    def test_masks_of_large_maps_are_equal(self, kind, shape):
        """Maps of which some, or one, or less than one fills a block have exactly scikit-image's masks."""
        maps = kind(np.random.default_rng(shape[0]), (5, *shape)).astype(np.float32)
        expected = [threshold_otsu(one) for one in maps]

        assert expected == otsu(torch.from_numpy(maps)).tolist()
        assert np.array_equal(maps > np.array(expected)[:, None, None], our_masks(maps))

    def test_resized_maps_are_equal(self):
        """Rectified maps that were resized, as for the screen, have exactly scikit-image's thresholds."""
        maps = torch.randn(1, 12, 14, 14, generator=torch.Generator().manual_seed(0)).relu()
        resized = torch.nn.functional.interpolate(maps, size=(224, 200), mode="bilinear")[0]

        assert [threshold_otsu(one) for one in resized.numpy()] == otsu(resized).tolist()

    @pytest.mark.parametrize(("maps", "side"), [(3000, 20), (60, 90), (20, 500)])
    def test_more_maps_than_one_block(self, maps, side):
        """Maps beyond the first block are treated alike, whatever stands before them."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(maps, side, side, generator=generator)
        values[1] = 3.0
        values[-2] *= 1e-30

        found = otsu(values)

        assert torch.equal(found[2:], torch.cat([otsu(values[2:3]), otsu(values[3:])]))
        assert found.isnan().nonzero().tolist() == [[1]]
        assert found[-2] == pytest.approx(threshold_otsu(values[-2].numpy() * 1e30) * 1e-30, rel=0.02)


class TestByTheBook:
    @pytest.mark.parametrize("shape", [(6, 6), (15, 15)], ids=str)
    def test_threshold_is_the_formula(self, shape):
        """The threshold is the book's, computed in double precision without any library."""
        maps = np.random.default_rng(1).normal(size=(12, *shape)).round(2)
        ours = otsu(torch.from_numpy(maps))

        assert [otsu_by_the_book(one.ravel().tolist()) for one in maps] == pytest.approx(ours.tolist())

    def test_finds_the_planted_half(self):
        """Two well separated levels with noise are split between them, but for pixels in the border's bin."""
        generator = torch.Generator().manual_seed(2)
        planted = torch.rand(50, 14, 14, generator=generator) < 0.3
        maps = planted * 1.0 + 0.1 * torch.randn(50, 14, 14, generator=generator)

        assert (binarize(maps, otsu(maps)) == planted).float().mean() > 0.99

    def test_drowns_in_noise(self):
        """Noise as large as the step between the levels hides most of the planted half."""
        generator = torch.Generator().manual_seed(2)
        planted = torch.rand(50, 14, 14, generator=generator) < 0.3
        maps = planted * 1.0 + 3.0 * torch.randn(50, 14, 14, generator=generator)
        agreement = (binarize(maps, otsu(maps)) == planted).float().mean()

        assert 0.45 < agreement < 0.7

    def test_splits_where_there_is_nothing(self):
        """A single Gaussian is cut near its middle: Otsu always splits, as its docstring warns."""
        maps = torch.randn(200, 28, 28, generator=torch.Generator().manual_seed(0))

        assert binarize(maps, otsu(maps)).float().mean().item() == pytest.approx(0.5, abs=0.03)


class TestInvariance:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(-95, 120), st.sampled_from([(7, 7), (16, 16)]))
    def test_powers_of_two_change_nothing(self, exponent, shape):
        """A map times 2^k has its threshold times 2^k, far into the range where squares leave float32."""
        maps = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))

        assert torch.equal(otsu(maps) * 2.0**exponent, otsu(maps * 2.0**exponent))

    def test_leading_dimensions_and_layout(self):
        """Any leading dimensions do, and channels_last memory gives the same."""
        maps = torch.randn(2, 6, 9, 5, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([torch.stack([otsu(one) for one in image]) for image in maps])

        assert torch.equal(expected, otsu(maps))
        assert torch.equal(expected, otsu(maps.to(memory_format=torch.channels_last)))
        assert otsu(maps[0, 0]).shape == ()

    def test_rows_and_columns_are_pixels(self):
        """The threshold depends on the values only, not on where they lie."""
        maps = torch.randn(20, 4, 9, generator=torch.Generator().manual_seed(0))

        assert torch.equal(otsu(maps), otsu(maps.mT))

    def test_leaves_the_maps_alone(self):
        """The maps are as before, and the threshold carries no gradient."""
        maps = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        before = maps.detach().clone()

        assert not otsu(maps).requires_grad
        assert torch.equal(before, maps.detach())


class TestDegenerate:
    @pytest.mark.parametrize("shape", [(3, 3), (20, 20)], ids=str)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite(self, value, shape):
        """One such value makes its own map undefined and no other."""
        maps = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        expected = otsu(maps)
        expected[1] = torch.nan
        maps[1, 2, 1] = value

        assert torch.equal(expected.isnan(), otsu(maps).isnan())
        assert torch.equal(expected.nan_to_num(), otsu(maps).nan_to_num())
        assert not binarize(maps, otsu(maps))[1].any()

    @pytest.mark.parametrize("shape", [(3, 3), (20, 20)], ids=str)
    @pytest.mark.parametrize("value", [0.0, -2.5, 3e38])
    def test_a_constant(self, value, shape):
        """A constant map has no threshold and an empty mask, wherever it stands."""
        maps = torch.full((2, *shape), value)

        assert otsu(maps).isnan().all()
        assert not binarize(maps, otsu(maps)).any()

    @pytest.mark.parametrize("shape", [(0, 2, 5, 5), (2, 0, 5, 5)], ids=str)
    def test_no_maps(self, shape):
        """No maps have no thresholds."""
        assert otsu(torch.zeros(shape)).shape == shape[:2]

    def test_no_pixels(self):
        """A map without pixels has no threshold."""
        assert otsu(torch.zeros(2, 0, 3)).isnan().tolist() == [True, True]

    @pytest.mark.parametrize(
        ("low", "high"),
        [
            (-3.4e38, 3.4e38),
            (0.0, 3e38),
            (1e30, 2e30),
            (0.0, 1.4e-45),
            (-1.4e-45, 1.4e-45),
            (1e-40, 3e-40),
            (1.0, 1.0 + 2**-23),
            (-(2.0**24), -(2.0**24) + 1),
            (3e38, 3e38 * (1 + 2**-20)),
        ],
    )
    @pytest.mark.parametrize("side", [4, 20])
    def test_two_levels_are_split_at_any_range(self, low, high, side):
        """Two levels are told apart, be their distance huge, denormal, or one step of float32."""
        upper = torch.rand(5, side, side, generator=torch.Generator().manual_seed(1)) < 0.4
        maps = torch.where(upper, torch.tensor(high), torch.tensor(low))
        thresholds = otsu(maps)

        assert torch.isfinite(thresholds).all()
        assert torch.equal(upper, binarize(maps, thresholds))

    @pytest.mark.parametrize("side", [6, 20])
    def test_too_narrow_for_bins(self, side):
        """A map of fewer steps than bins has the mask of the same map moved to zero."""
        levels = torch.randint(0, 200, (60, side, side), generator=torch.Generator().manual_seed(0)).float()
        maps = 1 + levels * 2**-23
        expected = [one > threshold_otsu(one) for one in levels.numpy()]

        assert np.array_equal(np.stack(expected), binarize(maps, otsu(maps)).numpy())

    @pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
    def test_half_precision_is_compared_in_full(self, precision):
        """A half-precision map is thresholded as its float32 copy, also as a single map."""
        maps = torch.randn(6, 7, 7, generator=torch.Generator().manual_seed(0)).to(precision)
        expected = binarize(maps.float(), otsu(maps.float()))

        assert torch.equal(expected, binarize(maps, otsu(maps)))
        assert torch.equal(expected[0], binarize(maps[0], otsu(maps[0])))

    def test_refuses_what_is_no_map(self):
        """Whole numbers and single rows are programming mistakes, named as such."""
        with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
            otsu(torch.zeros(3, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"\(\.\.\., row, column\), got the shape \(4,\)"):
            otsu(torch.zeros(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_on_cuda(shape):
    """A GPU gives the very same thresholds."""
    maps = torch.randn(500, *shape, generator=torch.Generator().manual_seed(0))

    assert torch.equal(otsu(maps), otsu(maps.cuda()).cpu())
