"""A finished run: what its tables say, how passes follow one another, and what a broken one says."""

# ruff: noqa: D102  # methods of the contracts

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import Conclusion, Finding, Needs, Observation, Section, Text
from wsss_probe.errors import CorruptRunError, ExitCode, PlanError, ProbeError, UsageError
from wsss_probe.images import ManifestSource, Sample, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.run import open_run, read_record
from wsss_probe.testing.models import inplace, multi_logit, planted_gap, single_logit

SIZE = (16, 24)


def pictures(number=6, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


def nothing(_run=None):
    """Conclude nothing."""
    return Conclusion(xr.Dataset())


def level(batch):
    """Mean of each image, and the sum over the batch."""
    values = batch.images.mean(dim=(1, 2, 3)).numpy()
    readable = values[batch.readable.numpy()].astype(np.float64)
    return Observation(xr.Dataset({"level": ("image", values)}), xr.Dataset({"sum": ((), readable.sum())}))


@pytest.fixture
def audited(hosting, tmp_path):
    """Audit images in memory with given probes; ``audited.host`` and ``audited.told`` are of the last."""

    def make(*probes, net=None, images=None, out="run", explain=(), strict=True, folder=None, **options):
        make.host, make.told = hosting(probes, explain, strict), []
        source = TensorSource(pictures()) if images is None else images
        common = {"layers": ("features",), "controls": "none", "batch_size": 2}
        prepared = prepared_audit(
            AuditOptions(**{**common, **options}), make.host, net or multi_logit(2), source
        )
        make.outcome = perform(
            prepared, folder or tmp_path / out, "wsss-probe audit …", lambda *job: Told(make.told, job)
        )
        return make.outcome

    return make


class Told:
    """Progress that writes down what it is told."""

    def __init__(self, told, job):
        self.told, self.job = told, job

    def __enter__(self):
        return lambda number: self.told.append((*self.job, number))

    def __exit__(self, *_):
        pass


@pytest.fixture
def concluding(audited, looking):
    """Audit with a probe that hands its run to a function; gives what that returned last."""

    def make(function, observe=level, needs=None, **options):
        found = []

        def conclude(run):
            found.append(function(run))
            return nothing()

        audited(looking("asking", observe, conclude, needs or Needs()), **options)
        return found[-1]

    return make


class TestAuditedRun:
    def test_rows_and_partials(self, concluding):
        """Rows are by image, partials are added up over shards; both equal a direct computation."""
        rows, partial = concluding(lambda run: (run.rows("asking").load(), run.partial("asking").load()))
        means = [float(image.mean()) for image in pictures()]

        np.testing.assert_allclose(rows["level"], means, rtol=1e-6)
        np.testing.assert_allclose(float(partial["sum"]), sum(means), rtol=1e-6)
        assert partial.sizes == {}

    def test_partials_of_several_shards(self, concluding):
        """Seventy images are two shards, and the partial is the sum over both."""
        images = pictures(70)
        partial = concluding(
            lambda run: run.partial("asking").load(), images=TensorSource(images), batch_size=32
        )

        np.testing.assert_allclose(float(partial["sum"]), float(images.mean(dim=(1, 2, 3)).sum()), rtol=1e-6)

    def test_logits_pooled_and_relevance(self, concluding, times_gradient):
        """What the host recorded is read by its names; relevance that nobody made is None."""
        net = multi_logit(2)
        logits, pooled, maps, absent = concluding(
            lambda run: (
                run.logits.load(),
                run.pooled("features").load(),
                run.relevance("timesgradient", "features").load(),
                run.relevance("nobody", "features"),
            ),
            net=net,
            explain=[times_gradient()],
        )

        np.testing.assert_allclose(logits, net(pictures()).detach(), rtol=1e-5, atol=1e-6)
        assert pooled.dims == ("image", "channel")
        assert maps["relevance"].dims == ("image", "row", "column")
        assert absent is None

    def test_pictures_masks_and_maps_of_one_image(self, concluding):
        """One image can be looked at again: its view, its mask, and maps computed anew."""
        net, masks = multi_logit(2), torch.zeros((6, *SIZE), dtype=torch.int64)
        masks[1, 3, 4] = -1
        picture, mask, maps = concluding(
            lambda run: (run.picture(1), run.mask(1), run.activations(1, "features")),
            net=net,
            images=TensorSource(pictures(), masks),
        )

        assert picture.shape == (*SIZE, 3)
        assert mask.tolist() == masks[1].tolist()
        np.testing.assert_allclose(maps, net.features(pictures())[1].detach(), rtol=1e-5, atol=1e-6)

    def test_an_unreadable_image_has_none_of_them(self, concluding):
        """Of an image that cannot be read there is no picture and there are no maps."""
        images = pictures()
        images[2, 0, 0, 0] = torch.nan
        found = concluding(
            lambda run: (
                run.picture(2),
                run.mask(2),
                run.activations(2, "features"),
                list(run.images["readable"]),
            ),
            images=TensorSource(images),
        )

        assert found == (None, None, None, [True, True, False, True, True, True])

    def test_the_network_is_a_copy_of_the_audited_one(self, concluding):
        """What a plugin does to ``run.model()`` never reaches the user's network."""
        net = multi_logit(2)

        def spoil(run):
            module = run.model()
            same = all(torch.equal(a, b) for a, b in zip(module.parameters(), net.parameters(), strict=True))
            with torch.no_grad():
                module.classifier.weight.zero_()
            return same, run.path, tuple(run.survey.layers)

        same, path, layers = concluding(spoil, net=net)

        assert same
        assert net.classifier.weight.abs().sum() > 0
        assert path.name == "run.partial"
        assert layers == ("features",)

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            (lambda run: run.rows("no"), "run has no table 'probes/no/rows'"),
            (lambda run: run.partial("no"), "run has no table 'probes/no/partials'"),
            (lambda run: run.pooled("no"), "run has no table 'activations/no'"),
            (lambda run: run.summary("no"), r"no summary of 'no' yet; remedy: name it in Needs\.tables"),
        ],
    )
    def test_what_is_not_there(self, concluding, ask, message):
        """Asking for a table that does not exist names it."""
        with pytest.raises(UsageError, match=message):
            concluding(ask)

    def test_without_labels_nothing_speaks_against_the_classifier(self, concluding):
        """Nothing is known against a classifier without labels, and images are independent."""
        assert concluding(lambda run: (run.not_testable, run.groups)) == ("", None)


