"""A training leaves the process as it found it: random states, threads, switches, log levels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wsss_probe import surroundings

__all__ = ["interruptible", "left_as_found"]

_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")

# Said by Lightning for every small training; nothing here is for the user to act on.
_KNOWN_WARNINGS = (
    ".*does not have many workers.*",
    ".*LeafSpec.*",
    ".*GPU available but not used.*",
)


@contextmanager
def left_as_found(threads: int | None = None) -> Iterator[None]:
    """Restore global state when the block ends, also after an exception.

    Covered: random states of torch, numpy and Python, torch's thread number, gradient mode,
    deterministic and cuDNN switches, environment variables, warning filters, Lightning's log levels.

    Parameters
    ----------
    threads : int or None
        Threads of torch inside the block; None leaves them.
    """
    before = surroundings.read()
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    try:
        with _quiet_lightning(), torch.enable_grad():
            if threads is not None:
                torch.set_num_threads(threads)
            yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        surroundings.restore(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Lightning's ``sys.exit(1)`` after Ctrl-C back into the KeyboardInterrupt it was."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes about hardware and loaders from the terminal."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
