"""Checks on what hooks return: names, types and cards of everything that a plugin offers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from wsss_probe.contracts import (
    ChannelColumns,
    Command,
    ConceptMeasure,
    DefinitionCard,
    Explainer,
    ModelSource,
    Probe,
)
from wsss_probe.errors import PluginError

__all__ = [
    "check_channel_columns",
    "check_command",
    "check_concept_measure",
    "check_explainer",
    "check_model_source",
    "check_probe",
]

MANIFEST: Final = "manifest"
"""Stands for a concept measure where values are columns of the manifest."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.+-]*")
TARGET: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_explainer(item: Any) -> Explainer:
    """Check an explainer's type, name, card and whether it says if it reads gradients.

    Parameters
    ----------
    item : Explainer

    Returns
    -------
    Explainer

    Raises
    ------
    PluginError
    """
    _check_type(item, Explainer)
    _check_name(item, NAME, "lower case letters, digits and _ . + -")
    card = getattr(item, "card", None)
    if not isinstance(card, DefinitionCard):
        raise _incomplete(item, "card", card, "a DefinitionCard")
    for field in ("title", "formula", "paper"):
        if not getattr(card, field):
            raise _incomplete(item, f"card.{field}", "", "text")
    if not isinstance(getattr(item, "gradients", None), bool):
        raise _incomplete(item, "gradients", getattr(item, "gradients", None), "True or False")
    explainer: Explainer = item
    return explainer


def check_probe(item: Any) -> Probe:
    """Check a probe's type, name and options.

    Parameters
    ----------
    item : Probe

    Returns
    -------
    Probe

    Raises
    ------
    PluginError
    """
    _check_type(item, Probe)
    # A copy that split() made carries its layer behind the @, in that layer's spelling.
    _check_name(item, re.compile(NAME.pattern + "(@.+)?"), "lower case letters, digits and _ . + -")
    options = item.options
    if not isinstance(options, Mapping):
        raise _incomplete(item, "options", options, "a mapping")
    try:
        json.dumps(dict(options), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _incomplete(item, "options", options, "values that JSON can hold") from error
    probe: Probe = item
    return probe


def check_channel_columns(item: Any) -> ChannelColumns:
    """Check type and name of what offers columns for the channel passport.

    Parameters
    ----------
    item : ChannelColumns

    Returns
    -------
    ChannelColumns

    Raises
    ------
    PluginError
    """
    _check_type(item, ChannelColumns)
    _check_name(item, NAME, "lower case letters, digits and _ . + -")
    columns: ChannelColumns = item
    return columns


def check_concept_measure(item: Any) -> ConceptMeasure:
    """Check a concept measure's type, name and card.

    Parameters
    ----------
    item : ConceptMeasure

    Returns
    -------
    ConceptMeasure

    Raises
    ------
    PluginError
    """
    _check_type(item, ConceptMeasure)
    _check_name(item, NAME, "lower case letters, digits and _ . + -")
    if not isinstance(getattr(item, "card", None), DefinitionCard):
        raise _incomplete(item, "card", getattr(item, "card", None), "a DefinitionCard")
    if item.name == MANIFEST:
        raise _incomplete(item, "name", item.name, f"another name: '{MANIFEST}' are the manifest's columns")
    measure: ConceptMeasure = item
    return measure


def check_model_source(item: Any) -> ModelSource:
    """Check a model source's type, name and function.

    Parameters
    ----------
    item : ModelSource

    Returns
    -------
    ModelSource

    Raises
    ------
    PluginError
    """
    _check_type(item, ModelSource)
    _check_name(item, NAME, "lower case letters, digits and _ . + -")
    if not callable(item.build):
        raise _incomplete(item, "build", item.build, "a function of the arguments")
    source: ModelSource = item
    return source


def check_command(item: Any) -> Command:
    """Check a command's type, its one or two words and the form of its target.

    Parameters
    ----------
    item : Command

    Returns
    -------
    Command

    Raises
    ------
    PluginError
    """
    _check_type(item, Command)
    _check_name(item, re.compile(f"{NAME.pattern}( {NAME.pattern})?"), "one or two words in lower case")
    if not isinstance(item.target, str) or not TARGET.fullmatch(item.target):
        raise _incomplete(item, "target", item.target, "module:function")
    command: Command = item
    return command


def _check_type(item: Any, wanted: type) -> None:
    if isinstance(item, wanted):
        return
    if isinstance(item, type) and issubclass(item, wanted):
        raise PluginError(
            f"a hook returned the class {item.__name__}",
            wanted=f"an instance of {wanted.__name__}",
            remedy=f"return [{item.__name__}()]",
        )
    raise PluginError(
        "a hook returned the wrong type", found=f"{type(item).__name__}", wanted=wanted.__name__
    )


def _check_name(item: Any, form: re.Pattern[str], wanted: str) -> None:
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not form.fullmatch(name):
        raise PluginError(
            f"{type(item).__name__} has a name that cannot be used", found=repr(name), wanted=wanted
        )


def _incomplete(item: Any, attribute: str, found: object, wanted: str) -> PluginError:
    return PluginError(
        f"{type(item).__name__} {item.name!r}: {attribute} is missing or wrong",
        found=repr(found),
        wanted=wanted,
    )
