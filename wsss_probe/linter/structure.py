"""Checks of the model linter on how a network is built: which parts run, how often, in which mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from wsss_probe.evaluation import split_call
from wsss_probe.linter.diagnosis import Suspicion, count, listed
from wsss_probe.linter.watching import opaque_parts

if TYPE_CHECKING:
    from torch import nn

    from wsss_probe.linter.evidence import Evidence

__all__ = ["functional_activations", "overwritten", "reused_modules", "train_mode"]


def reused_modules(evidence: Evidence) -> Iterator[Suspicion]:
    """Modules that run more than once in a pass: a bare name means one of the calls."""
    calls = {split_call(info.name)[0]: info.calls for info in evidence.layers.values() if info.calls > 1}
    if not calls:
        return
    worded = listed([f"{name} ({number} times)" for name, number in calls.items()])
    own = [name for name in evidence.known.audited if split_call(name)[0] in calls]
    tail = f"; of them {listed(own)} {'is' if len(own) == 1 else 'are'} audited" if own else ""
    first = next(iter(calls))
    yield Suspicion(
        "reused-modules",
        "notice",
        f"{worded} run{'s' * (len(calls) == 1)} more than once in a pass, so a bare name is ambiguous{tail}.",
        f"Here it means the last call, in other tools another one; {first}#0 names the first.",
        effect=float(len(calls)),
        unit="modules",
    )


def functional_activations(evidence: Evidence) -> Iterator[Suspicion]:
    """Activations that are functions, not modules: no tap reaches them."""
    if opaque := opaque_parts(evidence.module):
        yield Suspicion(
            "functional-activations-unchecked",
            "notice",
            f"Functions inside {listed(opaque)} could not be looked at: they run outside Python.",
            "Hand over the network as plain modules, before scripting or compiling.",
        )
        return
    calls = Counter(function for _, function in evidence.seen.functional)
    if not calls:
        return
    places = list(dict.fromkeys(place or "the network itself" for place, _ in evidence.seen.functional))
    worded = ", ".join(f"{function} in {count(number, 'module')}" for function, number in calls.most_common())
    yield Suspicion(
        "functional-activations",
        "notice",
        f"Activations are functions, not modules ({worded}: {listed(places)}): a layer inside gives what "
        "goes into them, and methods that replace activation modules do not reach them.",
        "Audit the module around them, or make the activation a module of its own.",
        effect=float(len(places)),
        unit="modules",
    )


def overwritten(evidence: Evidence) -> Iterator[Suspicion]:
    """Audited layers whose output is overwritten in place afterwards."""
    names = [n for n in evidence.known.audited if n in evidence.layers and evidence.layers[n].inplace]
    if names:
        yield Suspicion(
            "overwritten-layers",
            "notice",
            f"The output of {listed(names)} is overwritten in place after the layer has run.",
            "This audit copies it in time; other tools show what overwrote it, so set inplace=False there.",
            effect=float(len(names)),
            unit="layers",
        )


def train_mode(evidence: Evidence) -> Iterator[Suspicion]:
    """Parts that were handed over in train mode and behave differently there."""
    parts = [(name, part) for name, part in evidence.flags.named_modules() if part.training]
    random = [name for name, part in parts if _drops(part)]
    moving = [name for name, part in parts if isinstance(part, _NormBase) and part.track_running_stats]
    if not random and not moving:
        return
    said = [f"{count(len(moving), 'normalisation')} ({listed(moving)})"] if moving else []
    said += [f"{count(len(random), 'dropout')} ({listed(random)})"] if random else []
    yield Suspicion(
        "train-mode",
        "notice",
        f"Parts came in train mode, where each batch changes the answer: {' and '.join(said)}.",
        "The audit runs all of it in eval mode; call eval() before the network is used elsewhere.",
        effect=float(len(random) + len(moving)),
        unit="parts",
    )


def _drops(part: nn.Module) -> bool:
    chance = getattr(part, "p", getattr(part, "drop_prob", 0))
    known = isinstance(part, _DropoutNd) or type(part).__name__ in {"StochasticDepth", "DropPath"}
    return known and isinstance(chance, float | int) and chance > 0
