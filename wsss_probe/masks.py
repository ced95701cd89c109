"""What the ids in a mask mean: classes, background, ignored."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsss_probe.decoding import decode_mask, luminance
from wsss_probe.errors import ImageError, ManifestError
from wsss_probe.names import display, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BACKGROUND", "IGNORED", "WHITE", "MaskSpec", "deduce", "read_sidecar", "sidecar_text"]

IGNORED = -1
BACKGROUND = -2
WHITE = "white"
_UNLISTED = -3
_LARGEST_ID = 65535
_SAMPLE = 20
_MOST_CLASSES = 32
_KEYS = ("classes", "ignore", "background", "instances", "white")


@final
@dataclass(frozen=True)
class MaskSpec:
    """Which mask ids make up which class.

    Parameters
    ----------
    classes : tuple of (str, tuple of int)
        Class name and its ids; the order gives positions.
    ignore : tuple of int
        Ids that are never scored.
    background : tuple of int
        Ids in no class, scored as "none of them"; 0 unless it is a class or ignored.
    any_id : bool
        Every id above 0 that is not ignored belongs to the only class: one id per object.
    white : int or None
        Background pixels whose luminance in the image (0..255) lies strictly above it form a last class
        ``white``: bare glass in histology. Classes that people drew stay as drawn.

    Raises
    ------
    ManifestError
        Ids out of 0..65535 or claimed twice, class names missing or claimed twice, white no level.

    Examples
    --------
    >>> spec = MaskSpec((("tumour", (1,)), ("stroma", (2,))), ignore=(255,))
    >>> spec.positions(np.array([[0, 1, 2, 255]])).tolist()
    [[-2, 0, 1, -1]]
    """

    classes: tuple[tuple[str, tuple[int, ...]], ...]
    ignore: tuple[int, ...] = ()
    background: tuple[int, ...] = (0,)
    any_id: bool = False
    white: int | None = None

    def __post_init__(self) -> None:
        claimed = [*self.ignore, *(one for _, ids in self.classes for one in ids)]
        if self.background == (0,) and 0 in claimed:
            object.__setattr__(self, "background", ())
        claimed += self.background
        wrong = [one for one in claimed if not 0 <= one <= _LARGEST_ID]
        if wrong:
            raise ManifestError("mask id out of range", found=str(wrong[0]), wanted=f"0..{_LARGEST_ID}")
        for kind, items in (("mask id", claimed), ("mask class", self.names)):
            twice = sorted({item for item in items if list(items).count(item) > 1}, key=str)
            if twice:
                raise ManifestError(f"{kind} declared twice", found=display(str(twice[0])))
        if self.any_id and len(self.classes) != 1:
            raise ManifestError("instance masks hold one class", found=f"{len(self.classes)} classes")
        if self.white is not None and not 0 <= self.white < 255:
            raise ManifestError("level of white out of range", found=str(self.white), wanted="0..254")
        if not self.classes or not all(self.names):
            raise ManifestError("mask classes need names", found=str(list(self.names)))

    @classmethod
    def instances(cls, name: str = "foreground", ignore: tuple[int, ...] = ()) -> MaskSpec:
        """Declare masks in which each object has an id of its own, above 0."""
        return cls(((name, ()),), ignore, any_id=True)

    def ignoring(self, ids: Iterable[int]) -> MaskSpec:
        """Also ignore ``ids``, taking them out of classes and background; a class left empty goes.

        Raises
        ------
        ManifestError
            No class is left.
        """
        more = frozenset(ids)
        kept = tuple((name, tuple(one for one in own if one not in more)) for name, own in self.classes)
        return MaskSpec(
            kept if self.any_id else tuple((name, own) for name, own in kept if own),
            tuple(sorted(more.union(self.ignore))),
            tuple(one for one in self.background if one not in more),
            self.any_id,
            self.white,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by position; ``white`` is the last where it is asked for."""
        own = tuple(name for name, _ in self.classes)
        return own if self.white is None else (*own, WHITE)

    def with_white(self, positions: NDArray[np.int64], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Make a class of the background that is white in the image; as it is where none is asked for.

        Parameters
        ----------
        positions : ndarray of int64, (row, column)
            From :meth:`positions`.
        pixels : ndarray of uint8, (row, column, 3)
            The image that they belong to.

        Returns
        -------
        ndarray of int64, (row, column)
        """
        if self.white is None:
            return positions
        bare = (positions == BACKGROUND) & (luminance(pixels) > self.white)
        found: NDArray[np.int64] = np.where(bare, len(self.classes), positions)
        return found

    def positions(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Turn ids into positions of classes: -1 ignored, -2 background.

        Parameters
        ----------
        ids : ndarray of int, (row, column)

        Returns
        -------
        ndarray of int64, (row, column)

        Raises
        ------
        ManifestError
            An id is neither in a class nor ignored nor background.
        """
        positions: NDArray[np.int64] = self._table()[ids]
        if positions.size and positions.min() == _UNLISTED:
            unlisted = np.unique(ids[positions == _UNLISTED]).tolist()
            found = ", ".join(map(str, unlisted[:5])) + (" and more" if len(unlisted) > 5 else "")
            remedy = "declare them in the [masks] table beside the manifest"
            raise ManifestError(
                "mask holds undeclared ids", found=found, wanted=self._listed(), remedy=remedy
            )
        return positions

    def objects(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Number of the object at each pixel where each object has an id of its own; 0 in none.

        Parameters
        ----------
        ids : ndarray of int, (row, column)

        Returns
        -------
        ndarray of int64, (row, column)
            All 0 where ids mean classes.
        """
        counted = np.isin(ids, [*self.ignore, *self.background], invert=True) & self.any_id
        return np.where(counted, ids, 0).astype(np.int64)

    def _table(self) -> NDArray[np.int64]:
        table = np.full(_LARGEST_ID + 1, _UNLISTED, dtype=np.int64)
        if self.any_id:
            table[1:] = 0
        table[list(self.background)] = BACKGROUND
        for position, (_, ids) in enumerate(self.classes):
            table[list(ids)] = position
        table[list(self.ignore)] = IGNORED
        return table

    def _listed(self) -> str:
        ids = sorted({*self.ignore, *self.background, *(one for _, ids in self.classes for one in ids)})
        return ", ".join(map(str, ids))


# -- deduced from the masks themselves --------------------------------------------------------


def deduce(paths: Sequence[Path]) -> MaskSpec:
    """Guess what ids mean from up to 20 masks, evenly spaced over ``paths``.

    Files with more than 8 bits, more than 32 ids and masks that are all 0 are taken as instances of
    ``foreground``; ids {0, x} make one class ``foreground``; else each id but 0 is a class
    ``mask <id>``. Unreadable masks are passed over.

    Parameters
    ----------
    paths : sequence of Path
        At least one.

    Returns
    -------
    MaskSpec
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLE, len(paths))).round().astype(int))
    found, wide = _ids_in(paths[index] for index in chosen)
    objects = sorted(found - {0})
    if not objects or wide or len(found) > _MOST_CLASSES:
        return MaskSpec.instances()
    if len(objects) == 1:
        return MaskSpec((("foreground", (objects[0],)),))
    return MaskSpec(tuple((f"mask {one}", (one,)) for one in objects))


