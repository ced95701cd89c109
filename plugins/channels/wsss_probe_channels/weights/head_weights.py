"""The probe head-weights: what the head of a network says about every channel of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Finding, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.weights.correspondence import REMEDY, Correspondence, correspond
from wsss_probe_channels.weights.head_weights_section import sections
from wsss_probe_channels.weights.taxonomy import SIGNS, channel_signs, sign_counts, weight_classes

if TYPE_CHECKING:
    from wsss_probe import Batch, Head, Section, Survey
    from wsss_probe.contracts import Control, Run

__all__ = ["HeadWeights", "control_weight"]


@final
@dataclass(frozen=True)
class HeadWeights(Probe):
    """Weight of every channel for every class, the signs of these weights and the class of the largest.

    Where the head is proved linear at the layer, ``logit = weight @ GAP(maps) + bias`` and the weight is
    read from the network. Elsewhere the *effective weight* ``mean over images of sum over positions of
    d logit / d map`` takes its place, which equals the weight where there is one. Signs and the rule that
    a channel belongs to the class with the larger weight: Feng, Hafiane, Laurent, section 2.5.

    Misleads: a network with softmax decides alike when a constant is added to all weights of a channel, so
    its signs say little while differences and the largest weight stay; a weight says nothing without the
    size of its channel's maps; an effective weight is a mean of gradients that differ between images
    (read ``spread``) and holds near these images only.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        ``last`` (default), ``all`` or names, comma-separated; see
        :func:`wsss_probe_channels.evidence.evidence_layers`.
    match : mapping of str to str
        Mask region by class, where names do not tell; see
        :func:`wsss_probe_channels.weights.correspondence.correspond`.
    classes : int
        At most so many classes get effective weights, one backward pass each: all, if they are no more;
        else those with a mask region, filled up with the first ones. Proved weights cost nothing and
        are all there.
    asked : tuple of int
        Set by :meth:`split`: classes whose gradients are taken; empty with a proved linear head.

    Raises
    ------
    UsageError
        If ``classes`` is no positive number, or ``match`` no table of names.
    """

    layer: str = ""
    layers: str = "last"
    match: Mapping[str, str] = field(default_factory=dict, hash=False)
    classes: int = 10
    asked: tuple[int, ...] = ()
    name: str = field(init=False, default="head-weights")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 1:
            msg = "classes of head-weights is no number of classes"
            raise UsageError(msg, found=repr(self.classes), wanted="a whole number from 1")
        if not isinstance(self.match, Mapping) or not all(isinstance(v, str) for v in self.match.values()):
            msg = "match of head-weights is no table of names"
            raise UsageError(msg, found=repr(self.match), wanted="<class> = <mask region>")
        options = {"layer": self.layer, "match": dict(self.match), "classes": self.classes}
        object.__setattr__(self, "options", {**options, "gradients of classes": list(self.asked)})
        object.__setattr__(self, "name", f"head-weights@{self.layer}" if self.layer else "head-weights")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer, which knows the classes whose gradients it needs."""
        names = (self.layer,) if self.layer else evidence_layers(survey, self.layers)
        matched = correspond(survey.classes, survey.mask_classes, self.match)
        return tuple(replace(self, layer=name, asked=self._asked(name, survey, matched)) for name in names)

    def _asked(self, layer: str, survey: Survey, matched: Correspondence) -> tuple[int, ...]:
        if _proved(survey.head, layer) is not None:
            return ()
        order = sorted(range(len(survey.classes)), key=lambda c: not matched.regions[survey.classes[c]])
        return tuple(sorted(order[: self.classes]))

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # split has read it
        """Ask for the layer gradient of each class, unless the head is proved to be linear there."""
        return Needs(gradients=frozenset((self.layer, c) for c in self.asked))

    def observe(self, batch: Batch) -> Observation | None:
        """Add up gradients of one batch.

        Returns
        -------
        Observation or None
            Partial ``total`` and ``squares`` (class, channel) of the spatial sum of the gradient, and
            ``n`` (class,) of images with finite ones; classes in the order of ``asked``. None where
            no gradient is needed.
        """
        if not self.asked:
            return None
        total, squares, number = [], [], []
        for c in self.asked:
            sums = batch.gradients[self.layer, c].double().sum(dim=(2, 3))
            sums = sums[batch.readable & torch.isfinite(sums).all(dim=1)]
            total.append(sums.sum(dim=0).cpu().numpy())
            squares.append(sums.square().sum(dim=0).cpu().numpy())
            number.append(len(sums))
        both = ("class", "channel")
        return Observation(
            partial=xr.Dataset(
                {
                    "total": (both, np.stack(total)),
                    "squares": (both, np.stack(squares)),
                    "n": ("class", np.array(number, dtype=np.float64)),
                }
            )
        )

    def conclude(self, run: Run) -> Conclusion:
        """Read or average the weights; count their signs here and in the controls."""
        weight, spread = _weight_and_spread(self, run)
        matched = correspond(run.survey.classes, run.survey.mask_classes, self.match)
        summary = _summary(self, run, weight, spread).merge(_control_counts(self, run))
        summary.attrs = _attributes(self, run, matched, summary)
        return Conclusion(summary, tuple(_findings(self, run, matched, summary)))

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG002  # the table has it all
        """Show the signs beside the controls', and the weights of all channels."""
        return sections(self.layer, summary)


def _proved(head: Head, layer: str) -> np.ndarray | None:
    """Weights (class, channel) of a proved linear head at this layer, else None."""
    return head.weight if head.linear and head.layer == layer else None


