"""From options to everything an audit needs: network, images, layers, plugins, plan.

Nothing is written here. Everything that can be wrong with the input is found here, before the
first shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.contents import Contents, digest_contents
from wsss_probe.contracts import (
    Explainer,
    Finding,
    Head,
    LayerInfo,
    Layout,
    Needs,
    Probe,
    Survey,
    Target,
)
from wsss_probe.controls import parse_controls
from wsss_probe.errors import ModelError, NothingToDoError, UsageError
from wsss_probe.explaining import input_layer
from wsss_probe.findings import HOST
from wsss_probe.first_pass import first_logits, require_images
from wsss_probe.head import find_head
from wsss_probe.images import ManifestSource, Source
from wsss_probe.influence import without_gradient
from wsss_probe.labels import known_labels, label_findings
from wsss_probe.layers import Chosen, choose_layers, describe_layers
from wsss_probe.layout import parse_layout
from wsss_probe.manifest import Manifest, discover, read_manifest
from wsss_probe.masks import MaskSpec
from wsss_probe.matching import (
    Explained,
    Explaining,
    Probing,
    match_explainers,
    match_measures,
    match_probes,
)
from wsss_probe.model import AuditedModel, ModelRequest, load_model
from wsss_probe.names import display
from wsss_probe.networks import Asked, Audited, Further, load_networks
from wsss_probe.plan import Execution, Plan, library_versions
from wsss_probe.precision import precision_name
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.survey import working_copy
from wsss_probe.targets import parse_target

if TYPE_CHECKING:
    from wsss_probe.config import AuditOptions
    from wsss_probe.contracts import ModelSource
    from wsss_probe.host import Offered, PluginHost
    from wsss_probe.measuring import Measuring

__all__ = ["Prepared", "Subject", "find_subject", "load_network", "prepare", "read_images"]

_HEAD_IMAGES = 8
_SEARCHED_IMAGES = 200


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
    networks : tuple of Further
        To be compared with the audited one.
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
    networks: tuple[Further, ...] = ()


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
    labelled : ndarray of bool, (image,)
        Where the label is known.
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
    contents : ndarray of str or None, (image,)
        Digest of each image's file.
    measures : tuple of Measuring
        Concept measures that some probe reads, or that were asked for by name.
    """

    options: AuditOptions
    host: PluginHost
    subject: Subject
    survey: Survey
    labels: np.ndarray
    labelled: np.ndarray
    explainers: tuple[Offered[Explainer], ...]
    stages: tuple[tuple[Offered[Probe], ...], ...]
    needs: Mapping[str, Needs]
    refused: tuple[tuple[str, str, str], ...]
    findings: tuple[tuple[str, Finding], ...]
    plan: Plan
    contents: np.ndarray | None = None
    measures: tuple[Measuring, ...] = ()


# -- the subject -------------------------------------------------------------------------------


