"""What a user asks an explanation for, turned into targets of the network's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.contracts import Contrast
from wsss_probe.errors import ModelError, UsageError
from wsss_probe.targets import parse_target

if TYPE_CHECKING:
    from wsss_probe import Target

__all__ = ["AskedFor", "Question", "read_question"]

AskedFor = int | str | Tensor | Contrast | tuple[str | int, str | int] | Callable[..., Tensor] | None
"""What is explained: None or ``"predicted"``; a class by index, or by name where ``classes`` are given;
one class per image, int64 (image,); a :class:`~wsss_probe.contracts.Contrast`, or two classes as a tuple;
``"all"`` classes; or a callable from the network's output to scores (image,)."""


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every image.

    Parameters
    ----------
    target : Target or Tensor of int64 (image,)
    score : callable or None
        Takes the place of the logits: from the network's output to (image,).
    every : bool
        Whether all classes are asked for, one after another.
    words : str
        For the label of the result; empty where the class of each image says it all.
    """

    target: Target | Tensor = "predicted"
    score: Callable[..., Tensor] | None = None
    every: bool = False
    words: str = ""

    def of(self, image: int) -> Question:
        """Ask the same of one image."""
        if not isinstance(self.target, Tensor):
            return self
        return Question(self.target[image : image + 1], self.score, self.every, self.words)

    def about(self, number: int) -> Question:
        """Ask for one of all classes."""
        return Question(number, words=self.words)


def read_question(target: AskedFor, classes: Sequence[str], images: int) -> Question:
    """Understand what was asked for.

    Parameters
    ----------
    target : AskedFor
    classes : sequence of str
        Names of the logits; may be empty.
    images : int
        Of the batch, for a tensor.

    Returns
    -------
    Question

    Raises
    ------
    UsageError
        For what cannot be meant.
    ModelError
        For a class or name that there is not.

    Examples
    --------
    >>> read_question(("tumour", "normal"), ["normal", "tumour"], 1).target
    Contrast(of=1, against=0, weight=1.0, references=1)
    """
    if isinstance(target, Tensor):
        return Question(_require_indices(target, images))
    if target is None:
        return Question()
    if isinstance(target, Contrast):
        return Question(target, words=str(target))
    if isinstance(target, tuple) and len(target) == 2:
        of, against = (_simple(part, classes) for part in target)
        contrast = Contrast(of, against)
        return Question(contrast, words=str(contrast))
    if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
        return _named(target, classes)
    if callable(target):
        return Question(0, score=target, words=getattr(target, "__name__", type(target).__name__))
    raise _not_meant(target)


def _named(target: str | int | np.integer, classes: Sequence[str]) -> Question:
    if target == "all":
        return Question(0, every=True)
    if isinstance(target, str) and classes and target not in {"predicted", "label", "next"}:
        (found,) = parse_target(target, classes)
        return Question(found, words=str(found) if isinstance(found, Contrast) else "")
    return Question(_simple(target, classes))


def _simple(target: str | int | np.integer, classes: Sequence[str]) -> str | int:
    """Class index, or a word that names a class of each image."""
    if isinstance(target, int | np.integer) and not isinstance(target, bool):
        if target < 0 or (classes and target >= len(classes)):
            wanted = f"0 to {len(classes) - 1}" if classes else "an index from 0"
            raise ModelError("target is not a class", found=str(int(target)), wanted=wanted)
        return int(target)
    if target in {"predicted", "next"}:
        return str(target)
    if isinstance(target, str) and target in classes:
        return list(classes).index(target)
    raise _not_meant(target)


def _not_meant(target: object) -> UsageError:
    return UsageError(
        "target cannot be meant",
        found=repr(target),
        wanted="a class index, one per image, 'predicted', 'all', two classes, or a callable",
        remedy="give classes= for names" if isinstance(target, str) else None,
    )


def _require_indices(target: Tensor, images: int) -> Tensor:
    if target.shape != (images,) or target.is_floating_point() or target.dtype == torch.bool:
        msg = "target does not fit the images"
        raise UsageError(msg, found=f"{target.dtype} {tuple(target.shape)}", wanted=f"int64 ({images},)")
    return target.to(torch.int64)