class TestClassifier:
    @pytest.fixture
    def halves(self, tmp_path):
        """Twenty files and a network with one logit that is positive for ten; labels as it says."""
        net = single_logit()
        images = (pictures(20) * 255).round()
        with torch.no_grad():
            net.classifier.bias -= net(images / 255).sort().values[9:11].mean()
            present = (net(images / 255) > 0).tolist()
        for number, image in enumerate(images):
            Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")

        def source(*names):
            rows = [f"{number}.png,{names[shown]}" for number, shown in enumerate(present)]
            (tmp_path / "m.csv").write_text("\n".join(["image,label", *rows]) + "\n")
            return ManifestSource(read_manifest(tmp_path / "m.csv"), Preprocessing.parse("unit"))

        return net, source

    def test_a_single_logit_is_judged_by_its_sign(self, concluding, audited, halves):
        """Images of another label are negative: a perfect network has accuracy and AUC 1."""
        net, source = halves
        reason = concluding(
            lambda run: run.not_testable, net=net, images=source("normal", "tumour"), classes=("tumour",)
        )
        finding = {f.name: f for _, f in audited.outcome.findings}["classifier"]

        assert reason == ""
        assert (finding.verdict, finding.effect, finding.n) == ("ok", 1.0, 20)
        assert "accuracy 1.000" in finding.statement

    def test_a_bad_classifier_is_not_testable(self, concluding, halves):
        """Probes are told that nothing may rest on a classifier that is always wrong."""
        net, source = halves
        reason = concluding(
            lambda run: run.not_testable, net=net, images=source("tumour", "normal"), classes=("tumour",)
        )

        assert reason == "AUC 0.000 [0.000, 0.000] has a lower bound under 0.7"


