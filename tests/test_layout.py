"""How layers order their maps: inferred, said, converted, and without effect on any number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsss_probe.contracts import Contrast, Layout
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.head import find_head
from wsss_probe.influence import UNREACHED, without_gradient
from wsss_probe.layers import choose_layers, describe_layers
from wsss_probe.layout import (
    NO_FIT,
    asked_layout,
    from_maps,
    infer_layout,
    parse_layout,
    parse_layouts,
    prefix_tokens,
    to_maps,
)
from wsss_probe.taps import PassOptions, Resumer, find_module, run_pass
from wsss_probe.testing import models
from wsss_probe.testing.layouts import class_token, laid_out
from wsss_probe.zoo import ensure_torchvision

KINDS = ("NCHW", "NHWC", "tokens")
SIZE = (16, 24)


def pictures(number=3, size=SIZE):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *size), generator=torch.Generator().manual_seed(0))


def described(module, size=SIZE, layouts=None):
    """Layers of a network by name."""
    return {info.name: info for info in describe_layers(module, pictures(1, size), layouts)}


def small_vit():
    """A vision transformer of torchvision with a head that is not zero."""
    ensure_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=3)
    torch.nn.init.normal_(net.heads.head.weight)
    return net.eval()


def small_swin():
    """A Swin transformer of torchvision: rows and columns before channels."""
    ensure_torchvision()
    from torchvision.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    arguments = {"patch_size": [2, 2], "window_size": [2, 2], "embed_dim": 8, "num_classes": 3}
    return SwinTransformer(depths=[2, 2], num_heads=[1, 2], **arguments).eval()


# -- conversion --------------------------------------------------------------------------------


def slow_maps(layout, output):
    """Maps cell by cell: the slow reference."""
    images = output.shape[0]
    if layout.kind == "tokens":
        rows, columns, channels = *layout.grid, output.shape[2]
    else:
        order = (1, 2, 3) if layout.kind == "NHWC" else (2, 3, 1)
        rows, columns, channels = (output.shape[axis] for axis in order)
    maps = torch.zeros(images, channels, rows, columns)
    for image in range(images):
        for channel in range(channels):
            for row in range(rows):
                for column in range(columns):
                    place = {
                        "NCHW": (image, channel, row, column),
                        "NHWC": (image, row, column, channel),
                        "tokens": (image, layout.prefix + row * columns + column, channel),
                    }[layout.kind]
                    maps[image, channel, row, column] = output[tuple(place[: output.ndim])]
    return maps


@st.composite
def outputs(draw):
    """A layout and an output that has it."""
    kind = draw(st.sampled_from(KINDS))
    images, channels, rows, columns = (draw(st.integers(1, 4)) for _ in range(4))
    prefix = draw(st.integers(0, 3)) if kind == "tokens" else 0
    layout = Layout(kind, prefix, (rows, columns) if kind == "tokens" else None)
    shape = {
        "NCHW": (images, channels, rows, columns),
        "NHWC": (images, rows, columns, channels),
        "tokens": (images, prefix + rows * columns, channels),
    }[kind]
    return layout, torch.rand(shape, generator=torch.Generator().manual_seed(1))


@given(outputs())
def test_maps_are_cells_of_the_output(case):
    """Maps equal those taken cell by cell, and are views: nothing is copied."""
    layout, output = case

    maps = to_maps(layout, output)

    assert torch.equal(maps, slow_maps(layout, output))
    assert maps.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()


@given(outputs(), st.integers(1, 3))
def test_back_and_forth_is_the_same(case, copies):
    """Maps put back are the output, for whole copies of the batch as well."""
    layout, output = case
    many = output.repeat(copies, *[1] * (output.ndim - 1))

    back = from_maps(layout, to_maps(layout, many), prefix_tokens(layout, output))

    assert torch.equal(back, many)


def test_nothing_happens_to_channels_first():
    """The usual layout costs nothing: the very same tensor comes back, both ways."""
    output = torch.rand(2, 3, 4, 5)

    assert to_maps(Layout(), output) is output
    assert from_maps(Layout(), output) is output


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (Layout("tokens", 1, (2, 2)), (1, 4, 3), "layout tokens:2x2+1 does not fit; found: an output"),
        (Layout("NHWC"), (1, 4, 3), "layout NHWC does not fit; found: an output of shape (4, 3)"),
    ],
)
def test_an_output_of_another_shape_is_refused(layout, shape, message):
    """A number of tokens or dimensions that does not fit is one line."""
    with pytest.raises(ModelError) as caught:
        to_maps(layout, torch.zeros(shape))
    assert str(caught.value).startswith(message)


def test_prefix_tokens_are_not_made_up():
    """Maps alone cannot be put back where tokens stand before them."""
    with pytest.raises(ModelError, match="lacks its prefix tokens"):
        from_maps(Layout("tokens", 1, (2, 2)), torch.zeros(1, 3, 2, 2))


# -- inference ---------------------------------------------------------------------------------

SQUARE, WIDE = (3, 224, 224), (3, 224, 320)
EMBED = ((768, 14, 14),)

INFERRED = [
    # tokens: no, one, two and five before the grid; patches of 16, 14 and 8 pixels
    ((1, 196, 768), SQUARE, EMBED, "tokens:14x14"),
    ((1, 197, 768), SQUARE, EMBED, "tokens:14x14+1"),
    ((1, 198, 192), SQUARE, EMBED, "tokens:14x14+2"),
    ((1, 201, 768), SQUARE, EMBED, "tokens:14x14+5"),
    ((1, 197, 1024), SQUARE, EMBED, "tokens:14x14+1"),
    ((1, 1370, 384), (3, 518, 518), (), "tokens:37x37+1"),
    ((1, 281, 768), WIDE, (), "tokens:14x20+1"),
    ((1, 785, 384), SQUARE, (), "tokens:28x28+1"),
    # the channels are as many as the grid has cells, and earlier maps have as many channels
    ((1, 17, 16), (3, 32, 32), ((16, 4, 4),), "tokens:4x4+1"),
    # not every number of tokens is a grid
    ((1, 195, 768), SQUARE, EMBED, None),
    ((1, 202, 768), SQUARE, EMBED, None),
    ((1, 50, 768), WIDE, (), None),
    # maps that were flattened: channels first
    ((1, 512, 49), SQUARE, ((512, 7, 7), (256, 14, 14)), None),
    ((1, 196, 49), SQUARE, ((512, 7, 7), (256, 14, 14)), None),
    ((1, 16, 16), (3, 32, 32), ((16, 4, 4),), None),
    # two grids are possible
    ((1, 9, 8), (3, 12, 12), ((4, 3, 3), (4, 2, 2)), None),
    # the image does not stand first
    ((197, 1, 768), SQUARE, EMBED, None),
    ((64, 7, 7, 96), SQUARE, (), None),
    # rows and columns first
    ((1, 56, 56, 96), SQUARE, (), "NHWC"),
    ((1, 7, 7, 768), SQUARE, (), "NHWC"),
    ((1, 28, 40, 192), WIDE, (), "NHWC"),
    ((1, 7, 10, 8), WIDE, (), "NHWC"),
    ((1, 1, 1, 768), SQUARE, (), "NHWC"),
    ((1, 320, 224, 96), (3, 1280, 896), (), "NHWC"),
    # channels first: whole strides, rounded up, without padding, pooled to one cell, more cells than pixels
    ((1, 64, 56, 56), SQUARE, (), "NCHW"),
    ((1, 7, 7, 7), SQUARE, (), "NCHW"),
    ((1, 6, 8, 16), (3, 16, 24), (), "NCHW"),
    ((1, 768, 1, 1), SQUARE, (), "NCHW"),
    ((1, 3, 448, 448), SQUARE, (), "NCHW"),
    ((1, 12, 197, 64), SQUARE, (), "NCHW"),
    ((1, 1000), SQUARE, (), None),
    ((1, 8, 2, 4, 4), SQUARE, (), None),
]


@pytest.mark.parametrize(("shape", "input_shape", "seen", "expected"), INFERRED)
def test_the_layout_of_known_outputs(shape, input_shape, seen, expected):
    """Outputs of transformers, Swin and convolutional networks are told apart; doubtful ones are no map."""
    layout, _ = infer_layout(shape, input_shape, seen)

    assert (None if layout is None else str(layout)) == expected


def test_what_is_doubtful_has_a_reason():
    """Two readings, a flattened map and heads beside tokens are named; a plain map has no reason."""
    reasons = [infer_layout(*case)[1] for case in (c[:3] for c in INFERRED)]
    by_shape = {case[0]: reason for case, reason in zip(INFERRED, reasons, strict=True)}

    assert by_shape[1, 64, 56, 56] == by_shape[1, 7, 7, 768] == by_shape[1, 197, 768] == ""
    assert by_shape[1, 7, 7, 7] == "it could be NHWC as well, by its shape"
    assert by_shape[1, 12, 197, 64] == NO_FIT
    assert by_shape[1, 9, 8].startswith("its tokens could be tokens:3x3 or tokens:2x2+5: say")
    assert by_shape[1, 16, 16].startswith("16 are the cells of earlier maps")
    assert by_shape[197, 1, 768] == "its first dimension, 197 for one image, is not the image"
    assert by_shape[1, 195, 768].startswith("no grid of earlier maps has 195 cells")


@given(
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.integers(1, 32),
    st.integers(0, 30),
    st.integers(1, 2048),
)
def test_a_convolutional_network_is_never_taken_for_another(size, stride, border, channels):
    """Whatever the channels, maps at a common stride with a lost border are NCHW."""
    border = min(border, min(size) // 2 - stride)
    rows, columns = ((side - border) // stride if border >= 0 else 1 for side in size)

    layout, reason = infer_layout((1, channels, rows, columns), (3, *size))

    assert layout == Layout()
    assert reason != NO_FIT


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 5), st.integers(0, 5))
def test_tokens_of_a_patch_embedding_are_found(rows, columns, prefix, patch):
    """Tokens after the maps of a patch embedding get its grid, unless two readings are possible."""
    seen = ((24, rows, columns),)
    layout, reason = infer_layout(
        (1, rows * columns + prefix, 24), (3, rows * (patch + 1), columns * (patch + 1)), seen
    )

    assert layout == Layout("tokens", prefix, (rows, columns)) or "could" in reason or "may" in reason


def test_a_module_of_two_dimensions_is_channels_first():
    """A name that ends in 2d settles what the shape leaves open, or has wrong."""
    assert infer_layout((1, 16, 16, 4), (3, 32, 32))[0] == Layout("NHWC")
    assert infer_layout((1, 16, 16, 4), (3, 32, 32), (), "MaxPool2d") == (Layout(), "")


def test_where_the_rule_fails():
    """Rows and columns first with as many channels as columns look like channels first; one can say so."""
    assert infer_layout((1, 8, 8, 8), (3, 32, 32)) == (Layout(), "it could be NHWC as well, by its shape")


# -- said by the user --------------------------------------------------------------------------


@given(outputs())
def test_a_layout_is_read_as_it_is_written(case):
    """The words for a layout mean this layout."""
    assert parse_layout(str(case[0])) == case[0]


@pytest.mark.parametrize(
    "text", ["nchw", "tokens", "tokens:14", "tokens:0x3", "tokens:2x2+", "tokens:2x2-1", ""]
)
def test_words_that_mean_no_layout(text):
    """They are one line with the words that do."""
    with pytest.raises(
        UsageError, match=r"layout of 'a' cannot be read; .*wanted: NCHW, NHWC or tokens:ROWS"
    ):
        parse_layout(text, "a")


def test_layouts_by_layer():
    """Commas separate layers; the name stands before the sign of equality."""
    assert parse_layouts("blocks.11=tokens:14x14+1, a.*=NHWC") == {
        "blocks.11": "tokens:14x14+1",
        "a.*": "NHWC",
    }
    for text in ("blocks.11", "=NHWC", "a="):
        with pytest.raises(UsageError, match="--layouts cannot be read; found"):
            parse_layouts(text)


def test_a_name_wins_over_a_pattern():
    """A layer's own name, or its module's, counts before patterns; the last pattern before others."""
    asked = {"relu": Layout("NHWC"), "*": Layout(), "re*": Layout("tokens", 0, (2, 2))}

    assert asked_layout("relu#1", asked) == ("relu", Layout("NHWC"))
    assert asked_layout("rest", asked) == ("re*", asked["re*"])
    assert asked_layout("other", {"relu": Layout()}) is None


def test_what_is_said_counts():
    """A layout given by name or pattern is taken instead of the inferred one; others stay inferred."""
    said = {"block": Layout("tokens", 1, (6, 4)), "em*": Layout("NHWC")}
    layers = described(laid_out("tokens"), layouts=said)

    assert (layers["block"].native, layers["block"].shape) == (said["block"], (12, 6, 4))
    assert (layers["embed"].native, layers["embed"].shape) == (Layout("NHWC"), (6, 6, 4))
    assert layers["classifier"].layout == "vector"


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        (
            "block",
            "tokens:5x5+1",
            "layout tokens:5x5+1 does not fit layer 'block'; found: an output of",
        ),
        ("classifier", "NHWC", "layout NHWC does not fit layer 'classifier'; found: an output of"),
        (
            "blok",
            "NHWC",
            "a layout is given for no layer that it fits; found: blok; remedy: did you mean",
        ),
        ("c*", "NHWC", "a layout is given for no layer that it fits; found: c*"),
    ],
)
def test_what_is_said_must_fit(name, layout, message):
    """A layout that does not fit its layer, or is said of none, is one line."""
    with pytest.raises(ModelError) as caught:
        described(laid_out("tokens"), layouts={name: parse_layout(layout)})
    assert str(caught.value).startswith(message)


# -- layers ------------------------------------------------------------------------------------


def test_layers_are_described_as_maps():
    """Shape and stride are those of the maps; the layout says how the network orders them."""
    found = {kind: described(laid_out(kind))["block"] for kind in KINDS}

    assert {kind: str(info.native) for kind, info in found.items()} == {
        "NCHW": "NCHW",
        "NHWC": "NHWC",
        "tokens": "tokens:4x6+1",
    }
    assert {(info.shape, info.layout, info.stride) for info in found.values()} == {((12, 4, 6), "maps", 4.0)}


def test_torchvisions_transformers_are_read():
    """Class token and patches of a vision transformer; rows and columns first in Swin, not in its end."""
    vit, swin = described(small_vit(), (32, 32)), described(small_swin(), (32, 48))

    assert str(vit["encoder.layers.encoder_layer_1"].native) == "tokens:4x4+1"
    assert vit["encoder.layers.encoder_layer_1"].shape == (16, 4, 4)
    assert (str(swin["norm"].native), swin["norm"].shape) == ("NHWC", (16, 8, 12))
    assert (str(swin["permute"].native), swin["permute"].shape) == ("NCHW", (16, 8, 12))


@pytest.mark.parametrize(
    ("name", "arguments", "chosen", "layout"),
    [
        ("test_vit", {}, "blocks.5.norm1", "tokens:10x10+1"),
        ("vit_tiny_patch16_224", {"depth": 2, "reg_tokens": 4}, "blocks.1.norm1", "tokens:14x14+5"),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}, "blocks.1.norm1", "tokens:14x14+2"),
        (
            "vit_tiny_patch16_224",
            {"depth": 2, "class_token": False, "global_pool": "avg"},
            "blocks",
            "tokens:14x14",
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 1, 1, 1), "embed_dim": 24},
            "norm",
            "NHWC",
        ),
    ],
)
def test_timms_transformers_are_read(name, arguments, chosen, layout):
    """Registers, a distillation token and no class token at all; the last layer chosen has a gradient."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, **arguments).eval()
    images = torch.rand(1, *net.default_cfg["input_size"])

    layers = {info.name: info for info in describe_layers(net, images)}
    last = choose_layers(list(layers.values())).names[-1]

    assert (last, str(layers[last].native)) == (chosen, layout)
    assert without_gradient(net, images, [layers[last]]) == {}


