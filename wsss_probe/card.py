"""Model cards: a trained network on disk, with everything that an audit has to know about it.

A card is ``model.json`` beside ``model.safetensors``. It names a registry or a plugin's model source, never
code: a file that travels with weights must not decide what is executed. Its texts are untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from wsss_probe.atomic import write_atomically
from wsss_probe.checkpoint import read_checkpoint
from wsss_probe.errors import CorruptRunError, ModelError, UnsafeInputError, UsageError
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.weights_file import first_line, listed, printable
from wsss_probe.zoo import is_factory

__all__ = ["ModelCard", "read_card", "write_card"]

_CARD = "model.json"
_WEIGHTS = "model.safetensors"
_VERSION = 1
_LARGEST_CARD = 64 * 2**20


@dataclass(frozen=True)
class ModelCard:
    """A trained network's description; ``load_model`` needs nothing else.

    Parameters
    ----------
    source : str
        ``torchvision/<name>``, ``timm/<name>`` or the name of a plugin's model source.
    arguments : mapping
        Keyword arguments of the builder, as JSON can hold them.
    classes : tuple of str, (class,)
    multilabel : bool
        Whether every class has its own sigmoid.
    preprocessing : Preprocessing or None
    weights : str
        File name beside the card.
    sha256 : str
        Of that file.
    training : mapping
        How it was trained, as JSON can hold it; shown, never interpreted.
    """

    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    multilabel: bool = False
    preprocessing: Preprocessing | None = None
    weights: str = _WEIGHTS
    sha256: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)


def write_card(folder: str | Path, card: ModelCard, module: nn.Module) -> ModelCard:
    """Write weights and card into a folder; the card comes last, so a card always has its weights.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    card : ModelCard
        ``weights`` and ``sha256`` are filled in.
    module : nn.Module
        Built as ``card.source`` builds it.

    Returns
    -------
    ModelCard
        As written.

    Raises
    ------
    ModelError
        The card holds what JSON cannot, the weights are not finite, or the source is code.
    """
    folder = Path(folder)
    if is_factory(card.source):
        raise ModelError(
            "a model card cannot name code", found=card.source, wanted="a registry's or a plugin's name"
        )
    _encode(card)  # before anything is written
    tensors = _tensors(module)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{_WEIGHTS}.partial"
    safetensors.torch.save_file(tensors, partial, {"format": "pt"})
    try:
        card = replace(card, weights=_WEIGHTS, sha256=read_checkpoint(partial).sha256)
    except ModelError:
        partial.unlink()
        raise
    partial.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for the owner alone
    partial.replace(folder / _WEIGHTS)
    write_atomically(folder / _CARD, _encode(card))
    return card


def _encode(card: ModelCard) -> str:
    values = asdict(replace(card, preprocessing=None))
    values["preprocessing"] = card.preprocessing.to_dict() if card.preprocessing else None
    try:
        return json.dumps({"wsss_probe_model_card": _VERSION, **values}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ModelError(
            "model card cannot be written", found=first_line(error), wanted="values that JSON can hold"
        ) from error


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError("weights cannot be written", found=f"state that is no tensor: {listed(odd)}")
    # a clone each: safetensors refuses tensors that share their storage
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def read_card(folder: str | Path) -> ModelCard:
    """Read a card; the weights are not touched.

    Parameters
    ----------
    folder : path-like
        The folder, or the ``model.json`` in it.

    Raises
    ------
    UsageError
        There is no card.
    CorruptRunError
        It is no card of ours, or one of a newer version.
    UnsafeInputError
        It names code, or weights outside its folder.
    """
    path = Path(folder)
    path = path / _CARD if path.is_dir() else path
    values = _decoded(path)
    problem = _problem(values)
    if problem:
        raise CorruptRunError(f"{printable(str(path))} is no valid model card", found=problem)
    if is_factory(values["source"]) or Path(values["weights"]).name != values["weights"]:
        raise UnsafeInputError(
            f"refused model card {printable(str(path))}",
            found=printable(f"source {values['source']}, weights {values['weights']}"),
            wanted="a registry's or plugin's name, and a file beside the card",
        )
    preprocessing = values.pop("preprocessing")
    return ModelCard(
        **{**values, "classes": tuple(values["classes"])},
        preprocessing=None if preprocessing is None else Preprocessing.from_dict(preprocessing),
    )


def _decoded(path: Path) -> Any:
    try:
        if not path.is_file():
            raise UsageError(
                f"no model card at {printable(str(path))}", wanted=f"a folder with {_CARD}, or that file"
            )
        if path.stat().st_size > _LARGEST_CARD:
            raise UnsafeInputError(f"refused model card {printable(str(path))}", found="more than 64 MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(path))}", found=str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise CorruptRunError(f"{printable(str(path))} is no JSON", found=first_line(error)) from error
    return values


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "source": str,
    "arguments": dict,
    "classes": list,
    "multilabel": bool,
    "preprocessing": (dict, type(None)),
    "weights": str,
    "sha256": str,
    "training": dict,
}


def _problem(values: Any) -> str:
    """What keeps decoded JSON from being a card, or nothing; removes the version mark."""
    if not isinstance(values, dict) or values.pop("wsss_probe_model_card", None) != _VERSION:
        return f"no mark 'wsss_probe_model_card': {_VERSION}"
    if values.keys() != _TYPES.keys():
        return f"missing or unknown entries: {listed(sorted(values.keys() ^ _TYPES.keys()))}"
    wrong = [key for key, kind in _TYPES.items() if not isinstance(values[key], kind)]
    if not wrong and not all(isinstance(name, str) for name in values["classes"]):
        wrong = ["classes"]
    return f"entries of the wrong type: {listed(wrong)}" if wrong else ""
