"""Continue a pass from a layer: what lies before it is not computed again.

Interventions (a channel set to zero, a direction added) change one layer's activations and ask for
the logits. The part of the network before that layer is replaced by stand-ins of the right shape
filled with NaN, so a stand-in that the logits depend on cannot go unseen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from wsss_probe.errors import ModelError
from wsss_probe.evaluation import call_number, evaluating, find_module
from wsss_probe.layout import from_maps, prefix_tokens, to_maps
from wsss_probe.outputs import as_logits, map_tensors, only_tensor, with_tensor
from wsss_probe.precision import HALF, as_input, widened

if TYPE_CHECKING:
    from wsss_probe.contracts import LayerInfo

__all__ = ["Resumer"]

_TOLERANCE = 1e-5
# copies of a batch need not round alike in half precision; a stand-in that is read gives NaN anyway
_ROUNDINGS = 4

_Fill = Literal["shared", "own"]


class Resumer:
    """Logits from changed activations of one layer.

    Made once per network and layer. Whether the part before the layer can be left out is proved
    on the images given: the logits from stand-ins must be finite and equal those of the whole
    network to 1e-5 relative. Where they are not (a shortcut goes around the layer), the whole
    network runs and only the layer's output is replaced.

    Parameters
    ----------
    module : nn.Module
        Left as it is found.
    layer : LayerInfo
        A bare name of a module that runs more than once means its last call.
    images : Tensor, (image, channel, row, column)
        Real images; the first two serve the proof.

    Attributes
    ----------
    skips : bool
        Whether the part before the layer is left out.
    reason : str
        Why not, when it is not.

    Raises
    ------
    ModelError
        If the layer is unknown, never runs, or does not put out one tensor.

    Examples
    --------
    >>> import torch
    >>> from wsss_probe.layers import describe_layers
    >>> from wsss_probe.taps import run_pass
    >>> from wsss_probe.testing.models import branched
    >>> net, images = branched(), torch.rand(2, 3, 8, 8)
    >>> layer = next(info for info in describe_layers(net, images[:1]) if info.name == "block")
    >>> maps = run_pass(net, images, [layer]).activations["block"]
    >>> Resumer(net, layer, images)(maps.repeat(3, 1, 1, 1)).shape
    torch.Size([6, 3])
    """

    def __init__(self, module: nn.Module, layer: LayerInfo, images: Tensor) -> None:
        self._module = module
        self._layer = layer
        self._images = images
        self._trace = _traced(module, layer, as_input(images[:2], module))
        self._fill, self.reason = self._proved()

    @property
    def skips(self) -> bool:
        """Whether the part before the layer is left out."""
        return self._fill is not None

    def __call__(
        self, activations: Tensor, images: Tensor | None = None, prefix: Tensor | None = None
    ) -> Tensor:
        """Run the rest of the network.

        Parameters
        ----------
        activations : Tensor, (k * image, channel, row, column)
            ``k`` whole copies of the batch one after another; never written to. Cast to the type
            and put into the layout of the network.
        images : Tensor, (image, channel, row, column), optional
            The batch the activations come from; by default the images of the proof.
        prefix : Tensor, (image, prefix, channel), optional
            For a layer of tokens, those of the same pass that are in no map
            (``Captured.prefixes``); they stay as they are. Without them the batch is run for them.

        Returns
        -------
        Tensor, (k * image, class)

        Raises
        ------
        ModelError
            If the shape is not that of the layer's output for whole copies of the batch.
        """
        images = self._images if images is None else images
        shape = to_maps(self._layer.native, self._trace.activations).shape[1:]
        rows, batch = len(activations), len(images)
        if activations.shape[1:] != shape or rows == 0 or rows % batch:
            raise ModelError(
                f"activations do not fit layer {self._layer.name!r}",
                found=f"shape {tuple(activations.shape)}",
                wanted=f"(k * {batch}, {', '.join(map(str, shape))})",
            )
        if self._layer.native.prefix and prefix is None:
            prefix = self._own_prefix(images)
        native = self._native(activations, prefix)
        images = as_input(images, self._module)
        if self._fill is not None and images.shape[1:] == self._trace.images.shape[1:]:
            return widened(self._rest(native, self._fill))
        return widened(self._whole(native, images.repeat(rows // batch, *[1] * (images.ndim - 1))))

    def _native(self, activations: Tensor, prefix: Tensor | None) -> Tensor:
        """Maps as the network orders and types them."""
        return from_maps(self._layer.native, activations, prefix).to(self._trace.activations.dtype)

    def _own_prefix(self, images: Tensor) -> Tensor | None:
        if images is self._images and len(images) == len(self._trace.images):
            return prefix_tokens(self._layer.native, self._trace.activations)
        return prefix_tokens(
            self._layer.native, _traced(self._module, self._layer, as_input(images, self._module)).activations
        )

    def _proved(self) -> tuple[_Fill | None, str]:
        wanted = self._trace.logits.repeat(2, 1)
        dtype = wanted.dtype
        tolerance = _ROUNDINGS * torch.finfo(dtype).eps if dtype in HALF else _TOLERANCE
        allowed = tolerance * float(wanted.abs().max())
        # through maps and back, so that the layout is proved as well
        own, layout = self._trace.activations, self._layer.native
        twice = self._native(torch.cat([to_maps(layout, own)] * 2), prefix_tokens(layout, own))
        fills: tuple[_Fill, ...] = ("shared", "own")
        reason = ""
        for fill in fills:
            try:
                found = self._rest(twice, fill)
            except RuntimeError as error:  # an operation that a stand-in cannot serve
                reason = f"a stand-in before {self._layer.name!r} fails: {str(error).splitlines()[0]}"
                continue
            if float((found - wanted).abs().max()) <= allowed:
                return fill, ""
            reason = f"the logits depend on what lies before {self._layer.name!r} in other ways too"
        return None, reason

    def _rest(self, native: Tensor, fill: _Fill) -> Tensor:
        rows = len(native)
        stand_in = partial(_stand_in, of=len(self._trace.images), rows=rows, fill=fill, like=native)
        outputs: dict[nn.Module, list[Any]] = {
            part: [map_tensors(output, stand_in) for output in calls]
            for part, calls in self._trace.before.items()
        }
        outputs.setdefault(self._target, []).append(self._output(native))
        # the values of the images must not matter either
        images = stand_in(self._trace.images)
        return self._run({part: _in_turn(part, calls) for part, calls in outputs.items()}, images)

    def _whole(self, native: Tensor, images: Tensor) -> Tensor:
        output = self._output(native)
        return self._run({self._target: _at_call(self._target, self._trace.call, output)}, images)

    def _run(self, forwards: Mapping[nn.Module, Callable[..., Any]], images: Tensor) -> Tensor:
        with evaluating(self._module), torch.inference_mode(False), torch.no_grad(), _replaced(forwards):
            return as_logits(self._module(images), len(images))

    @property
    def _target(self) -> nn.Module:
        return find_module(self._module, self._layer.name)

    def _output(self, native: Tensor) -> Any:
        # the caller keeps what was handed over, also where the network overwrites it
        given = native.clone() if self._layer.inplace or native.is_inference() else native
        return with_tensor(self._trace.output, only_tensor(self._trace.output, self._layer.name), given)


# -- what runs before a layer ------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module while a pass is followed."""

    part: nn.Module
    caller: _Call | None


