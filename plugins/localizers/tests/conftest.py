"""Small folders of images with planted truth; nothing random but by an explicit generator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss_probe.manifest import Manifest
from wsss_probe.zoo import ensure_torchvision

ensure_torchvision()  # before any test imports lightning


def planted_picture(
    generator: np.random.Generator, strength: float, present: bool, side: int = 20
) -> np.ndarray:
    """Noise, a bright stripe as distractor in every image, and a reddish blob where ``present``."""
    pixels = generator.normal(110, 25, (side, side, 3))
    row = generator.integers(0, side - 2)
    pixels[row : row + 2] += 40
    if present:
        top, left = generator.integers(1, side - 7, 2)
        pixels[top : top + 6, left : left + 6] += strength * np.array([90, -50, -50])
    return pixels.clip(0, 255).astype(np.uint8)


def write_planted(
    folder: Path, images: int, *, strength: float = 1.0, shuffled: bool = False, seed: int = 0
) -> Manifest:
    """Write images of two classes; four images to a group; ``shuffled`` labels say nothing."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(images):
        present = bool(generator.integers(2))
        name = f"{index:04d}.png"
        Image.fromarray(planted_picture(generator, strength, present)).save(folder / name)
        rows.append({"image": name, "label": "blob" if present else "none", "group": f"g{index // 4}"})
    frame = pd.DataFrame(rows)
    if shuffled:
        frame["label"] = generator.permutation(frame["label"].to_numpy())
    return Manifest(folder, frame)


@pytest.fixture(scope="session")
def make_planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """Write images into a fresh folder; see :func:`write_planted`."""

    def make(images: int, **how: object) -> Manifest:
        return write_planted(tmp_path_factory.mktemp("planted"), images, **how)

    return make


@pytest.fixture(scope="session")
def planted(make_planted: Callable[..., Manifest]) -> Manifest:
    """240 images, two classes, 60 groups, a third held out by group."""
    manifest = make_planted(240)
    split = ["test" if int(group[1:]) % 3 == 0 else "train" for group in manifest.frame["group"]]
    return replace(manifest, frame=manifest.frame.assign(split=split))
