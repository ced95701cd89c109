"""``wsss-probe train finetune``: the command line of ``wsss_probe_localizers.finetune``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsss_probe_localizers import flags
from wsss_probe_localizers.flags import DATA, LEARNING, NETWORK, flag

if TYPE_CHECKING:
    from wsss_probe_localizers.fitting import Trained

__all__ = ["train_finetune"]

_Model = Annotated[
    str, flag(NETWORK, "torchvision/NAME, timm/NAME, a plugin's model source, or a model folder.")
]
_Weights = Annotated[str | None, flag(NETWORK, "Checkpoint, or 'random' for an untrained start.")]
_ModelArgs = Annotated[str, flag(NETWORK, "Arguments of the network: aux_logits=false,dropout=0.1")]
_Preprocess = Annotated[str | None, flag(DATA, "As in audit; default: the model card's or registry's.")]
_Units = Annotated[str, flag(DATA, "one: a sigmoid for the last of two classes; classes: one per class.")]
_Multilabel = Annotated[
    bool | None, flag(DATA, "One sigmoid per class; default: where an image has several labels.")
]
_LearningRate = Annotated[float, flag(LEARNING, "Of the first step.")]
_Decay = Annotated[float, flag(LEARNING, "At step t the rate is learning rate / (1 + decay t).")]
_Momentum = Annotated[float, flag(LEARNING, "Of Nesterov.")]
_Freeze = Annotated[str, flag(LEARNING, "Modules that do not learn: names or patterns, comma-separated.")]
_BatchNorm = Annotated[str, flag(LEARNING, "Statistics: train (follow the images) or frozen.")]


def train_finetune(
    *,
    model: _Model,
    weights: _Weights = None,
    model_args: _ModelArgs = "",
    manifest: flags.ManifestFile = None,
    images: flags.Images = None,
    classes: flags.Classes = "",
    units: _Units = "one",
    multilabel: _Multilabel = None,
    preprocess: _Preprocess = None,
    validation: flags.Validation = 0.2,
    epochs: flags.Epochs = 30,
    batch_size: flags.BatchSize = 32,
    learning_rate: _LearningRate = 1e-4,
    decay: _Decay = 1e-6,
    momentum: _Momentum = 0.9,
    freeze: _Freeze = "",
    batch_norm: _BatchNorm = "train",
    class_weights: flags.ClassWeights = "none",
    flips: flags.Flips = "both",
    jitter: flags.Jitter = "0,0,0,0",
    keep: flags.Keep = "last",
    out: flags.Out,
    seed: flags.Seed = 0,
    device: flags.Device = "cpu",
    threads: flags.Threads = None,
    num_workers: flags.NumWorkers = 0,
    resume: flags.Resume = False,
    no_progress: flags.NoProgress = False,
) -> None:
    """Finetune a trained network on image labels, with a new head.

    Writes model.safetensors and model.json, and the network before its first step in the folder start;
    audit --model reads both without further flags.
    """
    given = dict(locals())
    from wsss_probe.errors import ExitCode
    from wsss_probe_localizers.finetune import fit_finetuned
    from wsss_probe_localizers.options import FinetuneOptions

    options = flags.options_of(
        FinetuneOptions,
        given,
        model_arguments=_arguments(model_args),
        freeze=tuple(name.strip() for name in freeze.split(",") if name.strip()),
        progress=not no_progress and sys.stderr.isatty(),
    )
    try:
        trained = fit_finetuned(flags.read_images("train finetune", manifest, images), options, out)
    except KeyboardInterrupt as stop:
        typer.echo("interrupted; add --resume to go on from the last finished epoch", err=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from stop
    _tell_start(trained)
    flags.report(trained)


def _arguments(text: str) -> dict[str, Any]:
    """Read ``name=value``, comma-separated; a value is JSON, else a word."""
    from wsss_probe.errors import UsageError

    parts = [part for part in text.split(",") if part.strip()]
    if not all("=" in part for part in parts):
        raise UsageError("--model-args cannot be read", found=repr(text), wanted="name=value,name=value")
    return {name.strip(): _value(value.strip()) for name, _, value in (part.partition("=") for part in parts)}


def _value(text: str) -> Any:
    """Read a number, truth value or word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tell_start(trained: "Trained") -> None:
    """Say how the start did and how far the weights went, before the result."""
    start, moved = trained.training["start"], trained.training["moved"]
    typer.echo(f"start: {start['model']}, as a model in {trained.folder / Path('start')}")
    for split, metrics in start["metrics"].items():
        for name, interval in metrics["auc"].items():
            typer.echo(f"  {split}: AUC {name} {flags.shown(interval)}")
    typer.echo(f"weights moved by {min(moved.values()):.2g} to {max(moved.values()):.2g} of their norm")
