"""Columns of the channel passport: the concept that each channel goes with, chosen on half of the groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from scipy.stats import rankdata, t

from wsss_probe import ChannelColumn, ChannelColumns
from wsss_probe.statistics import benjamini_hochberg
from wsss_probe_concepts.regression.missing import patterns

if TYPE_CHECKING:
    from wsss_probe.contracts import Network, Run

__all__ = ["ConceptColumns", "Strongest", "spearman", "strongest_concepts"]

_SIGNIFICANT: Final = 0.05
_FEWEST: Final = 4
"""Groups in the half that is scored, below which nothing is said."""


@final
@dataclass(frozen=True, slots=True)
class Strongest:
    """The strongest concept of every channel.

    Parameters
    ----------
    concept : ndarray of int, (channel,)
        Position; -1 where no concept is named.
    rho : ndarray of float64, (channel,)
        Spearman's correlation on the half that the concept was not chosen on; NaN where none is named.
    images, groups : int
        Behind ``rho``.
    """

    concept: np.ndarray
    rho: np.ndarray
    images: int
    groups: int


@final
@dataclass(frozen=True)
class ConceptColumns(ChannelColumns):
    """The concept that a channel's mean goes with most, and how closely.

    Misleads: a correlation over images holds for whatever else differs between them (stain, scanner, class).
    One concept is named though several may go together; a channel that mixes concepts has none.

    Parameters
    ----------
    name : str
    """

    name: str = "concepts"

    def columns(self, run: Run, layer: str) -> Iterable[ChannelColumn]:
        """Name each channel's strongest concept.

        Parameters
        ----------
        run : Run
        layer : str

        Returns
        -------
        iterable of ChannelColumn
            ``concept`` and ``concept ρ``; none where no concept was measured.
        """
        names = [str(name) for name in run.concepts["concept"].values]
        if not names:
            return ()
        found = _of_network(run, run, layer)
        size = f"n = {found.images} images in {found.groups} groups"
        rule = (
            f"Chosen by |ρ| with the channel's mean on half of the groups, ρ from the other half ({size}); "
            "empty where q (Benjamini and Hochberg over channels and concepts, groups counted as the "
            f"sample) is {_SIGNIFICANT} or more."
        )
        against = _against(run, layer)
        texts = [names[at] if at >= 0 else "" for at in found.concept]
        return (
            ChannelColumn(
                "concept", texts, f"Concept with the strongest rank correlation. {rule} {against}", 21
            ),
            ChannelColumn(
                "concept ρ", found.rho.tolist(), f"Spearman's ρ with that concept. {rule} {against}", 21.01
            ),
        )


def _of_network(run: Run, network: Run | Network, layer: str) -> Strongest:
    return strongest_concepts(
        np.asarray(network.pooled(layer).values, dtype=np.float64),
        np.asarray(run.concepts["value"].values, dtype=np.float64),
        run.groups,
        run.survey.seed,
    )


def _against(run: Run, layer: str) -> str:
    """Say for how many channels of the living controls a concept is named."""
    living = [control for control in run.controls if control.alive(layer)]
    if not living:
        return "No living control."
    named = [float((_of_network(run, control, layer).concept >= 0).mean()) for control in living]
    many = len(living) > 1
    spread = f"{min(named):.0%} to {max(named):.0%}" if many else f"{named[0]:.0%}"
    networks = "networks that learned nothing" if many else "network that learned nothing"
    return f"Control: named for {spread} of the channels of {len(living)} {networks}."


def strongest_concepts(
    channels: np.ndarray, concepts: np.ndarray, groups: np.ndarray | None, seed: int = 0
) -> Strongest:
    """Choose each channel's concept on one half of the groups and score it on the other.

    p is Student's with as many degrees of freedom as if every group were one image: with dependent images
    in a group that is too large rather than too small.

    Parameters
    ----------
    channels : ndarray of float64, (image, channel)
    concepts : ndarray of float64, (image, concept)
    groups : ndarray or None, (image,)
        Without it every image is its own group.
    seed : int
        Of the halves.

    Returns
    -------
    Strongest
    """
    known = np.flatnonzero(np.isfinite(channels).all(axis=1))
    own = known if groups is None else np.asarray(groups)[known]
    names, member = np.unique(own, return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(names)) < len(names) // 2
    choosing, scoring = known[first[member]], known[~first[member]]
    nothing = np.full(channels.shape[1], -1), np.full(channels.shape[1], np.nan)
    count = len(names) - len(names) // 2
    if count < _FEWEST or not concepts.shape[1]:
        return Strongest(*nothing, len(scoring), count)
    chosen = np.abs(spearman(channels[choosing], concepts[choosing]))
    best = np.where(np.isfinite(chosen), chosen, -1.0).argmax(axis=1)
    rho = spearman(channels[scoring], concepts[scoring])
    q = benjamini_hochberg(_p(rho, _groups_with(concepts[scoring], member[~first[member]])))
    each = np.arange(len(best))
    named = np.isfinite(chosen).any(axis=1) & (q[each, best] < _SIGNIFICANT)
    return Strongest(np.where(named, best, -1), np.where(named, rho[each, best], np.nan), len(scoring), count)


def spearman(channels: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    """Rank correlation of every channel with every concept over the images that have it.

    Parameters
    ----------
    channels : ndarray of float64, (image, channel)
        Finite.
    concepts : ndarray of float64, (image, concept)
        NaN is left out.

    Returns
    -------
    ndarray of float64, (channel, concept)
        Ties share their mean rank; NaN where either is constant.

    Examples
    --------
    >>> spearman(np.array([[1.0], [2.0], [5.0]]), np.array([[3.0, 1.0], [2.0, 4.0], [1.0, 9.0]])).tolist()
    [[-1.0, 1.0]]
    """
    rho = np.full((channels.shape[1], concepts.shape[1]), np.nan)
    for pattern in patterns(np.isfinite(concepts)):
        if pattern.images.sum() > 1:
            ranked = (_ranks(values[pattern.images]) for values in (channels, concepts[:, pattern.concepts]))
            ours, theirs = ranked
            rho[:, pattern.concepts] = np.clip(ours.T @ theirs, -1, 1)
    return rho


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of unit length about their mean, column by column; NaN for a constant one."""
    ranks = rankdata(values, axis=0) - (len(values) + 1) / 2
    length = np.sqrt((ranks**2).sum(axis=0))
    return np.asarray(ranks / np.where(length > 0, length, np.nan))


def _groups_with(concepts: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Groups that have an image with the concept, (concept,)."""
    return np.array([len(np.unique(member[known])) for known in np.isfinite(concepts).T])


def _p(rho: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Two-sided p of rank correlations (channel, concept) that rest on so many groups (concept,)."""
    freedom = np.where(groups >= _FEWEST, groups - 2, np.nan)
    square = np.minimum(rho**2, 1 - 1e-12)  # a perfect rank correlation would divide by 0
    return np.asarray(2 * t.sf(np.sqrt(square * freedom / (1 - square)), freedom))
