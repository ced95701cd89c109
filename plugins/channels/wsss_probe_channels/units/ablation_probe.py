"""The probe Ablation: what happens to logits and accuracy when one channel is taken away."""

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
from wsss_probe_channels.units.ablation import right
from wsss_probe_channels.units.ablation_conclusion import conclude_linear, conclude_resumed
from wsss_probe_channels.units.ablation_pass import ablated_logits
from wsss_probe_channels.units.ablation_section import sections

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Section, Survey
    from wsss_probe.contracts import Run

__all__ = ["Ablation", "ResumedAblation"]

MOST_CLASSES = 10
"""With more logits only that of each image's predicted class is kept where the network must be run."""

PREDICTED = "predicted class"


@final
@dataclass(frozen=True)
class Ablation(Probe):
    """Change of every logit and of accuracy when one channel is set to zero, or to its mean.

    The mean is that over all positions and images of the audited data. Where the layer is averaged by a
    proved linear head the change of logit c on image n is ``-w_ck GAP_nk`` (zero) and
    ``-w_ck (GAP_nk - mean_k)`` (mean): exact, for all images, without running the network again, and the
    same is done for every control with its own head. For other layers see :class:`ResumedAblation`.
    Units are taken away one by one as in Morcos, Barrett, Rabinowitz, Botvinick (2018), On the importance
    of single directions for generalization, arXiv:1803.06959.

    A decision is right if the class with the largest logit is a label; of several labels (sigmoid), if
    every class has the right sign. ``relative`` divides the mean absolute change on setting a channel to
    its mean by the logit's standard deviation over images, so that networks compare.

    Misleads: one at a time, two channels that say the same hide each other: no effect is not no role. Zero
    is for many channels a value that they never have, so zeroing moves the logits of all images alike; the
    mean removes only what differs between images. Large changes of a logit need not change a decision.

    Parameters
    ----------
    layer : str
        Set by :meth:`split`.
    layers : str
        ``last``, ``all`` or names; see :func:`wsss_probe_channels.evidence.evidence_layers`.
    images : int
        Images that are drawn where the network has to be run.

    Raises
    ------
    UsageError
        For fewer than one image.
    """

    layer: str = ""
    layers: str = "last"
    images: int = 16
    name: str = field(init=False, default="ablation")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse to ablate on no image; derive the name and what the plan records."""
        if self.images < 1:
            msg = "ablation needs images"
            raise UsageError(msg, found=str(self.images), wanted="1 or more", remedy="images = 16")
        object.__setattr__(self, "options", {"layer": self.layer, "form": "linear head"})
        object.__setattr__(self, "name", f"ablation@{self.layer}" if self.layer else "ablation")

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make one copy per layer: this one where a linear head averages it, else one that runs the rest."""
        wanted = evidence_layers(survey, self.layer or self.layers)
        return tuple(self._for(survey, layer) for layer in wanted)

    def _for(self, survey: Survey, layer: str) -> Probe:
        if survey.head.linear and survey.head.layer == layer:
            return replace(self, layer=layer)
        order = np.random.default_rng(survey.seed).permutation(survey.images)
        chosen = tuple(sorted(int(index) for index in order[: self.images]))
        return ResumedAblation(layer, chosen, survey.multilabel)

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer, whose pooled maps the host keeps."""
        return Needs(layers=frozenset({self.layer} if self.layer else evidence_layers(survey, self.layers)))

    def observe(self, batch: Batch) -> Observation:
        """Keep the labels: rows ``label`` (image, class), 1 or 0."""
        label = batch.labels.float().cpu().numpy()
        return Observation(xr.Dataset({"label": (("image", "class"), label)}))

    def conclude(self, run: Run) -> Conclusion:
        """Compute all effects from pooled maps and head weights, for the controls as well."""
        return conclude_linear(self.name, self.layer, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show every channel, the largest effects, and what the controls have."""
        return sections(self.layer, summary, run)


