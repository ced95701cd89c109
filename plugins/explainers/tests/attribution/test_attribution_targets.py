"""Captum's manner for every explainer: any target, further inputs, odd outputs, one line for bad input."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_explainers import attribution, wsss_probe_explainers
from wsss_probe_explainers.attribution import Attribution, GradCAM, IntegratedGradients, LayerCAM, Saliency
from wsss_probe_explainers.attribution.faces import OnLayer, OnPixels
from wsss_probe_explainers.attribution.probabilities import look_like_probabilities

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import Contrast
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.testing.models import multi_logit, reused, tuple_output

FACES = [
    value
    for value in vars(attribution).values()
    if isinstance(value, type) and issubclass(value, Attribution) and value is not Attribution
]
NAMES = ("normal", "tumour", "stroma")


@pytest.fixture
def network():
    """Give a network of three classes; its last maps are ``features.3``."""
    return multi_logit(3)


@pytest.fixture
def images():
    """Give three images, wider than high."""
    return torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(5))


class Mean(Explainer):
    """A stranger's explainer: the mean over channels."""

    name = "mean"
    card = DefinitionCard("Mean", "mean over channels of A", "nobody")
    gradients = False

    def attribute(self, batch, layer, target):
        """Average the channels."""
        return batch.activations[layer].mean(1)


def test_a_strangers_explainer_is_called_like_ours(network, images):
    """Any object that keeps the contract gives labelled maps."""
    found = Attribution(Mean(), network, "features").attribute(images)

    assert found.dims == ("image", "row", "column")
    assert found.attrs["method"] == "Mean"
    np.testing.assert_allclose(found.values, network.features(images).mean(1).detach(), rtol=1e-5)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_method_has_a_face_of_its_own(face):
    """Each class says its paper in the explainer's card, and no two share an explainer."""
    assert face.__doc__
    assert issubclass(face, OnLayer if face.method.grid == "layer" else OnPixels)
    assert [other.method.name for other in FACES].count(face.method.name) == 1


def test_no_method_is_without_a_face():
    """What the plugin offers by itself can be called in Python by a class, variants by its options."""
    kinds = {type(face.method) for face in FACES}

    own = [item for item in wsss_probe_explainers() if "-by-" not in item.name]
    assert [item.name for item in own if type(item) not in kinds] == []


def test_options_reach_the_explainer(network, images):
    """An option changes the explainer, and one that does not exist is refused with those that do."""
    face = IntegratedGradients(network, steps=4, replacement="blur")

    assert face.explainer == dataclasses.replace(IntegratedGradients.method, steps=4, replacement="blur")
    with pytest.raises(UsageError, match=r"no such option; found: step; wanted: steps, replacement"):
        IntegratedGradients(network, step=4)


# -- targets -----------------------------------------------------------------------------------


def test_the_ways_to_name_a_class_agree(network, images):
    """Index, name, numpy's index and a tensor of indices mean the same class."""
    face = GradCAM(network, "features.3", classes=NAMES)
    wanted = face.attribute(images, 1).values

    for target in ("tumour", np.int64(1), torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int32)):
        np.testing.assert_array_equal(face.attribute(images, target).values, wanted)


def test_all_classes_are_a_dimension(network, images):
    """``"all"`` gives the map of every class, named where names are known."""
    found = GradCAM(network, "features.3", classes=NAMES).attribute(images, "all")

    assert found.dims == ("image", "class", "row", "column")
    assert found["class"].values.tolist() == list(NAMES)
    for number, name in enumerate(NAMES):
        alone = GradCAM(network, "features.3").attribute(images, number)
        np.testing.assert_array_equal(found.sel({"class": name}).values, alone.values)
    assert GradCAM(network, "features.3").attribute(images, "all")["class"].values.tolist() == [0, 1, 2]


def test_two_classes_are_a_contrast(network, images):
    """A tuple of two classes, words and a Contrast mean the difference of two logits."""
    face = Saliency(network, classes=NAMES)
    wanted = face.attribute(images, Contrast(2, 0))

    for target in ((2, 0), ("stroma", "normal"), "stroma vs normal"):
        found = face.attribute(images, target)
        np.testing.assert_array_equal(found.values, wanted.values)
        assert found.attrs["target"] == "2 minus 1 x 0"
    assert wanted["target"].values.tolist() == [2, 2, 2]
    assert face.attribute(images, ("predicted", "next")).attrs["target"] == "predicted minus 1 x next 1"


def test_a_callable_scores_the_output(network, images):
    """A callable target explains what it returns: here the same logit, and a sum of two."""
    face = LayerCAM(network, "features.3")

    found = face.attribute(images, lambda output: output[:, 1])
    both = Saliency(network).attribute(images, lambda output: output[:, 1] - output[:, 0])

    np.testing.assert_allclose(found.values, face.attribute(images, 1).values, rtol=1e-6)
    np.testing.assert_allclose(both.values, Saliency(network).attribute(images, (1, 0)).values, rtol=1e-5)
    assert "target" not in found.coords
    assert found.attrs["target"] == "<lambda>"


