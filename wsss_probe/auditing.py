"""One audit from a plan to a finished run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_probe.atomic import write_atomically
from wsss_probe.certificate import Certificate, certify
from wsss_probe.contracts import Finding
from wsss_probe.controls import make_control
from wsss_probe.errors import ExitCode, PlanError
from wsss_probe.findings import (
    HOST,
    certificate_finding,
    control_findings,
    quarantine_finding,
    read_findings,
    storage_finding,
    total,
    write_findings,
)
from wsss_probe.head import find_head
from wsss_probe.ledger import write_choices
from wsss_probe.linter.prepared import lint_prepared
from wsss_probe.made import Made
from wsss_probe.measuring import MeasureTask, measure_concepts
from wsss_probe.passport import issue_passports
from wsss_probe.performance import Performance, measure_performance, performance_finding
from wsss_probe.plan import Plan, same_plan
from wsss_probe.quarantine import check_quarantine, described_images, noted, record_images, unreadable_images
from wsss_probe.run import AuditedRun, OtherRun, read_record
from wsss_probe.schema import check_conclusion, check_sections
from wsss_probe.store import LedgerLine, Store, exclusive
from wsss_probe.survey import Task, probe_path, run_stage, streams, working_copy

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor, nn

    from wsss_probe.contracts import Choice, Conclusion, Explainer, Probe, Section
    from wsss_probe.host import Offered
    from wsss_probe.networks import Further
    from wsss_probe.preparation import Prepared

__all__ = ["AuditOutcome", "perform"]

_UNTRAINED = "The network has random weights, as asked: nothing below was learned by it."
_CONTROL_BATCHES = 4

Advance = Callable[[int], None]
Progress = Callable[[str, int], Any]


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What an audit left behind.

    Parameters
    ----------
    folder : Path
        The finished run.
    exit_code : ExitCode
        ``DONE``, or ``WITH_FAILURES`` when the report lists failures.
    findings : tuple of (str, Finding)
        Plugin and finding.
    computed : int
        Shards of the audited network in this run; 0 when the run was finished before.
    """

    folder: Path
    exit_code: ExitCode
    findings: tuple[tuple[str, Finding], ...]
    computed: int


@dataclass(frozen=True)
class _Surveyed:
    """One network after its passes; broken are the probes that did not see all images."""

    run: AuditedRun
    lines: tuple[LedgerLine, ...]
    broken: frozenset[str] = frozenset()


def perform(prepared: Prepared, folder: Path, command: str, progress: Progress | None = None) -> AuditOutcome:
    """Run a prepared audit, or resume it, or find it done.

    Parameters
    ----------
    prepared : Prepared
    folder : Path
        Final run folder; work happens in ``<folder>.partial``.
    command : str
        What was asked for, for the record.
    progress : callable, optional
        ``progress(title, images)`` gives a context manager that yields a function to call with the
        number of images done.

    Returns
    -------
    AuditOutcome

    Raises
    ------
    PlanError
        When ``folder`` holds another run or something else, or another process writes it.
    ProbeError
        With exit code 6 when too many images are unreadable; the quarantine list is written.
    """
    folder = folder if folder.name.strip(".") else folder.resolve()
    if same_plan(prepared.plan, folder):
        return _already(folder)
    _require_free(folder)
    partial = folder.with_name(folder.name + ".partial")
    same_plan(prepared.plan, partial)
    started = time.time()
    with exclusive(partial):
        prepared.plan.write(partial)
        outcome = _perform_in(prepared, partial, (command, started), progress or _silent)
    (partial / "lock").unlink(missing_ok=True)
    partial.replace(folder)
    return replace(outcome, folder=folder)


