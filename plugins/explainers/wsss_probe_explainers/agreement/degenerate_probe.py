"""The probe degenerate-maps: counts maps that show nothing, and names the cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import INPUT, Conclusion, Needs, Observation, Probe
from wsss_probe.errors import ModelError
from wsss_probe.taps import PassOptions, run_pass
from wsss_probe_explainers.agreement.degenerate import CAUSES, KINDS, Evidence, causes, evidence, kinds
from wsss_probe_explainers.agreement.degenerate_conclusion import concluded
from wsss_probe_explainers.agreement.degenerate_section import sections

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsss_probe import Batch, LayerInfo, Section, Survey, Target
    from wsss_probe.contracts import Pair, Run

__all__ = ["DegenerateMaps"]


@final
@dataclass(frozen=True)
class DegenerateMaps(Probe):
    """Maps that show no place: undefined, zero, constant, or a single cell; each with its cause.

    A blank map looks like an answer. Here every one is counted, and the first cause that holds is named:
    outputs that are not finite; an image without the target; a layer that is silent or the same everywhere;
    a target that does not depend on the layer; a probability so certain that it has no gradient; a zero
    gradient; a layer that speaks at one cell only; no positive evidence, that is a weighted sum of the
    channels that is nowhere positive, of which a ReLU leaves nothing; or the method itself. Activations
    and gradients are computed again for images with such a map, and for no others.

    Misleads: causes are read off the layer and the gradient of the target. For a map on the input they
    are those of the deepest audited layer, and a method that explains another target than the one asked for
    may have another cause. A map that is not degenerate may still be wrong.

    Parameters
    ----------
    maps : tuple of (str, str)
        Explainers and layers; set by :meth:`split`.
    target : Target
        Set by :meth:`split`.
    """

    maps: tuple[Pair, ...] = ()
    target: Target = "predicted"
    name: str = field(init=False, default="degenerate-maps")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Derive what the plan records."""
        recorded = {"maps": [", ".join(pair) for pair in self.maps], "target": str(self.target)}
        object.__setattr__(self, "options", recorded)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Fix the order of the maps; nothing to do without maps."""
        if not survey.relevance:
            return ()
        return (replace(self, maps=survey.relevance, target=survey.targets[0]),)

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract's
        """Ask for all maps; a control cannot say whether a map is blank."""
        return Needs(relevance=True, controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Look at every map, and behind those that show nothing.

        Returns
        -------
        Observation
            Rows ``kind`` and ``cause`` (image, explainer): positions in
            :data:`~wsss_probe_explainers.agreement.degenerate.KINDS` and ``CAUSES``, NaN for no cause.
        """
        shown = {pair: kinds(batch.relevance[pair]) for pair in self.maps}
        why = {pair: torch.full(found.shape, -1) for pair, found in shown.items()}
        for layer in dict.fromkeys(layer for _, layer in self.maps):
            own = [pair for pair in self.maps if pair[1] == layer]
            blank = torch.stack([shown[pair] > 0 for pair in own]).any(0) & batch.readable
            if bool(blank.any()):
                known = self._evidence(batch, layer, blank)
                for pair in own:
                    why[pair][blank.cpu()] = causes(shown[pair][blank], known).cpu()
        found = [np.stack([each[pair].cpu().numpy() for pair in self.maps], 1) for each in (shown, why)]
        cause = np.where(found[1] < 0, np.nan, found[1])
        rows = {"kind": found[0].astype(float), "cause": cause}
        return Observation(
            xr.Dataset(
                {name: (("image", "explainer"), values) for name, values in rows.items()},
                {"explainer": [", ".join(pair) for pair in self.maps]},
                {"kinds": list(KINDS), "causes": list(CAUSES)},
            )
        )

    def _evidence(self, batch: Batch, layer: str, blank: Tensor) -> Evidence:
        """What the maps at a layer of some images could have been made of."""
        deepest = [name for name, info in batch.layers.items() if info.layout == "maps"][-1:]
        info = batch.layers.get("".join(deepest) if layer == INPUT else layer)
        images, weights = batch.images[blank], batch.targets[self.target][blank]
        if info is None:  # maps on the input, and no layer of maps is audited
            return evidence(batch.logits[blank], weights, images, torch.ones_like(images))
        with batch.lend() as module:
            seen = _activation_and_gradient(module, images, info, weights)
        return evidence(batch.logits[blank], weights, *seen)

    def conclude(self, run: Run) -> Conclusion:
        """Count kinds and causes, and tell of each cause with its remedy.

        Returns
        -------
        Conclusion
            By (explainer): ``share`` of images with a degenerate map with its interval, ``n``; by
            (explainer, kind) and (explainer, cause) the number of images. No finding where there is none.
        """
        return concluded(self.name, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG002  # the contract's
        """List the maps that show nothing; nothing where all show places."""
        return sections(summary)


def _activation_and_gradient(
    module: nn.Module, images: Tensor, layer: LayerInfo, weights: Tensor
) -> Sequence[Any]:
    """Activation of a layer, and the gradient of the target there, or None where it does not depend on it."""
    options = PassOptions({"asked": (layer.name,)}, {"asked": weights.float()})
    try:
        captured = run_pass(module, images, [layer], options)
    except ModelError:
        return run_pass(module, images, [layer], PassOptions(logits=False)).activations[layer.name], None
    return captured.activations[layer.name], captured.gradients[layer.name, "asked"]
