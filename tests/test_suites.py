"""The conformance suites: good plugins pass, and each kind of bad one is caught by the right test."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from wsss_probe import (
    ChannelColumn,
    ChannelColumns,
    Conclusion,
    DefinitionCard,
    Explainer,
    Finding,
    Needs,
    Observation,
    Probe,
    Section,
    Text,
)
from wsss_probe.errors import UsageError
from wsss_probe.testing import ChannelColumnsSuite, ExplainerSuite, ProbeSuite, make_scene, run_in_memory
from wsss_probe.testing.models import branched, inplace, planted_gap, reused
from wsss_probe.testing.runs import observe

CARD = DefinitionCard("Gradient times activation", "R = sum_k A_k dy/dA_k", "Nobody (2026)")


class Product(Explainer):
    """Gradient times activation."""

    name = "product"
    card = CARD
    gradients = True

    def attribute(self, batch, layer, target):
        """Sum the product over channels."""
        return (batch.activations[layer].float() * batch.gradients[layer, target].float()).sum(dim=1)


class Energy(Probe):
    """Mean squared activation of one layer, by channel, and how it compares with the controls."""

    def __init__(self, layer=""):
        self.layer = layer
        self.name = f"energy@{layer}" if layer else "energy"
        self.options = {"layer": layer}

    def split(self, survey):
        """Make one probe for each layer."""
        return [type(self)(layer) for layer in survey.layers]

    def needs(self, survey):
        """Ask for the layer."""
        return Needs(layers=frozenset({self.layer}))

    def observe(self, batch):
        """Average the squares over row and column, and count the images."""
        energy = batch.activations[self.layer].square().mean(dim=(2, 3))
        rows = xr.Dataset({"energy": (("image", "channel"), energy.numpy())})
        return Observation(rows, xr.Dataset({"images": ((), np.int64(len(energy)))}))

    def conclude(self, run):
        """Average over readable images."""
        energy = run.rows(self.name)["energy"]
        known = energy.dropna("image")
        mean = known.mean("image") if known.sizes["image"] else known.sum("image") * np.nan
        finding = Finding(
            "energy", "ok", f"Energy beside {len(run.controls)} controls.", n=known.sizes["image"]
        )
        return Conclusion(xr.Dataset({"mean": mean}), (finding,))

    def sections(self, summary, run):
        """Say it in one line."""
        return [Section("channels", "Energy", (Text("Energy."),))]


class TestProduct(ExplainerSuite):
    """A correct explainer that reads gradients passes the whole suite."""

    explainer = Product()


class TestProductOnAResidualNetwork(ExplainerSuite):
    """The suite runs on a network of the author's choice."""

    explainer = Product()

    def scene(self):
        """Use a residual network."""
        return make_scene(branched(), images=3, size=(12, 9))


class TestEnergy(ProbeSuite):
    """A correct probe that splits by layer passes the whole suite."""

    probe = Energy()


def failing(suite, *names, **attributes):
    """Run tests of a suite on a broken plugin, all or those named, and name those that fail."""
    failed = set()
    for name in names or [name for name in dir(suite) if name.startswith("test_")]:
        bound = type("Bound", (suite,), attributes)()
        try:
            getattr(bound, name)(*[torch.float16] * ("half" in name))
        except Exception:  # noqa: BLE001  # any way to fail is a catch
            failed.add(name)
    return failed


def broken_explainer(change):
    """Make an explainer whose maps are changed by a function of maps, batch and layer."""

    class Broken(Product):
        def attribute(self, batch, layer, target):
            return change(super().attribute(batch, layer, target), batch, layer)

    return Broken()


def mutate(maps, batch, layer):
    """Write into the batch."""
    batch.activations[layer].add_(1)
    return maps


def seed(maps, batch, layer):
    """Set the global seed."""
    torch.manual_seed(0)
    return maps


