"""The audited network: built or taken as it is, with weights, class names, preprocessing and origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsss_probe.card import ModelCard, read_card, write_card
from wsss_probe.checkpoint import Checkpoint, load_into, read_checkpoint, tensor_digest
from wsss_probe.errors import CorruptRunError, ModelError, ProbeError, UsageError
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.weights_file import first_line, printable
from wsss_probe.zoo import Built, build, is_factory

if TYPE_CHECKING:
    from wsss_probe.contracts import ModelSource

__all__ = ["AuditedModel", "ModelCard", "ModelRequest", "load_model", "read_card", "write_card"]

RANDOM = "random"
"""In place of a weight file: an untrained network, on purpose."""


@dataclass(frozen=True)
class AuditedModel:
    """A network that can be audited.

    Parameters
    ----------
    module : nn.Module
        In eval mode if it was built here; a live module is handed through untouched.
    name : str
    classes : tuple of str, (class,)
        One unique name per logit; empty if neither names nor the number of logits are known yet.
    preprocessing : Preprocessing or None
    multilabel : bool
    provenance : mapping
        Where all of this came from, as JSON can hold it; texts from files are untrusted.
    """

    module: nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    multilabel: bool
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ModelRequest:
    """What the user asks to be audited.

    Parameters
    ----------
    model : nn.Module, str or Path
        A live module; ``torchvision/<name>``, ``timm/<name>``, a plugin's model source,
        ``file.py:factory``, ``pkg.mod:factory``; a folder with ``model.json``, or that file.
    weights : str, Path or None
        A checkpoint, or ``"random"`` for an untrained network.
    preprocess : Preprocessing, str, Path or None
        Replaces what the registry or the card says; text as in :meth:`Preprocessing.parse`.
    classes : sequence of str
        Replaces the registry's or the card's names; one per logit.
    arguments : mapping
        Keyword arguments of the builder; for a card, in addition to its own.
    trust_code : bool
        Allow a factory to be imported and called.
    allow_missing : frozenset of str
        Tensors that may be absent from the file, or in excess there.
    allow_nonfinite : bool
        Accept NaN and infinite weights, with a note.
    multilabel : bool or None
        Whether every class has its own sigmoid; None takes the card's word, else False.
    """

    model: str | Path | nn.Module
    weights: str | Path | None = None
    preprocess: Preprocessing | str | Path | None = None
    classes: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trust_code: bool = False
    allow_missing: frozenset[str] = frozenset()
    allow_nonfinite: bool = False
    multilabel: bool | None = None


def load_model(
    request: ModelRequest,
    sources: Mapping[str, ModelSource] = MappingProxyType({}),
    *,
    require_preprocessing: bool = False,
    example: Tensor | None = None,
) -> AuditedModel:
    """Build the requested network, load its weights, and find out what its logits are called.

    A network that is built here never keeps random weights unless ``weights="random"`` says so. A
    factory may load its own weights: it is called twice with different seeds, and both networks must be
    equal. One image of zeros goes through the network in eval mode to count the logits, if the input size
    is known.

    Parameters
    ----------
    request : ModelRequest
    sources : mapping of str to ModelSource
        Of the installed plugins, by name.
    require_preprocessing : bool
        Refuse a network of which nobody says how images are prepared.
    example : Tensor, (image, channel, row, column), optional
        Counts the logits where preprocessing names no size.

    Returns
    -------
    AuditedModel

    Raises
    ------
    UsageError
        No weights, an unknown name, or arguments that contradict each other.
    UnsafeInputError
        Code without ``trust_code``, or a checkpoint that would run some.
    ModelError
        Something does not fit or fails; the message says what.
    CorruptRunError
        The weights beside a card are not those that the card describes.
    """
    if isinstance(request.model, nn.Module):
        model = _live(request.model, request)
    elif _is_card(request.model, sources):
        model = _from_card(Path(request.model), request, sources)
    else:
        model = _from_builder(str(request.model), request, sources)
    if request.preprocess is not None:
        model = replace(model, preprocessing=_parsed(request.preprocess))
    if request.multilabel is not None:
        model = replace(model, multilabel=request.multilabel)
    if require_preprocessing and model.preprocessing is None:
        raise ModelError(
            f"nothing says how images are prepared for {printable(model.name)}",
            wanted="input size, mean and std of the training",
            remedy='add --preprocess imagenet, or --preprocess "size=96 mean=.7,.54,.69 std=.24,.28,.22"',
        )
    logits = count_logits(model.module, _example(model.preprocessing) if example is None else example)
    return replace(model, classes=_class_names(tuple(request.classes), model.classes, logits))


def _parsed(preprocess: Preprocessing | str | Path) -> Preprocessing:
    return preprocess if isinstance(preprocess, Preprocessing) else Preprocessing.parse(preprocess)


# -- three ways to a network ---------------------------------------------------------------------------


def _live(module: nn.Module, request: ModelRequest) -> AuditedModel:
    if request.weights is not None or request.arguments:
        raise UsageError(
            "a live module is audited as it is",
            found="weights or arguments for it",
            remedy="load them into the module before",
        )
    name = type(module).__name__
    provenance = _provenance("live module", name, module, {"builder": "live module"}, {})
    return AuditedModel(module, name, (), None, False, provenance)


def _from_builder(spec: str, request: ModelRequest, sources: Mapping[str, ModelSource]) -> AuditedModel:
    built = _build(spec, request, sources)
    if request.weights is None and not is_factory(spec):
        raise _without_weights(spec, "a registry builds untrained networks")
    origin: dict[str, Any] = {"weights": RANDOM, "seed": 0, "notes": ["untrained network, on purpose"]}
    if request.weights is None:
        origin = _own_weights(spec, built, request, sources)
    elif request.weights != RANDOM:
        checkpoint = read_checkpoint(request.weights, allow_nonfinite=request.allow_nonfinite)
        origin = _loaded(built.module, checkpoint, request)
        if request.preprocess is None:
            built = _as_published(built, checkpoint, origin["notes"])
    provenance = _provenance(spec, spec, built.module, built.provenance, origin)
    return AuditedModel(built.module, spec, built.classes, built.preprocessing, False, provenance)


def _build(spec: str, request: ModelRequest, sources: Mapping[str, ModelSource], *, seed: int = 0) -> Built:
    arguments, trust = dict(request.arguments), request.trust_code
    return build(spec, arguments=arguments, trust_code=trust, sources=sources, seed=seed)


def _without_weights(spec: str, found: str) -> UsageError:
    return UsageError(
        f"no weights for {printable(spec)}",
        found=found,
        remedy="--weights FILE, or --weights random to audit an untrained network on purpose",
    )


def _own_weights(
    spec: str, built: Built, request: ModelRequest, sources: Mapping[str, ModelSource]
) -> dict[str, Any]:
    """Keep a factory's own weights, unless they depend on the seed: then nobody trained them."""
    other = _build(spec, request, sources, seed=1)
    if tensor_digest(other.module) != tensor_digest(built.module):
        raise _without_weights(spec, "a factory whose weights change with the random seed")
    return {"weights": "factory", "notes": ["weights as the factory returned them"]}


