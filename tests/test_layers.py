"""What layers there are, what they see, and which are chosen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import LayerInfo
from wsss_probe.errors import ModelError
from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe.testing import models
from wsss_probe.zoo import ensure_torchvision


def described(module, *size):
    """Describe a network's layers by name for an image of a size."""
    return {layer.name: layer for layer in describe_layers(module, torch.rand(1, 3, *size))}


def network(name, **arguments):
    """Build a torchvision network with random weights."""
    ensure_torchvision()
    import torchvision.models

    torch.manual_seed(0)
    return getattr(torchvision.models, name)(**arguments).eval()


# -- description -------------------------------------------------------------------------------


def test_shapes_strides_and_order_of_a_residual_network():
    """Outputs are listed as they appear, with shape, layout and stride from the sizes."""
    layers = described(models.branched(), 16, 24)

    assert list(layers) == [
        *("stem", "block.long.0", "block.long.1", "block.long.2", "block.long"),
        *("block.short", "block", "classifier"),
    ]
    assert [layer.order for layer in layers.values()] == list(range(8))
    block, head = layers["block"], layers["classifier"]
    assert (block.shape, block.layout, block.stride) == ((8, 8, 12), "maps", 2.0)
    assert (head.shape, head.layout, head.stride, head.receptive_field) == ((3,), "vector", None, None)
    assert layers["stem"].type == "Conv2d"


def test_reused_and_idle_modules():
    """A module that runs twice has an entry per call, one that never runs comes last with 0 calls."""
    layers = described(models.reused(), 8, 8)

    assert [(layer.name, layer.calls) for layer in layers.values()] == [
        *(("first", 1), ("relu#0", 2), ("second", 1), ("relu#1", 2), ("classifier", 1), ("idle", 0)),
    ]
    assert (layers["idle"].shape, layers["idle"].layout) == ((), "other")
    assert layers["relu#0"].shape != layers["relu#1"].shape


def test_layers_without_one_tensor_have_no_shape():
    """A tuple of two and None have no shape; a mapping with one tensor has that tensor's."""
    layers = described(models.tuple_output(), 8, 8)

    assert [layers[name].shape for name in ("pair", "silent", "boxed")] == [(), (), (8, 4, 4)]
    assert layers["pair"].layout == layers["silent"].layout == "other"


def test_overwritten_outputs_are_found():
    """Exactly the outputs that an in-place operation overwrites later are marked, functional or not."""

    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, images):
            maps = self.first(images)
            maps += self.second(images)
            view = self.third(images).flatten(1)
            F.relu(view, inplace=True)
            return maps.mean((2, 3)) + view.mean()

    inplace = {name for name, layer in described(models.inplace(), 8, 8).items() if layer.inplace}
    adds = {name for name, layer in described(Adds(), 8, 8).items() if layer.inplace}

    assert inplace == {"features.1", "features.4"}
    assert adds == {"first", "third"}


def test_describing_changes_nothing():
    """The network and the image are left as they are, in train mode and inside inference mode."""

    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            return self.conv(images.sub_(1)).mean((2, 3))

    module, image = Writes().train(), torch.rand(1, 3, 4, 4)
    before, pixels = fingerprint(module), image.clone()

    with torch.inference_mode():
        layers = describe_layers(module, image)

    assert layers[0].shape == (2, 4, 4)
    assert torch.equal(image, pixels)
    assert before.differences(fingerprint(module)) == ()


# -- receptive fields --------------------------------------------------------------------------


def footprint(module, name, image):
    """Longer side of the input region with a gradient from the middle cell: the slow reference."""
    kept = []
    handle = module.get_submodule(name).register_forward_hook(lambda _m, _i, output: kept.append(output))
    image = image.clone().requires_grad_()
    module(image)
    handle.remove()
    row, column = (size // 2 for size in kept[0].shape[2:])
    (gradient,) = torch.autograd.grad(kept[0][0, :, row, column].sum(), image)
    touched = gradient[0].abs().sum(0) > 0
    sides = []
    for axis in (0, 1):
        places = [place for place in range(touched.shape[axis]) if touched.select(axis, place).any()]
        sides.append(places[-1] - places[0] + 1)
    return max(sides)


def smooth(module):
    """Replace what would hide a dependence: ReLU by sigmoid, maximum by mean; weights all positive."""
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, (nn.ReLU, nn.ReLU6)):
                setattr(part, name, nn.Sigmoid())
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(part, name, pool)
    # the smallest gradients of a real network fall below what float32 can hold
    return module.double().apply(_positive).eval()