class TestExplainerSuiteCatches:
    @pytest.mark.parametrize(
        ("change", "caught"),
        [
            (lambda m, b, n: m.mT, "test_gives_a_map_on_the_layers_grid"),
            (lambda m, b, n: m.sum(dim=(1, 2)), "test_gives_a_map_on_the_layers_grid"),
            (lambda m, b, n: m > 0, "test_gives_a_map_on_the_layers_grid"),
            (lambda m, b, n: m.numpy(), "test_gives_a_map_on_the_layers_grid"),
            (lambda m, b, n: m / 0, "test_gives_a_map_on_the_layers_grid"),
            (lambda m, b, n: m + torch.rand(()), "test_is_deterministic"),
            (lambda m, b, n: m - m.mean(), "test_a_batch_equals_its_images_one_by_one"),
            (mutate, "test_leaves_everything_as_it_is"),
            (seed, "test_leaves_everything_as_it_is"),
            (lambda m, b, n: 1 / b.activations[n].sum(dim=1), "test_takes_a_map_of_zeros"),
            (lambda m, b, n: m / (b.activations[n].shape[1] - 1), "test_takes_a_single_channel"),
            (
                lambda m, b, n: m * (b.activations[n].dtype.itemsize - 2),
                "test_takes_half_precision_or_says_no",
            ),
        ],
        ids=[
            "transposed",
            "pooled",
            "boolean",
            "numpy",
            "infinite",
            "random",
            "batch-mean",
            "mutates",
            "seeds",
            "divides",
            "one-channel",
            "half",
        ],
    )
    def test_a_broken_explainer(self, change, caught):
        """Each way to break the contract fails the test that is named for it."""
        assert failing(ExplainerSuite, caught, explainer=broken_explainer(change)) == {caught}

    def test_a_seed_that_happens_to_be_set_already(self):
        """Setting the global seed is caught although the state was just that before."""
        caught = "test_leaves_everything_as_it_is"
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            assert failing(ExplainerSuite, caught, explainer=broken_explainer(seed)) == {caught}

    def test_an_explainer_that_refuses_half_precision(self):
        """A clear refusal of half precision is allowed."""

        def refuse(maps, batch, layer):
            if batch.activations[layer].dtype != torch.float32:
                raise UsageError("needs float32")
            return maps

        assert failing(ExplainerSuite, explainer=broken_explainer(refuse)) == set()

    def test_an_incomplete_card(self):
        """A card without a formula fails."""
        broken = Product()
        broken.card = replace(CARD, formula="")

        assert failing(ExplainerSuite, explainer=broken) == {"test_is_complete"}

    def test_an_explainer_that_accepts_a_vector(self):
        """Accepting what has no maps fails."""

        class Greedy(Product):
            def accepts(self, layer, head):
                return ""

        assert failing(ExplainerSuite, explainer=Greedy()) == {"test_says_which_layers_suit"}

    def test_an_explainer_that_changes_the_network(self):
        """Switching the network to train mode is caught."""
        scene = make_scene()

        class Trains(Product):
            def attribute(self, batch, layer, target):
                scene.network.train()
                return super().attribute(batch, layer, target)

        caught = "test_leaves_everything_as_it_is"

        assert failing(ExplainerSuite, caught, explainer=Trains(), scene=lambda self: scene) == {caught}


# ruff: noqa: D102, D106  # the name of each class is its fault
class Broken:
    """Probes with one fault each."""

    class Integers(Energy):
        def observe(self, batch):
            rows = super().observe(batch).rows
            return Observation(rows.astype(int))

    class Centred(Energy):
        def observe(self, batch):
            rows = super().observe(batch).rows
            return Observation(rows - rows.mean("image"))

    class Counting(Energy):
        def observe(self, batch):
            self.seen = getattr(self, "seen", 0) + 1
            return super().observe(batch)

    class Remembering(Energy):
        parts = ()

        def split(self, survey):
            self.parts = self.parts or super().split(survey)
            return self.parts

        def conclude(self, run):
            self.found = len(run.controls)
            return super().conclude(run)

    class Random(Energy):
        def observe(self, batch):
            return Observation(super().observe(batch).rows + np.random.rand())

    class Undeclared(Energy):
        def needs(self, survey):
            return Needs()

    class Elsewhere(Energy):
        def needs(self, survey):
            return Needs(layers=frozenset({self.layer, "layer99"}))

    class NeedsControls(Energy):
        def conclude(self, run):
            run.controls[0].rows(self.name)
            return super().conclude(run)

    class NeedsMasks(Energy):
        def observe(self, batch):
            batch.masks.sum()
            return super().observe(batch)

    class Spread(Energy):
        def conclude(self, run):
            np.nanmean(run.rows(self.name)["energy"].values)
            return super().conclude(run)

    class Pairs(Energy):
        def conclude(self, run):
            run.rows(self.name)["energy"][1]
            return super().conclude(run)

    class Sums(Energy):
        def observe(self, batch):
            return Observation(partial=xr.Dataset({"mean": ((), float(batch.logits.mean()))}))

        def conclude(self, run):
            return Conclusion(run.partial(self.name))

    class Twins(Energy):
        def split(self, survey):
            return [Energy(next(iter(survey.layers)))] * 2

    class Verdict(Energy):
        def conclude(self, run):
            return Conclusion(xr.Dataset(), (Finding("x", "great", "It is great."),))

    class Titled(Energy):
        def sections(self, summary, run):
            return ["Energy"]

    class Selfish(Energy):
        def observe(self, batch):
            if not bool(batch.readable.all()):
                raise ValueError("unreadable")
            return super().observe(batch)


