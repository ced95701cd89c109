"""The probe rcv: concepts regressed on the features of one layer, in every network, on the same splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, final

from wsss_probe import Needs, Probe
from wsss_probe.errors import UsageError
from wsss_probe_concepts.vectors.features import RcvFeatures, concept_layers, require_features

if TYPE_CHECKING:
    from wsss_probe import Conclusion, Survey
    from wsss_probe.contracts import Run
    from wsss_probe_concepts.regression import Model

__all__ = ["MODELS", "PRIMARY", "Rcv"]

MODELS: Final[tuple[Model, ...]] = ("ols", "ridge", "pca")

PRIMARY: Final[Model] = "ridge"
"""The model that every conclusion rests on, since it can be estimated at any number of channels."""


@final
@dataclass(frozen=True)
class Rcv(Probe):
    """Regression concept vectors: how well a layer's features predict each concept on images left out.

    A concept c_j (one number per image) is regressed with intercept on the features phi_j of a layer (their
    mean over positions); the *vector* is the unit direction of the fit to all images (Graziani, Andrearczyk
    and Müller 2018, doi:10.1007/978-3-030-02628-8_14). How much of the concept the layer holds
    is 1 - SSE/SSB on images that were left out, whole groups together, over ``folds`` x ``repeats`` splits:
    SSB is the error of the training mean, so the number is below 0 where features only add noise. All
    networks (audited, controls, those of ``[models]``) see the same splits, and all concepts share one
    factorisation per network and split. p: concepts exchanged between groups, fitted in the same way.

    Misleads: the in-sample R² of ordinary least squares, which the paper shows, is p/(n - 1) for pure noise.
    A layer that encodes brightness predicts whatever goes with brightness in these images: read partial
    R². That a concept can be read from features does not say that the network uses it.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for every audited layer with maps or vectors.
    folds, repeats : int
        Splits into images fitted on and left out.
    permutations : int
        Of the null, audited network and ridge only; 0 makes no test.
    bootstraps : int
        Resamples of groups for the stability of directions; 0 makes none.
    models : sequence of str, or str
        Out of ``ols`` (the paper's), ``ridge`` (any number of features; every conclusion rests on it) and
        ``pca`` (components, then OLS). Names parted by commas are taken as well.
    features : {"mean", "max", "projected"}
        Per channel, or a sketch of the flattened maps; the last two are streamed by ``rcv-features@<layer>``.

    Raises
    ------
    UsageError
        For options without a meaning.
    """

    layer: str = ""
    folds: int = 5
    repeats: int = 2
    permutations: int = 999
    bootstraps: int = 10
    models: tuple[Model, ...] = MODELS
    features: str = "mean"
    name: str = field(init=False, default="rcv")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse options without a meaning; derive the name and what the plan records."""
        object.__setattr__(self, "models", _models(self.models))
        require_features(self.features)
        for name, least in (("folds", 2), ("repeats", 1), ("permutations", 0), ("bootstraps", 0)):
            _require_count(name, getattr(self, name), least)
        names = ("layer", "folds", "repeats", "permutations", "bootstraps", "features")
        options = {name: getattr(self, name) for name in names} | {"models": list(self.models)}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"rcv@{self.layer}" if self.layer else "rcv")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per audited layer with maps or vectors, and what streams its features if need be."""
        if self.layer:
            return (self,)
        made: list[Probe] = []
        for name in concept_layers(survey):
            made += [] if self.features == "mean" else [RcvFeatures(name, self.features)]
            made.append(replace(self, layer=name))
        return tuple(made)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer, whose means the host keeps, or for the features that are streamed."""
        if self.features != "mean":
            return Needs(tables=frozenset({f"rcv-features@{self.layer}"}), concepts=True)
        layers = frozenset({self.layer} if self.layer else concept_layers(survey))
        return Needs(layers=layers, concepts=True)

    def conclude(self, run: Run) -> Conclusion:
        """Regress every concept on this layer's features, in every network.

        Returns
        -------
        Conclusion
            The table of :func:`wsss_probe_concepts.vectors.conclusion.conclude`; findings are made of all
            layers together, by ``concept-depth``.
        """
        from wsss_probe_concepts.vectors.conclusion import conclude

        return conclude(self, run)


def _models(given: object) -> tuple[Model, ...]:
    words = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    named = tuple(str(word).strip() for word in words)
    unknown = [name for name in named if name not in MODELS]
    if unknown or PRIMARY not in named:
        msg = (
            "models of rcv are not known"
            if unknown
            else "models of rcv lack ridge, on which conclusions rest"
        )
        raise UsageError(msg, found=", ".join(unknown or named) or "none", wanted=", ".join(MODELS))
    return tuple(name for name in MODELS if name in named)


def _require_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{name} of rcv is no number of that"
        raise UsageError(msg, found=str(value), wanted=f"a whole number, {least} or more")
