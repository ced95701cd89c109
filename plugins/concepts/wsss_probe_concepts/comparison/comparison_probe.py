"""The probe network-comparison: which of two networks encodes a concept better, at every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from wsss_probe import Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_concepts.vectors.features import concept_layers
from wsss_probe_concepts.vectors.probe import MODELS, PRIMARY

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Conclusion, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["NetworkComparison"]


@final
@dataclass(frozen=True)
class NetworkComparison(Probe):
    """Paired differences of held-out R² between the networks of a run, by concept and layer.

    (SSE_b - SSE_a) / SSB over the same held-out images and splits of ``rcv@<layer>``, with its interval over
    groups, p by flipped signs of groups, and q by Benjamini and Hochberg over concepts, layers and pairs. The
    audited network is compared with each further one, and each further one with the one before it in
    the run file. Graziani et al. (2019, IMVIP, figure 3) compare random, pretrained and finetuned networks by
    eye, on in-sample R² with the standard error over splits that share their images; see
    :func:`wsss_probe_concepts.comparison.paired.paired_differences`.

    Misleads: two networks are one draw each; another training run may differ by as much, which no
    interval over images knows. Of two networks the one with more dead channels is regressed on fewer. A
    difference between two networks that are no better than random ones is no difference in what was learned,
    hence the controls.

    Parameters
    ----------
    model : {"ridge", "ols", "pca"}
        Whose held-out errors are compared.

    Raises
    ------
    UsageError
        For another model.
    """

    model: str = PRIMARY
    name: str = field(init=False, default="network-comparison")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a model that is none."""
        if self.model not in MODELS:
            msg = "model of network-comparison is not known"
            raise UsageError(msg, found=str(self.model), wanted=", ".join(MODELS))
        object.__setattr__(self, "options", {"model": self.model})

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Run as it is, where there is a layer that concepts are regressed on."""
        return (self,) if concept_layers(survey) else ()

    def needs(self, survey: Survey) -> Needs:
        """Ask for the regressions of every layer."""
        return Needs(tables=frozenset(f"rcv@{layer}" for layer in concept_layers(survey)))

    def conclude(self, run: Run) -> Conclusion:
        """Compare the networks.

        Returns
        -------
        Conclusion
            The table of :func:`wsss_probe_concepts.comparison.comparison_conclusion.conclude`; without
            variables where there is no further network, or no concept.
        """
        from wsss_probe_concepts.comparison.comparison_conclusion import conclude

        return conclude(self.model, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the differences over depth; nothing where there is no further network."""
        from wsss_probe_concepts.comparison.comparison_section import sections

        return sections(summary, run)
