"""What the tables of a run look like, and readable errors for results that do not.

Everything that a plugin returns passes one of the ``check_*`` functions before it is stored. Each
raises :class:`~wsss_probe.errors.SchemaError` with the plugin's name, the variable, what was found
and what was wanted. xarray and torch are imported where a table is checked,
so that names cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote, unquote

from wsss_probe.contracts import Observation
from wsss_probe.errors import SchemaError

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = [
    "DIMENSIONS",
    "MAX_BYTES",
    "TABLES",
    "Variable",
    "check_observation",
    "check_partial",
    "check_relevance",
    "check_rows",
    "check_summary",
    "escape",
    "unescape",
]

DIMENSIONS: Final = ("image", "channel", "row", "column", "class", "concept", "explainer", "layer", "split")
"""Dimension names with one meaning everywhere. Any other dimension must carry its own coordinate."""

MAX_BYTES: Final = 1 << 30
"""Largest table that one call of a plugin may return, in bytes."""

SYNONYMS: Final = MappingProxyType(
    {
        **dict.fromkeys(("images", "img", "batch", "sample", "n", "b"), "image"),
        **dict.fromkeys(("channels", "unit", "units", "feature_map", "c"), "channel"),
        **dict.fromkeys(("rows", "height", "y", "h"), "row"),
        **dict.fromkeys(("columns", "col", "cols", "width", "x", "w"), "column"),
        **dict.fromkeys(("classes", "label", "labels", "logit"), "class"),
        **dict.fromkeys(("concepts",), "concept"),
        **dict.fromkeys(("explainers",), "explainer"),
        **dict.fromkeys(("layers",), "layer"),
        **dict.fromkeys(("splits",), "split"),
    }
)
"""Words that plugins write for one of :data:`DIMENSIONS`; refused, so that tables can be joined."""


@final
@dataclass(frozen=True, slots=True)
class Variable:
    """One array of a table.

    Parameters
    ----------
    dims : tuple of str
        Empty where the writer decides.
    dtype, unit, meaning : str
    """

    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str


TABLES: Final[Mapping[str, Mapping[str, Variable]]] = MappingProxyType(
    {
        "predictions": {
            "logits": Variable(("image", "class"), "float32", "logit", "output of the network"),
        },
        "activations/<layer>": {
            "pooled": Variable(("image", "channel"), "float32", "activation", "mean over row and column"),
            "maps": Variable(
                ("image", "channel", "row", "column"),
                "float16",
                "activation",
                "output of the layer on its native grid; overflow is counted",
            ),
        },
        "relevance/<explainer>/<layer>": {
            "<target>": Variable(
                ("image", "row", "column"),
                "float32",
                "evidence",
                "signed relevance on the layer's native grid, never normalised; NaN is undefined",
            ),
        },
        "probes/<probe>/rows": {
            "<variable>": Variable((), "float32", "<attrs>", "what a probe says about each image"),
        },
        "probes/<probe>/summary": {
            "<variable>": Variable((), "any", "<attrs>", "what a probe concludes over all images"),
        },
    }
)
"""Tables of a run, by group; words in angle brackets stand for escaped names."""


# -- names in paths ---------------------------------------------------------------------------

ROOT_NAME: Final = "%"  # the name of the outermost module is the empty string


def escape(name: str) -> str:
    """Turn the name of a layer, explainer or probe into one component of a Zarr path.

    Letters, digits, ``_ - ~ .`` stay, so that ``layer4.0.conv1`` is still readable; all else,
    ``/ # @ %`` among it, becomes ``%XX`` of its UTF-8 bytes. A leading dot or double underscore
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
    text = quote(name, safe="", errors="surrogatepass")
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