# -- what the logits read ----------------------------------------------------------------------


def test_patches_without_a_part_in_the_logits_are_marked():
    """After the last attention the class token alone counts; before it all do, and where all are averaged."""
    layers = described(class_token())
    unread = {name for name, info in layers.items() if not info.reached}

    assert unread == {"blocks.1.query", "blocks.1", "blocks"}
    assert {layers[name].reason for name in unread} == {UNREACHED}
    assert all(info.reached for info in described(laid_out("tokens")).values())
    assert all(info.reached for info in described(models.branched()).values())


def test_a_dead_network_is_not_marked():
    """No gradient at all is no sign of a class token: a head of zeros marks nothing."""
    net = class_token()
    torch.nn.init.zeros_(net.classifier.weight)

    assert all(info.reached for info in described(net).values())


def test_one_patch_that_is_read_is_enough():
    """A layer of which the logits read the class token and a single patch is not marked."""
    net = laid_out("tokens")
    net.forward = lambda images: net.classifier(net.block(net.embed(images))[:, :2].sum(1))

    assert described(net)["block"].reached


def test_automatic_choice_enters_the_last_block():
    """Where a class token is read the last block's normalisation is chosen, and the reason says so."""
    ours = choose_layers(list(described(class_token()).values()))
    theirs = choose_layers(list(described(small_vit(), (32, 32)).values()))

    assert ours.names == ("blocks.1.norm",)
    assert theirs.names == ("encoder.layers.encoder_layer_2.ln_1",)
    assert "where the logits read a class token" in ours.reason


