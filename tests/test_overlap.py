"""Overlap counts, F1 and IoU: by the book, at the edges, and for masks of chance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score

from wsss_probe.overlap import (
    BACKGROUND,
    IGNORED,
    Counts,
    coverage,
    f1,
    iou,
    majority_mask,
    overlap_counts,
    pooled,
)


def counts_by_the_book(predicted, mask, wanted):
    """Count pixel by pixel; loops only."""
    tp = fp = fn = 0
    for said_row, true_row in zip(predicted.tolist(), mask.tolist(), strict=True):
        for said, true in zip(said_row, true_row, strict=True):
            if true == -1:
                continue
            tp += said and true == wanted
            fp += said and true != wanted
            fn += (not said) and true == wanted
    return tp, fp, fn


def majority_by_the_book(mask, size, classes):
    """Area of every value in every cell; loops only, cells that divide the mask."""
    height, width = len(mask) // size[0], len(mask[0]) // size[1]
    result = []
    for row in range(size[0]):
        result.append([])
        for column in range(size[1]):
            cell = [mask[row * height + i][column * width + j] for i in range(height) for j in range(width)]
            ranked = sorted([*range(classes), -2], key=lambda value: -cell.count(value))
            result[-1].append(-1 if 2 * cell.count(-1) > len(cell) else ranked[0])
    return result


def random_case(seed, *, images=3, channels=4, size=(6, 9), classes=2):
    """Predictions and masks with every kind of mask value."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.rand(images, channels, *size, generator=generator) < 0.4
    masks = torch.randint(-2, classes, (images, *size), generator=generator)
    return predicted, masks


def one_map(predicted, mask, classes=1):
    """Counts of a single map, given as nested lists."""
    return overlap_counts(torch.tensor([[predicted]], dtype=torch.bool), torch.tensor([mask]), classes)


class TestCounts:
    @pytest.mark.parametrize("seed", range(4))
    def test_counts_are_the_book_s(self, seed):
        """Every map and class is counted as pixel by pixel."""
        predicted, masks = random_case(seed)
        counts = overlap_counts(predicted, masks, 2)

        assert counts.tp.shape == counts.fp.shape == counts.fn.shape == (3, 4, 2)
        for image in range(3):
            for channel in range(4):
                for wanted in range(2):
                    at = (image, channel, wanted)
                    expected = counts_by_the_book(predicted[image, channel], masks[image], wanted)
                    assert expected == (counts.tp[at], counts.fp[at], counts.fn[at])

    def test_background_counts_and_ignored_does_not(self):
        """A prediction on background is wrong, one on an ignored pixel is nothing."""
        counts = one_map([[1, 1, 1, 0]], [[0, BACKGROUND, IGNORED, IGNORED]])

        assert (counts.tp.item(), counts.fp.item(), counts.fn.item()) == (1, 1, 0)

    def test_without_masks_nothing_is_known(self):
        """No masks, or masks ignored everywhere, give no counts and no score."""
        predicted, masks = random_case(0)

        for unknown in (None, torch.full_like(masks, IGNORED)):
            counts = overlap_counts(predicted, unknown, 2)
            assert not counts.tp.any()
            assert not counts.fp.any()
            assert not counts.fn.any()
            assert f1(counts).isnan().all()

    def test_no_mask_classes(self):
        """Without classes there are no entries along the class dimension."""
        predicted, masks = random_case(0)

        assert overlap_counts(predicted, masks.clamp(max=-1), 0).tp.shape == (3, 4, 0)

    def test_large_maps_are_counted_exactly(self):
        """Beyond what float32 counts exactly the sums are made in float64."""
        side = 4100  # 16,810,000 pixels, above 2^24
        predicted = torch.ones(1, 1, side, side, dtype=torch.bool)
        predicted[0, 0, 0, 0] = False
        masks = torch.zeros(1, side, side, dtype=torch.int8)

        assert overlap_counts(predicted, masks, 1).tp.item() == side**2 - 1

    def test_grids_must_agree(self):
        """Masks on another grid are refused with both shapes."""
        predicted, masks = random_case(0)

        with pytest.raises(ValueError, match=r"\(3, 9, 6\), wanted .*\(3, 6, 9\)"):
            overlap_counts(predicted, masks.mT, 2)

    def test_counts_are_frozen(self):
        """Counts cannot be changed once made."""
        with pytest.raises(AttributeError):
            one_map([[1]], [[0]]).tp = torch.zeros(1)


