"""From options to everything an audit needs: network, images, layers, plugins, plan.

Nothing is written here. Everything that can be wrong with the input is found here, before the
first shard.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.contracts import Explainer, Finding, Head, LayerInfo, Needs, Probe, Survey, Target
from wsss_probe.controls import parse_controls
from wsss_probe.errors import ModelError, NothingToDoError, UsageError
from wsss_probe.head import find_head
from wsss_probe.images import ManifestSource, Source
from wsss_probe.layers import Chosen, choose_layers, describe_layers
from wsss_probe.manifest import Manifest, discover, read_manifest
from wsss_probe.masks import MaskSpec
from wsss_probe.model import AuditedModel, ModelRequest, load_model
from wsss_probe.plan import Execution, Plan, library_versions
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.survey import working_copy
from wsss_probe.taps import run_pass

if TYPE_CHECKING:
    from wsss_probe.config import AuditOptions
    from wsss_probe.host import Offered, PluginHost

__all__ = ["Prepared", "Subject", "find_subject", "load_network", "prepare", "read_images"]

_HEAD_IMAGES = 8
_SEARCHED_IMAGES = 200
_TILE_COLUMNS = ("x", "y", "width", "height")


@dataclass(frozen=True)
class Subject:
    """What is audited: a network, images, and what one forward pass tells about both.

    Parameters
    ----------
    model : AuditedModel
    working : nn.Module
        Copy that runs.
    manifest : Manifest
    source : Source
    examples : Tensor, (image, channel, row, column)
        Some readable images, preprocessed.
    layers : tuple of LayerInfo
        All layers.
    chosen : Chosen
    head : Head
    classes : tuple of str
    """

    model: AuditedModel
    working: nn.Module
    manifest: Manifest
    source: Source
    examples: Tensor
    layers: tuple[LayerInfo, ...]
    chosen: Chosen
    head: Head
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """An audit that is ready to run.

    Parameters
    ----------
    options : AuditOptions
    host : PluginHost
    subject : Subject
    survey : Survey
    labels : ndarray of bool, (image, class)
    explainers : tuple of Offered[Explainer]
        Those with at least one suitable layer.
    stages : tuple of tuples of Offered[Probe]
        Probes in the order of their dependencies; one pass over the images per stage.
    needs : mapping of str to Needs
    refused : tuple of (str, str, str)
        Explainer, layer and reason.
    findings : tuple of (str, Finding)
        About what was skipped.
    plan : Plan
    """

    options: AuditOptions
    host: PluginHost
    subject: Subject
    survey: Survey
    labels: np.ndarray
    explainers: tuple[Offered[Explainer], ...]
    stages: tuple[tuple[Offered[Probe], ...], ...]
    needs: Mapping[str, Needs]
    refused: tuple[tuple[str, str, str], ...]
    findings: tuple[tuple[str, Finding], ...]
    plan: Plan


# -- the subject -------------------------------------------------------------------------------


def read_images(options: AuditOptions) -> Manifest:
    """Read the manifest, or discover a folder; apply mask options and ``max_images``.

    Raises
    ------
    UsageError
        When neither images nor a manifest are given.
    """
    if options.manifest:
        manifest = read_manifest(Path(options.manifest))
        if options.images:
            manifest = replace(manifest, root=Path(options.images))
    elif options.images:
        given = Path(options.images)
        manifest = read_manifest(given) if given.suffix in {".csv", ".parquet"} else discover(given)
    else:
        msg = "no images to audit"
        raise UsageError(msg, remedy="give --images FOLDER or --manifest FILE")
    manifest = _with_masks(manifest, options)
    number = len(manifest.frame)
    if options.max_images and number > options.max_images:
        # Evenly spread, since folders and manifests are usually sorted by class.
        kept = np.unique(np.linspace(0, number - 1, options.max_images).round().astype(int))
        manifest = manifest.take(kept)
    return manifest


def _with_masks(manifest: Manifest, options: AuditOptions) -> Manifest:
    asked = options.masks
    if not (asked.classes or asked.ignore or asked.instances):
        return manifest
    if asked.instances:
        spec = MaskSpec.instances()
    elif asked.classes:
        named = {name: ids if isinstance(ids, list) else [ids] for name, ids in asked.classes.items()}
        spec = MaskSpec(tuple((name, tuple(ids)) for name, ids in named.items()))
    elif manifest.masks is None:
        return manifest
    else:
        spec = manifest.masks
    if asked.ignore:
        spec = spec.ignoring(asked.ignore)
    return replace(manifest, masks=spec)


def _readable(source: Source, wanted: int) -> Tensor:
    """The first readable images, spread over the source."""
    order = np.unique(np.linspace(0, len(source) - 1, min(len(source), _SEARCHED_IMAGES)).astype(int))
    found: list[Tensor] = []
    reason = "no image"
    for index in order:
        sample = source.read(int(index))
        if sample.tensor is None:
            reason = sample.error
        else:
            found.append(sample.tensor)
        if len(found) == wanted:
            break
    if not found:
        msg = "no image could be read"
        raise NothingToDoError(msg, found=reason, remedy="check the folder or the manifest")
    return torch.stack(found)


def find_subject(
    options: AuditOptions,
    host: PluginHost,
    module: nn.Module | None = None,
    source: Source | None = None,
    trust_code: bool = False,
) -> Subject:
    """Load the network and the images, look at the layers, and prove the head.

    Parameters
    ----------
    options : AuditOptions
    host : PluginHost
    module : nn.Module, optional
        A live network instead of ``options.model``.
    source : Source, optional
        Images in memory instead of ``options.images``.
    trust_code : bool
        Whether ``file.py:factory`` and ``pkg.mod:factory`` may be run.

    Returns
    -------
    Subject
    """
    model = load_network(options, host, module, source is None, trust_code)
    manifest = read_images(options) if source is None else _memory_manifest(source)
    if source is None:
        assert model.preprocessing is not None  # noqa: S101  # demanded by load_network
        source = ManifestSource(manifest, model.preprocessing)
    examples = _readable(source, _HEAD_IMAGES)
    working = working_copy(model.module, _execution(options))
    examples = examples.to(options.device)
    logits = run_pass(working, examples, ()).logits
    assert logits is not None  # noqa: S101  # asked for by default
    classes = _class_names(model, options, int(logits.shape[1]))
    layers = describe_layers(working, examples[:1])
    chosen = choose_layers(layers, options.layers)
    head = find_head(working, examples, layers)
    return Subject(model, working, manifest, source, examples, layers, chosen, head, classes)


def load_network(
    options: AuditOptions,
    host: PluginHost,
    module: nn.Module | None = None,
    files: bool = False,
    trust_code: bool = False,
) -> AuditedModel:
    """Load the network that the options name.

    Parameters
    ----------
    options : AuditOptions
    host : PluginHost
        Offers model sources.
    module : nn.Module, optional
        A live network instead.
    files : bool
        Whether images will be read from files, so that preprocessing must be known.
    trust_code : bool

    Returns
    -------
    AuditedModel

    Raises
    ------
    UsageError, ModelError, UnsafeInputError
        When it cannot or may not be loaded.
    """
    if module is None and not options.model:
        msg = "no network to audit"
        raise UsageError(msg, remedy="give --model, e.g. --model torchvision/resnet18 --weights FILE")
    request = ModelRequest(
        model=module if module is not None else options.model,
        weights=options.weights or None,
        classes=options.classes,
        arguments=options.model_arguments,
        trust_code=trust_code,
        allow_missing=frozenset(options.allow_missing),
    )
    sources = {offered.item.name: offered.item for offered in host.collect_model_sources()}
    model = load_model(request, sources)
    if options.preprocess:
        asked = Preprocessing.parse(options.preprocess, model.preprocessing)
        model = replace(model, preprocessing=asked)
    if files and model.preprocessing is None:
        msg = f"nothing says how images are prepared for '{model.name}'"
        raise ModelError(
            msg,
            wanted="size, mean and std of the training",
            remedy='--preprocess imagenet, or --preprocess "size=96 mean=.7,.54,.69 std=.24,.28,.22"',
        )
    return model


def _class_names(model: AuditedModel, options: AuditOptions, logits: int) -> tuple[str, ...]:
    if options.classes and len(options.classes) != logits:
        msg = "number of class names differs from the number of outputs"
        raise ModelError(
            msg, found=f"{len(options.classes)} names, {logits} outputs", remedy="--classes a,b,…"
        )
    if len(model.classes) == logits:
        return model.classes
    return tuple(f"class {index}" for index in range(logits))


def _memory_manifest(source: Source) -> Manifest:
    import pandas as pd

    empty = [""] * len(source)
    names = [f"image {index}" for index in range(len(source))]
    frame = pd.DataFrame({"image": names, "label": empty, "mask": empty, "group": empty, "split": empty})
    return Manifest(Path(), frame, getattr(source, "masks", None))


def _execution(options: AuditOptions) -> Execution:
    """Batches fill shards of about 64 images exactly."""
    batch = options.batch_size
    shard = batch * max(1, round(64 / batch))
    return Execution(batch, shard, options.device, torch.get_num_threads(), "channels_last", options.seed)


# -- plugins -----------------------------------------------------------------------------------


def configured(item: Any, options: Mapping[str, Mapping[str, Any]]) -> Any:
    """Apply a run file's options to a probe or explainer that is a dataclass.

    Raises
    ------
    UsageError
        For an option that it does not have.
    """
    wanted = options.get(item.name)
    if not wanted:
        return item
    known = [f.name for f in fields(item)] if is_dataclass(item) else []
    for key in wanted:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            remedy = f"did you mean '{near[0]}'?" if near else "it has no options"
            msg = f"'{item.name}' has no such option"
            raise UsageError(msg, found=key, remedy=remedy)
    return replace(item, **wanted)


def _known_options(offered: Sequence[Offered[Any]], options: Mapping[str, Any], kind: str) -> None:
    names = [item.item.name for item in offered]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            msg = f"options for a {kind} that no plugin offers"
            raise UsageError(msg, found=name, remedy=f"did you mean '{near[0]}'?" if near else None)


def _relevance_layers(options: AuditOptions, chosen: Chosen) -> tuple[str, ...]:
    """Layers named by the user, or the deepest of an automatic choice: backward ends there."""
    return chosen.names[-1:] if tuple(options.layers) == ("auto",) else chosen.names


def _match(
    offered: Sequence[Offered[Explainer]], layers: Sequence[LayerInfo], head: Head
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Pairs of explainer and layer that suit each other, and the reasons of the others."""
    suiting, refused = [], []
    for item in offered:
        for layer in layers:
            reason = item.item.accepts(layer, head)
            if reason:
                refused.append((item.item.name, layer.name, reason))
            else:
                suiting.append((item.item.name, layer.name))
    return suiting, refused


