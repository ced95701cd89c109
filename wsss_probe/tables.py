"""Checks on the tables that a plugin returns: dimensions, types, size, values, attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from wsss_probe.errors import SchemaError

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = [
    "DIMENSIONS",
    "MAX_BYTES",
    "check_map_scores",
    "check_partial",
    "check_relevance",
    "check_rows",
    "check_summary",
    "kind",
    "wrong_type",
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


def check_rows(rows: Any, images: int, name: str, usable: Tensor | None = None) -> xr.Dataset:
    """Check the rows that a probe returned for one batch.

    Parameters
    ----------
    rows : Dataset
        Floating-point variables whose first dimension is ``image``.
    images : int
        Length of the batch.
    name : str
        Plugin and probe, for the message.
    usable : Tensor of bool, (image,), optional
        The rows of other images are not kept, so their values do not matter.

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
        kept = variable if usable is None else variable[usable.cpu().numpy()]
        _refuse_infinite(kept, key, name)
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


def check_relevance(relevance: Any, shape: Sequence[int], name: str, usable: Tensor | None = None) -> Tensor:
    """Check the relevance maps that an explainer returned for one batch.

    Parameters
    ----------
    relevance : Tensor, (image, row, column)
    shape : sequence of int, (image, row, column)
        Images of the batch and the grid of the layer.
    name : str
        Plugin, explainer and layer, for the message.
    usable : Tensor of bool, (image,), optional
        The maps of other images are not kept, so their values do not matter.

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
        raise wrong_type(f"{name}: attribute", relevance, "Tensor")
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
    infinite = int(torch.isinf(maps if usable is None else maps[usable.to(maps.device)]).sum())
    if infinite:
        raise _infinite(f"{name}: relevance", infinite, maps.numel())
    return maps


def check_map_scores(scores: Any, name: str) -> dict[str, xr.DataArray]:
    """Check the scores of single relevance maps that ``Probe.conclude`` returned.

    Parameters
    ----------
    scores : mapping of str to DataArray, (image, explainer)
        With the coordinate ``explainer``: ``"<explainer>, <layer>"``.
    name : str
        Plugin and probe, for the message.

    Returns
    -------
    dict of str to DataArray

    Raises
    ------
    SchemaError
    """
    import xarray as xr

    if not isinstance(scores, Mapping):
        raise wrong_type(f"{name}: map_scores", scores, "a mapping of short names to DataArray")
    for key, array in scores.items():
        owner = f"{name}: map_scores {key!r}"
        if not isinstance(key, str) or not key.strip():
            raise SchemaError(f"{owner} has no name", wanted="a short one, such as 'Dice'")
        if not isinstance(array, xr.DataArray):
            raise SchemaError(f"{owner} has the wrong type", found=kind(array), wanted="DataArray")
        if array.dims != ("image", "explainer") or "explainer" not in array.coords:
            wanted = "('image', 'explainer') and the coordinate explainer"
            raise SchemaError(f"{owner} has the wrong dimensions", found=f"{array.dims}", wanted=wanted)
        if array.dtype.kind != "f":
            raise SchemaError(f"{owner} is not floating point", found=f"{array.dtype}", wanted="float32")
        _refuse_infinite(array, key, name)
    return dict(scores)


def wrong_type(owner: str, value: object, wanted: str) -> SchemaError:
    """Say that a method returned something else altogether.

    Parameters
    ----------
    owner : str
        Plugin, item and method.
    value : object
        What it returned.
    wanted : str

    Returns
    -------
    SchemaError
    """
    return SchemaError(f"{owner} returned the wrong type", found=kind(value), wanted=wanted)


def kind(value: object) -> str:
    """Name the type of a value, with the size of an array, for a message.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
    """
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if isinstance(shape, Iterable) else "")


# -- parts ------------------------------------------------------------------------------------

VARIABLE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_\-]*")


def _check_table(table: Any, name: str, what: str) -> xr.Dataset:
    """Check all that rows, partial and summary have in common."""
    import xarray as xr

    if not isinstance(table, xr.Dataset):
        raise SchemaError(f"{name}: {what} has the wrong type", found=kind(table), wanted="xarray.Dataset")
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
                    found=kind(value),
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
        found=f"{array.dtype}" + (f" of {kind(values[0])}" if len(values) else ""),
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
