"""Relevance maps of any images, by any explainers, from one pass: what a survey does for its own images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.contracts import INPUT, Batch, Explainer, Head, LayerInfo, Pair, Target
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.evaluation import lent
from wsss_probe.resume import Resumer
from wsss_probe.tables import check_relevance
from wsss_probe.taps import PassOptions, run_pass
from wsss_probe.targets import require_target, target_weights

__all__ = ["Asked", "explain", "explained_batch", "input_layer", "layers_read", "map_grid", "unguarded"]


def input_layer(shape: Sequence[int]) -> LayerInfo:
    """Describe the network's input as if it were a layer.

    Parameters
    ----------
    shape : sequence of int, (channel, row, column)

    Returns
    -------
    LayerInfo
        Of the name :data:`~wsss_probe.contracts.INPUT` and the type ``Input``.
    """
    return LayerInfo(INPUT, "Input", -1, 1, tuple(shape), "maps", 1.0, 1)


def layers_read(
    pairs: Iterable[tuple[Explainer, str]], layers: Mapping[str, LayerInfo]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Layers that each explainer reads for its map at each layer.

    Raises
    ------
    ModelError
        If an explainer asks for a layer that there is not.
    """
    read = {(e.name, layer): tuple(e.reads(layer, layers)) for e, layer in pairs}
    for (name, _), found in read.items():
        if absent := [layer for layer in found if layer not in layers]:
            raise ModelError(
                f"{name} reads layers that are not audited", found=", ".join(absent), wanted=", ".join(layers)
            )
    return read


def map_grid(pair: Pair, layers: Mapping[str, LayerInfo], images: Tensor) -> tuple[int, ...]:
    """Rows and columns of the map of a pair."""
    return tuple(images.shape[2:]) if pair[1] == INPUT else tuple(layers[pair[1]].shape[1:])


def unguarded(_explainer: Explainer) -> AbstractContextManager[bool]:
    """Let errors pass."""
    return nullcontext(True)


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What is explained, and of which network.

    Parameters
    ----------
    layers : mapping of str to LayerInfo
        Of the network, by name; those that are read at least.
    head : Head
    target : Target, or Tensor of int64 (image,)
        A tensor fixes the class of each image.
    labels : Tensor of bool (image, class), optional
        For the target ``"label"``.
    guard : callable
        ``with guard(explainer) as enabled:`` stands around each call of an explainer; one that fails
        in it, or is not enabled, gives maps of NaN, and the others go on. By default errors pass.
    """

    layers: Mapping[str, LayerInfo]
    head: Head = field(default_factory=lambda: Head(linear=False, reason="not looked for"))
    target: Target | Tensor = "predicted"
    labels: Tensor | None = None
    guard: Callable[[Explainer], AbstractContextManager[bool]] = unguarded


def explain(
    module: nn.Module, images: Tensor, pairs: Sequence[tuple[Explainer, str]], asked: Asked
) -> dict[Pair, Tensor]:
    """Compute relevance maps of some images.

    One forward pass, and one backward pass per target that the explainers read, for all of them.

    Parameters
    ----------
    module : nn.Module
        Left exactly as it is found.
    images : Tensor, (image, channel, row, column)
        Preprocessed, on the network's device.
    pairs : sequence of (Explainer, str)
        Explainers with the layer, or :data:`~wsss_probe.contracts.INPUT`.
    asked : Asked

    Returns
    -------
    dict of (str, str) to Tensor, (image, row, column)
        By explainer and layer; float32, signed, on their own grids.

    Raises
    ------
    ModelError
        For a layer or class that there is not, or where there is no gradient.
    SchemaError
        If an explainer returns anything else than maps.
    """
    batch, target = explained_batch(module, images, pairs, asked)
    maps = {}
    for explainer, layer in pairs:
        grid = map_grid((explainer.name, layer), asked.layers, images)
        shape = (len(images), *grid)
        maps[explainer.name, layer] = torch.full(shape, torch.nan, device=images.device)
        with asked.guard(explainer) as enabled:
            if enabled:
                found = explainer.attribute(batch, layer, target)
                maps[explainer.name, layer] = check_relevance(found, shape, explainer.name)
    return maps


def explained_batch(
    module: nn.Module, images: Tensor, pairs: Sequence[tuple[Explainer, str]], asked: Asked
) -> tuple[Batch, Target]:
    """Run the pass that these explainers need, and name the target that they are asked for."""
    read = layers_read(pairs, asked.layers)
    target: Target = "predicted" if isinstance(asked.target, Tensor) else asked.target
    wanted: dict[Target, dict[str, None]] = {target: {}}
    for explainer, layer in pairs:
        names = dict.fromkeys(read[explainer.name, layer]) if explainer.gradients else {}
        wanted.setdefault(explainer.explains(target), {}).update(names)
    infos = [asked.layers[name] for name in dict.fromkeys(n for names in read.values() for n in names)]
    weigh = partial(_weights, asked=asked, targets=list(wanted))
    captured = run_pass(module, images, infos, PassOptions({t: tuple(n) for t, n in wanted.items()}, weigh))
    if captured.logits is None:
        raise ModelError("the network gave no logits")
    batch = Batch(
        indices=np.arange(len(images)),
        images=images,
        labels=_labels(asked, captured.logits),
        masks=None,
        mask_classes=(),
        readable=torch.ones(len(images), dtype=torch.bool, device=images.device),
        logits=captured.logits,
        activations=captured.activations,
        gradients=captured.gradients,
        head=asked.head,
        forward=partial(_logits, module),
        resume=lambda layer, maps: Resumer(module, asked.layers[layer], images)(
            maps, images, captured.prefixes.get(layer)
        ),
        activations_of=lambda other, names: (
            run_pass(module, other, [asked.layers[n] for n in names], PassOptions(logits=False)).activations
        ),
        targets=weigh(captured.logits),
        lend=partial(lent, module),
        layers=asked.layers,
    )
    return batch, target


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    logits = run_pass(module, images, ()).logits
    if logits is None:
        raise ModelError("the network gave no logits")
    return logits


def _labels(asked: Asked, logits: Tensor) -> Tensor:
    none = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return none if asked.labels is None else asked.labels.to(logits.device)


def _weights(logits: Tensor, asked: Asked, targets: Sequence[Target]) -> dict[Target, Tensor]:
    for target in targets:
        require_target(target, logits.shape[1])
    forced = asked.target if isinstance(asked.target, Tensor) else None
    if forced is not None:
        _require_classes(forced, logits)
    return target_weights(logits, _labels(asked, logits), targets, forced)


def _require_classes(classes: Tensor, logits: Tensor) -> None:
    number = classes.dtype in {torch.int64, torch.int32}
    if not number or classes.shape != logits.shape[:1]:
        msg = "target does not fit the images"
        found = f"{classes.dtype} {tuple(classes.shape)}"
        raise UsageError(msg, found=found, wanted=f"int64 ({len(logits)},)")
    if bool(((classes < 0) | (classes >= logits.shape[1])).any()):
        found = f"indices {int(classes.min())} to {int(classes.max())}"
        raise ModelError("target is not a class", found=found, wanted=f"0 to {logits.shape[1] - 1}")
