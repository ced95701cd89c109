"""Every explainer leaves the network as it was found, after success and after an error inside."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from wsss_probe_explainers import wsss_probe_explainers

from wsss_probe import surroundings
from wsss_probe.certificate import fingerprint
from wsss_probe.explaining import Asked, explain, input_layer
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers

OFFERED = {
    # a fusion suits no layer until it is told which
    e.name: replace(e, layers=("features",)) if hasattr(e, "layers") else e
    for e in wsss_probe_explainers()
}


class Trap(nn.Module):
    """Counts forward and backward passes outside of itself, and raises in the one it is told."""

    def __init__(self, seen):
        super().__init__()
        # a list in a list: nothing that is taken off the module with its attributes
        self.seen = seen

    def forward(self, maps):
        """Pass maps on."""
        self.seen["forward"] += 1
        if self.seen["forward"] == self.seen["raises in forward"]:
            raise RuntimeError("trapped")
        if maps.requires_grad:
            maps = maps.clone()
            maps.register_hook(self.back)
        return maps

    def back(self, slope):
        """Count a backward pass."""
        self.seen["backward"] += 1
        if self.seen["backward"] == self.seen["raises in backward"]:
            raise RuntimeError("trapped")
        return slope


class FineTuned(nn.Module):
    """A network as users have it: train mode, frozen BatchNorm in eval mode, dropout, own hooks."""

    def __init__(self, seen):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.trap = Trap(seen)
        self.features = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.dropout, self.classifier = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, images):
        """Give logits (image, class)."""
        return self.classifier(self.dropout(self.features(self.trap(self.stem(images))).mean((2, 3))))


def fine_tuned():
    """Build it with gradients from a last training step, one frozen part, and a hook of the user's."""
    seen = {"forward": 0, "backward": 0, "raises in forward": -1, "raises in backward": -1}
    torch.manual_seed(0)
    model = FineTuned(seen).train()
    model(torch.rand(4, 3, 12, 12)).sum().backward()
    model.stem[1].eval()
    model.stem[0].requires_grad_(False)
    model.features[0].weight.grad = None
    model.features.register_forward_hook(lambda *_: None)
    return model, seen


def state(model):
    """What a fingerprint does not hold: attributes and their types, and which hooks there are."""
    return {
        name: {
            key: (id(value) if isinstance(value, dict) else repr(type(value)))
            for key, value in vars(part).items()
        }
        | {"inplace": getattr(part, "inplace", None), "hooks": list(part._forward_hooks)}
        for name, part in model.named_modules()
    }


def attempt(explainer, model, images):
    """Explain as anybody does; say what was raised."""
    layers = {info.name: info for info in describe_layers(model, images[:1]) if info.layout == "maps"}
    head = find_head(model, images, list(layers.values()))
    infos = [input_layer(images.shape[1:])] if explainer.grid == "input" else list(layers.values())
    fitting = [info.name for info in infos if not explainer.accepts(info, head)]
    assert fitting

    def run():
        explain(model, images, [(explainer, fitting[-1])], Asked(layers, head))

    return run


@pytest.mark.parametrize("ends", ["success", "forward", "backward"])
@pytest.mark.parametrize("explainer", OFFERED.values(), ids=OFFERED)
def test_an_explainer_leaves_no_trace(explainer, ends):
    """Weights, buffers, flags, gradients, hooks, attributes, images and random states are as before."""
    model, seen = fine_tuned()
    images = torch.rand(3, 3, 12, 12)
    run = attempt(explainer, model, images)
    if ends != "success":
        seen["forward"] = seen["backward"] = 0
        run()
        if not seen[ends]:
            assert ends == "backward"
            return
        # the last pass is where most has been changed
        seen[f"raises in {ends}"] = seen[ends]
    seen["forward"] = seen["backward"] = 0
    before, attributes, kept = fingerprint(model), state(model), copy.deepcopy(images)
    around = surroundings.read()

    if ends == "success":
        run()
    else:
        with pytest.raises(Exception, match="trapped"):
            run()

    changed = surroundings.restore(around)
    assert before.differences(fingerprint(model)) == ()
    assert state(model) == attributes
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert changed == ()


def test_every_explainer_of_the_plugin_is_tried():
    """Maps on layers, maps on the input and adapters are all in this test."""
    assert {item.name for item in wsss_probe_explainers()} == set(OFFERED)
    assert {"gradcam", "deeplift", "scorecam", "gradcam-by-captum"} <= set(OFFERED)
