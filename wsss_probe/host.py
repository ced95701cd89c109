"""The plugin host: find plugins, call them one at a time, and keep one's fault from the others.

Plugins are code and run with the user's rights: this isolates faults, it is no sandbox. Nothing
here imports torch, so that ``wsss-probe --help`` can ask plugins for their commands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

import pluggy

from wsss_probe import hookspecs, offers
from wsss_probe.errors import PluginError, UsageError
from wsss_probe.isolation import Guard, Isolation, Offered, Origin, PluginFailure

if TYPE_CHECKING:
    from wsss_probe.contracts import (
        Batch,
        ChannelColumns,
        Command,
        ConceptMeasure,
        Explainer,
        ModelSource,
        Probe,
    )

__all__ = ["INTERFACE", "Guard", "Offered", "PluginFailure", "PluginHost", "PluginRow"]

GROUP: Final = "wsss_probe"
INTERFACE: Final = 1
"""Version of the plugin interface; a module with a higher ``wsss_probe_interface`` is not loaded."""

T = TypeVar("T")
P = ParamSpec("P")


@final
@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of ``wsss-probe plugins list``.

    Parameters
    ----------
    name, distribution, version : str
    hooks : tuple of str
        Hooks that the plugin implements.
    state : str
        ``loaded``, ``failed`` (it offers nothing), ``faulty`` (part of it failed later) or ``left out``.
    error : str
        First failure, one line.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    state: str
    error: str


class PluginHost:
    """The plugins of one audit.

    Parameters
    ----------
    strict : bool
        Raise a plugin's error instead of recording it.

    Examples
    --------
    >>> host = PluginHost()
    >>> host.collect_explainers()
    ()
    """

    def __init__(self, strict: bool = False) -> None:
        self._isolation = Isolation(strict)
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._states: dict[Origin, str] = {}

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """What went wrong so far, in the order in which it happened."""
        return tuple(self._isolation.failures)

    @property
    def strict(self) -> bool:
        """Whether a plugin's error stops the audit."""
        return self._isolation.strict

    # -- loading ------------------------------------------------------------------------------

    def load(
        self, only: Collection[str] = (), without: Collection[str] = (), strict: bool | None = None
    ) -> None:
        """Load the installed plugins, each on its own.

        Parameters
        ----------
        only : collection of str
            Load these and no others; empty means all.
        without : collection of str
            Leave these out.
        strict : bool or None
            Overrides the host's own setting.

        Raises
        ------
        UsageError
            If ``only`` or ``without`` names a plugin that is not installed.
        """
        if strict is not None:
            self._isolation.strict = strict
        found = sorted(((_origin(entry), entry) for entry in entry_points(group=GROUP)), key=_by_name)
        names = [origin.plugin for origin, _ in found]
        _refuse_unknown("--only-plugins", only, names)
        _refuse_unknown("--no-plugin", without, names)
        for origin, entry in found:
            if (only and origin.plugin not in only) or origin.plugin in without:
                self._states[origin] = "left out"
            else:
                self._admit(origin, entry.load)

    def register(self, plugin: object, name: str, distribution: str = "", version: str = "") -> None:
        """Add a module or object as a plugin, without an installed distribution.

        Parameters
        ----------
        plugin : module or object
            With functions or methods marked ``@hookimpl``.
        name : str
        distribution, version : str
            What messages say; by default ``name``.
        """
        self._admit(Origin(name, distribution or name, version), lambda: plugin)

    def _admit(self, origin: Origin, obtain: Callable[[], object]) -> None:
        """Import and register one plugin; afterwards it is either there or listed as failed."""
        taken = next((o for o in self._loaded() if o.plugin == origin.plugin), None)
        self._states[origin] = "failed"
        with self._isolation.watched("load", origin, ""):
            if taken:
                raise _clash("plugin", origin.plugin, str(taken), str(origin))
            self._register(obtain(), origin.plugin)
            self._states[origin] = "loaded"

    def _register(self, plugin: object, name: str) -> None:
        _check_interface(plugin)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()  # without it a misspelt hook is silently ignored
        except Exception:
            if self._manager.has_plugin(name):  # pluggy keeps a plugin that it has just refused
                self._manager.unregister(name=name)
            raise

    def _loaded(self) -> list[Origin]:
        """List the loaded plugins by name, whatever the order of registration."""
        return sorted((o for o, s in self._states.items() if s == "loaded"), key=lambda o: o.plugin)

    # -- collecting ---------------------------------------------------------------------------

    def collect_explainers(self) -> tuple[Offered[Explainer], ...]:
        """Ask every plugin for its explainers.

        Returns
        -------
        tuple of Offered[Explainer]
            Checked, with unique names, by plugin name.
        """
        return self._collect("wsss_probe_explainers", "explainer", offers.check_explainer)

    def collect_probes(self) -> tuple[Offered[Probe], ...]:
        """Ask every plugin for its probes.

        Returns
        -------
        tuple of Offered[Probe]
        """
        return self._collect("wsss_probe_probes", "probe", offers.check_probe)

    def collect_model_sources(self) -> tuple[Offered[ModelSource], ...]:
        """Ask every plugin for its model sources.

        Returns
        -------
        tuple of Offered[ModelSource]
        """
        return self._collect("wsss_probe_model_sources", "model source", offers.check_model_source)

    def collect_commands(self, reserved: Collection[str] = ()) -> tuple[Offered[Command], ...]:
        """Ask every plugin for its commands; their targets are not imported.

        Parameters
        ----------
        reserved : collection of str
            Names of the host's own commands.

        Returns
        -------
        tuple of Offered[Command]
        """
        return self._collect("wsss_probe_commands", "command", offers.check_command, reserved)

    def collect_channel_columns(self) -> tuple[Offered[ChannelColumns], ...]:
        """Ask every plugin for what offers columns for the channel passport.

        Returns
        -------
        tuple of Offered[ChannelColumns]
        """
        return self._collect("wsss_probe_channel_columns", "channel columns", offers.check_channel_columns)

    def collect_concept_measures(self) -> tuple[Offered[ConceptMeasure], ...]:
        """Ask every plugin for its concept measures.

        Returns
        -------
        tuple of Offered[ConceptMeasure]
        """
        return self._collect("wsss_probe_concept_measures", "concept measure", offers.check_concept_measure)

    def _collect(
        self, hook: str, kind: str, check: Callable[[Any], T], reserved: Collection[str] = ()
    ) -> tuple[Offered[T], ...]:
        owners = dict.fromkeys(reserved, "wsss-probe itself")
        collected: list[Offered[T]] = []
        for origin in self._loaded():
            for number, item in enumerate(self._call(hook, origin)):
                with self._isolation.watched(hook, origin, f"result {number + 1}") as guard:
                    if not guard.enabled:
                        continue
                    offered = origin.offers(check(item))
                    if offered.name in owners:
                        raise _clash(kind, offered.name, owners[offered.name], str(origin))
                    owners[offered.name] = str(origin)
                    collected.append(offered)
        return tuple(collected)

    def _call(self, hook: str, origin: Origin) -> tuple[Any, ...]:
        """Call the hook of one plugin and materialise what it returns."""
        plugin = self._manager.get_plugin(origin.plugin)
        if not any(caller.name == hook for caller in self._manager.get_hookcallers(plugin) or ()):
            return ()
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        results: tuple[Any, ...] = ()
        with self._isolation.watched(hook, origin, "") as guard:
            if guard.enabled:
                answers = self._manager.subset_hook_caller(hook, others)()
                results = _materialised(hook, answers)
        return results

    # -- isolating ----------------------------------------------------------------------------

    def guarded(
        self, stage: str, offered: Offered[Any], batch: Batch | None = None
    ) -> AbstractContextManager[Guard]:
        """Run a block in a plugin's name; see :meth:`Isolation.guarded`."""
        return self._isolation.guarded(stage, offered, batch)

    def safe_call(
        self,
        stage: str,
        offered: Offered[Any],
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | PluginFailure:
        """Call a function in a plugin's name; see :meth:`Isolation.safe_call`."""
        return self._isolation.safe_call(stage, offered, function, *args, **kwargs)

    def disabled(self, stage: str, offered: Offered[Any]) -> PluginFailure | None:
        """Give the failure that disabled an item at a stage; see :meth:`Isolation.disabled`."""
        return self._isolation.disabled(stage, offered)

    def adopt(self, failures: Iterable[PluginFailure]) -> None:
        """Take over failures that a worker recorded; see :meth:`Isolation.adopt`."""
        self._isolation.adopt(failures)

    # -- listing ------------------------------------------------------------------------------

    def listing(self) -> tuple[PluginRow, ...]:
        """List every plugin found, whether it works or not.

        Returns
        -------
        tuple of PluginRow
            By name.
        """
        return tuple(self._row(o) for o in sorted(self._states, key=lambda o: (o.plugin, o.distribution)))

    def _row(self, origin: Origin) -> PluginRow:
        state = self._states[origin]
        own = [f for f in self.failures if (f.plugin, f.distribution) == (origin.plugin, origin.distribution)]
        broken = [failure for failure in own if not failure.disturbance]
        hooks: tuple[str, ...] = ()
        if state == "loaded":
            plugin = self._manager.get_plugin(origin.plugin)
            hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or ()))
            state = "faulty" if broken else state
        error = next((failure.message for failure in (*broken, *own)), "")
        if state == "loaded" and not hooks:
            error = error or "offers nothing: no function is marked @hookimpl"
        return PluginRow(origin.plugin, origin.distribution, origin.version, hooks, state, error)


