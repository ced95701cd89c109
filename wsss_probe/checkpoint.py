"""Checkpoints: tensors out of a file that nobody vouches for, and into a network that they must fit.

Every step comes before the step that it protects: regular file of a bearable size, magic bytes, zip
directory and CRC, hash, names and shapes on the meta device, and only then the tensors. The file stays
open throughout, so what was checked is what is loaded. There is no unsafe fall-back: a file that the
restricted unpickler refuses is refused.

Exit codes: :class:`UnsafeInputError` (7) for whatever could run code, hang or exhaust the memory;
:class:`ModelError` (4) for whatever is damaged, or no checkpoint, or does not fit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle  # the exception class only: nothing is unpickled here but by torch's restricted unpickler
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import safetensors.torch
import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError, UnsafeInputError
from wsss_probe.weights_file import (
    COPY_AGAIN,
    SAVE_PLAIN,
    check_archive,
    check_header,
    file_kind,
    first_line,
    listed,
    open_regular,
    printable,
    refuse_tensors,
)
from wsss_probe.weights_fit import LoadReport, all_finite, load_into

__all__ = ["Checkpoint", "LoadReport", "load_into", "read_checkpoint", "tensor_digest"]

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights as read from a file, before any network has seen them.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        On the CPU, dense, finite unless that was waived; names as in the file.
    sha256 : str
        Of the whole file.
    format : {"safetensors", "torch", "torch-legacy"}
    metadata : mapping of str to str
        What else the file says about itself. Untrusted text: escape it wherever it is shown.
    notes : tuple of str
        What was decided on the way (which container, what was waived).
    name : str
        The file as it was given, for messages.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = "checkpoint"


class _Contents(NamedTuple):
    """What a reader makes of a file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: list[str]


# -- reading -----------------------------------------------------------------------------------


def read_checkpoint(path: str | Path, *, allow_nonfinite: bool = False) -> Checkpoint:
    """Read the weights of a ``.safetensors`` or ``.pt``/``.pth``/``.th`` file without running its code.

    The content decides, not the suffix. Dictionaries such as ``{"state_dict": ...}`` are unwrapped.

    Parameters
    ----------
    path : path-like
        A regular file of at most 16 GiB.
    allow_nonfinite : bool
        Accept NaN, infinities and negative running variances, with a note that names the tensors.

    Returns
    -------
    Checkpoint

    Raises
    ------
    UnsafeInputError
        The file holds or may hold code (TorchScript, ``.pt2``, pickled modules, raw pickles), or claims
        more bytes than it has.
    ModelError
        The file is missing, damaged, no checkpoint, or holds something else than finite dense tensors.
    """
    name = printable(str(path))
    with open_regular(Path(path), name) as file:
        kind = file_kind(file, name)
        if kind == "torch":
            check_archive(file, name)
        digest = _sha256(file)
        contents = _READERS[kind](file, name)
    notes = [*contents.notes, *_check_finite(contents.tensors, name, allow_nonfinite)]
    return Checkpoint(
        tensors=MappingProxyType(contents.tensors),
        sha256=digest,
        format=kind,
        metadata=MappingProxyType(contents.metadata),
        notes=tuple(notes),
        name=name,
    )


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


# -- files of torch.save --------------------------------------------------------------------------


def _read_torch(file: BinaryIO, name: str) -> _Contents:
    """Read a pickle file twice: on the meta device, where nothing is allocated, then for its tensors."""
    size = os.fstat(file.fileno()).st_size
    _check_storages(_unwrap(_torch_load(file, name, "meta"), name).tensors, name, size)
    contents = _unwrap(_torch_load(file, name, "cpu"), name)
    away = [key for key, tensor in contents.tensors.items() if tensor.device.type != "cpu"]
    if away:
        refuse_tensors(name, "tensors without data (saved on the meta device)", away)
    return contents


def _torch_load(file: BinaryIO, name: str, device: str) -> Any:
    file.seek(0)
    try:
        # Warnings here speak about the file's pickle protocol, which is none of the user's concern.
        # Namespace is plain data, and every older Lightning checkpoint holds one.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        _refuse_globals(file, name, error)
    except Exception as error:
        # The parser meets arbitrary bytes here: KeyError, UnicodeDecodeError, RuntimeError and more.
        raise ModelError(
            f"cannot read weights {name}",
            found=f"a truncated or damaged file ({type(error).__name__}: {first_line(error)})",
            remedy=COPY_AGAIN,
        ) from error


