"""Ablation of all 512 channels under a linear head, in forward passes of VGG-16 at 448 x 448.

Three child processes in turn, each fresh, on one thread; processor time, since on a busy machine the
interruptions of a long run would flatter a short one. Seconds per image, the median of five rounds.

``forward``   one image through VGG-16's convolutions (512 maps of 28 x 28), pooling and a linear layer
``ablation``  ours, from pooled maps and head weights: every channel set to zero and to its mean, changes of
              all logits, decisions, chosen channels and bootstrap intervals, over 256 images, divided by 256
``loop``      what one would write: zero one channel of a copy of the maps, pool, run the linear layer again

The loop makes logits for zero only and no decisions. Both must give the same logits. The region is
ablation <= 0.2 x forward. Run ``python benchmarks/bench_ablation.py``, or with ``--quick`` for one round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np

CHANNELS, MAP, SIDE, CLASSES, IMAGES = 512, 28, 448, 2, 256
ROUNDS = 5


def head() -> tuple[np.ndarray, np.ndarray]:
    """Weight (class, channel) and bias (class,); logits are near one another, so that decisions change."""
    weight = np.random.default_rng(1).normal(size=(CLASSES, CHANNELS)) / 16
    return weight - weight.mean(axis=1, keepdims=True), np.zeros(CLASSES)


def maps(index: int) -> np.ndarray:
    """Rectified maps of one image, (channel, row, column)."""
    values = np.random.default_rng(index).normal(size=(CHANNELS, MAP, MAP))
    return np.maximum(values, 0).astype(np.float32)


def forward() -> tuple[float, list[float]]:
    """Seconds of one image through the network."""
    import torch

    from wsss_probe.zoo import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import vgg16

    features = vgg16(weights=None).features[:-1].eval()  # pooling replaces the last max-pool
    linear = torch.nn.Linear(CHANNELS, CLASSES)
    image = torch.rand(1, 3, SIDE, SIDE)

    def step() -> None:
        with torch.no_grad():
            linear(features(image).mean((2, 3)))

    return timed(step, 3), []


def ablation() -> tuple[float, list[float]]:
    """Seconds an image of the whole conclusion, and the changes of the first image."""
    import pandas as pd
    import xarray as xr
    from wsss_probe_channels.units.ablation import Labels, linear_effects
    from wsss_probe_channels.units.ablation_probe import Ablation

    from wsss_probe import Head, Survey

    weight, bias = head()
    pooled = np.random.default_rng(2).random((IMAGES, CHANNELS)) * 0.1 + 0.35
    pooled[0] = maps(0).mean((1, 2))
    logits = pooled @ weight.T + bias
    label = (np.arange(CLASSES) == logits.argmax(1)[:, None]).astype(np.float32)
    names = tuple(f"class {number}" for number in range(CLASSES))
    run = SimpleNamespace(
        survey=Survey({}, names, (), (), Head(True, "conv", weight, bias), (3, SIDE, SIDE), False, 0, IMAGES),
        pooled=lambda _layer: xr.DataArray(pooled, dims=("image", "channel")),
        rows=lambda _name: xr.Dataset({"label": (("image", "class"), label)}),
        logits=xr.DataArray(logits, dims=("image", "class")),
        images=pd.DataFrame({"split": [""] * IMAGES, "label": [""] * IMAGES}),
        groups=None,
        controls=(),
        not_testable="",
    )
    probe = Ablation(layer="conv")
    labels = Labels(label[:1] > 0, np.array([True]), multilabel=False)
    first = linear_effects(pooled[:1], weight, logits[:1], labels).logit_zero
    return timed(lambda: probe.conclude(run), 3) / IMAGES, first.ravel().tolist()


def loop() -> tuple[float, list[float]]:
    """Seconds of one image, channel by channel."""
    import torch

    weight, bias = (torch.from_numpy(part).float() for part in head())
    original = torch.from_numpy(maps(0))[None]

    def logits(given) -> torch.Tensor:
        return torch.nn.functional.linear(given.mean((2, 3)), weight, bias)[0]

    def step() -> list[float]:
        before, changes = logits(original), []
        for channel in range(CHANNELS):
            copy = original.clone()
            copy[:, channel] = 0
            changes += (logits(copy) - before).tolist()
        return changes

    return timed(step, 3), step()


def timed(step: Callable[[], object], times: int) -> float:
    """Seconds of one call, after a first one whose costs belong to nobody."""
    step()
    seconds = []
    for _ in range(times):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return median(seconds)


METHODS = {"forward": forward, "ablation": ablation, "loop": loop}


def measure(name: str) -> dict[str, object]:
    """Run one method in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **threads})
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    """Interleave the children, compare their changes and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--child", choices=sorted(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        seconds, changes = METHODS[arguments.child]()
        print(json.dumps({"seconds": seconds, "changes": changes}))
        return
    rounds = [{name: measure(name) for name in METHODS} for _ in range(1 if arguments.quick else ROUNDS)]
    np.testing.assert_allclose(rounds[0]["ablation"]["changes"], rounds[0]["loop"]["changes"], atol=1e-5)
    middle = {name: median(float(str(one[name]["seconds"])) for one in rounds) for name in METHODS}
    report = {
        "channels": CHANNELS,
        "rounds": len(rounds),
        **{f"{name}_seconds": value for name, value in middle.items()},
        "ablation_over_forward": middle["ablation"] / middle["forward"],
        "loop_over_forward": middle["loop"] / middle["forward"],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
