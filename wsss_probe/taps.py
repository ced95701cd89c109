"""Taps: activations and layer gradients of many layers from one forward pass, nothing left behind.

The pass works on the network it is given, so every function here restores what it found: the
``training`` flag of each submodule, ``requires_grad`` of each parameter, buffers, hooks and the
random state, also after an exception. Gradients of parameters are never touched.

Why gradients are taken here and not by captum: ``docs/decisions/0002-gradients-by-our-own-taps.md``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wsss_probe.contracts import LayerInfo, Target
from wsss_probe.errors import ModelError
from wsss_probe.evaluation import call_number, evaluating, find_module, one_of, split_call
from wsss_probe.layout import prefix_tokens, to_maps
from wsss_probe.outputs import as_logits, only_tensor, with_tensor
from wsss_probe.precision import as_input, widened
from wsss_probe.resume import Resumer

__all__ = [
    "Captured",
    "PassOptions",
    "Resumer",
    "Targets",
    "evaluating",
    "find_module",
    "run_pass",
    "split_call",
]

Targets = Mapping[Target, Tensor] | Callable[[Tensor], Mapping[Target, Tensor]]
"""Per target the class index of each image, int64 (image,), or the weights of its logits, float
(image, class); or a function of the logits that says so."""


# -- the pass ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PassOptions:
    """What a pass gives besides activations.

    Parameters
    ----------
    gradients : mapping of Target to sequence of str
        Per target, the tapped layers where the gradient of its logit is wanted.
    targets : mapping of Target to Tensor, or callable
        For every target of ``gradients`` the class index of each image, int64 (image,), or the
        weights of its logits, float (image, class); -1, or a row with NaN, means "no target" and
        gives that image a gradient of NaN. A callable is given the detached logits (image, class),
        so that ``"predicted"`` costs no second pass.
    logits : bool
        False lets the pass stop after the last tapped layer; gradients need the logits anyway.
    """

    gradients: Mapping[Target, Sequence[str]] = field(default_factory=dict)
    targets: Targets = field(default_factory=dict)
    logits: bool = True

    @property
    def graph(self) -> frozenset[str]:
        """All layers of which a gradient is wanted."""
        return frozenset(name for names in self.gradients.values() for name in names)


_LOGITS_ONLY = PassOptions()


@dataclass(frozen=True, slots=True)
class Captured:
    """What one pass has seen; no tensor carries a graph, and half precision is widened to float32.

    Parameters
    ----------
    logits : Tensor or None, (image, class)
        None when the pass stopped early.
    activations : dict of str to Tensor
        Output of each tapped layer, (image, channel, row, column) for maps.
    gradients : dict of (str, Target) to Tensor
        d logit[target of the image] / d activation, same shape as the activation.
    notes : tuple of str
        What a user should know, such as which call of a reused module was taken.
    prefixes : dict of str to Tensor, (image, prefix, channel)
        Of layers of tokens, those that are in no map.
    """

    logits: Tensor | None
    activations: dict[str, Tensor]
    gradients: dict[tuple[str, Target], Tensor]
    notes: tuple[str, ...] = ()
    prefixes: dict[str, Tensor] = field(default_factory=dict)


def run_pass(
    module: nn.Module,
    images: Tensor,
    layers: Sequence[LayerInfo],
    options: PassOptions = _LOGITS_ONLY,
) -> Captured:
    """Run the network once; keep the outputs of layers and, if asked, gradients of logits there.

    The graph begins at the first tapped gradient layer, so the backward pass ends there; it runs
    once per target for all layers together. Without logits and gradients the forward pass stops
    as soon as the last tapped layer is done.

    Parameters
    ----------
    module : nn.Module
        Left exactly as it is found.
    images : Tensor, (image, channel, row, column)
        Preprocessed; cast to the network's own floating-point type.
    layers : sequence of LayerInfo
        As :func:`wsss_probe.layers.describe_layers` gives them. A bare name of a module that runs
        more than once means its last call.
    options : PassOptions
        By default logits and no gradients.

    Returns
    -------
    Captured

    Raises
    ------
    ModelError
        For a layer that is unknown, never runs, gives no single tensor, is overwritten in place
        although ``LayerInfo.inplace`` is false, or on which the logits do not depend.
    """
    graph = options.graph
    if not layers and not graph and not options.logits:
        return Captured(None, {}, {})
    recorder = _Recorder(module, layers, graph, stops=not options.logits and not graph)
    # a graph cannot be made of inference tensors, and this pass may run inside a user's inference mode
    with evaluating(module), torch.inference_mode(False), torch.set_grad_enabled(bool(graph)):
        images = as_input(images.clone() if images.is_inference() else images, module)
        logits = _forward(module, images, recorder)
        recorder.check(images)
        taken = {} if logits is None else _backward(logits, options, recorder.kept)
    layouts = {layer.name: layer.native for layer in layers}
    kept = {name: widened(recorder.kept[name].detach()) for name in layouts}
    prefixes = {name: prefix_tokens(layout, kept[name]) for name, layout in layouts.items()}
    return Captured(
        None if logits is None else widened(logits.detach()),
        {name: to_maps(layout, kept[name]) for name, layout in layouts.items()},
        {(name, target): to_maps(layouts[name], widened(found)) for (name, target), found in taken.items()},
        recorder.notes(),
        {name: prefix for name, prefix in prefixes.items() if prefix is not None},
    )


class _Done(BaseException):
    """Ends a forward pass early; no ``except Exception`` of a model may swallow it."""


def _forward(module: nn.Module, images: Tensor, recorder: _Recorder) -> Tensor | None:
    try:
        with recorder.attached():
            return as_logits(module(images), len(images))
    except _Done:
        return None
    except RuntimeError as error:
        if "leaf Variable" not in str(error):
            raise
        raise ModelError(
            f"a tapped layer ({', '.join(sorted(recorder.graph))}) is overwritten in place",
            wanted="LayerInfo.inplace for it",
            remedy="describe the layers on these images",
        ) from error


@dataclass(slots=True)
class _Recorder:
    """Keeps what the tapped layers put out during one forward pass."""

    module: nn.Module
    layers: Sequence[LayerInfo]
    graph: frozenset[str]
    stops: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    runs: Counter[nn.Module] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if missing := self.graph - {layer.name for layer in self.layers}:
            raise ModelError("gradients are asked for layers that are not tapped", found=", ".join(missing))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on every tapped module, gone afterwards."""
        wanted: dict[nn.Module, dict[int, list[LayerInfo]]] = defaultdict(lambda: defaultdict(list))
        for layer in self.layers:
            wanted[find_module(self.module, layer.name)][call_number(layer)].append(layer)
        with ExitStack() as handles:
            for part, calls in wanted.items():
                handles.enter_context(part.register_forward_hook(partial(self._seen, calls)))
            yield

    def _seen(
        self, calls: Mapping[int, Sequence[LayerInfo]], part: nn.Module, _inputs: Any, output: Any
    ) -> Any:
        call = self.runs[part]
        self.runs[part] += 1
        for layer in calls.get(call, ()):
            output = self._keep(layer, output)
        if self.stops and len(self.kept) == len({layer.name for layer in self.layers}):
            raise _Done
        return output

    def _keep(self, layer: LayerInfo, output: Any) -> Any:
        tensor = only_tensor(output, layer.name)
        if layer.name not in self.graph:
            kept = tensor.detach().clone() if layer.inplace else tensor.detach()
        else:
            if not tensor.is_floating_point():
                raise ModelError(f"layer {layer.name!r} has no gradient", found=f"values of {tensor.dtype}")
            kept = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            # what is overwritten later is the clone, never the tensor whose gradient is asked for
            output = with_tensor(output, tensor, kept.clone() if layer.inplace else kept)
        self.kept[layer.name] = kept
        self.versions[layer.name] = kept._version
        return output

    def check(self, images: Tensor) -> None:
        """Every layer has run, and nothing kept was overwritten afterwards."""
        for layer in self.layers:
            if layer.name not in self.kept:
                raise self._never_ran(layer, images)
            if self.kept[layer.name]._version != self.versions[layer.name]:
                raise ModelError(
                    f"layer {layer.name!r} is overwritten in place after it ran",
                    wanted="LayerInfo.inplace for it",
                    remedy="describe the layers on these images",
                )

    def _never_ran(self, layer: LayerInfo, images: Tensor) -> ModelError:
        stem, call = split_call(layer.name)
        runs = self.runs[find_module(self.module, layer.name)]
        near = get_close_matches(stem, sorted(_running(self.module, images[:1]) - {stem}))
        return ModelError(
            f"layer {layer.name!r} never runs" if not runs else f"call {call} of layer {stem!r} never runs",
            found=f"{runs} calls in the forward pass",
            wanted=one_of(near),
            remedy="run 'wsss-probe layers'",
        )

    def notes(self) -> tuple[str, ...]:
        """Say which call a bare name meant where a module runs more than once."""
        return tuple(
            f"{layer.name} runs {layer.calls} times; its last call is taken"
            for layer in self.layers
            if layer.calls > 1 and split_call(layer.name)[1] is None
        )


