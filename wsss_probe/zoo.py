"""Where networks come from: torchvision, timm, a plugin's model source, or a factory that the user trusts.

A network is built by name, never from a checkpoint, and always without weights: nothing is downloaded.
A factory is code. It is refused, before anything is imported, unless the caller says ``trust_code``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wsss_probe.errors import UnsafeInputError, UsageError
from wsss_probe.factory import called, from_file, from_package, undisturbed
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.weights_file import first_line, printable

if TYPE_CHECKING:
    from wsss_probe.contracts import ModelSource

__all__ = ["Built", "Published", "build", "ensure_torchvision", "is_factory"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_LOADING = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "weights",
        "weights_backbone",
    }
)
# The registry's preprocessing for these two holds only together with their own input transform, which
# torchvision switches on when it downloads weights; without init_weights they warn.
_TORCHVISION_ARGUMENTS = {
    name: {"init_weights": True, "transform_input": True} for name in ("googlenet", "inception_v3")
}

_FRAGMENTS: list[torch.library.Library] = []  # garbage collection would undo the declarations


@dataclass(frozen=True)
class Published:
    """What a registry says about one of its weight files.

    Parameters
    ----------
    name : str
        As in the registry, ``IMAGENET1K_V2``.
    preprocessing : Preprocessing
    classes : tuple of str, (class,)
    """

    name: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """A network fresh from its builder, in eval mode; its weights are the caller's matter.

    Parameters
    ----------
    module : nn.Module
    preprocessing : Preprocessing or None
        What the registry's default weights were trained with; None where nothing is known.
    classes : tuple of str, (class,)
        Of the registry's default weights; empty where nothing is known.
    provenance : mapping
        Builder, version or file hash, and the arguments in effect.
    published : mapping of str to Published
        The registry's weight files, by the first eight digits of their SHA-256.
    """

    module: nn.Module
    preprocessing: Preprocessing | None
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    published: Mapping[str, Published] = field(default_factory=dict)


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work beside a CPU-only torch; do nothing where it works or is absent.

    The package index's torchvision is compiled for a CUDA torch. Beside a CPU torch its operators do not
    load, and its import dies on the missing schema of ``torchvision::nms``; timm, lightning and
    segmentation-models-pytorch die with it. Declaring the schemas is enough for every network written in
    Python. Compiled operators (``ops.nms``, ``io``) stay unusable, and say so when called.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the remains of the failed import
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _FRAGMENTS.append(library)


def is_factory(spec: str) -> bool:
    """Whether a model is named by code (``file.py:factory``, ``pkg.mod:factory``)."""
    return ":" in spec and not spec.startswith(("torchvision/", "timm/"))


def build(
    spec: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    sources: Mapping[str, ModelSource] | None = None,
    seed: int = 0,
) -> Built:
    """Build a network by name.

    Random weights are drawn from ``seed``; the caller's random state, working folder, default dtype,
    thread count and gradient mode are as before, whatever the builder does to them.

    Parameters
    ----------
    spec : str
        ``torchvision/<name>``, ``timm/<name>``, the name of a plugin's model source,
        ``file.py:factory`` or ``pkg.mod:factory``.
    arguments : mapping, optional
        Keyword arguments of the builder.
    trust_code : bool
        Allow the last two.
    sources : mapping of str to ModelSource, optional
    seed : int

    Returns
    -------
    Built

    Raises
    ------
    UnsafeInputError
        A factory without ``trust_code``, or one that no trust makes meaningful (the standard library).
    UsageError
        A name that nothing answers to; the nearest is named.
    ModelError
        The builder failed, or returned something else than an ``nn.Module``.
    """
    arguments, sources = dict(arguments or {}), sources or {}
    with undisturbed(seed):
        if spec.startswith(("torchvision/", "timm/")):
            built = _from_registry(spec, arguments)
        elif is_factory(spec):
            built = _from_factory(spec, arguments, trust_code)
        elif spec in sources:
            make = partial(sources[spec].build, arguments)
            built = Built(called(make, spec), None, (), {"builder": f"model source {spec}"})
        else:
            raise _unknown(spec, sources, "model")
    built.module.eval()
    return built


def _unknown(name: str, known: Iterable[str], kind: str) -> UsageError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return UsageError(
        f"unknown {kind}",
        found=printable(name),
        wanted="torchvision/NAME, timm/NAME, FILE.py:FACTORY, a run folder or a plugin's model source",
        remedy=f"did you mean {near[0]}?"
        if near
        else "check the spelling, or install the plugin that has it",
    )


# -- registries ----------------------------------------------------------------------------------


def _from_registry(spec: str, arguments: dict[str, Any]) -> Built:
    registry, _, name = spec.partition("/")
    if not _NAME.fullmatch(name):
        raise UnsafeInputError(
            f"refused model {printable(spec)}", wanted=f"a plain name of {registry}; nothing is downloaded"
        )
    loading = sorted(_LOADING & arguments.keys())
    if loading:
        raise UsageError(
            f"{registry} must not load weights itself",
            found=f"argument {loading[0]}",
            remedy="drop it and give --weights FILE",
        )
    return {"torchvision": _from_torchvision, "timm": _from_timm}[registry](name, arguments)


def _library(name: str) -> Any:
    ensure_torchvision()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} cannot be imported", found=first_line(error), remedy="pip install 'wsss-probe[zoo]'"
        ) from error


def _from_torchvision(name: str, arguments: dict[str, Any]) -> Built:
    models = _library("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(f"torchvision/{name}", [f"torchvision/{item}" for item in known], "model")
    arguments = _TORCHVISION_ARGUMENTS.get(name, {}) | arguments
    module = called(partial(models.get_model, name, weights=None, **arguments), f"torchvision/{name}")
    weights = models.get_model_weights(name)
    default = _published(weights.DEFAULT)
    by_hash = {match[1]: _published(item) for item in weights if (match := _HASH.search(item.url))}
    version = importlib.metadata.version("torchvision")
    provenance = {"builder": "torchvision", "version": version, "arguments": arguments}
    return Built(module, default.preprocessing, default.classes, provenance, by_hash)


_HASH = re.compile(r"-([0-9a-f]{8})[0-9a-f]*\.pth$")


def _published(weights: Any) -> Published:
    transform = weights.transforms()
    preprocessing = Preprocessing(
        size=(transform.crop_size[0], transform.crop_size[0]),
        resize=transform.resize_size[0],
        crop="center",
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
    return Published(weights.name, preprocessing, tuple(weights.meta["categories"]))


def _from_timm(name: str, arguments: dict[str, Any]) -> Built:
    timm = _library("timm")
    if not timm.is_model(name):
        raise _unknown(f"timm/{name}", [f"timm/{item}" for item in timm.list_models()], "model")
    module = called(partial(timm.create_model, name, pretrained=False, **arguments), f"timm/{name}")
    config = timm.data.resolve_model_data_config(module)
    provenance = {"builder": "timm", "version": timm.__version__, "arguments": arguments}
    return Built(module, _timm_preprocessing(config), _timm_classes(timm, module), provenance)


def _timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing | None:
    """Only what timm's evaluation transform does exactly; None for its rarer crop modes."""
    channels, *size = config["input_size"]
    squashed = config["crop_mode"] == "squash" and config["crop_pct"] == 1.0
    usual = config["crop_mode"] == "center" or squashed
    if not usual or config["interpolation"] not in {"bilinear", "bicubic", "nearest"}:
        return None
    if channels not in {1, 3} or len(config["mean"]) != channels or size[0] != size[1]:
        return None
    return Preprocessing(
        size=(size[0], size[1]),
        resize=None if squashed else int(size[0] / config["crop_pct"]),
        crop="none" if squashed else "center",
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        channels=channels,
    )


