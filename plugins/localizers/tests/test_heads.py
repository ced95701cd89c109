"""Heads: found by what they do, replaced by kind, and never built from code; the exported MobileNetV2."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from wsss_probe_localizers.heads import build_finetuned, find_head, installed_sources, replace_head
from wsss_probe_localizers.mobilenet import FoldedMobileNetV2, build_mobilenet

from wsss_probe.errors import ModelError, UnsafeInputError
from wsss_probe.zoo import build

IMAGE = torch.zeros(1, 3, 64, 64)


class Distracting(nn.Module):
    """The head is registered first; after it come a gate and a layer that is never run, both as wide."""

    def __init__(self, classes=5, channels=5):
        super().__init__()
        self.classifier = nn.Linear(channels, classes)
        self.body = nn.Conv2d(3, channels, 3)
        self.gate = nn.Linear(channels, channels)
        self.unused = nn.Linear(channels, classes)

    def forward(self, images):
        """Gate the pooled maps before the head."""
        pooled = self.body(images).mean((2, 3))
        return self.classifier(pooled * self.gate(pooled))


class TestFinding:
    """The head is the layer whose width is the number of logits."""

    def test_a_gate_and_an_unused_layer_are_no_head(self):
        """Layers of the same width that stand last in the module are not taken."""
        network = Distracting()
        before = [id(part) for part in network.modules()]

        assert find_head(network, IMAGE) == "classifier"
        assert [id(part) for part in network.modules()] == before

    @pytest.mark.parametrize(
        ("name", "head"),
        [
            ("torchvision/resnet18", "fc"),
            ("torchvision/mobilenet_v2", "classifier.1"),
            ("torchvision/squeezenet1_1", "classifier.1"),
            ("torchvision/densenet121", "classifier"),
            ("timm/mobilenetv2_100", "classifier"),
            ("timm/vit_tiny_patch16_224", "head"),
        ],
    )
    def test_heads_of_registries(self, name, head):
        """Known networks have the head that their documentation names."""
        image = torch.zeros(1, 3, 224, 224) if "vit" in name else IMAGE

        assert find_head(build(name).module, image) == head

    def test_a_network_without_a_head_is_refused(self):
        """Logits that are pooled maps of a 3x3 convolution have no layer to replace."""

        class Pooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Conv2d(3, 4, 3)

            def forward(self, images):
                return self.body(images).mean((2, 3))

        with pytest.raises(ModelError, match="no head to replace in Pooled; found: no layer with 4 outputs"):
            find_head(Pooled(), IMAGE)

    def test_a_layer_whose_width_does_not_reach_the_logits_is_refused(self):
        """Where only a gate is as wide as the logits, it is named and refused."""

        class Gated(nn.Module):
            def __init__(self):
                super().__init__()
                self.gate = nn.Linear(3, 3)

            def forward(self, images):
                pooled = images.mean((2, 3))
                return pooled * self.gate(pooled)

        with pytest.raises(ModelError, match="no head to replace in Gated; found: gate"):
            find_head(Gated(), IMAGE)


class TestReplacing:
    """A new head has the kind and inputs of the old one."""

    def test_a_linear_head(self):
        """Inputs stay, outputs change, a bias is there."""
        network = Distracting()
        replace_head(network, "classifier", 2)

        assert network.classifier.weight.shape == (2, 5)
        assert network.classifier.bias.shape == (2,)
        assert network(IMAGE).shape == (1, 2)

    def test_a_convolution_as_head(self):
        """A 1x1 convolution stays one."""
        network = build("torchvision/squeezenet1_1").module
        replace_head(network, "classifier.1", 1)

        assert network.classifier[1].weight.shape == (1, 512, 1, 1)
        assert network(IMAGE).shape == (1, 1)

    @pytest.mark.parametrize("name", ["", "body", "head"])
    def test_what_is_no_head_is_refused(self, name):
        """A 3x3 convolution, an unknown name and the network itself are not replaced."""
        with pytest.raises(ModelError, match="Distracting has no head of that name"):
            replace_head(Distracting(), name, 2)


class TestBuilding:
    """A card's arguments build the network again, and never run code."""

    def test_a_registry_network_with_another_head(self):
        """Source, its own arguments and head are those asked for."""
        network = build_finetuned(
            {
                "source": "torchvision/mobilenet_v2",
                "arguments": {"width_mult": 0.25},
                "head": "classifier.1",
                "units": 3,
            }
        )

        assert network(IMAGE).shape == (1, 3)
        assert network.features[0][0].out_channels == 8

    @pytest.mark.parametrize("source", ["net.py:make", "package.module:make", "os:system"])
    def test_code_is_refused(self, source):
        """A factory is refused before anything is imported: a card travels with weights."""
        arguments = {"source": source, "arguments": {}, "head": "fc", "units": 1}
        with pytest.raises(UnsafeInputError, match="refused a finetuned network; found: code as its source"):
            build_finetuned(arguments)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"units": "many"}, "arguments of a finetuned network cannot be meant"),
            ({"more": 1}, "cannot be meant; found: arguments, head, more, source, units"),
            ({"arguments": "x"}, "arguments of torchvision/resnet18 cannot be meant; found: 'x'"),
            ({"head": "layer1"}, "has no head of that name"),
        ],
    )
    def test_arguments_that_cannot_be_meant(self, changes, message):
        """One clear line each."""
        arguments = {"source": "torchvision/resnet18", "arguments": {}, "head": "fc", "units": 1}
        with pytest.raises(ModelError, match=message):
            build_finetuned(arguments | changes)

    def test_installed_sources_are_those_of_the_plugins(self):
        """The plugin finds its own sources through the host."""
        assert {"gap", "finetuned", "mobilenetv2-folded"} <= set(installed_sources())


