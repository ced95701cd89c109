"""Which images are audited, with labels, masks, groups and splits: a table that is data.

The file format is described in ``docs/manifest.md``. A manifest never loads an image: a missing or
damaged file is found, and quarantined, when the survey reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe.discovery import find_rows
from wsss_probe.errors import ImageError, ManifestError
from wsss_probe.masks import MaskSpec, deduce, read_sidecar, sidecar_text
from wsss_probe.names import display, natural_order, nearest
from wsss_probe.splitting import split_by_group
from wsss_probe.table import COLUMNS, TILE, read_table, require_inside, text_column, write_table
from wsss_probe.tiling import Draw, MaskRule, Tiling, tile

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsss_probe.decoding import Box

__all__ = [
    "Draw",
    "Manifest",
    "MaskRule",
    "MaskSpec",
    "Tiling",
    "discover",
    "read_manifest",
    "split_by_group",
    "tile",
    "write_manifest",
]


@final
@dataclass(frozen=True, eq=False)
class Manifest:
    """One row per image, or per tile of an image; the row number identifies it.

    Parameters
    ----------
    root : Path
        Folder to which the paths in the table are relative.
    frame : DataFrame
        Columns ``image, label, mask, group, split`` as text (empty: none; missing ones but
        ``image`` are added), for tiles ``x, y, width, height`` as int, then covariates as text.
    masks : MaskSpec or None
        What mask ids mean; None without masks.

    Raises
    ------
    ManifestError
        No column ``image``.
    """

    root: Path
    frame: pd.DataFrame
    masks: MaskSpec | None = None

    def __post_init__(self) -> None:
        if "image" not in self.frame.columns:
            found = ", ".join(map(str, self.frame.columns))
            raise ManifestError("manifest has no column 'image'", found=found)
        absent = {name: "" for name in COLUMNS if name not in self.frame.columns}
        tiles = [name for name in TILE if name in self.frame.columns]
        others = [name for name in self.frame.columns if name not in {*COLUMNS, *TILE}]
        frame = self.frame.assign(**absent)[[*COLUMNS, *tiles, *others]].reset_index(drop=True)
        # Text as Python objects: pandas' own text type cannot hold names that are not UTF-8
        frame = frame.astype(dict.fromkeys([*COLUMNS, *others], object)).fillna("")
        texts = {name: text_column(str(cell) for cell in frame[name]) for name in COLUMNS}
        object.__setattr__(self, "frame", frame.assign(**texts))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def tiled(self) -> bool:
        """Whether rows are tiles of images."""
        return "x" in self.frame.columns

    @cached_property
    def digest(self) -> str:
        """sha256 over the cells and the meaning of masks; not over the image files."""
        whole = hashlib.sha256(repr(self.masks).encode("utf-8", "surrogateescape"))
        for row in (tuple(self.frame.columns), *self.frame.itertuples(index=False, name=None)):
            line = json.dumps([str(cell) for cell in row], ensure_ascii=True)
            whole.update(line.encode("ascii") + b"\n")
        return whole.hexdigest()

    @property
    def groups(self) -> NDArray[np.object_] | None:
        """Unit of independence of each row, (image,); None if no row has a group or is a tile.

        A row without a group stands for itself; tiles of one image stand together.
        """
        own = self.frame["group"]
        if not self.tiled and not (own != "").any():
            return None
        return np.array(own.where(own != "", self.frame["image"]).tolist(), dtype=object)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Every label that occurs, naturally sorted."""
        return tuple(sorted({label for labels in self._labels() for label in labels}, key=natural_order))

    def label_sets(self, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Mark which classes each row is labelled with.

        A label is a class name. Whole numbers are class indices if no class is named by a number.

        Parameters
        ----------
        classes : sequence of str
            Names of the logits, in order.

        Returns
        -------
        ndarray of bool, (image, class)
            All false where there is no label, or an unknown one (:meth:`unknown_labels`).

        Raises
        ------
        ManifestError
            There are labels, and none is a class.
        """
        known = self._known(classes)
        if self.label_names and not known:
            found = ", ".join(map(display, self.label_names[:5]))
            close = nearest(self.label_names[0], classes)
            remedy = (
                f"nearest to {display(self.label_names[0])} is {display(close)}; name classes by --classes"
            )
            wanted = ", ".join(map(display, list(classes)[:5]))
            raise ManifestError(
                "no label is a class of the network", found=found, wanted=wanted, remedy=remedy
            )
        sets = np.zeros((len(self), len(classes)), dtype=bool)
        for row, labels in enumerate(self._labels()):
            sets[row, [known[label] for label in labels if label in known]] = True
        return sets

    def unknown_labels(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Labels of the table that are no class of the network."""
        known = self._known(classes)
        return tuple(label for label in self.label_names if label not in known)

    def path(self, index: int) -> Path:
        """Path of an image."""
        cell: str = self.frame["image"].iat[index]
        return self.root / cell

    def mask_path(self, index: int) -> Path | None:
        """Path of a mask, or None."""
        cell: str = self.frame["mask"].iat[index]
        return self.root / cell if cell else None

    def box(self, index: int) -> Box | None:
        """``(x, y, width, height)`` of a tile, or None for a whole image."""
        if not self.tiled:
            return None
        x, y, width, height = (int(self.frame[name].iat[index]) for name in TILE)
        return x, y, width, height

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Manifest:
        """Keep some rows, in the given order."""
        return replace(self, frame=self.frame.iloc[list(indices)])

    def file_digest(self, index: int) -> str:
        """sha256 over the bytes of an image file.

        Raises
        ------
        ImageError
            The file cannot be read.
        """
        path = self.path(index)
        try:
            if not path.is_file():
                raise ImageError(f"{display(path.name)} is not a file")
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ImageError(f"{display(path.name)} is not readable", found=error.strerror) from error

    def _labels(self) -> list[list[str]]:
        return [[label for label in cell.split(";") if label] for cell in self.frame["label"]]

    def _known(self, classes: Sequence[str]) -> dict[str, int]:
        names = {name: position for position, name in enumerate(classes)}
        if not any(name.isdecimal() for name in classes):
            names = {str(position): position for position in range(len(classes))} | names
        return {label: names[label] for label in self.label_names if label in names}


def read_manifest(path: str | Path, masks: MaskSpec | None = None) -> Manifest:
    """Read a manifest from CSV or Parquet.

    Every cell is text and stays as it is (``007``, ``NO``, ``nan``). What mask ids mean comes from
    ``masks``, else from the ``[masks]`` table of ``<stem>.toml`` beside the manifest, else from up
    to 20 of the masks (:func:`wsss_probe.masks.deduce`).

    Parameters
    ----------
    path : str or Path
        ``.csv`` (UTF-8, with or without BOM) or ``.parquet``.
    masks : MaskSpec, optional

    Returns
    -------
    Manifest

    Raises
    ------
    ManifestError
        Not a manifest; the line is named.
    UnsafeInputError
        A path leaves the folder of the manifest.
    """
    path = Path(path)
    root = path.parent.resolve()
    frame = read_table(path, root)
    declared = masks if masks is not None else read_sidecar(path.with_suffix(".toml"))
    return _with_masks(Manifest(root, frame), declared)


def discover(folder: str | Path, pattern: str | None = None) -> Manifest:
    r"""Make a manifest from a folder of images; a ``manifest.csv`` inside is used as it is.

    Parameters
    ----------
    folder : str or Path
        ``class/x.png`` folders, ``images/`` and ``masks/`` with files of the same stem, or files.
    pattern : str, optional
        Regular expression for file names whose named groups become columns,
        ``(?P<label>[A-Z]+)_(?P<group>\d+)``; a ``manifest.csv`` is then not used.

    Returns
    -------
    Manifest
        Naturally sorted by path; hidden files left out.

    Raises
    ------
    NothingToDoError
        No image.
    UsageError, ManifestError, UnsafeInputError
        The folder, the pattern or the manifest inside cannot be used.
    """
    import pandas as pd

    folder = Path(folder)
    if pattern is None and (folder / "manifest.csv").exists():
        return read_manifest(folder / "manifest.csv")
    root = folder.resolve()
    rows = find_rows(root, pattern)
    for number, row in enumerate(rows, start=1):
        require_inside(root, row["image"], f"file {number}")
        require_inside(root, row["mask"], f"file {number}")
    return _with_masks(Manifest(root, pd.DataFrame(rows, dtype=object)), read_sidecar(root / "manifest.toml"))


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest, and what its mask ids mean beside it; read back, both are equal.

    Cells are written as they are, also those that a spreadsheet would take for a formula.

    Parameters
    ----------
    manifest : Manifest
    path : str or Path
        ``.csv`` or ``.parquet``, in the root of the manifest or in a folder around it.

    Raises
    ------
    ManifestError
        Images do not lie below the folder of ``path``, or ``<stem>.toml`` there holds other things.
    UsageError
        Another suffix.
    """
    path = Path(path)
    folder = path.parent.resolve()
    root = manifest.root.resolve()
    if not root.is_relative_to(folder):
        remedy = f"write it to {display(str(root))} or a folder around it"
        raise ManifestError("images lie outside the folder of the manifest", remedy=remedy)
    prefix = root.relative_to(folder)
    moved = {
        name: text_column(
            (prefix / cell).as_posix() if cell and prefix.parts else cell for cell in manifest.frame[name]
        )
        for name in ("image", "mask")
    }
    sidecar = None if manifest.masks is None else sidecar_text(manifest.masks)
    write_table(manifest.frame.assign(**moved), path, sidecar)


def _with_masks(manifest: Manifest, declared: MaskSpec | None) -> Manifest:
    paths = [manifest.root / cell for cell in dict.fromkeys(manifest.frame["mask"]) if cell]
    if not paths:
        return manifest
    return replace(manifest, masks=declared if declared is not None else deduce(paths))