def test_a_mapping_with_logits_needs_no_callable(images):
    """Logits inside a mapping are found; among several outputs a callable chooses."""
    network = tuple_output()

    plain = GradCAM(network, "boxed").attribute(images, 1)
    chosen = GradCAM(network, "boxed").attribute(images, lambda output: output["logits"][:, 1])
    maps = Saliency(network).attribute(images, lambda output: output["maps"].mean((1, 2, 3)))

    np.testing.assert_allclose(plain.values, chosen.values, rtol=1e-6)
    assert float(maps.max()) > 0


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, ModelError, r"not a class; found: 3; wanted: 0 to 2"),
        (-1, ModelError, r"not a class; found: -1"),
        (True, UsageError, r"cannot be meant; found: True"),
        (1.5, UsageError, r"cannot be meant; found: 1.5"),
        ("label", UsageError, r"cannot be meant; found: 'label'"),
        ("tumor", ModelError, r"found: tumor.*'tumour'\?"),
        (("tumour", "gland"), UsageError, r"cannot be meant; found: 'gland'"),
        (torch.tensor([0.0, 1.0, 2.0]), UsageError, r"does not fit the images"),
        (torch.tensor([0, 1, 7]), ModelError, r"indices 0 to 7; wanted: 0 to 2"),
        (lambda output: output, UsageError, r"gives no score for each image; found: \(1, 3\)"),
        (lambda output: "high", UsageError, r"gives no score for each image; found: str"),
    ],
    ids=[
        *("above", "below", "bool", "float", "label", "misspelt", "no such name", "float tensor"),
        *("index above", "callable of logits", "callable of a word"),
    ],
)
def test_a_target_that_cannot_be_meant_is_one_line(network, images, target, error, message):
    """What was found and what is wanted is said, and nothing is left on the network."""
    before = fingerprint(network)

    with pytest.raises(error, match=message) as raised:
        GradCAM(network, "features.3", classes=NAMES).attribute(images, target)

    assert "\n" not in str(raised.value)
    assert before.differences(fingerprint(network)) == ()


# -- networks ----------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """Logits that depend on a mask and a factor besides the image."""

    def __init__(self):
        super().__init__()
        self.net = multi_logit(2)

    def forward(self, images, mask, factor=1.0):
        """Give logits of the masked images."""
        return factor * self.net(images * mask)


@pytest.mark.parametrize("face", [GradCAM, Saliency, attribution.Occlusion], ids=lambda face: face.__name__)
def test_further_inputs_are_held(face, images):
    """A model with several inputs is explained with the others fixed, each image with its own."""
    model = TwoInputs().eval()
    layer = ("net.features",) if face is GradCAM else ()
    masks = (torch.arange(3).view(3, 1, 1, 1) + 1.0).expand(3, 1, 12, 16) / 3
    with pytest.raises(ModelError, match=r"missing 1 required positional argument.*additional_forward_args"):
        face(model, *layer).attribute(images, 1)

    found = face(model, *layer).attribute(images, 1, additional_forward_args=(masks, 2.0))

    for index in range(3):
        wanted = face(model, *layer).attribute(
            images[index : index + 1], lambda output: output[:, 1], (masks[index : index + 1], 2.0)
        )
        np.testing.assert_allclose(found.values[index], wanted.values[0], rtol=1e-4, atol=1e-9)
    assert not np.allclose(
        found.values[0], face(model, *layer).attribute(images, 1, (masks[2:], 2.0)).values[0]
    )


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.Sigmoid()], ids=lambda ending: type(ending).__name__)
def test_probabilities_are_warned_of(ending, images):
    """A network that ends in softmax or sigmoid gets one warning a call, with the remedy."""
    model = nn.Sequential(multi_logit(3), ending).eval()

    with pytest.warns(UserWarning, match=f"ends in {type(ending).__name__}.*return its logits") as heard:
        GradCAM(model, "0.features").attribute(images)

    assert len(heard) == 1
    assert heard[0].filename == __file__


def test_a_functional_softmax_is_seen_by_its_values(images):
    """Without a module at the end, values between 0 and 1 that sum to 1 tell."""

    class Soft(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = multi_logit(3)

        def forward(self, images):
            return self.net(images).softmax(1)

    with pytest.warns(UserWarning, match="values between 0 and 1 that sum to 1"):
        Saliency(Soft().eval()).attribute(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Saliency(Soft().eval()).attribute(images, lambda output: output[:, 0].log())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], True),
        ([[0.7, 0.3], [float("nan"), 0.0]], True),
        ([[0.7, 0.4]], False),
        ([[1.5, -0.5]], False),
        ([[1.0]], False),
        ([[float("nan"), 0.0]], False),
    ],
)
def test_probabilities_are_told_by_their_values(values, told):
    """Certain ones count, as do 0 and 1; single logits and broken rows say nothing."""
    assert look_like_probabilities(torch.tensor(values)) is told


