"""``wsss-probe train gap``: the command line of :func:`~wsss_probe_localizers.gap.fit_gap`."""

import sys
from typing import Annotated

import typer

from wsss_probe_localizers import flags
from wsss_probe_localizers.flags import DATA, LEARNING, NETWORK, flag

__all__ = ["train_gap"]

_Multilabel = Annotated[
    bool | None, flag(DATA, "One sigmoid per class; default: where an image has several labels.")
]
_Preprocess = Annotated[
    str | None, flag(DATA, "As in audit; default: image or tile size, colours measured in training.")
]
_Size = Annotated[int | None, flag(DATA, "Resize images to this side, in pixels.")]
_NativeScale = Annotated[
    bool, flag(DATA, "An audit then keeps the size of its images, at this scale.", "--native-scale")
]
_Backbone = Annotated[
    str, flag(NETWORK, "vgg, vgg16, a layout (16,16,P,32), torchvision/<name> or timm/<name>.")
]
_Width = Annotated[float, flag(NETWORK, "Factor on the widths of a vgg layout.")]
_LearningRate = Annotated[float, flag(LEARNING, "Peak of the one-cycle schedule.")]
_WeightDecay = Annotated[float, flag(LEARNING, "Of AdamW.")]


def train_gap(
    *,
    manifest: flags.ManifestFile = None,
    images: flags.Images = None,
    classes: flags.Classes = "",
    multilabel: _Multilabel = None,
    preprocess: _Preprocess = None,
    size: _Size = None,
    native_scale: _NativeScale = False,
    validation: flags.Validation = 0.2,
    backbone: _Backbone = "vgg",
    width: _Width = 1.0,
    epochs: flags.Epochs = 8,
    batch_size: flags.BatchSize = 64,
    learning_rate: _LearningRate = 3e-3,
    weight_decay: _WeightDecay = 1e-2,
    class_weights: flags.ClassWeights = "none",
    flips: flags.Flips = "both",
    jitter: flags.Jitter = "0,0,0,0",
    keep: flags.Keep = "loss",
    out: flags.Out,
    seed: flags.Seed = 0,
    device: flags.Device = "cpu",
    threads: flags.Threads = None,
    num_workers: flags.NumWorkers = 0,
    resume: flags.Resume = False,
    no_progress: flags.NoProgress = False,
) -> None:
    """Train a classifier with a GAP + linear head from image labels.

    Writes model.safetensors and model.json, which audit --model reads without further flags.
    """
    given = dict(locals())
    from wsss_probe.errors import ExitCode
    from wsss_probe_localizers.gap import fit_gap
    from wsss_probe_localizers.options import GapOptions

    options = flags.options_of(GapOptions, given, progress=not no_progress and sys.stderr.isatty())
    try:
        trained = fit_gap(flags.read_images("train gap", manifest, images), options, out)
    except KeyboardInterrupt as stop:
        typer.echo("interrupted; add --resume to go on from the last finished epoch", err=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from stop
    flags.report(trained)
