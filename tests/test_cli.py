"""The command line: flags reach the options, and every error is one line with the right exit code."""

import subprocess
import sys

import pytest

from wsss_probe import cli
from wsss_probe.errors import ExitCode
from wsss_probe.host import PluginHost

FACTORY = """
from wsss_probe.testing.models import planted_gap

def planted():
    return planted_gap()

def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def factory(tmp_path):
    """A factory file."""
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def images(tmp_path):
    """A folder with three tiny images."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def wsss(capsys, tmp_path, monkeypatch):
    """Run the command line in this process; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        code = cli._run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return call


def one_line(said):
    """The only line of an error message."""
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    return lines[0]


class TestHelp:
    def test_help_names_every_command(self, wsss):
        """--help lists the host's commands and those of plugins."""
        code, said, _ = wsss("--help")

        assert code == 0
        for name in ("audit", "layers", "manifest", "plugins", "report", "doctor"):
            assert name in said

    @pytest.mark.parametrize("command", ["audit", "layers", "manifest", "report", "doctor", "plugins list"])
    def test_every_command_has_help(self, wsss, command):
        """Each command explains itself."""
        code, said, _ = wsss(*command.split(), "--help")

        assert code == 0
        assert "Usage" in said

    def test_audit_has_the_documented_flags(self, wsss):
        """The flags that the documentation promises are there."""
        _, said, _ = wsss("audit", "--help")
        flags = (
            "manifest layers classes preprocess out run-file only-plugins no-plugin controls device seed "
            "batch-size max-images store-activations trust-code strict dry-run no-progress model weights"
        )
        assert not [flag for flag in flags.split() if f"--{flag}" not in said]

    def test_help_loads_no_torch(self):
        """--help imports neither torch nor plotly nor statsmodels nor xarray."""
        code = (
            "import sys; from wsss_probe import cli; cli._run(['--help']);"
            "heavy = {'torch', 'plotly', 'statsmodels', 'xarray', 'zarr', 'pandas'} & set(sys.modules);"
            "sys.exit(str(heavy) if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert done.returncode == 0, done.stderr

    def test_version(self, wsss):
        """--version says the version."""
        from wsss_probe import __version__

        assert wsss("--version")[:2] == (0, f"wsss-probe {__version__}\n")


class TestUsageErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            ("audit", 4, "no network to audit; remedy: give --model"),
            ("audit --nonsense", 4, "No such option"),
            ("audit --batch-size many", 4, "'--batch-size'"),
            ("nonsense", 4, "No such command"),
            ("audit --model torchvision/resnet1 --weights random --images .", 4, "resnet1"),
            ("audit --model os:system --images .", 7, "--trust-code"),
            ("audit --model x.py:net --images .", 7, "--trust-code"),
            ("audit --model hf-hub:a/b --images .", 7, "hf-hub"),
            ("audit --model timm/hf-hub:a/b --images .", 7, "hf-hub"),
            ("audit --only-plugins nonsense --model x --images .", 4, "nonsense"),
            ("audit --run-file absent.toml", 4, "cannot read run file"),
            ("report absent", 4, "'absent' is not a finished run"),
            ("manifest absent --out m.csv", 4, "absent"),
            ("audit --model-args x", 4, "--model-args cannot be read"),
        ],
    )
    def test_one_line_and_code(self, wsss, arguments, code, said):
        """Each mistake gives one line that names it, and its exit code."""
        found, _, complaint = wsss(*arguments.split())

        assert said in one_line(complaint)
        assert found == code

    def test_weights_are_never_guessed(self, wsss, images):
        """A registry network without weights is refused; 'random' must be said."""
        code, _, said = wsss("audit", "--model", "torchvision/resnet18", "--images", images)

        assert code == ExitCode.USAGE
        assert "--weights random" in one_line(said)

    def test_factory_without_preprocessing(self, wsss, factory, images):
        """A factory without preprocessing ends with code 4 and the flag to add."""
        code, _, said = wsss("audit", "--model", f"{factory}:planted", "--trust-code", "--images", images)

        assert code == ExitCode.USAGE
        assert "--preprocess imagenet" in one_line(said)

    def test_factory_that_raises(self, wsss, factory, images):
        """A factory's own error is told in one line."""
        code, _, said = wsss(
            "audit",
            "--model",
            f"{factory}:broken",
            "--trust-code",
            "--images",
            images,
            "--preprocess",
            "unit",
        )
        assert code == ExitCode.USAGE
        assert "no weights here" in one_line(said)

    def test_empty_folder(self, wsss, factory, tmp_path):
        """A folder without images is nothing to do."""
        (tmp_path / "empty").mkdir()
        code, _, said = wsss(
            "audit",
            "--model",
            f"{factory}:planted",
            "--trust-code",
            "--images",
            "empty",
            "--preprocess",
            "unit",
        )
        assert code == ExitCode.NOTHING_TO_DO
        assert "empty" in one_line(said)

    def test_unknown_layer_names_the_nearest(self, wsss, factory, images):
        """A misspelt layer is named with its nearest and the command that lists layers."""
        arguments = [
            "--model",
            f"{factory}:planted",
            "--trust-code",
            "--images",
            images,
            "--preprocess",
            "unit",
        ]
        code, _, said = wsss("audit", *arguments, "--layers", "feature")

        assert code == ExitCode.USAGE
        assert "features" in one_line(said)
        assert "wsss-probe layers" in said

    def test_nothing_is_left_behind(self, wsss, factory, images, tmp_path):
        """An audit that is refused leaves no folder."""
        arguments = [
            "--model",
            f"{factory}:planted",
            "--trust-code",
            "--images",
            images,
            "--preprocess",
            "unit",
        ]
        wsss("audit", *arguments, "--controls", "nonsense", "--out", "run")

        assert not list(tmp_path.glob("run*"))

    def test_internal_errors_say_so(self, wsss, monkeypatch):
        """A bug of ours is told as one, with code 3 and how to see more."""
        monkeypatch.setattr(cli, "build_app", lambda _host: 1 / 0)
        code, _, said = wsss("doctor")

        assert code == ExitCode.INTERNAL
        assert "internal error: ZeroDivisionError" in one_line(said)
        assert "WSSS_PROBE_TRACE=1" in said


