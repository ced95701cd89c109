"""The probe Faithfulness: whether the network's answer follows what its maps call relevant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe_explainers.faithfulness.faithfulness_conclusion import conclude
from wsss_probe_explainers.faithfulness.faithfulness_section import sections
from wsss_probe_explainers.faithfulness.judged import MEASURES, Answers, How, forwards, judge
from wsss_probe_explainers.faithfulness.perturbed import BLANKS
from wsss_probe_explainers.sampling import Judged, baseline_maps, evenly_spread, judged_maps

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_probe import Batch, Section, Survey, Target
    from wsss_probe.contracts import Run

__all__ = ["Faithfulness"]


@final
@dataclass(frozen=True)
class Faithfulness(Probe):
    """Judge every map by the network's answers to images changed along it, beside maps that know nothing.

    On some images: insertion and deletion (Petsiuk, Das, Saenko 2018, arXiv:1806.07421), average drop and
    increase (Chattopadhay et al. 2018), ROAD (Rong et al. 2022, arXiv:2202.00449), infidelity (Yeh et al.
    2019, arXiv:1901.09392) and sparseness. Baselines are a random map, a centre blob, edges and intensity
    of the input on the same grid; each judged map is compared with each of them, image by image. Maps that
    are the same up to a positive factor are judged once.

    Misleads: changed images are unlike any that the network was trained on, and its answer to them is an
    extrapolation; ROAD reduces that. A map that names what the network uses need not name the object.

    Parameters
    ----------
    images : int
        How many, evenly spread over the manifest; ten groups at least carry a verdict.
    steps : int
        Of the curves of insertion and deletion.
    blank : {"blur", "mean", "zero"}
        What stands where pixels are hidden.
    score : {"probability", "logit"}
        What the curves show.
    squares : int
        Hidden squares for infidelity.
    road : tuple of float
        Shares of the image that ROAD removes.
    chosen : tuple of int
        Positions in the manifest; set by :meth:`split`, as are the following.
    judged : tuple of Judged
    target : Target
    seed : int
    multilabel : bool

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    images: int = 12
    steps: int = 5
    blank: str = "blur"
    score: str = "probability"
    squares: int = 10
    road: tuple[float, ...] = (0.2, 0.5)
    chosen: tuple[int, ...] = field(default=(), repr=False)
    judged: tuple[Judged, ...] = field(default=(), repr=False)
    target: Target = "predicted"
    seed: int = 0
    multilabel: bool = False
    name: str = field(init=False, default="faithfulness")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; write down what the plan records."""
        for name, least in (("images", 1), ("steps", 2), ("squares", 2)):
            if getattr(self, name) < least:
                found = str(getattr(self, name))
                raise UsageError(f"faithfulness needs more {name}", found=found, wanted=f"{least} or more")
        for name, known in (("blank", BLANKS), ("score", ("probability", "logit"))):
            if getattr(self, name) not in known:
                found = str(getattr(self, name))
                raise UsageError(f"unknown {name} of faithfulness", found=found, wanted=" or ".join(known))
        if not all(0 < share < 1 for share in self.road):
            raise UsageError("shares for ROAD are none", found=str(list(self.road)), wanted="between 0 and 1")
        object.__setattr__(self, "road", tuple(self.road))
        options = {key: getattr(self, key) for key in ("images", "steps", "blank", "score", "squares")}
        object.__setattr__(self, "options", {**options, "road": list(self.road)})

    @property
    def how(self) -> How:
        """How maps are judged."""
        return How(self.steps, self.blank, self.score, self.road, self.squares, self.seed, self.multilabel)

    @property
    def price(self) -> int:
        """Network inputs that each chosen image costs."""
        return forwards(self.how, len(self.judged))

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make the copy that knows its images and maps; none where there are no maps to judge."""
        if not survey.relevance:
            return ()
        # a survey that does not know its length judges its first images
        chosen = evenly_spread(survey.images or self.images, self.images)
        return (
            replace(
                self,
                chosen=chosen,
                judged=judged_maps(survey),
                target=survey.targets[0],
                seed=survey.seed,
                multilabel=survey.multilabel,
            ),
        )

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract
        """Ask for all maps; not on controls, whose answers follow nothing."""
        return Needs(relevance=True, controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Judge the maps of the chosen images of one batch.

        Returns
        -------
        Observation
            Rows, NaN for images that are not chosen: ``measures`` (image, explainer, measure),
            ``inserted, deleted`` (image, explainer, step), ``full, blank`` (image).
        """
        count, maps = len(batch.indices), len(self.judged)
        shape = {"measures": (maps, len(MEASURES)), "full": (), "blank": ()}
        shape |= dict.fromkeys(("inserted", "deleted"), (maps, self.steps + 1))
        rows = {key: np.full((count, *own), np.nan, dtype=np.float32) for key, own in shape.items()}
        for place in self._usable(batch):
            planes = self._planes(batch, place)
            answers = Answers(batch.forward, batch.targets[self.target][place], self.multilabel)
            found = judge(batch.images[place], planes, answers, self.how, int(batch.indices[place]))
            for key, values in rows.items():
                values[place] = getattr(found, key)
        dims = {"measures": ("measure",), "inserted": ("step",), "deleted": ("step",)}
        table = {
            key: (("image", *(("explainer", *dims[key]) if key in dims else ())), values)
            for key, values in rows.items()
        }
        return Observation(xr.Dataset(table, coords=self._coordinates()))

    def _usable(self, batch: Batch) -> list[int]:
        """Positions in the batch of chosen images that can be judged."""
        target = batch.targets[self.target]
        usable = batch.readable & batch.images.isfinite().flatten(1).all(1) & target.isfinite().all(1)
        wanted = np.isin(batch.indices, self.chosen)
        return [int(place) for place in np.flatnonzero(wanted & usable.cpu().numpy())]

    def _planes(self, batch: Batch, place: int) -> list[Tensor]:
        """Maps of one image, in the order of ``judged``."""
        own = [batch.relevance[j.pair][place] for j in self.judged if j.pair is not None]
        index, image = int(batch.indices[place]), batch.images[place]
        for grid in dict.fromkeys(item.grid for item in self.judged):
            own += baseline_maps(index, image, grid, self.seed)
        return [plane.to(torch.float32) for plane in own]

    def _coordinates(self) -> dict[str, Any]:
        return {
            "explainer": np.array([item.name for item in self.judged], dtype=object),
            "measure": np.array(MEASURES, dtype=object),
            "step": np.arange(self.steps + 1) / self.steps,
        }

    def conclude(self, run: Run) -> Conclusion:
        """Average over the chosen images and compare with the baselines."""
        return conclude(self.name, self.judged, self.price, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show curves, measures and comparisons."""
        return sections(summary, self.how, run)
