"""Maps of some images of a finished run once more: of changed images, or by a changed network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from wsss_probe.errors import ProbeError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from wsss_probe import Target
    from wsss_probe.contracts import Pair, Run

__all__ = ["Sample", "explain_again", "sample_of"]

_TOGETHER = 8
"""Images in one pass."""


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """Images of a run with the class that each map explains.

    Parameters
    ----------
    indices : ndarray of int, (image,)
        Positions in the manifest.
    images : Tensor, (image, channel, row, column)
    target : Target, or Tensor of int64 (image,)
        The class of each image, kept whatever a changed network says; a contrast stays one.
    """

    indices: NDArray[np.int64]
    images: Tensor
    target: Target | Tensor

    def parts(self) -> Iterator[Sample]:
        """Cut it into parts that one pass can take."""
        for start in range(0, len(self.indices), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            target = self.target[part] if isinstance(self.target, Tensor) else self.target
            yield Sample(self.indices[part], self.images[part], target)


def sample_of(run: Run, chosen: Sequence[int], explained: NDArray[np.floating], target: Target) -> Sample:
    """Read chosen images again; those that cannot be used are left out.

    Parameters
    ----------
    run : Run
    chosen : sequence of int
        Positions in the manifest.
    explained : ndarray of float, (image,)
        Class that is explained of every image of the run; NaN for a contrast.
    target : Target
        Of the run's maps.

    Returns
    -------
    Sample
    """
    usable = np.isfinite(run.logits.values).all(axis=1)
    kept = [index for index in chosen if index < len(usable) and usable[index]]
    images = run.inputs(kept)
    finite = images.isfinite().flatten(1).all(1)
    indices = np.array(kept, dtype=np.int64)[finite.cpu().numpy()]
    classes = np.asarray(explained)[indices]
    known = bool(np.isfinite(classes).all()) and len(classes) > 0
    wanted = torch.from_numpy(classes.astype(np.int64)).to(images.device) if known else target
    return Sample(indices, images[finite], wanted)


def explain_again(
    run: Run, sample: Sample, pairs: Sequence[Pair], module: nn.Module | None = None
) -> Mapping[Pair, NDArray[np.float32]]:
    """Compute maps of a sample.

    Parameters
    ----------
    run : Run
    sample : Sample
    pairs : sequence of (str, str)
    module : nn.Module, optional
        A changed copy of the network.

    Returns
    -------
    mapping of (str, str) to ndarray of float32, (image, row, column)
        Without the pairs that fail; all of them are tried one by one when one fails.
    """
    try:
        return _maps(run, sample, pairs, module)
    except (ProbeError, RuntimeError, ValueError):
        if len(pairs) < 2:
            return {}
    found: dict[Pair, NDArray[np.float32]] = {}
    for pair in pairs:
        found |= explain_again(run, sample, [pair], module)
    return found


def _maps(
    run: Run, sample: Sample, pairs: Sequence[Pair], module: nn.Module | None
) -> dict[Pair, NDArray[np.float32]]:
    parts = [run.explain(part.images, pairs, part.target, module) for part in sample.parts()]
    return {
        pair: np.concatenate([part[pair].detach().cpu().numpy().astype(np.float32) for part in parts])
        for pair in (pairs if parts else ())
    }
