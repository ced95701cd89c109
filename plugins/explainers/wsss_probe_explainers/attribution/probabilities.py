"""A warning for networks that return probabilities: their gradients say little where they are sure."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsss_probe import LayerInfo

__all__ = ["look_like_probabilities", "warn_of_probabilities"]

_TYPES = {"Softmax", "Softmax2d", "Sigmoid"}


def look_like_probabilities(logits: Tensor) -> bool:
    """Whether outputs are all between 0 and 1 and sum to 1 for each image.

    Parameters
    ----------
    logits : Tensor, (image, class)
        Rows that are not finite say nothing.

    Examples
    --------
    >>> look_like_probabilities(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    True
    """
    rows = logits[logits.isfinite().all(1)].float()
    if not len(rows) or rows.shape[1] < 2:
        return False
    within = bool(((rows >= 0) & (rows <= 1)).all())
    return within and bool(
        torch.isclose(rows.sum(1), torch.ones(len(rows), device=rows.device), atol=1e-3).all()
    )


def warn_of_probabilities(logits: Tensor, layers: Sequence[LayerInfo]) -> None:
    """Warn the caller's caller if a network ends in softmax or sigmoid.

    Parameters
    ----------
    logits : Tensor, (image, class)
    layers : sequence of LayerInfo
        Of the network, in the order of execution.

    Warns
    -----
    UserWarning
    """
    run = [info for info in layers if info.calls]
    parts = [info for info in run if not any(other.name.startswith(info.name + ".") for other in run)]
    ends = bool(parts) and parts[-1].type in _TYPES and parts[-1].shape == tuple(logits.shape[1:])
    if ends or look_like_probabilities(logits):
        how = f"ends in {parts[-1].type}" if ends else "returns values between 0 and 1 that sum to 1"
        warnings.warn(
            f"the network {how}: gradients of probabilities vanish where it is sure, and mix in the other "
            "classes; remedy: let it return its logits, or give a callable target",
            stacklevel=3,
        )
