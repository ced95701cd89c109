"""Run code in a plugin's name: record what it raises, put back what it disturbs, go on."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, final

from wsss_probe import surroundings
from wsss_probe.contracts import Batch
from wsss_probe.errors import PluginError, ProbeError

__all__ = ["STRICT", "Guard", "Isolation", "Offered", "Origin", "PluginFailure"]

TRACEBACK_LIMIT: Final = 20_000  # characters; a report has room for the end of a traceback, not for a log
MESSAGE_LIMIT: Final = 500
STRICT: Final = "stopped by --strict: "
"""Opens the note on an error that ``strict`` lets pass, which names the plugin."""

T = TypeVar("T")
P = ParamSpec("P")


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """The plugin that something comes from.

    Parameters
    ----------
    plugin, distribution, version : str
    """

    plugin: str
    distribution: str
    version: str

    def offers(self, item: T) -> Offered[T]:
        """Attach the plugin to something that it offers."""
        return Offered(item, self.plugin, self.distribution, self.version)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@final
@dataclass(frozen=True, slots=True)
class Offered(Generic[T]):
    """An explainer, probe, model source or command, with the plugin that offers it.

    Parameters
    ----------
    item : Explainer, Probe, ModelSource or Command
    plugin, distribution, version : str
    """

    item: T
    plugin: str
    distribution: str
    version: str

    @property
    def origin(self) -> Origin:
        """The plugin that offers the item."""
        return Origin(self.plugin, self.distribution, self.version)

    @property
    def name(self) -> str:
        """Name of the item."""
        return str(getattr(self.item, "name", ""))


@final
@dataclass(frozen=True, slots=True)
class PluginFailure:
    """What went wrong in a plugin, as the report tells it; plain text throughout.

    Parameters
    ----------
    plugin, distribution, version : str
    stage : str
        ``load``, the name of a hook, or what the survey was doing (``observe``).
    item : str
        Explainer or probe concerned; empty if it is the plugin as a whole.
    message : str
        One line, control characters escaped.
    traceback : str
        Empty for a disturbance.
    disturbance : bool
        The call succeeded but changed something outside (random state, folder, …) that the host
        put back; nothing is disabled.
    """

    plugin: str
    distribution: str
    version: str
    stage: str
    item: str
    message: str
    traceback: str
    disturbance: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-able values, for ``run.json``."""
        return asdict(self)

    def __str__(self) -> str:
        whose = f"{self.item} of plugin {self.plugin}" if self.item else f"plugin {self.plugin}"
        return f"{whose} ({self.distribution} {self.version}), {self.stage}: {self.message}"


@final
@dataclass(slots=True)
class Guard:
    """What a guarded block knows about itself.

    Parameters
    ----------
    enabled : bool
        False when the item failed at this stage before; the block should do nothing then.
    failure : PluginFailure or None
        Set after the block, if it failed now or before.
    """

    enabled: bool
    failure: PluginFailure | None = None


