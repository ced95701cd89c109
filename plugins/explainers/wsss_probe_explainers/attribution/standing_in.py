"""A network that stands in for a user's: it adds further inputs, and a score in place of the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["StandIn", "one_by_one", "stand_in"]


@final
class StandIn(nn.Module):
    """A network with some of its inputs fixed, or with another output.

    It shares the parts of the network under their own names and adds nothing to it, so that layers
    are called as the user calls them.

    Parameters
    ----------
    network : nn.Module
    inputs : sequence
        Given after the images. Tensors hold one image and are repeated for as many as are passed.
    score : callable or None
        From the network's output to scores, Tensor (image,).
    """

    network: nn.Module
    inputs: tuple[Any, ...]
    score: Callable[..., Tensor] | None

    def __init__(
        self, network: nn.Module, inputs: Sequence[Any], score: Callable[..., Tensor] | None
    ) -> None:
        super().__init__()
        shared = {name: vars(network)[name] for name in ("_modules", "_parameters", "_buffers")}
        # not as a part: parts keep their names
        vars(self).update(shared, network=network, inputs=tuple(inputs), score=score)
        self.training = network.training

    def forward(self, images: Tensor) -> Any:
        """Give what the network gives, or the score as the only logit, (image, 1)."""
        output = self.network(images, *(_repeated(value, len(images)) for value in self.inputs))
        if self.score is None:
            return output
        found = self.score(output)
        if not isinstance(found, Tensor) or found.shape != images.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            msg = "the callable target gives no score for each image"
            raise UsageError(msg, found=str(shape), wanted=f"a Tensor (image,), here ({len(images)},)")
        return found[:, None]


def _repeated(value: Any, images: int) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == images:
        return value
    return value.expand(images, *value.shape[1:]) if len(value) == 1 else value


def stand_in(network: nn.Module, inputs: Sequence[Any], score: Callable[..., Tensor] | None) -> nn.Module:
    """Return the network itself where nothing has to be added to it."""
    return StandIn(network, inputs, score) if inputs or score is not None else network


def one_by_one(inputs: Sequence[Any], images: int) -> list[tuple[Any, ...]]:
    """Split further inputs by image: tensors with one entry for each, everything else as it is."""

    def part(value: Any, index: int) -> Any:
        by_image = isinstance(value, Tensor) and value.ndim > 0 and len(value) == images
        return value[index : index + 1] if by_image else value

    return [tuple(part(value, index) for value in inputs) for index in range(images)]
