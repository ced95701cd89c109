"""Concept measure: number and shape of annotated objects, such as nuclei."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, View
from wsss_probe.errors import UsageError
from wsss_probe_concepts.measures.grey import check_whole_numbers, refused
from wsss_probe_concepts.measures.regions import EMPTY, MASK, OBJECTS, large_enough, numbered

__all__ = ["SHAPES", "Morphology"]

SHAPES: MappingProxyType[str, tuple[str, str]] = MappingProxyType(
    {
        "area": ("number of pixels", "pixels"),
        "perimeter": ("length of the outline, 4-connected, through pixel centres", "pixels"),
        "major axis": ("major axis of the ellipse of the same second moments", "pixels"),
        "minor axis": ("minor axis of the ellipse of the same second moments", "pixels"),
        "eccentricity": ("of that ellipse: 0 for a circle, towards 1 for a line", ""),
        "euler number": ("pieces less holes, 8-connected", ""),
        "solidity": ("area over the area of the convex hull", ""),
    }
)
"""Meaning and unit of each shape."""

_SPREAD = "area, spread"


@final
@dataclass(frozen=True)
class Morphology(ConceptMeasure):
    """Count and shape of objects, as means over the objects of an image.

    Parameters
    ----------
    smallest : int
        Pixels that an object must have; smaller ones are not counted.
    keep_cut : bool
        Whether objects that reach the border of the image are measured. They are too small; without
        them large objects are missed more often than small ones.
    components : bool
        Whether, where masks number no objects, the connected pieces of the mask (all classes
        together, 8-connected) are taken for objects.

    Raises
    ------
    UsageError
        An option that cannot be meant.
    """

    smallest: int = 20
    keep_cut: bool = True
    components: bool = False

    name = "morphology"
    default = True
    card = DefinitionCard(
        title="Morphology of annotated objects",
        formula="mean over objects of area, perimeter, axis lengths, eccentricity, Euler number and solidity;"
        " count; standard deviation of the area",
        paper="van der Walt et al. (2014), scikit-image: image processing in Python, doi:10.7717/peerj.453;"
        " as concepts in Graziani, Andrearczyk, Müller (2018), Regression concept vectors for bidirectional"
        " explanations in histopathology, arXiv:1904.04520",
        symbols="an object: pixels of one number in the mask; sizes in pixels of the network's input",
        invariances=("rotation by 90 degrees and reflection", "colour, focus and noise"),
        misleads="Sizes are in pixels after resizing: images of different magnification do not compare."
        " Objects that touch and share a number are one. Cut objects are too small (option keep_cut)."
        " A mean over three objects is a guess, over three hundred a fact; the count says which.",
        bibtex="@article{scikit-image, author={van der Walt, St\\'efan and others},"
        " title={scikit-image: image processing in {Python}}, journal={PeerJ}, volume={2}, pages={e453},"
        " year={2014}}",
    )

    def __post_init__(self) -> None:
        check_whole_numbers([self.smallest], "smallest object", self.name)
        for option in ("keep_cut", "components"):
            if not isinstance(getattr(self, option), bool):
                raise UsageError(
                    f"option {option} of the concept measure '{self.name}'",
                    found=repr(getattr(self, option)),
                    wanted="true or false",
                )

    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:
        """Name the count and the shapes; nothing without objects."""
        if not objects and not (self.components and mask_classes):
            return []
        kind = "annotated objects" if objects else "connected pieces of the mask"
        which = f"{kind} of at least {self.smallest} pixels" + ("" if self.keep_cut else ", none cut")
        means = [Concept(f"{n}, mean", f"{m}; mean over {which}", u) for n, (m, u) in SHAPES.items()]
        spread = Concept(_SPREAD, f"standard deviation of the area over {which}", "pixels")
        return [Concept("count", f"number of {which}"), *means, spread]

    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image; without an object the count is 0 and the rest has a text."""
        names = [*(f"{name}, mean" for name in SHAPES), _SPREAD]
        numbers = self._objects(view)
        if isinstance(numbers, str):
            return refused(["count", *names], numbers)
        kept = numbers if self.keep_cut else _uncut(numbers)
        kept, why = large_enough(kept, self.smallest)
        if not why:
            return _shapes(kept)
        cut = "; objects at the border left out" if numbers.any() and not self.keep_cut else ""
        return {"count": 0.0, **refused(names, why + cut)}

    def _objects(self, view: View) -> np.ndarray | str:
        """Objects as they are numbered, or as connected pieces of the mask."""
        if view.objects is not None or not self.components:
            return numbered(view, OBJECTS)
        from skimage.measure import label

        inside = numbered(view, MASK)
        if isinstance(inside, str):
            return np.zeros((1, 1), dtype=np.int64) if inside == EMPTY else inside
        pieces: np.ndarray = label(inside, connectivity=2)  # type: ignore[no-untyped-call]
        return pieces


def _uncut(numbers: np.ndarray) -> np.ndarray:
    """Leave out objects with a pixel in the outermost rows or columns."""
    edges = (numbers[:1], numbers[-1:], numbers[:, :1], numbers[:, -1:])
    edge = np.concatenate([line.ravel() for line in edges])
    return np.where(np.isin(numbers, edge), 0, numbers)


def _shapes(numbers: np.ndarray) -> dict[str, float | str]:
    """Count, means and spread for one object or more, numbered from 1 without gaps."""
    from skimage.measure import regionprops_table

    asked = ("area", "perimeter", "euler_number", "solidity")
    table = regionprops_table(numbers, properties=asked)  # type: ignore[no-untyped-call]
    found = {**_ellipses(numbers), **{name.replace("_", " "): own for name, own in table.items()}}
    area = found["area"]
    spread = float(np.std(area, ddof=1)) if len(area) > 1 else "one object has no spread"
    means = {f"{name}, mean": float(np.mean(found[name])) for name in SHAPES}
    return {"count": float(len(area)), **means, _SPREAD: spread}


def _ellipses(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Axes and eccentricity of the ellipses with the objects' second moments, all objects at once.

    scikit-image gives the same and takes the moments object by object, which is half of its time.
    """
    rows, columns = np.nonzero(numbers)
    own = numbers[rows, columns] - 1
    area = np.bincount(own)
    down, right = (at - (np.bincount(own, at) / area)[own] for at in (rows, columns))
    rr, cc, rc = (np.bincount(own, product) / area for product in (down**2, right**2, down * right))
    middle, half = (rr + cc) / 2, np.hypot((rr - cc) / 2, rc)
    long, short = middle + half, np.maximum(middle - half, 0)
    flat = np.divide(short, long, out=np.ones_like(long), where=long > 0)
    return {
        "major axis": 4 * np.sqrt(long),
        "minor axis": 4 * np.sqrt(short),
        "eccentricity": np.sqrt(1 - flat),
    }
