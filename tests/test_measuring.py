"""Measuring concepts: each image once, in order, resumed, with what failed left out and said."""

import math
import os
import signal
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_probe import Concept, ConceptMeasure, Conclusion, DefinitionCard, Needs, Probe, ProbeError, hookimpl
from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.concepts import read_concepts
from wsss_probe.config import AuditOptions
from wsss_probe.errors import UsageError
from wsss_probe.host import PluginHost
from wsss_probe.images import ManifestSource, Preprocessing, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.masks import MaskSpec
from wsss_probe.matching import match_measures
from wsss_probe.measuring import MeasureTask, measure_concepts
from wsss_probe.store import Store

CARD = DefinitionCard("Darkness", "mean of pixels", "none")
SIZE = 12


@dataclass(frozen=True)
class Darkness(ConceptMeasure):
    """Mean and, for bright images only, spread; counts the pixels of class 0 where there are masks."""

    name = "darkness"
    card = CARD
    limit: float = 100.0

    def concepts(self, mask_classes, objects):
        """Name what is measured."""
        more = [Concept("covered", "Pixels of the first mask class.", "px")] if mask_classes else []
        return [Concept("mean", "Mean of all pixels."), Concept("spread", "Their spread."), *more]

    def measure(self, view):
        """Measure a view."""
        mean = float(view.pixels.mean())
        spread = float(view.pixels.std()) if mean > self.limit else "the image is dark"
        covered = {}
        if view.mask_classes:
            covered = {"covered": "no mask" if view.mask is None else float((view.mask == 0).sum())}
        return {"mean": mean, "spread": spread, **covered}


@dataclass(frozen=True)
class Broken(ConceptMeasure):
    """Fails, or answers wrongly, in one of several ways, for images of a mean above 100."""

    name = "broken"
    card = CARD
    default = False
    how: str = "raises"

    def concepts(self, mask_classes, objects):
        """Name what is measured."""
        return [Concept("value", "A value.")]

    def measure(self, view):
        """Measure a view."""
        if view.pixels.mean() <= 100:
            return {"value": 1.0}
        if self.how == "raises":
            raise ZeroDivisionError("no pixels")
        if self.how == "writes":
            view.pixels[0] = 0
        answers = {
            "other": {"other": 1.0},
            "too few": {},
            "nothing": None,
            "inf": {"value": math.inf},
            "nan": {"value": math.nan},
        }
        return answers.get(self.how, {"value": 2.0})


@dataclass(frozen=True)
class Lost(Darkness):
    """Kills the process that it runs in; holds whatever it is given."""

    held: object = None

    def __init__(self, held):
        object.__setattr__(self, "held", held)

    def measure(self, view):
        """Be killed, as for want of memory."""
        os.kill(os.getpid(), signal.SIGKILL)


class Reads(Probe):
    """Reads concepts, so that an audit measures them."""

    name = "reads"

    def needs(self, survey):
        """Ask for concepts."""
        return Needs(concepts=True)

    def conclude(self, run):
        """Keep what was read."""
        return Conclusion(run.concepts[["value"]].reset_coords(drop=True).rename(value="seen"))


def plugin(*measures, probes=()):
    """Make a host with one plugin that offers measures and probes."""

    class Offers:
        @staticmethod
        @hookimpl
        def wsss_probe_concept_measures():
            return list(measures)

        @staticmethod
        @hookimpl
        def wsss_probe_probes():
            return list(probes)

    host = PluginHost()
    host.register(Offers, "texture")
    return host


@pytest.fixture
def folder(tmp_path):
    """Write seven images of brightness 20, 40, …, 140, the third of them broken, with covariates."""
    rows = ["image,age,sex,mask"]
    for index in range(7):
        Image.fromarray(np.full((SIZE, SIZE, 3), 20 * (index + 1), np.uint8)).save(tmp_path / f"{index}.png")
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[: index + 1] = 1
        Image.fromarray(mask).save(tmp_path / f"m{index}.png")
        age, sex = ("", "f") if index == 1 else (30 + index, "m")
        rows.append(f"{index}.png,{age},{sex},{'' if index == 6 else f'm{index}.png'}")
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    return tmp_path


