"""The probe agreement: how alike the maps of all explainers are, beside maps of different images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import INPUT, Conclusion, Needs, Observation, Probe
from wsss_probe_explainers.agreement.agreement_conclusion import concluded
from wsss_probe_explainers.agreement.agreement_section import sections
from wsss_probe_explainers.agreement.alike import FINEST, TOP, alike, common_grid, on_grid
from wsss_probe_explainers.agreement.twins import half_overlap, largest_difference, twins
from wsss_probe_explainers.sampling import evenly_spread

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Pair, Run

__all__ = ["Agreement"]


@final
@dataclass(frozen=True)
class Agreement(Probe):
    """How alike the relevance maps of an audit are, each with each.

    Two numbers per image and pair of maps: Spearman's rank correlation over the cells, and the IoU of the
    fifth of the area that each marks most, on the coarser of the two grids and no finer than 28 x 28. For
    maps of one method at one layer, by different packages or formulas, besides: the largest difference
    after min-max, and the IoU at one half of it, on their own grid. What agreement chance gives is
    measured on the same maps, of different images.

    Misleads: agreement is no proof. Explainers that read the same activations agree for that reason, also
    where all are wrong; a centred object in every image makes maps of different images alike, which is why
    those stand beside. Disagreement says that one at least does not show what the other does, not which.

    Parameters
    ----------
    images : int
        Whose maps are compared with those of other images.
    maps : tuple of (str, str)
        Explainers and layers; set by :meth:`split`.
    chosen : tuple of int
        Positions of those images; set by :meth:`split`.
    """

    images: int = 24
    maps: tuple[Pair, ...] = ()
    chosen: tuple[int, ...] = ()
    name: str = field(init=False, default="agreement")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Derive what the plan records."""
        settings = {"images": self.images, "finest": FINEST, "top": TOP}
        object.__setattr__(self, "options", {**settings, "maps": [", ".join(pair) for pair in self.maps]})

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Fix the order of the maps, layer by layer, and the images of the control; two maps at least."""
        places = {layer: at for at, layer in enumerate([*survey.layers, INPUT])}
        maps = tuple(sorted(survey.relevance, key=lambda pair: places[pair[1]]))
        chosen = evenly_spread(survey.images or self.images, self.images)
        return (replace(self, maps=maps, chosen=chosen),) if len(maps) > 1 else ()

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract's
        """Ask for all maps; the control is other images of the same network."""
        return Needs(relevance=True, controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Compare the maps of each image; keep those of a few images, to be compared across images.

        Returns
        -------
        Observation
            Rows ``correlation``, ``overlap`` (image, pair) and ``difference``, ``half_overlap``
            (image, twin), all NaN where undefined; partial ``kept`` (chosen, map, cell), each map on its
            own grid, at most 28 x 28, filled up with zeros, and ``present`` (chosen,).
        """
        maps = [batch.relevance[pair] for pair in self.maps]
        pairs = np.array(list(combinations(range(len(maps)), 2)))
        found = [each.numpy()[:, pairs[:, 0], pairs[:, 1]] for each in alike(maps, maps)]
        rows: dict[str, Any] = {
            "correlation": (("image", "pair"), found[0]),
            "overlap": (("image", "pair"), found[1]),
        }
        twin = [(maps[one], maps[other]) for one, other in twins(self.maps)]
        if twin:
            differences = torch.stack([largest_difference(*both) for both in twin], dim=1)
            overlaps = torch.stack([half_overlap(*both) for both in twin], dim=1)
            rows["difference"] = (("image", "twin"), differences.cpu().numpy())
            rows["half_overlap"] = (("image", "twin"), overlaps.cpu().numpy())
        couples = {"pair": pairs.tolist(), **({"twin": twins(self.maps)} if twin else {})}
        named = {name: [self._named(*couple) for couple in each] for name, each in couples.items()}
        return Observation(xr.Dataset(rows, named), self._kept(batch, maps))

    def _named(self, one: int, other: int) -> str:
        return f"{', '.join(self.maps[one])} | {', '.join(self.maps[other])}"

    def _kept(self, batch: Batch, maps: Sequence[Tensor]) -> xr.Dataset:
        """Maps of the chosen images in this batch, each at its own place."""
        small = [_flat(each) for each in maps]
        kept = np.zeros((len(self.chosen), len(maps), max(each.shape[1] for each in small)))
        present = np.zeros(len(self.chosen))
        places = {index: at for at, index in enumerate(self.chosen)}
        usable = batch.readable.cpu().numpy()
        for row, index in enumerate(batch.indices.tolist()):
            if index in places and usable[row]:
                present[places[index]] = 1
                for at, each in enumerate(small):
                    kept[places[index], at, : each.shape[1]] = each[row]
        tables = {"kept": (("chosen", "map", "cell"), kept), "present": ("chosen", present)}
        named = {"chosen": list(self.chosen), "map": [", ".join(pair) for pair in self.maps]}
        return xr.Dataset(tables, {**named, "cell": np.arange(kept.shape[2])})

    def conclude(self, run: Run) -> Conclusion:
        """Average over images, measure chance over different images, and tell of maps that are the same.

        Returns
        -------
        Conclusion
            By (explainer, other), both directions alike: ``correlation``, ``overlap`` with ``_low``,
            ``_high`` and ``_chance``, and ``n``; by (twin): the maps, ``difference``, ``half_overlap`` and
            ``correlation`` with intervals.
        """
        return concluded(self.maps, self.chosen, self.name, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG002  # the contract's
        """Show who agrees with whom, beside chance, and what goes by one name."""
        return sections(summary)


def _flat(maps: Tensor) -> np.ndarray:
    """Maps on their own grid or the finest that is compared, (image, cell).

    A map that is not finite becomes zeros: sums bear no NaN, and a constant map is undefined as well.
    """
    size = (maps.shape[1], maps.shape[2])
    small = on_grid(maps.cpu(), common_grid(size, size)).flatten(1)
    kept: np.ndarray = small.where(small.isfinite().all(1, keepdim=True), 0).numpy()
    return kept
