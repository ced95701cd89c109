"""What all trainings from image labels share: the loop with resume, and the record of what came out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from wsss_probe.errors import ProbeError, UsageError
from wsss_probe.images import Preprocessing
from wsss_probe_localizers.batches import loader, logits_of
from wsss_probe_localizers.heldout import measure
from wsss_probe_localizers.isolation import interruptible
from wsss_probe_localizers.loss import class_weights
from wsss_probe_localizers.progress import progress_bar
from wsss_probe_localizers.split import Split, image_groups

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.labels import Labels
    from wsss_probe_localizers.options import TrainingOptions
    from wsss_probe_localizers.pictures import Loaded
    from wsss_probe_localizers.training import EpochRecord, Optimizing, Training
    from wsss_probe_localizers.workplace import Workplace

__all__ = [
    "Data",
    "Recipe",
    "Trained",
    "abandoning",
    "check_device",
    "fit",
    "given_preprocessing",
    "metrics_of",
    "recorded",
]

_VERSIONS = ("wsss-probe", "wsss-probe-localizers", "torch", "lightning", "torchvision", "timm")


@final
@dataclass(frozen=True)
class Trained:
    """A trained classifier and how well it does.

    Parameters
    ----------
    folder : Path
        Holds ``model.safetensors`` and ``model.json``.
    network : Module
        In eval mode, on the CPU.
    classes : tuple of str
    preprocessing : Preprocessing
    training : dict
        ``plan`` (options and digest of the data), ``history`` (one record per epoch),
        ``best_epoch``, ``metrics`` (by split), ``notes``, ``versions``, ``threads``, ``seconds``.
    """

    folder: Path
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    training: dict[str, Any]


@final
@dataclass(frozen=True)
class Data:
    """Images, labels and purposes, as far as they can be read.

    Parameters
    ----------
    labels : Labels
    split : Split
        Readable rows only.
    loaded : Loaded
    """

    labels: Labels
    split: Split
    loaded: Loaded


@final
@dataclass(frozen=True)
class Recipe:
    """How a network is trained, and where.

    Parameters
    ----------
    options : TrainingOptions
    place : Workplace
    optimizing : callable
        ``optimizing(network, steps)``: optimiser and schedule, as Lightning wants them.
    still : tuple of str
        Modules of the network that stay in eval mode.
    on_epoch : callable, optional
        Gets each epoch's record, after its checkpoint is written.
    """

    options: TrainingOptions
    place: Workplace
    optimizing: Optimizing
    still: tuple[str, ...] = ()
    on_epoch: Callable[[EpochRecord], None] | None = None


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises
    ------
    UsageError
    """
    kind, _, number = device.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdecimal()):
        raise UsageError("device unknown", found=repr(device), wanted="cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {device} is not there",
            found=f"{torch.cuda.device_count()} CUDA devices",
            remedy="use --device cpu",
        )


def given_preprocessing(options: TrainingOptions) -> Preprocessing | None:
    """Read the preprocessing of the options, at the border.

    Parameters
    ----------
    options : TrainingOptions

    Returns
    -------
    Preprocessing or None
        None where none was given.
    """
    given = options.preprocessing
    return Preprocessing.parse(given) if isinstance(given, str) else given


@contextlib.contextmanager
def abandoning(place: Workplace) -> Iterator[None]:
    """Remove the folder after an error that a resume would only meet again; keep it after Ctrl-C.

    Parameters
    ----------
    place : Workplace
    """
    try:
        yield
    except ProbeError:
        place.abandon()
        raise


def fit(network: nn.Module, data: Data, recipe: Recipe) -> Training:
    """Run Lightning, from the last checkpoint if there is one.

    Parameters
    ----------
    network : Module
        Gets the weights of the kept epoch; afterwards in eval mode.
    data : Data
    recipe : Recipe

    Returns
    -------
    Training
        With its history.

    Raises
    ------
    ModelError
        If the loss is no longer finite.
    """
    from lightning.pytorch import Trainer

    from wsss_probe_localizers.training import LastCheckpoint, Task, Training

    options, place = recipe.options, recipe.place
    pictures, rows = data.loaded.pictures, data.split.rows
    weights = class_weights(data.labels, rows["train"], options.class_weights)
    task = Task(
        options, data.loaded.preprocessing, data.labels.multilabel, weights, recipe.optimizing, recipe.still
    )
    # Lightning trains in the mode that it finds, and a loaded network comes in eval mode.
    network.train()
    # Kernels for channels last are about twice as fast on a CPU; the batches come in that layout.
    module = Training(network.to(memory_format=torch.channels_last), task)  # type: ignore[call-overload]
    kind, _, number = options.device.partition(":")
    with progress_bar(options.epochs, shown=options.progress) as advance, interruptible():
        trainer = Trainer(
            accelerator=kind,
            devices=[int(number or 0)] if kind == "cuda" else 1,
            max_epochs=options.epochs,
            callbacks=[LastCheckpoint(module, place.checkpoint, _both(advance, recipe.on_epoch))],
            deterministic="warn" if kind == "cuda" else True,
            default_root_dir=place.partial,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(
            module,
            loader(pictures, rows["train"], data.labels, options, shuffle=True),
            loader(pictures, rows["val"], data.labels, options, shuffle=False),
            ckpt_path=place.checkpoint if place.checkpoint.exists() else None,
            weights_only=True,
        )
    network.load_state_dict(module.best)
    network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return module


def _both(
    first: Callable[[EpochRecord], None], second: Callable[[EpochRecord], None] | None
) -> Callable[[EpochRecord], None]:
    """Call one after the other."""

    def call(record: EpochRecord) -> None:
        first(record)
        if second is not None:
            second(record)

    return call


def metrics_of(
    network: nn.Module, manifest: Manifest, data: Data, options: TrainingOptions
) -> dict[str, Any]:
    """Measure a network on every split that it did not train on.

    Parameters
    ----------
    network : Module
        Back on the CPU afterwards, in eval mode.
    manifest : Manifest
    data : Data
    options : TrainingOptions

    Returns
    -------
    dict
        By split: see :func:`~wsss_probe_localizers.heldout.measure`.
    """
    groups = image_groups(manifest)
    network.to(options.device)
    metrics = {}
    for name, rows in data.split.rows.items():
        if name == "train" or not len(rows):
            continue
        batches = loader(data.loaded.pictures, rows, data.labels, options, shuffle=False)
        logits = logits_of(network, batches, data.loaded.preprocessing).numpy()
        metrics[name] = measure(logits, data.labels, rows, groups)
    network.cpu()
    return metrics


def recorded(module: Training, manifest: Manifest, data: Data, options: TrainingOptions) -> dict[str, Any]:
    """Measure the kept weights on every split and say how they were made.

    Parameters
    ----------
    module : Training
        After :func:`fit`.
    manifest : Manifest
    data : Data
    options : TrainingOptions

    Returns
    -------
    dict
        ``history``, ``best_epoch``, ``metrics``, ``images``, ``notes``, ``versions``, ``threads``, as JSON
        can hold them.
    """
    chosen = () if options.keep == "last" else ("val chose the epoch: its metrics are a little too good",)
    return {
        "history": [_json(record) for record in module.history],
        "best_epoch": module.best_epoch,
        "metrics": metrics_of(module.network, manifest, data, options),
        "images": {name: len(rows) for name, rows in data.split.rows.items()},
        "notes": [*data.split.notes, *data.loaded.notes, *chosen],
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "threads": torch.get_num_threads(),
    }


def _json(record: EpochRecord) -> dict[str, float | None]:
    """JSON has no NaN: an AUC that is not defined is None."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}
