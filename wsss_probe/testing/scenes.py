"""Scenes: a tiny network with a few images, labels and masks, and the batches a survey would make.

Activations and gradients are taken here by plain hooks and one backward pass per target, slower
than the survey and independent of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.contracts import INPUT, Batch, Contrast, Explainer, LayerInfo, Needs, Pair, Survey, Target
from wsss_probe.evaluation import lent
from wsss_probe.head import find_head
from wsss_probe.layers import describe_layers
from wsss_probe.testing.models import multi_logit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Scene", "make_scene", "take", "weights_of"]


@final
@dataclass(frozen=True, slots=True)
class Scene:
    """What a survey sees, small enough for a test.

    Parameters
    ----------
    network : nn.Module
        In eval mode; takes ``images`` and returns logits (image, class).
    survey : Survey
    images : Tensor, (image, channel, row, column)
    labels : Tensor of bool, (image, class)
    masks : Tensor of int or None, (image, row, column)
    readable : Tensor of bool, (image,)
    explainers : tuple of Explainer
        Whose maps probes judge; see :meth:`with_explainers`.
    concepts : mapping of str to ndarray, (image,)
        Measured values by concept; see :meth:`with_concepts`.
    networks : mapping of str to nn.Module
        Further networks of the same layers; see :meth:`with_networks`.
    """

    network: nn.Module
    survey: Survey
    images: Tensor
    labels: Tensor
    masks: Tensor | None
    readable: Tensor
    explainers: tuple[Explainer, ...] = ()
    concepts: Mapping[str, np.ndarray] = field(default_factory=dict)
    networks: Mapping[str, nn.Module] = field(default_factory=dict)

    def batch(
        self,
        needs: Needs | None = None,
        indices: Sequence[int] | None = None,
        tables: Mapping[str, xr.Dataset] | None = None,
    ) -> Batch:
        """Make the batch that a probe with these needs would be given.

        Parameters
        ----------
        needs : Needs or None
            Only the layers and gradients named are there; None gives all layers and no gradients.
        indices : sequence of int or None
            Images; None means all.
        tables : mapping of str to Dataset
            Summaries of earlier probes.

        Returns
        -------
        Batch
        """
        needs = Needs(layers=frozenset(self.survey.layers)) if needs is None else needs
        chosen = list(range(len(self.images))) if indices is None else list(indices)
        images, labels = self.images[chosen].clone(), self.labels[chosen].clone()
        tapped = _tapped(self.network, images, needs.layers | {layer for layer, _ in needs.gradients})
        logits = tapped.logits.detach()
        return Batch(
            indices=np.array(chosen),
            images=images,
            labels=labels,
            masks=None if self.masks is None else self.masks[chosen].clone(),
            mask_classes=self.survey.mask_classes,
            readable=self.readable[chosen].clone(),
            logits=logits.clone(),
            activations={name: tapped.outputs[name].detach().clone() for name in sorted(needs.layers)},
            gradients=_gradients(tapped, labels, needs.gradients),
            head=self.survey.head,
            forward=lambda other: _plain(self.network, other),
            resume=lambda layer, maps: _resumed(self.network, images, layer, maps),
            tables=dict(tables or {}),
            activations_of=self._activations,
            targets={t: weights_of(logits, labels, t) for t in _targets(self.survey, needs)},
            relevance=self.relevance(chosen) if needs.relevance else {},
            lend=lambda: lent(self.network),
            layers=self.survey.layers,
        )

    def relevance(self, indices: Sequence[int], target: Target = "predicted") -> dict[Pair, Tensor]:
        """Maps of some images by every explainer of the scene; NaN where it does not suit the network."""
        maps = {}
        for explainer, info in self.pairs():
            size = info.shape[1:]
            maps[explainer.name, info.name] = torch.full((len(indices), *size), torch.nan)
            if not explainer.accepts(info, self.survey.head):
                read, asked = explainer.reads(info.name, self.survey.layers), explainer.explains(target)
                wanted = frozenset((layer, asked) for layer in read) if explainer.gradients else frozenset()
                batch = self.batch(Needs(frozenset(read), wanted), indices)
                batch = replace(
                    batch,
                    targets={t: weights_of(batch.logits, batch.labels, t) for t in (target, asked)},
                )
                maps[explainer.name, info.name] = explainer.attribute(batch, info.name, target).detach()
        return maps

    def pairs(self) -> list[tuple[Explainer, LayerInfo]]:
        """List explainers and layers whose maps the survey plans."""
        shape = self.survey.input_shape
        infos = {**self.survey.layers, INPUT: LayerInfo(INPUT, "Input", -1, 1, shape, "maps", 1.0, 1)}
        named = {explainer.name: explainer for explainer in self.explainers}
        return [(named[name], infos[layer]) for name, layer in self.survey.relevance]

    def with_explainers(self, explainers: Iterable[Explainer]) -> Scene:
        """Make the same scene with explainers, at every layer that each accepts."""
        shape = self.survey.input_shape
        found, kept = [], tuple(explainers)
        for explainer in kept:
            own = [LayerInfo(INPUT, "Input", -1, 1, shape, "maps", 1.0, 1)]
            infos = own if explainer.grid == "input" else list(self.survey.layers.values())
            found += [(explainer.name, i.name) for i in infos if not explainer.accepts(i, self.survey.head)]
        return replace(self, explainers=kept, survey=replace(self.survey, relevance=tuple(found)))

    def _activations(self, images: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        outputs = _tapped(self.network, images, layers).outputs
        return {name: outputs[name].detach().clone() for name in layers}

    def with_network(self, network: nn.Module) -> Scene:
        """Make the same scene for another network of the same layers; its head is looked for anew."""
        layers = describe_layers(network, self.images[:1])
        survey = replace(self.survey, head=find_head(network, self.images, layers))
        return replace(self, network=network, survey=survey)

    def with_concepts(self, concepts: Mapping[str, np.ndarray]) -> Scene:
        """Make the same scene with measured concepts, ``<measure>/<concept>`` to values (image,)."""
        return replace(self, concepts={name: np.asarray(own, float) for name, own in concepts.items()})

    def with_networks(self, networks: Mapping[str, nn.Module]) -> Scene:
        """Make the same scene with further networks, as the run file's ``[models]`` names them."""
        return replace(self, networks=dict(networks))

    def without_masks(self) -> Scene:
        """Make the same scene for a manifest that names no masks."""
        return replace(self, masks=None, survey=replace(self.survey, mask_classes=()))

    def unreadable(self, indices: Iterable[int]) -> Scene:
        """Make the same scene with some images that cannot be decoded: zeros, as the host gives them."""
        images, readable = self.images.clone(), self.readable.clone()
        for index in indices:
            images[index], readable[index] = 0, False
        return replace(self, images=images, readable=readable)

    def first(self, count: int) -> Scene:
        """Make a scene of the first images only."""
        masks = None if self.masks is None else self.masks[:count]
        return replace(
            self,
            images=self.images[:count],
            labels=self.labels[:count],
            masks=masks,
            readable=self.readable[:count],
            concepts={name: values[:count] for name, values in self.concepts.items()},
        )