def test_a_block_without_a_normalisation_is_its_predecessor():
    """Without a normalisation at its entry, the block before the last is chosen."""
    net = class_token()
    for block in net.blocks:
        block.norm = torch.nn.Tanh()

    assert choose_layers(list(described(net).values())).names == ("blocks.0",)


def test_layers_without_a_gradient_are_named():
    """Patches without a part, and a layer beside the path, have their reasons; the others have none."""

    class Beside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.aside = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)
            self.index = torch.nn.Identity()

        def forward(self, images):
            self.aside(images)
            self.index(images.long())
            return self.conv(images).mean((2, 3))

    layers, tokens = described(Beside()), described(class_token())

    found = without_gradient(Beside(), pictures(1), list(layers.values()))
    assert found == {
        "aside": "no gradient: logits that do not depend on it",
        "index": "no gradient: values of torch.int64",
    }
    chosen = [tokens["blocks.0"], tokens["blocks.1"]]
    assert without_gradient(class_token(), pictures(1), chosen) == {"blocks.1": UNREACHED}


# -- no number depends on the layout -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["NHWC", "tokens"])
@pytest.mark.parametrize("target", ["predicted", 2, Contrast(0, 1)])
def test_activations_and_gradients_agree(kind, target):
    """Maps and their gradients are those of the same network with channels first."""
    images = pictures()
    weights = torch.tensor([[0.5, -1.0, 2.0]]).repeat(len(images), 1)
    found = {}
    for own in ("NCHW", kind):
        net = laid_out(own)
        info = described(net)["block"]
        found[own] = run_pass(net, images, [info], PassOptions({target: ("block",)}, {target: weights}))

    torch.testing.assert_close(found[kind].logits, found["NCHW"].logits)
    torch.testing.assert_close(found[kind].activations["block"], found["NCHW"].activations["block"])
    assert found[kind].gradients["block", target].abs().sum() > 0
    torch.testing.assert_close(
        found[kind].gradients["block", target], found["NCHW"].gradients["block", target]
    )


