"""Which explainers and probes suit a network and its data, and in which order probes run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from wsss_probe.contracts import ConceptMeasure, Explainer, Finding, Head, LayerInfo, Needs, Probe, Survey
from wsss_probe.errors import ModelError, PluginError, UsageError
from wsss_probe.measuring import Measuring
from wsss_probe.names import nearest
from wsss_probe.offers import check_probe
from wsss_probe.schema import check_concepts
from wsss_probe.targets import require_target

if TYPE_CHECKING:
    import numpy as np

    from wsss_probe.host import Offered, PluginHost
    from wsss_probe.masks import MaskSpec

__all__ = ["Explained", "Explaining", "Probing", "match_explainers", "match_measures", "match_probes"]

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Explaining:
    """Explainers and the layers that suit them.

    Parameters
    ----------
    explainers : tuple of Offered[Explainer]
        Those with at least one suitable layer.
    pairs : tuple of (str, str)
        Explainer and layer.
    refused : tuple of (str, str, str)
        Explainer, layer and reason.
    """

    explainers: tuple[Offered[Explainer], ...]
    pairs: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Probing:
    """Probes that can run.

    Parameters
    ----------
    probes : tuple of Offered[Probe]
    stages : tuple of tuples of Offered[Probe]
        The same in the order of their dependencies; at most one pass over the images per stage.
    needs : mapping of str to Needs
    findings : tuple of (str, Finding)
        Plugin and finding about each probe that was skipped.
    """

    probes: tuple[Offered[Probe], ...]
    stages: tuple[tuple[Offered[Probe], ...], ...]
    needs: Mapping[str, Needs]
    findings: tuple[tuple[str, Finding], ...]


# -- options -----------------------------------------------------------------------------------


def configured(item: Any, options: Options) -> Any:
    """Apply a run file's options to a probe or explainer that is a dataclass.

    Raises
    ------
    UsageError
        For an option that it does not have, or a value that it refuses.
    """
    wanted = options.get(item.name)
    if not wanted:
        return item
    known = [f.name for f in fields(item) if f.init] if is_dataclass(item) else []
    for key in wanted:
        if key not in known:
            near = nearest(key, known)
            remedy = f"did you mean '{near}'?" if near else "it has no options"
            msg = f"'{item.name}' has no such option"
            raise UsageError(msg, found=key, remedy=remedy)
    try:
        return replace(item, **wanted)
    except (TypeError, ValueError) as error:
        msg = f"'{item.name}' refuses its options"
        raise UsageError(msg, found=str(error)) from error


def _known_options(offered: Sequence[Offered[Any]], options: Options, kind: str) -> None:
    names = [item.item.name for item in offered]
    for name in options:
        if name not in names:
            near = nearest(name, names)
            msg = f"options for a {kind} that no plugin offers"
            raise UsageError(msg, found=name, remedy=f"did you mean '{near}'?" if near else None)


# -- explainers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explained:
    """Where relevance is wanted.

    Parameters
    ----------
    layers : tuple of LayerInfo
    input : LayerInfo
        The network's input, described as a layer.
    head : Head
    audited : mapping of str to LayerInfo
        All audited layers, which an explainer may read.
    without_gradient : mapping of str to str
        Why no logit has a gradient there, by layer.
    """

    layers: tuple[LayerInfo, ...]
    input: LayerInfo
    head: Head
    audited: Mapping[str, LayerInfo] = field(default_factory=dict)
    without_gradient: Mapping[str, str] = field(default_factory=dict)


def match_explainers(
    host: PluginHost, options: Options, asked: Sequence[str], where: Explained
) -> Explaining:
    """Ask every chosen explainer which layers suit it; one that fails is listed and left out.

    Parameters
    ----------
    host : PluginHost
    options : mapping
        Of the run file, by explainer; who gives options asks for the explainer.
    asked : sequence of str
        Names and patterns (``grad*``); ``default`` are those that an audit computes unasked,
        ``all`` is every one.
    where : Explained

    Returns
    -------
    Explaining

    Raises
    ------
    UsageError
        For options that do not fit.
    """
    offered = host.collect_explainers()
    _known_options(offered, options, "explainer")
    chosen = _asked_for(offered, asked, "explainer") | set(options)
    items = [replace(o, item=configured(o.item, options)) for o in offered if o.item.name in chosen]
    pairs, refused = [], []
    for item in items:
        for layer in (where.input,) if item.item.grid == "input" else where.layers:
            with host.guarded("accepts", item) as guard:
                if not guard.enabled:
                    continue
                reason = item.item.accepts(layer, where.head) or _no_gradient(item.item, layer, where)
                if reason:
                    refused.append((item.item.name, layer.name, str(reason)))
                else:
                    pairs.append((item.item.name, layer.name))
    used = {name for name, _ in pairs}
    return Explaining(tuple(o for o in items if o.item.name in used), tuple(pairs), tuple(refused))


def _no_gradient(explainer: Explainer, layer: LayerInfo, where: Explained) -> str:
    """Why a layer that it reads has no gradient; empty if all have one, or it reads none."""
    if not (explainer.gradients and where.without_gradient):
        return ""
    lacking = [name for name in explainer.reads(layer.name, where.audited) if name in where.without_gradient]
    return "; ".join(f"{name}: {where.without_gradient[name]}" for name in lacking)


def _asked_for(
    offered: Sequence[Offered[Explainer]] | Sequence[Offered[ConceptMeasure]], asked: Sequence[str], kind: str
) -> set[str]:
    """Names of what words and patterns mean."""
    groups = {
        "all": [o.item.name for o in offered],
        "default": [o.item.name for o in offered if o.item.default],
        "none": [],
    }
    names = {o.item.name for o in offered}
    chosen: set[str] = set()
    for word in asked:
        found = groups.get(word) or [name for name in names if fnmatchcase(name, word)]
        if not found and word not in groups:
            near = nearest(word, [*names, *groups])
            msg = (
                f"no plugin offers such an {kind}"
                if kind[0] in "aeiou"
                else f"no plugin offers such a {kind}"
            )
            raise UsageError(msg, found=word, remedy=f"did you mean '{near}'?" if near else None)
        chosen.update(found)
    return chosen


# -- concept measures --------------------------------------------------------------------------


def match_measures(
    host: PluginHost, options: Options, asked: Sequence[str], masks: MaskSpec | None
) -> tuple[Measuring, ...]:
    """Ask every chosen concept measure what it can measure here; one that fails is listed and left out.

    Parameters
    ----------
    host : PluginHost
    options : mapping
        Of the run file, by measure; who gives options asks for the measure.
    asked : sequence of str
        Names and patterns; ``default`` are those that an audit computes unasked, ``all`` is every
        one, ``none`` is none.
    masks : MaskSpec or None
        What masks mean; None for a manifest without masks.

    Returns
    -------
    tuple of Measuring
        Those with at least one concept.

    Raises
    ------
    UsageError
        For options that do not fit, and for names that nobody offers.
    """
    offered = host.collect_concept_measures()
    _known_options(offered, options, "concept measure")
    chosen = _asked_for(offered, asked, "concept measure") | set(options)
    items = [replace(o, item=configured(o.item, options)) for o in offered if o.item.name in chosen]
    found = []
    for item in items:
        with host.guarded("concepts", item) as guard:
            if guard.enabled:
                names = masks.names if masks else ()
                answer = item.item.concepts(names, masks is not None and masks.any_id)
                found.append(Measuring(item, check_concepts(answer, item.item.name)))
    return tuple(measuring for measuring in found if measuring.concepts)


# -- probes ------------------------------------------------------------------------------------


def match_probes(
    host: PluginHost,
    options: Options,
    survey: Survey,
    labels: np.ndarray,
    without_gradient: Mapping[str, str] | None = None,
) -> Probing:
    """Find the probes that can run here, and order them.

    Parameters
    ----------
    host : PluginHost
    options : mapping
        Of the run file, by probe.
    survey : Survey
    labels : ndarray of bool, (image, class)
    without_gradient : mapping of str to str, optional
        Why no logit has a gradient there, by layer.

    Returns
    -------
    Probing

    Raises
    ------
    UsageError
        For options that do not fit, and for probes that wait for one another.
    """
    offered = host.collect_probes()
    _known_options(offered, options, "probe")
    items = [replace(o, item=configured(o.item, options)) for o in offered]
    copies: list[Offered[Probe]] = []
    for item in items:
        with host.guarded("split", item):
            copies += _copies(item, survey, copies)
    needs: dict[str, Needs] = {}
    for item in copies:
        with host.guarded("needs", item):
            needs[item.item.name] = _asked(item.item, survey)
    asking = [item for item in copies if item.item.name in needs]
    blocked = {name: _blocked(asked, without_gradient or {}) for name, asked in needs.items()}
    kept, findings = _suiting(
        asking, lambda name, running: blocked[name] or _unmet(needs[name], survey, labels, running)
    )
    return Probing(tuple(kept), _staged(kept, needs), needs, tuple(findings))


def _copies(item: Offered[Probe], survey: Survey, others: Sequence[Offered[Probe]]) -> list[Offered[Probe]]:
    made = [replace(item, item=check_probe(probe)) for probe in item.item.split(survey)]
    names = [probe.item.name for probe in (*others, *made)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PluginError(
            "split gives probes of the same name", found=", ".join(twice), wanted="<name>@<layer>"
        )
    return made


def _asked(probe: Probe, survey: Survey) -> Needs:
    """What a probe needs; refused if this survey can never give it."""
    needs = probe.needs(survey)
    if not isinstance(needs, Needs):
        raise PluginError("needs returned the wrong type", found=type(needs).__name__, wanted="Needs")
    layers = needs.layers | {layer for layer, _ in needs.gradients}
    absent = sorted(layers - set(survey.layers))
    if absent:
        raise PluginError(
            "asks for layers that are not audited", found=", ".join(absent), wanted=", ".join(survey.layers)
        )
    for _, target in needs.gradients:
        try:
            require_target(target, len(survey.classes))
        except ModelError as error:
            msg = "asks for the gradient of a target that is none"
            raise PluginError(msg, found=error.found, wanted=error.wanted) from error
    return needs


def _suiting(
    probes: Sequence[Offered[Probe]], why_not: Callable[[str, set[str]], str]
) -> tuple[list[Offered[Probe]], list[tuple[str, Finding]]]:
    """Probes that can run on these data; one that reads a skipped one is skipped too."""
    kept = list(probes)
    findings: list[tuple[str, Finding]] = []
    while True:
        names = {item.item.name for item in kept}
        reasons = {name: why_not(name, names) for name in names}
        if not any(reasons.values()):
            return kept, findings
        out = [item for item in kept if reasons[item.item.name]]
        findings += [(item.plugin, _skipped(item.item.name, reasons[item.item.name])) for item in out]
        kept = [item for item in kept if not reasons[item.item.name]]


def _blocked(needs: Needs, without_gradient: Mapping[str, str]) -> str:
    lacking = sorted({layer for layer, _ in needs.gradients if layer in without_gradient})
    return f"it reads the gradient at {lacking[0]}: {without_gradient[lacking[0]]}" if lacking else ""


def _unmet(needs: Needs, survey: Survey, labels: np.ndarray, running: set[str]) -> str:
    """Why a probe cannot run on these data; empty if it can."""
    if needs.masks and not survey.mask_classes:
        return "it needs masks and the manifest has none"
    if needs.labels and not labels.any():
        return "it needs labels and the manifest has none"
    if needs.relevance and not survey.relevance:
        return "it judges relevance maps and no explainer gives any here"
    absent = sorted(needs.tables - running)
    return f"it reads {', '.join(absent)}, which does not run here" if absent else ""


def _skipped(name: str, reason: str) -> Finding:
    return Finding(f"skipped-{name}", "notice", f"{name} was skipped: {reason}.")


def _staged(
    probes: Sequence[Offered[Probe]], needs: Mapping[str, Needs]
) -> tuple[tuple[Offered[Probe], ...], ...]:
    """Order probes so that each comes after those whose summary it reads."""
    level: dict[str, int] = {}
    waiting = list(probes)
    while waiting:
        ready = [p for p in waiting if needs[p.item.name].tables <= set(level)]
        if not ready:
            names = ", ".join(p.item.name for p in waiting)
            msg = "probes wait for one another"
            raise UsageError(msg, found=names, remedy="leave one out with --no-plugin")
        for probe in ready:
            level[probe.item.name] = 1 + max((level[t] for t in needs[probe.item.name].tables), default=-1)
        waiting = [p for p in waiting if p.item.name not in level]
    deepest = max(level.values(), default=0)
    return tuple(tuple(p for p in probes if level[p.item.name] == depth) for depth in range(deepest + 1))