def control_weight(probe_name: str, layer: str, kind: str, control: Control) -> np.ndarray | None:
    """A control's own weights, of the same kind as the audited network's.

    Parameters
    ----------
    probe_name : str
        ``head-weights@<layer>``.
    layer : str
    kind : {"head", "effective"}
    control : Control

    Returns
    -------
    ndarray or None, (class, channel)
        All classes where ``kind`` is ``head``, else those that gradients were asked for. None where the
        control's head was not proved to be linear at this layer.
    """
    if kind == "head":
        return _proved(control.survey.head, layer)
    return _effective(control.partial(probe_name))[0]


def _effective(partial: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean over images and standard deviation between them, (class, channel); NaN without an image."""
    number = np.where(partial["n"].values > 0, partial["n"].values, np.nan)[:, None]
    mean = partial["total"].values / number
    variance = partial["squares"].values / number - mean**2
    # rounding leaves a constant with a variance of either sign
    noise = 1e-12 * mean**2
    return mean, np.sqrt(np.where(variance > noise, variance, np.where(np.isnan(variance), np.nan, 0)))


def _weight_and_spread(probe: HeadWeights, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Weights of all classes, NaN for those not asked for, and their spread between images."""
    proved = _proved(run.survey.head, probe.layer)
    if proved is not None:
        return proved, np.zeros(proved.shape)
    mean, deviation = _effective(run.partial(probe.name))
    shape = (len(run.survey.classes), mean.shape[1])
    weight, spread = np.full(shape, np.nan), np.full(shape, np.nan)
    weight[list(probe.asked)], spread[list(probe.asked)] = mean, deviation
    return weight, spread


def _known(probe: HeadWeights, classes: int) -> list[int]:
    """Classes that have weights."""
    return list(probe.asked) or list(range(classes))


def _summary(probe: HeadWeights, run: Run, weight: np.ndarray, spread: np.ndarray) -> xr.Dataset:
    """Write weights, their signs and classes as a table."""
    known = _known(probe, len(weight))
    position = weight_classes(weight[known])
    counts = np.zeros((len(weight), len(SIGNS)), dtype=np.int64)
    counts[known] = sign_counts(weight[known])
    both = ("class", "channel")
    return xr.Dataset(
        {
            "weight": (both, weight),
            "spread": (both, spread),
            "weight_class": ("channel", np.where(position < 0, -1, np.array(known)[position])),
            "sign": ("channel", channel_signs(weight[known])),
            "sign_counts": (("class", "sign_bucket"), counts),
        },
        coords={
            "class": np.array(run.survey.classes, dtype=object),
            "channel": np.arange(weight.shape[1]),
            "sign_bucket": np.array(SIGNS, dtype=object),
        },
    )


def _control_counts(probe: HeadWeights, run: Run) -> xr.Dataset:
    """Count the signs of every control's own weights; empty where no control has any."""
    known = _known(probe, len(run.survey.classes))
    kind = "effective" if probe.asked else "head"
    found = {c.name: control_weight(probe.name, probe.layer, kind, c) for c in run.controls}
    counts = {}
    for name, weight in found.items():
        if weight is not None:
            counts[name] = np.zeros((len(run.survey.classes), len(SIGNS)), dtype=np.int64)
            counts[name][known] = sign_counts(weight)
    if not counts:
        return xr.Dataset()
    alive = {control.name: control.alive(probe.layer) for control in run.controls}
    return xr.Dataset(
        {
            "control_sign_counts": (("control", "class", "sign_bucket"), np.stack(list(counts.values()))),
            "control_alive": ("control", np.array([alive[name] for name in counts])),
        },
        coords={"control": np.array(list(counts), dtype=object)},
    )


def _attributes(probe: HeadWeights, run: Run, matched: Correspondence, summary: xr.Dataset) -> dict[str, Any]:
    """What the numbers are, for readers of the table."""
    known = _known(probe, len(run.survey.classes))
    images = 0 if not probe.asked else int(run.partial(probe.name)["n"].values.min())
    return {
        "kind": "effective" if probe.asked else "head",
        "regions": dict(matched.regions),
        "reasons": dict(matched.reasons),
        "correspondence": matched.words,
        "classes with weights": [run.survey.classes[c] for c in known],
        "head": run.survey.head.reason or f"the head is linear at {run.survey.head.layer}",
        "n": images,
        "relative_spread": _relative_spread(summary),
    }


def _relative_spread(summary: xr.Dataset) -> float | None:
    """Median over channels and classes of the spread between images over the size of the mean."""
    weight, spread = summary["weight"].values, summary["spread"].values
    told = np.isfinite(weight) & (weight != 0)
    return float(np.median(spread[told] / np.abs(weight[told]))) if told.any() else None


def _findings(
    probe: HeadWeights, run: Run, matched: Correspondence, summary: xr.Dataset
) -> Iterable[Finding]:
    """Say what a reader must know before weights are read."""
    if probe.asked:
        share = summary.attrs["relative_spread"]
        varies = "is not defined" if share is None else f"has a median of {share:.2g} times the weight's size"
        yield Finding(
            f"effective-weight@{probe.layer}",
            "notice",
            f"Layer {probe.layer}: no linear head was proved there ({summary.attrs['head']}), so its weights "
            "are effective weights, means over images of the gradient's spatial sum; their spread between "
            f"images {varies} (n = {summary.attrs['n']} images; no control, since this is what was "
            "measured).",
            effect=share,
            n=summary.attrs["n"],
            unit="standard deviation over mean",
        )
    if run.survey.mask_classes and not matched.known:
        yield Finding(
            f"weight-regions@{probe.layer}",
            "notice",
            f"Layer {probe.layer}: no class of the network ({', '.join(run.survey.classes)}) has the name "
            "of a "
            f"mask region ({', '.join(run.survey.mask_classes)}), so weights are not compared with masks; "
            f"{REMEDY}.",
        )
