"""Fusion: maps of several layers or explainers made one, as an explainer built of explainers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final, get_args

import torch
from torch.nn.functional import interpolate

from wsss_probe import DefinitionCard, Explainer
from wsss_probe.errors import UsageError
from wsss_probe_explainers.cams.cards import FUSION_CARD

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Head, LayerInfo, Target

__all__ = ["Fusion", "Way", "fuse"]

Way = Literal["mean", "max", "weighted"]
"""How maps are combined at each place."""


def fuse(maps: Sequence[Tensor], grid: tuple[int, int], weights: Sequence[float] | None = None) -> Tensor:
    """Combine maps of different grids: largest value at each place, or a weighted mean.

    Each map is divided by its own largest absolute value first (a map of zeros stays one), then
    resized bilinearly with ``align_corners=False``.

    Parameters
    ----------
    maps : sequence of Tensor, (image, row, column)
        Each on its own grid.
    grid : (int, int)
        Row and column of the result.
    weights : sequence of float, optional
        One per map, divided by their sum; without, the largest value wins.

    Returns
    -------
    Tensor, (image, row, column)
        Between -1 and 1; NaN where one of the maps is.

    Examples
    --------
    >>> fine, coarse = torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[2.0]]])
    >>> fuse([fine, coarse], (1, 2), [1.0, 1.0]).tolist()
    [[[0.5, 1.0]]]
    """
    resized = torch.stack([_resized(_relative(heat), grid) for heat in maps])
    if weights is None:
        return resized.amax(0)
    shares = torch.tensor([weight / math.fsum(weights) for weight in weights], device=resized.device)
    return (resized * shares.view(-1, 1, 1, 1)).sum(0)


def _relative(heat: Tensor) -> Tensor:
    peak = heat.float().abs().amax((1, 2), keepdim=True)
    return heat.float() / peak.where(peak != 0, 1)


def _resized(heat: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(heat.shape[1:]) == grid:
        return heat
    return interpolate(heat[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]


@final
@dataclass(frozen=True, slots=True)
class Fusion(Explainer):
    """One map out of several: of explainers of this plugin, at several layers.

    Parameters
    ----------
    of : str or sequence of str
        Explainers whose maps are fused.
    layers : sequence of str
        Layers of which each of them makes a map. The first one gives the grid and must be the
        finest. Empty (as offered) suits no layer.
    how : {"mean", "max", "weighted"}
    weights : sequence of float
        For ``"weighted"``: one per map, the layers of the first explainer first.
    name : str
    card : DefinitionCard
    gradients : bool
        Always true here: gradients are asked for, whether or not a part reads them.
    default : bool
        False: without options there is nothing to fuse.

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    of: str | Sequence[str] = "layercam"
    layers: str | Sequence[str] = ()
    how: Way = "mean"
    weights: Sequence[float] = ()
    name: str = "fusion"
    card: DefinitionCard = FUSION_CARD
    gradients: bool = True
    default: bool = False

    def __post_init__(self) -> None:
        """Refuse options that cannot be meant; as offered, without layers, there is nothing to refuse."""
        if self.how not in get_args(Way):
            msg = "unknown way to fuse maps"
            raise UsageError(msg, found=str(self.how), wanted=" or ".join(get_args(Way)))
        if _names(self.layers):
            _require_parts(self)
        _require_weights(self)

    @property
    def parts(self) -> tuple[tuple[Explainer, str], ...]:
        """Explainer and layer of each map that is fused."""
        offered = _offered()
        return tuple((offered[name], layer) for name in _names(self.of) for layer in _names(self.layers))

    def accepts(self, layer: LayerInfo, head: Head) -> str:
        """Refuse every layer but the one on whose grid the map lies."""
        names = _names(self.layers)
        if not names:
            return 'has no layers to fuse: give them in a run file, [explainers.fusion] layers = ["…", "…"]'
        if layer.name != names[0]:
            return f"the map lies on the grid of {names[0]!r}, the first of the fused layers"
        refused = [f"{part.name}: {said}" for part, _ in self.parts if (said := part.accepts(layer, head))]
        return "; ".join(refused[:1])

    def reads(self, layer: str, layers: Mapping[str, LayerInfo]) -> tuple[str, ...]:
        """Name what the parts read at all fused layers.

        Raises
        ------
        UsageError
            If another layer is finer than the first.
        """
        grids = {name: layers[name].shape[1:] for name in _names(self.layers) if name in layers}
        finer = [name for name, grid in grids.items() if math.prod(grid) > math.prod(grids.get(layer, grid))]
        if finer:
            msg = f"{self.name}: {layer!r} is not the finest of the fused layers"
            raise UsageError(msg, found=f"{finer[0]!r} is finer", remedy="name the finest layer first")
        return tuple(dict.fromkeys(name for part, own in self.parts for name in part.reads(own, layers)))

    def explains(self, target: Target) -> Target:
        """Explain what the parts explain; they agree on it."""
        parts = self.parts
        return parts[0][0].explains(target) if parts else target

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Make the map of every part and fuse them on the grid of the first layer.

        Returns
        -------
        Tensor, (image, row, column)
            Between -1 and 1, known up to no factor: each part counts by its places alone. NaN where
            a part's map is.
        """
        maps = [part.attribute(batch, own, target) for part, own in self.parts]
        row, column = batch.activations[layer].shape[2:]
        weights = {"mean": [1.0] * len(maps), "max": None, "weighted": self.weights}
        return fuse(maps, (row, column), weights[self.how])


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def _offered() -> dict[str, Explainer]:
    """Explainers of this plugin with a map on a layer's grid, by name."""
    from wsss_probe_explainers import wsss_probe_explainers

    found = [item for item in wsss_probe_explainers() if item.grid == "layer"]
    return {item.name: item for item in found if not isinstance(item, Fusion)}


def _require_parts(fusion: Fusion) -> None:
    offered = _offered()
    unknown = [name for name in _names(fusion.of) if name not in offered]
    if unknown or not _names(fusion.of):
        msg = "no such maps to fuse"
        raise UsageError(msg, found=", ".join(unknown) or "none", wanted=", ".join(offered))
    explained = {offered[name].explains("predicted") for name in _names(fusion.of)}
    if len(explained) > 1:
        msg = "maps that explain different targets cannot be fused"
        raise UsageError(msg, found=", ".join(_names(fusion.of)))


def _require_weights(fusion: Fusion) -> None:
    if fusion.how != "weighted":
        if fusion.weights:
            msg = "weights are given, but maps are not fused by weight"
            raise UsageError(msg, found=f"how = {fusion.how!r}", wanted="how = 'weighted'")
        return
    count = len(_names(fusion.of)) * len(_names(fusion.layers))
    fine = all(isinstance(w, int | float) and 0 <= w < math.inf for w in fusion.weights)
    if not fine or len(fusion.weights) != count or sum(fusion.weights) == 0:
        msg = "weights do not fit the fused maps"
        raise UsageError(msg, found=str(list(fusion.weights)), wanted=f"{count} numbers from 0, not all 0")