def _require_free(folder: Path) -> None:
    """Find out now, and not after hours, that the finished run could not be put there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        msg = f"'{folder}' exists and is no run"
        raise PlanError(msg, wanted="a new or an empty folder", remedy="choose another --out")


def _already(folder: Path) -> AuditOutcome:
    record = read_record(folder)
    return AuditOutcome(folder, ExitCode(record["exit_code"]), tuple(read_findings(folder)), 0)


@contextmanager
def _silent(_title: str, _images: int) -> Iterator[Advance]:
    yield lambda _number: None


def _perform_in(
    prepared: Prepared, folder: Path, asked: tuple[str, float], progress: Progress
) -> AuditOutcome:
    subject, plan = prepared.subject, prepared.plan
    images = len(subject.source) * sum(_passes(prepared))
    columns = prepared.host.collect_channel_columns()  # before the first image: its faults are cheap to find
    (folder / "run.json").unlink(missing_ok=True)
    with certify(subject.model.module, _beside(subject.model.module, subject.examples)) as witness:
        linted = lint_prepared(prepared)
        _measure(prepared, folder, progress)
        with progress("audited network", images) as advance:
            audited = _survey(prepared, subject.working, folder, plan, advance)
        controls = []
        for name in plan.controls:
            with progress(f"control {name}", images) as advance:
                controls.append(_survey_control(prepared, folder, (name, audited), advance))
        networks = []
        for network in prepared.subject.networks:
            with progress(f"network {network.name}", images) as advance:
                networks.append(_survey_network(prepared, folder, (network, audited), advance))
        performance = _performance(prepared, audited.run)
        audited = _beside_others(audited, controls, networks)
        run, conclusions = _conclude(prepared, audited, performance)
        sections = _sections(prepared, run)
        passports = issue_passports(prepared.host, columns, run)
    findings = linted + _findings(prepared, run, audited.lines, witness.certificate, performance)
    findings += [(name, f) for name, c in conclusions for f in c.findings]
    sections = (*passports[:1], *sections, *passports[1:])
    made = Made(findings, sections, _choices(conclusions), _map_scores(conclusions))
    return _finish(prepared, run, _Results(made, witness.certificate, audited.lines, asked))


def _choices(conclusions: Sequence[tuple[str, Conclusion]]) -> tuple[tuple[str, Choice], ...]:
    """Every choice with the plugin that made it."""
    return tuple((plugin, choice) for plugin, conclusion in conclusions for choice in conclusion.choices)


def _map_scores(conclusions: Sequence[tuple[str, Conclusion]]) -> dict[str, xr.DataArray]:
    """Scores of single maps by name; of two probes that use one name the first counts."""
    found: dict[str, xr.DataArray] = {}
    for _, conclusion in conclusions:
        found = {**conclusion.map_scores, **found}
    return found


def _beside(module: nn.Module, images: Tensor) -> Tensor:
    """Images on the device of a network, which may be another than that of the survey."""
    return images.to(next((parameter.device for parameter in module.parameters()), "cpu"))


# -- surveys -----------------------------------------------------------------------------------


def _passes(prepared: Prepared) -> tuple[bool, ...]:
    """Whether each stage passes over the images; probes that only conclude need no pass."""
    return tuple(
        number == 0 or any(streams(offered.item) for offered in probes)
        for number, probes in enumerate(prepared.stages)
    )


def _survey(prepared: Prepared, module: nn.Module, folder: Path, plan: Plan, advance: Advance) -> _Surveyed:
    """Pass over the images once per stage; conclude in between what later stages read."""
    store = Store(folder, len(prepared.subject.source), plan.execution.shard, plan.id)
    store.sweep()
    lines: list[LedgerLine] = []
    read_later = _read_later(prepared)
    run = _opened(prepared, store, module)
    for number, passes in enumerate(_passes(prepared)):
        if passes:
            lines += run_stage(_task(replace(prepared, plan=plan), run, number), advance)
        if number == 0:
            record_images(prepared, store, lines)
            run = replace(run, images=described_images(prepared, lines))
            check_quarantine(prepared, folder, lines)
        stage = [offered for offered in prepared.stages[number] if offered.item.name in read_later]
        if stage:
            concluded = dict(_concluded(prepared, run, stage, _broken(prepared)))
            run = replace(run, summaries={**run.summaries, **{n: c.summary for n, c in concluded.items()}})
    return _Surveyed(run, tuple(lines), _broken(prepared))


def _read_later(prepared: Prepared) -> frozenset[str]:
    """Probes whose summaries a later pass over the images reads, directly or through others."""
    items = [offered.item for stage in prepared.stages for offered in stage]
    tables = {item.name: prepared.needs[item.name].tables for item in items}
    found: set[str] = set()
    waiting = [name for item in items if streams(item) for name in tables[item.name]]
    while waiting:
        name = waiting.pop()
        if name in tables and name not in found:
            found.add(name)
            waiting += tables[name]
    return frozenset(found)


def _task(prepared: Prepared, run: AuditedRun, number: int) -> Task:
    return Task(
        plan=prepared.plan,
        module=run.working,
        source=prepared.subject.source,
        labels=prepared.labels,
        survey=prepared.survey,
        explainers=prepared.explainers,
        probes=prepared.stages[number],
        needs=prepared.needs,
        store=run.store,
        host=prepared.host,
        stage=str(number),
        tables=run.summaries,
    )


def _broken(prepared: Prepared) -> frozenset[str]:
    """Probes that failed on some batch, so that their tables do not cover all images."""
    items = (offered for stage in prepared.stages for offered in stage)
    return frozenset(o.item.name for o in items if prepared.host.disabled("observe", o))


def _measure(prepared: Prepared, folder: Path, progress: Progress) -> None:
    """Measure concepts, which needs no network."""
    if not prepared.measures:
        return
    images, plan = len(prepared.subject.source), prepared.plan
    store = Store(folder, images, plan.execution.shard, plan.id)
    store.sweep()
    task = MeasureTask(
        prepared.measures,
        prepared.subject.source,
        prepared.survey.mask_classes,
        store,
        prepared.host,
        prepared.options.processes,
    )
    with progress("concepts", images) as advance:
        measure_concepts(task, advance)


def _survey_control(
    prepared: Prepared, folder: Path, control_of: tuple[str, _Surveyed], advance: Advance
) -> OtherRun:
    name, audited = control_of
    module = _made_control(prepared, name, audited)
    run = _survey_other(prepared, module, (folder, "controls", name), advance)
    return replace(run, made=f"as control {name}")


def _survey_network(
    prepared: Prepared, folder: Path, network_of: tuple[Further, _Surveyed], advance: Advance
) -> OtherRun:
    network, audited = network_of
    module = network.module or _made_control(prepared, network.control, audited)
    run = _survey_other(prepared, module, (folder, "networks", network.name), advance)
    return replace(run, made=network.made)


def _made_control(prepared: Prepared, name: str, audited: _Surveyed) -> nn.Module:
    batches = _control_batches(prepared, noted("output", audited.lines))
    return make_control(name, prepared.subject.model.module, batches, prepared.plan.execution.seed)


def _survey_other(
    prepared: Prepared, module: nn.Module, place: tuple[Path, str, str], advance: Advance
) -> OtherRun:
    """Survey a network that stands beside the audited one, into ``<run>/<kind>/<name>``."""
    folder, kind, name = place
    plan = prepared.plan.for_control(name) if kind == "controls" else prepared.plan.for_network(name)
    module = working_copy(module, plan.execution)
    run = _survey(_for_other(prepared, module, plan), module, folder / kind / name, plan, advance).run
    return OtherRun(
        survey=run.survey,
        store=run.store,
        images=run.images,
        groups=run.groups,
        source=run.source,
        module=module,
        working=module,
        summaries=run.summaries,
        explainers=run.explainers,
        guard=run.guard,
        name=name,
        audited=Store(folder, len(prepared.subject.source), plan.execution.shard, prepared.plan.id),
    )


def _beside_others(
    audited: _Surveyed, controls: Sequence[OtherRun], networks: Sequence[OtherRun]
) -> _Surveyed:
    run = replace(audited.run, controls=tuple(controls), networks=tuple(networks))
    return replace(audited, run=run)


def _for_other(prepared: Prepared, module: nn.Module, plan: Plan) -> Prepared:
    """Leave out the probes that no other network answers, and look for its own head."""
    asked = prepared.needs
    stages = tuple(tuple(o for o in stage if asked[o.item.name].controls) for stage in prepared.stages)
    head = find_head(module, prepared.subject.examples, prepared.subject.layers)
    return replace(prepared, plan=plan, stages=stages, survey=replace(prepared.survey, head=head))


def _control_batches(prepared: Prepared, unusable: Mapping[int, str]) -> list[Tensor]:
    """Unlabelled images to adapt a control's normalisation, spread over all; one NaN would kill it."""
    import torch

    source, size = prepared.subject.source, prepared.plan.execution.batch_size
    wanted = min(len(source), size * _CONTROL_BATCHES)
    spread = np.unique(np.linspace(0, len(source) - 1, wanted).astype(int))
    order = [index for index in spread if index not in unusable]
    tensors = [sample.tensor for sample in (source.read(int(i)) for i in order) if sample.tensor is not None]
    return [torch.stack(tensors[low : low + size]) for low in range(0, len(tensors), size)]


