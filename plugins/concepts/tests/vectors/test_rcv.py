"""The probe rcv: the same splits everywhere, held-out numbers by loops, planted concepts, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_concepts.regression import make_folds
from wsss_probe_concepts.vectors.features import RcvFeatures, sketch
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe.errors import UsageError
from wsss_probe.testing import InMemoryRun, ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import multi_logit

QUICK = {"permutations": 19, "bootstraps": 2}


def scene_with_concepts(images=12):
    """The usual scene with two concepts, one of them undefined for an image."""
    scene = make_scene(images=images)
    values = np.arange(images, dtype=float)
    return scene.with_concepts({"a/one": values, "a/two": np.where(values == 3, np.nan, -(values**2))})


class TestRcv(ProbeSuite):
    """The probe conforms to the contract at every layer."""

    probe = Rcv(**QUICK)

    def scene(self):
        """Make images with concepts."""
        return scene_with_concepts()


class TestRcvOfMaxima(ProbeSuite):
    """With streamed features the part that streams conforms as well."""

    probe = RcvFeatures("features", "max")


class TestRcvOfSketches(ProbeSuite):
    """Sketches do not depend on the batch."""

    probe = RcvFeatures("features.0", "projected")


# -- by loops ------------------------------------------------------------------------------------


def reference_errors(features, concept, splits):
    """Squared held-out errors of least squares, and of the training mean, image by image, split by split."""
    errors, spread, by_split = np.zeros(len(concept)), np.zeros(len(concept)), []
    for held_out in splits:
        training = [image for image in range(len(concept)) if image not in set(held_out.tolist())]
        design = np.array([[1.0, *features[image]] for image in training])
        weights = np.linalg.lstsq(design, np.array([concept[image] for image in training]), rcond=None)[0]
        mean = sum(concept[image] for image in training) / len(training)
        top = bottom = 0.0
        for image in held_out:
            predicted = weights[0] + sum(w * x for w, x in zip(weights[1:], features[image], strict=True))
            errors[image] += (predicted - concept[image]) ** 2
            spread[image] += (mean - concept[image]) ** 2
            top += (predicted - concept[image]) ** 2
            bottom += (mean - concept[image]) ** 2
        by_split.append(1 - top / bottom)
    return errors, spread, by_split


class TestByLoops:
    def test_errors_by_group_and_split_are_those_of_least_squares(self, planted):
        """Sums over groups, R² and R² of every split are what plain loops give on the same splits."""
        scene = planted(images=40, groups=10)
        run = scene.run()
        table = run.concluded(Rcv(layer=scene.early, **QUICK)).summary
        splits = make_folds(40, scene.groups, 5, 2, 0).test
        features = run.pooled(scene.early).values.astype(float)
        for name, values in scene.concepts.items():
            errors, spread, by_split = reference_errors(features, values, splits)
            own = table.sel(concept=name, model="ols", network="audited")
            wanted = [errors[scene.groups == int(group)].sum() for group in own["group"].values]
            np.testing.assert_allclose(own["sse"].values, wanted, rtol=1e-8)
            wanted = [spread[scene.groups == int(group)].sum() for group in own["group"].values]
            np.testing.assert_allclose(own["ssb"].values, wanted, rtol=1e-8)
            np.testing.assert_allclose(own["r2_split"].values, by_split, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(own["r2_held"], 1 - errors.sum() / spread.sum(), rtol=1e-8)

    def test_images_without_a_concept_are_left_out_of_its_sums(self, planted):
        """A concept that some images of a group lack has the sums of the others, on the same splits."""
        scene = planted(images=40, groups=10)
        values = scene.concepts["noise/one"].copy()
        values[[1, 5, 17, 38]] = np.nan
        run = scene.run(scene=scene.scene.with_concepts({"a/partly": values}))
        own = run.concluded(Rcv(layer=scene.early, **QUICK)).summary
        own = own.isel(concept=0).sel(model="ols", network="audited")
        known = np.flatnonzero(np.isfinite(values))
        features = run.pooled(scene.early).values.astype(float)[known]
        whole = make_folds(40, scene.groups, 5, 2, 0).test
        splits = [np.flatnonzero(np.isin(known, held_out)) for held_out in whole]
        errors, spread, _ = reference_errors(features, values[known], splits)
        groups = scene.groups[known]
        for name, wanted in (("sse", errors), ("ssb", spread)):
            sums = [wanted[groups == int(group)].sum() for group in own["group"].values]
            np.testing.assert_allclose(own[name].values, sums, rtol=1e-8)
        assert int(own["n"]) == 36

    def test_predictions_are_held_out(self, planted):
        """The prediction of an image is that of fits that had not seen it, in the concept's unit."""
        scene = planted(images=40, groups=10)
        table = scene.run().concluded(Rcv(layer=scene.late, **QUICK)).summary
        values = scene.concepts["planted/size"]
        residual = table["predicted"].sel(concept="planted/size").values - values
        own = table.sel(concept="planted/size", network="audited", model="ridge")
        # one prediction a repeat: the mean's error is at most the mean of the errors
        assert (residual**2).sum() * 2 <= float(own["sse"].sum()) * (1 + 1e-9)
        assert np.corrcoef(table["predicted"].sel(concept="planted/size").values, values)[0, 1] > 0.9

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10_000), st.integers(8, 40))
    def test_sketches_are_signed_sums(self, seed, length):
        """Every number of a sketch is a signed sum of its own features, and short maps stay as they are."""
        maps = torch.randn(3, 5, 3, 4, generator=torch.Generator().manual_seed(seed))
        found = sketch(maps, length).numpy()
        random = np.random.default_rng(20_201_019)
        place, sign = random.integers(length, size=60), random.choice(np.array([-1.0, 1.0], np.float32), 60)
        wanted = np.zeros((3, length))
        for image in range(3):
            for feature, value in enumerate(maps[image].flatten().tolist()):
                wanted[image, place[feature]] += sign[feature] * value
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert torch.equal(sketch(maps, 60), maps.flatten(1))

    def test_sketches_keep_inner_products(self):
        """A squared distance between maps is kept to some per cent by 512 sums."""
        maps = torch.randn(20, 40, 16, 16, generator=torch.Generator().manual_seed(1))
        flat, short = maps.flatten(1), sketch(maps)
        ratio = (short[:10] - short[10:]).square().sum(1) / (flat[:10] - flat[10:]).square().sum(1)

        assert short.shape == (20, 512)
        assert ((ratio - 1).abs() < 0.25).all()
        assert abs(float(ratio.mean()) - 1) < 0.08


