"""What captum is asked about: a lent network as a module that gives each image's score.

One score serves every method and every target: ``sum over classes of weight * logit`` with the weights
of ``batch.targets``, so that a contrast of classes is explained like a class. The weights travel as an
additional argument of the forward pass, which captum repeats along with the images.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe.outputs import as_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsss_probe import Batch

__all__ = ["Score", "scored"]


@final
class Score(nn.Module):
    """A network that returns each image's score instead of its logits.

    Parameters
    ----------
    network : nn.Module
        Anything whose output :func:`wsss_probe.outputs.as_logits` can read.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Give scores.

        Parameters
        ----------
        images : Tensor, (image, channel, row, column)
        weights : Tensor, (image, class)

        Returns
        -------
        Tensor, (image,)
        """
        # a copy, because a network may begin with an operation in place
        logits = as_logits(self.network(images.clone()), len(images))
        return (logits * weights).sum(1)


@contextmanager
def scored(batch: Batch, method: str, said: str = "") -> Iterator[Score]:
    """Borrow the network of a batch as its score.

    Parameters
    ----------
    batch : Batch
    method : str
        For messages.
    said : str
        How the warning begins that captum gives for this method on every call; it is dropped.

    Yields
    ------
    Score

    Raises
    ------
    ModelError
        In place of captum's and torch's RuntimeError: what cannot be explained, in one line.
    """
    with batch.lend() as network, warnings.catch_warnings():
        if said:
            warnings.filterwarnings("ignore", rf"\s*{said}", UserWarning)
        try:
            yield Score(network)
        except RuntimeError as error:
            # captum's messages run on for a paragraph
            reason = " ".join(str(error).split())
            raise ModelError(f"{method} cannot explain this network", found=reason[:160]) from error
