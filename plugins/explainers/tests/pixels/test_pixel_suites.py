"""The maps on the input conform to the contract, keep their axioms, and refuse what captum gets wrong."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from wsss_probe_explainers.pixels import (
    PIXEL_EXPLAINERS,
    DeepLiftMap,
    FeatureAblationMap,
    GuidedGradCAMMap,
    InputXGradientMap,
    IntegratedGradientsMap,
    OcclusionMap,
    SaliencyMap,
    SmoothGradMap,
)
from wsss_probe_explainers.pixels.occlusions import patches, superpixels
from wsss_probe_explainers.pixels.replacements import replaced

from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import INPUT, Contrast, LayerInfo
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.explaining import Asked, explain
from wsss_probe.testing import ExplainerSuite, make_scene
from wsss_probe.testing.models import branched, inplace, multi_logit, reused

every = pytest.mark.parametrize("explainer", PIXEL_EXPLAINERS, ids=lambda e: e.name)
SUMMING = [IntegratedGradientsMap(steps=200), DeepLiftMap()]
LINEAR = [InputXGradientMap(), IntegratedGradientsMap(), OcclusionMap(), FeatureAblationMap()]


class TestSaliency(ExplainerSuite):
    """Saliency conforms to the contract."""

    explainer = SaliencyMap()


class TestInputXGradient(ExplainerSuite):
    """Input x gradient conforms to the contract."""

    explainer = InputXGradientMap()


class TestIntegratedGradients(ExplainerSuite):
    """Integrated gradients conform to the contract."""

    explainer = IntegratedGradientsMap(steps=8)


class TestSmoothGrad(ExplainerSuite):
    """SmoothGrad conforms to the contract; its noise goes with the image and not with the batch."""

    explainer = SmoothGradMap(samples=4)


class TestGuidedGradCAM(ExplainerSuite):
    """Guided Grad-CAM conforms to the contract."""

    explainer = GuidedGradCAMMap()


class TestDeepLift(ExplainerSuite):
    """DeepLIFT conforms to the contract."""

    explainer = DeepLiftMap()


class TestOcclusion(ExplainerSuite):
    """Occlusion conforms to the contract."""

    explainer = OcclusionMap(window=8, stride=8)


class TestFeatureAblation(ExplainerSuite):
    """Feature ablation conforms to the contract."""

    explainer = FeatureAblationMap(number=6)


def maps(explainer, network, images, target="predicted"):
    """Maps of images by one explainer."""
    return explain(network, images, [(explainer, INPUT)], Asked({}, target=target))[explainer.name, INPUT]


@every
def test_cards_are_complete(explainer):
    """Every card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = explainer.card

    assert "doi:" in card.paper or "arXiv:" in card.paper
    assert card.bibtex.startswith("@")
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))
    assert not explainer.default


@every
def test_only_the_input_suits(explainer):
    """A layer of the network is refused with the reason."""
    scene = make_scene()

    assert "explains the input" in explainer.accepts(
        next(iter(scene.survey.layers.values())), scene.survey.head
    )
    assert explainer.accepts(LayerInfo(INPUT, "Input", -1, 1, (3, 8, 8), "maps"), scene.survey.head) == ""


@every
def test_the_internal_batch_is_a_matter_of_memory_only(explainer):
    """One copy in a pass gives what sixteen give."""
    scene = make_scene(images=3)

    together = maps(explainer, scene.network, scene.images)
    one = maps(replace(explainer, internal_batch=1), scene.network, scene.images)

    # the last noise of a drawing may be drawn anew where its size is no multiple of sixteen
    torch.testing.assert_close(one, together, rtol=1e-3, atol=1e-3 * float(together.abs().max()))


@every
def test_no_pass_holds_more_than_the_internal_batch(explainer):
    """The network never sees more images at once than it was said, references counted."""
    scene, seen = make_scene(images=5), []
    handle = scene.network.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    with handle:
        batch = scene.batch()
        seen.clear()
        replace(explainer, internal_batch=4).attribute(batch, INPUT, "predicted")

    assert max(seen) <= 4


@every
def test_a_broken_image_spoils_no_other(explainer):
    """An image with NaN gets a map of NaN and the others keep theirs."""
    scene = make_scene(images=3)
    broken = scene.images.clone()
    broken[1, 0, 0, 0] = torch.nan

    found, wanted = (maps(explainer, scene.network, images, 0) for images in (broken, scene.images))

    assert bool(found[1].isnan().all())
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]])


@every
def test_an_image_without_the_target_has_no_map(explainer):
    """A contrast with the next class of a network with one class is undefined: NaN, not 0."""
    scene = make_scene(multi_logit(1), images=2)

    assert bool(maps(explainer, scene.network, scene.images, Contrast("predicted", "next")).isnan().all())


