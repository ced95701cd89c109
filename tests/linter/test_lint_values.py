"""The linter on weights, outputs, channels and inputs: planted trouble in degrees, and none elsewhere."""

import pytest
import torch
from torch import nn
from torch.nn import functional


def test_nonfinite_weights_are_counted(make, linted):
    """A NaN in a weight and an infinity in a buffer: a warning that names both."""
    network = make()
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, :2] = torch.nan
        network.bn2.running_mean[3] = torch.inf
    found = linted(network, audited=["conv1"])["nonfinite-weights"]

    assert found.verdict == "warning"
    assert "conv2.weight (2 values), bn2.running_mean (1 values)" in found.statement
    assert found.effect == 3


def test_statistics_of_initialisation_are_a_warning(make, linted):
    """Buffers that were never loaded: mean 0, variance 1, no batch seen."""
    network = make()
    network.bn2.reset_running_stats()
    found = linted(network)["fresh-statistics"]

    assert found.verdict == "warning"
    assert "1 of 2 normalisations" in found.statement
    assert found.effect == 0.5


def test_statistics_that_were_adapted_are_fine_without_a_count(make, linted):
    """Old checkpoints do not count batches; what counts are the statistics."""
    network = make()
    network.bn1.num_batches_tracked.zero_()
    network.bn2.num_batches_tracked = None

    assert linted(network) == {}


def test_a_normalisation_that_was_folded_is_fine(make, linted):
    """Mean 0 and variance 1 after batches were counted: somebody folded it into the convolution before."""
    network = make()
    network.bn2.reset_running_stats()
    network.bn2.num_batches_tracked += 5

    assert linted(network) == {}


@pytest.mark.parametrize(("share", "found"), [(0.5, False), (0.6, True)])
def test_collapsed_variances(make, linted, share, found):
    """More than half of the running variances below eps are a notice; single dead channels are usual."""
    network = make(channels=10)
    network.bn2.running_var[: int(share * 10)] = 1e-9

    assert ("tiny-variance" in linted(network)) is found


def test_a_negative_variance_is_a_warning(make, linted):
    """No training gives a negative variance."""
    network = make()
    network.bn2.running_var[0] = -1e-3

    assert linted(network, audited=["conv1"])["negative-variance"].verdict == "warning"


# -- outputs -----------------------------------------------------------------------------------


class Ending(nn.Module):
    """A network with a last step."""

    def __init__(self, network, last):
        super().__init__()
        self.network = network
        self.last = last

    def forward(self, images):
        """Whatever the last step gives."""
        return self.last(self.network(images))


@pytest.mark.parametrize(
    ("last", "name", "verdict"),
    [
        (nn.Softmax(dim=1), "probabilities", "warning"),
        (lambda logits: functional.softmax(logits, dim=1), "probabilities", "warning"),
        (lambda logits: logits.softmax(1), "probabilities", "warning"),
        (
            lambda logits: torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True),
            "probabilities",
            "warning",
        ),
        (nn.Sigmoid(), "probabilities", "warning"),
        (lambda logits: logits.sigmoid_(), "probabilities", "warning"),
        (nn.LogSoftmax(dim=1), "log-probabilities", "notice"),
    ],
)
def test_probabilities_at_the_end(make, linted, last, name, verdict):
    """A softmax or sigmoid at the end is found as a module, a function, a method, and by its values."""
    found = linted(Ending(make(), last).eval(), audited=["network.conv2"])

    assert found[name].verdict == verdict
    assert "functional-activations" not in found


@pytest.mark.parametrize(
    "last",
    [
        lambda logits: logits.softmax(1).log() * 2,
        lambda logits: logits * torch.sigmoid(logits),
        lambda logits: logits.clamp(0, 1),
        lambda logits: torch.full_like(logits, 1 / logits.shape[1]),
    ],
)
def test_what_only_looks_like_probabilities(make, linted, last):
    """Gates, values that happen to lie in 0..1, and a constant that adds up to one are no ending."""
    found = linted(Ending(make(), last).eval(), audited=["network.conv2"])

    assert not {"probabilities", "log-probabilities"} & set(found)


# -- channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dead", "verdict"), [(0, None), (1, None), (2, "notice"), (9, "notice"), (10, "warning")]
)
def test_silent_channels_by_share(make, linted, dead, verdict):
    """Up to a tenth is usual, from a half on it is a warning: 1, 2, 9 and 10 of 20."""
    network = make(channels=20)
    with torch.no_grad():
        network.bn2.weight[:dead] = 0
        network.bn2.bias[:dead] = -1
        network.bn2.weight[dead:] = 1
        network.bn2.bias[dead:] = 0.5
    found = linted(network, audited=["relu2"]).get("silent-channels")

    assert (found and found.verdict) == verdict
    if found:
        assert f"{dead} of 20 at relu2" in found.statement
        assert found.effect == pytest.approx(dead / 20)


