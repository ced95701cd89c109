"""A whole audit, as a user runs it: truthful, resumable, and the network left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

import wsss_probe
from wsss_probe.certificate import fingerprint
from wsss_probe.errors import ExitCode, PlanError, ProbeError, UsageError
from wsss_probe.testing.models import PLANTED_CHANNEL, planted_gap

SMALL = {
    "classes": ("background", "foreground"),
    "preprocess": "unit",
    "batch_size": 4,
    "layers": ("features",),
    "controls": "shuffled:2",
    "concepts": ("colour",),
}


@pytest.fixture(scope="module")
def outcome(scenes, tmp_path_factory):
    """One audit of the planted network with two controls."""
    out = tmp_path_factory.mktemp("runs") / "planted"
    return wsss_probe.audit(planted_gap(), scenes, out=str(out), **SMALL)


@pytest.fixture(scope="module")
def findings(outcome):
    """Findings by plugin and name."""
    return {f"{plugin}/{finding.name}": finding for plugin, finding in outcome.findings}


class TestFinishedRun:
    def test_ends_well(self, outcome):
        """The audit ends with exit code 0 and leaves no partial folder."""
        assert outcome.exit_code == ExitCode.DONE
        assert outcome.folder.is_dir()
        assert not outcome.folder.with_name("planted.partial").exists()

    def test_folder_is_complete(self, outcome):
        """The run folder holds every file that the design names."""
        names = {path.name for path in outcome.folder.iterdir()}

        assert names == {
            "plan.json", "data.zarr", "controls", "ledger", "quarantine.csv", "findings.json",
            "report.json", "report.html", "run.json", "passport", "choices.json",
        }  # fmt: skip

    def test_opens_with_plain_xarray(self, outcome):
        """The tables open with xarray alone, and rows carry the image coordinate."""
        tree = xr.open_datatree(outcome.folder / "data.zarr", engine="zarr", consolidated=False)

        assert tree["predictions/logits"].dims == ("image", "class")
        assert tree["relevance/gradcam/features"]["relevance"].dims == ("image", "row", "column")
        assert list(tree["activations/features"]["image"].values) == list(range(40))
        assert list(tree["images/label"].values[:2]) == ["foreground", "background"]

    def test_open_run_shows_findings_and_controls(self, outcome):
        """open_run gives the tables, the controls and, in its HTML, the findings."""
        tree = wsss_probe.open_run(outcome.folder)

        assert "controls/shuffled-0/activations/features" in [g.strip("/") for g in tree.groups]
        assert "bit-identical" in tree._repr_html_()

    def test_logits_equal_a_plain_forward(self, outcome, scenes):
        """Recorded logits are those of a plain forward pass over the same files."""
        from PIL import Image

        paths = [scenes.parent / "images" / f"{n:03}.png" for n in range(40)]
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2)
        with torch.no_grad():
            expected = planted_gap()(torch.from_numpy(pixels).float() / 255).numpy()

        found = wsss_probe.open_run(outcome.folder)["predictions/logits"].values
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_certificate_holds(self, findings):
        """The audited network is bit-identical before and after."""
        assert findings["host/certificate"].verdict == "ok"

    def test_classifier_is_judged_first(self, findings):
        """AUC stands in the findings with n, groups and an interval."""
        finding = findings["host/classifier"]

        assert finding.effect == 1.0
        assert (finding.n, finding.groups) == (40, 20)

    def test_second_audit_computes_nothing(self, outcome, scenes):
        """The same audit again touches no file and computes no shard."""
        before = {path: path.stat().st_mtime_ns for path in outcome.folder.rglob("*") if path.is_file()}
        again = wsss_probe.audit(planted_gap(), scenes, out=str(outcome.folder), **SMALL)

        assert again.computed == 0
        assert again.findings == outcome.findings
        assert before == {p: p.stat().st_mtime_ns for p in outcome.folder.rglob("*") if p.is_file()}

    def test_other_plan_is_refused(self, outcome, scenes):
        """Another audit into the same folder is refused and names what differs."""
        with pytest.raises(PlanError, match=r"planned differently; found: other .*execution"):
            wsss_probe.audit(
                planted_gap(), scenes, out=str(outcome.folder),
                **{**SMALL, "batch_size": 8},
            )  # fmt: skip

    def test_changed_image_is_another_plan(self, scenes, tmp_path):
        """A changed image file makes a new plan, so a stale run is never reused."""
        import shutil

        folder = tmp_path / "copy"
        shutil.copytree(scenes.parent, folder)
        asked = {**SMALL, "controls": "none", "out": str(tmp_path / "run")}
        wsss_probe.audit(planted_gap(), folder / "manifest.csv", **asked)
        shutil.copyfile(folder / "images" / "000.png", folder / "images" / "001.png")

        with pytest.raises(PlanError, match="found: other data"):
            wsss_probe.audit(planted_gap(), folder / "manifest.csv", **asked)


class TestTruth:
    def test_planted_channel_has_rank_one(self, outcome):
        """The channel that is the mask wins the screen for the foreground."""
        tree = wsss_probe.open_run(outcome.folder)
        f1 = tree["probes/channel-f1@features/rows/f1"].mean("image").sel({"class": "foreground"})

        assert int(f1.argmax("channel")) == PLANTED_CHANNEL
        assert float(f1.max()) > 0.9

    def test_untrained_network_gets_no_better_than_control(self, scenes, tmp_path):
        """A network with random weights earns no statement that it beats its controls."""
        torch.manual_seed(3)
        net = planted_gap()
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        asked = {**SMALL, "out": str(tmp_path / "run")}
        outcome = wsss_probe.audit(net, scenes, **asked)
        best = [f for _, f in outcome.findings if f.name.startswith("best-channel")]

        assert best
        assert not [f for f in best if f.verdict == "ok"]

    def test_dead_control_gives_no_verdict(self, outcome, findings):
        """Shuffling the hand-set network kills it: the finding says so and no verdict is given."""
        record = json.loads((outcome.folder / "run.json").read_text())

        assert record["controls"] == {"shuffled-0": {"features": False}, "shuffled-1": {"features": False}}
        assert "Control degenerate at features" in findings["host/control-degenerate@features"].statement
        best = [f for name, f in findings.items() if "/best-channel" in name]
        assert best
        assert all(f.verdict != "ok" and "no verdict" in f.statement for f in best)


class TestMixedState:
    def test_network_in_a_mixed_state_is_left_as_it_is(self, scenes, tmp_path):
        """Some parts in train mode, some gradients set, a user's hook: all as before afterwards."""
        net = planted_gap()
        net.train()
        net.features[1].eval()
        net(torch.rand(1, 3, 8, 8)).sum().backward()
        net.features.register_forward_hook(lambda *_: None)
        before, random = fingerprint(net), torch.get_rng_state()
        asked = {**SMALL, "controls": "none", "out": str(tmp_path / "run")}
        outcome = wsss_probe.audit(net, scenes, **asked)

        assert before.differences(fingerprint(net)) == ()
        assert torch.equal(random, torch.get_rng_state())
        assert {f.name: f for _, f in outcome.findings}["certificate"].verdict == "ok"


