"""The pass: activations, gradients, what it refuses, and that it leaves nothing behind."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import LayerGradCam
from torch import nn

from wsss_probe.certificate import fingerprint
from wsss_probe.errors import ModelError
from wsss_probe.layers import describe_layers
from wsss_probe.taps import PassOptions, Resumer, evaluating, find_module, run_pass
from wsss_probe.testing import models
from wsss_probe.zoo import ensure_torchvision


@pytest.fixture
def images():
    """Three small images, wider than high."""
    return torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def layer_of(module, name, images):
    """Describe one layer."""
    return next(layer for layer in describe_layers(module, images[:1]) if layer.name == name)


def tapped(module, images, *names, **options):
    """Run the pass on layers given by name."""
    return run_pass(
        module, images, [layer_of(module, name, images) for name in names], PassOptions(**options)
    )


def resnet18():
    """Build a ResNet-18 with random weights."""
    ensure_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(3)
    return resnet18(num_classes=3).eval()


class Failing(nn.Module):
    """Raises after its first layer; draws random numbers and writes into a buffer before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 3)
        self.fails = True

    def forward(self, images):
        """Write into a buffer, then raise."""
        maps = self.norm(self.conv(images))
        self.norm.running_mean.add_(torch.rand(4) + np.random.rand() + random.random())
        if self.fails:
            raise ValueError("broken on purpose")
        return self.last(maps).mean((2, 3))


# -- activations -------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [models.inplace, models.branched, models.multi_logit])
def test_activations_equal_a_clone_taken_by_a_plain_hook(build, images):
    """Every layer's activation is what a plain hook clones at that moment, in-place operations or not."""
    module = build()
    layers = [layer for layer in describe_layers(module, images[:1]) if layer.calls]
    expected = {}
    for layer in layers:
        keep = lambda _m, _i, output, name=layer.name: expected.setdefault(name, output.clone())  # noqa: E731
        module.get_submodule(layer.name).register_forward_hook(keep)
    logits = module(images).detach()

    captured = run_pass(module, images, layers)

    torch.testing.assert_close(captured.logits, logits, rtol=0, atol=0)
    for layer in layers:
        assert torch.equal(captured.activations[layer.name], expected[layer.name].detach())
        assert not captured.activations[layer.name].requires_grad


def test_some_tested_layer_is_really_overwritten(images):
    """The in-place network overwrites its BatchNorm output, so the clone above is needed."""
    module, seen = models.inplace(), []
    module.get_submodule("features.1").register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        module(images)

    kept = tapped(module, images, "features.1").activations["features.1"]

    assert float(seen[0].min()) >= 0 > float(kept.min())


def test_a_module_that_runs_twice_is_indexed_by_call(images):
    """Calls of a reused module are separate layers; the bare name is the last call, with a note."""
    module = models.reused()
    first, second = (layer_of(module, f"relu#{call}", images) for call in (0, 1))

    captured = run_pass(module, images, [first, second, replace(second, name="relu")])

    maps = captured.activations
    assert torch.equal(maps["relu#0"], torch.relu(module.first(images)))
    assert torch.equal(maps["relu#1"], torch.relu(module.second(maps["relu#0"])))
    assert torch.equal(maps["relu"], maps["relu#1"])
    assert captured.notes == ("relu runs 2 times; its last call is taken",)


def test_the_pass_stops_after_the_deepest_layer(images):
    """Without logits and gradients nothing behind the last tapped layer runs; there are no logits."""
    module, ran = models.reused(), []
    first, early, late = (layer_of(module, name, images) for name in ("first", "relu#0", "relu#1"))
    module.second.register_forward_hook(lambda *_: ran.append("second"))
    module.classifier.register_forward_hook(lambda *_: ran.append("classifier"))

    captured = run_pass(module, images, [early, first], PassOptions(logits=False))
    deeper = run_pass(module, images, [late], PassOptions(logits=False))
    assert ran == ["second"]
    run_pass(module, images, [late])

    assert (captured.logits, set(captured.activations)) == (None, {"first", "relu#0"})
    assert deeper.activations["relu#1"].shape == (3, 8, 4, 6)
    assert ran == ["second", "second", "classifier"]


def test_nothing_asked_runs_nothing(images):
    """With no layer and no logits wanted the network is not called."""
    module = models.reused()
    module.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))

    assert run_pass(module, images, (), PassOptions(logits=False)).activations == {}