def _positive(part):
    if isinstance(part, (nn.Conv2d, nn.BatchNorm2d)):
        nn.init.constant_(part.weight, 1 / part.weight[0].numel())


KNOWN = [
    ("resnet18", {}, {"conv1": 7, "maxpool": 11, "layer1": 43, "layer2": 99, "layer3": 211, "layer4": 435}),
    ("vgg16", {"init_weights": False}, {"features.29": 196, "features": 212}),
    ("mobilenet_v2", {}, {"features": 491}),
    ("inception_v3", {"init_weights": False}, {"Mixed_7c": 1311}),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), KNOWN, ids=[case[0] for case in KNOWN])
def test_receptive_fields_of_known_networks(name, arguments, expected):
    """Published values (Araujo et al. 2019, table 1; torchvision's variants) come out exactly."""
    module = network(name, **arguments)
    if name == "vgg16":
        module.avgpool, module.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    layers = described(module, 96, 128)

    assert {layer: layers[layer].receptive_field for layer in expected} == expected


class Zoo(nn.Module):
    """Padding as in TensorFlow, dilation, strided slices, concatenation, chunks: all by functions."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(3, 4, 3, stride=2)
        self.wide = nn.Conv2d(4, 4, (1, 5), padding=(0, 2))
        self.loose = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.joined = nn.Conv2d(8, 4, 1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.summed = nn.Identity()
        self.split = nn.Identity()
        self.behind = nn.Conv2d(4, 4, 3)
        self.skewed = nn.Identity()

    def forward(self, images):
        """Return pooled maps."""
        maps = self.same(F.pad(images, (0, 1, 0, 1)))
        maps = self.joined(torch.cat([self.wide(maps), self.loose(maps)], 1))
        maps = self.summed(torch.sigmoid(self.down(maps)) + maps[:, :, ::2, ::2])
        maps = self.skewed(self.behind(F.pad(maps, (6, -4, 5, -3))) + maps)  # a branch that looks aside
        one, two = self.split(maps).chunk(2, 1)
        return (one * two).mean((2, 3))


@pytest.mark.parametrize(
    ("build", "size"),
    [(Zoo, (64, 96)), (models.branched, (32, 40)), (models.multi_logit, (32, 32))],
)
def test_receptive_fields_equal_the_footprint_of_a_gradient(build, size):
    """What the recursion says is what a gradient from one cell reaches, layer by layer."""
    module = smooth(build())
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    layers = [layer for layer in describe_layers(module, image) if layer.layout == "maps"]
    local = [layer for layer in layers if layer.shape[1:] != (1, 1)]
    assert len(local) >= 4

    for layer in local:
        assert layer.receptive_field == footprint(module, layer.name, image), layer.name


def test_the_footprint_of_a_residual_network():
    """ResNet-18's first stages reach as far as a gradient does, on an image wider than high."""
    module = smooth(network("resnet18"))
    image = torch.rand(1, 3, 192, 224, dtype=torch.float64)
    layers = {layer.name: layer for layer in describe_layers(module, image)}

    for name in ("conv1", "layer1", "layer2.0.downsample", "layer2"):
        assert layers[name].receptive_field == footprint(module, name, image)


def test_what_is_not_local_has_no_receptive_field():
    """Behind a global gate, an upsampling, a sum of unlike strides or batch statistics nothing is guessed."""

    class NotLocal(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.gated, self.grown, self.mixed = nn.Identity(), nn.Identity(), nn.Identity()
            self.transposed = nn.ConvTranspose2d(4, 4, 2, stride=2)
            self.normed = nn.BatchNorm2d(4, track_running_stats=False)
            self.apart = nn.Identity()

        def forward(self, images):
            maps = self.conv(images)
            self.gated(maps * maps.mean((2, 3), keepdim=True))
            self.grown(F.interpolate(maps, scale_factor=2))
            self.mixed(maps + maps.transpose(2, 3))
            self.transposed(maps)
            self.apart(F.max_pool2d(maps, 2) + F.avg_pool2d(maps, 4, stride=1))
            return self.normed(maps).mean((2, 3))

    layers = described(NotLocal(), 8, 8)

    assert layers.pop("conv").receptive_field == 3
    assert {layer.receptive_field for layer in layers.values()} == {None}
    assert len(layers) == 6


def test_a_view_written_in_place_ends_the_knowledge():
    """When a view of a map is overwritten with something wider, the map's own field is not kept."""

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide, self.after = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 2, 5, padding=2),
                nn.Identity(),
            )

        def forward(self, images):
            maps = self.conv(images)
            maps[:, :2] += self.wide(maps)
            return self.after(maps).mean((2, 3))

    layers = described(Overwrites(), 8, 8)

    assert layers["wide"].receptive_field == 5
    assert layers["after"].receptive_field is None


