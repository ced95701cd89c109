"""The pass over the images: every probe and every explainer from one forward, shard by shard.

Plan → shards → decode, forward with taps, backward once per target, observe, write, ledger. A
batch never crosses the border of a shard, so a resumed survey repeats exactly what an uninterrupted
one does.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.contracts import (
    Batch,
    Explainer,
    LayerInfo,
    Needs,
    Observation,
    Pair,
    Probe,
    Survey,
    Target,
)
from wsss_probe.errors import ModelError, SchemaError
from wsss_probe.evaluation import lent
from wsss_probe.isolation import Guard, PluginFailure
from wsss_probe.relevance import (
    as_numpy,
    explained_targets,
    read_for_maps,
    relevance_of_batch,
    relevance_path,
)
from wsss_probe.resume import Resumer
from wsss_probe.schema import check_observation, escape
from wsss_probe.store import LedgerLine, Store, TableBlock
from wsss_probe.taps import PassOptions, run_pass
from wsss_probe.targets import target_weights

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.host import Offered, PluginHost
    from wsss_probe.images import Sample, Source
    from wsss_probe.plan import Execution, Plan

__all__ = [
    "Task",
    "activation_path",
    "probe_path",
    "relevance_path",
    "run_stage",
    "streams",
    "working_copy",
]

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that the survey of one network needs.

    Parameters
    ----------
    plan : Plan
    module : nn.Module
        The working copy that runs, in eval mode.
    source : Source
    labels : ndarray of bool, (image, class)
    survey : Survey
    explainers : sequence of Offered[Explainer]
    probes : sequence of Offered[Probe]
        Those of this stage.
    needs : mapping of str to Needs
        By probe name.
    store : Store
    host : PluginHost
    stage : str
        ``"0"`` for the first pass over the images, ``"1"`` for the next.
    tables : mapping of str to Dataset
        Summaries of earlier stages.
    """

    plan: Plan
    module: nn.Module
    source: Source
    labels: np.ndarray
    survey: Survey
    explainers: Sequence[Offered[Explainer]]
    probes: Sequence[Offered[Probe]]
    needs: Mapping[str, Needs]
    store: Store
    host: PluginHost
    stage: str = "0"
    tables: Mapping[str, xr.Dataset] = field(default_factory=dict)

    @property
    def first(self) -> bool:
        """Whether this is the pass that also records logits, pooled features and relevance."""
        return self.stage == "0"

    @property
    def judged(self) -> bool:
        """Whether a probe of this stage reads relevance maps."""
        return any(self.needs[offered.item.name].relevance for offered in self.probes)

    @property
    def relevance(self) -> tuple[Pair, ...]:
        """Explainer and layer of the maps that this stage computes, to keep or for probes to judge."""
        stored = self.plan.relevance if self.first else ()
        return tuple(dict.fromkeys([*stored, *(self.survey.relevance if self.judged else ())]))

    @property
    def explaining(self) -> dict[Pair, Explainer]:
        """Explainer of each of these maps."""
        items = {offered.item.name: offered.item for offered in self.explainers}
        return {(name, layer): items[name] for name, layer in self.relevance}


def probe_path(name: str) -> str:
    """Group of a probe's tables."""
    return f"probes/{escape(name)}"


def activation_path(layer: str) -> str:
    """Group of a layer's pooled features and, if stored, maps."""
    return f"activations/{escape(layer)}"


def streams(probe: Probe) -> bool:
    """Whether a probe looks at the images, or only concludes from what others saw."""
    return type(probe).observe is not Probe.observe


def working_copy(module: nn.Module, execution: Execution) -> nn.Module:
    """Copy a network for the survey, so that nobody else's is touched.

    Parameters
    ----------
    module : nn.Module
    execution : Execution
        Device and memory format.

    Returns
    -------
    nn.Module
        In eval mode, on the device.
    """
    replica = copy.deepcopy(module).eval().to(execution.device)
    if execution.memory_format == "channels_last":
        replica = replica.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replica


