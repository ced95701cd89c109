"""Pictures with planted objects whose masks are known, and pictures with nothing to find.

Each scene depends on its own number and the seed only, so a longer set begins with the shorter one.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from PIL import Image

from wsss_probe.masks import MaskSpec, sidecar_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scene", "SceneOptions", "nothing", "planted", "write_scenes"]

_TISSUE = np.array([226.0, 190.0, 208.0])
_DYES = np.array([[120.0, 40.0, 60.0], [50.0, 60.0, 130.0], [40.0, 110.0, 60.0], [130.0, 110.0, 30.0]])


@final
@dataclass(frozen=True)
class SceneOptions:
    """How scenes look.

    Parameters
    ----------
    size : (int, int)
        Row and column, in pixels; at least 16.
    classes : tuple of str
        Up to four; each has a dye of its own. Objects are discs and squares in every class.
    contrast : float
        1 shows objects in full dye, 0 not at all; masks and labels are the same.
    noise : float
        Standard deviation of the noise on each pixel, in grey levels.
    distractors : int
        Grey objects that carry no label and no mask, in every scene.
    group_size : int
        Scenes that share a group; they also share a tint.
    """

    size: tuple[int, int] = (64, 64)
    classes: tuple[str, ...] = ("red", "blue")
    contrast: float = 1.0
    noise: float = 12.0
    distractors: int = 2
    group_size: int = 4


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """One picture with its truth.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3)
    mask : ndarray of uint8, (row, column)
        0 background, ``1 + position`` of the class elsewhere.
    label, group, split : str
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    label: str
    group: str
    split: str


def planted(count: int, seed: int = 0, options: SceneOptions | None = None) -> tuple[Scene, ...]:
    """Make scenes with one to three objects of one class each; classes take turns.

    Parameters
    ----------
    count, seed : int
    options : SceneOptions, optional

    Returns
    -------
    tuple of Scene
        Every fourth group is ``test``, the others are ``train``.
    """
    chosen = options or SceneOptions()
    return tuple(_scene(number, seed, chosen) for number in range(count))


def nothing(count: int, seed: int = 0, options: SceneOptions | None = None) -> tuple[Scene, ...]:
    """Make the same scenes with invisible objects: labels and masks say nothing about the pixels.

    Parameters
    ----------
    count, seed : int
    options : SceneOptions, optional
        Its contrast is not used.

    Returns
    -------
    tuple of Scene
    """
    return planted(count, seed, replace(options or SceneOptions(), contrast=0.0))


def write_scenes(
    folder: str | Path, scenes: Sequence[Scene], classes: Sequence[str] = ("red", "blue")
) -> Path:
    """Write ``images/``, ``masks/``, ``manifest.csv`` and ``manifest.toml`` with the mask classes.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist.
    scenes : sequence of Scene
    classes : sequence of str
        As in the options of the scenes.

    Returns
    -------
    Path
        The manifest.
    """
    root = Path(folder)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    rows = [("image", "label", "mask", "group", "split")]
    for number, scene in enumerate(scenes):
        image, mask = f"images/{number:04}.png", f"masks/{number:04}.png"
        Image.fromarray(scene.pixels).save(root / image)
        Image.fromarray(scene.mask).save(root / mask)
        rows.append((image, scene.label, mask, scene.group, scene.split))
    spec = MaskSpec(tuple((name, (position,)) for position, name in enumerate(classes, start=1)))
    (root / "manifest.toml").write_text(sidecar_text(spec), encoding="utf-8")
    path = root / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def _scene(number: int, seed: int, options: SceneOptions) -> Scene:
    random = np.random.default_rng((seed, number))
    group = number // options.group_size
    position = number % len(options.classes)
    tint = np.random.default_rng((seed, group, 1)).normal(0, 6, 3)
    canvas = np.tile(_TISSUE + tint, (*options.size, 1))
    for _ in range(options.distractors):
        # Across the border too: then they cover all places alike and say nothing about masks
        canvas[_object(random, options.size, inside=-1)] = random.uniform(90, 170)
    mask = np.zeros(options.size, dtype=np.uint8)
    for _ in range(random.integers(1, 4)):
        mask[_object(random, options.size, inside=1)] = position + 1
    dyed = canvas + options.contrast * (_DYES[position] - canvas)
    canvas = np.where((mask > 0)[..., np.newaxis], dyed, canvas)
    noisy = canvas + random.normal(0, options.noise, canvas.shape)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    split = "test" if group % 4 == 3 else "train"
    return Scene(pixels, mask, options.classes[position], f"group {group}", split)


def _object(random: np.random.Generator, size: tuple[int, int], inside: int) -> NDArray[np.bool_]:
    """Draw a disc or a square whose centre keeps ``inside`` radii from the border."""
    radius = random.uniform(0.1, 0.18) * min(size)
    gap = inside * radius
    row, column = (random.uniform(gap, length - 1 - gap) for length in size)
    rows, columns = np.ogrid[: size[0], : size[1]]
    down, right = np.abs(rows - row), np.abs(columns - column)
    square = random.random() < 0.5
    return np.maximum(down, right) <= radius if square else down**2 + right**2 <= radius**2
