"""Preprocessing as data: how a picture becomes the network's input."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final, get_args

from wsss_probe.errors import UsageError
from wsss_probe.names import nearest

__all__ = ["NAMED", "Crop", "Interpolation", "Order", "Preprocessing"]

Crop = Literal["center", "none"]
Interpolation = Literal["bilinear", "bicubic", "nearest", "box"]
Order = Literal["rgb", "bgr"]

_CHOICES = {"crop": get_args(Crop), "interpolation": get_args(Interpolation), "order": get_args(Order)}
_LARGEST_SIDE = 20_000


@final
@dataclass(frozen=True)
class Preprocessing:
    """How pixels become network input: ``value = (pixel / scale - mean) / std``, pixel 0..255.

    Parameters
    ----------
    size : (int, int) or None
        Row and column of the network input, in pixels. None keeps the size of the image (after
        ``resize``); all images must then have the same size.
    resize : int or None
        Shorter side before a centre crop, in pixels; None resizes straight to ``size``.
    crop : {"center", "none"}
        A centre crop needs ``size``. An image that is smaller than the crop is enlarged to cover it.
    interpolation : {"bilinear", "bicubic", "nearest", "box"}
        Antialiased, on 8-bit pixels (Pillow); masks always use the nearest pixel.
    scale : float
        Divisor of the pixel values, larger than 0.
    mean, std : tuple of float, (channel,)
        In the channel order of the network: blue first when ``order`` is ``"bgr"``.
    order : {"rgb", "bgr"}
    channels : {1, 3}
        1 means luminance (ITU-R 601), as Pillow's mode ``L``.

    Raises
    ------
    UsageError
        A value is not possible, or two values contradict each other.

    Examples
    --------
    >>> Preprocessing.parse("imagenet").size
    (224, 224)
    >>> Preprocessing.parse("unit size=96x128 channels=1").to_dict()["size"]
    [96, 128]
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    crop: Crop = "none"
    interpolation: Interpolation = "bilinear"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    order: Order = "rgb"
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def parse(cls, text_or_path: str | Path, own: Preprocessing | None = None) -> Preprocessing:
        """Read a name, a TOML or JSON file, or ``key=value`` pairs that may follow a name.

        ``size`` without ``resize`` means: resize straight to that size. ``order=bgr`` after a name
        turns that name's mean and std round as well. A single number stands for all channels.

        Parameters
        ----------
        text_or_path : str or Path
            ``imagenet``, ``imagenet size=96 mean=.7,.54,.69``, ``size=224x160 order=bgr``, ``p.toml``.
        own : Preprocessing, optional
            What the network brings: pairs without a name change that, so that ``size=64`` keeps its
            mean and std. Without it they start from ``unit``.

        Returns
        -------
        Preprocessing

        Raises
        ------
        UsageError
            Unknown name or key (the nearest is named), or a value that is not possible.
        """
        if isinstance(text_or_path, Path) or text_or_path.strip().endswith((".toml", ".json")):
            path = Path(text_or_path) if isinstance(text_or_path, Path) else Path(text_or_path.strip())
            return cls.from_dict(_read(path))
        return _from_settings(_pairs(text_or_path), own)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON and TOML can hold them, None as None."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Make from what :meth:`to_dict` gave, or from part of it; ``base`` may name a start.

        Raises
        ------
        UsageError
            Unknown key (the nearest is named), or a value that is not possible.
        """
        return _from_settings(values)


_KEYS = tuple(field.name for field in fields(Preprocessing))


# -- from text to settings --------------------------------------------------------------------


def _pairs(text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for position, token in enumerate(text.split()):
        key, equals, value = token.partition("=")
        if not equals and position == 0:
            key, value = "base", token
        elif not equals or not value:
            raise UsageError("preprocessing not understood", found=token, wanted="key=value")
        if key in settings:
            raise UsageError("preprocessing names a key twice", found=key)
        settings[key] = value
    if not settings:
        raise UsageError(
            "preprocessing is empty", wanted=f"one of {', '.join(NAMED)}, a file or key=value pairs"
        )
    return settings


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(f"preprocessing file not readable: {path}", found=str(error.strerror)) from error
    except ValueError as error:
        raise UsageError(f"preprocessing file not understood: {path}", found=str(error)) from error
    if not isinstance(values, dict):
        raise UsageError(f"preprocessing file not understood: {path}", wanted="a table of keys and values")
    return values


def _from_settings(settings: Mapping[str, Any], own: Preprocessing | None = None) -> Preprocessing:
    for key in settings:
        if key not in (*_KEYS, "base"):
            remedy = f"did you mean {nearest(key, _KEYS)}?"
            raise UsageError("unknown key in preprocessing", found=key, remedy=remedy)
    given = {key: _READERS[key](key, value) for key, value in settings.items() if key != "base"}
    start = _named(settings["base"]) if "base" in settings else own or Preprocessing()
    return replace(start, **_completed(start, given))


def _named(name: Any) -> Preprocessing:
    if str(name) not in NAMED:
        wanted = f"one of {', '.join(NAMED)}, a .toml or .json file, or key=value pairs"
        remedy = f"did you mean {nearest(str(name), NAMED)}?"
        raise UsageError("unknown preprocessing", found=str(name), wanted=wanted, remedy=remedy)
    return NAMED[str(name)]


def _completed(start: Preprocessing, given: dict[str, Any]) -> dict[str, Any]:
    """Add what follows from the given values, so that the start never contradicts them."""
    result = dict(given)
    size = given.get("size", start.size)
    if size != start.size:
        result.setdefault("resize", None)
    if {"size", "resize"} & result.keys():
        both = size is not None and result.get("resize", start.resize) is not None
        result.setdefault("crop", "center" if both else "none")
    return result | _per_channel(start, given)


def _per_channel(start: Preprocessing, given: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    turned = given.get("order", start.order) != start.order
    channels = given.get("channels", start.channels)
    result = {}
    for key in ("mean", "std"):
        kept: tuple[float, ...] = getattr(start, key)[:: -1 if turned else 1]
        values = given.get(key, kept)
        same = len(set(values)) == 1
        result[key] = (values[0],) * channels if same and channels in {1, 3} else values
    return result


# -- values -----------------------------------------------------------------------------------


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"preprocessing: {key} is not a number", found=str(value))
    return number


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    if not parts:
        raise UsageError(f"preprocessing: {key} is empty", wanted="one number, or one per channel")
    return tuple(_number(key, part) for part in parts)


def _whole(key: str, value: Any) -> int:
    number = _number(key, value)
    if number != int(number):
        raise UsageError(f"preprocessing: {key} is not a whole number", found=str(value))
    return int(number)


def _whole_or_none(key: str, value: Any) -> int | None:
    return None if value in ("none", None) else _whole(key, value)


def _size(key: str, value: Any) -> tuple[int, int] | None:
    if value in ("none", None):
        return None
    parts = value.lower().split("x") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    if len(parts) not in {1, 2}:
        wanted = "one number, or ROWxCOLUMN such as 224x160"
        raise UsageError(f"preprocessing: {key} is not a size", found=str(value), wanted=wanted)
    return _whole(key, parts[0]), _whole(key, parts[-1])


def _word(key: str, value: Any) -> str:
    word = str(value).lower()
    if word not in _CHOICES[key]:
        raise UsageError(f"preprocessing: unknown {key}", found=str(value), wanted=", ".join(_CHOICES[key]))
    return word


_READERS = {
    "size": _size,
    "resize": _whole_or_none,
    "crop": _word,
    "interpolation": _word,
    "scale": _number,
    "mean": _numbers,
    "std": _numbers,
    "order": _word,
    "channels": _whole,
}


def _check(spec: Preprocessing) -> None:
    for what, found, wanted in (*_problems(spec), *_unknown_words(spec)):
        raise UsageError(f"preprocessing: {what}", found=found, wanted=wanted)


def _unknown_words(spec: Preprocessing) -> Iterator[tuple[str, str, str]]:
    for key, words in _CHOICES.items():
        if getattr(spec, key) not in words:
            yield f"unknown {key}", str(getattr(spec, key)), ", ".join(words)


def _problems(spec: Preprocessing) -> Iterator[tuple[str, str, str]]:
    sides = [*(spec.size or ()), *([] if spec.resize is None else [spec.resize])]
    if not all(1 <= side <= _LARGEST_SIDE for side in sides):
        yield "a size is out of range", str(sides), f"1 to {_LARGEST_SIDE} pixels"
    if spec.channels not in {1, 3}:
        yield "channels is not possible", str(spec.channels), "1 or 3"
    lengths = (len(spec.mean), len(spec.std))
    if lengths != (spec.channels, spec.channels):
        found = f"{lengths[0]} and {lengths[1]} values for channels={spec.channels}"
        yield "mean and std do not fit the channels", found, "one number, or one per channel"
    if not all(map(math.isfinite, (spec.scale, *spec.mean, *spec.std))):
        yield "a number is not finite", str((spec.scale, spec.mean, spec.std)), "finite numbers"
    if min(spec.scale, *spec.std) <= 0:
        yield "scale and std must be larger than 0", f"scale {spec.scale}, std {spec.std}", "more than 0"
    if spec.crop == "center" and spec.size is None:
        yield "a centre crop needs a size", "size none", "size=ROWxCOLUMN"
    if spec.crop == "none" and spec.size and spec.resize:
        found = f"resize {spec.resize}, size {spec.size}"
        yield "resize and size contradict each other without a crop", found, "crop=center, or resize=none"


def _imagenet_like(
    size: int, resize: int | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    crop: Crop = "none" if resize is None else "center"
    return Preprocessing(size=(size, size), resize=resize, crop=crop, mean=mean, std=std)


NAMED: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "imagenet": _imagenet_like(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "unit": Preprocessing(),
        "cifar10": _imagenet_like(32, None, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "inception": _imagenet_like(299, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "tf": Preprocessing(scale=127.5, mean=(1.0, 1.0, 1.0)),
    }
)
"""Preprocessings known by name; ``tf`` is ``x / 127.5 - 1``."""