def _unmet(needs: Needs, survey: Survey, labels: np.ndarray, offered: Sequence[str]) -> str:
    """Why a probe cannot run on this data; empty if it can."""
    if needs.masks and not survey.mask_classes:
        return "it needs masks and the manifest has none"
    if needs.labels and not labels.any():
        return "it needs labels and the manifest has none"
    absent = sorted(needs.tables - set(offered))
    return f"it reads {', '.join(absent)}, which no plugin offers" if absent else ""


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


def _probes(
    host: PluginHost, options: AuditOptions, survey: Survey, labels: np.ndarray
) -> tuple[list[Offered[Probe]], dict[str, Needs], list[tuple[str, Finding]]]:
    """Probes that can run here, their needs, and findings about the others."""
    offered = host.collect_probes()
    _known_options(offered, options.probes, "probe")
    copies = []
    for item in offered:
        with host.guarded("split", item):
            own = configured(item.item, options.probes).split(survey)
            copies += [replace(item, item=probe) for probe in own]
    needs: dict[str, Needs] = {}
    for item in copies:
        with host.guarded("needs", item):
            needs[item.item.name] = item.item.needs(survey)
    kept, findings = [], []
    for item in (item for item in copies if item.item.name in needs):
        reason = _unmet(needs[item.item.name], survey, labels, list(needs))
        if reason:
            findings.append((item.plugin, _skipped(item.item.name, reason)))
        else:
            kept.append(item)
    return kept, needs, findings


