"""Seconds of ``wsss-probe --help`` in a fresh process, with all plugins; the median of five."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median


def once() -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "wsss_probe", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Call once to warm the disk cache, then measure."""
    once()
    bare = median(_bare() for _ in range(5))
    print(
        json.dumps(
            {"help_seconds": round(median(once() for _ in range(5)), 3), "bare_python": round(bare, 3)}
        )
    )


def _bare() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
