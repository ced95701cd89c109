"""The certificate sees every change, and none where there is none."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsss_probe.certificate import certify, fingerprint
from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe.taps import PassOptions, Resumer, run_pass
from wsss_probe.testing import models


@pytest.fixture
def images():
    """Three small images."""
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def audited(module, images):
    """Do what an audit does to a network."""
    layers = describe_layers(module, images[:1])
    names = choose_layers(layers).names
    chosen = [layer for layer in layers if layer.name in names]
    options = PassOptions({"predicted": names}, lambda logits: {"predicted": logits.argmax(1)})
    captured = run_pass(module, images, chosen, options)
    for layer in chosen:
        Resumer(module, layer, images)(captured.activations[layer.name] * 2)


@settings(deadline=None, max_examples=15)
@given(training=st.lists(st.booleans(), min_size=10, max_size=10), frozen=st.integers(0, 7))
def test_an_audit_leaves_a_network_in_any_state_intact(training, frozen):
    """Whatever parts train and whatever weights are frozen, an audit changes nothing, bit by bit."""
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = models.inplace()
    for part, mode in zip(module.modules(), training, strict=False):
        part.training = mode
    for position, weight in enumerate(module.parameters()):
        weight.requires_grad_(bool(position & frozen))
        weight.grad = torch.ones_like(weight) if position & 1 else None

    with certify(module, images) as certification:
        audited(module, images)

    certificate = certification.certificate
    assert (certificate.intact, certificate.differences) == (True, ())
    assert certificate.logits_equal
    assert certificate.rng_untouched
    assert certificate.probe_images == 2


@pytest.mark.parametrize("build", [models.branched, models.reused, models.planted_gap, models.multi_logit])
def test_an_audit_leaves_every_kind_of_network_intact(build, images):
    """Shortcuts, reused modules and dead channels make no difference to the certificate."""
    module = build().train()

    with certify(module, images) as certification:
        audited(module, images)

    assert certification.certificate.intact
    assert module.training


def weight_moved(module):
    """Add the smallest possible number to one weight."""
    weight = module.classifier.weight
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))


def buffer_moved(module):
    """Change a running mean."""
    module.features[1].running_mean[0] += 1e-3


def mode_changed(module):
    """Put one part into train mode."""
    module.features[4].train()


def flag_changed(module):
    """Freeze one weight."""
    module.classifier.bias.requires_grad_(False)


def gradient_added(module):
    """Leave a gradient behind, of zeros."""
    module.classifier.bias.grad = torch.zeros_like(module.classifier.bias)


def hook_left(module):
    """Leave a hook that does nothing."""
    module.features[0].register_forward_hook(lambda *_: None)


def forward_overridden(module):
    """Leave a forward on the instance that does the same."""
    module.pool.forward = module.pool.forward


CHANGES = [
    (weight_moved, "parameters_sha256 changed"),
    (buffer_moved, "buffers_sha256 changed"),
    (mode_changed, "training changed: features.4"),
    (flag_changed, "requires_grad changed: classifier.bias"),
    (gradient_added, "gradients changed: classifier.bias"),
    (hook_left, "hooks changed: features.0"),
    (forward_overridden, "forwards changed: pool"),
]


@pytest.mark.parametrize(("change", "difference"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_every_change_is_seen(change, difference, images):
    """Each kind of interference is named, and nothing else is."""
    module = models.inplace()

    with certify(module, images) as certification:
        change(module)

    certificate = certification.certificate
    assert not certificate.intact
    assert certificate.differences == (difference,)
    assert certificate.logits_equal or change in (weight_moved, buffer_moved)


def test_a_change_of_many_parts_is_summed_up(images):
    """At most three names are listed."""
    module = models.inplace()

    with certify(module, images) as certification:
        module.train()

    (difference,) = certification.certificate.differences
    assert difference.startswith("training changed: the network, classifier, features and ")
    assert difference.endswith(" more")


def test_hidden_state_shows_in_the_logits(images):
    """State that is no parameter, buffer or flag is found by the logits of the probe batch."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = models.branched(), 1.0

        def forward(self, images):
            return self.inner(images) * self.scale

    module = Hidden()
    with certify(module, images) as certification:
        module.scale = 1 + 1e-6

    certificate = certification.certificate
    assert (certificate.intact, certificate.logits_equal, certificate.differences) == (False, False, ())


def test_nan_logits_equal_themselves(images):
    """A network that yields NaN before and after is intact."""
    module = models.branched()
    with torch.no_grad():
        module.classifier.bias[0] = torch.nan

    with certify(module, images) as certification:
        pass

    assert certification.certificate.intact


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), np.random.rand, random.random])
def test_drawn_random_numbers_are_seen(draw, images):
    """A number drawn inside from torch, numpy or python shows, and says nothing about the network."""
    with certify(models.branched(), images) as certification:
        draw()

    assert not certification.certificate.rng_untouched
    assert certification.certificate.intact


def test_certifying_draws_no_random_number(images):
    """A network that draws in eval mode does not move the user's random state by being certified."""

    class Draws(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) + 0 * torch.rand(1)

    state = torch.get_rng_state()

    with certify(Draws(), images) as certification:
        pass

    assert certification.certificate.rng_untouched
    assert torch.equal(torch.get_rng_state(), state)


def test_the_certificate_comes_also_after_an_exception(images):
    """An exception in the block passes on, and the certificate still tells what was left behind."""
    module = models.inplace()
    holder = []

    def broken():
        with certify(module, images) as certification:
            holder.append(certification)
            hook_left(module)
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        broken()

    assert holder[0].certificate.differences == ("hooks changed: features.0",)


def test_inside_the_block_there_is_no_certificate(images):
    """The certificate cannot be read too early."""
    with (
        certify(models.branched(), images) as certification,
        pytest.raises(RuntimeError, match="only after"),
    ):
        _ = certification.certificate


def test_fingerprints_do_not_depend_on_the_memory_format():
    """The same values in channels_last order have the same hash; other values, types or names have not."""
    module = models.branched()
    first = fingerprint(module).parameters_sha256

    assert fingerprint(models.branched().to(memory_format=torch.channels_last)).parameters_sha256 == first
    assert fingerprint(models.branched().double()).parameters_sha256 != first
    assert fingerprint(nn.Sequential(models.branched())).parameters_sha256 != first
    assert fingerprint(models.branched().bfloat16()).parameters_sha256 != first
