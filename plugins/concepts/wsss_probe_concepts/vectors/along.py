"""Images sorted along a concept vector: the lowest, the middle and the highest by what the features say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import Gallery, Picture
from wsss_probe.report.text import number

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_concepts.vectors.encoded import Cell

__all__ = ["images_along", "spread"]

_EACH = 3


def images_along(table: xr.Dataset, run: Run, cells: Sequence[Cell]) -> list[Gallery]:
    """Show images along the vectors of some concepts.

    Images are sorted by their held-out prediction: the projection on the vector of a fit that had not seen
    the image, in the concept's unit.

    Parameters
    ----------
    table : Dataset
        Of :func:`wsss_probe_concepts.vectors.depth.depth_table`.
    run : Run
        With the summaries of ``rcv``.
    cells : sequence of Cell

    Returns
    -------
    list of Gallery
        One with a row per concept; none where nothing is predicted.
    """
    rows = tuple(row for cell in cells if (row := _row(table, run, cell)) is not None)
    if not rows:
        return []
    caption = (
        f"Images along the vectors of the first {len(rows)} of them: the {_EACH} lowest, {_EACH} about "
        f"the median and the {_EACH} highest by the projection on the vector, from ridge fits that had not "
        f"seen the image, in the concept's unit; beside it the measured value. {table.attrs['images']} "
        "images. One picture proves nothing: the held-out R² beside each name does."
    )
    return [Gallery(rows, caption)]


def _row(table: xr.Dataset, run: Run, cell: Cell) -> tuple[str, tuple[Picture, ...]] | None:
    layer, concept = (
        str(table[dim].values[at]) for dim, at in (("layer", cell.layer), ("concept", cell.concept))
    )
    predicted = run.summary(f"rcv@{layer}")["predicted"].values[:, cell.concept]
    values = run.concepts["value"].values[:, cell.concept]
    shown = spread(np.where(np.isfinite(values), predicted, np.nan))
    if not shown:
        return None
    unit = str(table["unit"].values[cell.concept])
    held = float(
        table["r2_held"].sel(network="audited", model="ridge").isel(layer=cell.layer, concept=cell.concept)
    )
    pictures = tuple(
        Picture(
            run.picture(at),
            str(run.images["name"].iloc[at]),
            note=f"{number(predicted[at])}, measured {number(values[at])}",
        )
        for at in shown
    )
    title = f"{concept}, in {unit}, at {layer}" if unit else f"{concept} at {layer}"
    return f"{title}; held-out R² {held:.2f}", pictures


def spread(projection: np.ndarray) -> list[int]:
    """Choose images at both ends and in the middle.

    Parameters
    ----------
    projection : ndarray of float, (image,)
        NaN is left out.

    Returns
    -------
    list of int
        Positions of up to nine different images, lowest projection first.

    Examples
    --------
    >>> spread(np.array([3.0, np.nan, 1.0, 2.0]))
    [2, 3, 0]
    """
    order = np.argsort(projection, kind="stable")[: int(np.isfinite(projection).sum())]
    middle = max(0, (len(order) - _EACH) // 2)
    places = [*range(_EACH), *range(middle, middle + _EACH), *range(len(order) - _EACH, len(order))]
    return [int(order[place]) for place in sorted({place for place in places if 0 <= place < len(order)})]
