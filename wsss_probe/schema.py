"""What the tables of a run look like, and readable errors for results that do not.

Everything that a plugin returns passes one of the ``check_*`` functions before it is stored. Each
raises :class:`~wsss_probe.errors.SchemaError` with the plugin's name, the variable, what was found
and what was wanted. xarray and torch are imported where a table is checked,
so that names cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final, get_args
from urllib.parse import quote, unquote

from wsss_probe.contracts import Block, Conclusion, Finding, Observation, Question, Section, Verdict
from wsss_probe.errors import SchemaError
from wsss_probe.tables import (
    DIMENSIONS,
    MAX_BYTES,
    check_partial,
    check_relevance,
    check_rows,
    check_summary,
    kind,
    wrong_type,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DIMENSIONS",
    "MAX_BYTES",
    "TABLES",
    "Variable",
    "check_conclusion",
    "check_observation",
    "check_partial",
    "check_relevance",
    "check_rows",
    "check_sections",
    "check_summary",
    "escape",
    "unescape",
]


@final
@dataclass(frozen=True, slots=True)
class Variable:
    """One array of a table.

    Parameters
    ----------
    dims : tuple of str
        For a plugin's own variables only those that every one has.
    dtype, unit, meaning : str
    """

    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str


FLOAT: Final = "float32"

TABLES: Final[Mapping[str, Mapping[str, Variable]]] = MappingProxyType(
    {
        "predictions": {"logits": Variable(("image", "class"), FLOAT, "logit", "output of the network")},
        "activations/<layer>": {
            "mean": Variable(("image", "channel"), FLOAT, "activation", "mean over row and column"),
            "maps": Variable(DIMENSIONS[:4], "float16", "activation", "output on the layer's native grid"),
        },
        "relevance/<explainer>/<layer>": {
            "relevance": Variable(("image", "row", "column"), FLOAT, "evidence", "signed, never normalised"),
            "<target>": Variable(("image", "row", "column"), FLOAT, "evidence", "a further named target"),
            "by_class": Variable(("image", "class", "row", "column"), FLOAT, "evidence", "one map a class"),
        },
        "probes/<probe>/rows": {"<own>": Variable(("image",), FLOAT, "<attrs>", "said about each image")},
        "probes/<probe>/partials": {"<own>": Variable(("shard",), "float64", "<attrs>", "sums by shard")},
        "probes/<probe>/summary": {"<own>": Variable((), "any", "<attrs>", "concluded over all images")},
    }
)
"""Tables of a run, by group; words in angle brackets stand for escaped names."""


# -- names in paths ---------------------------------------------------------------------------

ROOT_NAME: Final = "%"  # the name of the outermost module is the empty string


def escape(name: str) -> str:
    """Turn the name of a layer, explainer or probe into one component of a Zarr path.

    Letters, digits, ``_ - ~ . @`` stay, so that ``probe@layer4.0.conv1`` is still readable; all
    else, ``/ # %`` among it, becomes ``%XX`` of its UTF-8 bytes. A leading dot or double underscore
    and the name ``zarr.json``, which have a meaning in Zarr, are escaped too.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> escape("relu#1"), escape(".."), unescape(escape("a/b"))
    ('relu%231', '%2E.', 'a/b')
    """
    if not name:
        return ROOT_NAME
    text = quote(name, safe="@", errors="surrogatepass")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if text.startswith("__"):
        text = "%5F" + text[1:]
    return "zarr%2Ejson" if text == "zarr.json" else text


def unescape(text: str) -> str:
    """Give back the name that :func:`escape` was called with.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return "" if text == ROOT_NAME else unquote(text, errors="surrogatepass")


# -- tables of a probe ------------------------------------------------------------------------


def check_observation(observation: Any, images: int, name: str, usable: Tensor | None = None) -> Observation:
    """Check what ``Probe.observe`` returned for one batch.

    Parameters
    ----------
    observation : Observation or None
    images : int
        Length of the batch.
    name : str
        Plugin and probe, for the message.
    usable : Tensor of bool, (image,), optional
        The rows of other images are not kept, so their values do not matter.

    Returns
    -------
    Observation
        With tables ready to be stored; empty for None.

    Raises
    ------
    SchemaError
    """
    if observation is None:
        return Observation()
    if not isinstance(observation, Observation):
        raise wrong_type(f"{name}: observe", observation, "Observation(rows=…, partial=…) or None")
    rows, partial = observation.rows, observation.partial
    return Observation(
        rows=None if rows is None else check_rows(rows, images, name, usable),
        partial=None if partial is None else check_partial(partial, name),
    )


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
        raise wrong_type(f"{name}: conclude", conclusion, "Conclusion(summary, findings)")
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
        raise wrong_type(f"{name}: sections", sections, wanted)
    checked = tuple(sections)
    for section in checked:
        if not isinstance(section, Section):
            raise wrong_type(f"{name}: sections", section, wanted)
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
                    found=kind(block),
                    wanted="Text, Table, Figure or Gallery",
                )
    return checked


def _check_finding(finding: Any, name: str) -> None:
    """Refuse a finding that says nothing, or a number that a reader could not use."""
    if not isinstance(finding, Finding):
        raise wrong_type(f"{name}: conclude", finding, "Finding")
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
