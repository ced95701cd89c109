"""ReLUs that hooks on modules cannot see: what guided backpropagation and DeepLIFT would pass over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wsss_probe.errors import ModelError
from wsss_probe.evaluation import find_module
from wsss_probe.layers import describe_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsss_probe import LayerInfo

__all__ = ["rectifier_modules", "require_rectifiers_as_modules"]


@final
class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the ReLUs that are computed inside the block, of modules or not."""

    seen = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count one operation and compute it as always."""
        self.seen += func.overloadpacket in {torch.ops.aten.relu, torch.ops.aten.relu_}
        return func(*args, **(kwargs or {}))


def rectifier_modules(network: nn.Module, layers: Sequence[LayerInfo]) -> int:
    """Count the calls of ReLU modules in a forward pass.

    Parameters
    ----------
    network : nn.Module
    layers : sequence of LayerInfo
        As :func:`wsss_probe.layers.describe_layers` gives them, one for each call.

    Returns
    -------
    int
    """
    called = [find_module(network, layer.name) for layer in layers if layer.calls]
    return sum(isinstance(module, nn.ReLU) for module in called)


def require_rectifiers_as_modules(network: nn.Module, images: Tensor, method: str) -> None:
    """Refuse a network that computes a ReLU outside of ``nn.ReLU``.

    Parameters
    ----------
    network : nn.Module
        Lent.
    images : Tensor, (image, channel, row, column)
        The first is passed through.
    method : str
        For the message.

    Raises
    ------
    ModelError
    """
    with torch.no_grad(), _Counting() as counting:  # type: ignore[no-untyped-call]
        network(images[:1].detach().clone())
    hidden = counting.seen - rectifier_modules(network, describe_layers(network, images[:1].detach()))
    if hidden:
        raise ModelError(
            f"{method} changes what a ReLU passes back, and cannot reach all of them",
            found=f"{hidden} of {counting.seen} ReLUs computed outside of nn.ReLU",
            wanted="torch.relu and functional.relu replaced by nn.ReLU, one for each place",
            remedy="use integrated-gradients",
        )
