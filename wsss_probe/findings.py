"""Typed statements that a report shows and a program can check."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from wsss_probe.atomic import write_atomically
from wsss_probe.contracts import Finding
from wsss_probe.errors import CorruptRunError

if TYPE_CHECKING:
    from wsss_probe.certificate import Certificate

__all__ = [
    "HOST",
    "MOST_NOTICES",
    "certificate_finding",
    "control_findings",
    "folded",
    "quarantine_finding",
    "read_findings",
    "storage_finding",
    "write_findings",
]

Item = TypeVar("Item")

HOST: Final = "host"

MOST_NOTICES: Final = 6
"""More notices of plugins than these are folded, so that warnings and verdicts are not lost among them."""
"""Who made a finding that no plugin made."""

Made = tuple[str, Finding]


def write_findings(folder: Path, findings: Sequence[Made]) -> None:
    """Write ``findings.json``: one object per finding, with the plugin that made it."""
    rows = [{"plugin": plugin, **_jsonable(asdict(finding))} for plugin, finding in findings]
    write_atomically(folder / "findings.json", json.dumps(rows, indent=2, ensure_ascii=True))


def read_findings(folder: Path) -> list[Made]:
    """Read what :func:`write_findings` wrote."""
    path = folder / "findings.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [(row.pop("plugin"), _finding(row)) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"'{path}' cannot be read"
        raise CorruptRunError(msg, found=str(error), remedy="delete the folder and run again") from error


def _finding(row: dict[str, Any]) -> Finding:
    interval = row.pop("interval")
    return Finding(**row, interval=tuple(interval) if interval else None)


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain numbers instead of numpy's; NaN has no place in JSON: undefined is null."""
    low, high = values["interval"] or (None, None)
    bounds = (_finite(low), _finite(high))
    return {
        **values,
        "effect": _finite(values["effect"]),
        "interval": None if None in bounds else bounds,
        "n": None if values["n"] is None else int(values["n"]),
        "groups": None if values["groups"] is None else int(values["groups"]),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def certificate_finding(certificate: Certificate) -> Finding:
    """Say whether the audited network left the audit as it came."""
    if certificate.intact:
        return Finding(
            "certificate",
            "ok",
            "The audited network is bit-identical before and after: parameters, buffers, modes, hooks, "
            f"gradients, random state, and the logits of {certificate.probe_images} images.",
            n=certificate.probe_images,
        )
    changed = "; ".join(certificate.differences)
    return Finding("certificate", "warning", f"The audit changed the audited network: {changed}.")


def quarantine_finding(unreadable: Mapping[int, str], images: int) -> Finding | None:
    """Count images that could not be read; None if all could."""
    if not unreadable:
        return None
    first = next(iter(unreadable.values()))
    return Finding(
        "unreadable-images",
        "warning",
        f"{len(unreadable)} of {images} images could not be read and count nowhere; the first: {first}.",
        effect=len(unreadable) / images,
        n=images,
        unit="share of images",
    )


def control_findings(alive: Mapping[str, Mapping[str, bool]]) -> list[Finding]:
    """Name the layers at which controls are dead; no verdict is given there.

    Parameters
    ----------
    alive : mapping
        Control name to layer to whether it is alive.
    """
    dead: dict[str, list[str]] = {}
    for control, layers in alive.items():
        for layer, living in layers.items():
            if not living:
                dead.setdefault(layer, []).append(control)
    return [
        Finding(
            f"control-degenerate@{layer}",
            "warning",
            f"Control degenerate at {layer}: {', '.join(names)} hardly responds to images there "
            "(pooled features vary less than 1 % as much as the audited network's), so it gives no verdict.",
            control=", ".join(names),
        )
        for layer, names in dead.items()
    ]


def storage_finding(counters: Mapping[str, int]) -> list[Finding]:
    """Name tables with non-finite or clipped values."""
    worded = {
        "nonfinite": "values are not finite; they are kept as they are and count nowhere",
        "overflow": "activations exceed half precision and were clipped to its largest value",
    }
    found = []
    for key, number in sorted(counters.items()):
        table, _, kind = key.rpartition(":")
        if kind in worded:
            statement = f"In {table}, {number} {worded[kind]}."
            found.append(
                Finding(f"{kind}@{table}", "warning", statement, effect=float(number), unit="values")
            )
    return found


def total(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the counters of all shards."""
    added: dict[str, int] = {}
    for part in counters:
        for key, number in part.items():
            added[key] = added.get(key, 0) + number
    return added


def folded(findings: Sequence[Item], said: Callable[[Item], tuple[str, str]]) -> list[Item]:
    """List the notices of plugins that wait behind one line; none where there are but a few.

    Parameters
    ----------
    findings : sequence
    said : callable
        Plugin and verdict of one of them.

    Returns
    -------
    list
    """
    own = [one for one in findings if said(one)[1] == "notice" and said(one)[0] != HOST]
    return own if len(own) > MOST_NOTICES else []
