"""A study: a paper's experiment as a file of commands, which runs on any data in the manifest format.

A study file names parameters with their defaults, the options of audits, and steps. A step is a command of
``wsss-probe`` and what it makes; a step whose product is there is not run again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import ExitCode, PlanError, UsageError
from wsss_probe.names import display, nearest

__all__ = ["Step", "Study", "read_study", "run_study"]

_KEYS = ("base", "title", "paper", "parameters", "audits", "steps")
_GIVEN = ("manifest", "folder", "stem", "out")


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One command of a study.

    Parameters
    ----------
    name : str
        What it does, for people.
    run : tuple of str
        Arguments of ``wsss-probe``, with ``{parameter}`` where a value goes.
    makes : str
        File or folder that is there afterwards; a step whose product exists is done.
    """

    name: str
    run: tuple[str, ...]
    makes: str


@final
@dataclass(frozen=True)
class Study:
    """What a study file says.

    Parameters
    ----------
    title, paper : str
    parameters : mapping of str to str
        Names and defaults. ``manifest``, ``folder``, ``stem`` (of the manifest) and ``out`` are given.
    audits : mapping of str to str
        Run files (TOML) by name, written to ``{out}/<name>.toml`` before the first step; parameters stand in
        their texts as in the steps.
    steps : tuple of Step
    """

    title: str
    paper: str
    parameters: Mapping[str, str]
    steps: tuple[Step, ...]
    audits: Mapping[str, str] = field(default_factory=dict)

    def filled(self, manifest: Path, out: Path, given: Mapping[str, str]) -> tuple[Step, ...]:
        """Put values in the place of parameters.

        Raises
        ------
        UsageError
            For a parameter that the study does not have.
        """
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            remedy = f"did you mean {display(nearest(unknown[0], self.parameters))}?"
            raise UsageError("unknown parameter of the study", found=display(unknown[0]), remedy=remedy)
        values = self._values(manifest, out, given)
        return tuple(
            Step(step.name, tuple(_put(part, values) for part in step.run), _put(step.makes, values))
            for step in self.steps
        )

    def run_files(self, manifest: Path, out: Path, given: Mapping[str, str]) -> dict[str, str]:
        """Put values in the place of parameters in the run files, by name; nothing else in them changes."""
        values = self._values(manifest, out, given)
        quoted = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
        return {name: _put(text, quoted) for name, text in self.audits.items()}

    def _values(self, manifest: Path, out: Path, given: Mapping[str, str]) -> dict[str, str]:
        own = {
            "manifest": str(manifest),
            "folder": str(manifest.parent),
            "stem": manifest.stem,
            "out": str(out),
        }
        return own | dict(self.parameters) | dict(given)


def _put(text: str, values: Mapping[str, str]) -> str:
    """Fill ``{name}``; a value may name others, once."""
    for _ in range(2):
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
    return text


