"""One forward pass, watched: activation functions, their silent channels, and what the logits come out of.

Modules show themselves by hooks, functions by a mode of torch that sees every call of a torch
function from Python. A symbolic trace would list the same calls, but only of networks that can be
traced, and of one way through them; the mode sees what really runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from wsss_probe.evaluation import evaluating
from wsss_probe.taps import run_pass

if TYPE_CHECKING:
    from wsss_probe.contracts import LayerInfo

__all__ = ["FirstNorm", "Rectified", "Watched", "opaque_parts", "watch"]

_RECTIFIERS = frozenset({"relu", "relu6"})
_ACTIVATIONS = _RECTIFIERS | {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish",
    "prelu", "rrelu", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh", "threshold",
}  # fmt: skip
_CLAMPS = frozenset({"clamp", "clamp_min", "clip"})
_NOTHING = torch.empty(0)  # stands for outputs that are no logits: keeping those would keep their memory
_ENDINGS = frozenset({"softmax", "log_softmax", "sigmoid", "logsigmoid"})


@final
@dataclass(frozen=True, slots=True)
class Rectified:
    """One call of a rectifier.

    Parameters
    ----------
    place : str
        Module that it is, or in whose forward it is called.
    answers : Tensor of bool, (channel,)
        Whether each channel is above zero anywhere.
    """

    place: str
    answers: Tensor


@final
@dataclass(frozen=True, slots=True)
class FirstNorm:
    """What the first BatchNorm of the pass was given.

    Parameters
    ----------
    name : str
    part : nn.Module
    mean, variance : Tensor of float64, (channel,)
    """

    name: str
    part: nn.Module
    mean: Tensor
    variance: Tensor


@final
@dataclass(frozen=True, slots=True)
class Watched:
    """What a pass showed.

    Parameters
    ----------
    logits : Tensor, (image, class)
    maps : mapping of str to Tensor
        Outputs of the audited layers, (image, channel, row, column) or (image, channel).
    functional : tuple of (str, str)
        Module and activation function that its own forward calls.
    rectified : tuple of Rectified
    ending : str
        The function whose output the logits are, of softmax and its kin; empty for none.
    first_norm : FirstNorm or None
    """

    logits: Tensor
    maps: Mapping[str, Tensor]
    functional: tuple[tuple[str, str], ...]
    rectified: tuple[Rectified, ...]
    ending: str
    first_norm: FirstNorm | None


def watch(module: nn.Module, images: Tensor, layers: Sequence[LayerInfo]) -> Watched:
    """Run a network once and keep what the linter asks for.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    images : Tensor, (image, channel, row, column)
    layers : sequence of LayerInfo
        Whose outputs are kept.

    Returns
    -------
    Watched
    """
    watcher = _Watcher(len(images))
    with evaluating(module), watcher.attached(module), _Calls(watcher):
        captured = run_pass(module, images, layers)
    assert captured.logits is not None  # noqa: S101  # asked for by default
    ending = next((name for name, out in reversed(watcher.endings) if _same(out, captured.logits)), "")
    functional = [call for call, out in watcher.functional if not _same(out, captured.logits)]
    return Watched(
        captured.logits,
        captured.activations,
        tuple(dict.fromkeys(functional)),
        tuple(watcher.rectified),
        ending,
        watcher.norm,
    )


def opaque_parts(module: nn.Module) -> list[str]:
    """Name the outermost parts that run outside Python, where no function can be seen."""
    found: list[str] = []
    for name, part in module.named_modules():
        compiled = type(part).__name__ == "OptimizedModule"
        inside = any(not outer or name.startswith(outer + ".") for outer in found)
        if (compiled or isinstance(part, torch.jit.ScriptModule)) and not inside:
            found.append(name)
    return [name or "the network" for name in found]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and one.untyped_storage().data_ptr() == (
        other.untyped_storage().data_ptr()
    )


@dataclass(slots=True)
class _Watcher:
    """Notes of one pass."""

    images: int
    inside: list[tuple[str, nn.Module]] = field(default_factory=list)
    functional: list[tuple[tuple[str, str], Tensor]] = field(default_factory=list)
    rectified: list[Rectified] = field(default_factory=list)
    endings: list[tuple[str, Tensor]] = field(default_factory=list)
    norm: FirstNorm | None = None

    @contextmanager
    def attached(self, module: nn.Module) -> Iterator[None]:
        """Follow which module's forward runs; the hooks are gone afterwards."""
        with ExitStack() as handles:
            for name, part in module.named_modules():
                if not isinstance(part, torch.jit.ScriptModule):
                    handles.enter_context(part.register_forward_pre_hook(partial(self._enter, name)))
                    handles.enter_context(part.register_forward_hook(self._leave))
            yield

    def _enter(self, name: str, part: nn.Module, inputs: Any) -> None:
        self.inside.append((name, part))
        if self.norm is None and isinstance(part, _BatchNorm) and inputs and isinstance(inputs[0], Tensor):
            values = inputs[0].detach().transpose(0, 1).flatten(1).double()
            self.norm = FirstNorm(name, part, values.mean(dim=1), values.var(dim=1, correction=0))

    def _leave(self, _part: nn.Module, _inputs: Any, _output: Any) -> None:
        self.inside.pop()

    def called(self, function: str, output: Any) -> None:
        """Note the call of a torch function."""
        if not self.inside or not isinstance(output, Tensor):
            return
        place, part = self.inside[-1]
        if function in _ACTIVATIONS and not _is_activation(part):
            self.functional.append(((place, function), _NOTHING if output.ndim > 2 else output))
        if function in _RECTIFIERS and output.ndim in {2, 3, 4}:
            self.rectified.append(Rectified(place or "the network", _answers(output)))
        if function in _ENDINGS and output.ndim <= 2 and len(output) == self.images:
            self.endings.append((function, output))


def _is_activation(part: nn.Module) -> bool:
    """Whether a module does nothing but an activation, so that it can be tapped like any layer."""
    own = [parameter for parameter in part.parameters(recurse=False) if parameter.numel() > 1]
    return isinstance(part, nn.PReLU) or (not own and next(part.children(), None) is None)


def _answers(output: Tensor) -> Tensor:
    """Whether each channel is above zero anywhere; channels are last in three dimensions (tokens)."""
    channel = 2 if output.ndim == 3 else 1
    return (output.detach() > 0).any(dim=tuple(d for d in range(output.ndim) if d != channel))


class _Calls(TorchFunctionMode):
    """Shows the watcher every torch function that Python calls."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", "")).rstrip("_")
        if name in _CLAMPS and _from_zero(args, kwargs or {}):
            name = "relu"
        if name in _ACTIVATIONS or name in _ENDINGS:
            self._watcher.called(name, output)
        return output


def _from_zero(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a clamp cuts at zero from below and nowhere else: a rectifier by another name."""
    lower = args[1] if len(args) > 1 else kwargs.get("min")
    upper = args[2] if len(args) > 2 else kwargs.get("max")
    return isinstance(lower, int | float) and lower == 0 and upper is None