def read_images(options: AuditOptions) -> Manifest:
    """Read the manifest, or discover a folder; apply mask options, ``splits`` and ``max_images``.

    Raises
    ------
    UsageError
        When neither images nor a manifest are given, or no image is in the splits asked for.
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
    manifest = _in_splits(_with_masks(manifest, options), options.splits)
    number = len(manifest.frame)
    if options.max_images and number > options.max_images:
        # Evenly spread, since folders and manifests are usually sorted by class.
        kept = np.unique(np.linspace(0, number - 1, options.max_images).round().astype(int))
        manifest = manifest.take(kept)
    return manifest


def _in_splits(manifest: Manifest, splits: Sequence[str]) -> Manifest:
    """Keep the rows of some splits; all of them where none is named."""
    if not splits:
        return manifest
    own = manifest.frame["split"]
    for name in splits:
        if name not in set(own):
            found = ", ".join(sorted({display(str(text)) for text in own if text})) or "no splits"
            raise UsageError(f"no image is in split '{display(name)}'", found=found)
    return manifest.take(np.flatnonzero(own.isin(list(splits)).to_numpy()))


def _with_masks(manifest: Manifest, options: AuditOptions) -> Manifest:
    asked, spec = options.masks, manifest.masks
    if spec is None:
        return manifest  # no image has a mask, so there is nothing to read differently
    if asked.instances:
        spec = MaskSpec.instances()
    elif asked.classes:
        named = {name: ids if isinstance(ids, list) else [ids] for name, ids in asked.classes.items()}
        spec = MaskSpec(tuple((name, tuple(ids)) for name, ids in named.items()))
    if asked.ignore:
        spec = spec.ignoring(asked.ignore)
    if asked.white is not None:
        spec = replace(spec, white=asked.white)
    return replace(manifest, masks=spec)


def _readable(source: Source, wanted: int) -> Tensor:
    """The first readable images; far apart in a large source."""
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
        Images instead of ``options.images``; those of files keep their manifest and preprocessing.
    trust_code : bool
        Whether ``file.py:factory`` and ``pkg.mod:factory`` may be run.

    Returns
    -------
    Subject
    """
    model = load_network(options, host, module, source is None, trust_code)
    if source is None:
        assert model.preprocessing is not None  # noqa: S101  # demanded by load_network
        source = ManifestSource(read_images(options), model.preprocessing)
    else:
        _refuse_file_options(options)
    if isinstance(source, ManifestSource):
        manifest, model = source.manifest, replace(model, preprocessing=source.preprocessing)
    else:
        manifest = _memory_manifest(source)
    examples = _readable(source, _HEAD_IMAGES)
    require_images(model.module, model.name)
    working = working_copy(model.module, _execution(options))
    examples = examples.to(options.device)
    logits = first_logits(working, examples, model.name)
    classes = _class_names(model, options, int(logits.shape[1]))
    finite = torch.isfinite(logits).all(dim=1)
    examples = examples[finite] if bool(finite.any()) else examples
    layouts = {name: parse_layout(text, name) for name, text in options.layouts.items()}
    layers = describe_layers(working, examples[:1], layouts)
    chosen = choose_layers(layers, options.layers)
    head = find_head(working, examples, layers)
    networks = load_networks(
        Asked(options, _model_sources(host), trust_code),
        Audited(
            module=model.module,
            live=module is not None,
            examples=examples,
            layers=tuple(layer for layer in layers if layer.name in chosen.names),
            layouts=layouts,
            classes=len(classes),
            execution=_execution(options),
        ),
    )
    return Subject(model, working, manifest, source, examples, layers, chosen, head, classes, networks)


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
        allow_nonfinite=options.allow_nonfinite,
        multilabel=options.multilabel,
    )
    model = load_model(request, _model_sources(host))
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


def _model_sources(host: PluginHost) -> dict[str, ModelSource]:
    return {offered.item.name: offered.item for offered in host.collect_model_sources()}


def _class_names(model: AuditedModel, options: AuditOptions, logits: int) -> tuple[str, ...]:
    if options.classes and len(options.classes) != logits:
        msg = "number of class names differs from the number of outputs"
        raise ModelError(
            msg, found=f"{len(options.classes)} names, {logits} outputs", remedy="--classes a,b,…"
        )
    if len(model.classes) == logits:
        return model.classes
    return tuple(f"class {index}" for index in range(logits))


def _refuse_file_options(options: AuditOptions) -> None:
    """Options about files would be ignored where images are handed over."""
    given = {
        "splits": options.splits,
        "max_images": options.max_images,
        "manifest": options.manifest,
        "images": options.images,
    }
    asked = [name for name, value in given.items() if value]
    asked += ["masks"] if options.masks != type(options.masks)() else []
    if asked:
        msg = "options about image files, but the images are handed over"
        raise UsageError(msg, found=", ".join(asked), remedy="leave them out, or audit files")


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


# -- the plan ----------------------------------------------------------------------------------


