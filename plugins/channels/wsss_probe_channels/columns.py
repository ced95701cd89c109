"""Columns of the channel passport: what the analyses of this plugin say about every channel.

The summaries are read where they are and as they are: an analysis that did not run, or a variable that
it did not conclude, gives no column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import xarray as xr

from wsss_probe import ChannelColumn, ChannelColumns

if TYPE_CHECKING:
    from wsss_probe.contracts import Run

__all__ = ["MANY", "Columns"]

MANY: Final = 6
"""With more classes than this a channel's leading class stands for all: a table of hundreds of columns
is read by nobody."""

_END: Final = (
    "{} end of the 95 % interval of F1 {{}} over independent groups, as if the channel had been named before."
)


@final
@dataclass(frozen=True)
class Columns(ChannelColumns):
    """Evidence of channel-F1, its nulls, head weights, dissection, ablation, invariance and census.

    From left to right: does the channel outline a thing (F1 with interval and rank, at the masks'
    resolution, q against moved masks), what else does it show (IoU with concepts), what does the head
    make of it (weights), what happens without it (ablation), does it follow its region (invariance), and
    does it speak at all (census).

    Misleads: columns stand beside each other as if they were independent. They come from the same
    images, and the best of many channels in any of them is good by luck as well.

    Parameters
    ----------
    name : str
    """

    name: str = "channels"

    def columns(self, run: Run, layer: str) -> Iterable[ChannelColumn]:
        """Read every summary of this layer that there is.

        Parameters
        ----------
        run : Run
        layer : str

        Returns
        -------
        iterable of ChannelColumn
        """
        told = _Told(run, layer)
        for read in (_f1, _dissect, _weights, _ablation, _invariance, _census):
            yield from read(told)


@dataclass(frozen=True)
class _Told:
    """What has been concluded about one layer."""

    run: Run
    layer: str

    def summary(self, probe: str) -> xr.Dataset:
        """Summary of a probe at this layer; empty if there is none."""
        name = f"{probe}@{self.layer}"
        return self.run.summary(name).load() if name in self.run.summary_names else xr.Dataset()


def _values(table: xr.Dataset, variable: str, *dims: str) -> np.ndarray | None:
    """Values of a variable in this order of dimensions; None if there is none with these."""
    if variable not in table or set(table[variable].dims) != set(dims):
        return None
    values: np.ndarray = table[variable].transpose(*dims).values
    return values


# -- one column per class, or one for all -------------------------------------------------------


@dataclass(frozen=True)
class _ByClass:
    """A variable (channel, class) and how its columns are called and explained.

    Parameters
    ----------
    header, meaning : str
        With ``{}`` for the name of the class in the header.
    order, step : float
        Order of the first class, and from class to class.
    leading : callable
        Scores values, so that the largest score is the class that leads.
    notes : sequence of str
        What is added to the meaning, by class.
    """

    header: str
    meaning: str
    order: float
    step: float = 0.01
    leading: Callable[[np.ndarray], np.ndarray] = np.abs
    notes: Sequence[str] = ()

    def columns(self, values: np.ndarray | None, classes: Sequence[str]) -> Iterator[ChannelColumn]:
        """Make the columns; of many classes only the leading one, with its name."""
        if values is None:
            return
        if len(classes) > MANY:
            yield from self._leading(values, classes)
            return
        for position, name in enumerate(classes):
            note = self.notes[position] if self.notes else ""
            yield ChannelColumn(
                self.header.format(name),
                values[:, position].tolist(),
                f"{self.meaning.format(name)}{note}",
                self.order + position * self.step,
            )

    def _leading(self, values: np.ndarray, classes: Sequence[str]) -> Iterator[ChannelColumn]:
        scores = np.where(np.isfinite(values), self.leading(values), -np.inf)
        best, defined = scores.argmax(axis=1), np.isfinite(scores.max(axis=1))
        found = np.where(defined, values[np.arange(len(values)), best], np.nan)
        names = _names(classes, np.where(defined, best, -1))
        header, meaning = self.header.format("leading class"), self.meaning.format("the leading class")
        among = f" The leading of {len(classes)} classes."
        yield ChannelColumn(header, found.tolist(), f"{meaning}{among}", self.order)
        yield ChannelColumn(f"{header}: which", names, f"Class that {header} belongs to.", self.order + 0.001)


def _names(classes: Sequence[str], positions: np.ndarray, negative: str = "") -> list[str]:
    """Name classes by position; a negative one has another name."""
    return [classes[int(at)] if at >= 0 else negative for at in positions]


def _classes(table: xr.Dataset) -> list[str]:
    return [str(name) for name in table["class"].values] if "class" in table.coords else []


# -- does it outline a thing --------------------------------------------------------------------


def _f1(told: _Told) -> Iterator[ChannelColumn]:
    """Read F1 against every region: coarse with interval and rank, fine, and q against moved masks."""
    coarse, fine = told.summary("channel-f1"), told.summary("channel-f1-fine")
    classes = _classes(coarse)
    scores = _ByClass(
        "F1 {}",
        "Mean over images of the F1 of the map's Otsu mask with {}, on the layer's grid.",
        order=0,
        step=0.1,
        leading=lambda values: values,
        notes=[_screened(coarse, position) for position in range(len(classes))],
    )
    yield from scores.columns(_values(coarse, "mean_f1", "channel", "class"), classes)
    if len(classes) <= MANY:
        yield from _interval_and_rank(coarse, classes)
    at_masks = _ByClass(
        "fine F1 {}",
        "Mean over images of the F1 with {} on the masks' own grid; undefined for channels that the screen "
        "did not choose, so its best is the best of the chosen.",
        order=0.04,
        step=0.1,
        leading=lambda values: values,
        notes=[_reached(fine, "control_f1", position) for position in range(len(_classes(fine)))],
    )
    yield from at_masks.columns(_values(fine, "mean_f1", "channel", "class"), _classes(fine))
    yield from _nulls(told)


def _interval_and_rank(coarse: xr.Dataset, classes: Sequence[str]) -> Iterator[ChannelColumn]:
    meanings = {
        "low": ("F1 {} low", _END.format("Lower")),
        "high": ("F1 {} high", _END.format("Upper")),
        "rank": ("rank {}", "Rank of F1 {} among the layer's channels, 1 is the largest; equals share it."),
    }
    for at, (variable, (header, meaning)) in enumerate(meanings.items(), start=1):
        columns = _ByClass(header, meaning, order=0.01 * at, step=0.1)
        yield from columns.columns(_values(coarse, variable, "channel", "class"), classes)


def _nulls(told: _Told) -> Iterator[ChannelColumn]:
    """Read q against moved masks and masks of other images."""
    kinds = {
        "shift": ("channel-null", "moved", "circularly moved masks: does it follow where the thing is"),
        "permuted": (
            "channel-null-permuted",
            "exchanged",
            "masks of other images: does it follow this image",
        ),
    }
    for at, (kind, (probe, word, control)) in enumerate(kinds.items()):
        table = told.summary(probe)
        draws, images = table.attrs.get("draws"), table.attrs.get("images")
        size = f" {draws} draws," if draws else ""
        n = f" n = {images} images." if images else ""
        columns = _ByClass(
            f"q {word} {{}}",
            f"q of the F1 with {{}} (Benjamini and Hochberg over channels). Control:{size} {control}?{n}",
            order=0.05 + 0.01 * at,
            step=0.1,
            leading=np.negative,
        )
        yield from columns.columns(_values(table, f"q_{kind}", "channel", "class"), _classes(table))


def _screened(coarse: xr.Dataset, position: int) -> str:
    """Say on how many images F1 rests and what a mask of ones and the controls reach."""
    present = _values(coarse, "present", "class")
    ones = _values(coarse, "all_ones_f1", "class")
    n = "" if present is None else f" n = {int(present[position])} images with the class."
    trivial = "" if ones is None else f" A mask of ones reaches {ones[position]:.3g}."
    return f"{n}{trivial}{_reached(coarse, 'control_top_f1', position)}"


def _reached(table: xr.Dataset, variable: str, position: int) -> str:
    """Say what the best channels of the living controls reach for a class."""
    best, alive = _values(table, variable, "control", "class"), _values(table, "control_alive", "control")
    if best is None or alive is None or not np.isfinite(best[alive.astype(bool), position]).any():
        return " No living control."
    known = best[alive.astype(bool), position]
    low, high = np.nanmin(known), np.nanmax(known)
    who = f"{len(known)} network{'s' if len(known) > 1 else ''} that learned nothing"
    return f" Control: the best channel of {who}, {low:.3g} to {high:.3g}."


# -- what it shows, what the head makes of it, what is lost without it --------------------------


def _dissect(told: _Told) -> Iterator[ChannelColumn]:
    """Read the best IoU of network dissection and its concept."""
    table = told.summary("dissect")
    classes = _classes(table)
    iou = _values(table, "iou", "channel", "class")
    if iou is None or not classes:
        return
    known = np.where(np.isfinite(iou), iou, -np.inf)
    best = known.max(axis=1)
    values = np.where(np.isfinite(best), best, np.nan)
    names = _names(classes, np.where(np.isfinite(best), known.argmax(axis=1), -1))
    images = table.attrs.get("images")
    n = f", n = {images} images" if images else ""
    meaning = (
        "Largest over masks of the data set's IoU with the map above its own upper quantile (network "
        f"dissection{n}); cells and pixels are summed over images."
    )
    reached = [_reached(table, "control_iou", position) for position in range(len(classes))]
    control = reached[0] if len(classes) == 1 else " Controls by class: see the section on dissection."
    yield ChannelColumn("NetDissect IoU", values.tolist(), f"{meaning}{control}", 20)
    yield ChannelColumn("NetDissect class", names, "Mask class of that IoU.", 20.01)


def _weights(told: _Told) -> Iterator[ChannelColumn]:
    """Read the weight for every class, the class of the largest, and the signs."""
    table = told.summary("head-weights")
    classes = _classes(table)
    effective = table.attrs.get("kind") == "effective"
    number = table.attrs.get("n")
    how = (
        f"Effective weight for the logit {{}}: mean over {number or 'the'} images of the layer gradient, "
        "summed over the map; no linear head was proved here. No control."
        if effective
        else "Weight of the linear head for the logit {}; exact. No control."
    )
    word = "effective weight" if effective else "weight"
    position = _values(table, "weight_class", "channel")
    if position is not None and classes:
        names = _names(classes, position, "tie")
        yield ChannelColumn(f"{word} class", names, "Class with the largest weight; tie where equal.", 30)
    signs = _values(table, "sign", "channel")
    if signs is not None:
        texts = [str(sign) for sign in signs]
        yield ChannelColumn("sign", texts, f"For which classes the {word} is positive or zero.", 30.1)
    yield from _ByClass(f"{word} {{}}", how, 30.2).columns(
        _values(table, "weight", "channel", "class"), classes
    )


def _ablation(told: _Told) -> Iterator[ChannelColumn]:
    """Read what setting a channel to zero changes."""
    table = told.summary("ablation")
    number = _values(table, "n")
    n = "" if number is None else f", mean over n = {int(number)} images"
    control = "Controls: see the section on ablation." if "control" in table.dims else "No control was run."
    meaning = (
        f"Change of the logit {{}} when the channel is set to zero{n}. One channel at a time: what others "
        f"also say is not missed. {control}"
    )
    effect = _values(table, "logit_zero", "channel", "class")
    yield from _ByClass("without: {}", meaning, 40).columns(effect, _classes(table))
    accuracy = _values(table, "accuracy_zero", "channel")
    if accuracy is not None:
        said = f"Change of accuracy when the channel is set to zero, over labelled images. {control}"
        yield ChannelColumn("without: accuracy", accuracy.tolist(), said, 41)


# -- does it follow its region, does it speak at all --------------------------------------------


def _invariance(told: _Told) -> Iterator[ChannelColumn]:
    """Read how well a channel's mask moves with the image, the mean over motions."""
    table = told.summary("invariance")
    iou = _values(table, "iou", "channel", "transform")
    if iou is None:
        return
    known = np.isfinite(iou)
    count = known.sum(axis=1)
    mean = np.where(count > 0, np.where(known, iou, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
    moved = table.attrs.get("moved")
    n = f" n = {moved} images." if moved else ""
    meaning = (
        f"IoU of the channel's mask with that of the moved image, moved back; mean over {iou.shape[1]} "
        f"motions, borders cropped.{n}{_layer_mean(table)}"
    )
    yield ChannelColumn("invariance", mean.tolist(), meaning, 50)


def _layer_mean(table: xr.Dataset) -> str:
    """Say what the layer's channels reach on average, and those of the living controls."""
    own = _values(table, "layer_iou", "transform")
    others, alive = (
        _values(table, "control_iou", "control", "transform"),
        _values(table, "control_alive", "control"),
    )
    mean = "" if own is None or np.isnan(own).all() else f" The layer's mean is {np.nanmean(own):.3g}."
    living = [] if others is None or alive is None else list(others[alive.astype(bool)])
    reached = [float(np.nanmean(row)) for row in living if not np.isnan(row).all()]
    if not reached:
        return f"{mean} No living control."
    who = f"{len(reached)} networks that learned nothing"
    return f"{mean} Control: that of {who}, {min(reached):.3g} to {max(reached):.3g}."


def _census(told: _Told) -> Iterator[ChannelColumn]:
    """Read whether a channel is dead, constant, saturated or another's double, and how sparse it is."""
    table = told.summary("census")
    images = table.attrs.get("images")
    n = f" n = {images} images." if images else ""
    flags = {name: _values(table, name, "channel") for name in ("dead", "constant", "saturated")}
    found: dict[str, Any] = {name: values for name, values in flags.items() if values is not None}
    if found:
        texts = [
            ", ".join(name for name, values in found.items() if values[channel])
            for channel in range(len(next(iter(found.values()))))
        ]
        meaning = f"Dead: 0 on every image; constant: one other value; saturated: stuck at its maximum.{n}"
        yield ChannelColumn("state", texts, f"{meaning} Empty where none of these. No control.", 60)
    sparsity = _values(table, "sparsity", "channel")
    if sparsity is not None:
        meaning = f"Share of the map's cells that are exactly 0, mean over images.{n} No control."
        yield ChannelColumn("sparsity", sparsity.tolist(), meaning, 61)
    double = _values(table, "duplicate_of", "channel")
    if double is not None:
        values = np.where(double < 0, np.nan, double).tolist()
        limit = table.attrs.get("duplicate", 0.99)
        meaning = f"A lower channel whose map it repeats: |r| over all cells above {limit:g}.{n} No control."
        yield ChannelColumn("duplicate of", values, meaning, 62)