def test_a_container_with_one_tensor_is_tapped(images):
    """The only tensor of a mapping is the activation, and its gradient flows on through the mapping."""
    module = models.tuple_output()

    captured = tapped(module, images, "boxed", gradients={2: ["boxed"]}, targets={2: torch.tensor([2, 2, 2])})

    maps = captured.activations["boxed"]
    torch.testing.assert_close(captured.logits, module.classifier(maps.mean((2, 3))).detach())
    weight = module.classifier.weight.detach()[2] / maps[0, 0].numel()
    expected = weight[None, :, None, None].expand_as(maps)
    torch.testing.assert_close(captured.gradients["boxed", 2], expected)


@pytest.mark.parametrize(("name", "found"), [("pair", "[0] (3, 4, 8, 12), [1]"), ("silent", "NoneType")])
def test_outputs_without_one_tensor_are_refused(name, found, images):
    """A layer that puts out two tensors or none is refused with the parts named."""
    module = models.tuple_output()

    with pytest.raises(ModelError) as caught:
        tapped(module, images, name)

    assert f"layer {name!r}" in str(caught.value)
    assert found in str(caught.value)


class Spare(nn.Module):
    """Has two layers of similar name, of which one never runs."""

    def __init__(self):
        super().__init__()
        self.conv_a, self.conv_b, self.conv_c = (nn.Conv2d(3, 2, 1) for _ in range(3))

    def forward(self, images):
        """Run only the first."""
        return self.conv_a(images).mean((2, 3))


def test_a_layer_that_never_runs_is_refused(images):
    """A module that is never called is an error that names it, and similar ones that do run."""
    reused = models.reused()

    with pytest.raises(ModelError, match=r"'conv_b' never runs; found: 0 calls.*; wanted: one of conv_a;"):
        tapped(Spare(), images, "conv_b")
    missing = replace(layer_of(reused, "relu#1", images), name="relu#2")
    with pytest.raises(ModelError, match=r"call 2 of layer 'relu' never runs; found: 2 calls"):
        run_pass(reused, images, [missing])
    with pytest.raises(ModelError, match="'frist' not found; wanted: one of first"):
        run_pass(reused, images, [replace(missing, name="frist")])


def test_shapes_may_vary_between_calls():
    """The same description serves images of another size and number."""
    module = models.branched()
    layer = layer_of(module, "block", torch.rand(1, 3, 8, 8))

    shapes = [run_pass(module, torch.rand(n, 3, 8, 16), [layer]).activations["block"].shape for n in (1, 4)]

    assert shapes == [(1, 8, 4, 8), (4, 8, 4, 8)]


def test_a_capture_that_is_overwritten_unexpectedly_is_an_error(images):
    """Where the description does not say that a layer is overwritten, the pass fails instead of lying."""
    module = models.inplace()
    wrong = replace(layer_of(module, "features.1", images), inplace=False)
    later = replace(layer_of(module, "features.4", images), inplace=False)
    each = torch.zeros(3, dtype=torch.int64)

    with pytest.raises(ModelError, match=r"'features\.1' is overwritten in place after it ran"):
        run_pass(module, images, [wrong])
    with pytest.raises(ModelError, match="is overwritten in place"):
        run_pass(module, images, [wrong], PassOptions({0: ["features.1"]}, {0: each}))
    first = layer_of(module, "features.0", images)
    options = PassOptions({0: ["features.0", "features.4"]}, {0: each})
    with pytest.raises(ModelError, match=r"'features\.4' is overwritten in place"):
        run_pass(module, images, [first, later], options)


@pytest.mark.parametrize("build", [models.single_logit, models.tuple_output, models.multi_logit])
def test_logits_are_image_by_class(build, images):
    """A single logit, a mapping with the logits and plain logits all come back as (image, class)."""
    module = build()
    returned = module(images)
    plain = returned["logits"] if isinstance(returned, dict) else returned

    logits = run_pass(module, images, ()).logits

    assert torch.equal(logits, plain.detach().reshape(3, -1))


