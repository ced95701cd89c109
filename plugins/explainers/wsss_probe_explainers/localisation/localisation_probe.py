"""The probe localisation: relevance maps against masks, beside maps that know nothing of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion, Needs, Observation, Probe
from wsss_probe.errors import UsageError
from wsss_probe.pxap import BINS, ScoreHistogram, coarser, resized
from wsss_probe_explainers.localisation.judged import Judged, maps_of
from wsss_probe_explainers.localisation.localisation_conclusion import conclude
from wsss_probe_explainers.localisation.localisation_section import sections
from wsss_probe_explainers.localisation.scores import CUTS, MapScores, score
from wsss_probe_explainers.localisation.truth import ImageTruth, Truth, image_truth, regions, truth_of

if TYPE_CHECKING:
    from wsss_probe import Batch, Section, Survey, Target
    from wsss_probe.contracts import Run

__all__ = ["STEPS", "Localisation"]

STEPS = 100
"""Steps of the thresholds that one is chosen from, and of the rows; PxAP takes 1,000."""


@final
@dataclass(frozen=True)
class Localisation(Probe):
    """Whether relevance maps lie where the masks are, and better so than a blob or an untrained network.

    Each map is brought to the grid of the masks bilinearly (``align_corners=False``) and, for everything
    that needs a threshold, scaled to [0, 1] by its own smallest and largest value.

    Misleads: a map may be a true account of a network that looks elsewhere, and then scores low; masks are
    where things are, which need not be where the evidence is. Numbers without a threshold depend on how
    values spread, and a map on a 7 x 7 grid cannot follow a border.

    Parameters
    ----------
    truth : str
        Mask class that maps are compared with, or ``any``; empty decides by name, see
        :func:`~wsss_probe_explainers.localisation.truth.truth_of`.
    tolerance : float
        Of the pointing game, in pixels of the network input.
    chosen_on : str
        Split on which thresholds are chosen; empty takes a validation or training split besides another,
        else a random half of the groups.
    reopen : bool
        Score thresholds on all images, those included that they were chosen on; the report says so.
    classes, mask_classes, target
        Set by :meth:`split`.

    Raises
    ------
    UsageError
        For a negative tolerance.
    """

    truth: str = ""
    tolerance: float = 0.0
    chosen_on: str = ""
    reopen: bool = False
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    target: Target = "predicted"
    name: str = field(init=False, default="localisation")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings without a meaning; write what the plan records."""
        if not self.tolerance >= 0:
            msg = "tolerance of the pointing game is no distance"
            raise UsageError(msg, found=str(self.tolerance), wanted="pixels, 0 or more")
        names = ("truth", "tolerance", "chosen_on", "reopen")
        object.__setattr__(self, "options", {name: getattr(self, name) for name in names})

    @property
    def region(self) -> Truth:
        """What maps are compared with."""
        return truth_of(self.classes, self.mask_classes, self.truth)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Tell the probe the names of classes and the target; nothing without maps to judge."""
        if not survey.relevance:
            return ()
        made = replace(
            self, classes=survey.classes, mask_classes=survey.mask_classes, target=survey.targets[0]
        )
        if survey.mask_classes:
            truth_of(survey.classes, survey.mask_classes, self.truth)
        return (made,)

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # split has read it
        """Ask for masks and for every relevance map."""
        return Needs(masks=True, relevance=True)

    def observe(self, batch: Batch) -> Observation | None:
        """Score every map of one batch.

        Returns
        -------
        Observation or None
            Rows ``pointing``, ``inside``, ``average_precision``, ``recall``, ``constant``, ``undefined``
            (image, explainer), pixels ``above_inside`` and ``above_outside`` with at least each score (image,
            explainer, threshold), ``box_largest`` and ``box_every`` (image, explainer, cut), and
            ``area``, ``objects`` and ``own`` (image). Partial ``pixels_inside`` and ``pixels_outside``
            (explainer, score), pooled. None without masks.
        """
        if batch.masks is None:
            return None
        region, own = regions(batch, batch.masks, self.region, self.target)
        objects = [None] * len(region) if batch.objects is None else batch.objects
        truths = [
            image_truth(one, mask, self.tolerance, numbers)
            for one, mask, numbers in zip(region, batch.masks, objects, strict=True)
        ]
        judged = maps_of(batch)
        scores = [_scored(kind, truths, batch.readable) for kind in judged]
        names = [kind.name for kind in judged]
        return Observation(
            _rows(names, scores, truths, own).assign(undefined=_undefined(judged, truths)),
            _partial(names, scores, (own & batch.readable).tolist()),
        )

    def conclude(self, run: Run) -> Conclusion:
        """Rank the maps, choose thresholds on one half and score them on the other, beside controls."""
        return conclude(self, run)

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG002  # the table has it all
        """Show how maps, baselines and controls rank."""
        return sections(summary)


Scored = Sequence[MapScores | None]


def _scored(judged: Judged, truths: Sequence[ImageTruth], readable: Tensor) -> list[MapScores | None]:
    """Score one kind of map on every image that has a region; None elsewhere, and for undefined maps."""
    size = truths[0].known.shape
    planes = resized(judged.maps, (size[0], size[1])).cpu().numpy()
    return [
        score(plane, truth) if ok and truth.inside.any() and np.isfinite(plane).all() else None
        for plane, truth, ok in zip(planes, truths, readable.tolist(), strict=True)
    ]


def _undefined(judged: Sequence[Judged], truths: Sequence[ImageTruth]) -> tuple[tuple[str, ...], np.ndarray]:
    """Mark maps that are not finite; NaN on images without a region."""
    odd = torch.stack([~torch.isfinite(kind.maps).flatten(1).all(1) for kind in judged], dim=1)
    values = odd.float().cpu().numpy()
    values[[not truth.inside.any() for truth in truths]] = np.nan
    return ("image", "explainer"), values


def _rows(
    names: Sequence[str], scores: Sequence[Scored], truths: Sequence[ImageTruth], own: Tensor
) -> xr.Dataset:
    """Write what is said about each image."""
    one = ("image", "explainer")
    measures = ("pointing", "inside", "average_precision", "recall", "constant")
    table: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (one, _values(scores, name, ())) for name in measures
    }
    for side in ("inside", "outside"):
        table[f"above_{side}"] = ((*one, "threshold"), _above(scores, side))
    for kind in ("largest", "every"):
        table[f"box_{kind}"] = ((*one, "cut"), _values(scores, f"boxes.{kind}", (len(CUTS),)))
    by_image = {
        "area": [truth.area for truth in truths],
        "objects": [len(truth.objects) for truth in truths],
        "own": own.tolist(),
    }
    coords = {
        "explainer": np.array(names, dtype=object),
        "threshold": np.arange(STEPS + 1) / STEPS,
        "cut": np.array(CUTS),
    }
    single = {name: ("image", np.array(values, dtype=np.float32)) for name, values in by_image.items()}
    return xr.Dataset({**table, **single}, coords=coords)


def _values(scores: Sequence[Scored], path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Collect one score of all maps, (image, explainer, ...); NaN where there is none."""
    empty = np.full(shape, np.nan)

    def found(one: MapScores | None) -> Any:
        value: Any = one
        for part in path.split("."):
            value = empty if value is None else getattr(value, part)
            if value is empty:
                return empty
        return value

    return np.array([[found(kind[image]) for kind in scores] for image in range(len(scores[0]))], np.float32)