def task_of(folder, *measures, store=None, processes=1, shard=3):
    """Make the task of measuring a folder's images."""
    manifest = read_manifest(folder / "manifest.csv")
    source = ManifestSource(manifest, Preprocessing.parse(f"unit size={SIZE}"))
    host = plugin(*measures)
    options = {name: {} for name in ("broken",) if name in [m.name for m in measures]}
    matched = match_measures(host, options, ("all",), manifest.masks)
    store = store or Store(None, len(manifest), shard, "plan")
    return MeasureTask(
        matched, source, manifest.masks.names if manifest.masks else (), store, host, processes
    )


class TestMeasuring:
    @pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_every_image_once_in_order(self, folder, processes):
        """Values stand at their images' rows; an unreadable image is NaN, an undefined value says why."""
        task = task_of(folder, Darkness(), processes=processes)
        done = []
        measure_concepts(task, done.append)
        found = read_concepts(task.store, task.source.manifest.frame)

        mean, spread, covered = (
            found["value"].sel(concept=f"darkness/{name}").values for name in ("mean", "spread", "covered")
        )
        np.testing.assert_array_equal(mean, [20, 40, np.nan, 80, 100, 120, 140])
        np.testing.assert_array_equal(spread, [np.nan] * 5 + [0, 0])
        np.testing.assert_array_equal(covered, [12, 24, np.nan, 48, 60, 72, np.nan])
        said = dict(zip(found["concept"].values, found["reason"].values, strict=True))
        assert said["darkness/mean"] == ""
        assert said["darkness/spread"] == "the image is dark"
        assert said["darkness/covered"] == "no mask"
        assert done == [3, 3, 1]
        assert found["unit"].sel(concept="darkness/covered") == "px"

    def test_the_commonest_reason_is_told(self, folder):
        """Of several reasons the one that most images have stands beside the concept."""

        class Moody(Darkness):
            def measure(self, view):
                """Give a rare and a common reason."""
                mean = view.pixels.mean()
                reasons = {20.0: "rare", 40.0: "common", 80.0: "common"}
                return {**super().measure(view), "mean": reasons.get(float(mean), 1.0)}

        task = task_of(folder, Moody())
        measure_concepts(task)
        found = read_concepts(task.store, task.source.manifest.frame)

        assert found["reason"].sel(concept="darkness/mean") == "common"

    def test_names_that_paths_cannot_hold(self, folder):
        """A measure is known by its own name, whatever the store makes of it."""

        class Plus(Darkness):
            name = "dark+1"

        task = task_of(folder, Plus())
        measure_concepts(task)
        found = read_concepts(task.store, task.source.manifest.frame)

        assert "dark+1/spread" in found["concept"].values
        assert found["reason"].sel(concept="dark+1/spread") == "the image is dark"

    def test_no_image_is_measured_twice(self, folder, monkeypatch):
        """What the ledger names is not measured again, and gives the same table."""
        calls = []
        monkeypatch.setattr(Darkness, "limit", 100.0)
        measured = Darkness.measure
        monkeypatch.setattr(Darkness, "measure", lambda self, view: calls.append(1) or measured(self, view))
        task = task_of(folder, Darkness())
        measure_concepts(task)
        first, before = len(calls), read_concepts(task.store, task.source.manifest.frame)
        measure_concepts(task)

        assert first == 6
        assert len(calls) == first
        assert before.identical(read_concepts(task.store, task.source.manifest.frame))

    def test_an_interruption_is_resumed(self, folder, tmp_path):
        """Shards that were written stay; only what is missing is measured."""
        store = Store(tmp_path / "run", 7, 3, "plan")
        task = task_of(folder, Darkness(), store=store)

        def stop(images):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measure_concepts(task, stop)
        assert "darkness/mean" not in read_concepts(store, task.source.manifest.frame)["concept"].values
        again = replace(task, store=Store(tmp_path / "run", 7, 3, "plan"))
        done = []
        measure_concepts(again, done.append)

        assert done == [3, 3, 1]
        found = read_concepts(again.store, task.source.manifest.frame)
        assert found["value"].sel(concept="darkness/mean").values[-1] == 140

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("raises", "ZeroDivisionError: no pixels"),
            ("other", "measure returned other concepts; found: other; wanted: value"),
            ("too few", "measure returned other concepts; wanted: value"),
            ("nothing", "measure returned other concepts; found: NoneType; wanted: value"),
            ("writes", "ValueError: assignment destination is read-only"),
        ],
    )
    def test_a_measure_that_fails_is_left_out(self, folder, how, said):
        """Its failure is recorded in its name, nothing of it is shown, and the others go on."""
        task = task_of(folder, Darkness(), Broken(how))
        measure_concepts(task)
        found = read_concepts(task.store, task.source.manifest.frame)

        (failure,) = {str(failure.message) for failure in task.host.failures}
        assert said in failure
        assert {(f.plugin, f.stage, f.item) for f in task.host.failures} == {("texture", "measure", "broken")}
        assert not any(name.startswith("broken") for name in found["concept"].values)
        assert np.isfinite(found["value"].sel(concept="darkness/mean").values).sum() == 6

    def test_a_failure_is_remembered_by_a_resumed_run(self, folder, tmp_path):
        """A measure that failed before an interruption has failed after it."""
        task = task_of(folder, Broken(), store=Store(tmp_path / "run", 7, 3, "plan"))
        measure_concepts(task)
        again = task_of(folder, Broken(), store=Store(tmp_path / "run", 7, 3, "plan"))
        measure_concepts(again)

        assert {f.item for f in again.host.failures} == {"broken"}

    def test_strict_stops_at_the_first_failure(self, folder):
        """Under --strict the failure ends the audit, with the plugin's name."""
        task = task_of(folder, Broken())
        strict = PluginHost(strict=True)
        with pytest.raises(ProbeError, match="broken of plugin texture"):
            measure_concepts(replace(task, host=strict))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["dies", "cannot be sent"])
    def test_a_lost_process_is_one_line(self, folder, how):
        """A process that is killed, or a measure that cannot be sent to one, names the way out."""
        task = task_of(folder, Lost(how) if how == "dies" else Lost(threading.Lock()), processes=2)

        with pytest.raises(
            ProbeError, match=r"several processes; found: .+; remedy: give --processes 1"
        ) as caught:
            measure_concepts(task)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("how", ["inf", "nan"])
    def test_what_is_not_finite_is_undefined(self, folder, how):
        """Infinity is stored as NaN, with a reason."""
        task = task_of(folder, Broken(how))
        measure_concepts(task)
        found = read_concepts(task.store, task.source.manifest.frame).sel(concept="broken/value")

        assert np.isfinite(found["value"].values).sum() == 4
        assert found["reason"] == "the measure gives no finite number"

    def test_images_in_memory_are_handed_over_as_floats(self):
        """Nothing is known about the pixels of a tensor, so a measure sees network input."""
        seen = []

        class Looks(Darkness):
            def measure(self, view):
                """Measure a view."""
                seen.append((view.pixels.dtype, view.pixels.shape, view.pixels.flags.writeable))
                return super().measure(view)

        source = TensorSource(torch.rand(2, 3, 4, 5))
        host = plugin(Looks())
        task = MeasureTask(
            match_measures(host, {}, ("default",), None), source, (), Store(None, 2, 2, ""), host
        )
        measure_concepts(task)

        assert seen == [(np.dtype("float32"), (4, 5, 3), False)] * 2