def test_outputs_that_are_no_logits_are_refused(images):
    """Maps, or two tensors of the right shape, are not taken for logits."""

    class Two(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x.amax((2, 3))

    with pytest.raises(ModelError, match=r"found: \(3, 3, 8, 12\); wanted: one tensor \(image, class\)"):
        run_pass(nn.Identity(), images, ())
    with pytest.raises(ModelError, match=r"found: \[0\] \(3, 3\), \[1\] \(3, 3\)"):
        run_pass(Two(), images, ())


# -- gradients ---------------------------------------------------------------------------------


def slow_gradient(module, name, images, index, places):
    """Central differences of each image's own logit, one activation at a time."""
    target = module.get_submodule(name)
    maps = []
    handle = target.register_forward_hook(lambda _m, _i, output: maps.append(output.detach().clone()))
    with torch.no_grad():
        module(images)
    handle.remove()
    found = []
    for place in places:
        sides = []
        for step in (1e-6, -1e-6):
            changed = maps[0].clone()
            changed[place] += step
            handle = target.register_forward_hook(lambda _m, _i, _o, changed=changed: changed.clone())
            with torch.no_grad():
                sides.append(float(module(images)[place[0], index[place[0]]]))
            handle.remove()
        found.append((sides[0] - sides[1]) / 2e-6)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", ["features.0", "features.1", "features.4", "features"])
def test_gradients_equal_finite_differences(name, images):
    """The gradient at a layer is the slope of the logit when one value of the layer moves."""
    module, images = models.inplace().double(), images.double()
    index = torch.tensor([2, 0, 1])

    taken = tapped(module, images, name, gradients={"label": [name]}, targets={"label": index})

    gradient = taken.gradients[name, "label"]
    rng = np.random.default_rng(0)
    places = [tuple(int(rng.integers(n)) for n in gradient.shape) for _ in range(12)]
    expected = slow_gradient(module, name, images, index, places)
    found = torch.stack([gradient[place] for place in places])
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


ARCHITECTURES = [
    (models.inplace, ["features.1", "features.2", "features"], 12),
    (models.branched, ["stem", "block.long", "block"], 12),
    (resnet18, ["bn1", "layer2", "layer3.0.bn2", "layer4"], 64),
]


@pytest.mark.parametrize(("build", "names", "size"), ARCHITECTURES)
def test_gradients_equal_captums(build, names, size):
    """One pass gives for several layers and targets what captum gives one by one."""
    module = build()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    targets = {"predicted": None, 1: torch.tensor([1, 1]), "label": torch.tensor([2, 0])}
    chosen = lambda logits: targets | {"predicted": logits.argmax(1)}  # noqa: E731

    captured = tapped(module, images, *names, gradients=dict.fromkeys(targets, names), targets=chosen)

    for target, index in chosen(captured.logits).items():
        for name in names:
            layer = module.get_submodule(name)
            gradients, activations = compute_layer_gradients_and_eval(module, layer, images, index)
            scale = float(gradients[0].abs().max())
            assert scale > 0
            torch.testing.assert_close(
                captured.gradients[name, target], gradients[0], rtol=1e-5, atol=1e-5 * scale
            )
            torch.testing.assert_close(captured.activations[name], activations[0].detach())
        grad_cam = LayerGradCam(module, layer).attribute(images, index).detach()
        weights = captured.gradients[names[-1], target].mean((2, 3), keepdim=True)
        ours = (weights * captured.activations[names[-1]]).sum(1, keepdim=True)
        torch.testing.assert_close(ours, grad_cam, rtol=1e-5, atol=1e-5 * float(grad_cam.abs().max()))


def test_each_target_may_have_its_own_layers(images):
    """Only the pairs asked for come back, also when the layers differ between targets."""
    module = models.branched()
    index = {0: torch.zeros(3, dtype=torch.int64), 1: torch.ones(3, dtype=torch.int64)}

    wanted = {0: ["stem"], 1: ["block", "stem"]}
    captured = tapped(module, images, "stem", "block", gradients=wanted, targets=index, logits=False)
    alone = tapped(module, images, "stem", gradients={1: ["stem"]}, targets=index)

    assert set(captured.gradients) == {("stem", 0), ("block", 1), ("stem", 1)}
    torch.testing.assert_close(captured.gradients["stem", 1], alone.gradients["stem", 1])


def test_an_image_without_target_has_no_gradient(images):
    """A target of -1 gives NaN for that image and changes no other image."""
    module = models.branched()
    layers = {"label": ["block"]}
    all_known = tapped(module, images, "block", gradients=layers, targets={"label": torch.tensor([1, 2, 0])})

    some = tapped(module, images, "block", gradients=layers, targets={"label": torch.tensor([1, -1, 0])})

    assert some.gradients["block", "label"][1].isnan().all()
    kept = torch.tensor([0, 2])
    expected = all_known.gradients["block", "label"][kept]
    torch.testing.assert_close(some.gradients["block", "label"][kept], expected)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 3, 1]), "found: indices 0 to 3; wanted: 0 to 2"),
        (torch.tensor([0, -2, 1]), "found: indices -2 to 1"),
        (torch.tensor([0, 1]), r"found: shape \(2,\); wanted: \(3,\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(index, message, images):
    """A class that does not exist, or a target that does not fit the batch, is one clear line."""
    with pytest.raises(ModelError, match=message):
        tapped(models.branched(), images, "block", gradients={"label": ["block"]}, targets={"label": index})


def test_a_layer_without_influence_has_no_gradient(images):
    """A layer on which the logits do not depend is an error, not a map of zeros."""

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aside, self.cut = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, images):
            self.aside(images)
            return self.main(images).mean((2, 3)) + self.cut(images).detach().mean((2, 3))

    zero = {0: torch.zeros(3, dtype=torch.int64)}
    for name, names in (("aside", ["main", "aside"]), ("cut", ["cut"])):
        with pytest.raises(ModelError, match=f"'{name}' has no gradient; found: logits that do not depend"):
            tapped(Aside(), images, *names, gradients={0: names}, targets=zero)
    with pytest.raises(ModelError, match="not tapped; found: cut"):
        tapped(Aside(), images, "main", gradients={0: ["cut"]}, targets=zero)


