"""The non-interference certificate: the audited network is after the audit what it was before."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.taps import run_pass

__all__ = ["Certificate", "Certification", "Fingerprint", "certify", "fingerprint"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything about a network that an audit could leave changed.

    Parameters
    ----------
    parameters_sha256, buffers_sha256 : str
        Over names, types, shapes and bytes.
    training : mapping of str to bool
        Per submodule; the network itself is ``""``.
    requires_grad : mapping of str to bool
        Per parameter.
    gradients : mapping of str to str
        Hash of each parameter's ``grad``, ``"none"`` where there is none.
    hooks : mapping of str to int
        Forward and backward hooks per submodule.
    forwards : mapping of str to bool
        Whether ``forward`` is overridden on the instance, per submodule.
    """

    parameters_sha256: str
    buffers_sha256: str
    training: Mapping[str, bool]
    requires_grad: Mapping[str, bool]
    gradients: Mapping[str, str]
    hooks: Mapping[str, int]
    forwards: Mapping[str, bool]

    def differences(self, after: Fingerprint) -> tuple[str, ...]:
        """Say what differs, one phrase per kind; empty when nothing does."""
        found = []
        for field in fields(self):
            old, new = getattr(self, field.name), getattr(after, field.name)
            if old != new:
                found.append(_difference(field.name, old, new))
        return tuple(found)


def _difference(kind: str, old: str | Mapping[str, object], new: str | Mapping[str, object]) -> str:
    if isinstance(old, str) or isinstance(new, str):
        return f"{kind} changed"
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    listed = ", ".join(name or "the network" for name in names[:3])
    return f"{kind} changed: {listed}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def fingerprint(module: nn.Module) -> Fingerprint:
    """Take the fingerprint of a network; reads every weight once and changes nothing.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    Fingerprint
    """
    parts = dict(module.named_modules())
    weights = dict(module.named_parameters())
    return Fingerprint(
        parameters_sha256=_digest(weights.items()),
        buffers_sha256=_digest(module.named_buffers()),
        training={name: part.training for name, part in parts.items()},
        requires_grad={name: weight.requires_grad for name, weight in weights.items()},
        gradients={
            name: "none" if weight.grad is None else _digest([(name, weight.grad)])
            for name, weight in weights.items()
        },
        hooks={name: sum(len(getattr(part, kind)) for kind in _HOOKS) for name, part in parts.items()},
        forwards={name: "forward" in vars(part) for name, part in parts.items()},
    )


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    state = sha256()
    for name, tensor in tensors:
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(values.view(torch.uint8).numpy().data)
    return state.hexdigest()


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certification found.

    Parameters
    ----------
    intact : bool
        The network is as it was and gives bit-equal logits.
    differences : tuple of str
        What is not as it was.
    parameters_sha256, buffers_sha256 : str
        Before.
    logits_equal : bool
        Bit-equal logits, in eval mode, on the probe images.
    probe_images : int
    rng_untouched : bool
        The random states of torch, numpy and python are those from before.
    """

    intact: bool
    differences: tuple[str, ...]
    parameters_sha256: str
    buffers_sha256: str
    logits_equal: bool
    probe_images: int
    rng_untouched: bool


class Certification:
    """Holds the certificate once the certified block has ended."""

    def __init__(self) -> None:
        self._certificate: Certificate | None = None

    @property
    def certificate(self) -> Certificate:
        """The certificate.

        Raises
        ------
        RuntimeError
            Inside the block, when nothing can be said yet.
        """
        if self._certificate is None:
            msg = "the certificate exists only after the certified block"
            raise RuntimeError(msg)
        return self._certificate


@contextmanager
def certify(module: nn.Module, images: Tensor) -> Iterator[Certification]:
    """Compare a network before and after a block, also when the block raises.

    Parameters
    ----------
    module : nn.Module
        In any state, such as some parts in train mode.
    images : Tensor, (image, channel, row, column)
        Probe batch.

    Yields
    ------
    Certification
        Its ``certificate`` can be read after the block.

    Examples
    --------
    >>> import torch
    >>> from wsss_probe.testing.models import planted_gap
    >>> network = planted_gap()
    >>> with certify(network, torch.rand(2, 3, 8, 8)) as certification:
    ...     _ = network.train()
    >>> certification.certificate.differences[0][:16]
    'training changed'
    """
    certification = Certification()
    before, logits, numbers = fingerprint(module), _logits(module, images), _random_state()
    try:
        yield certification
    finally:
        rng_untouched = numbers == _random_state()
        differences = before.differences(fingerprint(module))
        logits_equal = logits == _logits(module, images)
        certification._certificate = Certificate(
            intact=logits_equal and not differences,
            differences=differences,
            parameters_sha256=before.parameters_sha256,
            buffers_sha256=before.buffers_sha256,
            logits_equal=logits_equal,
            probe_images=len(images),
            rng_untouched=rng_untouched,
        )


def _logits(module: nn.Module, images: Tensor) -> bytes:
    logits = run_pass(module, images, ()).logits
    # bytes, because NaN differs from itself
    return b"" if logits is None else logits.cpu().contiguous().numpy().tobytes()


def _random_state() -> tuple[bytes, str, object]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()
