"""The probe concept-depth: all layers together, with q-values, findings and the report's section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from wsss_probe import Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_concepts.vectors.features import concept_layers

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Conclusion, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["ConceptDepth"]


@final
@dataclass(frozen=True)
class ConceptDepth(Probe):
    """Which concepts the features encode, over depth, beside networks that learned nothing.

    Reads what ``rcv`` concluded at every layer. q: Benjamini and Hochberg over all concepts and layers that
    were tested. A concept counts as encoded where q is below 0.05 and the interval of its held-out R² is
    above 0; as learned where that interval is also above what every living control reaches for the same
    concept, each control at its own best layer.

    Misleads: the best of many concepts and layers is good by luck as well; with hundreds of cells read the
    heatmap, not its maximum. Concepts that go together (VIF) are encoded together: a concept is then no more
    than a name for all of them. Depth is the order of execution, which is no order between parallel branches.

    Parameters
    ----------
    shown : int
        Concepts drawn in full: learned ones first, then the strongest; of those that go together one.
    unstable : float
        Mean angle between fold directions, in radians, above which a direction is called unstable.
    collinear : float
        Variance inflation factor above which concepts are called collinear.

    Raises
    ------
    UsageError
        For limits without a meaning.
    """

    shown: int = 6
    unstable: float = 0.5
    collinear: float = 10.0
    name: str = field(init=False, default="concept-depth")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse limits without a meaning, and write down what the plan records."""
        limits = {"shown": self.shown, "unstable": self.unstable, "collinear": self.collinear}
        for name, limit in limits.items():
            if not limit > 0:
                msg = f"{name} of concept-depth is out of range"
                raise UsageError(msg, found=str(limit), wanted="a number above 0")
        object.__setattr__(self, "options", limits)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Run once for all layers; not at all where no layer has features."""
        return (self,) if concept_layers(survey) else ()

    def needs(self, survey: Survey) -> Needs:
        """Ask for what was concluded at every layer."""
        return Needs(tables=frozenset(f"rcv@{layer}" for layer in concept_layers(survey)))

    def conclude(self, run: Run) -> Conclusion:
        """Put the layers side by side, test them together and say what stands out.

        Returns
        -------
        Conclusion
            The table of :func:`wsss_probe_concepts.vectors.depth.depth_table`.
        """
        from wsss_probe_concepts.vectors.depth import conclude

        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show curves over depth, the heatmap, images along vectors, stability and all numbers."""
        from wsss_probe_concepts.vectors.depth_section import sections

        return sections(summary, run)
