"""Which mask region a class of the network should be found in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wsss_probe.errors import UsageError
from wsss_probe_channels.regions import MaskRegion, regions_of

__all__ = ["Correspondence", "correspond"]

REMEDY = 'name the pairs in a run file: [probes.head-weights.match], then "<class>" = "<mask region>"'


@final
@dataclass(frozen=True, slots=True)
class Correspondence:
    """The region of each class, and why that one.

    Parameters
    ----------
    regions : mapping of str to str
        By class of the network, in its order; an empty text where none is known.
    reasons : mapping of str to str
        By class that has a region: ``same name``, ``named by match``, or that it is the complement.
    """

    regions: Mapping[str, str]
    reasons: Mapping[str, str]

    @property
    def known(self) -> tuple[str, ...]:
        """Classes with a region."""
        return tuple(name for name, region in self.regions.items() if region)

    @property
    def words(self) -> str:
        """All pairs in one line."""
        pairs = [
            f"{name} is looked for in '{self.regions[name]}' ({self.reasons[name]})" for name in self.known
        ]
        return "; ".join(pairs) if pairs else "no class has a mask region"


def correspond(
    classes: Sequence[str], mask_classes: Sequence[str], match: Mapping[str, str] | None = None
) -> Correspondence:
    """Match the classes of a network to mask regions.

    A pair named in ``match`` comes first, then equal names, whatever their case. Of two classes of
    which only one is matched, and that to a mask class, the other is taken to be what is left without it:
    ``tissue without gland`` where white background has a mask class, else ``not gland``. A class named like
    a mask class that is no region, white, is not what is left.

    Parameters
    ----------
    classes : sequence of str
        Of the network.
    mask_classes : sequence of str
    match : mapping of str to str, optional
        Region by class; the name of any region of any mask class.

    Returns
    -------
    Correspondence

    Raises
    ------
    UsageError
        If ``match`` names a class or a region that does not exist.

    Examples
    --------
    >>> correspond(("no gland", "Gland"), ("gland", "white")).regions
    {'no gland': 'tissue without gland', 'Gland': 'gland'}
    """
    given = dict(match or {})
    _require("class in match is no class of the network", given, classes)
    possible = [region.name for region in regions_of(mask_classes, "all")]
    _require("region in match is no mask region", given.values(), possible)
    by_name = {region.name.casefold(): region.name for region in regions_of(mask_classes)}
    regions = {name: given.get(name) or by_name.get(name.casefold(), "") for name in classes}
    reasons = {name: "named by match" if name in given else "same name" for name in classes if regions[name]}
    other = _other(regions, regions_of(mask_classes), {name.casefold() for name in mask_classes})
    if other is not None:
        name, region, thing = other
        regions[name], reasons[name] = region, f"the complement of {thing}, since there are two classes"
    return Correspondence(regions, reasons)


def _other(
    regions: Mapping[str, str], possible: Sequence[MaskRegion], masked: Collection[str]
) -> tuple[str, str, str] | None:
    """Of two classes, the one without a region, the complement that it gets, and of what."""
    found = [region for region in regions.values() if region]
    own = {region.name for region in possible if not region.complement}
    if len(regions) != 2 or len(found) != 1 or found[0] not in own:
        return None
    left = next(name for name in regions if not regions[name])
    if left.casefold() in masked:
        return None
    complements = [region.name for region in possible if region.complement]
    for region in (f"tissue without {found[0]}", f"not {found[0]}"):
        if region in complements:
            return left, region, found[0]
    return None


def _require(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse the first name that is not known."""
    for name in names:
        if name not in known:
            raise UsageError(what, found=str(name), wanted=", ".join(known) or "masks in the manifest")
