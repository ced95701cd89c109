"""PxAP over 1,000 maps of 224 x 224: time, memory, and the loop that the metric's authors run.

Each measurement is made in a fresh child process on one thread; maps are drawn one after another, so that
memory holds what the metric keeps and nothing else. The time covers resizing from 7 x 7, scaling each map to
[0, 1] and counting; ``count_seconds`` is the counting alone. The loop is what the authors' evaluator does
with NumPy: a histogram over 1,002 edges for the pixels in the mask, and one for those outside it. Both must
give the same PxAP. The peak is that of the resident set over the one after the imports and one map, for 250
and for 1,000 maps.

Run ``python benchmarks/bench_pxap.py`` (about half a minute).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

MAPS, FEWER, SIDE, GRID = 1000, 250, 224, 7


def drawn(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Maps on the grid of a layer, with a mask that covers about a fifth of the image."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        truth = np.zeros((SIDE, SIDE), dtype=bool)
        row, column = generator.integers(0, SIDE // 2, 2)
        truth[row : row + SIDE // 2, column : column + SIDE // 2] = True
        yield generator.normal(size=(GRID, GRID)).astype(np.float32), truth


def authors(scores: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """Count by ``numpy.histogram`` over explicit edges, and sum precision over recall from the top."""
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    inside, outside = (np.zeros(len(edges) - 1) for _ in range(2))
    for values, truth in zip(scores, truths, strict=True):
        inside += np.histogram(values[truth], bins=edges)[0]
        outside += np.histogram(values[~truth], bins=edges)[0]
    hits, wrong = inside[::-1].cumsum(), outside[::-1].cumsum()
    found = hits + wrong > 0
    precision, recall = hits[found] / (hits + wrong)[found], hits[found] / inside.sum()
    return float((precision[1:] * np.diff(recall)).sum() + precision[0] * recall[0])


def ours(scores: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """Count with the host's measure."""
    import torch

    from wsss_probe.pxap import pxap, score_histogram

    total = None
    for values, truth in zip(scores, truths, strict=True):
        counted = score_histogram(torch.from_numpy(values)[None], torch.from_numpy(truth)).pooled()
        total = counted if total is None else total + counted
    assert total is not None
    return float(pxap(total))


METHODS: dict[str, Callable[[list[np.ndarray], list[np.ndarray]], float]] = {"ours": ours, "authors": authors}


def streamed(count: int) -> dict[str, float]:
    """Resize, scale and count maps one by one; seconds, megabytes above the first map, and PxAP."""
    import torch

    from wsss_probe.pxap import normalised, pxap, resized, score_histogram

    torch.set_num_threads(1)
    total, started, base = None, 0.0, 0.0
    for number, (plane, truth) in enumerate(drawn(count)):
        if number == 1:
            started, base = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        scores = normalised(resized(torch.from_numpy(plane)[None], (SIDE, SIDE)))
        counted = score_histogram(scores, torch.from_numpy(truth)).pooled()
        total = counted if total is None else total + counted
    assert total is not None
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "grown_mb": peak - base, "pxap": float(pxap(total))}


def compared() -> dict[str, float]:
    """Seconds of both methods for counting alone, in turn, and their PxAP."""
    import torch

    from wsss_probe.pxap import normalised, resized

    made = [
        (normalised(resized(torch.from_numpy(m)[None], (SIDE, SIDE)))[0].numpy(), t) for m, t in drawn(100)
    ]
    scores, truths = [one for one, _ in made], [truth for _, truth in made]
    result: dict[str, float] = {}
    for name, method in METHODS.items():
        method(scores[:2], truths[:2])  # imports belong to neither side
        start = time.process_time()
        result[f"{name}_pxap"] = method(scores, truths)
        result[f"{name}_seconds"] = time.process_time() - start
    return result


def measure(*arguments: str) -> dict[str, float]:
    """Run one measurement in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure, or be a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream or arguments.compare:
        print(json.dumps(compared() if arguments.compare else streamed(arguments.stream)))
        return
    few, many, both = measure("--stream", str(FEWER)), measure("--stream", str(MAPS)), measure("--compare")
    assert abs(both["ours_pxap"] - both["authors_pxap"]) < 1e-12, both
    report = {
        "maps": [MAPS, SIDE, SIDE],
        "seconds": round(many["seconds"], 2),
        "peak_mb_250": round(few["peak_mb"], 1),
        "peak_mb_1000": round(many["peak_mb"], 1),
        "memory_ratio": round(many["peak_mb"] / few["peak_mb"], 3),
        "grown_mb_1000": round(many["grown_mb"], 2),
        "count_seconds_100": round(both["ours_seconds"], 3),
        "authors_count_seconds_100": round(both["authors_seconds"], 3),
        "ratio": round(both["authors_seconds"] / both["ours_seconds"], 2),
        "pxap": many["pxap"],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