def _above(scores: Sequence[Scored], side: str) -> np.ndarray:
    """Pixels with at least each coarse score, (image, explainer, threshold)."""
    images = len(scores[0])
    values = np.full((images, len(scores), STEPS + 1), np.nan, dtype=np.float32)
    for position, kind in enumerate(scores):
        for image, one in enumerate(kind):
            if one is not None:
                joined = coarser(one.histogram, BINS // STEPS)
                counts = joined.positive if side == "inside" else joined.negative
                values[image, position] = counts[::-1].cumsum()[::-1]
    return values


def _partial(names: Sequence[str], scores: Sequence[Scored], counted: Sequence[bool]) -> xr.Dataset:
    """Pool the pixels of the images that count."""
    nothing = ScoreHistogram(np.zeros(BINS + 1), np.zeros(BINS + 1))
    sums = []
    for kind in scores:
        own = [one.histogram for one, ok in zip(kind, counted, strict=True) if one is not None and ok]
        sums.append(sum(own, nothing))
    both = ("explainer", "score")
    return xr.Dataset(
        {
            "pixels_inside": (both, np.stack([one.positive for one in sums])),
            "pixels_outside": (both, np.stack([one.negative for one in sums])),
        },
        coords={"explainer": np.array(names, dtype=object), "score": np.arange(BINS + 1) / BINS},
    )
