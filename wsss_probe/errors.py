"""Everything that may go wrong, each with its exit code and one clear line."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "CorruptRunError",
    "ExitCode",
    "ImageError",
    "ManifestError",
    "ModelError",
    "NothingToDoError",
    "PlanError",
    "PluginError",
    "ProbeError",
    "SchemaError",
    "SealedError",
    "UnsafeInputError",
    "UsageError",
]


class ExitCode(IntEnum):
    """Exit codes of the command line; they are part of the public interface."""

    DONE = 0
    CONDITION_FAILED = 1
    INTERRUPTED = 2
    INTERNAL = 3
    USAGE = 4
    NOTHING_TO_DO = 5
    WITH_FAILURES = 6
    UNSAFE = 7
    CORRUPT = 8


class ProbeError(Exception):
    """Base of all errors that the user can mend.

    Parameters
    ----------
    what : str
        What could not be done, and with which thing.
    found, wanted, remedy : str, optional
        The value met, the value expected, and the next step; each is a phrase without a full stop.

    Examples
    --------
    >>> print(ProbeError("layer not found", found="layer5", remedy="run 'wsss-probe layers'"))
    layer not found; found: layer5; remedy: run 'wsss-probe layers'
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(
        self,
        what: str,
        *,
        found: str | None = None,
        wanted: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.found = found
        self.wanted = wanted
        self.remedy = remedy
        parts = [what]
        named = {"found": found, "wanted": wanted, "remedy": remedy}
        parts += [f"{name}: {value}" for name, value in named.items() if value]
        super().__init__("; ".join(parts))


class UsageError(ProbeError):
    """A flag, a run file or an argument that cannot be meant."""


class ManifestError(ProbeError):
    """A manifest, mask or label table that cannot be read as one."""


class ImageError(ProbeError):
    """One image that cannot be decoded; the survey quarantines it and goes on."""


class ModelError(ProbeError):
    """A model, checkpoint, layer or class that does not fit."""


class PlanError(ProbeError):
    """A run that exists already and was planned differently."""


class SchemaError(ProbeError):
    """A table that a plugin returned and that breaks the contract."""

    exit_code = ExitCode.WITH_FAILURES


class PluginError(ProbeError):
    """A plugin that could not be loaded, or that clashes with another."""


class SealedError(ProbeError):
    """A choice that was to be scored on the images it was made on."""


class NothingToDoError(ProbeError):
    """No image, no layer or no probe is left to work on."""

    exit_code = ExitCode.NOTHING_TO_DO


class UnsafeInputError(ProbeError):
    """Input that would run code or escape its folder; refused, nothing was executed."""

    exit_code = ExitCode.UNSAFE


class CorruptRunError(ProbeError):
    """A run folder whose contents contradict its own records."""

    exit_code = ExitCode.CORRUPT
