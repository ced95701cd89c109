"""What a reader sees of channel-F1: the best channels, all channels, examples, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from wsss_probe import Figure, Gallery, Picture, Section, Table, Text
from wsss_probe.report.figures import ControlRange, interval_plot
from wsss_probe_channels.table import INTERVALS, top_channels

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Run
    from wsss_probe_channels.probe import ChannelF1

__all__ = ["sections"]

DEFINITION = (
    "Per image: B = map > Otsu(map); F1 = 2 |B and M| / (|B| + |M|) with M the mask of the class, over "
    "pixels that are not ignored. Mean over images where it is defined (a constant map has no F1; on an "
    "image without the class every non-empty B has F1 0). Feng, Hafiane, Laurent, Weakly Supervised "
    "Segmentation of Histopathology Images: An Insight in Feature Maps Ability for Learning Models "
    "Interpretation, sections 2.6 and 2.7."
)

SHOWN_IMAGES, SHOWN_CHANNELS = 6, 3


def sections(probe: ChannelF1, summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's sections for one layer.

    Parameters
    ----------
    probe : ChannelF1
    summary : Dataset
        From :func:`wsss_probe_channels.conclusion.conclude`.
    run : Run

    Yields
    ------
    Section
    """
    classes = [str(name) for name in summary["class"].values]
    blocks: list[Any] = [Text(f"Order of operations: {summary.attrs['order']}.")]
    blocks += [_chart(summary, position, name) for position, name in enumerate(classes)]
    blocks.append(_all_channels(summary, classes))
    blocks += [
        gallery
        for position, name in enumerate(classes)
        if (gallery := _gallery(probe, summary, run, position, name)) is not None
    ]
    yield Section("channels", f"Channels of {probe.layer} against the masks", tuple(blocks))
    yield Section(
        "chance", f"Best channel of {probe.layer} beside its controls", (_controls(summary, classes),)
    )


# -- numbers -----------------------------------------------------------------------------------


def _chart(summary: xr.Dataset, position: int, name: str) -> Figure:
    """Mean F1 of the best channels of one class, with intervals, controls and the all-ones mask."""
    channels = top_channels(summary, position, INTERVALS)
    columns = ("mean_f1", "low", "high", "strong", "defined")
    data = pd.DataFrame({"channel": channels, **{c: summary[c].values[channels, position] for c in columns}})
    control = _control_range(summary, position)
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
    )
    return Figure(_with_line(figure, baseline), caption, DEFINITION, data)


def _control_range(summary: xr.Dataset, position: int) -> ControlRange | None:
    """Range of the living controls' best channels on the same images; None if none lives."""
    if "control" not in summary.dims:
        return None
    top = summary["control_top_f1"].values[summary["control_alive"].values.astype(bool), position]
    top = top[np.isfinite(top)]
    name = f"best channels of {len(top)} control{'s' if len(top) != 1 else ''}"
    return ControlRange(float(top.min()), float(top.max()), name) if len(top) else None


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


def _all_channels(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write every channel for every class."""
    frames = []
    for position, name in enumerate(classes):
        order = np.argsort(summary["rank"].values[:, position], kind="stable")
        columns = ("rank", "mean_f1", "low", "high", "pooled_f1", "strong", "defined")
        values = {column: summary[column].values[order, position] for column in columns}
        degenerate = summary["degenerate"].values[order]
        frames.append(pd.DataFrame({"class": name, "channel": order, **values, "degenerate": degenerate}))
    caption = (
        "One row per class and channel. mean_f1: mean over the images where F1 is defined, low and high its "
        f"95 % interval over groups (best {INTERVALS} per class); pooled_f1: from pixel sums; strong: images "
        f"with F1 above {summary.attrs['strong']}; degenerate: images whose map is constant or not finite. "
        "No rank: defined on less than half of the images with the class. Controls: see under chance."
    )
    return Table(pd.concat(frames, ignore_index=True), caption)


def _controls(summary: xr.Dataset, classes: Sequence[str]) -> Table:
    """Write what the best channel of each network reaches on images that it was not chosen on."""
    audited = pd.DataFrame(
        {
            "class": classes,
            "network": "audited",
            "channel": summary["best_channel"].values,
            "f1": summary["best_f1"].values,
            "low": summary["best_low"].values,
            "high": summary["best_high"].values,
            "n": summary["best_n"].values,
            "note": "",
        }
    )
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
        f"Best channel per class, {summary.attrs['how']}; f1: mean F1 on the scoring images (n), low and "
        "high its 95 % interval over groups. Controls choose and score their own best channel alike."
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
                "f1": summary["control_f1"].values[row],
                "note": "" if alive[row] else "degenerate, counts for nothing",
            }
        )
        for row, name in enumerate(summary["control"].values)
    ]


# -- pictures ----------------------------------------------------------------------------------


def _gallery(probe: ChannelF1, summary: xr.Dataset, run: Run, position: int, name: str) -> Gallery | None:
    """Show the best channels on images from median to best; None where no channel ranks."""
    channels = top_channels(summary, position, SHOWN_CHANNELS)
    if not len(channels):
        return None
    rows = run.rows(probe.name)
    f1 = rows["f1"].isel({"channel": channels, "class": position}).values
    shown = _median_to_best(np.where(rows["area"].values[:, position] > 0, f1[:, 0], np.nan))
    names = run.images["name"]
    strips = []
    for index in shown:
        scores = dict(zip(channels, f1[index], strict=True))
        strips.append((str(names.iloc[index]), _strip(run, probe, index, position, scores)))
    if not strips:
        return None
    caption = (
        f"Class {name}: the {len(channels)} best channels of {probe.layer} on {len(strips)} images between "
        f"the median and the best F1 of channel {channels[0]} (images with the class); outline: the mask. "
        "The better half of the images is shown, so this looks better than the mean."
    )
    return Gallery(tuple(strips), caption)


def _median_to_best(scores: np.ndarray) -> list[int]:
    """Positions of images at even steps from the median to the best score, best last."""
    order = np.argsort(scores, kind="stable")[: int(np.isfinite(scores).sum())]
    if not len(order):
        return []
    steps = np.linspace((len(order) - 1) // 2, len(order) - 1, SHOWN_IMAGES).round().astype(int)
    return [int(order[step]) for step in np.unique(steps)]


def _strip(
    run: Run, probe: ChannelF1, index: int, position: int, scores: Mapping[int, float]
) -> tuple[Picture, ...]:
    """Show one image as it is, then under the map of each channel, whose F1 is in ``scores``."""
    pixels, mask, maps = run.picture(index), run.mask(index), run.activations(index, probe.layer)
    target = probe.targets(run.survey.mask_classes)[position]
    outline = None if mask is None else target.inside(torch.from_numpy(mask)).numpy()
    plain = Picture(pixels, "image and mask", outline=outline)
    if maps is None:
        return (plain,)
    return (
        plain,
        *(
            Picture(pixels, f"channel {channel}, F1 {score:.2f}", overlay=maps[channel], outline=outline)
            for channel, score in scores.items()
        ),
    )
