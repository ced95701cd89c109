"""The Python face: equal to captum, closed forms on real taps, the model left as found, clear errors."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from wsss_probe_explainers import CAM, GradCAM, GradCAMPlusPlus, LayerCAM

from wsss_probe.errors import ModelError, UsageError
from wsss_probe.zoo import ensure_torchvision


class GapNet(nn.Module):
    """Two convolutions, GAP, linear: every map has a closed form."""

    def __init__(self, *, inplace=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(inplace=inplace),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, 3)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.pool(self.features(images)).flatten(1))


def seeded(build, seed=0):
    """Build a network with the same weights every time, in eval mode."""
    torch.manual_seed(seed)
    return build().eval()


@pytest.fixture
def images():
    """Three small images, wider than high."""
    return torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def tiny():
    """Build the two-convolution network."""
    return GapNet(), "features.4"


def resnet18():
    """Build a residual network with random weights."""
    ensure_torchvision()
    from torchvision.models import resnet18

    return resnet18(num_classes=5), "layer4"


def mobilenet():
    """Build a narrow inverted-residual network with random weights."""
    ensure_torchvision()
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=4, width_mult=0.25), "features.14"


@pytest.mark.parametrize("build", [tiny, resnet18, mobilenet], ids=lambda build: build.__name__)
@pytest.mark.parametrize("target", [1, "each"])
def test_grad_cam_equals_captums(build, target):
    """Grad-CAM is captum's LayerGradCam with relu_attributions=True to 1e-5, on three architectures."""
    torch.manual_seed(6)
    model, layer = build()
    model.eval().double()
    batch = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    chosen = torch.tensor([2, 0]) if target == "each" else target

    found = GradCAM(model, layer).attribute(batch, chosen)
    captums = LayerGradCam(model, model.get_submodule(layer))
    expected = captums.attribute(batch, chosen, relu_attributions=True)

    expected = expected.detach()[:, 0].float()
    assert float(expected.max()) > 0
    torch.testing.assert_close(torch.from_numpy(found.values), expected, rtol=1e-5, atol=0)


def test_maps_are_labelled(images):
    """The result names its dimensions, the explained classes, the method and the layer."""
    model = seeded(GapNet)

    found = GradCAM(model, "features").attribute(images, torch.tensor([0, 2, 1]))

    assert found.dims == ("image", "row", "column")
    assert found.shape == (3, 6, 8)
    assert found.dtype == "float32"
    assert found["target"].values.tolist() == [0, 2, 1]
    assert found.attrs["layer"] == "features"
    assert found.attrs["method"] == "Grad-CAM"


def test_cam_averages_to_the_logit(images):
    """The spatial mean of CAM plus the head's bias is the logit, and CAM keeps its sign."""
    model = seeded(GapNet)

    found = CAM(model, "features").attribute(images, 1)

    logit = found.mean(("row", "column")).values + model.classifier.bias[1].item()
    torch.testing.assert_close(torch.from_numpy(logit), model(images)[:, 1].detach(), rtol=1e-4, atol=1e-5)
    assert float(found.min()) < 0
    assert found.equals(CAM(model, "features.5").attribute(images, 1))  # the same maps by another name


def test_four_maps_agree_on_a_linear_head(images):
    """On GAP + linear, Grad-CAM is relu(CAM) / (h w), and Grad-CAM++ is Layer-CAM: positive weights only."""
    model = seeded(GapNet)

    cam, grad, plus, layer = (
        torch.from_numpy(method(model, "features").attribute(images, 0).values)
        for method in (CAM, GradCAM, GradCAMPlusPlus, LayerCAM)
    )

    torch.testing.assert_close(grad, cam.relu() / 48, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plus, layer, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plus, grad, atol=1e-4)


def test_variants_of_plus_plus_differ_and_are_named(images):
    """The un-normalised variant is another map; a variant that does not exist is refused."""
    model = seeded(GapNet)

    authors = GradCAMPlusPlus(model, "features.4").attribute(images, 0)
    plain = GradCAMPlusPlus(model, "features.4", variant="unnormalised").attribute(images, 0)

    assert not authors.equals(plain)
    with pytest.raises(
        UsageError, match=r"unknown variant.*found: torchcam; wanted: authors or unnormalised"
    ):
        GradCAMPlusPlus(model, "features.4", variant="torchcam")


@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus, LayerCAM])
def test_a_constant_added_to_the_logit_changes_nothing(method, images):
    """A shift of the bias leaves the map as it is, also where the paper explains exp(Y)."""
    model = seeded(GapNet)
    before = method(model, "features.4").attribute(images, 0)
    with torch.no_grad():
        model.classifier.bias += 2

    assert method(model, "features.4").attribute(images, 0).equals(before)


