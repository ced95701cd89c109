"""Haralick's features of 2,000 images: the concept measure on two processes, and mahotas in a plain loop.

Images of 96 x 96 and of 224 x 224 pixels are drawn with textures of several scales and lie in one file that
every process maps into memory. mahotas is given the grey images; the measure is given the colour images and
makes the grey ones itself. Both give the mean and the range over four directions of thirteen features, which
must agree to 1e-10 of their size. Both sides take blocks of 400 images in turn, on one thread per process, so
that other work on the machine slows both. ``ratio`` holds the start of the processes against the measure; the
ratio without it, that on one process, and that of processor time on one process stand beside it.

Run ``python benchmarks/bench_haralick.py`` (about a minute on a quiet machine).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

IMAGES, SIDES, PROCESSES, BLOCK, SHARD = 2000, (96, 224), 2, 400, 50


def draw(side: int, path: Path) -> None:
    """Write coloured textures of several scales, (image, row, column, channel)."""
    generator = np.random.default_rng(side)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (IMAGES, side, side, 3))
    for image in images:
        seen = np.full((side, side, 3), 170.0)
        for step in (16, 8, 4, 2, 1):
            coarse = generator.normal(
                scale=generator.uniform(2, 4 * step), size=(side // step, side // step, 1)
            )
            seen += np.kron(coarse, np.ones((step, step, 1))) * (0.8, 1.0, 0.6)
        image[:] = np.clip(seen, 0, 255)
    images.flush()


def ours(path: Path, begin: int, end: int) -> list[list[float]]:
    """Measure some of the images."""
    from wsss_probe_concepts.measures.haralick import Haralick

    from wsss_probe import View

    measure, images = Haralick(), np.load(path, mmap_mode="r")
    return [[float(v) for v in measure.measure(View(images[n])).values()] for n in range(begin, end)]


def theirs(greys: np.ndarray) -> list[list[float]]:
    """Loop over images."""
    import mahotas

    return [mahotas.features.haralick(grey, return_mean_ptp=True).tolist() for grey in greys]


def timed(function: Callable[[], list[list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the wall clock and of this process's processor; the features (image, feature)."""
    start = np.array([time.perf_counter(), time.process_time()])
    made = function()
    return np.array([time.perf_counter(), time.process_time()]) - start, np.array(made)


def compared(path: Path) -> dict[str, float]:
    """Time both sides block by block, in turn."""
    from wsss_probe_concepts.measures.grey import grey_levels

    images = np.load(path, mmap_mode="r")
    theirs(np.array([grey_levels(image) for image in images[:2]]))  # imports belong to neither side
    ours(path, 0, 2)
    seconds, error = {name: np.zeros(2) for name in ("mahotas", "two", "one")}, 0.0
    get_reusable_executor().shutdown(wait=True)
    with Parallel(n_jobs=PROCESSES) as pool:
        start, _ = timed(lambda: pool(delayed(ours)(path, n, n + 1) for n in range(PROCESSES)))
        for begin in range(0, IMAGES, BLOCK):
            greys = np.array([grey_levels(image) for image in images[begin : begin + BLOCK]])
            parts = range(begin, begin + BLOCK, SHARD)
            taken, wanted = timed(lambda greys=greys: theirs(greys))
            seconds["mahotas"] += taken
            shards = [delayed(ours)(path, n, n + SHARD) for n in parts]
            taken, found = timed(lambda shards=shards: [row for part in pool(shards) for row in part])
            seconds["two"] += taken
            taken, alone = timed(lambda n=begin: ours(path, n, n + BLOCK))
            seconds["one"] += taken
            assert np.array_equal(found, alone)
            error = max(error, (np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)).max())
    assert error < 1e-10, error
    wall, processor = ({name: own[clock] for name, own in seconds.items()} for clock in (0, 1))
    return {
        "mahotas_seconds": round(wall["mahotas"], 2),
        "seconds": round(wall["two"] + start[0], 2),
        "seconds_to_start": round(start[0], 2),
        "ratio": round(wall["mahotas"] / (wall["two"] + start[0]), 2),
        "ratio_processes_running": round(wall["mahotas"] / wall["two"], 2),
        "ratio_one_process": round(wall["mahotas"] / wall["one"], 2),
        "mahotas_processor_seconds": round(processor["mahotas"], 2),
        "processor_seconds_one_process": round(processor["one"], 2),
        "ratio_processor_one_process": round(processor["mahotas"] / processor["one"], 2),
        "largest_error": float(error),
    }


def main() -> None:
    """Compare both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    report: dict[str, object] = {"images": IMAGES, "processes": PROCESSES, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            path = Path(folder) / f"{side}.npy"
            draw(side, path)
            report[f"{side}x{side}"] = compared(path)
    report["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
