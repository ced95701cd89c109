"""GAP networks: a linear head by recomputation, names, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_localizers.backbones import backbone_features, known_backbones
from wsss_probe_localizers.networks import GapNet, build
from wsss_probe_localizers.vgg import PRESETS, parse_layout, vgg_features

from wsss_probe.errors import ModelError
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers

BACKBONES = (
    "vgg",
    "4,P,8",
    "torchvision/resnet18",
    "torchvision/vgg11_bn",
    "torchvision/mobilenet_v2",
    "timm/resnet10t",
    "timm/mobilenetv3_small_050",
)

SLOW_BACKBONES = (
    "vgg16",
    "torchvision/densenet121",
    "torchvision/efficientnet_b0",
    "torchvision/convnext_tiny",
    "torchvision/inception_v3",
    "torchvision/regnet_y_400mf",
    "torchvision/squeezenet1_1",
    "timm/convnext_atto",
    "timm/densenet121",
)


def head_by_the_book(maps, weight, bias):
    """logit_c = sum_k w_ck mean_p A_k(p) + b_c, in loops (Zhou et al. 2016, eq. 1)."""
    logits = []
    for image in maps.tolist():
        pooled = [sum(map(sum, channel)) / (len(channel) * len(channel[0])) for channel in image]
        rows = zip(weight.tolist(), bias.tolist(), strict=True)
        logits.append([sum(w * a for w, a in zip(row, pooled, strict=True)) + offset for row, offset in rows])
    return torch.tensor(logits)


def check_head(backbone):
    """Recompute the logits of a network from its maps."""
    torch.manual_seed(0)
    network = build({"backbone": backbone, "classes": 3, "width": 1.0}).eval()
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        maps, logits = network.features(images), network(images)
    head = network.classifier
    expected = head_by_the_book(maps.double(), head.weight.detach().double(), head.bias.detach().double())
    torch.testing.assert_close(logits.double(), expected.double(), rtol=1e-4, atol=1e-5)
    assert maps.shape[2] > 1
    return network, images


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_weighted_means_of_the_maps(backbone):
    """Logits are the classifier's weights times the mean of each map, plus the bias."""
    check_head(backbone)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SLOW_BACKBONES)
def test_logits_are_weighted_means_of_the_maps_for_more_networks(backbone):
    """The same holds for the larger families."""
    check_head(backbone)


@pytest.mark.parametrize("backbone", ["vgg", "torchvision/resnet18", "timm/resnet10t"])
def test_the_host_proves_the_head(backbone):
    """The host's head finder finds the linear head and the pooled layer inside the features."""
    network, images = check_head(backbone)

    head = find_head(network, images, describe_layers(network, images[:1]))

    assert head.linear, head.reason
    assert head.layer.startswith("features")
    assert head.weight.shape == (3, network.classifier.in_features)


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_torchvision_vgg_has_no_last_pool(name):
    """Torchvision's VGG ends with its last ReLU, at a stride of 16."""
    features = backbone_features(f"torchvision/{name}")

    assert isinstance(list(features.children())[-1], torch.nn.ReLU)
    assert sum(isinstance(part, torch.nn.MaxPool2d) for part in features) == 4


def test_vgg16_keeps_a_stride_of_16():
    """The VGG-16 preset has no fifth pool: 64 pixels become 4 cells of 512 channels."""
    features = vgg_features("vgg16", width=1 / 64)

    assert sum(entry is None for entry in parse_layout("vgg16")) == 4
    assert [entry for entry in parse_layout("vgg16") if entry][-1] == 512
    assert features(torch.zeros(2, 3, 64, 64)).shape == (2, 8, 4, 4)
    assert dict(features.named_children()).keys() >= {"conv1_1", "relu5_3"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_count_as_their_names_say(name):
    """VGG-N has N weight layers, three of which are the fully connected ones that GAP replaces."""
    convolutions = sum(entry is not None for entry in parse_layout(name))

    assert convolutions == (int(name[3:]) - 3 if name[3:] else 6)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from(["3", "5", "P"]), max_size=5),
    st.sampled_from([0.2, 0.5, 1.0, 2.0]),
    st.sampled_from([1, 3]),
)
def test_any_layout_gives_its_shape(entries, width, channels):
    """Maps shrink by two for each P and have the last width times the factor, one at least."""
    layout = ",".join([*entries, "4"])
    maps = vgg_features(layout, width=width, channels=channels).eval()(torch.rand(1, channels, 64, 32))

    halvings = entries.count("P")
    assert maps.shape == (1, max(1, round(4 * width)), 64 >> halvings, 32 >> halvings)
    assert bool((maps >= 0).all())


def test_grey_images_fit_where_the_network_allows():
    """VGG and timm networks take one channel; torchvision's say that they do not."""
    assert build({"backbone": "4", "classes": 2, "channels": 1})(torch.rand(2, 1, 8, 8)).shape == (2, 2)
    assert backbone_features("timm/resnet10t", channels=1)(torch.rand(2, 1, 64, 64)).ndim == 4
    with pytest.raises(ModelError, match="takes colour images; found: 1 channels"):
        build({"backbone": "torchvision/resnet18", "classes": 2, "channels": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "vggg16", "classes": 2}, "backbone unknown; found: 'vggg16'.*nearest: vgg16"),
        ({"backbone": "torchvision/resnet19", "classes": 2}, "nearest: torchvision/resnet18"),
        ({"backbone": "timm/resnet_18", "classes": 2}, "nearest: timm/resnet18"),
        ({"backbone": "resnet18", "classes": 2}, "nearest: torchvision/resnet18, timm/resnet18"),
        ({"backbone": "torchvision/vit_b_16", "classes": 2}, "backbone unknown"),
        ({"backbone": "timm/hf-hub:someone/net", "classes": 2}, "backbone unknown"),
        ({"backbone": "timm/vit_tiny_patch16_224", "classes": 2}, "gives no feature maps.*convolutional"),
        ({"backbone": "16,Q", "classes": 2}, "cannot be read; found: 'Q'"),
        ({"backbone": "16,P", "classes": 2}, "ends with a pool"),
        ({"backbone": "torchvision/resnet18", "width": 0.5, "classes": 2}, "no width factor"),
        ({"backbone": "vgg", "klasses": 2}, "unknown; found: 'klasses'.*nearest: classes"),
        ({"backbone": "vgg"}, "classes of the gap network is not a number above 0; found: None"),
        ({"backbone": "vgg", "classes": 2, "width": -1}, "width of the gap network"),
        ({"backbone": "vgg", "classes": "two"}, "found: 'two'"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(arguments, message):
    """Unknown backbones name the nearest; unknown or impossible arguments name themselves."""
    with pytest.raises(ModelError, match=message) as caught:
        build(arguments)

    assert "\n" not in str(caught.value)


def test_building_draws_from_the_global_generator_only():
    """The same seed gives the same weights; another seed others."""

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([value.flatten() for value in build({"backbone": "4", "classes": 2}).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_known_backbones_can_be_named():
    """The list of names holds all three families."""
    known = known_backbones()

    assert {"vgg16", "torchvision/resnet50", "timm/resnet50"} <= set(known)
    assert isinstance(build({"backbone": known[0], "classes": 2}), GapNet)