class TestControls:
    def test_are_read_like_the_run(self, concluding):
        """Controls come in their order, with rows of their own over the same images."""
        found = concluding(
            lambda run: [
                (
                    c.name,
                    c.alive("features"),
                    c.rows("asking")["level"].values,
                    float(c.partial("asking")["sum"]),
                )
                for c in run.controls
            ],
            net=inplace(),
            controls="shuffled:2",
        )
        means = pictures().mean(dim=(1, 2, 3)).numpy()

        assert [(name, alive) for name, alive, _, _ in found] == [("shuffled-0", True), ("shuffled-1", True)]
        for _, _, rows, partial in found:
            np.testing.assert_allclose(rows, means, rtol=1e-6)
            np.testing.assert_allclose(partial, means.sum(), rtol=1e-5)

    def test_run_on_another_network(self, concluding):
        """A control's pooled features are those of other weights, and it maps no relevance."""
        own, other, maps = concluding(
            lambda run: (
                run.pooled("features").values,
                run.controls[0].pooled("features").values,
                run.controls[0].relevance("timesgradient", "features"),
            ),
            net=inplace(),
            controls="shuffled:1",
        )

        assert own.shape == other.shape
        assert not np.allclose(own, other, rtol=0.1)
        assert maps is None

    def test_a_dead_one_says_so(self, audited, looking):
        """A control whose layer does not respond to images is not alive, and the host warns of it."""
        alive = []
        probe = looking(
            "asking", conclude=lambda run: [alive.append(run.controls[0].alive("features")), nothing()][1]
        )
        images = pictures() * 0.4 + 0.3
        images[::2, 0, :8, :8], images[::2, 1, :8, :8] = 1.0, 0.0
        outcome = audited(probe, net=planted_gap(), images=TensorSource(images), controls="shuffled:1")

        assert alive == [False]
        assert "control-degenerate@features" in [finding.name for _, finding in outcome.findings]


class TestPasses:
    def test_a_later_pass_reads_an_earlier_summary(self, audited, looking):
        """A probe with tables sees the first's summary in every batch of a second pass, also in controls."""
        seen = []

        def conclude(run):
            return Conclusion(xr.Dataset({"mean": ((), float(run.rows("first")["level"].mean()))}))

        def observe(batch):
            seen.append((batch.indices.tolist(), float(batch.tables["first"]["mean"])))

        needs = Needs(tables=frozenset({"first"}))
        audited(
            looking("second", observe, nothing, needs),
            looking("first", level, conclude),
            controls="shuffled:1",
        )

        batches = [[0, 1], [2, 3], [4, 5]]
        assert [indices for indices, _ in seen] == batches * 2
        np.testing.assert_allclose([mean for _, mean in seen], float(pictures().mean()), rtol=1e-6)
        titles = dict.fromkeys((title, images) for title, images, _ in audited.told)
        assert list(titles) == [("audited network", 12), ("control shuffled-0", 12)]
        assert sum(number for *_, number in audited.told) == 24

    def test_a_probe_that_only_concludes_costs_no_pass(self, audited, looking):
        """Reading another's summary without looking at images makes no second pass."""

        class Silent(looking):
            observe = looking.__mro__[1].observe

        found = []
        first = looking("first", level, lambda run: Conclusion(xr.Dataset({"three": ((), 3.0)})))
        second = Silent(
            "second",
            conclude=lambda run: [found.append(float(run.summary("first")["three"])), nothing()][1],
            needs=Needs(tables=frozenset({"first"})),
        )
        audited(second, first)

        assert found == [3.0]
        assert audited.told == [("audited network", 6, 6)]

    def test_a_summary_is_concluded_with_controls_in_the_end(self, audited, looking, tmp_path):
        """The summary that stays is the one that knew the controls."""
        first = looking(
            "first", level, lambda run: Conclusion(xr.Dataset({"n": ((), float(len(run.controls)))}))
        )
        second = looking("second", level, nothing, Needs(tables=frozenset({"first"})))
        audited(first, second, controls="shuffled:2")

        assert float(open_run(tmp_path / "run")["probes/first/summary/n"]) == 2.0

    def test_who_cannot_conclude_in_the_end_tells_nothing(self, audited, looking):
        """A summary from between the passes makes no section when the last conclusion failed."""

        class Telling(looking):
            def sections(self, summary, run):
                pytest.fail("a section from a summary that knew no controls")

        def conclude(run):
            if run.controls:
                raise ValueError("controls")
            return Conclusion(xr.Dataset({"n": ((), 1.0)}))

        second = looking("second", level, nothing, Needs(tables=frozenset({"first"})))
        audited(Telling("first", level, conclude), second, controls="shuffled:1", strict=False)

        assert [(failure.item, failure.stage) for failure in audited.host.failures] == [("first", "conclude")]

    def test_sections_read_the_summary(self, audited, looking, tmp_path):
        """A probe's section stands in the report, made from its summary."""

        class Telling(looking):
            def sections(self, summary, run):
                yield Section("concepts", "Telling", (Text(f"The number is {float(summary['n']):.1f}."),))

        audited(Telling("telling", level, lambda run: Conclusion(xr.Dataset({"n": ((), 7.5)}))))

        assert "The number is 7.5." in (tmp_path / "run" / "report.json").read_text()


