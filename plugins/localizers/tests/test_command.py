"""``wsss-probe train gap`` and the hooks that offer it."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner
from wsss_probe_localizers import wsss_probe_commands, wsss_probe_model_sources
from wsss_probe_localizers.command import train_gap

from wsss_probe.errors import UsageError
from wsss_probe.manifest import write_manifest
from wsss_probe.model import read_card

QUICK = ("--backbone", "8,P,16", "--epochs", "2", "--batch-size", "32", "--threads", "1", "--no-progress")


def invoke(*arguments):
    """Run the command in a small app, as the host does."""
    app = typer.Typer()
    app.command()(train_gap)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_trains_and_says_what_came_out(planted, tmp_path):
    """A manifest gives a model folder, metrics with intervals, and the next command."""
    write_manifest(planted, planted.root / "manifest.csv")

    result = invoke(
        "--manifest",
        planted.root / "manifest.csv",
        "--out",
        tmp_path / "m",
        *QUICK,
        "--flips",
        "horizontal",
        "--jitter",
        "0.1,0.1,0.1,0.01",
        "--class-weights",
        "1,2",
        "--classes",
        "none,blob",
        "--seed",
        "3",
        "--keep",
        "last",
    )

    assert result.exit_code == 0, result.output
    assert "classes none, blob" in result.output
    assert "test: 80 images in 20 groups" in result.output
    assert "AUC blob 0." in result.output or "AUC blob 1." in result.output
    assert f"next: wsss-probe audit --model {tmp_path / 'm'}" in result.output.replace("\n", "")
    plan = read_card(tmp_path / "m").training["plan"]
    assert plan["seed"] == 3
    assert plan["keep"] == "last"
    assert plan["class_weights"] == [1.0, 2.0]
    assert plan["augmentation"] == {
        "horizontal": True,
        "vertical": False,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.1,
        "hue": 0.01,
    }


def test_every_flag_is_an_option_or_read(planted, tmp_path):
    """Flags reach the plan under their own names."""
    write_manifest(planted, planted.root / "manifest.csv")
    flags = {
        "--epochs": 1,
        "--batch-size": 16,
        "--learning-rate": 0.02,
        "--weight-decay": 0.1,
        "--size": 12,
        "--validation": 0.3,
        "--width": 0.5,
        "--device": "cpu",
    }

    result = invoke(
        "--images",
        planted.root,
        "--out",
        tmp_path / "m",
        "--backbone",
        "8,P,8",
        "--multilabel",
        "--no-progress",
        *(text for pair in flags.items() for text in pair),
    )

    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "m")
    for flag, value in flags.items():
        assert card.training["plan"][flag[2:].replace("-", "_")] == value
    assert card.multilabel
    assert card.preprocessing.size == (12, 12)


def test_an_interruption_names_resume(planted, tmp_path, monkeypatch):
    """Ctrl-C ends with exit code 2 and the flag that goes on."""
    write_manifest(planted, planted.root / "manifest.csv")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsss_probe_localizers.gap.fit_gap", interrupted)
    result = invoke("--manifest", planted.root / "manifest.csv", "--out", tmp_path / "m")

    assert result.exit_code == 2
    assert "add --resume to go on" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs its images once; wanted: --manifest FILE or --images FOLDER"),
        (["--images", ".", "--manifest", "m.csv"], "needs its images once"),
        (["--images", ".", "--jitter", "0.1"], "--jitter cannot be read; found: '0.1'; wanted: 4 numbers"),
        (["--images", ".", "--jitter", "a,b,c,d"], "--jitter cannot be read"),
        (["--images", ".", "--flips", "diagonal"], "--flips unknown; found: 'diagonal'"),
        (["--images", ".", "--class-weights", "1;2"], "--class-weights cannot be read"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, flags, message):
    """One clear line for the host to print, and no folder."""
    result = invoke("--out", tmp_path / "m", *flags)

    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_hooks_offer_the_command_and_the_network():
    """The entry module offers its commands and model sources; the sources build."""
    commands = {command.name: command.target for command in wsss_probe_commands()}
    sources = {source.name: source for source in wsss_probe_model_sources()}

    assert commands == {
        "train gap": "wsss_probe_localizers.command:train_gap",
        "train finetune": "wsss_probe_localizers.finetune_command:train_finetune",
    }
    assert list(sources) == ["gap", "finetuned", "mobilenetv2-folded"]
    gap = {"backbone": "4", "classes": 5}
    assert sources["gap"].build(gap).classifier.out_features == 5
    changed = {"source": "gap", "arguments": gap, "head": "classifier", "units": 3}
    assert sources["finetuned"].build(changed).classifier.out_features == 3
    assert sources["mobilenetv2-folded"].build({"classes": 2}).classifier.out_features == 2


def test_offering_imports_nothing_heavy():
    """The entry module and the command's module load neither torch nor lightning nor pandas."""
    code = (
        "import sys, wsss_probe_localizers as p, wsss_probe_localizers.command, "
        "wsss_probe_localizers.finetune_command; "
        "list(p.wsss_probe_commands()), list(p.wsss_probe_model_sources()); "
        "print([m for m in ('torch', 'lightning', 'timm', 'pandas', 'numpy') if m in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
