"""One threshold for each kind of map, chosen on some images and scored on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.errors import UsageError
from wsss_probe.sealed import Split, choose, halves, scored, split_of
from wsss_probe.statistics import nanmean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsss_probe.contracts import Choice, Run
    from wsss_probe_explainers.localisation.localisation_probe import Localisation
    from wsss_probe_explainers.localisation.network import Floats, NetworkScores

__all__ = ["Held", "Parting", "held_out", "parted"]


@final
@dataclass(frozen=True, slots=True)
class Parting:
    """Images to choose thresholds on, and those to score them on.

    Parameters
    ----------
    choosing, scoring : Split
    again : bool
        Whether the two may share images, because somebody asked for that.
    """

    choosing: Split
    scoring: Split
    again: bool

    @property
    def words(self) -> str:
        """How thresholds were chosen and scored."""
        return (
            f"chosen on {self.choosing.name} ({len(self.choosing)} images), scored on {self.scoring.name} "
            f"({len(self.scoring)} images)"
        )


@final
@dataclass(frozen=True, slots=True)
class Held:
    """Dice at the chosen threshold of each kind of map.

    Parameters
    ----------
    threshold, chosen : ndarray, (explainer,)
        The threshold, and the mean Dice where it was chosen (optimistic); NaN where none could be.
    dice : ndarray, (image, explainer)
        On the scoring images; NaN elsewhere.
    everywhere : ndarray, (image, explainer)
        At the same threshold on all images that count, for showing beside single maps.
    choices : tuple of Choice
    """

    threshold: Floats
    chosen: Floats
    dice: Floats
    everywhere: Floats
    choices: tuple[Choice, ...]


def parted(probe: Localisation, run: Run, counted: NDArray[np.bool_]) -> Parting:
    """Divide the images that count; see :func:`wsss_probe.sealed.halves`."""
    choosing, scoring = halves(run, counted, probe.chosen_on, run.survey.seed)
    if probe.reopen:
        scoring = split_of(run, counted, "all images, those included that it was chosen on")
    return Parting(choosing, scoring, probe.reopen)


def held_out(network: NetworkScores, parting: Parting, steps: Floats) -> Held:
    """Choose a threshold for each kind of map by mean Dice, and score it.

    Parameters
    ----------
    network : NetworkScores
    parting : Parting
    steps : ndarray, (threshold,)

    Returns
    -------
    Held
    """
    dice = network.dice
    shape = dice.shape[:2]
    threshold, chosen = np.full(shape[1], np.nan), np.full(shape[1], np.nan)
    held, everywhere = np.full(shape, np.nan), np.full(shape, np.nan)
    choices = []
    for position, name in enumerate(network.names):
        own = dice[:, position]
        choice = _choice(name, own, parting, steps)
        if choice is None or not len(parting.scoring):
            continue
        at, final = scored(
            choice, parting.scoring, lambda value, _: _place(value, steps), again=parting.again
        )
        threshold[position], chosen[position] = steps[at], final.score
        held[parting.scoring.images, position] = own[parting.scoring.images, at]
        everywhere[:, position] = own[:, at]
        choices.append(final)
    return Held(threshold, chosen, held, everywhere, tuple(choices))


def _place(value: str | float, steps: Floats) -> int:
    return int(np.argmin(np.abs(steps - float(value))))


def _choice(name: str, dice: Floats, parting: Parting, steps: Floats) -> Choice | None:
    """Choose one threshold; None where no Dice is defined."""
    means = nanmean(dice[parting.choosing.images])
    scores: dict[str | float, float] = dict(zip(steps.tolist(), means.tolist(), strict=True))
    try:
        return choose(f"threshold of {name}", scores, "mean Dice", parting.choosing)
    except UsageError:
        return None
