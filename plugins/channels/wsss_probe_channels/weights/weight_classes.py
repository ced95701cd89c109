"""The probe weight-classes: whether the weights of the head say what a channel shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from wsss_probe import Conclusion, Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.weights.weight_classes_conclusion import conclude
from wsss_probe_channels.weights.weight_classes_section import sections

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["WeightClasses"]


@final
@dataclass(frozen=True)
class WeightClasses(Probe):
    """Hit rates of the weight classes, and how often screened class and weight class disagree.

    A channel belongs to the class with its largest weight (Feng, Hafiane, Laurent, section 2.5). Two
    questions: do the maxima of a class's channels fall inside the class's mask more often than the mask's
    area says (their Fig. 5, where no number is given)? And how often does a channel that covers a class
    carry the larger weight for another (their discussion: "sometimes")?

    ``hit rate = points inside / points`` over images that the region covers in part, over all live maps of
    the class's channels. The screened class is the class with the largest mean of
    ``F1 - 2pq / (p + q)`` with p the channel's coverage and q the region's area: what F1 is beyond that of
    an independent mask of the same size.

    Misleads: chance is not the area alone, since maxima of all channels may crowd in the middle or on
    tissue; hence the exchange of classes between channels, and controls. Channels that copy each other
    count as many. Where white glass belongs to the background, each channel that answers tissue covers
    every tissue class beyond independence. With a softmax head only differences of weights count, which
    is what is used here.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        As for head-weights and peaks, whose tables it reads.
    permutations : int
        Exchanges of weight classes between channels.
    best : int
        The rate of disagreement is given for so many best channels per class as well.

    Raises
    ------
    UsageError
        If ``permutations`` or ``best`` is no positive number.
    """

    layer: str = ""
    layers: str = "last"
    permutations: int = 999
    best: int = 10
    name: str = field(init=False, default="weight-classes")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        for option in ("permutations", "best"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{option} of weight-classes is no number"
                raise UsageError(msg, found=repr(value), wanted="a whole number from 1")
        options = {"layer": self.layer, "permutations": self.permutations, "best": self.best}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"weight-classes@{self.layer}" if self.layer else "weight-classes")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer; none without masks, which peaks has said already."""
        if not survey.mask_classes:
            return ()
        names = (self.layer,) if self.layer else evidence_layers(survey, self.layers)
        return tuple(replace(self, layer=name) for name in names)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the tables of peaks, head-weights and channel-f1 at this layer."""
        tables = frozenset(f"{name}@{self.layer}" for name in ("peaks", "head-weights", "channel-f1"))
        return Needs(masks=bool(survey.mask_classes), tables=tables)

    def conclude(self, run: Run) -> Conclusion:
        """Score the classes that have a region, here and in the controls."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show rates, contingency and points, and what the controls reach."""
        return sections(self, summary, run)