def _targets(options: AuditOptions, classes: Sequence[str]) -> tuple[Target, ...]:
    parsed = [parse_target(text, classes) for text in options.targets or ("predicted",)]
    return tuple(dict.fromkeys(target for targets in parsed for target in targets))


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
        mask_classes=spec.names if spec else (),
        head=subject.head,
        input_shape=tuple(subject.examples.shape[1:]),
        multilabel=subject.model.multilabel,
        seed=options.seed,
        images=len(subject.source),
    )
    labels, labelled = known_labels(subject.manifest, subject.classes)
    pathless = without_gradient(subject.working, subject.examples[:1], list(audited.values()))
    where = Explained(
        tuple(audited[name] for name in _relevance_layers(options, subject.chosen)),
        input_layer(survey.input_shape),
        subject.head,
        audited,
        pathless,
    )
    explaining = match_explainers(host, options.explainers, options.explain, where)
    survey = replace(survey, relevance=explaining.pairs)
    probing = match_probes(host, options.probes, survey, labels, pathless)
    contents = digest_contents(subject.source, subject.examples)
    measures = _measures(options, host, spec, probing)
    said = label_findings(subject.manifest, subject.classes, labelled)
    return Prepared(
        options,
        host,
        subject,
        survey,
        labels,
        labelled,
        explaining.explainers,
        probing.stages,
        probing.needs,
        explaining.refused,
        (
            *said,
            *_pathless_findings(pathless),
            *probing.findings,
        ),
        _plan(options, subject, survey, (explaining, probing, contents, measures)),
        contents.images,
        measures,
    )


def _measures(
    options: AuditOptions, host: PluginHost, spec: MaskSpec | None, probing: Probing
) -> tuple[Measuring, ...]:
    """Concept measures; the default ones only where a probe reads what they give."""
    read = any(needs.concepts for needs in probing.needs.values())
    if tuple(options.concepts) == ("default",) and not options.measures and not read:
        return ()
    return match_measures(host, options.measures, options.concepts, spec)


def _pathless_findings(reasons: Mapping[str, str]) -> list[tuple[str, Finding]]:
    """Name audited layers where maps by gradients would be empty."""
    return [
        (HOST, Finding(f"no-gradient/{layer}", "notice", f"Nothing reads gradients at {layer}: {why}."))
        for layer, why in reasons.items()
    ]


def _relevance_layers(options: AuditOptions, chosen: Chosen) -> tuple[str, ...]:
    """Layers named by the user, or the deepest of an automatic choice: backward ends there."""
    return chosen.names[-1:] if tuple(options.layers) == ("auto",) else chosen.names


def _plan(
    options: AuditOptions,
    subject: Subject,
    survey: Survey,
    matched: tuple[Explaining, Probing, Contents, tuple[Measuring, ...]],
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
    explaining, probing, contents, measures = matched
    return Plan(
        model={
            "name": subject.model.name,
            "classes": list(survey.classes),
            "precision": precision_name(subject.working),
            **dict(subject.model.provenance),
        },
        data=_data(subject, contents),
        preprocessing=preprocessing.to_dict() if preprocessing else {},
        layers=tuple(survey.layers),
        layers_reason=subject.chosen.reason,
        targets=survey.targets,
        relevance=explaining.pairs,
        probes=(
            *(_described(item, options.explainers) for item in explaining.explainers),
            *(_described(item, options.probes) for item in probing.probes),
        ),
        controls=parse_controls(options.controls),
        stored=stored,
        execution=_execution(options),
        libraries=library_versions(),
        layouts={name: str(i.native) for name, i in survey.layers.items() if i.native != Layout()},
        measures=tuple(_described(own.offered, options.measures) for own in measures),
        networks=tuple({**network.origin, "name": network.name} for network in subject.networks),
    )


def _described(offered: Offered[Any], asked: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    item = offered.item
    own = dict(getattr(item, "options", {}) or {})
    return {
        "name": item.name,
        "plugin": offered.plugin,
        "version": offered.version,
        "options": {**own, **asked.get(item.name.partition("@")[0], {})},
    }


# -- what the data are -------------------------------------------------------------------------


def _data(subject: Subject, contents: Contents) -> dict[str, Any]:
    spec = subject.manifest.masks
    return {
        "images": len(subject.source),
        "digest": subject.manifest.digest,
        "files": contents.digest,
        "masks": {name: list(ids) for name, ids in spec.classes} if spec else {},
        "ignore": list(spec.ignore) if spec else [],
        **({"white": spec.white} if spec and spec.white is not None else {}),
    }
