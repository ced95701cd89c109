"""The Python interface: audit, record and forecast, on whatever holds images."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import wsss_probe
from wsss_probe import api
from wsss_probe.allocator import tune_allocator
from wsss_probe.api import command_line, forecast, prepared_audit, run_folder, survey_task
from wsss_probe.config import AuditOptions
from wsss_probe.errors import ExitCode, ModelError, UnsafeInputError, UsageError
from wsss_probe.images import ManifestSource, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.run import read_record
from wsss_probe.store import Store
from wsss_probe.survey import run_stage
from wsss_probe.testing.models import multi_logit

SIZE = (16, 24)
ASKED = {"layers": ("features",), "controls": "none", "only_plugins": ("explainers",)}


def pictures(number=5, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


def hooked(net, images, layer):
    """Outputs of a layer by a plain hook."""
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(
        lambda _m, _i, output: seen.append(output.detach())
    )
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[0]


@pytest.fixture
def folder(tmp_path):
    """A folder of five PNG files and a manifest that labels them."""
    (tmp_path / "files").mkdir()
    rows = ["image,label"]
    for number, image in enumerate(pictures()):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "files" / f"{number}.png")
        rows.append(f"{number}.png,{number % 2}")
    (tmp_path / "files" / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "files"


class TestRecord:
    def test_equals_a_forward_hook(self):
        """Maps equal a hook's to half precision, means and logits to single; all in memory."""
        net, images = multi_logit(3), pictures(20)
        tree = wsss_probe.record(net, images, ["features.0", "features"], batch_size=3)

        for layer in ("features.0", "features"):
            wanted = hooked(net, images, layer)
            table = tree[f"activations/{layer}"]
            assert table["maps"].dims == ("image", "channel", "row", "column")
            assert table["maps"].dtype == np.float16
            np.testing.assert_allclose(table["maps"], wanted, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(table["mean"], wanted.mean((2, 3)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tree["predictions/logits"], net(images).detach(), rtol=1e-5, atol=1e-6)
        assert tree["predictions/logits"]["image"].values.tolist() == list(range(20))

    def test_into_a_folder(self, tmp_path):
        """With ``out`` the same data lie in a folder that plain xarray opens."""
        held = wsss_probe.record(multi_logit(2), pictures(), "features")
        written = wsss_probe.record(multi_logit(2), pictures(), "features", out=tmp_path / "kept")
        opened = xr.open_datatree(tmp_path / "kept" / "data.zarr", engine="zarr", consolidated=False)

        xr.testing.assert_identical(held.load(), written.load())
        xr.testing.assert_identical(opened.load(), written.load())

    def test_overwrites_nothing(self, tmp_path):
        """A folder that holds data already is refused and left as it is."""
        wsss_probe.record(multi_logit(2), pictures(), "features", out=tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(UsageError, match="holds data already; remedy: choose another out="):
            wsss_probe.record(multi_logit(2), pictures(), "features", out=tmp_path)

        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def test_from_a_folder_of_files(self, folder):
        """Files are read with the preprocessing that is given."""
        tree = wsss_probe.record(multi_logit(2), folder, "features", preprocess="unit")

        images = (pictures() * 255).round() / 255
        np.testing.assert_allclose(
            tree["activations/features/mean"],
            hooked(multi_logit(2), images, "features").mean((2, 3)),
            rtol=1e-4,
        )

    def test_leaves_the_network_as_it_is(self):
        """Mode, hooks and weights are those from before."""
        net = multi_logit(2).train()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        wsss_probe.record(net, pictures(), "features")

        assert net.training
        assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
        assert not any(part._forward_hooks for part in net.modules())

    def test_an_unknown_layer(self):
        """A misspelt layer names the nearest."""
        with pytest.raises(ModelError, match="features"):
            wsss_probe.record(multi_logit(2), pictures(), "featurs")


class TestAudit:
    def test_of_a_tensor(self, tmp_path):
        """Images in memory are audited; the command names what lived in memory by its type."""
        outcome = wsss_probe.audit(multi_logit(2), pictures(), out=str(tmp_path / "run"), **ASKED)
        record = read_record(outcome.folder)

        assert outcome.exit_code == ExitCode.DONE
        assert record["data"]["images"] == 5
        assert record["command"] == "wsss_probe.audit(<_GAP>, <Tensor (5, 3, 16, 24)>)"

    def test_of_a_folder(self, folder, tmp_path):
        """A folder of files is audited with its labels."""
        outcome = wsss_probe.audit(
            multi_logit(2), folder, out=str(tmp_path / "run"), preprocess="unit", **ASKED
        )

        assert {f.name: f for _, f in outcome.findings}["classifier"].n == 5
        assert read_record(outcome.folder)["command"] == f"wsss_probe.audit(<_GAP>, '{folder}')"

    def test_of_a_source(self, folder, tmp_path):
        """A source over a manifest is audited with its labels and its preprocessing."""
        source = ManifestSource(read_manifest(folder / "manifest.csv"), Preprocessing.parse("unit"))
        outcome = wsss_probe.audit(multi_logit(2), source, out=str(tmp_path / "run"), **ASKED)
        files = wsss_probe.audit(
            multi_logit(2), folder, out=str(tmp_path / "other"), preprocess="unit", **ASKED
        )
        logits = [wsss_probe.open_run(run.folder)["predictions/logits"].values for run in (outcome, files)]

        assert {f.name: f for _, f in outcome.findings}["classifier"].n == 5
        np.testing.assert_array_equal(*logits)

    def test_code_needs_trust(self, folder):
        """A factory is refused unless the caller trusts it."""
        with pytest.raises(UnsafeInputError):
            wsss_probe.audit("nets.py:net", folder)

    def test_an_unknown_option(self):
        """An option that does not exist names the nearest."""
        with pytest.raises(UsageError, match="did you mean 'layers'"):
            wsss_probe.audit(multi_logit(2), pictures(), layer="features")

    def test_an_unknown_plugin(self):
        """A plugin that is not installed is named."""
        with pytest.raises(UsageError, match="no such plugin; found: nobody"):
            wsss_probe.audit(multi_logit(2), pictures(), only_plugins=("nobody",))


class TestRunFolder:
    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("ResNet", "ResNet"),
            ("torchvision/resnet18", "torchvision-resnet18"),
            ("/../x y", "x-y"),
            ("…", "model"),
        ],
    )
    def test_is_named_like_the_network(self, hosting, name, folder):
        """Without ``--out`` runs go to ``runs/<network>``, whatever signs the name holds."""
        import dataclasses

        subject = prepared_audit(AuditOptions(), hosting(), multi_logit(2), pictures()).subject
        subject = dataclasses.replace(subject, model=dataclasses.replace(subject.model, name=name))

        assert run_folder(AuditOptions(), subject).as_posix() == f"runs/{folder}"
        assert run_folder(AuditOptions(out="a/b"), subject).as_posix() == "a/b"


class TestForecast:
    @pytest.fixture
    def prepared(self, hosting, times_gradient):
        """An audit of forty images in batches of four."""

        def make(**options):
            asked = {"layers": ("features",), "batch_size": 4, **options}
            host = hosting(explainers=[times_gradient()])
            return prepared_audit(AuditOptions(**asked), host, multi_logit(2), pictures(40))

        return make

    def test_scales_the_rehearsal(self, prepared):
        """Bytes are those of a few images times their share, which comes near the real size."""
        made = prepared(controls="none", store_activations=("features",))
        price = forecast(made)
        store = Store(None, 40, made.plan.execution.shard, made.plan.id)
        run_stage(survey_task(made, store))

        assert (price.images, price.networks, price.rehearsed) == (40, 1, 4)
        assert price.bytes == pytest.approx(store.bytes_stored(), rel=0.35)
        assert price.seconds > 0

    def test_controls_cost_less_than_the_network(self, prepared):
        """Each control adds bytes, but not those of maps and relevance that it does not keep."""
        sizes = [
            forecast(prepared(controls=controls, store_activations=("features",))).bytes
            for controls in ("none", "shuffled:1", "shuffled:3")
        ]

        assert sizes[0] < sizes[1] < sizes[2] < 2 * sizes[0]
        assert sizes[2] - sizes[0] == pytest.approx(3 * (sizes[1] - sizes[0]), rel=0.05)

    def test_looks_at_images_from_everywhere(self, hosting):
        """The rehearsal reads images spread over the whole source, and their own labels."""
        seen = []

        class Source(TensorSource.__mro__[1]):
            def __init__(self, images):
                self.inner = TensorSource(images)

            def __len__(self):
                return len(self.inner)

            def read(self, index):
                seen.append(index)
                return self.inner.read(index)

        made = prepared_audit(
            AuditOptions(batch_size=4, controls="none"), hosting(), multi_logit(2), Source(pictures(40))
        )
        seen.clear()
        forecast(made)

        assert sorted(seen) == [0, 13, 26, 39]

    def test_images_keep_their_own_labels(self, hosting, looking, folder):
        """A probe that rehearses sees the labels of the images that are rehearsed."""
        seen = []
        probe = looking("seeing", lambda batch: seen.extend(batch.labels.int().argmax(dim=1).tolist()))
        source = ManifestSource(read_manifest(folder / "manifest.csv"), Preprocessing.parse("unit"))
        asked = AuditOptions(batch_size=2, controls="none")
        forecast(prepared_audit(asked, hosting([probe]), multi_logit(2), source))

        assert seen == [0, 0]  # images 0 and 4

    def test_a_single_image(self, hosting):
        """One image is a rehearsal of itself."""
        made = prepared_audit(AuditOptions(controls="none"), hosting(), multi_logit(2), pictures(1))

        assert (forecast(made).rehearsed, forecast(made).images) == (1, 1)


class TestBudget:
    @pytest.fixture
    def prepared(self, hosting, times_gradient):
        """An audit that keeps maps of forty images."""

        def make(images=None, **options):
            asked = {"layers": ("features",), "batch_size": 4, "controls": "none", **options}
            host = hosting(explainers=[times_gradient()])
            images = pictures(40) if images is None else images
            return prepared_audit(AuditOptions(**asked), host, multi_logit(2), images)

        return make

    def test_counts_every_stored_value(self, prepared):
        """Half precision for each cell of a kept layer, full precision for each map of each target."""
        kept = prepared(store_activations=("features",), targets=("all",))

        assert api._uncompressed(kept) == 40 * (2 * 8 * 8 * 12 + 4 * 8 * 12 * 2)
        assert api._uncompressed(prepared()) == 40 * 4 * 8 * 12

    def test_what_fits_uncompressed_needs_no_rehearsal(self, prepared, tmp_path, monkeypatch):
        """A cheap audit is not rehearsed."""
        monkeypatch.setattr(api, "forecast", lambda _prepared: pytest.fail("rehearsed"))

        api.require_affordable(prepared(), tmp_path / "run")

    def test_what_compresses_well_passes(self, prepared, tmp_path):
        """Maps that are all alike may exceed the budget uncompressed."""
        made = prepared(torch.zeros(40, 3, *SIZE), budget_gb=1.4e-5)

        assert api._uncompressed(made) > 1.4e4
        api.require_affordable(made, tmp_path / "run")

    def test_what_does_not_fit_is_refused_with_its_price(self, prepared, tmp_path):
        """The predicted size, the limit and the ways out are said, and nothing is written."""
        with pytest.raises(
            UsageError, match=r"found: .* GB predicted; wanted: at most 1e-06 GB; .*--budget-gb"
        ):
            api.require_affordable(prepared(budget_gb=1e-6), tmp_path / "run")

        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_a_limit(self, prepared, tmp_path, monkeypatch):
        """Not more than a quarter of what is free is taken."""
        free = 4 * api._uncompressed(prepared())
        for size, refused in ((free, False), (400, True)):
            monkeypatch.setattr(api.shutil, "disk_usage", lambda _path, size=size: SimpleNamespace(free=size))
            if refused:
                with pytest.raises(UsageError, match="exceed the byte budget"):
                    api.require_affordable(prepared(), tmp_path / "a" / "b")
            else:
                api.require_affordable(prepared(), tmp_path / "a" / "b")


class TestAllocator:
    def test_says_whether_it_took_effect(self):
        """In a process of its own: a truth value, and true exactly on Linux with glibc."""
        code = "from wsss_probe.allocator import tune_allocator; print(repr(tune_allocator()))"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        import platform

        expected = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
        assert said.strip() == repr(expected)

    @pytest.mark.parametrize(("system", "library"), [("darwin", ("glibc", "2")), ("linux", ("", ""))])
    def test_does_nothing_elsewhere(self, monkeypatch, system, library):
        """Without Linux and glibc nothing is called."""
        monkeypatch.setattr("wsss_probe.allocator.sys.platform", system)
        monkeypatch.setattr("wsss_probe.allocator.platform.libc_ver", lambda: library)
        monkeypatch.setattr("wsss_probe.allocator.ctypes.CDLL", lambda name: pytest.fail("called"))

        assert tune_allocator() is False

    def test_says_when_the_library_refuses(self, monkeypatch):
        """If one of the two calls fails it did not take effect."""

        class Library:
            answers = iter([1, 0])

            def mallopt(self, _number, _value):
                return next(self.answers)

        monkeypatch.setattr("wsss_probe.allocator.sys.platform", "linux")
        monkeypatch.setattr("wsss_probe.allocator.platform.libc_ver", lambda: ("glibc", "2"))
        monkeypatch.setattr("wsss_probe.allocator.ctypes.CDLL", lambda name: Library())

        assert tune_allocator() is False


def test_a_command_can_be_pasted():
    """Arguments with blanks and quotes are quoted for a shell."""
    assert command_line(["audit", "--classes", "a b,c'd"]) == """wsss-probe audit --classes 'a b,c'"'"'d'"""
