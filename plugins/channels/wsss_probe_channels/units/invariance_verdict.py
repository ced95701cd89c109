"""What may be said about channels that follow when the input is moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from wsss_probe import Finding
from wsss_probe.statistics import Interval, group_bootstrap
from wsss_probe_channels.evidence import reliable
from wsss_probe_channels.screening.selection import mean_defined

__all__ = ["Evidence", "Moved", "invariance_finding"]


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """IoU of one network's moved images.

    Parameters
    ----------
    iou : ndarray, (image, channel, transform)
        Of the chosen images only; NaN where undefined.
    best : ndarray of int
        Positions of its best channels by channel-F1; empty if that is not known.
    name : str
    alive : bool
        A dead control counts for nothing.
    """

    iou: np.ndarray
    best: np.ndarray
    name: str = "audited"
    alive: bool = True

    @property
    def subject(self) -> np.ndarray:
        """Positions of the channels that a statement is about: the best, else all."""
        return self.best if len(self.best) else np.arange(self.iou.shape[1])

    def by_image(self, channels: np.ndarray, transforms: int | None = None) -> np.ndarray:
        """Mean over channels and the first ``transforms`` motions, (image,); NaN where none is defined."""
        chosen = self.iou[:, channels, :transforms]
        mean: np.ndarray = mean_defined(chosen.reshape(len(chosen), chosen[:1].size).T)
        return mean

    def gap(self) -> np.ndarray:
        """How much better the best channels follow than all live ones, (image,)."""
        gap: np.ndarray = self.by_image(self.subject) - self.by_image(np.arange(self.iou.shape[1]))
        return gap


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about motions at one layer.

    Parameters
    ----------
    layer : str
    own : Moved
    controls : sequence of Moved
        Dead ones among them.
    expected : float
        Mean IoU of independent masks with the coverages of the channels in question.
    groups : ndarray or None, (image,)
        Of the chosen images.
    seed : int
    not_testable : str
        Why no conclusion may rest on this classifier; empty when one may.
    """

    layer: str
    own: Moved
    controls: Sequence[Moved]
    expected: float
    groups: np.ndarray | None = None
    seed: int = 0
    not_testable: str = ""

    @property
    def alive(self) -> list[Moved]:
        """Controls that count: alive and estimable."""
        return [c for c in self.controls if c.alive and np.isfinite(c.by_image(c.subject)).any()]

    def interval(self, values: np.ndarray) -> Interval:
        """Mean over the moved images, with its interval over groups."""
        return group_bootstrap(values, self.groups, seed=self.seed)


def invariance_finding(evidence: Evidence) -> Finding:
    """State how well channels follow, beside the layer's mean and the controls.

    About the best channels by channel-F1 where they are known, else about all live ones. ``ok`` needs: a
    living control; the whole interval above the same number of every living control; for the best channels,
    the whole interval of their advantage over all live channels above 0; and a classifier that can be
    tested.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
    """
    name, own, alive = f"follows-motion@{evidence.layer}", evidence.own, evidence.alive
    score, gap = evidence.interval(own.by_image(own.subject)), evidence.interval(own.gap())
    if not score.n:
        statement = f"Layer {evidence.layer}: not estimable, since no moved image has a map with a threshold."
        return Finding(name, "notice", statement, n=0, unit="IoU")
    reached = [_mean(c.by_image(c.subject)) for c in alive]
    better = bool(alive) and float(score.low) > max(reached)
    ahead = float(gap.low) > 0 or not len(own.best)
    parts = [
        _score(evidence, score),
        *_against_layer(own, gap),
        _against_controls(evidence, reached),
        f"independent masks of the same coverage have {evidence.expected:.3f}",
        *([f"not testable here: {evidence.not_testable}"] if evidence.not_testable else []),
    ]
    return Finding(
        name,
        "ok" if better and ahead and reliable(score.groups) and not evidence.not_testable else "notice",
        "; ".join(parts) + ".",
        effect=float(score.estimate),
        interval=(float(score.low), float(score.high)),
        n=score.n,
        groups=score.groups,
        unit="IoU",
        control=", ".join([*(c.name for c in alive), "independent masks"]),
    )


def _score(evidence: Evidence, score: Interval) -> str:
    """Say of which channels it is said, and how well they follow."""
    best, subject = evidence.own.best, "all live channels"
    if len(best):
        numbers = ", ".join(map(str, best))
        subject = f"the {len(best)} best channels by channel-F1 ({numbers})"
    text = (
        f"Layer {evidence.layer}: moved with the input, the Otsu masks of {subject} have mean IoU "
        f"{score.estimate:.3f} [{score.low:.3f}, {score.high:.3f}] with themselves (n = {score.n} images)"
    )
    return text + (f" ({score.note})" if score.note else "")


def _against_layer(own: Moved, gap: Interval) -> list[str]:
    if not len(own.best):
        return []
    return [f"{gap.estimate:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] to the mean of all live channels"]


def _against_controls(evidence: Evidence, reached: Sequence[float]) -> str:
    """Say what networks that learned nothing reach, and under whole-cell shifts alone."""
    if not reached:
        return "no control is alive and estimable, no verdict" if evidence.controls else "no control was run"
    number = f"{len(reached)} control{'s' if len(reached) > 1 else ''}"
    text = f"the same in {number} that learned nothing: {min(reached):.3f} to {max(reached):.3f}"
    own, *others = [_mean(c.by_image(c.subject, 1)) for c in (evidence.own, *evidence.alive)]
    if np.isfinite([own, *others]).all():
        text += f" (shifts alone: {own:.3f}, controls {min(others):.3f} to {max(others):.3f})"
    return text


def _mean(values: np.ndarray) -> float:
    return float(mean_defined(values))
