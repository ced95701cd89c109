"""Finetune a trained network on image labels, and keep the network that it started from beside it."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from wsss_probe.checkpoint import tensor_digest
from wsss_probe.errors import ManifestError, ModelError, UsageError
from wsss_probe.model import ModelCard, ModelRequest, load_model, read_card, write_card
from wsss_probe.names import display, nearest
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.zoo import ensure_torchvision, is_factory
from wsss_probe_localizers.batches import seed_of
from wsss_probe_localizers.fitting import (
    Data,
    Recipe,
    Trained,
    abandoning,
    check_device,
    fit,
    metrics_of,
    recorded,
)
from wsss_probe_localizers.heads import find_head, installed_sources, replace_head
from wsss_probe_localizers.isolation import left_as_found
from wsss_probe_localizers.labels import Labels, read_labels
from wsss_probe_localizers.pictures import data_digest, load
from wsss_probe_localizers.split import split_rows
from wsss_probe_localizers.workplace import Workplace, open_workplace

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.options import FinetuneOptions
    from wsss_probe_localizers.training import EpochRecord, Optimizing

__all__ = ["SOURCE", "START", "fit_finetuned", "nesterov"]

SOURCE = "finetuned"
"""Name of the model source that a card of ours names."""

START = "start"
"""Folder, inside the one that is written, of the network before its first step."""

# Where nothing says how large images are, a side that suits every network with a stride of 32.
_SIDE = 224


@final
@dataclass(frozen=True)
class _Beginning:
    """The network before its first step, and where it came from.

    ``arguments`` are those of a finetuned card; ``origin`` says which network and weights these were.
    """

    network: nn.Module
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    origin: Mapping[str, Any]


def fit_finetuned(
    manifest: Manifest,
    options: FinetuneOptions,
    out: Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Trained:
    """Replace a network's head and train the whole, or what is not frozen, on image labels.

    Global random states, thread number and switches are left as they were found. Written to
    ``<out>.partial`` and renamed at the end; ``options.resume`` goes on from what an interruption left,
    with the same bits as without it.

    Parameters
    ----------
    manifest : Manifest
    options : FinetuneOptions
    out : Path
        Folder of the model; must not exist. ``<out>/start`` is a model too: the given network with the
        new head, before the first step.
    on_epoch : callable, optional
        Gets each epoch's record, after its checkpoint is written.

    Returns
    -------
    Trained
        ``training`` has, besides what every training records, ``start`` (origin, digest and metrics of
        the network before) and ``moved`` (change of each part's weights, relative to their norm).

    Raises
    ------
    ManifestError
        If nothing can be learned from the labels, splits or images.
    ModelError
        If the network has no head to replace, nothing is left to learn, or the loss is no longer finite.
    PlanError
        If something else lies in ``out``.
    UsageError
        If the network cannot be loaded, or is named by code.

    References
    ----------
    Graziani, Andrearczyk & Müller (2019), Visualizing and interpreting feature reuse of pretrained CNNs
    for histopathology, IMVIP: the recipe that the defaults follow.
    """
    started = time.perf_counter()
    check_device(options.device)
    labels = read_labels(manifest, options.classes, False if options.units == "one" else options.multilabel)
    split = split_rows(manifest, labels, share=options.validation, seed=options.seed)
    labels = _one_unit(labels) if options.units == "one" else labels
    with left_as_found(options.threads):
        beginning = _begin(options, len(labels.classes))
        still = _still(beginning.network, beginning.arguments["head"], options)
        plan = {**options.record(), "start": dict(beginning.origin), "data": data_digest(manifest, split)}
        place = open_workplace(Path(out), plan, resume=options.resume)
        if place is None:
            return _finished(Path(out))
        with abandoning(place):
            loaded = load(manifest, split, beginning.preprocessing, None, options.cache_bytes)
            data = Data(labels, split.where(loaded.readable, labels), loaded)
            before = _written_start(beginning, manifest, data, options, place)
            with _frozen(beginning.network, still.parameters):
                recipe = Recipe(options, place, nesterov(options), still.modules, on_epoch)
                module = fit(beginning.network, data, recipe)
        training = recorded(module, manifest, data, options)
        training["notes"] += [*_notes(beginning, still)]
        training |= {"start": before.record, "moved": _moved(before.weights, beginning.network)}
        training = {"plan": plan, **training, "seconds": round(time.perf_counter() - started, 2)}
        write_card(place.partial, _card(beginning, data, training), beginning.network)
        place.finish()
    return Trained(Path(out), beginning.network, labels.classes, loaded.preprocessing, training)


def nesterov(options: FinetuneOptions) -> Optimizing:
    """Stochastic gradient descent with Nesterov momentum; the learning rate falls as 1 / (1 + decay · t).

    Parameters
    ----------
    options : FinetuneOptions

    Returns
    -------
    callable
        ``optimizing(network, steps)``; only parameters that need gradients are changed.
    """

    def optimizing(network: nn.Module, _steps: int) -> dict[str, Any]:
        learning = [tensor for tensor in network.parameters() if tensor.requires_grad]
        optimizer = torch.optim.SGD(
            learning, options.learning_rate, momentum=options.momentum, nesterov=options.momentum > 0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + options.decay * step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return optimizing


def _one_unit(labels: Labels) -> Labels:
    """Of two classes keep the last, whose presence the single unit tells."""
    if len(labels.classes) != 2:
        raise ManifestError(
            "one unit tells one class from another",
            found=f"{len(labels.classes)} classes ({', '.join(labels.classes)})",
            wanted="2",
            remedy="use --units classes, or a manifest with two labels",
        )
    return Labels(labels.classes[1:], True, labels.sets[:, 1:])


# -- the network before its first step -----------------------------------------------------------------


def _begin(options: FinetuneOptions, units: int) -> _Beginning:
    """Load the network and put a new head on it, drawn from the seed."""
    if is_factory(str(options.model)):
        raise UsageError(
            "a finetuning cannot start from a factory: a model card must not name code",
            found=str(options.model),
            wanted="torchvision/NAME, timm/NAME, a plugin's model source or a model folder",
            remedy="offer the network as a model source of a plugin",
        )
    ensure_torchvision()
    request = ModelRequest(options.model, options.weights, arguments=options.model_arguments)
    model = load_model(request, installed_sources())
    preprocessing = _preprocessing(options, model.preprocessing)
    network = model.module.float()
    source, arguments = _named(options, str(model.provenance["source"]))
    head = find_head(network, _example(preprocessing))
    torch.manual_seed(seed_of(options.seed))
    replace_head(network, head, units)
    origin = {
        "model": Path(model.name).name if Path(model.name).exists() else model.name,
        "weights": model.provenance["weights"],
        "weights_sha256": model.provenance.get("weights_sha256", ""),
        "digest": tensor_digest(network),
    }
    built = {"source": source, "arguments": dict(arguments), "head": head, "units": units}
    return _Beginning(network, built, preprocessing, origin)


def _preprocessing(options: FinetuneOptions, own: Preprocessing | None) -> Preprocessing:
    """Change what the network brings by what was given, as an audit does."""
    given = options.preprocessing
    if isinstance(given, Preprocessing):
        return given
    if given is None and own is None:
        raise ModelError(
            f"nothing says how images are prepared for {options.model}",
            wanted="input size, mean and std of its training",
            remedy='--preprocess imagenet, or --preprocess "size=96 mean=.7,.54,.69 std=.24,.28,.22"',
        )
    return own if given is None and own is not None else Preprocessing.parse(str(given), own)


def _named(options: FinetuneOptions, source: str) -> tuple[str, Mapping[str, Any]]:
    """Name the registry's or plugin's network, also where the start is a folder, perhaps finetuned itself."""
    if str(options.model) == source:
        return source, options.model_arguments
    card = read_card(options.model)
    if card.source == SOURCE:
        return str(card.arguments["source"]), card.arguments["arguments"]
    return card.source, {**card.arguments, **options.model_arguments}


def _example(preprocessing: Preprocessing) -> Tensor:
    """One image of zeros, to run the network with."""
    return torch.zeros(1, preprocessing.channels, *(preprocessing.size or (_SIDE, _SIDE)))


@final
@dataclass(frozen=True)
class _Start:
    """What is kept of the start: its weights, and what the card says of it."""

    weights: Mapping[str, Tensor]
    record: Mapping[str, Any]


def _written_start(
    beginning: _Beginning, manifest: Manifest, data: Data, options: FinetuneOptions, place: Workplace
) -> _Start:
    """Measure the start and write it as a model of its own."""
    metrics = metrics_of(beginning.network, manifest, data, options)
    record = {**beginning.origin, "metrics": metrics}
    note = "before the first step: the body as it was given, a new head that has learned nothing"
    card = _card(beginning, data, {**record, "notes": [note]})
    write_card(place.partial / START, card, beginning.network)
    state = beginning.network.state_dict()
    return _Start({name: tensor.detach().clone() for name, tensor in state.items()}, record)


def _card(beginning: _Beginning, data: Data, training: Mapping[str, Any]) -> ModelCard:
    """Describe the network so that an auditor can build it again."""
    return ModelCard(
        source=SOURCE,
        arguments=beginning.arguments,
        classes=data.labels.classes,
        multilabel=data.labels.multilabel,
        preprocessing=data.loaded.preprocessing,
        training=training,
    )


# -- what does not learn -------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Still:
    """Modules that stay in eval mode, those whose parameters do not learn, and how many normalise."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    normalising: int
    batch_norm: str


def _still(network: nn.Module, head: str, options: FinetuneOptions) -> _Still:
    """Find what the options freeze."""
    names = [name for name, _ in network.named_modules() if name]
    for pattern in options.freeze:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ModelError(
                "no module to freeze has that name",
                found=display(pattern),
                remedy=f"nearest is {nearest(pattern, names)}",
            )
        inside = [name for name in matched if head == name or head.startswith(f"{name}.")]
        if inside:
            raise ModelError(
                "the new head would be frozen", found=display(pattern), remedy=f"leave out {inside[0]}"
            )
    frozen = tuple(name for name in names if any(fnmatch.fnmatchcase(name, each) for each in options.freeze))
    normalising = tuple(
        name for name, part in network.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    )
    kept = normalising if options.batch_norm == "frozen" else ()
    return _Still((*frozen, *kept), frozen, len(normalising), options.batch_norm)


@contextmanager
def _frozen(network: nn.Module, modules: tuple[str, ...]) -> Iterator[None]:
    """Take gradients from the parameters of some modules for the time being."""
    tensors = [
        tensor
        for name in modules
        for tensor in network.get_submodule(name).parameters()
        if tensor.requires_grad
    ]
    for tensor in tensors:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)