# -- what is planted -----------------------------------------------------------------------------


class TestPlanted:
    def test_the_late_layer_encodes_the_concept_and_the_early_one_does_not(self, planted):
        """An absolute value is found behind the rectifier only; its direction has equal weights there."""
        scene = planted()
        run = scene.run()
        late = run.concluded(Rcv(layer=scene.late, permutations=99, bootstraps=5)).summary
        early = run.concluded(Rcv(layer=scene.early, permutations=99, bootstraps=5)).summary
        cell = {"model": "ridge", "concept": "planted/size"}

        assert float(late["r2_held"].sel(cell)) > 0.9
        assert float(late["r2_low"].sel(cell)) > 0.8
        assert float(late["p_value"].sel(cell)) == 0.01
        assert float(early["r2_held"].sel(cell)) < 0.1
        direction = late["direction"].sel(cell).values
        wanted = np.array([1, 0, 0, 1, 0, 0]) / np.sqrt(2)
        assert direction @ wanted > 0.99
        assert float(late["cosine_median"].sel(concept="planted/size")) > 0.95

    def test_with_enough_noise_it_is_not_found(self, planted):
        """Noise of ten times the concept's spread hides it: the interval reaches below 0."""
        scene = planted(noise=10.0)
        table = scene.run().concluded(Rcv(layer=scene.late, permutations=99, bootstraps=0)).summary
        cell = {"model": "ridge", "concept": "planted/size"}

        assert float(table["r2_low"].sel(cell)) < 0
        assert float(table["p_value"].sel(cell)) > 0.05

    def test_nothing_is_found_in_noise(self, planted):
        """Noise is predicted no better than by its mean, though least squares fits it in sample."""
        scene = planted()
        table = scene.run().concluded(Rcv(layer=scene.late, permutations=99, bootstraps=0)).summary
        noise = table.sel(concept=["noise/one", "noise/two"])

        assert (noise["r2_held"] < 0.05).all()
        assert (noise["p_value"].sel(model="ridge") > 0.05).all()
        assert (noise["r2_train"].sel(model="ols") > 0).all()

    def test_maxima_and_sketches_find_it_too(self, planted):
        """Constant maps have the same features whatever reduces them, but for the dimension of a sketch."""
        scene = planted()
        for features, dimension in (("max", "channel"), ("projected", "feature")):
            parts = Rcv(features=features, models=("ridge",), **QUICK).split(scene.scene.survey)
            mine = [part for part in parts if part.name.endswith(scene.late)]
            run = run_in_memory(mine[:1], scene.scene, controls=0)
            table = replace(run, groups=scene.groups).concluded(mine[1]).summary

            assert mine[1].needs(scene.scene.survey).tables == {f"rcv-features@{scene.late}"}
            assert float(table["r2_held"].sel(model="ridge", concept="planted/size")) > 0.9
            assert dimension in table["direction"].dims

    def test_layers_with_vectors_have_features_as_well(self):
        """A layer of vectors is split off too, and its maxima are its values; other layers are left alone."""
        scene = make_scene(images=4)
        infos = dict(scene.survey.layers)
        infos["flat"] = replace(infos["features"], name="flat", shape=(2,), layout="vector")
        infos["odd"] = replace(infos["features"], name="odd", shape=(), layout="other")
        survey = replace(scene.survey, layers=infos)
        names = [part.name for part in Rcv().split(survey)]
        assert "rcv@flat" in names
        assert "rcv@odd" not in names
        batch = replace(scene.batch(), activations={"flat": torch.tensor([[1.0, -2.0], [3.0, torch.nan]])})
        rows = RcvFeatures("flat", "max").observe(batch).rows
        np.testing.assert_array_equal(rows["features"].values, [[1, -2], [np.nan, np.nan]])


