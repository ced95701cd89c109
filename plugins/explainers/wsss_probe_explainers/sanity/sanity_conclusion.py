"""From maps by networks that have forgotten to what may be said about each explainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wsss_probe import Conclusion
from wsss_probe.statistics import Interval, group_bootstrap, nanmean
from wsss_probe_explainers.explained_again import Sample, explain_again, sample_of
from wsss_probe_explainers.sampling import pair_name
from wsss_probe_explainers.sanity.randomisation import forget, groups_from_top, parametrised, stages
from wsss_probe_explainers.sanity.sanity_verdict import findings, verdicts
from wsss_probe_explainers.sanity.similarity import SIMILARITIES, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe import Target
    from wsss_probe.contracts import Pair, Run

__all__ = ["ALIKE", "conclude"]

ALIKE = 0.99
"""Maps of different images that are more alike than this say nothing of the image."""

_SHIFTS = 3
"""Other images that each map is compared with for chance."""

Maps = Mapping["Pair", "NDArray[np.float32]"]


class _Asked(Protocol):
    """What is read of the probe."""

    @property
    def name(self) -> str: ...
    @property
    def chosen(self) -> tuple[int, ...]: ...
    @property
    def target(self) -> Target: ...
    @property
    def groups(self) -> int: ...
    @property
    def draws(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Step:
    """Similarity to the trained network's maps at one step of forgetting."""

    order: str
    depth: int
    modules: str
    similar: NDArray[np.float64]  # (explainer, image, similarity)
    alike: NDArray[np.float64]  # (explainer,) of maps of different images by this network


def conclude(asked: _Asked, run: Run) -> Conclusion:
    """Conclude over the chosen images.

    Parameters
    ----------
    asked : Sanity
    run : Run

    Returns
    -------
    Conclusion
        By (step, explainer, similarity) ``mean, low, high``; by (step) ``order, depth, modules``; by (step,
        explainer) ``alive``: whether the drawn network's maps differ between images; by (explainer,
        similarity) ``chance, chance_low, chance_high, logit, logit_low, logit_high``; by (explainer)
        ``kept, excess, excess_low, excess_high, least, verdict``.
    """
    sample = sample_of(run, asked.chosen, run.rows(asked.name)["explained"].values, asked.target)
    pairs = run.survey.relevance
    groups = None if run.groups is None else run.groups[sample.indices]
    trained: Maps = explain_again(run, sample, pairs) if len(sample.indices) else {}
    steps = list(_steps(asked, run, sample, trained)) if trained else []
    chance = _stacked([_between(trained.get(pair)) for pair in pairs], len(sample.indices))
    logit = _random_logit(run, sample, trained)
    summary = xr.merge(
        [
            _step_table(steps, len(pairs), groups, run.survey.seed),
            _interval_table("chance", chance, groups, run.survey.seed),
            _interval_table("logit", logit, groups, run.survey.seed),
            _excess_table(steps, chance, groups, run.survey.seed),
        ]
    )
    names = np.array([pair_name(pair) for pair in pairs], dtype=object)
    summary = summary.assign_coords(explainer=names, similarity=np.array(SIMILARITIES, dtype=object))
    known = group_bootstrap(np.ones(len(sample.indices)), groups, resamples=1)
    summary.attrs = {"n": len(sample.indices), "groups": known.groups, "draws": asked.draws}
    summary = summary.assign(verdict=("explainer", verdicts(summary)))
    return Conclusion(summary, findings(summary, run))


# -- maps --------------------------------------------------------------------------------------


def _steps(asked: _Asked, run: Run, sample: Sample, trained: Maps) -> Iterator[_Step]:
    """Forget, explain again, compare: the cascade, each group alone, and everything in other draws."""
    batches = [part.images for part in sample.parts()]
    groups = groups_from_top(parametrised(run.model(), batches[0][:1]), asked.groups)
    planned = [(stage, 0) for stage in stages(groups)]
    whole = [stage for stage, _ in planned if stage.order == "cascading"][-1:]
    planned += [(replace(stage, order="again"), draw) for stage in whole for draw in range(1, asked.draws)]
    for stage, draw in planned:
        network = run.model()
        forget(network, stage.modules, batches, 1000 * abs(run.survey.seed) + draw)
        found = explain_again(run, sample, run.survey.relevance, network)
        similar = [_similar(trained.get(pair), found.get(pair)) for pair in run.survey.relevance]
        alike = [_alike(found.get(pair)) for pair in run.survey.relevance]
        modules = ", ".join(stage.modules[:3]) + (" …" if len(stage.modules) > 3 else "")
        yield _Step(
            stage.order,
            stage.depth,
            modules,
            _stacked(similar, len(sample.indices)),
            np.array(alike, dtype=np.float64),
        )


def _similar(
    first: NDArray[np.float32] | None, second: NDArray[np.float32] | None
) -> NDArray[np.float64] | None:
    return None if first is None or second is None else similarity(first, second)