class TestFaultyProbes:
    def test_who_did_not_see_all_images_concludes_nothing(self, audited, looking, tmp_path):
        """A probe that fails on a late batch gives no finding from the images before; exit code 6."""

        def observe(batch):
            if 4 in batch.indices:
                raise ValueError("four")
            return level(batch)

        late = looking(
            "late", observe, lambda run: Conclusion(xr.Dataset(), (Finding("f", "ok", "All well."),))
        )
        outcome = audited(late, strict=False)

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        assert "f" not in [finding.name for _, finding in outcome.findings]
        assert "ValueError: four" in (tmp_path / "run" / "report.html").read_text()

    def test_failing_on_a_control_does_not_silence_the_audit(self, audited, looking):
        """A probe that fails only on a control still concludes about the audited network."""
        calls = []

        def observe(batch):
            calls.append(0)
            if len(calls) > 3:
                raise ValueError("a control")
            return level(batch)

        probe = looking(
            "half", observe, lambda run: Conclusion(xr.Dataset(), (Finding("f", "ok", "All well."),))
        )
        outcome = audited(probe, strict=False, controls="shuffled:1")

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        assert "f" in [finding.name for _, finding in outcome.findings]

    @pytest.mark.parametrize("stage", ["conclude", "sections"])
    def test_others_go_on(self, audited, looking, stage):
        """A failure while concluding or telling is listed, and the next probe's finding is there."""

        class Odd(looking):
            def sections(self, summary, run):
                raise RuntimeError("no section")

        conclude = nothing if stage == "sections" else lambda run: 1 / 0
        fine = looking(
            "fine", level, lambda run: Conclusion(xr.Dataset(), (Finding("f", "ok", "All well."),))
        )
        outcome = audited(Odd("odd", level, conclude), fine, strict=False)

        assert [(failure.item, failure.stage) for failure in audited.host.failures] == [("odd", stage)]
        assert "f" in [finding.name for _, finding in outcome.findings]

    def test_numbers_of_numpy_in_a_finding(self, audited, looking, tmp_path):
        """A finding with numpy's numbers is written like any other."""
        finding = Finding("f", "ok", "All well.", effect=np.float32(0.5), n=np.int64(6))
        audited(looking("numpy", level, lambda run: Conclusion(xr.Dataset(), (finding,))))
        rows = json.loads((tmp_path / "run" / "findings.json").read_text())

        assert [row["effect"] for row in rows if row["name"] == "f"] == [0.5]