class TestBadImages:
    @pytest.fixture
    def spoiled(self, scenes, tmp_path):
        """A copy of the scenes with two unreadable images and one bad mask."""
        import shutil

        folder = tmp_path / "spoiled"
        shutil.copytree(scenes.parent, folder)
        (folder / "images" / "005.png").write_bytes(b"<html>not found</html>")
        (folder / "images" / "011.png").unlink()
        (folder / "masks" / "007.png").write_bytes(b"")
        return folder / "manifest.csv"

    def test_indices_never_shift(self, spoiled, outcome, tmp_path):
        """Unreadable images are NaN rows; all other rows are those of a clean audit."""
        asked = {**SMALL, "out": str(tmp_path / "run")}
        found = wsss_probe.audit(planted_gap(), spoiled, **asked)
        logits = wsss_probe.open_run(found.folder)["predictions/logits"].values
        clean = wsss_probe.open_run(outcome.folder)["predictions/logits"].values
        bad = np.isin(np.arange(40), [5, 11])

        assert np.isnan(logits[bad]).all()
        np.testing.assert_array_equal(logits[~bad], clean[~bad])
        assert "2 of 40 images" in {f.name: f for _, f in found.findings}["unreadable-images"].statement
        listed = (found.folder / "quarantine.csv").read_text()
        assert all(text in listed for text in ("images/005.png", "images/011.png", "mask refused"))

    def test_too_many_bad_images_end_the_audit(self, scenes, tmp_path):
        """Above the limit the audit ends with code 6, and the list of bad images is there."""
        import shutil

        folder = tmp_path / "spoiled"
        shutil.copytree(scenes.parent, folder)
        for number in range(0, 24, 3):
            (folder / "images" / f"{number:03}.png").write_bytes(b"")
        asked = {**SMALL, "controls": "none", "out": str(tmp_path / "run")}
        with pytest.raises(ProbeError, match="too many images cannot be read; found: 8 of 40") as caught:
            wsss_probe.audit(planted_gap(), folder / "manifest.csv", **asked)

        assert caught.value.exit_code == ExitCode.WITH_FAILURES
        assert (tmp_path / "run.partial" / "quarantine.csv").read_text().count("image unreadable") == 8


