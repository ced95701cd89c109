"""Concept measure: colourfulness, brightness, saturation and sharpness; red, green and blue if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, View
from wsss_probe.errors import UsageError
from wsss_probe_concepts.measures.grey import refusal, refused

__all__ = ["Colour", "colourfulness", "saturation", "sharpness"]

_LUMINANCE = np.array([0.2125, 0.7154, 0.0721])

_ABSOLUTE = Concept(
    "colourfulness, absolute",
    "the same with |R - G| and |(R + G) / 2 - B|, as in the paper's repository",
    "8-bit levels",
)

_CONCEPTS = (
    Concept(
        "colourfulness",
        "sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2), rg = R - G, yb = (R + G) / 2 - B",
        "8-bit levels",
    ),
    Concept("brightness", "mean luminance 0.2125 R + 0.7154 G + 0.0721 B", "8-bit levels"),
    Concept("saturation", "mean of (largest - smallest) / largest of red, green, blue; 0 for black"),
    Concept("sharpness", "variance of the Laplacian of the luminance, inner pixels", "8-bit levels squared"),
)


_CHANNELS = tuple(
    Concept(name, f"mean of the {name} channel", "8-bit levels") for name in ("red", "green", "blue")
)


@final
@dataclass(frozen=True)
class Colour(ConceptMeasure):
    """What a photographer would say of the whole image.

    Parameters
    ----------
    channels : bool
        Whether the means of red, green and blue are measured as well. Brightness is a sum of the
        three, so none of the four has anything of its own beside the others.
    absolute : bool
        Whether the colourfulness of absolute differences is measured as well, for comparison with
        published numbers.

    Raises
    ------
    UsageError
        An option that cannot be meant.
    """

    channels: bool = False
    absolute: bool = False

    name = "colour"
    default = True
    card = DefinitionCard(
        title="Colour and sharpness",
        formula="colourfulness = sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2);"
        " sharpness = variance of the Laplacian",
        paper="Hasler, Süsstrunk (2003), Measuring colorfulness in natural images, doi:10.1117/12.477378;"
        " Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy,"
        " doi:10.1109/ICPR.2000.903548",
        symbols="rg = R - G, yb = (R + G) / 2 - B, signed; m, s: mean and population standard deviation;"
        " Laplacian: four neighbours less four times the pixel",
        invariances=("reflection and rotation by 90 degrees",),
        misleads="Colour follows scanner, staining and white balance before it follows tissue: a strong"
        " concept here hints at a shortcut. Sharpness grows with noise, compression blocks and contrast.",
        bibtex='@inproceedings{Hasler2003, author={Hasler, David and S{\\"u}sstrunk, Sabine},'
        " title={Measuring colorfulness in natural images},"
        " booktitle={Human Vision and Electronic Imaging VIII}, volume={5007}, pages={87--95}, year={2003}}",
    )

    def __post_init__(self) -> None:
        for option in ("channels", "absolute"):
            if not isinstance(getattr(self, option), bool):
                raise UsageError(
                    f"option {option} of the concept measure '{self.name}'",
                    found=repr(getattr(self, option)),
                    wanted="true or false",
                )

    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:  # noqa: ARG002
        """Name four concepts, and those that are asked for."""
        asked = (*(_CHANNELS * self.channels), *((_ABSOLUTE,) * self.absolute))
        return (*_CONCEPTS, *asked)

    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image; sharpness has a text for an image without an inner pixel."""
        why = refusal(view.pixels)
        if why:
            return refused([concept.name for concept in self.concepts((), False)], why)
        planes = np.moveaxis(view.pixels, -1, 0).astype(np.float64, order="C")
        luminance = np.tensordot(_LUMINANCE, planes, axes=1)
        found: dict[str, float | str] = {
            "colourfulness": colourfulness(*_opponents(planes)),
            "brightness": float(luminance.mean()),
            "saturation": saturation(planes),
            "sharpness": sharpness(luminance),
        }
        if self.channels:
            found |= {concept.name: float(own.mean()) for concept, own in zip(_CHANNELS, planes, strict=True)}
        if self.absolute:
            found[_ABSOLUTE.name] = colourfulness(*map(abs, _opponents(planes)))
        return found


def _opponents(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Red against green, and yellow against blue, signed."""
    red, green, blue = planes
    return red - green, (red + green) / 2 - blue


def colourfulness(red_green: np.ndarray, yellow_blue: np.ndarray) -> float:
    """Colourfulness of Hasler and Süsstrunk (2003), equation for M3.

    Parameters
    ----------
    red_green, yellow_blue : ndarray, (row, column)
        ``R - G`` and ``(R + G) / 2 - B``.

    Returns
    -------
    float
        0 for grey images.
    """
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def saturation(planes: np.ndarray) -> float:
    """Mean saturation of the HSV model.

    Parameters
    ----------
    planes : ndarray of float, (channel, row, column)
        Not negative.

    Returns
    -------
    float
        From 0 to 1; black pixels have 0.
    """
    largest, smallest = planes.max(axis=0), planes.min(axis=0)
    share = np.divide(largest - smallest, largest, out=np.zeros_like(largest), where=largest > 0)
    return float(share.mean())


def sharpness(grey: np.ndarray) -> float | str:
    """Variance of the Laplacian over pixels that have four neighbours.

    Parameters
    ----------
    grey : ndarray of float, (row, column)

    Returns
    -------
    float or str
        A text for an image of fewer than three rows or columns.
    """
    if min(grey.shape) < 3:
        return "needs three rows and columns"
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())