def test_tokens_before_the_grid_are_kept_apart():
    """The pass hands them out beside the maps; other layouts have none."""
    images, net = pictures(), laid_out("tokens")
    layers = described(net)

    captured = run_pass(net, images, [layers["embed"], layers["block"]])

    assert set(captured.prefixes) == {"block"}
    assert captured.prefixes["block"].shape == (3, 1, 12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [True, False])
def test_resuming_agrees(kind, given):
    """Changed maps give the logits of a pass in which a hook replaces them; tokens before them stay."""
    net, images = laid_out(kind), pictures(4)
    info = described(net)["block"]
    captured = run_pass(net, images, [info])
    changed = torch.cat([captured.activations["block"] * 0.5, captured.activations["block"].flip(0)])

    resumer = Resumer(net, info, images)
    found = resumer(changed, images, captured.prefixes.get("block") if given else None)

    def replace_output(_module, _inputs, output):
        maps = changed.permute(0, 2, 3, 1)
        if kind == "tokens":
            return torch.cat([output[:, :1], maps.flatten(1, 2)], dim=1)
        return maps if kind == "NHWC" else changed

    with find_module(net, "block").register_forward_hook(replace_output):
        expected = run_pass(net, images.repeat(2, 1, 1, 1), ()).logits
    torch.testing.assert_close(found, expected)
    assert resumer.skips is (kind == "tokens")  # the others' summary goes around the layer