def _as_published(built: Built, checkpoint: Checkpoint, notes: list[str]) -> Built:
    """Take preprocessing and classes of exactly this file, if the registry published it."""
    if not built.published:
        return built
    published = built.published.get(checkpoint.sha256[:8])
    if published is None:
        notes.append(
            "preprocessing of the registry's default weights assumed: the file is not one of its own"
        )
        return built
    notes.append(f"the registry's own weights {published.name}")
    return replace(built, preprocessing=published.preprocessing, classes=published.classes)


def _is_card(model: str | Path, sources: Mapping[str, ModelSource]) -> bool:
    if isinstance(model, str) and (model in sources or model.startswith(("torchvision/", "timm/"))):
        return False
    return Path(model).is_dir() or Path(model).suffix == ".json"


def _from_card(path: Path, request: ModelRequest, sources: Mapping[str, ModelSource]) -> AuditedModel:
    card = read_card(path)
    folder = path if path.is_dir() else path.parent
    if not card.source.startswith(("torchvision/", "timm/")) and card.source not in sources:
        raise ModelError(
            f"the model in {printable(str(folder))} needs the model source '{printable(card.source)}'",
            found="no installed plugin that offers it",
            remedy="install the plugin it was trained with (pip install ...); see 'wsss-probe plugins list'",
        )
    request = replace(request, arguments={**card.arguments, **request.arguments})
    built = _build(card.source, request, sources)
    origin = _card_weights(folder, card, built.module, request)
    provenance = _provenance(str(path), card.source, built.module, built.provenance, origin)
    provenance["training"] = dict(card.training)
    name = folder.resolve().name
    return AuditedModel(built.module, name, card.classes, card.preprocessing, card.multilabel, provenance)


