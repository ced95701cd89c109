"""Checks on everything that a plugin hands over except tables, which have :mod:`wsss_probe.schema`.

Hooks return explainers, probes, model sources and commands; probes return conclusions and sections.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from wsss_probe.contracts import (
    Block,
    Command,
    Conclusion,
    DefinitionCard,
    Explainer,
    Finding,
    ModelSource,
    Probe,
    Question,
    Section,
    Verdict,
)
from wsss_probe.errors import PluginError, SchemaError
from wsss_probe.schema import check_summary

__all__ = [
    "check_command",
    "check_conclusion",
    "check_explainer",
    "check_model_source",
    "check_probe",
    "check_sections",
]

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


def check_conclusion(conclusion: Any, name: str) -> Conclusion:
    """Check what ``Probe.conclude`` returned: the summary, and findings that a report can show.

    Parameters
    ----------
    conclusion : Conclusion
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    Conclusion

    Raises
    ------
    SchemaError
        If a type is wrong, a finding has no name, statement or verdict, two findings share a name, or a
        number is infinite or stands outside its interval's order.
    """
    if not isinstance(conclusion, Conclusion):
        raise SchemaError(
            f"{name}: conclude returned the wrong type",
            found=_kind(conclusion),
            wanted="Conclusion(summary, findings)",
        )
    findings = tuple(conclusion.findings)
    for finding in findings:
        _check_finding(finding, name)
    names = [finding.name for finding in findings]
    if len(set(names)) < len(names):
        raise SchemaError(f"{name}: two findings share a name", found=", ".join(names), wanted="unique names")
    return Conclusion(check_summary(conclusion.summary, name), findings)


def check_sections(sections: Any, name: str) -> tuple[Section, ...]:
    """Check what ``Probe.sections`` returned.

    Parameters
    ----------
    sections : iterable of Section
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    tuple of Section

    Raises
    ------
    SchemaError
    """
    wanted = "an iterable of Section"
    if isinstance(sections, Section) or not isinstance(sections, Iterable):
        raise SchemaError(f"{name}: sections returned the wrong type", found=_kind(sections), wanted=wanted)
    checked = tuple(sections)
    for section in checked:
        if not isinstance(section, Section):
            raise SchemaError(
                f"{name}: sections returned the wrong type", found=_kind(section), wanted=wanted
            )
        if section.question not in get_args(Question):
            raise SchemaError(
                f"{name}: section {section.title!r} answers no question of the report",
                found=repr(section.question),
                wanted=", ".join(get_args(Question)),
            )
        for block in section.blocks:
            if not isinstance(block, Block):
                raise SchemaError(
                    f"{name}: section {section.title!r} has a block of the wrong type",
                    found=_kind(block),
                    wanted="Text, Table, Figure or Gallery",
                )
    return checked


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


def _check_finding(finding: Any, name: str) -> None:
    """Refuse a finding that says nothing, or a number that a reader could not use."""
    if not isinstance(finding, Finding):
        raise SchemaError(f"{name}: a finding has the wrong type", found=_kind(finding), wanted="Finding")
    if not finding.name or not finding.statement:
        raise SchemaError(f"{name}: a finding has no name or no statement", found=repr(finding))
    owner = f"{name}: finding {finding.name!r}"
    if finding.verdict not in get_args(Verdict):
        raise SchemaError(
            f"{owner} has an unknown verdict",
            found=repr(finding.verdict),
            wanted=", ".join(get_args(Verdict)),
        )
    if finding.effect is not None and math.isinf(finding.effect):
        raise SchemaError(f"{owner} has an infinite effect", wanted="a finite number, NaN or None")
    if finding.interval is not None and not (len(finding.interval) == 2 and not _falls(finding.interval)):
        raise SchemaError(
            f"{owner} has an interval in the wrong order", found=str(finding.interval), wanted="(low, high)"
        )


def _falls(interval: tuple[float, ...]) -> bool:
    """Whether low stands above high; NaN, an interval that could not be had, does not."""
    return interval[0] > interval[1]


def _kind(value: object) -> str:
    return type(value).__name__
