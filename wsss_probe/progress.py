"""Progress of long work: a bar on a terminal, a line a minute elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar", "lines"]

_EVERY_SECONDS = 60.0

Advance = Callable[[int], None]


@contextmanager
def bar(title: str, images: int) -> Iterator[Advance]:
    """Show a rich progress bar with rate and remaining time on a terminal.

    Parameters
    ----------
    title : str
    images : int
        Total.

    Yields
    ------
    callable
        To call with the number of images done since the last call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task(title, total=images)
        yield lambda number: shown.advance(task, number)


@contextmanager
def lines(title: str, images: int) -> Iterator[Advance]:
    """Print at most one line a minute, for logs.

    Parameters
    ----------
    title : str
    images : int

    Yields
    ------
    callable
    """
    done, last = 0, time.monotonic()

    def advance(number: int) -> None:
        nonlocal done, last
        done += number
        if time.monotonic() - last >= _EVERY_SECONDS:
            last = time.monotonic()
            sys.stderr.write(f"{title}: {done}/{images} images\n")

    yield advance
