"""One pass over the images: what it records is true, complete, in order, and leaves nothing behind."""

# ruff: noqa: D102  # methods of the contracts

import dataclasses
import threading

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from wsss_probe import survey
from wsss_probe.api import prepared_audit, survey_task
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import Needs, Observation
from wsss_probe.images import Sample, TensorSource
from wsss_probe.plan import Execution
from wsss_probe.store import Store
from wsss_probe.survey import probe_path, relevance_path, run_stage, working_copy
from wsss_probe.testing.models import branched, inplace, multi_logit, planted_gap

SIZE = (16, 24)


def pictures(number, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tasked(hosting):
    """Make a task over images in memory; shards of ``shard`` images, batches of ``batch``."""

    def make(net, images, *, probes=(), explainers=(), batch=2, shard=4, folder=None, strict=True, **options):
        source = images if not isinstance(images, torch.Tensor) else TensorSource(images)
        host = hosting(probes, explainers, strict)
        options = {"layers": ("features",), "controls": "none", **options}
        prepared = prepared_audit(AuditOptions(**options), host, net, source)
        execution = dataclasses.replace(prepared.plan.execution, batch_size=batch, shard=shard)
        plan = dataclasses.replace(prepared.plan, execution=execution)
        prepared = dataclasses.replace(prepared, plan=plan)
        return survey_task(prepared, Store(folder, len(source), shard, plan.id))

    return make


def hooked(net, image, layer):
    """Output of one layer and logits of one image, by a plain hook."""
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        logits = net(image[None])
    finally:
        handle.remove()
    return seen[0], logits


def slow_relevance(net, image, layer, chosen):
    """Activation times gradient of one logit of one image, cell by cell."""
    maps, logits = hooked(net, image, layer)
    gradient = torch.autograd.grad(logits[0, chosen], maps)[0]
    found = np.zeros(maps.shape[2:])
    for channel in range(maps.shape[1]):
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                product = maps[0, channel, row, column] * gradient[0, channel, row, column]
                found[row, column] += product.item()
    return found


class TestRecorded:
    def test_equal_a_plain_pass_image_by_image(self, tasked, times_gradient):
        """Logits, means, maps and relevance equal hooks and autograd on one image at a time."""
        net, images = multi_logit(3), pictures(5)
        task = tasked(net, images, explainers=[times_gradient()], store_activations=("features",))
        run_stage(task)
        tree = task.store.tree()

        for index, image in enumerate(images):
            maps, logits = hooked(net, image, "features")
            maps, logits = maps[0].detach().numpy(), logits[0].detach().numpy()
            found = tree["activations/features"].isel(image=index)
            np.testing.assert_allclose(tree["predictions/logits"][index], logits, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["maps"], maps, rtol=1e-3, atol=1e-3)
            for channel in range(maps.shape[0]):
                cells = [value for row in maps[channel] for value in row]
                np.testing.assert_allclose(found["mean"][channel], sum(cells) / len(cells), rtol=1e-4)
            wanted = slow_relevance(net, image, "features", int(logits.argmax()))
            got = tree["relevance/timesgradient/features/relevance"][index]
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)

    def test_names_and_coordinates(self, tasked, times_gradient):
        """Tables carry the class names, the layer and the target."""
        task = tasked(multi_logit(3), pictures(2), explainers=[times_gradient()], classes=("a", "b", "c"))
        run_stage(task)
        tree = task.store.tree()

        assert tree["predictions"]["class"].values.tolist() == ["a", "b", "c"]
        assert tree["activations/features"].attrs["layer"] == "features"
        assert tree["relevance/timesgradient/features"].attrs == {
            "layer": "features", "explainer": "timesgradient", "target": "predicted"
        }  # fmt: skip

    def test_a_layer_of_vectors(self, tasked):
        """A layer that puts out vectors is recorded as they are."""
        net, images = multi_logit(3), pictures(3)
        task = tasked(net, images, layers=("classifier",), store_activations=("classifier",))
        run_stage(task)
        table = task.store.table("activations/classifier")

        assert table["maps"].dims == ("image", "channel")
        np.testing.assert_allclose(table["mean"], net(images).detach(), rtol=1e-5, atol=1e-6)

    def test_maps_are_kept_only_where_asked(self, tasked):
        """Without store_activations a layer has means and no maps."""
        task = tasked(multi_logit(3), pictures(2))
        run_stage(task)

        assert list(task.store.table("activations/features").data_vars) == ["mean"]

    def test_relevance_by_class_and_by_further_targets(self, tasked, times_gradient):
        """Every target that was asked for is stored: classes by class, names under their name."""
        net, images = multi_logit(3), pictures(3)
        named = {"targets": ("predicted", "c", "label", "a"), "classes": ("a", "b", "c")}
        task = tasked(net, images, explainers=[times_gradient()], **named)
        run_stage(task)
        table = task.store.table(relevance_path("timesgradient", "features"))

        assert set(table.data_vars) == {"relevance", "label", "by_class"}
        assert table["class"].values.tolist() == ["c", "a"]
        for place, chosen in enumerate([2, 0]):
            wanted = slow_relevance(net, images[1], "features", chosen)
            np.testing.assert_allclose(table["by_class"][1, place], wanted, rtol=1e-4, atol=1e-6)
        # without labels the label's evidence is that of the predicted class
        np.testing.assert_array_equal(table["label"], table["relevance"])

    def test_nonfinite_values_of_readable_images_are_counted(self, tasked):
        """A network that overflows is noticed; rows of unreadable images are not counted."""
        net = multi_logit(2)
        images = pictures(4)
        images[1] *= 1e38
        images[2, 0, 0, 0] = float("nan")
        task = tasked(net, images)
        (line,) = run_stage(task)
        logits = task.store.table("predictions")["logits"].values
        expected = int((~np.isfinite(logits[1])).sum())

        assert expected > 0
        assert line.counters["predictions/logits:nonfinite"] == expected