class TestProbeSuiteCatches:
    @pytest.mark.parametrize(
        ("probe", "caught"),
        [
            (Broken.Integers, "test_rows_follow_the_schema"),
            (Broken.Centred, "test_does_not_depend_on_batch_borders"),
            (Broken.Sums, "test_does_not_depend_on_batch_borders"),
            (Broken.Remembering, "test_stores_nothing_on_itself"),
            (Broken.Random, "test_is_deterministic"),
            (Broken.Random, "test_leaves_everything_as_it_is"),
            (Broken.Undeclared, "test_rows_follow_the_schema"),
            (Broken.Elsewhere, "test_asks_for_what_exists"),
            (Broken.NeedsControls, "test_concludes_without_controls"),
            (Broken.NeedsMasks, "test_works_without_masks"),
            (Broken.Pairs, "test_concludes_over_a_single_image"),
            (Broken.Twins, "test_splits_into_probes_with_names_of_their_own"),
            (Broken.Verdict, "test_concludes_with_controls"),
            (Broken.Titled, "test_concludes_with_controls"),
            (Broken.Selfish, "test_survives_an_unreadable_image"),
        ],
    )
    def test_a_broken_probe(self, probe, caught):
        """Each way to break the contract fails the test that is named for it."""
        assert failing(ProbeSuite, caught, probe=probe()) == {caught}

    def test_a_warning_over_nan(self):
        """A mean over no image at all is caught, since warnings are errors."""
        caught = "test_concludes_when_no_image_was_readable"

        assert failing(ProbeSuite, caught, probe=Broken.Spread()) == {caught}

    def test_options_that_are_not_json(self):
        """Options that the plan cannot hash fail."""
        probe = Energy()
        probe.options = {"sizes": {1, 2}}

        assert failing(ProbeSuite, probe=probe) == {"test_is_complete"}


class Energies(ChannelColumns):
    """The energy that an earlier probe concluded, by channel."""

    name = "energies"

    def columns(self, run, layer):
        """Read the summary of this layer."""
        name = f"energy@{layer}"
        if name not in run.summary_names:
            return
        yield ChannelColumn("energy", run.summary(name)["mean"].values, "Mean square, n = 6; no control.")


ENERGIES = {"energy@features": xr.Dataset({"mean": ("channel", np.arange(8.0))})}


class TestEnergies(ChannelColumnsSuite):
    """Correct columns pass the whole suite."""

    columns = Energies()
    tables = ENERGIES


class Silent(Energies):
    """Knows nothing, whatever there is."""

    def columns(self, run, layer):
        return ()


class Short(Energies):
    """Leaves out the last channel."""

    def columns(self, run, layer):
        return [ChannelColumn("energy", [1.0] * 7, "m")] if layer == "features" else []


class Undefined(Energies):
    """Knows no value."""

    def columns(self, run, layer):
        return [ChannelColumn("x", [np.nan] * run.survey.layers[layer].shape[0], "m")]


class Twins(Energies):
    """Gives one name to two columns."""

    def columns(self, run, layer):
        return [*super().columns(run, layer)] * 2


class Random(Energies):
    """Draws from the global state."""

    def columns(self, run, layer):
        values = np.random.random(run.survey.layers[layer].shape[0])
        return [ChannelColumn("x", values, "m")]


