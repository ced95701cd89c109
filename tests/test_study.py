"""Studies: files of commands, filled in, run once, and refused when they are not what was run before."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wsss_probe.config import resolve
from wsss_probe.errors import ExitCode, PlanError, UsageError
from wsss_probe.study import read_study, run_study

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))

TEXT = """
title = "Two steps"
paper = "Nobody: Nothing"
[parameters]
size = "32"
tiles = "{folder}/{stem}-{size}.csv"
[[steps]]
name = "tiles"
run = "manifest {manifest} --out {tiles} --tile {size} --label-from-mask 'a b:x>={size}'"
makes = "{tiles}"
[[steps]]
name = "again"
run = "manifest {tiles} --out {out}/copy.csv"
makes = "{out}/copy.csv"
[audits.deep]
layers = ["features"]
note = "one\\ntwo"
masks.classes.gland = 255
[audits.deep.probes."channel-f1"]
strong = 0.5
"""


@pytest.fixture
def file(tmp_path):
    """Write the study of two steps."""
    path = tmp_path / "two.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def called(monkeypatch):
    """Record the commands instead of running them; each leaves what it is told to make."""
    calls = []

    def run(command, check):
        assert not check
        calls.append(command[3:])
        return subprocess.CompletedProcess(command, codes.pop(0) if codes else 0)

    codes: list[int] = []
    monkeypatch.setattr(subprocess, "run", run)
    return calls, codes


def test_parameters_are_filled_in(file, tmp_path):
    """A value may name the manifest and another parameter, and what was set wins over the default."""
    tiles, again = read_study(file).filled(Path("data/glas.csv"), tmp_path, {"size": "64"})
    assert tiles.run[:4] == ("manifest", "data/glas.csv", "--out", "data/glas-64.csv")
    assert tiles.run[4:] == ("--tile", "64", "--label-from-mask", "a b:x>=64")
    assert again.run[-1] == again.makes == f"{tmp_path}/copy.csv"


def test_a_study_may_start_from_another(file, tmp_path):
    """With a base, only what differs is said; parameters are those of the base with others in their place."""
    large = tmp_path / "large.toml"
    large.write_text('base = "two.toml"\ntitle = "Large"\n[parameters]\nsize = "96"\n')
    study, base = read_study(large), read_study(file)
    assert (study.title, study.paper, study.steps) == ("Large", base.paper, base.steps)
    assert study.parameters == {**base.parameters, "size": "96"}


@pytest.mark.parametrize("base", ["../two.toml", "/two.toml", "large.toml"])
def test_a_base_lies_beside_the_study(tmp_path, base):
    """A base elsewhere, or the study itself, is refused."""
    large = tmp_path / "large.toml"
    large.write_text(f'base = "{base}"\n')
    with pytest.raises(UsageError, match="base"):
        read_study(large)


def test_unknown_parameter(file, tmp_path):
    """A parameter that the study does not have is refused, with the nearest one."""
    with pytest.raises(UsageError, match="size"):
        read_study(file).filled(Path("m.csv"), tmp_path, {"sise": "1"})


def test_run_files_are_those_of_the_study(file, tmp_path, called):
    """Options of an audit reach a run file that the audit can read, quotes and line ends as they were."""
    study = read_study(file)
    out = tmp_path / "out"
    assert run_study(study, study.filled(Path("m.csv"), out, {}), out, lambda _text: None) == ExitCode.DONE
    wanted = tomllib.loads(TEXT)["audits"]["deep"]
    assert tomllib.loads((out / "deep.toml").read_text()) == wanted
    assert resolve({}, out / "deep.toml").probes["channel-f1"] == {"strong": 0.5}


def test_steps_run_in_order_and_once(file, tmp_path, called):
    """A step whose product is there is told as done and not run again."""
    calls, _ = called
    study, out, said = read_study(file), tmp_path / "out", []
    steps = study.filled(tmp_path / "m.csv", out, {})
    run_study(study, steps, out, said.append)
    assert [call[1] for call in calls] == [str(tmp_path / "m.csv"), str(tmp_path / "m-32.csv")]
    Path(steps[0].makes).touch()
    calls.clear()
    run_study(study, steps, out, said.append)
    assert [call[1] for call in calls] == [str(tmp_path / "m-32.csv")]
    assert "# tiles (done)" in said


def test_a_failed_step_stops_the_study(file, tmp_path, called):
    """Nothing runs after a step that failed, and its code is the study's."""
    calls, codes = called
    codes[:] = [int(ExitCode.USAGE), 0]
    study, out = read_study(file), tmp_path / "out"
    assert run_study(study, study.filled(Path("m.csv"), out, {}), out, lambda _text: None) == ExitCode.USAGE
    assert len(calls) == 1