class Spoilt:
    """A source whose images of certain numbers cannot be read."""

    def __init__(self, images, bad):
        self.images, self.bad = images, bad

    def __len__(self):
        return len(self.images)

    def read(self, index):
        if index in self.bad:
            return Sample(index, error=f"no {index}")
        return Sample(index, tensor=self.images[index])

    def picture(self, index):
        return None


class TestBadSamples:
    @pytest.mark.parametrize("bad", [{0}, {3}, {4, 5}, {0, 1, 2, 3}, {6}])
    def test_are_rows_of_nan_and_shift_nothing(self, tasked, looking, times_gradient, bad):
        """At any place, a whole shard included: NaN there, all other rows as without bad images."""

        def observe(batch):
            value = batch.images.mean(dim=(1, 2, 3)).numpy() + 1
            return Observation(xr.Dataset({"level": ("image", value)}))

        found = []
        for source in (Spoilt(pictures(7), bad), Spoilt(pictures(7), set())):
            probe = looking("level", observe)
            task = tasked(multi_logit(2), source, probes=[probe], explainers=[times_gradient()])
            lines = run_stage(task)
            paths = ("predictions", "activations/features", "probes/level/rows")
            tables = [
                task.store.table(path) for path in (*paths, relevance_path("timesgradient", "features"))
            ]
            found.append([variable.values for table in tables for variable in table.data_vars.values()])
            said = {key: why for line in lines for key, why in line.unreadable.items()}
            assert said == {str(index): f"no {index}" for index in source.bad}

        rows = np.isin(np.arange(7), list(bad))
        for spoilt, whole in zip(*found, strict=True):
            assert np.isnan(spoilt[rows]).all()
            assert np.isfinite(whole).all()
            np.testing.assert_array_equal(spoilt[~rows], whole[~rows])

    def test_are_marked_for_probes(self, tasked, looking):
        """A probe sees which images are readable, in order, and never fewer images than the batch."""
        seen = []

        def observe(batch):
            seen.append((batch.indices.tolist(), batch.readable.tolist(), float(batch.images[-1].sum())))

        run_stage(tasked(multi_logit(2), Spoilt(pictures(3), {1}), probes=[looking("seeing", observe)]))

        assert seen[0] == ([0, 1], [True, False], 0.0)
        assert seen[1][:2] == ([2], [True])

    def test_a_bad_mask_is_noted_and_its_image_counts(self, tasked, looking):
        """An image whose mask cannot be used has a mask of -1, and the ledger says why."""

        class Source(Spoilt):
            masks = TensorSource(pictures(3), torch.zeros((3, *SIZE), dtype=torch.int64)).masks

            def read(self, index):
                mask = np.zeros(SIZE, np.int64) if index != 1 else None
                return Sample(
                    index, tensor=self.images[index], mask=mask, mask_error="" if index != 1 else "torn"
                )

        seen = []
        probe = looking("seeing", lambda batch: seen.append(batch.masks.clone()), needs=Needs(masks=True))
        task = tasked(multi_logit(2), Source(pictures(3), ()), probes=[probe])
        (line,) = run_stage(task)

        assert line.unreadable == {"mask:1": "torn"}
        assert [int(mask.max()) for mask in torch.cat(seen)] == [0, -1, 0]
        assert np.isfinite(task.store.table("predictions")["logits"]).all()


