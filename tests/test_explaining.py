"""Relevance maps of any images: what the survey does for its own, with nothing left behind."""

import pytest
import torch
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import INPUT, Contrast, DefinitionCard, Explainer
from wsss_probe.errors import ModelError, SchemaError, UsageError
from wsss_probe.evaluation import lent
from wsss_probe.explaining import Asked, explain
from wsss_probe.layers import describe_layers
from wsss_probe.testing.models import inplace, multi_logit

CARD = DefinitionCard("Slope", "dY/dx", "none")


class Slope(Explainer):
    """Gradient of the target on the input, by hand on the lent network."""

    name, card, gradients, grid = "slope", CARD, False, "input"

    def attribute(self, batch, layer, target):
        """Sum over colours of the gradient of the score."""
        assert layer == INPUT
        images = batch.images.clone().requires_grad_()
        with batch.lend() as module:
            score = (module(images) * batch.targets[target]).sum()
            (gradient,) = torch.autograd.grad(score, images)
        return gradient.sum(1)


class Broken(Slope):
    """Hooks the network, and fails."""

    name = "broken"

    def attribute(self, batch, layer, target):
        """Leave as much behind as one can."""
        with batch.lend() as module:
            part = next(m for m in module.modules() if isinstance(m, nn.ReLU))
            part.register_forward_hook(lambda *_: None)
            part.inplace = not part.inplace
            module.extra = nn.Linear(2, 2)
            parameter = next(module.parameters())
            parameter.requires_grad_().grad = torch.zeros_like(parameter)
            module(batch.images).sum().backward()
            raise RuntimeError("half-way")


def pictures(number=3):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, 16, 24), generator=torch.Generator().manual_seed(0))


def layers(net):
    """Layers of a network by name."""
    return {info.name: info for info in describe_layers(net, pictures(1))}


def slow_slope(net, image, weights):
    """Gradient of a weighted sum of logits of one image on its pixels, summed over colours."""
    image = image.clone()[None].requires_grad_()
    logits = net(image)[0]
    score = sum(weight * logits[number] for number, weight in enumerate(weights))
    (gradient,) = torch.autograd.grad(score, image)
    return gradient[0, 0] + gradient[0, 1] + gradient[0, 2]