# -- choice ------------------------------------------------------------------------------------

AUTO = [
    ("resnet50", {}, ("layer2", "layer3", "layer4")),
    ("vgg11_bn", {"init_weights": False}, ("features.13", "features.20", "features.27")),
    ("mobilenet_v2", {}, ("features.6", "features.13", "features")),
    ("squeezenet1_1", {}, ("features.4", "features.7", "features")),
    ("convnext_tiny", {}, ("features.3", "features.5", "features")),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), AUTO, ids=[case[0] for case in AUTO])
def test_automatic_choice_on_known_networks(name, arguments, expected):
    """``auto`` takes the ends of the last three stages, containers rather than parts, no pooling."""
    layers = describe_layers(network(name, **arguments), torch.rand(1, 3, 224, 224))

    assert choose_layers(layers).names == expected


def test_automatic_choice_says_why():
    """The reason states the rule and the sizes; an empty request is ``auto``."""
    layers = describe_layers(models.multi_logit(), torch.rand(1, 3, 8, 12))

    chosen = choose_layers(layers, ["auto"])

    assert chosen.names == ("features.1", "features")
    assert chosen.reason.startswith("auto (of each map size above 1x1")
    assert chosen.reason.endswith("features.1 (8x12), features (4x6)")
    assert choose_layers(layers, []) == chosen


def test_pooled_maps_are_not_chosen_automatically():
    """A pooling, and a Sequential that ends with one, are left out; they may be named."""
    layers = describe_layers(models.flat_head(), torch.rand(1, 3, 8, 8))

    assert choose_layers(layers).names == ("features.1",)
    assert choose_layers(layers, ["features"]).names == ("features",)


def test_named_layers_come_in_the_order_of_execution():
    """Names and patterns are joined, doubled names dropped, and a vector may be named."""
    layers = describe_layers(models.branched(), torch.rand(1, 3, 8, 8))

    chosen = choose_layers(layers, ["classifier", "block", "block.lo*", "stem", "block"])

    assert chosen.names == (
        *("stem", "block.long.0", "block.long.1", "block.long.2", "block.long"),
        *("block", "classifier"),
    )
    assert "the maps that match 'block.lo*'" in chosen.reason


def test_a_bare_name_is_the_last_call():
    """The bare name of a reused module, plain or by pattern, means its last call, and says so."""
    layers = describe_layers(models.reused(), torch.rand(1, 3, 8, 8))

    bare = choose_layers(layers, ["relu"])

    assert bare.names == choose_layers(layers, ["re?u"]).names == ("relu#1",)
    assert "runs 2 times, the last call is relu#1" in bare.reason
    assert choose_layers(layers, ["relu#0"]).names == ("relu#0",)
    assert choose_layers(layers, ["relu*"]).names == ("relu#0", "relu#1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "clasifier",
            "layer 'clasifier' not found; wanted: one of classifier; remedy: run 'wsss-probe layers'",
        ),
        ("idle", "layer 'idle' never runs in a forward pass; remedy: run"),
        ("class*", "no maps match 'class*'; found: classifier; remedy"),
        ("zz*", "no maps match 'zz*'; found: no layer; remedy"),
    ],
)
def test_layers_that_cannot_be_meant(name, message):
    """Unknown, idle and unmatched names are one clear line."""
    layers = describe_layers(models.reused(), torch.rand(1, 3, 8, 8))

    with pytest.raises(ModelError) as caught:
        choose_layers(layers, [name])

    assert str(caught.value).startswith(message)


def test_no_maps_to_choose_from():
    """A network of vectors, or with 1x1 maps only, has nothing to choose automatically."""
    small = LayerInfo("pool", "AdaptiveAvgPool2d", 0, 1, (4, 1, 1), "maps", 8.0)
    layers = (small, LayerInfo("fc", "Linear", 1, 1, (3,), "vector"))

    with pytest.raises(
        ModelError, match="no layer can be chosen automatically; found: no maps larger than 1x1"
    ):
        choose_layers(layers)
    assert choose_layers(layers, ["pool"]).names == ("pool",)
