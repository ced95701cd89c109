"""Controls have learned nothing, leave the audited network alone, and are checked for life."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.controls import is_alive, make_control, parse_controls
from wsss_probe.errors import UsageError


def plain():
    """A net without normalisation."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def normalised():
    """A net with batch normalisation whose statistics are far off."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 8, 8))
    net[1].running_mean.fill_(1e3)
    return net.eval()


@pytest.fixture
def batches():
    """Two batches of noise."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((4, 3, 8, 8), generator=generator) for _ in range(2)]


class TestParse:
    def test_numbers_expand(self):
        """A kind with a number stands for that many seeds."""
        assert parse_controls("shuffled:2, reinit") == ("shuffled-0", "shuffled-1", "reinit-0")

    @pytest.mark.parametrize("text", ["none", "", " none "])
    def test_none(self, text):
        """No control can be asked for."""
        assert parse_controls(text) == ()

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("random", "unknown control; found: random"),
            ("shuffled:0", "positive"),
            ("shuffled:x", "positive"),
        ],
    )
    def test_bad_text(self, text, match):
        """An unknown kind or a bad number is one clear line."""
        with pytest.raises(UsageError, match=match):
            parse_controls(text)


@pytest.mark.parametrize("make", [plain, normalised])
@pytest.mark.parametrize("name", ["shuffled-0", "reinit-0"])
class TestMake:
    def test_audited_network_is_untouched(self, make, name, batches):
        """Making a control changes nothing in the audited network."""
        net = make()
        before = fingerprint(net)
        make_control(name, net, batches)

        assert before.differences(fingerprint(net)) == ()

    def test_same_name_same_network(self, make, name, batches):
        """The same name and seed give bit-identical controls."""
        first, second = (make_control(name, make(), batches) for _ in range(2))

        assert fingerprint(first).parameters_sha256 == fingerprint(second).parameters_sha256

    def test_other_number_other_network(self, make, name, batches):
        """Another number gives another network."""
        other = make_control(name.replace("0", "1"), make(), batches)

        weights = fingerprint(make_control(name, make(), batches)).parameters_sha256
        assert weights != fingerprint(other).parameters_sha256

    def test_control_is_in_eval_mode_without_hooks(self, make, name, batches):
        """The control is ready to run: eval mode, no hook left."""
        control = make_control(name, make(), batches)

        assert not any(part.training for part in control.modules())
        assert not any(part._forward_hooks for part in control.modules())

    def test_features_vary_over_images(self, make, name, batches):
        """The control responds to images."""
        control = make_control(name, make(), batches)
        with torch.no_grad():
            features = control[0](torch.cat(batches)).mean(dim=(2, 3))

        assert features.std(dim=0).median() > 1e-3


def test_shuffling_keeps_the_values(batches):
    """Shuffled tensors hold the same values in another order."""
    net = plain()
    control = make_control("shuffled-0", net, batches)
    weight, shuffled = net[0].weight, control[0].weight

    assert not torch.equal(weight, shuffled)
    assert torch.equal(weight.flatten().sort().values, shuffled.flatten().sort().values)


def test_statistics_are_adapted(batches):
    """Normalisation statistics are those of the images, not those of training."""
    control = make_control("shuffled-0", normalised(), batches)
    with torch.no_grad():
        seen = control[0](torch.cat(batches)).mean(dim=(0, 2, 3))

    torch.testing.assert_close(control[1].running_mean, seen, rtol=1e-3, atol=1e-4)


def test_reinitialised_layers_have_unit_variance(batches):
    """Without normalisation each layer is scaled to unit variance on the images."""
    control = make_control("reinit-0", plain(), batches)
    with torch.no_grad():
        first = control[0](batches[0])

    assert abs(float(first.std()) - 1) < 1e-4


class TestAlive:
    @staticmethod
    def pooled(values):
        """Pooled features as the run keeps them."""
        return xr.DataArray(np.asarray(values, dtype=np.float32), dims=("image", "channel"))

    @pytest.mark.parametrize(("share", "alive"), [(0.02, True), (0.009, False), (0.0, False)])
    def test_one_percent_decides(self, share, alive):
        """A control lives if its features vary at least 1 % as much as the audited network's."""
        audited = np.random.default_rng(0).normal(size=(50, 6))

        assert is_alive(self.pooled(share * audited + 3), self.pooled(audited)) is alive

    def test_not_finite_is_dead(self):
        """A control whose features are not finite is dead."""
        audited = np.random.default_rng(0).normal(size=(50, 6))

        assert not is_alive(self.pooled(np.full((50, 6), np.nan)), self.pooled(audited))

    def test_unreadable_images_do_not_count(self):
        """NaN rows of unreadable images do not make a control dead."""
        audited = np.random.default_rng(0).normal(size=(50, 6))
        control = audited.copy()
        control[3] = np.nan

        assert is_alive(self.pooled(control), self.pooled(audited))