@pytest.mark.parametrize("explainer", LINEAR, ids=lambda e: e.name)
def test_a_contrast_is_the_difference_of_its_classes(explainer):
    """Methods that are linear in the score explain a contrast by the difference of two maps."""
    scene = make_scene(multi_logit(3), images=2)

    first, second, both = (
        maps(explainer, scene.network, scene.images, target) for target in (2, 0, Contrast(2, 0, 0.5))
    )

    torch.testing.assert_close(both, first - 0.5 * second, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("explainer", SUMMING, ids=lambda e: e.name)
@pytest.mark.parametrize("replacement", ["zero", "mean-of-image", "blur"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 4), rows=st.integers(8, 14))
def test_contributions_add_up_to_the_change_of_the_score(explainer, replacement, seed, classes, rows):
    """Integrated gradients and DeepLIFT share out the whole change of the score, for any image."""
    network = multi_logit(classes)
    images = torch.randn(2, 3, rows, 10, generator=torch.Generator().manual_seed(seed))

    found = maps(replace(explainer, replacement=replacement), network, images, classes - 1)

    with torch.no_grad():
        change = (network(images) - network(replaced(images, replacement)))[:, -1]
    # the quadrature steps over the kinks of a piecewise linear network
    allowed = 0.01 * found.abs().sum((1, 2)) + 1e-6
    assert bool(((found.sum((1, 2)) - change).abs() <= allowed).all())


@every
def test_frozen_networks_and_inference_mode_are_no_obstacle(explainer):
    """A network whose weights ask for no gradient is explained, also inside inference mode."""
    scene = make_scene(images=2)
    wanted = maps(explainer, scene.network, scene.images)
    scene.network.requires_grad_(False)

    with torch.inference_mode():
        found = maps(explainer, scene.network, scene.images.clone())

    torch.testing.assert_close(found, wanted)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_give_about_the_same_map(explainer, dtype):
    """A network in half or double precision is explained in its own precision."""
    if dtype == torch.bfloat16 and isinstance(explainer, OcclusionMap | FeatureAblationMap):
        pytest.skip("three digits are too few for a difference of two scores; docs/methods/occlusion.md")
    scene = make_scene(images=2)
    wanted = maps(explainer, scene.network, scene.images, 0)

    found = maps(explainer, scene.network.to(dtype), scene.images.to(dtype), 0)

    assert found.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
    # superpixels of rounded colours may differ at their borders
    assert float(similarity) > (0.9 if dtype != torch.float64 else 0.999)


@every
def test_captum_is_not_heard(explainer):
    """No warning reaches the user, and nothing changes which warnings are shown."""
    scene = make_scene(images=2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        maps(explainer, scene.network, scene.images)

        assert warnings.filters == before
    assert [str(warning.message) for warning in heard] == []


@every
def test_a_network_without_a_gradient_is_one_clear_line(explainer):
    """Where the logits do not depend on the input by a gradient, the method says so or needs none."""

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = multi_logit(2)

        def forward(self, images):
            return self.net(images.detach())

    network, images = Cut().eval(), make_scene(images=2).images
    before = fingerprint(network)
    if isinstance(explainer, OcclusionMap | FeatureAblationMap):
        assert bool(maps(explainer, network, images).isfinite().all())
    else:
        with pytest.raises(ModelError, match=r"^[^\n]*cannot explain this network[^\n]*$"):
            maps(explainer, network, images)
    assert before.differences(fingerprint(network)) == ()


# -- what captum gets wrong --------------------------------------------------------------------


@pytest.mark.parametrize("explainer", [DeepLiftMap(), GuidedGradCAMMap()], ids=lambda e: e.name)
def test_functional_relus_are_refused(explainer):
    """ReLUs that are no modules are found and counted, where hooks would pass them over in silence."""
    scene = make_scene(branched())

    with pytest.raises(ModelError, match=r"found: 2 of 3 ReLUs computed outside of nn.ReLU"):
        maps(explainer, scene.network, scene.images)


def test_deeplift_refuses_a_module_that_runs_twice():
    """A reused ReLU is named before captum stumbles over it."""
    network, images = reused(), torch.rand(2, 3, 12, 12)
    before = fingerprint(network)

    with pytest.raises(ModelError, match=r"found: relu runs 2 times"):
        maps(DeepLiftMap(), network, images)
    assert before.differences(fingerprint(network)) == ()
    assert not any(hasattr(part, "input") for part in network.modules())


def test_deeplift_reaches_a_relu_through_the_pooling_after_it():
    """Neighbouring non-linear modules keep the axiom for any reference; captum alone is far off here."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    images = torch.randn(3, 3, 22, 22)

    found = maps(DeepLiftMap("blur"), network, images, 1)

    with torch.no_grad():
        change = (network(images) - network(replaced(images, "blur")))[:, 1]
    torch.testing.assert_close(found.sum((1, 2)), change, rtol=1e-3, atol=1e-5)


def test_deeplift_refuses_windows_that_overlap():
    """Captum's rule for max-pooling loses contributions where windows overlap."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.LazyLinear(2))
    images = torch.rand(2, 3, 12, 12)
    network(images)

    with pytest.raises(ModelError, match=r"found: 2 pools over windows that overlap"):
        maps(DeepLiftMap(), network.eval(), images)


def test_deeplift_refuses_modules_that_captum_does_not_know():
    """A GELU is treated as linear by captum; the contributions do not add up, and that is seen."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )

    with pytest.raises(ModelError, match=r"do not add up.*remedy: use integrated-gradients"):
        maps(DeepLiftMap(), network.eval(), 3 * torch.randn(2, 3, 12, 12))


def test_guided_grad_cam_needs_a_relu():
    """Without any ReLU there is nothing to guide."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )

    with pytest.raises(ModelError, match=r"needs ReLUs to guide the gradient; found: none"):
        maps(GuidedGradCAMMap(), network.eval(), torch.rand(1, 3, 12, 12))


def test_guided_grad_cam_takes_the_layer_it_is_told():
    """Another layer gives another map; one without maps, or one that runs twice, is refused."""
    scene = make_scene(inplace())
    first = maps(GuidedGradCAMMap("features.2"), scene.network, scene.images)

    assert not torch.allclose(first, maps(GuidedGradCAMMap(), scene.network, scene.images))
    with pytest.raises(ModelError, match=r"does not suit layer 'classifier'"):
        maps(GuidedGradCAMMap("classifier"), scene.network, scene.images)
    with pytest.raises(ModelError, match=r"does not suit layer 'relu'; found: 2 calls"):
        maps(GuidedGradCAMMap(), reused(), torch.rand(1, 3, 12, 12))


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SaliencyMap(internal_batch=0), "internal_batch cannot be meant; found: 0"),
        (lambda: IntegratedGradientsMap(steps=0), "steps cannot be meant"),
        (lambda: IntegratedGradientsMap(replacement="noise"), "unknown replacement of pixels; found: noise"),
        (lambda: SmoothGradMap(noise=-0.1), "noise cannot be meant"),
        (lambda: OcclusionMap(window=-1), "window cannot be meant"),
        (
            lambda: FeatureAblationMap("cells"),
            "unknown regions; found: cells; wanted: superpixels or patches",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(make, message):
    """Each option is checked when it is given."""
    with pytest.raises(UsageError, match=message):
        make()


def test_a_seed_is_another_noise():
    """SmoothGrad repeats its noise for a seed, and changes it with the seed and the image."""
    scene = make_scene(images=1)
    same = torch.cat([scene.images, scene.images])

    first, again, other = (
        maps(SmoothGradMap(samples=4, seed=seed), scene.network, same, 0) for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1])  # the same image at another place in the manifest


def test_a_window_is_cut_to_a_narrow_image():
    """A window higher than the image hides whole columns, and each pixel of a column falls alike."""
    images = torch.rand(1, 3, 4, 20, generator=torch.Generator().manual_seed(0))

    found = maps(OcclusionMap(window=8, stride=4), multi_logit(2), images, 1)

    assert found.shape == (1, 4, 20)
    torch.testing.assert_close(found, found[:, :1].expand(1, 4, 20))
    assert float(found.std()) > 0


@pytest.mark.parametrize("divide", [patches, superpixels])
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(4, 20), columns=st.integers(4, 20), number=st.integers(1, 12), seed=st.integers(0, 99)
)
def test_regions_cover_the_image_without_gaps(divide, rows, columns, number, seed):
    """Regions are numbered from 0 without gaps and every pixel is in one."""
    image = torch.rand(3, rows, columns, generator=torch.Generator().manual_seed(seed))

    regions = divide(image, number)

    assert regions.shape == (rows, columns)
    assert regions.unique().tolist() == list(range(int(regions.max()) + 1))


def test_patches_are_about_as_many_as_asked_for():
    """A wide image is cut more often across than down."""
    regions = patches(torch.zeros(3, 20, 40), 8)

    assert int(regions.max()) + 1 == 8
    assert np.unique(regions[:, 0]).size == 2


def test_superpixels_follow_edges():
    """Two halves of different colour share no superpixel."""
    image = torch.zeros(3, 16, 16)
    image[:, :, 9:] = 1

    regions = superpixels(image, 8)

    assert not set(regions[:, :9].flatten().tolist()) & set(regions[:, 9:].flatten().tolist())
