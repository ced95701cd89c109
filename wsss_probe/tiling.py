"""Large images cut into tiles that a network can take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe.decoding import Box, cut, decode, decode_mask, image_size
from wsss_probe.errors import ImageError, ManifestError, NothingToDoError, UsageError
from wsss_probe.masks import IGNORED
from wsss_probe.names import display, nearest
from wsss_probe.table import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.manifest import Manifest

__all__ = ["Draw", "MaskRule", "Tiling", "tile"]


@final
@dataclass(frozen=True)
class MaskRule:
    """A label for tiles by how much of them a mask class covers.

    Parameters
    ----------
    label : str
    mask_class : str
        Name in :class:`~wsss_probe.masks.MaskSpec`.
    at_least, at_most : float or None
        Bounds of the fraction of the tile's pixels that are not ignored, 0..1; at least one is given.

    Raises
    ------
    UsageError
        No bound, or bounds that no tile can meet.

    Examples
    --------
    ``MaskRule("gland", "foreground", at_least=0.30)``, ``MaskRule("none", "foreground", at_most=0.02)``
    """

    label: str
    mask_class: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        if (self.at_least is None and self.at_most is None) or not 0 <= low <= high <= 1:
            found = f"at least {self.at_least}, at most {self.at_most}"
            raise UsageError(
                f"rule for label {display(self.label)}", found=found, wanted="bounds within 0..1"
            )
        if not self.label or ";" in self.label:
            raise UsageError("rule needs one label", found=display(self.label))

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest fraction."""
        return (
            0.0 if self.at_least is None else self.at_least,
            1.0 if self.at_most is None else self.at_most,
        )


@final
@dataclass(frozen=True)
class Draw:
    """A few tiles of each image and label, drawn at random.

    Parameters
    ----------
    at_most : int
        Tiles kept of each image and label, 1 or more.
    seed : int
        The same seed, row of the manifest and tiles give the same draw.

    Raises
    ------
    UsageError
        ``at_most`` below 1.
    """

    at_most: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.at_most < 1:
            raise UsageError(
                "tiles kept of each image and label", found=str(self.at_most), wanted="1 or more"
            )

    def of(
        self, tiles: Sequence[tuple[Box, str]], image: int, dropped: Counter[str]
    ) -> list[tuple[Box, str]]:
        """Draw from one image's tiles; they stay in their order."""
        order = np.random.default_rng((self.seed, image)).permutation(len(tiles))
        seen: Counter[str] = Counter()
        kept = []
        for position in order:
            seen[tiles[position][1]] += 1
            if seen[tiles[position][1]] <= self.at_most:
                kept.append(int(position))
        dropped["not drawn"] += len(tiles) - len(kept)
        return [tiles[position] for position in sorted(kept)]