def test_a_channel_that_only_noise_wakes_is_not_silent(make, images, linted):
    """What is silent on the examples but not on their negatives is no dead channel."""
    network = make(channels=4)
    with torch.no_grad():
        network.conv1.weight.zero_()
        network.conv1.weight[:, 0, 1, 1] = -1
        network.conv1.bias.zero_()
        network.bn1.running_mean.zero_()
        network.bn1.running_var.fill_(1)
    bright = images.abs() + 0.1

    assert not {"silent-channels", "silent-rectifiers"} & set(linted(network, bright, ["relu1"]))


def test_a_constant_channel_is_silent_too(make, linted):
    """A channel that is one value everywhere carries as little as one of zeros."""
    network = make(channels=4)
    with torch.no_grad():
        network.bn2.weight[0] = 0
        network.bn2.bias[0] = 3

    assert "1 of 4 at relu2" in linted(network, audited=["relu2"])["silent-channels"].statement


@pytest.mark.parametrize(("factor", "noise", "found"), [(1, 0, True), (-2.5, 0, True), (2.5, 1e-3, False)])
def test_copies_up_to_a_factor(make, linted, factor, noise, found):
    """A copy of a channel, turned and stretched, is named; one that differs by a thousandth is none."""
    network = make(channels=6)
    with torch.no_grad():
        network.conv2.weight[4] = network.conv2.weight[1] * factor
        network.conv2.bias[4] = network.conv2.bias[1] * factor
        network.conv2.weight[4] += noise * torch.randn(network.conv2.weight[4].shape)
    said = linted(network, audited=["conv2"]).get("copied-channels")

    assert bool(said) is found
    if said:
        assert "1 and 4 at conv2" in said.statement


def test_channels_that_answer_once_are_no_copies(linted):
    """Two channels that answer at one same cell are proportional, and that means nothing."""

    class Spots(nn.Module):
        def __init__(self):
            super().__init__()
            self.spots = nn.Conv2d(3, 3, 1)
            self.head = nn.Linear(3, 2)

        def forward(self, images):
            return self.head(self.spots(images).relu().mean((2, 3)))

    images = torch.zeros(8, 3, 16, 16)
    images[0, :, 3, 3] = torch.tensor([1.0, 2.0, 3.0])
    network = Spots().eval()
    with torch.no_grad():
        network.spots.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        network.spots.bias.zero_()

    assert "copied-channels" not in linted(network, images, ["spots"])


def test_a_rectifier_that_lets_nothing_through_is_a_warning(make, linted):
    """A ReLU behind which everything is zero is named, as a module and as a function."""
    for kind in (make.net, make.functional):
        network = make(kind)
        with torch.no_grad():
            network.bn2.weight.zero_()
            network.bn2.bias.fill_(-1)
        found = linted(network, audited=["conv1"])["silent-rectifiers"]

        assert found.verdict == "warning"
        assert found.effect == pytest.approx(0.5)
        assert ("nothing passes relu2" in found.statement) is (kind is make.net)


# -- inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift", "found"),
    [(1, 0, False), (0.3, 0.5, False), (1, 2, False), (127, 127, True), (1, 5, True), (0.001, 0, True)],
)
def test_input_statistics(make, images, linted, scale, shift, found):
    """Pixels from 0 to 255, a large offset or hardly any spread are noticed; values in 0..1 are usual."""
    assert ("input-statistics" in linted(make(), images * scale + shift)) is found


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1, None), (0.5, None), (2, None), (5, "notice"), (0.2, "notice"), (100, "warning")],
)
def test_the_first_batchnorm_knows_its_training(make, images, linted, factor, verdict):
    """A range that is 5 times off is a notice, 100 times a warning; twice is another data set."""
    found = linted(make(), images * factor).get("first-normalisation")

    assert (found and found.verdict) == verdict


def test_made_up_images_say_nothing_about_data(make, images, linted):
    """Without images nothing is said about inputs, labels and silent channels."""
    network = make()
    with torch.no_grad():
        network.bn2.bias.fill_(-100)
    found = linted(network, images * 127 + 127, made_up=True)

    assert not {"input-statistics", "first-normalisation", "silent-channels", "silent-rectifiers"} & set(
        found
    )
