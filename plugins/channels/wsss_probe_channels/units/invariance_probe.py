"""The probe invariance, which asks whether a channel follows when the image moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_channels.evidence import evidence_layers
from wsss_probe_channels.units.invariance import Followed, chosen_images, follow
from wsss_probe_channels.units.invariance_conclusion import conclude
from wsss_probe_channels.units.invariance_section import sections
from wsss_probe_channels.units.motions import NAMES, motions

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["Invariance"]

DIMS = ("image", "channel", "transform")


@final
@dataclass(frozen=True)
class Invariance(Probe):
    """IoU of a channel's Otsu masks before and after the input is moved, the map moved back.

    For image n, channel k and motion T: ``B = A_k(x) > Otsu(A_k(x))``, ``C = T^-1 A_k(T x)`` thresholded
    alike, ``IoU = |B and C| / |B or C|`` (the claim of Feng et al., section 2.7, that some channels "are
    shift-invariant for object"). Motions: a shift by about an eighth of the map in whole cells, one by half
    a cell (moved back by interpolation), both right and down, what leaves the image coming in at the
    other side; mirrors; half a turn, and a quarter turn of square inputs. After a shift the cells that
    came in again are not compared, nor, as far as half of the map is left, those whose receptive field
    crosses the border; Otsu's threshold is that of the whole map, as in channel-F1.

    Misleads: a convolution follows a shift whatever its weights, so a network that learned nothing does it
    as well, and a high IoU alone is no evidence of a region; independent masks of coverages p and q have
    IoU ``pq / (p + q - pq)``, so a channel that is on everywhere follows everything; a layer of few cells has
    no half cell without error; strided layers are not mirrored exactly even by symmetric filters; the seam
    of the shifted image is an edge of its own; tissue has no upright, faces do.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`; empty stands for the layers of ``layers``.
    layers : str
        As :func:`wsss_probe_channels.evidence.evidence_layers`; each costs up to six passes of ``images``.
    images : int
        Images that are moved, chosen at random; the others have no rows.
    total, seed : int
        Images of the manifest (0: not known, the first ones are taken) and the survey's seed; set by
        :meth:`split`.
    receptive_field : int
        Of the layer, in input pixels; -1 if it is not known; set by :meth:`split`.

    Raises
    ------
    UsageError
        For less than one image.
    """

    layer: str = ""
    layers: str = "last"
    images: int = 32
    total: int = 0
    seed: int = 0
    receptive_field: int = -1
    name: str = field(init=False, default="invariance")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a number of images without a meaning; derive the name and what the plan records."""
        if self.images < 1:
            msg = "invariance needs images"
            raise UsageError(msg, found=str(self.images), wanted="a number from 1")
        names = ("layer", "layers", "images", "total", "seed", "receptive_field")
        object.__setattr__(self, "options", {name: getattr(self, name) for name in names})
        object.__setattr__(self, "name", f"invariance@{self.layer}" if self.layer else "invariance")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer, which knows its images and how far a cell sees."""
        if self.layer:
            return (self,)
        known = replace(self, total=survey.images, seed=survey.seed)
        fields = {name: survey.layers[name].receptive_field for name in evidence_layers(survey, self.layers)}
        return tuple(
            replace(known, layer=name, receptive_field=-1 if side is None else side)
            for name, side in fields.items()
        )

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps."""
        return Needs(layers=frozenset({self.layer} if self.layer else evidence_layers(survey, self.layers)))

    def moved(self) -> np.ndarray:
        """Positions in the manifest of the images that are moved, rising."""
        return chosen_images(self.total, self.images, self.seed) if self.total else np.arange(self.images)

    def observe(self, batch: Batch) -> Observation:
        """Move the chosen images of one batch; one without any costs nothing.

        Returns
        -------
        Observation
            Rows ``iou`` (image, channel, transform), NaN for images that were not chosen and where it
            is not defined; partial by (channel, transform): ``expected``, the sum over images of the
            IoU of independent masks, ``defined`` and ``degenerate``, images with and without an IoU.
        """
        maps = batch.activations[self.layer]
        here = np.isin(batch.indices, self.moved()) & batch.readable.cpu().numpy()
        iou = np.full((len(batch.indices), maps.shape[1], len(NAMES)), np.nan, dtype=np.float32)
        counts = {name: np.zeros(iou.shape[1:]) for name in ("expected", "defined", "degenerate")}
        if here.any():
            seen = self._follow(batch, torch.from_numpy(np.flatnonzero(here)).to(maps.device))
            iou[here] = seen.iou.cpu().numpy()
            counts = _counts(seen)
        coords = {"transform": np.array(NAMES, dtype=object)}
        partial = xr.Dataset({name: (DIMS[1:], value) for name, value in counts.items()}, coords=coords)
        return Observation(xr.Dataset({"iou": (DIMS, iou)}, coords=coords), partial)

    def _follow(self, batch: Batch, local: torch.Tensor) -> Followed:
        """Move some images of a batch, by their positions in it."""
        maps, images = batch.activations[self.layer][local], batch.images[local.to(batch.images.device)]
        size, grid = ((int(side[-2]), int(side[-1])) for side in (images.shape, maps.shape))
        field_of_view = self.receptive_field if self.receptive_field >= 0 else None
        return follow(
            images,
            maps,
            lambda moved: batch.activations_of(moved, (self.layer,))[self.layer],
            motions(size, grid, field_of_view),
        )

    def conclude(self, run: Run) -> Conclusion:
        """Compare the best channels with all live ones, and both with the controls'."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show how IoU is distributed over channels, every channel, and what the controls reach."""
        return sections(summary, run)


def _counts(seen: Followed) -> dict[str, np.ndarray]:
    """Sums over images; a motion that the layer does not allow counts nowhere."""
    defined = ~seen.iou.isnan()
    tried = torch.tensor(seen.tried, device=defined.device)
    sums = {
        "expected": seen.expected.double().nan_to_num(0).sum(0),
        "defined": defined.sum(0).double(),
        "degenerate": (~defined & tried).sum(0).double(),
    }
    return {name: value.cpu().numpy() for name, value in sums.items()}
