"""Which mask target a class of the network should be found in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wsss_probe.errors import UsageError
from wsss_probe_channels.targets import MaskTarget, targets_of

__all__ = ["Correspondence", "correspond"]

REMEDY = 'name the pairs in a run file: [probes.head-weights.match], then "<class>" = "<mask target>"'


@final
@dataclass(frozen=True, slots=True)
class Correspondence:
    """The target of each class, and why that one.

    Parameters
    ----------
    targets : mapping of str to str
        By class of the network, in its order; an empty text where none is known.
    reasons : mapping of str to str
        By class that has a target: ``same name``, ``named by match``, or that it is the complement.
    """

    targets: Mapping[str, str]
    reasons: Mapping[str, str]

    @property
    def known(self) -> tuple[str, ...]:
        """Classes with a target."""
        return tuple(name for name, target in self.targets.items() if target)

    @property
    def words(self) -> str:
        """All pairs in one line."""
        pairs = [
            f"{name} is looked for in '{self.targets[name]}' ({self.reasons[name]})" for name in self.known
        ]
        return "; ".join(pairs) if pairs else "no class has a mask target"


def correspond(
    classes: Sequence[str], mask_classes: Sequence[str], match: Mapping[str, str] | None = None
) -> Correspondence:
    """Match the classes of a network to mask targets.

    A pair named in ``match`` comes first, then equal names, whatever their case. Of two classes of
    which only one is matched, and that to a mask class, the other is taken to be what is left without it:
    ``tissue without gland`` where white background has a mask class, else ``not gland``. A class named like
    a mask class that is no target, white, is not what is left.

    Parameters
    ----------
    classes : sequence of str
        Of the network.
    mask_classes : sequence of str
    match : mapping of str to str, optional
        Target by class; the name of any target of any mask class.

    Returns
    -------
    Correspondence

    Raises
    ------
    UsageError
        If ``match`` names a class or a target that does not exist.

    Examples
    --------
    >>> correspond(("no gland", "Gland"), ("gland", "white")).targets
    {'no gland': 'tissue without gland', 'Gland': 'gland'}
    """
    given = dict(match or {})
    _require("class in match is no class of the network", given, classes)
    possible = [target.name for target in targets_of(mask_classes, "all")]
    _require("target in match is no mask target", given.values(), possible)
    by_name = {target.name.casefold(): target.name for target in targets_of(mask_classes)}
    targets = {name: given.get(name) or by_name.get(name.casefold(), "") for name in classes}
    reasons = {name: "named by match" if name in given else "same name" for name in classes if targets[name]}
    other = _other(targets, targets_of(mask_classes), {name.casefold() for name in mask_classes})
    if other is not None:
        name, target, thing = other
        targets[name], reasons[name] = target, f"the complement of {thing}, since there are two classes"
    return Correspondence(targets, reasons)


def _other(
    targets: Mapping[str, str], possible: Sequence[MaskTarget], masked: Collection[str]
) -> tuple[str, str, str] | None:
    """Of two classes, the one without a target, the complement that it gets, and of what."""
    found = [target for target in targets.values() if target]
    own = {target.name for target in possible if not target.complement}
    if len(targets) != 2 or len(found) != 1 or found[0] not in own:
        return None
    left = next(name for name in targets if not targets[name])
    if left.casefold() in masked:
        return None
    complements = [target.name for target in possible if target.complement]
    for target in (f"tissue without {found[0]}", f"not {found[0]}"):
        if target in complements:
            return left, target, found[0]
    return None


def _require(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse the first name that is not known."""
    for name in names:
        if name not in known:
            raise UsageError(what, found=str(name), wanted=", ".join(known) or "masks in the manifest")
