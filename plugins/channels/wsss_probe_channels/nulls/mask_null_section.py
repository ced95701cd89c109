"""What a reader sees of the masks that were moved and exchanged, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsss_probe import Finding, Section, Table, Text
from wsss_probe_channels.nulls.mask_null import fewest

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Block, Run

__all__ = ["permuted_findings", "sections", "shift_findings"]

LEVEL = 0.05
SHOWN = 10
"""Channels per class in the table."""

WHAT_EACH_ANSWERS = (
    "Three controls answer three questions. **Moved masks**: is a channel in the right place in the image, "
    "beyond the sizes of its mask and of the object? A channel that always marks the middle passes where "
    "objects lie in the middle. **Exchanged masks**: does it follow the mask of this image rather than the "
    "usual place? A channel that fires wherever there is anything passes easily. **Control networks**: does "
    "training matter? Networks that learned nothing often pass the other two, so neither of these is "
    "evidence of learning. Moving a mask around the border is exact only where the picture has no border "
    "effects (padding, vignette, frame)."
)


# -- what may be said --------------------------------------------------------------------------


def shift_findings(summary: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State for each class how many channels are better placed than moved masks; never more than a notice.

    Parameters
    ----------
    summary : Dataset
        Of channel-null.
    run : Run

    Returns
    -------
    tuple of Finding
    """
    classes = enumerate(map(str, summary["class"].values))
    return tuple(
        _finding(summary, run, (position, name), ("shift", "circular shifts of the masks", _controls))
        for position, name in classes
    )


def permuted_findings(summary: xr.Dataset, run: Run) -> tuple[Finding, ...]:
    """State for each class how many channels are better than with other images' masks; at most a notice.

    Parameters
    ----------
    summary : Dataset
        Of channel-null-permuted.
    run : Run

    Returns
    -------
    tuple of Finding
    """
    classes = enumerate(map(str, summary["class"].values))
    return tuple(
        _finding(summary, run, (position, name), ("permuted", "permutations of the masks", _exchanged))
        for position, name in classes
    )


def _finding(summary: xr.Dataset, run: Run, region: tuple[int, str], null: tuple[str, str, Any]) -> Finding:
    """Write one statement: the count, the best channel, and what the null does not say."""
    (position, name), (kind, draws, remark) = region, null
    layer, number = summary.attrs["layer"], summary.attrs["draws"]
    title = f"mask-null-{kind}/{name}@{layer}"
    q = summary[f"q_{kind}"].values[:, position]
    tested = int(np.isfinite(q).sum())
    subject, control = f"Layer {layer}, class {name}", f"{number} {draws}"
    parts = [f"{subject}: not estimable against {draws}, {_why_not(summary, kind)}"]
    best = _best(summary, position)
    if tested:
        parts = [
            f"{subject}: {int((q < LEVEL).sum())} of {tested} channels have q < {LEVEL} against {control}"
            + _resolution(tested, number),
            _best_words(summary, position, kind),
            remark(summary, position),
        ]
    if run.not_testable:
        parts.append(f"not testable here: {run.not_testable}")
    return Finding(
        title,
        "notice",
        "; ".join(parts) + ".",
        effect=float(summary["observed"].values[best, position]) if tested else None,
        n=summary.attrs["images"] if tested else 0,
        groups=summary.attrs["groups"],
        unit="F1",
        control=control,
    )


def _resolution(tested: int, draws: int) -> str:
    """Say when so few draws give small q only to many channels at once."""
    together = math.ceil(tested / (LEVEL * (draws + 1)))
    return f" (possible from {together} channels on)" if together > 1 else ""


def _best(summary: xr.Dataset, position: int) -> int:
    observed = summary["observed"].values[:, position]
    return int(np.argmax(np.where(np.isnan(observed), -np.inf, observed)))


def _best_words(summary: xr.Dataset, position: int, kind: str) -> str:
    best = _best(summary, position)
    observed, mean = (float(summary[n].values[best, position]) for n in ("observed", "null_mean"))
    p = float(summary[f"p_best_{kind}"].values[position])
    family = int((summary[f"p_family_{kind}"].values[:, position] < LEVEL).sum())
    return (
        f"{family} have p < {LEVEL} against the best channel of every draw, and the best, channel {best}, "
        f"has mean F1 {observed:.3f} (null mean {mean:.3f}, p = {p:.2g} that way), "
        f"n = {summary.attrs['images']} images"
    )


def _why_not(summary: xr.Dataset, kind: str) -> str:
    if kind == "permuted" and summary.attrs["groups"] < 2:
        return "since masks are exchanged between groups and there are fewer than two"
    return "since the class is absent or no channel is defined on enough images"


def _controls(summary: xr.Dataset, position: int) -> str:
    """Say what networks that learned nothing reach in the same comparison."""
    said = "this asks where a channel fires, not whether it was learned"
    if "control" not in summary.dims:
        return f"no control network was run; {said}"
    alive = summary["control_alive"].values.astype(bool)
    if not alive.any():
        return f"all control networks are degenerate; {said}"
    reached, tested = (summary[n].values[alive, position] for n in ("control_significant", "control_tested"))
    shares = [f"{int(one)} of {int(all_)}" for one, all_ in zip(reached, tested, strict=True)]
    return f"channels of control networks with such a q: {', '.join(shares)}; {said}"