def run_stage(task: Task, advance: Callable[[int], None] = lambda _images: None) -> list[LedgerLine]:
    """Pass once over all images, skipping finished shards.

    Parameters
    ----------
    task : Task
    advance : callable
        Told the number of images after each shard.

    Returns
    -------
    list of LedgerLine
        One per shard, in order.
    """
    lines: list[LedgerLine | None] = [task.store.done(task.stage, i) for i in range(task.store.shards)]
    missing = [index for index, line in enumerate(lines) if line is None]
    for line in (line for line in lines if line is not None):
        # what failed there stays switched off, as it would have without the interruption
        task.host.adopt(PluginFailure(**failure) for failure in line.failures)
        low, high = task.store.bounds(line.shard)
        advance(high - low)
    with _threads(task.plan.execution.threads), ThreadPoolExecutor(2) as pool:
        batches = _read_ahead(task, pool, missing)
        known = _Known(task.module, task.survey.layers)
        for index in missing:
            lines[index] = _shard(task, index, batches, known)
            low, high = task.store.bounds(index)
            advance(high - low)
    return [line for line in lines if line is not None]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Fix torch's threads for the pass; sums are ordered by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- reading -----------------------------------------------------------------------------------


def _batch_ranges(task: Task, index: int) -> list[range]:
    low, high = task.store.bounds(index)
    size = task.plan.execution.batch_size
    return [range(start, min(start + size, high)) for start in range(low, high, size)]


def _read_ahead(task: Task, pool: ThreadPoolExecutor, shards: Sequence[int]) -> Iterator[list[Sample]]:
    """Decode the next batch while the network works on this one."""
    ranges = iter([part for index in shards for part in _batch_ranges(task, index)])
    waiting: deque[list[Future[Sample]]] = deque()
    for part in chain(ranges, (None,)):
        if part is not None:
            waiting.append([pool.submit(task.source.read, index) for index in part])
        if len(waiting) > 1 or (waiting and part is None):
            yield [future.result() for future in waiting.popleft()]


def _stack_images(task: Task, samples: Sequence[Sample]) -> Tensor:
    """Network input; unreadable images are zeros, so that the batch keeps its shape."""
    blank = torch.zeros(task.survey.input_shape)
    images = torch.stack([blank if sample.tensor is None else sample.tensor for sample in samples])
    images = images.to(task.plan.execution.device)
    if task.plan.execution.memory_format == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    return images


def _stack_masks(task: Task, samples: Sequence[Sample]) -> Tensor | None:
    """Masks on the input grid; an image without one is all ignored."""
    if not task.survey.mask_classes:
        return None
    blank = np.full(task.survey.input_shape[1:], -1, dtype=np.int64)
    masks = np.stack([blank if sample.mask is None else sample.mask for sample in samples])
    return torch.from_numpy(masks).to(task.plan.execution.device)


def _stack_objects(task: Task, samples: Sequence[Sample]) -> Tensor | None:
    """Numbers of annotated objects on the input grid; None where no image has any."""
    if all(sample.objects is None for sample in samples):
        return None
    blank = np.zeros(task.survey.input_shape[1:], dtype=np.int64)
    numbers = np.stack([blank if sample.objects is None else sample.objects for sample in samples])
    return torch.from_numpy(numbers).to(task.plan.execution.device)


# -- one batch ---------------------------------------------------------------------------------


def _wanted_layers(task: Task) -> list[LayerInfo]:
    asked = [task.needs[offered.item.name] for offered in task.probes]
    names = {layer for needs in asked for layer in needs.layers}
    names |= {layer for needs in asked for layer, _ in needs.gradients}
    names |= {layer for layers in read_for_maps(task).values() for layer in layers}
    if task.first:
        names |= set(task.survey.layers)
    return [info for name, info in task.survey.layers.items() if name in names]