# -- networks, images, groups --------------------------------------------------------------------


class TestNetworks:
    def test_all_networks_see_the_same_splits(self, planted):
        """A further network with the audited one's weights has exactly its numbers, split by split."""
        scene = planted()
        twin = replace(scene.control("twin"), run=InMemoryRun(scene.scene))
        table = scene.run(networks=[twin]).concluded(Rcv(layer=scene.late, **QUICK)).summary

        assert table["network"].values.tolist() == ["audited", "shuffled-0", "twin"]
        assert table["network_kind"].values.tolist() == ["audited", "control", "network"]
        for name in ("r2_split", "sse", "network_r2_held", "network_r2_low"):
            ours, theirs = (table[name].sel(network=network).values for network in ("audited", "twin"))
            np.testing.assert_array_equal(ours, theirs)
        assert float(table["network_r2_held"].sel(network="shuffled-0", model="ridge")[0]) < 0.1

    def test_errors_give_r2_in_every_network(self, planted):
        """1 minus the ratio of the sums over groups is the held-out R² of each network and model."""
        scene = planted()
        table = scene.run().concluded(Rcv(layer=scene.late, **QUICK)).summary
        found = 1 - table["sse"].sum("group") / table["ssb"].sum("group")

        np.testing.assert_allclose(
            found.transpose("network", "model", "concept").values, table["network_r2_held"].values, rtol=1e-9
        )

    def test_whole_groups_are_left_out(self, planted):
        """Copies of an image in one group do not help to predict it; as independent images they do."""
        scene = planted(images=120, groups=30)
        means = np.random.default_rng(5).normal(size=(30, 3))[scene.groups]
        pixels = torch.tensor(means, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 8, 8).clone()
        own = np.random.default_rng(6).normal(size=30)[scene.groups]
        copies = replace(scene.scene, images=pixels).with_concepts({"copied/value": own})
        rcv = Rcv(layer=scene.late, **QUICK)
        grouped = scene.run(scene=copies, controls=[]).concluded(rcv).summary
        alone = scene.run(scene=copies, controls=[], groups=None).concluded(rcv).summary

        assert float(grouped["r2_held"].sel(model="ols")[0]) < 0
        assert float(alone["r2_held"].sel(model="ols")[0]) > float(grouped["r2_held"].sel(model="ols")[0])
        assert grouped.attrs["groups"] == 30
        assert alone.attrs["note"] == "images treated as independent"

    def test_a_network_that_gives_nothing_takes_no_images_from_the_others(self, planted):
        """Features that are nowhere finite leave that network without numbers, the others with theirs."""
        scene = planted()
        lost = scene.control("lost")
        lost = replace(lost, run=replace(lost.run, scene=lost.run.scene.unreadable(range(120))))
        table = scene.run(controls=[lost]).concluded(Rcv(layer=scene.late, **QUICK)).summary

        assert table.attrs["images"] == 120
        assert np.isnan(table["network_r2_held"].sel(network="lost")).all()
        assert float(table["r2_held"].sel(model="ridge")[0]) > 0.9

    def test_images_that_any_network_lacks_are_left_out_everywhere(self, planted):
        """Comparisons are paired: an image without features in one network counts in none."""
        scene = planted()
        other = scene.control()
        other = replace(other, run=replace(other.run, scene=other.run.scene.unreadable([0, 7])))
        table = scene.run(controls=[other]).concluded(Rcv(layer=scene.late, **QUICK)).summary

        assert table.attrs["images"] == 118
        assert (table["n"] == 118).all()
        assert np.isnan(table["predicted"].values[[0, 7]]).all()


