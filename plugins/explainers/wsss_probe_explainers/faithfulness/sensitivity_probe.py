"""The probe Sensitivity: how much a map can change when its image hardly does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import torch
import xarray as xr

from wsss_probe import Conclusion, Figure, Finding, Needs, Observation, Probe, Section, Text
from wsss_probe.errors import UsageError
from wsss_probe.report.figures import interval_plot
from wsss_probe.statistics import group_bootstrap
from wsss_probe_explainers.explained_again import Sample, explain_again, sample_of
from wsss_probe_explainers.sampling import evenly_spread, explained_classes, pair_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsss_probe import Batch, Survey, Target
    from wsss_probe.contracts import Run

__all__ = ["Sensitivity", "change", "perturbed"]


@final
@dataclass(frozen=True)
class Sensitivity(Probe):
    """Largest relative change of a map under small uniform noise on its image.

    ``max over e of ||M(x + e) - M(x)|| / ||M(x)||`` with each entry of e uniform in +- radius: the
    max-sensitivity of Yeh, Hsieh, Suggala, Inouye, Ravikumar (2019), arXiv:1901.09392, eq. 3, estimated by
    drawing, as captum's ``sensitivity_max`` does. The explained class is kept.

    Misleads: a map that is the same for every image is not sensitive at all; low is good only beside the
    sanity checks. The maximum grows with the number of draws, so compare equal numbers.

    Parameters
    ----------
    images : int
        How many, evenly spread over the manifest.
    draws : int
        Perturbed copies of each image.
    radius : float
        In standard deviations of each network input.
    chosen : tuple of int
        Positions in the manifest; set by :meth:`split`, as is the following.
    target : Target

    Raises
    ------
    UsageError
        For options that cannot be meant.
    """

    images: int = 12
    draws: int = 5
    radius: float = 0.02
    chosen: tuple[int, ...] = field(default=(), repr=False)
    target: Target = "predicted"
    name: str = field(init=False, default="sensitivity")
    options: Mapping[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; write down what the plan records."""
        options = {key: getattr(self, key) for key in ("images", "draws", "radius")}
        for name, least in (("images", 1), ("draws", 1)):
            if options[name] < least:
                raise UsageError(f"sensitivity needs {name}", found=str(options[name]), wanted="1 or more")
        if not self.radius > 0:
            raise UsageError("sensitivity needs a radius", found=str(self.radius), wanted="more than 0")
        object.__setattr__(self, "options", options)

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make the copy that knows its images; none where there are no maps to judge."""
        if not survey.relevance:
            return ()
        chosen = evenly_spread(survey.images or self.images, self.images)
        return (replace(self, chosen=chosen, target=survey.targets[0]),)

    def needs(self, survey: Survey) -> Needs:  # noqa: ARG002  # the contract
        """Ask for nothing; not for controls, whose maps are looked at by the sanity checks."""
        return Needs(controls=False)

    def observe(self, batch: Batch) -> Observation:
        """Keep the class that is explained: rows ``explained`` (image), NaN for a contrast."""
        classes = explained_classes(batch, self.target)
        return Observation(xr.Dataset({"explained": ("image", classes)}))

    def conclude(self, run: Run) -> Conclusion:
        """Explain perturbed copies of the chosen images.

        Returns
        -------
        Conclusion
            By (explainer) ``mean, low, high`` of the largest relative change, ``defined``.
        """
        sample = sample_of(run, self.chosen, run.rows(self.name)["explained"].values, self.target)
        pairs = run.survey.relevance
        first = explain_again(run, sample, pairs) if len(sample.indices) else {}
        largest = np.full((len(sample.indices), len(pairs)), np.nan)
        for draw in range(self.draws if first else 0):
            moved = replace(sample, images=perturbed(sample, self.radius, run.survey.seed, draw))
            again = explain_again(run, moved, pairs)
            for place, pair in enumerate(pairs):
                if pair in first and pair in again:
                    found = change(first[pair], again[pair])
                    largest[:, place] = found if draw == 0 else np.maximum(largest[:, place], found)
        groups = None if run.groups is None else run.groups[sample.indices]
        interval = group_bootstrap(largest, groups, seed=run.survey.seed)
        columns = {"mean": interval.estimate, "low": interval.low, "high": interval.high}
        columns["defined"] = np.isfinite(largest).sum(axis=0)
        summary = xr.Dataset(
            {key: ("explainer", column) for key, column in columns.items()},
            coords={"explainer": np.array([pair_name(pair) for pair in pairs], dtype=object)},
            attrs={"n": len(sample.indices), "groups": interval.groups, "note": interval.note},
        )
        return Conclusion(summary, self._findings(summary))

    def _findings(self, summary: xr.Dataset) -> tuple[Finding, ...]:
        """Name the maps that change by more than their own size."""
        over = np.flatnonzero(np.nan_to_num(summary["low"].values, nan=0) > 1)
        if not len(over):
            return ()
        named = "; ".join(
            f"{summary['explainer'].values[at]} {summary['mean'].values[at]:.2f}" for at in over[:6]
        )
        more = f"; and {len(over) - 6} more" if len(over) > 6 else ""
        text = (
            f"Noise of {self.radius:g} standard deviations of the input changes {len(over)} of "
            f"{summary.sizes['explainer']} maps by more than their own size (largest of {self.draws} draws, "
            f"mean over images): {named}{more}."
        )
        control = "the map of the image without noise"
        groups, n = summary.attrs["groups"] or None, summary.attrs["n"]
        count = float(len(over))
        return (
            Finding(
                "sensitive-maps", "notice", text, count, n=n, groups=groups, unit="maps", control=control
            ),
        )

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:  # noqa: ARG002  # the contract
        """Show every map's sensitivity."""
        text = (
            f"How much a map changes when its image hardly does: {self.draws} draws of uniform noise up to "
            f"{self.radius:g} standard deviations of the input. A map that is the same for every image does "
            "not change at all, so a low number is good only beside the sanity checks."
        )
        frame = pd.DataFrame(
            {
                "map": summary["explainer"].values,
                **{key: summary[key].values for key in ("mean", "low", "high")},
            }
        )
        frame["images"] = summary["defined"].values
        frame = frame.sort_values("mean", kind="stable").reset_index(drop=True)
        caption = (
            f"Largest relative change of each map, mean over n = {summary.attrs['n']} images, 95 % interval "
            f"over {summary.attrs['groups']} groups; 1 is the size of the map itself. Control: the map "
            "without noise, 0."
        )
        ends = list(zip(frame["low"].tolist(), frame["high"].tolist(), strict=True))
        plot = interval_plot(
            frame["map"].tolist(), frame["mean"].tolist(), ends, axis="largest relative change"
        )
        definition = "max over draws of the norm of M(x + e) - M(x) over that of M(x). Yeh et al. (2019)."
        blocks = (Text(text), Figure(plot, caption, definition, frame))
        yield Section("where", "Maps of hardly changed images", blocks)


