"""The maps of a network do not depend on how it orders its activations."""

import pytest
import torch
import wsss_probe_explainers

from wsss_probe.contracts import Head
from wsss_probe.errors import ModelError
from wsss_probe.explaining import Asked, explain
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers
from wsss_probe.testing.layouts import class_token, laid_out

OFFERED = {explainer.name: explainer for explainer in wsss_probe_explainers.wsss_probe_explainers()}


def maps_of(net, explainer, images, layer="block"):
    """Maps of one explainer at a layer, or at the input; None where it does not suit."""
    layers = {info.name: info for info in describe_layers(net, images[:1])}
    head = find_head(net, images, list(layers.values()))
    if explainer.grid == "layer" and explainer.accepts(layers[layer], head):
        return None
    audited = {name: layers[name] for name in ("embed", layer)}
    pair = (explainer, layer if explainer.grid == "layer" else "input")
    torch.manual_seed(0)
    return explain(net, images, [pair], Asked(audited, head))[explainer.name, pair[1]]


def maps_or_none(explainer, kind, images):
    """Maps of the network in a layout, or None where the explainer says that it needs channels first."""
    try:
        return maps_of(laid_out(kind), explainer, images)
    except ModelError as error:
        if "channels first" in (error.wanted or ""):
            return None
        raise


@pytest.mark.parametrize("kind", ["NHWC", "tokens"])
@pytest.mark.parametrize("name", sorted(OFFERED))
def test_maps_agree_in_every_layout(name, kind):
    """Rows and columns first, and tokens behind one more token, give the maps of channels first."""
    images = torch.rand((3, 3, 16, 24), generator=torch.Generator().manual_seed(0))
    wanted, found = (maps_or_none(OFFERED[name], own, images) for own in ("NCHW", kind))

    # a head that averages these maps is there in no layout; tools of other people need channels first
    if found is None:
        assert name in {"cam", "fusion", "guided-gradcam"} or "-by-" in name
        return
    assert wanted is not None
    largest = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * largest)


def test_the_last_normalisation_of_a_transformer_has_a_map():
    """Gradients at the patches that the last attention reads are not zero, and neither is the map."""
    images = torch.rand((3, 3, 16, 24), generator=torch.Generator().manual_seed(0))
    layers = {info.name: info for info in describe_layers(class_token(), images[:1])}
    explainer = OFFERED["layercam"]

    assert explainer.accepts(layers["blocks.1.norm"], Head(linear=False)) == ""
    maps = maps_of(class_token(), explainer, images, "blocks.1.norm")
    assert maps.shape == (3, 4, 6)
    assert bool(maps.flatten(1).any(dim=1).all())
