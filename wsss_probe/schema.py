"""What the tables of a run look like, and readable errors for results that do not.

Everything that a plugin returns passes one of the ``check_*`` functions before it is stored. Each
raises :class:`~wsss_probe.errors.SchemaError` with the plugin's name, the variable, what was found
and what was wanted. xarray and torch are imported where a table is checked,
so that names cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final, get_args
from urllib.parse import quote, unquote

from wsss_probe.contracts import (
    Block,
    ChannelColumn,
    Choice,
    Concept,
    Conclusion,
    Finding,
    Gallery,
    Observation,
    Question,
    Section,
    Table,
    Verdict,
)
from wsss_probe.errors import SchemaError
from wsss_probe.tables import (
    DIMENSIONS,
    MAX_BYTES,
    check_map_scores,
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
    "check_channel_column",
    "check_channel_columns",
    "check_concepts",
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
    """Check what ``Probe.conclude`` returned: the summary, and what a report can show of it.

    Parameters
    ----------
    conclusion : Conclusion
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    Conclusion
        An effect or interval that is NaN is none: JSON knows no NaN.

    Raises
    ------
    SchemaError
        If a type is wrong, a finding has no name, statement or verdict, two findings or two choices share
        a name, a number is infinite or stands outside its interval's order, a choice is sealed against
        nothing, or scores of maps are not by image and explainer.
    """
    if not isinstance(conclusion, Conclusion):
        raise wrong_type(f"{name}: conclude", conclusion, "Conclusion(summary, findings)")
    findings, choices = tuple(conclusion.findings), tuple(conclusion.choices)
    for finding in findings:
        _check_finding(finding, name)
    for choice in choices:
        _check_choice(choice, name)
    _refuse_twins([finding.name for finding in findings], f"{name}: two findings share a name")
    _refuse_twins([choice.what for choice in choices], f"{name}: two choices share a name")
    summary = check_summary(conclusion.summary, name)
    findings = tuple(_without_nan(finding) for finding in findings)
    return Conclusion(summary, findings, choices, check_map_scores(conclusion.map_scores, name))


def _without_nan(finding: Finding) -> Finding:
    effect, interval = finding.effect, finding.interval
    undefined = effect is not None and math.isnan(effect)
    unbounded = interval is not None and any(math.isnan(end) for end in interval)
    return replace(finding, effect=None if undefined else effect, interval=None if unbounded else interval)


def _refuse_twins(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise SchemaError(what, found=", ".join(names), wanted="unique names")


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
            if isinstance(block, Table):
                _check_table(block, f"{name}: section {section.title!r}")
    return checked


def _check_table(table: Table, owner: str) -> None:
    """Refuse details of rows, and meanings of columns, that the table does not have."""
    odd = [at for at in table.details if at not in range(len(table.frame))]
    if odd:
        raise SchemaError(
            f"{owner}: details of a row that the table does not have",
            found=repr(odd[0]),
            wanted=f"positions from 0 to {len(table.frame) - 1}",
        )
    if not all(isinstance(gallery, Gallery) for gallery in table.details.values()):
        raise SchemaError(f"{owner}: details of the wrong type", wanted="Gallery")
    unknown = [column for column in table.meanings if column not in table.frame.columns]
    if unknown:
        raise SchemaError(
            f"{owner}: meaning of a column that the table does not have",
            found=repr(unknown[0]),
            wanted=", ".join(map(str, table.frame.columns)),
        )


# -- columns of the channel passport ----------------------------------------------------------


def check_channel_columns(columns: Any, name: str) -> tuple[ChannelColumn, ...]:
    """Check that ``ChannelColumns.columns`` returned named columns; their contents are checked one by one.

    Parameters
    ----------
    columns : iterable of ChannelColumn
    name : str
        What offers them, for the message.

    Returns
    -------
    tuple of ChannelColumn

    Raises
    ------
    SchemaError
    """
    wanted = "an iterable of ChannelColumn"
    if isinstance(columns, ChannelColumn) or not isinstance(columns, Iterable):
        raise wrong_type(f"{name}: columns", columns, wanted)
    checked = tuple(columns)
    for column in checked:
        if not isinstance(column, ChannelColumn):
            raise wrong_type(f"{name}: columns", column, wanted)
        if not isinstance(column.name, str) or not column.name.strip():
            raise SchemaError(f"{name}: a column has no name", found=repr(column.name), wanted="text")
    return checked


def check_concepts(concepts: Any, name: str) -> tuple[Concept, ...]:
    """Check that ``ConceptMeasure.concepts`` returned concepts with unique names.

    Parameters
    ----------
    concepts : iterable of Concept
    name : str
        The measure, for the message.

    Returns
    -------
    tuple of Concept

    Raises
    ------
    SchemaError
    """
    wanted = "an iterable of Concept"
    if isinstance(concepts, (Concept, str)) or not isinstance(concepts, Iterable):
        raise wrong_type(f"{name}: concepts", concepts, wanted)
    checked = tuple(concepts)
    for concept in checked:
        if not isinstance(concept, Concept):
            raise wrong_type(f"{name}: concepts", concept, wanted)
        if not isinstance(concept.name, str) or not concept.name.strip():
            raise SchemaError(f"{name}: a concept has no name", found=repr(concept.name), wanted="text")
    names = [concept.name for concept in checked]
    twice = sorted({own for own in names if names.count(own) > 1})
    if twice:
        raise SchemaError(f"{name}: concepts of the same name", found=", ".join(twice))
    return checked


def check_channel_column(column: ChannelColumn, channels: int, name: str) -> ChannelColumn:
    """Check one column of the channel passport.

    Parameters
    ----------
    column : ChannelColumn
    channels : int
        Channels of the layer.
    name : str
        What offers it, for the message.

    Returns
    -------
    ChannelColumn
        With ``values`` as a tuple of Python numbers, texts or truth values; undefined is an empty text
        among texts, else NaN.

    Raises
    ------
    SchemaError
        If it says nothing of its meaning, its order is no number, it has not one value per channel,
        a value is infinite, or kinds of values are mixed.
    """
    owner = f"{name}: column {column.name!r}"
    if not isinstance(column.meaning, str) or not column.meaning.strip():
        raise SchemaError(f"{owner} does not say what it means", wanted="definition, unit, n and control")
    if not isinstance(column.order, int | float) or not math.isfinite(column.order):
        raise SchemaError(f"{owner} has no order", found=repr(column.order), wanted="a finite number")
    values = _plain_values(column.values, owner)
    if len(values) != channels:
        wanted = f"{channels} values, one per channel"
        raise SchemaError(f"{owner} has the wrong length", found=str(len(values)), wanted=wanted)
    kinds = sorted({kind for kind in map(_value_kind, values) if kind})
    if len(kinds) > 1 or not {"number", "text", "truth value"}.issuperset(kinds):
        raise SchemaError(
            f"{owner} has values that cannot stand in one column",
            found=" and ".join(kinds),
            wanted="numbers, texts or truth values; NaN or an empty text where undefined",
        )
    texts = kinds == ["text"] or all(value == "" for value in values)
    undefined = "" if texts and values else math.nan
    return replace(column, values=tuple(value if _value_kind(value) else undefined for value in values))


def _plain_values(values: Any, owner: str) -> list[Any]:
    """Make Python values of a sequence, array, tensor or data array."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise wrong_type(f"{owner}: values", values, "a sequence")
    return [value.item() if hasattr(value, "item") else value for value in values]


