"""Batched Otsu and F1 of one image's 512 maps of 28 × 28, against the loop a user would write.

The loop is ``skimage.filters.threshold_otsu`` and ``sklearn.metrics.f1_score`` over the maps. Every timing
is made in a fresh child process, loop and batch in turn, so that neither inherits the other's allocator or
clock speed; the median of five is reported. Both run on one thread, since the loop can use no more.
Processor time is counted: on an idle machine it is the wall time, and on a busy one the interruptions of the
long loop would flatter the short batch. Both must give the same F1.

Run ``python benchmarks/bench_channel_f1.py`` (about a minute), or with ``--quick`` for one round.
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

import numpy as np

CHANNELS, SIDE = 512, 28
ROUNDS = 5
REPEATS = {"loop": 2, "batched": 50}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Rectified maps, half of them zero as in a real layer, and a mask that covers a quarter."""
    generator = np.random.default_rng(0)
    maps = np.maximum(generator.normal(size=(CHANNELS, SIDE, SIDE)), 0).astype(np.float32)
    mask = np.zeros((SIDE, SIDE), dtype=np.int64)
    mask[: SIDE // 2, : SIDE // 2] = 1
    return maps, mask


def by_loop(maps: np.ndarray, mask: np.ndarray) -> list[float]:
    """One map after the other, as in the libraries' examples."""
    from skimage.filters import threshold_otsu
    from sklearn.metrics import f1_score

    truth = mask.ravel()
    return [float(f1_score(truth, (one > threshold_otsu(one)).ravel())) for one in maps]


def batched(maps: np.ndarray, mask: np.ndarray) -> list[float]:
    """All maps at once with the host's measures."""
    import torch

    from wsss_probe.overlap import f1, overlap_counts
    from wsss_probe.threshold import binarize, otsu

    tensor = torch.from_numpy(maps)[None]
    classes = torch.from_numpy(np.where(mask == 1, 0, -2))[None]
    predicted = binarize(tensor, otsu(tensor))
    return f1(overlap_counts(predicted, classes, 1))[0, :, 0].tolist()


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], list[float]]] = {"loop": by_loop, "batched": batched}


def child(name: str) -> None:
    """Time one method in this process and print the seconds and the scores."""
    maps, mask = data()
    scores = METHODS[name](maps, mask)  # imports and first-touch costs belong to neither side
    seconds = []
    for _ in range(REPEATS[name]):
        start = time.process_time()
        METHODS[name](maps, mask)
        seconds.append(time.process_time() - start)
    print(json.dumps({"seconds": median(seconds), "scores": scores}))


def measure(name: str) -> dict[str, object]:
    """Run one method in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    """Interleave the children, compare their scores and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--child", choices=sorted(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    rounds = [{name: measure(name) for name in METHODS} for _ in range(1 if arguments.quick else ROUNDS)]
    np.testing.assert_allclose(rounds[0]["batched"]["scores"], rounds[0]["loop"]["scores"], rtol=1e-12)
    seconds = {name: median(float(str(one[name]["seconds"])) for one in rounds) for name in METHODS}
    report = {
        "maps": [CHANNELS, SIDE, SIDE],
        "rounds": len(rounds),
        "loop_seconds": seconds["loop"],
        "batched_seconds": seconds["batched"],
        "ratio": seconds["loop"] / seconds["batched"],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
