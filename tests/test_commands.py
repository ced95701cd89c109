"""What the commands do and print: layers, manifests, forecasts, outcomes, the state of the installation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_probe import commands
from wsss_probe.auditing import AuditOutcome
from wsss_probe.commands import ManifestRequest, make_manifest
from wsss_probe.config import resolve
from wsss_probe.contracts import Finding
from wsss_probe.errors import CorruptRunError, ExitCode, NothingToDoError, UsageError
from wsss_probe.manifest import read_manifest

FACTORY = """
from wsss_probe.testing.models import multi_logit

def net(classes=2):
    return multi_logit(classes)

def reused():
    from wsss_probe.testing.models import reused
    return reused()
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal wide enough that no line is broken."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def factory(tmp_path):
    """A factory file."""
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


@pytest.fixture
def folder(tmp_path):
    """Two images of 32x32 with masks: the left half of the first is object, the second has none."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(2):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, :16] = 1 - number
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
    return tmp_path / "data"


class TestLayers:
    def listed(self, capsys, host, **options):
        """Lines of the listing by the name of the layer."""
        commands.list_layers(resolve(options), host, trust_code=True)
        said = capsys.readouterr().out
        return said, {line.lstrip("* ").split("  ")[0].strip(): line for line in said.splitlines()}

    def test_without_images(self, capsys, hosting, factory, times_gradient):
        """A made-up image is enough; each layer has its shape and who accepts it, chosen ones a star."""

        class Shy(times_gradient):
            name = "shy"

            def accepts(self, layer, head):
                return "" if layer.name == "features" else "no"

        host = hosting(explainers=[times_gradient(), Shy()])
        said, lines = self.listed(capsys, host, model=f"{factory}:net", preprocess="unit size=32x48")

        assert "8×16×24" in lines["features"]
        assert lines["features"].rstrip().endswith("timesgradient, shy")
        assert lines["features.0"].rstrip().endswith(" timesgradient")
        assert "timesgradient" not in lines["classifier"]
        assert lines["features"].startswith("* ")
        assert lines["features.0"].startswith("  ")
        assert "head: linear on the mean of features" in said

    def test_arguments_and_weights_belong_to_the_network(self, capsys, hosting, factory):
        """A network is built with its arguments once, not asked for them again."""
        _, lines = self.listed(
            capsys,
            hosting(),
            model=f"{factory}:net",
            preprocess="unit size=32",
            model_arguments={"classes": 5},
        )

        assert "5" in lines["classifier"].split()

    def test_a_registry_network(self, capsys, hosting):
        """A network of a registry, untrained on purpose, is listed without images."""
        pytest.importorskip("timm")
        said, _ = self.listed(
            capsys, hosting(), model="timm/test_resnet", weights="random", preprocess="unit size=64"
        )

        assert "head: linear on the mean of" in said

    def test_with_images(self, capsys, hosting, factory, folder):
        """With images their size counts, and options of a run file are allowed."""
        _, lines = self.listed(
            capsys, hosting(), model=f"{factory}:net", preprocess="unit", images=str(folder), max_images=1
        )

        assert "8×16×16" in lines["features"]

    def test_options_about_absent_images_do_not_matter(self, capsys, hosting, factory):
        """A run file's mask options do not stop the listing."""
        asked = {
            "model": f"{factory}:net",
            "preprocess": "unit size=32",
            "masks": {"ignore": [1]},
            "max_images": 3,
        }
        _, lines = self.listed(capsys, hosting(), **asked)

        assert "8×16×16" in lines["features"]

    def test_layers_that_never_run_or_run_twice(self, capsys, hosting, factory, times_gradient):
        """A layer that never runs suits nobody; one that runs twice is listed by call."""
        _, lines = self.listed(
            capsys,
            hosting(explainers=[times_gradient()]),
            model=f"{factory}:reused",
            preprocess="unit size=16",
        )

        assert "never runs" in lines["idle"]
        assert lines["idle"].rstrip().endswith("0")
        assert {"relu#0", "relu#1"} <= set(lines)

    def test_a_broken_explainer_stops_nothing(self, capsys, hosting, factory, times_gradient):
        """An explainer that raises is left out of the listing."""

        class Odd(times_gradient):
            name = "odd"

            def accepts(self, layer, head):
                raise RuntimeError("odd")

        host = hosting(explainers=[Odd(), times_gradient()])
        said, _ = self.listed(capsys, host, model=f"{factory}:net", preprocess="unit size=32")

        assert "timesgradient" in said
        assert "odd" not in said


