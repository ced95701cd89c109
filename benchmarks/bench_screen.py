"""Channel-F1 of 512 maps of 28 x 28 beside the VGG-16 forward pass that makes them, at 448 px.

All is processor time of one thread, so that a busy machine disturbs it little, and per image, in batches of
two. Every round is a fresh child process in which the sides take turns; the median of the rounds is reported.

``forward``  torchvision's VGG-16 without its last pool and head, tuned: channels_last, glibc keeps memory
``layer``    the probe channel-f1: all 512 channels on the layer's grid, two regions, and its baselines
``best``     channel-f1-fine: the 32 best channels of both regions, here 64, on the masks' grid
``all``      channel-f1-fine with all 512 channels
``loop``     what a user would write: resize, skimage's Otsu and sklearn's F1 map by map, both regions;
             made for few maps and scaled to 512

Regions: layer <= 0.05 x forward, all <= 4 x forward. ``peak_mb`` is what the screen of all channels adds to
the resident memory, for batches of one and of four images, whose resized maps would be 411 and 1,644 MB.

Run ``python benchmarks/bench_screen.py`` (some minutes), or with ``--quick`` for one round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_probe import Batch

CHANNELS, SIDE, INPUT, BATCH = 512, 28, 448, 2
ROUNDS = 5
LOOP_MAPS = {"layer": 32, "mask": 8}


def network() -> Callable[..., Any]:
    """VGG-16 up to its last convolution, with random weights."""
    import torch

    from wsss_probe.zoo import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import vgg16

    torch.manual_seed(0)
    net = vgg16(weights=None).eval().features[:-1]
    return net.to(memory_format=torch.channels_last).requires_grad_(False)


def batch(images: int) -> Batch:
    """Rectified maps, masks with one object, images of noise, and ranks that choose 64 channels."""
    import numpy as np
    import torch
    import xarray as xr

    from wsss_probe import Batch, Head

    generator = torch.Generator().manual_seed(0)
    masks = torch.full((images, INPUT, INPUT), -2)
    masks[:, 100:300, 120:330] = 0
    place = np.arange(1, CHANNELS + 1)
    ranks = xr.Dataset(
        {"rank": (("channel", "class"), np.stack([place, place[::-1]], axis=1).astype(float))},
        coords={"class": ["gland", "not gland"]},
    )
    return Batch(
        indices=np.arange(images),
        images=torch.rand(images, 3, INPUT, INPUT, generator=generator),
        labels=torch.zeros(images, 2, dtype=torch.bool),
        masks=masks,
        mask_classes=("gland",),
        readable=torch.ones(images, dtype=torch.bool),
        logits=torch.zeros(images, 2),
        activations={"conv": torch.randn(images, CHANNELS, SIDE, SIDE, generator=generator).relu()},
        gradients={},
        head=Head(linear=False),
        forward=lambda given: given,
        resume=lambda _layer, maps: maps,
        tables={"channel-f1@conv": ranks},
    )


def loop(given: Batch, number: int, side: int) -> None:
    """One map after the other, as in the libraries' examples."""
    import torch
    from skimage.filters import threshold_otsu
    from sklearn.metrics import f1_score

    size = (side, side)
    masks = torch.nn.functional.interpolate(given.masks[:1, None].float(), size=size)[0, 0]
    truth = (masks == 0).numpy().ravel()
    for one in given.activations["conv"][0, :number]:
        resized = torch.nn.functional.interpolate(one[None, None], size=size, mode="bilinear")[0, 0].numpy()
        found = (resized > threshold_otsu(resized)).ravel()
        for region in (truth, ~truth):
            f1_score(region, found)


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median processor time of some repeats."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        taken.append(time.process_time() - started)
    return median(taken)


def timed() -> dict[str, float]:
    """Seconds for one image of every side, in one process."""
    import torch
    from wsss_probe_channels import ChannelF1
    from wsss_probe_channels.screening.fine import ChannelF1Fine

    from wsss_probe.allocator import tune_allocator

    tune_allocator()
    torch.set_num_threads(1)
    net, given = network(), batch(BATCH)
    images = given.images.contiguous(memory_format=torch.channels_last)
    sides: dict[str, tuple[Callable[[], object], int, float]] = {
        "forward": (lambda: net(images), 3, BATCH),
        "layer": (lambda: ChannelF1("conv").observe(given), 9, BATCH),
        "best": (lambda: ChannelF1Fine("conv").observe(given), 3, BATCH),
        "all": (lambda: ChannelF1Fine("conv", channels=0).observe(given), 1, BATCH),
        "loop_layer": (lambda: loop(given, LOOP_MAPS["layer"], SIDE), 1, LOOP_MAPS["layer"] / CHANNELS),
        "loop_mask": (lambda: loop(given, LOOP_MAPS["mask"], INPUT), 1, LOOP_MAPS["mask"] / CHANNELS),
    }
    with torch.inference_mode():
        net(images)  # imports, packing of weights and first pages belong to no side
        ChannelF1Fine("conv").observe(given)
        loop(given, 1, SIDE)
        return {name: seconds(step, repeats) / share for name, (step, repeats, share) in sides.items()}


def peak(images: int) -> float:
    """MB that the screen of all channels adds to the resident memory of a process that made its maps."""
    import torch
    from wsss_probe_channels.screening.fine import ChannelF1Fine

    from wsss_probe.allocator import tune_allocator

    tune_allocator()
    torch.set_num_threads(1)
    given = batch(images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ChannelF1Fine("conv", channels=0).observe(given)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


CHILDREN: dict[str, Callable[[], object]] = {
    "timed": timed,
    "peak_1": lambda: peak(1),
    "peak_4": lambda: peak(4),
}


def measure(name: str) -> Any:
    """Run one child and read what it prints."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, or be a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child]()))
        return
    rounds = [measure("timed") for _ in range(1 if arguments.quick else ROUNDS)]
    middle = {name: median(one[name] for one in rounds) for name in rounds[0]}
    ratios = {name: median(one[name] / one["forward"] for one in rounds) for name in ("layer", "best", "all")}
    report = {
        "clock": "processor time of one thread, per image",
        "maps": [CHANNELS, SIDE, SIDE],
        "input": INPUT,
        "rounds": len(rounds),
        **{f"{name}_seconds": round(value, 4) for name, value in middle.items()},
        **{f"{name}_over_forward": round(value, 3) for name, value in ratios.items()},
        "loop_scaled_from_maps": LOOP_MAPS,
        "loop_over_layer": round(middle["loop_layer"] / middle["layer"], 1),
        "loop_over_all": round(middle["loop_mask"] / middle["all"], 1),
        "peak_mb": {images: round(measure(f"peak_{images}"), 1) for images in (1, 4)},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