def _skipped(name: str, reason: str) -> Finding:
    return Finding(f"skipped-{name}", "notice", f"{name} was skipped: {reason}.")


# -- the plan ----------------------------------------------------------------------------------


def _targets(options: AuditOptions, classes: Sequence[str]) -> tuple[Target, ...]:
    targets: list[Target] = []
    for text in options.targets or ("predicted",):
        if text in {"predicted", "label"}:
            targets.append(text)
        elif text == "all":
            targets += list(range(len(classes)))
        elif text in classes:
            targets.append(list(classes).index(text))
        else:
            near = difflib.get_close_matches(text, list(classes), n=1, cutoff=0.0)
            msg = "target is no class of the network"
            raise ModelError(
                msg, found=text, wanted="predicted, label, all or a class", remedy=f"'{near[0]}'?"
            )
    return tuple(dict.fromkeys(targets))


def prepare(options: AuditOptions, host: PluginHost, subject: Subject) -> Prepared:
    """Match plugins to the network and the data, and fix the plan.

    Raises
    ------
    UsageError, ModelError, ManifestError
        When options, labels or layers do not fit.
    """
    by_name = {layer.name: layer for layer in subject.layers}
    audited = {name: by_name[name] for name in subject.chosen.names}
    spec = subject.manifest.masks
    survey = Survey(
        layers=audited,
        classes=subject.classes,
        targets=_targets(options, subject.classes),
        mask_classes=tuple(name for name, _ in spec.classes) if spec else (),
        head=subject.head,
        input_shape=tuple(subject.examples.shape[1:]),
        multilabel=subject.model.multilabel,
        seed=options.seed,
    )
    labels = subject.manifest.label_sets(subject.classes)
    offered = host.collect_explainers()
    _known_options(offered, options.explainers, "explainer")
    explainers = [replace(o, item=configured(o.item, options.explainers)) for o in offered]
    where = [audited[name] for name in _relevance_layers(options, subject.chosen)]
    pairs, refused = _match(explainers, where, subject.head)
    probes, needs, findings = _probes(host, options, survey, labels)
    used = {name for name, _ in pairs}
    return Prepared(
        options,
        host,
        subject,
        survey,
        labels,
        tuple(o for o in explainers if o.item.name in used),
        _staged(probes, needs),
        needs,
        tuple(refused),
        tuple(findings),
        _plan(options, subject, survey, pairs, (explainers, probes)),
    )


