"""The demo, as a user would type it: manifests, a trained network, an audit, a report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOTE_FILE = Path(os.path.relpath(HERE / "demo.toml"))


def commands(folder: Path) -> list[list[str]]:
    """The commands of the demo, in order, without the program's name."""
    labels = "stained:foreground>=0.15,unstained:foreground<=0.05"
    train, audit, model = f"{folder / 'train'}", f"{folder / 'audit'}", f"{folder / 'stain-gap'}"
    network = "16,16,P,32,32,P,64,64"
    return [
        f"manifest {train} --out {train}.csv --tile 32 --stride 8 --label-from-mask {labels}".split(),
        f"manifest {audit} --out {audit}.csv --tile 64 --stride 32 --label-from-mask {labels}".split()
        + ["--split", "test=1"],
        f"train gap --manifest {train}.csv --out {model} --backbone {network} --epochs 8".split()
        + "--learning-rate 0.003 --native-scale --threads 1 --no-progress".split(),
        f"audit --model {model} --manifest {audit}.csv --run-file {NOTE_FILE}".split()
        + f"--out {folder / 'run'} --no-progress".split(),
    ]


def main(folder: Path, report: Path) -> None:
    """Run the demo from scratch and copy its report."""
    for old in ("stain-gap", "run", "run.partial"):
        shutil.rmtree(folder / old, ignore_errors=True)
    for arguments in commands(folder):
        print("$ wsss-probe", " ".join(arguments), flush=True)
        subprocess.run([sys.executable, "-m", "wsss_probe", *arguments], check=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "run" / "report.html", report)
    print(f"Demo report: {report}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