def _card_weights(folder: Path, card: ModelCard, module: nn.Module, request: ModelRequest) -> dict[str, Any]:
    if request.weights == RANDOM:
        return {"weights": RANDOM, "seed": 0, "notes": ["untrained network, on purpose"]}
    if request.weights is not None:
        checkpoint = read_checkpoint(request.weights, allow_nonfinite=request.allow_nonfinite)
        origin = _loaded(module, checkpoint, request)
        origin["notes"].append("other weights than the model card's")
        return origin
    checkpoint = read_checkpoint(folder / card.weights, allow_nonfinite=request.allow_nonfinite)
    if checkpoint.sha256 != card.sha256:
        raise CorruptRunError(
            f"weights {checkpoint.name} are not those of the model card",
            found=f"sha256 {checkpoint.sha256[:12]}",
            wanted=printable(card.sha256[:12]),
            remedy="restore the folder, or give the file as --weights",
        )
    return _loaded(module, checkpoint, request)


# -- what is written down ------------------------------------------------------------------------------


def _loaded(module: nn.Module, checkpoint: Checkpoint, request: ModelRequest) -> dict[str, Any]:
    report = load_into(module, checkpoint, allow_missing=request.allow_missing)
    return {
        "weights": Path(checkpoint.name).name,
        "weights_sha256": checkpoint.sha256,
        "weights_format": checkpoint.format,
        "weights_metadata": dict(checkpoint.metadata),
        "prefix": report.prefix,
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
        "casts": dict(report.casts),
        "notes": [*checkpoint.notes, *report.notes],
    }


def _provenance(
    spec: str, source: str, module: nn.Module, built: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "model": spec,
        "source": source,
        "arguments": {},
        **built,
        "weights": "live",
        "notes": [],
        **origin,
        "tensor_digest": tensor_digest(module),
        "torch": torch.__version__,
    }


# -- what the logits are -------------------------------------------------------------------------------


def _example(preprocessing: Preprocessing | None) -> Tensor | None:
    if preprocessing is None or preprocessing.size is None:
        return None
    return torch.zeros(1, preprocessing.channels, *preprocessing.size)


def count_logits(module: nn.Module, example: Tensor | None) -> int | None:
    """Count a network's logits with one image; the network is as before, whatever mode it was in.

    Parameters
    ----------
    module : nn.Module
    example : Tensor, (image, channel, row, column), or None

    Returns
    -------
    int or None
        None without an example.

    Raises
    ------
    ModelError
        The network fails, or does not return logits of shape (image, class).
    """
    if example is None:
        return None
    shape = tuple(example.shape[1:])
    place = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    try:
        with _evaluated(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            # on copies of the buffers: some networks count their calls even in eval mode
            buffers = {name: value.clone() for name, value in module.named_buffers()}
            output = torch.func.functional_call(module, buffers, (example[:1].to(place),))
    except ProbeError:
        raise
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} fails on an image of shape {shape}",
            found=f"{type(error).__name__}: {first_line(error)}",
            remedy="check the size and channels in --preprocess",
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(
            f"{type(module).__name__} returns no logits", found=found, wanted="a tensor (image, class)"
        )
    return int(output.shape[1])


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Eval mode for the time being; networks come with some parts in train mode, so each flag is kept."""
    flags = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in flags:
            part.training = False
        yield
    finally:
        for part, flag in flags:
            part.training = flag


def _class_names(requested: tuple[str, ...], known: tuple[str, ...], logits: int | None) -> tuple[str, ...]:
    """The user's names, else the source's if there are as many as logits, else numbers."""
    if requested:
        _check_names(requested, logits)
        return _unique(requested)
    if known and logits in {None, len(known)}:
        return _unique(known)
    return tuple(f"class {index}" for index in range(logits or 0))


def _check_names(names: tuple[str, ...], logits: int | None) -> None:
    if logits not in {None, len(names)}:
        raise UsageError(
            "class names do not fit the network",
            found=f"{len(names)} names",
            wanted=f"{logits}, one per logit",
        )


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names become coordinates: one that stands twice, as ImageNet's cranes do, gets its index."""
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))
