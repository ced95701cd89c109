"""Maps that show nothing: found by loops, each cause planted, and nothing said where all is well."""

# ruff: noqa: D102  # methods of the contracts

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from wsss_probe_explainers.agreement.degenerate import CAUSES, KINDS, REMEDIES, evidence, kinds, probabilities
from wsss_probe_explainers.agreement.degenerate_probe import DegenerateMaps
from wsss_probe_explainers.explainers import class_activation_map, grad_cam_map, layer_cam_map

from wsss_probe import INPUT, DefinitionCard, Explainer
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import multi_logit

LAYER = "features"


class Given(Explainer):
    """A map of which one image, or each, shows nothing."""

    card = DefinitionCard("Given", "m", "Nobody")
    gradients = False

    def __init__(self, name, spoil, only=None, grid="layer"):
        self.name, self.spoil, self.only, self.grid = name, spoil, only, grid

    def attribute(self, batch, layer, target):
        maps = (batch.images if layer == INPUT else batch.activations[layer]).mean(1).clone()
        for at, index in enumerate(batch.indices.tolist()):
            if self.only in {None, index}:
                maps[at] = self.spoil(maps[at])
        return maps


class Ending(nn.Module):
    """A network with something behind its logits."""

    def __init__(self, net, end):
        super().__init__()
        self.net, self.end = net, end

    def forward(self, images):
        return self.end(self.net(images))


def slow_kind(values):
    """What a map shows, by its values alone."""
    if any(not math.isfinite(value) for value in values):
        return "undefined"
    if all(value == 0 for value in values):
        return "zero"
    if all(value == values[0] for value in values):
        return "constant"
    total = sum(abs(value) for value in values)
    if len(values) >= 9 and max(abs(value) for value in values) >= 0.999 * total:
        return "one cell"
    return ""


def judged(explainers, network=None, scene=None, layers=(LAYER,)):
    """Survey and conclude: the conclusion, the probe, the run."""
    scene = scene or make_scene(network)
    survey = replace(scene.survey, layers={name: scene.survey.layers[name] for name in layers})
    scene = replace(scene, survey=survey).with_explainers(explainers)
    (probe,) = DegenerateMaps().split(scene.survey)
    run = run_in_memory([probe], scene, controls=0)
    return run.concluded(probe), probe, run


def causes_of(conclusion, name, layer=LAYER):
    """Number of images by cause, for one map."""
    own = conclusion.summary["causes"].sel(explainer=f"{name}, {layer}")
    return {
        str(cause): int(own.sel(cause=cause)) for cause in own["cause"].values if int(own.sel(cause=cause))
    }


class TestContract(ProbeSuite):
    probe = DegenerateMaps()

    def scene(self):
        """A scene with maps of which some show nothing, on a layer and on the input."""
        return make_scene().with_explainers(
            [
                grad_cam_map,
                Given("blank", torch.zeros_like, 2),
                Given("lost", lambda m: m * torch.nan, None, "input"),
            ]
        )


class TestKinds:
    @given(
        st.integers(1, 4), st.integers(1, 4),
        st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0, 5e3, math.nan, math.inf]), min_size=16, max_size=16),
    )  # fmt: skip
    def test_equal_the_loops(self, rows, columns, values):
        """Every kind, on every grid, by the definition."""
        cells = values[: rows * columns]
        found = kinds(torch.tensor(cells).view(1, rows, columns)).item()
        assert KINDS[found] == slow_kind(cells)

    def test_a_map_of_places_is_none(self):
        """Noise, and even one strong cell on weak others, show places."""
        maps = torch.rand((5, 4, 4), generator=torch.Generator().manual_seed(0))
        maps[0, 1, 1] = 100
        assert kinds(maps).tolist() == [0] * 5

    def test_of_the_same_value_everywhere(self):
        """One value but not 0 is constant, also a negative one and on a single cell."""
        assert kinds(torch.full((2, 3, 3), -0.5)).tolist() == [3, 3]
        assert kinds(torch.ones(1, 1, 1)).tolist() == [3]


class TestProbabilities:
    def test_of_softmax_and_of_certain_sigmoids(self):
        """What sums to one, or has a target at 0 or 1, looks like a probability; logits do not."""
        outputs = torch.tensor([[0.2, 0.8], [1.0, 0.7], [0.4, 0.7], [-0.2, 1.2], [0.0, 0.3]])
        weights = torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * 4)
        assert probabilities(outputs, weights).tolist() == [True, True, False, False, True]

    def test_one_output_is_one_only_when_certain(self):
        """A single logit of exactly 1 is rare, a single sigmoid's 1 is not; 0.5 says nothing."""
        assert probabilities(torch.tensor([[1.0], [0.5]]), torch.ones(2, 1)).tolist() == [True, False]


