"""CKA of all networks of a run at all layers as one table, beside what random networks and chance reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from wsss_probe import Conclusion
from wsss_probe_concepts.comparison.beside import Beside, networks_of
from wsss_probe_concepts.comparison.cka import alignment, chance_bound, difference_interval, represented
from wsss_probe_concepts.comparison.cka_findings import findings
from wsss_probe_concepts.vectors.features import concept_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.contracts import Run

    Floats = NDArray[np.float64]

__all__ = ["conclude"]

_PAIR = ("network", "other")


def conclude(run: Run) -> Conclusion:
    """Compare the representations of all networks.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Conclusion
        By (layer, network, other): ``cka``, ``low``, ``high`` (95 %), ``biased`` (the usual estimator), and
        for pairs without a control ``floor``, the largest CKA of either with a living control, and
        ``floor_control`` its name. By (layer, network): ``alive``. By (network): ``kind``. By (network,
        other): ``fall``, CKA at the first layer less at the last, with ``fall_low`` and ``fall_high``.
        ``chance``, the bound that exchanged images exceed in one of twenty orders; ``n`` and ``groups``.
        Without variables where there is no further network, or no layer.
    """
    layers = concept_layers(run.survey)
    if not run.networks or not layers:
        return Conclusion(xr.Dataset())
    networks = networks_of(run)
    kept = _usable(networks, layers)
    groups = None if run.groups is None else np.asarray(run.groups, dtype=object)[kept].astype(str)
    found = [_aligned(networks, layer, kept, groups) for layer in layers]
    count = int(kept.sum()) if groups is None else len(np.unique(groups))
    alive = np.array([[network.alive(layer) for network in networks] for layer in layers])
    variables = {name: (("layer", *_PAIR), np.array([one[name] for one in found])) for name in _MEASURED}
    floor, control = _floors(variables["cka"][1], alive, [network.kind for network in networks])
    fall = difference_interval(*(found[at]["without"] for at in (0, -1)))
    whole = found[0]["cka"] - found[-1]["cka"]
    names = np.array([network.name for network in networks], dtype=object)
    table = xr.Dataset(
        {
            **variables,
            "floor": (("layer", *_PAIR), floor),
            "floor_control": (("layer", *_PAIR), np.where(control < 0, "", names[control])),
            "alive": (("layer", "network"), alive),
            "kind": ("network", np.array([network.kind for network in networks], dtype=object)),
            "fall": (_PAIR, whole),
            "fall_low": (_PAIR, whole - fall),
            "fall_high": (_PAIR, whole + fall),
            "chance": chance_bound(count),
            "n": int(kept.sum()),
            "groups": count,
        },
        coords={"layer": np.array(layers, dtype=object), "network": names, "other": names},
        attrs={"grouped": run.groups is not None},
    )
    return Conclusion(table, findings(table, run))


_ITSELF = 1e-9
"""Two networks whose CKA is as near to 1 are one and the same."""

_MEASURED = ("cka", "low", "high", "biased")


def _usable(networks: Sequence[Beside], layers: Sequence[str]) -> NDArray[np.bool_]:
    """Images whose features are finite in every network at every layer, (image,).

    Features without any finite image are a network that fails there, which must not cost the others theirs.
    """
    kept: NDArray[np.bool_] | None = None
    for layer in layers:
        for network in networks:
            finite = np.isfinite(network.tables.pooled(layer).values).all(axis=1)
            kept = np.ones(len(finite), dtype=bool) if kept is None else kept
            kept &= finite if finite.any() else True
    return np.zeros(0, dtype=bool) if kept is None else kept


def _aligned(
    networks: Sequence[Beside], layer: str, kept: NDArray[np.bool_], groups: NDArray[np.object_] | None
) -> dict[str, Floats]:
    """Measure one layer; only its features are in memory."""
    features = [represented(network.tables.pooled(layer).values[kept], groups) for network in networks]
    one = alignment(features)
    return {
        "cka": one.estimate,
        "low": one.low,
        "high": one.high,
        "biased": one.biased,
        "without": one.without,
    }


def _floors(cka: Floats, alive: NDArray[np.bool_], kinds: Sequence[str]) -> tuple[Floats, NDArray[np.intp]]:
    """Largest CKA of either of a pair with a living control, and which control; NaN and -1 for none.

    A further network may be made as a control is, and is then one of them: with itself it has 1.
    """
    controls = np.array([kind == "control" for kind in kinds])
    counts = (controls & alive)[:, None, :] & ~(cka > 1 - _ITSELF)  # (layer, network, control)
    reached = np.where(counts, cka, np.nan)
    either = np.fmax(reached[:, :, None, :], reached[:, None, :, :])
    either[:, controls] = either[:, :, controls] = np.nan
    known = np.isfinite(either)
    best = np.where(known, either, -np.inf).argmax(axis=-1)
    floor = np.take_along_axis(either, best[..., None], axis=-1)[..., 0]
    return floor, np.where(known.any(axis=-1), best, -1)
