"""Maps with the same spatial mean, and how different they are otherwise.

Feng et al., section 2.3 and figure 2: global average pooling keeps one number of a map, and two maps with
the same number may have nothing else in common. The figure shows examples; here couples are drawn at random
and stand beside couples with different means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from wsss_probe import Conclusion, Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.pairs.same_gap_conclusion import conclude
from wsss_probe_channels.pairs.same_gap_section import sections

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["SameGap"]


@final
@dataclass(frozen=True)
class SameGap(Probe):
    """How alike two maps are whose pooled value agrees, beside two whose pooled values differ.

    The pooled value is G = mean over positions of a map. Two values agree if ``|G_a - G_b| <= tolerance *
    max(G_a, G_b)``, both positive (Feng et al., figure 2). Two kinds of couples: two channels of one
    image, and two images of one channel. Each couple's first map is also compared with a third one of
    the same image or channel whose pooled value does not agree: is agreement in G informative at all?
    Likeness: Pearson's correlation over positions, F1 between the Otsu masks, and the smaller maximum
    over the larger.

    Misleads: couples are drawn, not picked, from at most 24 images; couples that share a map or an image
    are not independent, and the interval resamples groups by the image of the first map only. Maps of
    rectified networks share borders, so unrelated maps are not uncorrelated: hence the third map. Maps of
    equal mean tend to cover equal shares of the grid, which alone raises F1: read the correlation too.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        Layers to split into, see :func:`wsss_probe_channels.evidence.evidence_layers`.
    tolerance : float
        Largest relative difference of two pooled values that agree.
    images : int
        Most images; each costs one forward pass.
    couples : int
        Most couples of each kind.

    Raises
    ------
    UsageError
        For a tolerance outside [0, 1), less than one image or less than one couple.
    """

    layer: str = ""
    layers: str = "last"
    tolerance: float = 1e-3
    images: int = 24
    couples: int = 100
    name: str = field(init=False, default="same-gap")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        if not 0 <= self.tolerance < 1 or math.isnan(self.tolerance):
            msg = "tolerance is no relative difference"
            raise UsageError(msg, found=str(self.tolerance), wanted="a number in [0, 1)")
        for what in ("images", "couples"):
            if getattr(self, what) < 1:
                msg = f"same-gap needs a number of {what}"
                raise UsageError(msg, found=str(getattr(self, what)), wanted="1 or more")
        names = ("layer", "layers", "tolerance", "images", "couples")
        object.__setattr__(self, "options", {name: getattr(self, name) for name in names})
        object.__setattr__(self, "name", f"same-gap@{self.layer}" if self.layer else "same-gap")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer."""
        if self.layer:
            return (self,)
        return tuple(replace(self, layer=name) for name in evidence_layers(survey, self.layers))

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer; controls answer nothing here, since each couple has its own."""
        layers = frozenset({self.layer} if self.layer else evidence_layers(survey, self.layers))
        return Needs(layers=layers, controls=False)

    def conclude(self, run: Run) -> Conclusion:
        """Draw couples of maps and compare them."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show couples as the paper's figure 2, and how alike couples are with and without agreement."""
        return sections(self, summary, run)