def same_padding(image, weight, bias, stride):
    """Convolve one channel with TensorFlow's SAME padding, number by number."""
    rows, columns = len(image), len(image[0])
    kernel = len(weight)
    out_rows, out_columns = -(-rows // stride), -(-columns // stride)
    top = max((out_rows - 1) * stride + kernel - rows, 0) // 2
    left = max((out_columns - 1) * stride + kernel - columns, 0) // 2
    result = [[bias] * out_columns for _ in range(out_rows)]
    for r in range(out_rows):
        for c in range(out_columns):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = r * stride + i - top, c * stride + j - left
                    if 0 <= y < rows and 0 <= x < columns:
                        result[r][c] += weight[i][j] * image[y][x]
    return result


class TestMobileNet:
    """The exported MobileNetV2 against loops and counts of the paper."""

    @settings(deadline=None, max_examples=20)
    @given(rows=st.integers(3, 9), columns=st.integers(3, 9), seed=st.integers(0, 99))
    def test_the_stem_pads_as_tensorflow_does(self, rows, columns, seed):
        """The stem equals a loop with SAME padding and stride 2, clipped to 0..6, at any size."""
        generator = np.random.default_rng(seed)
        image = generator.normal(size=(rows, columns)) * 4
        stem = FoldedMobileNetV2(2).features[0].double()
        images = torch.zeros(1, 3, rows, columns, dtype=torch.float64)
        images[0, 1] = torch.from_numpy(image)
        found = stem(images)[0].detach().numpy()

        weights, biases = stem.weight.detach().numpy(), stem.bias.detach().numpy()
        for channel in (0, 31):
            loop = same_padding(
                image.tolist(), weights[channel, 1].tolist(), float(biases[channel]), stride=2
            )
            np.testing.assert_allclose(found[channel], np.clip(loop, 0, 6), atol=1e-12)

    def test_shapes_and_parameters(self):
        """19 blocks end in 1280 maps at a 32nd of the size; parameters are the paper's 3.4 million."""
        network = FoldedMobileNetV2(1000).eval()
        maps = network.features(torch.zeros(1, 3, 224, 224))

        assert len(network.features) == 19
        assert maps.shape == (1, 1280, 7, 7)
        assert 3.4e6 < sum(tensor.numel() for tensor in network.parameters()) < 3.6e6

    def test_it_is_the_registry_network_where_paddings_agree(self):
        """With torchvision's weights folded, logits agree on odd-sized images, where both paddings do."""
        known = build("torchvision/mobilenet_v2").module.double()
        with torch.no_grad():
            for part in known.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.running_mean.uniform_(-0.5, 0.5)
                    part.running_var.uniform_(0.5, 2)
                    part.weight.uniform_(0.5, 2)
                    part.bias.uniform_(-0.5, 0.5)
        ours = FoldedMobileNetV2(1000).double().eval()
        pairs = []
        for part in known.features.modules():
            if isinstance(part, nn.Conv2d):
                pairs.append([part])
            if isinstance(part, nn.BatchNorm2d):
                pairs[-1].append(part)
        convolutions = [part for part in ours.features.modules() if isinstance(part, nn.Conv2d)]
        with torch.no_grad():
            for own, (convolution, norm) in zip(convolutions, pairs, strict=True):
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                own.weight.copy_(convolution.weight * scale[:, None, None, None])
                own.bias.copy_(norm.bias - norm.running_mean * scale)
            ours.classifier.load_state_dict(known.classifier[1].state_dict())
            images = torch.randn(
                2, 3, 65, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            )
            torch.testing.assert_close(ours(images), known(images), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("arguments", [{"classes": 0}, {"classes": "two"}, {"width": 1.0}])
    def test_arguments_that_cannot_be_meant(self, arguments):
        """One clear line."""
        with pytest.raises(ModelError, match="arguments of mobilenetv2-folded cannot be meant"):
            build_mobilenet(arguments)

    def test_negative_inputs_are_clipped(self):
        """Projections are linear, everything else lies in 0..6."""
        network = FoldedMobileNetV2(2)
        maps = network.features[0](torch.randn(1, 3, 8, 8) * 100)

        assert float(maps.detach().min()) == 0
        assert float(maps.detach().max()) == 6
        assert torch.equal(F.relu6(maps), maps)
