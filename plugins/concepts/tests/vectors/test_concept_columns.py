"""The passport's concept columns: chosen on half of the groups, scored on the other, silent in noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_concepts.vectors.columns import ConceptColumns, spearman, strongest_concepts

from wsss_probe.testing import ChannelColumnsSuite, make_scene
from wsss_probe.testing.models import multi_logit


def scene_with_concepts():
    """A scene in which one channel goes with a concept."""
    scene = make_scene(images=40)
    pooled = scene.batch().activations["features"].mean(dim=(2, 3)).numpy()
    noise = np.random.default_rng(0).normal(size=40)
    return scene.with_concepts({"a/channel": pooled[:, 2], "a/noise": noise})


class TestContract(ChannelColumnsSuite):
    """The columns keep the contract."""

    columns = ConceptColumns()

    def scene(self):
        """Make images with concepts."""
        return scene_with_concepts()


# -- by loops ------------------------------------------------------------------------------------


def reference_ranks(values):
    """Ranks from 1, equals share their mean rank."""
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def reference_spearman(one, two):
    """Pearson's r of ranks over the images that have both; None where one is constant."""
    both = [(x, y) for x, y in zip(one, two, strict=True) if x == x and y == y]
    if not both:
        return None
    first, second = (reference_ranks([pair[at] for pair in both]) for at in (0, 1))
    middle = (len(both) + 1) / 2
    top = sum((x - middle) * (y - middle) for x, y in zip(first, second, strict=True))
    left = sum((x - middle) ** 2 for x in first)
    right = sum((y - middle) ** 2 for y in second)
    return None if left == 0 or right == 0 else top / (left * right) ** 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans())
def test_rank_correlations_are_those_of_loops(seed, images, lacking):
    """With ties and with missing values, channel by channel and concept by concept."""
    random = np.random.default_rng(seed)
    channels = random.integers(0, 4, size=(images, 3)).astype(float)
    concepts = random.integers(0, 4, size=(images, 2)).astype(float)
    if lacking:
        concepts[random.random(concepts.shape) < 0.3] = np.nan
    found = spearman(channels, concepts)
    for channel in range(3):
        for concept in range(2):
            wanted = reference_spearman(channels[:, channel].tolist(), concepts[:, concept].tolist())
            assert found[channel, concept] == pytest.approx(np.nan if wanted is None else wanted, nan_ok=True)


# -- what is planted -----------------------------------------------------------------------------


def planted(seed=0, noise=0.3, images=200):
    """Channels 0 and 1 follow concepts 2 and 0, the second with its sign turned; eight more are noise."""
    random = np.random.default_rng(seed)
    concepts = random.normal(size=(images, 4))
    channels = random.normal(size=(images, 10))
    channels[:, 0] = np.exp(concepts[:, 2] + noise * random.normal(size=images))
    channels[:, 1] = -concepts[:, 0] + noise * random.normal(size=images)
    return channels, concepts


class TestStrongest:
    def test_planted_concepts_are_named_with_their_sign(self):
        """Monotone relations are found whatever their shape; noise channels have no concept."""
        channels, concepts = planted()
        found = strongest_concepts(channels, concepts, None)

        assert found.concept.tolist() == [2, 0] + [-1] * 8
        assert found.rho[0] > 0.9
        assert found.rho[1] < -0.9
        assert np.isnan(found.rho[2:]).all()
        assert (found.images, found.groups) == (100, 100)

    def test_enough_noise_hides_them(self):
        """With noise of twenty times the concept's spread nothing is named."""
        channels, concepts = planted(noise=20.0)

        assert (strongest_concepts(channels, concepts, None).concept == -1).all()

    def test_noise_is_named_as_rarely_as_promised(self):
        """Over 100 fixed seeds of pure noise a concept is named in at most 11 runs, for any channel."""
        named = 0
        for seed in range(100):
            random = np.random.default_rng(seed)
            found = strongest_concepts(random.normal(size=(60, 20)), random.normal(size=(60, 5)), None, seed)
            named += bool((found.concept >= 0).any())
        assert named <= 11

    def test_dependent_images_are_not_counted_as_many(self):
        """Twelve groups of ten equal images are twelve observations: their noise is not named."""
        named = 0
        for seed in range(50):
            random = np.random.default_rng(seed)
            groups = np.repeat(np.arange(12), 10)
            channels, concepts = random.normal(size=(12, 20))[groups], random.normal(size=(12, 5))[groups]
            found = strongest_concepts(channels, concepts, groups, seed)
            named += bool((found.concept >= 0).any())
            assert found.groups == 6
        assert named <= 5

    def test_the_correlation_is_not_the_one_it_was_chosen_by(self):
        """Among many concepts the largest correlation shrinks on the other half, and that one is shown."""
        random = np.random.default_rng(3)
        concepts = random.normal(size=(60, 300))
        channels = concepts[:, :1] * 1.5 + random.normal(size=(60, 1))
        found = strongest_concepts(channels, concepts, None, seed=3)
        names, half = np.arange(60), np.random.default_rng(3).permutation(60) < 30

        assert found.concept[0] == 0
        assert found.rho[0] == pytest.approx(spearman(channels[~half], concepts[~half])[0, 0])
        assert found.rho[0] != pytest.approx(spearman(channels[half], concepts[half])[0, 0])
        assert len(names) == 60

    def test_a_concept_of_few_groups_has_no_test(self):
        """A concept that three groups have cannot be named, however well it goes with a channel."""
        random = np.random.default_rng(0)
        channels = random.normal(size=(40, 1))
        concepts = np.full((40, 1), np.nan)
        concepts[:6, 0] = channels[:6, 0]

        assert strongest_concepts(channels, concepts, None).concept[0] == -1

    @pytest.mark.parametrize("images", [0, 1, 5])
    def test_few_images_say_nothing(self, images):
        """No image, one, or five: no concept and no warning."""
        random = np.random.default_rng(0)
        found = strongest_concepts(random.normal(size=(images, 3)), random.normal(size=(images, 2)), None)

        assert found.concept.tolist() == [-1, -1, -1]

    def test_dead_channels_and_constant_concepts_are_left_out(self):
        """Neither has a rank correlation; the others are named as before."""
        channels, concepts = planted()
        channels[:, 5], concepts[:, 3] = 0.0, 1.0
        channels[7] = np.nan

        assert strongest_concepts(channels, concepts, None).concept.tolist() == [2, 0] + [-1] * 8


class TestColumns:
    def said(self, run):
        """Columns of a layer by name."""
        return {column.name: column for column in ConceptColumns().columns(run, "features")}

    def test_the_planted_channel_has_its_concept(self):
        """The header, the name, the correlation, n and the controls' share."""
        suite = TestContract()
        columns = self.said(suite.run(scene_with_concepts(), controls=2))

        assert columns["concept"].values[2] == "a/channel"
        assert columns["concept ρ"].values[2] == pytest.approx(1.0)
        assert "n = 20 images in 20 groups" in columns["concept"].meaning
        assert "of 2 networks that learned nothing" in columns["concept"].meaning

    def test_dead_controls_are_no_controls(self):
        """Where no control lives the meaning says so."""
        from dataclasses import replace

        run = TestContract().run(scene_with_concepts(), controls=1)
        dead = [replace(control, dead=frozenset({"features"})) for control in run.controls]

        assert "No living control." in self.said(replace(run, controls=dead))["concept"].meaning

    def test_no_concepts_give_no_columns(self):
        """A run that measured nothing has no column of concepts."""
        scene = make_scene(multi_logit(2), images=4)

        assert self.said(TestContract().run(scene)) == {}
        assert torch.isfinite(scene.images).all()
