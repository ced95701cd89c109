"""Train a classifier with a GAP + linear head and write it as a model that ``audit --model`` reads."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from wsss_probe.contracts import ModelSource
from wsss_probe.errors import ProbeError, UsageError
from wsss_probe.images import Preprocessing
from wsss_probe.model import ModelCard, ModelRequest, load_model, read_card, write_card
from wsss_probe.zoo import ensure_torchvision
from wsss_probe_localizers.batches import loader, logits_of, seed_of
from wsss_probe_localizers.heldout import measure
from wsss_probe_localizers.isolation import interruptible, left_as_found
from wsss_probe_localizers.labels import Labels, read_labels
from wsss_probe_localizers.loss import class_weights
from wsss_probe_localizers.networks import GapNet, build
from wsss_probe_localizers.pictures import Loaded, data_digest, load
from wsss_probe_localizers.progress import progress_bar
from wsss_probe_localizers.split import Split, image_groups, split_rows
from wsss_probe_localizers.workplace import Workplace, open_workplace

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.options import GapOptions
    from wsss_probe_localizers.training import EpochRecord, GapTraining

__all__ = ["Trained", "fit_gap"]

_SOURCE = "gap"
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
class _Data:
    """Images, labels and purposes, as far as they can be read."""

    labels: Labels
    split: Split
    loaded: Loaded


def fit_gap(
    manifest: Manifest,
    options: GapOptions,
    out: Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Trained:
    """Train a GAP classifier from image labels.

    Global random states, thread number and switches are left as they were found. Written to
    ``<out>.partial`` and renamed at the end; what an interrupted training leaves there is what
    ``options.resume`` goes on from, with the same bits as without the interruption.

    Parameters
    ----------
    manifest : Manifest
    options : GapOptions
    out : Path
        Folder of the model; must not exist.
    on_epoch : callable, optional
        Gets each epoch's record, after its checkpoint is written.

    Returns
    -------
    Trained

    Raises
    ------
    ManifestError
        If nothing can be learned from the labels, splits or images.
    ModelError
        If the backbone does not suit, or the loss is no longer finite.
    PlanError
        If something else lies in ``out``.

    References
    ----------
    Zhou et al. (2016), Learning deep features for discriminative localization, arXiv:1512.04150.
    """
    started = time.perf_counter()
    _check_device(options.device)
    ensure_torchvision()
    labels = read_labels(manifest, options.classes, options.multilabel)
    split = split_rows(manifest, labels, share=options.validation, seed=options.seed)
    with left_as_found(options.threads):
        torch.manual_seed(seed_of(options.seed))
        arguments = {"backbone": options.backbone, "width": options.width, "classes": len(labels.classes)}
        start = _preprocessing(options)
        network = build({**arguments, "channels": start.channels if start else 3})
        plan = {**options.record(), "data": data_digest(manifest, split)}
        place = open_workplace(Path(out), plan, resume=options.resume)
        if place is None:
            return _finished(Path(out))
        with _abandoning(place):
            loaded = load(manifest, split, start, options.size, options.cache_bytes)
            data = _Data(labels, split.where(loaded.readable, labels), loaded)
            module = _train(network, data, options, place, on_epoch)
        training = _record(module, manifest, data, options)
        training = {"plan": plan, **training, "seconds": round(time.perf_counter() - started, 2)}
        told = replace(loaded.preprocessing, size=None) if options.native_scale else loaded.preprocessing
        card = ModelCard(
            source=_SOURCE,
            arguments={**arguments, "channels": told.channels},
            classes=labels.classes,
            multilabel=labels.multilabel,
            preprocessing=told,
            training=training,
        )
        write_card(place.partial, card, network)
        place.finish()
    return Trained(Path(out), network, labels.classes, told, training)


def _check_device(device: str) -> None:
    """Refuse a device that is not there."""
    kind, _, number = device.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdecimal()):
        raise UsageError("device unknown", found=repr(device), wanted="cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {device} is not there",
            found=f"{torch.cuda.device_count()} CUDA devices",
            remedy="use --device cpu",
        )


def _preprocessing(options: GapOptions) -> Preprocessing | None:
    """Read what was given, at the border."""
    given = options.preprocessing
    return Preprocessing.parse(given) if isinstance(given, str) else given


@contextlib.contextmanager
def _abandoning(place: Workplace) -> Iterator[None]:
    """Remove the folder after an error that a resume would only meet again; keep it after Ctrl-C."""
    try:
        yield
    except ProbeError:
        place.abandon()
        raise


def _train(
    network: GapNet,
    data: _Data,
    options: GapOptions,
    place: Workplace,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> GapTraining:
    """Run Lightning, from the last checkpoint if there is one; ``network`` gets the best weights."""
    from lightning.pytorch import Trainer

    from wsss_probe_localizers.training import GapTraining, LastCheckpoint, Task

    pictures, rows = data.loaded.pictures, data.split.rows
    weights = class_weights(data.labels, rows["train"], options.class_weights)
    task = Task(options, data.loaded.preprocessing, data.labels.multilabel, weights)
    # Kernels for channels last are about twice as fast on a CPU; the batches come in that layout.
    module = GapTraining(network.to(memory_format=torch.channels_last), task)  # type: ignore[call-overload]
    kind, _, number = options.device.partition(":")
    with progress_bar(options.epochs, shown=options.progress) as advance, interruptible():
        trainer = Trainer(
            accelerator=kind,
            devices=[int(number or 0)] if kind == "cuda" else 1,
            max_epochs=options.epochs,
            callbacks=[LastCheckpoint(module, place.checkpoint, _both(advance, on_epoch))],
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


def _record(module: GapTraining, manifest: Manifest, data: _Data, options: GapOptions) -> dict[str, Any]:
    """Measure the kept weights on every split and say how they were made."""
    groups = image_groups(manifest)
    network = module.network.to(options.device)
    metrics = {}
    for name, rows in data.split.rows.items():
        if name == "train" or not len(rows):
            continue
        batches = loader(data.loaded.pictures, rows, data.labels, options, shuffle=False)
        logits = logits_of(network, batches, data.loaded.preprocessing).numpy()
        metrics[name] = measure(logits, data.labels, rows, groups)
    network.cpu()
    chosen = () if options.keep == "last" else ("val chose the epoch: its metrics are a little too good",)
    return {
        "history": [_json(record) for record in module.history],
        "best_epoch": module.best_epoch,
        "metrics": metrics,
        "images": {name: len(rows) for name, rows in data.split.rows.items()},
        "notes": [*data.split.notes, *data.loaded.notes, *chosen],
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "threads": torch.get_num_threads(),
    }


def _json(record: EpochRecord) -> dict[str, float | None]:
    """JSON has no NaN: an AUC that is not defined is None."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}


def _finished(folder: Path) -> Trained:
    """Read a training that is done."""
    card = read_card(folder)
    source = ModelSource(_SOURCE, "", build)
    network = load_model(ModelRequest(folder), {_SOURCE: source}).module
    preprocessing = card.preprocessing or Preprocessing()
    return Trained(folder, network, tuple(card.classes), preprocessing, dict(card.training))