def _ids_in(paths: Iterable[Path]) -> tuple[set[int], bool]:
    """Find all ids, and whether a file holds more than 8 bits."""
    found: set[int] = set()
    wide = False
    for path in paths:
        try:
            ids = decode_mask(path)
        except ImageError:
            continue  # the survey will say so for each image; one bad mask must not stop the reading
        found.update(np.flatnonzero(np.bincount(ids.ravel())).tolist())
        wide = wide or ids.dtype.itemsize > 1
    return found, wide


# -- declared beside the manifest -------------------------------------------------------------


def read_sidecar(path: Path) -> MaskSpec | None:
    """Read the ``[masks]`` table of a TOML file; None without file or table.

    Parameters
    ----------
    path : Path
        ``<manifest stem>.toml``.

    Returns
    -------
    MaskSpec or None

    Raises
    ------
    ManifestError
        Not TOML, an unknown key (the nearest is named), or ids that cannot be meant.
    """
    if not path.exists():
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("masks")
    except (OSError, ValueError) as error:
        raise ManifestError(f"{display(path.name)} not understood", found=display(str(error))) from error
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ManifestError(
            f"{display(path.name)} not understood", found="masks = …", wanted="a table [masks]"
        )
    return _from_table(table, display(path.name))


def _from_table(table: Mapping[str, Any], name: str) -> MaskSpec:
    for key in table:
        if key not in _KEYS:
            remedy = f"did you mean {nearest(key, _KEYS)}?"
            raise ManifestError(f"unknown key in [masks] of {name}", found=display(key), remedy=remedy)
    classes = table.get("classes", {})
    instances = table.get("instances", False)
    if not isinstance(classes, dict) or not isinstance(instances, bool) or bool(classes) == instances:
        wanted = "classes = {tumour = 1, stroma = [2, 3]}, or instances = true"
        raise ManifestError(f"[masks] of {name} not understood", wanted=wanted)
    pairs = tuple((key, _ids(value, name)) for key, value in classes.items())
    return MaskSpec(
        pairs or (("foreground", ()),),
        ignore=_ids(table.get("ignore", []), name),
        background=_ids(table.get("background", 0), name),
        any_id=instances,
        white=_level(table.get("white"), name),
    )


def _level(value: Any, name: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    wanted = "a level of grey, 0..254"
    raise ManifestError(
        f"white in [masks] of {name} not understood", found=display(str(value)), wanted=wanted
    )


def _ids(value: Any, name: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
        raise ManifestError(f"[masks] of {name} not understood", found=display(str(value)), wanted="ids")
    return tuple(values)


def sidecar_text(spec: MaskSpec) -> str:
    """Write a mask declaration as :func:`read_sidecar` reads it."""
    lines = ["[masks]", f"ignore = {list(spec.ignore)}", f"background = {list(spec.background)}"]
    if spec.white is not None:
        lines.append(f"white = {spec.white}")
    if spec.any_id:
        lines.append("instances = true")
    else:
        lines.append("[masks.classes]")
        lines += [f"{_toml_string(name)} = {list(ids)}" for name, ids in spec.classes]
    return "\n".join(lines) + "\n"


def _toml_string(text: str) -> str:
    # JSON strings are TOML strings, but for DEL, which TOML wants escaped
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
