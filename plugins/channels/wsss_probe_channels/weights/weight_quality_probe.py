"""The probe weight-quality: whether the head weighs those channels most that outline the class best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from wsss_probe import Conclusion, Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe.statistics import benjamini_hochberg
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.screening.selection import eligible
from wsss_probe_channels.weights.head_weights import control_weight
from wsss_probe_channels.weights.weight_quality import (
    PREDICTORS,
    Measured,
    detectable,
    kendall,
    percentiles,
    permutation_ps,
    predictors,
    resampled,
    spearman,
)
from wsss_probe_channels.weights.weight_quality_section import findings, no_class_finding, sections

if TYPE_CHECKING:
    from wsss_probe import Section, Survey
    from wsss_probe.contracts import Control, Run

__all__ = ["WeightQuality"]

RESAMPLES, KENDALL_RESAMPLES = 1000, 200
"""Kendall's tau is taken pair by pair, so its interval rests on fewer resamples."""


@final
@dataclass(frozen=True)
class WeightQuality(Probe):
    """Rank correlation, across the channels of a layer, of head weight and mean channel-F1.

    For every class of the network that is a region of the masks: Spearman's rho and Kendall's tau-b between
    mean F1 with the region and four predictors: w, |w|, w less the mean of the other classes' weights,
    and w times the mean activation. Feng et al., sections 2.5 and 3, argue from examples that weights say
    little of what a channel shows; this is the number for all of them. The interval resamples groups of
    images and ranks anew; p exchanges the channels (two-sided), q is by Benjamini and Hochberg over
    predictors and classes.

    Misleads: channels are no independent sample: copies of one channel count several times and make p too
    small. Noise in F1 weakens rho, and resampling adds noise, so the interval leans towards 0. F1 depends on
    how much a channel covers, which may go with its weight for other reasons. A rho near 0 is no
    evidence of absence below the detectable size. Weights of a head that is not linear are effective
    ones, taken as fixed.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for the layers of ``layers``.
    layers : str
        ``last`` (default), ``all``, or names, comma-separated.
    permutations : int
        Orders of the channels for p.

    Raises
    ------
    UsageError
        For fewer than one permutation.
    """

    layer: str = ""
    layers: str = "last"
    permutations: int = 9999
    name: str = field(init=False, default="weight-quality")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if self.permutations < 1:
            msg = "permutations of weight-quality are too few"
            raise UsageError(
                msg, found=str(self.permutations), wanted="1 or more", remedy="permutations = 999"
            )
        object.__setattr__(self, "options", {"layer": self.layer, "permutations": self.permutations})
        name = "weight-quality"
        object.__setattr__(self, "name", f"{name}@{self.layer}" if self.layer else name)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer; none without masks, which channel-F1 reports."""
        chosen = _layers(self, survey) if survey.mask_classes else ()
        return tuple(replace(self, layer=name) for name in chosen)

    def needs(self, survey: Survey) -> Needs:
        """Ask for channel-F1 and for the weights."""
        tables = {
            f"{kind}@{name}" for name in _layers(self, survey) for kind in ("channel-f1", "head-weights")
        }
        return Needs(tables=frozenset(tables))

    def conclude(self, run: Run) -> Conclusion:
        """Correlate, in this network and, as a reference, in its controls.

        Returns
        -------
        Conclusion
            By (class, predictor): ``spearman`` and ``kendall`` with ``_low`` and ``_high``, ``p`` and ``q``
            of Spearman's; by (control, class, predictor) ``control_spearman``; by (class, channel)
            ``weight`` and ``mean_f1``; by (class) ``region``, ``channels`` that take part and the
            ``detectable`` rho. Empty where no class of the network is a region.
        """
        weights = run.summary(f"head-weights@{self.layer}")
        rows = run.rows(f"channel-f1@{self.layer}").load()
        pairs = _pairs(weights, rows)
        attrs = {"layer": self.layer, "kind": str(weights.attrs.get("kind", "head"))}
        if not pairs:
            return Conclusion(xr.Dataset(attrs=attrs), (no_class_finding(self.layer),))
        network = _Network(rows, run.pooled(self.layer).values, weights["weight"].values)
        known = network.known
        member = _members(run.groups, known)
        tables = [_correlated(self, network.measured(pair), member, run.survey.seed) for pair in pairs]
        summary = xr.concat(tables, "class").assign_coords({"class": _words(pair.name for pair in pairs)})
        summary["q"] = (summary["p"].dims, benjamini_hochberg(summary["p"].values))
        summary["region"] = ("class", _words(pair.region for pair in pairs))
        summary = summary.merge(_control_table(run.controls, weights, attrs, pairs))
        numbers = {"images": int(known.sum()), "groups": len(np.unique(member))}
        own = {"permutations": self.permutations, "grouped": run.groups is not None}
        summary.attrs = {**attrs, **numbers, **own}
        return Conclusion(summary, findings(summary, run))

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the correlations beside those of control networks, and the scatter."""
        return sections(summary, run)


