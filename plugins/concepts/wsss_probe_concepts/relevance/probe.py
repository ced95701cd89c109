"""The probes concept-relevance@<layer> and concept-relevance: whether classes rest on measured concepts."""

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
    from wsss_probe_concepts.regression import Model

__all__ = ["ConceptRelevance", "LayerRelevance"]

_MODELS = ("ols", "ridge", "pca")


@final
@dataclass(frozen=True)
class LayerRelevance(Probe):
    """Relevance of concepts for classes at one layer; see :class:`ConceptRelevance`.

    Parameters
    ----------
    layer : str
    model : {"ols", "ridge", "pca"}
    permutations, scored : int
    """

    layer: str
    model: Model = "ridge"
    permutations: int = 999
    scored: int = 199
    name: str = field(init=False)
    options: Mapping[str, Any] = field(init=False, hash=False)

    def __post_init__(self) -> None:
        """Derive the name and what the plan records."""
        numbers = {"permutations": self.permutations, "scored": min(self.scored, self.permutations)}
        options = {"layer": self.layer, "model": self.model, **numbers}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"concept-relevance@{self.layer}")

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the layer is known
        """Ask for the vectors; gradients are read where there are any."""
        return Needs(tables=frozenset({f"rcv@{self.layer}"}))

    def conclude(self, run: Run) -> Conclusion:
        """Score this layer."""
        from wsss_probe_concepts.relevance.conclusion import conclude_layer

        return conclude_layer(self, run)


@final
@dataclass(frozen=True)
class ConceptRelevance(Probe):
    """Whether the logit of a class rises or falls along the direction of a measured concept.

    For an image the sensitivity ``S = g · v`` is the class logit's gradient (mean over positions, sign kept)
    along the unit regression concept vector v. Over the images of a class: the TCAV score, the share with
    S > 0, and the bidirectional relevance ``Br = max(R², 0) mean(S) / std(S)`` with the held-out R²
    (Graziani, Andrearczyk, Müller 2018, arXiv:1904.04520; Kim et al. 2018, arXiv:1711.11279). Beside them
    the same scores of permuted concepts fitted in the same way, of random directions, and of networks that
    learned nothing. q by Benjamini and Hochberg over concepts, classes and layers, of the larger of two p
    of the mean sensitivity: against permuted concepts and against random directions.

    Misleads: where gradients differ little between images, *every* direction has a TCAV score of 0 or 1,
    and a large ratio of mean to spread: then the score says only on which side of the gradient a direction
    lies. Br divides by that spread and is undefined for a linear head on the last layer. A concept that goes
    with one that is used is found with it: read partial R². Intervals take directions as fixed.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
        Whose directions.
    permutations : int
        Of concepts, and as many random directions, for p: q over hundreds of cells cannot be small
        where p cannot.
    scored : int
        How many of them get a TCAV score and a Br, whose ranges are drawn; at most ``permutations``.
    layers : tuple of str
        Set by :meth:`split`.

    Raises
    ------
    UsageError
        For an unknown model, or fewer than one permutation, scored or not.
    """

    model: Model = "ridge"
    permutations: int = 999
    scored: int = 199
    layers: tuple[str, ...] = ()
    name: str = field(init=False, default="concept-relevance")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; write down what the plan records."""
        if self.model not in _MODELS:
            msg = "model of concept-relevance is not known"
            raise UsageError(msg, found=str(self.model), wanted=", ".join(_MODELS))
        for name in ("permutations", "scored"):
            _require_count(name, getattr(self, name))
        numbers = {"permutations": self.permutations, "scored": min(self.scored, self.permutations)}
        object.__setattr__(self, "options", {"model": self.model, **numbers, "layers": list(self.layers)})

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer that has a part in the logits, and the one that reads them all."""
        names = gradient_layers(survey)
        copies = [LayerRelevance(name, self.model, self.permutations, self.scored) for name in names]
        return (*copies, replace(self, layers=names)) if names else ()

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # split has read it
        """Ask for the tables of all layers."""
        return Needs(tables=frozenset(f"concept-relevance@{name}" for name in self.layers))

    def conclude(self, run: Run) -> Conclusion:
        """Correct for multiplicity and say which concepts each class rests on."""
        from wsss_probe_concepts.relevance.joint import conclude

        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show both scores with intervals and nulls, and everything in a table."""
        from wsss_probe_concepts.relevance.section import sections

        return sections(summary, run)


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} of concept-relevance are too few"
        raise UsageError(msg, found=repr(value), wanted="1 or more", remedy=f"{name} = 199")