class TestBadInput:
    def test_no_concepts_give_an_empty_table(self, planted):
        """Without concepts there is a summary with the options and nothing else."""
        scene = planted()
        run = scene.run(scene=scene.scene.with_concepts({}))
        table = run.concluded(Rcv(layer=scene.late)).summary

        assert not table.data_vars
        assert table.attrs["folds"] == 5

    def test_what_is_not_estimable_is_a_row_with_a_reason(self, planted):
        """Constants, texts and concepts of a few images have NaN and a reason, never 0 or minus infinity."""
        scene = planted()
        few = np.full(120, np.nan)
        few[:5] = [1.0, 2.0, 3.0, 4.0, 5.0]
        odd = {"a/constant": np.ones(120), "a/text": np.full(120, np.nan), "a/few": few}
        given_scene = scene.scene.with_concepts({**scene.concepts, **odd})
        table = scene.run(scene=given_scene).concluded(Rcv(layer=scene.late, **QUICK)).summary

        for name, word in (("a/constant", "constant"), ("a/text", "fewer"), ("a/few", "fewer")):
            row = table.sel(concept=name)
            assert word in str(row["reason"].values)
            for number in ("r2_held", "r2_train", "p_value", "direction", "predicted", "sse", "angle_mean"):
                assert np.isnan(row[number]).all(), number
        assert (table["reason"].sel(concept=list(scene.concepts)) == "").all()
        assert np.isfinite(table["r2_held"].sel(concept="planted/size")).all()

    def test_the_cause_of_missing_values_is_told(self, planted):
        """Where the host knows why a concept is undefined, the reason says so."""
        scene = planted()
        run = scene.run(scene=scene.scene.with_concepts({"manifest/stain": np.full(120, np.nan)}))
        concepts = run.concepts.assign_coords(reason=("concept", ["a text, not a number"]))

        class Told:
            """The run, with a reason for the concept."""

            def __getattr__(self, name):
                return concepts if name == "concepts" else getattr(run, name)

        table = Rcv(layer=scene.late, **QUICK).conclude(Told()).summary
        assert "a text, not a number" in str(table["reason"].values[0])
        assert "a text, not a number" in str(table["why"].sel(model="ols").values[0])

    def test_one_group_gives_reasons(self, planted):
        """Nothing can be held out of one group."""
        scene = planted()
        run = scene.run(groups=np.zeros(120, dtype=int))
        table = run.concluded(Rcv(layer=scene.late, **QUICK)).summary

        assert np.isnan(table["r2_held"]).all()
        assert all("one group" in str(reason) for reason in table["reason"].values)

    def test_more_channels_than_images_leave_least_squares_undefined(self):
        """OLS with n <= p + 1 is not estimable and never 1; ridge is."""
        wide = torch.randn(14, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        given_scene = replace(make_scene(multi_logit(2), images=14, size=(8, 8)), images=wide)
        given_scene = given_scene.with_concepts({"a/b": np.arange(14.0)})
        names = [name for name, info in given_scene.survey.layers.items() if info.shape[0] == 8]
        run = InMemoryRun(given_scene, groups=np.arange(14))
        table = run.concluded(Rcv(layer=names[0], **QUICK)).summary
        assert np.isfinite(table["r2_held"].sel(model="ridge")).all()
        assert float(table["noise_r2"][0]) == pytest.approx(8 / 13)
        few = run_in_memory([], given_scene.first(10), controls=0)
        table = few.concluded(Rcv(layer=names[0], **QUICK)).summary
        assert np.isnan(table["r2_train"].sel(model="ols")).all()
        assert "OLS" in str(table["why"].sel(model="ols").values[0])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"folds": 1},
            {"repeats": 0},
            {"permutations": -1},
            {"bootstraps": True},
            {"models": ("lasso",)},
            {"models": ("ols",)},
            {"models": ()},
            {"features": "median"},
        ],
    )
    def test_options_without_a_meaning_are_refused(self, wrong):
        """One clear line for each."""
        with pytest.raises(UsageError, match="rcv"):
            Rcv(**wrong)

    def test_models_may_be_written_as_a_list_of_words(self):
        """A run file's list and a command line's words name the same models, in the same order."""
        assert Rcv(models="ridge, ols").models == Rcv(models=["ols", "ridge"]).models == ("ols", "ridge")