class TestCovariates:
    def test_numbers_and_texts(self, folder):
        """Columns of numbers are concepts; one that holds text has a reason and no value."""
        frame = read_manifest(folder / "manifest.csv").frame
        found = read_concepts(Store(None, 7, 3, "plan"), frame)

        assert list(found["concept"].values) == ["manifest/age", "manifest/sex"]
        np.testing.assert_array_equal(found["value"].values[:, 0], [30, np.nan, 32, 33, 34, 35, 36])
        assert np.isnan(found["value"].values[:, 1]).all()
        assert list(found["reason"].values) == [
            "some images have no value",
            "the column holds text ('m'), no numbers",
        ]

    @pytest.mark.parametrize(
        ("cells", "reason"),
        [
            (["1", "2.5", "-3e2"], ""),
            (["1", "nan", "inf"], "some images have no value"),
            (["", "", ""], "the column is empty"),
            (["1", "2", "two"], "the column holds text ('two'), no numbers"),
        ],
    )
    def test_cells(self, cells, reason):
        """A single word makes a column text; NaN and infinity are missing values."""
        import pandas as pd

        found = read_concepts(Store(None, 3, 3, "plan"), pd.DataFrame({"image": ["a"] * 3, "age": cells}))

        assert found["reason"].values[0] == reason
        assert np.isnan(found["value"].values).all() == ("text" in reason or "empty" in reason)


