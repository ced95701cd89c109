"""``wsss-probe train gap``: the command line of :func:`~wsss_probe_localizers.gap.fit_gap`."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.gap import Trained

__all__ = ["train_gap"]

DATA, NETWORK, LEARNING, RUNNING = "Data", "Network", "Learning", "Running"


def _flag(panel: str, text: str, *names: str) -> Any:
    """Describe one flag."""
    return typer.Option(*names, help=text, rich_help_panel=panel)


_ManifestFile = Annotated[Path | None, _flag(DATA, "CSV or Parquet file with image, label and split.")]
_Images = Annotated[Path | None, _flag(DATA, "Folder class/image.png, instead of a manifest.")]
_Classes = Annotated[str, _flag(DATA, "Order of the classes, comma-separated; default: sorted.")]
_Multilabel = Annotated[
    bool | None, _flag(DATA, "One sigmoid per class; default: where an image has several labels.")
]
_Preprocess = Annotated[
    str | None, _flag(DATA, "As in audit; default: image or tile size, colours measured in training.")
]
_Size = Annotated[int | None, _flag(DATA, "Resize images to this side, in pixels.")]
_NativeScale = Annotated[
    bool, _flag(DATA, "An audit then keeps the size of its images, at this scale.", "--native-scale")
]
_Validation = Annotated[float, _flag(DATA, "Share of the groups set aside where no row has split val.")]
_Backbone = Annotated[
    str, _flag(NETWORK, "vgg, vgg16, a layout (16,16,P,32), torchvision/<name> or timm/<name>.")
]
_Width = Annotated[float, _flag(NETWORK, "Factor on the widths of a vgg layout.")]
_Epochs = Annotated[int, _flag(LEARNING, "Passes over the training images.")]
_BatchSize = Annotated[int, _flag(LEARNING, "Images per step.")]
_LearningRate = Annotated[float, _flag(LEARNING, "Peak of the one-cycle schedule.")]
_WeightDecay = Annotated[float, _flag(LEARNING, "Of AdamW.")]
_ClassWeights = Annotated[str, _flag(LEARNING, "none, balanced, or one number per class: 1,3.")]
_Flips = Annotated[str, _flag(LEARNING, "both, horizontal, vertical or none.")]
_Jitter = Annotated[str, _flag(LEARNING, "Of brightness, contrast, saturation, hue: 0.2,0.2,0.1,0.02.")]
_Keep = Annotated[str, _flag(LEARNING, "Epoch kept: lowest validation loss, highest auc, or the last.")]
_Seed = Annotated[int, _flag(RUNNING, "Fixes weights, order, augmentation and split.")]
_Device = Annotated[str, _flag(RUNNING, "cpu, cuda or cuda:1.")]
_Threads = Annotated[int | None, _flag(RUNNING, "CPU threads; default: torch's choice.")]
_NumWorkers = Annotated[int, _flag(RUNNING, "Decoding processes, for images too many for memory.")]
_Resume = Annotated[bool, _flag(RUNNING, "Go on from the last finished epoch.", "--resume")]
_NoProgress = Annotated[bool, _flag(RUNNING, "Show no bar.", "--no-progress")]
_Out = Annotated[Path, _flag(RUNNING, "Folder of the model; must not exist.")]


def train_gap(
    *,
    manifest: _ManifestFile = None,
    images: _Images = None,
    classes: _Classes = "",
    multilabel: _Multilabel = None,
    preprocess: _Preprocess = None,
    size: _Size = None,
    native_scale: _NativeScale = False,
    validation: _Validation = 0.2,
    backbone: _Backbone = "vgg",
    width: _Width = 1.0,
    epochs: _Epochs = 8,
    batch_size: _BatchSize = 64,
    learning_rate: _LearningRate = 3e-3,
    weight_decay: _WeightDecay = 1e-2,
    class_weights: _ClassWeights = "none",
    flips: _Flips = "both",
    jitter: _Jitter = "0,0,0,0",
    keep: _Keep = "loss",
    out: _Out,
    seed: _Seed = 0,
    device: _Device = "cpu",
    threads: _Threads = None,
    num_workers: _NumWorkers = 0,
    resume: _Resume = False,
    no_progress: _NoProgress = False,
) -> None:
    """Train a classifier with a GAP + linear head from image labels.

    Writes model.safetensors and model.json, which audit --model reads without further flags.
    """
    given = dict(locals())
    from wsss_probe.errors import ExitCode
    from wsss_probe_localizers.gap import fit_gap

    options = _options(given, progress=not no_progress and sys.stderr.isatty())
    try:
        trained = fit_gap(_manifest(manifest, images), options, out)
    except KeyboardInterrupt as stop:
        typer.echo("interrupted; add --resume to go on from the last finished epoch", err=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from stop
    _report(trained)


def _manifest(manifest: Path | None, images: Path | None) -> "Manifest":
    """Read the one that was given."""
    from wsss_probe.errors import UsageError
    from wsss_probe.manifest import discover, read_manifest

    if manifest is not None and images is None:
        return read_manifest(manifest)
    if images is not None and manifest is None:
        return discover(images)
    raise UsageError("train gap needs its images once", wanted="--manifest FILE or --images FOLDER")


def _options(given: dict[str, Any], *, progress: bool) -> Any:
    """Turn flags into options; every flag that has an option's name is one."""
    from wsss_probe_localizers.options import GapOptions

    same = {field.name: given[field.name] for field in fields(GapOptions) if field.name in given}
    changed = {
        "classes": tuple(name.strip() for name in given["classes"].split(",") if name.strip()),
        "preprocessing": given["preprocess"],
        "class_weights": _weights(given["class_weights"]),
        "augmentation": _augmentation(given["flips"], given["jitter"]),
        "progress": progress,
    }
    return GapOptions(**(same | changed))