def check_observation(observation: Any, images: int, name: str) -> Observation:
    """Check what ``Probe.observe`` returned for one batch.

    Parameters
    ----------
    observation : Observation or None
    images : int
        Length of the batch.
    name : str
        Plugin and probe, for the message.

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
        raise SchemaError(
            f"{name}: observe returned the wrong type",
            found=_kind(observation),
            wanted="Observation(rows=…, partial=…) or None",
        )
    rows, partial = observation.rows, observation.partial
    return Observation(
        rows=None if rows is None else check_rows(rows, images, name),
        partial=None if partial is None else check_partial(partial, name),
    )


def check_rows(rows: Any, images: int, name: str) -> xr.Dataset:
    """Check the rows that a probe returned for one batch.

    Parameters
    ----------
    rows : Dataset
        Floating-point variables whose first dimension is ``image``.
    images : int
        Length of the batch.
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    Dataset
        Ready to be stored: no ``image`` coordinate (the host has its own), text as objects.

    Raises
    ------
    SchemaError
        If a dimension, type, size, attribute or coordinate breaks the contract, or a value is infinite.
    """
    table = _check_table(rows, name, "rows")
    for key, variable in table.data_vars.items():
        if variable.dims[:1] != ("image",):
            raise SchemaError(
                f"{name}: first dimension of rows variable {key!r} is not image",
                found=f"dimensions {variable.dims}",
                wanted="('image', …)",
                remedy="put sums over images into Observation.partial",
            )
        if variable.sizes["image"] != images:
            raise SchemaError(
                f"{name}: rows variable {key!r} does not have one row per image of the batch",
                found=f"{variable.sizes['image']} rows",
                wanted=f"{images}",
                remedy="give unusable images a row of NaN",
            )
        if variable.dtype.kind != "f":
            raise SchemaError(
                f"{name}: rows variable {key!r} is not floating point",
                found=f"{variable.dtype}",
                wanted="float32",
                remedy="cast to float; undefined is NaN",
            )
        _refuse_infinite(variable, key, name)
    return _drop_image(table, name)


def check_partial(partial: Any, name: str) -> xr.Dataset:
    """Check a mergeable partial: numbers that may be added up over batches.

    Parameters
    ----------
    partial : Dataset
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    Dataset

    Raises
    ------
    SchemaError
        As for rows; further if there is an ``image`` dimension, a type that cannot be added, or a NaN,
        which would spoil every sum that it enters.
    """
    import numpy as np

    table = _check_table(partial, name, "partial")
    _refuse_image(table, name, "partial")
    for key, variable in table.data_vars.items():
        if variable.dtype.kind not in "fiu":
            raise SchemaError(
                f"{name}: partial variable {key!r} cannot be added up",
                found=f"{variable.dtype}",
                wanted="floating point or integer",
            )
        _refuse_infinite(variable, key, name)
        lost = int(np.isnan(variable.values).sum()) if variable.dtype.kind == "f" else 0
        if lost:
            raise SchemaError(
                f"{name}: partial variable {key!r} has NaN, which would spoil the sum over all images",
                found=f"{lost} of {variable.size} values",
                remedy="leave undefined values out of the sum and count them in a variable of their own",
            )
    return table


def check_summary(summary: Any, name: str) -> xr.Dataset:
    """Check the summary that ``Probe.conclude`` returned.

    Parameters
    ----------
    summary : Dataset
        Numbers, booleans or text; no ``image`` dimension is required or refused.
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    Dataset

    Raises
    ------
    SchemaError
    """
    table = _check_table(summary, name, "summary")
    for key, variable in table.data_vars.items():
        _check_storable(variable, f"{name}: summary variable {key!r}")
        _refuse_infinite(variable, key, name)
    return table


def check_relevance(relevance: Any, shape: tuple[int, int, int], name: str) -> Tensor:
    """Check the relevance maps that an explainer returned for one batch.

    Parameters
    ----------
    relevance : Tensor, (image, row, column)
    shape : (int, int, int)
        Images of the batch and the grid of the layer.
    name : str
        Plugin, explainer and layer, for the message.

    Returns
    -------
    Tensor, (image, row, column)
        float32, without history.

    Raises
    ------
    SchemaError
    """
    import torch

    if not isinstance(relevance, torch.Tensor):
        raise SchemaError(
            f"{name}: attribute returned the wrong type", found=_kind(relevance), wanted="Tensor"
        )
    if tuple(relevance.shape) != tuple(shape):
        raise SchemaError(
            f"{name}: relevance has the wrong shape",
            found=f"{tuple(relevance.shape)}",
            wanted=f"(image, row, column) = {tuple(shape)}",
        )
    if not relevance.is_floating_point():
        raise SchemaError(
            f"{name}: relevance is not floating point",
            found=str(relevance.dtype).removeprefix("torch."),
            wanted="float32",
            remedy="cast to float; undefined is NaN",
        )
    maps: Tensor = relevance.detach().to(torch.float32)
    infinite = int(torch.isinf(maps).sum())
    if infinite:
        raise _infinite(f"{name}: relevance", infinite, maps.numel())
    return maps


# -- parts ------------------------------------------------------------------------------------

VARIABLE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_\-]*")


def _check_table(table: Any, name: str, what: str) -> xr.Dataset:
    """Check all that rows, partial and summary have in common."""
    import xarray as xr

    if not isinstance(table, xr.Dataset):
        raise SchemaError(f"{name}: {what} has the wrong type", found=_kind(table), wanted="xarray.Dataset")
    if table.nbytes > MAX_BYTES:
        raise SchemaError(
            f"{name}: {what} is too large",
            found=f"{table.nbytes / 2**20:,.0f} MiB",
            wanted=f"at most {MAX_BYTES / 2**20:,.0f} MiB a call",
            remedy="store a statistic of the maps, not the maps",
        )
    for key in (*table.data_vars, *table.coords, *table.dims):
        if not isinstance(key, str) or not VARIABLE_NAME.fullmatch(key):
            raise SchemaError(
                f"{name}: {what} has a name that cannot be stored",
                found=repr(key),
                wanted="letters, digits, _ and -, a letter first",
            )
    _check_dimensions(table, name, what)
    _check_attributes(table, name, what)
    for key, coordinate in table.coords.items():
        _check_storable(coordinate, f"{name}: {what} coordinate {key!r}")
    return _text_as_objects(table)


def _check_dimensions(table: xr.Dataset, name: str, what: str) -> None:
    """Hold the dimension names; a dimension of the probe's own says what its positions mean."""
    for dimension in map(str, table.dims):
        if dimension in DIMENSIONS:
            continue
        if dimension.lower() in SYNONYMS:
            raise SchemaError(
                f"{name}: {what} has an unknown dimension",
                found=repr(dimension),
                wanted=repr(SYNONYMS[dimension.lower()]),
            )
        if dimension not in table.coords:
            raise SchemaError(
                f"{name}: {what} has an unknown dimension",
                found=repr(dimension),
                wanted=f"one of {', '.join(DIMENSIONS)}",
                remedy=f"or give the dimension a coordinate {dimension!r} that says what each position is",
            )


