"""Images of a finished run that its network is sure about, as a manifest for another audit."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import special

from wsss_probe.config import AuditOptions
from wsss_probe.errors import NothingToDoError, PlanError, UsageError
from wsss_probe.names import display, nearest
from wsss_probe.preparation import read_images
from wsss_probe.run import open_run, read_record

if TYPE_CHECKING:
    from wsss_probe.manifest import Manifest

__all__ = ["images_where", "probabilities"]

_RULE: Final = re.compile(r"(?P<name>.+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<share>[0-9]*\.?[0-9]+(e-?[0-9]+)?)")
_SIGNS: Final[MappingProxyType[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
)


def images_where(run: Path, condition: str) -> Manifest:
    """Take the rows of a run's manifest whose predicted probability meets a condition.

    Parameters
    ----------
    run : Path
        Finished run of images from files.
    condition : str
        ``class>0.99``, with one of > >= < <=.

    Returns
    -------
    Manifest
        In the run's order; images that the run could not read are in no selection.

    Raises
    ------
    UsageError
        The condition cannot be read, or names no class of the network.
    PlanError
        The images are no longer those of the run.
    NothingToDoError
        No image meets the condition.
    """
    name, compare, share = _rule(condition)
    record, logits = read_record(run), open_run(run)["predictions/logits"]
    classes = [str(one) for one in np.asarray(logits["class"])]
    if name not in classes:
        near = display(nearest(name, classes))
        raise UsageError("no class of the run's network", found=display(name), remedy=f"did you mean {near}?")
    manifest = read_images(AuditOptions(**record["options"]))
    if manifest.digest != record["data"]["digest"]:
        raise PlanError(
            f"the images are no longer those of the run '{run}'",
            found=f"{len(manifest)} rows, digest {manifest.digest[:12]}",
            wanted=f"digest {str(record['data']['digest'])[:12]}",
            remedy="restore the manifest, or audit again",
        )
    likely = probabilities(np.asarray(logits), bool(record["multilabel"]))
    chosen = np.flatnonzero(compare(likely[:, classes.index(name)], share))
    if not len(chosen):
        raise NothingToDoError(f"no image of the run meets {display(condition)}")
    return manifest.take(chosen)


def probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Turn logits into probabilities: a sigmoid for each class that is decided on its own, else a softmax.

    Parameters
    ----------
    logits : ndarray, (image, class)
    multilabel : bool
        A single logit is a sigmoid in any case.

    Returns
    -------
    ndarray of float64, (image, class)
        0..1; NaN where the logits are.
    """
    wide = logits.astype(np.float64)
    if multilabel or wide.shape[1] == 1:
        return np.asarray(special.expit(wide))
    return np.asarray(special.softmax(wide, axis=1))


def _rule(condition: str) -> tuple[str, Callable[[Any, Any], Any], float]:
    match = _RULE.fullmatch(condition.strip())
    if match is None or not 0 <= float(match["share"]) <= 1:
        raise UsageError(
            "--where cannot be read", found=display(condition), wanted="class>0.99, a probability from 0 to 1"
        )
    return match["name"].strip(), _SIGNS[match["sign"]], float(match["share"])