@pytest.mark.parametrize("face", [GradCAM, Saliency], ids=lambda face: face.__name__)
def test_a_broken_image_is_nan_and_the_rest_goes_on(face, network, images):
    """NaN in an image makes a map of NaN and a warning; other maps are as without it."""
    layer = ("features",) if face is GradCAM else ()
    broken = images.clone()
    broken[0, 0, 3, 3] = torch.nan

    with pytest.warns(UserWarning, match="1 of 3 images or their logits hold NaN"):
        found = face(network, *layer).attribute(broken, 1).values

    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], face(network, *layer).attribute(images, 1).values[1:], rtol=1e-5)


def test_logits_of_nan_are_maps_of_nan(network, images):
    """Where the network itself gives NaN, so does every map, and it is said once."""
    with torch.no_grad():
        network.classifier.bias.fill_(torch.nan)

    with pytest.warns(UserWarning, match="3 of 3 images") as heard:
        found = LayerCAM(network, "features").attribute(images, 1)

    assert len(heard) == 1
    assert np.isnan(found.values).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", [1, (1, 0)], ids=str)
def test_half_precision_works(dtype, target, network, images):
    """A network in half precision gives about the same map in float32."""
    wanted = GradCAM(network, "features.3").attribute(images, target).values

    found = GradCAM(network.to(dtype), "features.3").attribute(images.to(dtype), target)

    assert found.dtype == "float32"
    assert np.abs(found.values - wanted).max() <= 0.05 * wanted.max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: GradCAM(net, "classifier").attribute(x), r"needs maps, the output has shape \(3,\)"),
        (lambda net, x: GradCAM(net, ""), r"Grad-CAM explains a layer; found: none; remedy: name one"),
        (lambda net, x: Attribution(Saliency.method, net, "features"), r"Saliency explains the input"),
        (lambda net, x: GradCAM(net, "features").attribute(x[None]), r"volumes are not supported"),
        (lambda net, x: GradCAM(net, "features").attribute(x.long()), r"no batch of preprocessed images"),
        (
            lambda net, x: GradCAM(net, "features").attribute(x[:, :1]),
            r"does not take these images; found: \(1, 1",
        ),
        (lambda net, x: GradCAM(reused(), "idle").attribute(x), r"layer 'idle' never runs"),
    ],
)
def test_bad_input_is_one_line(network, images, call, message):
    """Layers without maps, volumes, integers, wrong channels and idle layers are named."""
    with pytest.raises((ModelError, UsageError), match=message) as raised:
        call(network, images)
    assert "\n" not in str(raised.value)


def test_a_layer_without_a_path_to_the_logits_is_refused(images):
    """A layer on which the logits do not depend has no gradient, and that is said."""

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.aside = multi_logit(2), nn.Conv2d(3, 4, 3)

        def forward(self, images):
            self.aside(images)
            return self.net(images)

    with pytest.raises(ModelError, match=r"layer 'aside' has no gradient"):
        GradCAM(Aside().eval(), "aside").attribute(images)


def test_wrapping_leaves_the_network_alone(images):
    """Further inputs, a callable target and train mode change nothing on the user's network."""
    model = TwoInputs().train()
    model.dropout = nn.Dropout(0.5)
    before, random = fingerprint(model), torch.get_rng_state()
    names = {name: sorted(vars(part)) for name, part in model.named_modules()}

    GradCAM(model, "net.features").attribute(images, lambda output: output[:, 1], (torch.ones(1, 1, 12, 16),))

    assert before.differences(fingerprint(model)) == ()
    assert {name: sorted(vars(part)) for name, part in model.named_modules()} == names
    assert torch.equal(torch.get_rng_state(), random)


def test_a_root_in_train_mode_is_put_into_evaluation():
    """A network whose own forward asks for its mode is explained in evaluation, wrapped or not."""

    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = multi_logit(2)

        def forward(self, images):
            return self.net(images) * (-1 if self.training else 1)

    images = torch.randn(2, 3, 12, 12)
    plain = Saliency(Moody().eval()).attribute(images, 1)

    wrapped = attribution.InputXGradient(Moody().train()).attribute(images, lambda output: output[:, 1])

    np.testing.assert_allclose(
        wrapped.values, attribution.InputXGradient(Moody().eval()).attribute(images, 1).values, rtol=1e-5
    )
    np.testing.assert_array_equal(plain.values, Saliency(Moody().train()).attribute(images, 1).values)