class TestMatching:
    def test_default_all_none_and_patterns(self):
        """Words choose measures as they choose explainers; options ask for their measure."""
        host = plugin(Darkness(), Broken())
        names = lambda asked, options=None: [  # noqa: E731
            own.offered.name for own in match_measures(host, options or {}, asked, None)
        ]

        assert names(("default",)) == ["darkness"]
        assert names(("all",)) == ["darkness", "broken"]
        assert names(("none",)) == []
        assert names(("dark*",)) == ["darkness"]
        assert names(("none",), {"broken": {"how": "inf"}}) == ["broken"]

    def test_a_wrong_name_is_refused(self):
        """The nearest name is offered."""
        with pytest.raises(
            UsageError, match=r"no plugin offers such a concept measure.*did you mean 'darkness'"
        ):
            match_measures(plugin(Darkness()), {}, ("darknes",), None)

    def test_what_the_data_lack_is_left_out(self):
        """A measure that names no concept here is not run."""

        class OnlyMasks(Darkness):
            def concepts(self, mask_classes, objects):
                """Name what is measured."""
                return super().concepts(mask_classes, objects)[2:] if objects else []

        assert match_measures(plugin(OnlyMasks()), {}, ("all",), None) == ()
        (own,) = match_measures(plugin(OnlyMasks()), {}, ("all",), MaskSpec.instances())
        assert [concept.name for concept in own.concepts] == ["covered"]

    def test_names_must_be_unique(self):
        """Two concepts of one name are the plugin's fault, recorded."""

        class Twice(Darkness):
            def concepts(self, mask_classes, objects):
                """Name what is measured."""
                return [Concept("mean", ""), Concept("mean", "")]

        host = plugin(Twice())
        assert match_measures(host, {}, ("all",), None) == ()
        assert "concepts of the same name; found: mean" in host.failures[0].message

    def test_the_manifest_keeps_its_name(self):
        """No measure may be called as the covariates are."""

        class Manifest(Darkness):
            name = "manifest"

        host = plugin(Manifest())
        assert host.collect_concept_measures() == ()
        assert "the manifest's columns" in host.failures[0].message


class TestAudit:
    def net(self):
        """Give a network of two convolutions."""
        from wsss_probe.testing.models import multi_logit

        return multi_logit(2)

    def run(self, folder, host, **options):
        """Audit the folder's images."""
        asked = AuditOptions(
            manifest=str(folder / "manifest.csv"),
            preprocess=f"unit size={SIZE}",
            layers=("features",),
            controls="none",
            max_bad_fraction=1.0,
            **options,
        )
        prepared = prepared_audit(asked, host, self.net())
        return prepared, perform(prepared, folder / "run", "x")

    def test_only_where_a_probe_reads_them(self, folder):
        """Images are not measured for nothing, unless somebody names a measure."""
        assert self.run(folder, plugin(Darkness()))[0].measures == ()
        prepared = prepared_audit(
            AuditOptions(
                manifest=str(folder / "manifest.csv"),
                preprocess=f"unit size={SIZE}",
                layers=("features",),
                concepts=("darkness",),
            ),
            plugin(Darkness()),
            self.net(),
        )
        assert [own.offered.name for own in prepared.measures] == ["darkness"]
        assert prepared.plan.measures[0]["name"] == "darkness"

    def test_a_probe_that_reads_them_is_enough(self, folder):
        """Nobody has to name a measure where a probe needs concepts."""
        prepared, _ = self.run(folder, plugin(Darkness(), probes=[Reads()]))

        assert [own.offered.name for own in prepared.measures] == ["darkness"]

    def test_concepts_reach_probes_and_the_run_folder(self, folder):
        """A probe reads measured concepts and covariates; the table can be opened."""
        from wsss_probe import open_run

        _, outcome = self.run(
            folder, plugin(Darkness(), probes=[Reads()]), measures={"darkness": {"limit": 50.0}}
        )
        tree = open_run(outcome.folder)

        assert outcome.exit_code == 0
        assert tree["concepts/darkness/value"].sizes == {"image": 7, "concept": 3}
        assert tree["probes/reads/summary/seen"].sizes["concept"] == 5
        assert np.isfinite(tree["concepts/darkness/value"].values[:, 1]).sum() == 4