def _refuse_globals(file: BinaryIO, name: str, error: pickle.UnpicklingError) -> NoReturn:
    """Say which names the file wanted to import; they were not imported."""
    try:
        file.seek(0)
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # noqa: BLE001  (only zip files have such a list; the message is the next best)
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))
    raise UnsafeInputError(
        f"refused weights {name}, nothing was executed",
        found=f"objects that need code to load: {listed(found)}" if found else _reason(error),
        wanted="tensors only, in pickle protocol 2",
        remedy=SAVE_PLAIN,
    ) from error


def _reason(error: Exception) -> str:
    """Torch's own reason, without its advice to switch the protection off."""
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return f"more than tensors ({printable(reason[1]) if reason else first_line(error)})"


def _check_storages(tensors: Mapping[str, Tensor], name: str, size: int) -> None:
    """Refuse tensors larger than their data: strides of zero make a terabyte out of four bytes."""
    for key, tensor in tensors.items():
        held = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > held or held > size:
            raise UnsafeInputError(
                f"refused weights {name}",
                found=f"tensor {printable(key)} of shape {tuple(tensor.shape)}, more than the file's bytes",
                remedy=SAVE_PLAIN,
            )


def _unwrap(loaded: Any, name: str) -> _Contents:
    """Find the state dict in what people save around it."""
    path: list[str] = []
    notes: list[str] = []
    metadata: dict[str, str] = {}
    while isinstance(loaded, Mapping):
        inside = [key for key in _CONTAINERS if isinstance(loaded.get(key), Mapping) and loaded[key]]
        if not inside:
            break
        path.append(inside[0])
        notes += [f"the file also holds {key!r}, which was not used" for key in inside[1:]]
        metadata |= {
            printable(str(key)): printable(str(value))
            for key, value in loaded.items()
            if isinstance(value, str | int | float)
        }
        loaded = loaded[inside[0]]
    if path:
        notes.insert(0, f"weights taken from {'.'.join(path)!r}")
    return _Contents(_checked(loaded, name), metadata, notes)


def _checked(loaded: Any, name: str) -> dict[str, Tensor]:
    """Accept a dictionary of dense tensors only."""
    if not isinstance(loaded, Mapping) or not loaded:
        found = f"a {type(loaded).__name__}" if not isinstance(loaded, Mapping) else "no tensors"
        raise ModelError(f"cannot use weights {name}", found=found, wanted="a state dict", remedy=SAVE_PLAIN)
    odd = [key for key, value in loaded.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        refuse_tensors(name, "entries that are not named tensors", [str(key) for key in odd])
    odd = [key for key, value in loaded.items() if value.layout != torch.strided or value.is_quantized]
    if odd:
        refuse_tensors(name, "sparse or quantised tensors", odd)
    return {key: value.detach() for key, value in loaded.items()}


# -- safetensors ---------------------------------------------------------------------------------


def _read_safetensors(file: BinaryIO, name: str) -> _Contents:
    """Read through memory, not through mmap: a file that changes later must not change the network."""
    file.seek(0)
    data = file.read()
    try:
        metadata = check_header(data).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
    except Exception as error:
        raise ModelError(
            f"cannot read weights {name}",
            found=f"no valid safetensors file ({first_line(error)})",
            remedy=COPY_AGAIN,
        ) from error
    if not tensors:
        raise ModelError(f"cannot use weights {name}", found="no tensors", wanted="a state dict")
    shown = {printable(str(key)): printable(str(value)) for key, value in metadata.items()}
    return _Contents(tensors, shown, [])


_READERS: Mapping[str, Callable[[BinaryIO, str], _Contents]] = {
    "torch": _read_torch,
    "torch-legacy": _read_torch,
    "safetensors": _read_safetensors,
}


def _check_finite(tensors: Mapping[str, Tensor], name: str, allowed: bool) -> list[str]:
    """Name the tensors that would turn every activation into NaN."""
    bad = [key for key, tensor in tensors.items() if not all_finite(tensor)]
    bad += [
        key
        for key, tensor in tensors.items()
        if key.endswith("running_var") and key not in bad and bool((tensor < 0).any())
    ]
    if bad and not allowed:
        refuse_tensors(name, "NaN, infinite or negative-variance values", bad)
    return [f"not finite, but allowed: {listed(bad)}"] if bad else []


# -- identity ------------------------------------------------------------------------------------


def tensor_digest(module: nn.Module) -> str:
    """Hash what a network has learned, independent of any file.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    str
        SHA-256 over (name, dtype, shape, bytes) of all parameters and buffers, sorted by name; tied
        tensors count under each of their names.
    """
    tensors: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    tensors.update(module.named_parameters(remove_duplicate=False))
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{name}\0{_dtype(values)}\0{tuple(values.shape)}\0".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# -- words ---------------------------------------------------------------------------------------


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