def _layers(probe: WeightQuality, survey: Survey) -> tuple[str, ...]:
    return (probe.layer,) if probe.layer else evidence_layers(survey, probe.layers)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A class of the network and its region among the masks, with their positions."""

    name: str
    region: str
    position: int
    column: int


def _pairs(weights: xr.Dataset, rows: xr.Dataset) -> list[_Pair]:
    """Classes of the network that are regions of the masks."""
    regions = [str(name) for name in rows["class"].values]
    said: Mapping[str, str] = weights.attrs.get("regions", {})
    return [
        _Pair(name, said[name], position, regions.index(said[name]))
        for position, name in enumerate(map(str, weights["class"].values))
        if said.get(name) in regions
    ]


@dataclass(frozen=True, slots=True)
class _Network:
    """Rows of channel-F1, pooled features (image, channel) and weights (class, channel) of one network."""

    rows: xr.Dataset
    pooled: np.ndarray
    weight: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Images with a known mask."""
        known: np.ndarray = np.isfinite(self.rows["area"].values).all(axis=1)
        return known

    def measured(self, pair: _Pair) -> Measured:
        """Take what concerns one class, on the images with a known mask."""
        known = self.known
        f1 = self.rows["f1"].values[known, :, pair.column].astype(np.float64)
        kept = eligible(f1, self.rows["area"].values[known, pair.column] > 0)
        weight = self.weight.astype(np.float64)
        return Measured(np.where(kept, f1, np.nan), self.pooled[known], weight, pair.position)


def _members(groups: np.ndarray | None, known: np.ndarray) -> np.ndarray:
    """Number of each known image's group; each image by itself without groups."""
    if groups is None:
        return np.arange(int(known.sum()))
    names = np.asarray(groups, dtype=object)[known].astype(str)
    member: np.ndarray = np.unique(names, return_inverse=True)[1]
    return member


def _correlated(probe: WeightQuality, measured: Measured, member: np.ndarray, seed: int) -> xr.Dataset:
    """Correlate one class's predictors with mean F1: estimates, intervals, p."""
    f1, activation = measured.means()
    variables: dict[str, Any] = {}
    for measure, resamples in ((spearman, RESAMPLES), (kendall, KENDALL_RESAMPLES)):
        name = measure.__name__
        replicates = resampled(measured, member, measure, resamples=resamples, seed=seed)
        low, high = percentiles(replicates, len(np.unique(member)))
        variables[name] = ("predictor", measured.correlations(f1, activation, measure))
        variables |= {f"{name}_low": ("predictor", low), f"{name}_high": ("predictor", high)}
    said = predictors(measured.weight, measured.position, activation)
    p = permutation_ps(said, f1, permutations=probe.permutations, seed=seed)
    channels = int(np.isfinite(f1).sum())
    return xr.Dataset(
        {
            **variables,
            "p": ("predictor", p),
            "weight": ("channel", said[0]),
            "mean_f1": ("channel", f1),
            "channels": channels,
            "detectable": detectable(channels),
        },
        coords={"predictor": _words(PREDICTORS)},
    )


def _control_table(
    controls: Sequence[Control], weights: xr.Dataset, attrs: Mapping[str, str], pairs: Sequence[_Pair]
) -> xr.Dataset:
    """Correlate in networks that learned nothing, with their own weights; NaN where one has none."""
    if not controls:
        return xr.Dataset()
    layer = attrs["layer"]
    networks = [_control_network(control, weights, layer, attrs["kind"]) for control in controls]
    found = [[_plain_correlations(network, pair) for pair in pairs] for network in networks]
    return xr.Dataset(
        {
            "control_alive": ("control", [bool(control.alive(layer)) for control in controls]),
            "control_spearman": (("control", "class", "predictor"), np.array(found)),
        },
        coords={
            "control": _words(control.name for control in controls),
            "class": _words(pair.name for pair in pairs),
            "predictor": _words(PREDICTORS),
        },
    )


def _control_network(control: Control, weights: xr.Dataset, layer: str, kind: str) -> _Network | None:
    """Read a control's tables; None where its head gives no weights of that kind."""
    found = control_weight(f"head-weights@{layer}", layer, kind, control)
    if found is None:
        return None
    names = [str(name) for name in weights["class"].values]
    weight = np.full((len(names), found.shape[1]), np.nan)
    weight[[names.index(name) for name in weights.attrs.get("classes with weights", names)]] = found
    return _Network(control.rows(f"channel-f1@{layer}").load(), control.pooled(layer).values, weight)


def _plain_correlations(network: _Network | None, pair: _Pair) -> np.ndarray:
    if network is None:
        return np.full(len(PREDICTORS), np.nan)
    measured = network.measured(pair)
    return measured.correlations(*measured.means(), spearman)


def _words(names: Iterable[str]) -> np.ndarray:
    return np.array(list(names), dtype=object)
