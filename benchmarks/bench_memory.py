"""Peak memory of an audit of 2,000 images against that of 200: it must not grow with the images.

Each audit runs in a fresh child process on generated PNG files (96 x 96), with stored maps of one layer,
all explainers and one control. The target is a ratio of at most 1.2.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

COUNTS = (200, 2000)


def write_images(folder: Path, count: int) -> None:
    """Write noisy pictures in two classes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(place / f"{number}.png")


def child(count: int) -> None:
    """Audit ``count`` images and print the peak resident set in MB."""
    import torch
    from torch import nn

    import wsss_probe
    from wsss_probe.allocator import tune_allocator

    tune_allocator()
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inside, outside in ((3, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    net = nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_images(images, count)
        wsss_probe.audit(
            net, images, out=f"{folder}/run", preprocess="unit", classes=("a", "b"), layers=("0",),
            controls="shuffled:1", store_activations=("0",),
        )  # fmt: skip
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure, or be a child."""
    if len(sys.argv) == 3 and sys.argv[1] == "--child":
        child(int(sys.argv[2]))
        return
    peak = {}
    for count in COUNTS:
        command = [sys.executable, __file__, "--child", str(count)]
        done = subprocess.run(command, check=True, capture_output=True)
        peak[count] = float(done.stdout.split()[-1])
    ratio = peak[2000] / peak[200]
    print(json.dumps({"peak_mb_200": peak[200], "peak_mb_2000": peak[2000], "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
