"""The decompositions as explainers: the contract, planted objects, and what their cards promise."""

import pytest
import torch
from wsss_probe_explainers.decompositions.components import first_component, first_component_centred
from wsss_probe_explainers.decompositions.maps import (
    eigen_cam_centred_map,
    eigen_cam_map,
    eigen_grad_cam_map,
    kernel_pca_map,
    kernel_pca_rbf_map,
)

from wsss_probe import Head, LayerInfo, Needs
from wsss_probe.testing import ExplainerSuite
from wsss_probe.testing.scenes import make_scene

ALL = [eigen_cam_map, eigen_cam_centred_map, eigen_grad_cam_map, kernel_pca_map, kernel_pca_rbf_map]


class TestEigenCAM(ExplainerSuite):
    """Eigen-CAM conforms to the contract."""

    explainer = eigen_cam_map


class TestCentredEigenCAM(ExplainerSuite):
    """Centred Eigen-CAM conforms to the contract."""

    explainer = eigen_cam_centred_map


class TestEigenGradCAM(ExplainerSuite):
    """Eigen-Grad-CAM conforms to the contract."""

    explainer = eigen_grad_cam_map


class TestKernelPCA(ExplainerSuite):
    """KPCA-CAM conforms to the contract."""

    explainer = kernel_pca_map


class TestKernelPCAWithGaussians(ExplainerSuite):
    """KPCA-CAM with a Gaussian kernel conforms to the contract."""

    explainer = kernel_pca_rbf_map


@pytest.mark.parametrize("explainer", ALL, ids=lambda explainer: explainer.name)
def test_cards_are_complete(explainer):
    """Every card has a formula, symbols, a paper with an identifier, invariances, and when it misleads."""
    card = explainer.card

    assert "doi:" in card.paper
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert all((card.title, card.formula, card.symbols, card.invariances, card.misleads))


def test_the_class_matters_to_the_evidence_only():
    """Eigen-CAM is the same for every class; Eigen-Grad-CAM reads the gradient of its own target."""
    scene = make_scene()
    layer = scene.survey.head.layer
    wanted = frozenset((layer, target) for target in (0, 1))
    batch = scene.batch(Needs(layers=frozenset({layer}), gradients=wanted))

    plain = [eigen_cam_map.attribute(batch, layer, target) for target in (0, 1)]
    evidence = [eigen_grad_cam_map.attribute(batch, layer, target) for target in (0, 1)]

    torch.testing.assert_close(plain[0], plain[1])
    torch.testing.assert_close(plain[0], first_component(batch.activations[layer]))
    for target in (0, 1):
        product = batch.activations[layer] * batch.gradients[layer, target]
        torch.testing.assert_close(evidence[target], first_component_centred(product))
    assert not torch.allclose(evidence[0], evidence[1])


def test_a_kernel_says_how_many_positions_it_takes():
    """A grid with too many positions for a kernel matrix is refused in words."""
    large = LayerInfo("stem", "Conv2d", 0, 1, (4, 32, 33), "maps")
    fits = LayerInfo("stem", "Conv2d", 0, 1, (4, 32, 32), "maps")

    assert kernel_pca_map.accepts(fits, Head(False)) == ""
    assert kernel_pca_map.accepts(large, Head(False)) == "needs at most 1024 positions, the layer has 1056"


# -- planted truth -----------------------------------------------------------------------------

OBJECT, DISTRACTOR = (slice(2, 5), slice(3, 7)), (slice(8, 10), slice(9, 12))
FORMULAS = {
    "eigencam": eigen_cam_map.formula,
    "eigencam-centred": eigen_cam_centred_map.formula,
    "kpcacam": kernel_pca_map.formula,
    "kpcacam-rbf": kernel_pca_rbf_map.formula,
}
every = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def activations(strength, distraction=0.5, images=40, seed=0):
    """Plant an object in eight of 24 channels and a distractor in three others, in rectified noise."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(images, 24, 12, 14, generator=generator)
    values[:, :8, *OBJECT] += strength
    values[:, 8:11, *DISTRACTOR] += distraction * strength
    return values.relu()


def hits(maps, place=OBJECT):
    """Share of images whose largest value lies in the place."""
    inside = torch.zeros(maps.shape[1:], dtype=torch.bool)
    inside[place] = True
    return float(inside.flatten()[maps.flatten(1).argmax(1)].float().mean())


CHANCE = 12 / (12 * 14)


@every
def test_the_map_points_at_what_most_channels_share(formula):
    """Among noise and a weaker distractor the largest value lies on the object."""
    assert hits(formula(activations(strength=3.0))) >= 0.95


@every
def test_the_map_loses_an_object_in_the_noise(formula):
    """An object of a tenth of the noise is not found."""
    assert hits(formula(activations(strength=0.1))) <= CHANCE + 0.2


@every
def test_nothing_is_found_where_nothing_is(formula):
    """In noise alone the map points at the place no more often than chance."""
    found = hits(formula(activations(strength=0.0, images=150, seed=1)))

    assert found <= CHANCE + 3 * (CHANCE * (1 - CHANCE) / 150) ** 0.5


@every
def test_the_stronger_distractor_wins(formula):
    """The map knows no class: what is stronger is shown, as the card says."""
    values = activations(strength=1.5, distraction=6.0)

    assert hits(formula(values), DISTRACTOR) >= 0.95


def test_the_evidence_ignores_a_distractor_that_speaks_for_nothing():
    """Eigen-Grad-CAM finds the object beside a stronger distractor whose channels have no gradient."""
    values = activations(strength=1.5, distraction=6.0)
    gradient = torch.full((24, 1, 1), 0.02)
    gradient[:8] = 1
    noise = 0.2 * torch.randn(values.shape, generator=torch.Generator().manual_seed(2))

    assert hits(first_component_centred(values * (gradient + noise))) >= 0.9
    assert hits(first_component_centred(values * noise)) <= CHANCE + 0.2


def test_evidence_against_the_class_is_negative():
    """Where the product of activation and gradient is negative in the common channels, so is the map."""
    values = activations(strength=4.0)

    found = first_component_centred(-values)

    assert hits(-found) >= 0.95
    assert hits(found) <= CHANCE