def _wanted_gradients(task: Task) -> dict[Target, tuple[str, ...]]:
    """Layers whose gradient is needed, by target: one backward each."""
    pairs = {pair for offered in task.probes for pair in task.needs[offered.item.name].gradients}
    read = read_for_maps(task)
    for pair, explainer in task.explaining.items():
        if explainer.gradients:
            asked = [explainer.explains(target) for target in explained_targets(task, pair)]
            pairs |= {(layer, target) for layer in read[pair] for target in asked}
    order = list(task.survey.layers)
    targets = dict.fromkeys([*task.survey.targets, *sorted({t for _, t in pairs}, key=str)])
    wanted = {t: tuple(name for name in order if (name, t) in pairs) for t in targets}
    return {target: layers for target, layers in wanted.items() if layers}


def _weighed_targets(task: Task) -> list[Target]:
    """Targets whose weights the batch holds."""
    read = [e.explains(t) for pair, e in task.explaining.items() for t in explained_targets(task, pair)]
    return list(dict.fromkeys([*task.survey.targets, *_wanted_gradients(task), *read]))


def _batch(task: Task, samples: Sequence[Sample], known: _Known) -> Batch:
    """Run the network once and gather what the probes and explainers asked for."""
    images = _stack_images(task, samples)
    indices = np.array([sample.index for sample in samples])
    labels = torch.from_numpy(task.labels[indices]).to(images.device)
    wanted, weighed = _wanted_gradients(task), _weighed_targets(task)
    options = PassOptions(wanted, lambda logits: target_weights(logits, labels, list(wanted)))
    captured = run_pass(task.module, images, _wanted_layers(task), options)
    assert captured.logits is not None  # noqa: S101  # asked for by default
    _require_shapes(task.survey.layers, captured.activations)
    decoded = torch.tensor([sample.tensor is not None for sample in samples], device=images.device)
    indices.setflags(write=False)
    return Batch(
        indices=indices,
        images=images,
        labels=labels,
        masks=_stack_masks(task, samples),
        objects=_stack_objects(task, samples),
        mask_classes=task.survey.mask_classes,
        readable=decoded & _finite([captured.logits, *captured.activations.values()]),
        logits=captured.logits,
        activations=captured.activations,
        gradients=captured.gradients,
        head=task.survey.head,
        forward=lambda other: _logits(task.module, other),
        resume=lambda layer, maps: known.resumer(layer, images)(maps, images, captured.prefixes.get(layer)),
        tables=task.tables,
        activations_of=lambda other, layers: _activations(task, other, layers),
        targets=target_weights(captured.logits, labels, weighed),
        lend=lambda: lent(task.module),
        layers=task.survey.layers,
    )


