"""The model linter: what about a network easily makes an audit wrong without a word, each with its remedy.

Two passes over at most a few dozen images, a few more where many labelled ones are wrong. An error
inside a check is itself a finding. ``docs/linter.md`` says why each check is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from wsss_probe.linter.channels import copied_channels, silent_channels, silent_rectifiers
from wsss_probe.linter.diagnosis import Diagnosis, NotLookedAtError, Suspicion
from wsss_probe.linter.ending import probabilities
from wsss_probe.linter.evidence import Evidence, Known, gather
from wsss_probe.linter.inputs import first_normalisation, input_statistics
from wsss_probe.linter.labelled import accuracy_at_chance, other_preprocessing
from wsss_probe.linter.structure import functional_activations, overwritten, reused_modules, train_mode
from wsss_probe.linter.weights import collapsed_variance, nonfinite_weights, unused_statistics
from wsss_probe.names import display

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsss_probe.contracts import Finding, LayerInfo

__all__ = ["CHECKS", "MOST_EXAMPLES", "Diagnosis", "Known", "Suspicion", "examine", "lint"]

MOST_EXAMPLES = 32
"""More images than these are not looked at."""

Check = Callable[[Evidence], Iterable[Suspicion]]

CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("nonfinite-weights", "weights are finite", nonfinite_weights),
    ("fresh-statistics", "normalisations have seen training", unused_statistics),
    ("tiny-variance", "normalisations do not blow up tiny differences", collapsed_variance),
    ("train-mode", "all parts are in eval mode", train_mode),
    ("probabilities", "the outputs are logits", probabilities),
    ("accuracy-at-chance", "labelled examples are right more often than by chance", accuracy_at_chance),
    ("other-preprocessing", "no other channel order or range does better", other_preprocessing),
    ("first-normalisation", "the first BatchNorm is fed as in training", first_normalisation),
    ("input-statistics", "the input is normalised", input_statistics),
    ("reused-modules", "every module runs once in a pass", reused_modules),
    ("functional-activations", "activations are modules", functional_activations),
    ("overwritten-layers", "no audited output is overwritten in place", overwritten),
    ("silent-channels", "channels of the audited layers answer", silent_channels),
    ("silent-rectifiers", "rectifiers let channels through", silent_rectifiers),
    ("copied-channels", "channels of the audited layers differ", copied_channels),
)
"""Name, what is well if nothing is found, and function; the graver ones first."""


def lint(
    module: nn.Module, examples: Tensor, layers: Sequence[LayerInfo], known: Known | None = None
) -> tuple[Finding, ...]:
    """Look for what easily makes an audit of this network wrong without a word.

    Parameters
    ----------
    module : nn.Module
        In the state in which it was handed over; left as it is found.
    examples : Tensor, (image, channel, row, column)
        Network input; the first 32 are looked at.
    layers : sequence of LayerInfo
        As :func:`wsss_probe.layers.describe_layers` gives them.
    known : Known, optional
        Audited layers, labels, groups and preprocessing.

    Returns
    -------
    tuple of Finding
        Notices and warnings with stable names, each a plain sentence and a remedy; empty where all is
        well.

    Examples
    --------
    >>> import torch
    >>> from wsss_probe.layers import describe_layers
    >>> from wsss_probe.testing.models import planted_gap
    >>> network, images = planted_gap().train(), torch.rand(4, 3, 8, 8)
    >>> lint(network, images, describe_layers(network, images[:1]))
    ()
    """
    found = examine(module, examples, layers, known)
    return tuple(suspicion.finding for diagnosis in found for suspicion in diagnosis.suspicions)


def examine(
    module: nn.Module, examples: Tensor, layers: Sequence[LayerInfo], known: Known | None = None
) -> tuple[Diagnosis, ...]:
    """Do what :func:`lint` does, and say of every check how it went.

    Parameters
    ----------
    module : nn.Module
    examples : Tensor, (image, channel, row, column)
    layers : sequence of LayerInfo
    known : Known, optional

    Returns
    -------
    tuple of Diagnosis
        One for each of :data:`CHECKS`, in their order.
    """
    evidence = gather(module, examples[:MOST_EXAMPLES], layers, known or Known())
    return tuple(_diagnosed(evidence, name, title, check) for name, title, check in CHECKS)


def _diagnosed(evidence: Evidence, name: str, title: str, check: Check) -> Diagnosis:
    try:
        return Diagnosis(title, tuple(check(evidence)))
    except NotLookedAtError as reason:
        return Diagnosis(title, skipped=str(reason))
    except Exception as error:  # noqa: BLE001  # a linter that fails must not stop the audit
        said = display(" ".join(f"{type(error).__name__}: {error}".split()))
        failed = f"Whether {title} could not be checked: {said}."
        return Diagnosis(title, (Suspicion(f"{name}-unchecked", "notice", failed, "Look for it by hand."),))