class TestScores:
    @pytest.mark.parametrize("seed", range(3))
    def test_equal_scikit_learn(self, seed):
        """F1 and IoU of each map are scikit-learn's."""
        predicted, masks = random_case(seed, channels=2)
        counts = overlap_counts(predicted, masks, 2)
        for image, channel, wanted in [(0, 0, 0), (1, 1, 1), (2, 0, 1)]:
            known = masks[image] != IGNORED
            truth, said = (masks[image] == wanted)[known], predicted[image, channel][known]

            assert f1_score(truth, said) == pytest.approx(f1(counts)[image, channel, wanted].item())
            assert jaccard_score(truth, said) == pytest.approx(iou(counts)[image, channel, wanted].item())

    @settings(deadline=None, max_examples=100)
    @given(st.tuples(*[st.integers(0, 10**9)] * 3).filter(any))
    def test_f1_is_dice_of_iou(self, numbers):
        """F1 = 2 IoU / (1 + IoU), it is symmetric in truth and prediction, and both lie in [0, 1]."""
        counts = Counts(*(torch.tensor(number) for number in numbers))
        swapped = Counts(counts.tp, counts.fn, counts.fp)

        assert f1(counts).item() == pytest.approx((2 * iou(counts) / (1 + iou(counts))).item())
        assert torch.equal(f1(counts), f1(swapped))
        assert torch.equal(iou(counts), iou(swapped))
        assert 0 <= iou(counts) <= f1(counts) <= 1

    def test_of_itself_is_one(self):
        """A mask meets itself fully."""
        counts = one_map([[1, 1, 0]], [[0, 0, BACKGROUND]])

        assert f1(counts).item() == iou(counts).item() == 1

    @pytest.mark.parametrize(
        ("predicted", "mask", "score"),
        [
            ([[0, 0]], [[-2, -2]], math.nan),
            ([[1, 0]], [[-2, -2]], 0.0),
            ([[0, 0]], [[0, -2]], 0.0),
            ([[1, 1]], [[0, 0]], 1.0),
            ([[1, 1]], [[-1, -1]], math.nan),
        ],
        ids=["both empty", "class absent", "nothing predicted", "all of it", "all ignored"],
    )
    def test_edges(self, predicted, mask, score):
        """Empty against empty is undefined; something against nothing is 0."""
        counts = one_map(predicted, mask)

        assert f1(counts).item() == pytest.approx(score, nan_ok=True)
        assert iou(counts).item() == pytest.approx(score, nan_ok=True)

    def test_three_fifths_is_not_above_its_decimal(self):
        """A score of exactly 3/5 does not pass a strict cut at 0.6, also outside torch."""
        score = f1(Counts(torch.tensor(3), torch.tensor(2), torch.tensor(2)))

        assert not score.item() > 0.6

    @pytest.mark.parametrize(("p", "q"), [(0.1, 0.2), (0.3, 0.7), (0.5, 0.5)])
    def test_chance(self, p, q):
        """Independent masks of coverage p and q meet with F1 2pq / (p + q)."""
        generator = torch.Generator().manual_seed(0)
        predicted = torch.rand(200, 1, 40, 40, generator=generator) < p
        masks = torch.where(torch.rand(200, 40, 40, generator=generator) < q, 0, BACKGROUND)
        scores = f1(overlap_counts(predicted, masks, 1))

        assert scores.mean().item() == pytest.approx(2 * p * q / (p + q), abs=0.004)

    def test_planted_channel_stands_out_until_noise_hides_it(self):
        """A channel that is the mask scores 1; with half its pixels redrawn it falls, with all to chance."""
        generator = torch.Generator().manual_seed(1)
        masks = torch.where(torch.rand(30, 20, 20, generator=generator) < 0.3, 0, BACKGROUND)
        noise = torch.rand(30, 3, 20, 20, generator=generator) < 0.3
        redrawn = torch.rand(30, 1, 20, 20, generator=generator) < torch.tensor([0, 0.5, 1])[:, None, None]
        predicted = torch.where(redrawn, noise, (masks == 0)[:, None])
        exact, half, none = f1(pooled(overlap_counts(predicted, masks, 1)))[:, 0].tolist()

        assert exact == 1
        assert half == pytest.approx(0.65, abs=0.03)
        assert none == pytest.approx(0.30, abs=0.03)

    def test_pooled_weighs_pixels(self):
        """Pooling adds counts first, so a large object outweighs a small one."""
        counts = Counts(
            torch.tensor([[[8]], [[0]]]), torch.tensor([[[0]], [[1]]]), torch.tensor([[[0]], [[1]]])
        )

        assert f1(pooled(counts)).item() == pytest.approx(16 / 18)
        assert f1(counts).mean().item() == pytest.approx(0.5)


