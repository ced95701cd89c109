"""The probe cka: how alike the networks of a run represent the same images, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from wsss_probe import Needs, Probe
from wsss_probe_concepts.vectors.features import concept_layers

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Conclusion, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["Cka"]


@final
@dataclass(frozen=True)
class Cka(Probe):
    """Linear centred kernel alignment (CKA) of every two networks at every layer.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K and L the inner products between images of the
    features (mean over positions) of either network, and the unbiased HSIC of Song et al. (2012); see
    :func:`wsss_probe_concepts.comparison.cka.alignment`. 1: the same similarities between images, up to
    scale; 0: unrelated. The interval is a jackknife over groups. The floor of a pair is the largest CKA of
    either with a living control; images exchanged give the bound of chance.

    Misleads: it is a statement about these images; on images of one kind networks look less alike. The
    directions of largest variance decide it, so two networks may share a CKA of .9 and differ in all that
    their classes rest on (Ding et al. 2021, arXiv:2108.01661). Averaging over positions removes where
    things are. Random networks are far from 0 in early layers, since they pass brightness and colour
    through. Only pairs at one and the same layer are compared.
    """

    name: str = field(init=False, default="cka")

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layers, whose means over positions the host keeps."""
        return Needs(layers=frozenset(concept_layers(survey)))

    def conclude(self, run: Run) -> Conclusion:
        """Compare all networks.

        Returns
        -------
        Conclusion
            The table of :func:`wsss_probe_concepts.comparison.cka_conclusion.conclude`; without
            variables where there is no further network.
        """
        from wsss_probe_concepts.comparison.cka_conclusion import conclude

        return conclude(run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show CKA over depth; nothing where there is no further network."""
        from wsss_probe_concepts.comparison.cka_section import sections

        return sections(summary, run)
