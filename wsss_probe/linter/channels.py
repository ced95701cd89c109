"""Checks of the model linter on channels: silent ones, copies, and rectifiers that pass nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss_probe.linter.diagnosis import NotLookedAtError, Suspicion, listed

if TYPE_CHECKING:
    from wsss_probe.contracts import Verdict
    from wsss_probe.linter.evidence import Evidence
    from wsss_probe.linter.watching import Watched

__all__ = ["copied_channels", "silent_channels", "silent_rectifiers"]

_NOTED, _ALARMING = 0.1, 0.5
"""Shares of silent channels: fewer are usual in a trained network."""

_CELLS = 20_000
_ANSWERS = 16
_COPY = 1 - 1e-9


def _require_data(evidence: Evidence) -> None:
    """Deep channels of a sound network are silent on mere noise."""
    if evidence.known.made_up:
        msg = "no images were given"
        raise NotLookedAtError(msg)


def _verdict(share: float) -> Verdict:
    return "warning" if share >= _ALARMING else "notice"


def silent_channels(evidence: Evidence) -> Iterator[Suspicion]:
    """Channels of the audited layers that do not vary, over all examples and noise."""
    _require_data(evidence)
    if not evidence.known.audited:
        msg = "no layer is audited"
        raise NotLookedAtError(msg)
    silent = {
        name: _constant(maps, evidence.strained.maps[name]) for name, maps in evidence.seen.maps.items()
    }
    shares = {name: float(dead.double().mean()) for name, dead in silent.items() if dead.numel()}
    bad = {name: share for name, share in shares.items() if share >= _NOTED}
    if bad:
        worst = max(bad.values())
        worded = [f"{int(silent[name].sum())} of {len(silent[name])} at {name}" for name in bad]
        yield Suspicion(
            "silent-channels",
            _verdict(worst),
            f"Channels have one value everywhere, on all {evidence.images} and on noise: {listed(worded)}.",
            "They carry nothing; where most are silent, check the weights and the range of the input.",
            effect=worst,
            n=len(evidence.examples),
            unit="share of channels",
        )


def _constant(*passes: Tensor) -> Tensor:
    """Whether each channel has the same value everywhere, (channel,)."""
    values = torch.cat([maps.transpose(0, 1).flatten(1) for maps in passes], dim=1)
    return values.amax(dim=1) == values.amin(dim=1)


def copied_channels(evidence: Evidence) -> Iterator[Suspicion]:
    """Channels of the audited layers that repeat another one, up to a factor."""
    if not evidence.known.audited:
        msg = "no layer is audited"
        raise NotLookedAtError(msg)
    copies = {name: _copies(maps) for name, maps in evidence.seen.maps.items()}
    worded = [f"{first} and {second} at {name}" for name, pairs in copies.items() for first, second in pairs]
    if worded:
        yield Suspicion(
            "copied-channels",
            "notice",
            f"Channels are the same up to a factor on all {evidence.images}: {listed(worded)}.",
            "They count as one; a ranking lists each of them.",
            effect=float(len(worded)),
            n=len(evidence.examples),
            unit="pairs of channels",
        )


def _copies(maps: Tensor) -> list[tuple[int, int]]:
    """Pairs (first of its kind, copy) of channels."""
    values = maps.transpose(0, 1).flatten(1)
    step = max(1, -(-values.shape[1] // _CELLS))
    values = values[:, ::step].double()
    # a channel that answers at a few cells only, or everywhere alike, is like any other one that does
    lively = ((values != 0).sum(dim=1) >= _ANSWERS) & (values.amax(dim=1) > values.amin(dim=1))
    # nearly flat channels are nearly proportional, but their ups and downs are not
    alike = _alike(values) & _alike(values - values.mean(dim=1, keepdim=True))
    alike &= lively[:, None] & lively[None, :]
    first = alike.double().argmax(dim=1)  # the first channel that it is like; itself where there is none
    return [(int(f), i) for i, f in enumerate(first.tolist()) if lively[i] and f < i]


def _alike(values: Tensor) -> Tensor:
    """Whether two channels are the same up to a factor, (channel, channel)."""
    scaled = torch.nn.functional.normalize(values, dim=1)
    return (scaled @ scaled.T).abs() >= _COPY


def silent_rectifiers(evidence: Evidence) -> Iterator[Suspicion]:
    """Share of channels that no rectifier lets through, over the whole network."""
    _require_data(evidence)
    by_place = defaultdict(list)
    for place, dead in _silences(evidence.seen, evidence.strained):
        by_place[place].append(dead)
    if not by_place:
        msg = "no rectifier was seen"
        raise NotLookedAtError(msg)
    joined = {place: torch.cat(parts) for place, parts in by_place.items()}
    total = sum(len(dead) for dead in joined.values())
    silent = sum(int(dead.sum()) for dead in joined.values())
    share = silent / total if total else 0.0
    whole = [place for place, dead in joined.items() if bool(dead.all())]
    if whole or share >= _NOTED:
        worst = sorted(joined, key=lambda place: -float(joined[place].double().mean()))
        tail = f"; nothing passes {listed(whole)}" if whole else f"; most in {listed(worst)}"
        yield Suspicion(
            "silent-rectifiers",
            "warning" if whole else _verdict(share),
            f"{share:.0%} of the channels behind rectifiers ({silent} of {total}) are zero on all "
            f"{evidence.images} and on noise{tail}.",
            "Units died in training, or the input is out of the range of the training: check both.",
            effect=share,
            n=len(evidence.examples),
            unit="share of channels",
        )


def _silences(seen: Watched, strained: Watched) -> Iterator[tuple[str, Tensor]]:
    """Which channels stayed silent in both passes, call by call; the same calls in the same order."""
    if len(seen.rectified) != len(strained.rectified):
        msg = "the network does not take the same way through on other images"
        raise NotLookedAtError(msg)
    for one, other in zip(seen.rectified, strained.rectified, strict=True):
        if one.answers.shape == other.answers.shape:
            yield one.place, ~(one.answers | other.answers)