class TestCommands:
    def test_dry_run_writes_nothing_and_names_the_price(self, wsss, factory, images, tmp_path):
        """--dry-run prints predicted time and bytes, and leaves no file."""
        arguments = [
            "--model",
            f"{factory}:planted",
            "--trust-code",
            "--images",
            images,
            "--preprocess",
            "unit",
        ]
        code, said, _ = wsss("audit", *arguments, "--dry-run", "--controls", "shuffled:2")

        assert code == 0
        assert "predicted size" in said
        assert "3 × 3 networks" in said
        assert not (tmp_path / "runs").exists()

    def test_layers_lists_shapes_and_what_suits(self, wsss, factory):
        """layers shows shape, stride, field and the explainers that accept a layer."""
        code, said, _ = wsss(
            "layers", "--model", f"{factory}:planted", "--trust-code", "--preprocess", "unit size=32"
        )
        assert code == 0
        assert "6×32×32" in said
        assert "linear on the mean of features" in said

    def test_manifest_of_a_folder(self, wsss, images, tmp_path):
        """manifest writes a table with one row per image."""
        code, said, _ = wsss("manifest", images, "--out", tmp_path / "m.csv")

        assert (code, said.strip()) == (0, f"{tmp_path / 'm.csv'}: 3 images")
        assert len((tmp_path / "m.csv").read_text().splitlines()) == 4

    def test_plugins_list(self, wsss):
        """plugins list names the installed plugins and their state."""
        code, said, _ = wsss("plugins", "list")

        assert code == 0
        assert "loaded" in said

    def test_doctor_is_content_here(self, wsss):
        """doctor finds this installation complete."""
        code, said, _ = wsss("doctor")

        assert code == 0, said
        assert "torch 2" in said


class TestPluginCommands:
    def test_a_plugins_command_runs(self, wsss, tmp_path, monkeypatch):
        """A command that a plugin offers gets its own arguments and help."""
        from wsss_probe import Command, hookimpl

        (tmp_path / "own_command.py").write_text(
            "import typer\n"
            "def main(name: str, times: int = 1) -> None:\n"
            '    """Greet."""\n'
            "    typer.echo(' '.join(['hello', name] * times))\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))

        class Plugin:
            @hookimpl
            def wsss_probe_commands(self):
                return [Command("greet someone", "Greet someone.", "own_command:main")]

        def with_plugin(_self, *_arguments, **_options):
            _self.register(Plugin(), "greeter")

        monkeypatch.setattr(PluginHost, "load", with_plugin)

        assert wsss("greet", "someone", "you", "--times", "2")[:2] == (0, "hello you hello you\n")
        assert "--times" in wsss("greet", "someone", "--help")[1]
        assert wsss("greet", "someone")[0] == ExitCode.USAGE
