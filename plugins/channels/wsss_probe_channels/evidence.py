"""Which layers the costly analyses look at, and when an interval may carry a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss_probe.errors import UsageError
from wsss_probe.passport import evidence_layer
from wsss_probe.statistics import FEW_GROUPS

if TYPE_CHECKING:
    from wsss_probe import Survey

__all__ = ["evidence_layers", "map_layers", "reliable"]


def map_layers(survey: Survey) -> tuple[str, ...]:
    """Audited layers with maps, in the order of execution."""
    return tuple(name for name, info in survey.layers.items() if info.layout == "maps")


def evidence_layers(survey: Survey, wanted: str = "last") -> tuple[str, ...]:
    """Layers that an analysis looks at.

    Parameters
    ----------
    survey : Survey
    wanted : str
        ``last``: the layer that a proved linear head averages, if it is audited, else the last
        audited layer with maps. ``all``: every audited layer with maps. Else names, comma-separated.

    Returns
    -------
    tuple of str
        Empty when no audited layer has maps.

    Raises
    ------
    UsageError
        For a layer that is not audited or has no maps.
    """
    audited = map_layers(survey)
    if wanted == "all" or not audited:
        return audited
    if wanted == "last":
        return (evidence_layer(survey),)
    names = tuple(name.strip() for name in wanted.split(",") if name.strip())
    for name in names:
        if name not in audited:
            msg = "layer for channel evidence is not audited or has no maps"
            raise UsageError(msg, found=name, wanted=", ".join(audited), remedy="name it in --layers as well")
    return names


def reliable(groups: int | None) -> bool:
    """Whether an interval over so many independent groups may carry a verdict; None means unknown.

    Below ten groups a percentile interval is visibly too narrow, so what clears its controls by such an
    interval is a notice.

    >>> reliable(9), reliable(10), reliable(None)
    (False, True, False)
    """
    return groups is not None and groups >= FEW_GROUPS
