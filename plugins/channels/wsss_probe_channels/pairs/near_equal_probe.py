"""The probe near-equal, which asks whether channels with the same weight show the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.pairs.near_equal import KINDS, agreement, choose_pairs, known_classes
from wsss_probe_channels.pairs.near_equal_conclusion import conclude
from wsss_probe_channels.pairs.near_equal_section import sections

if TYPE_CHECKING:
    from wsss_probe import Batch, Head, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["NearEqual", "head_weights"]


@final
@dataclass(frozen=True)
class NearEqual(Probe):
    """F1 between the Otsu masks of two channels whose weights for a class agree.

    For image n and channels k, l with ``|w_ck - w_cl| <= tolerance``: ``B_k = A_nk > Otsu(A_nk)``,
    ``F1 = 2 |B_k and B_l| / (|B_k| + |B_l|)`` on the layer's grid (Feng et al., section 2.6, table 1).
    Beside it as many random pairs of the same network, F1 of independent masks with the same coverages
    p and q, ``2pq / (p + q)``, the share of images on which a mask is empty, and Pearson's correlation
    of the raw maps. A pair with a constant or not finite map has no F1; with the paper's convention,
    F1 with an empty mask is 0, its mean is given as well.

    Misleads: a mean F1 near 0 tells of dead or sparse channels as much as of unrelated ones, so read
    the share of empty masks and the random pairs; a few pairs stand for all, and pairs that share a
    channel are not independent; where a head is not linear, "weight" is a mean gradient.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        Layers to split into, see :func:`wsss_probe_channels.evidence.evidence_layers`. Unless the head is
        proved linear there, a layer needs the table ``head-weights@<layer>``.
    tolerance : float
        Largest difference of two weights that agree.
    pairs : int
        Most pairs of each kind, for each of at most four classes.
    seed : int
        Of the random pairs.

    Raises
    ------
    UsageError
        For a negative tolerance or less than one pair.
    """

    layer: str = ""
    layers: str = "last"
    tolerance: float = 1e-5
    pairs: int = 12
    seed: int = 0
    name: str = field(init=False, default="near-equal")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if not 0 <= self.tolerance < math.inf:
            msg = "tolerance is no difference of weights"
            raise UsageError(msg, found=str(self.tolerance), wanted="a finite number from 0")
        if self.pairs < 1:
            msg = "near-equal needs a number of pairs"
            raise UsageError(msg, found=str(self.pairs), wanted="1 or more")
        names = ("layer", "layers", "tolerance", "pairs", "seed")
        object.__setattr__(self, "options", {name: getattr(self, name) for name in names})
        object.__setattr__(self, "name", f"near-equal@{self.layer}" if self.layer else "near-equal")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer."""
        if self.layer:
            return (self,)
        return tuple(replace(self, layer=name) for name in evidence_layers(survey, self.layers))

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps, and for effective weights where the head gives none."""
        if not self.layer:
            return Needs(layers=frozenset(evidence_layers(survey, self.layers)))
        known = head_weights(survey.head, self.layer) is not None
        tables = frozenset[str]() if known else frozenset({f"head-weights@{self.layer}"})
        return Needs(layers=frozenset({self.layer}), tables=tables)

    def observe(self, batch: Batch) -> Observation | None:
        """Compare the maps of the chosen pairs.

        Returns
        -------
        Observation
            Rows ``f1``, ``expected``, ``empty``, ``correlation`` (image, class, kind, pair), NaN where there
            is no such pair; ``kind`` is near-equal or random.
        """
        maps = batch.activations[self.layer]
        weights = self.weights(batch.head, batch.tables)
        if weights is None:
            weights = np.full((batch.logits.shape[1], maps.shape[1]), np.nan)
        chosen = choose_pairs(weights[known_classes(weights)], self.tolerance, self.pairs, self.seed).channels
        there = chosen[..., 0] >= 0
        seen = agreement(maps, chosen[there][:, 0], chosen[there][:, 1])
        rows = {}
        for name in ("f1", "expected", "empty", "correlation"):
            values = np.full((len(maps), *there.shape), np.nan, dtype=np.float32)
            values[:, there] = getattr(seen, name).cpu().numpy()
            rows[name] = (("image", "class", "kind", "pair"), values)
        coords = {"kind": np.array(KINDS, dtype=object), "pair": np.arange(self.pairs)}
        return Observation(xr.Dataset(rows, coords=coords))

    def weights(self, head: Head, tables: Mapping[str, xr.Dataset]) -> np.ndarray | None:
        """Weights of all classes, (class, channel): the head's, or effective ones, or None.

        Parameters
        ----------
        head : Head
        tables : mapping of str to Dataset

        Returns
        -------
        ndarray or None
        """
        known = head_weights(head, self.layer)
        table = tables.get(f"head-weights@{self.layer}")
        if known is None and table is not None:
            known = np.asarray(table["weight"].transpose("class", "channel").values, dtype=np.float64)
        return known

    def conclude(self, run: Run) -> Conclusion:
        """Compare near-equal pairs with random pairs, with independence and with the controls."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the pairs as the paper's table 1 and figure 6, and what random pairs reach."""
        return sections(self, summary, run)


def head_weights(head: Head, layer: str) -> np.ndarray | None:
    """Weights of a head that is proved linear at a layer, float64 (class, channel), or None.

    Parameters
    ----------
    head : Head
    layer : str

    Returns
    -------
    ndarray or None
    """
    if not head.linear or head.layer != layer or head.weight is None:
        return None
    return np.asarray(head.weight, dtype=np.float64)
