"""Relevance maps in a survey: which are made, of what, and what of them is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from wsss_probe.contracts import INPUT, Batch, Explainer, Pair, Target
from wsss_probe.explaining import input_layer, layers_read, map_grid
from wsss_probe.schema import escape
from wsss_probe.store import TableBlock
from wsss_probe.tables import check_relevance

if TYPE_CHECKING:
    from wsss_probe.isolation import Guard
    from wsss_probe.survey import Task

__all__ = [
    "Lent",
    "Maps",
    "as_numpy",
    "explained_targets",
    "read_for_maps",
    "relevance_of_batch",
    "relevance_path",
]

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


class Lent(Protocol):
    """A batch as plugins get it."""

    batch: Batch

    def after(self, guard: Guard) -> None:
        """Make the batch anew if the guarded block has failed."""


def relevance_path(explainer: str, layer: str) -> str:
    """Group of a relevance table."""
    return f"relevance/{escape(explainer)}/{escape(layer)}"


def read_for_maps(task: Task) -> dict[Pair, tuple[str, ...]]:
    """Layers that each relevance map is made of."""
    return layers_read([(e, layer) for (_, layer), e in task.explaining.items()], task.survey.layers)


def explained_targets(task: Task, pair: Pair) -> tuple[Target, ...]:
    """Targets of a map: all of them where it is kept, the first where probes judge it only."""
    kept = task.first and pair in task.plan.relevance
    return task.survey.targets if kept else task.survey.targets[:1]


@dataclass(frozen=True, slots=True)
class Maps:
    """Relevance of one batch: tables to keep, and maps for probes to judge."""

    kept: dict[str, TableBlock]
    judged: dict[Pair, Tensor]


def relevance_of_batch(task: Task, lent: Lent) -> Maps:
    """Relevance maps of every explainer, for the first target, for other named ones, and by class."""
    offered = {item.item.name: item for item in task.explainers}
    kept, judged = {}, {}
    for name, layer in task.relevance:
        targets = explained_targets(task, (name, layer))
        grid = map_grid((name, layer), task.survey.layers, lent.batch.images)
        judged[name, layer] = torch.full((len(lent.batch.indices), *grid), torch.nan)
        with task.host.guarded("attribute", offered[name], lent.batch) as guard:
            # a control may lack what an explainer needs, such as a linear head
            if not guard.enabled or _refused(task, offered[name].item, layer):
                continue
            maps = _attributed(offered[name].item, layer, lent.batch, (targets, grid))
            judged[name, layer] = maps[task.survey.targets[0]]
            if task.first and (name, layer) in task.plan.relevance:
                attrs = {"layer": layer, "explainer": name, "target": str(task.survey.targets[0])}
                block = TableBlock(_kept_maps(maps), _class_coordinate(task), attrs)
                kept[relevance_path(name, layer)] = block
        lent.after(guard)
    return Maps(kept, judged if task.judged else {})


def _refused(task: Task, explainer: Explainer, layer: str) -> bool:
    """Whether an explainer does not suit this network, although it suits the audited one."""
    infos = {**task.survey.layers, INPUT: input_layer(task.survey.input_shape)}
    return bool("control" in task.plan.model and explainer.accepts(infos[layer], task.survey.head))


def _class_coordinate(task: Task) -> Variables:
    chosen = [task.survey.classes[t] for t in task.survey.targets if isinstance(t, int)]
    return {"class": (("class",), np.array(chosen, dtype=object))} if chosen else {}


def _attributed(
    explainer: Explainer, layer: str, batch: Batch, wanted: tuple[Sequence[Target], tuple[int, ...]]
) -> dict[Target, Tensor]:
    targets, grid = wanted
    return {
        target: check_relevance(
            explainer.attribute(batch, layer, target),
            (len(batch.indices), *grid),
            explainer.name,
            batch.readable,
        )
        for target in targets
    }


def _kept_maps(maps: Mapping[Target, Tensor]) -> Variables:
    """Variables of a relevance table: of the first target, of other named ones, and by class."""
    first, *others = maps
    named = {str(target): target for target in others if not isinstance(target, int)}
    variables: Variables = {"relevance": (("image", "row", "column"), as_numpy(maps[first]))}
    variables |= {name: (("image", "row", "column"), as_numpy(maps[t])) for name, t in named.items()}
    classes = [as_numpy(found) for target, found in maps.items() if isinstance(target, int)]
    if classes:
        variables["by_class"] = (("image", "class", "row", "column"), np.stack(classes, axis=1))
    return variables


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor: a plugin may write into what it was lent, or keep what it returned."""
    return np.array(tensor.detach().float().cpu().numpy())
