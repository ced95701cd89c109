"""What can be chosen for any training, and for one from scratch; the same record goes into the model card."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from wsss_probe.errors import UsageError
from wsss_probe.images import Preprocessing
from wsss_probe_localizers.augmentation import Augmentation

__all__ = ["ClassWeights", "GapOptions", "TrainingOptions", "above", "one_of", "positive"]

ClassWeights = Literal["none", "balanced"] | tuple[float, ...]
"""Weights of the classes in the loss; ``balanced`` gives every class the same total."""

# How a training is run, not what comes out of it.
_NOT_RECORDED = ("resume", "progress", "num_workers", "cache_bytes")


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
        above("epochs", self.epochs, 1)
        # Batch normalisation has no spread to divide by in a batch of one.
        above("batch size", self.batch_size, 2)
        above("workers", self.num_workers, 0)
        above("seed", self.seed, 0)
        above("threads", 1 if self.threads is None else self.threads, 1)
        positive("learning rate", self.learning_rate)
        if not 0 < self.validation < 1:
            raise UsageError(
                "validation share is out of range", found=f"{self.validation:g}", wanted="above 0, below 1"
            )
        one_of("keep", self.keep, ("loss", "auc", "last"))
        if isinstance(self.class_weights, str):
            one_of("class weights", self.class_weights, ("none", "balanced"))

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
        above("size", 1 if self.size is None else self.size, 1)
        if self.native_scale and (self.size is not None or self.preprocessing is not None):
            raise UsageError(
                "native scale contradicts a size",
                found="native scale beside a size or a preprocessing",
                remedy="drop one of them",
            )


def above(what: str, value: int, least: int) -> None:
    """Refuse a whole number below the least that makes sense.

    Parameters
    ----------
    what : str
        Name of the option, for the message.
    value, least : int
    """
    if value < least:
        raise UsageError(f"{what} is out of range", found=str(value), wanted=f"{least} or more")


def positive(what: str, value: float) -> None:
    """Refuse what is no finite number above zero.

    Parameters
    ----------
    what : str
    value : float
    """
    if not 0 < value < float("inf"):
        raise UsageError(f"{what} is out of range", found=f"{value:g}", wanted="a number above 0")


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is no choice; the nearest is named.

    Parameters
    ----------
    what, value : str
    known : tuple of str
    """
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise UsageError(
            f"{what} unknown",
            found=repr(value),
            wanted=" or ".join(known),
            remedy=f"nearest: {near[0]}" if near else None,
        )
