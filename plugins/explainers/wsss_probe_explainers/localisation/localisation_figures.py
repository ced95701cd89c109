"""Figures of localisation: the ranking, objects reached by their number, and curves over thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Figure
from wsss_probe.report.figures import CONTROL_COLOR, PALETTE, ControlRange, interval_plot

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["curves", "ranking_figure", "reached_figure"]

DRAWN = 20
"""Explainers in the ranking; the table holds all."""

LINES = 6
"""Explainers in charts of curves, the best first."""

DEFINITION = (
    "Average precision of an image: PxAP = Σ Prec(τ) (Rec(τ) - Rec(τ')) over thresholds τ in steps of 0.001, "
    "the precision at the lower one (Choe et al. 2020, arXiv:2001.07437), over this image's known pixels. "
    "A constant map gets the region's share."
)


def ranking_figure(summary: xr.Dataset) -> Figure:
    """Draw the mean average precision of explainers and baselines over the controls' range."""
    own = _best(summary, DRAWN)
    shown = [*own, *_baselines(summary, own)]
    data = _numbers(summary, shown, "average_precision")
    reached = _reached_by_controls(summary, own)
    band = ControlRange(*reached, "controls") if reached else None
    figure = interval_plot(
        list(data["map"]),
        data["mean"],
        list(zip(data["low"], data["high"], strict=True)),
        axis="mean average precision of an image",
        control=band,
    )
    # what knows nothing is grey, as controls are in every figure
    colors = [PALETTE[0]] * len(own) + [CONTROL_COLOR] * (len(shown) - len(own))
    figure["data"][0]["marker"]["color"] = colors
    figure["data"][0]["error_x"]["color"] = PALETTE[0]  # whiskers cannot take the list
    controls = (
        f"grey: the same maps on controls, {reached[0]:.3f} to {reached[1]:.3f}"
        if reached
        else ("no living control")
    )
    explainers = int(summary["explains"].values.sum())
    caption = (
        f"Mean average precision with {summary.attrs['region']}, over {summary.attrs['images']} images, "
        f"chance {summary.attrs['share']:.3f}; bars: 95 % interval over {summary.attrs['groups']} groups; "
        f"{controls}. The {len(own)} best of {explainers} explainers, then the maps that know nothing of the "
        "network, on the grid of the best explainer. The order was made on these images."
    )
    return Figure(figure, caption, DEFINITION, data)


def _best(summary: xr.Dataset, count: int) -> list[int]:
    """Positions of the best explainers that have a mean."""
    means = np.where(summary["explains"].values, summary["average_precision"].values, np.nan)
    order = np.argsort(-means, kind="stable")
    return [int(at) for at in order if np.isfinite(means[at])][:count]


def _baselines(summary: xr.Dataset, own: Sequence[int]) -> list[int]:
    """Positions of the baselines on the grid of the best explainer, the best first."""
    if not own:
        return []
    names = [str(name) for name in summary["explainer"].values]
    best = names[own[0]]
    maps, others = summary["comparison_map"].values, summary["comparison_other"].values
    beside = [str(other) for one, other in zip(maps, others, strict=True) if one == best and other in names]
    means = summary["average_precision"].values
    places = [names.index(name) for name in beside]
    return sorted(places, key=lambda at: -np.nan_to_num(means[at]))


def _numbers(summary: xr.Dataset, shown: Sequence[int], name: str) -> pd.DataFrame:
    """Mean and interval of some kinds of maps."""
    places = list(shown)
    values = {
        "mean": summary[name].values[places],
        "low": summary[f"{name}_low"].values[places],
        "high": summary[f"{name}_high"].values[places],
        "n": summary[f"{name}_n"].values[places],
    }
    return pd.DataFrame({"map": summary["explainer"].values[places], **values})