class TestManifest:
    def made(self, folder, **request):
        """Write a manifest beside the images; what was said, and the manifest."""
        out = folder / "m.csv"
        said = make_manifest(ManifestRequest(str(folder), str(out), **request))
        return said.removeprefix(f"{out}: "), read_manifest(out)

    def test_of_a_folder(self, folder):
        """Images and masks of equal names become rows."""
        said, manifest = self.made(folder)

        assert said == "2 images"
        assert manifest.frame["mask"].tolist() == ["masks/0.png", "masks/1.png"]

    def test_pattern(self, folder):
        """Named groups of a pattern become columns, and labels are counted."""
        said, _ = self.made(folder / "images", pattern=r"(?P<label>\d)")

        assert said == "2 images; 0 1, 1 1"

    def test_tiles_labelled_by_their_mask(self, folder):
        """Tiles are cut, labelled by area, and those that no rule labels are dropped and counted."""
        said, manifest = self.made(
            folder, tile=16, label_from_mask="object:foreground>=0.5, none:foreground<=.1"
        )

        assert said == "8 tiles; none 6, object 2"
        assert manifest.frame["label"].value_counts().to_dict() == {"none": 6, "object": 2}

    def test_stride(self, folder):
        """Tiles may overlap."""
        assert self.made(folder, tile=16, stride=8)[0] == "18 tiles"

    def test_nothing_left(self, folder):
        """If every tile is dropped there is nothing to write."""
        with pytest.raises(NothingToDoError, match="no tile is left; found: 2 no rule met; remedy"):
            self.made(folder, tile=32, label_from_mask="object:foreground>=0.6")
        assert not (folder / "m.csv").exists()

    def test_split(self, folder):
        """Splits are drawn by group, the same again with the same seed."""
        found = [self.made(folder, tile=16, split="train=0.5, test=0.5", seed=1)[1] for _ in range(2)]
        splits = found[0].frame.groupby("image")["split"].nunique()

        assert splits.tolist() == [1, 1]
        assert set(found[0].frame["split"]) == {"train", "test"}
        assert found[0].digest == found[1].digest

    def test_tiles_of_a_manifest(self, folder):
        """A manifest can be tiled as well."""
        self.made(folder)
        said = make_manifest(ManifestRequest(str(folder / "m.csv"), str(folder / "t.csv"), tile=32))

        assert said == f"{folder / 't.csv'}: 2 tiles"

    @pytest.mark.parametrize(
        "text",
        [
            "x",
            "a:b",
            "a:b>0.5",
            ":b>=0.5",
            "a:>=0.5",
            "a:b>=",
            "a:b>=0..5",
            "a:b>=.",
            "a:b>=1.2.3",
            "a:b>=-1",
        ],
    )
    def test_rules_that_cannot_be_read(self, folder, text):
        """A rule that is none shows the form of one."""
        with pytest.raises(UsageError, match=r"--label-from-mask cannot be read; .*gland:foreground>=0.3"):
            self.made(folder, tile=16, label_from_mask=text)

    def test_rules_that_nothing_can_meet(self, folder):
        """A share above 1 is refused."""
        with pytest.raises(UsageError, match=r"bounds within 0\.\.1"):
            self.made(folder, tile=16, label_from_mask="a:foreground>=2")

    @pytest.mark.parametrize("text", ["train", "train=x", "a=0.5,b", "a=b=c"])
    def test_splits_that_cannot_be_read(self, folder, text):
        """A split that is none shows the form of one."""
        with pytest.raises(UsageError, match=r"--split cannot be read; .*train=0\.8,test=0\.2"):
            self.made(folder, split=text)

    @pytest.mark.parametrize("text", ["a=0.5,b=0.6", "a=nan,b=0.5", "a=1,b=0", "a=-1,b=2"])
    def test_splits_that_cannot_be_meant(self, folder, text):
        """Shares are positive and add up to 1."""
        with pytest.raises(UsageError, match="positive and adding up to 1"):
            self.made(folder, split=text)

    @pytest.mark.parametrize(
        ("request_", "flags"),
        [
            ({"label_from_mask": "a:foreground>=0.5"}, "--label-from-mask"),
            ({"stride": 8}, "--stride"),
            ({"stride": 8, "label_from_mask": "a:foreground>=0.5"}, "--stride and --label-from-mask"),
        ],
    )
    def test_flags_that_would_do_nothing(self, folder, request_, flags):
        """Flags for tiles without --tile are refused."""
        with pytest.raises(UsageError, match=f"^{flags} would do nothing here"):
            self.made(folder, **request_)

    def test_a_pattern_for_a_table_would_do_nothing(self, folder):
        """File names of a manifest are not searched."""
        self.made(folder)
        with pytest.raises(UsageError, match=r"^--pattern would do nothing here"):
            make_manifest(ManifestRequest(str(folder / "m.csv"), str(folder / "t.csv"), pattern="x"))

    @pytest.mark.parametrize("tile", [0, -4])
    def test_tiles_of_no_size(self, folder, tile):
        """A tile has a size."""
        with pytest.raises(UsageError):
            self.made(folder, tile=tile)

    def test_many_labels_are_not_listed(self, tmp_path):
        """More than twenty labels fill no line."""
        for number in range(21):
            (tmp_path / f"c{number}").mkdir()
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"c{number}" / "a.png")

        assert self.made(tmp_path)[0] == "21 images"


