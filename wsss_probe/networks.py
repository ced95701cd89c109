"""Further networks beside the audited one: other weights of the same architecture, on the same images."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsss_probe.checkpoint import load_into, read_checkpoint, tensor_digest
from wsss_probe.controls import CONTROL_KINDS
from wsss_probe.errors import ModelError, ProbeError, UsageError
from wsss_probe.first_pass import first_logits
from wsss_probe.layers import describe_layers
from wsss_probe.model import RANDOM, ModelRequest, load_model
from wsss_probe.names import display, nearest
from wsss_probe.survey import working_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsss_probe.config import AuditOptions
    from wsss_probe.contracts import LayerInfo, Layout, ModelSource
    from wsss_probe.plan import Execution

__all__ = ["Asked", "Audited", "Further", "load_networks"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.+-]*")
_KEYS: Final = ("model", "weights", "arguments")


@dataclass(frozen=True)
class Further:
    """A network to be compared with the audited one.

    Parameters
    ----------
    name : str
    origin : mapping
        How it was made, as JSON can hold it.
    module : nn.Module or None
        None for one that is made from the audited network as its controls are.
    control : str
        Kind and number of such a one, ``reinit-0``.
    """

    name: str
    origin: Mapping[str, Any]
    module: nn.Module | None = None
    control: str = ""

    @property
    def made(self) -> str:
        """How it was made, in words."""
        if self.control:
            return f"as control {self.control}"
        weights = self.origin.get("weights", "")
        return "drawn at random" if weights == RANDOM else f"weights {display(str(weights))}"


@dataclass(frozen=True)
class Asked:
    """What was asked for, and what may be done about it.

    Parameters
    ----------
    options : AuditOptions
    sources : mapping of str to ModelSource
        Of the installed plugins, by name.
    trust_code : bool
        Whether a factory may be run.
    """

    options: AuditOptions
    sources: Mapping[str, ModelSource]
    trust_code: bool = False


@dataclass(frozen=True)
class Audited:
    """What a further network must agree with.

    Parameters
    ----------
    module : nn.Module
    live : bool
        Whether it was handed over, so that nothing says how to build it again.
    examples : Tensor, (image, channel, row, column)
    layers : tuple of LayerInfo
        The audited ones.
    layouts : mapping of str to Layout
        Said by the user.
    classes : int
        Number of logits.
    execution : Execution
    """

    module: nn.Module
    live: bool
    examples: Tensor
    layers: tuple[LayerInfo, ...]
    layouts: Mapping[str, Layout]
    classes: int
    execution: Execution


def load_networks(asked: Asked, audited: Audited) -> tuple[Further, ...]:
    """Load the networks that the options name under ``models``, and hold them to the audited one.

    Parameters
    ----------
    asked : Asked
    audited : Audited

    Returns
    -------
    tuple of Further
        In the order of the options.

    Raises
    ------
    UsageError
        For a name that cannot be used, or an entry that names no network.
    ModelError
        For a network of another architecture; what loading raises, with the network's name.
    """
    return tuple(_further(name, entry, asked, audited) for name, entry in asked.options.models.items())


def _further(name: str, entry: str | Mapping[str, Any], asked: Asked, audited: Audited) -> Further:
    _require_name(name)
    kind, _, number = entry.partition("-") if isinstance(entry, str) else ("", "", "")
    if kind in CONTROL_KINDS and (not number or number.isdecimal()):
        control = f"{kind}-{number or 0}"
        return Further(name, {"control": control}, control=control)
    try:
        module, origin = _loaded(entry, asked, audited)
        _require_same(module, name, audited)
    except ProbeError as error:
        what = f"network '{name}': {error.what}"
        raise type(error)(what, found=error.found, wanted=error.wanted, remedy=error.remedy) from error
    return Further(name, origin, module)


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "audited" or name.rpartition("-")[0] in CONTROL_KINDS:
        msg = "name of a further network"
        raise UsageError(
            msg,
            found=display(name),
            wanted="lower case letters, digits and _ . + -, neither 'audited' nor the name of a control",
            remedy='[models] pretrained = "weights.safetensors"',
        )


def _loaded(
    entry: str | Mapping[str, Any], asked: Asked, audited: Audited
) -> tuple[nn.Module, Mapping[str, Any]]:
    said = _said(entry)
    weights = said.get("weights")
    if audited.live and "model" not in said:
        return _other_weights(audited.module, str(weights))
    options = asked.options
    request = ModelRequest(
        model=said.get("model", options.model),
        weights=weights,
        arguments={**options.model_arguments, **said.get("arguments", {})},
        trust_code=asked.trust_code,
        allow_missing=frozenset(options.allow_missing),
        allow_nonfinite=options.allow_nonfinite,
    )
    model = load_model(request, asked.sources)
    return model.module, model.provenance


def _said(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    """An entry as a table; a text is a folder with a network, or weights of the audited one's builder."""
    said = {"weights": entry} if isinstance(entry, str) else dict(entry)
    for key in said:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            raise UsageError(
                "unknown key", found=key, wanted=", ".join(_KEYS), remedy=f"did you mean '{near}'?"
            )
    if isinstance(entry, str) and entry != RANDOM and Path(entry).is_dir():
        return {"model": entry}
    weights = said.get("weights")
    if weights is not None and weights != RANDOM and not Path(weights).exists():
        kinds = ", ".join((RANDOM, *CONTROL_KINDS))
        raise UsageError("no such file", found=display(str(weights)), wanted=f"weights, a folder, or {kinds}")
    return said


def _other_weights(live: nn.Module, weights: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load weights into a copy of a network that was handed over."""
    if weights == RANDOM:
        msg = "nothing says how a network that was handed over is built anew"
        raise UsageError(msg, remedy=f"use one of {', '.join(CONTROL_KINDS)}")
    module = copy.deepcopy(live)
    checkpoint = read_checkpoint(weights)
    load_into(module, checkpoint)
    origin = {"weights": Path(weights).name, "weights_sha256": checkpoint.sha256}
    return module, {**origin, "tensor_digest": tensor_digest(module)}


def _require_same(module: nn.Module, name: str, audited: Audited) -> None:
    """Refuse a network whose audited layers or logits are others."""
    working = working_copy(module, audited.execution)
    logits = int(first_logits(working, audited.examples[:1], name).shape[1])
    if logits != audited.classes:
        raise ModelError(
            "another number of outputs than the audited network",
            found=str(logits),
            wanted=str(audited.classes),
            remedy="compare networks with the same head",
        )
    described = describe_layers(working, audited.examples[:1], audited.layouts)
    found = {layer.name: layer for layer in described}
    for layer in audited.layers:
        other = found.get(layer.name)
        if other is None or other.shape != layer.shape:
            raise ModelError(
                f"another architecture than the audited network, at layer '{layer.name}'",
                found=str(other.shape) if other else _similar(layer.name, list(found)),
                wanted=str(layer.shape),
            )


def _similar(name: str, others: Sequence[str]) -> str:
    near = nearest(name, others)
    return f"no such layer, nearest '{near}'" if near else "no such layer"
