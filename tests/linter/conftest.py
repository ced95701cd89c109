"""Networks of one kind of trouble each, and a linter that names what it finds."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe.linter import Known, examine


@pytest.fixture
def images():
    """Coloured noise with structure, about 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((16, 3, 4, 4), generator=generator)
    fine = torch.randn((16, 3, 16, 16), generator=generator)
    return nn.functional.interpolate(coarse, size=(16, 16)) * 0.8 + fine * 0.6


@pytest.fixture
def linted(images):
    """Function that gives the suspicions by name."""

    def lint(network, examples=None, audited=None, **known):
        given = images if examples is None else examples
        layers = describe_layers(network, given[:1])
        if audited is None:
            audited = choose_layers(layers).names
        found = examine(network, given, layers, Known(tuple(audited), **known))
        return {suspicion.name: suspicion for diagnosis in found for suspicion in diagnosis.suspicions}

    return lint


class Net(nn.Module):
    """Convolution, BatchNorm and ReLU twice, GAP and a linear layer; healthy."""

    def __init__(self, classes=4, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(channels, classes)

    def maps(self, images):
        """Maps of the last layer."""
        maps = self.relu1(self.bn1(self.conv1(images)))
        return self.relu2(self.bn2(self.conv2(maps)))

    def forward(self, images):
        """Logits."""
        return self.head(self.drop(self.maps(images).mean((2, 3))))


class Reused(Net):
    """One ReLU for both places."""

    def maps(self, images):
        """Maps of the last layer."""
        maps = self.relu1(self.bn1(self.conv1(images)))
        return self.relu1(self.bn2(self.conv2(maps)))


class Functional(Net):
    """ReLUs as functions, one of them as a clamp."""

    def maps(self, images):
        """Maps of the last layer."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        return self.bn2(self.conv2(maps)).clamp(min=0)


class Overwriting(Net):
    """The output of bn2 is overwritten by an in-place ReLU."""

    def maps(self, images):
        """Maps of the last layer."""
        maps = self.relu1(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(maps)), inplace=True)


def seen(network, images, passes=30):
    """Let the normalisations see images, as training does; in eval mode afterwards."""
    network.train()
    with torch.no_grad():
        for _ in range(passes):
            network(images)
    return network.eval()


@pytest.fixture
def make(images):
    """Function that makes one of these networks, its normalisations adapted."""

    def made(kind=Net, seed=0, **options):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return seen(kind(**options), images)

    made.reused, made.functional, made.overwriting, made.net = Reused, Functional, Overwriting, Net
    return made
