"""Flags that all ``train`` commands share, how they are read, and what is told at the end."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest
    from wsss_probe_localizers.fitting import Trained
    from wsss_probe_localizers.options import TrainingOptions

__all__ = [
    "DATA",
    "LEARNING",
    "NETWORK",
    "RUNNING",
    "BatchSize",
    "ClassWeights",
    "Classes",
    "Device",
    "Epochs",
    "Flips",
    "Images",
    "Jitter",
    "Keep",
    "ManifestFile",
    "NoProgress",
    "NumWorkers",
    "Out",
    "Resume",
    "Seed",
    "Threads",
    "Validation",
    "flag",
    "options_of",
    "read_images",
    "report",
    "shown",
]

DATA, NETWORK, LEARNING, RUNNING = "Data", "Network", "Learning", "Running"


def flag(panel: str, text: str, *names: str) -> Any:
    """Describe one flag.

    Parameters
    ----------
    panel : str
        Group in the help.
    text : str
    *names : str
        Only where typer's own name does not do.
    """
    return typer.Option(*names, help=text, rich_help_panel=panel)


ManifestFile = Annotated[Path | None, flag(DATA, "CSV or Parquet file with image, label and split.")]
Images = Annotated[Path | None, flag(DATA, "Folder class/image.png, instead of a manifest.")]
Classes = Annotated[str, flag(DATA, "Order of the classes, comma-separated; default: sorted.")]
Validation = Annotated[float, flag(DATA, "Share of the groups set aside where no row has split val.")]
Epochs = Annotated[int, flag(LEARNING, "Passes over the training images.")]
BatchSize = Annotated[int, flag(LEARNING, "Images per step.")]
ClassWeights = Annotated[str, flag(LEARNING, "none, balanced, or one number per class: 1,3.")]
Flips = Annotated[str, flag(LEARNING, "both, horizontal, vertical or none.")]
Jitter = Annotated[str, flag(LEARNING, "Of brightness, contrast, saturation, hue: 0.2,0.2,0.1,0.02.")]
Keep = Annotated[str, flag(LEARNING, "Epoch kept: lowest validation loss, highest auc, or the last.")]
Seed = Annotated[int, flag(RUNNING, "Fixes new weights, order, augmentation and split.")]
Device = Annotated[str, flag(RUNNING, "cpu, cuda or cuda:1.")]
Threads = Annotated[int | None, flag(RUNNING, "CPU threads; default: torch's choice.")]
NumWorkers = Annotated[int, flag(RUNNING, "Decoding processes, for images too many for memory.")]
Resume = Annotated[bool, flag(RUNNING, "Go on from the last finished epoch.", "--resume")]
NoProgress = Annotated[bool, flag(RUNNING, "Show no bar.", "--no-progress")]
Out = Annotated[Path, flag(RUNNING, "Folder of the model; must not exist.")]


def read_images(command: str, manifest: Path | None, images: Path | None) -> "Manifest":
    """Read the one that was given.

    Parameters
    ----------
    command : str
        For the message.
    manifest, images : Path or None

    Returns
    -------
    Manifest

    Raises
    ------
    UsageError
        If it is not exactly one.
    """
    from wsss_probe.errors import UsageError
    from wsss_probe.manifest import discover, read_manifest

    if manifest is not None and images is None:
        return read_manifest(manifest)
    if images is not None and manifest is None:
        return discover(images)
    raise UsageError(f"{command} needs its images once", wanted="--manifest FILE or --images FOLDER")


def options_of(kind: "type[TrainingOptions]", given: dict[str, Any], **changed: Any) -> Any:
    """Turn flags into options; every flag that has an option's name is one.

    Parameters
    ----------
    kind : type
        The dataclass of the options.
    given : dict
        Flags by the name of their parameter.
    **changed
        Options that are not just a flag.

    Returns
    -------
    TrainingOptions
        Of that kind.
    """
    same = {field.name: given[field.name] for field in fields(kind) if field.name in given}
    read = {
        "classes": tuple(name.strip() for name in given["classes"].split(",") if name.strip()),
        "preprocessing": given["preprocess"],
        "class_weights": _weights(given["class_weights"]),
        "augmentation": _augmentation(given["flips"], given["jitter"]),
    }
    return kind(**(same | read | changed))


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


def report(trained: "Trained") -> None:
    """Say what came out, and what to do next.

    Parameters
    ----------
    trained : Trained
    """
    training = trained.training
    history = training["history"]
    typer.echo(f"{trained.folder}: classes {', '.join(trained.classes)}")
    typer.echo(f"epoch {training['best_epoch'] + 1} of {len(history)} kept, {training['seconds']:.1f} s")
    for split, metrics in training["metrics"].items():
        typer.echo(f"{split}: {metrics['n']} images in {metrics['groups']} groups")
        rows = {name: metrics[name] for name in ("accuracy", "balanced_accuracy")}
        rows |= {f"AUC {name}": interval for name, interval in metrics["auc"].items()}
        for name, interval in rows.items():
            typer.echo(f"  {name.replace('_', ' ')} {shown(interval)}")
    for note in training["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"next: wsss-probe audit --model {trained.folder} --images DIR")


def shown(interval: dict[str, Any]) -> str:
    """Write an estimate with its interval; undefined values say so.

    Parameters
    ----------
    interval : dict
        ``estimate``, ``low``, ``high``, ``note``, as a training records them.

    Returns
    -------
    str
    """
    if interval["estimate"] is None:
        return "undefined (one class only)"
    if interval["low"] is None:
        return f"{interval['estimate']:.3f} (no interval: {interval['note']})"
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
