"""What may be said about the weights of a class beside exchanges and controls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe import Finding
from wsss_probe_channels.evidence import reliable
from wsss_probe_channels.weights.correspondence import REMEDY

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe.statistics import Interval
    from wsss_probe_channels.weights.weight_classes import WeightClasses

__all__ = ["Reached", "findings", "unmatched"]

LEVEL = 0.05


@final
@dataclass(frozen=True, slots=True)
class Reached:
    """What the living controls reach for one class, by their own weights and maps.

    Parameters
    ----------
    excess : ndarray, (control,)
        Hit rate less area.
    crossed : ndarray, (control,)
        Rate of crossed channels less its chance.
    dead : int
        Controls that count for nothing.
    """

    excess: np.ndarray
    crossed: np.ndarray
    dead: int


def unmatched(run: Run, layer: str, table: xr.Dataset) -> tuple[Finding, ...]:
    """Say that regions were named which other tables do not have; empty if none was named.

    Parameters
    ----------
    run : Run
    layer : str
    table : Dataset
        Summary of head-weights.

    Returns
    -------
    tuple of Finding
    """
    named = sorted({region for region in table.attrs["regions"].values() if region})
    if not named:
        return ()
    return (
        Finding(
            f"weight-classes-regions@{layer}",
            "notice",
            f"Layer {layer}: peaks and channel-f1 have no region {', '.join(named)} (mask classes: "
            f"{', '.join(run.survey.mask_classes)}); set complements = 'all' for both, or {REMEDY}.",
        ),
    )


def findings(
    run: Run,
    summary: xr.Dataset,
    excesses: Sequence[Interval],
    reached: Sequence[Reached],
    probe: WeightClasses,
) -> Iterable[Finding]:
    """Two statements per class: where its channels answer, and what covers it.

    A statement is ``ok`` only if all of these hold: q is at most 0.05 over the classes, the whole interval
    lies on the right side of every living control, there is one, and the classifier can be tested.

    Parameters
    ----------
    run : Run
    summary : Dataset
    excesses : sequence of Interval
        Of hit rate less area, by class.
    reached : sequence of Reached
        By class.
    probe : WeightClasses

    Yields
    ------
    Finding
    """
    for j, name in enumerate(summary["class"].values):
        one = {str(key): value for key, value in summary.isel({"class": j}).items() if not value.dims}
        found = _Class(str(name), probe, one, reached[j], excesses[j], run.not_testable)
        yield _hits(found)
        yield _crossing(found)


@dataclass(frozen=True, slots=True)
class _Class:
    """All that is known about one class."""

    name: str
    probe: WeightClasses
    row: dict[str, xr.DataArray]
    reached: Reached
    interval: Interval
    not_testable: str

    def number(self, column: str) -> float:
        return float(self.row[column])

    def percent(self, column: str) -> str:
        return f"{100 * self.number(column):.1f} %"

    @property
    def where(self) -> str:
        return f"Layer {self.probe.layer}, class {self.name}"

    @property
    def region(self) -> str:
        return str(self.row["region"].item())

    def closing(self) -> str:
        """What limits the statement."""
        parts = [self.interval.note] if self.interval.note else []
        parts += [f"not testable here: {self.not_testable}"] if self.not_testable else []
        return "".join(f"; {part}" for part in parts) + "."


def _hits(one: _Class) -> Finding:
    """Where the maxima of the class's channels lie."""
    name = f"weight-hits/{one.name}@{one.probe.layer}"
    if not np.isfinite(one.number("excess")):
        statement = (
            f"{one.where}: hit rate not estimable, since no live channel has its largest weight for the "
            f"class, or '{one.region}' covers no image in part; no control is needed to say so."
        )
        return Finding(name, "notice", statement, n=int(one.number("images")), unit="share of points")
    above, against = _against(one.reached.excess, one.number("low"), one.reached.dead, above=True)
    statement = (
        f"{one.where}: maxima of the {int(one.number('channels'))} channels with the largest weight for it "
        "lie "
        f"inside '{one.region}' in {one.percent('hit_rate')} of {int(one.number('points'))} points, where "
        "the region "
        f"covers {one.percent('area')}: {_points(one, 'excess')} [{_points(one, 'low')}, "
        f"{_points(one, 'high')}] "
        f"percentage points (n = {int(one.number('images'))} images); exchanging classes between channels "
        "gives "
        f"{_points(one, 'null_low')} to {_points(one, 'null_high')} (p = {one.number('p'):.3g}, q = "
        f"{one.number('q'):.3g}, {one.probe.permutations} exchanges); {against}{one.closing()}"
    )
    return _finding(one, name, statement, "excess", above and one.number("q") <= LEVEL)