def _running(module: nn.Module, images: Tensor) -> set[str]:
    """Names of all submodules that a forward pass calls."""
    seen: set[str] = set()
    with evaluating(module), torch.no_grad(), ExitStack() as handles:
        for name, part in module.named_modules():
            note = partial(lambda name, *_: seen.add(name), name)
            handles.enter_context(part.register_forward_hook(note))
        module(as_input(images, module))
    return seen


# -- gradients ---------------------------------------------------------------------------------


def _backward(
    logits: Tensor, options: PassOptions, kept: Mapping[str, Tensor]
) -> dict[tuple[str, Target], Tensor]:
    wanted = [(target, list(names)) for target, names in options.gradients.items() if names]
    if not wanted:
        return {}
    targets = options.targets(widened(logits.detach())) if callable(options.targets) else options.targets
    taken: dict[tuple[str, Target], Tensor] = {}
    for done, (target, names) in enumerate(wanted, start=1):
        weights = _checked(targets[target], logits, target)
        found = _layer_gradients(logits, weights, [kept[name] for name in names], retain=done < len(wanted))
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                raise ModelError(f"layer {name!r} has no gradient", found="logits that do not depend on it")
            taken[name, target] = _without_target(gradient, weights.isnan().any(dim=1))
    return taken


def _layer_gradients(
    logits: Tensor, weights: Tensor, layers: Sequence[Tensor], *, retain: bool
) -> tuple[Tensor | None, ...]:
    if not logits.requires_grad:
        return (None,) * len(layers)
    # images do not mix in eval mode: the gradient of the sum is each image's own gradient
    slopes = weights.nan_to_num().to(logits.dtype)
    return torch.autograd.grad(logits, layers, slopes, retain_graph=retain, allow_unused=True)


def _without_target(gradient: Tensor, images: Tensor) -> Tensor:
    if not bool(images.any()):
        return gradient
    return gradient.masked_fill(images.view(-1, *[1] * (gradient.ndim - 1)), torch.nan)


def _checked(wanted: Tensor, logits: Tensor, target: Target) -> Tensor:
    """Weights of the logits, float (image, class), of what was given as weights or as class indices."""
    images, classes = logits.shape
    shape = (images, classes) if wanted.is_floating_point() else (images,)
    if wanted.shape != shape:
        raise ModelError(
            f"target {target!r} does not fit the batch",
            found=f"shape {tuple(wanted.shape)}",
            wanted=f"{shape}",
        )
    if wanted.is_floating_point():
        return wanted.to(logits.device)
    if bool(((wanted < -1) | (wanted >= classes)).any()):
        raise ModelError(
            f"target {target!r} is not a class",
            found=f"indices {int(wanted.min())} to {int(wanted.max())}",
            wanted=f"0 to {classes - 1}",
        )
    index = wanted.to(logits.device, torch.int64)
    weights = torch.zeros(images, classes, device=logits.device).scatter(1, index.clamp(min=0)[:, None], 1)
    return weights.masked_fill((index < 0)[:, None], torch.nan)
