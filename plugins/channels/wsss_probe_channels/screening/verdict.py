"""What may be said about the best channel beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe import Finding
from wsss_probe_channels.evidence import reliable

if TYPE_CHECKING:
    from wsss_probe.statistics import Interval
    from wsss_probe_channels.screening.selection import Best

__all__ = ["ControlScore", "Evidence", "best_channel_finding"]


@final
@dataclass(frozen=True, slots=True)
class ControlScore:
    """The best channel of one control, chosen and scored in the same way.

    Parameters
    ----------
    name : str
    alive : bool
        A dead control counts for nothing.
    score : float
        Mean F1 on the scoring half; NaN when not estimable.
    drop : float
        Mean F1 on the choosing half minus ``score``.
    """

    name: str
    alive: bool
    score: float
    drop: float = float("nan")


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about the best channel of one layer for one class.

    Parameters
    ----------
    layer, mask_class : str
    how : str
        How it was chosen and scored, in words.
    best : Best
    interval : Interval
        Of its mean F1 on the scoring half.
    all_ones : float
        Mean F1 of a mask of ones on the same images.
    intensity : (str, float)
        The rule on the input alone that was best on the choosing half, and its mean F1 on the
        scoring half; NaN when not estimable.
    drop : (float, float, float)
        Mean F1 where chosen minus where scored, and its 95 % interval; NaN when not estimable.
    controls : sequence of ControlScore
        Dead ones among them; empty when no control was run.
    not_testable : str
        Why no conclusion may rest on this classifier; empty when one may.
    """

    layer: str
    mask_class: str
    how: str
    best: Best
    interval: Interval
    all_ones: float
    controls: Sequence[ControlScore]
    not_testable: str = ""
    intensity: tuple[str, float] = ("", float("nan"))
    drop: tuple[float, float, float] = (float("nan"),) * 3

    @property
    def alive(self) -> list[ControlScore]:
        """Controls that count: alive and estimable."""
        return [control for control in self.controls if control.alive and np.isfinite(control.score)]


def best_channel_finding(evidence: Evidence) -> Finding:
    """State how good the best channel is, and whether that is better than chance.

    ``ok`` needs all of: at least ten groups; at least one control is alive; the whole interval of the
    best channel's held-out mean F1 is above the same number of every living control; it is above an
    all-ones mask and above the best rule on the input's intensity; and the classifier can be tested
    at all. With R controls such a comparison cannot give p below 1 / (R + 1), and the best of a few
    networks that learned nothing is above the others now and then: hence the interval.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
    """
    name = f"best-channel/{evidence.mask_class}@{evidence.layer}"
    if evidence.best.channel < 0:
        statement = (
            f"{_subject(evidence)}: not estimable, since no channel is defined on enough images "
            "or the class is absent from one half."
        )
        return Finding(name, "notice", statement, n=0, unit="F1")
    better, against = _against_controls(evidence)
    above_ones = evidence.best.score > evidence.all_ones
    above_rule = not evidence.best.score <= evidence.intensity[1]
    clears = better and above_ones and above_rule
    parts = [_score(evidence), against, _against_all_ones(evidence, above=above_ones)]
    parts += [*_against_intensity(evidence, above=above_rule), *_drop(evidence)]
    if evidence.not_testable:
        parts.append(f"not testable here: {evidence.not_testable}")
    interval = evidence.interval
    return Finding(
        name,
        "ok" if clears and reliable(interval.groups) and not evidence.not_testable else "notice",
        "; ".join(parts) + ".",
        effect=evidence.best.score,
        interval=(float(interval.low), float(interval.high)),
        n=int(np.isfinite(evidence.best.scored).sum()),
        groups=interval.groups,
        unit="F1",
        control=", ".join([*(c.name for c in evidence.alive), "all-ones mask", "input intensity"]),
    )


def _subject(evidence: Evidence) -> str:
    return f"Layer {evidence.layer}, class {evidence.mask_class}"


def _score(evidence: Evidence) -> str:
    """Say what was chosen, how, and what it scores."""
    interval, best = evidence.interval, evidence.best
    n = int(np.isfinite(best.scored).sum())
    text = (
        f"{_subject(evidence)}: channel {best.channel}, {evidence.how}, has mean F1 {best.score:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}] there (n = {n} images)"
    )
    return text + (f" ({interval.note})" if interval.note else "")


def _against_controls(evidence: Evidence) -> tuple[bool, str]:
    """Whether the best channel is above all living controls, and the words for it."""
    alive, dead = evidence.alive, [control for control in evidence.controls if not control.alive]
    if not evidence.controls:
        return False, "no control was run, no verdict"
    if not alive:
        reason = "control degenerate" if len(dead) == len(evidence.controls) else "no control estimable"
        return False, f"{reason}, no verdict"
    scores = [control.score for control in alive]
    number = f"{len(alive)} control{'s' if len(alive) > 1 else ''}"
    spread = f"best channels of the controls {min(scores):.3f} to {max(scores):.3f}"
    left_out = f"; {len(dead)} degenerate and left out" if dead else ""
    limit = f"with {number} no p below {1 / (len(alive) + 1):.2g}"
    if float(evidence.interval.low) > max(scores):
        return True, f"above all {number} ({spread}{left_out}); {limit}"
    if evidence.best.score > max(scores):
        reach = (
            "its interval reaches into their range" if np.isfinite(evidence.interval.low) else "no interval"
        )
        return False, f"above all {number} ({spread}{left_out}), but {reach}, so no verdict; {limit}"
    return (
        False,
        f"not above all {number} ({spread}{left_out}), so no better than a network that learned nothing",
    )


def _against_all_ones(evidence: Evidence, *, above: bool) -> str:
    """Compare with the mask that takes no channel at all."""
    word = "lower" if above else "at least as high"
    return f"an all-ones mask scores {word} ({evidence.all_ones:.3f})"


def _drop(evidence: Evidence) -> list[str]:
    """Say how much of the score where it was chosen is left where it was not."""
    drop, low, high = evidence.drop
    if not np.isfinite(drop):
        return []
    drops = [control.drop for control in evidence.alive]
    beside = f" (controls {min(drops):.3f} to {max(drops):.3f})" if drops else ""
    return [f"mean F1 where chosen minus where scored {drop:.3f} [{low:.3f}, {high:.3f}]{beside}"]


def _against_intensity(evidence: Evidence, *, above: bool) -> list[str]:
    """Compare with the best rule on the input alone, where there is one."""
    rule, score = evidence.intensity
    if not np.isfinite(score):
        return []
    return [f"Otsu of the {rule} alone scores {'lower' if above else 'at least as high'} ({score:.3f})"]
