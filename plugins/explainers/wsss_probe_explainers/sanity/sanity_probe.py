"""The probe Sanity: whether maps change when the network forgets what it has learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_explainers.sampling import evenly_spread, explained_classes
from wsss_probe_explainers.sanity.sanity_conclusion import conclude
from wsss_probe_explainers.sanity.sanity_section import sections

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey, Target
    from wsss_probe.contracts import Run

__all__ = ["Sanity"]


@final
@dataclass(frozen=True)
class Sanity(Probe):
    """Compare maps with those of the same network after its parameters were drawn again.

    Parameter randomisation, cascading from the output down and group by group alone, and the random logit
    test. Similarity is Spearman's rank correlation of the maps and of their absolute values, and SSIM;
    chance is the similarity of maps of different images, a map with itself is 1. The class that the
    trained network's map explains is kept. Adebayo et al. (2018), arXiv:1810.03292; Sixt, Granz, Landgraf
    (2020), arXiv:1912.09818 for the random logit.

    Misleads: a map that changes depends on the weights, no more; it may still be a poor explanation. A
    drawn network still responds to edges and to the border of the image, so some similarity remains.

    Parameters
    ----------
    images : int
        How many, evenly spread over the manifest; ten groups at least carry a verdict.
    groups : int
        Of layers that are forgotten together; the last layer that runs is alone in the first.
    draws : int
        Networks in which everything is forgotten.
    chosen : tuple of int
        Positions in the manifest; set by :meth:`split`, as is the following.
    target : Target

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    images: int = 12
    groups: int = 6
    draws: int = 2
    chosen: tuple[int, ...] = field(default=(), repr=False)
    target: Target = "predicted"
    name: str = field(init=False, default="sanity")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; write down what the plan records."""
        options = {key: getattr(self, key) for key in ("images", "groups", "draws")}
        for name, value in options.items():
            if value < 1:
                raise UsageError(f"sanity needs {name}", found=str(value), wanted="1 or more")
        object.__setattr__(self, "options", options)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make the copy that knows its images; none where there are no maps to judge."""
        if not survey.relevance:
            return ()
        chosen = evenly_spread(survey.images or self.images, self.images)
        return (replace(self, chosen=chosen, target=survey.targets[0]),)

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract
        """Ask for the network; controls are made here, one group of layers after the other."""
        return Needs(model=True, controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Keep the class that is explained: rows ``explained`` (image), NaN for a contrast."""
        classes = explained_classes(batch, self.target)
        return Observation(xr.Dataset({"explained": ("image", classes)}))

    def conclude(self, run: Run) -> Conclusion:
        """Explain the chosen images by networks that have forgotten more and more."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show similarity against depth, and every number."""
        return sections(summary, run)