def _notes(beginning: _Beginning, still: _Still) -> Iterator[str]:
    """What a reader of the card should know."""
    yield f"head {beginning.arguments['head']} drawn anew"
    if still.parameters:
        yield f"{len(still.parameters)} modules did not learn: {', '.join(still.parameters[:8])}"
    states = {"train": "statistics follow the training images", "frozen": "statistics of the start"}
    if still.normalising:
        yield f"batch normalisation in {still.normalising} layers: {states[still.batch_norm]}"
    else:
        yield "the network has no batch normalisation"


def _moved(before: Mapping[str, Tensor], network: nn.Module) -> dict[str, float]:
    """Change of each part's weights, |after - before| / |before|; a part is named by two words."""
    sums: dict[str, list[float]] = {}
    for name, tensor in network.named_parameters():
        old = before[name].double()
        part = sums.setdefault(".".join(name.split(".")[:-1][:2]), [0.0, 0.0])
        part[0] += float((tensor.detach().cpu().double() - old).square().sum())
        part[1] += float(old.square().sum())
    return {name: round((moved / own) ** 0.5, 9) if own else 0.0 for name, (moved, own) in sums.items()}


def _finished(folder: Path) -> Trained:
    """Read a training that is done."""
    card = read_card(folder)
    network = load_model(ModelRequest(folder), installed_sources()).module
    preprocessing = card.preprocessing or Preprocessing()
    return Trained(folder, network, tuple(card.classes), preprocessing, dict(card.training))