def test_failures_that_a_report_lists_do_not(file, tmp_path, called):
    """An audit that finished with failures lets the study go on and gives it the code 6."""
    calls, codes = called
    codes[:] = [int(ExitCode.WITH_FAILURES), 0]
    study, out = read_study(file), tmp_path / "out"
    code = run_study(study, study.filled(Path("m.csv"), out, {}), out, lambda _text: None)
    assert code == ExitCode.WITH_FAILURES
    assert len(calls) == 2


def test_other_parameters_need_another_folder(file, tmp_path, called):
    """What other parameters made is never taken for this study's."""
    study, out = read_study(file), tmp_path / "out"
    run_study(study, study.filled(Path("m.csv"), out, {}), out, lambda _text: None)
    with pytest.raises(PlanError, match="other parameters"):
        run_study(study, study.filled(Path("m.csv"), out, {"size": "16"}), out, lambda _text: None)


def test_a_dry_run_leaves_nothing(file, tmp_path, called):
    """Asked for its commands only, a study writes and runs nothing."""
    study, out, said = read_study(file), tmp_path / "out", []
    run_study(study, study.filled(Path("m.csv"), out, {}), out, said.append, dry=True)
    assert not out.exists()
    assert called[0] == []
    assert sum(line.startswith("wsss-probe manifest") for line in said) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("title = 3 +", "cannot read"),
        ("titel = 'x'", "title"),
        ("title = 'x'", "no steps"),
        ("[[steps]]\nname = 'x'", "name, run and makes"),
        ("[[steps]]\nname = 'x'\nrun = 'audit --trust-code'\nmakes = 'y'", "trust code"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, match):
    """What cannot be understood is told in one line, and nobody is made to trust code by a file."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=match):
        read_study(path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_project(path, tmp_path):
    """Every study file can be read and filled, and its audits' options are options that audits have."""
    study = read_study(path)
    steps = study.filled(Path("data/manifest.csv"), tmp_path, {})
    assert not [part for step in steps for part in (*step.run, step.makes) if "{" in part]
    for name, text in study.audits.items():
        run_file = tmp_path / f"{name}.toml"
        run_file.write_text(text)
        assert resolve({}, run_file).layers


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_commands_of_the_project_s_studies_parse(path, tmp_path):
    """Every step is a command that the program knows, with flags that it knows."""
    steps = read_study(path).filled(Path("data/manifest.csv"), tmp_path, {})
    for step in steps:
        words = 2 if step.run[0] == "train" else 1
        done = subprocess.run(
            [sys.executable, "-m", "wsss_probe", *step.run[:words], "--help"],
            capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": ""},
        )  # fmt: skip
        flags = [part for part in step.run if part.startswith("--")]
        assert [flag for flag in flags if flag not in done.stdout] == []


def test_run_files_are_filled_in_too(tmp_path, called):
    """A run file names folders of the study and its parameters; quotes in a value stay inside their text."""
    path, out = tmp_path / "beside.toml", tmp_path / "out"
    path.write_text(TEXT + '[audits.deep.models]\nstart = "{out}/model/{size}"\nother = "{tiles}"\n')
    study = read_study(path)
    files = study.run_files(Path('a "b"/m.csv'), out, {"size": "64"})
    models = tomllib.loads(files["deep"])["models"]
    assert models == {"start": f"{out}/model/64", "other": 'a "b"/m-64.csv'}
    assert tomllib.loads(files["deep"])["note"] == "one\ntwo"