def _crossing(one: _Class) -> Finding:
    """What share of the channels that cover the class carries a larger weight for another."""
    name = f"weight-crossing/{one.name}@{one.probe.layer}"
    if not np.isfinite(one.number("crossed")):
        statement = (
            f"{one.where}: no channel with a largest weight covers '{one.region}' better than independence "
            "and "
            "better than any other region, so nothing is said of its weights; no control is needed to say so."
        )
        return Finding(name, "notice", statement, n=int(one.number("images")), unit="share of channels")
    limit = one.number("crossed_high") - one.number("crossed_chance")
    below, against = _against(one.reached.crossed, limit, one.reached.dead, above=False)
    statement = (
        f"{one.where}: of the {int(one.number('crossed_channels'))} channels that cover '{one.region}' best, "
        f"{one.percent('crossed')} [{one.percent('crossed_low')}, {one.percent('crossed_high')}] carry a "
        "larger "
        f"weight for another class, of the {int(one.number('best_crossed_channels'))} best {_best(one)} "
        f"(n = {int(one.number('images'))} images); weights that say nothing would give "
        f"{one.percent('crossed_chance')}, exchanged between channels {one.percent('crossed_null_low')} to "
        f"{one.percent('crossed_null_high')} (p of so few = {one.number('crossed_p'):.3g}, q = "
        f"{one.number('crossed_q'):.3g}); {against}{one.closing()}"
    )
    return _finding(one, name, statement, "crossed", below and one.number("crossed_q") <= LEVEL)


def _finding(one: _Class, name: str, statement: str, column: str, good: bool) -> Finding:
    low, high = ("low", "high") if column == "excess" else (f"{column}_low", f"{column}_high")
    return Finding(
        name,
        "ok" if good and reliable(int(one.number("groups"))) and not one.not_testable else "notice",
        statement,
        effect=one.number(column),
        interval=(one.number(low), one.number(high)),
        n=int(one.number("images")),
        groups=int(one.number("groups")),
        unit="share of points" if column == "excess" else "share of channels",
        control="exchanged weight classes; control networks with their own weights and maps",
    )


def _points(one: _Class, column: str) -> str:
    return f"{100 * one.number(column):+.1f}"


def _best(one: _Class) -> str:
    rate, low, high = (one.percent(f"best_crossed{end}") for end in ("", "_low", "_high"))
    return f"{rate} [{low}, {high}]"


def _against(values: np.ndarray, limit: float, dead: int, *, above: bool) -> tuple[bool, str]:
    """Whether the end of an interval is beyond all living controls, and the words for it."""
    left_out = f"; {dead} degenerate and left out" if dead else ""
    if not len(values):
        return False, f"no living control with weights of its own, no verdict{left_out}"
    word = "control" if len(values) == 1 else "controls"
    what = "reach" if above else "lie, from their own chance,"
    low, high = (100 * end for end in (values.min(), values.max()))
    spread = f"{len(values)} {word} {what} {low:+.1f} to {high:+.1f} percentage points"
    clear = bool(limit > values.max() if above else limit < values.min())
    told = "beyond all of them" if clear else "not beyond them with the whole interval"
    limit_of_p = f"no p below {1 / (len(values) + 1):.2g} from controls"
    return clear, f"{spread}{left_out}: {told} ({limit_of_p})"