def perturbed(sample: Sample, radius: float, seed: int, draw: int) -> Tensor:
    """Add uniform noise to images.

    Parameters
    ----------
    sample : Sample
    radius : float
        In standard deviations of each image.
    seed, draw : int
        With the image's position in the manifest they decide the noise.

    Returns
    -------
    Tensor, (image, channel, row, column)
    """
    shape = tuple(sample.images.shape[1:])
    drawn = [
        np.random.default_rng((abs(seed), int(index), draw)).uniform(-radius, radius, shape)
        for index in sample.indices
    ]
    noise = torch.from_numpy(np.array(drawn, dtype=np.float32).reshape(sample.images.shape))
    spread = sample.images.flatten(1).std(1)[:, None, None, None]
    return sample.images + noise.to(sample.images) * spread


def change(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Relative change of maps: norm of the difference over the norm of the first.

    Parameters
    ----------
    first, second : ndarray of float, (image, row, column)

    Returns
    -------
    ndarray of float64, (image,)
        NaN where the first is a map of zeros or either has NaN.
    """
    before = first.reshape(len(first), -1).astype(np.float64)
    after = second.reshape(len(second), -1).astype(np.float64)
    size = np.linalg.norm(before, axis=1)
    moved = np.linalg.norm(after - before, axis=1)
    return np.asarray(np.divide(moved, size, out=np.full(len(size), np.nan), where=size > 0))