class TestAudit:
    def run(self, host, factory, folder, tmp_path, *, dry_run=False, quiet=True, **options):
        """Run the command's function as the command line does."""
        asked = {
            "model": f"{factory}:net", "images": str(folder), "preprocess": "unit", "layers": "features",
            "controls": "shuffled:1", "out": str(tmp_path / "run"), **options,
        }  # fmt: skip
        commands.run_audit(resolve(asked), host, trust_code=True, dry_run=dry_run, quiet=quiet)

    @pytest.fixture(autouse=True)
    def untuned(self, monkeypatch):
        """Leave the allocator of the process that tests alone."""
        monkeypatch.setattr("wsss_probe.allocator.tune_allocator", lambda: True)
        monkeypatch.setattr(sys, "argv", ["wsss-probe", "audit", "--model", "a b"])

    def test_dry_run(self, capsys, hosting, factory, folder, tmp_path, times_gradient):
        """The forecast names network, images, layers, methods, time, size and folder; nothing is written."""
        self.run(hosting(explainers=[times_gradient()]), factory, folder, tmp_path, dry_run=True)
        said = capsys.readouterr().out

        for text in (
            f"{factory}:net", "2 × 2 networks", "features: ", "timesgradient at features",
            "for the passes (from 2 images)", " MB", str(tmp_path / "run"),
        ):  # fmt: skip
            assert text in said
        assert not list(tmp_path.glob("run*"))

    @pytest.mark.parametrize("quiet", [True, False])
    def test_outcome(self, capsys, hosting, factory, folder, tmp_path, quiet):
        """After an audit the findings and the report's path are printed; a second one says it was done."""
        for again in (False, True):
            self.run(hosting(), factory, folder, tmp_path, quiet=quiet)
            said = capsys.readouterr()

            assert "✓ The audited network is bit-identical" in said.out
            assert f"Report: {tmp_path / 'run' / 'report.html'}" in said.out
            assert ("Nothing to compute: this run is complete." in said.out) is again

    def test_failures_are_the_exit_code(self, hosting, factory, folder, tmp_path, looking):
        """With a failing plugin the command leaves with code 6, now and when it is found done."""
        import typer

        for _ in range(2):
            with pytest.raises(typer.Exit) as left:
                self.run(hosting([looking("odd", conclude=lambda run: 1 / 0)]), factory, folder, tmp_path)
            assert left.value.exit_code == ExitCode.WITH_FAILURES

    def test_many_notices_are_counted(self, capsys):
        """More than six notices of plugins are one line that names them; other findings are printed."""
        made = [("p", Finding(f"best/{c}@l", "notice", f"long {c}")) for c in "abcdefg"]
        made += [("p", Finding("sure@l", "ok", "fine")), ("host", Finding("h", "notice", "of the host"))]
        commands._print_outcome(AuditOutcome(Path("r"), ExitCode.DONE, tuple(made), 1))
        said = capsys.readouterr().out
        assert "7 notices in the report: best ×7" in said
        assert "fine" in said
        assert "of the host" in said
        assert "long" not in said

    def test_findings_are_printed_gravest_first(self, capsys):
        """Warnings come before notices before the rest; brackets are no markup."""
        made = [("p", Finding(v, v, f"{v} [red]x[/red]")) for v in ("ok", "warning", "notice", "warning")]
        commands._print_outcome(AuditOutcome(Path("r"), ExitCode.DONE, tuple(made), 1))
        lines = capsys.readouterr().out.splitlines()

        assert [line.split()[1] for line in lines[:4]] == ["warning", "warning", "notice", "ok"]
        assert all("[red]x[/red] (p)" in line for line in lines[:4])


class TestReport:
    def test_only_of_a_finished_run(self, tmp_path):
        """A folder that is no run has no report to write."""
        with pytest.raises(UsageError, match="is not a finished run"):
            commands.write_again(tmp_path)

    def test_of_a_run_without_its_stored_report(self, tmp_path):
        """A finished run that lost its stored report is corrupt."""
        (tmp_path / "run.json").write_text('{"plan": "x", "model": {"name": "n"}, "exit_code": 0}')
        with pytest.raises(CorruptRunError, match=r"report\.json' cannot be read"):
            commands.write_again(tmp_path)


class TestListing:
    def test_listing(self, capsys, hosting):
        """Plugins are listed with version, state and hooks."""
        commands.list_plugins(hosting())
        line = capsys.readouterr().out.splitlines()[1]

        assert line.split() == ["t", "t", "1", "loaded", "wsss_probe_explainers,", "wsss_probe_probes"]
