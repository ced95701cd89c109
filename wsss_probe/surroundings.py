"""What a plugin can disturb outside its own results: random states, torch settings, process.

:func:`read` before a call and :func:`restore` after it cost about 0.2 ms together, so every call of
a plugin can afford them. numpy and torch are looked at only when somebody has imported them.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe.contracts import Batch

__all__ = ["Reading", "batch_tensors", "mutated", "read", "restore", "versions"]


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is read before and put back after a call.

    Parameters
    ----------
    name : str
    get : callable
        Reads a value that compares with ``==``.
    put : callable
        ``put(before)`` restores it.
    by_import : bool
        Whether libraries change it when they are first imported (rich draws a number). It is put back
        then as well, but is not the plugin's deed.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], None]
    by_import: bool = False


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What :func:`read` found.

    Parameters
    ----------
    values : tuple of (Fact, value)
    environment : dict of str to str
    modules : int
        Modules imported so far.
    """

    values: tuple[tuple[Fact, Any], ...]
    environment: dict[str, str]
    modules: int


def read() -> Reading:
    """Read the surroundings.

    Returns
    -------
    Reading
    """
    facts = [*PROCESS_FACTS]
    if _imported("numpy", "random"):
        facts.append(NUMPY_FACT)
    if _imported("torch", "get_rng_state"):
        facts.extend(TORCH_FACTS)
        if _torch().cuda.is_initialized():
            facts.append(CUDA_FACT)
    return Reading(tuple((fact, fact.get()) for fact in facts), dict(os.environ), len(sys.modules))


def restore(before: Reading) -> tuple[str, ...]:
    """Put back what has changed since ``before``.

    Parameters
    ----------
    before : Reading

    Returns
    -------
    tuple of str
        What was changed, in words; empty when nothing was.
    """
    changed = []
    imports = len(sys.modules) > before.modules
    for fact, value in before.values:
        if fact.get() != value:
            fact.put(value)
            if not (fact.by_import and imports):
                changed.append(fact.name)
    variables = _restore_environment(before)
    if variables:
        changed.append(f"environment variables {', '.join(variables)}")
    return tuple(changed)


def versions(tensors: Iterable[Tensor]) -> tuple[tuple[Tensor, int], ...]:
    """Remember how often each tensor was written to.

    Parameters
    ----------
    tensors : iterable of Tensor
        Inference tensors keep no count and are left out.

    Returns
    -------
    tuple of (Tensor, int)
    """
    return tuple((tensor, tensor._version) for tensor in tensors if not tensor.is_inference())


def mutated(before: tuple[tuple[Tensor, int], ...]) -> int:
    """Count tensors that were written to since :func:`versions`.

    Parameters
    ----------
    before : tuple of (Tensor, int)

    Returns
    -------
    int
    """
    return sum(tensor._version != version for tensor, version in before)


def batch_tensors(batch: Batch) -> tuple[Tensor, ...]:
    """List every tensor that a batch lends to a plugin.

    Parameters
    ----------
    batch : Batch

    Returns
    -------
    tuple of Tensor
    """
    own = (batch.images, batch.labels, batch.readable, batch.logits)
    masks = () if batch.masks is None else (batch.masks,)
    return (*own, *masks, *batch.activations.values(), *batch.gradients.values())


# -- facts ------------------------------------------------------------------------------------


def _imported(module: str, attribute: str) -> bool:
    """Whether a module is there and imported to its end."""
    return hasattr(sys.modules.get(module), attribute)


def _torch() -> Any:
    return sys.modules["torch"]


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # Path.cwd is the same call, slower
    except FileNotFoundError:  # somebody removed the folder that we stand in
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _restore_environment(before: Reading) -> list[str]:
    """Put variables back and name them.

    Libraries set variables of their own when they are first imported (scikit-learn does); such an
    addition is neither the plugin's deed nor ours to undo.
    """
    now = dict(os.environ)
    if now == before.environment:
        return []
    imports = len(sys.modules) > before.modules
    named = []
    for name in sorted(now.keys() | before.environment.keys()):
        old = before.environment.get(name)
        if now.get(name) == old or (old is None and imports):
            continue
        named.append(name)
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old
    return named


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = sys.modules["numpy"].random.get_state()
    return (kind, keys.tobytes(), *rest)


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    numpy = sys.modules["numpy"]
    kind, keys, *rest = state
    numpy.random.set_state((kind, numpy.frombuffer(keys, numpy.uint32), *rest))


def _tensor(state: bytes) -> Tensor:
    tensor: Tensor = _torch().frombuffer(bytearray(state), dtype=_torch().uint8)
    return tensor


def _deterministic() -> tuple[bool, bool]:
    torch = _torch()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


PROCESS_FACTS: Final = (
    Fact("random state of Python", random.getstate, random.setstate, by_import=True),
    Fact("working folder", _folder, _enter),
)

NUMPY_FACT: Final = Fact("random state of numpy", _numpy_state, _set_numpy_state)

TORCH_FACTS: Final = (
    Fact(
        "random state of torch",
        lambda: _torch().get_rng_state().numpy().tobytes(),
        lambda state: _torch().set_rng_state(_tensor(state)),
    ),
    Fact(
        "number of torch threads",
        lambda: _torch().get_num_threads(),
        lambda number: _torch().set_num_threads(number),
    ),
    Fact(
        "default type of torch",
        lambda: _torch().get_default_dtype(),
        lambda dtype: _torch().set_default_dtype(dtype),
    ),
    Fact(
        "gradient mode of torch",
        lambda: _torch().is_grad_enabled(),
        lambda enabled: _torch().set_grad_enabled(enabled),
    ),
    Fact(
        "deterministic mode of torch",
        _deterministic,
        lambda state: _torch().use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
)

CUDA_FACT: Final = Fact(
    "random state of torch on CUDA",
    lambda: tuple(state.numpy().tobytes() for state in _torch().cuda.get_rng_state_all()),
    lambda states: _torch().cuda.set_rng_state_all([_tensor(state) for state in states]),
)
