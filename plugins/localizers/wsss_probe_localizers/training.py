"""The training itself, on Lightning.

Import this module after ``wsss_probe.zoo.ensure_torchvision()``: Lightning imports torchvision.

Two trainings with one seed give the same bits, and so does a resumed one at the border of an
epoch: order comes from (seed, epoch), augmentation and dropout from (seed, step), nothing from a
generator that runs on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe_localizers import heldout
from wsss_probe_localizers.augmentation import augment
from wsss_probe_localizers.batches import seed_of, unit
from wsss_probe_localizers.loss import loss_of
from wsss_probe_localizers.pictures import normalise

if TYPE_CHECKING:
    from wsss_probe.images import Preprocessing
    from wsss_probe_localizers.options import TrainingOptions

__all__ = ["EpochRecord", "LastCheckpoint", "Optimizing", "Task", "Training"]

EpochRecord = dict[str, float]
"""One epoch: ``epoch, learning_rate, train_loss, val_loss, val_accuracy, val_auc``."""


Optimizing = Callable[[nn.Module, int], dict[str, Any]]
"""Makes, of a network and the number of steps, what Lightning's ``configure_optimizers`` returns."""


@final
@dataclass(frozen=True)
class Task:
    """What a training knows besides its network.

    Parameters
    ----------
    options : TrainingOptions
    preprocessing : Preprocessing
    multilabel : bool
    weights : Tensor or None, (class,)
        Of the loss.
    optimizing : callable
        ``optimizing(network, steps)`` gives optimiser and schedule.
    still : tuple of str
        Modules of the network that stay in eval mode, with all that is inside them.
    """

    options: TrainingOptions
    preprocessing: Preprocessing
    multilabel: bool
    weights: Tensor | None
    optimizing: Optimizing
    still: tuple[str, ...] = ()


@final
class Training(pl.LightningModule):
    """One network with its optimiser, its history and its best weights.

    Parameters
    ----------
    network : Module
    task : Task

    Attributes
    ----------
    history : list of EpochRecord
    best : dict of str to Tensor
        Weights of the epoch that ``options.keep`` names.
    best_epoch : int
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.register_buffer("weights", task.weights, persistent=False)
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self._train_losses: list[Tensor] = []
        self._validated: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> Any:
        """Ask the task, which knows the number of steps only now."""
        return self.task.optimizing(self.network, max(2, int(self.trainer.estimated_stepping_batches)))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Seed dropout and the like from the step, so that a resumed training draws the same."""
        for name in self.task.still:
            self.network.get_submodule(name).eval()
        torch.manual_seed(seed_of(self.task.options.seed, self.global_step, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Augment, run, compare."""
        pixels, sets = batch
        options = self.task.options
        generator = torch.Generator().manual_seed(seed_of(options.seed, self.global_step, 2))
        images = normalise(augment(unit(pixels), options.augmentation, generator), self.task.preprocessing)
        # Networks with auxiliary classifiers return further logits, in train mode only.
        logits = self.network(images)
        loss = self._loss(logits if isinstance(logits, Tensor) else logits[0], sets)
        self._refuse_divergence(loss, f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}")
        self._train_losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Collect logits: the AUC needs all of them."""
        pixels, sets = batch
        logits = self.network(normalise(unit(pixels), self.task.preprocessing))
        self._validated.append((logits, sets))

    def on_validation_epoch_end(self) -> None:
        """Write the epoch's record and keep the weights if they are the best so far."""
        logits, sets = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        arrays = (logits.cpu().numpy(), sets.cpu().numpy())
        record = {
            "epoch": float(self.current_epoch),
            "learning_rate": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            "train_loss": float(torch.stack(self._train_losses).mean()),
            "val_loss": float(self._loss(logits, sets)),
            "val_accuracy": float(heldout.hits(*arrays, multilabel=self.task.multilabel).mean()),
            "val_auc": heldout.mean_auc(*arrays, multilabel=self.task.multilabel),
        }
        self._refuse_divergence(
            torch.tensor(record["val_loss"]), f"epoch {self.current_epoch + 1}, validation"
        )
        self._train_losses, self._validated = [], []
        if self._is_best(record):
            self.best_epoch = self.current_epoch
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()
            }
        self.history.append(record)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not say."""
        checkpoint["training"] = {"history": self.history, "best": self.best, "best_epoch": self.best_epoch}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        kept = checkpoint["training"]
        self.history, self.best, self.best_epoch = kept["history"], kept["best"], kept["best_epoch"]

    def _loss(self, logits: Tensor, sets: Tensor) -> Tensor:
        weights = self.get_buffer("weights") if self.task.weights is not None else None
        return loss_of(logits, sets, weights, multilabel=self.task.multilabel)

    def _refuse_divergence(self, loss: Tensor, when: str) -> None:
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                "training diverged: the loss is not finite",
                found=f"{float(loss.detach())} at {when}",
                remedy=f"lower --learning-rate (now {self.task.options.learning_rate:g})",
            )

    def _is_best(self, record: EpochRecord) -> bool:
        """Whether this epoch is to be kept; equal ones keep the earlier."""
        keep = self.task.options.keep
        if keep == "last" or not self.best:
            return True
        if keep == "loss":
            return record["val_loss"] < min(past["val_loss"] for past in self.history)
        best = np.nanmax([-np.inf, *(past["val_auc"] for past in self.history)])
        return bool(record["val_auc"] > best)


@final
class LastCheckpoint(Callback):
    """Write a checkpoint after each epoch, then tell ``on_epoch``; never half a file.

    Parameters
    ----------
    training : Training
    path : Path
    on_epoch : callable
        Gets the epoch's record.
    """

    def __init__(self, training: Training, path: Path, on_epoch: Callable[[EpochRecord], None]) -> None:
        self._training, self._path, self._on_epoch = training, path, on_epoch

    def on_train_epoch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Save beside, then replace."""
        beside = self._path.with_suffix(".tmp")
        trainer.save_checkpoint(beside, weights_only=False)
        os.replace(beside, self._path)  # noqa: PTH105 - the atomic call, by its name
        self._on_epoch(self._training.history[-1])