@dataclass(slots=True)
class _Trace:
    """One pass, as far as it matters for a later one that begins at a layer."""

    target: nn.Module
    call: int
    images: Tensor
    running: list[_Call] = field(default_factory=list)
    ended: list[tuple[_Call, Any]] = field(default_factory=list)
    around: list[_Call] | None = None
    output: Any = None
    activations: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def before(self) -> dict[nn.Module, list[Any]]:
        """Outputs (without values) of the outermost calls that ended before the layer began."""
        outer: dict[nn.Module, list[Any]] = defaultdict(list)
        for call, output in self.ended:
            if call.caller is None or call.caller in (self.around or ()):
                outer[call.part].append(output)
        return dict(outer)


def _traced(module: nn.Module, layer: LayerInfo, images: Tensor) -> _Trace:
    call = call_number(layer)
    trace = _Trace(find_module(module, layer.name), call, images)
    runs: Counter[nn.Module] = Counter()

    def begin(part: nn.Module, _inputs: Any) -> None:
        if part is trace.target:
            if runs[part] == call:
                trace.around = list(trace.running)
            runs[part] += 1
        trace.running.append(_Call(part, trace.running[-1] if trace.running else None))

    def end(part: nn.Module, _inputs: Any, output: Any) -> None:
        ended = trace.running.pop()
        if trace.around is None:
            trace.ended.append((ended, map_tensors(output, _without_values)))
        elif part is trace.target and runs[part] == call + 1 and not len(trace.activations):
            trace.activations = only_tensor(output, layer.name).clone()
            trace.output = map_tensors(output, _without_values)

    with evaluating(module), torch.inference_mode(False), torch.no_grad(), ExitStack() as handles:
        for part in module.modules():
            handles.enter_context(part.register_forward_pre_hook(begin))
            handles.enter_context(part.register_forward_hook(end))
        trace.logits = as_logits(module(images), len(images))
    if trace.around is None:
        raise ModelError(f"layer {layer.name!r} never runs", remedy="run 'wsss-probe layers'")
    return trace


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _stand_in(tensor: Tensor, *, of: int, rows: int, fill: _Fill, like: Tensor) -> Tensor:
    """Fill a tensor of the same shape, for ``rows`` images instead of ``of``, with NaN."""
    first, *rest = tensor.shape or (0,)
    shape = (first // of * rows, *rest) if tensor.ndim and first % of == 0 else tuple(tensor.shape)
    value = torch.nan if tensor.is_floating_point() else 0
    one = torch.full((), value, dtype=tensor.dtype, device=like.device)
    return one.expand(shape) if fill == "shared" else one.expand(shape).clone()


# -- forwards replaced for a while -------------------------------------------------------------


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    own = {part: vars(part)["forward"] for part in forwards if "forward" in vars(part)}
    try:
        for part, forward in forwards.items():
            vars(part)["forward"] = forward
        yield
    finally:
        for part in forwards:
            vars(part).pop("forward", None)
            if part in own:
                vars(part)["forward"] = own[part]


def _in_turn(part: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
    """Return the outputs one after another, then run the module itself."""
    left, forward = iter(outputs), part.forward

    def next_output(*args: Any, **kwargs: Any) -> Any:
        for output in left:
            return output
        return forward(*args, **kwargs)

    return next_output


def _at_call(part: nn.Module, number: int, output: Any) -> Callable[..., Any]:
    """Run the module itself, but return ``output`` at one of its calls."""
    calls, forward = iter(range(number + 1)), part.forward

    def this_or_output(*args: Any, **kwargs: Any) -> Any:
        return output if next(calls, None) == number else forward(*args, **kwargs)

    return this_or_output
