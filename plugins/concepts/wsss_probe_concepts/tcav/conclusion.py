"""One layer's classification concept vectors, from the tables of a run, in every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe_concepts.relevance.conclusion import Seen, gradient_rows, seen_images, words
from wsss_probe_concepts.relevance.sensitivity import score
from wsss_probe_concepts.tcav.binary import Binary, binary_concepts
from wsss_probe_concepts.tcav.layer import Settings, concept_table, unit_vector

if TYPE_CHECKING:
    from wsss_probe.contracts import Network, Run
    from wsss_probe_concepts.tcav.probe import LayerTcav

__all__ = ["conclude_layer"]

RESAMPLES = 1000


def conclude_layer(probe: LayerTcav, run: Run) -> Conclusion:
    """Fit and score a vector for every concept with two values.

    Parameters
    ----------
    probe : LayerTcav
    run : Run

    Returns
    -------
    Conclusion
        The tables of :func:`wsss_probe_concepts.tcav.layer.concept_table` along ``concept``, and by
        (network, class, concept) ``network_tcav`` and ``network_alignment``, by (network) ``network_kind``
        and ``network_alive``. Without variables where no concept has two values, or no logit a
        gradient here.
    """
    attrs: dict[str, Any] = dict(probe.options)
    rows, measured = gradient_rows(run, probe.layer), run.concepts.load()
    values = np.asarray(measured["value"].values, np.float64)
    if rows is None or not binary_concepts(values):
        return Conclusion(xr.Dataset(attrs=attrs))
    seen = seen_images(run, probe.layer, rows)
    found = binary_concepts(values[seen.usable])
    own = seen.evidence(run, probe.layer)
    if not found or own is None:
        return Conclusion(xr.Dataset(attrs=attrs))
    settings = Settings(probe.permutations, RESAMPLES, run.survey.seed)
    names = words(measured["concept"].values)[[one.position for one in found]]
    table = xr.concat(
        [concept_table(own, one, settings) for one in found],
        dim=xr.DataArray(names, dims="concept", name="concept"),
        combine_attrs="drop",
    )
    table = table.transpose("class", "concept", "channel", missing_dims="ignore")
    table = table.assign_coords({"class": seen.classes, "channel": np.arange(own.features.shape[1])})
    table = table.merge(_others(probe.layer, run, seen, found))
    size = {"images": len(seen.usable), "by": seen.by, "grouped": run.groups is not None}
    return Conclusion(table.assign_attrs(attrs | size))


def _others(layer: str, run: Run, seen: Seen, concepts: Sequence[Binary]) -> xr.Dataset:
    """Score the same concepts in controls and further networks, each with vectors of its own."""
    everyone = [(n, "control") for n in run.controls] + [(n, "network") for n in run.networks]
    if not everyone:
        return xr.Dataset()
    scores = [_scores(layer, network, run, seen, concepts) for network, _ in everyone]
    cells = ("network", "class", "concept")
    return xr.Dataset(
        {
            "network_tcav": (cells, np.array([tcav for tcav, _ in scores])),
            "network_alignment": (cells, np.array([alignment for _, alignment in scores])),
            "network_kind": ("network", words(kind for _, kind in everyone)),
            "network_alive": ("network", [bool(network.alive(layer)) for network, _ in everyone]),
        },
        coords={"network": words(network.name for network, _ in everyone)},
    )


def _scores(
    layer: str, network: Network, run: Run, seen: Seen, concepts: Sequence[Binary]
) -> tuple[np.ndarray, np.ndarray]:
    """TCAV score and alignment in one network, (class, concept) each; NaN where it has no gradient."""
    own = seen.evidence(network, layer)
    if own is None:
        undefined = np.full((seen.member.shape[1], len(concepts)), np.nan)
        return undefined, undefined
    seed = run.survey.seed
    finite = np.isfinite(own.features).all(axis=1)
    vectors = np.array([unit_vector(own.features, one.present, one.known & finite, seed) for one in concepts])
    return score(own.gradient, vectors, own.member).tcav, own.alignment(vectors)