@final
@dataclass(frozen=True)
class ResumedAblation(Probe):
    """Ablation at a layer without a linear head: the rest of the network runs again, on some images.

    What is measured is as for :class:`Ablation`. Each channel of each chosen image is one copy of the
    maps, at most 64 MiB of copies at once; a channel that has the value already is not run, so the effect
    of a dead channel is exactly 0. With more than ten classes only the logit of each image's predicted
    class is kept. Controls are not run: it costs 2 x channels partial passes per image and network, and
    a control has no decision whose loss would mean something; so nothing here is ever ``ok``.

    Misleads: as :class:`Ablation`; and few images give wide intervals.

    Parameters
    ----------
    layer : str
    chosen : tuple of int
        Positions of the images in the manifest.
    multilabel : bool
    """

    layer: str
    chosen: tuple[int, ...] = ()
    multilabel: bool = False
    name: str = field(init=False, default="ablation")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Derive the name and what the plan records."""
        options = {"layer": self.layer, "form": "resumed", "images": len(self.chosen)}
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", f"ablation@{self.layer}")

    @property
    def _census(self) -> str:
        return f"census@{self.layer}"

    def needs(self, survey: Survey) -> Needs:
        """Ask for the layer's maps and each channel's mean; not for controls."""
        layers = frozenset({self.layer} & survey.layers.keys())
        return Needs(layers=layers, tables=frozenset({self._census}), controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Run the chosen images of one batch.

        Returns
        -------
        Observation
            Rows, NaN for images that are not chosen: ``logit`` (image, class), ``logit_zero, logit_mean``
            (image, channel, class), changes; ``correct`` (image), ``correct_zero, correct_mean`` (image,
            channel), 1 or 0 whether a label is known or not; ``labelled`` (image).
        """
        maps = batch.activations[self.layer]
        usable = batch.readable.to(maps.device) & torch.isfinite(maps).flatten(1).all(dim=1)
        wanted = torch.from_numpy(np.isin(batch.indices, self.chosen)).to(maps.device)
        picked = (usable & wanted).nonzero()[:, 0]
        classes = batch.logits.shape[1]
        rows = _empty(len(maps), maps.shape[1], classes if classes <= MOST_CLASSES else 1)
        if len(picked):
            self._fill(rows, batch, picked)
        names = None if classes <= MOST_CLASSES else np.array([PREDICTED], dtype=object)
        dims = {1: ("image",), 2: ("image", "channel"), 3: ("image", "channel", "class")}
        own = {"logit": ("image", "class")}
        table = xr.Dataset({key: (own.get(key, dims[value.ndim]), value) for key, value in rows.items()})
        return Observation(table if names is None else table.assign_coords({"class": names}))

    def _fill(self, rows: dict[str, np.ndarray], batch: Batch, picked: Tensor) -> None:
        """Write the rows of the chosen images."""
        at = picked.cpu().numpy()
        labels = batch.labels[picked].cpu().numpy()
        mean = torch.from_numpy(batch.tables[self._census]["mean"].values).to(batch.activations[self.layer])
        rows["labelled"][at] = labels.any(axis=1)
        for kind, value in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            before, after = (part.cpu().numpy() for part in ablated_logits(batch, self.layer, picked, value))
            decided = right(after.transpose(2, 0, 1), labels, multilabel=self.multilabel)
            rows["correct"][at] = right(before.T, labels, multilabel=self.multilabel)
            rows[f"correct_{kind}"][at] = decided
            changes = after - before[:, None]
            if before.shape[1] > MOST_CLASSES:
                best = before.argmax(axis=1)[:, None]
                before = np.take_along_axis(before, best, axis=1)
                changes = np.take_along_axis(changes, best[:, None], axis=2)
            rows["logit"][at], rows[f"logit_{kind}"][at] = before, changes

    def conclude(self, run: Run) -> Conclusion:
        """Average over the chosen images."""
        return conclude_resumed(self.name, self.layer, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show every channel and the largest effects."""
        return sections(self.layer, summary, run)


def _empty(images: int, channels: int, classes: int) -> dict[str, np.ndarray]:
    shapes = {
        "logit": (images, classes),
        **dict.fromkeys(("logit_zero", "logit_mean"), (images, channels, classes)),
        **dict.fromkeys(("correct_zero", "correct_mean"), (images, channels)),
        **dict.fromkeys(("correct", "labelled"), (images,)),
    }
    return {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in shapes.items()}
