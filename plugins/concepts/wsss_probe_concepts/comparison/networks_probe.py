"""The probe networks: each network of a run in one row, how well it classifies and where it responds.

Whatever is compared below, a network that classifies no better than chance, or whose deep layers are dead,
explains a difference by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

import numpy as np
import pandas as pd
import xarray as xr

from wsss_probe import Conclusion, Needs, Probe, Section, Table
from wsss_probe.labels import known_labels
from wsss_probe.manifest import Manifest
from wsss_probe.performance import Performance, bounds, measure_performance
from wsss_probe_concepts.comparison.beside import networks_of
from wsss_probe_concepts.vectors.features import concept_layers

if TYPE_CHECKING:
    from wsss_probe import Survey
    from wsss_probe.contracts import Run
    from wsss_probe_concepts.comparison.beside import Beside

__all__ = ["Networks"]

_ENDS: Final = ("", "_low", "_high")

MEANINGS = {
    "kind": "audited, further (named in the run file), or a control, which has learned nothing",
    "made": "how: from which weights, or as which control",
    "AUC": "of the labelled images that are held out, if any are; mean over classes",
    "accuracy": "share of these images whose largest logit is a label",
    "layers that respond": "pooled features vary over images at least 1 % as much as the audited network's",
}


@final
@dataclass(frozen=True)
class Networks(Probe):
    """How well each network of a run classifies these images, and which of its layers respond to them.

    AUC and accuracy as the host measures them for the audited network: held-out labelled images, intervals
    over groups. No paper's method: it is what a comparison of networks is read with.

    Misleads: without a held-out split the numbers may be those of images that a network was trained on. A
    network trained on other classes has an AUC of about one half here, whatever it knows.
    """

    name: str = field(init=False, default="networks")

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layers, whose means over positions the host keeps."""
        return Needs(layers=frozenset(concept_layers(survey)))

    def conclude(self, run: Run) -> Conclusion:
        """Measure every network.

        Returns
        -------
        Conclusion
            By (network): ``kind``, ``made``; ``auc`` and ``accuracy``, each with ``_low`` and ``_high`` (95 %
            over groups), NaN without labels; ``n`` images behind them. By (network, layer): ``alive``.
            Without variables where there is no further network. No finding: none of this is what networks
            share.
        """
        if not run.networks:
            return Conclusion(xr.Dataset())
        labels, known = _labels(run)
        networks, layers = networks_of(run), concept_layers(run.survey)
        measured = [_performance(network, run, labels, known) for network in networks]
        numbers = {
            f"{name}{end}": ("network", np.array([_number(one, name)[at] for one in measured]))
            for name in ("auc", "accuracy")
            for at, end in enumerate(_ENDS)
        }
        alive = np.array([[network.alive(layer) for layer in layers] for network in networks], dtype=bool)
        table = xr.Dataset(
            {
                "kind": ("network", _words(network.kind for network in networks)),
                "made": ("network", _words(network.made for network in networks)),
                **numbers,
                "n": ("network", [one.labelled for one in measured]),
                "alive": (("network", "layer"), alive.reshape(len(networks), len(layers))),
            },
            coords={"network": _words(network.name for network in networks), "layer": _words(layers)},
            attrs={"held_out": measured[0].held_out},
        )
        return Conclusion(table)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show one row a network; nothing where there is no further one."""
        if "kind" in summary:
            yield Section("concepts", "The networks that are compared", (_table(summary, run),))


def _words(names: Iterable[str]) -> np.ndarray:
    return np.array(list(names), dtype=object)


def _labels(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Labels as sets, and where they are known, as the host reads them."""
    manifest = Manifest(run.path, run.images)
    return known_labels(manifest, run.survey.classes)


def _performance(network: Beside, run: Run, labels: np.ndarray, known: np.ndarray) -> Performance:
    logits = np.asarray(network.tables.logits.values)
    splits = run.images["split"].to_numpy(dtype=object)
    return measure_performance(logits, labels, run.survey.multilabel, run.groups, splits, known)


def _number(one: Performance, name: str) -> tuple[float, float, float]:
    interval = one.auc if name == "auc" else one.accuracy
    return (np.nan, np.nan, np.nan) if interval is None else bounds(interval)


def _table(summary: xr.Dataset, run: Run) -> Table:
    rows = []
    for at in range(summary.sizes["network"]):
        one = summary.isel(network=at)
        kind = str(one["kind"].item())
        rows.append(
            {
                "network": str(one["network"].item()),
                "kind": "further" if kind == "network" else kind,
                "made": str(one["made"].item()),
                "AUC": _interval(one, "auc"),
                "accuracy": _interval(one, "accuracy"),
                "n": int(one["n"]),
                "layers that respond": _layers(one),
            }
        )
    caption = (
        f"One row a network, on the same {len(run.images)} images, with 95 % intervals over "
        f"{'groups' if run.groups is not None else 'images treated as independent'}; labelled images: "
        f"{summary.attrs['held_out']}."
    )
    return Table(pd.DataFrame(rows), caption, meanings=MEANINGS)


def _interval(one: xr.Dataset, name: str) -> str:
    value, low, high = (float(one[f"{name}{end}"]) for end in _ENDS)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(value) else "not known"


def _layers(one: xr.Dataset) -> str:
    alive = one["alive"].values
    dead = [str(layer) for layer in one["layer"].values[~alive]]
    return "all" if not dead else f"{int(alive.sum())} of {len(alive)}; not {', '.join(dead)}"
