"""The command ``doctor``: whether the installation is complete, and a network what an audit takes it for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsss_probe.config import AuditOptions
    from wsss_probe.host import PluginHost
    from wsss_probe.linter import Diagnosis

__all__ = ["check_installation", "examine_network"]

_MARK: Final = {"ok": "[green]✓[/]", "notice": "[yellow]•[/]", "warning": "[red]![/]"}
_STYLE: Final = {"PASS": "green", "SKIP": "dim", "NOTE": "yellow", "WARN": "red"}

# -- a network ---------------------------------------------------------------------------------


def examine_network(options: AuditOptions, host: PluginHost, *, trust_code: bool) -> bool:
    """Print one line for every check of the model linter, with what to do where it found something.

    Parameters
    ----------
    options : AuditOptions
        Without images the network is examined on noise, and what needs data is left out.
    host : PluginHost
    trust_code : bool

    Returns
    -------
    bool
        Whether there was nothing worse than a notice.
    """
    if not options.model:
        msg = "no network to examine"
        raise UsageError(msg, remedy="give --model, or no option at all to check the installation")
    diagnoses = _diagnoses(options, host, trust_code)
    _show([line for diagnosis in diagnoses for line in _lines(diagnosis)])
    from wsss_probe.linter.diagnosis import count

    verdicts = [suspicion.verdict for diagnosis in diagnoses for suspicion in diagnosis.suspicions]
    warnings, notices = verdicts.count("warning"), verdicts.count("notice")
    _console().print(f"{len(diagnoses)} checks: {count(warnings, 'warning')}, {count(notices, 'notice')}")
    return not warnings


def _diagnoses(options: AuditOptions, host: PluginHost, trust_code: bool) -> Sequence[Diagnosis]:
    from wsss_probe.api import prepared_audit
    from wsss_probe.commands import blank_subject, replace_options
    from wsss_probe.config import MaskOptions
    from wsss_probe.linter import Known, examine
    from wsss_probe.linter.prepared import examine_prepared

    alone = replace_options(options, controls="none", explain=(), concepts=("none",), models={})
    if options.images or options.manifest:
        return examine_prepared(prepared_audit(alone, host, trust_code=trust_code))
    alone = replace_options(alone, masks=MaskOptions(), max_images=0)
    subject = blank_subject(alone, host, trust_code)
    known = Known(subject.chosen.names, made_up=True, flags=subject.model.module)
    return examine(subject.working, subject.examples, subject.layers, known)


def _lines(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """Word, what was found, and what to do about it."""
    if diagnosis.skipped:
        return [("SKIP", diagnosis.check, f"(not looked at: {diagnosis.skipped})")]
    if not diagnosis.suspicions:
        return [("PASS", diagnosis.check, "")]
    words = {"warning": "WARN", "notice": "NOTE"}
    return [(words[s.verdict], s.statement, s.remedy) for s in diagnosis.suspicions]


def _show(lines: Sequence[tuple[str, str, str]]) -> None:
    """Show a table on a terminal, plain lines elsewhere."""
    console = _console()
    if not console.is_terminal:
        for word, said, remedy in lines:
            console.print(f"{word} {said} {remedy}".rstrip(), markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what was found", "what to do"):
        table.add_column(heading)
    for word, said, remedy in lines:
        table.add_row(f"[{_STYLE[word]}]{word}[/]", escape(said), escape(remedy))
    console.print(table)


def _console() -> Console:
    return Console(highlight=False, emoji=False)


# -- the installation --------------------------------------------------------------------------

_NEEDED: Final = ("torch", "xarray", "zarr", "pandas", "pillow", "plotly", "statsmodels", "scikit-image")
_OPTIONAL: Final = {
    "torchvision": "pip install 'wsss-probe[zoo]'",
    "timm": "pip install 'wsss-probe[zoo]'",
    "pyarrow": "pip install 'wsss-probe[parquet]'",
}


def check_installation(host: PluginHost) -> bool:
    """Print one line per library and plugin, with the remedy where something is missing.

    Returns
    -------
    bool
        Whether everything needed is there and every plugin loads.
    """
    console = _console()
    fine = True
    for name in (*_NEEDED, *_OPTIONAL):
        found = _version(name)
        needed = name in _NEEDED
        fine &= bool(found) or not needed
        mark = _MARK["ok" if found else "warning" if needed else "notice"]
        remedy = _OPTIONAL.get(name, f"pip install {name}")
        console.print(f"{mark} {name} {escape(found or f'is not installed: {remedy}')}")
    for row in host.listing():
        loads = row.state in {"loaded", "left out"}
        fine &= loads
        tail = "" if loads else f": {row.error}"
        console.print(
            f"{_MARK['ok' if loads else 'warning']} plugin {escape(f'{row.name} {row.version}{tail}')}"
        )
    if not host.listing():
        console.print(f"{_MARK['notice']} no plugins: pip install ./plugins/*/")
    return fine


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
