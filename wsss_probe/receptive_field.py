"""Receptive fields: which input pixels one cell of a map can see.

Followed operation by operation through one forward pass, so functional calls, shortcuts and
branches count as well as modules. An operation that is not known to be local (a global mean, a
matrix product, a transposed convolution, a reshape) ends the knowledge: nothing is guessed.

References
----------
Araujo, Norris, Sim (2019), Computing receptive fields of convolutional neural networks,
doi:10.23915/distill.00021, equations 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Field", "Footprints", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """Input pixels seen along one axis: cell ``i`` sees ``first + i * step`` and ``size - 1`` more."""

    first: int = 0
    size: int = 1
    step: int = 1

    def windowed(self, size: int, stride: int, before: int, dilation: int = 1) -> Span:
        """See through a window of ``size`` cells that begins ``before`` cells early."""
        return Span(
            self.first - before * self.step,
            self.size + (size - 1) * dilation * self.step,
            self.step * stride,
        )

    def joined(self, other: Span) -> Span:
        """See what either sees; both must step alike."""
        first = min(self.first, other.first)
        end = max(self.first + self.size, other.first + other.size)
        return Span(first, end - first, self.step)


Field = tuple[Span, Span]
"""What a cell sees along (row, column)."""

_Rule = Callable[[Field, Sequence[Any]], Field | None]


class Footprints(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow what each tensor of a forward pass sees of an image.

    Tensors of the pass are kept until this object goes.

    Parameters
    ----------
    image : Tensor, (1, channel, row, column)

    Examples
    --------
    >>> image = torch.rand(1, 3, 32, 32)
    >>> with torch.no_grad(), Footprints(image) as footprints:
    ...     maps = torch.nn.functional.conv2d(image, torch.rand(4, 3, 7, 7), stride=2, padding=3)
    >>> footprints.side(maps)
    7
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive = [image]
        self._seen: dict[_Key, Field | None] = {_key(image): (Span(), Span())}

    def side(self, tensor: Tensor) -> int | None:
        """Return the longer side of the receptive field in input pixels, None where it is not known."""
        field = self._seen.get(_key(tensor))
        return None if field is None else max(span.size for span in field)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what its result sees."""
        result = func(*args, **(kwargs or {}))
        sources = [
            tensor for tensor in _tensors([*args, *(kwargs or {}).values()]) if _key(tensor) in self._seen
        ]
        if sources:
            self._note(func, args, sources, list(_tensors([result])))
        return result

    def _note(self, func: Any, args: Sequence[Any], sources: list[Tensor], results: list[Tensor]) -> None:
        field = self._result(func, args, sources, results)
        for tensor in results:
            if func._schema.is_mutable:
                self._forget_views(tensor)
            self._seen[_key(tensor)] = field
        # a freed storage could come back under the same address
        self._alive += results

    def _result(
        self, func: Any, args: Sequence[Any], sources: list[Tensor], results: list[Tensor]
    ) -> Field | None:
        rule = _rule(func, sources, results)
        fields = [self._seen[_key(tensor)] for tensor in sources]
        field = _joined(fields)
        return None if rule is None or field is None else rule(field, args)

    def _forget_views(self, tensor: Tensor) -> None:
        """Other views of a storage that is written to are not followed."""
        own = _key(tensor)
        for key in self._seen:
            if key[0] == own[0] and key != own:
                self._seen[key] = None


_Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def _key(tensor: Tensor) -> _Key:
    # not the identity: a view may come back as another object
    place = tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())
    return *place, tuple(tensor.shape), tuple(tensor.stride())


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _joined(fields: Sequence[Field | None]) -> Field | None:
    first, *rest = fields
    for other in rest:
        if first is None or other is None or any(a.step != b.step for a, b in zip(first, other, strict=True)):
            return None
        first = first[0].joined(other[0]), first[1].joined(other[1])
    return first


# -- operations --------------------------------------------------------------------------------


def _rule(func: Any, sources: Sequence[Tensor], results: Sequence[Tensor]) -> _Rule | None:
    maps = [*sources, *results[:1]]  # what else an operation returns is indices or statistics
    if any(tensor.ndim != 4 for tensor in maps):
        return None
    name = func.overloadpacket.__name__
    if rule := _LOCAL.get(name):
        return rule
    alike = len({tensor.shape[2:] for tensor in maps}) == 1
    pointwise = torch.Tag.pointwise in func.tags or name in _POINTWISE
    return _same if alike and pointwise else None


def _same(field: Field, _args: Sequence[Any]) -> Field:
    return field


def _convolution(field: Field, args: Sequence[Any]) -> Field | None:
    weight, (stride, padding, dilation, transposed) = args[1], args[3:7]
    return None if transposed else _window(field, weight.shape[2:], stride, padding, dilation)


def _pooling(field: Field, args: Sequence[Any]) -> Field:
    kernel, stride, padding = (list(args[1:4]) + [None] * 3)[:3]
    dilation = args[4] if len(args) > 4 and not isinstance(args[4], bool) else 1
    return _window(field, kernel, stride or kernel, padding or 0, dilation)


def _window(field: Field, size: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    per_axis = zip(field, _pair(size), _pair(stride), _pair(padding), _pair(dilation), strict=True)
    row, column = (span.windowed(k, s, p, d) for span, k, s, p, d in per_axis)
    return row, column


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return (values[0], values[-1])


def _padding(field: Field, args: Sequence[Any]) -> Field:
    left, _, top, _ = [*args[1], 0, 0, 0, 0][:4]
    return field[0].windowed(1, 1, top), field[1].windowed(1, 1, left)


def _batch_norm(field: Field, args: Sequence[Any]) -> Field | None:
    statistics_of_this_batch = len(args) > 5 and args[5] is True
    return None if statistics_of_this_batch else field


def _cat(field: Field, args: Sequence[Any]) -> Field | None:
    return field if len(args) > 1 and args[1] in {1, -3} else None


def _split(field: Field, args: Sequence[Any]) -> Field | None:
    return field if len(args) > 2 and args[2] in {1, -3} else None


def _slice(field: Field, args: Sequence[Any]) -> Field | None:
    dimension, start, _, step = (list(args[1:]) + [0, 0, 0, 1][len(args) - 1 :])[:4]
    if dimension % 4 < 2:
        return field
    if (start or 0) < 0:
        return None
    spans = list(field)
    spans[dimension % 4 - 2] = spans[dimension % 4 - 2].windowed(1, step, -(start or 0))
    return spans[0], spans[1]


_LOCAL: dict[str, _Rule] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _pooling,
    "constant_pad_nd": _padding,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _same,
    "cudnn_batch_norm": _batch_norm,
    "cat": _cat,
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
}

_POINTWISE = {
    "hardswish",
    "hardswish_",
    "hardsigmoid",
    "hardsigmoid_",
    "clone",
    "detach",
    "alias",
    "_to_copy",
}
