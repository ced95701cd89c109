"""Score-CAM: channels weighted by what the network says of the image seen through each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe_explainers.formulas import cam
from wsss_probe_explainers.perturbations.cards import (
    SCORE_CAM_AUTHORS_CARD,
    SCORE_CAM_CARD,
    SCORE_CAM_TOP_CARD,
)
from wsss_probe_explainers.perturbations.channels import (
    explainable,
    foremost,
    full,
    require_counts,
    spread,
)

if TYPE_CHECKING:
    from wsss_probe import Batch, Target

__all__ = [
    "Score",
    "ScoreMap",
    "Weighting",
    "channel_masks",
    "score_cam_authors_map",
    "score_cam_map",
    "score_cam_top_map",
]

Weighting = Literal["softmax", "increase", "authors"]
"""Softmax over channels of the increase (algorithm 1), the increase itself, or the score (authors' code)."""

Score = Literal["softmax", "sigmoid", "logit"]
"""What is read off the logits before the target's classes are added up."""


@final
@dataclass(frozen=True, slots=True)
class ScoreMap(Explainer):
    """Score-CAM.

    Parameters
    ----------
    weighting : {"softmax", "increase", "authors"}
        How scores become weights: softmax over channels of the increase over a black image, as in
        algorithm 1 of the paper; the increase itself; or the score itself, as in the authors' code.
    score : {"softmax", "sigmoid", "logit"}
        Probabilities as in the paper; ``"sigmoid"`` for classes that are decided one by one. A
        network with a single logit gets the sigmoid in any case: its softmax is always 1.
    top : int or None
        Only so many channels, those with the largest spread; the others weigh 0. None means all.
    at_once : int
        Masked images in one forward pass: bounds the memory.
    name : str
    card : DefinitionCard
    default, gradients : bool
        Always false here.

    Raises
    ------
    UsageError
        For an option that does not exist.
    """

    weighting: Weighting = "softmax"
    score: Score = "softmax"
    top: int | None = None
    at_once: int = 32
    name: str = "scorecam"
    card: DefinitionCard = SCORE_CAM_CARD
    default: bool = False
    gradients: bool = False

    def __post_init__(self) -> None:
        """Refuse what no formula computes."""
        require_counts("Score-CAM", self.top, self.at_once)
        for name, value, known in (
            ("weighting", self.weighting, get_args(Weighting)),
            ("score", self.score, get_args(Score)),
        ):
            if value not in known:
                msg = f"unknown {name} of Score-CAM"
                raise UsageError(msg, found=str(value), wanted=", ".join(known))

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Show the image through each of the layer's maps and weigh the maps by the target's score.

        Returns
        -------
        Tensor, (image, row, column)
            Not negative; NaN for images without pixels or without the target.
        """
        maps, usable = full(batch.activations[layer]), explainable(batch, target)
        shown = foremost(maps, (spread(maps) > 0) & usable[:, None], self.top)
        wanted, squash = batch.targets[target], _SCORES[self.score]

        def read(logits: Tensor, weights: Tensor) -> Tensor:
            return (squash(logits.float()) * weights).sum(1)

        black = read(batch.forward(torch.zeros_like(batch.images[:1])), wanted)
        scores = torch.zeros(shown.shape, device=maps.device)
        for places, logits in _seen_through(batch, maps, shown, self.at_once):
            image, channel = places.unbind(1)
            scores[image, channel] = read(logits, wanted[image])
        heat = cam(maps, _WEIGHTINGS[self.weighting](scores, black[:, None], shown)).relu()
        return torch.where(usable[:, None, None], heat, torch.nan)


def channel_masks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn maps into masks of the input: resized, then between 0 and 1.

    Parameters
    ----------
    maps : Tensor, (mask, row, column)
    size : (int, int)
        Rows and columns of the input.

    Returns
    -------
    Tensor, (mask, 1, row, column)
        Bilinear, corners not aligned; 0 at the smallest value and 1 at the largest. A map that is
        constant at this size gives zeros.
    """
    grown = interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)
    low, high = grown.amin((2, 3), keepdim=True), grown.amax((2, 3), keepdim=True)
    span = high - low
    return (grown - low) / span.where(span > 0, 1)


def _seen_through(batch: Batch, maps: Tensor, shown: Tensor, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Run the images seen through their shown maps; give (image, channel) and logits of each."""
    size = (batch.images.shape[2], batch.images.shape[3])
    places = shown.nonzero()
    for part in torch.split(places, at_once) if len(places) else ():
        image, channel = part.unbind(1)
        masks = channel_masks(maps[image, channel], size).to(batch.images.dtype)
        yield part, batch.forward(batch.images[image] * masks)


# -- scores and weights ------------------------------------------------------------------------


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes; of a single logit the sigmoid, since its softmax is always 1."""
    return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()


def _logits(logits: Tensor) -> Tensor:
    return logits


_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _probabilities,
    "sigmoid": torch.sigmoid,
    "logit": _logits,
}


def _softmax_of_increase(scores: Tensor, black: Tensor, shown: Tensor) -> Tensor:
    """Weights of the shown channels that add up to 1; 0 where none is shown."""
    weights = (scores - black).masked_fill(~shown, -torch.inf).softmax(1)
    return weights.masked_fill(~shown, 0)


def _increase(scores: Tensor, black: Tensor, shown: Tensor) -> Tensor:
    return (scores - black).masked_fill(~shown, 0)


def _score(scores: Tensor, _black: Tensor, shown: Tensor) -> Tensor:
    return scores.masked_fill(~shown, 0)


_WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "softmax": _softmax_of_increase,
    "increase": _increase,
    "authors": _score,
}

score_cam_map = ScoreMap()
score_cam_authors_map = ScoreMap("authors", name="scorecam-authors", card=SCORE_CAM_AUTHORS_CARD)
score_cam_top_map = ScoreMap(top=64, name="scorecam-top64", card=SCORE_CAM_TOP_CARD)