class TestFolder:
    def test_a_folder_of_something_else_is_refused_before_any_work(self, audited, looking, tmp_path):
        """An existing folder that is no run, or a file, is refused before the first image is read."""
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("years of work")
        (tmp_path / "file").write_text("")
        for out in ("run", "file"):
            with pytest.raises(
                PlanError, match=f"{out}' exists and is no run; .*remedy: choose another --out"
            ):
                audited(looking("x", lambda batch: pytest.fail("an image was read"), nothing), out=out)

        assert not (tmp_path / "run.partial").exists()
        assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"

    def test_an_empty_folder_is_used(self, audited, tmp_path):
        """An empty folder may be given."""
        (tmp_path / "run").mkdir()

        assert audited().exit_code == ExitCode.DONE
        assert (tmp_path / "run" / "run.json").is_file()

    def test_the_current_folder_is_used_by_name(self, audited, tmp_path, monkeypatch):
        """``--out .`` means the current folder, not a nameless one."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        outcome = audited(folder=Path())

        assert outcome.folder.samefile(tmp_path / "here")
        assert not (tmp_path / "here.partial").exists()

    def test_a_finished_audit_is_found(self, audited, looking):
        """The same audit again computes nothing and gives the same findings and exit code."""
        probe = looking(
            "asking", level, lambda run: Conclusion(xr.Dataset(), (Finding("f", "notice", "Well."),))
        )
        first = audited(probe)
        again = audited(probe)

        assert (first.computed, again.computed) == (1, 0)
        assert audited.told == []
        assert (again.findings, again.exit_code, again.folder) == (
            first.findings,
            first.exit_code,
            first.folder,
        )

    def test_a_second_writer_is_refused(self, audited, tmp_path):
        """While another process writes the same run, nobody else does."""
        from wsss_probe.store import exclusive

        with (
            exclusive(tmp_path / "run.partial"),
            pytest.raises(PlanError, match="another process is writing"),
        ):
            audited()


class Spoilt:
    """Images of which some cannot be read."""

    def __init__(self, number, bad):
        self.images, self.bad = pictures(number), bad

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return Sample(index, error="torn") if index in self.bad else Sample(index, tensor=self.images[index])

    def picture(self, index):
        return None


class TestQuarantine:
    @pytest.mark.parametrize(("number", "bad", "fraction"), [(12, 5, 0.0), (12, 6, 0.5), (100, 7, 0.07)])
    def test_few_bad_images_pass(self, audited, tmp_path, number, bad, fraction):
        """Up to five bad images, or the share allowed, are listed and pass."""
        audited(images=Spoilt(number, range(bad)), max_bad_fraction=fraction)

        assert (tmp_path / "run" / "quarantine.csv").read_text().count("image unreadable,torn") == bad
        assert read_record(tmp_path / "run")["data"]["unreadable"] == bad

    @pytest.mark.parametrize(("number", "bad", "fraction"), [(12, 6, 0.0), (100, 8, 0.07)])
    def test_many_end_the_audit(self, audited, tmp_path, number, bad, fraction):
        """One more ends it with code 6; the list of bad images is written."""
        with pytest.raises(ProbeError, match=f"found: {bad} of {number}, the first: torn") as caught:
            audited(images=Spoilt(number, range(bad)), max_bad_fraction=fraction)

        assert caught.value.exit_code == ExitCode.WITH_FAILURES
        assert (tmp_path / "run.partial" / "quarantine.csv").read_text().count("torn") == bad


class TestRecords:
    def test_only_a_finished_run_opens(self, tmp_path):
        """A folder without run.json is no finished run."""
        with pytest.raises(UsageError, match=r"is not a finished run; .*remedy: give a folder of 'audit'"):
            open_run(tmp_path)

    def test_an_unfinished_run_can_be_finished(self, tmp_path, monkeypatch):
        """Beside a partial folder the remedy is to run the same audit again, also for '.'."""
        (tmp_path / "run.partial").mkdir()
        (tmp_path / "run").mkdir()
        monkeypatch.chdir(tmp_path / "run")
        for folder in (tmp_path / "run", "."):
            with pytest.raises(UsageError, match="run the same audit again to finish it"):
                open_run(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"plan": "x", "model": {}}', '"x"', "null"])
    def test_a_broken_record(self, tmp_path, text):
        """A run.json that is no record is a corrupt run, said in one line with code 8."""
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(
            CorruptRunError, match=r"run\.json' cannot be read; .*remedy: delete the folder"
        ) as caught:
            read_record(tmp_path)

        assert caught.value.exit_code == ExitCode.CORRUPT

    @pytest.mark.parametrize("lost", ["data.zarr", "findings.json", "controls"])
    def test_a_run_that_lost_a_part(self, audited, tmp_path, lost):
        """A run without its tables, controls or findings is corrupt."""
        import shutil

        audited(controls="shuffled:1")
        path = tmp_path / "run" / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(CorruptRunError, match="cannot be"):
            open_run(tmp_path / "run")

    def test_open_run(self, audited, tmp_path):
        """An opened run has the network's name, the plan, the findings and the controls."""
        outcome = audited(controls="shuffled:1")
        tree = open_run(str(tmp_path / "run"))

        assert tree.attrs["model"] == "_GAP"
        assert tree.attrs["plan"] == read_record(outcome.folder)["plan"]
        assert "bit-identical" in tree.attrs["ok: host/certificate"]
        assert tree["controls/shuffled-0/predictions/logits"].shape == (6, 2)