def _reached_by_controls(summary: xr.Dataset, own: Sequence[int]) -> tuple[float, float] | None:
    """Lowest and highest mean that these explainers have on living controls."""
    if "control_average_precision" not in summary:
        return None
    values = summary["control_average_precision"].values[:, list(own)]
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def reached_figure(summary: xr.Dataset) -> Figure | None:
    """Draw the share of objects reached by the number of objects; nothing where no image has several."""
    numbers = summary["reached_n"].values
    own = _best(summary, LINES)
    if not own or not numbers[own][:, 1:].any():
        return None
    shown = [*own, *(at for at in _baselines(summary, own) if _is_blob(summary, at))]
    frames = [
        pd.DataFrame(
            {
                "map": summary["explainer"].values[shown],
                "objects": str(many),
                **{
                    title: summary[name].values[shown, position]
                    for title, name in (
                        ("reached", "reached"),
                        ("low", "reached_low"),
                        ("high", "reached_high"),
                        ("n", "reached_n"),
                    )
                },
            }
        )
        for position, many in enumerate(summary["objects"].values)
    ]
    data = pd.concat(frames, ignore_index=True)
    data = data[data["n"] > 0].reset_index(drop=True)
    figure = interval_plot(
        [
            f"{many} object{'' if many == '1' else 's'}: {name}"
            for name, many in zip(data["map"], data["objects"], strict=True)
        ],
        data["reached"],
        list(zip(data["low"], data["high"], strict=True)),
        axis="share of objects reached",
    )
    caption = (
        "Mean share of connected objects that a map reaches, by their number in the image (n: images); the "
        f"best {len(own)} explainers and the centre blob. Every map marks as many pixels as the objects "
        "have, and an object is reached when its mean relevance is above that threshold. Bars: 95 % "
        "interval over groups."
    )
    return Figure(figure, caption, "", data)


def _is_blob(summary: xr.Dataset, at: int) -> bool:
    return str(summary["explainer"].values[at]).startswith("centre blob")


def curves(summary: xr.Dataset) -> Iterable[Figure]:
    """Draw Dice over thresholds, and precision over recall, of the best explainers and all baselines."""
    own = _best(summary, LINES)
    if not own:
        return
    shown = [*own, *_baselines(summary, own)]
    steps = summary["threshold"].values
    dice = summary["dice_curve"].values
    yield _figure(
        summary,
        shown,
        [(steps, dice[at]) for at in shown],
        ("threshold of the map scaled to [0, 1]", "mean Dice"),
        f"Mean Dice at every threshold over all {summary.attrs['images']} images, so the largest value of a "
        "curve is optimistic: the table has Dice at thresholds that were chosen on other images. At 0 every "
        "pixel is marked.",
    )
    precision, recall = summary["precision_at"].values, summary["recall_at"].values
    yield _figure(
        summary,
        shown,
        [(recall[at], precision[at]) for at in shown],
        ("recall of pixels", "precision of pixels"),
        f"Precision over recall of the pooled pixels of {summary.attrs['images']} images at 101 thresholds; "
        "PxAP is the area in rectangles. Every curve ends at the prevalence.",
    )


def _figure(
    summary: xr.Dataset,
    shown: Sequence[int],
    lines: Sequence[tuple[np.ndarray, np.ndarray]],
    axes: tuple[str, str],
    caption: str,
) -> Figure:
    """Draw lines: explainers in colour, baselines grey."""
    names = [str(summary["explainer"].values[at]) for at in shown]
    explains = summary["explains"].values
    traces, dashes = [], ("dot", "dash", "dashdot", "longdash", "solid")
    for position, (at, (x, y)) in enumerate(zip(shown, lines, strict=True)):
        color = PALETTE[position % len(PALETTE)] if explains[at] else CONTROL_COLOR
        line = {"color": color, "width": 2} | (
            {} if explains[at] else {"dash": dashes[position % len(dashes)]}
        )
        defined = np.isfinite(x) & np.isfinite(y)
        traces.append(_trace(names[position], x[defined], y[defined], line))
    frame = pd.DataFrame(
        {"map": np.repeat(names, [len(x) for x, _ in lines]), axes[0]: np.concatenate([x for x, _ in lines])}
    )
    frame[axes[1]] = np.concatenate([y for _, y in lines])
    layout = {
        "height": 420,
        "showlegend": True,
        "xaxis": {"title": {"text": axes[0]}, "range": [0, 1.01]},
        "yaxis": {"title": {"text": axes[1]}, "rangemode": "tozero"},
    }
    return Figure({"data": traces, "layout": layout}, caption, DEFINITION, frame)


def _trace(name: str, x: np.ndarray, y: np.ndarray, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x.tolist(),
        "y": y.tolist(),
        "line": line,
        "hovertemplate": f"{name}<br>%{{x:.3g}}, %{{y:.3g}}<extra></extra>",
    }
