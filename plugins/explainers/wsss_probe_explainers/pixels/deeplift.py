"""DeepLIFT by the rescale rule, where captum can do it, proved by its own axiom on every image."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe.evaluation import find_module, split_call
from wsss_probe.layers import describe_layers
from wsss_probe.precision import floating_dtype
from wsss_probe_explainers.pixels.cards import DEEPLIFT_CARD
from wsss_probe_explainers.pixels.on_input import OnInput, Some, require_positive
from wsss_probe_explainers.pixels.rectifiers import require_rectifiers_as_modules
from wsss_probe_explainers.pixels.replacements import Replacement, replaced, require_replacement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsss_probe import DefinitionCard
    from wsss_probe_explainers.pixels.scores import Score

__all__ = ["DeepLiftMap"]

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

_TOLERANCE = 1e-3
"""Largest gap of the axiom, as a share of the contributions without their signs; and as much again as
the network's own precision may round."""


@final
@dataclass(frozen=True, slots=True)
class DeepLiftMap(OnInput):
    """What each pixel contributed to the change of the score from a replacement to the image.

    Shrikumar, Greenside, Kundaje (2017), arXiv:1704.02685, rescale rule. Signed, in units of the
    score; its sum is the score of the image minus that of the replacement. Misleads where positive and
    negative parts of a unit cancel, and where the image has the replacement's colour.

    Parameters
    ----------
    replacement : {"zero", "mean-of-image", "blur"}
        The reference.
    internal_batch : int
        Most images in one pass, references counted.
    """

    replacement: Replacement = "zero"
    internal_batch: int = 16
    said: str = "Setting forward, backward hooks and attributes on non-linear"
    name: str = "deeplift"
    card: DefinitionCard = DEEPLIFT_CARD

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant."""
        require_positive(internal_batch=self.internal_batch)
        require_replacement(self.replacement)

    def at_once(self) -> int:
        """Half of what a pass may hold: the references go with the images."""
        return max(self.internal_batch // 2, 1)

    def require(self, network: nn.Module, images: Tensor) -> None:
        """Refuse a network that captum's rules get wrong or stumble over.

        Raises
        ------
        ModelError
            If a ReLU is no module, a non-linear module runs more than once, or max-pooling overlaps.
        """
        require_rectifiers_as_modules(network, images, self.card.title)
        _require_modules(network, images)

    def explain(self, score: Score, some: Some) -> Tensor:
        """Share out the change of the score, and prove that all of it was shared out.

        Raises
        ------
        ModelError
            If it was not: a kind of module that captum treats as if it were linear.
        """
        from captum.attr import DeepLift

        reference = replaced(some.images, self.replacement)
        with _apart(score.network):
            found: Tensor = DeepLift(score, eps=_smallest(score.network)).attribute(
                some.images, baselines=reference, additional_forward_args=(some.weights,)
            )
        _require_summation(found, score, some, reference)
        return found

    def joined(self, found: Tensor) -> Tensor:
        """Sum over colours."""
        return found.sum(1)


def _require_modules(network: nn.Module, images: Tensor) -> None:
    """Refuse modules that captum's rules get wrong or stumble over."""
    wrong: dict[str, str] = {}
    for info in describe_layers(network, images[:1].detach()):
        name = split_call(info.name)[0]
        module = find_module(network, name)
        # captum keeps the values of one call
        if info.calls > 1 and (isinstance(module, _POOLS) or _is_activation(module)):
            wrong[name] = f"{name} runs {info.calls} times"
        # captum unpools, and where windows overlap one of them overwrites the other
        if isinstance(module, _POOLS) and _overlaps(module):
            wrong[name] = f"{name} pools over windows that overlap"
    if wrong:
        raise ModelError(
            "DeepLIFT by captum does not suit this network",
            found=", ".join(list(wrong.values())[:3]),
            wanted="non-linear modules that run once and pools that do not overlap",
            remedy="use integrated-gradients",
        )


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _overlaps(pool: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) -> bool:
    sizes, strides = (
        side if isinstance(side, tuple) else (side,) for side in (pool.kernel_size, pool.stride)
    )
    return any(step < side for side, step in zip(sizes, strides, strict=False))


def _smallest(network: nn.Module) -> float:
    """Smallest change that is divided by: captum's own, or what float16 can divide by."""
    return 1e-4 if floating_dtype(network) == torch.float16 else 1e-10


@contextmanager
def _apart(network: nn.Module) -> Iterator[None]:
    """Put a copy between non-linear modules that follow each other.

    Captum hooks a module's output and the next one's input. Where these are the same tensor, as with a
    ReLU and the max-pooling after it, the ReLU is told the slope from before the pooling's rule.
    """
    modules = [m for m in network.modules() if isinstance(m, _POOLS) or _is_activation(m)]
    with ExitStack() as handles:
        for module in modules:
            handles.enter_context(module.register_forward_pre_hook(_copied))
        yield


def _copied(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def _require_summation(found: Tensor, score: Score, some: Some, reference: Tensor) -> None:
    with torch.no_grad():
        reached, began = score(some.images, some.weights), score(reference, some.weights)
    shares = found.detach().flatten(1)
    size = shares.abs().sum(1)
    rounding = 8 * torch.finfo(floating_dtype(score.network) or torch.float32).eps
    gap = (shares.sum(1) - (reached - began)).abs()
    allowed = (_TOLERANCE + rounding) * size + rounding * (reached.abs() + began.abs())
    wrong = ~(gap <= allowed) & reached.isfinite()
    if bool(wrong.any()):
        share = float((gap / size.clamp(min=1e-30))[wrong].max())
        raise ModelError(
            "DeepLIFT's contributions do not add up to the change of the score",
            found=f"a gap of {share:.2%} of them",
            wanted=f"at most {_TOLERANCE:.1%}: non-linear modules that captum knows",
            remedy="use integrated-gradients",
        )
