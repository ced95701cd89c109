"""What images and masks hold, as digests: for the plan's hash, and to know an image again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from wsss_probe.images import ManifestSource, TensorSource

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsss_probe.images import Source
    from wsss_probe.manifest import Manifest

__all__ = ["Contents", "digest_contents"]

_ABSENT, _UNREADABLE = b"absent", b"unreadable"


@final
@dataclass(frozen=True, slots=True)
class Contents:
    """Digests of what a run's images and masks hold.

    Parameters
    ----------
    digest : str
        Over all images and masks, so that a run made of others is never reused.
    images : ndarray of str or None, (image,)
        SHA-256 of each image's file (tiles share that of their file), or of its values in memory; empty
        where the file cannot be read. None for a source that cannot be hashed image by image.
    """

    digest: str
    images: np.ndarray | None


def digest_contents(source: Source, examples: Tensor) -> Contents:
    """Hash what all images and masks hold; every file is read once.

    Parameters
    ----------
    source : Source
    examples : Tensor, (image, channel, row, column)
        They stand for all images of a stranger's source: reading it may cost as much as the audit.

    Returns
    -------
    Contents
    """
    if isinstance(source, ManifestSource):
        return _of_files(source.manifest)
    if isinstance(source, TensorSource):
        return _of_tensors(source)
    return Contents(hashlib.sha256(examples.cpu().contiguous().numpy().tobytes()).hexdigest(), None)


def _of_files(manifest: Manifest) -> Contents:
    rows = range(len(manifest))
    images = [manifest.path(row) for row in rows]
    masks = [path for path in map(manifest.mask_path, rows) if path is not None]
    digests = {path: _file_digest(path) for path in dict.fromkeys([*images, *masks])}
    whole = hashlib.sha256(b"".join(digests.values()))
    known = [b"" if digests[path] in (_ABSENT, _UNREADABLE) else digests[path] for path in images]
    return Contents(whole.hexdigest(), np.array([digest.hex() for digest in known], dtype=object))


def _of_tensors(source: TensorSource) -> Contents:
    whole = hashlib.sha256()
    images = []
    for sample in map(source.read, range(len(source))):
        for array in (sample.tensor, sample.mask):
            whole.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        values = None if sample.tensor is None else np.ascontiguousarray(sample.tensor).tobytes()
        images.append("" if values is None else hashlib.sha256(values).hexdigest())
    return Contents(whole.hexdigest(), np.array(images, dtype=object))


def _file_digest(path: Path) -> bytes:
    if not path.is_file():
        return _ABSENT
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return _UNREADABLE  # the survey says so of each image