@pytest.mark.parametrize("method", [CAM, GradCAM, GradCAMPlusPlus, LayerCAM])
def test_the_predicted_class_is_explained_by_default(method, images):
    """No target, "predicted" and the argmax of the logits give the same maps."""
    model = seeded(GapNet)
    predicted = model(images).argmax(1)

    found = [method(model, "features").attribute(images, t) for t in (None, "predicted", predicted)]

    assert found[0].identical(found[1])
    assert found[0].identical(found[2])


@pytest.mark.parametrize("method", [CAM, GradCAM, GradCAMPlusPlus, LayerCAM])
def test_an_image_is_explained_alone_as_in_a_batch(method, images):
    """A batch gives what its images give one by one."""
    model = seeded(GapNet)

    together = method(model, "features").attribute(images, 2)

    for index in range(len(images)):
        alone = method(model, "features").attribute(images[index : index + 1], 2)
        torch.testing.assert_close(
            torch.from_numpy(together.values[index]), torch.from_numpy(alone.values[0])
        )


@pytest.mark.parametrize("method", [CAM, GradCAM, GradCAMPlusPlus, LayerCAM])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_model_is_left_as_it_is_found(method, inplace, images):
    """Modes, gradients, hooks, flags and values are those from before, in a mixed train/eval state."""
    model = seeded(lambda: GapNet(inplace=inplace))
    model.features[1].train()
    model.features[0].weight.requires_grad_(False)
    model.classifier(torch.ones(1, 6)).sum().backward()

    def fingerprint():
        """Everything about the model that an explainer could change."""
        return (
            [part.training for part in model.modules()],
            [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
            {name: value.clone() for name, value in model.state_dict().items()},
            [len(part._forward_hooks) + len(part._backward_hooks) for part in model.modules()],
        )

    before = fingerprint()
    method(model, "features").attribute(images, 0)
    after = fingerprint()

    assert str(before) == str(after)


def test_a_module_that_runs_twice_means_its_last_call():
    """The bare name of a reused module is its last call; each call has a name of its own."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.head = nn.Linear(3, 2)

        def forward(self, images):
            return self.head(self.conv(self.conv(images).relu()).mean((2, 3)))

    model, images = seeded(Twice), torch.randn(1, 3, 6, 6)

    last, first = (LayerCAM(model, name).attribute(images, 0) for name in ("conv#1", "conv#0"))

    assert LayerCAM(model, "conv").attribute(images, 0).equals(last)
    assert not first.equals(last)


def test_a_layer_may_be_given_as_the_module_itself(images):
    """The submodule and its dotted name mean the same layer; a stranger is refused."""
    model = seeded(GapNet)

    by_module = GradCAM(model, model.features[4]).attribute(images, 0)

    assert by_module.identical(GradCAM(model, "features.4").attribute(images, 0))
    with pytest.raises(ModelError, match="no submodule of the model; found: ReLU"):
        GradCAM(model, nn.ReLU())


def test_bad_input_gets_one_clear_line(images):
    """Unknown layers, vectors, missing classes, odd targets and images say what is wanted."""
    model = seeded(GapNet)

    with pytest.raises(ModelError, match=r"layer 'feature' not found; wanted: one of features"):
        GradCAM(model, "feature")
    with pytest.raises(ModelError, match=r"Grad-CAM does not suit layer 'classifier'; found: needs maps"):
        GradCAM(model, "classifier").attribute(images)
    with pytest.raises(ModelError, match=r"no class of the network; found: 3; wanted: .*0 to 2"):
        GradCAM(model, "features").attribute(images, 3)
    with pytest.raises(ModelError, match=r"not a class; found: -1; wanted: an index from 0"):
        CAM(model, "features").attribute(images, -1)
    with pytest.raises(
        UsageError, match=r"target does not fit the images; found: .*\(2,\); wanted: int64 \(3,\)"
    ):
        GradCAM(model, "features").attribute(images, torch.tensor([0, 1]))
    with pytest.raises(UsageError, match=r"target cannot be meant; found: 'gland'"):
        GradCAM(model, "features").attribute(images, "gland")
    with pytest.raises(UsageError, match=r"no batch of preprocessed images; found: \(3, 12, 16\)"):
        GradCAM(model, "features").attribute(images[0])


def test_cam_refuses_layers_that_the_head_does_not_average(images):
    """CAM of an earlier layer, or under a head with a hidden layer, is an error with the reason."""
    model = seeded(GapNet)
    with pytest.raises(ModelError, match=r"CAM does not suit layer 'features.1'; found: needs"):
        CAM(model, "features.1").attribute(images)

    model.classifier = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ModelError, match=r"CAM does not suit layer 'features'; found: .*not linear"):
        CAM(model, "features").attribute(images)
