"""Concept measure: how much of each stain there is, by colour deconvolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, View
from wsss_probe_concepts.measures.grey import refusal, refused
from wsss_probe_concepts.measures.regions import IMAGE, available, check_regions, numbered, place, where

__all__ = ["STAINS", "Stain"]

STAINS = ("haematoxylin", "eosin", "dab")


@final
@dataclass(frozen=True)
class Stain(ConceptMeasure):
    """Mean and spread over pixels of haematoxylin, eosin and DAB.

    Parameters
    ----------
    regions : tuple of str
        ``"image"``, ``"mask"``, ``"objects"`` (all pixels in any object) or names of mask classes.

    Raises
    ------
    UsageError
        An option that cannot be meant.
    """

    regions: Sequence[str] = (IMAGE,)

    name = "stain"
    default = True
    card = DefinitionCard(
        title="Stains by colour deconvolution",
        formula="s = max(0, ln(max(I, 1e-6)) / ln(1e-6) M^-1) per pixel; mean and standard deviation",
        paper="Ruifrok, Johnston (2001), Quantification of histochemical staining by color deconvolution,"
        " Analytical and Quantitative Cytology and Histology 23(4) 291-299",
        symbols="I: red, green, blue as shares of full light; M: fixed optical densities of haematoxylin"
        " (.65 .70 .29), eosin (.07 .99 .11) and DAB (.27 .57 .78); scikit-image's rgb2hed",
        invariances=("any change of where pixels are",),
        misleads="M is fixed and belongs to one laboratory: another scanner or stain moves all three."
        " Without DAB in the slide its value is what the other two leave over. Negative amounts are set to 0."
        " Images that are no histology have amounts too.",
        bibtex="@article{Ruifrok2001, author={Ruifrok, A. C. and Johnston, D. A.},"
        " title={Quantification of histochemical staining by color deconvolution},"
        " journal={Analytical and Quantitative Cytology and Histology}, volume={23}, number={4},"
        " pages={291--299}, year={2001}}",
    )

    def __post_init__(self) -> None:
        check_regions(self.regions, self.name)

    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:
        """Name six concepts per region."""
        return [
            Concept(_named(stain, statistic, region), f"{what} of {stain} over pixels, {_where(region)}")
            for region in available(self.regions, mask_classes, objects)
            for stain in STAINS
            for statistic, what in (("mean", "mean amount"), ("spread", "standard deviation of the amount"))
        ]

    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image; a text where a region is empty."""
        why = refusal(view.pixels)
        found: dict[str, float | str] = {}
        for region in self.regions:
            names = [_named(stain, what, region) for stain in STAINS for what in ("mean", "spread")]
            found.update(refused(names, why) if why else _amounts(view, region, names))
        return found


def _amounts(view: View, region: str, names: Sequence[str]) -> dict[str, float | str]:
    """Mean and standard deviation of each stain in a region."""
    from skimage.color import rgb2hed

    numbers = numbered(view, region)
    if isinstance(numbers, str):
        return refused(names, numbers)
    if not numbers.any():
        return refused(names, "no object")
    stains = rgb2hed(view.pixels[numbers > 0])
    values = [float(value) for stain in stains.T for value in (stain.mean(), stain.std())]
    return dict(zip(names, values, strict=True))


def _named(stain: str, statistic: str, region: str) -> str:
    return f"{stain}, {statistic}{place(region).removesuffix(', mean')}"


def _where(region: str) -> str:
    return where(region) if region != "objects" else "inside annotated objects, all together"
