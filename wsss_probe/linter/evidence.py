"""What the model linter looks at: the network as it came, and what a few passes show of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from wsss_probe.evaluation import evaluating
from wsss_probe.linter.watching import Watched, watch
from wsss_probe.taps import run_pass

if TYPE_CHECKING:
    import numpy as np

    from wsss_probe.contracts import LayerInfo
    from wsss_probe.preprocessing import Preprocessing

__all__ = ["Evidence", "Known", "gather", "logits_of"]

_NOISY = 8
_SEED = 0


@final
@dataclass(frozen=True, slots=True)
class Known:
    """What is known besides the network and some images of it.

    Parameters
    ----------
    audited : tuple of str
        Layers that are looked at channel by channel.
    labels : ndarray of bool, (image, class), or None
        Of the examples; a row without a truth is an unknown label, for several logits.
    groups : ndarray or None, (image,)
        Unit of independence of the examples.
    multilabel : bool
    preprocessing : Preprocessing or None
        How the examples were prepared.
    made_up : bool
        Whether the examples are noise, so that they say nothing about data.
    flags : nn.Module or None
        The network as it was handed over, where the passes run on a copy of it.
    """

    audited: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    multilabel: bool = False
    preprocessing: Preprocessing | None = None
    made_up: bool = False
    flags: nn.Module | None = None


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks may look at.

    Parameters
    ----------
    module : nn.Module
        Whose passes were watched.
    flags : nn.Module
        The network as it was handed over.
    examples : Tensor, (image, channel, row, column)
    layers : mapping of str to LayerInfo
        All of them.
    known : Known
    passed : Watched or Exception
        The pass over the examples, or why there is none.
    provoked : Watched or Exception
        The pass over made-up images: negatives of examples, and noise.
    """

    module: nn.Module
    flags: nn.Module
    examples: Tensor
    layers: Mapping[str, LayerInfo]
    known: Known
    passed: Watched | Exception
    provoked: Watched | Exception

    @property
    def seen(self) -> Watched:
        """The pass over the examples; raises what it raised."""
        return _required(self.passed)

    @property
    def strained(self) -> Watched:
        """The pass over made-up images; raises what it raised."""
        return _required(self.provoked)

    @property
    def images(self) -> str:
        """The examples in words."""
        return f"{len(self.examples)} {'made-up ' * self.known.made_up}images"


def _required(found: Watched | Exception) -> Watched:
    if isinstance(found, Exception):
        raise found
    return found


def gather(module: nn.Module, examples: Tensor, layers: Sequence[LayerInfo], known: Known) -> Evidence:
    """Run the network twice, on the examples and on made-up images, and keep what was seen.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    examples : Tensor, (image, channel, row, column)
    layers : sequence of LayerInfo
    known : Known

    Returns
    -------
    Evidence
    """
    number = len(examples)
    labels = None if known.labels is None else known.labels[:number]
    known = replace(known, labels=labels, groups=None if known.groups is None else known.groups[:number])
    by_name = {layer.name: layer for layer in layers}
    audited = [by_name[name] for name in known.audited if name in by_name]
    look = partial(_tried, module, layers=audited)
    flags = module if known.flags is None else known.flags
    passes = look(examples), look(_provoking(examples))
    return Evidence(module, flags, examples, by_name, known, *passes)


def _tried(module: nn.Module, images: Tensor, layers: Sequence[LayerInfo]) -> Watched | Exception:
    try:
        return watch(module, images, layers)
    except Exception as error:  # noqa: BLE001  # each check that needs the pass says so
        return error


def _provoking(examples: Tensor) -> Tensor:
    """Negatives of some examples, and noise about their mean: what is silent here too is dead."""
    some = examples[:_NOISY]
    centre = examples.mean(dim=(0, 2, 3), keepdim=True)
    spread = examples.std(dim=(0, 2, 3), keepdim=True, correction=0).clamp(min=1e-3)
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(some.shape, generator=generator).to(some)
    return torch.cat([2 * centre - some, centre + 2 * spread * noise])


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    """Logits of other images, (image, class), in eval mode."""
    with evaluating(module):
        logits = run_pass(module, images, ()).logits
    assert logits is not None  # noqa: S101  # asked for by default
    return logits
