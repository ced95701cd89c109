"""The baseline without a network: Otsu on the input itself, either side."""

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from wsss_probe_channels.regions import regions_of
from wsss_probe_channels.screening.intensity import intensity_f1, rule_names

GLAND = regions_of(("gland",), "none")


def by_the_book(image, mask, side):
    """F1 of one channel's Otsu mask with class 0, by loops; -1 is ignored."""
    threshold = threshold_otsu(side * image)
    hits = misses = false = 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if mask[row, column] == -1:
                continue
            said, true = side * image[row, column] > threshold, mask[row, column] == 0
            hits += said and true
            false += said and not true
            misses += true and not said
    return 2 * hits / (2 * hits + false + misses)


def scene(noise, seed=0):
    """A bright square of class 0 in the second input channel, with an ignored border row."""
    random = np.random.default_rng(seed)
    image = random.normal(0, noise, (3, 16, 16)).astype(np.float32)
    mask = np.full((16, 16), -2)
    mask[4:10, 5:12] = 0
    image[1, 4:10, 5:12] += 1
    mask[0] = -1
    return image, mask


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_reference(seed):
    """Every rule's F1 equals the one computed pixel by pixel."""
    image, mask = scene(0.3, seed)
    found = intensity_f1(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], GLAND, (16, 16))
    expected = [by_the_book(image[c], mask, side) for side in (-1, 1) for c in range(3)]

    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-6)


def test_the_colour_that_is_the_object_wins():
    """The rule on the planted channel's bright side is best, and its name says so."""
    image, mask = scene(0.1)
    found = intensity_f1(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], GLAND, (16, 16))

    assert rule_names(3)[int(found[0, :, 0].argmax())] == "bright input 1"
    assert found.max() > 0.95


def test_it_fails_when_noise_hides_the_object():
    """With noise five times the contrast no rule outlines the object any more."""
    image, mask = scene(5)
    found = intensity_f1(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], GLAND, (16, 16))

    assert found.max() < 0.5


def test_preprocessing_does_not_matter():
    """An affine preprocessing with a positive factor changes no score."""
    image, mask = (torch.from_numpy(part)[None] for part in scene(0.3))

    torch.testing.assert_close(
        intensity_f1(image, mask, GLAND, (8, 8)), intensity_f1(4 * image + 1, mask, GLAND, (8, 8))
    )


def test_constant_input_is_undefined():
    """A constant input channel has no rule: NaN, not 0."""
    mask = torch.from_numpy(scene(0.1)[1])[None]

    assert intensity_f1(torch.zeros(1, 3, 16, 16), mask, GLAND, (4, 4)).isnan().all()
