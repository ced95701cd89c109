"""Everything that is measured of the maps of one image, with the network's answers to its variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe_explainers.faithfulness.imputation import road_grid, without
from wsss_probe_explainers.faithfulness.measures import area, average_drop, gini, infidelity, squares
from wsss_probe_explainers.faithfulness.perturbed import (
    blank_image,
    hidden,
    on_grid,
    ranked,
    shown,
    tie_order,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MEASURES", "Answers", "How", "Judgement", "forwards", "judge", "probability"]

MEASURES = ("insertion", "deletion", "gain", "road", "drop", "increase", "infidelity", "sparseness")
"""Numbers of each map, in this order."""

_PIXELS_AT_ONCE = 32 * 224 * 224
"""Pixels of the images that are given to the network together."""

_SAME = 1e-4
"""Maps that differ by less, as a share of their largest value, are judged once."""


@final
@dataclass(frozen=True, slots=True)
class How:
    """How maps are judged.

    Parameters
    ----------
    steps : int
        Of the curves from nothing to everything shown or hidden.
    blank : {"blur", "mean", "zero"}
    score : {"probability", "logit"}
        Height of the curves and of ROAD.
    road : tuple of float
        Shares of the cells that ROAD removes.
    squares : int
        Squares that are hidden for infidelity.
    seed : int
    multilabel : bool
    """

    steps: int
    blank: str
    score: str
    road: tuple[float, ...]
    squares: int
    seed: int
    multilabel: bool


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """The network's answers about one image's target.

    Parameters
    ----------
    forward : callable
        ``forward(images) -> logits (image, class)``.
    weights : Tensor, (class,)
        Of the logits in the score of the target.
    multilabel : bool
    """

    forward: Callable[[Tensor], Tensor]
    weights: Tensor
    multilabel: bool

    def logits(self, images: Tensor) -> Tensor:
        """Logits (image, class) in float64, some images at a time."""
        size = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
        return torch.cat([self.forward(part).double() for part in torch.split(images, size)])

    def score(self, logits: Tensor) -> NDArray[np.float64]:
        """Score of the target, in logits, (image,)."""
        return np.asarray((logits * self.weights.to(logits)).sum(1).cpu().numpy())

    def probability(self, logits: Tensor) -> NDArray[np.float64]:
        """Probability of the target, (image,)."""
        weights = self.weights.to(logits)
        return np.asarray(probability(logits, weights, multilabel=self.multilabel).cpu().numpy())


def probability(logits: Tensor, weights: Tensor, *, multilabel: bool) -> Tensor:
    """Probability of a target.

    Parameters
    ----------
    logits : Tensor, (image, class)
    weights : Tensor, (class,)
        Of the logits in the target's score.
    multilabel : bool
        Whether classes are decided one by one.

    Returns
    -------
    Tensor, (image,)
        The softmax's of a class; the sigmoid of its logit where classes are decided one by one or there
        is one only; for a contrast the sigmoid of its score, which for two classes is the softmax among them.
    """
    one = int((weights != 0).sum()) == 1 and float(weights.sum()) == 1
    if one and logits.shape[1] > 1 and not multilabel:
        return logits.softmax(1)[:, int(weights.argmax())]
    return torch.sigmoid((logits * weights).sum(1))


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """Numbers of the maps of one image.

    Parameters
    ----------
    measures : ndarray of float64, (map, measure)
        In the order of :data:`MEASURES`; NaN where undefined.
    inserted, deleted : ndarray of float64, (map, step)
        The score with more and more shown, and hidden.
    full, blank : float
        The score of the whole image, and of the blank one.
    """

    measures: NDArray[np.float64]
    inserted: NDArray[np.float64]
    deleted: NDArray[np.float64]
    full: float
    blank: float


def forwards(how: How, maps: int) -> int:
    """Count the network inputs that one image costs.

    Parameters
    ----------
    how : How
    maps : int
        Baselines included.

    Returns
    -------
    int
        Whole and blank image, squares, and per map the inner steps of both curves, ROAD in both orders,
        and the image seen through the map.
    """
    return 2 + how.squares + maps * (2 * (how.steps - 1) + 2 * len(how.road) + 1)


def judge(image: Tensor, planes: Sequence[Tensor], answers: Answers, how: How, index: int) -> Judgement:
    """Judge all maps of one image.

    Parameters
    ----------
    image : Tensor, (channel, row, column)
        Network input.
    planes : sequence of Tensor, (row, column)
        Maps, each on its own grid, signed. A map with NaN is undefined.
    answers : Answers
    how : How
    index : int
        Position in the manifest: draws depend on it.

    Returns
    -------
    Judgement
    """
    blank = blank_image(image, how.blank)
    hide = squares((image.shape[1], image.shape[2]), how.squares, how.seed, index)
    hides = torch.from_numpy(hide).to(image.device)[:, None]
    fixed = answers.logits(torch.cat([image[None], blank[None], torch.where(hides, blank, image)]))
    scene = _Scene(image, blank, fixed[:1], fixed[1:2], answers, how, index)
    changes = answers.score(fixed[:1]) - answers.score(fixed[2:])
    found = [_Row.undefined(how.steps) for _ in planes]
    for place, plane in enumerate(planes):
        if not bool(plane.isfinite().all()):
            continue
        twin = _twin(plane, planes[:place])
        found[place] = scene.row(plane, (hide, changes)) if twin is None else found[twin]
    return Judgement(
        np.stack([row.measures for row in found]),
        np.stack([row.inserted for row in found]),
        np.stack([row.deleted for row in found]),
        float(scene.height(fixed[:1])[0]),
        float(scene.height(fixed[1:2])[0]),
    )


def _twin(plane: Tensor, others: Sequence[Tensor]) -> int | None:
    """Position of an earlier map that is the same up to a positive factor: no measure sees the factor."""
    largest = plane.abs().max()
    for place, other in enumerate(others):
        if other.shape == plane.shape and bool(largest > 0) and bool(other.abs().max() > 0):
            difference = plane / largest - other / other.abs().max()
            if bool(difference.abs().max() < _SAME):
                return place
    return None


@dataclass(frozen=True, slots=True)
class _Row:
    """Numbers of one map."""

    measures: NDArray[np.float64]
    inserted: NDArray[np.float64]
    deleted: NDArray[np.float64]

    @classmethod
    def undefined(cls, steps: int) -> _Row:
        lost = np.full(steps + 1, np.nan)
        return cls(np.full(len(MEASURES), np.nan), lost, lost)


@dataclass(frozen=True, slots=True)
class _Scene:
    """One image with its blank, and the logits of both."""

    image: Tensor
    blank: Tensor
    full: Tensor
    nothing: Tensor
    answers: Answers
    how: How
    index: int

    def height(self, logits: Tensor) -> NDArray[np.float64]:
        """Height of the curves."""
        wanted = self.how.score == "probability"
        return self.answers.probability(logits) if wanted else self.answers.score(logits)

    def row(self, plane: Tensor, squared: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> _Row:
        """Judge one map that is defined."""
        wide = on_grid(plane, (self.image.shape[1], self.image.shape[2]))
        inner = [step / self.how.steps for step in range(1, self.how.steps)]
        order = self._order(wide)
        variants = [
            shown(self.image, self.blank, order, inner) if inner else self.image[None][:0],
            hidden(self.image, self.blank, order, inner) if inner else self.image[None][:0],
            self._removed(wide),
            self._seen_through(wide)[None],
        ]
        logits = self.answers.logits(torch.cat(variants))
        height, steps = self.height(logits), len(inner)
        ends = float(self.height(self.nothing)[0]), float(self.height(self.full)[0])
        inserted = np.array([ends[0], *height[:steps], ends[1]])
        deleted = np.array([ends[1], *height[steps : 2 * steps], ends[0]])
        first, last = height[2 * steps : -1].reshape(2, -1)
        whole = float(self.answers.probability(self.full)[0])
        through = self.answers.probability(logits[-1:])
        constant = bool(wide.max() == wide.min())
        hide, changes = squared
        measures = [
            *(float(area(inserted)), float(area(deleted)), float(area(inserted) - area(deleted))),
            float((last - first).mean()) if len(first) else np.nan,
            np.nan if constant else float(average_drop(whole, through)[0]),
            np.nan if constant else float(through[0] > whole),
            float(infidelity((hide * wide.cpu().numpy()).sum((1, 2))[None], changes)[0]),
            gini(plane.cpu().numpy()),
        ]
        return _Row(np.array(measures), inserted, deleted)

    def _order(self, wide: Tensor) -> Tensor:
        return ranked(wide[None], tie_order((wide.shape[0], wide.shape[1]), self.how.seed, self.index))[0]

    def _removed(self, wide: Tensor) -> Tensor:
        """The image without its most relevant cells, by share, then without its least relevant ones."""
        cells = road_grid((wide.shape[0], wide.shape[1]))
        coarse = torch.nn.functional.adaptive_avg_pool2d(wide[None], cells)[0]
        order = self._order(coarse)
        made = []
        for ordered in (order, order.flip(0)):
            for share in self.how.road:
                removed = torch.zeros(len(order), dtype=torch.bool, device=order.device)
                removed[ordered[: round(share * len(order))]] = True
                made.append(without(self.image, removed.view(cells), self.how.seed, self.index))
        return torch.stack(made) if made else self.image[None][:0]

    def _seen_through(self, wide: Tensor) -> Tensor:
        """The image where the map is largest, its blank where it is smallest, and mixtures between."""
        low, high = wide.min(), wide.max()
        share = (wide - low) / (high - low) if bool(high > low) else torch.zeros_like(wide)
        return share * self.image + (1 - share) * self.blank
