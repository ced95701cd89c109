"""The two calls of the Python interface that run a network: ``audit`` and ``record``."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import Tensor, nn

from wsss_probe.auditing import AuditOutcome, Progress, perform
from wsss_probe.config import AuditOptions, resolve
from wsss_probe.contracts import INPUT
from wsss_probe.errors import UsageError
from wsss_probe.explaining import input_layer
from wsss_probe.host import PluginHost
from wsss_probe.images import Sample, Source, TensorSource
from wsss_probe.plan import same_plan
from wsss_probe.preparation import Prepared, Subject, find_subject, prepare
from wsss_probe.store import Store
from wsss_probe.survey import Task, run_stage

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Forecast",
    "audit",
    "forecast",
    "prepared_audit",
    "record",
    "require_affordable",
    "run_folder",
    "survey_task",
]

Images = str | Path | Tensor | Source

FREE_SHARE: Final = 0.25
"""Share of the free disk that one run may take."""


def audit(
    model: nn.Module | str | Path,
    images: Images,
    *,
    trust_code: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> AuditOutcome:
    """Audit a network and write a run folder with a report.

    Parameters
    ----------
    model : nn.Module, str or Path
        A live network, or anything that ``--model`` takes.
    images : str, Path, Tensor or Source
        A folder, a manifest, or network input (image, channel, row, column).
    trust_code : bool
        Whether a factory in ``model`` may be run.
    progress : callable, optional
        See :func:`wsss_probe.auditing.perform`.
    **options
        Fields of :class:`wsss_probe.config.AuditOptions`.

    Returns
    -------
    AuditOutcome

    Raises
    ------
    ProbeError
        For anything the user can mend; the message says how.
    """
    resolved = _resolved(model, images, options)
    host = PluginHost(strict=resolved.strict)
    host.load(only=resolved.only_plugins, without=resolved.no_plugin)
    prepared = prepared_audit(resolved, host, model, images, trust_code)
    command = f"wsss_probe.audit({_named(model)}, {_named(images)})"
    folder = run_folder(resolved, prepared.subject)
    require_affordable(prepared, folder)
    return perform(prepared, folder, command, progress)


def _named(argument: object) -> str:
    """Show an argument of a call; what lives in memory is named by its type."""
    if isinstance(argument, str | Path):
        return repr(str(argument))
    shape = f" {tuple(argument.shape)}" if isinstance(argument, Tensor) else ""
    return f"<{type(argument).__name__}{shape}>"


def prepared_audit(
    options: AuditOptions,
    host: PluginHost,
    model: nn.Module | str | Path = "",
    images: Images = "",
    trust_code: bool = False,
) -> Prepared:
    """Prepare an audit from options, with a live network or images in memory where given."""
    module = model if isinstance(model, nn.Module) else None
    subject = find_subject(options, host, module, _source(images), trust_code)
    return prepare(options, host, subject)


def run_folder(options: AuditOptions, subject: Subject) -> Path:
    """Folder of a run: ``--out``, or ``runs/<network>``."""
    if options.out:
        return Path(options.out)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in subject.model.name).strip("-.")
    return Path("runs") / (name or "model")


def _resolved(model: nn.Module | str | Path, images: Images, options: Mapping[str, Any]) -> AuditOptions:
    named = {} if isinstance(model, nn.Module) else {"model": str(model)}
    where = {"images": str(images)} if isinstance(images, str | Path) else {}
    return resolve({**named, **where, **options})


def _source(images: Images) -> Source | None:
    if isinstance(images, str | Path):
        return None
    return TensorSource(images) if isinstance(images, Tensor) else images


# -- what it will cost -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forecast:
    """Price of an audit, from a rehearsal on some of its images.

    Parameters
    ----------
    images, networks : int
        Networks are the audited one, its controls and further ones.
    seconds : float
        Survey only, on this machine.
    bytes : int
        On disk, compressed as in the rehearsal.
    rehearsed : int
        Images of the rehearsal.
    """

    images: int
    networks: int
    seconds: float
    bytes: int
    rehearsed: int


@dataclass(frozen=True)
class _Part:
    """Some images of a source, counted from 0."""

    source: Source
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> Sample:
        return replace(self.source.read(self.chosen[index]), index=index)

    def picture(self, index: int) -> np.ndarray | None:
        return self.source.picture(self.chosen[index])


def forecast(prepared: Prepared) -> Forecast:
    """Run the survey on a few images in memory, and scale up; a control costs less than the network.

    Parameters
    ----------
    prepared : Prepared

    Returns
    -------
    Forecast
        Passes after the first, which read summaries, are not in it.
    """
    total = len(prepared.subject.source)
    number = min(total, prepared.plan.execution.batch_size)
    chosen = np.unique(np.linspace(0, total - 1, number).astype(int))
    part = _Part(prepared.subject.source, tuple(int(i) for i in chosen))
    controls = len(prepared.plan.controls) + len(prepared.plan.networks)
    own = _rehearsed(prepared, part)
    other = _rehearsed(replace(prepared, plan=prepared.plan.for_control("")), part) if controls else (0.0, 0)
    seconds, stored = (total / len(part) * (a + controls * b) for a, b in zip(own, other, strict=True))
    return Forecast(total, 1 + controls, seconds, int(stored), len(part))


def _rehearsed(prepared: Prepared, part: _Part) -> tuple[float, int]:
    """Seconds and bytes of one network on some images."""
    import time

    store = Store(None, len(part), prepared.plan.execution.shard, prepared.plan.id)
    task = _task(prepared, part, store, prepared.labels[list(part.chosen)])
    started = time.perf_counter()
    run_stage(task)
    return time.perf_counter() - started, store.bytes_stored()


def survey_task(prepared: Prepared, store: Store) -> Task:
    """Describe the first pass of a prepared audit over all its images, into a store of one's own."""
    return _task(prepared, prepared.subject.source, store, prepared.labels)