class Demanding(Energies):
    """Takes the summary for granted."""

    def columns(self, run, layer):
        run.summary("energy@features")
        return super().columns(run, layer)


class Controlled(Energies):
    """Takes a control for granted."""

    def columns(self, run, layer):
        assert run.controls[0].name
        return super().columns(run, layer)


class Averaging(Energies):
    """Averages over nothing when no image was readable."""

    def columns(self, run, layer):
        return [ChannelColumn("x", np.nanmean(run.pooled(layer).values, axis=0), "m")]


class Remembering(Energies):
    """Stores what it was asked."""

    def __init__(self):
        self.asked = []

    def columns(self, run, layer):
        self.asked.append(layer)
        return super().columns(run, layer)


class Nameless(Energies):
    """Has no name that can be used."""

    name = "Some Energies"


class TestChannelColumnsSuiteCatches:
    @pytest.mark.parametrize(
        ("columns", "caught"),
        [
            (Silent(), {"test_says_something", "test_says_something_without_controls"}),
            (Short(), {name for name in dir(ChannelColumnsSuite) if "complete" not in name}),
            (Undefined(), {"test_says_something"}),
            (Twins(), {"test_names_are_unique_within_a_layer"}),
            (Random(), {"test_is_deterministic", "test_leaves_everything_as_it_is"}),
            (Demanding(), {"test_knows_nothing_without_tables"}),
            (Controlled(), {"test_says_something_without_controls"}),
            (Averaging(), {"test_takes_a_run_without_a_readable_image"}),
            (Remembering(), {"test_leaves_everything_as_it_is"}),
            (Nameless(), {"test_is_complete"}),
        ],
    )
    def test_broken_columns(self, columns, caught):
        """Each kind of break of the contract fails the tests that are about it, and no other."""
        failed = failing(ChannelColumnsSuite, columns=columns, tables=ENERGIES)

        assert failed == {name for name in caught if name.startswith("test_")}


class TestScene:
    def test_gradients_are_those_of_a_finite_difference(self):
        """The gradient of a batch says how the target's logit moves when one activation moves."""
        scene = make_scene(images=2)
        needs = Needs(layers=frozenset({"features.3"}), gradients=frozenset({("features.3", 1)}))
        batch = scene.batch(needs)
        maps = batch.activations["features.3"].clone()
        maps[0, 2, 3, 4] += 1e-2

        moved = batch.resume("features.3", maps) - batch.logits

        assert float(moved[0, 1]) == pytest.approx(
            1e-2 * float(batch.gradients["features.3", 1][0, 2, 3, 4]), rel=1e-2
        )
        assert float(moved[1].abs().max()) == 0

    def test_each_image_has_the_gradient_of_its_own_target(self):
        """The gradient for the predicted class equals that of the class which was predicted."""
        scene = make_scene(planted_gap())
        layer = "features"
        batch = scene.batch(Needs(gradients=frozenset({(layer, t) for t in ("predicted", "label", 0, 1)})))
        for image, (logits, labels) in enumerate(zip(batch.logits, batch.labels, strict=True)):
            by_class = [batch.gradients[layer, number][image] for number in (0, 1)]
            assert torch.equal(batch.gradients[layer, "predicted"][image], by_class[int(logits.argmax())])
            assert torch.equal(batch.gradients[layer, "label"][image], by_class[int(labels.int().argmax())])

    def test_resumes_with_copies_of_the_batch(self):
        """Two copies of the batch's maps give the batch's logits twice."""
        batch = make_scene().batch()
        maps = batch.activations["features.0"]

        twice = batch.resume("features.0", torch.cat([maps, maps]))

        assert torch.equal(twice, torch.cat([batch.logits, batch.logits]))

    def test_an_activation_that_is_overwritten_later_is_kept(self):
        """The output of a layer before an in-place ReLU has its negative values."""
        assert make_scene(inplace()).batch().activations["features.1"].min() < 0

    def test_a_reused_layer_has_one_entry_per_call(self):
        """Each call of a reused module has its own maps and can be resumed from."""
        batch = make_scene(reused(), images=2).batch()

        assert batch.activations["relu#0"].shape[1] != batch.activations["relu#1"].shape[1]
        resumed = batch.resume("relu#1", torch.zeros_like(batch.activations["relu#1"]))
        assert torch.equal(resumed[0], resumed[1])

    def test_mask_and_picture_show_the_same_rectangle(self):
        """The red pixels of an image are those of its mask."""
        scene = make_scene()
        red = (scene.images[:, 0] == 1) & (scene.images[:, 1] == 0)

        assert torch.equal(red, scene.masks == 0)
        assert [bool(image.any()) for image in red] == [False, True] * 3


