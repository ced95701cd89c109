"""The probes tcav@<layer> and tcav: whether classes follow concepts that are there or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from wsss_probe import Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_concepts.relevance.gradients import gradient_layers

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Conclusion, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["LayerTcav", "Tcav"]


@final
@dataclass(frozen=True)
class LayerTcav(Probe):
    """Classification concept vectors at one layer; see :class:`Tcav`.

    Parameters
    ----------
    layer : str
    permutations : int
    """

    layer: str
    permutations: int = 199
    name: str = field(init=False)
    options: Mapping[str, Any] = field(init=False, hash=False)

    def __post_init__(self) -> None:
        """Derive the name and what the plan records."""
        object.__setattr__(self, "options", {"layer": self.layer, "permutations": self.permutations})
        object.__setattr__(self, "name", f"tcav@{self.layer}")

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the layer is known
        """Ask for the layer, whose means the host keeps; gradients are read where there are any."""
        return Needs(layers=frozenset({self.layer}))

    def conclude(self, run: Run) -> Conclusion:
        """Fit and score this layer."""
        from wsss_probe_concepts.tcav.conclusion import conclude_layer

        return conclude_layer(self, run)


@final
@dataclass(frozen=True)
class Tcav(Probe):
    """Testing with concept activation vectors, for measured concepts with exactly two values.

    A linear classifier parts images with the higher value from those with the lower one by a layer's
    averaged features; its normal is the concept activation vector (Kim et al. 2018, arXiv:1711.11279), fitted
    as captum's default is. The TCAV score is the share of a class's images whose logit rises along it;
    the magnitude is the mean of that derivative, as captum's code has it (its documentation describes
    another one). How well the plane parts images is held out by groups: where the lower end of its AUC is
    under 0.7 there is no concept vector to speak of, and nothing is concluded. Nulls are vectors of
    exchanged labels, random directions and networks that learned nothing.

    Misleads: where gradients differ little between images every direction has a score of 0 or 1. A vector
    that parts images well may do so by what goes with the concept.

    Parameters
    ----------
    permutations : int
        Of the labels, and as many random directions.
    layers : tuple of str
        Set by :meth:`split`.

    Raises
    ------
    UsageError
        For fewer than one permutation.
    """

    permutations: int = 199
    layers: tuple[str, ...] = ()
    name: str = field(init=False, default="tcav")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; write down what the plan records."""
        whole = isinstance(self.permutations, int) and not isinstance(self.permutations, bool)
        if not whole or self.permutations < 1:
            msg = "permutations of tcav are too few"
            found = repr(self.permutations)
            raise UsageError(msg, found=found, wanted="1 or more", remedy="permutations = 199")
        options = {"permutations": self.permutations, "layers": list(self.layers)}
        object.__setattr__(self, "options", options)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer that has a part in the logits, and the one that reads them all."""
        names = gradient_layers(survey)
        copies = [LayerTcav(name, self.permutations) for name in names]
        return (*copies, replace(self, layers=names)) if names else ()

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # split has read it
        """Ask for the tables of all layers."""
        return Needs(tables=frozenset(f"tcav@{name}" for name in self.layers))

    def conclude(self, run: Run) -> Conclusion:
        """Correct for multiplicity and say which concepts each class follows."""
        from wsss_probe_concepts.tcav.joint import conclude

        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show scores with intervals and nulls, and everything in a table."""
        from wsss_probe_concepts.tcav.section import sections

        return sections(summary, run)
