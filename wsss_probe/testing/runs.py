"""Runs in memory: what ``conclude`` and ``sections`` read, made from a scene without a folder."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from wsss_probe.contracts import Conclusion, Explainer, Needs, Observation, Pair, Probe, Survey, Target
from wsss_probe.explaining import Asked, explain
from wsss_probe.head import find_head
from wsss_probe.schema import check_conclusion, check_observation, check_relevance
from wsss_probe.testing.scenes import Scene, make_scene

if TYPE_CHECKING:
    from wsss_probe.contracts import Run

__all__ = ["InMemoryControl", "InMemoryRun", "observe", "run_in_memory", "shuffled"]


@final
@dataclass(frozen=True, slots=True)
class InMemoryRun:
    """A finished survey of a scene; it has the properties and methods of ``contracts.Run``.

    Parameters
    ----------
    scene : Scene
    observed : mapping of str to Observation
        Rows and partials over all images, by probe.
    maps : mapping of (str, str) to Dataset
        Relevance by explainer and layer.
    controls : sequence of InMemoryControl
    summaries : mapping of str to Dataset
        Of probes that concluded before.
    groups : ndarray or None
    path : Path
    not_testable : str
    contents : ndarray of str or None, (image,)
    networks : sequence of InMemoryControl
        Further networks of the scene.
    """

    scene: Scene
    observed: Mapping[str, Observation] = field(default_factory=dict)
    maps: Mapping[tuple[str, str], xr.Dataset] = field(default_factory=dict)
    controls: Sequence[InMemoryControl] = ()
    summaries: Mapping[str, xr.Dataset] = field(default_factory=dict)
    groups: np.ndarray | None = None
    path: Path = Path()
    not_testable: str = ""
    contents: np.ndarray | None = None
    networks: Sequence[InMemoryControl] = ()

    @property
    def concepts(self) -> xr.Dataset:
        """Measured concepts of the scene, (image, concept); NaN for unreadable images."""
        names, count = list(self.scene.concepts), len(self.scene.images)
        values = np.array([self.scene.concepts[name] for name in names]).reshape(len(names), count).T
        texts = {key: ("concept", [""] * len(names)) for key in ("unit", "meaning", "reason")}
        return xr.Dataset(
            {"value": (("image", "concept"), _hidden(values, self.scene))},
            coords={"concept": np.array(names, dtype=object), **texts},
        )

    @property
    def survey(self) -> Survey:
        """What was planned."""
        return self.scene.survey

    @property
    def images(self) -> pd.DataFrame:
        """The manifest, one row per image."""
        classes, count = np.array(self.survey.classes), len(self.scene.images)
        masks = "" if self.scene.masks is None else "mask{}.png"
        return pd.DataFrame(
            {
                "image": [f"image{index}.png" for index in range(count)],
                "name": [f"image{index}.png" for index in range(count)],
                "label": [";".join(classes[own]) for own in self.scene.labels.numpy()],
                "mask": [masks.format(index) for index in range(count)],
                "group": [""] * count if self.groups is None else [str(group) for group in self.groups],
                "split": [""] * count,
                "readable": self.scene.readable.numpy(),
            }
        )

    @property
    def logits(self) -> xr.DataArray:
        """Logits, (image, class); NaN for unreadable images."""
        logits = _hidden(self.scene.batch(Needs()).logits.numpy(), self.scene)
        return xr.DataArray(logits, dims=("image", "class"), coords={"class": list(self.survey.classes)})

    def rows(self, probe: str) -> xr.Dataset:
        """Rows of a probe; a KeyError if it gave none."""
        rows = self.observed[probe].rows
        if rows is None:
            raise KeyError(probe)
        return rows

    def partial(self, probe: str) -> xr.Dataset:
        """Partial of a probe; a KeyError if it gave none."""
        partial = self.observed[probe].partial
        if partial is None:
            raise KeyError(probe)
        return partial

    def summary(self, probe: str) -> xr.Dataset:
        """Summary of a probe that concluded before."""
        return self.summaries[probe]

    @property
    def summary_names(self) -> frozenset[str]:
        """Names of the probes that have a summary."""
        return frozenset(self.summaries)

    def pooled(self, layer: str) -> xr.DataArray:
        """Spatial mean of a layer's maps, (image, channel)."""
        maps = self.scene.batch(Needs(layers=frozenset({layer}))).activations[layer]
        return xr.DataArray(_hidden(maps.mean(dim=(2, 3)).numpy(), self.scene), dims=("image", "channel"))

    def relevance(self, explainer: str, layer: str) -> xr.Dataset | None:
        """Relevance maps, (image, row, column), or None if they were not made."""
        return self.maps.get((explainer, layer))

    def picture(self, index: int) -> np.ndarray | None:
        """The network's view of an image, uint8 (row, column, 3), or None if unreadable."""
        if not self.scene.readable[index]:
            return None
        pixels = self.scene.images[index].permute(1, 2, 0).expand(-1, -1, 3)
        view: np.ndarray = (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        return view

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an image on the input grid, or None."""
        return None if self.scene.masks is None else self.scene.masks[index].numpy()

    def activations(self, index: int, layer: str) -> np.ndarray | None:
        """Maps of one image, (channel, row, column)."""
        if not self.scene.readable[index]:
            return None
        batch = self.scene.batch(Needs(layers=frozenset({layer})), [index])
        maps: np.ndarray = batch.activations[layer][0].numpy()
        return maps

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """Network inputs of some images; NaN for an unreadable one."""
        images = self.scene.images[list(indices)].clone()
        images[~self.scene.readable[list(indices)]] = torch.nan
        return images

    def explain(
        self,
        images: Tensor,
        pairs: Sequence[Pair],
        target: Target | Tensor = "predicted",
        module: nn.Module | None = None,
    ) -> Mapping[Pair, Tensor]:
        """Relevance maps of any network inputs, by explainers of the scene, on any weights."""
        network = self.scene.network if module is None else module
        layers, head = self.survey.layers, self.survey.head
        if module is not None and head.linear:
            head = find_head(module, images, list(layers.values()))
        named = {explainer.name: explainer for explainer in self.scene.explainers}
        return explain(
            network, images, [(named[n], layer) for n, layer in pairs], Asked(layers, head, target)
        )

    def model(self) -> nn.Module:
        """Copy the network of the scene."""
        return copy.deepcopy(self.scene.network)

    def concluded(self, probe: Probe) -> Conclusion:
        """Call the probe's ``conclude`` and check what it returns."""
        return check_conclusion(probe.conclude(self), probe.name)


@final
@dataclass(frozen=True, slots=True)
class InMemoryControl:
    """The same survey on another network: a control with shuffled weights, or a further network.

    Parameters
    ----------
    name : str
    run : InMemoryRun
    dead : frozenset of str
        Layers that do not respond to images, so that no verdict may rest on them.
    made : str
        How, in words.
    """

    name: str
    run: InMemoryRun
    dead: frozenset[str] = frozenset()
    made: str = ""

    @property
    def survey(self) -> Survey:
        """What was planned."""
        return self.run.survey

    @property
    def logits(self) -> xr.DataArray:
        """Logits, (image, class)."""
        return self.run.logits

    def alive(self, layer: str) -> bool:
        """Whether this layer responds to images at all."""
        return layer not in self.dead

    def pooled(self, layer: str) -> xr.DataArray:
        """Spatial mean of a layer's maps, (image, channel)."""
        return self.run.pooled(layer)

    def rows(self, probe: str) -> xr.Dataset:
        """Rows of a probe."""
        return self.run.rows(probe)

    def partial(self, probe: str) -> xr.Dataset:
        """Partial of a probe."""
        return self.run.partial(probe)


def run_in_memory(
    probes: Iterable[Probe],
    scene: Scene | None = None,
    explainers: Iterable[Explainer] = (),
    controls: int = 1,
    summaries: Mapping[str, xr.Dataset] | None = None,
) -> InMemoryRun:
    """Survey a scene, and copies of its network with shuffled weights, as an audit would.

    Parameters
    ----------
    probes : iterable of Probe
        Split already.
    scene : Scene, optional
    explainers : iterable of Explainer
        Run for the target ``"predicted"`` at every layer that they accept; those of the scene besides.
    controls : int
    summaries : mapping of str to Dataset
        Summaries of earlier probes, as ``batch.tables`` and ``run.summary``.

    Returns
    -------
    InMemoryRun

    Raises
    ------
    SchemaError
        If a probe's rows or an explainer's maps break the contract.
    """
    scene, probes, summaries = scene or make_scene(), tuple(probes), summaries or {}
    if explainers := tuple(explainers):
        scene = scene.with_explainers((*scene.explainers, *explainers))

    def surveyed(name: str, network: nn.Module) -> InMemoryControl:
        other = scene.with_network(network)
        observed = observe(other, probes, tables=summaries)
        return InMemoryControl(name, InMemoryRun(other, observed, summaries=summaries))

    return InMemoryRun(
        scene,
        observe(scene, probes, tables=summaries),
        _relevance(scene),
        [surveyed(f"shuffled-{seed}", shuffled(scene.network, seed)) for seed in range(controls)],
        summaries=summaries,
        networks=[surveyed(name, network) for name, network in scene.networks.items()],
    )


def observe(
    scene: Scene,
    probes: Iterable[Probe],
    batch_size: int = 4,
    tables: Mapping[str, xr.Dataset] | None = None,
) -> dict[str, Observation]:
    """Let probes observe a scene batch by batch; check, join and add up what they return.

    Parameters
    ----------
    scene : Scene
    probes : iterable of Probe
    batch_size : int
    tables : mapping of str to Dataset
        Summaries of earlier probes.

    Returns
    -------
    dict of str to Observation
        By name of the probe; rows of unreadable images are NaN.
    """
    joined = {}
    for probe in probes:
        needs = probe.needs(scene.survey)
        pieces = []
        for start in range(0, len(scene.images), batch_size):
            indices = range(start, min(start + batch_size, len(scene.images)))
            batch = scene.batch(needs, indices, tables)
            pieces.append(check_observation(probe.observe(batch), len(indices), probe.name))
        joined[probe.name] = _joined(pieces, scene)
    return joined


def shuffled(network: nn.Module, seed: int) -> nn.Module:
    """Copy a network and permute the weights within each tensor: same sizes, nothing learned.

    Parameters
    ----------
    network : nn.Module
    seed : int

    Returns
    -------
    nn.Module
    """
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


# -- parts ------------------------------------------------------------------------------------


def _hidden(values: np.ndarray, scene: Scene) -> np.ndarray:
    """Turn rows of unreadable images into NaN, as the host does."""
    values = values.copy()
    values[~scene.readable.numpy()] = np.nan
    return values


def _joined(pieces: Sequence[Observation], scene: Scene) -> Observation:
    rows = [piece.rows for piece in pieces if piece.rows is not None]
    partials = [piece.partial for piece in pieces if piece.partial is not None]
    readable = xr.DataArray(scene.readable.numpy(), dims="image")
    return Observation(
        # join="exact": coordinates that differ from batch to batch are an error
        rows=xr.concat(rows, dim="image", join="exact").where(readable) if rows else None,
        partial=sum(partials[1:], partials[0]) if partials else None,
    )


def _relevance(scene: Scene) -> dict[Pair, xr.Dataset]:
    maps = {}
    found = scene.relevance(range(len(scene.images)))
    for explainer, info in scene.pairs():
        shape = (len(scene.images), *info.shape[1:])
        name = f"{explainer.name} at {info.name}"
        checked = check_relevance(found[explainer.name, info.name], shape, name)
        values = _hidden(checked.numpy(), scene)
        maps[explainer.name, info.name] = xr.Dataset({"relevance": (("image", "row", "column"), values)})
    return maps


def _conforms(run: InMemoryRun) -> Run:
    """Hold the class to the protocol, in the eyes of the type checker."""
    return run