class TestInMemoryRun:
    def test_reads_like_a_run(self):
        """Every property of a run is there, with the dimension names of the schema."""
        scene = make_scene().unreadable([2])
        run = run_in_memory([Energy("features")], scene, [Product()], controls=2)

        assert list(run.images["label"]) == ["class 0", "class 1"] * 3
        assert list(run.images["readable"]) == [True, True, False, True, True, True]
        assert run.logits.dims == ("image", "class")
        assert run.pooled("features").dims == ("image", "channel")
        assert run.relevance("product", "features")["relevance"].shape == (6, 8, 12)
        assert run.relevance("product", "nowhere") is None
        assert (run.picture(2), run.activations(2, "features")) == (None, None)
        assert run.picture(0).shape == (16, 24, 3)
        assert run.mask(0).shape == (16, 24)
        assert run.activations(0, "features").shape == (8, 8, 12)
        assert [control.name for control in run.controls] == ["shuffled-0", "shuffled-1"]
        assert int(run.partial("energy@features")["images"]) == 6

    def test_rows_of_unreadable_images_are_nan(self):
        """The row of an image that could not be read is NaN, and no other."""
        run = run_in_memory([Energy("features")], make_scene().unreadable([2]))

        lost = np.isnan(run.rows("energy@features")["energy"].values).all(axis=1)

        assert lost.tolist() == [False, False, True, False, False, False]
        assert np.isnan(run.logits.values[2]).all()

    def test_a_control_is_another_network_of_the_same_sizes(self):
        """Shuffled weights give other rows, and a layer can be declared dead."""
        run = run_in_memory([Energy("features")])
        control = replace(run.controls[0], dead=frozenset({"features"}))

        assert not np.allclose(
            control.rows("energy@features")["energy"], run.rows("energy@features")["energy"]
        )
        assert control.alive("features.0")
        assert not control.alive("features")

    def test_a_coordinate_that_differs_between_batches_is_an_error(self):
        """Rows of two batches with different channel names cannot be joined."""

        class Shifting(Energy):
            def observe(self, batch):
                rows = super().observe(batch).rows
                return Observation(rows.assign_coords(channel=rows["channel"] + int(batch.indices[0])))

        with pytest.raises(ValueError, match="channel"):
            observe(make_scene(), [Shifting("features")])


class TestPytestPlugin:
    def run_pytest(self, folder, code, *arguments, **variables):
        """Run pytest in a fresh process on one file, as an author would."""
        (folder / "test_mine.py").write_text(code)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | variables
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        ).stdout

    def test_loads_no_torch_into_a_strangers_pytest(self, tmp_path):
        """A project that has nothing to do with us pays no import of torch, numpy or xarray."""
        code = "import sys\ndef test(): assert {'torch', 'numpy', 'xarray'}.isdisjoint(sys.modules)"
        own = ("-p", "wsss_probe.testing.plugin")  # and no other: zarr's plugin imports numpy

        assert "1 passed" in self.run_pytest(tmp_path, code, *own, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    def test_shows_both_values_and_collects_no_suite_by_itself(self, tmp_path):
        """An assertion inside a suite is rewritten; an imported suite is no test; fixtures are there."""
        code = (
            "from wsss_probe.testing import ExplainerSuite, ProbeSuite\n"
            "class TestMine(ProbeSuite):\n"
            "    probe = None\n"
            "    def test_own(self):\n"
            "        import xarray as xr\n"
            "        from wsss_probe import Observation\n"
            "        make = lambda name: Observation(xr.Dataset({name: ('image', [1.0])}))\n"
            "        self._assert_same(make('mine'), make('yours'))\n"
            "def test_own(plugin_host, scene):\n"
            "    assert plugin_host.listing() == () and len(scene.images) == 6"
        )

        shown = self.run_pytest(tmp_path, code, "-k", "test_own")

        assert "assert {'mine'} == {'yours'}" in shown
        assert "1 failed, 1 passed" in shown
