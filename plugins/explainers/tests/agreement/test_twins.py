"""Which maps carry one method's name, and how far apart they are after min-max."""

import math

import pytest
import torch
from wsss_probe_explainers.agreement.twins import family, half_overlap, largest_difference, min_max, twins


def slow_stretched(values):
    """From 0 to 1, by the definition."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def test_equal_the_loops():
    """Largest difference and overlap at one half, cell by cell."""
    first, second = (
        torch.rand((5, 4, 6), generator=torch.Generator().manual_seed(s)) * 7 - 3 for s in (0, 1)
    )
    for image in range(5):
        a, b = (slow_stretched(maps[image].flatten().tolist()) for maps in (first, second))
        largest = max(abs(x - y) for x, y in zip(a, b, strict=True))
        both = sum(x >= 0.5 and y >= 0.5 for x, y in zip(a, b, strict=True))
        either = sum(x >= 0.5 or y >= 0.5 for x, y in zip(a, b, strict=True))
        assert largest_difference(first, second)[image].item() == pytest.approx(largest, abs=1e-6)
        assert half_overlap(first, second)[image].item() == pytest.approx(both / either, abs=1e-12)


def test_one_half_counts():
    """A cell at exactly one half is inside."""
    first, second = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[0.0, 2.0, 2.0]]])
    assert half_overlap(first, second).tolist() == [1.0]
    assert largest_difference(first, second).tolist() == [0.5]


@pytest.mark.parametrize("other", [torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan)])
def test_of_nothing_are_undefined(other):
    """Beside a constant or undefined map there is no number."""
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert math.isnan(largest_difference(maps, other).item())
    assert math.isnan(half_overlap(maps, other).item())
    assert min_max(other).isnan().all()


def test_families():
    """A package's name behind -by- is cut off; everything called gradcampp is one family."""
    names = [
        "gradcam",
        "gradcam-by-captum",
        "gradcampp",
        "gradcampp-by-torchcam",
        "gradcampp-monai",
        "xgradcam",
    ]
    assert [family(name) for name in names] == ["gradcam"] * 2 + ["gradcampp"] * 3 + ["xgradcam"]


def test_twins_share_method_and_layer():
    """Pairs of one method at one layer, in order, and no others."""
    maps = [
        ("gradcam", "a"),
        ("gradcam-by-x", "a"),
        ("gradcam-by-x", "b"),
        ("layercam", "a"),
        ("gradcam", "b"),
    ]
    assert twins(maps) == ((0, 1), (2, 4))
