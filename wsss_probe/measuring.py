"""Concept measures over all images: each image once, in several processes, kept as rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pickle import PickleError
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wsss_probe.contracts import Concept, ConceptMeasure, View
from wsss_probe.errors import PluginError, ProbeError
from wsss_probe.images import ManifestSource
from wsss_probe.isolation import STRICT, Isolation
from wsss_probe.schema import escape
from wsss_probe.store import LedgerLine, TableBlock

if TYPE_CHECKING:
    from wsss_probe.host import Offered, PluginFailure, PluginHost
    from wsss_probe.images import Source
    from wsss_probe.store import Store

__all__ = ["COUNTED", "STAGE", "TABLES", "MeasureTask", "Measuring", "measure_concepts"]

STAGE: Final = "concepts"
"""Stage of the ledger lines."""

TABLES: Final = "concepts/"
"""Group of the tables, one for each measure."""

COUNTED: Final = "undefined "
"""Opens the counters of values that a measure could not give, with its reason."""

_FEW_SHARDS: Final = 3
"""Below so many shards starting processes takes longer than measuring."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """A concept measure, and the concepts that it finds in these data.

    Parameters
    ----------
    offered : Offered[ConceptMeasure]
    concepts : tuple of Concept
    """

    offered: Offered[ConceptMeasure]
    concepts: tuple[Concept, ...]


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """Everything that measuring needs; the network is no part of it.

    Parameters
    ----------
    measures : tuple of Measuring
    source : Source
    mask_classes : tuple of str
    store : Store
    host : PluginHost
    processes : int
        0 for as many as there are cores.
    """

    measures: tuple[Measuring, ...]
    source: Source
    mask_classes: tuple[str, ...]
    store: Store
    host: PluginHost
    processes: int = 0


@dataclass(frozen=True, slots=True)
class _Values:
    """What one shard gave, by measure; one that failed has no values."""

    values: Mapping[str, np.ndarray]
    undefined: Mapping[str, int]
    failures: tuple[PluginFailure, ...] = field(default=())


def measure_concepts(task: MeasureTask, advance: Callable[[int], None] = lambda _images: None) -> None:
    """Measure all images, skipping finished shards.

    Parameters
    ----------
    task : MeasureTask
    advance : callable
        Told the number of images after each shard.
    """
    if not task.measures:
        return
    missing = []
    for index in range(task.store.shards):
        line = task.store.done(STAGE, index)
        if line is None:
            missing.append(index)
            continue
        task.host.adopt(_failure(failure) for failure in line.failures)
        advance(_length(task.store, index))
    for index, measured in zip(missing, _measured(task, missing), strict=True):
        _adopt(task.host, measured.failures)
        failures = [failure.to_dict() for failure in measured.failures]
        line = LedgerLine(STAGE, index, task.store.plan_id, {}, measured.undefined, {}, failures)
        task.store.write(line, _tables(task, measured))
        advance(_length(task.store, index))


def _length(store: Store, index: int) -> int:
    low, high = store.bounds(index)
    return high - low


def _failure(record: dict[str, Any]) -> PluginFailure:
    from wsss_probe.isolation import PluginFailure

    return PluginFailure(**record)


def _adopt(host: PluginHost, failures: Sequence[PluginFailure]) -> None:
    """Take over what failed in another process; under ``strict`` it stops the audit here."""
    host.adopt(failures)
    if host.strict and failures:
        error = PluginError(str(failures[0]))
        error.add_note(f"{STRICT}{failures[0]}")
        raise error


def _tables(task: MeasureTask, measured: _Values) -> dict[str, TableBlock]:
    tables = {}
    for own in (own for own in task.measures if own.offered.name in measured.values):
        texts = {
            key: (("concept",), np.array([getattr(concept, attribute) for concept in own.concepts], object))
            for key, attribute in (("concept", "name"), ("unit", "unit"), ("meaning", "meaning"))
        }
        values = {"value": (("image", "concept"), measured.values[own.offered.name])}
        tables[f"{TABLES}{escape(own.offered.name)}"] = TableBlock(values, texts)
    return tables


# -- processes ---------------------------------------------------------------------------------


def _measured(task: MeasureTask, missing: Sequence[int]) -> Iterator[_Values]:
    """Measure shards, in order, as they are done."""
    asked = (task.measures, task.source, task.mask_classes)
    ranges = [range(*task.store.bounds(index)) for index in missing]
    processes = _processes(task, len(missing))
    if processes == 1:
        yield from (measure_images(*asked, part) for part in ranges)
        return
    from joblib import Parallel, delayed

    try:
        # loky's processes do not run the caller's main module again, so scripts need no guard
        with Parallel(n_jobs=processes, return_as="generator", backend="loky") as pool:
            yield from pool(delayed(measure_images)(*asked, part) for part in ranges)
    except (BrokenProcessPool, PickleError) as error:
        # a process that was killed, for its memory say, or a measure that cannot be sent to one
        raise ProbeError(
            "concepts cannot be measured in several processes",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            remedy="give --processes 1, or leave measures out with --concepts",
        ) from error


def _processes(task: MeasureTask, shards: int) -> int:
    """Images in memory are measured where they are."""
    if shards < _FEW_SHARDS or not isinstance(task.source, ManifestSource):
        return 1
    from joblib import cpu_count

    return max(1, min(task.processes or cpu_count(), shards))


def measure_images(
    measures: Sequence[Measuring], source: Source, mask_classes: tuple[str, ...], indices: Sequence[int]
) -> _Values:
    """Measure some images; runs in a process of its own, so it records failures instead of raising.

    Parameters
    ----------
    measures : sequence of Measuring
    source : Source
    mask_classes : tuple of str
    indices : sequence of int

    Returns
    -------
    _Values
        NaN for unreadable images.
    """
    isolation = Isolation()
    values = {m.offered.name: np.full((len(indices), len(m.concepts)), np.nan) for m in measures}
    undefined: Counter[str] = Counter()
    for row, index in enumerate(indices):
        view = _view(source, index, mask_classes)
        for own in measures:
            with isolation.guarded("measure", own.offered) as guard:
                if guard.enabled and view is not None:
                    measured = _checked(own, own.offered.item.measure(view))
                    values[own.offered.name][row] = [_number(value) for value in measured.values()]
                    undefined.update(_reasons(own.offered.name, measured))
    broken = {failure.item for failure in isolation.failures if not failure.disturbance}
    kept = {name: own for name, own in values.items() if name not in broken}
    return _Values(kept, dict(undefined), tuple(isolation.failures))


def _view(source: Source, index: int, mask_classes: tuple[str, ...]) -> View | None:
    """Look at an image; None if it cannot be read. What is lent cannot be written to."""
    sample = source.seen(index) if isinstance(source, ManifestSource) else source.read(index)
    if sample.error:
        return None
    pixels = sample.view
    if pixels is None:
        assert sample.tensor is not None  # noqa: S101  # a readable sample has one of both
        pixels = np.moveaxis(sample.tensor.numpy(), 0, -1).copy()
    for array in (pixels, sample.mask, sample.objects):
        if array is not None:
            array.setflags(write=False)
    return View(pixels, sample.mask, mask_classes, sample.objects)


def _checked(own: Measuring, measured: Mapping[str, float | str]) -> dict[str, float | str]:
    """Put values in the order of the concepts; refused if one that was announced is missing.

    More may be there: a measure that is shown one image does not know whether others have objects.
    """
    names = [concept.name for concept in own.concepts]
    if not isinstance(measured, Mapping) or not set(measured) >= set(names):
        found = ", ".join(map(str, measured)) if isinstance(measured, Mapping) else type(measured).__name__
        raise PluginError("measure returned other concepts", found=found, wanted=", ".join(names))
    return {name: measured[name] for name in names}


def _number(value: float | str) -> float:
    number = math.nan if isinstance(value, str) else float(value)
    return number if math.isfinite(number) else math.nan


def _reasons(measure: str, measured: Mapping[str, float | str]) -> Iterator[str]:
    """Name what is undefined, with the reason that the measure gives."""
    for name, value in measured.items():
        if math.isnan(_number(value)):
            reason = value if isinstance(value, str) else "the measure gives no finite number"
            yield f"{COUNTED}{measure}/{name}: {reason}"
