"""What a layer says about an image, as the numbers that concepts are regressed on: mean, maximum or sketch.

Means are what the host keeps anyway. The others are streamed by a probe of their own, only when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, final, get_args

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Survey
    from wsss_probe.contracts import Network, Run

__all__ = ["FEATURES", "LONGEST_SKETCH", "Features", "RcvFeatures", "concept_layers", "features_of", "sketch"]

Features = Literal["mean", "max", "projected"]
FEATURES: Final[tuple[str, ...]] = get_args(Features)

LONGEST_SKETCH: Final = 512
"""Numbers that flattened maps are brought down to; shorter ones are taken as they are."""

_SEED: Final = 20_201_019
"""Of the signs: the same in every network and batch, or sketches could not be compared."""


def concept_layers(survey: Survey) -> tuple[str, ...]:
    """Audited layers with maps or vectors, in the order of execution."""
    return tuple(name for name, info in survey.layers.items() if info.layout in {"maps", "vector"})


def sketch(maps: Tensor, length: int = LONGEST_SKETCH) -> Tensor:
    """Project flattened maps with random signs.

    Every position of every channel is added to, or subtracted from, one of ``length`` sums, drawn once for
    all (Charikar, Chen and Farach-Colton 2004, doi:10.1016/S0304-3975(03)00400-6; as a projection Clarkson
    and Woodruff 2013, arXiv:1207.6365). Inner products are kept on average, with a relative error of about
    1/sqrt(length); a direction in these numbers is one in the maps, but not of channels.

    Parameters
    ----------
    maps : Tensor, (image, ...)
    length : int

    Returns
    -------
    Tensor of float32, (image, feature)
        The flattened maps themselves where they are no longer than that.

    Examples
    --------
    >>> sketch(torch.ones(2, 3, 4, 4)).shape, sketch(torch.ones(2, 64, 4, 4)).shape
    (torch.Size([2, 48]), torch.Size([2, 512]))
    """
    flat = maps.flatten(1).float()
    if flat.shape[1] <= length:
        return flat
    random = np.random.default_rng(_SEED)
    place = torch.from_numpy(random.integers(length, size=flat.shape[1])).to(flat.device)
    sign = torch.from_numpy(random.choice(np.array([-1.0, 1.0], np.float32), flat.shape[1])).to(flat.device)
    sums = torch.zeros(len(flat), length, device=flat.device)
    return sums.index_add_(1, place, flat * sign)


def features_of(network: Run | Network, layer: str, features: str) -> np.ndarray:
    """Read the features of one layer of one network.

    Parameters
    ----------
    network : Run or Network
    layer : str
    features : {"mean", "max", "projected"}

    Returns
    -------
    ndarray of float64, (image, feature)
        NaN for images that could not be read.
    """
    values = (
        network.pooled(layer) if features == "mean" else network.rows(f"rcv-features@{layer}")["features"]
    )
    return np.asarray(values.values, dtype=np.float64)


def require_features(features: str) -> None:
    """Refuse a word that names no features.

    Raises
    ------
    UsageError
    """
    if features not in FEATURES:
        msg = "features of rcv are not known"
        raise UsageError(msg, found=str(features), wanted=" or ".join(FEATURES))


@final
@dataclass(frozen=True)
class RcvFeatures(Probe):
    """Maxima or sketches of one layer's maps, kept for the regressions.

    Misleads: a maximum over positions follows one cell, and with a larger grid it is larger by chance. A
    sketch mixes channels and positions, so its direction says nothing of a channel; with 512 numbers and a
    few hundred images ordinary least squares fits anything.

    Parameters
    ----------
    layer : str
    features : {"max", "projected"}

    Raises
    ------
    UsageError
        For other features.
    """

    layer: str
    features: str = "max"
    name: str = field(init=False)
    options: Mapping[str, Any] = field(init=False, hash=False)

    def __post_init__(self) -> None:
        """Refuse unknown features; derive the name and what the plan records."""
        require_features(self.features)
        object.__setattr__(self, "name", f"rcv-features@{self.layer}")
        object.__setattr__(self, "options", {"layer": self.layer, "features": self.features})

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract's signature
        """Ask for the layer and nothing else."""
        return Needs(layers=frozenset({self.layer}))

    def observe(self, batch: Batch) -> Observation:
        """Reduce one batch.

        Returns
        -------
        Observation
            Rows ``features`` (image, feature) of float32; a map with a value that is not finite is NaN.
        """
        maps = batch.activations[self.layer]
        made = sketch(maps) if self.features == "projected" else _largest(maps).float()
        whole = torch.isfinite(made).all(1, keepdim=True)
        values = made.masked_fill(~whole, torch.nan).cpu().numpy()
        rows = xr.Dataset(
            {"features": (("image", "feature"), values)}, coords={"feature": np.arange(values.shape[1])}
        )
        return Observation(rows)

    def conclude(self, run: Run) -> Conclusion:
        """Say how many numbers there are; what they mean is concluded by the regressions."""
        rows = run.rows(self.name)
        return Conclusion(xr.Dataset(attrs={**self.options, "length": rows.sizes["feature"]}))


def _largest(maps: Tensor) -> Tensor:
    """Maximum over positions, (image, channel); a vector has one position."""
    return maps.flatten(2).amax(2) if maps.ndim > 2 else maps