def _plan(
    options: AuditOptions,
    subject: Subject,
    survey: Survey,
    pairs: Sequence[tuple[str, str]],
    offered: tuple[Sequence[Offered[Explainer]], Sequence[Offered[Probe]]],
) -> Plan:
    stored = (
        choose_layers(subject.layers, options.store_activations).names if options.store_activations else ()
    )
    unknown = [name for name in stored if name not in survey.layers]
    if unknown:
        msg = "activations to store are not among the audited layers"
        raise UsageError(
            msg, found=", ".join(unknown), remedy=f"--layers {','.join([*survey.layers, *unknown])}"
        )
    preprocessing = subject.model.preprocessing
    explainers, probes = offered
    methods: list[Offered[Any]] = [*explainers, *probes]
    return Plan(
        model={"name": subject.model.name, "classes": list(survey.classes), **dict(subject.model.provenance)},
        data=_data(subject),
        preprocessing=preprocessing.to_dict() if preprocessing else {},
        layers=tuple(survey.layers),
        layers_reason=subject.chosen.reason,
        targets=survey.targets,
        relevance=tuple(pairs),
        probes=tuple(_described(item) for item in methods),
        controls=parse_controls(options.controls),
        stored=stored,
        execution=_execution(options),
        libraries=library_versions(),
    )


def _described(offered: Offered[Any]) -> dict[str, Any]:
    item = offered.item
    return {
        "name": item.name,
        "plugin": offered.plugin,
        "version": offered.version,
        "options": dict(getattr(item, "options", {}) or {}),
    }


def _data(subject: Subject) -> dict[str, Any]:
    spec = subject.manifest.masks
    return {
        "images": len(subject.source),
        "digest": subject.manifest.digest,
        "files": _files_digest(subject),
        "masks": {name: list(ids) for name, ids in spec.classes} if spec else {},
        "ignore": list(spec.ignore) if spec else [],
    }


def _files_digest(subject: Subject) -> str:
    """Hash the sizes of all image files, so that a run made of other files is never reused."""
    digest = hashlib.sha256()
    if isinstance(subject.source, ManifestSource):
        for index in range(len(subject.manifest)):
            path = subject.manifest.path(index)
            digest.update(str(path.stat().st_size if path.is_file() else -1).encode() + b",")
    else:
        # Images in memory: the examples stand for all, since every tensor would have to be read.
        digest.update(subject.examples.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
