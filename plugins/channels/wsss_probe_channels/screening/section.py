"""What a reader sees of channel-F1: the best channels, all channels, examples, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure, Section, Table, Text
from wsss_probe.report.figures import interval_plot
from wsss_probe.statistics import FEW_GROUPS
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.screening.curve import control_range, score_curve
from wsss_probe_channels.screening.gallery import channel_gallery
from wsss_probe_channels.screening.sample_size_section import sample_size_figure
from wsss_probe_channels.screening.table import INTERVALS, RANDOM, top_channels

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe import Gallery
    from wsss_probe.contracts import Block, Run
    from wsss_probe_channels.screening.probe import ChannelF1

__all__ = ["sections"]

DEFINITION = (
    "Per image: B = map > Otsu(map); F1 = 2 |B and M| / (|B| + |M|) with M the mask of the class, over "
    "pixels that are not ignored. Mean over images where it is defined (a constant map has no F1; on an "
    "image without the class every non-empty B has F1 0). Feng, Hafiane, Laurent, Weakly Supervised "
    "Segmentation of Histopathology Images: An Insight in Feature Maps Ability for Learning Models "
    "Interpretation, sections 2.6 and 2.7."
)

DRAWN = 15
"""Channels in each chart; the table holds all."""

MEANINGS = {
    "mean_f1": "mean over the images where F1 is defined",
    "low": "lower end of its 95 % interval over groups",
    "high": "upper end of its 95 % interval over groups",
    "pooled_f1": "F1 of pixel sums over images (micro); a degenerate map counts as empty",
    "strong": "images with F1 above the bound: the paper's cumulative score",
    "defined": "images where F1 is defined",
    "groups": "independent groups with such an image",
    "degenerate": "images whose map is constant or not finite",
    "note": f"unreliable: the interval rests on fewer than {FEW_GROUPS} groups and is too narrow",
}


def sections(probe: ChannelF1, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    probe : ChannelF1
    summary : Dataset
        From :func:`wsss_probe_channels.screening.conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    classes = [str(name) for name in summary["class"].values]
    charts = [_chart(summary, position, name) for position, name in enumerate(classes)]
    order = Text(f"Order of operations: {summary.attrs['order']}.")
    whole = probe.layer in evidence_layers(run.survey)
    rest = _rest(probe, summary, run, classes) if whole else ()
    curve = (score_curve(summary, probe.layer, classes),) if whole else ()
    yield Section("channels", f"Channels of {probe.layer} against the masks", (order, *curve, *charts, *rest))
    figure = sample_size_figure(summary, probe.layer, classes) if whole else None
    chance: list[Block] = [_controls(summary, classes)]
    chance += [] if figure is None else [figure]
    yield Section("chance", f"Best channel of {probe.layer} beside its controls", tuple(chance))


def _rest(
    probe: ChannelF1, summary: xr.Dataset, run: Run, classes: Sequence[str]
) -> tuple[Table | Gallery, ...]:
    """Tables and pictures of the layer that the evidence is about; other layers have them in the run."""
    galleries = [channel_gallery(probe, summary, run, position) for position in range(len(classes))]
    shown = (gallery for gallery in galleries if gallery is not None)
    return (_best_and_random(summary, classes), _all_channels(summary, classes), *shown)


# -- numbers -----------------------------------------------------------------------------------


def _chart(summary: xr.Dataset, position: int, name: str) -> Figure:
    """Mean F1 of the best channels of one class, with intervals, controls and the all-ones mask."""
    channels = top_channels(summary, position, DRAWN)
    columns = ("mean_f1", "low", "high", "strong", "defined", "groups")
    data = pd.DataFrame({"channel": channels, **{c: summary[c].values[channels, position] for c in columns}})
    control = control_range(summary, "control_top_f1", position)
    figure = interval_plot(
        [f"channel {channel}" for channel in channels],
        data["mean_f1"],
        list(zip(data["low"], data["high"], strict=True)),
        axis=f"mean F1 with {name}",
        control=control,
    )
    baseline = float(summary["all_ones_f1"].values[position])
    reach = "no living control"
    if control:
        reach = (
            f"the controls' own best channels reach {control.low:.3f} to {control.high:.3f} in the same way"
        )
    present = int(summary["present"].values[position])
    caption = (
        f"Mean F1 of the best {len(data)} channels for class {name}; {present} "
        "images have the class. Bars: 95 % interval over groups. Channels are ranked on the images that they "
        f"are shown for, and the bars do not pay for that choice; {reach}. All-ones mask: {baseline:.3f}."
        f"{_few(summary['groups'].values[channels, position])}"
    )
    return Figure(_with_line(figure, baseline), caption, DEFINITION, data)


def _few(groups: np.ndarray) -> str:
    """Warn of intervals that rest on few groups; nothing where all rest on enough."""
    few = int((groups < FEW_GROUPS).sum())
    if not few:
        return ""
    return f" Unreliable: {few} of {len(groups)} intervals rest on fewer than {FEW_GROUPS} groups."


def _reliability(groups: np.ndarray, low: np.ndarray) -> list[str]:
    """Mark each interval that rests on few groups; nothing where there is no interval."""
    few = (groups < FEW_GROUPS) & np.isfinite(low)
    return ["unreliable" if mark else "" for mark in few]


def _with_line(figure: dict[str, Any], baseline: float) -> dict[str, Any]:
    """Add the all-ones mask as a named upright line."""
    if not np.isfinite(baseline):
        return figure
    place = {"yref": "paper", "x0": baseline, "x1": baseline, "y0": 0, "y1": 1}
    line = {"type": "line", **place, "line": {"dash": "dot", "width": 1.5}}
    text = {
        "x": baseline,
        "y": 0,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "text": "all ones",
    }
    layout = figure["layout"]
    shapes, texts = [*layout.get("shapes", []), line], [*layout.get("annotations", []), text]
    return {**figure, "layout": {**layout, "shapes": shapes, "annotations": texts}}


def _best_and_random(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write the best channels beside random ones, as table 2 of the paper does."""
    frames = []
    for position in range(len(classes)):
        best = top_channels(summary, position, RANDOM)
        random = np.flatnonzero(summary["drawn"].values[:, position])
        frame = _frame(summary, position, np.concatenate([best, random]))
        frame.insert(1, "kind", ["best"] * len(best) + ["random"] * len(random))
        frames.append(frame)
    caption = (
        f"The {RANDOM} best channels of each class beside {RANDOM} drawn at random (seeded) among its living "
        "channels. mean_f1: mean of F1 per image, as in table 2 of the paper; pooled_f1: F1 of pixel sums, "
        "which weighs images by the size of the class. The best are ranked on these images. Controls: see "
        "under chance."
    )
    return Table(pd.concat(frames, ignore_index=True), caption, meanings=MEANINGS)