# -- parts ------------------------------------------------------------------------------------


def _origin(entry: EntryPoint) -> Origin:
    if entry.dist is None:
        return Origin(entry.name, entry.value, "")
    return Origin(entry.name, entry.dist.name, entry.dist.version)


def _by_name(found: tuple[Origin, EntryPoint]) -> tuple[str, str]:
    return found[0].plugin, found[0].distribution


def _refuse_unknown(flag: str, asked: Iterable[str], names: list[str]) -> None:
    from difflib import get_close_matches

    for name in asked:
        if name in names:
            continue
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        raise UsageError(
            f"{flag}: no such plugin",
            found=name,
            wanted=", ".join(sorted(set(names))) or "no plugin is installed",
            remedy=f"did you mean {near[0]}?" if near else "run 'wsss-probe plugins list'",
        )


def _check_interface(plugin: object) -> None:
    """Refuse a plugin for a later host, and hook functions that somebody forgot to mark."""
    wanted = getattr(plugin, "wsss_probe_interface", INTERFACE)
    if not isinstance(wanted, int) or wanted > INTERFACE:
        raise PluginError(
            "written for a later plugin interface",
            found=repr(wanted),
            wanted=f"at most {INTERFACE}",
            remedy="upgrade wsss-probe",
        )
    for name in dir(plugin):
        value = getattr(plugin, name) if name.startswith("wsss_probe_") else None
        if callable(value) and not hasattr(value, "wsss_probe_impl"):
            raise PluginError(f"function {name} is not marked", wanted="@wsss_probe.hookimpl above it")


def _materialised(hook: str, answers: list[Any]) -> tuple[Any, ...]:
    """Make a tuple of what one plugin's hook returned; pluggy drops a None."""
    if not answers:
        raise PluginError(f"{hook} returned None", wanted="an iterable", remedy="return [] to offer nothing")
    answer = answers[0]
    if isinstance(answer, (str, bytes, dict)) or not isinstance(answer, Iterable):
        raise PluginError(
            f"{hook} returned the wrong type",
            found=type(answer).__name__,
            wanted="an iterable",
            remedy="return a list",
        )
    return tuple(answer)


def _clash(kind: str, name: str, first: str, second: str) -> PluginError:
    return PluginError(
        f"two plugins offer the {kind} {name!r}",
        found=f"{first} and {second}",
        wanted="one",
        remedy="uninstall one of them, or leave it out with --no-plugin",
    )