def make_scene(
    network: nn.Module | None = None, images: int = 6, size: tuple[int, int] = (16, 24), seed: int = 0
) -> Scene:
    """Make a scene: grey noise, and on every second image a red rectangle that the mask knows.

    Parameters
    ----------
    network : nn.Module, optional
        Any network for three channels; by default two convolutions, GAP and a linear layer, two classes.
    images : int
    size : (int, int)
        Row and column of the network input; not square by default.
    seed : int

    Returns
    -------
    Scene
        Mask class 0 is the rectangle, -2 the background; one column of the first mask is ignored.

    Examples
    --------
    >>> scene = make_scene()
    >>> scene.batch().logits.shape
    torch.Size([6, 2])
    """
    net = multi_logit(2) if network is None else network
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand((images, 3, *size), generator=generator) * 0.4 + 0.3
    masks = torch.full((images, *size), -2)
    for index in range(1, images, 2):
        row, column = (int(torch.randint(side // 2, (), generator=generator)) for side in size)
        place = (index, slice(row, row + size[0] // 2), slice(column, column + size[1] // 2))
        masks[place] = 0
    pixels[:, 0] = torch.where(masks == 0, 1.0, pixels[:, 0])
    pixels[:, 1:] = torch.where((masks == 0)[:, None], 0.0, pixels[:, 1:])
    present = (masks == 0).flatten(1).any(dim=1)
    masks[0, :, 0] = -1
    survey = _survey(net, pixels, seed)
    labels = torch.zeros(images, len(survey.classes), dtype=torch.bool)
    labels[torch.arange(images), present.long() % len(survey.classes)] = True
    return Scene(net, survey, pixels, labels, masks, torch.ones(images, dtype=torch.bool))


def take(batch: Batch, indices: Sequence[int]) -> Batch:
    """Cut images out of a batch, values as they are.

    Parameters
    ----------
    batch : Batch
    indices : sequence of int
        Positions in the batch.

    Returns
    -------
    Batch
        Its ``resume`` runs the whole batch, with the other images as they are.
    """
    chosen = list(indices)

    def resumed(layer: str, maps: Tensor) -> Tensor:
        copies = len(maps) // len(chosen)
        whole = batch.activations[layer].to(maps.dtype).repeat(copies, *[1] * (maps.ndim - 1))
        whole = whole.view(copies, len(batch.indices), *maps.shape[1:])
        whole[:, chosen] = maps.view(copies, len(chosen), *maps.shape[1:])
        logits = batch.resume(layer, whole.flatten(0, 1))
        return logits.view(copies, len(batch.indices), -1)[:, chosen].flatten(0, 1)

    return replace(
        batch,
        indices=batch.indices[chosen],
        images=batch.images[chosen],
        labels=batch.labels[chosen],
        masks=None if batch.masks is None else batch.masks[chosen],
        objects=None if batch.objects is None else batch.objects[chosen],
        readable=batch.readable[chosen],
        logits=batch.logits[chosen],
        activations={name: maps[chosen] for name, maps in batch.activations.items()},
        gradients={key: maps[chosen] for key, maps in batch.gradients.items()},
        targets={key: weights[chosen] for key, weights in batch.targets.items()},
        relevance={key: maps[chosen] for key, maps in batch.relevance.items()},
        resume=resumed,
    )


# -- parts ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tapped:
    """Outputs of layers that still carry their graph."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def _survey(network: nn.Module, images: Tensor, seed: int) -> Survey:
    layers = describe_layers(network, images[:1])
    maps = {info.name: info for info in layers if info.layout == "maps" and info.shape[1] * info.shape[2] > 1}
    classes = _plain(network, images[:1]).shape[1]
    return Survey(
        layers=maps,
        classes=tuple(f"class {number}" for number in range(classes)),
        targets=("predicted",),
        mask_classes=("rectangle",),
        head=find_head(network, images, layers),
        input_shape=tuple(images.shape[1:]),
        multilabel=False,
        seed=seed,
        images=len(images),
    )


def _tapped(network: nn.Module, images: Tensor, names: Iterable[str]) -> _Tapped:
    tapped = _Tapped()
    calls: Counter[str] = Counter()

    def keep(name: str, stem: str, number: int | None) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            call = calls[name]
            calls[name] += 1
            if number is not None and call != number:
                return output
            tapped.outputs[name] = output
            return output.clone()  # what overwrites it in place overwrites the copy

        return network.get_submodule(stem).register_forward_hook(hook)

    with ExitStack() as stack, torch.enable_grad():
        for name in names:
            stack.enter_context(keep(name, *_split(name)))
        # a leaf that requires a gradient, so that every output has a graph although the network may be frozen
        tapped.logits = network(images.clone().requires_grad_().clone())
    return tapped


def _split(name: str) -> tuple[str, int | None]:
    stem, mark, number = name.rpartition("#")
    return (stem, int(number)) if mark else (name, None)


def _gradients(
    tapped: _Tapped, labels: Tensor, wanted: Iterable[tuple[str, Target]]
) -> dict[tuple[str, Target], Tensor]:
    gradients = {}
    for layer, target in sorted(wanted, key=str):
        weights = weights_of(tapped.logits.detach(), labels, target)
        chosen = (tapped.logits * weights.to(tapped.logits.dtype)).sum()
        (gradient,) = torch.autograd.grad(chosen, tapped.outputs[layer], retain_graph=True)
        gradients[layer, target] = gradient.detach().clone()
    return gradients


def _targets(survey: Survey, needs: Needs) -> list[Target]:
    """Targets whose weights a batch holds."""
    simple: list[Target] = ["predicted", "label"]
    return list(dict.fromkeys([*survey.targets, *(t for _, t in needs.gradients), *simple]))


def weights_of(logits: Tensor, labels: Tensor, target: Target) -> Tensor:
    """Weights of the logits in a target's score, image by image.

    Parameters
    ----------
    logits : Tensor, (image, class)
    labels : Tensor of bool, (image, class)
    target : Target

    Returns
    -------
    Tensor, (image, class)
    """
    weights = torch.zeros(logits.shape)
    for image, own in enumerate(logits.tolist()):
        simple = target.of if isinstance(target, Contrast) else target
        chosen = _index(own, labels[image].tolist(), simple)
        weights[image, chosen] += 1
        if isinstance(target, Contrast):
            others = [number for number in range(len(own)) if number != chosen]
            rivals = sorted(others, key=[-value for value in own].__getitem__)[: target.references]
            if target.against != "next":
                rivals = [_index(own, labels[image].tolist(), target.against)]
            for rival in rivals:
                weights[image, rival] -= target.weight / len(rivals)
    return weights


def _index(logits: list[float], labels: list[bool], target: str | int) -> int:
    predicted = logits.index(max(logits))
    if target == "label":
        return labels.index(True) if any(labels) else predicted
    return target if isinstance(target, int) else predicted


def _plain(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


def _resumed(network: nn.Module, images: Tensor, layer: str, maps: Tensor) -> Tensor:
    """Run the whole network and put ``maps`` in the layer's place."""
    stem, number = _split(layer)
    calls = 0

    def replaced(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output if number is not None and calls - 1 != number else maps.clone()

    copies = images.repeat(len(maps) // len(images), 1, 1, 1)
    with network.get_submodule(stem).register_forward_hook(replaced):
        return _plain(network, copies)