class TestExplain:
    def test_equals_autograd_image_by_image(self, times_gradient):
        """Maps on a layer and on the input equal plain autograd for each image's own class."""
        net, images = multi_logit(3), pictures()
        pairs = [(times_gradient(), "features"), (Slope(), INPUT)]
        found = explain(net, images, pairs, Asked(layers(net)))

        for index, image in enumerate(images):
            weights = [0.0, 0.0, 0.0]
            weights[int(net(image[None]).argmax())] = 1.0
            wanted = slow_slope(net, image, weights)
            torch.testing.assert_close(found["slope", INPUT][index], wanted)
        assert found["timesgradient", "features"].shape == (3, *layers(net)["features"].shape[1:])

    def test_a_contrast_is_the_difference(self, times_gradient):
        """Evidence is linear in the logits: that of a contrast is the difference of two classes'."""
        net, images, pair = multi_logit(3), pictures(), [(times_gradient(), "features")]
        found = {
            target: explain(net, images, pair, Asked(layers(net), target=target)).popitem()[1]
            for target in (0, 1, Contrast(0, 1, 0.5))
        }

        torch.testing.assert_close(found[Contrast(0, 1, 0.5)], found[0] - 0.5 * found[1])

    def test_classes_can_be_given_by_image(self, times_gradient):
        """A tensor fixes the class of each image, whatever the network predicts."""
        net, images, pair = multi_logit(3), pictures(), [(times_gradient(), "features")]
        found = explain(net, images, pair, Asked(layers(net), target=torch.tensor([2, 0, 1])))
        single = [explain(net, images, pair, Asked(layers(net), target=c)) for c in range(3)]

        for index, chosen in enumerate([2, 0, 1]):
            wanted = single[chosen]["timesgradient", "features"][index]
            torch.testing.assert_close(found["timesgradient", "features"][index], wanted)

    def test_the_label_is_explained_where_there_is_one(self, times_gradient):
        """The target ``label`` follows the labels that are given."""
        net, images, pair = multi_logit(3), pictures(1), [(times_gradient(), "features")]
        labels = torch.tensor([[False, False, True]])
        found = explain(net, images, pair, Asked(layers(net), target="label", labels=labels))

        torch.testing.assert_close(found, explain(net, images, pair, Asked(layers(net), target=2)))

    @pytest.mark.parametrize("target", [3, -1, "tumour", torch.tensor([0, 1, 3])])
    def test_a_class_that_there_is_not_is_one_line(self, target, times_gradient):
        """A class out of range is refused with the range."""
        net = multi_logit(3)
        with pytest.raises(ModelError, match=r"class.*0 to 2"):
            explain(net, pictures(), [(times_gradient(), "features")], Asked(layers(net), target=target))

    def test_a_target_of_another_length_is_refused(self, times_gradient):
        """One class per image is wanted, and said so."""
        net = multi_logit(3)
        asked = Asked(layers(net), target=torch.tensor([0.5]))
        with pytest.raises(UsageError, match=r"int64 \(3,\)"):
            explain(net, pictures(), [(times_gradient(), "features")], asked)

    def test_a_layer_that_is_not_known_is_refused(self, times_gradient):
        """An explainer that reads a layer that there is not is told which there are."""
        net = multi_logit(3)
        with pytest.raises(ModelError, match="nowhere"):
            explain(net, pictures(), [(times_gradient(), "nowhere")], Asked(layers(net)))

    def test_a_map_of_another_shape_is_refused(self):
        """What is returned must lie on the grid."""

        class Small(Slope):
            def attribute(self, batch, layer, target):
                return torch.zeros(len(batch.images), 2, 2)

        with pytest.raises(SchemaError, match="wrong shape"):
            explain(multi_logit(3), pictures(), [(Small(), INPUT)], Asked({}))

    @pytest.mark.parametrize("make", [multi_logit, inplace])
    def test_nothing_is_left_on_the_network(self, make, times_gradient):
        """Flags, hooks, children, gradients and buffers are those from before, after an error too."""
        net = make().train()
        next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
        before = fingerprint(net)
        explain(net, pictures(), [(times_gradient(), "features"), (Slope(), INPUT)], Asked(layers(net)))
        with pytest.raises(RuntimeError, match="half-way"):
            explain(net, pictures(), [(Broken(), INPUT)], Asked({}))

        assert before.differences(fingerprint(net)) == ()
        assert not hasattr(net, "extra")


class TestLent:
    def test_gradients_work_inside_no_grad_and_inference(self):
        """Whoever borrows the network can differentiate, wherever the caller is."""
        net = multi_logit(3)
        with torch.inference_mode(), lent(net) as module:
            images = pictures().clone().requires_grad_()
            assert module(images).requires_grad

    def test_in_eval_mode_and_frozen(self):
        """Inside, every part is in eval mode and no parameter asks for a gradient."""
        net = multi_logit(3).train()
        with lent(net) as module:
            assert not any(part.training for part in module.modules())
            assert not any(parameter.requires_grad for parameter in module.parameters())
        assert all(part.training for part in net.modules())

    def test_a_replaced_child_is_put_back(self):
        """Rewiring the network is undone."""
        net = multi_logit(3)
        child = net.features
        with lent(net) as module:
            module.features = nn.Identity()
            module.register_forward_hook(lambda *_: None)
        assert net.features is child
        assert not net._forward_hooks

    @pytest.mark.parametrize("write", ["in place", "another tensor"])
    def test_written_parameters_are_refused(self, write):
        """Values of parameters cannot be given back, so that writing into them is an error."""
        found: list[str] = []
        try:
            with lent(multi_logit(3)) as module:
                parameter = next(module.parameters())
                if write == "in place":
                    parameter.add_(1)
                else:
                    parameter.data = parameter.data.clone()
        except ModelError as error:
            found.append(str(error))
        assert "written into" in found[0]
        assert "weight" in found[0]
