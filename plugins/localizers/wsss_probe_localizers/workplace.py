"""The folder of a training: ``<out>.partial`` until finished, then renamed; never half a result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wsss_probe.errors import CorruptRunError, PlanError

__all__ = ["Workplace", "open_workplace"]

CARD = "model.json"
_PLAN = "plan.json"


@final
@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a training is written.

    Parameters
    ----------
    out : Path
        The folder when finished.
    partial : Path
        The folder until then.
    """

    out: Path
    partial: Path

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch."""
        return self.partial / "last.ckpt"

    def finish(self) -> None:
        """Drop what only a resume needs, and rename."""
        for name in (_PLAN, self.checkpoint.name, self.checkpoint.with_suffix(".tmp").name):
            (self.partial / name).unlink(missing_ok=True)
        os.replace(self.partial, self.out)  # noqa: PTH105 - the atomic call, by its name

    def abandon(self) -> None:
        """Remove a training that cannot be continued."""
        shutil.rmtree(self.partial)


def open_workplace(out: Path, plan: Mapping[str, Any], *, resume: bool) -> Workplace | None:
    """Make the folder of a new training, or enter the one of an interrupted training.

    Parameters
    ----------
    out : Path
    plan : mapping
        What decides the outcome, as JSON; a resume demands the same.
    resume : bool

    Returns
    -------
    Workplace or None
        None when this very training is finished already (and ``resume`` was asked for).

    Raises
    ------
    PlanError
        If something else is there, or the same without ``resume``.
    """
    place = Workplace(out, out.with_name(f"{out.name}.partial"))
    if out.exists() and not _empty_folder(out):
        _check_finished(out, plan, resume=resume)
        return None
    if (place.partial / _PLAN).exists():
        _check_unfinished(place, plan, resume=resume)
        return place
    place.partial.mkdir(parents=True, exist_ok=True)
    beside = place.partial / f"{_PLAN}.tmp"
    beside.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    os.replace(beside, place.partial / _PLAN)  # noqa: PTH105 - the atomic call, by its name
    return place


def _empty_folder(path: Path) -> bool:
    """Whether a rename may replace it."""
    return path.is_dir() and not any(path.iterdir())


def _check_finished(out: Path, plan: Mapping[str, Any], *, resume: bool) -> None:
    """Pass only a finished training of the same plan, when it was asked to be resumed."""
    card = out / CARD
    if not card.is_file():
        raise PlanError(f"{out} exists and is no trained model", remedy="choose another --out")
    if not resume:
        raise PlanError(
            f"{out} holds a finished training", remedy="choose another --out, or --resume to use it as it is"
        )
    _check_same(_read(card).get("training", {}).get("plan", {}), plan, out)


def _check_unfinished(place: Workplace, plan: Mapping[str, Any], *, resume: bool) -> None:
    """Pass only an interrupted training of the same plan, when it was asked to be resumed."""
    if not resume:
        raise PlanError(
            f"{place.partial} holds an unfinished training",
            remedy="--resume to go on, or choose another --out, or remove that folder",
        )
    _check_same(_read(place.partial / _PLAN), plan, place.partial)


def _check_same(found: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> None:
    """Compare plans and name what differs."""
    wanted = json.loads(json.dumps(plan))
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if names:
        raise PlanError(
            f"{folder} was trained differently",
            found=", ".join(f"{name} {found.get(name)!r}" for name in names),
            wanted=", ".join(f"{name} {wanted.get(name)!r}" for name in names),
            remedy="use the same options, or choose another --out",
        )


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptRunError(f"{path} cannot be read", found=str(error)) from error
    if not isinstance(content, dict):
        raise CorruptRunError(f"{path} is no JSON object", remedy="remove the folder and train again")
    return content
