"""Options of an audit: flags over a run file over defaults, resolved into one frozen value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsss_probe.errors import UsageError
from wsss_probe.names import nearest

__all__ = ["AuditOptions", "MaskOptions", "read_run_file", "resolve"]


class MaskOptions(BaseModel):
    """How mask ids are meant; overrides the manifest's own declaration.

    ``classes`` maps a class name to its id or ids; ``ignore`` lists ids that are not scored;
    ``instances`` makes every id above 0 foreground; ``white`` is the luminance above which background
    becomes a class of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: dict[str, int | list[int]] = Field(default_factory=dict)
    ignore: list[int] = Field(default_factory=list)
    instances: bool = False
    white: int | None = None


class AuditOptions(BaseModel):
    """Everything that can be said about an audit. Names are those of the flags.

    ``multilabel`` says that each output is decided on its own (sigmoid); None leaves it to the
    network's card. ``note`` is what a reader must know about the data; the report shows it among the
    findings.
    ``layouts`` says how layers order their maps where that cannot be inferred: ``NHWC``,
    ``tokens:14x14+1``, by layer or pattern.
    ``explain`` names explainers, by patterns too; ``default`` are those that cost no pass of their
    own, ``all`` is every one. ``probes``, ``explainers`` and ``measures`` hold tables of options by name.
    ``concepts`` names concept measures in the same way (``none`` for none); they run in as many
    ``processes`` as there are cores, unless another number is given.
    ``models`` names further networks of the audited one's architecture, to be compared with it: a
    checkpoint, a folder of a network, ``random``, or the kind of a control.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = ""
    weights: str = ""
    model_arguments: dict[str, Any] = Field(default_factory=dict)
    images: str = ""
    manifest: str = ""
    layers: tuple[str, ...] = ("auto",)
    layouts: dict[str, str] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("predicted",)
    explain: tuple[str, ...] = ("default",)
    preprocess: str = ""
    out: str = ""
    only_plugins: tuple[str, ...] = ()
    no_plugin: tuple[str, ...] = ()
    controls: str = "shuffled:3"
    device: str = "cpu"
    batch_size: int = Field(default=16, ge=1, le=65536)
    seed: int = Field(default=0, ge=0)
    splits: tuple[str, ...] = ()
    max_images: int = Field(default=0, ge=0)
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    budget_gb: float = Field(default=20.0, gt=0)
    store_activations: tuple[str, ...] = ()
    allow_missing: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    multilabel: bool | None = None
    strict: bool = False
    note: str = ""
    masks: MaskOptions = MaskOptions()
    concepts: tuple[str, ...] = ("default",)
    processes: int = Field(default=0, ge=0)
    models: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    measures: dict[str, dict[str, Any]] = Field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    explainers: dict[str, dict[str, Any]] = Field(default_factory=dict)


def read_run_file(path: Path) -> dict[str, Any]:
    """Read a TOML run file.

    Raises
    ------
    UsageError
        When it cannot be read, is not TOML, or asks to trust code: that is said on the command
        line only, never in a file that travels with a model.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read run file '{path}'"
        raise UsageError(msg, found=error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"run file '{path}' is not TOML"
        raise UsageError(msg, found=str(error)) from error
    if {"trust_code", "trust-code"} & set(found):
        msg = f"run file '{path}' asks to trust code"
        raise UsageError(msg, remedy="say --trust-code on the command line if you do")
    return {key.replace("-", "_"): value for key, value in found.items()}


def resolve(flags: Mapping[str, Any], run_file: Path | None = None) -> AuditOptions:
    """Flags over file over defaults.

    Parameters
    ----------
    flags : mapping
        Only those that were given; None counts as not given.
    run_file : Path, optional

    Returns
    -------
    AuditOptions

    Raises
    ------
    UsageError
        For an unknown key (the nearest is named) or a value of the wrong type.
    """
    merged = read_run_file(run_file) if run_file else {}
    merged |= {key: value for key, value in flags.items() if value is not None}
    if isinstance(merged.get("classes"), str) and merged["classes"].endswith(".txt"):
        merged["classes"] = _names_in(Path(merged["classes"]))
    if isinstance(merged.get("layouts"), str):
        from wsss_probe.layout import parse_layouts

        merged["layouts"] = parse_layouts(merged["layouts"])
    try:
        return AuditOptions(**_listed(merged))
    except ValidationError as error:
        raise _usage_error(error, run_file) from error


def _names_in(path: Path) -> tuple[str, ...]:
    """Read class names, one a line; a thousand of them fit no command line."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read class names from '{path}'"
        raise UsageError(msg, found=str(error), wanted="a text file with one name a line") from error


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A single word where a list is meant is a list of one; commas separate."""
    plural = {name for name, f in AuditOptions.model_fields.items() if f.annotation == tuple[str, ...]}
    return {
        key: tuple(part.strip() for part in value.split(",") if part.strip())
        if key in plural and isinstance(value, str)
        else value
        for key, value in values.items()
    }


def _usage_error(error: ValidationError, run_file: Path | None) -> UsageError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    source = f"run file '{run_file}'" if run_file else "options"
    if first["type"] == "extra_forbidden":
        known = MaskOptions.model_fields if where.startswith("masks.") else AuditOptions.model_fields
        near = nearest(where.rpartition(".")[2], known)
        return UsageError(f"unknown key in {source}", found=where, remedy=f"did you mean '{near}'?")
    return UsageError(f"bad value for '{where}' in {source}", found=repr(first["input"]), wanted=first["msg"])
