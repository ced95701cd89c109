"""What a check of the model linter says: suspicions with a remedy, or why it did not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from wsss_probe.contracts import Finding, Verdict
from wsss_probe.names import display

__all__ = ["Diagnosis", "NotLookedAtError", "Suspicion", "count", "listed"]

_NAMED = 3


@final
@dataclass(frozen=True, slots=True)
class Suspicion:
    """Something about a network that easily makes an audit wrong without a word.

    Parameters
    ----------
    name : str
        Stable, ``"reused-modules"``.
    verdict : {"notice", "warning"}
        A warning where what follows is probably not what the user means.
    statement : str
        One sentence, true as it stands.
    remedy : str
        One sentence: what to do about it.
    effect, interval, n, groups, unit, control
        As of :class:`wsss_probe.contracts.Finding`.
    """

    name: str
    verdict: Verdict
    statement: str
    remedy: str
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    groups: int | None = None
    unit: str = ""
    control: str = ""

    @property
    def finding(self) -> Finding:
        """The suspicion as a report shows it."""
        return Finding(
            self.name,
            self.verdict,
            f"{self.statement} {self.remedy}",
            self.effect,
            self.interval,
            self.n,
            self.groups,
            self.unit,
            self.control,
        )


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one check found.

    Parameters
    ----------
    check : str
        What was looked for, in words.
    suspicions : tuple of Suspicion
        Empty where all is well.
    skipped : str
        Why nothing was looked at; empty if something was.
    """

    check: str
    suspicions: tuple[Suspicion, ...] = ()
    skipped: str = ""


class NotLookedAtError(Exception):
    """A check lacks what it would look at, such as labels."""


def listed(names: Sequence[str]) -> str:
    """Name the first few.

    Examples
    --------
    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    shown = ", ".join(display(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def count(number: int, what: str) -> str:
    """Say how many.

    Examples
    --------
    >>> count(1, "channel"), count(2, "channel")
    ('1 channel', '2 channels')
    """
    return f"{number} {what}{'s' * (number != 1)}"
