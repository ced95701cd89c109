"""Concept measure: all thirteen Haralick features per distance, mean and range over directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, View
from wsss_probe.errors import UsageError
from wsss_probe_concepts.measures.grey import (
    check_levels,
    check_whole_numbers,
    grey_levels,
    quantised,
    refusal,
    refused,
)
from wsss_probe_concepts.measures.haralick_features import DIFFERENCE_VARIANCES, FEATURES, haralick_features
from wsss_probe_concepts.measures.pixel_pairs import count_pairs
from wsss_probe_concepts.measures.regions import (
    IMAGE,
    OBJECTS,
    available,
    check_regions,
    large_enough,
    means_of_known,
    numbered,
    place,
    where,
)

__all__ = ["DIRECTIONS", "Haralick"]

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Rows down and columns right: horizontal, falling, vertical, rising."""

_UNITS = {
    "contrast": "grey levels squared",
    "sum of squares": "grey levels squared",
    "sum average": "grey levels",
    "sum variance": "grey levels squared",
    "sum entropy": "bits",
    "entropy": "bits",
    "difference entropy": "bits",
}


@final
@dataclass(frozen=True)
class Haralick(ConceptMeasure):
    """Texture by how grey levels stand beside each other, in four directions.

    Parameters
    ----------
    distances : tuple of int
        Pixels between the two of a pair, along rows and columns.
    levels : int
        Grey levels after quantisation, 2 to 256.
    regions : tuple of str
        ``"image"``, ``"mask"``, ``"objects"`` or names of mask classes; what the data lack is left out.
    difference_variance : {"probabilities", "differences"}
        Which reading of feature 10; mahotas takes the first.
    smallest : int
        Pixels that an object must have.

    Raises
    ------
    UsageError
        An option that cannot be meant.
    """

    distances: Sequence[int] = (1,)
    levels: int = 256
    regions: Sequence[str] = (IMAGE,)
    difference_variance: str = "probabilities"
    smallest: int = 20

    name = "haralick"
    default = True
    card = DefinitionCard(
        title="Haralick's texture features",
        formula="thirteen functions of P(i, j), the share of pairs of pixels at a distance that have"
        " grey levels i and j; mean and range (largest less smallest) over 0, 45, 90 and 135 degrees",
        paper="Haralick, Shanmugam, Dinstein (1973), Textural features for image classification,"
        " doi:10.1109/TSMC.1973.4309314",
        symbols="P symmetric, sums to 1; grey levels from 0; entropies in bits; as in mahotas 1.4",
        invariances=("mean and range: rotation by 90 degrees and reflection",),
        misleads="Resizing, compression, focus and noise change every feature more than most tissue does."
        " With few pixels for 256 levels, angular second moment and entropies measure the number of pixels."
        " Most of the thirteen go together; read partial R2.",
        bibtex="@article{Haralick1973, author={Haralick, R. M. and Shanmugam, K. and Dinstein, I.},"
        " title={Textural Features for Image Classification},"
        " journal={IEEE Transactions on Systems, Man, and Cybernetics}, volume={SMC-3}, number={6},"
        " pages={610--621}, year={1973}}",
    )

    def __post_init__(self) -> None:
        check_whole_numbers(self.distances, "distances", self.name)
        check_levels(self.levels, self.name)
        check_regions(self.regions, self.name)
        check_whole_numbers([self.smallest], "smallest object", self.name)
        if self.difference_variance not in DIFFERENCE_VARIANCES:
            raise UsageError(
                f"difference variance of the concept measure '{self.name}'",
                found=repr(self.difference_variance),
                wanted=" or ".join(map(repr, DIFFERENCE_VARIANCES)),
            )

    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:
        """Name 26 concepts per distance and region."""
        return [
            Concept(
                name,
                f"{FEATURES[feature]}, distance {distance}, {self.levels} grey levels;"
                f" {statistic} over four directions; {where(region)}",
                _UNITS.get(feature, ""),
            )
            for region in available(self.regions, mask_classes, objects)
            for distance in self.distances
            for statistic in ("mean", "range")
            for feature, name in zip(FEATURES, self._names(region, distance, statistic), strict=True)
        ]

    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image; a text where there are no pairs, or one grey level only."""
        why = refusal(view.pixels)
        grey = None if why else quantised(grey_levels(view.pixels), self.levels)
        found: dict[str, float | str] = {}
        for region in self.regions:
            for distance in self.distances:
                measured = why if grey is None else self._directions(view, grey, region, distance)
                found.update(self._told(region, distance, measured))
        return found

    def _directions(
        self, view: View, grey: np.ndarray, region: str, distance: int
    ) -> dict[str, np.ndarray] | str:
        """Mean and range over directions, (object, feature), or why there are none."""
        numbers = numbered(view, region)
        if isinstance(numbers, str):
            return numbers
        if region == OBJECTS:
            numbers, why = large_enough(numbers, self.smallest)
            if why:
                return why
        inside = None if region == IMAGE else numbers
        counted = [
            count_pairs(grey, (distance * down, distance * right), inside) for down, right in DIRECTIONS
        ]
        paired = [own for own in zip(*counted, strict=True) if all(len(pairs.count) for pairs in own)]
        if not paired:
            return f"no two pixels at distance {distance} in every direction"
        reading = DIFFERENCE_VARIANCES[self.difference_variance]
        values = np.array([[haralick_features(pairs, reading) for pairs in own] for own in paired])
        return {"mean": values.mean(axis=1), "range": np.ptp(values, axis=1)}

    def _told(
        self, region: str, distance: int, measured: dict[str, np.ndarray] | str
    ) -> dict[str, float | str]:
        """Turn values (object, feature) into values of concepts, or into the reason."""
        found: dict[str, float | str] = {}
        for statistic in ("mean", "range"):
            names = self._names(region, distance, statistic)
            if isinstance(measured, str):
                found.update(refused(names, measured))
            else:
                found.update(zip(names, means_of_known(measured[statistic]), strict=True))
        return found

    def _names(self, region: str, distance: int, statistic: str) -> list[str]:
        apart = f", d={distance}" if len(self.distances) > 1 else ""
        return [f"{feature}, {statistic}{apart}{place(region)}" for feature in FEATURES]
