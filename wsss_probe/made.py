"""What an audit has made by its end: what the report and the run folder keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import Choice, Finding, Section

__all__ = ["Made"]


@final
@dataclass(frozen=True, slots=True)
class Made:
    """Findings, sections, choices and scores, of the host and the plugins.

    Parameters
    ----------
    findings : sequence of (str, Finding)
        With the plugin.
    sections : tuple of Section
    choices : tuple of (str, Choice)
        With the plugin.
    map_scores : mapping of str to DataArray, (image, explainer)
        Scores of single relevance maps, by short name.
    """

    findings: Sequence[tuple[str, Finding]]
    sections: tuple[Section, ...] = ()
    choices: tuple[tuple[str, Choice], ...] = ()
    map_scores: Mapping[str, xr.DataArray] = field(default_factory=dict)
