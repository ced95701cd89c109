"""The hooks: all that a plugin can add to an audit.

A plugin is a distribution with an entry point in the group ``wsss_probe``; the entry point is a
module with functions marked ``@hookimpl``. Hooks return iterables of descriptions from
:mod:`wsss_probe.contracts`. The host calls them one plugin at a time, so a broken plugin stops
nobody else. Import heavy libraries inside the hook function: ``wsss-probe --help`` loads every
plugin's entry module.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from wsss_probe.contracts import ChannelColumns, Command, ConceptMeasure, Explainer, ModelSource, Probe

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("wsss_probe")
hookimpl = pluggy.HookimplMarker("wsss_probe")


@hookspec
def wsss_probe_explainers() -> Iterable[Explainer]:  # type: ignore[empty-body]
    """Offer ways to turn a layer's activations and gradients into relevance maps.

    >>> @hookimpl
    ... def wsss_probe_explainers():
    ...     from my_plugin.maps import MeanMap
    ...     return [MeanMap()]
    """


@hookspec
def wsss_probe_probes() -> Iterable[Probe]:  # type: ignore[empty-body]
    """Offer analyses that stream over the images and conclude over all of them.

    >>> @hookimpl
    ... def wsss_probe_probes():
    ...     from my_plugin.brightness import Brightness
    ...     return [Brightness()]
    """


@hookspec
def wsss_probe_model_sources() -> Iterable[ModelSource]:  # type: ignore[empty-body]
    """Offer families of networks that ``--model`` and model cards can name.

    >>> @hookimpl
    ... def wsss_probe_model_sources():
    ...     from my_plugin.nets import build
    ...     return [ModelSource("tinynet", "four convolutions", build)]
    """


@hookspec
def wsss_probe_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """Offer commands; the target is imported only when the command runs.

    >>> @hookimpl
    ... def wsss_probe_commands():
    ...     return [Command("train tinynet", "Train a tiny net.", "my_plugin.training:main")]
    """


@hookspec
def wsss_probe_channel_columns() -> Iterable[ChannelColumns]:  # type: ignore[empty-body]
    """Offer columns for the channel passport: the table in the report with one row per channel.

    >>> @hookimpl
    ... def wsss_probe_channel_columns():
    ...     from my_plugin.passport import Columns
    ...     return [Columns()]
    """


@hookspec
def wsss_probe_concept_measures() -> Iterable[ConceptMeasure]:  # type: ignore[empty-body]
    """Offer ways to measure concepts in an image: texture, shape, stain, whatever has a number.

    >>> @hookimpl
    ... def wsss_probe_concept_measures():
    ...     from my_plugin.darkness import Darkness
    ...     return [Darkness()]
    """
