"""What an explanation explains: targets read from words, and as weights of the logits.

Every score here is linear in the logits, ``score = sum over classes of weight * logit``: one-hot
weights for a class, and what a contrast subtracts with a minus. Logits, not probabilities: those of a
confident image have a gradient near 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wsss_probe.contracts import Contrast, Target
from wsss_probe.errors import ModelError
from wsss_probe.names import nearest

__all__ = ["parse_target", "require_target", "target_names", "target_weights"]

_AGAINST = " vs "


def target_weights(
    logits: Tensor, labels: Tensor, targets: Sequence[Target], predicted: Tensor | None = None
) -> dict[Target, Tensor]:
    """Weights of the logits in the score of each target.

    Parameters
    ----------
    logits : Tensor, (image, class)
    labels : Tensor of bool, (image, class)
    targets : sequence of Target
        ``"label"`` is the first label, or the predicted class where there is none.
    predicted : Tensor of int64, (image,), optional
        What counts as predicted; by default the class with the largest logit.

    Returns
    -------
    dict of Target to Tensor, (image, class)
        Rows of NaN where an image has no such target: a contrast with the next class of a network
        that has one class only.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
    >>> target_weights(logits, logits < 0, [Contrast("predicted", "next", 0.5)]).popitem()[1]
    tensor([[ 1.0000,  0.0000, -0.5000]])
    """
    first = logits.argmax(dim=1) if predicted is None else predicted.to(logits.device)
    labelled = torch.where(labels.any(dim=1), labels.int().argmax(dim=1), first)
    named = {"predicted": first, "label": labelled}
    return {target: _weights(logits.detach(), named, target) for target in targets}


def _weights(logits: Tensor, named: Mapping[str, Tensor], target: Target) -> Tensor:
    if not isinstance(target, Contrast):
        return _one_hot(_class_of(named, target), logits)
    plus = _one_hot(_class_of(named, target.of), logits)
    if target.against != "next":
        return plus - target.weight * _one_hot(_class_of(named, target.against), logits)
    others = min(target.references, logits.shape[1] - 1)
    if others < 1:
        return torch.full_like(plus, torch.nan)
    rivals = logits.float().masked_fill(plus > 0, -torch.inf).topk(others, dim=1).indices
    return plus - target.weight * torch.zeros_like(plus).scatter(1, rivals, 1 / others)


def _class_of(named: Mapping[str, Tensor], target: str | int) -> Tensor:
    """Class index that a simple target means for each image, (image,)."""
    if isinstance(target, str):
        return named[target]
    return torch.full_like(named["predicted"], target)


def _one_hot(index: Tensor, logits: Tensor) -> Tensor:
    return torch.zeros(logits.shape, device=logits.device).scatter(1, index[:, None], 1)


def require_target(target: object, classes: int) -> None:
    """Refuse what is no target of a network with so many classes.

    Raises
    ------
    ModelError
    """
    simple = (target.of, target.against) if isinstance(target, Contrast) else (target,)
    words = {"predicted", "label"} | ({"next"} if isinstance(target, Contrast) else set())
    for part in simple:
        number = isinstance(part, int) and not isinstance(part, bool) and 0 <= part < classes
        if not number and part not in words:
            raise ModelError(
                "target is no class of the network",
                found=repr(part),
                wanted=f"'predicted', 'label' or 0 to {classes - 1}",
            )


def parse_target(text: str, classes: Sequence[str]) -> tuple[Target, ...]:
    """Read a target from words.

    Parameters
    ----------
    text : str
        ``predicted``, ``label``, ``all`` (every class), a class name, or its number from 0 if no
        class is called so, or a contrast of any two: ``tumour vs normal``, ``predicted vs next``.
    classes : sequence of str

    Returns
    -------
    tuple of Target

    Raises
    ------
    ModelError
        For a word that means none; the nearest class is named.

    Examples
    --------
    >>> parse_target("b vs next", ["a", "b"])
    (Contrast(of=1, against='next', weight=1.0, references=1),)
    """
    if text == "all":
        return tuple(range(len(classes)))
    if _AGAINST in text and text not in classes:
        of, against = text.split(_AGAINST, 1)
        return (Contrast(_simple(of, classes), "next" if against == "next" else _simple(against, classes)),)
    return (_simple(text, classes),)


def _simple(text: str, classes: Sequence[str]) -> str | int:
    if text in {"predicted", "label"}:
        return text
    if text in classes:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    near = "" if text.isdecimal() else nearest(text, classes)
    raise ModelError(
        "target is no class of the network",
        found=text,
        wanted=f"predicted, label, all, a class, 0 to {len(classes) - 1}, or two of them: 'a vs b'",
        remedy=f"'{near}'?" if near else None,
    )


def target_names(targets: Sequence[Target], classes: Sequence[str]) -> Mapping[Target, str]:
    """Name each target for people: ``tumour``, ``tumour minus 1 x normal``."""

    def named(part: str | int) -> str:
        return classes[part] if isinstance(part, int) else part

    return {
        target: str(Contrast(named(target.of), named(target.against), target.weight, target.references))
        if isinstance(target, Contrast)
        else named(target)
        for target in targets
    }
