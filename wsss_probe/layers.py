"""The layers of a network: what can be tapped, and which to tap."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wsss_probe.contracts import LayerInfo, Layout
from wsss_probe.errors import ModelError
from wsss_probe.evaluation import evaluating, one_of, split_call
from wsss_probe.influence import mark_unreached
from wsss_probe.layout import NO_FIT, asked_layout, fits, infer_layout, maps_shape
from wsss_probe.names import nearest
from wsss_probe.outputs import named_tensors
from wsss_probe.precision import as_input
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


def describe_layers(
    module: nn.Module, example: Tensor, layouts: Mapping[str, Layout] | None = None
) -> tuple[LayerInfo, ...]:
    """List every submodule as seen in one forward pass.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    example : Tensor, (1, channel, row, column)
        One preprocessed image.
    layouts : mapping of str to Layout, optional
        Of layers whose layout cannot be inferred, by name or pattern; see :mod:`wsss_probe.layout`.

    Returns
    -------
    tuple of LayerInfo
        In the order in which the outputs appear, so a container follows its parts; a module that
        runs more than once has one entry per call (``relu#0``, ``relu#1``); modules that never
        run come last, with ``calls`` 0 and an empty shape.

    Raises
    ------
    ModelError
        For a layout that does not fit its layer, or is given for no layer.

    Notes
    -----
    A layer whose output is no single tensor has an empty shape and the layout ``other``.
    ``receptive_field`` is the longer side where rows and columns differ; it is None behind an
    operation that is not local (a global mean, attention, a squeeze-and-excite gate). Where there are
    tokens, one backward pass finds the layers of which the logits read none but the prefix.
    """
    seen, footprints = _watched(module, example)
    calls = Counter(call.name for call in seen)
    numbers: Counter[str] = Counter()
    known = _Known(tuple(example.shape[1:]), layouts or {})
    layers = []
    for order, call in enumerate(seen):
        name = call.name if calls[call.name] == 1 else f"{call.name}#{numbers[call.name]}"
        numbers[call.name] += 1
        side = None if call.tensor is None else footprints.side(call.tensor)
        blank = LayerInfo(name, type(call.part).__name__, order, calls[call.name], (), "other")
        layers.append(known.described(call, blank, side))
    known.require_all_used(calls)
    del seen, footprints
    silent = [(name, part) for name, part in module.named_modules() if name and name not in calls]
    return (
        *mark_unreached(module, example, layers),
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
        example = as_input(example, module).clone()  # a network may write into its input
        for name, part in module.named_modules():
            if name:
                handles.enter_context(part.register_forward_hook(partial(note, name)))
        with Footprints(example) as footprints:
            module(example)
    return seen, footprints


@dataclass(slots=True)
class _Known:
    """What is known about layouts while the layers are gone through in their order."""

    input_shape: tuple[int, ...]
    asked: Mapping[str, Layout]
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def described(self, call: _Seen, blank: LayerInfo, side: int | None) -> LayerInfo:
        """Describe one call."""
        if call.tensor is None:
            return blank
        inplace = call.tensor._version != call.version
        layout, reason = self._layout(call.tensor, blank)
        if layout is None:
            shape = tuple(call.tensor.shape[1:])
            flat = replace(blank, shape=shape, inplace=inplace, reason=reason)
            return replace(flat, layout="vector") if len(shape) == 1 else flat
        shape = maps_shape(layout, call.tensor.shape[1:])
        filled = shape[2] > 0
        if filled and layout.kind != "tokens" and reason != NO_FIT:
            self.seen.append(shape)
        return replace(
            blank,
            shape=shape,
            layout="maps",
            stride=self.input_shape[-1] / shape[2] if filled else None,
            receptive_field=side if filled and layout.kind == "NCHW" else None,
            inplace=inplace,
            native=layout,
            reason=reason,
        )

    def _layout(self, tensor: Tensor, blank: LayerInfo) -> tuple[Layout | None, str]:
        asked = asked_layout(blank.name, self.asked)
        if asked is not None:
            key, layout = asked
            named = key in {blank.name, split_call(blank.name)[0]}
            # a pattern is meant for those that it fits
            if named or fits(layout, tensor.shape[1:]):
                self.used.add(key)
                maps_shape(layout, tensor.shape[1:], blank.name)
                return layout, ""
        return infer_layout(tensor.shape, self.input_shape, self.seen, blank.type)

    def require_all_used(self, names: Iterable[str]) -> None:
        """Refuse a layout that is said about no layer: a misspelt name would pass unseen."""
        for key in self.asked:
            if key not in self.used:
                near = nearest(key, names)
                remedy = f"did you mean '{near}'?" if near else "run 'wsss-probe layers'"
                raise ModelError("a layout is given for no layer that it fits", found=key, remedy=remedy)


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
    able = [layer for layer in layers if _has_area(layer) and layer.name not in pooled]
    for layer in [layer for layer in able if not _doubtful(layer)] or able:
        sizes[layer.shape[1:]].append(layer)
    best = [_best(alike) for alike in sizes.values()]
    chosen = sorted((layer for layer in best if layer), key=lambda layer: layer.order)[-_MOST:]
    if not chosen:
        raise ModelError(
            "no layer can be chosen automatically",
            found="no maps larger than 1x1",
            remedy="name layers; 'wsss-probe layers' lists them",
        )
    listed = ", ".join(f"{layer.name} ({layer.shape[1]}x{layer.shape[2]})" for layer in chosen)
    rule = f"of each map size above 1x1 the last outermost output that is no pooling, at most {_MOST}"
    if not all(layer.reached for layer in layers):
        rule += "; of tokens, where the logits read a class token, the last whose patches have a part in it"
    return chosen, f"auto ({rule}): {listed}"


def _best(alike: Sequence[LayerInfo]) -> LayerInfo | None:
    """Choose among maps of one size: the outermost, of these the last.

    Where the logits read nothing but a class token, the ends of the network are no choice. The last
    block is entered at its normalisation, if it begins with one.
    """
    unread = [layer.name for layer in alike if not layer.reached]
    if not unread:
        return _outermost(alike)
    inside = [layer for layer in alike if layer.reached and layer.name.startswith(_inside(unread))]
    block = _outermost(inside)
    after = [layer for layer in inside if block and layer.order > block.order]
    entry = min(after, key=lambda layer: layer.order, default=block)
    same = entry and block and "Norm" in entry.type and entry.shape == block.shape
    return entry if same else block


def _outermost(layers: Sequence[LayerInfo]) -> LayerInfo | None:
    return max(layers, key=lambda layer: (-layer.name.count("."), layer.order), default=None)


def _inside(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def _has_area(layer: LayerInfo) -> bool:
    maps = layer.layout == "maps" and not (layer.stride is not None and layer.stride < 1)
    return maps and layer.shape[1] * layer.shape[2] > 1 and not _passes_on(layer)


def _doubtful(layer: LayerInfo) -> bool:
    """Whether this may be no map of the image: heads x tokens x tokens, say."""
    return layer.reason == NO_FIT


def _passes_on(layer: LayerInfo) -> bool:
    return layer.type == "Identity" or layer.type.startswith(("Drop", "Softmax"))


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
