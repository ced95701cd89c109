"""Tables on disk: one Zarr group per table, written one whole shard of images at a time.

A shard is the unit of everything: of work, of writing and of completeness. Every array is chunked
so that one shard of images is one file, and a line in the ledger, written after the data, says that
a shard is complete. What the ledger does not name is computed again; a missing chunk proves nothing,
because Zarr reads it as the fill value.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import CorruptRunError, PlanError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LedgerLine", "Store", "TableBlock", "exclusive", "open_tree"]

_CHUNK_BYTES = 1 << 20
_CHUNK_IMAGES = 16
_FLOAT16_MAX = float(np.finfo(np.float16).max)

Variables = Mapping[str, tuple[tuple[str, ...], np.ndarray]]


@dataclass(frozen=True, slots=True)
class TableBlock:
    """One shard's part of one table.

    Parameters
    ----------
    variables : mapping
        Name to ``(dims, values)``; the first dim is ``image`` or, for partials, ``shard``.
    coords : mapping
        Name to ``(dims, values)``; equal in every shard.
    attrs : mapping
        JSON-able.
    """

    variables: Variables
    coords: Variables = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """What was finished: a shard of a stage, with the hash of every array written.

    ``failures`` are those of plugins while it was computed: their tables lack this shard.
    """

    stage: str
    shard: int
    plan_id: str
    arrays: Mapping[str, str]
    counters: Mapping[str, int]
    unreadable: Mapping[str, str]
    failures: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock dies with the process.

    Raises
    ------
    PlanError
        When another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"another process is writing {folder}"
            raise PlanError(msg, remedy="wait for it, or choose another --out") from error
        yield


def open_tree(path: Path | MemoryStore) -> xr.DataTree:
    """Open a store lazily.

    Parameters
    ----------
    path : Path or MemoryStore

    Returns
    -------
    DataTree
        Arrays are dask arrays; nothing is read yet.
    """
    import xarray as xr

    location: Any = path  # xarray hands a zarr store through, though its annotation does not say so
    return xr.open_datatree(location, engine="zarr", chunks={}, consolidated=False)


class Store:
    """The tables of one survey.

    Parameters
    ----------
    folder : Path or None
        Where ``data.zarr`` and ``ledger`` lie; None keeps everything in memory.
    images, shard : int
        Number of images, and images per shard.
    plan_id : str
        Ledger lines of another plan do not count.
    """

    def __init__(self, folder: Path | None, images: int, shard: int, plan_id: str) -> None:
        self.folder = folder
        self.images = images
        self.shard = shard
        self.plan_id = plan_id
        self._memory: dict[str, Any] = {}
        self.location: Path | MemoryStore = (
            MemoryStore(self._memory) if folder is None else folder / "data.zarr"
        )
        self._lines: dict[tuple[str, int], LedgerLine] = {}
        self._root = zarr.open_group(self.location, mode="a", zarr_format=3)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard)

    def bounds(self, index: int) -> tuple[int, int]:
        """First image of a shard, and one past its last."""
        return index * self.shard, min((index + 1) * self.shard, self.images)

    def done(self, stage: str, index: int) -> LedgerLine | None:
        """Ledger line of a finished shard, or None if it must be computed."""
        if self.folder is None:
            return self._lines.get((stage, index))
        path = self._ledger_path(stage, index)
        if not path.exists():
            return None
        try:
            line = LedgerLine(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            # A line cut short by a crash of the file system: the shard is simply not done.
            return None
        return line if line.plan_id == self.plan_id and self._has(line) else None

    def write(self, line: LedgerLine, tables: Mapping[str, TableBlock]) -> LedgerLine:
        """Write one shard of every table, then its ledger line.

        Parameters
        ----------
        line : LedgerLine
            Its ``arrays`` are filled in here.
        tables : mapping of str to TableBlock
            Group path to block.

        Returns
        -------
        LedgerLine

        Raises
        ------
        CorruptRunError
            When an array on disk has another shape or dtype than this shard's.
        """
        low, high = self.bounds(line.shard)
        hashes = {}
        counters = dict(line.counters)
        for path, block in tables.items():
            group = self._group(path, block)
            for name, (dims, values) in block.variables.items():
                array = self._array(group, name, dims, values)
                region = slice(low, high) if dims[0] == "image" else slice(line.shard, line.shard + 1)
                cast = _cast(values, array.dtype, counters, f"{path}/{name}")
                self._put(array, region, cast)
                hashes[f"{path}/{name}"] = hashlib.sha256(np.ascontiguousarray(cast).tobytes()).hexdigest()
        finished = replace(line, arrays=hashes, counters=counters)
        self._lines[line.stage, line.shard] = finished
        if self.folder is not None:
            write_atomically(self._ledger_path(line.stage, line.shard), json.dumps(asdict(finished)))
        return finished

    def write_static(self, path: str, dataset: xr.Dataset) -> None:
        """Write a table that does not grow with the shards, replacing an older one."""
        if path in self._root:
            del self._root[path]
        dataset.to_zarr(self.location, group=path, mode="a", consolidated=False, zarr_format=3)

    def write_coordinate(self, name: str, values: np.ndarray) -> None:
        """Write a coordinate of the root, which every table inherits."""
        self._coordinate(self._root, "/", name, ((name,), values))

    def sweep(self) -> int:
        """Remove what a killed writer left behind; the number of files removed."""
        if self.folder is None:
            return 0
        left = [*self.folder.rglob("*.partial"), *self.folder.rglob("*.tmp")]
        for path in (path for path in left if path.is_file()):
            path.unlink()
        return len(left)

    def table(self, path: str) -> xr.Dataset | None:
        """Open one table lazily; None if there is none."""
        import xarray as xr

        if path not in self._root:
            return None
        location: Any = self.location
        return xr.open_dataset(location, engine="zarr", group=path, chunks={}, consolidated=False)

    def tables(self) -> list[str]:
        """Paths of all groups that hold arrays."""
        return [group.path for group in _groups(self._root) if any(True for _ in group.array_keys())]

    def bytes_stored(self) -> int:
        """Compressed size of the arrays of a store in memory; their descriptions do not grow with images."""
        return sum(len(buffer) for name, buffer in self._memory.items() if not name.endswith("zarr.json"))

    def tree(self) -> xr.DataTree:
        """Open all tables, lazily."""
        return open_tree(self.location)

    def _ledger_path(self, stage: str, index: int) -> Path:
        assert self.folder is not None  # noqa: S101  # narrows the type; callers check
        return self.folder / "ledger" / f"{stage}-{index:06d}.json"

    def _has(self, line: LedgerLine) -> bool:
        """Whether the arrays of a ledger line exist at all."""
        return all(name in self._root for name in line.arrays)

    def _group(self, path: str, block: TableBlock) -> zarr.Group:
        group = self._root.require_group(path)
        if block.attrs and not dict(group.attrs):
            group.attrs.update(dict(block.attrs))
        for name, (dims, values) in block.coords.items():
            if name not in group:
                self._coordinate(group, path, name, (dims, values))
        return group

    def _coordinate(
        self, group: zarr.Group, path: str, name: str, value: tuple[tuple[str, ...], np.ndarray]
    ) -> None:
        """Write a coordinate through xarray, which knows how strings are stored."""
        import xarray as xr

        dims, values = value
        values = values.astype(object) if values.dtype.kind in "US" else values
        dataset = xr.Dataset(coords={name: (dims, values)})
        dataset.to_zarr(self.location, group=path, mode="a", consolidated=False)
        if dims != (name,):
            known = str(group.attrs.get("coordinates", ""))
            group.attrs["coordinates"] = f"{known} {name}".strip()

    def _array(
        self, group: zarr.Group, name: str, dims: tuple[str, ...], values: np.ndarray
    ) -> zarr.Array[Any]:
        if name in group:
            array = group[name]
            if not isinstance(array, zarr.Array) or array.shape[1:] != values.shape[1:]:
                msg = f"table '{group.path}/{name}' changed its shape between shards"
                raise CorruptRunError(
                    msg,
                    found=str(values.shape[1:]),
                    wanted=str(getattr(array, "shape", ())[1:]),
                    remedy="delete the .partial folder and run again",
                )
            return array
        length, unit = (self.images, self.shard) if dims[0] == "image" else (self.shards, 1)
        chunks, shards = _layout(unit, values)
        return group.create_array(
            name,
            shape=(length, *values.shape[1:]),
            dtype=_stored_dtype(name, values),
            fill_value=np.nan,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=dims,
            config={"write_empty_chunks": True},
            chunks=chunks,
            shards=shards,
        )

    def _put(self, array: zarr.Array[Any], region: slice, values: np.ndarray) -> None:
        unit = array.shards[0] if array.shards else array.chunks[0]
        if region.start % unit or (region.stop % unit and region.stop != array.shape[0]):
            msg = f"write to '{array.path}' is not aligned to a shard"
            raise CorruptRunError(msg, found=f"{region.start}:{region.stop}", wanted=f"multiples of {unit}")
        array[region] = values


def _groups(root: zarr.Group) -> Iterator[zarr.Group]:
    for _, group in sorted(root.groups()):
        yield group
        yield from _groups(group)


def _layout(unit: int, values: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunk and shard shapes: the shard is one file; its chunks let a reader take one channel."""
    rest = tuple(max(1, size) for size in values.shape[1:])
    per_image = int(np.prod(rest)) * values.dtype.itemsize
    if unit % _CHUNK_IMAGES or len(rest) != 3 or per_image * _CHUNK_IMAGES <= _CHUNK_BYTES:
        return (unit, *rest), None
    per_channel = per_image * _CHUNK_IMAGES // rest[0]
    fitting = [d for d in range(1, rest[0] + 1) if rest[0] % d == 0 and d * per_channel <= _CHUNK_BYTES]
    channels = max(fitting, default=1)
    return (_CHUNK_IMAGES, channels, *rest[1:]), (unit, *rest)


def _stored_dtype(name: str, values: np.ndarray) -> np.dtype[Any]:
    """Activations are kept in half precision unless the first shard shows that they do not fit."""
    if name != "maps":
        return values.dtype
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values))
    return np.dtype(np.float32 if largest > _FLOAT16_MAX / 2 else np.float16)


def _cast(values: np.ndarray, dtype: Any, counters: dict[str, int], name: str) -> np.ndarray:
    """Cast for storage; what half precision cannot hold is clipped and counted, never infinite."""
    if dtype == values.dtype or dtype != np.float16:
        return values.astype(dtype, copy=False)
    over = np.isfinite(values) & (np.abs(values) > _FLOAT16_MAX)
    if over.any():
        counters[f"{name}:overflow"] = counters.get(f"{name}:overflow", 0) + int(over.sum())
        values = np.where(over, np.copysign(_FLOAT16_MAX, values), values)
    with np.errstate(over="ignore", under="ignore"):
        cast: np.ndarray = values.astype(np.float16)
    under = int(np.count_nonzero((cast == 0) & (values != 0)))
    if under:
        counters[f"{name}:underflow"] = counters.get(f"{name}:underflow", 0) + under
    return cast
