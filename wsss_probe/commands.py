"""What the commands of the command line do, once their flags are read."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wsss_probe.errors import ExitCode, UsageError
from wsss_probe.findings import folded
from wsss_probe.names import display

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsss_probe.auditing import AuditOutcome
    from wsss_probe.config import AuditOptions
    from wsss_probe.host import PluginHost
    from wsss_probe.manifest import Manifest, MaskRule
    from wsss_probe.plan import Plan
    from wsss_probe.preparation import Prepared
    from wsss_probe.study import Step

__all__ = [
    "ManifestRequest",
    "StudyRequest",
    "list_layers",
    "list_plugins",
    "make_manifest",
    "perform_study",
    "run_audit",
    "write_again",
]

_MARK: Final = {"ok": "[green]✓[/]", "notice": "[yellow]•[/]", "warning": "[red]![/]"}


# -- audit -------------------------------------------------------------------------------------


def run_audit(
    options: AuditOptions, host: PluginHost, *, trust_code: bool, dry_run: bool, quiet: bool
) -> None:
    """Run ``wsss-probe audit``; leaves with exit code 6 when the report lists failures."""
    import typer

    from wsss_probe import progress
    from wsss_probe.allocator import tune_allocator
    from wsss_probe.api import command_line, prepared_audit, require_affordable, run_folder
    from wsss_probe.auditing import perform

    tune_allocator()
    prepared = prepared_audit(options, host, trust_code=trust_code)
    folder = run_folder(options, prepared.subject)
    if dry_run:
        _print_forecast(prepared, folder)
        return
    require_affordable(prepared, folder)
    watch = progress.lines if quiet else progress.bar
    outcome = perform(prepared, folder, command_line(sys.argv[1:]), watch)
    _print_outcome(outcome)
    if outcome.exit_code:
        raise typer.Exit(int(outcome.exit_code))


def _print_forecast(prepared: Prepared, folder: Path) -> None:
    from wsss_probe.api import forecast

    price = forecast(prepared)
    plan, console = prepared.plan, Console(highlight=False, emoji=False)
    table = Table(show_header=False, box=None)
    minutes = f"{price.seconds / 60:.1f} min" if price.seconds >= 100 else f"{price.seconds:.0f} s"
    rows = {
        "network": plan.model["name"],
        "images": f"{price.images} × {price.networks} networks ({_others(plan)})",
        "layers": f"{', '.join(plan.layers)}: {plan.layers_reason}",
        "explainers": ", ".join(f"{name} at {layer}" for name, layer in plan.relevance) or "none",
        "concepts": ", ".join(f"{len(own.concepts)} of {own.offered.name}" for own in prepared.measures)
        or "none",
        "probes": ", ".join(o.item.name for stage in prepared.stages for o in stage) or "none",
        "predicted time": f"{minutes} for the passes (from {price.rehearsed} images); conclusions besides",
        "predicted size": f"{price.bytes / 1e6:.1f} MB",
        "run folder": str(folder),
        "plan": plan.id[:16],
    }
    for key, value in rows.items():
        table.add_row(key, escape(display(str(value)) if key == "network" else str(value)))
    console.print(table)


def _others(plan: Plan) -> str:
    """Name what is surveyed beside the audited network."""
    further = f", and {', '.join(str(network['name']) for network in plan.networks)}" if plan.networks else ""
    return f"the audited one and its controls{further}"


def _print_outcome(outcome: AuditOutcome) -> None:
    console = Console(highlight=False, emoji=False)
    order = ["warning", "notice", "ok"]
    told = sorted(outcome.findings, key=lambda made: order.index(made[1].verdict))
    minor = folded(told, lambda made: (made[0], made[1].verdict))
    for plugin, finding in (made for made in told if made not in minor):
        console.print(f"{_MARK[finding.verdict]} {escape(finding.statement)} [dim]({escape(plugin)})[/]")
    if minor:
        names = Counter(finding.name.partition("/")[0].partition("@")[0] for _, finding in minor)
        listed = ", ".join(f"{name}{f' ×{count}' if count > 1 else ''}" for name, count in names.items())
        console.print(f"{_MARK['notice']} {len(minor)} notices in the report: {escape(listed)}")
    if not outcome.computed:
        console.print("Nothing to compute: this run is complete.")
    console.print(f"Report: {escape(str(outcome.folder / 'report.html'))}", soft_wrap=True)


# -- layers ------------------------------------------------------------------------------------


def list_layers(options: AuditOptions, host: PluginHost, *, trust_code: bool) -> None:
    """Print the layers of a network and what each plugin accepts."""
    from wsss_probe.api import prepared_audit
    from wsss_probe.config import MaskOptions
    from wsss_probe.explaining import input_layer
    from wsss_probe.influence import without_gradient
    from wsss_probe.matching import Explained, match_explainers

    named = replace_options(options, layers=("auto",), controls="none", concepts=("none",), models={})
    if not (named.images or named.manifest):
        named = replace_options(named, masks=MaskOptions(), max_images=0)
        subject = blank_subject(named, host, trust_code)
    else:
        subject = prepared_audit(named, host, trust_code=trust_code).subject
    running = [info for info in subject.layers if info.calls]
    pathless = without_gradient(subject.working, subject.examples[:1], running)
    by_name = {info.name: info for info in running}
    size = input_layer(tuple(subject.examples.shape[1:]))
    where = Explained(tuple(running), size, subject.head, by_name, pathless)
    pairs = match_explainers(host, {}, ("all",), where).pairs
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "type", "output", "layout", "stride", "field", "calls", "suits"):
        table.add_column(heading)
    for info in subject.layers:
        suits = [name for name, layer in pairs if layer == info.name]
        cells = (
            ("* " if info.name in subject.chosen.names else "  ") + info.name,
            info.type,
            "×".join(map(str, info.shape)) or ("other" if info.calls else "never runs"),
            str(info.native) if info.layout == "maps" else info.layout,
            f"{info.stride:g}" if info.stride else "",
            str(info.receptive_field or ""),
            str(info.calls),
            ", ".join(suits),
        )
        table.add_row(*map(escape, cells))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    head = subject.head
    said = f"linear on the mean of {head.layer}" if head.linear else f"not linear: {head.reason}"
    console.print(
        f"\n* chosen by 'auto': {escape(subject.chosen.reason)}\nhead: {escape(said)}", soft_wrap=True
    )


def blank_subject(options: AuditOptions, host: PluginHost, trust_code: bool) -> Any:
    """Look at the layers with a made-up image, when none was given."""
    import torch

    from wsss_probe.images import TensorSource
    from wsss_probe.preparation import find_subject, load_network

    model = load_network(options, host, trust_code=trust_code)
    size = (224, 224)
    channels = 3
    if model.preprocessing is not None:
        size, channels = model.preprocessing.size or size, model.preprocessing.channels
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, channels, *size), generator=generator)
    # the network is loaded and named by now: what says how would be asked of a live one
    live = replace_options(options, model="", weights="", model_arguments={}, allow_missing=())
    return find_subject(live, host, model.module, TensorSource(images))


def replace_options(options: AuditOptions, **changes: Any) -> AuditOptions:
    """Return options with some fields changed."""
    return options.model_copy(update=changes)


# -- manifest ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ManifestRequest:
    """What ``wsss-probe manifest`` was asked."""

    folder: str
    out: str
    pattern: str | None = None
    tile: int | None = None
    stride: int | None = None
    label_from_mask: str | None = None
    at_most: int | None = None
    split: str | None = None
    seed: int = 0
    where: str | None = None


def make_manifest(request: ManifestRequest) -> str:
    """Write a manifest.

    Returns
    -------
    str
        What was written, for people.
    """
    from wsss_probe.manifest import Draw, discover, read_manifest, split_by_group, tile, write_manifest

    given = Path(request.folder)
    table = given.suffix in {".csv", ".parquet"}
    _refuse_idle(request, table)
    if request.where is not None:
        from wsss_probe.predicted import images_where

        manifest = images_where(given, request.where)
    else:
        manifest = read_manifest(given) if table else discover(given, pattern=request.pattern)
    said = f"{len(manifest.frame)} images"
    if request.tile is not None:
        rules = _mask_rules(request.label_from_mask)
        stride = request.tile if request.stride is None else request.stride
        draw = None if request.at_most is None else Draw(request.at_most, request.seed)
        tiling = tile(manifest, request.tile, stride, label_from_mask=rules, draw=draw)
        manifest = tiling.manifest
        dropped = ", ".join(f"{number} {why}" for why, number in tiling.dropped.items() if number)
        said = f"{len(manifest.frame)} tiles" + (f" (dropped: {dropped})" if dropped else "")
    if request.split:
        manifest = split_by_group(manifest, _fractions(request.split), request.seed)
    write_manifest(manifest, Path(request.out))
    return f"{request.out}: {said}{_label_summary(manifest)}"


def _refuse_idle(request: ManifestRequest, table: bool) -> None:
    """A flag that would do nothing was meant to do something."""
    idle: dict[str, str | int | None] = {"--pattern": request.pattern} if table or request.where else {}
    if request.tile is None:
        idle |= {"--stride": request.stride, "--label-from-mask": request.label_from_mask}
        idle |= {"--at-most": request.at_most}
    given = [flag for flag, value in idle.items() if value is not None]
    if given:
        msg = f"{' and '.join(given)} would do nothing here"
        raise UsageError(msg, wanted="--pattern with a folder, the others with --tile")


def _label_summary(manifest: Manifest) -> str:
    counts = manifest.frame["label"].value_counts(sort=False)
    named = [f"{display(str(label))} {number}" for label, number in counts.items() if label != ""]
    return "; " + ", ".join(sorted(named)) if 0 < len(named) <= 20 else ""


_RULE = re.compile(r"(?P<label>[^:]+):(?P<mask>.+?)(?P<sign>>=|<=)(?P<share>[0-9]*\.?[0-9]+)")


def _mask_rules(text: str | None) -> tuple[MaskRule, ...]:
    from wsss_probe.manifest import MaskRule

    rules = []
    for part in (part.strip() for part in (text or "").split(",") if part.strip()):
        match = _RULE.fullmatch(part)
        if match is None:
            msg = "--label-from-mask cannot be read"
            raise UsageError(msg, found=part, wanted="label:mask class>=share, e.g. gland:foreground>=0.3")
        side = "at_least" if match["sign"] == ">=" else "at_most"
        rules.append(MaskRule(match["label"], match["mask"], **{side: float(match["share"])}))
    return tuple(rules)


def _fractions(text: str) -> dict[str, float]:
    try:
        pairs = (part.split("=") for part in text.split(","))
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError as error:
        msg = "--split cannot be read"
        raise UsageError(msg, found=text, wanted="train=0.8,test=0.2") from error


# -- plugins, report ---------------------------------------------------------------------------


def list_plugins(host: PluginHost) -> None:
    """Print the installed plugins."""
    table = Table(box=None, pad_edge=False)
    for heading in ("plugin", "distribution", "version", "state", "hooks", "error"):
        table.add_column(heading)
    for row in host.listing():
        cells = (row.name, row.distribution, row.version, row.state, ", ".join(row.hooks), row.error)
        table.add_row(*(escape(str(cell)) for cell in cells))
    Console(highlight=False, emoji=False).print(table)


def write_again(folder: Path) -> Path:
    """Write the report of a finished run again."""
    from wsss_probe.overview import render_again
    from wsss_probe.run import read_record

    read_record(folder)
    return render_again(folder)


# -- study -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What ``wsss-probe study`` was asked."""

    file: Path
    manifest: Path
    out: Path
    changed: tuple[str, ...] = ()
    dry: bool = False