def _timm_classes(timm: Any, module: nn.Module) -> tuple[str, ...]:
    """ImageNet's names, if the architecture's default weights were trained on ImageNet-1k."""
    settings: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    if not str(settings.get("tag")).endswith("in1k") or getattr(module, "num_classes", 0) != 1000:
        return ()
    return tuple(timm.data.ImageNetInfo("imagenet-1k").label_descriptions())


# -- code that the user trusts -----------------------------------------------------------------------


def _from_factory(spec: str, arguments: dict[str, Any], trust_code: bool) -> Built:
    place, _, name = spec.rpartition(":")
    if place in {"hf-hub", "local-dir"} or place.startswith(("http", "hf-hub:", "local-dir:")):
        raise UnsafeInputError(
            f"refused model {printable(spec)}",
            found="a download or a foreign folder as the source of a network",
            remedy="fetch the weights yourself: --model timm/NAME --weights FILE",
        )
    is_file = place.endswith(".py")
    if not name.isidentifier() or not (is_file or _DOTTED.fullmatch(place)):
        raise UsageError(
            f"malformed model {printable(spec)}", wanted="FILE.py:FACTORY or PACKAGE.MODULE:FACTORY"
        )
    if not trust_code:
        raise UnsafeInputError(
            f"refused model {printable(spec)}, nothing was imported",
            found="a factory, which is code",
            remedy="read it; if you trust it, add --trust-code",
        )
    ensure_torchvision()
    factory, provenance = from_file(Path(place), name) if is_file else from_package(place, name)
    module = called(partial(factory, **arguments), spec)
    return Built(module, None, (), {**provenance, "arguments": arguments})