class TestMajority:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 10**6), st.sampled_from([(1, 1), (2, 3), (4, 6), (8, 12)]))
    def test_cells_are_the_book_s(self, seed, size):
        """Each cell has the value with the largest area, as counted pixel by pixel."""
        _, masks = random_case(seed, images=1, size=(8, 12), classes=3)

        assert majority_by_the_book(masks[0].tolist(), size, 3) == majority_mask(masks, size, 3)[0].tolist()

    @pytest.mark.parametrize(
        ("cell", "value"),
        [
            ([1, 1, 0, 0], 0),
            ([0, 0, -2, -2], 0),
            ([0, -2, -2, -2], -2),
            ([1, -1, -1, -2], 1),
            ([1, -1, -1, -1], -1),
            ([-1, -1, -1, -1], -1),
        ],
    )
    def test_ties_and_ignored_pixels(self, cell, value):
        """Ties go to the lower class and to a class; half ignored is judged by the rest, more is ignored."""
        mask = torch.tensor(cell).reshape(1, 2, 2)

        assert majority_mask(mask, (1, 1), 2).item() == value

    def test_rows_are_rows(self):
        """Row and column keep their places, also where the sizes do not divide."""
        mask = torch.full((1, 7, 10), BACKGROUND)
        mask[0, :2, :] = 1

        assert majority_mask(mask, (3, 5), 2)[0].tolist() == [[1] * 5, [BACKGROUND] * 5, [BACKGROUND] * 5]

    def test_the_same_grid_changes_nothing(self):
        """On its own grid a mask stays as it is, and on a finer one pixels repeat."""
        _, masks = random_case(5)

        assert torch.equal(masks, majority_mask(masks, (6, 9), 2))
        assert torch.equal(masks.repeat_interleave(2, 1), majority_mask(masks, (12, 9), 2))


class TestCoverage:
    def test_shares_of_known_pixels(self):
        """Each class's share is of the pixels that are known; no known pixel, no share."""
        masks = torch.tensor([[[0, 1], [1, -2]], [[0, -1], [-1, -1]], [[-1, -1], [-1, -1]]])

        expected = [[0.25, 0.5], [1.0, 0.0], [math.nan, math.nan]]
        assert torch.allclose(
            torch.tensor(expected, dtype=torch.float64), coverage(masks, 2), rtol=0, equal_nan=True
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_equal_on_cuda():
    """A GPU counts the same."""
    predicted, masks = random_case(0)
    here, there = overlap_counts(predicted, masks, 2), overlap_counts(predicted.cuda(), masks.cuda(), 2)

    assert all(torch.equal(getattr(here, name), getattr(there, name).cpu()) for name in ("tp", "fp", "fn"))
    assert torch.equal(majority_mask(masks, (2, 3), 2), majority_mask(masks.cuda(), (2, 3), 2).cpu())
