"""A small audit on planted scenes, in a fresh folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FACTORY = """
from wsss_probe.testing.models import planted_gap

def planted():
    return planted_gap()
"""


def write_scene(folder, number, present, size=32):
    """Write one noisy picture with a red square, or without, and its mask."""
    random = np.random.default_rng(number)
    pixels = random.integers(60, 120, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), np.uint8)
    if present:
        row, column = random.integers(0, size - 12, 2)
        mask[row : row + 12, column : column + 12] = 1
        pixels[mask == 1] = (250, 20, 40)
    Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A manifest of 40 scenes in 20 groups; every other one holds the foreground."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = ["image,label,mask,group,split"]
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(40):
        write_scene(folder, number, number % 2 == 0)
        label = "foreground" if number % 2 == 0 else "background"
        rows.append(f"images/{number:03}.png,{label},masks/{number:03}.png,g{number // 2},test")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def factory(tmp_path_factory):
    """A factory file of the planted network."""
    path = tmp_path_factory.mktemp("factory") / "nets.py"
    path.write_text(FACTORY)
    return f"{path}:planted"


@pytest.fixture
def command(tmp_path):
    """Run ``wsss-probe`` in a child process; returns the completed process."""

    def call(*arguments, cwd=None, env=None):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "wsss_probe", *map(str, arguments)],
            cwd=cwd or tmp_path,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights beside the checkout."""
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.is_dir():
        if os.environ.get("WSSS_PROBE_REQUIRE_REAL") == "1":
            pytest.fail(f"real data are required and absent: {folder}")
        pytest.skip("no real data beside the checkout")
    return folder