def _opened(prepared: Prepared, store: Store, module: nn.Module) -> AuditedRun:
    subject = prepared.subject
    return AuditedRun(
        survey=prepared.survey,
        store=store,
        images=subject.manifest.frame,
        groups=subject.manifest.groups,
        source=subject.source,
        module=subject.model.module,
        working=module,
        explainers={offered.item.name: offered.item for offered in prepared.explainers},
        contents=prepared.contents,
        guard=_guard(prepared),
    )


def _guard(prepared: Prepared) -> Callable[[Explainer], AbstractContextManager[bool]]:
    """Call explainers in their plugin's name also where a probe asks for further maps."""
    offered = {offered.item.name: offered for offered in prepared.explainers}

    @contextmanager
    def guarded(explainer: Explainer) -> Iterator[bool]:
        with prepared.host.guarded("attribute", offered[explainer.name]) as guard:
            yield guard.enabled

    return guarded


# -- conclusions -------------------------------------------------------------------------------


def _concluded(
    prepared: Prepared, run: AuditedRun, probes: Sequence[Offered[Probe]], broken: frozenset[str]
) -> Iterator[tuple[str, Conclusion]]:
    """Conclude; never from the part of the images that a probe saw before it failed."""
    for offered in (o for o in probes if o.item.name not in broken):
        with prepared.host.guarded("conclude", offered) as guard:
            if guard.enabled:
                yield offered.item.name, check_conclusion(offered.item.conclude(run), offered.item.name)


