"""The layers of a network: what can be tapped, and which to tap."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wsss_probe.contracts import LayerInfo
from wsss_probe.errors import ModelError
from wsss_probe.evaluation import evaluating, one_of, split_call
from wsss_probe.outputs import named_tensors
from wsss_probe.receptive_field import Footprints

__all__ = ["Chosen", "choose_layers", "describe_layers"]

_MOST = 3


# -- what there is -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """One call of a submodule."""

    name: str
    part: nn.Module
    tensor: Tensor | None
    version: int


def describe_layers(module: nn.Module, example: Tensor) -> tuple[LayerInfo, ...]:
    """List every submodule as seen in one forward pass.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    example : Tensor, (1, channel, row, column)
        One preprocessed image.

    Returns
    -------
    tuple of LayerInfo
        In the order in which the outputs appear, so a container follows its parts; a module that
        runs more than once has one entry per call (``relu#0``, ``relu#1``); modules that never
        run come last, with ``calls`` 0 and an empty shape.

    Notes
    -----
    A layer whose output is no single tensor has an empty shape and the layout ``other``.
    ``receptive_field`` is the longer side where rows and columns differ; it is None behind an
    operation that is not local (a global mean, attention, a squeeze-and-excite gate).
    """
    seen, footprints = _watched(module, example)
    calls = Counter(call.name for call in seen)
    numbers: Counter[str] = Counter()
    layers = []
    for order, call in enumerate(seen):
        name = call.name if calls[call.name] == 1 else f"{call.name}#{numbers[call.name]}"
        numbers[call.name] += 1
        side = None if call.tensor is None else footprints.side(call.tensor)
        layers.append(
            _described(call, example, LayerInfo(name, "", order, calls[call.name], (), "other"), side)
        )
    silent = [(name, part) for name, part in module.named_modules() if name and name not in calls]
    return (
        *layers,
        *(
            LayerInfo(name, type(part).__name__, len(layers) + position, 0, (), "other")
            for position, (name, part) in enumerate(silent)
        ),
    )


def _watched(module: nn.Module, example: Tensor) -> tuple[list[_Seen], Footprints]:
    seen: list[_Seen] = []

    def note(name: str, part: nn.Module, _inputs: Any, output: Any) -> None:
        tensors = [tensor for _, tensor in named_tensors(output)]
        tensor = tensors[0] if len(tensors) == 1 else None
        seen.append(_Seen(name, part, tensor, 0 if tensor is None else tensor._version))

    with evaluating(module), torch.inference_mode(False), torch.no_grad(), ExitStack() as handles:
        example = example.clone()  # a network may write into its input
        for name, part in module.named_modules():
            if name:
                handles.enter_context(part.register_forward_hook(partial(note, name)))
        with Footprints(example) as footprints:
            module(example)
    return seen, footprints


def _described(call: _Seen, example: Tensor, blank: LayerInfo, side: int | None) -> LayerInfo:
    known = replace(blank, type=type(call.part).__name__)
    if call.tensor is None:
        return known
    shape = tuple(call.tensor.shape[1:])
    layout: Literal["maps", "vector", "other"] = (
        "maps" if len(shape) == 3 else "vector" if len(shape) == 1 else "other"
    )
    maps = layout == "maps" and shape[2] > 0
    return replace(
        known,
        shape=shape,
        layout=layout,
        stride=example.shape[3] / shape[2] if maps else None,
        receptive_field=side if maps else None,
        inplace=call.tensor._version != call.version,
    )


# -- which to tap ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """Layers to audit.

    Parameters
    ----------
    names : tuple of str
        In the order of execution, each once.
    reason : str
        One sentence for the plan and the report.
    """

    names: tuple[str, ...]
    reason: str


def choose_layers(layers: Sequence[LayerInfo], requested: Sequence[str] = ("auto",)) -> Chosen:
    """Choose the layers to audit.

    Parameters
    ----------
    layers : sequence of LayerInfo
        As :func:`describe_layers` gives them.
    requested : sequence of str
        Names, patterns (``layer*.relu``; they choose maps only) or ``auto``. A bare name of a
        module that runs more than once means its last call. ``auto``: of each map size above 1x1
        the last output of the outermost modules that have this size, pooling left out; of these
        the last three. So ``layer4`` is taken and not the ReLU in it, and ``layer3`` rather than
        the part of ``layer4`` that still has its size.

    Returns
    -------
    Chosen

    Raises
    ------
    ModelError
        For a name or pattern that meets no running layer, or if ``auto`` finds no maps.
    """
    wanted: set[str] = set()
    reasons = []
    for name in requested or ("auto",):
        found, reason = _chosen(layers, name)
        wanted.update(layer.name for layer in found)
        reasons.append(reason)
    running = sorted((layer for layer in layers if layer.name in wanted), key=lambda layer: layer.order)
    return Chosen(tuple(layer.name for layer in running), "; ".join(dict.fromkeys(reasons)))


def _chosen(layers: Sequence[LayerInfo], name: str) -> tuple[list[LayerInfo], str]:
    if name == "auto":
        return _automatic(layers)
    if any(sign in name for sign in "*?["):
        return _matching(layers, name), f"the maps that match {name!r}"
    return _named(layers, name)


def _automatic(layers: Sequence[LayerInfo]) -> tuple[list[LayerInfo], str]:
    pooled = _pooled(layers)
    sizes: dict[tuple[int, ...], list[LayerInfo]] = defaultdict(list)
    for layer in layers:
        if _has_area(layer) and layer.name not in pooled and not _passes_on(layer):
            sizes[layer.shape[1:]].append(layer)
    # outermost first, then the last
    best = [max(alike, key=lambda layer: (-layer.name.count("."), layer.order)) for alike in sizes.values()]
    chosen = sorted(best, key=lambda layer: layer.order)[-_MOST:]
    if not chosen:
        raise ModelError(
            "no layer can be chosen automatically",
            found="no maps larger than 1x1",
            remedy="name layers; 'wsss-probe layers' lists them",
        )
    listed = ", ".join(f"{layer.name} ({layer.shape[1]}x{layer.shape[2]})" for layer in chosen)
    rule = f"of each map size above 1x1 the last outermost output that is no pooling, at most {_MOST}"
    return chosen, f"auto ({rule}): {listed}"


def _has_area(layer: LayerInfo) -> bool:
    # more columns than the input has: these are channels, the layout is (image, row, column, channel)
    maps = layer.layout == "maps" and not (layer.stride is not None and layer.stride < 1)
    return maps and layer.shape[1] * layer.shape[2] > 1


def _passes_on(layer: LayerInfo) -> bool:
    return layer.type == "Identity" or layer.type.startswith("Drop")


def _pooled(layers: Iterable[LayerInfo]) -> set[str]:
    """Name the outputs that a pooling made; a Sequential puts out what its last part did."""
    pooled: set[str] = set()
    before: LayerInfo | None = None
    for layer in sorted(layers, key=lambda layer: layer.order):
        ends_with = before is not None and before.name.startswith(layer.name + ".") and before.name in pooled
        if "Pool" in layer.type or (layer.type == "Sequential" and ends_with):
            pooled.add(layer.name)
        before = layer
    return pooled


def _matching(layers: Sequence[LayerInfo], pattern: str) -> list[LayerInfo]:
    found = {layer.name: layer for layer in layers if fnmatchcase(layer.name, pattern)}
    stems = {split_call(layer.name)[0] for layer in layers}
    for stem in stems:
        if fnmatchcase(stem, pattern):
            last = _last_call(layers, stem)
            found[last.name] = last
    maps = [layer for layer in found.values() if layer.layout == "maps"]
    if not maps:
        raise ModelError(
            f"no maps match {pattern!r}",
            found=", ".join(sorted(found)) or "no layer",
            remedy="run 'wsss-probe layers'",
        )
    return maps


def _named(layers: Sequence[LayerInfo], name: str) -> tuple[list[LayerInfo], str]:
    exact = [layer for layer in layers if layer.name == name]
    calls = [layer for layer in layers if split_call(layer.name)[0] == name]
    if not exact and not calls:
        raise _unknown(layers, name, f"layer {name!r} not found")
    layer = exact[0] if exact else _last_call(layers, name)
    if not layer.calls:
        raise _unknown(layers, name, f"layer {name!r} never runs in a forward pass")
    if not layer.shape:
        msg = f"layer {name!r} does not put out one tensor (image, channel, ...)"
        raise ModelError(msg, remedy="name a layer inside it; 'wsss-probe layers' lists them")
    note = f"{name} named by the user"
    return [layer], note if exact else f"{note}: it runs {layer.calls} times, the last call is {layer.name}"


def _last_call(layers: Sequence[LayerInfo], stem: str) -> LayerInfo:
    calls = [layer for layer in layers if split_call(layer.name)[0] == stem]
    return max(calls, key=lambda layer: layer.order)


def _unknown(layers: Sequence[LayerInfo], name: str, what: str) -> ModelError:
    running = {layer.name for layer in layers if layer.calls} | {
        split_call(layer.name)[0] for layer in layers if layer.calls
    }
    near = get_close_matches(name, sorted(running - {name}))
    return ModelError(what, wanted=one_of(near), remedy="run 'wsss-probe layers'")
