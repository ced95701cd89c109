"""Flips and colour jitter: what they keep, what they change, and that a seed decides."""

import colorsys

import pytest
import torch
from wsss_probe_localizers.augmentation import Augmentation, augment, flip, jitter

from wsss_probe.errors import UsageError

LUMA = torch.tensor([0.299, 0.587, 0.114])


def images(count=6, seed=3):
    """Pale random images, so that nothing is clipped."""
    return torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.4


def drawn(seed=0):
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def only(**strengths):
    """Jitter without flips."""
    return Augmentation(horizontal=False, vertical=False, **strengths)


def jitter_by_the_book(image, brightness, contrast, saturation):
    """Brightness, saturation towards luma, contrast about the mean, pixel by pixel in loops."""
    channels, rows, columns = image.shape
    changed = torch.zeros_like(image)
    for row in range(rows):
        for column in range(columns):
            colour = image[:, row, column] * brightness
            luma = sum(float(weight * value) for weight, value in zip(LUMA, colour, strict=True))
            for channel in range(channels):
                changed[channel, row, column] = luma + saturation * (colour[channel] - luma)
    mean = changed.mean()
    return (mean + contrast * (changed - mean)).clamp(0, 1)


def test_jitter_equals_the_book():
    """One colour matrix per image equals the three changes one after another."""
    strengths = only(brightness=0.3, contrast=0.4, saturation=0.5)
    draws = torch.rand(6, 4, generator=drawn()) * 2 - 1

    changed = jitter(images(), strengths, drawn())

    for image, result, draw in zip(images(), changed, draws, strict=True):
        expected = jitter_by_the_book(image, 1 + 0.3 * draw[0], 1 + 0.4 * draw[1], 1 + 0.5 * draw[2])
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_flips_move_whole_axes():
    """An image is either as it was or mirrored along the asked axis, about half of them."""
    batch = images(200)

    for axis in (-1, -2):
        flipped = flip(batch, axis, drawn())
        mirrored = [torch.equal(one, other.flip(axis)) for one, other in zip(flipped, batch, strict=True)]
        same = [torch.equal(one, other) for one, other in zip(flipped, batch, strict=True)]
        assert all(one != other for one, other in zip(mirrored, same, strict=True))
        assert 70 < sum(mirrored) < 130


def test_horizontal_flips_leave_rows_in_place():
    """Left-right flips exchange columns, never rows."""
    batch = torch.zeros(50, 3, 4, 5)
    batch[:, :, 0, 0] = 1

    flipped = augment(batch, Augmentation(vertical=False), drawn())

    assert bool((flipped[:, :, 1:] == 0).all())
    assert 0 < int(flipped[:, 0, 0, 4].sum()) < 50


def test_hue_keeps_luma_and_turns_colour():
    """Turning the hue keeps the luma and changes the colour; half a turn is the complement."""
    batch = images()

    turned = jitter(batch, only(hue=0.1), drawn())

    luma = [torch.einsum("c,ncij->nij", LUMA, one) for one in (batch, turned)]
    torch.testing.assert_close(luma[1], luma[0], atol=2e-3, rtol=0)
    assert float((turned - batch).abs().max()) > 0.005
    red = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(1, 3, 2, 2)
    hues = [
        colorsys.rgb_to_hsv(*jitter(red, only(hue=0.5), drawn(seed))[0, :, 0, 0].tolist())[0]
        for seed in range(40)
    ]
    assert any(0.35 < hue < 0.65 for hue in hues)


def test_saturation_of_zero_is_grey():
    """The strongest loss of saturation leaves equal channels."""
    changed = jitter(images(200), only(saturation=1.0), drawn())
    draws = torch.rand(200, 4, generator=drawn())[:, 2] * 2 - 1
    palest = int(draws.argmin())

    spread = changed[palest].amax(0) - changed[palest].amin(0)
    assert float(spread.max()) < 0.01


def test_nothing_asked_nothing_changed():
    """Without flips and jitter a batch stays as it is, and the generator is not used."""
    generator = drawn()
    before = generator.get_state()
    batch = images()

    assert augment(batch, only(), generator) is batch
    assert torch.equal(before, generator.get_state())


def test_a_seed_decides_and_the_argument_stays():
    """The same generator state gives the same batch; the batch handed in is not written to."""
    batch, kept = images(), images()
    everything = Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)

    first, second, third = (augment(batch, everything, drawn(seed)) for seed in (1, 1, 2))

    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(batch, kept)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


@pytest.mark.parametrize("wrong", [{"hue": 0.6}, {"contrast": -0.1}, {"brightness": 2.0}])
def test_impossible_strengths_are_refused(wrong):
    """A strength outside its range is named."""
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is out of range"):
        Augmentation(**wrong)