def _weights(text: str) -> str | tuple[float, ...]:
    """Read class weights: a word or numbers."""
    return text if text.isalpha() else _numbers("--class-weights", text, None)


def _augmentation(flips: str, jitter: str) -> Any:
    """Read flips and jitter."""
    from wsss_probe.errors import UsageError
    from wsss_probe_localizers.augmentation import Augmentation

    if flips not in {"both", "horizontal", "vertical", "none"}:
        raise UsageError("--flips unknown", found=repr(flips), wanted="both, horizontal, vertical or none")
    brightness, contrast, saturation, hue = _numbers("--jitter", jitter, 4)
    return Augmentation(
        horizontal=flips in {"both", "horizontal"},
        vertical=flips in {"both", "vertical"},
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
    )


def _numbers(flag: str, text: str, count: int | None) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    from wsss_probe.errors import UsageError

    wanted = "numbers separated by commas" if count is None else f"{count} numbers separated by commas"
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} cannot be read", found=repr(text), wanted=wanted) from error
    if count is not None and len(numbers) != count:
        raise UsageError(f"{flag} cannot be read", found=repr(text), wanted=wanted)
    return numbers


def _report(trained: "Trained") -> None:
    """Say what came out, and what to do next."""
    training = trained.training
    history = training["history"]
    typer.echo(f"{trained.folder}: classes {', '.join(trained.classes)}")
    typer.echo(f"epoch {training['best_epoch'] + 1} of {len(history)} kept, {training['seconds']:.1f} s")
    for split, metrics in training["metrics"].items():
        typer.echo(f"{split}: {metrics['n']} images in {metrics['groups']} groups")
        rows = {name: metrics[name] for name in ("accuracy", "balanced_accuracy")}
        rows |= {f"AUC {name}": interval for name, interval in metrics["auc"].items()}
        for name, interval in rows.items():
            typer.echo(f"  {name.replace('_', ' ')} {_shown(interval)}")
    for note in training["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"next: wsss-probe audit --model {trained.folder} --images DIR")


def _shown(interval: dict[str, Any]) -> str:
    """Write an estimate with its interval; undefined values say so."""
    if interval["estimate"] is None:
        return "undefined (one class only)"
    if interval["low"] is None:
        return f"{interval['estimate']:.3f} (no interval: {interval['note']})"
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