def test_the_pass_works_inside_inference_mode(images):
    """A user's inference mode, and images made in it, do not keep the pass from taking gradients."""
    module = models.branched()
    options = {"gradients": {0: ["block"]}, "targets": {0: torch.zeros(3, dtype=torch.int64)}}
    expected = tapped(module, images, "block", **options).gradients["block", 0]

    with torch.inference_mode():
        found = tapped(module, images.clone(), "block", **options)

    assert torch.equal(found.gradients["block", 0], expected)
    assert not found.gradients["block", 0].is_inference()


# -- nothing left behind -----------------------------------------------------------------------


def mixed(module):
    """Put a network into a state that no pass would leave: some parts training, some weights frozen."""
    for position, part in enumerate(module.modules()):
        part.training = position % 2 == 0
    for position, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(position % 3 != 0)
        if position % 4 == 1:
            parameter.grad = torch.full_like(parameter, position)
    return module


@pytest.mark.parametrize("build", [models.inplace, models.branched, models.reused])
def test_a_pass_leaves_nothing_behind(build, images):
    """Flags, hooks, gradients, weights and buffers of a network in a mixed state survive a pass."""
    module = mixed(build())
    before = fingerprint(module)
    names = [
        layer.name for layer in describe_layers(module, images[:1]) if layer.calls and layer.layout == "maps"
    ]

    tapped(module, images, *names, gradients={0: names[:2]}, targets={0: torch.zeros(3, dtype=torch.int64)})
    tapped(module, images, names[0], logits=False)
    Resumer(module, layer_of(module, names[1], images), images)

    assert before.differences(fingerprint(module)) == ()


def test_a_network_that_raises_is_restored():
    """An exception in the network passes on; hooks, flags, buffers and random states are as before."""
    module = mixed(Failing())
    layer = replace(layer_of(models.reused(), "first", torch.rand(1, 3, 8, 8)), name="conv")
    before = fingerprint(module)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    with pytest.raises(ValueError, match="broken on purpose"):
        run_pass(module, torch.zeros(1, 3, 8, 8), [layer])

    assert before.differences(fingerprint(module)) == ()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_a_hook_that_raises_is_removed(images):
    """When a tapped layer's output is refused in the hook, no hook stays."""
    module = models.tuple_output()
    before = fingerprint(module)

    with pytest.raises(ModelError):
        tapped(module, images, "boxed", "pair")

    assert before.differences(fingerprint(module)) == ()


def test_evaluating_restores_buffers_and_random_states():
    """Buffers written to and random numbers drawn inside the block are undone, NaN included."""
    module = Failing()
    module.fails = False
    module.norm.running_var[0] = torch.nan
    before = fingerprint(module)
    buffer = module.norm.running_mean
    state = torch.get_rng_state()

    with evaluating(module) as inside:
        assert not any(part.training for part in inside.modules())
        assert not any(parameter.requires_grad for parameter in inside.parameters())
        inside(torch.zeros(1, 3, 8, 8))
        assert float(module.norm.running_mean.sum()) > 0
        module.norm.running_mean = torch.ones(4)

    assert before.differences(fingerprint(module)) == ()
    assert module.norm.running_mean is buffer
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_name_that_means_nothing_is_refused():
    """The root has no layer name, and an unknown name is answered with the nearest."""
    module = models.reused()
    assert find_module(module, "relu#1") is module.relu
    for name in ("", "secnd"):
        with pytest.raises(ModelError, match="not found"):
            find_module(module, name)