class TestCauses:
    def test_nothing_is_found_where_nothing_is(self):
        """Maps that show places give no finding, no section and no cause."""
        conclusion, probe, run = judged([class_activation_map, layer_cam_map])
        assert conclusion.findings == ()
        assert tuple(probe.sections(conclusion.summary, run)) == ()
        assert conclusion.summary["share"].values.tolist() == [0, 0]
        assert conclusion.summary["n"].values.tolist() == [6, 6]

    def test_a_silent_layer(self):
        """A layer behind a ReLU that never opens is named, with what to do."""
        net = multi_logit(2)
        with torch.no_grad():
            list(net.features.children())[-2].bias.fill_(-100.0)
        conclusion, probe, run = judged([grad_cam_map, layer_cam_map], net)
        assert causes_of(conclusion, "gradcam") == {"the layer is silent": 6}
        (found,) = conclusion.findings
        assert (found.name, found.verdict) == ("degenerate-maps/the-layer-is-silent", "warning")
        assert "gradcam, features: 6 of 6" in found.statement
        assert REMEDIES["the layer is silent"] in found.statement
        assert (found.effect, found.n) == (1.0, 6)
        (section,) = probe.sections(conclusion.summary, run)
        assert section.blocks[0].frame["zero"].tolist() == [6, 6]

    def test_a_saturated_softmax(self):
        """A network that ends in a certain softmax has no gradient: the target is a probability."""
        net = Ending(multi_logit(2), lambda logits: (logits * 1e6).softmax(1))
        conclusion, *_ = judged([replace(grad_cam_map)], net, layers=("net.features",))
        assert causes_of(conclusion, "gradcam", "net.features") == {
            "the target is a probability, and saturated": 6
        }

    def test_a_target_that_does_not_move(self):
        """The same without a softmax is a zero gradient and no more."""
        net = Ending(multi_logit(2), lambda logits: logits * 0 + torch.tensor([3.0, -2.0]))
        conclusion, *_ = judged([grad_cam_map], net, layers=("net.features",))
        assert causes_of(conclusion, "gradcam", "net.features") == {"the gradient is zero": 6}

    def test_no_path(self):
        """Where the network cuts the graph, maps without gradients are judged all the same."""
        net = multi_logit(2)
        net.pool.register_forward_hook(lambda _module, _inputs, output: output.detach())
        conclusion, *_ = judged([Given("blank", torch.zeros_like, 3)], net)
        assert causes_of(conclusion, "blank") == {"the target does not depend on the layer": 1}

    def test_no_positive_evidence(self):
        """A head of negative weights over rectified maps: the sum is nowhere positive, a notice."""
        net = multi_logit(2)
        with torch.no_grad():
            net.classifier.weight.copy_(-net.classifier.weight.abs() - 0.01)
        conclusion, *_ = judged([grad_cam_map, class_activation_map], net)
        assert causes_of(conclusion, "gradcam") == {"no positive evidence": 6}
        assert causes_of(conclusion, "cam") == {}
        assert [f.verdict for f in conclusion.findings] == ["notice"]

    @pytest.mark.parametrize("which", ["mean", "share", "each"])
    def test_each_sum_that_a_map_is_made_of_counts(self, which):
        """Two channels whose gradients differ by place: one of the three sums alone is nowhere positive."""
        activation = torch.tensor([[[[2.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]]]])
        gradient = {
            "mean": torch.tensor([[[[1.0, -5.0, 1.0]], [[-4.0, 1.0, 0.0]]]]),
            "share": torch.tensor([[[[-1.0, 9.0, 0.5]], [[-1.0, 0.9, 0.0]]]]),
            "each": torch.tensor([[[[-1.0, 9.0, -1.0]], [[2.0, -1.0, 0.0]]]]),
        }[which]
        sums = {"mean": [], "share": [], "each": []}
        for place in range(3):
            sums["mean"].append(
                sum(gradient[0, k].mean().item() * activation[0, k, 0, place].item() for k in range(2))
            )
            shares = [(gradient[0, k] * activation[0, k]).sum() / activation[0, k].sum() for k in range(2)]
            sums["share"].append(sum(shares[k].item() * activation[0, k, 0, place].item() for k in range(2)))
            sums["each"].append(
                sum((gradient[0, k, 0, place] * activation[0, k, 0, place]).item() for k in range(2))
            )
        nowhere = {name for name, values in sums.items() if max(values) <= 0}
        known = evidence(torch.ones(1, 2), torch.ones(1, 2), activation, gradient)
        assert nowhere == {which}
        assert known.against.tolist() == [True]
        assert evidence(torch.ones(1, 2), torch.ones(1, 2), activation, -gradient + 20).against.tolist() == [
            False
        ]

    def test_one_image_of_six(self):
        """A planted image among others is counted once, whatever the batches."""
        conclusion, probe, run = judged([Given("blank", torch.zeros_like, 4), layer_cam_map])
        assert conclusion.summary["share"].values == pytest.approx([1 / 6, 0])
        assert run.rows(probe.name)["kind"].values[:, 0].tolist() == [0, 0, 0, 0, KINDS.index("zero"), 0]

    @pytest.mark.parametrize(
        ("spoil", "kind"),
        [
            (lambda m: m * torch.nan, "undefined"),
            (lambda m: torch.full_like(m, 2.0), "constant"),
            (lambda m: torch.zeros_like(m).put_(torch.tensor([5]), torch.ones(1)), "one cell"),
        ],
    )  # fmt: skip
    def test_what_the_method_alone_does(self, spoil, kind):
        """Where layer and gradient are in order the method is named."""
        conclusion, *_ = judged([Given("odd", spoil, 1)])
        assert causes_of(conclusion, "odd") == {"the method gives no other map here": 1}
        assert conclusion.summary["kinds"].sel(kind=kind).values.tolist() == [1]

    def test_a_layer_that_is_the_same_everywhere(self):
        """An image of one colour under a network without borders gives constant maps."""
        net = multi_logit(2)
        net.features = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        scene = make_scene(net)
        scene.images[2] = 0.5
        conclusion, *_ = judged([layer_cam_map], scene=scene)
        assert causes_of(conclusion, "layercam") == {"every channel of the layer is constant": 1}

    def test_a_layer_that_speaks_at_one_cell(self):
        """Activations at a single cell make a map of one cell."""
        net = multi_logit(2)
        net.features = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        with torch.no_grad():
            net.features[0].weight.fill_(1.0)
            net.features[0].bias.fill_(-8.0)
            net.classifier.weight.fill_(1.0)
        scene = make_scene(net)
        scene.images[:] = 0.5
        scene.images[1, :, 3, 5] = 9.0
        conclusion, *_ = judged([layer_cam_map], scene=scene)
        found = causes_of(conclusion, "layercam")
        assert found == {"the layer is silent": 5, "the layer speaks at one cell only": 1}

    def test_outputs_that_are_not_finite(self):
        """An image for which the network gives NaN is counted under that, not under the method."""
        net = Ending(multi_logit(2), lambda logits: logits)
        scene = make_scene(net)
        scene.images[3, 0, 0, 0] = torch.inf
        conclusion, *_ = judged([layer_cam_map], scene=scene, layers=("net.features",))
        assert causes_of(conclusion, "layercam", "net.features") == {"the network's values are not finite": 1}

    def test_rows_that_the_host_left_undefined_are_counted(self):
        """The host turns the rows of such an image into NaN: readable, and yet without a map."""
        _, probe, run = judged([layer_cam_map])
        rows = run.rows(probe.name)
        hidden = rows.where(rows["kind"].notnull() & (torch.arange(6).numpy() != 2)[:, None])
        observed = {probe.name: replace(run.observed[probe.name], rows=hidden)}
        conclusion = replace(run, observed=observed).concluded(probe)
        assert causes_of(conclusion, "layercam") == {"the network's values are not finite": 1}
        assert conclusion.summary["n"].values.tolist() == [6]

    def test_unreadable_images_count_nowhere(self):
        """An image that could not be decoded is no degenerate map."""
        conclusion, *_ = judged([Given("blank", torch.zeros_like, 4)], scene=make_scene().unreadable([4]))
        assert conclusion.findings == ()
        assert conclusion.summary["n"].values.tolist() == [5]

    def test_an_image_without_the_target(self):
        """Weights of NaN mean that there is no target: a notice, whatever the layer does."""
        scene = make_scene().with_explainers([Given("blank", lambda m: m * torch.nan)])
        (probe,) = DegenerateMaps().split(scene.survey)
        batch = scene.batch(probe.needs(scene.survey))
        spoilt = replace(batch, targets={"predicted": batch.targets["predicted"] * torch.nan})
        cause = probe.observe(spoilt).rows["cause"].values
        assert set(cause.ravel().tolist()) == {float(CAUSES.index("the image has no such target"))}

    def test_maps_on_the_input(self):
        """A blank map on the input is explained by the deepest audited layer."""
        net = multi_logit(2)
        with torch.no_grad():
            list(net.features.children())[-2].bias.fill_(-100.0)
        conclusion, *_ = judged([Given("pixels", torch.zeros_like, None, "input")], net)
        assert causes_of(conclusion, "pixels", INPUT) == {"the layer is silent": 6}

    def test_a_survey_without_maps_is_not_judged(self):
        """There is nothing to count."""
        assert tuple(DegenerateMaps().split(make_scene().survey)) == ()