def test_resuming_a_vision_transformer():
    """The rest of torchvision's transformer runs from changed patches of its first block."""
    net, images = small_vit(), pictures(5, (32, 32))
    info = described(net, (32, 32))["encoder.layers.encoder_layer_0"]
    maps = run_pass(net, images, [info]).activations[info.name]

    resumer = Resumer(net, info, images)

    assert resumer.skips
    torch.testing.assert_close(resumer(maps), run_pass(net, images, ()).logits)
    assert not torch.allclose(resumer(maps * 0), run_pass(net, images, ()).logits)


def test_heads():
    """Swin averages maps before its linear layer; a class token is no mean of maps, and it is said why."""
    heads = {}
    for name, net, size in (("vit", small_vit(), (32, 32)), ("swin", small_swin(), (32, 48))):
        heads[name] = find_head(net, pictures(4, size), list(described(net, size).values()))

    assert (heads["swin"].linear, heads["swin"].layer) == (True, "permute")
    assert not heads["vit"].linear
    assert "is not the logits for any maps" in heads["vit"].reason


@pytest.mark.parametrize(
    ("shape", "seen", "wanted"),
    [
        ((1, 7, 10, 9), [(7, 10, 9)], "NCHW"),
        ((1, 7, 10, 9), [], "NHWC"),
        ((1, 7, 10, 9), [(9, 7, 10)], "NHWC"),
        ((1, 7, 7, 96), [(96, 7, 7)], "NHWC"),
    ],
)
def test_what_works_on_single_values_keeps_the_layout(shape, seen, wanted):
    """An activation behind a convolution has its layout, whatever its sizes look like."""
    assert str(infer_layout(shape, (3, 24, 36), seen, "ReLU")[0]) == wanted
