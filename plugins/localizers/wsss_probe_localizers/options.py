"""What can be chosen for a training, from scratch or on; the same record goes into the model card."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from wsss_probe.errors import UsageError
from wsss_probe.images import Preprocessing
from wsss_probe_localizers.augmentation import Augmentation

__all__ = ["ClassWeights", "FinetuneOptions", "GapOptions", "TrainingOptions"]

ClassWeights = Literal["none", "balanced"] | tuple[float, ...]
"""Weights of the classes in the loss; ``balanced`` gives every class the same total."""

# How a training is run, not what comes out of it.
# The network that a finetuning starts from is recorded by its origin and digest instead.
_NOT_RECORDED = ("resume", "progress", "num_workers", "cache_bytes", "model", "weights", "model_arguments")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options that every training from image labels has.

    Parameters
    ----------
    epochs, batch_size : int
    learning_rate : float
    seed : int
        Fixes new weights, order, augmentation and split.
    device : str
        ``cpu``, ``cuda`` or ``cuda:<number>``.
    classes : tuple of str
        Order of the logits; empty takes all labels found, naturally sorted.
    class_weights : "none", "balanced" or tuple of float
    augmentation : Augmentation
    preprocessing : Preprocessing, str or None
        As ``--preprocess``.
    validation : float
        Share of the training groups set aside where the manifest has no ``val`` rows.
    keep : "loss", "auc" or "last"
        Which epoch is kept: lowest validation loss, highest validation AUC, or the last.
    threads : int or None
        CPU threads; None leaves torch's number.
    num_workers : int
        Processes that decode images, where they do not fit into ``cache_bytes``.
    cache_bytes : int
        Decoded images up to this size are kept in memory.
    resume : bool
        Go on from the last finished epoch.
    progress : bool
        Show a bar on stderr.
    """

    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    device: str = "cpu"
    classes: tuple[str, ...] = ()
    class_weights: ClassWeights = "none"
    augmentation: Augmentation = field(default_factory=Augmentation)
    preprocessing: Preprocessing | str | None = None
    validation: float = 0.2
    keep: Literal["loss", "auc", "last"] = "loss"
    threads: int | None = None
    num_workers: int = 0
    cache_bytes: int = 4 << 30
    resume: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        _above("epochs", self.epochs, 1)
        # Batch normalisation has no spread to divide by in a batch of one.
        _above("batch size", self.batch_size, 2)
        _above("workers", self.num_workers, 0)
        _above("seed", self.seed, 0)
        _above("threads", 1 if self.threads is None else self.threads, 1)
        _positive("learning rate", self.learning_rate)
        if not 0 < self.validation < 1:
            raise UsageError(
                "validation share is out of range", found=f"{self.validation:g}", wanted="above 0, below 1"
            )
        _one_of("keep", self.keep, ("loss", "auc", "last"))
        if isinstance(self.class_weights, str):
            _one_of("class weights", self.class_weights, ("none", "balanced"))

    def record(self) -> dict[str, Any]:
        """Return the options that decide the outcome, ready for JSON.

        Returns
        -------
        dict
        """
        options = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        if isinstance(self.preprocessing, Preprocessing):
            options["preprocessing"] = self.preprocessing.to_dict()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


@final
@dataclass(frozen=True, kw_only=True)
class GapOptions(TrainingOptions):
    """Options of :func:`~wsss_probe_localizers.gap.fit_gap`, besides :class:`TrainingOptions`.

    ``learning_rate`` is the peak of a one-cycle schedule; without ``preprocessing`` the size of the
    images or tiles is kept, and mean and standard deviation are those of the training images.

    Parameters
    ----------
    backbone : str
        See :func:`~wsss_probe_localizers.backbones.backbone_features`.
    width : float
        Factor on the widths of a VGG layout.
    weight_decay : float
        Of AdamW.
    multilabel : bool or None
        One sigmoid per class instead of a softmax; None says yes where an image has several labels.
    size : int or None
        Side to which images are resized, where ``preprocessing`` is None.
    native_scale : bool
        Write a card without a size: an audit then takes images as large as they are, at the scale
        of the training tiles, instead of resizing them to the size of a tile.
    """

    backbone: str = "vgg"
    width: float = 1.0
    weight_decay: float = 1e-2
    multilabel: bool | None = None
    size: int | None = None
    native_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _above("size", 1 if self.size is None else self.size, 1)
        if self.native_scale and (self.size is not None or self.preprocessing is not None):
            raise UsageError(
                "native scale contradicts a size",
                found="native scale beside a size or a preprocessing",
                remedy="drop one of them",
            )


@final
@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainingOptions):
    """Options of :func:`~wsss_probe_localizers.finetune.fit_finetuned`, besides :class:`TrainingOptions`.

    The defaults are the recipe of Graziani et al. (2019): stochastic gradient descent with Nesterov
    momentum, 30 epochs, the last one kept, one sigmoid unit. Without ``preprocessing`` that of the model
    card or registry holds.

    Parameters
    ----------
    model : str or Path
        As ``audit --model``; no factory, since a model card must not name code.
    weights : str, Path or None
        As ``audit --weights``.
    model_arguments : mapping
        Of the builder, as ``audit --model-args``.
    units : "one" or "classes"
        ``one``: a single sigmoid, which says how likely the last of two classes is; ``classes``: one
        output per class.
    multilabel : bool or None
        With ``classes``: one sigmoid per class instead of a softmax; None says yes where an image has
        several labels.
    decay : float
        Of the learning rate: at step t it is ``learning_rate / (1 + decay · t)``.
    momentum : float
        Of Nesterov; 0 is none.
    freeze : tuple of str
        Modules that do not learn, by dotted name or pattern.
    batch_norm : "train" or "frozen"
        Whether statistics of batch normalisation follow the training images or stay those of the start;
        scale and shift learn in both.
    """

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-4
    keep: Literal["loss", "auc", "last"] = "last"
    model: str | Path = ""
    weights: str | Path | None = None
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    units: Literal["one", "classes"] = "one"
    multilabel: bool | None = None
    decay: float = 1e-6
    momentum: float = 0.9
    freeze: tuple[str, ...] = ()
    batch_norm: Literal["train", "frozen"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("units", self.units, ("one", "classes"))
        _one_of("batch norm", self.batch_norm, ("train", "frozen"))
        _above("decay", self.decay, 0)
        if not 0 <= self.momentum < 1:
            raise UsageError(
                "momentum is out of range", found=f"{self.momentum:g}", wanted="0 or more, below 1"
            )
        if self.units == "one" and self.multilabel is not None:
            raise UsageError(
                "one unit leaves nothing to choose between softmax and sigmoids",
                found="multilabel given",
                remedy="drop it, or use units classes",
            )


def _above(what: str, value: float, least: float) -> None:
    """Check a number that has a least value."""
    if not least <= value < float("inf"):
        raise UsageError(f"{what} is out of range", found=f"{value:g}", wanted=f"{least:g} or more")


def _positive(what: str, value: float) -> None:
    """Check a finite number above zero."""
    if not 0 < value < float("inf"):
        raise UsageError(f"{what} is out of range", found=f"{value:g}", wanted="a number above 0")


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Check a choice."""
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise UsageError(
            f"{what} unknown",
            found=repr(value),
            wanted=" or ".join(known),
            remedy=f"nearest: {near[0]}" if near else None,
        )
