"""Concept measure: properties of the grey-level co-occurrence matrix as the paper defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import copysign, cos, radians, sin
from types import MappingProxyType
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
from wsss_probe_concepts.measures.pixel_pairs import PairCounts, count_pairs
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

__all__ = ["PROPERTIES", "Cooccurrence", "correlation", "offset_of"]


def _asm(pairs: PairCounts) -> float:
    share = pairs.share
    return float(share @ share)


def _contrast(pairs: PairCounts) -> float:
    return float(pairs.share @ (pairs.first - pairs.second) ** 2)


def _dissimilarity(pairs: PairCounts) -> float:
    return float(pairs.share @ abs(pairs.first - pairs.second))


def _homogeneity(pairs: PairCounts) -> float:
    return float(pairs.share @ (1 / (1 + (pairs.first - pairs.second) ** 2)))


def _energy(pairs: PairCounts) -> float:
    return float(np.sqrt(_asm(pairs)))


def correlation(pairs: PairCounts) -> float:
    """Correlate the grey levels of the first pixels with those of the second.

    Parameters
    ----------
    pairs : PairCounts

    Returns
    -------
    float
        From -1 to 1; NaN where either has one grey level only. scikit-image gives 1 there.
    """
    share = pairs.share
    first, second = (levels - share @ levels for levels in (pairs.first, pairs.second))
    variances = (share @ first**2) * (share @ second**2)
    one_level = np.ptp(pairs.first) == 0 or np.ptp(pairs.second) == 0
    return float("nan") if one_level else float((share @ (first * second)) / np.sqrt(variances))


PROPERTIES: MappingProxyType[str, tuple[Callable[[PairCounts], float], str, str]] = MappingProxyType(
    {
        "asm": (_asm, "angular second moment, sum of P squared", ""),
        "contrast": (_contrast, "sum of P (i - j) squared", "grey levels squared"),
        "correlation": (correlation, "correlation of i and j under P", ""),
        "dissimilarity": (_dissimilarity, "sum of P |i - j|", "grey levels"),
        "energy": (_energy, "root of the angular second moment", ""),
        "homogeneity": (_homogeneity, "sum of P / (1 + (i - j) squared)", ""),
    }
)
"""Function, meaning and unit of each property."""


def offset_of(distance: int, angle: float) -> tuple[int, int]:
    """Rows down and columns right for a distance and an angle in degrees, rounded to whole pixels.

    Parameters
    ----------
    distance : int
    angle : float
        As scikit-image's, in degrees: 0 is to the right, 90 straight down.

    Returns
    -------
    (int, int)

    Examples
    --------
    >>> offset_of(1, 0), offset_of(1, 45), offset_of(2, 90), offset_of(1, 135)
    ((0, 1), (1, 1), (2, 0), (1, -1))
    """
    return _rounded(sin(radians(angle)) * distance), _rounded(cos(radians(angle)) * distance)


def _rounded(value: float) -> int:
    """Round halves away from 0, as scikit-image does."""
    return int(value + copysign(0.5, value))


@final
@dataclass(frozen=True)
class Cooccurrence(ConceptMeasure):
    """Texture by the grey levels of neighbours: what the paper regresses.

    Parameters
    ----------
    distances : tuple of int
        Pixels between the two of a pair.
    angles : tuple of float
        Degrees; a property is the mean over them.
    levels : int
        Grey levels after quantisation, 2 to 256.
    symmetric : bool
        Whether each pair is counted in both orders.
    regions : tuple of str
        ``"image"``, ``"mask"``, ``"objects"`` or names of mask classes; what the data lack is left out.
    smallest : int
        Pixels that an object must have.

    Raises
    ------
    UsageError
        An option that cannot be meant.
    """

    distances: Sequence[int] = (1,)
    angles: Sequence[float] = (0,)
    levels: int = 256
    symmetric: bool = True
    regions: Sequence[str] = (IMAGE, OBJECTS)
    smallest: int = 20

    name = "cooccurrence"
    default = True
    card = DefinitionCard(
        title="Properties of the grey-level co-occurrence matrix",
        formula="P(i, j): share of pairs of pixels with grey levels i and j; ASM = sum P^2,"
        " contrast = sum P (i-j)^2, dissimilarity = sum P |i-j|, homogeneity = sum P / (1 + (i-j)^2),"
        " energy = sqrt(ASM), correlation = sum P (i-m_i)(j-m_j) / (s_i s_j)",
        paper="Haralick, Shanmugam, Dinstein (1973), Textural features for image classification,"
        " doi:10.1109/TSMC.1973.4309314; as in Graziani, Andrearczyk, Müller (2019),"
        " Visualizing and interpreting feature reuse of pretrained CNNs for histopathology",
        symbols="P sums to 1 over the pairs that lie in the region; m, s: mean and deviation under P",
        invariances=("with one angle and symmetric pairs: reflection along that angle",),
        misleads="Contrast grows with focus, noise and sharpening. Where there are fewer pairs than cells,"
        " ASM and energy fall with the number of pixels: small regions look regular. Energy is ASM's root."
        " In objects of some hundred pixels 256 levels are too many: set levels to 8 or 16.",
        bibtex="@inproceedings{Graziani2019,"
        " author={Graziani, Mara and Andrearczyk, Vincent and Müller, Henning},"
        " title={Visualizing and interpreting feature reuse of pretrained {CNNs} for histopathology},"
        " booktitle={Irish Machine Vision and Image Processing Conference}, year={2019}}",
    )

    def __post_init__(self) -> None:
        check_whole_numbers(self.distances, "distances", self.name)
        check_levels(self.levels, self.name)
        check_regions(self.regions, self.name)
        check_whole_numbers([self.smallest], "smallest object", self.name)
        _check_angles(self.angles, self.name)
        if not isinstance(self.symmetric, bool):
            raise UsageError(
                f"symmetric pairs of the concept measure '{self.name}'",
                found=repr(self.symmetric),
                wanted="true or false",
            )

    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:
        """Name six concepts per distance and region."""
        angles = " and ".join(f"{angle:g}" for angle in self.angles)
        return [
            Concept(
                self._named(name, region, distance),
                f"{meaning}; distance {distance}, {angles} degrees, {self.levels} grey levels;"
                f" {where(region)}",
                unit,
            )
            for region in available(self.regions, mask_classes, objects)
            for distance in self.distances
            for name, (_, meaning, unit) in PROPERTIES.items()
        ]

    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image; a text where there are no pairs, for correlation also with one grey level."""
        why = refusal(view.pixels)
        grey = None if why else quantised(grey_levels(view.pixels), self.levels)
        found: dict[str, float | str] = {}
        for region in self.regions:
            for distance in self.distances:
                names = [self._named(name, region, distance) for name in PROPERTIES]
                measured = why if grey is None else self._properties(view, grey, region, distance)
                if isinstance(measured, str):
                    found.update(refused(names, measured))
                else:
                    found.update(zip(names, means_of_known(measured), strict=True))
        return found

    def _properties(self, view: View, grey: np.ndarray, region: str, distance: int) -> np.ndarray | str:
        """Properties (object, property) as means over angles, or why there are none."""
        numbers = numbered(view, region)
        if isinstance(numbers, str):
            return numbers
        if region == OBJECTS:
            numbers, why = large_enough(numbers, self.smallest)
            if why:
                return why
        inside = None if region == IMAGE else numbers
        counted = [
            count_pairs(grey, offset_of(distance, angle), inside, self.symmetric) for angle in self.angles
        ]
        paired = [own for own in zip(*counted, strict=True) if all(len(pairs.count) for pairs in own)]
        if not paired:
            return f"no two pixels at distance {distance}"
        functions = [function for function, _, _ in PROPERTIES.values()]
        return np.array([[np.mean([f(pairs) for pairs in own]) for f in functions] for own in paired])

    def _named(self, name: str, region: str, distance: int) -> str:
        apart = f", d={distance}" if len(self.distances) > 1 else ""
        return f"{name}{apart}{place(region)}"


def _check_angles(angles: Sequence[float], measure: str) -> None:
    """Hold angles to a list of different numbers."""
    listed = isinstance(angles, list | tuple) and all(
        isinstance(angle, int | float) and not isinstance(angle, bool) and -360 <= angle <= 360
        for angle in angles
    )
    if not listed or not angles or len(set(angles)) < len(angles):
        raise UsageError(
            f"angles of the concept measure '{measure}'",
            found=repr(angles),
            wanted="a list of different numbers of degrees, such as [0, 45, 90, 135]",
        )