# -- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name", "skips"),
    [
        (models.inplace, "features.1", True),
        (models.inplace, "features", True),
        (models.reused, "relu#0", True),
        (models.reused, "relu#1", True),
        (models.branched, "block", True),
        (models.branched, "block.long", False),
        (models.tuple_output, "boxed", True),
        (models.planted_gap, "features.1", True),
    ],
)
def test_resume_equals_a_hook_that_replaces_the_output(build, name, skips, images):
    """Changed activations give the logits of a full pass with that layer's output replaced."""
    module = mixed(build())
    layer = layer_of(module, name, images)
    maps = run_pass(module, images, [layer]).activations[name]
    changed = torch.cat([maps * 0.5, maps.flip(0), maps + 1])
    kept = changed.clone()
    before = fingerprint(module)

    resumer = Resumer(module, layer, images)
    found = resumer(changed)

    calls = iter(range(9))
    wanted = int(name.partition("#")[2] or 0)

    def replace_output(_module, _inputs, output):
        given = changed.clone() if next(calls) == wanted else output
        return {"out": given, "extra": None} if isinstance(output, dict) else given

    handle = find_module(module, name).register_forward_hook(replace_output)
    expected = run_pass(module, images.repeat(3, 1, 1, 1), ()).logits
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(changed, kept)
    assert resumer.skips is skips
    assert bool(resumer.reason) is not skips
    assert before.differences(fingerprint(module)) == ()


def test_resume_computes_nothing_before_the_layer(images):
    """Modules before the layer are not run, and a second batch of another length is served."""
    module = models.reused()
    layer = layer_of(module, "second", images)
    resumer = Resumer(module, layer, images)
    own, ran = module.first.forward, []
    module.first.forward = lambda maps: ran.append(len(maps)) or own(maps)
    more = torch.cat([images, images])
    maps = module.second(torch.relu(own(more))).detach()

    logits = resumer(maps, more)

    assert ran == []
    torch.testing.assert_close(logits, run_pass(module, more, ()).logits)
    assert ran == [6]


class Shares(nn.Module):
    """One ReLU inside a container before the layer ``middle``, on its own before it, and after it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3), self.relu)
        self.middle = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        """Use the ReLU three times."""
        maps = self.middle(self.relu(self.early(images) - 0.1))
        return self.last(self.relu(maps)).mean((2, 3))


def test_a_module_shared_across_the_layer_runs_after_it(images):
    """Calls inside a container that is left out do not count as calls of a module that runs later."""
    module = models.with_weights(Shares())
    layer = layer_of(module, "middle", images)
    resumer = Resumer(module, layer, images)
    maps = run_pass(module, images, [layer]).activations["middle"]

    logits = resumer(-maps)

    assert resumer.skips
    expected = module.last(torch.relu(-maps)).mean((2, 3)).detach()
    torch.testing.assert_close(logits, expected)


def test_a_shortcut_that_hides_nan_is_not_skipped(images):
    """A branch that turns NaN into numbers is found out by its logits, and the whole network runs."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images):
            early = self.early(images)
            return self.late(early).mean((2, 3)) + (early > 0).float().mean((2, 3))

    module = models.with_weights(Hidden())
    layer = layer_of(module, "late", images)
    resumer = Resumer(module, layer, images)

    logits = resumer(run_pass(module, images, [layer]).activations["late"])

    assert not resumer.skips
    torch.testing.assert_close(logits, run_pass(module, images, ()).logits)


def test_activations_that_do_not_fit_are_refused(images):
    """Half a batch, or maps of another shape, are one clear line."""
    module = models.branched()
    resumer = Resumer(module, layer_of(module, "block", images), images)

    for shape in ((4, 8, 4, 6), (3, 8, 4, 4), (0, 8, 4, 6)):
        with pytest.raises(ModelError, match=r"wanted: \(k \* 3, 8, 4, 6\)"):
            resumer(torch.zeros(shape))
    reused = models.reused()
    idle = layer_of(reused, "idle", images)
    with pytest.raises(ModelError, match="'idle' never runs"):
        Resumer(reused, idle, images)