def _conclude(
    prepared: Prepared, audited: _Surveyed, performance: Performance
) -> tuple[AuditedRun, list[tuple[str, Conclusion]]]:
    """Conclude every probe, in the order of their dependencies; the summaries go into the run."""
    # what was concluded between passes knew no controls, and is concluded again
    run = replace(audited.run, not_testable=performance.not_testable, summaries={})
    made: list[tuple[str, Conclusion]] = []
    for probes in prepared.stages:
        for offered in probes:
            for name, conclusion in _concluded(prepared, run, [offered], audited.broken):
                run.store.write_static(f"{probe_path(name)}/summary", conclusion.summary)
                run = replace(run, summaries={**run.summaries, name: conclusion.summary})
                made.append((offered.plugin, conclusion))
    return run, made


def _performance(prepared: Prepared, run: AuditedRun) -> Performance:
    return measure_performance(
        run.logits.values,
        prepared.labels,
        prepared.survey.multilabel,
        run.groups,
        run.images["split"].to_numpy(dtype=object),
        prepared.labelled,
    )


def _sections(prepared: Prepared, run: AuditedRun) -> tuple[Section, ...]:
    """Sections of every probe that concluded, in the order in which plugins offer them."""
    made: list[Section] = []
    place = {name: number for number, name in enumerate(prepared.needs)}
    offers = [offered for stage in prepared.stages for offered in stage]
    for offered in sorted(offers, key=lambda offered: place[offered.item.name]):
        summary = run.summaries.get(offered.item.name)
        with prepared.host.guarded("sections", offered) as guard:
            if guard.enabled and summary is not None:
                made += check_sections(offered.item.sections(summary, run), offered.item.name)
    return tuple(made)


