"""The linter on labelled examples: chance is said, a better preprocessing is suspected, luck is not."""

import numpy as np
import pytest
import torch
from torch import nn

from wsss_probe.preprocessing import Preprocessing


class ByColour(nn.Module):
    """Says which of red, green and blue an image has most of, if its values come as it wants them."""

    def __init__(self, scale=1.0, offset=0.0):
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1)
        self.scale, self.offset = scale, offset
        with torch.no_grad():
            self.look.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.look.bias.zero_()

    def forward(self, images):
        """Channel means of what lies in 0..1 after its own scaling; all else counts as nothing."""
        values = self.look(images * self.scale + self.offset)
        inside = (values > -0.01) & (values < 1.01)
        return torch.where(inside, values, 0).mean((2, 3))


def scene(number=30, seed=0, contrast=0.3):
    """Images in 0..1, in turn mostly red, green and blue, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand((number, 3, 8, 8), generator=generator) * 0.4 + 0.1
    labels = np.zeros((number, 3), dtype=bool)
    for index in range(number):
        pixels[index, index % 3] += contrast
        labels[index, index % 3] = True
    return pixels.clamp(0.02, 0.98), labels


unit = Preprocessing.parse("unit")


def test_a_good_network_is_fine(linted):
    """Right on all examples: nothing is said."""
    images, labels = scene()

    assert linted(ByColour(), images, ["look"], labels=labels, preprocessing=unit) == {}


def test_a_reversed_channel_order_is_suspected(linted):
    """Trained on blue, green, red: the same images with channels reversed are right."""
    images, labels = scene()
    found = linted(ByColour(), images.flip(1), ["look"], labels=labels, preprocessing=unit)
    said = found["other-preprocessing"]

    assert said.verdict == "warning"
    assert (
        "30 of 30 labelled examples are right with the channels in the other order, only 10" in said.statement
    )
    assert 'try --preprocess "order=bgr"' in said.remedy
    assert said.effect == pytest.approx(2 / 3)


def test_another_range_is_suspected(linted):
    """A network for pixels from 0 to 255, with images that were normalised."""
    images, labels = scene()
    spec = Preprocessing(mean=(4 / 3,) * 3, std=(1 / 3,) * 3)
    given = images * 3 - 4
    said = linted(ByColour(1 / 255), given, ["look"], labels=labels, preprocessing=spec)

    assert "with values from 0 to 255" in said["other-preprocessing"].statement
    assert 'try --preprocess "scale=1 mean=0 std=1"' in said["other-preprocessing"].remedy


def test_a_range_of_images_in_memory_is_tried_as_well(linted):
    """Without a preprocessing, values from 0 to 255 are read as pixels."""
    images, labels = scene()
    found = linted(ByColour(), images * 255, ["look"], labels=labels)

    assert "with values from 0 to 1" in found["other-preprocessing"].statement


@pytest.mark.parametrize("seed", range(4))
def test_an_untrained_network_is_at_chance_and_nothing_does_better(linted, seed):
    """Nothing to find: at chance, and no preprocessing is suspected for luck."""
    images, labels = scene()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
        network = nn.Sequential(*layers).eval()
    rolled = labels[np.random.default_rng(seed).permutation(len(labels))]
    found = linted(network, images, ["0"], labels=rolled, preprocessing=unit)

    assert "accuracy-at-chance" in found
    assert "other-preprocessing" not in found


def test_few_wrong_ones_suspect_nothing(linted):
    """Where nearly all are right, no other preprocessing could be shown to be better, so none is tried."""
    images, labels = scene()
    labels[:4] = np.roll(labels[:4], 1, axis=1)

    assert "other-preprocessing" not in linted(
        ByColour(), images, ["look"], labels=labels, preprocessing=unit
    )


@pytest.mark.parametrize(("wrong", "verdict"), [(0, None), (10, None), (18, "notice"), (24, "warning")])
def test_accuracy_at_chance_in_degrees(linted, wrong, verdict):
    """Of 30 examples of three classes: 20 right are above chance, 12 perhaps, 6 are not."""
    images, labels = scene()
    labels[:wrong] = np.roll(labels[:wrong], 1, axis=1)
    found = linted(ByColour(), images, ["look"], labels=labels, preprocessing=unit).get("accuracy-at-chance")

    assert (found and found.verdict) == verdict
    if found:
        assert found.interval[0] < found.effect < found.interval[1]
        assert (found.n, found.control) == (30, "chance 0.33")


def test_one_image_of_each_group_counts(linted):
    """Thirty tiles of four slides are four examples: too few to say anything."""
    images, labels = scene()
    groups = np.array([f"slide {index % 4}" for index in range(30)])
    wrong = np.roll(labels, 1, axis=1)

    assert linted(ByColour(), images, ["look"], labels=wrong, groups=groups, preprocessing=unit) == {}


def test_a_single_logit_is_right_by_its_sign(linted):
    """One logit: a label is right where the logit is positive; the commonest answer is the chance."""

    class Red(nn.Module):
        def __init__(self):
            super().__init__()
            self.look = ByColour()

        def forward(self, images):
            means = self.look(images)
            return means[:, :1] - means[:, 1:].max(dim=1, keepdim=True).values

    images, labels = scene()
    good = linted(Red(), images, ["look.look"], labels=labels[:, :1], preprocessing=unit)
    bad = linted(Red(), images, ["look.look"], labels=~labels[:, :1], preprocessing=unit)

    assert "accuracy-at-chance" not in good
    assert bad["accuracy-at-chance"].control == "chance 0.67"


def test_several_labels_an_image_are_left_alone(linted):
    """Where an image has several labels, accuracy by the largest logit means nothing."""
    images, labels = scene()
    wrong = np.roll(labels, 1, axis=1)

    assert linted(ByColour(), images, ["look"], labels=wrong, multilabel=True, preprocessing=unit) == {}