def _exchanged(summary: xr.Dataset, _position: int) -> str:
    """Say how easy, or how coarse, the comparison is."""
    groups = summary.attrs["groups"]
    least = fewest(groups)
    coarse = f" and with {groups} groups cannot be below {least:.2g}"
    return "this null is easy to beat: any channel that fires where something is does so" + (
        coarse if least > 1 / (summary.attrs["draws"] + 1) else ""
    )


# -- what is shown -----------------------------------------------------------------------------


def sections(summary: xr.Dataset, run: Run) -> Iterable[Section]:
    """Build the report's section for one layer: both nulls, as far as they were run.

    Parameters
    ----------
    summary : Dataset
        Of channel-null.
    run : Run
        Read for the summary of channel-null-permuted.

    Yields
    ------
    Section
    """
    layer = summary.attrs["layer"]
    other = f"channel-null-permuted@{layer}"
    nulls = {"shift": summary}
    if other in run.summary_names:
        nulls["permuted"] = run.summary(other)
    classes = [str(name) for name in summary["class"].values]
    tables = [_channels(nulls, position, name) for position, name in enumerate(classes)]
    blocks: tuple[Block, ...] = (Text(WHAT_EACH_ANSWERS), _counts(nulls, classes), *tables)
    yield Section("chance", f"Channels of {layer} against moved and exchanged masks", blocks)


_WORDS = {"shift": "moved", "permuted": "exchanged"}


def _counts(nulls: dict[str, xr.Dataset], classes: Sequence[str]) -> Table:
    """One row per class, null and network: how many channels pass, and the best."""
    summary = nulls["shift"]
    frames = [
        pd.DataFrame(
            {
                "class": classes,
                "masks": _WORDS[kind],
                "network": "audited",
                "channels": np.isfinite(table[f"q_{kind}"].values).sum(axis=0),
                f"q < {LEVEL}": (table[f"q_{kind}"].values < LEVEL).sum(axis=0),
                "p of the best": table[f"p_best_{kind}"].values,
                "note": "",
            }
        )
        for kind, table in nulls.items()
    ]
    names = summary["control"].values if "control" in summary.dims else ()
    frames += [
        pd.DataFrame(
            {
                "class": classes,
                "masks": _WORDS["shift"],
                "network": str(name),
                "channels": summary["control_tested"].values[row],
                f"q < {LEVEL}": summary["control_significant"].values[row],
                "p of the best": summary["control_p_best"].values[row],
                "note": "" if summary["control_alive"].values[row] else "degenerate, counts for nothing",
            }
        )
        for row, name in enumerate(names)
    ]
    number = " and ".join(f"{table.attrs['draws']} {_WORDS[kind]}" for kind, table in nulls.items())
    caption = (
        f"How many channels beat {number} masks (Benjamini-Hochberg over the channels of a class), and p of "
        f"the best of all channels against the best of every draw; n = {summary.attrs['images']} images in "
        f"{summary.attrs['groups']} groups. With few draws q is small only for many channels at once; p over "
        f"all channels has no such limit. Read the audited network beside the control networks."
    )
    frame = pd.concat(frames, ignore_index=True).sort_values("class", kind="stable", ignore_index=True)
    return Table(frame, caption)


def _channels(nulls: dict[str, xr.Dataset], position: int, name: str) -> Table:
    """Write the best channels of one class beside both nulls."""
    observed = nulls["shift"]["observed"].values[:, position]
    order = np.argsort(-observed, kind="stable")[: min(SHOWN, int(np.isfinite(observed).sum()))]  # NaN last
    columns: dict[str, Any] = {"channel": order, "F1": observed[order]}
    meanings = {"F1": "mean over images of F1 with the mask as it is, on the layer's grid"}
    for kind, table in nulls.items():
        word = _WORDS[kind]
        for header, variable, meaning in _COLUMNS:
            columns[f"{header}, {word}"] = table[variable.format(kind)].values[order, position]
            meanings[f"{header}, {word}"] = f"{meaning} ({table.attrs['draws']} draws of {word} masks)"
    caption = (
        f"Class {name}: the {len(order)} best channels, chosen and tested on the same "
        f"{nulls['shift'].attrs['images']} images; only p over all channels pays for that choice."
    )
    return Table(pd.DataFrame(columns), caption, meanings=meanings)


_COLUMNS = (
    ("mean", "null_mean", "mean F1 over the draws"),
    ("95 %", "null_high", "95th percentile over the draws"),
    ("p", "p_{}", "share of the draws with such an F1, the mask as it is included"),
    ("q", "q_{}", "p adjusted by Benjamini and Hochberg over the channels of the class"),
    ("p over all", "p_family_{}", "share of the draws in which any channel has such an F1"),
)