def read_study(path: Path) -> Study:
    """Read a study file.

    Parameters
    ----------
    path : Path
        TOML with ``title``, ``paper``, ``[parameters]``, ``[audits.<name>]`` and ``[[steps]]``. With
        ``base``, the name of a study file beside it, only what differs from that one.

    Returns
    -------
    Study

    Raises
    ------
    UsageError
        When it cannot be read, has an unknown key, a step without ``name``, ``run`` or ``makes``, or asks to
        trust code.
    """
    table = _read(path)
    if "base" in table:
        table = _based(table, path)
    steps = tuple(_step(step, path) for step in table.get("steps", []))
    if not steps:
        raise UsageError(f"study '{path}' has no steps", wanted="[[steps]] with name, run and makes")
    return Study(
        title=str(table.get("title", path.stem)),
        paper=str(table.get("paper", "")),
        parameters={str(name): str(value) for name, value in table.get("parameters", {}).items()},
        steps=steps,
        audits={str(name): _toml(options) for name, options in table.get("audits", {}).items()},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read study '{path}'", found=display(str(error))) from error
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        remedy = f"did you mean '{nearest(unknown[0], _KEYS)}'?"
        raise UsageError(f"unknown key in study '{path}'", found=display(unknown[0]), remedy=remedy)
    if "trust-code" in text or "trust_code" in text:
        remedy = "run its commands yourself if you do"
        raise UsageError(f"study '{path}' asks to trust code", remedy=remedy)
    return table


def _based(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Put what a study says over what its base says; parameters and audits one by one."""
    name = str(table["base"])
    if Path(name).name != name or name == path.name:
        raise UsageError(
            f"base of study '{path}'", found=display(name), wanted="the name of a file beside it"
        )
    base = _read(path.with_name(name))
    if "base" in base:
        raise UsageError(f"base of study '{path}'", found="a study with a base of its own")
    both = {key: {**base.get(key, {}), **table.get(key, {})} for key in ("parameters", "audits")}
    return {**base, **table, **both}


def _step(step: Any, path: Path) -> Step:
    wanted = ("name", "run", "makes")
    if not isinstance(step, dict) or set(step) != set(wanted) or not all(map(str.strip, step.values())):
        found = ", ".join(step) if isinstance(step, dict) else str(step)
        raise UsageError(f"step of study '{path}'", found=display(found), wanted="name, run and makes")
    return Step(step["name"], tuple(shlex.split(step["run"])), step["makes"])


def _toml(options: Mapping[str, Any], prefix: str = "") -> str:
    """Write a table as TOML: values first, then the tables inside it."""
    lines = [f"{json.dumps(k)} = {_value(v)}" for k, v in options.items() if not isinstance(v, dict)]
    for key, value in options.items():
        if isinstance(value, dict):
            name = f"{prefix}{json.dumps(key)}"
            lines += ["", f"[{name}]", _toml(value, f"{name}.")]
    return "\n".join(lines)


def _value(value: Any) -> str:
    # JSON's texts, numbers, truth values and lists are TOML's too
    return json.dumps(value, ensure_ascii=False)


def run_study(
    study: Study, steps: Sequence[Step], out: Path, say: Callable[[str], None], *, dry: bool = False
) -> ExitCode:
    """Run the steps that are not done yet, one after another, each in a process of its own.

    Parameters
    ----------
    study : Study
    steps : sequence of Step
        From :meth:`Study.filled`.
    out : Path
        Folder of the study; ``study.json`` in it says what was run there.
    say : callable
        Told each command.
    dry : bool
        Only tell them.

    Returns
    -------
    ExitCode
        That of the step that failed; 6 when an audit finished with failures; else 0.

    Raises
    ------
    PlanError
        When ``out`` holds a study of other commands or audit options.
    """
    if not dry:
        _claim(study, steps, out)
    worst = ExitCode.DONE
    for step in steps:
        done = Path(step.makes).exists()
        say(f"# {step.name}{' (done)' if done else ''}")
        say(f"wsss-probe {shlex.join(step.run)}")
        if done or dry:
            continue
        command = [sys.executable, "-m", "wsss_probe", *step.run]  # this program, never another
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        if code not in {ExitCode.DONE, ExitCode.WITH_FAILURES}:
            return ExitCode(code) if code in set(ExitCode) else ExitCode.INTERRUPTED
        worst = max(worst, ExitCode(code))
    return worst


def _claim(study: Study, steps: Sequence[Step], out: Path) -> None:
    """Write down what is run in this folder, or refuse a folder in which something else was."""
    record = {"title": study.title, "steps": [list(step.run) for step in steps], "audits": dict(study.audits)}
    path = out / "study.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != record:
        what = f"'{out}' holds this study with other parameters"
        raise PlanError(what, wanted="the same commands", remedy="give another --out, or delete the folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in study.audits.items():
        write_atomically(out / f"{name}.toml", text + "\n")
    write_atomically(path, json.dumps(record, indent=2))
