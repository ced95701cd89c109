"""``wsss-probe train finetune`` on the command line."""

import json

import pytest
import typer
from typer.testing import CliRunner
from wsss_probe_localizers.finetune_command import train_finetune
from wsss_probe_localizers.gap import fit_gap
from wsss_probe_localizers.options import GapOptions

from wsss_probe.errors import UsageError
from wsss_probe.manifest import write_manifest
from wsss_probe.model import read_card


@pytest.fixture(scope="module")
def body(planted, tmp_path_factory):
    """A model folder to start from, and a manifest beside its images."""
    write_manifest(planted, planted.root / "finetune.csv")
    options = GapOptions(backbone="8,P,16", epochs=1, batch_size=32, threads=1)
    return fit_gap(planted, options, tmp_path_factory.mktemp("bodies") / "body").folder


def invoke(*arguments):
    """Run the command in a small app, as the host does."""
    app = typer.Typer()
    app.command()(train_finetune)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_finetunes_and_says_what_came_out(planted, body, tmp_path):
    """Start, movement, metrics and the next command are told; every flag reaches the plan."""
    flags = {
        "--epochs": 2,
        "--batch-size": 16,
        "--learning-rate": 0.02,
        "--decay": 1e-5,
        "--momentum": 0.5,
        "--batch-norm": "frozen",
        "--keep": "auc",
        "--validation": 0.3,
        "--device": "cpu",
        "--seed": 3,
        "--threads": 1,
    }
    result = invoke(
        *("--model", body, "--manifest", planted.root / "finetune.csv", "--out", tmp_path / "m"),
        *("--classes", "none,blob", "--freeze", "features.conv1_1, features.norm1_1", "--no-progress"),
        *("--jitter", "0.2,0,0,0", "--flips", "both"),
        *(text for pair in flags.items() for text in pair),
    )

    assert result.exit_code == 0, result.output
    said = result.output.replace("\n", "")
    assert f"as a model in {tmp_path / 'm' / 'start'}" in said
    assert "weights moved by 0 to" in said
    assert "test: 80 images in 20 groups" in result.output
    assert f"next: wsss-probe audit --model {tmp_path / 'm'}" in said
    plan = read_card(tmp_path / "m").training["plan"]
    for flag, value in flags.items():
        assert plan[flag[2:].replace("-", "_")] == value
    assert plan["freeze"] == ["features.conv1_1", "features.norm1_1"]
    assert plan["augmentation"]["brightness"] == 0.2
    assert plan["units"] == "one"
    assert read_card(tmp_path / "m").classes == ("blob",)


def test_an_audit_takes_both_folders(planted, body, tmp_path):
    """The host audits the finetuned network and its start from their folders alone."""
    from wsss_probe import audit

    result = invoke(
        *("--model", body, "--manifest", planted.root / "finetune.csv", "--out", tmp_path / "m"),
        *("--epochs", "1", "--learning-rate", "0.01", "--threads", "1", "--no-progress"),
    )
    assert result.exit_code == 0, result.output

    for folder in (tmp_path / "m", tmp_path / "m" / "start"):
        outcome = audit(
            folder, planted.root / "finetune.csv", out=str(tmp_path / f"run-{folder.name}"),
            only_plugins=("localizers",), controls="none", splits=("test",),
        )  # fmt: skip
        record = json.loads((outcome.folder / "run.json").read_text())
        assert outcome.exit_code == 0
        assert record["head"]["linear"]


def test_an_interruption_names_resume(planted, body, tmp_path, monkeypatch):
    """Ctrl-C ends with exit code 2 and the flag that goes on."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsss_probe_localizers.finetune.fit_finetuned", interrupted)
    result = invoke("--model", body, "--manifest", planted.root / "finetune.csv", "--out", tmp_path / "m")

    assert result.exit_code == 2
    assert "add --resume to go on" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "train finetune needs its images once; wanted: --manifest FILE or --images FOLDER"),
        (["--images", ".", "--model-args", "dropout"], "--model-args cannot be read; found: 'dropout'"),
        (["--images", ".", "--flips", "diagonal"], "--flips unknown; found: 'diagonal'"),
        (["--images", ".", "--units", "three"], "units unknown; found: 'three'"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, flags, message):
    """One clear line for the host to print, and no folder."""
    result = invoke("--model", "gap", "--out", tmp_path / "m", *flags)

    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_the_network_are_read_as_they_look(planted, body, tmp_path):
    """Numbers and truth values are such, everything else is text."""
    result = invoke(
        *("--model", "torchvision/squeezenet1_1", "--weights", "random", "--manifest"),
        *(planted.root / "finetune.csv", "--preprocess", "size=20 mean=.5 std=.2"),
        *("--model-args", "dropout=0.25,nonsense=word", "--out", tmp_path / "m"),
    )

    assert "nonsense" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