def _activations(task: Task, images: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
    wanted = [task.survey.layers[name] for name in layers]
    return run_pass(task.module, images, wanted, PassOptions(logits=False)).activations


def _require_shapes(layers: Mapping[str, LayerInfo], activations: Mapping[str, Tensor]) -> None:
    """Refuse a layer whose outputs make no table, because they differ from batch to batch."""
    for name, activation in activations.items():
        found, wanted = tuple(activation.shape[1:]), layers[name].shape
        if found != wanted:
            msg = f"layer {name!r} changes its shape between batches"
            raise ModelError(msg, found=str(found), wanted=str(wanted), remedy="leave it out of --layers")


def _finite(outputs: Sequence[Tensor]) -> Tensor:
    """Mark the images for which the network gives neither NaN nor infinity, (image,)."""
    finite = torch.ones(len(outputs[0]), dtype=torch.bool, device=outputs[0].device)
    for output in outputs:
        # a sum is cheap and shows every such value; it may also overflow, so each value is looked at then
        if not torch.isfinite(output.float().sum(dim=tuple(range(1, output.ndim)))).all():
            finite &= torch.isfinite(output).flatten(1).all(dim=1)
    return finite


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    captured = run_pass(module, images, ())
    assert captured.logits is not None  # noqa: S101  # asked for by default
    return captured.logits


@dataclass(slots=True)
class _Known:
    """What one pass has found out so far: how to continue from a layer, and the form of tables."""

    module: nn.Module
    layers: Mapping[str, LayerInfo]
    proved: dict[str, Resumer] = field(default_factory=dict)
    forms: dict[str, object] = field(default_factory=dict)

    def resumer(self, layer: str, images: Tensor) -> Resumer:
        """Prove once per layer that the pass can be continued from it."""
        if layer not in self.proved:
            self.proved[layer] = Resumer(self.module, self.layers[layer], images)
        return self.proved[layer]

    def require_same_form(self, name: str, observation: Observation) -> None:
        """Refuse tables that other batches cannot be joined with."""
        form = {kind: _form(table) for kind, table in _kinds(observation).items()}
        if self.forms.setdefault(name, form) != form:
            raise SchemaError(
                f"{name}: observe gives tables of another form than for the first batch",
                wanted="the same variables, sizes and coordinates, whatever the batch",
            )


def _kinds(observation: Observation) -> dict[str, xr.Dataset]:
    tables = {"rows": observation.rows, "partial": observation.partial}
    return {kind: table for kind, table in tables.items() if table is not None}


def _form(table: xr.Dataset) -> object:
    """Everything about a table that must not depend on the images."""
    sizes = {name: size for name, size in table.sizes.items() if name != "image"}
    dims = {name: variable.dims for name, variable in table.data_vars.items()}
    return sizes, dims, {name: coordinate.values.tolist() for name, coordinate in table.coords.items()}


# -- tables of one batch -----------------------------------------------------------------------


@dataclass(slots=True)
class _Lent:
    """A batch as plugins get it, made anew when one that failed may have written into it."""

    make: Callable[[], Batch]
    batch: Batch

    def after(self, guard: Guard) -> None:
        """Make the batch anew if the guarded block has failed."""
        if guard.enabled and guard.failure:
            self.batch = self.make()

    def judging(self, relevance: Mapping[Pair, Tensor]) -> _Lent:
        """Lend the relevance maps with the batch."""
        if not relevance:
            return self
        kept = {pair: maps.clone() for pair, maps in relevance.items()}
        made = lambda: replace(self.make(), relevance={pair: maps.clone() for pair, maps in kept.items()})  # noqa: E731
        return _Lent(made, replace(self.batch, relevance=dict(relevance)))


def _recorded(task: Task, batch: Batch) -> dict[str, TableBlock]:
    """Logits, pooled features and stored maps: what the host itself keeps."""
    logits = as_numpy(batch.logits)
    classes = np.array(task.survey.classes, dtype=object)
    tables = {
        "predictions": TableBlock({"logits": (("image", "class"), logits)}, {"class": (("class",), classes)})
    }
    for layer, activation in batch.activations.items():
        maps = activation.dim() == 4
        pooled = activation.float().mean(dim=(2, 3)) if maps else activation.float().flatten(1)
        variables: Variables = {"mean": (("image", "channel"), as_numpy(pooled))}
        if layer in task.plan.stored:
            dims = ("image", "channel", "row", "column") if maps else ("image", "channel")
            variables["maps"] = (dims, as_numpy(activation if maps else activation.flatten(1)))
        tables[activation_path(layer)] = TableBlock(variables, attrs={"layer": layer})
    return tables


def _observed(task: Task, lent: _Lent, known: _Known) -> dict[str, TableBlock]:
    tables: dict[str, TableBlock] = {}
    for offered in task.probes:
        name, batch = offered.item.name, lent.batch
        with task.host.guarded("observe", offered, batch) as guard:
            if not guard.enabled:
                continue
            answer = offered.item.observe(batch)
            observed = check_observation(answer, len(batch.indices), name, batch.readable)
            known.require_same_form(name, observed)
            tables |= _observation_tables(name, observed)
        lent.after(guard)
    return tables


def _observation_tables(name: str, observation: Observation) -> dict[str, TableBlock]:
    tables = {}
    if observation.rows is not None:
        tables[f"{probe_path(name)}/rows"] = _block(observation.rows)
    if observation.partial is not None:
        # a shard is one row of its sums
        tables[f"{probe_path(name)}/partials"] = _block(observation.partial.expand_dims("shard"))
    return tables


def _block(dataset: xr.Dataset) -> TableBlock:
    variables: Variables = {
        str(key): (tuple(map(str, value.dims)), value.values) for key, value in dataset.data_vars.items()
    }
    coords: Variables = {
        str(key): (tuple(map(str, value.dims)), value.values) for key, value in dataset.coords.items()
    }
    return TableBlock(variables, coords, dict(dataset.attrs))


# -- one shard ---------------------------------------------------------------------------------


def _shard(task: Task, index: int, batches: Iterator[list[Sample]], known: _Known) -> LedgerLine:
    """Compute and write one shard; a pure function of the plan and the index."""
    pieces: list[dict[str, TableBlock]] = []
    samples: list[Sample] = []
    usable: list[np.ndarray] = []
    failed = len(task.host.failures)
    for part in _batch_ranges(task, index):
        read = next(batches)
        assert [sample.index for sample in read] == list(part)  # noqa: S101  # indices never shift
        samples += [_without_tensor(sample) for sample in read]
        lent = _Lent(partial(_batch, task, read, known), _batch(task, read, known))
        usable.append(lent.batch.readable.cpu().numpy())
        maps = relevance_of_batch(task, lent)
        own = {**_recorded(task, lent.batch), **maps.kept} if task.first else {}
        pieces.append({**own, **_observed(task, lent.judging(maps.judged), known)})
    readable = np.array([not sample.error for sample in samples])
    tables = {}
    for path in _common(pieces):
        rows = readable if path.startswith(_OWN_TABLES) else np.concatenate(usable)
        tables[path] = _joined([piece[path] for piece in pieces], rows)
    failures = [failure.to_dict() for failure in task.host.failures[failed:]]
    notes, counters = _notes(samples, np.concatenate(usable)), _defects(tables, readable)
    line = LedgerLine(task.stage, index, task.plan.id, {}, counters, notes, failures)
    return task.store.write(line, tables)


_OWN_TABLES = ("predictions", "activations/")
"""What the host keeps as the network gave it, NaN and infinity included."""


def _notes(samples: Sequence[Sample], usable: np.ndarray) -> dict[str, str]:
    """Why images, masks and outputs of the network count nowhere."""
    unreadable = {str(sample.index): sample.error for sample in samples if sample.error}
    masks = {f"mask:{sample.index}": sample.mask_error for sample in samples if sample.mask_error}
    lost = [s.index for s, counts in zip(samples, usable, strict=True) if not (counts or s.error)]
    outputs = {f"output:{index}": "the network's values for it are not finite" for index in lost}
    return {**unreadable, **masks, **outputs}


def _without_tensor(sample: Sample) -> Sample:
    return replace(sample, tensor=None, view=None, mask=None, objects=None)


def _common(pieces: Sequence[Mapping[str, TableBlock]]) -> list[str]:
    """Tables that every batch gave; a plugin that failed half-way gives no shard at all."""
    return [path for path in pieces[0] if all(path in piece for piece in pieces)]


def _joined(blocks: Sequence[TableBlock], readable: np.ndarray) -> TableBlock:
    """Put batches together: rows one after another, partials added up in order."""
    joined: Variables = {}
    for name, (dims, _) in blocks[0].variables.items():
        values = [block.variables[name][1] for block in blocks]
        if dims[0] == "image":
            rows = np.concatenate(values) if len(values) > 1 else np.array(values[0])
            rows[~readable] = np.nan
            joined[name] = (dims, rows)
        else:
            joined[name] = (dims, np.asarray(np.sum(values, axis=0, dtype=np.float64)))
    return TableBlock(joined, blocks[0].coords, blocks[0].attrs)


def _defects(tables: Mapping[str, TableBlock], readable: np.ndarray) -> dict[str, int]:
    """Count non-finite values among readable images, per table of the host."""
    found: dict[str, Any] = {}
    for path, block in tables.items():
        if not path.startswith(("predictions", "activations/", "relevance/")):
            continue
        for name, (_, values) in block.variables.items():
            number = int((~np.isfinite(values[readable])).sum())
            if number:
                found[f"{path}/{name}:nonfinite"] = number
    return found