def _task(prepared: Prepared, source: Source, store: Store, labels: np.ndarray) -> Task:
    return Task(
        plan=prepared.plan,
        module=prepared.subject.working,
        source=source,
        labels=labels,
        survey=prepared.survey,
        explainers=prepared.explainers,
        probes=prepared.stages[0],
        needs=prepared.needs,
        store=store,
        host=prepared.host,
    )


def require_affordable(prepared: Prepared, folder: Path) -> None:
    """Refuse an audit whose maps exceed the byte budget, with its price, before anything is written.

    Only where the uncompressed maps exceed it is a rehearsal run, to learn how far they compress.

    Parameters
    ----------
    prepared : Prepared
    folder : Path
        Where the run will lie; a quarter of what is free there is a limit, too.

    Raises
    ------
    UsageError
        With the predicted size, the limit and what to change.
    """
    if same_plan(prepared.plan, folder):
        return  # finished: nothing will be computed or written
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    limit = min(prepared.options.budget_gb * 1e9, shutil.disk_usage(existing).free * FREE_SHARE)
    if _uncompressed(prepared) <= limit:
        return
    predicted = forecast(prepared).bytes
    if predicted > limit:
        msg = "the tables of this audit exceed the byte budget"
        raise UsageError(
            msg,
            found=f"{predicted / 1e9:.3g} GB predicted",
            wanted=f"at most {limit / 1e9:.3g} GB",
            remedy="fewer --layers, --store-activations or --max-images, or a larger --budget-gb",
        )


def _uncompressed(prepared: Prepared) -> int:
    """Bytes of all stored maps if nothing compressed: activations in half, relevance in full precision."""
    layers, plan = prepared.survey.layers, prepared.plan
    kept = sum(2 * math.prod(layers[name].shape) for name in plan.stored)
    whole = {**layers, INPUT: input_layer(prepared.survey.input_shape)}
    mapped = sum(4 * math.prod(whole[name].shape[1:]) for _, name in plan.relevance)
    return len(prepared.subject.source) * (kept + mapped * len(prepared.survey.targets))


# -- activations as data -----------------------------------------------------------------------


def record(
    model: nn.Module | str | Path,
    images: Images,
    layers: str | Sequence[str],
    *,
    out: str | Path | None = None,
    trust_code: bool = False,
    **options: Any,
) -> xr.DataTree:
    """Record the activations of layers as labelled data.

    Parameters
    ----------
    model : nn.Module, str or Path
        A live network, or anything that ``--model`` takes.
    images : str, Path, Tensor or Source
        A folder, a manifest, or network input (image, channel, row, column).
    layers : str or sequence of str
        Dotted names; see ``wsss-probe layers``.
    out : str or Path, optional
        Folder for ``data.zarr``; without it the data stay in memory.
    trust_code : bool
    **options
        Fields of :class:`wsss_probe.config.AuditOptions`, such as ``weights``, ``preprocess``,
        ``batch_size``, ``device``.

    Returns
    -------
    DataTree
        ``activations/<layer>`` with ``maps`` (image, channel, row, column), float16, and ``mean``
        (image, channel); ``predictions`` with ``logits`` (image, class). Lazy.

    Raises
    ------
    UsageError, ModelError
        When the network, the images or a layer cannot be used.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> tree = record(net, torch.zeros(2, 3, 8, 8), "1")
    >>> tree["activations/1/maps"].sizes["channel"]
    4
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    asked = {"layers": tuple(names), "store_activations": tuple(names), "controls": "none", **options}
    resolved = _resolved(model, images, asked)
    host = PluginHost()
    if isinstance(model, str | Path):
        host.load()
    subject = find_subject(
        resolved, host, model if isinstance(model, nn.Module) else None, _source(images), trust_code
    )
    prepared = prepare(resolved, PluginHost(), subject)
    folder = None if out is None else Path(out)
    if folder is not None and (folder / "data.zarr").exists():
        msg = f"'{folder}' holds data already"
        raise UsageError(msg, remedy="choose another out=")
    source = subject.source
    store = Store(folder, len(source), prepared.plan.execution.shard, prepared.plan.id)
    store.write_coordinate("image", np.arange(len(source)))
    run_stage(survey_task(prepared, store))
    return store.tree()


def command_line(arguments: Iterable[str]) -> str:
    """Return the command as one can paste it into a shell."""
    return shlex.join(["wsss-probe", *arguments])