class Isolation:
    """The faults of the plugins of one audit, and the blocks that catch them.

    Parameters
    ----------
    strict : bool
        Raise a plugin's error instead of going on.

    Attributes
    ----------
    failures : list of PluginFailure
        In the order in which they happened.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.failures: list[PluginFailure] = []
        self._trace = os.environ.get("WSSS_PROBE_TRACE") == "1"

    @contextmanager
    def guarded(self, stage: str, offered: Offered[Any], batch: Batch | None = None) -> Iterator[Guard]:
        """Run a block in a plugin's name: record what it raises, put back what it disturbs.

        After its first failure an item is disabled at that stage. KeyboardInterrupt passes.

        Parameters
        ----------
        stage : str
        offered : Offered
        batch : Batch or None
            A batch lent to the plugin; writing into its tensors is a failure.

        Yields
        ------
        Guard
        """
        with self.watched(stage, offered.origin, offered.name, batch) as guard:
            yield guard

    def safe_call(
        self,
        stage: str,
        offered: Offered[Any],
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | PluginFailure:
        """Call a function in a plugin's name, as in :meth:`guarded`.

        Parameters
        ----------
        stage : str
        offered : Offered
        function : callable
        *args, **kwargs
            A :class:`Batch` among the positional arguments is watched.

        Returns
        -------
        Any or PluginFailure
            The result; the failure if there was one now or before at this stage.
        """
        batch = next((argument for argument in args if isinstance(argument, Batch)), None)
        result: T | None = None
        with self.guarded(stage, offered, batch) as guard:
            if guard.enabled:
                result = function(*args, **kwargs)
        return guard.failure or cast("T", result)

    def disabled(self, stage: str, offered: Offered[Any]) -> PluginFailure | None:
        """Give the failure that disabled an item at a stage.

        Parameters
        ----------
        stage : str
        offered : Offered

        Returns
        -------
        PluginFailure or None
        """
        return self._first(stage, Origin(offered.plugin, offered.distribution, offered.version), offered.name)

    def adopt(self, failures: Iterable[PluginFailure]) -> None:
        """Take over failures that a worker recorded.

        Parameters
        ----------
        failures : iterable of PluginFailure
        """
        known = set(self.failures)
        self.failures += [failure for failure in failures if failure not in known]

    def _first(self, stage: str, origin: Origin, item: str) -> PluginFailure | None:
        wanted = (origin.plugin, origin.distribution, stage, item)
        for failure in self.failures:
            found = (failure.plugin, failure.distribution, failure.stage, failure.item)
            if found == wanted and not failure.disturbance:
                return failure
        return None

    @contextmanager
    def watched(self, stage: str, origin: Origin, item: str, batch: Batch | None = None) -> Iterator[Guard]:
        """Guard a block that concerns a plugin as a whole or a named part of it; see :meth:`guarded`.

        Parameters
        ----------
        stage : str
        origin : Origin
        item : str
            Empty for the plugin as a whole.
        batch : Batch or None

        Yields
        ------
        Guard
        """
        earlier = self._first(stage, origin, item)
        guard = Guard(enabled=earlier is None, failure=earlier)
        if earlier:
            yield guard
            return
        lent = surroundings.versions(surroundings.batch_tensors(batch)) if batch else ()
        before, start = surroundings.read(), time.perf_counter()
        try:
            yield guard
            _refuse_mutation(surroundings.mutated(lent))
        except (Exception, SystemExit) as error:  # sys.exit in a plugin must not end the audit
            guard.failure = self._record(_failure(stage, origin, item, error))
            if self.strict:
                error.add_note(f"{STRICT}{guard.failure}")
                raise
        finally:
            changed = surroundings.restore(before)
            self._print_trace(stage, origin, item, time.perf_counter() - start, guard)
        if changed:
            self._note(stage, origin, item, changed)

    def _record(self, failure: PluginFailure) -> PluginFailure:
        self.failures.append(failure)
        return failure

    def _note(self, stage: str, origin: Origin, item: str, changed: tuple[str, ...]) -> None:
        """Record once that a call disturbed its surroundings; under ``strict`` refuse it."""
        message = f"changed {'; '.join(changed)}; the host put it back"
        note = PluginFailure(
            origin.plugin, origin.distribution, origin.version, stage, item, message, "", disturbance=True
        )
        if note not in self.failures:
            self._record(note)
        if self.strict:
            error = PluginError(str(note), remedy="use a generator or a context manager of the plugin's own")
            error.add_note(f"{STRICT}{note}")
            raise error

    def _print_trace(self, stage: str, origin: Origin, item: str, seconds: float, guard: Guard) -> None:
        if self._trace:
            outcome = guard.failure.message if guard.failure else "ok"
            what = " ".join(filter(None, (origin.plugin, stage, item)))
            sys.stderr.write(f"wsss-probe trace: {what}: {outcome} ({seconds * 1e3:.1f} ms)\n")


# -- parts ------------------------------------------------------------------------------------


def _refuse_mutation(count: int) -> None:
    if count:
        raise PluginError(
            "wrote into the batch that it was lent",
            found=f"{count} tensors changed in place",
            wanted="none",
            remedy="clone before in-place operations; values of other probes are not reliable in this run",
        )


def _failure(stage: str, origin: Origin, item: str, error: BaseException) -> PluginFailure:
    trace = "".join(traceback.format_exception(error))
    return PluginFailure(
        origin.plugin,
        origin.distribution,
        origin.version,
        stage,
        item,
        _printable(_line(error))[:MESSAGE_LIMIT],
        _printable(trace[-TRACEBACK_LIMIT:]),
    )


def _line(error: BaseException) -> str:
    """Say an error in one line; our own errors say what they are without their type."""
    if isinstance(error, ProbeError):
        return str(error)
    lines = traceback.format_exception_only(error)
    text = lines[-1] if isinstance(error, SyntaxError) else lines[0]
    return " ".join(text.split())


def _printable(text: str) -> str:
    """Escape control, direction and surrogate characters, which could forge lines of a report."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text
    )
