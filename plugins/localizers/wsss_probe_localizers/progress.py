"""A progress bar on stderr, where somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(epochs: int, *, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show finished epochs with their validation loss and AUC.

    Parameters
    ----------
    epochs : int
    shown : bool
        Without it nothing is written.

    Yields
    ------
    callable
        Takes an epoch's record.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as progress:
        bar = progress.add_task("training", total=epochs)

        def advance(record: dict[str, float]) -> None:
            progress.update(
                bar,
                completed=record["epoch"] + 1,
                description=f"val loss {record['val_loss']:.3f}  AUC {record['val_auc']:.3f}",
            )

        yield advance