def perform_study(request: StudyRequest, say: Callable[[str], None]) -> ExitCode:
    """Run the steps of a study that are not done yet.

    Returns
    -------
    ExitCode
    """
    from wsss_probe.study import read_study, run_study

    pairs = [text.partition("=") for text in request.changed]
    wrong = [name for name, mark, _ in pairs if not mark]
    if wrong:
        msg = "--set cannot be read"
        raise UsageError(msg, found=display(wrong[0]), wanted="name=value")
    if not request.manifest.is_file():
        msg = f"no manifest '{request.manifest}'"
        raise UsageError(msg, remedy="wsss-probe manifest FOLDER --out FILE writes one")
    study = read_study(request.file)
    given = {name: value for name, _, value in pairs}
    steps = study.filled(request.manifest, request.out, given)
    study = replace(study, audits=study.run_files(request.manifest, request.out, given))
    say(f"{study.title}\n{study.paper}".strip())
    code = run_study(study, steps, request.out, say, dry=request.dry)
    if not request.dry and code in {ExitCode.DONE, ExitCode.WITH_FAILURES}:
        say("\n".join(f"Report: {path}" for path in _reports(steps)))
    return code


def _reports(steps: Sequence[Step]) -> list[Path]:
    found = [Path(step.makes) / "report.html" for step in steps]
    return [path for path in found if path.exists()]
