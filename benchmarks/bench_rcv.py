"""Regression concept vectors of a whole study: time against a loop of sklearn, and memory against images.

Time: 30 concepts x 6 layers (16 to 1,280 channels) x 10 splits x 3 networks on 1,000 images, by OLS, ridge
and principal components with their held-out R². The loop beside it is sklearn's LinearRegression for each
concept and split; it is run for 2 concepts and 1 split of each layer in the same process and multiplied,
since all of it takes minutes. Memory: the peak resident set of a child process that fits 30 concepts to 320
channels, which come 500 rows at a time, for 2,000 and for 20,000 images. What has a number for every image
and concept (two working copies of the concepts, and the held-out residuals that are returned) must grow with
the images; ``working_mb`` is the growth over the start without these tables, and must not.

Run ``python benchmarks/bench_rcv.py`` (about a minute).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IMAGES, CONCEPTS, NETWORKS = 1000, 30, 3
CHANNELS = (16, 24, 32, 96, 320, 1280)
FEWER, MORE, WIDE, ROWS = 2000, 20000, 320, 500
LOOPED = (2, 1)
"""Concepts and splits of the loop that are measured."""


def drawn(images: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that hang together, in float32 as a survey keeps them, and concepts that they half explain."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(images, 12))
    features = hidden @ generator.normal(size=(12, channels)) + generator.normal(size=(images, channels))
    concepts = hidden @ generator.normal(size=(12, CONCEPTS)) + 3 * generator.normal(size=(images, CONCEPTS))
    return features.astype(np.float32), concepts


def timed() -> dict[str, float]:
    """Processor seconds of the study on one thread, and of the loop for the same number of fits."""
    from sklearn.linear_model import LinearRegression
    from wsss_probe_concepts.regression import held_out_r2, make_folds, regress

    folds = make_folds(IMAGES)
    ours = loop = 0.0
    by_channels = {}
    for channels in CHANNELS:
        start = time.process_time()
        for network in range(NETWORKS):
            features, concepts = drawn(IMAGES, channels, network)
            for fitted in regress(features, concepts, folds).values():
                held_out_r2(fitted)
        by_channels[f"seconds_{channels}"] = round(time.process_time() - start, 2)
        ours += time.process_time() - start
        start = time.process_time()
        for test in folds.test[: LOOPED[1]]:
            training = np.setdiff1d(np.arange(IMAGES), test)
            for concept in range(LOOPED[0]):
                model = LinearRegression().fit(
                    features[training].astype(np.float64), concepts[training, concept]
                )
                model.score(features[test], concepts[test, concept])
        measured = (time.process_time() - start) / (LOOPED[0] * LOOPED[1])
        loop += measured * CONCEPTS * len(folds.test) * NETWORKS
    return {"seconds": ours, "loop_seconds": loop, **by_channels}


def chunks(images: int) -> Iterator[np.ndarray]:
    """Features some rows at a time; made anew at every call, so that none are kept."""
    for number in range(images // ROWS):
        yield drawn(ROWS, WIDE, number)[0]


def streamed(images: int) -> dict[str, float]:
    """Peak resident set in MB before and after fits to features that come in chunks."""
    from wsss_probe_concepts.regression import make_folds, regress_chunks

    concepts = np.concatenate([drawn(ROWS, WIDE, number)[1] for number in range(images // ROWS)])
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fits = regress_chunks(lambda: chunks(images), concepts, make_folds(images))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kept = sum(one.residual.nbytes for one in fits.values()) + next(iter(fits.values())).baseline.nbytes
    tables = (kept + 2 * concepts.nbytes) / 2**20
    return {"peak_mb": peak, "tables_mb": tables, "working_mb": peak - base - tables}


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
    parser.add_argument("--time", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream or arguments.time:
        print(json.dumps(timed() if arguments.time else streamed(arguments.stream)))
        return
    study, few, many = measure("--time"), measure("--stream", str(FEWER)), measure("--stream", str(MORE))
    report = {
        **{name: round(value, 2) for name, value in study.items()},
        "ratio": round(study["loop_seconds"] / study["seconds"], 1),
        **{f"{name}_{FEWER}": round(value, 1) for name, value in few.items()},
        **{f"{name}_{MORE}": round(value, 1) for name, value in many.items()},
        "memory_ratio": round(many["peak_mb"] / few["peak_mb"], 3),
        "working_ratio": round(many["working_mb"] / few["working_mb"], 3),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