def _frame(summary: xr.Dataset, position: int, channels: np.ndarray) -> pd.DataFrame:
    """Rows of some channels for one class."""
    columns = ("rank", "mean_f1", "low", "high", "pooled_f1", "strong", "defined", "groups")
    values = {column: summary[column].values[channels, position] for column in columns}
    name = str(summary["class"].values[position])
    frame = pd.DataFrame({"class": name, "channel": channels, **values})
    frame["degenerate"] = summary["degenerate"].values[channels]
    frame["note"] = _reliability(values["groups"], values["low"])
    return frame


def _all_channels(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write every channel for every class."""
    orders = (np.argsort(rank, kind="stable") for rank in summary["rank"].values.T)
    frames = [_frame(summary, position, order) for position, order in enumerate(orders)]
    caption = (
        f"One row per class and channel ({', '.join(classes)}). Intervals: the best {INTERVALS} and {RANDOM} "
        f"random channels per class. strong: images with F1 above {summary.attrs['strong']}. No rank: "
        "defined on less than half of the images with the class. Controls: see under chance."
    )
    return Table(pd.concat(frames, ignore_index=True), caption, meanings=MEANINGS)


def _controls(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write what the best channel of each network reaches on images that it was not chosen on."""
    own = {
        "channel": "best_channel",
        "chosen_f1": "best_chosen_f1",
        "f1": "best_f1",
        "low": "best_low",
        "high": "best_high",
        "drop": "best_drop",
        "drop_low": "best_drop_low",
        "drop_high": "best_drop_high",
        "n": "best_n",
        "groups": "best_groups",
        "note": "best_note",
    }
    values = {column: summary[name].values for column, name in own.items()}
    audited = pd.DataFrame({"class": classes, "network": "audited", **values})
    ones = {
        "class": classes,
        "network": "all-ones mask",
        "f1": summary["best_all_ones_f1"].values,
        "note": "baseline",
    }
    rule = {
        "class": classes,
        "network": [f"Otsu of the {name or 'input'}" for name in summary["best_intensity_rule"].values],
        "f1": summary["best_intensity_f1"].values,
        "note": "baseline without a network, chosen and scored alike",
    }
    frames = [audited, pd.DataFrame(ones), pd.DataFrame(rule), *_control_frames(summary, classes)]
    caption = (
        f"Best channel per class, {summary.attrs['how']}; f1: mean F1 on the scoring images (n, groups), low "
        "and high its 95 % interval over groups; drop: chosen_f1 minus f1, with its interval over the groups "
        "of both halves. Controls choose and score their own best channel alike, so their drop is what luck "
        "costs where nothing was learned."
    )
    table = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    return Table(table, caption)


def _control_frames(summary: xr.Dataset, classes: Sequence[str]) -> list[pd.DataFrame]:
    if "control" not in summary.dims:
        return []
    alive = summary["control_alive"].values.astype(bool)
    return [
        pd.DataFrame(
            {
                "class": classes,
                "network": str(name),
                "channel": summary["control_channel"].values[row],
                "chosen_f1": summary["control_f1"].values[row] + summary["control_drop"].values[row],
                "f1": summary["control_f1"].values[row],
                "drop": summary["control_drop"].values[row],
                "drop_low": summary["control_drop_low"].values[row],
                "drop_high": summary["control_drop_high"].values[row],
                "note": "" if alive[row] else "degenerate, counts for nothing",
            }
        )
        for row, name in enumerate(summary["control"].values)
    ]