class TestBatches:
    @pytest.mark.parametrize(
        ("images", "batch", "shard"), [(9, 2, 4), (8, 4, 4), (5, 8, 8), (1, 2, 2), (7, 3, 3)]
    )
    def test_never_cross_the_border_of_a_shard(self, tasked, looking, images, batch, shard):
        """Batches come in order, cover every image once, and end where shards end."""
        seen = []
        probe = looking("seeing", lambda batch: seen.append(batch.indices.tolist()))
        run_stage(tasked(multi_logit(2), pictures(images), probes=[probe], batch=batch, shard=shard))

        assert [index for indices in seen for index in indices] == list(range(images))
        assert all(len({index // shard for index in indices}) == 1 for indices in seen)
        assert all(len(indices) <= batch for indices in seen)

    def test_their_size_changes_no_value(self, tasked, times_gradient):
        """Another batch size gives the same tables up to rounding."""
        tables = []
        for batch in (1, 3, 6):
            task = tasked(inplace(), pictures(6), explainers=[times_gradient()], batch=batch, shard=6)
            run_stage(task)
            tables.append(task.store.tree())

        for other in tables[1:]:
            xr.testing.assert_allclose(tables[0], other, rtol=1e-4, atol=1e-6)


class TestReading:
    class Counted:
        """A source that notes what is read."""

        def __init__(self, number):
            self.number, self.read_so_far, self.lock = number, [], threading.Lock()

        def __len__(self):
            return self.number

        def read(self, index):
            with self.lock:
                self.read_so_far.append(index)
            return Sample(index, tensor=torch.zeros(1))

    @pytest.mark.parametrize("batches", [0, 1, 2, 5])
    def test_ahead_keeps_the_order(self, tasked, batches):
        """With any number of batches each comes once, in order, whatever the threads do."""
        task = dataclasses.replace(tasked(multi_logit(2), pictures(10)), source=self.Counted(10))
        task = dataclasses.replace(task, store=Store(None, 2 * batches, 2, "x"))
        with survey.ThreadPoolExecutor(2) as pool:
            found = list(survey._read_ahead(task, pool, range(batches)))

        assert [[sample.index for sample in part] for part in found] == [
            [2 * n, 2 * n + 1] for n in range(batches)
        ]

    def test_the_next_batch_is_on_its_way(self, tasked):
        """When a batch is handed out the next one, and no more, has been asked for."""
        source = self.Counted(10)
        task = dataclasses.replace(tasked(multi_logit(2), pictures(10)), source=source)

        class Immediate:
            def submit(self, function, *arguments):
                future = survey.Future()
                future.set_result(function(*arguments))
                return future

        reading = survey._read_ahead(task, Immediate(), [0, 1, 2])
        assert [sample.index for sample in next(reading)] == [0, 1]
        assert source.read_so_far == [0, 1, 2, 3]

    def test_only_asked_shards_are_read(self, tasked):
        """Images of finished shards are not read again."""
        source = self.Counted(10)
        task = dataclasses.replace(tasked(multi_logit(2), pictures(10)), source=source)
        with survey.ThreadPoolExecutor(2) as pool:
            list(survey._read_ahead(task, pool, [2]))

        assert sorted(source.read_so_far) == [8, 9]


class TestPartials:
    def test_add_up_to_a_sum_over_all(self, tasked, looking):
        """Shards hold their own sums, and added up they equal a sum over all readable images."""
        images = pictures(11)

        def observe(batch):
            kept = batch.images[batch.readable].double()
            return Observation(
                partial=xr.Dataset(
                    {"count": ((), len(kept)), "sum": ("channel", kept.sum(dim=(0, 2, 3)).numpy())},
                    {"channel": [10, 11, 12]},
                )
            )

        task = tasked(multi_logit(2), Spoilt(images, {4}), probes=[looking("sums", observe)])
        run_stage(task)
        table = task.store.table("probes/sums/partials")
        kept = torch.cat([images[:4], images[5:]]).double()

        assert table["count"].values.tolist() == [4, 3, 3]
        assert table["channel"].values.tolist() == [10, 11, 12]
        np.testing.assert_allclose(table["sum"].sum("shard"), kept.sum(dim=(0, 2, 3)), rtol=1e-12)

    def test_are_added_in_order_and_in_double_precision(self, tasked, looking):
        """Sums of single precision lose nothing, and their order is that of the batches."""
        values = iter([1e8, 1.0, -1e8, 1.0])

        def observe(_batch):
            return Observation(partial=xr.Dataset({"sum": ((), np.float32(next(values)))}))

        task = tasked(multi_logit(2), pictures(4), probes=[looking("sums", observe)], batch=1, shard=4)
        run_stage(task)

        assert float(task.store.table("probes/sums/partials")["sum"][0]) == 2.0


class TestInterventions:
    def test_resume_equals_zeroing_a_channel_by_a_hook(self, tasked, looking):
        """Continuing with a channel set to zero gives the logits that a hook gives, on every batch."""
        net, images, seen = branched(), pictures(5), []

        def observe(batch):
            changed = batch.activations["block"].clone()
            changed[:, 6] = 0
            seen.append((batch.resume("block", changed), batch.resume("block", torch.cat([changed] * 2))))

        probe = looking("cutting", observe, needs=Needs(layers=frozenset({"block"})))
        run_stage(tasked(net, images, probes=[probe], layers=("block",)))

        def zero(_module, _inputs, output):
            output = output.clone()
            output[:, 6] = 0
            return output

        handle = net.get_submodule("block").register_forward_hook(zero)
        wanted, whole = net(images).detach(), branched()(images).detach()
        handle.remove()
        assert not torch.allclose(wanted, whole, rtol=1e-2)
        torch.testing.assert_close(torch.cat([once for once, _ in seen]), wanted)
        for once, twice in seen:
            torch.testing.assert_close(twice, torch.cat([once, once]))

    def test_forward_runs_the_network_on_other_images(self, tasked, looking):
        """``batch.forward`` gives logits, (image, class), of any images, without a graph."""
        net, seen = multi_logit(2), []
        probe = looking("asking", lambda batch: seen.append(batch.forward(batch.images.flip(3))))
        run_stage(tasked(net, pictures(3), probes=[probe]))

        found = torch.cat(seen)
        torch.testing.assert_close(found, net(pictures(3).flip(3)).detach())
        assert not found.requires_grad

    def test_gradients_for_a_probe(self, tasked, looking):
        """A probe is given the gradients that it named, of its own target."""
        net, images, seen = multi_logit(3), pictures(2), []

        def observe(batch):
            product = batch.activations["features"] * batch.gradients["features", 2]
            seen.append(product.sum(1).numpy())

        needs = Needs(gradients=frozenset({("features", 2)}))
        run_stage(tasked(net, images, probes=[looking("graded", observe, needs=needs)]))

        np.testing.assert_allclose(
            seen[0][1], slow_relevance(net, images[1], "features", 2), rtol=1e-4, atol=1e-6
        )


class TestStages:
    def test_a_later_pass_gives_what_was_asked_and_records_nothing_again(self, tasked, looking):
        """In a later stage a probe has its gradients' layers and earlier summaries; the host is silent."""
        seen = []

        def observe(batch):
            seen.append((dict(batch.tables), list(batch.activations), list(batch.gradients)))
            return Observation(xr.Dataset({"one": ("image", np.ones(len(batch.indices)))}))

        needs = Needs(gradients=frozenset({("features", "predicted")}), tables=frozenset({"first"}))
        first = looking("first", conclude=lambda run: None)
        task = tasked(
            multi_logit(2), pictures(3), probes=[first, looking("second", observe, needs=needs)],
            layers=("features", "features.0"),
        )  # fmt: skip
        second = [offered for offered in task.host.collect_probes() if offered.item.name == "second"]
        summary = {"first": xr.Dataset({"mean": ((), 3.0)})}
        run_stage(dataclasses.replace(task, probes=second, stage="1", tables=summary))

        assert task.store.tables() == ["probes/second/rows"]
        assert seen[0] == (summary, ["features"], [("features", "predicted")])

    def test_streaming_is_what_overrides_observe(self, looking):
        """A probe that does not look at images needs no pass."""

        class Silent(looking):
            observe = survey.Probe.observe

        assert survey.streams(looking("a"))
        assert not survey.streams(Silent("b"))


class TestResuming:
    def observe(self, batch):
        """The mean of each image."""
        return Observation(xr.Dataset({"mean": ("image", batch.images.mean(dim=(1, 2, 3)).numpy())}))

    def test_finished_shards_are_skipped(self, tasked, looking, tmp_path):
        """A second pass computes no shard, tells the progress, and gives the same lines."""
        seen, told = [], []
        probe = looking("mean", lambda batch: [seen.append(0), self.observe(batch)][1])
        task = tasked(multi_logit(2), pictures(9), probes=[probe], folder=tmp_path)
        lines = run_stage(task, told.append)
        computed = len(seen)
        again = run_stage(dataclasses.replace(task, store=Store(tmp_path, 9, 4, task.plan.id)), told.append)

        assert computed == len(seen) == 5
        assert told == [4, 4, 1] * 2
        assert [line.arrays for line in again] == [line.arrays for line in lines]

    def test_a_missing_shard_alone_is_computed_again(self, tasked, looking, tmp_path):
        """What the ledger does not name is computed, bit for bit as before."""
        seen = []
        probe = looking("mean", lambda batch: [seen.append(batch.indices.tolist()), self.observe(batch)][1])
        task = tasked(multi_logit(2), pictures(9), probes=[probe], folder=tmp_path)
        lines = run_stage(task)
        seen.clear()
        (tmp_path / "ledger" / "0-000001.json").unlink()
        again = run_stage(task)

        assert seen == [[4, 5], [6, 7]]
        assert again == lines

    def test_a_failure_is_remembered(self, tasked, looking, tmp_path):
        """A probe that failed before an interruption stays off, and its failure is listed again."""

        def observe(batch):
            if 4 in batch.indices:
                raise ValueError("no fours")
            return self.observe(batch)

        tasks = []
        for _ in range(2):
            probe = looking("mean", observe)
            task = tasked(multi_logit(2), pictures(12), probes=[probe], folder=tmp_path, strict=False)
            run_stage(task)
            tasks.append(task)
            (tmp_path / "ledger" / "0-000002.json").unlink()

        assert [failure.message for failure in tasks[1].host.failures] == ["ValueError: no fours"]
        assert tasks[0].host.failures == tasks[1].host.failures
        mean = tasks[1].store.table("probes/mean/rows")["mean"].values
        assert np.isfinite(mean[:4]).all()
        assert np.isnan(mean[4:]).all()


class TestFaultyPlugins:
    """What a probe or explainer does wrong is its own failure and nobody else's."""

    def faulty(self, tasked, **offered):
        task = tasked(multi_logit(2), pictures(8), strict=False, **offered)
        run_stage(task)
        return task

    @pytest.mark.parametrize("border", [2, 4])
    @pytest.mark.parametrize("what", ["variable", "size", "coordinate", "kind"])
    def test_tables_of_another_form(self, tasked, looking, border, what):
        """Rows that cannot be joined, within a shard or between shards, are the probe's failure."""

        def observe(batch):
            late = int(batch.indices[0] >= border)
            if what == "kind" and late:
                return None
            name = "other" if what == "variable" and late else "value"
            width = 3 if what == "size" and late else 2
            shift = late if what == "coordinate" else 0
            values = np.zeros((len(batch.indices), width))
            return Observation(
                xr.Dataset({name: (("image", "channel"), values)}, {"channel": np.arange(width) + shift})
            )

        fine = looking("fine", lambda b: Observation(xr.Dataset({"one": ("image", np.ones(len(b.indices)))})))
        task = self.faulty(tasked, probes=[looking("odd", observe), fine])

        (failure,) = task.host.failures
        assert (failure.item, failure.stage) == ("odd", "observe")
        assert "another form than for the first batch" in failure.message
        assert task.store.table("probes/fine/rows")["one"].values.tolist() == [1.0] * 8

    def test_relevance_of_another_size(self, tasked, times_gradient):
        """An explainer whose maps do not fit the grid is listed and gives no table."""

        class Wide(times_gradient):
            name = "wide"

            def attribute(self, batch, layer, target):
                return torch.zeros(len(batch.indices), 3, 3)

        task = self.faulty(tasked, explainers=[Wide(), times_gradient()])

        assert [failure.item for failure in task.host.failures] == ["wide"]
        assert task.store.table(relevance_path("wide", "features")) is None
        assert task.store.table(relevance_path("timesgradient", "features")) is not None

    def test_a_probe_that_fails_late_gives_no_half_shard(self, tasked, looking):
        """Rows of the shard in which a probe fails are NaN; those before stand."""

        def observe(batch):
            if batch.indices[0] == 6:
                raise RuntimeError("six")
            return Observation(xr.Dataset({"one": ("image", np.ones(len(batch.indices)))}))

        task = self.faulty(tasked, probes=[looking("late", observe)])
        rows = task.store.table("probes/late/rows")["one"].values

        assert rows[:4].tolist() == [1.0] * 4
        assert np.isnan(rows[4:]).all()

    def test_a_probe_that_says_nothing_has_no_table(self, tasked, looking):
        """None from observe is no failure and no table."""
        task = self.faulty(tasked, probes=[looking("silent", lambda batch: None)])

        assert task.host.failures == ()
        assert not [path for path in task.store.tables() if path.startswith(probe_path("silent"))]


class TestThreads:
    def test_are_those_of_the_plan_and_restored(self, tasked, looking):
        """The pass runs with the plan's threads and leaves the number as it was, also after an error."""
        before = torch.get_num_threads()
        seen = []

        def observe(_batch):
            seen.append(torch.get_num_threads())
            raise RuntimeError("stop")

        task = tasked(multi_logit(2), pictures(2), probes=[looking("counting", observe)])
        execution = dataclasses.replace(task.plan.execution, threads=before + 1)
        task = dataclasses.replace(task, plan=dataclasses.replace(task.plan, execution=execution))
        with pytest.raises(RuntimeError, match="stop"):
            run_stage(task)

        assert seen == [before + 1]
        assert torch.get_num_threads() == before


class TestWorkingCopy:
    @pytest.mark.parametrize("form", ["channels_last", "contiguous"])
    def test_leaves_the_network_alone(self, form):
        """The copy is in eval mode and in the memory format; the network keeps mode, values, layout."""
        net = inplace().train()
        replica = working_copy(net, Execution(memory_format=form))
        weight, copied = net.features[3].weight, replica.features[3].weight

        assert net.training
        assert weight.is_contiguous()
        assert not any(part.training for part in replica.modules())
        assert copied.is_contiguous(memory_format=torch.channels_last) == (form == "channels_last")
        assert torch.equal(weight, copied)
        assert weight.data_ptr() != copied.data_ptr()

    def test_images_follow_the_memory_format(self, tasked):
        """Images of a batch are channels_last exactly when the plan says so."""
        task = tasked(planted_gap(), pictures(2))
        samples = [task.source.read(index) for index in range(2)]
        execution = dataclasses.replace(task.plan.execution, memory_format="contiguous")
        plain = dataclasses.replace(task, plan=dataclasses.replace(task.plan, execution=execution))

        assert survey._stack_images(task, samples).is_contiguous(memory_format=torch.channels_last)
        assert survey._stack_images(plain, samples).is_contiguous()

    def test_the_survey_changes_no_batch_statistics(self, tasked):
        """A network with normalisation that was handed over in train mode keeps its buffers."""
        net = nn.Sequential(inplace()).train()
        before = [buffer.clone() for buffer in net.buffers()]
        run_stage(tasked(net, pictures(4), layers=("0.features",)))

        assert all(torch.equal(*pair) for pair in zip(before, net.buffers(), strict=True))