def _between(maps: NDArray[np.float32] | None) -> NDArray[np.float64] | None:
    """Mean similarity of each map to those of some other images, (image, similarity)."""
    if maps is None or len(maps) < 2:
        return None
    shifts = range(1, min(_SHIFTS, len(maps) - 1) + 1)
    found = np.stack([similarity(maps, np.roll(maps, shift, axis=0)) for shift in shifts])
    return nanmean(found)


def _alike(maps: NDArray[np.float32] | None) -> float:
    """How alike the maps of different images are, at the median; 1 where most maps are constant."""
    between = _between(maps)
    if between is None:
        return float("nan")
    absolute = between[:, SIMILARITIES.index("absolute")]
    defined = absolute[np.isfinite(absolute)]
    return float(np.median(defined)) if 2 * len(defined) > len(absolute) else 1.0


def _stacked(found: Sequence[NDArray[np.float64] | None], images: int) -> NDArray[np.float64]:
    """One array (explainer, image, similarity); NaN for what is missing."""
    lost = np.full((images, len(SIMILARITIES)), np.nan)
    stacked = [lost if item is None else item for item in found]
    return np.array(stacked).reshape(len(found), images, len(SIMILARITIES))


def _random_logit(run: Run, sample: Sample, trained: Maps) -> NDArray[np.float64]:
    """Compare with maps for another class, drawn for each image."""
    classes, pairs = len(run.survey.classes), run.survey.relevance
    missing = _stacked([None] * len(pairs), len(sample.indices))
    if not isinstance(sample.target, Tensor) or classes < 2 or not trained:
        return missing
    steps = [
        np.random.default_rng((abs(run.survey.seed), int(index))).integers(1, classes)
        for index in sample.indices
    ]
    moved = torch.as_tensor(np.array(steps), device=sample.target.device)
    other = replace(sample, target=(sample.target + moved) % classes)
    found = explain_again(run, other, pairs)
    return _stacked([_similar(trained.get(p), found.get(p)) for p in pairs], len(sample.indices))


# -- tables ------------------------------------------------------------------------------------


def _interval(values: NDArray[np.float64], groups: NDArray[np.generic] | None, seed: int) -> Interval:
    """Mean over images of (explainer, image, …) with its interval."""
    return group_bootstrap(np.moveaxis(values, 1, 0), groups, resamples=1000, seed=seed)


def _interval_table(
    name: str, values: NDArray[np.float64], groups: NDArray[np.generic] | None, seed: int
) -> xr.Dataset:
    found = _interval(values, groups, seed)
    columns = {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    return xr.Dataset({key: (("explainer", "similarity"), column) for key, column in columns.items()})


def _step_table(
    steps: Sequence[_Step], explainers: int, groups: NDArray[np.generic] | None, seed: int
) -> xr.Dataset:
    found = [_interval(step.similar, groups, seed) for step in steps]
    size = (len(steps), explainers, len(SIMILARITIES))
    dims = ("step", "explainer", "similarity")
    columns = {
        key: (dims, np.array([getattr(item, part) for item in found]).reshape(size))
        for key, part in (("mean", "estimate"), ("low", "low"), ("high", "high"))
    }
    alike = np.array([step.alike for step in steps]).reshape(size[:2])
    return xr.Dataset(
        {
            **columns,
            "alive": (dims[:2], alike < ALIKE),
            "order": ("step", np.array([step.order for step in steps], dtype=object)),
            "depth": ("step", np.array([step.depth for step in steps], dtype=np.int64)),
            "modules": ("step", np.array([step.modules for step in steps], dtype=object)),
        },
        coords={"step": np.arange(len(steps))},
    )


def _excess_table(
    steps: Sequence[_Step], chance: NDArray[np.float64], groups: NDArray[np.generic] | None, seed: int
) -> xr.Dataset:
    """Absolute similarity above chance once everything is forgotten: mean over draws, and the least draw."""
    at = SIMILARITIES.index("absolute")
    whole = [step for step in steps if step.order == "again"]
    whole += [step for step in steps if step.order == "cascading"][-1:]
    level = chance[..., at]
    over = np.stack([step.similar[..., at] - level for step in whole]) if whole else level[None] * np.nan
    excess = group_bootstrap(over.mean(0).T, groups, resamples=1000, seed=seed)
    means = nanmean(np.moveaxis(over, 2, 0))
    room = 1 - nanmean(level.T)
    kept = np.divide(excess.estimate, room, out=np.full(room.shape, np.nan), where=room > 1 - ALIKE)
    columns = {"excess": excess.estimate, "excess_low": excess.low, "excess_high": excess.high}
    columns |= {"kept": kept, "least": means.min(0)}
    return xr.Dataset({key: ("explainer", np.asarray(column)) for key, column in columns.items()})
