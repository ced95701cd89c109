"""The file behind a checkpoint: what it is, and whether a parser may see it at all.

Decided from the file's status, its first bytes and, for zip archives, its directory and checksums;
nothing is unpickled or executed here.
"""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from wsss_probe.errors import ModelError, ProbeError, UnsafeInputError

__all__ = ["check_archive", "file_kind", "first_line", "listed", "open_regular", "printable"]

MAX_BYTES = 16 * 2**30
"""Largest checkpoint that is opened; far above any CNN, far below what stalls a machine for an hour."""

SAVE_PLAIN = "save the plain weights: torch.save(model.state_dict(), ...) or safetensors.torch.save_file"
COPY_AGAIN = "download or copy the file again"

_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


@contextmanager
def open_regular(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a regular file of bearable size, without blocking on a FIFO or touching a device.

    Raises
    ------
    UnsafeInputError
        A device, pipe or socket, or more than ``MAX_BYTES``.
    ModelError
        Missing, unreadable, empty, or a folder.
    """
    try:
        _check_regular(path.stat(), name)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"cannot open weights {name}", found=reason, wanted="a readable file") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(os.fstat(file.fileno()), name)
        yield file


def _check_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ModelError(f"cannot read weights {name}", found="a folder", wanted="one file")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeInputError(
            f"refused weights {name}", found="a device, pipe or socket", wanted="a regular file"
        )
    if status.st_size == 0:
        raise ModelError(f"cannot read weights {name}", found="an empty file", remedy=COPY_AGAIN)
    if status.st_size > MAX_BYTES:
        raise UnsafeInputError(
            f"refused weights {name}", found=f"{status.st_size} bytes", wanted=f"at most {MAX_BYTES} bytes"
        )


_NOT_WEIGHTS = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the weights", "run 'git lfs pull'"),
    (rb"\s*<(!doctype|html|\?xml|head|body)", "a web page or XML", "download the file itself, not its page"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a compressed file", "unpack it first"),
    (rb"\x89HDF", "an HDF5 file (Keras)", "convert the weights to safetensors"),
    (rb"PK\x05\x06", "an empty zip archive", COPY_AGAIN),
)


def file_kind(file: BinaryIO, name: str) -> str:
    """Decide from the first bytes: ``"safetensors"``, ``"torch"`` (zip) or ``"torch-legacy"``.

    Raises
    ------
    UnsafeInputError
        A raw pickle or torch's tar format.
    ModelError
        No checkpoint; the message says what it is instead.
    """
    head = file.read(512)
    # First of all: the length that opens a safetensors file may look like any other magic number.
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors"
    for pattern, found, remedy in _NOT_WEIGHTS:
        if re.match(pattern, head, re.IGNORECASE):
            raise ModelError(f"cannot read weights {name}", found=found, remedy=remedy)
    if head.startswith(b"PK\x03\x04"):
        return "torch"
    if head[257:262] == b"ustar":
        raise UnsafeInputError(
            f"refused weights {name}", found="the tar format of torch before 0.2", remedy=SAVE_PLAIN
        )
    # torch's legacy files open with this number, pickled on its own
    if head.startswith(b"\x80") and b"l\xfc\x9cF\xf9 j\xa8P\x19" in head[:32]:
        return "torch-legacy"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":
        raise UnsafeInputError(
            f"refused weights {name}", found="a raw pickle, not written by torch.save", remedy=SAVE_PLAIN
        )
    if name.endswith(".safetensors"):
        return "safetensors"
    raise ModelError(
        f"cannot read weights {name}",
        found=f"unknown content starting with {head[:8]!r}",
        wanted="a .safetensors file or one written by torch.save",
    )


# -- zip archives of torch.save ------------------------------------------------------------------


def check_archive(file: BinaryIO, name: str) -> None:
    """Check a zip before torch sees it: torch inflates bombs and does not look at the CRC.

    Raises
    ------
    UnsafeInputError
        It carries a program, or unpacks to more than it is.
    ModelError
        It is damaged, or torch.save did not write it.
    """
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_no_program([entry.filename for entry in entries], name)
            _check_entries(entries, name, os.fstat(file.fileno()).st_size)
            broken = archive.testzip()
    except ProbeError:
        raise
    except Exception as error:  # arbitrary bytes: BadZipFile, but also struct.error, RuntimeError and more
        raise ModelError(
            f"cannot read weights {name}",
            found=f"a truncated or damaged zip archive ({first_line(error)})",
            remedy=COPY_AGAIN,
        ) from error
    if broken is not None:
        raise ModelError(
            f"cannot read weights {name}",
            found=f"wrong checksum (CRC) of entry {printable(broken)}",
            remedy=COPY_AGAIN,
        )


def _check_no_program(entries: list[str], name: str) -> None:
    """Refuse archives that carry a program beside their weights."""
    inner = [entry.partition("/")[2] for entry in entries]
    programs = (
        ("constants.pkl", "a TorchScript archive"),
        ("code/", "a TorchScript archive"),
        ("archive_format", "a torch.export program (.pt2)"),
        (".data/extern_modules", "a torch.package archive"),
    )
    found = [kind for mark, kind in programs for entry in inner if entry.startswith(mark)]
    if any(Path(entry).name == "serialized_exported_program.json" for entry in entries):
        found.append("a torch.export program (.pt2)")
    if found:
        raise UnsafeInputError(
            f"refused weights {name}",
            found=f"{found[0]}, which is a program and runs code when it is loaded",
            wanted="a state dict",
            remedy=f"{SAVE_PLAIN}; give the network itself as --model FILE.py:FACTORY with --trust-code",
        )
    if "data.pkl" not in inner:
        raise ModelError(f"cannot read weights {name}", found="a zip archive that torch.save did not write")


def _check_entries(entries: list[zipfile.ZipInfo], name: str, size: int) -> None:
    """Refuse what unpacks to more than it is, and what two zip readers may read differently."""
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise UnsafeInputError(
            f"refused weights {name}",
            found=f"a zip archive of {size} bytes that unpacks to "
            f"{sum(entry.file_size for entry in entries)} (torch.save never compresses)",
            remedy=SAVE_PLAIN,
        )
    if len({entry.filename for entry in entries}) != len(entries):
        raise UnsafeInputError(f"refused weights {name}", found="a zip archive with two entries of one name")


# -- safetensors ----------------------------------------------------------------------------------


def check_header(data: bytes) -> dict[str, Any]:
    """Check the header of a safetensors file: the library accepts a name that stands there twice.

    Raises
    ------
    ValueError, TypeError
        It is no JSON object, longer than the file, or names a tensor twice.
    """
    length = int.from_bytes(data[:8], "little")
    if length > min(_HEADER_BYTES, len(data) - 8):
        msg = f"header of {length} bytes in a file of {len(data)}, truncated or damaged"
        raise ValueError(msg)
    header = json.loads(data[8 : 8 + length], object_pairs_hook=_no_duplicates)
    if not isinstance(header, dict):
        msg = "header is not a JSON object"
        raise TypeError(msg)
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        msg = f"duplicate name {printable(twice)} in the header"
        raise ValueError(msg)
    return found


# -- words ----------------------------------------------------------------------------------------


def listed(names: Iterable[str]) -> str:
    """Up to eight names from a file, and how many more."""
    names = list(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(printable(name) for name in names[:8]) + more


def printable(text: str) -> str:
    """Text from a file as one short printable piece: no control characters reach the terminal."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text[:200])


def first_line(error: BaseException) -> str:
    """Reduce what an exception says to one printable line."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def refuse_tensors(name: str, found: str, keys: Iterable[str]) -> NoReturn:
    """Raise the error that names the tensors of a file that cannot be used."""
    raise ModelError(
        f"cannot use weights {name}",
        found=f"{found}: {listed(keys)}",
        wanted="dense, finite tensors",
    )
