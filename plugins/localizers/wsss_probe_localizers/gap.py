"""Train a classifier with a GAP + linear head and write it as a model that ``audit --model`` reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wsss_probe.contracts import ModelSource
from wsss_probe.images import Preprocessing
from wsss_probe.model import ModelCard, ModelRequest, load_model, read_card, write_card
from wsss_probe.zoo import ensure_torchvision
from wsss_probe_localizers.batches import seed_of
from wsss_probe_localizers.fitting import (
    Data,
    Recipe,
    Trained,
    abandoning,
    check_device,
    fit,
    given_preprocessing,
    recorded,
)
from wsss_probe_localizers.isolation import left_as_found
from wsss_probe_localizers.labels import read_labels
from wsss_probe_localizers.networks import build
from wsss_probe_localizers.pictures import data_digest, load
from wsss_probe_localizers.split import split_rows
from wsss_probe_localizers.workplace import open_workplace

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.options import GapOptions
    from wsss_probe_localizers.training import EpochRecord, Optimizing

__all__ = ["fit_gap"]

_SOURCE = "gap"


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
    check_device(options.device)
    ensure_torchvision()
    labels = read_labels(manifest, options.classes, options.multilabel)
    split = split_rows(manifest, labels, share=options.validation, seed=options.seed)
    with left_as_found(options.threads):
        torch.manual_seed(seed_of(options.seed))
        arguments = {"backbone": options.backbone, "width": options.width, "classes": len(labels.classes)}
        start = given_preprocessing(options)
        network = build({**arguments, "channels": start.channels if start else 3})
        plan = {**options.record(), "data": data_digest(manifest, split)}
        place = open_workplace(Path(out), plan, resume=options.resume)
        if place is None:
            return _finished(Path(out))
        with abandoning(place):
            loaded = load(manifest, split, start, options.size, options.cache_bytes)
            data = Data(labels, split.where(loaded.readable, labels), loaded)
            module = fit(network, data, Recipe(options, place, _one_cycle(options), on_epoch=on_epoch))
        training = recorded(module, manifest, data, options)
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


def _one_cycle(options: GapOptions) -> Optimizing:
    """AdamW with a one-cycle schedule over all steps."""

    def optimizing(network: nn.Module, steps: int) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return optimizing


def _finished(folder: Path) -> Trained:
    """Read a training that is done."""
    card = read_card(folder)
    source = ModelSource(_SOURCE, "", build)
    network = load_model(ModelRequest(folder), {_SOURCE: source}).module
    preprocessing = card.preprocessing or Preprocessing()
    return Trained(folder, network, tuple(card.classes), preprocessing, dict(card.training))