@final
@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles, and what was left out.

    Parameters
    ----------
    manifest : Manifest
        One row per tile.
    dropped : mapping of str to int
        Reason and how many images or tiles it concerns.
    """

    manifest: Manifest
    dropped: Mapping[str, int]


def tile(
    manifest: Manifest,
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
    *,
    label_from_mask: Sequence[MaskRule] = (),
    draw: Draw | None = None,
) -> Tiling:
    """Cut each image into tiles that lie fully inside; a last one lies flush with each border.

    Sizes are read from headers. The group of a tile is that of its image, or else the image's path.
    With rules, a tile has all labels whose rule it meets, and one that meets none is left out. With a
    draw, each image gives a few tiles of each label, so that large images and common labels do not
    outweigh the others.

    Parameters
    ----------
    manifest : Manifest
        Of whole images.
    size, stride : int or (int, int)
        Pixels, (row, column).
    label_from_mask : sequence of MaskRule
    draw : Draw, optional
        How many tiles to keep; all by default.

    Returns
    -------
    Tiling

    Raises
    ------
    UsageError
        Size or stride below 1, or a rule for a class that masks do not have.
    ManifestError
        The manifest holds tiles already, or rules are given and there are no masks.
    NothingToDoError
        No tile is left.
    """
    import pandas as pd

    if manifest.tiled:
        raise ManifestError("manifest holds tiles already", remedy="tile the manifest of whole images")
    sides, steps = _pair(size, "size"), _pair(stride, "stride")
    _check_rules(manifest, label_from_mask)
    dropped: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for index, row in enumerate(manifest.frame.to_dict("records")):
        boxes = _boxes(manifest, index, sides, steps, dropped)
        labelled = _labelled(manifest, index, boxes, label_from_mask, dropped) if label_from_mask else None
        kept = labelled if labelled is not None else [(box, row["label"]) for box in boxes]
        kept = kept if draw is None else draw.of(kept, index, dropped)
        own = {**row, "group": row["group"] or row["image"]}
        rows += [
            {**own, "label": label, "x": x, "y": y, "width": width, "height": height}
            for (x, y, width, height), label in kept
        ]
    if not rows:
        found = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise NothingToDoError("no tile is left", found=found, remedy="smaller tiles, or other rules")
    frame = pd.DataFrame(rows, dtype=object).astype(dict.fromkeys(TILE, int))
    return Tiling(
        replace(manifest, frame=frame),
        {reason: count for reason, count in dropped.items() if count},
    )


def _pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    if min(rows, columns) < 1:
        raise UsageError(f"{name} of tiles", found=f"{rows} x {columns}", wanted="1 pixel or more")
    return rows, columns


def _check_rules(manifest: Manifest, rules: Sequence[MaskRule]) -> None:
    if rules and manifest.masks is None:
        raise ManifestError("labels from masks need masks", remedy="fill the column 'mask'")
    known = manifest.masks.names if manifest.masks else ()
    for rule in rules:
        if rule.mask_class not in known:
            remedy = f"did you mean {display(nearest(rule.mask_class, known))}?"
            raise UsageError("rule for an unknown mask class", found=display(rule.mask_class), remedy=remedy)


def _boxes(
    manifest: Manifest, index: int, sides: tuple[int, int], steps: tuple[int, int], dropped: Counter[str]
) -> list[Box]:
    try:
        rows, columns = image_size(manifest.path(index))
    except ImageError:
        dropped["image not readable"] += 1
        return []
    if rows < sides[0] or columns < sides[1]:
        dropped["image smaller than a tile"] += 1
        return []
    return [
        (x, y, sides[1], sides[0])
        for y in _starts(rows, sides[0], steps[0])
        for x in _starts(columns, sides[1], steps[1])
    ]


def _starts(length: int, side: int, step: int) -> Iterator[int]:
    last = length - side
    yield from range(0, last, step)
    yield last


def _labelled(
    manifest: Manifest, index: int, boxes: Sequence[Box], rules: Sequence[MaskRule], dropped: Counter[str]
) -> list[tuple[Box, str]]:
    """Tiles that meet a rule, with their labels."""
    if not boxes:
        return []
    try:
        positions = _positions(manifest, index)
        pieces = [cut(positions, box) for box in boxes]
    except (ImageError, ManifestError):
        dropped["mask not usable"] += 1
        return []
    names = manifest.masks.names if manifest.masks else ()
    labels = [";".join(dict.fromkeys(_met(piece, rules, names))) for piece in pieces]
    dropped["no rule met"] += labels.count("")
    return [(box, label) for box, label in zip(boxes, labels, strict=True) if label]


def _positions(manifest: Manifest, index: int) -> NDArray[np.int64]:
    path = manifest.mask_path(index)
    if path is None or manifest.masks is None:
        raise ManifestError("image has no mask")
    positions = manifest.masks.positions(decode_mask(path))
    if positions.shape != image_size(manifest.path(index)):
        raise ManifestError("mask of another size than its image")
    if manifest.masks.white is None:
        return positions
    return manifest.masks.with_white(positions, decode(manifest.path(index)).pixels)


def _met(piece: NDArray[np.int64], rules: Sequence[MaskRule], names: Sequence[str]) -> Iterator[str]:
    scored = np.count_nonzero(piece != IGNORED)
    for rule in rules:
        covered = np.count_nonzero(piece == names.index(rule.mask_class))
        low, high = rule.bounds
        # A tile without a scored pixel meets no rule
        if scored and low <= covered / scored <= high:
            yield rule.label