CHILD = """
import sys, signal, os
import wsss_probe
from wsss_probe import store
from wsss_probe.testing.models import planted_gap
moment, out, scenes = int(sys.argv[1]), sys.argv[2], sys.argv[3]
written = 0
true_put = store.Store._put
def put(self, *arguments):
    global written
    written += 1
    if written == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    true_put(self, *arguments)
store.Store._put = put
wsss_probe.audit(planted_gap(), scenes, out=out, classes=("background", "foreground"), preprocess="unit",
                 batch_size=4, layers=("features",), controls="shuffled:1", store_activations=("features",),
                 concepts=("colour",))
"""


@pytest.mark.slow
def test_killed_at_five_moments_and_resumed(scenes, tmp_path):
    """SIGKILL at five moments, then resume: every array equals that of an uninterrupted run."""

    def child(moment, out):
        return subprocess.run(
            [sys.executable, "-c", CHILD, str(moment), str(out), str(scenes)], capture_output=True, text=True
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert child(0, whole).returncode == 0
    for moment in (1, 3, 8, 14, 21):
        assert child(moment, killed).returncode == -signal.SIGKILL
        assert not killed.exists()
    finished = child(0, killed)

    assert finished.returncode == 0, finished.stderr
    expected, found = wsss_probe.open_run(whole), wsss_probe.open_run(killed)
    assert sorted(expected.groups) == sorted(found.groups)
    for group in expected.groups:
        xr.testing.assert_identical(expected[group].to_dataset().load(), found[group].to_dataset().load())
    ledgers = [sorted((run / "ledger").glob("*.json")) for run in (whole, killed)]
    hashes = [[json.loads(path.read_text())["arrays"] for path in paths] for paths in ledgers]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_interrupt_leaves_a_run_that_resumes(scenes, factory, tmp_path, command):
    """Ctrl-C ends with code 2 and one line; the same command finishes the run."""
    arguments = [
        "audit", "--model", factory, "--trust-code", "--manifest", scenes, "--preprocess", "unit",
        "--batch-size", "1", "--classes", "background,foreground", "--layers", "features",
        "--controls", "shuffled:1", "--concepts", "colour", "--out", tmp_path / "run", "--no-progress",
    ]  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "wsss_probe", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    ledger = tmp_path / "run.partial" / "ledger"
    deadline = time.monotonic() + 120
    while not (ledger.exists() and any(ledger.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=120)

    if child.returncode != 0:  # it may have been faster than the signal
        assert child.returncode == ExitCode.INTERRUPTED
        assert said.strip().splitlines()[-1] == "wsss-probe: interrupted; the same command resumes"
    assert command(*arguments).returncode == 0


class TestBudget:
    def test_maps_over_budget_are_refused_with_their_price(self, scenes, tmp_path):
        """An audit whose tables exceed the budget names the predicted size and writes nothing."""
        asked = {**SMALL, "budget_gb": 1e-6, "store_activations": ("features",), "out": str(tmp_path / "run")}
        with pytest.raises(
            UsageError, match=r"exceed the byte budget; found: .* GB predicted; wanted: .*1e-06"
        ):
            wsss_probe.audit(planted_gap(), scenes, **asked)

        assert not list(tmp_path.iterdir())

    def test_what_compresses_below_the_budget_is_run(self, scenes, tmp_path):
        """The measured size decides, not the uncompressed one."""
        asked = {
            **SMALL,
            "controls": "none",
            "store_activations": ("features",),
            "out": str(tmp_path / "run"),
        }
        outcome = wsss_probe.audit(planted_gap(), scenes, budget_gb=1e-3, **asked)

        assert outcome.exit_code == ExitCode.DONE

    def test_a_finished_run_is_not_priced_again(self, outcome, scenes):
        """A finished audit is found done even where its tables would no longer be affordable."""
        again = wsss_probe.audit(
            planted_gap(), scenes, out=str(outcome.folder), **{**SMALL, "budget_gb": 1e-9}
        )

        assert again.computed == 0
