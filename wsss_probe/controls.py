"""Networks that have learned nothing, to be audited beside the one that has.

An effect that a control shows as well is no evidence of learning. A control counts only if it is
alive: a network whose features do not vary over images is beaten by everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from wsss_probe.errors import UsageError
from wsss_probe.precision import as_input

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ALIVE_SHARE", "CONTROL_KINDS", "is_alive", "make_control", "parse_controls"]

ALIVE_SHARE: Final = 0.01
"""A control's pooled features must vary at least this share as much as the audited network's."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose2d)


def parse_controls(text: str | Iterable[str]) -> tuple[str, ...]:
    """Expand ``shuffled:3,reinit`` into ``shuffled-0, shuffled-1, shuffled-2, reinit-0``.

    Parameters
    ----------
    text : str or iterable of str
        ``none`` or an empty text for no control.

    Raises
    ------
    UsageError
        For a kind that does not exist or a number that is not a positive integer.
    """
    items = text.split(",") if isinstance(text, str) else list(text)
    names: list[str] = []
    for item in (part.strip() for part in items):
        if item in {"", "none"}:
            continue
        kind, _, number = item.partition(":")
        if kind not in CONTROL_KINDS:
            msg = "unknown control"
            raise UsageError(msg, found=kind, wanted=", ".join(CONTROL_KINDS), remedy="--controls shuffled:3")
        if number and (not number.isdecimal() or int(number) < 1):
            msg = f"number of '{kind}' controls is not a positive integer"
            raise UsageError(msg, found=number, remedy=f"--controls {kind}:3")
        names += [f"{kind}-{seed}" for seed in range(int(number or 1))]
    return tuple(dict.fromkeys(names))


def make_control(name: str, model: nn.Module, batches: Iterable[Tensor], seed: int = 0) -> nn.Module:
    """Make a control network; the given one is left as it is.

    Parameters
    ----------
    name : str
        Kind and number, ``shuffled-0``.
    model : nn.Module
    batches : iterable of Tensor, (image, channel, row, column)
        Images, without labels, to adapt statistics of normalisation layers.
    seed : int
        Of the audit; the number in ``name`` is added.

    Returns
    -------
    nn.Module
        In eval mode.
    """
    kind, _, number = name.rpartition("-")
    control = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1000 * seed + int(number))
    with torch.no_grad():
        CONTROL_KINDS[kind](control, generator)
        _calibrate(control, kind, [as_input(images, control) for images in batches])
    return control.eval()


def is_alive(control: xr.DataArray, audited: xr.DataArray) -> bool:
    """Whether a control's layer responds to images at all.

    Parameters
    ----------
    control, audited : DataArray, (image, channel)
        Pooled features of one layer.

    Returns
    -------
    bool
        Median over channels of the standard deviation over images is finite and at least
        ``ALIVE_SHARE`` of the audited network's.
    """
    spread = _median_spread(control)
    return bool(np.isfinite(spread) and spread > 0 and spread >= ALIVE_SHARE * _median_spread(audited))


def _median_spread(pooled: xr.DataArray) -> float:
    values = np.asarray(pooled.values, dtype=np.float64)
    kept = values[np.isfinite(values).all(axis=1)]
    return float(np.median(kept.std(axis=0))) if len(kept) else float("nan")


def _shuffle(model: nn.Module, generator: torch.Generator) -> None:
    """Permute every parameter within its own tensor: same values, nothing learned."""
    for parameter in model.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _reinitialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw Xavier-uniform weights, zero biases, and neutral normalisation layers."""
    for module in model.modules():
        if isinstance(module, _WEIGHTED):
            fresh = torch.empty(module.weight.shape)
            nn.init.xavier_uniform_(fresh, generator=generator)
            module.weight.copy_(fresh)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, _NORMS) and module.affine:
            module.weight.fill_(1.0)
            module.bias.zero_()


CONTROL_KINDS: Mapping[str, Callable[[nn.Module, torch.Generator], None]] = {
    "shuffled": _shuffle,
    "reinit": _reinitialise,
}


def _calibrate(model: nn.Module, kind: str, batches: list[Tensor]) -> None:
    """Adapt normalisation to the images, or scale layer by layer where there is none."""
    if any(isinstance(module, _NORMS) and module.track_running_stats for module in model.modules()):
        with _cumulative_statistics(model):
            for images in batches:
                model(images)
    elif kind == "reinit" and batches:
        with _unit_variance(model):
            model.eval()(batches[0])


@contextmanager
def _cumulative_statistics(model: nn.Module) -> Iterator[None]:
    """Let normalisation layers, and only those, learn plain averages over what passes."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


@contextmanager
def _unit_variance(model: nn.Module) -> Iterator[None]:
    """Scale each weighted layer, in the order of execution, to outputs of unit variance."""

    def scale(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        spread = output.std()
        if not torch.isfinite(spread) or spread <= 0:
            return output
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight.div_(spread)
        return output / spread

    handles = [m.register_forward_hook(scale) for m in model.modules() if isinstance(m, _WEIGHTED)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