def _findings(
    prepared: Prepared,
    run: AuditedRun,
    lines: Sequence[LedgerLine],
    certificate: Certificate,
    performance: Performance,
) -> list[tuple[str, Finding]]:
    """What the host itself has to say."""
    alive = {c.name: {layer: c.alive(layer) for layer in run.survey.layers} for c in run.controls}
    note = prepared.options.note
    own = [
        Finding("note", "notice", f"About these data: {note}") if note else None,
        Finding("untrained", "warning", _UNTRAINED)
        if prepared.plan.model.get("weights") == "random"
        else None,
        performance_finding(performance),
        certificate_finding(certificate),
        quarantine_finding(unreadable_images(lines), len(run.images)),
        *control_findings(alive),
        *storage_finding(total(line.counters for line in lines)),
    ]
    return [(HOST, finding) for finding in own if finding is not None] + list(prepared.findings)


# -- the folder --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Results:
    """What is left to write down."""

    made: Made
    certificate: Certificate
    lines: tuple[LedgerLine, ...]
    asked: tuple[str, float]


def _finish(prepared: Prepared, run: AuditedRun, results: _Results) -> AuditOutcome:
    from wsss_probe.overview import write_report

    folder = run.path
    code = ExitCode.WITH_FAILURES if prepared.host.failures else ExitCode.DONE
    write_findings(folder, results.made.findings)
    write_choices(folder, results.made.choices)
    record = _record(prepared, run, results, code)
    write_report(prepared, run, record, results.made)
    run.store.sweep()
    write_atomically(folder / "run.json", json.dumps(record, indent=2))
    return AuditOutcome(folder, code, tuple(results.made.findings), len(results.lines))


def _record(prepared: Prepared, run: AuditedRun, results: _Results, code: ExitCode) -> dict[str, Any]:
    """Provenance, as ``run.json`` keeps it."""
    from dataclasses import asdict

    plan = prepared.plan
    command, started = results.asked
    return {
        "plan": plan.id,
        "command": command,
        "exit_code": int(code),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "model": dict(plan.model),
        "multilabel": prepared.survey.multilabel,
        "preprocessing": dict(plan.preprocessing),
        "data": {**plan.data, "unreadable": len(unreadable_images(results.lines))},
        "layers": {name: asdict(info) for name, info in prepared.survey.layers.items()},
        "layers_reason": plan.layers_reason,
        "head": {
            "linear": run.survey.head.linear,
            "layer": run.survey.head.layer,
            "reason": run.survey.head.reason,
        },
        "controls": {c.name: {layer: c.alive(layer) for layer in run.survey.layers} for c in run.controls},
        "networks": {str(network["name"]): dict(network) for network in plan.networks},
        "measures": [dict(measure) for measure in plan.measures],
        "probes": [dict(probe) for probe in plan.probes],
        "refused": [list(item) for item in prepared.refused],
        "failures": [failure.to_dict() for failure in prepared.host.failures],
        "counters": total(line.counters for line in results.lines),
        "certificate": asdict(results.certificate),
        "libraries": dict(plan.libraries),
        "options": prepared.options.model_dump(mode="json"),
    }
