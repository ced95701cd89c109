"""Maps that show nothing: undefined, zero, constant, or one cell alone; and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CAUSES", "KINDS", "REMEDIES", "Evidence", "causes", "evidence", "kinds", "probabilities"]

KINDS = ("", "undefined", "zero", "constant", "one cell")
"""What a map shows instead of places; the first is a map that shows some."""

REMEDIES = {
    "the network's values are not finite": (
        "the quarantine names the images; look for half precision, a division by zero, or inputs out of range"
    ),
    "the image has no such target": "ask for a target that every image has, such as 'predicted'",
    "the layer is silent": "take another layer; the census counts channels that never speak",
    "every channel of the layer is constant": "take a layer before pooling, or larger images",
    "the target does not depend on the layer": "take another layer: see wsss-probe layers",
    "the target is a probability, and saturated": (
        "end the network before its softmax or sigmoid: a certain probability has no gradient"
    ),
    "the gradient is zero": "take another target or layer: this logit does not change with the layer here",
    "the layer speaks at one cell only": "take an earlier layer with a finer grid",
    "no positive evidence": (
        "none needed: the weighted sum is nowhere positive, and a ReLU hides the rest; a signed map such as "
        "cam or inputxgradient shows it"
    ),
    "the method gives no other map here": "compare with another explainer; read the method's card",
}
"""Causes, the first that holds is named, each with what to do."""

CAUSES = tuple(REMEDIES)

_ALONE = 0.999
"""Share of a map's absolute sum from which one cell is all there is."""

_FEW_CELLS = 9
"""On smaller grids one cell is a place."""

_CERTAIN = 1e-6


def kinds(maps: Tensor) -> Tensor:
    """Say of each map what it shows instead of places.

    Parameters
    ----------
    maps : Tensor, (image, row, column)

    Returns
    -------
    Tensor of int64, (image,)
        Position in :data:`KINDS`; 0 for a map that shows places.

    Examples
    --------
    >>> kinds(torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]], [[torch.nan, 0.0]], [[1.0, 0.0]]])).tolist()
    [2, 3, 1, 0]
    """
    values = maps.double().flatten(1)
    filled = values.nan_to_num()
    size = filled.abs()
    found = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    if values.shape[1] >= _FEW_CELLS:
        found[size.amax(1) >= _ALONE * size.sum(1)] = KINDS.index("one cell")
    found[filled.amax(1) == filled.amin(1)] = KINDS.index("constant")
    found[size.amax(1) == 0] = KINDS.index("zero")
    found[~values.isfinite().all(1)] = KINDS.index("undefined")
    return found


def probabilities(outputs: Tensor, weights: Tensor) -> Tensor:
    """Say which outputs look like probabilities: a softmax's, or a certain sigmoid's.

    Parameters
    ----------
    outputs : Tensor, (image, class)
    weights : Tensor, (image, class)
        Of the target.

    Returns
    -------
    Tensor of bool, (image,)
        Between 0 and 1, and summing to 1 or with a target that is 0 or 1 to a millionth.
    """
    values = outputs.double()
    within = ((values >= 0) & (values <= 1)).all(1)
    whole = (values.sum(1) - 1).abs() < 1e-3 if values.shape[1] > 1 else torch.zeros_like(within)
    score = (values * weights.double()).nan_to_num().sum(1)
    certain = (score <= _CERTAIN) | (score >= 1 - _CERTAIN)
    return within & (whole | certain)


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a layer and a target, image by image; all Tensor of bool, (image,).

    Parameters
    ----------
    finite : Tensor
        Of the network's outputs.
    target : Tensor
        Whether the image has the target.
    silent : Tensor
        Every activation is 0.
    flat : Tensor
        No channel differs from place to place.
    single : Tensor
        Activations at one cell only.
    pathless : Tensor
        The target does not depend on the layer at all.
    still : Tensor
        The gradient is 0 everywhere.
    probability : Tensor
        The output looks like a probability.
    against : Tensor
        A weighted sum of the channels is nowhere positive: ``sum_k w_k A_k`` with the mean gradient or with
        ``sum(g_k A_k) / sum(A_k)`` as weights, or ``sum_k g_k A_k``.
    """

    finite: Tensor
    target: Tensor
    silent: Tensor
    flat: Tensor
    single: Tensor
    pathless: Tensor
    still: Tensor
    probability: Tensor
    against: Tensor


def evidence(outputs: Tensor, weights: Tensor, activation: Tensor, gradient: Tensor | None) -> Evidence:
    """Look at what a map could have been made of.

    Parameters
    ----------
    outputs : Tensor, (image, class)
    weights : Tensor, (image, class)
        Of the target; NaN where an image has none.
    activation : Tensor, (image, channel, row, column)
    gradient : Tensor or None, (image, channel, row, column)
        Of the target; None where there is no path from the layer to it.

    Returns
    -------
    Evidence
    """
    images = len(activation)
    active = activation.float().nan_to_num()
    spread = active.amax((2, 3)) - active.amin((2, 3))
    places = (active != 0).any(1).flatten(1).sum(1)
    no = torch.zeros(images, dtype=torch.bool, device=activation.device)
    rise = torch.zeros_like(active) if gradient is None else gradient.float().nan_to_num()
    return Evidence(
        finite=outputs.isfinite().all(1),
        target=weights.isfinite().all(1),
        silent=places == 0,
        flat=(spread == 0).all(1),
        single=places == 1,
        pathless=~no if gradient is None else no,
        still=(rise == 0).flatten(1).all(1),
        probability=probabilities(outputs, weights),
        against=_nowhere_positive(active, rise),
    )


def _nowhere_positive(active: Tensor, rise: Tensor) -> Tensor:
    """Whether one of the sums that maps are made of leaves a ReLU nothing, (image,)."""
    total, share = active.sum((2, 3), keepdim=True), (rise * active).sum((2, 3), keepdim=True)
    weights = (rise.mean((2, 3), keepdim=True), share / total.where(total != 0, 1), rise)
    sums = [(weight * active).sum(1).flatten(1) for weight in weights]
    return torch.stack([(each <= 0).all(1) for each in sums]).any(0)


def causes(shown: Tensor, known: Evidence) -> Tensor:
    """Name the cause of each degenerate map.

    Parameters
    ----------
    shown : Tensor of int64, (image,)
        Of :func:`kinds`.
    known : Evidence

    Returns
    -------
    Tensor of int64, (image,)
        Position in :data:`CAUSES`, the first that holds; -1 for a map that is not degenerate.
    """
    alone = shown == KINDS.index("one cell")
    holding = [
        ~known.finite,
        ~known.target,
        known.silent,
        known.flat,
        known.pathless,
        known.still & known.probability,
        known.still,
        known.single & alone,
        known.against & (shown == KINDS.index("zero")),
        torch.ones_like(alone),
    ]
    first = torch.stack(holding, dim=1).int().argmax(1)
    return first.masked_fill(shown == 0, -1)