def _value_kind(value: Any) -> str:
    """Say what a value is; nothing when it is undefined."""
    if isinstance(value, str):
        return "text" if value else ""
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float):
        return "infinity" if math.isinf(value) else "" if math.isnan(value) else "number"
    return type(value).__name__


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


def _check_choice(choice: Any, name: str) -> None:
    """Refuse a choice that does not say what it chose by which score, or is sealed against nothing."""
    if not isinstance(choice, Choice):
        raise wrong_type(f"{name}: conclude", choice, "Choice, as wsss_probe.sealed.choose makes it")
    owner = f"{name}: choice {choice.what!r}"
    if not (choice.what and choice.measure and choice.split):
        found = repr((choice.what, choice.measure, choice.split))
        raise SchemaError(f"{owner} has no name, no measure or no split", found=found, wanted="text")
    wanted = "text or a finite number"
    if type(choice.value) not in {str, int, float}:
        raise SchemaError(f"{owner} has a value that cannot be kept", found=kind(choice.value), wanted=wanted)
    if isinstance(choice.value, float) and not math.isfinite(choice.value):
        raise SchemaError(f"{owner} has a value that is not finite", found=repr(choice.value), wanted=wanted)
    if not math.isfinite(choice.score):
        raise SchemaError(f"{owner} has no score", found=repr(choice.score), wanted="a finite number")
    counts = (choice.candidates, choice.images, choice.masks, choice.groups)
    if min(counts) < 0 or choice.candidates < 1 or choice.masks > choice.images:
        found = "{} candidates, {} images, {} masks, {} groups".format(*counts)
        wanted = "a candidate or more, no more masks than images"
        raise SchemaError(f"{owner} has impossible counts", found=found, wanted=wanted)
    if not (isinstance(choice.seal, frozenset) and choice.seal):
        wanted = "digests of the images it was made on"
        raise SchemaError(f"{owner} is sealed against nothing", found=repr(choice.seal)[:60], wanted=wanted)


def _falls(interval: tuple[float, ...]) -> bool:
    """Whether low stands above high; NaN, an interval that could not be had, does not."""
    return interval[0] > interval[1]
