"""The probe concept-gradients: the gradient of class logits at a layer, averaged over positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError

if TYPE_CHECKING:
    from wsss_probe import Batch, Survey
    from wsss_probe.contracts import Run, Target

__all__ = ["ConceptGradients", "gradient_layers", "gradient_targets"]


def gradient_targets(survey: Survey, most_classes: int = 4) -> tuple[tuple[str, Target], ...]:
    """Names and targets whose gradients are taken, one backward pass each.

    Parameters
    ----------
    survey : Survey
    most_classes : int

    Returns
    -------
    tuple of (str, Target)
        Every class of a network of at most ``most_classes``, by its name; else the first target of the
        survey alone, by its words.
    """
    if len(survey.classes) <= most_classes:
        return tuple((name, position) for position, name in enumerate(survey.classes))
    first = survey.targets[0] if survey.targets else "predicted"
    return ((survey.classes[first] if isinstance(first, int) else str(first), first),)


@final
@dataclass(frozen=True)
class ConceptGradients(Probe):
    """Gradient of each class logit at one layer, averaged over positions, image by image.

    ``g_k = 1 / (h w) · sum over positions of d logit / d A_k``, with its sign. The course material of
    Graziani et al. takes this mean; the true derivative of the logit under adding ``ε v`` at every
    position is ``h w`` times ``g · v``. The factor is the same for all images of a layer, so it changes no
    sign, no share of positive images and no bidirectional relevance.

    Misleads: a gradient is local, it says nothing of a step as large as the concept's own range; after
    a saturated stretch it is 0 however much the class rests on it. Logits, never probabilities, since the
    latter have no gradient left on images about which the network is sure.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    most_classes : int
        Networks with more classes give the gradient of the survey's first target only.
    asked : tuple of (str, Target)
        Set by :meth:`split`: names and targets, as :func:`gradient_targets` gives them.

    Raises
    ------
    UsageError
        If ``most_classes`` is no whole number from 0.
    """

    layer: str = ""
    most_classes: int = 4
    asked: tuple[tuple[str, Target], ...] = ()
    name: str = field(init=False, default="concept-gradients")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; derive the name and what the plan records."""
        whole = isinstance(self.most_classes, int) and not isinstance(self.most_classes, bool)
        if not whole or self.most_classes < 0:
            msg = "most_classes of concept-gradients is no number of classes"
            raise UsageError(msg, found=repr(self.most_classes), wanted="a whole number from 0")
        names = [name for name, _ in self.asked]
        options = {"layer": self.layer, "most_classes": self.most_classes, "gradients of": names}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"concept-gradients@{self.layer}" if self.layer else self.name)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per audited layer that has a part in the logits, which knows its targets."""
        layers = (self.layer,) if self.layer else gradient_layers(survey)
        asked = gradient_targets(survey, self.most_classes)
        return tuple(replace(self, layer=name, asked=asked) for name in layers)

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # split has read it
        """Ask for the layer's gradient of every class, or of the first target."""
        return Needs(gradients=frozenset((self.layer, target) for _, target in self.asked))

    def observe(self, batch: Batch) -> Observation:
        """Average the gradients of one batch over positions.

        Returns
        -------
        Observation
            Rows ``gradient`` (image, class, channel), float32; the coordinate ``class`` names the
            class, or the target where only one is looked at. ``label`` (image, output): 1 for the classes
            of an image's label, 0 for others, all 0 where there is no label.
        """
        means = [_over_positions(batch.gradients[self.layer, target]) for _, target in self.asked]
        label = batch.labels.cpu().numpy().astype(np.float32)
        return Observation(
            xr.Dataset(
                {
                    "gradient": (("image", "class", "channel"), torch.stack(means, dim=1).cpu().numpy()),
                    "label": (("image", "output"), label),
                },
                coords={
                    "class": np.array([name for name, _ in self.asked], dtype=object),
                    "output": np.arange(label.shape[1]),
                },
            )
        )

    def conclude(self, run: Run) -> Conclusion:
        """Count the images with a gradient; the scores are concluded by the probes that read the rows.

        Returns
        -------
        Conclusion
            By class: ``images`` with a finite gradient and its root mean square ``norm``.
        """
        rows = run.rows(self.name)["gradient"].load()
        squares = (rows.astype(np.float64) ** 2).sum("channel", skipna=False)
        summary = xr.Dataset({"images": squares.notnull().sum("image"), "norm": _root_mean(squares)})
        summary.attrs = {"layer": self.layer}
        return Conclusion(summary)


def gradient_layers(survey: Survey) -> tuple[str, ...]:
    """Audited layers with maps or vectors whose output has a part in the logits."""
    return tuple(n for n, info in survey.layers.items() if info.layout != "other" and info.reached)


def _over_positions(gradient: torch.Tensor) -> torch.Tensor:
    """Mean over everything behind image and channel, (image, channel); in float32, summed in float64."""
    flat = gradient.double().flatten(2) if gradient.ndim > 2 else gradient.double()[..., None]
    return flat.mean(dim=2).float()


def _root_mean(squares: xr.DataArray) -> xr.DataArray:
    """Root of the mean over images of what is defined; NaN, without a warning, where nothing is."""
    total, number = squares.sum("image"), squares.notnull().sum("image")
    return xr.DataArray(np.sqrt(total / number.where(number > 0)))
