"""Run every benchmark and write its figures, with the machine, to ``benchmarks/results/latest.json``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run them one after another; they must not disturb each other."""
    figures = {}
    for path in sorted(HERE.glob("bench_*.py")):
        done = subprocess.run([sys.executable, str(path)], check=True, capture_output=True, text=True)
        figures[path.stem] = json.loads(done.stdout)
        print(path.stem, json.dumps(figures[path.stem]), flush=True)
    machine = {"python": platform.python_version(), "processor": platform.machine(), "cores": os.cpu_count()}
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.json").write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
