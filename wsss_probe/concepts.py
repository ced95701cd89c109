"""The concept table: what was measured in the images, and the covariates of the manifest, by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wsss_probe.measuring import COUNTED, STAGE, TABLES
from wsss_probe.offers import MANIFEST
from wsss_probe.schema import unescape
from wsss_probe.table import COLUMNS, TILE

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from wsss_probe.store import LedgerLine, Store

__all__ = ["read_concepts"]

_OWN: Final = {*COLUMNS, *TILE, "readable", "name", "path"}
"""Columns of the images that are no covariates."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """One concept over all images."""

    name: str
    unit: str
    meaning: str
    reason: str
    values: np.ndarray


def read_concepts(store: Store, images: pd.DataFrame) -> xr.Dataset:
    """Join what was measured with the covariates of the manifest.

    Parameters
    ----------
    store : Store
        Of the audited network.
    images : DataFrame
        The manifest, one row per image.

    Returns
    -------
    Dataset
        As :attr:`wsss_probe.contracts.Run.concepts`. A measure that failed in any shard is not in it.
    """
    import xarray as xr

    found = [*_measured(store), *_covariates(images)]
    values = [own.values for own in found]
    texts = {
        key: ("concept", np.array([getattr(own, key) for own in found], dtype=object))
        for key in ("unit", "meaning", "reason")
    }
    return xr.Dataset(
        {"value": (("image", "concept"), np.array(values).reshape(len(found), len(images)).T)},
        coords={"concept": np.array([own.name for own in found], dtype=object), **texts},
    )


def _measured(store: Store) -> Iterator[_Measured]:
    lines = [line for line in (store.done(STAGE, i) for i in range(store.shards)) if line is not None]
    if len(lines) < store.shards:
        return
    for path in sorted(set.intersection(*(_tables(line) for line in lines))):
        table = store.table(path)
        assert table is not None  # noqa: S101  # the ledger says that it was written
        measure = unescape(path.removeprefix(TABLES))
        texts = [[str(text) for text in table[key].values] for key in ("concept", "unit", "meaning")]
        values = np.asarray(table["value"].values, dtype=np.float64)
        for concept, unit, meaning, own in zip(*texts, values.T, strict=True):
            reason = _commonest(lines, f"{COUNTED}{measure}/{concept}: ")
            yield _Measured(f"{measure}/{concept}", unit, meaning, reason, own)


def _tables(line: LedgerLine) -> set[str]:
    return {name.removesuffix("/value") for name in line.arrays if name.startswith(TABLES)}


def _commonest(lines: Sequence[LedgerLine], prefix: str) -> str:
    """Say the reason that most images have for lacking this value."""
    counted: Counter[str] = Counter()
    for line in lines:
        own = {key: number for key, number in line.counters.items() if key.startswith(prefix)}
        counted.update({key.removeprefix(prefix): number for key, number in own.items()})
    return min(counted, key=lambda reason: (-counted[reason], reason)) if counted else ""


def _covariates(images: pd.DataFrame) -> Iterator[_Measured]:
    """Columns that people added to the manifest; one that holds text has a reason and no values."""
    import pandas as pd

    for column in (str(name) for name in images.columns if name not in _OWN):
        cells = images[column].astype(str).str.strip()
        numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce").to_numpy(dtype=np.float64)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        reason = _text_among(cells.to_numpy(dtype=object), numbers)
        values = np.full(len(images), np.nan) if reason else numbers
        lacking = "some images have no value" if np.isnan(values).any() else ""
        meaning = f"Column '{column}' of the manifest."
        yield _Measured(f"{MANIFEST}/{column}", "", meaning, reason or lacking, values)


def _text_among(cells: np.ndarray, numbers: np.ndarray) -> str:
    """Why a column is no quantity; empty if it is one."""
    words = [cell for cell, number in zip(cells, numbers, strict=True) if cell and np.isnan(number)]
    words = [word for word in words if word.lower() not in {"nan", "na", "none", "inf", "-inf"}]
    if words:
        return f"the column holds text ('{words[0][:40]}'), no numbers"
    return "the column is empty" if np.isnan(numbers).all() else ""