def _check_attributes(table: xr.Dataset, name: str, what: str) -> None:
    """Refuse attributes that JSON cannot hold, at the table and at every variable."""
    owners: list[tuple[str, Mapping[Any, Any]]] = [(what, table.attrs)]
    owners += [(f"{what} variable {key!r}", table[key].attrs) for key in (*table.data_vars, *table.coords)]
    for owner, attributes in owners:
        for key, value in attributes.items():
            try:
                json.dumps({key: value}, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise SchemaError(
                    f"{name}: attribute {key!r} of {owner} is not JSON",
                    found=_kind(value),
                    wanted="text, finite numbers, lists and dicts of them",
                    remedy="convert with float(…) or .tolist()",
                ) from error


def _check_storable(array: xr.DataArray, owner: str) -> None:
    """Refuse what Zarr cannot hold: Python objects, complex numbers, multi-indices."""
    if array.dtype.kind in "fiubUT":
        return
    values = array.values.ravel()
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        return
    raise SchemaError(
        f"{owner} cannot be stored",
        found=f"{array.dtype}" + (f" of {_kind(values[0])}" if len(values) else ""),
        wanted="numbers, booleans or text",
    )


def _text_as_objects(table: xr.Dataset) -> xr.Dataset:
    """Turn fixed-width text into objects: Zarr 3 warns that it has no specification for the former."""
    text = {key: table[key].astype(object) for key in table.variables if table[key].dtype.kind == "U"}
    coordinates = {key: array for key, array in text.items() if key in table.coords}
    variables = {key: array for key, array in text.items() if key not in coordinates}
    return table.assign_coords(coordinates).assign(variables)


def _drop_image(table: xr.Dataset, name: str) -> xr.Dataset:
    """Drop the index ``image``, which the host sets; refuse other coordinates along it."""
    along = [key for key in table.coords if "image" in table[key].dims and key != "image"]
    if along:
        raise SchemaError(
            f"{name}: rows coordinate {along[0]!r} differs from batch to batch",
            found="a coordinate along image",
            wanted="a variable",
            remedy=f"dataset.reset_coords({along[0]!r})",
        )
    return table.drop_vars("image", errors="ignore")


def _refuse_image(table: xr.Dataset, name: str, what: str) -> None:
    """Refuse a partial by image: it would be added up over different images."""
    if "image" in table.dims:
        raise SchemaError(
            f"{name}: {what} has the dimension image",
            found=f"dimensions {tuple(table.dims)}",
            wanted="none that depends on the batch",
            remedy="put values of single images into Observation.rows",
        )


def _refuse_infinite(variable: xr.DataArray, key: Hashable, name: str) -> None:
    """Count infinite values; one is a division by zero that would spoil every mean."""
    import numpy as np

    if variable.dtype.kind == "f":
        infinite = int(np.isinf(variable.values).sum())
        if infinite:
            raise _infinite(f"{name}: variable {key!r}", infinite, variable.size)


def _infinite(owner: str, count: int, size: int) -> SchemaError:
    """Say how many values are infinite."""
    return SchemaError(
        f"{owner} has infinite values",
        found=f"{count} of {size}",
        wanted="finite values, or NaN where undefined",
    )


def _kind(value: object) -> str:
    """Name the type of a value, with the size of an array."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if isinstance(shape, Iterable) else "")
