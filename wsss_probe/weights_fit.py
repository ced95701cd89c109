"""Fitting weights to a network: every tensor finds its place, or nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError, UsageError
from wsss_probe.weights_file import first_line, listed, printable, refuse_tensors

if TYPE_CHECKING:
    from wsss_probe.checkpoint import Checkpoint

__all__ = ["LoadReport", "all_finite", "load_into"]

_TABLE_ROWS = 12


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint went into a network.

    Parameters
    ----------
    prefix : str
        Stripped from every name in the file; empty if the names matched as they are.
    missing, unexpected : tuple of str
        Names only in the network, only in the file; every one was allowed.
    casts : mapping of str to str
        ``name -> "float16 -> float32"`` for every tensor whose precision changed.
    notes : tuple of str
        The same in words.
    """

    prefix: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    casts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Fit(NamedTuple):
    """How the names, shapes and kinds of a file compare with a network's under one prefix."""

    prefix: str
    common: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    different: tuple[str, ...]

    def accepted(self, allowed: frozenset[str]) -> bool:
        return bool(self.common) and not self.refused(allowed)

    def refused(self, allowed: frozenset[str]) -> list[str]:
        """Names that stand in the way, worst first; BatchNorm's counter has no effect on the output."""
        gaps = [name for name in self.missing if not name.endswith("num_batches_tracked")]
        return [*self.different, *(name for name in (*gaps, *self.unexpected) if name not in allowed)]


def load_into(
    module: nn.Module, checkpoint: Checkpoint, *, allow_missing: frozenset[str] = frozenset()
) -> LoadReport:
    """Load weights into a network, all of them or none.

    Every tensor of the network must be in the file and the other way round, with equal shapes. Leading
    parts that all names of the file share (``module.``, ``_orig_mod.``, ``model.``) are stripped if, and
    only if, everything then fits. Floating-point precisions are converted with a note; integers and
    complex numbers are never converted. BatchNorm's ``num_batches_tracked`` may be absent.

    Parameters
    ----------
    module : nn.Module
        Changed in place; unchanged when an error is raised.
    checkpoint : Checkpoint
    allow_missing : frozenset of str
        Names, as the network has them, that may stand on one side only.

    Returns
    -------
    LoadReport

    Raises
    ------
    ModelError
        With a table of what does not fit.
    UsageError
        An allowed name that neither side has.
    """
    wanted = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    fits = [_fit(prefix, checkpoint.tensors, wanted) for prefix in _prefixes(checkpoint.tensors)]
    fit = next((fit for fit in fits if fit.accepted(allow_missing)), None)
    if fit is None:
        raise _misfit(max(fits, key=lambda fit: len(fit.common)), module, checkpoint, wanted, allow_missing)
    unknown = allow_missing - {*fit.common, *fit.missing, *fit.unexpected}
    if unknown:
        raise UsageError("allowed names that neither file nor network has", found=listed(sorted(unknown)))
    ours = {name: checkpoint.tensors[fit.prefix + name] for name in fit.common}
    casts = _casts(ours, wanted)
    _load(module, {name: tensor.to(wanted[name].dtype) for name, tensor in ours.items()}, ours, checkpoint)
    return LoadReport(fit.prefix, fit.missing, fit.unexpected, MappingProxyType(casts), _notes(fit, casts))


def _prefixes(names: Iterable[str]) -> list[str]:
    """No prefix, then up to three leading parts that all names share."""
    names = list(names)
    prefixes = [""]
    for _ in range(3):
        start = len(prefixes[-1])
        heads = {"".join(name[start:].partition(".")[:2]) for name in names}
        if len(heads) != 1 or not min(heads).endswith("."):
            break
        prefixes.append(prefixes[-1] + min(heads))
    return prefixes


def _fit(prefix: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> _Fit:
    names = {name.removeprefix(prefix) for name in found}
    common = tuple(name for name in wanted if name in names)
    different = tuple(name for name in common if not _compatible(found[prefix + name], wanted[name]))
    missing = tuple(name for name in wanted if name not in names)
    return _Fit(prefix, common, missing, tuple(sorted(names - wanted.keys())), different)


def _compatible(found: Tensor, wanted: Tensor) -> bool:
    same_kind = found.dtype == wanted.dtype or (found.is_floating_point() and wanted.is_floating_point())
    return same_kind and found.shape == wanted.shape


def _casts(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{_dtype(tensor)} -> {_dtype(wanted[name])}"
        for name, tensor in found.items()
        if tensor.dtype != wanted[name].dtype
    }


def _load(
    module: nn.Module, converted: dict[str, Tensor], found: Mapping[str, Tensor], checkpoint: Checkpoint
) -> None:
    overflown = [name for name in converted if all_finite(found[name]) and not all_finite(converted[name])]
    if overflown:
        refuse_tensors(checkpoint.name, "values too large for the network's precision", overflown)
    try:
        refused = module.load_state_dict(converted, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ModelError(
            f"{type(module).__name__} refuses weights {checkpoint.name}", found=first_line(error)
        ) from error
    if refused:
        refuse_tensors(checkpoint.name, "tensors that the network ignores", refused)


def _notes(fit: _Fit, casts: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    if fit.prefix:
        notes.append(f"prefix {printable(fit.prefix)!r} stripped from all names")
    if fit.missing:
        notes.append(f"not in the file, left as built: {listed(fit.missing)}")
    if fit.unexpected:
        notes.append(f"not in the network, unused: {listed(fit.unexpected)}")
    kinds = sorted(set(casts.values()))
    notes += [f"{sum(c == kind for c in casts.values())} tensors converted {kind}" for kind in kinds]
    return tuple(notes)


def _misfit(
    fit: _Fit,
    module: nn.Module,
    checkpoint: Checkpoint,
    wanted: Mapping[str, Tensor],
    allowed: frozenset[str],
) -> ModelError:
    """Build the error with the table of differences."""
    names = fit.refused(allowed)
    rows = [("name", "in file", "in model")]
    rows += [
        (printable(name), _cell(checkpoint.tensors.get(fit.prefix + name)), _cell(wanted.get(name)))
        for name in names[:_TABLE_ROWS]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    if len(names) > _TABLE_ROWS:
        lines.append(f"... and {len(names) - _TABLE_ROWS} more")
    table = "\n".join(f"  {line.rstrip()}" for line in lines)
    return ModelError(
        f"weights {checkpoint.name} do not fit the network {type(module).__name__}",
        found=f"{len(names)} differences ({len(fit.different)} in shape or type, {len(fit.missing)} only in "
        f"the network, {len(fit.unexpected)} only in the file; {len(fit.common)} names agree)",
        wanted="the same names and shapes",
        remedy=f"check the network's name and arguments (number of classes)\n{table}",
    )


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any dtype holds neither NaN nor infinity."""
    if tensor.dtype.is_floating_point and tensor.element_size() < 2:
        tensor = tensor.float()  # isfinite knows no 8-bit floats
    return bool(torch.isfinite(tensor).all())


def _cell(tensor: Tensor | None) -> str:
    return "-" if tensor is None else f"{tuple(tensor.shape)} {_dtype(tensor)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
