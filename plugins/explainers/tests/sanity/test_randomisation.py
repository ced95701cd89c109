"""Forgetting: which layers, in which order, and that the network stays alive."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from wsss_probe_explainers.sanity.randomisation import forget, groups_from_top, parametrised, stages


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them; one never runs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(3, 3)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.free = nn.Parameter(torch.arange(4.0))

    def forward(self, images):
        """Give logits (image, class)."""
        maps = self.norm(self.second(self.first(images).relu())).relu()
        return self.head(maps.mean((2, 3)) + self.free)


def images(count=6, seed=0):
    """Noise."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def deep(depth=30):
    """Build a deep network without normalisation."""
    torch.manual_seed(0)
    parts = []
    for at in range(depth):
        layer = nn.Conv2d(3 if at == 0 else 8, 8, 3, padding=1)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_modules_stand_in_the_order_in_which_they_run():
    """Not in that of their registration; what never runs is left out; the root is the last to end."""
    assert parametrised(Backwards().eval(), images(1)) == ("first", "second", "norm", "head", "")


def test_no_hook_is_left():
    """Listing modules and forgetting take their hooks off again."""
    net = Backwards().eval()

    forget(net, parametrised(net, images(1)), [images()], 0)

    assert not any(part._forward_hooks for part in net.modules())
    assert not any(part.training for part in net.modules())


@given(count=st.integers(0, 30), most=st.integers(1, 9))
def test_groups_part_the_modules_from_the_top(count, most):
    """Every module once, the last that ran first and alone, at most so many groups, evenly filled."""
    names = [str(number) for number in range(count)]

    found = groups_from_top(names, most)

    assert [name for group in found for name in group] == names[::-1]
    assert len(found) <= most
    assert all(found)
    if most > 1 and count > 1:
        assert found[0] == (names[-1],)
        sizes = [len(group) for group in found[1:]]
        assert max(sizes) - min(sizes) <= 1


def test_the_cascade_adds_groups_and_each_stands_alone_after():
    """Depth n forgets the n highest groups; alone, one group; the first alone is not done twice."""
    found = stages((("c",), ("b",), ("a",)))

    assert [(s.order, s.depth, s.modules) for s in found] == [
        ("cascading", 1, ("c",)),
        ("cascading", 2, ("c", "b")),
        ("cascading", 3, ("c", "b", "a")),
        ("independent", 2, ("b",)),
        ("independent", 3, ("a",)),
    ]


def test_only_what_is_named_is_forgotten():
    """All tensors of the named modules change, no other parameter or buffer does."""
    net = Backwards().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    forget(net, ["second", "norm", ""], [images()], 0)

    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert changed == {"second.weight", "second.bias", "free"} | statistics


def test_a_parameter_without_a_reset_is_permuted():
    """The values stay, their places change."""
    net = Backwards().eval()
    net.free = nn.Parameter(torch.arange(4.0))

    forget(net, [""], [images()], 1)

    assert sorted(net.free.tolist()) == [0, 1, 2, 3]
    assert net.free.tolist() != [0, 1, 2, 3]


def test_the_same_seed_forgets_alike_and_leaves_the_random_state():
    """A draw depends on the seed only, and nobody else's numbers change."""
    first = Backwards().eval()
    again, other = copy.deepcopy(first), copy.deepcopy(first)
    state = torch.get_rng_state()

    for net, seed in ((first, 3), (again, 3), (other, 4)):
        forget(net, ["first"], [images()], seed)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.first.weight, again.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


@pytest.mark.parametrize("build", [deep, lambda: Backwards().eval()], ids=["deep", "BatchNorm"])
def test_a_network_that_has_forgotten_everything_still_responds(build):
    """However deep it is, logits still differ between images, about as much as before."""
    net = build()
    with torch.no_grad():
        before = net(images()).std(0).mean()

    forget(net, parametrised(net, images(1)), [images()], 0)

    with torch.no_grad():
        after = net(images()).std(0).mean()
    assert 0.02 * before < after < 50 * before


def test_statistics_are_those_of_all_images():
    """BatchNorm that was drawn again has the mean over all batches, not the last one's."""
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    parts = [images(4, seed) + seed for seed in range(3)]

    forget(net, ["0"], parts, 0)

    torch.testing.assert_close(net[0].running_mean, torch.cat(parts).mean((0, 2, 3)))
    assert net[0].momentum == 0.1
